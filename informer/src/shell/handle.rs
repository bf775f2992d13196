//! What edges hold of the shell: a cheap clone whose calls become messages to the loop, or reads that never pass it.

use super::error::Error;
use super::flows::{Engines, Plans};
use super::members;
use super::message::{ClientCall, Inbox, ItemCall, LinkCall};
use super::numbers::Numbers;
use super::published::Published;
use super::reads::Reads;
use crate::machine::{Event, Held, Hello, NewArray, PayloadHandle, Rejection, Reply, SessionId};
use crate::store::{Filter, HistoryRow, ItemChunk, Page};
use bytes::Bytes;
use proto::id::{SidecarId, TaskId};
use proto::store::{Facts, TaskRow};
use proto::v1::{self, TaskState};
use std::sync::Arc;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

/// A way to the shell. Clones are cheap; calls fail with [`Error::Stopped`] once the shell has ended.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) inbox: Inbox,
    pub(super) reads: Arc<Reads>,
    pub(super) published: Arc<Published>,
    pub(super) plans: Arc<Plans>,
    pub(super) scripts: Engines,
    pub(super) stopped: watch::Receiver<Option<String>>,
}

/// A task to be stored, checked and named by an edge.
#[derive(Debug, Clone)]
pub struct NewTask {
    /// Fresh id.
    pub task: TaskId,
    /// Idempotency key.
    pub key: Option<String>,
    /// SHA-256 of `body`.
    pub payload: PayloadHandle,
    /// The encoded, normalised `TaskSpec`.
    pub body: Bytes,
    /// What stands for the whole submission under its key: `payload`, or of an array a digest over it, the range and the items.
    pub digest: PayloadHandle,
    /// It is an array, whose items are kept already ([`Handle::keep_items`]).
    pub array: Option<NewArray>,
    /// What decisions need of it, defaults filled in.
    pub facts: Facts,
    /// Not before this Unix time, milliseconds; 0: at once.
    pub start_after_unix_ms: u64,
    /// Not before so long after it was taken, by the informer's clock, milliseconds; instead of the former, 0: at once.
    pub start_after_ms: u64,
}

/// The task is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    /// Its id; that of the first submit under the same key.
    pub task: TaskId,
    /// It was already there under the same key with the same payload.
    pub existed: bool,
}

impl Handle {
    /// Stores a task. The answer means durable; without one (an error, or the future dropped) the task may exist all the same,
    /// which is what keys are for.
    ///
    /// # Errors
    /// [`Error::Rejected`], [`Error::Busy`], [`Error::Stopped`].
    pub async fn submit(&self, new: NewTask) -> Result<Submitted, Error> {
        match self.decided(|reply| ClientCall::Submit { new: Box::new(new), reply }).await? {
            Reply::Submitted { task, existed } => Ok(Submitted { task, existed }),
            other => Err(unexpected(other)),
        }
    }

    /// Wants a task to end; answers with the task as it stands then. It may still be stopping.
    ///
    /// # Errors
    /// [`Error::Rejected`], [`Error::Busy`], [`Error::Stopped`].
    pub async fn cancel(&self, task: TaskId, reason: String) -> Result<TaskRow, Error> {
        match self.decided(|reply| ClientCall::Cancel { task, reason, reply }).await? {
            Reply::Task(row) => Ok(*row),
            other => Err(unexpected(other)),
        }
    }

    /// Runs a terminal task again. `key` (empty: none) makes a repeated call harmless.
    ///
    /// # Errors
    /// [`Error::Rejected`], [`Error::Busy`], [`Error::Stopped`].
    pub async fn retry(&self, task: TaskId, key: String) -> Result<TaskRow, Error> {
        match self.decided(|reply| ClientCall::Retry { task, key, reply }).await? {
            Reply::Task(row) => Ok(*row),
            other => Err(unexpected(other)),
        }
    }

