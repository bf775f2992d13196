//! What the machine is told. Events are past tense: they have happened, and the machine only decides what follows.

use bytes::Bytes;
use proto::id::{AttemptId, Fence, SidecarId, TaskId};
use proto::{store, v1};
use std::collections::BTreeMap;
use std::sync::Arc;
use workflow::evaluate::{Answer, Handle};
use workflow::plan::Plan;
use workflow::run::{Run, StepIx, TaskStatus};

/// The outside's contribution to one `apply`: both clocks and fresh randomness, so that the machine needs none of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// `CLOCK_BOOTTIME`, milliseconds. Never goes back; all timers and leases count on it.
    pub mono_ms: u64,
    /// Unix time, milliseconds. May jump; only for what people see and for start times they name.
    pub wall_ms: u64,
    /// 64 fresh random bits, for jitter.
    pub entropy: u64,
}

/// Names a caller who waits for a [`super::Reply`]. Made by the shell; means nothing to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// One link, from its opening to its end; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// SHA-256 of the encoded `TaskSpec`: the name of its body in the content table.
pub type PayloadHandle = [u8; 32];

/// Names a run of a workflow: a UUID, or of a child its parent's name, a dot and the number of the step that started it.
pub type RunId = Arc<str>;

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A client submitted a task.
    Submitted(Box<Submit>),
    /// A client wants a task to end.
    CancelRequested {
        /// Who waits.
        ticket: Ticket,
        /// The task.
        task: TaskId,
        /// The rows that the store has and the machine does not hold: the task's, and its array's.
        stored: Vec<store::TaskRow>,
        /// The client's words, one line; may be empty.
        reason: String,
    },
    /// A client wants a terminal task to run again.
    RetryRequested {
        /// Who waits.
        ticket: Ticket,
        /// The task.
        task: TaskId,
        /// The rows that the store has and the machine does not hold: the task's, and its array's.
        stored: Vec<store::TaskRow>,
        /// Idempotency key; empty: none. The same key twice in a row is one retry.
        key: String,
    },
    /// An operator wants a sidecar to take no new work, or to take it again.
    DrainRequested {
        /// Who waits.
        ticket: Ticket,
        /// The sidecar.
        sidecar: SidecarId,
        /// How; `Unspecified`: it takes work again.
        mode: v1::DrainMode,
    },
    /// Somebody registers an executor, checked and named by the edge.
    ExecutorPut {
        /// Who waits.
        ticket: Ticket,
        /// The executor, with a fresh id and the time.
        executor: Box<v1::Executor>,
        /// Another one of its type is replaced; otherwise that is refused.
        replace: bool,
    },
    /// Somebody takes an executor away.
    ExecutorDeleted {
        /// Who waits.
        ticket: Ticket,
        /// Its type.
        r#type: String,
    },
    /// A sidecar opened a link and told everything it holds.
    LinkOpened {
        /// The new session.
        session: SessionId,
        /// The checked hello.
        hello: Box<Hello>,
        /// Its whole inventory.
        held: Vec<Held>,
        /// Rows of tasks in `held`, and of their arrays, that the store has and the machine does not hold.
        stored: BTreeMap<TaskId, store::TaskRow>,
    },
    /// A link ended, for whatever reason.
    LinkClosed {
        /// The session; an unknown one is ignored.
        session: SessionId,
    },
    /// A beat arrived.
    BeatReceived {
        /// The session.
        session: SessionId,
        /// Its number in the session.
        seq: u64,
        /// Load of the machine it runs on.
        load: v1::Load,
        /// Attempts it would take now, over those it holds.
        credit: u32,
        /// Unfinished attempts it held when it counted the credit, as far as this informer knows of them.
        held: u32,
        /// What those take that it does not know of: they were set aside.
        apart: v1::Resources,
        /// Which those are; `None`: it is too old to tell.
        aside: Option<Vec<AttemptId>>,
        /// It takes nothing new, whatever ends there.
        closed: bool,
        /// What advanced since the last beat.
        progress: Vec<(AttemptId, v1::Progress)>,
    },
    /// A durable fact from a sidecar.
    Reported {
        /// The session.
        session: SessionId,
        /// Its number in the session.
        seq: u64,
        /// The attempt.
        attempt: AttemptId,
        /// The fence under which it was assigned.
        fence: Fence,
        /// The fact.
        report: Report,
        /// The rows that the store has and the machine does not hold: the task's, and its array's.
        stored: Vec<store::TaskRow>,
    },
    /// A running task emits a child, or says that there will be no more. It is sent again in each link until it is answered.
    Emitted {
        /// The session.
        session: SessionId,
        /// The attempt.
        attempt: AttemptId,
        /// The fence under which it was assigned.
        fence: Fence,
        /// The child.
        child: Box<EmittedChild>,
    },
    /// An answer to a ping: the path works in both directions.
    PongReceived {
        /// The session.
        session: SessionId,
    },
    /// Something about workflows.
    Flow(FlowEvent),
    /// An operator confirms that this restored informer may start `exclusive` tasks at once.
    RestoreAccepted,
    /// The time named by `next_wakeup` has come. A repeated or early one is harmless.
    TimePassed,
}

