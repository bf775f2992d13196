//! Logs that sidecars send up to be kept.
//!
//! ```text
//!  sidecar ── LogPart… ──▶ receive ── Step… ──▶ write (a thread that may block) ──▶ blobs
//!          ◀─ LogStored ───────────────────────── flush: when nothing waits, or GROUP logs do
//! ```
//! A log is answered when it is on the disk, or as soon as it is known that it will not be; the rest of a refused one is read and
//! forgotten. A stream that breaks loses only what was not answered, and the sidecar sends that again.

use crate::blobs::{Blobs, Facts, Writer};
use crate::edge::Edge;
use crate::edge::error::Error;
use crate::edge::stream::Produced;
use crate::failpoint;
use proto::check::Fault;
use proto::id::{AttemptId, Fence, TaskId};
use proto::{bounds, v1};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tonic::Streaming;

/// Streams at once. Each holds a thread, a frame of a mebibyte and at most [`GROUP`] files: 1,024 in all, of a process that may open
/// some ten thousand. Who comes later is told so and tries again.
pub(super) const STREAMS: usize = 32;
/// Logs that share a flush. More would keep the first of them waiting for longer than the flush saves.
const GROUP: usize = 32;
/// Parts between the connection and the disk: a mebibyte at most, so that the disk is not waited for after each.
const PARTS: usize = 4;
/// Attempts below the oldest listed one that are looked for when a log of their task comes: each may have left the list since the last.
const DROPPED: u32 = bounds::ATTEMPTS_LISTED as u32;
/// How long a stream may say nothing. A sidecar keeps one open only while it has something to say.
const IDLE: Duration = Duration::from_secs(120);

/// One part, checked.
enum Step {
    /// Attempts of the task up to this number are no longer listed.
    Begin(AttemptId, u32),
    Data(v1::LogStream, bytes::Bytes),
    End([Facts; 2]),
    /// The informer will not keep it; why.
    Refuse(AttemptId, String),
}

/// Takes one stream of logs.
///
/// # Errors
/// Too many streams.
pub(crate) fn store(edge: Edge, parts: Streaming<v1::LogPart>) -> Result<Produced<v1::LogStored>, Error> {
    let room = Arc::clone(&edge.logs.uploads);
    let permit = room.try_acquire_owned().map_err(|_| Error::LogUploads { limit: STREAMS })?;
    let (out, queue) = mpsc::channel(GROUP);
    Ok(Produced::new(queue, async move {
        let _permit = permit;
        let (steps, to_write) = mpsc::channel(PARTS);
        let blobs = Arc::clone(&edge.logs.blobs);
        let answers = out.clone();
        let handle = edge.clone();
        let writing = spawn_blocking(move || write(&*blobs, to_write, &answers));
        let received = tokio::select! {
            result = receive(&handle, parts, steps, &out) => result,
            stopped = handle.stopped() => Err(stopped),
        };
        // Its queue is closed by now: it flushes what it has, answers, and ends.
        writing.await.map_err(|_| Error::Panicked)?;
        received
    }))
}

/// Checks parts and hands them on, until the sidecar has no more.
async fn receive(
    edge: &Edge,
    mut parts: Streaming<v1::LogPart>,
    steps: mpsc::Sender<Step>,
    out: &mpsc::Sender<v1::LogStored>,
) -> Result<(), Error> {
    let mut current: Option<(AttemptId, bool)> = None;
    loop {
        let next = timeout(IDLE, parts.message()).await;
        let silent = |_| Error::Silent { what: "a stream of logs goes on or ends", within_ms: IDLE.as_millis() };
        // A stream that broke is the sidecar's to open again.
        let Ok(Some(part)) = next.map_err(silent)? else { return Ok(()) };
        failpoint::hit("log-part");
        let attempt = check(&part)?;
        if current.is_none_or(|(of, _)| of != attempt) {
            let wanted = wanted(edge, attempt, part.fence).await?;
            current = Some((attempt, matches!(wanted, Wanted::Yes(_))));
            let first = match wanted {
                Wanted::Yes(dropped) => Some(Step::Begin(attempt, dropped)),
                Wanted::Forgotten => None,
                Wanted::No(why) => Some(Step::Refuse(attempt, why)),
            };
            if let Some(first) = first {
                hand_over(&steps, first).await?;
            } else {
                // Nobody can ask for it any more, so there is nothing left to do with it.
                answer(out, attempt, String::new()).await?;
            }
        }
        let is_wanted = current.is_some_and(|(_, is_wanted)| is_wanted);
        if is_wanted && !part.data.is_empty() {
            hand_over(&steps, Step::Data(part.stream(), part.data.clone())).await?;
        }
        if part.end {
            current = None;
            if is_wanted {
                hand_over(&steps, Step::End(facts(&part))).await?;
            }
        }
    }
}

async fn hand_over(steps: &mpsc::Sender<Step>, step: Step) -> Result<(), Error> {
    // The writing thread ends early only if nobody takes its answers: the stream has ended.
    steps.send(step).await.map_err(|_| Error::Stopping)
}

