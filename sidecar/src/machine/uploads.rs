//! Logs that go up to the informer after the end of their attempts, and what is purged when.
//!
//! ```text
//!  Retired(Wanted) ── due ──▶ StoreLog ── LogSent: stored ──▶ Retired(Stored) ── may be purged
//!        ▲                        │
//!        └── due again, later ◀───┴ LogSent: failure
//! ```
//!
//! Whether a log is wanted is decided once, when the attempt retires, by what the informer of that link wants. What is owed is in the
//! ledger; what is due or on its way is not: after a restart everything owed is due at once.

use super::stage::{Happening, LogCopy};
use super::{Complaint, Effect, LinkState, Machine, Mode, Now};
use proto::id::AttemptId;
use proto::v1;
use std::collections::{BTreeMap, BTreeSet};

/// Uploads ordered at once. They share a stream and, if they are small, a flush of the informer's directory; more would only wait in
/// a queue of the agent instead of here.
pub const WINDOW: usize = 32;
/// Pause after a first failure; doubled with each further one of the same log.
const BACKOFF_MS: u64 = 1_000;
/// Longest pause: an informer whose disk was full has the logs some minutes after it has room.
const BACKOFF_CAP_MS: u64 = 60_000;
/// How many times the retention of retired attempts their logs may take while the informer has not stored them. More would let an
/// informer that cannot store fill the disks of its workers.
const OWED_FACTOR: usize = 4;

/// One log that is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Debt {
    order: u64,
    due_ms: u64,
    failures: u32,
    is_ordered: bool,
}

/// What is owed, by when it is due.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    /// As the last welcome said; `None`: there was none since the start.
    policy: Option<v1::LogPolicy>,
    debts: BTreeMap<AttemptId, Debt>,
    /// Of these, the ones that are not ordered.
    due: BTreeSet<(u64, u64, AttemptId)>,
    /// The last upload failed: until one succeeds, one at a time is tried.
    is_failing: bool,
}

impl Uploads {
    pub(super) fn on_welcome(&mut self, policy: v1::LogPolicy) {
        self.policy = Some(policy);
    }

    /// Whether the log of an attempt that ended so shall be stored. What a lost one wrote, nobody has counted.
    pub(super) fn wanted(&self, ending: &v1::Ending, failed: bool) -> LogCopy {
        let is_empty = ending.out_bytes + ending.err_bytes == 0 && ending.reason() != v1::Reason::Lost;
        match self.policy {
            Some(v1::LogPolicy::Always) if !is_empty => LogCopy::Wanted,
            Some(v1::LogPolicy::OnFailure) if !is_empty && failed => LogCopy::Wanted,
            _ => LogCopy::Unwanted,
        }
    }

    /// The informer stores none (any more).
    fn is_off(&self) -> bool {
        matches!(self.policy, Some(v1::LogPolicy::Never | v1::LogPolicy::Unspecified))
    }

    pub(super) fn owe(&mut self, id: AttemptId, order: u64) {
        self.debts.insert(id, Debt { order, due_ms: 0, failures: 0, is_ordered: false });
        self.due.insert((0, order, id));
    }

