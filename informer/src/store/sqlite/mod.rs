//! SQLite, the embedded default: one file in the data directory, one writer, readers beside it.
//!
//! ```text
//!   <data>/informer.lock   flock of the one owner, its pid inside
//!   <data>/informer.db     the database, WAL, synchronous=FULL
//! ```

#[cfg(test)]
mod bench;
mod body;
mod check;
#[cfg(test)]
mod damage;
mod fault;
mod item;
mod list;
mod lock;
mod open;
mod prune;
mod read;
mod row;
mod schema;
#[cfg(test)]
mod tests;
mod v2;
mod write;

use super::{Commit, Error, Identity, Read, Store};
use check::Check;
use lock::Lock;
use read::Reader;
use rusqlite::Connection;
use std::path::{Path, PathBuf};

/// The owner of a data directory.
#[derive(Debug)]
pub struct Sqlite {
    identity: Identity,
    path: PathBuf,
    /// Why nothing is written any more.
    poisoned: Option<String>,
    check: Check,
    // Closed before the lock is released: fields drop in this order.
    db: Connection,
    _lock: Lock,
}

impl Sqlite {
    /// Opens the store in `data`, made if it is not there, and claims the next epoch. A small file is read once to see that it is
    /// whole, and nothing is changed if it is not; a large one is read beside the work, and what is found is logged and fails the
    /// next commit.
    ///
    /// # Errors
    /// [`Error::Locked`] for a second owner; [`Error::Directory`], [`Error::Full`]; [`Error::NotADatabase`], [`Error::Foreign`],
    /// [`Error::Newer`], [`Error::Corrupt`] for a file that is not a usable store.
    pub fn open(data: &Path) -> Result<Self, Error> {
        open::directory(data)?;
        let lock = Lock::take(data)?;
        let path = open::find_or_create(data)?;
        let mut db = open::connect(&path)?;
        let whole = open::check(&mut db, &path)?;
        open::writer(&db, &path)?;
        let identity = open::claim(&db, &path)?;
        open::sweep(&db, &path)?;
        let check = if whole { Check::done(&path) } else { Check::start(&path)? };
        Ok(Self { identity, path, poisoned: None, check, db, _lock: lock })
    }
}

impl Store for Sqlite {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn commit(&mut self, epoch: u64, commit: &Commit) -> Result<(), Error> {
        if let Some(why) = &self.poisoned {
            return Err(Error::Poisoned(why.clone()));
        }
        // After a failed write or fsync nobody knows what is on disk, and a second fsync may report success for pages that were
        // dropped. So there is no second try here, nor anything after it.
        let outcome = match self.check.damage() {
            Some(damage) => Err(damage),
            None => write::commit(&mut self.db, &self.path, epoch, commit),
        };
        if let Err(error) = &outcome {
            self.poisoned = Some(error.to_string());
            // If even that fails, the next opening still looks at the file.
            let _ = open::leave_the_log(&self.db);
        }
        outcome
    }

    fn reader(&self) -> Result<Box<dyn Read>, Error> {
        Ok(Box::new(Reader::open(&self.path)?))
    }
}
