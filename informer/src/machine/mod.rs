//! The informer's decisions: a deterministic machine without clock, I/O, randomness or async.

mod effect;
mod event;

pub use effect::{Batch, Effect, HistoryEvent, Rejection, Reply};
pub use event::{Event, Held, HeldState, Hello, KeyHit, Now, PayloadHandle, Report, SessionId, Submit, Ticket};

use proto::id::TaskId;
use proto::{store, v1};

/// What the machine is told at its start and never again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Beat interval that sidecars are told, milliseconds.
    pub beat_ms: u64,
    /// Lease that each acknowledged beat grants, milliseconds.
    pub lease_ms: u64,
    /// Longest kill delay after a lease's end, milliseconds.
    pub fence_grace_ms: u64,
    /// Lineage of the store, a UUID.
    pub lineage: String,
    /// Epoch of this leadership; higher than any before in this lineage as far as the store knows.
    pub epoch: u64,
}

/// All state that decisions need.
#[derive(Debug)]
pub struct Machine {
    config: Config,
}

impl Machine {
    /// A machine that knows what the store held: every task that is not terminal and every sidecar. Restart is not special: the
    /// first `TimePassed` acts on whatever is due.
    #[must_use]
    pub fn new(
        config: Config,
        _now: Now,
        _tasks: impl IntoIterator<Item = store::TaskRow>,
        _sidecars: impl IntoIterator<Item = store::SidecarRow>,
    ) -> Self {
        Self { config }
    }

    /// Decides what follows from one event; effects are appended in order.
    pub fn apply(&mut self, _now: Now, _event: Event, _effects: &mut Vec<Effect>) {}

    /// Takes what must be committed before the effects collected since the last call may leave. `seq` names the batch for
    /// [`Machine::committed`].
    #[must_use]
    pub fn take_batch(&mut self, _seq: u64) -> Batch {
        Batch::default()
    }

    /// The batch `seq` and all before it are durable: what only covered them may be forgotten (ended tasks, fresh keys).
    pub fn committed(&mut self, _seq: u64) {}

    /// When `TimePassed` is wanted, on the `mono_ms` clock.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<u64> {
        None
    }

    /// Whether the machine holds the task, so that the store's row would be older than what it knows.
    #[must_use]
    pub fn holds(&self, _task: TaskId) -> bool {
        false
    }

    /// Why the task does not run, in sentences; `None` if the machine does not hold it (then it is terminal or unknown).
    #[must_use]
    pub fn why(&self, _now: Now, _task: TaskId) -> Option<v1::WhyResponse> {
        None
    }

    /// Every sidecar, for people; `all` includes lost ones.
    #[must_use]
    pub fn sidecars(&self, _now: Now, _all: bool) -> Vec<v1::Sidecar> {
        Vec::new()
    }

    /// The session to ask for an attempt's log, if its sidecar is linked.
    #[must_use]
    pub fn session_of(&self, _sidecar: &str) -> Option<SessionId> {
        None
    }

    /// Latest progress of the task's running attempt.
    #[must_use]
    pub fn progress(&self, _task: TaskId) -> Option<&v1::Progress> {
        None
    }

    /// The configuration it was made with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }
}
