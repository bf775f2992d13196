//! SQLite, the embedded default: one file in the data directory, one writer, readers beside it.
//!
//! ```text
//!   <data>/informer.lock         flock of the one owner, its pid inside
//!   <data>/informer.db           the database, WAL, synchronous=FULL
//!   <data>/informer.db-witness   the last commit that somebody was told of
//! ```

#[cfg(test)]
mod bench;
mod body;
mod check;
#[cfg(test)]
mod damage;
mod fault;
mod flow;
mod flow_read;
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
mod v3;
mod witness;
mod write;

use super::{Commit, Error, Identity, Reached, Read, Store};
use check::Check;
use lock::Lock;
use read::Reader;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use witness::Witness;

/// The owner of a data directory.
#[derive(Debug)]
pub struct Sqlite {
    identity: Identity,
    path: PathBuf,
    /// Why nothing is written any more.
    poisoned: Option<String>,
    check: Check,
    witness: Witness,
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
    /// [`Error::Newer`], [`Error::Corrupt`] for a file that is not a usable store; [`Error::Behind`] for one that lacks commits which
    /// were acknowledged.
    pub fn open(data: &Path) -> Result<Self, Error> {
        Self::open_as(data, false)
    }

    /// The same for a database of which an operator says that it is an older copy: what it lacks is gone.
    ///
    /// # Errors
    /// See [`Sqlite::open`]; [`Error::Behind`] only if there is no database at all.
    pub fn open_restored(data: &Path) -> Result<Self, Error> {
        Self::open_as(data, true)
    }

    fn open_as(data: &Path, restored: bool) -> Result<Self, Error> {
        open::directory(data)?;
        let lock = Lock::take(data)?;
        let path = open::find_or_create(data)?;
        let statement = witness::read(&path);
        let mut db = open::connect(&path)?;
        // Whoever is refused leaves everything as it was, the log too.
        open::leave_the_log(&db).map_err(|error| fault::explain("open", &path, error))?;
        let whole = open::check(&mut db, &path, statement.filter(|_| !restored))?;
        open::writer(&db, &path)?;
        let identity = open::claim(&db, &path)?;
        let witness = Witness::begin(&path, &identity);
        open::take_the_log(&db).map_err(|error| fault::explain("open", &path, error))?;
        open::sweep(&db, &path)?;
        let check = if whole { Check::done(&path) } else { Check::start(&path)? };
        Ok(Self { identity, path, poisoned: None, check, witness, db, _lock: lock })
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
            #[cfg(feature = "seeded-bugs")]
            if crate::failpoint::mistake("GoOnAfterFailedFlush") {
                return Ok(());
            }
            self.poisoned = Some(error.to_string());
            // If even that fails, the next opening still looks at the file.
            let _ = open::leave_the_log(&self.db);
        } else {
            let epoch = commit.batch.epoch.unwrap_or(epoch).max(epoch);
            self.witness.note(Reached { epoch, commit_seq: commit.seq });
        }
        outcome
    }

    fn reader(&self) -> Result<Box<dyn Read>, Error> {
        Ok(Box::new(Reader::open(&self.path)?))
    }
}
