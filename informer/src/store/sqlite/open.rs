//! Finding and making the database of a data directory, and its connections.
//!
//! A new database is built under another name and renamed when it is whole. So a file with the final name that is empty, short or
//! strange was damaged by something else, and is reported instead of being made anew.

use super::fault::{damaged, explain, refused};
use super::{body, item, log, meta, schema};
use crate::store::Error;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{Access, access};
use rustix::io::Errno;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a statement waits for a lock that another connection of ours holds. Only a checkpoint at the last close takes one that
/// keeps readers out, for milliseconds; this much means that something else sits on the file.
const BUSY: Duration = Duration::from_secs(5);

/// Statements that a connection keeps prepared: the writer has some thirty; the rest is room for the filters of lists.
const STATEMENTS: usize = 64;

/// What a first start writes: its log at full length, and the database with its index, which are smaller than a mebibyte.
const START_BYTES: u64 = log::BYTES.unsigned_abs() + (1 << 20);

/// The database in a data directory.
pub(super) const FILE: &str = "informer.db";
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Makes the data directory, readable by its owner only: payloads carry what users put into environments.
pub(super) fn directory(data: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data)
        .map_err(|source| Error::Directory { path: data.to_owned(), source })
}

/// A file that goes with the database.
pub(super) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The database's path; it is there afterwards and has at least SQLite's header.
pub(super) fn find_or_create(data: &Path) -> Result<PathBuf, Error> {
    let path = data.join(FILE);
    let mut header = [0; MAGIC.len()];
    match File::open(&path).and_then(|mut file| file.read_exact(&mut header)) {
        Ok(()) if header == *MAGIC => {
            writable(data, &path)?;
            Ok(path)
        }
        Ok(()) => Err(Error::NotADatabase { path }),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(damaged(&path, "the file", "it is shorter than its own header"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(data, &path)?;
            Ok(path)
        }
        Err(source) => Err(refused("read", &path, source)),
    }
}

/// Whoever may not write one of the files hears of it before anything is made beside them.
fn writable(data: &Path, path: &Path) -> Result<(), Error> {
    for file in [data.to_owned(), path.to_owned(), log::of(path), beside(path, "-shm")] {
        match access(&file, Access::READ_OK | Access::WRITE_OK) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(refused("write", &file, errno.into())),
        }
    }
    Ok(())
}

fn create(data: &Path, path: &Path) -> Result<(), Error> {
    if let Some(missing) = super::witness::read(path).and_then(|statement| statement.missing(path)) {
        return Err(missing);
    }
    // An empty log holds nothing: an earlier version's refused start may have made it.
    let log = log::of(path);
    if fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
        return Err(Error::Missing { path: path.to_owned(), log });
    }
    let fresh = data.join(format!("{FILE}.new"));
    let made = make(data, &fresh, path);
    if made.is_err() {
        // What could not be made whole is not left lying around; if that fails, the next start does it.
        let _ = clear(data, &fresh);
    }
    made.map_err(needing_room)
}

/// A full disk, told with how much is wanted: what has room for the error message has none for the log, which is made whole at once.
fn needing_room(error: Error) -> Error {
    match error {
        Error::Full { path, doing } => Error::NoRoom { path, doing, needs_bytes: START_BYTES },
        error => error,
    }
}

/// Removes what a creation that was cut short has left.
fn clear(data: &Path, fresh: &Path) -> io::Result<()> {
    for leftover in [fresh.to_owned(), data.join(format!("{FILE}.new-journal"))] {
        match fs::remove_file(&leftover) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(source),
            _ => {}
        }
    }
    Ok(())
}

fn make(data: &Path, fresh: &Path, path: &Path) -> Result<(), Error> {
    let failed = |source| refused("make", path, source);
    clear(data, fresh).map_err(failed)?;
    // SQLite gives the files beside it the same mode.
    File::options().write(true).create_new(true).mode(0o600).open(fresh).map_err(failed)?;
    build(fresh)?;
    File::open(fresh).and_then(|file| file.sync_all()).map_err(failed)?;
    fs::rename(fresh, path).map_err(failed)?;
    // The names must last as long as what lies behind them: this one's, and those of directories that were just made.
    let data = data.canonicalize().map_err(failed)?;
    File::open(&data).and_then(|dir| dir.sync_all()).map_err(failed)?;
    for parent in data.ancestors().skip(1) {
        // One that we may not read was not made by us.
        let Ok(parent) = File::open(parent) else { continue };
        parent.sync_all().map_err(failed)?;
    }
    Ok(())
}

fn build(path: &Path) -> Result<(), Error> {
    let failed = |error| explain("create", path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(path, flags).map_err(failed)?;
    db.pragma_update(None, "application_id", schema::APPLICATION_ID).map_err(failed)?;
    schema::migrate(&mut db, path, 0)?;
    meta::make(&db).map_err(failed)?;
    db.close().map_err(|(_, error)| failed(error))
}

/// A connection with everything set that holds for readers and the writer.
pub(super) fn connect(path: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let failed = |error| explain("open", path, error);
    let db = Connection::open_with_flags(path, flags).map_err(failed)?;
    db.busy_timeout(BUSY).map_err(failed)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(db)
}

/// A connection that cannot write.
pub(super) fn connect_to_read(path: &Path) -> Result<Connection, Error> {
    let db = connect(path)?;
    let set = db.pragma_update(None, "query_only", true).and_then(|()| log::leave(&db));
    set.map_err(|error| explain("open", path, error))?;
    Ok(db)
}

/// Sets how the writer commits: every commit is on disk when it returns.
pub(super) fn writer(db: &Connection, path: &Path) -> Result<(), Error> {
    let failed = |error| explain("open", path, error);
    let mode: String = db.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0)).map_err(failed)?;
    if mode != "wal" {
        let source = io::Error::other("this file system does not let SQLite share memory (WAL); use a local one");
        return Err(Error::File { doing: "write", path: path.to_owned(), source });
    }
    db.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    // Pages of the trees that every commit touches stay in memory: 32 MiB.
    db.pragma_update(None, "cache_size", -32_768).map_err(failed)?;
    // The store moves the log itself.
    db.pragma_update(None, "wal_autocheckpoint", 0).map_err(failed)?;
    // After a burst the log shrinks again to 64 MiB.
    db.pragma_update(None, "journal_size_limit", 64 << 20).map_err(failed)?;
    let file = log::of(path);
    log::grow(&file).map_err(|source| needing_room(refused("make", &file, source)))
}

/// Removes what interrupted and refused submissions have left.
pub(super) fn sweep(db: &Connection, path: &Path) -> Result<(), Error> {
    item::sweep(db).and_then(|()| body::sweep(db)).map_err(|error| explain("tidy", path, error))
}
