//! Runs of workflows: each is a [`workflow::run::Run`], and here is everything around it that must move in the same batch.
//!
//! ```text
//!  started, operated, answered ─▶ Run::apply ─▶ rows touched ──────────────────────────▶ batch
//!  a task of ours ended ────────▶     ▲   └──▶ commands ─┬─ a task of ours, or the queue of pollers    `work`, `queue`
//!  a timer ─────────────────────▶     │                  ├─ Evaluate, Prepare: effects, answered by events
//!                                     └── inbox ◀────────┴─ words to other runs: told within the same apply
//! ```
//!
//! | file | decides |
//! |---|---|
//! | `start` | starts, keys, children |
//! | `route` | what becomes of a run's commands; what runs tell each other |
//! | `work` | a step's work as a task of ours, and what that task's end means |
//! | `emit` | children that a step's task emits |
//! | `queue` | work for workers without a sidecar, who poll by name |
//! | `admission` | how much of one name may run, or start, at once |
//! | `operate` | what clients want of a run |
//! | `definition` | registered definitions: their versions, never their contents |
//! | `why` | why a run stands where it stands |
//! | `rows` | what is committed, what is loaded, and what is forgotten |
//! | `check` | every invariant of runs |
//!
//! Inside the machine a run has a number: timers and indexes are keyed by it, and its id, a text, is there once.

mod admission;
mod check;
mod definition;
mod emit;
mod operate;
mod queue;
mod route;
mod rows;
mod start;
mod why;
mod work;

pub use queue::LOGGED;
pub use route::kin;
pub use rows::wire_status;
pub(super) use start::Answered;
pub(super) use work::task_id;
pub use work::work_id;

use super::event::{FlowEvent, Now, PayloadHandle, RunId, RunKeyHit, Templates};
use super::{Cx, Machine};
use admission::Admission;
use bytes::Bytes;
use definition::Definitions;
use proto::store;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use workflow::run::{Event as RunEvent, Moment, Run, StepIx};

/// A run's number while it is held; given once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Nr(u64);

/// A step of a held run.
pub(super) type StepOf = (Nr, StepIx);

/// Everything about workflows that the machine holds.
#[derive(Debug, Default)]
pub(super) struct Flows {
    runs: BTreeMap<Nr, Held>,
    by_id: BTreeMap<RunId, Nr>,
    last: u64,
    definitions: Definitions,
    queues: queue::Queues,
    admission: Admission,
    /// Words for runs, told before the current `apply` is over.
    inbox: VecDeque<Word>,
    /// Runs that were over and were brought back by the event being applied; they leave again if it did not change them.
    hydrated: Vec<Nr>,
    pending: Pending,
    #[cfg(feature = "seeded-bugs")]
    late: Vec<Word>,
}

/// A run that is not over, or whose end is not yet committed.
#[derive(Debug)]
struct Held {
    id: RunId,
    run: Run,
    /// The tasks of ours that its plans name, one set for each plan.
    templates: Vec<Arc<Templates>>,
    owner: Box<str>,
    labels: BTreeMap<String, String>,
    priority: i32,
    definition: PayloadHandle,
    key: Option<(Box<str>, PayloadHandle)>,
    operation_key: Box<str>,
    /// Lines of its history.
    history: u32,
    /// The workflow that is to be told of its failure, while it has not started. Until then the run stays, however it ended.
    to_tell: Option<ToTell>,
    /// When its timers are due, Unix ms.
    due: BTreeMap<Option<StepIx>, u64>,
    touched: Touched,
    /// The store has nothing of it yet.
    fresh: bool,
}

/// The start of a failure workflow.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct ToTell {
    run: String,
    name: String,
    input: Option<workflow::evaluate::Handle>,
    correlation: Option<String>,
}

/// What of a run is not in a batch yet.
#[derive(Debug, Default)]
struct Touched {
    row: bool,
    steps: BTreeSet<StepIx>,
    removed: BTreeSet<StepIx>,
    parts: BTreeSet<u32>,
    parts_removed: bool,
    holds: BTreeSet<PayloadHandle>,
}