    pub(super) fn forget(&mut self, id: AttemptId) {
        if let Some(debt) = self.debts.remove(&id) {
            self.due.remove(&(debt.due_ms, debt.order, id));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.debts.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.debts.len()
    }

    /// When the next one may be ordered.
    fn next_ms(&self) -> Option<u64> {
        let window = if self.is_failing { 1 } else { WINDOW };
        let ordered = self.debts.len() - self.due.len();
        self.due.first().filter(|_| ordered < window).map(|(due_ms, _, _)| *due_ms)
    }

    fn take_due(&mut self, now_ms: u64) -> Option<AttemptId> {
        self.next_ms().filter(|due_ms| *due_ms <= now_ms)?;
        let (_, _, id) = self.due.pop_first()?;
        self.debts.get_mut(&id)?.is_ordered = true;
        Some(id)
    }

    /// It is due again after a pause.
    fn on_failed(&mut self, now_ms: u64, id: AttemptId) {
        self.is_failing = true;
        let Some(debt) = self.debts.get_mut(&id).filter(|debt| debt.is_ordered) else { return };
        debt.failures = debt.failures.saturating_add(1);
        let pause_ms = BACKOFF_MS.saturating_mul(1 << (debt.failures - 1).min(10)).min(BACKOFF_CAP_MS);
        debt.due_ms = now_ms.saturating_add(pause_ms);
        debt.is_ordered = false;
        self.due.insert((debt.due_ms, debt.order, id));
    }

    /// The debts are these, and each is either due or ordered.
    pub(super) fn check(&self, owed: BTreeSet<(u64, AttemptId)>) -> Result<(), String> {
        if owed != self.debts.iter().map(|(id, debt)| (debt.order, *id)).collect() {
            return Err("the owed logs are not those of the attempts that want one".into());
        }
        let waiting = self.debts.iter().filter(|(_, debt)| !debt.is_ordered);
        if self.due != waiting.map(|(id, debt)| (debt.due_ms, debt.order, *id)).collect() {
            return Err("the index of due uploads is wrong".into());
        }
        Ok(())
    }
}

impl Machine {
    pub(super) fn may_upload(&self) -> bool {
        matches!(self.link, LinkState::Welcomed(_)) && self.mode != Mode::Leaving && !self.uploads.is_off()
    }

    pub(super) fn next_upload_ms(&self) -> Option<u64> {
        self.uploads.next_ms().filter(|_| self.may_upload())
    }

    pub(super) fn order_uploads(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if !self.may_upload() {
            return;
        }
        while let Some(attempt) = self.uploads.take_due(now.boot_ms) {
            let Some(held) = self.attempts.get(&attempt) else { continue };
            effects.push(Effect::StoreLog { attempt, fence: held.fence });
        }
    }

    pub(super) fn on_log_sent(&mut self, now: Now, attempt: AttemptId, is_stored: bool, effects: &mut Vec<Effect>) {
        if is_stored {
            self.uploads.is_failing = false;
            self.advance(attempt, Happening::LogStored, effects);
        } else {
            self.uploads.on_failed(now.boot_ms, attempt);
        }
    }

    /// The logs of retired attempts are the first to make room, one each time that there is none.
    pub(super) fn on_disk_seen(&mut self, room: bool, effects: &mut Vec<Effect>) {
        self.room = room;
        if !room && !self.purge_spare(effects) {
            self.give_up_log("the disk is full", effects);
        }
    }

    /// Makes room: logs of attempts that the informer has done with go, oldest first.
    pub(super) fn purge_oldest(&mut self, effects: &mut Vec<Effect>) {
        while self.keeps_more_than(1) {
            let purged = self.purge_spare(effects)
                || self.keeps_more_than(OWED_FACTOR) && self.give_up_log("too many logs wait for it", effects);
            if !purged {
                return;
            }
        }
    }

    fn keeps_more_than(&self, times: usize) -> bool {
        self.retired.len() > self.config.keep_attempts.saturating_mul(times)
            || self.retired_bytes > self.config.keep_bytes.saturating_mul(times as u64)
    }

    /// Purges the oldest attempt whose log nobody waits for.
    fn purge_spare(&mut self, effects: &mut Vec<Effect>) -> bool {
        let oldest = if self.uploads.is_off() { self.retired.first() } else { self.spare.first() };
        let Some((_, attempt)) = oldest.copied() else { return false };
        self.purge(attempt, effects);
        true
    }

    fn give_up_log(&mut self, why: &'static str, effects: &mut Vec<Effect>) -> bool {
        let Some((_, attempt)) = self.retired.first().copied() else { return false };
        self.tally.logs_given_up += 1;
        effects.push(Effect::Complain(Complaint::LogGivenUp { attempt, why }));
        self.purge(attempt, effects);
        true
    }

