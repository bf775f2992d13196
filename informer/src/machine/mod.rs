//! The informer's decisions: a deterministic machine without clock, I/O, randomness or async.
//!
//! ```text
//!            Now, Event                    Effects (after the commit)
//!  shell ───────────────▶ Machine::apply ───────────────────────────▶ shell
//!            TimePassed        │
//!        ◀── next_wakeup       └── take_batch ──▶ store ──▶ committed
//! ```
//!
//! | file | decides |
//! |---|---|
//! | `request` | submit, cancel, retry |
//! | `link`, `beat` | who is linked, suspect, lost; what each held attempt is told |
//! | `lineage`, `aside` | whether the store was restored from a backup, what is held back then, and what becomes of copies it does not know |
//! | `report`, `outcome` | what an attempt's end means, whose result is accepted |
//! | `placement`, `ready`, `owners`, `estimate` | which task goes to which sidecar, in which order, and how long it should take |
//! | `array`, `runs` | arrays and their members |
//! | `children` | what running tasks emit |
//! | `workflow` | runs of workflows: starts, children, the work of their steps, operations, definitions |
//! | `drain`, `executor` | sidecars that take no work; how registered types are run |
//! | `retry` | how an end is judged, when the next try comes |
//! | `why` | the answer to "why is it not running?" |
//! | `check` | every invariant, recomputed from scratch |
//!
//! | file | holds |
//! |---|---|
//! | [`event`](Event), [`effect`](Effect) | what can happen, what can be wanted, and what is to be committed |
//! | `task`, `sidecar` | each as the machine knows it, with its states |
//! | `timer` | every timer, and the next |
//! | `shared` | what many tasks have in common, once |
//! | `load` | rows become state again at the start |
//! | `view` | bounded questions that change nothing |
//! | `sight` | what the simulation counts |

mod array;
mod aside;
mod beat;
mod check;
mod children;
mod drain;
mod effect;
mod estimate;
mod event;
mod executor;
mod lineage;
mod link;
mod load;
mod outcome;
mod owners;
mod placement;
mod ready;
mod report;
mod request;
mod retry;
mod runs;
mod shared;
mod sidecar;
#[cfg(feature = "seeded-bugs")]
mod sight;
mod stranger;
mod task;
mod timer;
mod view;
mod why;
mod workflow;

#[cfg(test)]
mod stories;

pub use self::children::child_id;
pub use self::workflow::{LOGGED, kin, wire_status, work_id};
pub use effect::{Batch, Effect, HistoryEvent, PolledWork, Rejection, Reply, RunChange, TaskChange};
pub use event::{
    Alone, Emission, EmittedChild, Event, FlowEvent, Held, HeldState, Hello, KeyHit, NewArray, NewRun, Now, Operation,
    PayloadHandle, Prepared, Report, RunId, RunKeyHit, SessionId, StoredRun, Submit, Template, Templates, Ticket,
    WorkUpdate,
};
pub use shared::Own;

use estimate::Estimates;
use proto::id::{AttemptId, Fence, SidecarId, TaskId};
use proto::{store, v1};
use ready::Ready;
use shared::Shared;
use sidecar::Sidecar;
#[cfg(feature = "seeded-bugs")]
pub use sight::Sight;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use task::Task;
use timer::{Timer, Timers};

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
    /// Epoch of this leadership; higher than any before in this lineage as far as the store knows, and given to no other.
    pub epoch: u64,
    /// Commit sequence that the store had when it was loaded.
    pub commit_seq: u64,
    /// An operator vouches that no copy of an `exclusive` task runs that a restored store does not know of.
    pub accept_restored: bool,
    /// Weights of owners that share a priority; others weigh 1.
    pub shares: BTreeMap<String, u64>,
    /// Which logs sidecars are told to send up.
    pub log_policy: v1::LogPolicy,
    /// The one wrong line of this run, so that the simulation can be shown to catch it.
    #[cfg(feature = "seeded-bugs")]
    pub bug: Option<Bug>,
}

/// How far apart two clocks may run, in parts of a hundred, with the bound of a lease still holding. Quartz is a hundred times better;
/// a clock that is being slewed by NTP is not.
const DRIFT_PERCENT: u64 = 1;

impl Config {
    /// How long after its last sign of life a `stop` copy has surely ended: its lease and the grace, by a clock slower than ours.
    fn copies_end_ms(&self, lease_ms: u64) -> u64 {
        let ms = lease_ms.saturating_add(self.fence_grace_ms);
        ms.saturating_add((ms / 100).saturating_add(1).saturating_mul(DRIFT_PERCENT))
    }
}

