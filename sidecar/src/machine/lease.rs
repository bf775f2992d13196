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
    /// Send time and length of the beat that earned the deadline, for [`Lease::check`].
    earned: (u64, u64),
}

impl Lease {
    /// A new link: numbers start anew, the lease itself runs on.
    pub(super) fn on_welcome(&mut self, terms: Terms) {
        self.on_link_closed();
        self.terms = Some(terms);
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

    /// The deadline never exceeds what the sent time of its beat earned.
    pub(super) fn check(&self) -> Result<(), String> {
        let (sent_ms, lease_ms) = self.earned;
        if self.deadline_ms == sent_ms.saturating_add(lease_ms) {
            return Ok(());
        }
        Err(format!("the lease ends at {} although the beat sent at {sent_ms} earned {lease_ms}", self.deadline_ms))
    }
}