/// What happened about workflows.
#[derive(Debug, Clone, PartialEq)]
pub enum FlowEvent {
    /// A client started a run.
    RunStarted(Box<NewRun>),
    /// What [`super::Effect::Prepare`] asked for is there, or cannot be had.
    RunPrepared {
        /// The run that wants it.
        by: RunId,
        /// For which of its steps; none: it is told of the run's failure.
        step: Option<StepIx>,
        /// The id that the new run will have.
        child: RunId,
        /// Whether the step waits for its end.
        waits: bool,
        /// The store has a run of this id.
        exists: bool,
        /// The new run, or why there is none.
        outcome: Result<Box<Prepared>, String>,
    },
    /// The answer to a question of a run. The shell commits the bodies it made in the same batch.
    Evaluated {
        /// The run; one that is over is not asked any more.
        run: RunId,
        /// For which step; none: for the run.
        step: Option<StepIx>,
        /// The question's number.
        ticket: u32,
        /// The answer.
        answer: Box<Answer>,
        /// The tasks of ours that the answer's plan names.
        templates: Arc<Templates>,
    },
    /// A client wants something of a run.
    RunOperated {
        /// Who waits.
        ticket: Ticket,
        /// The run.
        run: RunId,
        /// The run, and those that this operation can reach, as far as the store has them and the machine does not.
        stored: Vec<StoredRun>,
        /// What is wanted.
        operation: Operation,
        /// Idempotency key of what brings a run back; empty: none. The same key twice in a row is one operation.
        key: String,
    },
    /// A client registers a workflow definition, checked by the edge.
    DefinitionPut {
        /// Who waits.
        ticket: Ticket,
        /// Name and JSON without its version; of version 0 the machine chooses one.
        definition: Box<store::DefinitionRow>,
        /// Another one under its version is replaced; otherwise that is refused.
        replace: bool,
    },
    /// A client takes one version, or all (0), of a workflow definition away.
    DefinitionDeleted {
        /// Who waits.
        ticket: Ticket,
        /// Its name.
        name: String,
        /// Its version.
        version: u32,
    },
    /// A client registers a task definition, checked by the edge.
    TaskDefinitionPut {
        /// Who waits.
        ticket: Ticket,
        /// The definition.
        definition: Box<store::TaskDefinitionRow>,
    },
    /// A client takes a task definition away.
    TaskDefinitionDeleted {
        /// Who waits.
        ticket: Ticket,
        /// Its name.
        name: String,
    },
    /// A worker without a sidecar asks for tasks by name, and waits for the first if there are none.
    Polled {
        /// Who waits.
        ticket: Ticket,
        /// The names, those that come first first.
        names: Vec<String>,
        /// Who it is.
        worker: String,
        /// How many it takes.
        count: u32,
        /// How long it waits, milliseconds.
        wait_ms: u64,
    },
    /// A worker says how far a task of its is.
    WorkUpdated {
        /// Who waits.
        ticket: Ticket,
        /// The run.
        run: RunId,
        /// The step.
        step: StepIx,
        /// The run, if the store has it and the machine does not.
        stored: Vec<StoredRun>,
        /// What it says.
        update: WorkUpdate,
    },
    /// A worker tells what it does, for those who look later.
    WorkLogged {
        /// Who waits.
        ticket: Ticket,
        /// The run.
        run: RunId,
        /// The step.
        step: StepIx,
        /// The run, if the store has it and the machine does not.
        stored: Vec<StoredRun>,
        /// The lines, each a JSON text; they are stored in the same batch.
        lines: Vec<PayloadHandle>,
    },
}

impl From<FlowEvent> for Event {
    fn from(event: FlowEvent) -> Self {
        Self::Flow(event)
    }
}

