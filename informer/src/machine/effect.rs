//! What the machine wants done. Effects are imperatives; the shell carries them out only after the batch they belong to is durable.

use super::event::{PayloadHandle, RunId, SessionId, Ticket};
use super::shared::Own;
use bytes::Bytes;
use proto::id::{AttemptId, Fence, SidecarId, TaskId};
use proto::{store, v1};
use std::sync::Arc;
use workflow::evaluate::{ChildStart, Question};
use workflow::plan::Plan;
use workflow::run::{PartRow, Refused, StepIx, StepRow};

/// One thing to do after the commit.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Answer a caller.
    Reply {
        /// Who waits.
        ticket: Ticket,
        /// The answer.
        reply: Reply,
    },
    /// Send an assignment; the shell fetches the payload.
    SendAssign {
        /// Where to.
        session: SessionId,
        /// The attempt.
        attempt: AttemptId,
        /// Its fence.
        fence: Fence,
        /// Its payload.
        payload: PayloadHandle,
        /// Of a member whose array has items: the position of its item, from 0. The shell fetches it.
        position: Option<u32>,
        /// Of a workflow's task: its input. The shell fetches it.
        input: Option<PayloadHandle>,
        /// It is a workflow's task: without an input it is given an empty one.
        of_run: bool,
    },
    /// Answer a run's question by [`super::FlowEvent::Evaluated`].
    Evaluate {
        /// The run.
        run: RunId,
        /// The question.
        question: Box<Question>,
        /// The plan that the question's node is of.
        plan: Arc<Plan>,
    },
    /// Read what is needed to start a run, and answer by [`super::FlowEvent::RunPrepared`].
    Prepare {
        /// The run that wants it.
        by: RunId,
        /// For which of its steps; none: it is told of the run's failure.
        step: Option<StepIx>,
        /// The id that the new run will have.
        child: RunId,
        /// Whether the step waits for its end.
        waits: bool,
        /// Which workflow, with which input.
        start: Box<ChildStart>,
    },
    /// Send any other message; its content is complete.
    Send {
        /// Where to.
        session: SessionId,
        /// The message.
        message: Box<v1::InformerMessage>,
    },
    /// End a link, after telling why.
    CloseLink {
        /// Which.
        session: SessionId,
        /// Told to the sidecar.
        refuse: v1::Refuse,
    },
}

/// The answer to a caller.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// The task is durable under this id.
    Submitted {
        /// Its id.
        task: TaskId,
        /// It was already there under the same key with the same payload.
        existed: bool,
    },
    /// The task as it stands after the request.
    Task(Box<store::TaskRow>),
    /// The sidecar as it stands after the request.
    Sidecar(Box<v1::Sidecar>),
    /// The executor as it is registered.
    Executor {
        /// The executor.
        executor: Box<v1::Executor>,
        /// The same one was there.
        existed: bool,
    },
    /// There is no such executor any more.
    ExecutorGone {
        /// There was one.
        existed: bool,
    },
    /// The run is durable under this id.
    RunStarted {
        /// Its id.
        run: RunId,
        /// It was already there under the same key with the same start.
        existed: bool,
    },
    /// The run as it stands after the request.
    Run {
        /// The run.
        row: Box<store::RunRow>,
        /// Nothing was changed, and why.
        ignored: Option<&'static str>,
    },
    /// The definition as it is registered.
    Definition {
        /// Its version.
        version: u32,
        /// The same one was there.
        existed: bool,
    },
    /// There is no such definition any more; or of a task definition: it is registered.
    Registered {
        /// There was one, or the same one.
        existed: bool,
    },
    /// The tasks that a worker has now.
    Polled(Vec<PolledWork>),
    /// A worker's word was taken.
    WorkUpdated {
        /// Nothing was changed, and why.
        ignored: Option<&'static str>,
    },
    /// Refused.
    Rejected(Rejection),
}

