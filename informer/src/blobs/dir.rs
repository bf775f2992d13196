//! The directory that logs are kept in.
//!
//! ```text
//!  logs/parts/<attempt>.<n>.part                         being written; removed at the next start
//!  logs/<8 hex digits>/<attempt>.log                     of a task
//!  logs/<8 hex digits>/<array>/<5 hex digits>/<attempt>.log     of a member: 4,096 indices a directory
//! ```
//! The digits are those that a task's id begins with: the minute of its submission, more or less. So the logs of a moment share a
//! directory, whose flush they share, too; and old directories empty themselves as tasks are pruned.

use super::reader::Reader;
use super::writer::DirWriter;
use super::{Blobs, Error, Log, Writer};
use proto::id::{AttemptId, TaskId};
use rustix::fs::Access;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Name of the directory inside the data directory.
pub(super) const NAME: &str = "logs";
/// Name of the directory of what is being written.
pub(super) const PARTS: &str = "parts";

/// Logs in a directory of this machine.
#[derive(Debug, Clone)]
pub struct Dir {
    pub(super) root: PathBuf,
    /// Makes the names of parts differ.
    pub(super) next_part: Arc<AtomicU64>,
}

impl Dir {
    /// Whether a data directory that is to be opened can hold logs, as far as that can be told without changing anything in it.
    ///
    /// # Errors
    /// [`Error::Unusable`].
    pub fn check(data: &Path) -> Result<(), Error> {
        for path in [data.join(NAME), data.join(NAME).join(PARTS)] {
            let rights = Access::WRITE_OK | Access::EXEC_OK;
            let usable = match fs::metadata(&path) {
                Ok(found) if !found.is_dir() => Err(io::ErrorKind::NotADirectory.into()),
                Ok(_) => rustix::fs::access(&path, rights).map_err(io::Error::from),
                // It is made, or the data directory itself is no good, which the store tells.
                Err(_) => return Ok(()),
            };
            usable.map_err(|source| Error::Unusable { path, source })?;
        }
        Ok(())
    }

    /// In the informer's data directory, which the caller owns: what an earlier informer did not finish is removed.
    ///
    /// # Errors
    /// The directory cannot be made or emptied.
    pub fn open(data: &Path) -> Result<Self, Error> {
        let root = data.join(NAME);
        let dir = Self { root, next_part: Arc::default() };
        let parts = dir.parts();
        make(&parts)?;
        for entry in fs::read_dir(&parts).map_err(io("read", &parts))? {
            let path = entry.map_err(io("read", &parts))?.path();
            fs::remove_file(&path).map_err(io("remove", &path))?;
        }
        Ok(dir)
    }

    pub(super) fn parts(&self) -> PathBuf {
        self.root.join(PARTS)
    }

    /// Where a task's logs are, by the directory and what their names begin with.
    fn place(&self, task: TaskId) -> (PathBuf, String) {
        let hex = format!("{:032x}", task.as_u128());
        let shard = self.root.join(&hex[..8]);
        let dir = match (task.array(), task.index()) {
            (Some(array), Some(index)) => shard.join(array.to_string()).join(format!("{:05x}", index >> 12)),
            _ => shard,
        };
        (dir, format!("{task}."))
    }

    /// Where an attempt's log is.
    pub(super) fn path(&self, attempt: AttemptId) -> PathBuf {
        self.place(attempt.task).0.join(format!("{attempt}.log"))
    }
}

impl Blobs for Dir {
    fn writer(&self) -> Result<Box<dyn Writer>, Error> {
        Ok(Box::new(DirWriter::new(self.clone())?))
    }

    fn open(&self, attempt: AttemptId) -> Result<Option<Box<dyn Log>>, Error> {
        let reader = Reader::open(self.path(attempt))?;
        Ok(reader.map(|reader| Box::new(reader) as Box<dyn Log>))
    }

    fn remove(&self, tasks: &[TaskId]) -> Result<(), Error> {
        let mut by_dir: BTreeMap<PathBuf, BTreeSet<String>> = BTreeMap::new();
        let mut result = Ok(());
        for task in tasks {
            let (dir, prefix) = self.place(*task);
            if task.array().is_none() {
                result = gone(fs::remove_dir_all(dir.join(task.to_string())), "remove", &dir).and(result);
            }
            by_dir.entry(dir).or_default().insert(prefix);
        }
        for (dir, prefixes) in by_dir {
            result = remove_beginning(&dir, &prefixes).and(result);
            // Not empty, mostly.
            let _others = fs::remove_dir(&dir);
        }
        result
    }

    fn remove_attempt(&self, attempt: AttemptId) -> Result<(), Error> {
        let path = self.path(attempt);
        gone(fs::remove_file(&path), "remove", &path)
    }
}

/// Removes the files of a directory whose names begin so.
fn remove_beginning(dir: &Path, prefixes: &BTreeSet<String>) -> Result<(), Error> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io("read", dir)(error)),
    };
    let mut result = Ok(());
    for entry in entries {
        let name = entry.map_err(io("read", dir))?.file_name();
        let Some(name) = name.to_str() else { continue };
        // `<task>.<attempt>.log`; none of our prefixes begins another, since all end with the dot behind a whole id.
        let task_ends = name.strip_suffix(".log").and_then(|attempt| attempt.rfind('.'));
        if task_ends.is_some_and(|end| prefixes.contains(&name[..=end])) {
            let path = dir.join(name);
            result = gone(fs::remove_file(&path), "remove", &path).and(result);
        }
    }
    result
}

/// What is not there is as good as removed.
fn gone(result: io::Result<()>, what: &'static str, path: &Path) -> Result<(), Error> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io(what, path)(error)),
        _ => Ok(()),
    }
}

/// Makes a directory and those above it; each is on the disk when this returns.
pub(super) fn make(dir: &Path) -> Result<(), Error> {
    match fs::create_dir(dir) {
        Ok(()) => sync(dir.parent().unwrap_or(dir)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => match dir.parent().filter(|_| error.kind() == io::ErrorKind::NotFound) {
            Some(parent) => make(parent).and_then(|()| make(dir)),
            None => Err(io("make", dir)(error)),
        },
    }
}

/// Flushes a directory: the names in it survive.
pub(super) fn sync(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io("flush", dir))
}

/// Names what failed.
pub(super) fn io<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Error + 'a {
    move |source| Error::Io { what, path: path.to_owned(), source }
}