/// A new task, checked and named by the edge.
#[derive(Debug, Clone, PartialEq)]
pub struct Submit {
    /// Who waits.
    pub ticket: Ticket,
    /// Fresh id.
    pub task: TaskId,
    /// Idempotency key.
    pub key: Option<String>,
    /// Where its payload is. The shell commits the body in the same batch.
    pub payload: PayloadHandle,
    /// What stands for the whole submission under its key: the payload's handle, or of an array a digest over it, the range and the
    /// items.
    pub digest: PayloadHandle,
    /// It is an array.
    pub array: Option<NewArray>,
    /// What decisions need of the spec, defaults filled in.
    pub facts: Box<store::Facts>,
    /// Not before this Unix time, milliseconds; 0: at once.
    pub start_after_unix_ms: u64,
    /// Not before so long after it was taken, by the informer's clock, milliseconds; instead of the former, 0: at once.
    pub start_after_ms: u64,
    /// What the store knows under the key.
    pub known: Option<KeyHit>,
}

/// The members of a new array. Its items are committed before it is submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewArray {
    /// Lowest index.
    pub first: u32,
    /// Members, at least one.
    pub count: u32,
    /// Each member has an item.
    pub items: bool,
    /// More failed members than this cancel the rest.
    pub max_failures: Option<u32>,
}

/// What a key stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyHit {
    /// The task submitted under it.
    pub task: TaskId,
    /// [`Submit::digest`] of it.
    pub digest: PayloadHandle,
}

/// A sidecar introduces itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Hello {
    /// Who.
    pub sidecar: SidecarId,
    /// Grows with each start of the agent; the newer one wins.
    pub incarnation: u64,
    /// Drawn at each start of the agent, so that two copies of one incarnation are told apart; 0: it is too old to tell.
    pub start: u64,
    /// It lost its id to another process lately, and does not take it from one that is linked.
    pub yields: bool,
    /// Where its data directory is in use: one boot of one machine, a pid namespace there, and which directory it is, told apart from its
    /// copies; one after the other, a blank between them. What a keeper says has ended has ended in that place, and nowhere else. Empty:
    /// it does not tell; without the last: an earlier version.
    pub place: String,
    /// Host name, for people.
    pub host: String,
    /// Version of the sidecar, for people.
    pub version: String,
    /// What it carries for required labels.
    pub labels: BTreeMap<String, String>,
    /// Thousandths of a core it offers.
    pub cpu_millis: u64,
    /// Bytes of memory it offers.
    pub memory_bytes: u64,
    /// Most attempts at once.
    pub slots: u32,
    /// `stop` attempts are fenced weakly there.
    pub weak_fencing: bool,
    /// Task kinds it can run: `command`, `script`, …
    pub kinds: Vec<String>,
    /// The highest informer identity it has seen: (lineage, epoch, commit sequence).
    pub seen: Option<v1::Identity>,
    /// The highest fence it has seen.
    pub highest_fence: Fence,
}

/// One attempt in an inventory.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// The attempt.
    pub attempt: AttemptId,
    /// The fence under which it was assigned.
    pub fence: Fence,
    /// Where it stands there.
    pub state: HeldState,
    /// What it takes there; `None`: its sidecar is too old to tell, nor will it tell which of what is set aside has ended.
    pub asked: Option<v1::Resources>,
    /// Of one that was set aside: no process of it is left, nor will there be one.
    pub over: bool,
}

/// Where a held attempt stands on its sidecar.
#[derive(Debug, Clone, PartialEq)]
pub enum HeldState {
    /// In the ledger, no process yet.
    Accepted,
    /// Its process runs, or ran when last seen.
    Running {
        /// Unix milliseconds.
        started_unix_ms: u64,
        /// How far it is.
        progress: v1::Progress,
    },
    /// It ended; the result was not acknowledged.
    Ended(Box<v1::Ending>),
    /// Its outputs are in place; that was not acknowledged.
    Published(Box<v1::Ending>),
    /// An informer that did not know it set it aside.
    SetAside,
}

/// A durable fact about one attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// It is in the sidecar's ledger.
    Accepted,
    /// Its process exists.
    Started {
        /// Unix milliseconds.
        unix_ms: u64,
    },
    /// Its process ended and nothing of it is left.
    Ended(Box<v1::Ending>),
    /// Its outputs are in place (`None`) or could not be put there (why).
    Published(Option<String>),
    /// The sidecar will not run it, and has not.
    Refused {
        /// Why not.
        why: String,
        /// Not 0: the number was another attempt's there, and this is the highest of the task that was.
        taken: u32,
    },
    /// The same, and through no fault of the task, nor of who gave it: nothing can be started there for now.
    HandedBack(String),
}

