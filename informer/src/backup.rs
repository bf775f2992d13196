//! A backup: a data directory of its own, of one moment, with which an informer starts as *restored*.
//!
//! ```text
//!   DEST.part/informer.db   a snapshot, read through and flushed      first: what it names may have gone from the logs since
//!   DEST.part/logs/         the kept logs                             and never the other way round
//!        │ flush, rename, flush
//!        ▼
//!   DEST
//! ```
//!
//! So what has the name is whole, and nothing that has it is ever written over.

use crate::blobs::{self, Copied};
use crate::store::{self, Reached, sqlite};
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something has its name.
    #[error("{} is there already, and nothing is written over; name a directory that is not", path.display())]
    Present {
        /// What is there.
        path: PathBuf,
    },
    /// It has no name of its own, like `/` or `..`.
    #[error("{} is no name for a new directory", path.display())]
    Nameless {
        /// What was given.
        path: PathBuf,
    },
    /// A directory cannot be made, flushed or renamed.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The database cannot be copied.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A log cannot be copied.
    #[error(transparent)]
    Blobs(#[from] blobs::Error),
}

/// What a backup has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backup {
    /// The last commit in it.
    pub reached: Reached,
    /// Bytes of its database.
    pub database_bytes: u64,
    /// Its logs; `None`: none were wanted.
    pub logs: Option<Copied>,
}

/// Makes the directory `dest`, a copy of the data directory `data`, whose informer may run: every task that was acknowledged before the call
/// is in it. On the disk when this returns. Blocks.
///
/// # Errors
/// Nothing stays behind.
pub fn make(data: &Path, dest: &Path, with_logs: bool) -> Result<Backup, Error> {
    let name = dest.file_name().ok_or_else(|| Error::Nameless { path: dest.to_owned() })?;
    let mut part = OsString::from(name);
    part.push(".part");
    let part = dest.with_file_name(part);
    for path in [dest, &part] {
        if path.symlink_metadata().is_ok() {
            return Err(Error::Present { path: path.to_owned() });
        }
    }
    DirBuilder::new().mode(0o700).create(&part).map_err(failed("make", &part))?;
    let made = fill(data, &part, with_logs).and_then(|backup| publish(&part, dest).map(|()| backup));
    if made.is_err() {
        // It was made here. What cannot be removed is in the way of the next one, which names it.
        let _ = fs::remove_dir_all(&part);
    }
    made
}

fn fill(data: &Path, part: &Path, with_logs: bool) -> Result<Backup, Error> {
    let reached = sqlite::backup(data, part)?;
    let mut database_bytes = 0;
    for entry in fs::read_dir(part).map_err(failed("read", part))? {
        database_bytes += entry.and_then(|entry| entry.metadata()).map_err(failed("read", part))?.len();
    }
    let logs = with_logs.then(|| blobs::copy(data, part)).transpose()?;
    Ok(Backup { reached, database_bytes, logs })
}

/// Gives it its name once all of it is on the disk. A directory's rename replaces nothing but an empty directory.
fn publish(part: &Path, dest: &Path) -> Result<(), Error> {
    // All of that file system at once: there may be a hundred thousand logs.
    File::open(part).and_then(|part| Ok(rustix::fs::syncfs(part)?)).map_err(failed("flush", part))?;
    fs::rename(part, dest).map_err(failed("rename", part))?;
    let parent = dest.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed("flush", parent))
}

fn failed<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Error + 'a {
    move |source| Error::Io { what, path: path.to_owned(), source }
}
