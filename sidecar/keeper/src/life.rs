//! When an attempt is to be signalled: pure arithmetic over `CLOCK_BOOTTIME`, the spec, the lease and the orders received.
//!
//! ```text
//! running ──timeout, order, lease's end──▶ stopping (stop signal sent) ──kill_at──▶ killed
//! ```
//!
//! The first reason stays; a later cause may only bring the KILL forward.

use keeper::wire::{EndReason, OnDisconnect, Spec};

const NS_PER_MS: u64 = 1_000_000;
/// How long the stop signal waits at a deadline that is in doubt: an agent looks after its page once a second. The KILL never waits, so
/// whoever counts on the end counts right; longer than this would only leave a task less of its grace.
const DOUBT_NS: u64 = 1_500_000_000;

/// What the monitor has to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Send the stop signal to the stop target.
    Signal,
    /// KILL everything.
    Kill,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Running,
    Stopping { reason: EndReason, kill_at: u64 },
    Killed { reason: EndReason },
}

/// The clockwork of one attempt.
#[derive(Debug)]
pub(crate) struct Life {
    phase: Phase,
    timeout_at: Option<u64>,
    obeys_lease: bool,
    stop_grace_ns: u64,
    fence_grace_ns: u64,
    doubtful: bool,
}

impl Life {
    pub(crate) fn new(spec: &Spec, now: u64) -> Self {
        let ns = |ms: u64| ms.saturating_mul(NS_PER_MS);
        Self {
            phase: Phase::Running,
            timeout_at: (spec.timeout_ms > 0).then(|| now.saturating_add(ns(spec.timeout_ms))),
            obeys_lease: obeys_lease(spec),
            stop_grace_ns: ns(spec.stop_grace_ms),
            fence_grace_ns: ns(fence_grace_ms(spec)),
            doubtful: false,
        }
    }

    /// Why it is being ended, if it is.
    pub(crate) fn reason(&self) -> Option<EndReason> {
        match self.phase {
            Phase::Running => None,
            Phase::Stopping { reason, .. } | Phase::Killed { reason } => Some(reason),
        }
    }

    /// Whether the lease's deadline is in doubt: somebody has harmed its page, and a later one may be on its way there.
    pub(crate) const fn doubt(&mut self, doubtful: bool) {
        self.doubtful = doubtful;
    }

    /// When the lease that ends then is taken to have ended.
    fn believed(&self, deadline: u64) -> u64 {
        let patience = if self.doubtful { DOUBT_NS.min(self.fence_grace_ns / 2) } else { 0 };
        deadline.saturating_add(patience)
    }

    /// An order to stop.
    pub(crate) fn stop(&mut self, reason: EndReason, grace_ms: Option<u64>, now: u64) -> Option<Act> {
        let grace = grace_ms.map_or(self.stop_grace_ns, |ms| ms.saturating_mul(NS_PER_MS));
        self.end_by(reason, now.saturating_add(grace), now)
    }

    /// What is due at `now` with the lease ending at `lease` (None: no lease is published).
    pub(crate) fn due(&mut self, now: u64, lease: Option<u64>) -> Option<Act> {
        let mut act = None;
        if self.obeys_lease {
            let deadline = lease.unwrap_or(now);
            if lease.is_none_or(|deadline| now >= self.believed(deadline)) {
                act = self.end_by(EndReason::Fenced, deadline.saturating_add(self.fence_grace_ns), now);
            }
        }
        if self.timeout_at.is_some_and(|at| now >= at) {
            self.timeout_at = None;
            act = self.end_by(EndReason::TimedOut, now.saturating_add(self.stop_grace_ns), now).or(act);
        }
        if let Phase::Stopping { reason, kill_at } = self.phase
            && now >= kill_at
        {
            self.phase = Phase::Killed { reason };
            return Some(Act::Kill);
        }
        act
    }

    /// When [`due`](Self::due) must be asked next.
    pub(crate) fn wake(&self, lease: Option<u64>) -> Option<u64> {
        match self.phase {
            Phase::Killed { .. } => None,
            Phase::Running => {
                let lease = self.obeys_lease.then(|| lease.map_or(0, |lease| self.believed(lease)));
                lease.into_iter().chain(self.timeout_at).min()
            }
            // Once the lease's end has brought the KILL forward, its deadline lies in the past for good.
            Phase::Stopping { kill_at, .. } => {
                let lease =
                    lease.filter(|lease| self.obeys_lease && lease.saturating_add(self.fence_grace_ns) < kill_at);
                Some(lease.map_or(kill_at, |lease| self.believed(lease).min(kill_at)))
            }
        }
    }