async fn answer(out: &mpsc::Sender<v1::LogStored>, attempt: AttemptId, failure: String) -> Result<(), Error> {
    let stored = v1::LogStored { attempt: Some(attempt.to_wire()), failure };
    out.send(stored).await.map_err(|_| Error::Stopping)
}

fn facts(part: &v1::LogPart) -> [Facts; 2] {
    [
        Facts { dropped: part.out_dropped, truncated: part.out_truncated },
        Facts { dropped: part.err_dropped, truncated: part.err_truncated },
    ]
}

/// Whose part it is, if it is one.
fn check(part: &v1::LogPart) -> Result<AttemptId, Error> {
    if part.data.len() > bounds::LOG_PART_BYTES {
        return Err(Error::Field(Fault {
            field: "part.data".to_owned(),
            problem: format!("{} bytes are too many", part.data.len()),
            remedy: format!("send at most {}", bounds::LOG_PART_BYTES),
        }));
    }
    Ok(AttemptId::from_wire(part.attempt.as_ref().unwrap_or(&v1::AttemptId::default()))?)
}

enum Wanted {
    /// Attempts of the task up to this number are no longer listed.
    Yes(u32),
    /// The task was pruned, or has left this attempt behind.
    Forgotten,
    No(String),
}

async fn wanted(edge: &Edge, attempt: AttemptId, fence: Option<v1::Fence>) -> Result<Wanted, Error> {
    let Some(row) = edge.handle.get(attempt.task).await? else { return Ok(Wanted::Forgotten) };
    if attempt.number <= row.attempts_dropped {
        return Ok(Wanted::Forgotten);
    }
    Ok(match row.attempts.iter().find(|known| known.number == attempt.number) {
        Some(known) if known.fence.map(Fence::from) == fence.map(Fence::from) => Wanted::Yes(row.attempts_dropped),
        Some(_) => Wanted::No("the attempt has another fence here".to_owned()),
        None => Wanted::No("there is no such attempt of the task here".to_owned()),
    })
}

/// Writes what comes, on a thread that may wait for the disk, until nothing more comes or nobody takes the answers.
fn write(blobs: &dyn Blobs, mut steps: mpsc::Receiver<Step>, out: &mpsc::Sender<v1::LogStored>) {
    let mut writing = match blobs.writer() {
        Ok(writer) => Writing { blobs, writer, current: None, out },
        Err(error) => {
            tracing::error!(%error, "no logs can be kept");
            return;
        }
    };
    loop {
        let next = match steps.try_recv() {
            Ok(step) => Some(step),
            Err(_) => {
                if writing.flush().is_err() {
                    return;
                }
                steps.blocking_recv()
            }
        };
        let Some(step) = next else { return };
        if writing.take(step).is_err() {
            return;
        }
    }
}

/// One stream's writer and what it is at.
struct Writing<'a> {
    blobs: &'a dyn Blobs,
    writer: Box<dyn Writer>,
    /// The log being written; none after it was refused.
    current: Option<AttemptId>,
    out: &'a mpsc::Sender<v1::LogStored>,
}

/// The sidecar has left.
struct Left;

impl Writing<'_> {
    fn take(&mut self, step: Step) -> Result<(), Left> {
        let (attempt, done) = match step {
            Step::Refuse(attempt, why) => return self.answer(attempt, why),
            Step::Begin(attempt, dropped) => {
                self.current = Some(attempt);
                self.forget_dropped(attempt.task, dropped);
                (attempt, self.writer.begin(attempt))
            }
            Step::Data(stream, data) => match self.current {
                Some(attempt) => (attempt, self.writer.write(stream, &data)),
                None => return Ok(()),
            },
            Step::End(facts) => match self.current.take() {
                Some(attempt) => (attempt, self.writer.finish(facts)),
                None => return Ok(()),
            },
        };
        if let Err(error) = done {
            self.current = None;
            return self.refuse(attempt, &error);
        }
        if self.writer.finished() >= GROUP { self.flush() } else { Ok(()) }
    }

    /// A task that runs for years must not keep the logs of attempts that nobody can ask for.
    fn forget_dropped(&self, task: TaskId, dropped: u32) {
        let first = dropped.saturating_sub(DROPPED) + 1;
        for number in first..=dropped {
            if let Err(error) = self.blobs.remove_attempt(AttemptId { task, number }) {
                tracing::warn!(%error, "a log that nobody can ask for stays on the disk");
            }
        }
    }

    fn flush(&mut self) -> Result<(), Left> {
        if self.writer.finished() == 0 {
            return Ok(());
        }
        for (attempt, result) in self.writer.flush() {
            match result {
                Ok(()) => self.answer(attempt, String::new())?,
                Err(error) => self.refuse(attempt, &error)?,
            }
        }
        Ok(())
    }

    fn refuse(&self, attempt: AttemptId, error: &crate::blobs::Error) -> Result<(), Left> {
        tracing::warn!(%attempt, %error, "a log was not kept; the sidecar sends it again");
        self.answer(attempt, error.to_string())
    }

    fn answer(&self, attempt: AttemptId, failure: String) -> Result<(), Left> {
        let stored = v1::LogStored { attempt: Some(attempt.to_wire()), failure };
        self.out.blocking_send(stored).map_err(|_| Left)
    }
}
