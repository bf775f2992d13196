//! A copy of a database, of one moment, also while an informer writes to it.
//!
//! `VACUUM INTO` reads one snapshot: what was committed when it begins, and nothing later. The writer goes on meanwhile; only its log grows, for
//! none of what came after the snapshot can be moved into the file before it is let go.

use super::fault::{explain, refused};
use super::lock::Lock;
use super::{check, log, look, meta, open, schema};
use crate::store::{Error, Reached};
use rusqlite::Connection;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Copies the database of the data directory `data` into the directory `into`, where there is none, and reads the copy through. It is on the
/// disk when this returns. Tells what it has: at least all that was acknowledged before the call.
///
/// # Errors
/// Those of [`Sqlite::open`](super::Sqlite::open) for a database that nobody has open; [`Error::Corrupt`] for a damaged one, of which no
/// copy should be kept in place of a good one.
pub fn backup(data: &Path, into: &Path) -> Result<Reached, Error> {
    // An informer that runs goes on, and one that does not need not be started.
    make(data, into).map_err(|error| match error {
        Error::Full { path, doing } => Error::FullBackup { path, doing },
        error => error,
    })
}

fn make(data: &Path, into: &Path) -> Result<Reached, Error> {
    let path = data.join(open::FILE);
    // Of the file itself, which the lock does not tell: it may be another directory altogether.
    std::fs::metadata(&path).map_err(|source| refused("read", &path, source))?;
    let target = into.join(open::FILE);
    match Lock::of_nobody(data)? {
        // Its owner keeps it in order.
        None => copy(&open::connect(&path).and_then(|db| left_alone(db, &path))?, &path, &target)?,
        // Nobody has looked at it since its informer ended, in whatever way.
        Some(_lock) => {
            let before = look::Before::of(&path);
            let copied = look::at(&path, false).and_then(|looked| copy(&looked.db, &path, &target));
            before.restore();
            copied?;
        }
    }
    finish(&target)
}

fn left_alone(db: Connection, path: &Path) -> Result<Connection, Error> {
    log::leave(&db).map_err(|error| explain("open", path, error))?;
    look::version(&db, path)?;
    Ok(db)
}

fn copy(db: &Connection, path: &Path, target: &Path) -> Result<(), Error> {
    // SQLite would make it readable for others.
    let made = File::options().write(true).create_new(true).mode(0o600).open(target);
    made.map_err(|source| refused("make", target, source))?;
    // A path is bytes, and text to SQLite.
    let into = target.as_os_str().as_bytes();
    db.execute("VACUUM INTO CAST(?1 AS TEXT)", [into]).map(drop).map_err(|error| match explain("copy", path, error) {
        // It is the copy that had no room.
        Error::Full { doing, .. } => Error::Full { path: target.to_owned(), doing },
        error => error,
    })
}

/// The copy has no log, and says so.
fn finish(target: &Path) -> Result<Reached, Error> {
    let failed = |error| explain("finish", target, error);
    let db = open::connect(target)?;
    let version = look::version(&db, target)?;
    check::whole(&db, target)?;
    let reached = meta::required(&db, target)?.reached;
    if version >= schema::WITH_LOG_COLUMNS {
        meta::settle_copy(&db, reached).map_err(failed)?;
    }
    db.close().map_err(|(_, error)| failed(error))?;
    File::open(target).and_then(|file| file.sync_all()).map_err(|source| refused("flush", target, source))?;
    Ok(reached)
}
