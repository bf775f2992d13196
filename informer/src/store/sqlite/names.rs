//! Whether the names of the database and of its log still are the files that are open.
//!
//! A file that was removed, or has another in its place, takes commits as before, and all of them are gone with its last descriptor. So
//! before a commit is acknowledged its files are looked up by their names: two stats for a batch.

use super::fault::refused;
use super::log;
use crate::store::Error;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A file, whatever its name.
type Inode = (u64, u64);

/// What the two names were when the store was opened.
#[derive(Debug)]
pub(super) struct Names {
    database: (PathBuf, Inode),
    log: (PathBuf, Inode),
}

/// What is no longer there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Database,
    /// The database is still there.
    Log,
}

impl Names {
    /// Of a store that is open, with a log.
    pub(super) fn of(database: &Path) -> Result<Self, Error> {
        let named = |path: PathBuf| match inode(&path) {
            Ok(inode) => Ok((path, inode)),
            Err(source) => Err(refused("look at", &path, source)),
        };
        Ok(Self { database: named(database.to_owned())?, log: named(log::of(database))? })
    }

    /// What was removed or replaced since.
    pub(super) fn missing(&self) -> Option<Missing> {
        let stands = |(path, opened): &(PathBuf, Inode)| inode(path).is_ok_and(|found| found == *opened);
        match (stands(&self.database), stands(&self.log)) {
            (true, true) => None,
            (true, false) => Some(Missing::Log),
            (false, _) => Some(Missing::Database),
        }
    }
}

fn inode(path: &Path) -> io::Result<Inode> {
    fs::metadata(path).map(|found| (found.dev(), found.ino()))
}
