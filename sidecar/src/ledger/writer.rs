//! The thread that owns the database, so that an fsync never holds up a beat.

use super::{Error, Ledger};
use crate::machine::Batch;
use proto::id::{AttemptId, Fence};
use proto::v1;
use rustix::time::{ClockId, clock_gettime};
use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

/// One transaction.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Commit {
    /// Its number, for the answer.
    pub seq: u64,
    /// What the machine changed.
    pub batch: Batch,
    /// Encoded assignments of rows that are new in this batch.
    pub assigns: Vec<(AttemptId, Vec<u8>)>,
    /// The highest informer identity seen so far.
    pub seen: v1::Identity,
    /// The highest fence seen so far.
    pub highest_fence: Fence,
}

/// Between two tries to set the reserve aside again; an old log is given up for each that fails.
const RESTORE: Duration = Duration::from_secs(1);

/// What the thread tells.
#[derive(Debug)]
pub enum News {
    /// A batch is on the disk, or will never be; and how long that took.
    Committed(Result<u64, Error>, Duration),
    /// Whether the disk has room; repeated for as long as it has none.
    Room(bool),
}

/// The thread. Dropping it lets what was handed over be committed, and waits for that.
#[derive(Debug)]
pub struct Writer {
    commits: Option<mpsc::SyncSender<Commit>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread. `tell` is called in it after each commit, with its number, and when the disk fills or empties; after an error
    /// nothing is committed any more, because whether the failed batch is durable is unknown.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(mut ledger: Ledger, tell: impl Fn(News) + Send + 'static) -> io::Result<Self> {
        // One commit is under way at a time, so the channel never makes its sender wait.
        let (commits, queue) = mpsc::sync_channel::<Commit>(1);
        let work = move || {
            let mut told = true;
            loop {
                if !ledger.has_room() {
                    ledger.restore();
                }
                let room = ledger.has_room();
                if !room || !told {
                    tell(News::Room(room));
                }
                match (told, room) {
                    (true, false) => tracing::warn!("the disk is full; taking no tasks until it has room"),
                    (false, true) => tracing::info!("the disk has room again"),
                    _ => {}
                }
                told = room;
                let next = if room {
                    queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
                } else {
                    queue.recv_timeout(RESTORE)
                };
                let commit = match next {
                    Ok(commit) => commit,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return,
                };
                let begun = monotonic();
                let result = ledger.commit(&commit).map(|()| commit.seq);
                let failed = result.is_err();
                tell(News::Committed(result, monotonic().saturating_sub(begun)));
                if failed {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("ledger".into()).spawn(work)?;
        Ok(Self { commits: Some(commits), thread: Some(thread) })
    }

    /// Hands one transaction over. Its answer comes through `tell`; if the thread has ended, the error it told is the answer.
    pub fn commit(&self, commit: Commit) {
        if let Some(commits) = &self.commits {
            // A failed send means that the thread has ended, which it has told.
            let _ended = commits.send(commit);
        }
    }
}

/// A clock for differences.
fn monotonic() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    // Neither is negative on a machine that runs.
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.commits = None;
        if let Some(thread) = self.thread.take() {
            // A panic in it was printed by the thread itself; the agent is ending anyway.
            let _panicked = thread.join();
        }
    }
}