/// A task for a worker without a sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolledWork {
    /// Its run.
    pub run: RunId,
    /// Its step.
    pub step: StepIx,
    /// The task definition's name.
    pub name: String,
    /// Its reference name, with the round.
    pub reference: String,
    /// The workflow's name.
    pub workflow: String,
    /// The user's id of what the run belongs to.
    pub correlation: Option<String>,
    /// Its input; none: {}.
    pub input: Option<PayloadHandle>,
    /// Its output so far, which an earlier worker left; none: {}.
    pub output: Option<PayloadHandle>,
    /// How often it was tried before.
    pub retry_count: u32,
    /// The worker may be silent for so long, milliseconds; 0: for ever.
    pub response_ms: u64,
    /// When it was scheduled, Unix ms.
    pub scheduled_unix_ms: u64,
    /// When it was first taken, Unix ms.
    pub started_unix_ms: u64,
}

/// Why a request was refused. The edge maps each to a gRPC status and a documented code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The key was used with another payload.
    #[error("the key is in use for task {task} with another payload; use a new key, or submit the same task")]
    KeyConflict {
        /// The task that holds the key.
        task: TaskId,
    },
    /// No such task.
    #[error("no task {task}; `informer list` shows what there is")]
    Unknown {
        /// What was asked for.
        task: TaskId,
    },
    /// The request does not fit the task's state.
    #[error("task {task} is {state}: {why}")]
    State {
        /// The task.
        task: TaskId,
        /// Its state, in lower case.
        state: &'static str,
        /// What would have to be so.
        why: &'static str,
    },
    /// No such sidecar.
    #[error("no sidecar {sidecar}; `informer sidecars --all` shows all that are known")]
    UnknownSidecar {
        /// What was asked for.
        sidecar: SidecarId,
    },
    /// A task of a type that nobody has registered.
    #[error(
        "no executor of type {type:?} is registered; `informer executor put` registers one, `informer executor list` shows all"
    )]
    UnknownType {
        /// The type.
        r#type: String,
    },
    /// Another executor of the type is there.
    #[error("an executor of type {type:?} is registered and differs; replace it by `--replace`, or use another type")]
    ExecutorConflict {
        /// The type.
        r#type: String,
    },
    /// Too many executors.
    #[error("{limit} executors are registered, which is the bound; delete one that is not used")]
    ExecutorsFull {
        /// The bound.
        limit: usize,
    },
    /// Too many members of an array were singled out.
    #[error(
        "array {task} has {limit} runs of members that have not started, which is the bound; cancel or retry the whole array"
    )]
    Scattered {
        /// The array.
        task: TaskId,
        /// The bound.
        limit: usize,
    },
    /// No such run.
    #[error("no workflow run {run}; `informer workflow search` shows what there is")]
    UnknownRun {
        /// What was asked for.
        run: RunId,
    },
    /// The key of a start was used with another one.
    #[error("the key is in use for workflow run {run} with another start; use a new key, or start the same")]
    RunKeyConflict {
        /// The run that holds the key.
        run: RunId,
    },
    /// The operation does not fit the run.
    #[error("workflow run {run}: {why}")]
    RunRefused {
        /// The run.
        run: RunId,
        /// Why.
        why: Refused,
    },
    /// The operation reaches more runs than one batch may move.
    #[error(
        "more than {limit} sub-workflows of {run} would be brought back at once; retry the failed ones one by one first"
    )]
    RunFamily {
        /// The run.
        run: RunId,
        /// The bound.
        limit: usize,
    },
    /// Too many runs are not over.
    #[error("{limit} workflow runs are not over, which is the bound; retry when some have ended")]
    RunsFull {
        /// The bound.
        limit: usize,
    },
    /// Another definition is registered under this version.
    #[error(
        "workflow {name:?} has another version {version}; leave the version out to get the next one, or replace it by `--replace`"
    )]
    DefinitionConflict {
        /// The name.
        name: String,
        /// The version.
        version: u32,
    },
    /// Too many definitions.
    #[error("{limit} definitions are registered, which is the bound; delete some that are not used")]
    DefinitionsFull {
        /// The bound.
        limit: usize,
    },
    /// Too many workers wait for tasks.
    #[error("{limit} workers wait for tasks, which is the bound; poll again later")]
    Pollers {
        /// The bound.
        limit: usize,
    },
    /// Too many tasks wait; retry later.
    #[error("{limit} tasks are not terminal, which is the bound; retry when some have ended")]
    Full {
        /// The bound.
        limit: usize,
    },
}

