//! What the machine wants done. Effects are imperatives; the shell carries them out only after the batch they belong to is durable.

use super::event::{PayloadHandle, SessionId, Ticket};
use proto::id::{AttemptId, Fence, TaskId};
use proto::{store, v1};

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
    /// Refused.
    Rejected(Rejection),
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
    pub tasks: Vec<store::TaskRow>,
    /// Rows to insert or replace, each sidecar at most once.
    pub sidecars: Vec<store::SidecarRow>,
    /// Lines to append.
    pub history: Vec<HistoryEvent>,
    /// The store's epoch must be raised to this: a sidecar has seen a later one of this lineage.
    pub epoch: Option<u64>,
}

impl Batch {
    /// Nothing to commit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty() && self.sidecars.is_empty() && self.history.is_empty() && self.epoch.is_none()
    }
}