    fn purge(&mut self, attempt: AttemptId, effects: &mut Vec<Effect>) {
        self.advance(attempt, Happening::PurgeOrdered, effects);
        effects.push(Effect::Purge { attempt });
    }
}

#[cfg(test)]
mod tests {
    use super::super::stories::{TERMS, World, attempt, exit};
    use super::super::*;
    use v1::LogPolicy;

    /// An informer that wants logs so, a sidecar that keeps that many.
    fn world(policy: LogPolicy, keep_attempts: usize) -> World {
        let mut world = World::new(Config { keep_attempts, ..Config::new(9) });
        world.tell(Event::KeeperConnected { listing: vec![] });
        world.relink();
        welcome(&mut world, policy);
        world
    }

    /// A new link, on which the informer says what it wants; what that leads to.
    fn welcome(world: &mut World, logs: LogPolicy) -> Vec<Effect> {
        world.link = LinkId(world.link.0 + 1);
        world.tell(Event::LinkOpened { link: world.link });
        let effects = world.hear(Heard::Welcome { terms: TERMS, logs, stranger: false, children: true });
        world.beat_acked();
        effects
    }

    /// An attempt runs, ends with this code and so many bytes, and the informer acknowledges that.
    fn end(world: &mut World, task: u128, code: i32, out_bytes: u64) -> (AttemptId, Vec<Effect>) {
        let id = attempt(task, 1);
        world.beat_acked();
        world.assign(id, u64::try_from(task).unwrap());
        let reported = world.notice(id, Notice::Ended(Box::new(v1::Ending { out_bytes, ..*exit(code) })));
        let seq = super::super::stories::reports(&reported).last().expect("an end is told").0;
        (id, world.hear(Heard::Ack { seq }))
    }

    fn uploads(effects: &[Effect]) -> Vec<AttemptId> {
        let upload = |effect: &Effect| match effect {
            Effect::StoreLog { attempt, .. } => Some(*attempt),
            _ => None,
        };
        effects.iter().filter_map(upload).collect()
    }

    fn purges(effects: &[Effect]) -> Vec<AttemptId> {
        let purge = |effect: &Effect| match effect {
            Effect::Purge { attempt } => Some(*attempt),
            _ => None,
        };
        effects.iter().filter_map(purge).collect()
    }

    fn sent(attempt: AttemptId, failure: Option<&str>) -> Event {
        Event::LogSent { attempt, failure: failure.map(str::to_owned) }
    }

    #[test]
    fn a_log_goes_up_and_only_then_its_attempt_may_go() {
        let mut world = world(LogPolicy::Always, 1);
        let (one, effects) = end(&mut world, 1, 0, 5);
        assert_eq!(uploads(&effects), [one]);
        let (two, effects) = end(&mut world, 2, 0, 5);
        assert_eq!((uploads(&effects), purges(&effects)), (vec![two], vec![]), "more than are kept, but both are owed");
        assert_eq!(purges(&world.tell(sent(two, None))), [two], "the stored one goes, although it is younger");
        assert_eq!(world.tell(sent(one, None)), []);
        assert_eq!(world.ledger[&one].state, RowState::Retired(LogCopy::Stored));
    }

    #[test]
    fn only_what_the_informer_wants_goes_up() {
        for (policy, code, bytes, wanted) in [
            (LogPolicy::Always, 0, 1, true),
            (LogPolicy::Always, 1, 0, false),
            (LogPolicy::OnFailure, 0, 1, false),
            (LogPolicy::OnFailure, 3, 1, true),
            (LogPolicy::Never, 3, 1, false),
            (LogPolicy::Unspecified, 3, 1, false),
        ] {
            let mut world = world(policy, 9);
            let (one, effects) = end(&mut world, 1, code, bytes);
            let expected = if wanted { vec![one] } else { vec![] };
            assert_eq!(uploads(&effects), expected, "{policy:?}, exit {code}, {bytes} bytes");
        }
    }

    #[test]
    fn a_lost_attempt_has_a_log_that_nobody_counted() {
        let mut world = world(LogPolicy::OnFailure, 9);
        let one = attempt(1, 1);
        world.assign(one, 1);
        world.notice(one, Notice::Lost);
        assert_eq!(uploads(&world.hear(Heard::Ack { seq: 2 })), [one]);
    }

