//! SQLite, the embedded default: one file in the data directory, one writer, readers beside it.
//!
//! ```text
//!   <data>/informer.lock         flock of the one owner, its pid inside
//!   <data>/informer.db           the database, WAL, synchronous=FULL
//!   <data>/informer.db-wal       its newest commits, moved into it from time to time
//!   <data>/informer.db-witness   the last commit that somebody was told of
//! ```

mod alone;
mod backup;
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
mod log;
mod look;
mod meta;
mod names;
mod open;
#[cfg(test)]
mod pairs;
mod prune;
mod read;
mod row;
mod schema;
#[cfg(test)]
mod tests;
mod v2;
mod v4;
mod witness;
mod write;

pub use backup::backup;

use super::{Commit, Error, Identity, Reached, Read, Store};
use check::Check;
use lock::Lock;
use names::{Missing, Names};
use read::Reader;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use witness::Witness;

/// The owner of a data directory.
#[derive(Debug)]
pub struct Sqlite {
    identity: Identity,
    path: PathBuf,
    /// What the file is known to hold without its log.
    moved: Reached,
    /// Why nothing is written any more.
    poisoned: Option<String>,
    check: Check,
    witness: Witness,
    names: Names,
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
    /// [`Error::Newer`], [`Error::Corrupt`] for a file that is not a usable store; [`Error::Behind`] and [`Error::NoLog`] for one that
    /// lacks commits which were acknowledged; [`Error::Mixed`] for one with a log that is not its own.
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
        let before = look::Before::of(&path);
        let looked = look::at(&path, restored).and_then(|looked| open::writer(&looked.db, &path).map(|()| looked));
        let look::Looked { mut db, version, whole, moved } = looked.inspect_err(|_| before.restore())?;
        schema::migrate(&mut db, &path, version)?;
        let identity = meta::claim(&db, &path, moved)?;
        let witness = Witness::begin(&path, &identity);
        log::take(&db).map_err(|error| fault::explain("open", &path, error))?;
        open::sweep(&db, &path)?;
        let (names, check) = (Names::of(&path)?, Check::done(&path));
        let mut store = Self { identity, moved, poisoned: None, check, path, witness, names, db, _lock: lock };
        // From here on the file by itself says that it has a log: before anything in that is acknowledged.
        store.move_log(store.claimed(), 0)?;
        if !whole {
            store.check = Check::start(&store.path)?;
        }
        Ok(store)
    }

    /// What was reached when it was opened.
    fn claimed(&self) -> Reached {
        Reached { epoch: self.identity.epoch, commit_seq: self.identity.commit_seq }
    }

    /// Moves the log into the file if it has so many frames; `reached` is its end.
    fn move_log(&mut self, reached: Reached, least: i64) -> Result<(), Error> {
        if log::move_into_file(&self.db, &self.path, least)? {
            self.moved = reached;
        }
        Ok(())
    }

    fn write(&mut self, epoch: u64, commit: &Commit) -> Result<(), Error> {
        write::commit(&mut self.db, &self.path, epoch, self.moved, commit)?;
        if let Some(missing) = self.names.missing() {
            return Err(self.vanished(missing));
        }
        let reached = Reached { epoch: commit.epoch(epoch), commit_seq: commit.seq };
        self.witness.note(reached);
        self.move_log(reached, log::FRAMES)
    }
}

impl Sqlite {
    /// A file of it was removed or replaced. Of a log that is still open the file can have all, and then nothing is lost.
    fn vanished(&self, missing: Missing) -> Error {
        let (path, log) = (self.path.clone(), log::of(&self.path));
        match missing {
            Missing::Database => Error::Vanished { path, log },
            Missing::Log => {
                let moved = log::move_into_file(&self.db, &self.path, 0).is_ok_and(|moved| moved);
                Error::LogVanished { path, log, moved }
            }
        }
    }
}

impl Drop for Sqlite {
    /// What was committed goes into the file with the last connection; then the file needs no log. If it cannot be said, the log stays.
    fn drop(&mut self) {
        if self.poisoned.is_none() && meta::settle(&self.db).is_err() {
            let _ = log::leave(&self.db);
        }
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
            None => self.write(epoch, commit),
        };
        if let Err(error) = &outcome {
            #[cfg(feature = "seeded-bugs")]
            if crate::failpoint::mistake("GoOnAfterFailedFlush") {
                return Ok(());
            }
            self.poisoned = Some(error.to_string());
            // If even that fails, the next opening still looks at the file.
            let _ = log::leave(&self.db);
        }
        outcome
    }

    fn reader(&self) -> Result<Box<dyn Read>, Error> {
        Ok(Box::new(Reader::open(&self.path)?))
    }
}