/// Something that happened to a task, for its history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEvent {
    /// The task.
    pub task: TaskId,
    /// Counts from 1 within the task.
    pub seq: u32,
    /// Unix milliseconds.
    pub unix_ms: u64,
    /// One of a fixed set of words: `submitted`, `assigned`, `started`, …
    pub kind: &'static str,
    /// 0: the task itself.
    pub attempt: u32,
    /// One line for people; may be empty.
    pub detail: String,
}

/// What one batch changes durably. The shell adds payload bodies and commits it in one transaction.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// Rows to insert or replace, each task at most once.
    pub tasks: Vec<TaskChange>,
    /// Rows to insert or replace, each sidecar at most once.
    pub sidecars: Vec<store::SidecarRow>,
    /// Lines to append.
    pub history: Vec<HistoryEvent>,
    /// The store's epoch must be raised to this: a sidecar has seen a later one of this lineage.
    pub epoch: Option<u64>,
    /// Executors to insert, replace or (`deleted`) remove, each type at most once.
    pub executors: Vec<store::ExecutorRow>,
    /// Workflow definitions to insert, replace or (`deleted`) remove, each name and version at most once.
    pub definitions: Vec<store::DefinitionRow>,
    /// Task definitions likewise, each name at most once.
    pub task_definitions: Vec<store::TaskDefinitionRow>,
    /// Runs that changed, each at most once.
    pub runs: Vec<RunChange>,
    /// Lines to append to the histories of runs.
    pub run_events: Vec<store::RunEventRow>,
    /// Bodies that the machine itself has made: outputs of tasks, specs of registered types.
    pub bodies: Vec<(PayloadHandle, Bytes)>,
}

/// What changed of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunChange {
    /// The run.
    pub id: RunId,
    /// Its row, if that changed.
    pub row: Option<store::RunRow>,
    /// The store has nothing of it yet.
    pub fresh: bool,
    /// Steps to insert or replace, each at most once.
    pub steps: Vec<StepRow>,
    /// Steps to remove.
    pub removed: Vec<StepIx>,
    /// All parts are removed before those below are written.
    pub parts_removed: bool,
    /// Parts of its plan to insert or replace.
    pub parts: Vec<PartRow>,
    /// The bodies that what is written names: the run has them from now on, for as long as it is kept.
    pub holds: Vec<PayloadHandle>,
}

/// A task that changed. What never changes of it, its facts, is apart: it is written once, and most of it is shared by all that
/// are alike.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskChange {
    /// The row, without its facts.
    pub row: store::TaskRow,
    /// Its facts without its own.
    pub facts: Arc<store::Facts>,
    /// Its own facts.
    pub own: Arc<Own>,
    /// The store has no row of it yet.
    pub fresh: bool,
}

impl TaskChange {
    /// The row with its facts.
    #[must_use]
    pub fn whole(&self) -> store::TaskRow {
        store::TaskRow { facts: Some(self.own.whole(&self.facts)), ..self.row.clone() }
    }
}

impl Batch {
    /// Nothing to commit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
            && self.sidecars.is_empty()
            && self.history.is_empty()
            && self.executors.is_empty()
            && self.definitions.is_empty()
            && self.task_definitions.is_empty()
            && self.runs.is_empty()
            && self.run_events.is_empty()
            && self.bodies.is_empty()
            && self.epoch.is_none()
    }
}