    #[test]
    fn a_failed_upload_is_tried_again_ever_later_and_holds_up_no_other_for_good() {
        let mut world = world(LogPolicy::Always, 9);
        let (one, _) = end(&mut world, 1, 0, 5);
        assert_eq!(uploads(&world.tell(sent(one, Some("disk full")))), []);
        let failed_ms = world.now.boot_ms;
        let (two, effects) = end(&mut world, 2, 0, 5);
        assert_eq!(uploads(&effects), [two], "one at a time is tried");
        let (three, effects) = end(&mut world, 3, 0, 5);
        assert_eq!(uploads(&effects), []);
        assert_eq!(uploads(&world.tell(sent(two, None))), [three], "one went well");
        assert_eq!(world.machine.next_upload_ms(), Some(failed_ms + 1_000));
        assert_eq!(uploads(&world.pass(failed_ms + 1_000 - world.now.boot_ms)), [one]);
        world.tell(sent(three, None));
        world.tell(sent(one, Some("disk full")));
        assert_eq!(uploads(&world.pass(1_999)), []);
        assert_eq!(uploads(&world.pass(1)), [one]);
    }

    #[test]
    fn no_more_than_a_window_is_on_its_way() {
        let mut world = world(LogPolicy::Always, 1_000);
        let ordered: Vec<_> = (1..=40).flat_map(|task| uploads(&end(&mut world, task, 0, 5).1)).collect();
        assert_eq!(ordered.len(), super::WINDOW);
        assert_eq!(uploads(&world.tell(sent(ordered[0], None))).len(), 1);
    }

    #[test]
    fn what_is_owed_survives_a_restart_and_waits_for_a_link() {
        let mut world = world(LogPolicy::Always, 9);
        let (one, _) = end(&mut world, 1, 0, 5);
        world.machine = Machine::new(Config::new(9), world.ledger.values().cloned());
        assert_eq!(uploads(&world.tell(Event::KeeperConnected { listing: vec![] })), []);
        assert_eq!(uploads(&welcome(&mut world, LogPolicy::Always)), [one]);
        world.tell(sent(one, None));
        world.machine = Machine::new(Config::new(9), world.ledger.values().cloned());
        world.tell(Event::KeeperConnected { listing: vec![] });
        assert_eq!(uploads(&welcome(&mut world, LogPolicy::Always)), [], "it is known to be stored");
    }

    #[test]
    fn an_informer_that_wants_none_frees_what_was_owed() {
        let mut world = world(LogPolicy::Always, 0);
        let (one, effects) = end(&mut world, 1, 0, 5);
        assert_eq!(purges(&effects), [one], "nothing may be kept at all");
        let mut world = self::world(LogPolicy::Always, 1);
        let (one, two) = (end(&mut world, 1, 0, 5).0, end(&mut world, 2, 0, 5).0);
        assert_eq!(purges(&welcome(&mut world, LogPolicy::Never)), [one]);
        assert_eq!(world.ledger[&two].state, RowState::Retired(LogCopy::Wanted));
    }

    #[test]
    fn logs_that_nobody_stores_do_not_fill_the_disk() {
        let mut world = world(LogPolicy::Always, 1);
        let ids: Vec<_> = (1..=4).map(|task| end(&mut world, task, 0, 5).0).collect();
        let (_, effects) = end(&mut world, 5, 0, 5);
        let why = "too many logs wait for it";
        assert!(effects.contains(&Effect::Complain(Complaint::LogGivenUp { attempt: ids[0], why })), "{effects:?}");
        assert_eq!(purges(&effects), [ids[0]]);
        assert_eq!(world.machine.tally().logs_given_up, 1);
        let effects = world.tell(Event::DiskSeen { room: false });
        assert_eq!(purges(&effects), [ids[1]]);
        assert_eq!(world.tell(sent(ids[0], None)), [], "it was stored after all");
    }
}