/// A new run that a client wants, checked and named by the edge.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRun {
    /// Who waits.
    pub ticket: Ticket,
    /// Fresh id.
    pub id: RunId,
    /// What it is.
    pub prepared: Prepared,
    /// Whose it is, and its tasks.
    pub owner: String,
    /// What it is searched by; its tasks carry them.
    pub labels: BTreeMap<String, String>,
    /// Idempotency key.
    pub key: Option<String>,
    /// What stands for the whole start under its key.
    pub digest: PayloadHandle,
    /// What the store knows under the key.
    pub known: Option<RunKeyHit>,
}

/// A run, ready to be started: everything that had to be read for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// Its definition, laid out.
    pub plan: Arc<Plan>,
    /// The tasks of ours that the definition names.
    pub templates: Arc<Templates>,
    /// The definition with its task definitions, stored.
    pub definition: PayloadHandle,
    /// Its input, with what the definition's template adds.
    pub input: Option<Handle>,
    /// Its first variables.
    pub variables: Option<Handle>,
    /// The user's id of what it belongs to.
    pub correlation: Option<String>,
    /// Priority of its tasks; 0 for a child: its parent's.
    pub priority: i32,
}

/// Tasks of ours by the names of their task definitions: those that say how they are run.
pub type Templates = BTreeMap<String, Template>;

/// A task of ours that a task definition describes, checked and encoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    /// The encoded `TaskSpec`.
    pub payload: PayloadHandle,
    /// What decisions need of it.
    pub facts: store::Facts,
}

/// A run as the store has it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredRun {
    /// Its row.
    pub row: store::RunRow,
    /// Itself.
    pub run: Box<Run>,
    /// The tasks of ours that its plans name, one set for each plan.
    pub templates: Vec<Arc<Templates>>,
}

/// What the key of a start stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunKeyHit {
    /// The run started under it.
    pub run: RunId,
    /// [`NewRun::digest`] of it.
    pub digest: PayloadHandle,
}

/// What can be wanted of a run. Bodies are stored in the same batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// Schedule nothing more.
    Pause,
    /// Go on.
    Resume,
    /// End now.
    Terminate {
        /// Why.
        reason: Option<String>,
        /// Whether the failure workflow is started.
        tell: bool,
    },
    /// Try again what failed.
    Retry,
    /// Go back to a task.
    Rerun {
        /// Its reference name; none: to the start.
        from: Option<String>,
        /// A new input for it, or for the run.
        input: Option<Handle>,
    },
    /// Begin anew.
    Restart {
        /// By this version of the definition.
        latest: Option<Box<Prepared>>,
    },
    /// Leave a task out that is not scheduled yet.
    Skip {
        /// Its reference name.
        reference: String,
        /// The output it counts as having.
        output: Option<Handle>,
    },
    /// Say what becomes of a task.
    Update {
        /// Its reference name.
        reference: String,
        /// Its status from now on.
        status: TaskStatus,
        /// Its output.
        output: Option<Handle>,
        /// Why it failed.
        reason: Option<String>,
    },
}

/// What a worker says of its task.
#[derive(Debug, Clone, PartialEq)]
pub enum WorkUpdate {
    /// It goes on working, and is not silent.
    Extend {
        /// Its output so far.
        output: Option<Handle>,
    },
    /// It gives it back to the queue for a while: IN_PROGRESS with callbackAfterSeconds.
    Yield {
        /// For how long, milliseconds.
        after_ms: u64,
        /// Its output so far.
        output: Option<Handle>,
    },
    /// It is over.
    End {
        /// COMPLETED, FAILED or FAILED_WITH_TERMINAL_ERROR.
        status: TaskStatus,
        /// Its output.
        output: Option<Handle>,
        /// Why it failed.
        reason: Option<String>,
    },
}

/// A child of a running task.
#[derive(Debug, Clone, PartialEq)]
pub struct EmittedChild {
    /// Its key within the task; empty: the seal, after which there is none.
    pub key: String,
    /// SHA-256 of all that it is, as its sidecar sent it.
    pub digest: [u8; 32],
    /// What it is, or what is wrong with it; of a seal nothing.
    pub what: Result<Emission, String>,
    /// Of a task that is of no workflow: what the shell has found for it.
    pub alone: Option<Box<Alone>>,
}

/// A child that becomes a task by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Alone {
    /// Its row, if the store has it and the machine does not.
    pub stored: Vec<store::TaskRow>,
    /// How it is run, and that spec; or why it cannot be. Of one that is known nothing is found.
    pub made: Result<(Template, Bytes), String>,
}

/// What a child of a running task is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Emission {
    /// The name of its task, where its parent gives one.
    pub name: Option<String>,
    /// Its input, an object, and what stands for it; none: {}.
    pub input: Option<(PayloadHandle, Bytes)>,
}
