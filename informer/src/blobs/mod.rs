//! Logs kept at the informer, so that they can be read when the box they were written on is gone.
//!
//! ```text
//!  edge/logs/store ── begin, write, finish ──▶ Writer ── flush: on the disk ──▶ answers
//!  edge/logs/kept  ── open, read ──▶ Log        (frames of 1 MiB, each compressed for itself)
//!  retention       ── remove ──▶ Blobs
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `dir` | the directory: where which log is, and how one is removed |
//! | `writer` | logs on their way to the disk |
//! | `reader` | one kept log, read from any offset |
//! | `copy` | all of them into a backup |
//! | `sweep` | whose logs there are: some may be of tasks that are gone |
//! | `format` | the bytes of a file |
//!
//! Everything here blocks; the edge calls it on threads for that.

mod copy;
mod dir;
mod format;
mod reader;
mod sweep;
#[cfg(test)]
mod tests;
mod writer;

pub use copy::{Copied, copy};
pub use dir::Dir;

use bytes::Bytes;
use proto::id::{AttemptId, TaskId};
use proto::v1::LogStream;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a log cannot be kept, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The directory cannot be used.
    #[error("cannot keep the logs of tasks in {}: {source}; make it a directory that the informer's user may write, or move it away: it is made anew, and the logs in it are no longer shown", path.display())]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The flush that it shared with others failed.
    #[error("{0}")]
    Shared(Arc<Error>),
    /// A kept file is not what was written.
    #[error("the kept log {} is damaged ({what}); remove the file if the log is not needed", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// A stream exceeds what any task may write.
    #[error("a stream of it exceeds {limit} bytes, which is the most that a task may write")]
    TooLong {
        /// The bound.
        limit: u64,
    },
    /// Parts came in another order than stdout, stderr, end.
    #[error("its parts came out of order")]
    Order,
}

/// What is known of one stream beside its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    /// Bytes before the first one kept.
    pub dropped: u64,
    /// Bytes after the last one kept were dropped.
    pub truncated: bool,
}

/// Where logs are kept.
pub trait Blobs: Send + Sync {
    /// For one connection's worth of logs, one after the other.
    ///
    /// # Errors
    /// There is no room for another one in this process.
    fn writer(&self) -> Result<Box<dyn Writer>, Error>;

    /// A kept log; `None` if there is none.
    ///
    /// # Errors
    /// It is there and cannot be read.
    fn open(&self, attempt: AttemptId) -> Result<Option<Box<dyn Log>>, Error>;

    /// Forgets the logs of all attempts of these tasks; of an array those of its members, too. What is not there is not missed. Many at
    /// once are cheaper than each for itself.
    ///
    /// # Errors
    /// Something could not be removed; the rest is.
    fn remove(&self, tasks: &[TaskId]) -> Result<(), Error>;

    /// Forgets one attempt's log.
    ///
    /// # Errors
    /// It is there and could not be removed.
    fn remove_attempt(&self, attempt: AttemptId) -> Result<(), Error>;
}

/// Writes logs. Dropped, it forgets what it was not told to flush.
pub trait Writer: Send {
    /// Begins a log; one that was begun and not finished is forgotten.
    ///
    /// # Errors
    /// There is no room.
    fn begin(&mut self, attempt: AttemptId) -> Result<(), Error>;

    /// Appends to the log that was begun: all of stdout, then all of stderr.
    ///
    /// # Errors
    /// There is no room, or it exceeds its bound; the log is then forgotten.
    fn write(&mut self, stream: LogStream, data: &[u8]) -> Result<(), Error>;

    /// The log is complete: facts about stdout and stderr.
    ///
    /// # Errors
    /// As of [`Writer::write`].
    fn finish(&mut self, facts: [Facts; 2]) -> Result<(), Error>;

    /// Forgets the log that was begun.
    fn abandon(&mut self);

    /// Logs that are finished and not on the disk.
    fn finished(&self) -> usize;

    /// Puts what was finished on the disk: an `Ok` survives everything that the disk survives.
    fn flush(&mut self) -> Vec<(AttemptId, Result<(), Error>)>;
}

/// One kept log.
pub trait Log: Send {
    /// Facts about a stream, and its length: the offset after its last byte.
    fn facts(&self, stream: LogStream) -> (Facts, u64);

    /// Bytes of a stream from this offset, or from the first one kept, and the offset of the first of them; `None` at the end.
    ///
    /// # Errors
    /// They cannot be read, or are not what was written.
    fn read(&mut self, stream: LogStream, offset: u64) -> Result<Option<(u64, Bytes)>, Error>;
}
