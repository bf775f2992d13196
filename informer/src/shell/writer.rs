//! The thread that commits. It owns the store, has at most one commit to do, and is the only one that waits for the disk.

use super::error::Error;
use super::published::Published;
use crate::failpoint;
use crate::store::{self, Commit, Store};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;
use tokio::sync::mpsc;

/// What became of a commit.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) commit: Commit,
    pub(super) outcome: Result<(), store::Error>,
}

/// The loop's end of it.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: SyncSender<(u64, Commit)>,
    done: mpsc::Receiver<Done>,
    thread: JoinHandle<()>,
}

impl Writer {
    pub(super) fn start(mut store: Box<dyn Store>, published: Arc<Published>) -> Result<Self, Error> {
        // One under way and none waiting: the loop hands out the next only after the answer.
        let (jobs, todo) = sync_channel::<(u64, Commit)>(1);
        let (answers, done) = mpsc::channel(1);
        let work = move || {
            while let Ok((epoch, commit)) = todo.recv() {
                failpoint::hit("before-commit");
                let begun = Instant::now();
                let outcome = store.commit(epoch, &commit);
                if outcome.is_ok() {
                    published.counters.on_committed(&commit, begun.elapsed());
                }
                failpoint::hit("after-commit");
                if answers.blocking_send(Done { commit, outcome }).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new()
            .name("writer".to_owned())
            .spawn(work)
            .map_err(|why| Error::Thread { name: "writer", why: why.to_string() })?;
        Ok(Self { jobs, done, thread })
    }

    /// Hands over a commit; the answer comes from [`Writer::done`]. Never blocks: nothing else is under way.
    pub(super) fn commit(&self, epoch: u64, commit: Commit) {
        // If the thread is gone, `done` says so.
        let _ = self.jobs.try_send((epoch, commit));
    }

    /// The answer to the commit under way; waits for ever if there is none. `None` if the thread has panicked. Dropping the future
    /// loses nothing.
    pub(super) async fn done(&mut self) -> Option<Done> {
        self.done.recv().await
    }

    /// Ends the thread after its commit, and with it closes the store.
    pub(super) fn join(self) {
        drop((self.jobs, self.done));
        // It has told of its panic through `done`.
        let _ = self.thread.join();
    }
}