    /// Stores items of an array that is yet to be submitted. The answer means durable; they show when the array does. Waits while
    /// the loop is behind. After an error, or when the array will not be submitted, [`Handle::drop_items`] takes them back.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn keep_items(&self, chunk: ItemChunk) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.inbox.items.send(ItemCall { chunk, reply }).await.map_err(|_| self.stopped())?;
        answer.await.map_err(|_| self.stopped())
    }

    /// Forgets the items of an array that was not submitted; of one that was it changes nothing. Never blocks. If the informer ends
    /// before, its next start forgets them.
    pub fn drop_items(&self, array: TaskId) {
        let _ = self.inbox.dropped.send(array);
    }

    /// Wants a sidecar to take no new work, or (`Unspecified`) to take it again; answers with the sidecar as it stands then.
    ///
    /// # Errors
    /// [`Error::Rejected`], [`Error::Busy`], [`Error::Stopped`].
    pub async fn drain(&self, sidecar: SidecarId, mode: v1::DrainMode) -> Result<v1::Sidecar, Error> {
        match self.decided(|reply| ClientCall::Drain { sidecar, mode, reply }).await? {
            Reply::Sidecar(sidecar) => Ok(*sidecar),
            other => Err(unexpected(other)),
        }
    }

    /// Registers an executor, checked and named by an edge; with `replace` instead of another one of its type. The answer says too
    /// whether the same one was there.
    ///
    /// # Errors
    /// [`Error::Rejected`], [`Error::Busy`], [`Error::Stopped`].
    pub async fn put_executor(&self, executor: v1::Executor, replace: bool) -> Result<(v1::Executor, bool), Error> {
        let executor = Box::new(executor);
        match self.decided(|reply| ClientCall::PutExecutor { executor, replace, reply }).await? {
            Reply::Executor { executor, existed } => Ok((*executor, existed)),
            other => Err(unexpected(other)),
        }
    }

    /// Takes an executor away; says whether there was one.
    ///
    /// # Errors
    /// [`Error::Rejected`], [`Error::Busy`], [`Error::Stopped`].
    pub async fn delete_executor(&self, r#type: String) -> Result<bool, Error> {
        match self.decided(|reply| ClientCall::DeleteExecutor { r#type, reply }).await? {
            Reply::ExecutorGone { existed } => Ok(existed),
            other => Err(unexpected(other)),
        }
    }

    /// Every registered executor, by type.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Stopped`].
    pub async fn executors(&self) -> Result<Vec<v1::Executor>, Error> {
        self.read(|reader| reader.executors()).await
    }

    /// Why a task does not run. Of a terminal task: how it ended.
    ///
    /// # Errors
    /// [`Error::Rejected`] with `Unknown`, [`Error::Busy`], [`Error::Stopped`], [`Error::Store`].
    pub async fn why(&self, task: TaskId) -> Result<v1::WhyResponse, Error> {
        if let Some(why) = self.asked(|reply| ClientCall::Why { task, reply }).await? {
            return Ok(why);
        }
        // What the machine does not hold is terminal and committed, or was never there.
        let row = self.get(task).await?.ok_or(Error::Rejected(Rejection::Unknown { task }))?;
        let state = row.state();
        // A member that has not started waits for what its array waits for.
        if let Some(array) = task.array().filter(|_| matches!(state, TaskState::Waiting | TaskState::Ready))
            && let Some(why) = self.asked(|reply| ClientCall::Why { task: array, reply }).await?
        {
            return Ok(v1::WhyResponse { state: state.into(), ..why });
        }
        Ok(super::ended::why(&row, &self.set_aside(task)))
    }

    /// The sidecars, by id; with `all` the lost ones too.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::Stopped`].
    pub async fn sidecars(&self, all: bool) -> Result<Vec<v1::Sidecar>, Error> {
        self.asked(|reply| ClientCall::Sidecars { all, reply }).await
    }

    /// The session of a sidecar, if it is linked.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::Stopped`].
    pub async fn session_of(&self, sidecar: String) -> Result<Option<SessionId>, Error> {
        self.asked(|reply| ClientCall::SessionOf { sidecar, reply }).await
    }

    /// A task as the store has it: every answered call is in it. A member without a row of its own is told from its array's, with
    /// version 0.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Stopped`].
    pub async fn get(&self, task: TaskId) -> Result<Option<TaskRow>, Error> {
        self.read(move |reader| {
            let Some((array, index)) = task.array().zip(task.index()) else { return reader.get(task) };
            // The array first: a member that starts in between has a row then.
            let array = reader.get(array)?;
            let row = reader.get(task)?;
            Ok(row.or_else(|| members::member(&array?, index)))
        })
        .await
    }

    /// Those of the tasks that the store does not have, or no longer.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Stopped`].
    pub(crate) async fn absent(&self, mut tasks: Vec<TaskId>) -> Result<Vec<TaskId>, Error> {
        self.read(move |reader| {
            let mut absent = Vec::new();
            for task in tasks.drain(..) {
                if reader.get(task)?.is_none() {
                    absent.push(task);
                }
            }
            Ok(absent)
        })
        .await
    }

    /// The item of a member; `None` if its array has none, or if there is no such member.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Stopped`].
    pub async fn item(&self, member: TaskId) -> Result<Option<String>, Error> {
        self.read(move |reader| {
            let Some((id, index)) = member.array().zip(member.index()) else { return Ok(None) };
            let array = reader.get(id)?.and_then(|row| row.array).filter(|array| array.items);
            let position = array.and_then(|array| index.checked_sub(array.first));
            position.map_or(Ok(None), |position| reader.item(id, position))
        })
        .await
    }

    /// How many of a task's children are in which state.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn children(&self, parent: TaskId) -> Result<Vec<(v1::TaskState, u32)>, Error> {
        self.read(move |reader| reader.children(parent)).await
    }

    /// A payload's body.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Stopped`].
    pub async fn payload(&self, handle: PayloadHandle) -> Result<Option<Bytes>, Error> {
        self.read(move |reader| Ok(reader.payloads(&[handle])?.remove(&handle))).await
    }

    /// A page of tasks, newest first; of an array's members, those without a row included, lowest index first.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Stopped`].
    pub async fn list(&self, filter: Filter) -> Result<Page, Error> {
        self.read(move |reader| match filter.array {
            Some(array) => members::list(reader, &filter, array),
            None => reader.list(&filter),
        })
        .await
    }

    /// Lines of a task's history after `after_seq`, oldest first.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Stopped`].
    pub async fn history(&self, task: TaskId, after_seq: u64, limit: u32) -> Result<Vec<HistoryRow>, Error> {
        self.read(move |reader| reader.history(task, after_seq, limit)).await
    }

    /// Latest progress of a task's running attempt, as of the last batch or beat.
    #[must_use]
    pub fn progress(&self, task: TaskId) -> Option<v1::Progress> {
        self.published.progress(task)
    }

    /// Attempts of a task that sidecars have told and that are not applied here, as of the last batch or beat.
    #[must_use]
    pub fn set_aside(&self, task: TaskId) -> Vec<v1::SetAside> {
        self.published.set_aside(task)
    }

    /// Each changed row after its commit, in the order of the commits. A receiver that lags has missed some and reads again.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Arc<TaskRow>> {
        self.published.changes()
    }

    /// The ids of tasks that retention has removed, after each such commit. Whoever keeps something of them elsewhere removes it
    /// then. A receiver that lags, or that was not there, finds what is left by asking for each task ([`Handle::get`]).
    #[must_use]
    pub fn pruned(&self) -> broadcast::Receiver<Arc<[TaskId]>> {
        self.published.pruned()
    }

    /// Counters since the start, and gauges of the last second.
    #[must_use]
    pub fn numbers(&self) -> Numbers {
        let Inbox { clients, links, items, .. } = &self.inbox;
        let depths = [
            clients.max_capacity() - clients.capacity(),
            links.max_capacity() - links.capacity(),
            items.max_capacity() - items.capacity(),
        ];
        self.published.counters.read(depths)
    }

    /// Who this informer is, as of the last commit.
    #[must_use]
    pub fn identity(&self) -> v1::IdentityResponse {
        self.published.identity()
    }

    /// Opens a link. Messages for the sidecar arrive on `out` (capacity `bounds::LINK_QUEUE`), whose sender the shell drops when
    /// the link is to end: on a refusal, after a newer link of the same sidecar, or because `out` was full.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn open_link(
        &self,
        hello: Hello,
        held: Vec<Held>,
        out: mpsc::Sender<Box<v1::InformerMessage>>,
    ) -> Result<SessionId, Error> {
        let (reply, answer) = oneshot::channel();
        let call = LinkCall::Open { hello: Box::new(hello), held, out, reply };
        self.inbox.links.send(call).await.map_err(|_| self.stopped())?;
        answer.await.map_err(|_| self.stopped())
    }

    /// Tells what a sidecar said: `BeatReceived`, `Reported` or `PongReceived`. Waits while the loop is behind, which holds back
    /// this stream only.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn link_event(&self, event: Event) -> Result<(), Error> {
        self.inbox.links.send(LinkCall::Event(event)).await.map_err(|_| self.stopped())
    }

    /// Tells that a link has ended. Never blocks and is never lost while the shell lives; twice is harmless.
    pub fn link_closed(&self, session: SessionId) {
        // After the shell's end there is no link left to end.
        let _ = self.inbox.closed.send(session);
    }

    /// Sends a message that decides nothing (a log request) down a link, after all that went before it.
    ///
    /// # Errors
    /// [`Error::NoLink`], [`Error::Busy`], [`Error::Stopped`].
    pub async fn send(&self, session: SessionId, message: v1::InformerMessage) -> Result<(), Error> {
        let sent = self.asked(|reply| ClientCall::Send { session, message: Box::new(message), reply }).await?;
        if sent { Ok(()) } else { Err(Error::NoLink) }
    }

    pub(super) async fn decided(
        &self,
        call: impl FnOnce(oneshot::Sender<Reply>) -> ClientCall,
    ) -> Result<Reply, Error> {
        match self.asked(call).await? {
            Reply::Rejected(rejection) => Err(Error::Rejected(rejection)),
            reply => Ok(reply),
        }
    }

    pub(super) async fn asked<T>(&self, call: impl FnOnce(oneshot::Sender<T>) -> ClientCall) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        match self.inbox.clients.try_send(call(reply)) {
            Ok(()) => answer.await.map_err(|_| self.stopped()),
            Err(mpsc::error::TrySendError::Full(_)) => Err(Error::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(self.stopped()),
        }
    }

    pub(super) async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&mut dyn crate::store::Read) -> Result<T, crate::store::Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.reads.run(query).await.unwrap_or_else(|| Err(self.stopped()))
    }

    fn stopped(&self) -> Error {
        Error::Stopped(
            self.stopped.borrow().clone().unwrap_or_else(|| "its loop has panicked; this is a bug".to_owned()),
        )
    }
}

/// The machine answers each ticket with the reply of its kind; anything else is our bug, and the caller learns it.
pub(super) fn unexpected(reply: Reply) -> Error {
    Error::Stopped(format!("the machine answered a request with {reply:?}"))
}
