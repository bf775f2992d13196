//! Beats and the lease they earn.
//!
//! ```text
//! sidecar    beat 1 ──┐                 deadline = send time of the last acknowledged beat + lease
//!            sent 0 s └▶ informer       the informer counts from the receipt, so its count ends later than ours,
//!            ack ◀──────┘               whatever the network did in between
//! ```

use super::event::Terms;
use std::collections::VecDeque;

/// Unacknowledged beats whose send times are remembered. A lease is three beats, so an acknowledgement of an older one grants
/// nothing that is still live.
const BEATS_REMEMBERED: usize = 16;

/// Least time between beats, milliseconds: a changed credit is told at once, but a flapping one must not flood the informer.
const BEAT_SPACING_MS: u64 = 20;

/// The lease, and the beats of one link.
#[derive(Debug, Default)]
pub(super) struct Lease {
    terms: Option<Terms>,
    /// Of the link; starts anew with each.
    last_seq: u64,
    sent: VecDeque<(u64, u64)>,
    last_sent_ms: Option<u64>,
    /// Whether a beat of this link was acknowledged.
    answered: bool,
    deadline_ms: u64,
    /// The page with the deadline cannot be written, so that no monitor would believe it.
    unwritten: bool,
    /// Send time and length of the beat that earned the deadline, for [`Lease::check`].
    earned: (u64, u64),
}

impl Lease {
    /// A new link: numbers start anew, the lease itself runs on, unless it was earned from somebody else: under that one, nothing of this
    /// informer's may start.
    pub(super) fn on_welcome(&mut self, terms: Terms, stranger: bool) {
        self.on_link_closed();
        self.terms = Some(terms);
        if stranger {
            (self.deadline_ms, self.earned) = (0, (0, 0));
        }
    }

    pub(super) fn on_link_closed(&mut self) {
        self.last_seq = 0;
        self.sent.clear();
        self.last_sent_ms = None;
        self.answered = false;
    }

    /// Numbers a beat that leaves now.
    pub(super) fn on_beat(&mut self, now_ms: u64) -> u64 {
        self.last_seq += 1;
        if self.sent.len() == BEATS_REMEMBERED {
            self.sent.pop_front();
        }
        self.sent.push_back((self.last_seq, now_ms));
        self.last_sent_ms = Some(now_ms);
        self.last_seq
    }

    /// An acknowledgement; the new deadline if it moved. `now_ms` is when it was received.
    pub(super) fn on_ack(&mut self, seq: u64, terms: Terms, from_receipt: Option<u64>) -> Option<u64> {
        let sent_ms = self.sent.iter().find(|(sent, _)| *sent == seq)?.1;
        self.sent.retain(|(sent, _)| *sent > seq);
        self.terms = Some(terms);
        self.answered = true;
        let from_ms = from_receipt.unwrap_or(sent_ms);
        let deadline_ms = from_ms.saturating_add(terms.lease_ms);
        if deadline_ms <= self.deadline_ms {
            return None;
        }
        self.deadline_ms = deadline_ms;
        self.earned = (sent_ms, terms.lease_ms);
        Some(deadline_ms)
    }

    /// Whether the link is so young that its first beat was not acknowledged yet.
    pub(super) fn is_awaited(&self) -> bool {
        !self.answered
    }

    pub(super) fn is_live(&self, now_ms: u64) -> bool {
        now_ms < self.deadline_ms
    }

    pub(super) fn deadline_ms(&self) -> u64 {
        self.deadline_ms
    }

    pub(super) fn fence_grace_ms(&self) -> u64 {
        self.terms.map_or(proto::bounds::FENCE_GRACE_MS, |terms| terms.fence_grace_ms)
    }

    /// When the next beat is due; `early` if there is something new to tell.
    pub(super) fn next_beat_ms(&self, early: bool) -> u64 {
        let interval = self.terms.map_or(proto::bounds::BEAT_MS, |terms| terms.beat_ms);
        let interval = if early { interval.min(BEAT_SPACING_MS) } else { interval };
        self.last_sent_ms.map_or(0, |sent| sent.saturating_add(interval))
    }

