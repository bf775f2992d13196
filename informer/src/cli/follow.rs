//! Following a task's log, attempt by attempt, over restarts of informer and sidecars.
//!
//! ```text
//!  books: is there an attempt after the last one? ──yes──▶ Logs(attempt, offsets, follow) ──chunks──▶ screen
//!    ▲  │ no, and the task ended: done                        │ end of this attempt
//!    └──┼─────────────────────────────────────────────────────┤
//!       │                                                     │ broken: pause, ask again from the offsets reached
//! ```
//!
//! The attempt is always named in the request, never "the latest": after a restart the latest may be another one, and the offsets
//! reached would be applied to the wrong log.

use std::{future::Future, time::Duration};

use proto::v1::{AttemptState, LogStream, LogsChunk, LogsRequest};
use tokio::{sync::Mutex, time::Instant};
use tonic::Status;

use super::{books::Books, client::Client, error, error::Error, screen::Screen, words};

/// How long the log of an attempt that is over may be silent before it is given up: its sidecar is gone, or it never began. A
/// live sidecar has sent the end of its log long before.
const SILENCE: Duration = Duration::from_secs(10);

/// How far one attempt's log has been shown.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reached {
    out: u64,
    err: u64,
}

impl Reached {
    /// The new part of a chunk: how many of its bytes were shown before, and how many are missing in front of it.
    fn advance(&mut self, chunk: &LogsChunk) -> (usize, u64) {
        let reached = if chunk.stream() == LogStream::Err { &mut self.err } else { &mut self.out };
        let missing = chunk.offset.saturating_sub(*reached);
        let known = usize::try_from(reached.saturating_sub(chunk.offset)).unwrap_or(usize::MAX).min(chunk.data.len());
        let end = chunk.offset.saturating_add(chunk.data.len() as u64);
        *reached = end.max(*reached);
        (known, missing)
    }
}

/// Whether a log was shown to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// Every byte that there is.
    Whole,
    /// The rest of it, or all of it, is not to be had; that is told.
    Cut,
}

/// How one answer to a `Logs` request ended.
enum End {
    /// Every byte of the attempt was shown.
    Whole,
    /// The attempt is over and nothing came for [`SILENCE`].
    Silent,
    /// The answer broke off.
    Broken(Status),
}

/// A reader of one task's log.
pub(crate) struct Follower<'a> {
    pub(crate) client: &'a Client,
    pub(crate) id: &'a str,
    pub(crate) only: LogStream,
    pub(crate) books: Books,
    pub(crate) screen: &'a Mutex<Screen>,
}

