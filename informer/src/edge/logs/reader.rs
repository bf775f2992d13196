//! One client's reading of one task's log: through reconnects of the sidecar and into the attempts that follow.

use super::Ticket;
use super::choice::{Choice, Position, choose, is_over};
use crate::edge::error::Error;
use crate::edge::{Edge, convert};
use crate::machine::SessionId;
use crate::shell;
use proto::id::{AttemptId, SidecarId, TaskId};
use proto::store::{AttemptRow, TaskRow};
use proto::v1::{self, LogStream};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

/// Time a sidecar has to begin its upload: a second connection and a file, even on a loaded box.
const START_TIME: Duration = Duration::from_secs(10);
/// Pause before a request that brought nothing is made again, unless something happens earlier.
const AGAIN_TIME: Duration = Duration::from_secs(1);
/// Requests in a row that bring nothing, until a reader who does not wait for a running task is told so.
const FRUITLESS: u32 = 3;
/// Pause while the shell's inbox is full, and how often: five seconds of overload are told to the client.
const BUSY_PAUSE: Duration = Duration::from_millis(100);
const BUSY_TRIES: u32 = 50;

pub(super) struct Reader {
    pub(super) edge: Edge,
    pub(super) task: TaskId,
    position: Position,
    pub(super) only: LogStream,
    /// Bytes of stdout and stderr that the client has of the current attempt.
    pub(super) at: Offsets,
    out: mpsc::Sender<v1::LogsChunk>,
    changes: broadcast::Receiver<Arc<TaskRow>>,
    opened: broadcast::Receiver<SidecarId>,
    /// Version of the row that was looked at last.
    seen: u64,
    fruitless: u32,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Offsets {
    out: u64,
    err: u64,
}

impl Offsets {
    pub(super) fn of(&mut self, stream: LogStream) -> &mut u64 {
        if stream == LogStream::Err { &mut self.err } else { &mut self.out }
    }
}

/// How a request to a sidecar ended.
enum Outcome {
    /// The upload said that nothing follows.
    Complete,
    /// It broke off, or something happened that makes another request better.
    Again,
    /// The sidecar has no such log (any more), in its words.
    Gone(String),
}

impl Reader {
    pub(super) fn new(
        edge: Edge,
        task: TaskId,
        request: &v1::LogsRequest,
        only: LogStream,
        out: mpsc::Sender<v1::LogsChunk>,
    ) -> Self {
        Self {
            task,
            position: Position { asked: request.attempt, follow: request.follow, ..Position::default() },
            only,
            at: Offsets { out: request.out_offset, err: request.err_offset },
            out,
            // Subscribed before the first look, so that nothing is missed between a look and a wait.
            changes: edge.handle.changes(),
            opened: edge.logs.opened.subscribe(),
            seen: 0,
            fruitless: 0,
            edge,
        }
    }

    pub(super) async fn run(mut self) -> Result<(), Error> {
        loop {
            let row = self.edge.handle.get(self.task).await?.ok_or(Error::UnknownTask(self.task))?;
            self.seen = row.version;
            match choose(&row, self.position) {
                Choice::Read(attempt) => self.attend(&row, &attempt).await?,
                Choice::Wait => self.something(None).await?,
                Choice::End => return Ok(()),
                Choice::NotStarted => return Err(self.not_started()),
                Choice::Gone(why) => return Err(Error::LogGone(format!("task {}: {why}", self.task))),
            }
        }
    }