/// One wrong production line each; chosen at run time, never in a shipped build.
#[cfg(feature = "seeded-bugs")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// The result of a second attempt is accepted too.
    AcceptTwice,
    /// A `stop` replacement does not wait for the old copy's lease.
    NoFenceWait,
    /// A released slot stays booked.
    LeakSlot,
    /// A key is forgotten before its batch is committed.
    ForgetKey,
    /// A lost sidecar's attempts are not replaced.
    NeverReplace,
    /// Placement does not look at the books.
    Overcommit,
    /// A loss is charged to the task's own attempts.
    ChargeLoss,
    /// A member that failed is counted as one that succeeded.
    MiscountMember,
    /// A sidecar stays kept free for a task that no longer waits.
    KeepForNobody,
    /// Another payload under a key in use is taken for the same task.
    IgnoreDigest,
    /// Losses are counted, and never one too many.
    EndlessLosses,
    /// An attempt that is not known here is stopped.
    StopUnknown,
    /// A run's key is forgotten before its batch is committed.
    ForgetRunKey,
    /// Another start under a run's key is taken for the same.
    IgnoreRunDigest,
    /// What runs wait for in time is not armed again after a start.
    ForgetRunTimers,
    /// A run's end is told to the run that waits for it with the next event.
    TellParentLater,
    /// A run does not end with the one that waits for it.
    OrphanChild,
    /// A step's task goes on after its run.
    OrphanWork,
    /// A step that is asked for again gets another task.
    WorkTwice,
    /// As much of a name runs as there is.
    IgnoreExecLimit,
    /// Work that is over keeps its place.
    KeepPlace,
}

/// All state that decisions need.
#[derive(Debug)]
pub struct Machine {
    config: Config,
    /// Boxed: ids come in order, which leaves the nodes of the tree half empty, and a task is ten times a pointer.
    tasks: BTreeMap<TaskId, Box<Task>>,
    sidecars: BTreeMap<SidecarId, Sidecar>,
    sessions: BTreeMap<SessionId, SidecarId>,
    ready: Ready,
    shared: Shared,
    timers: Timers,
    /// Sidecars that take something now.
    open: BTreeSet<SidecarId>,
    /// Where the next search for a sidecar starts, so that equals take turns.
    cursor: Option<SidecarId>,
    /// Ended tasks brought back by the event being applied; they leave again if it did not change them.
    hydrated: Vec<TaskId>,
    /// Tasks that became ready and sidecars that gained room in the event being applied.
    fresh: Vec<TaskId>,
    freed: BTreeSet<SidecarId>,
    estimates: Estimates,
    executors: BTreeMap<String, v1::Executor>,
    /// Tasks that have waited too long for room, each with the sidecar that is kept free for it.
    reserved: BTreeMap<TaskId, SidecarId>,
    flows: workflow::Flows,
    /// Held tasks that another one has emitted, by that one.
    children: BTreeMap<TaskId, BTreeSet<TaskId>>,
    fence_n: u64,
    /// The epoch under which the store was opened; the one of `config` may have been raised since.
    opened_epoch: u64,
    /// Until then tasks of which no two copies may run are held back: this store is older than what sidecars have seen.
    restored_until_ms: Option<u64>,
    restored: bool,
    /// Linked as this store last knew them, and not heard since the start: until they are, no second copy of what they may run starts.
    unheard: BTreeSet<SidecarId>,
    /// What sidecars have told and is not applied here, by task; the sidecars know more of each.
    strangers: BTreeSet<(AttemptId, SidecarId)>,
    /// Tasks of which such attempts came, ended or went since somebody asked.
    strangers_changed: BTreeSet<TaskId>,
    pending: Pending,
}

/// What was decided and is not yet committed.
#[derive(Debug, Default)]
struct Pending {
    tasks: BTreeSet<TaskId>,
    sidecars: BTreeSet<SidecarId>,
    executors: BTreeSet<String>,
    history: Vec<HistoryEvent>,
    epoch: Option<u64>,
    /// Grows with each change above.
    writes: u64,
    /// Keys that only uncommitted batches hold.
    keys: BTreeMap<Box<str>, KeyHit>,
    new_keys: Vec<Box<str>>,
    /// Last batch that is durable; what a sidecar is told it has seen.
    committed: u64,
    /// What may be forgotten once a batch is committed.
    forget: VecDeque<Forget>,
}