impl Follower<'_> {
    /// Shows the logs of the attempts from `first` on, until the task has ended and its last log is shown. What is answered is about
    /// that last one: whoever replaced a lost attempt has told all over again.
    ///
    /// # Errors
    /// Our own output failed, or the informer stayed away for longer than our patience.
    pub(crate) async fn follow(&mut self, first: u32) -> Result<Shown, Error> {
        let (mut after, mut shown) = (first.saturating_sub(1), Shown::Whole);
        while let Some(number) = self.next_attempt(after).await {
            shown = self.attempt(number).await?;
            after = number;
        }
        Ok(shown)
    }

    /// Waits for the first attempt after this one; `None` when the task ended without another.
    async fn next_attempt(&mut self, after: u32) -> Option<u32> {
        let books = self.books.wait_for(|task| {
            words::is_terminal(task.state()) || task.attempts.iter().any(|attempt| attempt.number > after)
        });
        // An error means that nobody keeps the books any more: what they say is final.
        let task = books.await.ok()?;
        task.attempts.iter().map(|attempt| attempt.number).filter(|number| *number > after).min()
    }

    /// Shows one attempt's log, as far as it is to be had.
    ///
    /// # Errors
    /// As [`Follower::follow`].
    pub(crate) async fn attempt(&mut self, number: u32) -> Result<Shown, Error> {
        let mut reached = Reached::default();
        let mut patience = self.client.patience();
        let mut refused: Option<Instant> = None;
        loop {
            let before = reached;
            let status = match self.read(number, true, &mut reached).await? {
                End::Whole => return Ok(Shown::Whole),
                End::Silent => return Ok(self.out_of_reach(number).await),
                End::Broken(status) => status,
            };
            if reached != before {
                patience.restore();
            }
            if error::is_log_gone(&status) {
                // The answer may be ahead of the books, which say why there is no log.
                self.books_close(number).await;
            }
            let over = self.is_over(number);
            if !error::is_passing(&status) {
                if over {
                    return Ok(self.not_available(number, &status).await);
                }
                return Err(self.client.failed(&format!("read the log of task {}", self.id), &status));
            }
            if !error::is_transport(&status) {
                if over && refused.get_or_insert_with(Instant::now).elapsed() >= SILENCE {
                    return Ok(self.out_of_reach(number).await);
                }
                // The informer is there, its sidecar is not: the attempt may come back, and we wait with it.
                if patience.is_over() {
                    patience.restore();
                }
            }
            patience.pause(&status).await?;
        }
    }

    /// Waits until the books say that the attempt is over; not longer than [`SILENCE`].
    async fn books_close(&mut self, number: u32) {
        let closed = self.books.wait_for(|task| is_over(task, number));
        drop(tokio::time::timeout(SILENCE, closed).await);
    }

    async fn out_of_reach(&self, number: u32) -> Shown {
        let line = format!(
            "the log of attempt {number} is not to be had, or not all of it: its sidecar is out of reach, and no copy is stored; \
             `informer logs {} --attempt {number}` asks again",
            self.id
        );
        self.screen.lock().await.line(&line);
        Shown::Cut
    }

    /// The informer says that there is no such log, and why. If the attempt never ran, then none is missing.
    async fn not_available(&self, number: u32, status: &Status) -> Shown {
        let line = format!("the log of attempt {number} is not available: {}", error::one_line(status.message()));
        let screen = self.screen.lock().await;
        if has_run(&self.books.borrow(), number) {
            screen.line(&line);
            return Shown::Cut;
        }
        screen.note(&line);
        Shown::Whole
    }

    /// Shows what one request brings.
    pub(crate) async fn once(&mut self, number: u32) -> Result<Shown, Error> {
        match self.read(number, false, &mut Reached::default()).await? {
            End::Whole => Ok(Shown::Whole),
            End::Silent => Ok(self.out_of_reach(number).await),
            End::Broken(status) => Err(self.client.failed(&format!("read the log of task {}", self.id), &status)),
        }
    }

    async fn read(&self, number: u32, follow: bool, reached: &mut Reached) -> Result<End, Error> {
        let request = LogsRequest {
            id: self.id.to_owned(),
            attempt: number,
            follow,
            out_offset: reached.out,
            err_offset: reached.err,
            only: self.only.into(),
        };
        let mut grpc = self.client.grpc();
        let mut chunks = match self.unless_silent(number, grpc.logs(request)).await {
            None => return Ok(End::Silent),
            Some(Err(status)) => return Ok(End::Broken(status)),
            Some(Ok(answer)) => answer.into_inner(),
        };
        loop {
            let chunk = match self.unless_silent(number, chunks.message()).await {
                None => return Ok(End::Silent),
                Some(Err(status)) => return Ok(End::Broken(status)),
                // Without following, the answer's end is the log's end.
                Some(Ok(None)) if !follow => return Ok(End::Whole),
                Some(Ok(None)) => return Ok(End::Broken(Status::unavailable("the informer ended its answer"))),
                Some(Ok(Some(chunk))) => chunk,
            };
            // An informer that went on to the next attempt has told this one whole.
            if chunk.attempt > number {
                return Ok(End::Whole);
            }
            self.show(&chunk, reached).await?;
            if chunk.end {
                return Ok(End::Whole);
            }
        }
    }

    async fn show(&self, chunk: &LogsChunk, reached: &mut Reached) -> Result<(), Error> {
        let (known, missing) = reached.advance(chunk);
        let mut screen = self.screen.lock().await;
        if missing > 0 && !chunk.data.is_empty() {
            screen.note(&format!("{missing} bytes of the log of attempt {} were dropped here", chunk.attempt));
        }
        let fresh = &chunk.data[known..];
        if !fresh.is_empty() {
            screen.log(chunk, chunk.offset.saturating_add(known as u64), fresh).await?;
        }
        if chunk.truncated {
            // Bytes are missing from what was shown: nobody may take it for whole.
            screen.line(&format!("the log of attempt {} was truncated at its cap; --log-cap raises it", chunk.attempt));
        }
        Ok(())
    }

    fn is_over(&self, number: u32) -> bool {
        is_over(&self.books.borrow(), number)
    }

    /// Waits for `work`; `None` once the attempt is over and `work` took [`SILENCE`] more.
    async fn unless_silent<F: Future>(&self, number: u32, work: F) -> Option<F::Output> {
        let mut books = self.books.clone();
        let silence = async {
            // Without a keeper the books stay as they are; then the attempt's own end is all there is to wait for.
            if books.wait_for(|task| is_over(task, number)).await.is_err() && !is_over(&books.borrow(), number) {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(SILENCE).await;
        };
        tokio::select! {
            biased;
            done = work => Some(done),
            () = silence => None,
        }
    }
}

/// The books say that this attempt has ended, or do not know it any more.
fn is_over(task: &proto::v1::Task, number: u32) -> bool {
    let attempt = task.attempts.iter().find(|attempt| attempt.number == number);
    attempt.map_or(words::is_terminal(task.state()), |attempt| words::is_over(attempt.state()))
}

/// Its process existed, or nobody can say that it did not.
fn has_run(task: &proto::v1::Task, number: u32) -> bool {
    let attempt = task.attempts.iter().find(|attempt| attempt.number == number);
    attempt.is_some_and(|attempt| {
        let lost = matches!(attempt.state(), AttemptState::PresumedLost | AttemptState::Lost);
        lost || attempt.started_unix_ms > 0
    })
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
