//! What the machine wants done. Effects are imperatives; the shell carries them out only after the batch they belong to is durable.

use super::event::{PayloadHandle, SessionId, Ticket};
use super::shared::Own;
use proto::id::{AttemptId, Fence, SidecarId, TaskId};
use proto::{store, v1};
use std::sync::Arc;

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
            && self.epoch.is_none()
    }
}