    fn end_by(&mut self, reason: EndReason, kill_at: u64, now: u64) -> Option<Act> {
        let (act, reason, kill_at) = match self.phase {
            Phase::Killed { .. } => return None,
            Phase::Running => (Some(Act::Signal), reason, kill_at),
            Phase::Stopping { reason, kill_at: before } => (None, reason, kill_at.min(before)),
        };
        if now >= kill_at {
            self.phase = Phase::Killed { reason };
            return Some(Act::Kill);
        }
        self.phase = Phase::Stopping { reason, kill_at };
        act
    }
}

/// Whether the end of the lease ends the attempt.
pub(crate) fn obeys_lease(spec: &Spec) -> bool {
    spec.on_disconnect == OnDisconnect::Stop && !spec.without_lease
}

/// Between the lease's deadline and KILL.
pub(crate) fn fence_grace_ms(spec: &Spec) -> u64 {
    spec.stop_grace_ms.min(spec.fence_grace_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = NS_PER_MS;

    fn spec() -> Spec {
        Spec { stop_grace_ms: 100, fence_grace_ms: 30, ..Spec::default() }
    }

    #[test]
    fn without_limits_nothing_is_ever_due() {
        let mut life = Life::new(&spec(), 0);
        assert_eq!((life.due(u64::MAX, None), life.wake(None), life.reason()), (None, None, None));
    }

    #[test]
    fn a_timeout_signals_then_kills_after_the_grace() {
        let mut life = Life::new(&Spec { timeout_ms: 50, ..spec() }, 0);
        assert_eq!(life.wake(None), Some(50 * MS));
        assert_eq!(life.due(50 * MS, None), Some(Act::Signal));
        assert_eq!(life.wake(None), Some(150 * MS));
        assert_eq!(life.due(150 * MS, None), Some(Act::Kill));
        assert_eq!((life.wake(None), life.reason()), (None, Some(EndReason::TimedOut)));
    }

    #[test]
    fn the_lease_moves_with_each_beat_and_its_end_is_final() {
        let mut life = Life::new(&Spec { on_disconnect: OnDisconnect::Stop, ..spec() }, 0);
        assert_eq!(life.wake(Some(10 * MS)), Some(10 * MS));
        assert_eq!(life.due(10 * MS, Some(20 * MS)), None);
        assert_eq!(life.due(20 * MS, Some(20 * MS)), Some(Act::Signal));
        assert_eq!(life.wake(Some(90 * MS)), Some(50 * MS));
        assert_eq!(life.due(50 * MS, Some(90 * MS)), Some(Act::Kill));
        assert_eq!(life.reason(), Some(EndReason::Fenced));
    }

    #[test]
    fn at_a_deadline_in_doubt_the_stop_signal_waits_and_the_kill_does_not() {
        let mut life = Life::new(&Spec { on_disconnect: OnDisconnect::Stop, ..spec() }, 0);
        life.doubt(true);
        assert_eq!((life.due(10 * MS, Some(10 * MS)), life.wake(Some(10 * MS))), (None, Some(25 * MS)));
        assert_eq!(life.due(25 * MS, Some(40 * MS)), None, "it was mended in time");
        assert_eq!(life.stop(EndReason::Cancelled, Some(1_000), 30 * MS), Some(Act::Signal));
        assert_eq!((life.due(41 * MS, Some(40 * MS)), life.wake(Some(40 * MS))), (None, Some(55 * MS)));
        assert_eq!((life.due(55 * MS, Some(40 * MS)), life.wake(Some(40 * MS))), (None, Some(70 * MS)));
        assert_eq!(life.due(70 * MS, Some(40 * MS)), Some(Act::Kill));
    }

    #[test]
    fn the_lease_brings_the_kill_of_a_slow_stop_forward_and_keeps_its_reason() {
        let mut life = Life::new(&Spec { on_disconnect: OnDisconnect::Stop, ..spec() }, 0);
        assert_eq!(life.stop(EndReason::Cancelled, Some(1_000), 0), Some(Act::Signal));
        assert_eq!(life.wake(Some(20 * MS)), Some(20 * MS));
        assert_eq!(life.due(20 * MS, Some(20 * MS)), None);
        assert_eq!(life.wake(Some(20 * MS)), Some(50 * MS));
        assert_eq!(life.due(50 * MS, Some(20 * MS)), Some(Act::Kill));
        assert_eq!(life.reason(), Some(EndReason::Cancelled));
    }

    #[test]
    fn a_grace_of_zero_kills_at_once_and_a_second_stop_only_hurries() {
        let mut life = Life::new(&spec(), 0);
        assert_eq!(life.stop(EndReason::Cancelled, None, 0), Some(Act::Signal));
        assert_eq!(life.stop(EndReason::Revoked, Some(500), 1), None);
        assert_eq!(life.wake(None), Some(100 * MS));
        assert_eq!(life.stop(EndReason::Revoked, Some(0), 2), Some(Act::Kill));
        assert_eq!(life.reason(), Some(EndReason::Cancelled));
    }
}
