//! All timers of the machine: one enum, one `next`.

use super::event::Ticket;
use super::workflow::Nr;
use proto::id::{AttemptId, SidecarId, TaskId};
use std::collections::{BTreeMap, BTreeSet};
use workflow::run::StepIx;

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A waiting task becomes ready.
    Due(TaskId),
    /// A ready task has waited for a sidecar as long as it may.
    QueueTimeout(TaskId),
    /// A task has taken as long as it may, retries and all.
    TotalTimeout(TaskId),
    /// A sidecar's next beat is overdue: suspect it after one, give it up after three.
    Silence(SidecarId),
    /// A quarantined sidecar may try again.
    Quarantine(SidecarId),
    /// A sidecar at which something could not be started is given work again.
    Pause(SidecarId),
    /// A silent attempt that runs on is replaced (`replace_after`), or a silent winner yields.
    Replace(AttemptId),
    /// What a run named has come: of a step of it, or of the whole.
    Run(Nr, Option<StepIx>),
    /// Work in a queue: it may be taken, has waited too long, or its worker was silent for too long.
    Work(Nr, StepIx),
    /// Limited work is due, or a new period has begun.
    Admit(Nr, StepIx),
    /// A worker has waited long enough for work.
    Poll(Ticket),
    /// A restored informer has waited long enough for copies it does not know of.
    Restored,
    /// Sidecars that were linked before this informer's start had the time to come back, or to end what must not run twice.
    Unheard,
}

/// The set of armed timers; arming one again moves it.
#[derive(Debug, Default)]
pub(super) struct Timers {
    at: BTreeMap<Timer, u64>,
    queue: BTreeSet<(u64, Timer)>,
}

impl Timers {
    pub(super) fn arm(&mut self, timer: Timer, at_ms: u64) {
        if let Some(old) = self.at.insert(timer, at_ms) {
            self.queue.remove(&(old, timer));
        }
        self.queue.insert((at_ms, timer));
    }

    pub(super) fn cancel(&mut self, timer: Timer) {
        if let Some(old) = self.at.remove(&timer) {
            self.queue.remove(&(old, timer));
        }
    }

    /// The earliest armed time.
    pub(super) fn next(&self) -> Option<u64> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes one timer that is due.
    pub(super) fn pop(&mut self, now_ms: u64) -> Option<Timer> {
        let &(at, timer) = self.queue.first()?;
        if at > now_ms {
            return None;
        }
        self.cancel(timer);
        Some(timer)
    }

    /// When it fires, if it is armed.
    pub(super) fn due(&self, timer: Timer) -> Option<u64> {
        self.at.get(&timer).copied()
    }

    pub(super) fn is_armed(&self, timer: Timer) -> bool {
        self.at.contains_key(&timer)
    }
}