/// What no batch has taken yet, and keys that only uncommitted batches hold.
#[derive(Debug, Default)]
struct Pending {
    runs: BTreeSet<Nr>,
    events: Vec<store::RunEventRow>,
    bodies: Vec<(PayloadHandle, Bytes)>,
    keys: BTreeMap<Box<str>, RunKeyHit>,
    new_keys: Vec<Box<str>>,
    forget: VecDeque<Forget>,
}

#[derive(Debug)]
struct Forget {
    seq: u64,
    runs: Vec<Nr>,
    keys: Vec<Box<str>>,
}

/// A word for a run.
#[derive(Debug)]
struct Word {
    to: Nr,
    event: RunEvent,
    /// Who is told that it was refused.
    from: Option<StepOf>,
}

impl Flows {
    fn find(&self, id: &str) -> Option<Nr> {
        self.by_id.get(id).copied()
    }

    fn insert(&mut self, held: Held) -> Nr {
        self.last += 1;
        let nr = Nr(self.last);
        self.by_id.insert(Arc::clone(&held.id), nr);
        self.runs.insert(nr, held);
        nr
    }

    /// A body that the machine has made, or was given: it is committed with what names it.
    pub(super) fn keep_body(&mut self, handle: PayloadHandle, body: Bytes) {
        self.pending.bodies.push((handle, body));
    }

    /// A word for a run, told in its turn.
    fn tell(&mut self, to: Nr, event: RunEvent) {
        self.inbox.push_back(Word { to, event, from: None });
    }
}

impl Held {
    fn is_over(&self) -> bool {
        self.run.row().status.is_ended()
    }

    /// Nothing of it can change any more except by a user.
    fn is_settled(&self) -> bool {
        self.is_over() && self.to_tell.is_none()
    }
}

/// How a run sees the present.
fn moment(now: Now) -> Moment {
    Moment { ms: now.wall_ms, jitter: now.entropy }
}

impl Machine {
    pub(super) fn on_flow(&mut self, cx: &mut Cx<'_>, event: FlowEvent) {
        #[cfg(feature = "seeded-bugs")]
        self.flows.inbox.extend(std::mem::take(&mut self.flows.late));
        match event {
            FlowEvent::RunStarted(new) => self.on_run_started(cx, *new),
            FlowEvent::RunPrepared { by, step, child, waits, exists, outcome } => {
                let answer = Answered { by, step, child, waits, exists, outcome };
                self.on_run_prepared(cx, answer);
            }
            FlowEvent::Evaluated { run, step, ticket, answer, templates } => {
                self.on_evaluated(cx, &run, (step, ticket), *answer, templates);
            }
            FlowEvent::RunOperated { ticket, run, stored, operation, key } => {
                self.on_run_operated(cx, ticket, (run, stored), operation, key);
            }
            FlowEvent::DefinitionPut { ticket, definition, replace } => {
                self.on_definition_put(cx, ticket, *definition, replace);
            }
            FlowEvent::DefinitionDeleted { ticket, name, version } => {
                self.on_definition_deleted(cx, ticket, &name, version);
            }
            FlowEvent::TaskDefinitionPut { ticket, definition } => self.on_task_definition_put(cx, ticket, *definition),
            FlowEvent::TaskDefinitionDeleted { ticket, name } => self.on_task_definition_deleted(cx, ticket, &name),
            FlowEvent::Polled { ticket, names, worker, count, wait_ms } => {
                self.on_polled(cx, ticket, names, worker, (count, wait_ms));
            }
            FlowEvent::WorkUpdated { ticket, run, step, stored, update } => {
                self.on_work_updated(cx, ticket, (run, step), stored, update);
            }
            FlowEvent::WorkLogged { ticket, run, step, stored, lines } => {
                self.on_work_logged(cx, ticket, (run, step), (stored, lines));
            }
        }
    }
}
