//! The thread that owns the database, so that an fsync never holds up a beat.

use super::{Error, Ledger};
use crate::machine::Batch;
use proto::id::{AttemptId, Fence};
use proto::v1;
use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;

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

/// The thread. Dropping it lets what was handed over be committed, and waits for that.
#[derive(Debug)]
pub struct Writer {
    commits: Option<mpsc::SyncSender<Commit>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread. `done` is called in it after each commit, with its number; after an error nothing is committed any more,
    /// because whether the failed batch is durable is unknown.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(mut ledger: Ledger, done: impl Fn(Result<u64, Error>) + Send + 'static) -> io::Result<Self> {
        // One commit is under way at a time, so the channel never makes its sender wait.
        let (commits, queue) = mpsc::sync_channel::<Commit>(1);
        let work = move || {
            for commit in queue {
                let result = ledger.commit(&commit).map(|()| commit.seq);
                let failed = result.is_err();
                done(result);
                if failed {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("ledger".into()).spawn(work)?;
        Ok(Self { commits: Some(commits), thread: Some(thread) })
    }

    /// Hands one transaction over. Its answer comes through `done`; if the thread has ended, the error it told is the answer.
    pub fn commit(&self, commit: Commit) {
        if let Some(commits) = &self.commits {
            // A failed send means that the thread has ended, which it has told.
            let _ended = commits.send(commit);
        }
    }
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