    /// Reads an attempt's log as far as one request goes.
    async fn attend(&mut self, row: &TaskRow, attempt: &AttemptRow) -> Result<(), Error> {
        if attempt.number != self.position.current {
            if self.position.current > 0 {
                self.at = Offsets::default();
            }
            self.fruitless = 0;
            self.position = Position { current: attempt.number, is_sent: false, ..self.position };
        }
        let sidecar = attempt.sidecar.parse::<SidecarId>().ok();
        let may_wait = self.position.follow && !convert::is_terminal(row);
        let Some(session) = self.session_of(&attempt.sidecar).await? else {
            return match self.read_kept(attempt).await? {
                true => Ok(()),
                false if may_wait => self.something(sidecar).await,
                false => Err(self.unlinked(attempt)),
            };
        };
        let before = self.at;
        match self.request(session, attempt, sidecar).await? {
            Outcome::Complete => self.complete(attempt).await,
            Outcome::Gone(why) => {
                let text = format!("attempt {} of task {}: {why}", attempt.number, self.task);
                if self.read_kept(attempt).await? { Ok(()) } else { Err(Error::LogGone(text)) }
            }
            Outcome::Again => {
                let brought = (before.out, before.err) != (self.at.out, self.at.err);
                self.fruitless = if brought { 0 } else { self.fruitless + 1 };
                if self.fruitless > FRUITLESS && !may_wait {
                    return if self.read_kept(attempt).await? { Ok(()) } else { Err(self.unlinked(attempt)) };
                }
                if self.fruitless > 0 {
                    tokio::select! {
                        happened = self.something(sidecar) => happened?,
                        () = sleep(AGAIN_TIME) => {}
                    }
                }
                Ok(())
            }
        }
    }

    async fn request(
        &mut self,
        session: SessionId,
        attempt: &AttemptRow,
        sidecar: Option<SidecarId>,
    ) -> Result<Outcome, Error> {
        let mut ticket = self.edge.logs.register(session);
        if !self.ask(&ticket, attempt).await? {
            return Ok(Outcome::Again);
        }
        let deadline = Instant::now() + START_TIME;
        let mut has_begun = false;
        loop {
            let piece = tokio::select! {
                piece = ticket.pieces.recv() => piece,
                happened = self.something(sidecar) => {
                    happened?;
                    if self.is_outdated(session, attempt).await? {
                        return Ok(Outcome::Again);
                    }
                    continue;
                }
                () = sleep_until(deadline), if !has_begun => return Ok(Outcome::Again),
            };
            let Some(piece) = piece else {
                // It broke off; there is nothing left to cancel.
                ticket.is_over = true;
                return Ok(Outcome::Again);
            };
            has_begun = true;
            ticket.is_over = piece.end || !piece.failure.is_empty();
            if !piece.failure.is_empty() {
                return Ok(Outcome::Gone(piece.failure));
            }
            let is_last = piece.end;
            self.pass(piece).await?;
            if is_last {
                return Ok(Outcome::Complete);
            }
        }
    }

