//! What the machine is told. Events are past tense: they have happened, and the machine only decides what follows.

use proto::id::{AttemptId, Fence, SidecarId, TaskId};
use proto::{store, v1};
use std::collections::BTreeMap;

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
    /// An answer to a ping: the path works in both directions.
    PongReceived {
        /// The session.
        session: SessionId,
    },
    /// An operator confirms that this restored informer may start `exclusive` tasks at once.
    RestoreAccepted,
    /// The time named by `next_wakeup` has come. A repeated or early one is harmless.
    TimePassed,
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
    Refused(String),
}
