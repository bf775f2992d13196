//! How long ended tasks are kept, and when the loop looks for those that may go.

use super::clock::mono_ms;

/// How often it is looked, ms. Rows that stay a minute longer cost nothing; each look is a query on the loop's own thread.
const EVERY_MS: u64 = 60_000;
/// Tasks removed by one commit: some ten milliseconds of it. What there is beyond it, the next idle moment takes.
pub(super) const PRUNED: usize = 500;
/// Runs and their steps removed by one commit: their rows are smaller than tasks'. A run that is larger goes alone.
pub(super) const PRUNED_STEPS: usize = 2_000;

/// Which ended tasks are kept. Those that ended too long ago go, and those beyond the count, oldest end first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Milliseconds after its end for which a task is kept; `u64::MAX`: for ever.
    pub keep_ended_ms: u64,
    /// Ended tasks that are kept; `u64::MAX`: all of them.
    pub keep_ended_count: u64,
}

impl Retention {
    /// Nothing is ever removed.
    pub const EVERYTHING: Self = Self { keep_ended_ms: u64::MAX, keep_ended_count: u64::MAX };
}

impl Default for Retention {
    /// Thirty days, a million tasks: a disk of a few gigabytes holds them.
    fn default() -> Self {
        Self { keep_ended_ms: 30 * 24 * 3600 * 1000, keep_ended_count: 1_000_000 }
    }
}

/// When to look next.
#[derive(Debug)]
pub(super) struct Pruning {
    policy: Retention,
    /// `mono_ms` of the next look; `None`: never.
    due: Option<u64>,
}

impl Pruning {
    pub(super) fn new(policy: Retention) -> Self {
        // The first look comes soon after the start: whoever has shortened the retention wants to see it.
        let due = (policy != Retention::EVERYTHING).then(mono_ms);
        Self { policy, due }
    }

    pub(super) fn due(&self) -> Option<u64> {
        self.due
    }

    /// Never looks again.
    pub(super) fn stop(&mut self) {
        self.due = None;
    }

    /// What to ask the store, if it is time: everything that ended before the one, and all but the last of the other.
    pub(super) fn ask(&self, wall_ms: u64) -> Option<(u64, u64)> {
        self.due.filter(|due| *due <= mono_ms())?;
        Some((wall_ms.saturating_sub(self.policy.keep_ended_ms), self.policy.keep_ended_count))
    }

    /// It was looked, and `found` tasks may go. After each find it is looked again: an array is found only once its members are gone.
    pub(super) fn looked(&mut self, found: usize) {
        let pause_ms = if found > 0 { 0 } else { EVERY_MS };
        self.due = Some(mono_ms() + pause_ms);
    }
}