#[derive(Debug)]
struct Forget {
    seq: u64,
    tasks: Vec<TaskId>,
    keys: Vec<Box<str>>,
}

/// The context of one `apply`.
struct Cx<'a> {
    now: Now,
    effects: &'a mut Vec<Effect>,
}

impl Machine {
    /// Decides what follows from one event; effects are appended in order.
    pub fn apply(&mut self, now: Now, event: Event, effects: &mut Vec<Effect>) {
        let cx = &mut Cx { now, effects };
        match event {
            Event::Submitted(submit) => self.on_submitted(cx, *submit),
            Event::CancelRequested { ticket, task, stored, reason } => {
                self.hydrate_all(stored);
                self.on_cancel_requested(cx, ticket, task, &reason);
            }
            Event::RetryRequested { ticket, task, stored, key } => {
                self.hydrate_all(stored);
                self.on_retry_requested(cx, ticket, task, &key);
            }
            Event::LinkOpened { session, hello, held, stored } => {
                for (task, row) in stored {
                    self.hydrate(task, Some(Box::new(row)));
                }
                self.on_link_opened(cx, session, &hello, held);
            }
            Event::LinkClosed { session } => self.on_link_closed(session),
            Event::BeatReceived { session, seq, load, credit, held, apart, aside, closed, progress } => {
                let limit = if closed { 0 } else { held.saturating_add(credit) };
                self.on_beat(cx, session, seq, beat::Beat { load, limit, apart, aside, progress });
            }
            Event::Reported { session, seq, attempt, fence, report, stored } => {
                self.hydrate_all(stored);
                self.on_reported(cx, session, report::Reported { seq, attempt, fence, report });
            }
            Event::Emitted { session, attempt, fence, child } => self.on_emitted(cx, session, attempt, fence, *child),
            Event::PongReceived { session } => self.on_pong(session),
            Event::DrainRequested { ticket, sidecar, mode } => self.on_drain_requested(cx, ticket, sidecar, mode),
            Event::ExecutorPut { ticket, executor, replace } => self.on_executor_put(cx, ticket, *executor, replace),
            Event::ExecutorDeleted { ticket, r#type } => self.on_executor_deleted(cx, ticket, &r#type),
            Event::Flow(event) => self.on_flow(cx, event),
            Event::RestoreAccepted => self.on_restore_accepted(),
            Event::TimePassed => {}
        }
        self.fire_timers(cx);
        self.drive(cx);
        self.place(cx);
        self.release_hydrated();
        for id in std::mem::take(&mut self.hydrated) {
            self.forget(id);
        }
    }

    /// Lets a task go unless something about it is still to come or to be committed.
    fn forget(&mut self, id: TaskId) {
        // It may have been asked to run again since, or be changed in a later batch.
        let done = self.tasks.get(&id).is_some_and(|task| task.is_settled()) && !self.pending.tasks.contains(&id);
        if done && let Some(task) = self.tasks.remove(&id) {
            for aside in &task.aside {
                if let Some(sidecar) = self.sidecars.get_mut(&aside.sidecar) {
                    sidecar.aside.remove(&AttemptId { task: id, number: aside.number });
                }
            }
            self.forget_child(id, &task);
            self.shared.release(task.alike);
        }
    }

    fn fire_timers(&mut self, cx: &mut Cx<'_>) {
        while let Some(timer) = self.timers.pop(cx.now.mono_ms) {
            match timer {
                Timer::Due(task) => self.on_due(cx, task),
                Timer::QueueTimeout(task) => self.on_queue_timeout(cx, task),
                Timer::TotalTimeout(task) => self.on_total_timeout(cx, task),
                Timer::Silence(sidecar) => self.on_silence(cx, sidecar),
                Timer::Quarantine(sidecar) => self.on_quarantine_over(sidecar),
                Timer::Pause(sidecar) => self.on_pause_over(sidecar),
                Timer::Replace(attempt) => self.on_replace_due(cx, attempt),
                Timer::Run(run, step) => self.on_run_due(cx, run, step),
                Timer::Work(run, step) => self.on_work_due(cx, (run, step)),
                Timer::Admit(run, step) => self.on_admission_due(run, step),
                Timer::Poll(ticket) => self.on_poll_over(cx, ticket),
                Timer::Restored => self.on_restore_accepted(),
                Timer::Unheard => self.on_all_heard(),
            }
        }
    }

    /// Takes what must be committed before the effects collected since the last call may leave. `seq` names the batch for
    /// [`Machine::committed`].
    #[must_use]
    pub fn take_batch(&mut self, seq: u64) -> Batch {
        let mut batch = Batch::default();
        self.take_flows(seq, &mut batch);
        let pending = &mut self.pending;
        (batch.history, batch.epoch) = (std::mem::take(&mut pending.history), pending.epoch.take());
        let mut ended = Vec::new();
        for id in std::mem::take(&mut pending.tasks) {
            let Some(task) = self.tasks.get_mut(&id) else { continue };
            task.version += 1;
            batch.tasks.push(TaskChange {
                row: task.to_row(id),
                facts: Arc::clone(&task.alike.facts),
                own: Arc::clone(&task.own),
                fresh: task.version == 1,
            });
            if task.is_settled() {
                ended.push(id);
            }
        }
        for id in std::mem::take(&mut pending.sidecars) {
            if let Some(sidecar) = self.sidecars.get(&id) {
                batch.sidecars.push(sidecar.to_row(id));
            }
        }
        for name in std::mem::take(&mut pending.executors) {
            let executor = self.executors.get(&name).cloned();
            let deleted = executor.is_none();
            let executor = executor.unwrap_or(v1::Executor { r#type: name, ..Default::default() });
            batch.executors.push(store::ExecutorRow { executor: Some(executor), deleted });
        }
        let keys = std::mem::take(&mut pending.new_keys);
        if !ended.is_empty() || !keys.is_empty() {
            pending.forget.push_back(Forget { seq, tasks: ended, keys });
        }
        batch
    }

    /// The batch `seq` and all before it are durable: what only covered them may be forgotten (ended tasks, fresh keys).
    pub fn committed(&mut self, seq: u64) {
        self.pending.committed = seq;
        self.flows_committed(seq);
        while self.pending.forget.front().is_some_and(|forget| forget.seq <= seq) {
            let Some(forget) = self.pending.forget.pop_front() else { return };
            for key in forget.keys {
                self.pending.keys.remove(&key);
            }
            for id in forget.tasks {
                self.forget(id);
            }
        }
    }

    /// Whether something was decided that no batch has taken yet.
    #[must_use]
    pub fn dirty(&self) -> bool {
        let pending = &self.pending;
        !pending.tasks.is_empty()
            || !pending.sidecars.is_empty()
            || !pending.history.is_empty()
            || !pending.executors.is_empty()
            || pending.epoch.is_some()
            || self.flows_dirty()
    }

    /// Grows with each durable change; equal before and after an `apply` means that its effects need no commit of their own.
    #[must_use]
    pub fn write_count(&self) -> u64 {
        self.pending.writes
    }

    /// When `TimePassed` is wanted, on the `mono_ms` clock.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<u64> {
        self.timers.next()
    }

    /// Whether the machine holds the task, so that the store's row would be older than what it knows.
    #[must_use]
    pub fn holds(&self, task: TaskId) -> bool {
        self.tasks.contains_key(&task)
    }

    /// The configuration it was made with; the epoch is the one it leads under now.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether sidecars have seen a later state than this store held: it was restored from a backup.
    #[must_use]
    pub fn restored(&self) -> bool {
        self.restored
    }

    fn next_fence(&mut self) -> Fence {
        self.fence_n += 1;
        Fence { epoch: self.config.epoch, n: self.fence_n }
    }

    fn touch_task(&mut self, task: TaskId) {
        self.pending.tasks.insert(task);
        self.pending.writes += 1;
    }

    fn touch_sidecar(&mut self, sidecar: SidecarId) {
        self.pending.sidecars.insert(sidecar);
        self.pending.writes += 1;
    }

    fn note(&mut self, cx: &Cx<'_>, attempt: AttemptId, kind: &'static str, detail: impl Into<String>) {
        let Some(task) = self.tasks.get_mut(&attempt.task) else { return };
        task.history += 1;
        self.pending.tasks.insert(attempt.task);
        self.pending.writes += 1;
        self.pending.history.push(HistoryEvent {
            task: attempt.task,
            seq: task.history,
            unix_ms: cx.now.wall_ms,
            kind,
            attempt: attempt.number,
            detail: detail.into(),
        });
    }

    fn note_task(&mut self, cx: &Cx<'_>, task: TaskId, kind: &'static str, detail: impl Into<String>) {
        self.note(cx, AttemptId { task, number: 0 }, kind, detail);
    }

    #[cfg(feature = "seeded-bugs")]
    fn bug(&self, bug: Bug) -> bool {
        self.config.bug == Some(bug)
    }
}