    /// Sends the request down the link; false if the link has ended.
    async fn ask(&self, ticket: &Ticket, attempt: &AttemptRow) -> Result<bool, Error> {
        let id = AttemptId { task: self.task, number: attempt.number };
        let request = v1::LogRequest {
            request: ticket.request,
            attempt: Some(id.to_wire()),
            out_offset: self.at.out,
            err_offset: self.at.err,
            follow: self.position.follow,
            only: self.only.into(),
            cancel: false,
        };
        let message = v1::InformerMessage { message: Some(v1::informer_message::Message::Log(request)) };
        match patiently(|| self.edge.handle.send(ticket.session, message.clone())).await {
            Ok(()) => Ok(true),
            Err(shell::Error::NoLink) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn session_of(&self, sidecar: &str) -> Result<Option<SessionId>, Error> {
        Ok(patiently(|| self.edge.handle.session_of(sidecar.to_owned())).await?)
    }

    /// Whether another request would be better: the sidecar has a new link, or another attempt is to be read.
    async fn is_outdated(&mut self, session: SessionId, attempt: &AttemptRow) -> Result<bool, Error> {
        let row = self.edge.handle.get(self.task).await?.ok_or(Error::UnknownTask(self.task))?;
        self.seen = row.version;
        if !matches!(choose(&row, self.position), Choice::Read(next) if next.number == attempt.number) {
            return Ok(true);
        }
        // While it is not linked the upload may well go on: it has a connection of its own.
        Ok(self.session_of(&attempt.sidecar).await?.is_some_and(|now| now != session))
    }

    /// Passes a piece on: each byte once and at its offset, whatever was asked twice. A jump forward stays a jump.
    pub(super) async fn pass(&mut self, piece: v1::LogUpload) -> Result<(), Error> {
        let stream = piece.stream();
        if stream == LogStream::Unspecified || (self.only != LogStream::Unspecified && self.only != stream) {
            return Ok(());
        }
        let at = self.at.of(stream);
        let end = piece.offset.saturating_add(piece.data.len() as u64);
        let mut data = piece.data;
        let mut offset = piece.offset;
        if end <= *at {
            if !piece.truncated {
                return Ok(());
            }
            data.clear();
            offset = *at;
        } else if offset < *at {
            // At most a chunk, as `end` lies beyond.
            let known = usize::try_from(*at - offset).unwrap_or(data.len());
            data = data.split_off(known.min(data.len()));
            offset = *at;
        }
        *at = end.max(*at);
        let chunk = v1::LogsChunk {
            attempt: self.position.current,
            stream: stream.into(),
            offset,
            data,
            truncated: piece.truncated,
            end: false,
        };
        self.send(chunk).await
    }

    /// The upload is complete: of an attempt that ended (which a followed one has) nothing follows.
    pub(super) async fn complete(&mut self, attempt: &AttemptRow) -> Result<(), Error> {
        self.position.is_sent = true;
        if !self.position.follow && !is_over(attempt) {
            return Ok(());
        }
        self.send(v1::LogsChunk { attempt: attempt.number, end: true, ..Default::default() }).await
    }

    /// Waits until the task's row is another, or the sidecar opened a link.
    async fn something(&mut self, sidecar: Option<SidecarId>) -> Result<(), Error> {
        loop {
            tokio::select! {
                changed = self.changes.recv() => match changed {
                    Ok(row) if convert::task_id(&row) == self.task && row.version > self.seen => return Ok(()),
                    // A member without a row, which is version 0, is told by its array's.
                    Ok(row) if self.seen == 0 && self.task.array() == Some(convert::task_id(&row)) => return Ok(()),
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => return Ok(()),
                    Err(RecvError::Closed) => return Err(Error::Stopping),
                },
                opened = self.opened.recv() => match opened {
                    Ok(opened) if Some(opened) == sidecar => return Ok(()),
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => return Ok(()),
                    Err(RecvError::Closed) => return Err(Error::Stopping),
                },
            }
        }
    }

    /// A reader that left ends this task from outside, by dropping its stream.
    async fn send(&self, chunk: v1::LogsChunk) -> Result<(), Error> {
        self.out.send(chunk).await.map_err(|_| Error::Stopping)
    }

    fn not_started(&self) -> Error {
        let id = self.task;
        Error::NotStarted(format!(
            "task {id} has not started, so there is no log yet; follow it, or see `informer why {id}`"
        ))
    }

    fn unlinked(&self, attempt: &AttemptRow) -> Error {
        let (number, sidecar) = (attempt.number, &attempt.sidecar);
        Error::Unlinked(format!(
            "the log of attempt {number} is on sidecar {sidecar}, which is not linked, and was not stored here; read it when `informer sidecars` lists it again"
        ))
    }
}

/// Repeats a call to the shell while its inbox is full, within bounds.
async fn patiently<T, F>(mut call: impl FnMut() -> F) -> Result<T, shell::Error>
where
    F: Future<Output = Result<T, shell::Error>>,
{
    for _ in 1..BUSY_TRIES {
        match call().await {
            Err(shell::Error::Busy) => sleep(BUSY_PAUSE).await,
            answer => return answer,
        }
    }
    call().await
}
