//! The thread for work on files that may be large: publishing, discarding, removing. One after the other, so that an attempt is never
//! retired while its outputs are being put in place.

use super::assignments::Assignments;
use super::shell::Input;
use super::{Dirs, failpoint, types};
use crate::exec;
use crate::machine::Event;
use proto::id::AttemptId;
use proto::v1;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc;
use tokio::sync::mpsc as inbox;

/// One thing to do. Each can be repeated: what a dying agent leaves undone, the next one does again.
#[derive(Debug)]
pub(super) enum Job {
    /// Put the outputs in place; answered by `OutputsPublished`.
    Publish(AttemptId),
    /// Free the working directory, and remove staged outputs that did not win.
    Retire(AttemptId, bool),
    /// Remove the directory; answered by `Purged`.
    Purge(AttemptId),
    /// Remove the directory of a health probe.
    PurgeProbe(String),
    /// Keep the registered executors for the next agent.
    KeepExecutors(v1::Executors),
}

/// The queue to the thread. An attempt has at most one job of a kind, so the bound on held attempts is the bound on it.
pub(super) type Jobs = mpsc::Sender<Job>;

/// Starts the thread; it ends when the queue's last sender is dropped.
pub(super) fn start(dirs: Dirs, assignments: Assignments, inbox: inbox::Sender<Input>) -> io::Result<Jobs> {
    let (jobs, queue) = mpsc::channel();
    let work = move || {
        for job in queue {
            let answer = run(&dirs, &assignments, job);
            if let Some(event) = answer
                && inbox.blocking_send(Input::Event(event)).is_err()
            {
                return;
            }
        }
    };
    std::thread::Builder::new().name("files".into()).spawn(work)?;
    Ok(jobs)
}

fn run(dirs: &Dirs, assignments: &Assignments, job: Job) -> Option<Event> {
    match job {
        Job::Publish(attempt) => {
            let dir = dirs.attempt(attempt);
            let result = assignments.with_spec(attempt, |spec| exec::publish(&dir, spec, attempt));
            Some(Event::OutputsPublished { attempt, failure: result.err() })
        }
        Job::Retire(attempt, discard) => {
            failpoint::reach("before-retire");
            if discard && let Err(error) = assignments.with_spec(attempt, |spec| exec::discard(spec, attempt)) {
                tracing::warn!(%attempt, error, "cannot discard the staged output");
            }
            let dir = dirs.attempt(attempt);
            remove(dir.join("work"));
            // The note of a record does not tell of inputs; but what has a record was started, and nothing of it lies with the prepared.
            let prepared = |assign: &v1::Assign| assign.spec.as_ref().is_none_or(exec::inputs::needs_preparation);
            if assignments.get(attempt).is_none_or(|assign| prepared(&assign)) {
                remove(dir.join(exec::outputs::DIR));
                remove(dir.join(exec::container::BUNDLE));
                // Prepared, and never started.
                remove(dirs.data.join(keeper::record::PREPARED).join(attempt.dir_name()));
            }
            assignments.remove(attempt);
            None
        }
        Job::Purge(attempt) => {
            failpoint::reach("before-purge");
            purge(dirs, &attempt.dir_name());
            failpoint::reach("after-purge");
            Some(Event::Purged { attempt })
        }
        Job::PurgeProbe(name) => {
            purge(dirs, &name);
            None
        }
        Job::KeepExecutors(set) => {
            if let Err(error) = types::keep(&dirs.data, &set) {
                tracing::warn!(%error, "cannot keep the registered executors; the informer tells them again");
            }
            None
        }
    }
}

fn purge(dirs: &Dirs, name: &str) {
    if let Err(error) = keeper::record::purge(&dirs.data, name) {
        tracing::warn!(name, %error, "cannot remove the attempt's directory; it stays on the disk");
    }
}

fn remove(dir: PathBuf) {
    // Nearly always it is empty or not there, which one call finds out; reading a directory takes seven.
    let removed = std::fs::remove_dir(&dir).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => std::fs::remove_dir_all(&dir),
    });
    match removed {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(dir = %dir.display(), %error, "cannot remove the working directory"),
    }
}