    pub(super) fn on_page_seen(&mut self, written: bool) {
        self.unwritten = !written;
    }

    /// Whether the deadline cannot be told to those who start and watch.
    pub(super) fn is_unwritten(&self) -> bool {
        self.unwritten
    }

    /// The deadline never exceeds what the sent time of its beat earned.
    pub(super) fn check(&self) -> Result<(), String> {
        let (sent_ms, lease_ms) = self.earned;
        if self.deadline_ms == sent_ms.saturating_add(lease_ms) {
            return Ok(());
        }
        Err(format!("the lease ends at {} although the beat sent at {sent_ms} earned {lease_ms}", self.deadline_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::super::stories::{TERMS, World, attempt, exit, fence, started};
    use super::super::{Config, Effect, Event, Facts, Found, FoundState, Heard, LinkId, Note, Notice};
    use proto::v1;
    use proto::v1::verdict::Decision;

    /// An agent without a ledger finds these running, and their lease to be somebody else's: attempts, and whether they are of `stop`.
    fn strangers(running: &[(u128, bool)]) -> World {
        let mut world = World::new(Config::new(4));
        let found = |(task, stop_on_disconnect): &(u128, bool)| Found {
            attempt: attempt(*task, 1),
            note: Some(Note { fence: fence(1), facts: Facts { stop_on_disconnect: *stop_on_disconnect } }),
            state: FoundState::Running(started()),
        };
        world.tell(Event::KeeperConnected { listing: running.iter().map(found).collect() });
        meet(&mut world);
        world
    }

    fn meet(world: &mut World) {
        world.link = LinkId(world.link.0 + 1);
        world.tell(Event::LinkOpened { link: world.link });
        world.hear(Heard::Welcome { terms: TERMS, logs: v1::LogPolicy::Never, stranger: true, children: true });
    }

    /// The next beat is acknowledged; whether that earned a deadline for the page.
    fn earns(world: &mut World) -> bool {
        world.pass(TERMS.beat_ms);
        let effects = world.hear(Heard::BeatAck { seq: world.beat, terms: TERMS });
        effects.iter().any(|effect| matches!(effect, Effect::PublishLease { .. }))
    }

    #[test]
    fn what_another_has_given_is_not_prolonged_and_holds_the_lease_up_until_it_has_ended() {
        let mut world = strangers(&[(1, true), (2, false)]);
        world.verdict(attempt(1, 1), Decision::SetAside);
        world.verdict(attempt(2, 1), Decision::SetAside);
        assert!(!earns(&mut world) && !earns(&mut world), "the page is still the other's");
        world.notice(attempt(1, 1), Notice::Ended(exit(0)));
        assert!(earns(&mut world), "what runs on without a lease holds nothing up");
        assert!(earns(&mut world), "the page is this informer's from then on");
    }

    #[test]
    fn what_the_informer_keeps_is_its_own() {
        let mut world = strangers(&[(1, true)]);
        assert!(!earns(&mut world), "it has not said so yet");
        world.verdict(attempt(1, 1), Decision::Keep);
        assert!(earns(&mut world));
        world.verdict(attempt(1, 1), Decision::SetAside);
        assert!(earns(&mut world), "an older backup of the same store ends nothing");
    }

    #[test]
    fn nothing_starts_under_the_lease_of_another() {
        let mut world = World::linked(4);
        world.assign_stop(attempt(1, 1), 1);
        world.notice(attempt(1, 1), Notice::Spawned(started()));
        meet(&mut world);
        world.verdict(attempt(1, 1), Decision::SetAside);
        assert_eq!(world.machine.lease_deadline_ms(), 0);
        assert!(!earns(&mut world));
        let effects = world.assign(attempt(2, 1), 2);
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::StartAttempt { .. })), "{effects:?}");
    }
}
