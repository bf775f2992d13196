//! What edges hold of the shell: a cheap clone whose calls become messages to the loop, or reads that never pass it.

use super::error::Error;
use super::message::{ClientCall, Inbox, LinkCall};
use super::published::Published;
use super::reads::Reads;
use crate::machine::{Event, Held, Hello, PayloadHandle, Rejection, Reply, SessionId};
use crate::store::{Filter, HistoryRow, Page};
use bytes::Bytes;
use proto::id::TaskId;
use proto::store::{Facts, TaskRow};
use proto::v1;
use std::sync::Arc;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

/// A way to the shell. Clones are cheap; calls fail with [`Error::Stopped`] once the shell has ended.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) inbox: Inbox,
    pub(super) reads: Arc<Reads>,
    pub(super) published: Arc<Published>,
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
    /// What decisions need of it, defaults filled in.
    pub facts: Facts,
    /// Not before this Unix time, milliseconds; 0: at once.
    pub start_after_unix_ms: u64,
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
        Ok(super::ended::why(&row))
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

    /// A task as the store has it: every answered call is in it.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Stopped`].
    pub async fn get(&self, task: TaskId) -> Result<Option<TaskRow>, Error> {
        self.read(move |reader| reader.get(task)).await
    }

    /// A payload's body.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Stopped`].
    pub async fn payload(&self, handle: PayloadHandle) -> Result<Option<Bytes>, Error> {
        self.read(move |reader| Ok(reader.payloads(&[handle])?.remove(&handle))).await
    }

    /// A page of tasks, newest first.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Stopped`].
    pub async fn list(&self, filter: Filter) -> Result<Page, Error> {
        self.read(move |reader| reader.list(&filter)).await
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

    /// Each changed row after its commit, in the order of the commits. A receiver that lags has missed some and reads again.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Arc<TaskRow>> {
        self.published.changes()
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
        out: mpsc::Sender<v1::InformerMessage>,
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

    async fn decided(&self, call: impl FnOnce(oneshot::Sender<Reply>) -> ClientCall) -> Result<Reply, Error> {
        match self.asked(call).await? {
            Reply::Rejected(rejection) => Err(Error::Rejected(rejection)),
            reply => Ok(reply),
        }
    }

    async fn asked<T>(&self, call: impl FnOnce(oneshot::Sender<T>) -> ClientCall) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        match self.inbox.clients.try_send(call(reply)) {
            Ok(()) => answer.await.map_err(|_| self.stopped()),
            Err(mpsc::error::TrySendError::Full(_)) => Err(Error::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(self.stopped()),
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&mut dyn crate::store::Read) -> Result<T, crate::store::Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.reads.run(query).await.unwrap_or_else(|| Err(self.stopped()))
    }

    fn stopped(&self) -> Error {
        Error::Stopped(self.stopped.borrow().clone().unwrap_or_else(|| "the informer is stopping".to_owned()))
    }
}

/// The machine answers each ticket with the reply of its kind; anything else is our bug, and the caller learns it.
fn unexpected(reply: Reply) -> Error {
    Error::Stopped(format!("the machine answered a request with {reply:?}"))
}
