//! The log of commits beside the database: its length, and when it is moved into the file.
//!
//! The writer moves it, and not SQLite by itself: so it knows what the file holds ([`super::alone`]), and a disk that fails to flush the
//! file is told instead of tried again at the next commit.

use super::fault::explain;
use crate::store::Error;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// A frame of the log: a page and its header.
const FRAME_BYTES: i64 = 4096 + 24;

/// Length of the log at which it is moved into the database. Twice as long, a hot page is written there half as often, and a start
/// after a crash reads twice as much.
pub(super) const BYTES: i64 = 8 << 20;

/// The same in frames.
pub(super) const FRAMES: i64 = BYTES / FRAME_BYTES;

/// The log of a database.
pub(super) fn of(database: &Path) -> PathBuf {
    super::open::beside(database, "-wal")
}

/// Writes zeros behind what the log holds, up to [`BYTES`]. A commit that makes the file longer has the file system commit the new
/// length too, which is a second flush of the disk; one that overwrites has not. Zeros are no frame of a log: their salt and checksum
/// are wrong, so whoever recovers it stops before them. (Reserved blocks that were never written would not do: writing one is a change of
/// the file's map.)
pub(super) fn grow(log: &Path) -> io::Result<()> {
    let mut file = File::options().append(true).create(true).mode(0o600).open(log)?;
    let mut left = BYTES.unsigned_abs().saturating_sub(file.metadata()?.len());
    if left == 0 {
        return Ok(());
    }
    let zeros = vec![0; 1 << 20];
    while left > 0 {
        let count = left.min(zeros.len() as u64);
        file.write_all(&zeros[..usize::try_from(count).unwrap_or(zeros.len())])?;
        left -= count;
    }
    file.sync_all()?;
    // The file by itself will say that it has a log: its name must last as long.
    let parent = log.parent().ok_or(io::ErrorKind::NotFound)?;
    File::open(parent)?.sync_all()
}

/// Moves the log into the file if it has at least so many frames. Tells whether all of it is there now, and flushed; a reader that still
/// looks at an older state keeps some of it where it is.
///
/// # Errors
/// The disk failed. That it is full is none: the log stays, and takes commits while it has room.
pub(super) fn move_into_file(db: &Connection, path: &Path, least: i64) -> Result<bool, Error> {
    let tell = |sql: &str| -> rusqlite::Result<(i64, i64)> {
        db.prepare_cached(sql)?.query_row([], |row| Ok((row.get(1)?, row.get(2)?)))
    };
    let moved = || -> rusqlite::Result<bool> {
        let (frames, _) = tell("PRAGMA wal_checkpoint(NOOP)")?;
        if frames < least {
            return Ok(false);
        }
        let (frames, moved) = tell("PRAGMA wal_checkpoint(PASSIVE)")?;
        Ok(frames == moved)
    };
    match moved() {
        Err(error) => match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Ok(false),
            _ => Err(explain("move the log into", path, error)),
        },
        Ok(moved) => Ok(moved),
    }
}

/// Keeps a connection from moving the log into the database when it is the last to close. A reader has no business with that; and
/// after a failed commit nobody knows whether the log on disk is what memory says.
pub(super) fn leave(db: &Connection) -> rusqlite::Result<()> {
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map(drop)
}

/// The files are good: a connection that left the log alone until then moves it into the database when it is the last to close.
pub(super) fn take(db: &Connection) -> rusqlite::Result<()> {
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map(drop)
}
