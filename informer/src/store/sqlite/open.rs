//! Finding, making, checking and claiming the database of a data directory.
//!
//! A new database is built under another name and renamed when it is whole. So a file with the final name that is empty, short or
//! strange was damaged by something else, and is reported instead of being made anew.

use super::fault::{damaged, explain, refused};
use super::write::int;
use super::{body, check, item, schema};
use crate::store::{Error, Identity};
use proto::id::next_epoch;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a statement waits for a lock that another connection of ours holds. Only a checkpoint at the last close takes one that
/// keeps readers out, for milliseconds; this much means that something else sits on the file.
const BUSY: Duration = Duration::from_secs(5);

/// A frame of the log: a page and its header.
const FRAME_BYTES: i64 = 4096 + 24;

/// Length of the log at which it is moved into the database. Twice as long, a hot page is written there half as often, and a start
/// after a crash reads twice as much.
const LOG_BYTES: i64 = 8 << 20;

/// Statements that a connection keeps prepared: the writer has some thirty; the rest is room for the filters of lists.
const STATEMENTS: usize = 64;

const FILE: &str = "informer.db";
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Makes the data directory, readable by its owner only: payloads carry what users put into environments.
pub(super) fn directory(data: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(|source| refused(data, source))
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
        Ok(()) if header == *MAGIC => Ok(path),
        Ok(()) => Err(Error::NotADatabase { path }),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(damaged(&path, "the file", "it is shorter than its own header"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(data, &path)?;
            Ok(path)
        }
        Err(source) => Err(refused(&path, source)),
    }
}

fn create(data: &Path, path: &Path) -> Result<(), Error> {
    // An empty log holds nothing: a start that was refused may have made it.
    if fs::metadata(beside(path, "-wal")).is_ok_and(|log| log.len() > 0) {
        return Err(damaged(path, "the file", "it is missing, and its log of commits is there"));
    }
    if let Some(missing) = super::witness::read(path).and_then(|statement| statement.missing(path)) {
        return Err(missing);
    }
    let fresh = data.join(format!("{FILE}.new"));
    let failed = |source| refused(&fresh, source);
    // What a crash in the middle of an earlier creation left.
    for leftover in [fresh.clone(), data.join(format!("{FILE}.new-journal"))] {
        match fs::remove_file(&leftover) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(failed(source)),
            _ => {}
        }
    }
    // SQLite gives the files beside it the same mode.
    File::options().write(true).create_new(true).mode(0o600).open(&fresh).map_err(failed)?;
    build(&fresh)?;
    File::open(&fresh).and_then(|file| file.sync_all()).map_err(failed)?;
    fs::rename(&fresh, path).map_err(failed)?;
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
    let lineage = uuid::Uuid::now_v7().to_string();
    db.execute("INSERT INTO meta (one, lineage, epoch, commit_seq) VALUES (1, ?1, 0, 0)", [lineage]).map_err(failed)?;
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
    let set = db.pragma_update(None, "query_only", true).and_then(|()| leave_the_log(&db));
    set.map_err(|error| explain("open", path, error))?;
    Ok(db)
}

/// The files are good: a connection that left the log alone until then moves it into the database when it is the last to close.
pub(super) fn take_the_log(db: &Connection) -> rusqlite::Result<()> {
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map(|_| ())
}

/// Refuses what is not ours, is newer than us, is behind what its witness says or is seen to be damaged; then brings it to the newest
/// schema. Tells whether the whole file was read for that.
pub(super) fn check(
    db: &mut Connection,
    path: &Path,
    statement: Option<super::witness::Statement>,
) -> Result<bool, Error> {
    let failed = |error| explain("read", path, error);
    let pragma = |db: &Connection, name: &str| db.pragma_query_value(None, name, |row| row.get::<_, u32>(0));
    let found = pragma(db, "application_id").map_err(failed)?;
    if found != schema::APPLICATION_ID {
        return Err(Error::Foreign { path: path.to_owned(), found });
    }
    let version = pragma(db, "user_version").map_err(failed)?;
    let known = schema::newest();
    if version > known {
        return Err(Error::Newer { path: path.to_owned(), found: version, known });
    }
    // Before the pages: a log without its tail, over pages that it had gone into already, is a mixture of two times.
    if let Some(statement) = statement {
        statement.judge(db, path)?;
    }
    // What is rewritten must be good; and a small file costs nothing.
    let whole = version < known || check::is_small(db, path)?;
    if whole {
        check::whole(db, path)?;
    }
    schema::migrate(db, path, version)?;
    Ok(whole)
}

/// Sets how the writer commits: every commit is on disk when it returns.
pub(super) fn writer(db: &Connection, path: &Path) -> Result<(), Error> {
    let failed = |error| explain("open", path, error);
    let mode: String = db.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0)).map_err(failed)?;
    if mode != "wal" {
        let source = io::Error::other("this file system does not let SQLite share memory (WAL); use a local one");
        return Err(Error::Directory { path: path.to_owned(), source });
    }
    db.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    // Pages of the trees that every commit touches stay in memory: 32 MiB.
    db.pragma_update(None, "cache_size", -32_768).map_err(failed)?;
    // Pages that many commits touch go into the database once for all of them.
    db.pragma_update(None, "wal_autocheckpoint", LOG_BYTES / FRAME_BYTES).map_err(failed)?;
    // After a burst the log shrinks again to 64 MiB.
    db.pragma_update(None, "journal_size_limit", 64 << 20).map_err(failed)?;
    let log = beside(path, "-wal");
    grow(&log).map_err(|source| refused(&log, source))
}

/// Writes zeros behind what the log holds, up to [`LOG_BYTES`]. A commit that makes the file longer has the file system commit the new
/// length too, which is a second flush of the disk; one that overwrites has not. Zeros are no frame of a log: their salt and checksum
/// are wrong, so whoever recovers it stops before them. (Reserved blocks that were never written would not do: writing one is a change of
/// the file's map.)
fn grow(log: &Path) -> io::Result<()> {
    let mut file = File::options().append(true).create(true).mode(0o600).open(log)?;
    let mut left = LOG_BYTES.unsigned_abs().saturating_sub(file.metadata()?.len());
    if left == 0 {
        return Ok(());
    }
    let zeros = vec![0; 1 << 20];
    while left > 0 {
        let count = left.min(zeros.len() as u64);
        file.write_all(&zeros[..usize::try_from(count).unwrap_or(zeros.len())])?;
        left -= count;
    }
    file.sync_all()
}

/// Keeps a connection from moving the log into the database when it is the last to close. A reader has no business with that; and
/// after a failed commit nobody knows whether the log on disk is what memory says.
pub(super) fn leave_the_log(db: &Connection) -> rusqlite::Result<()> {
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map(|_| ())
}

/// Claims an epoch of its own, durably. The lock of the data directory keeps everybody else from doing so meanwhile.
pub(super) fn claim(db: &Connection, path: &Path) -> Result<Identity, Error> {
    let failed = |error| explain("claim the next epoch in", path, error);
    let sql = "SELECT lineage, epoch, commit_seq FROM meta WHERE one = 1";
    let found =
        db.query_row(sql, [], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)));
    let (lineage, last, commit_seq) = match found {
        Ok(found) => found,
        Err(rusqlite::Error::QueryReturnedNoRows) => return Err(damaged(path, "table meta", "its one row is missing")),
        Err(error) => return Err(failed(error)),
    };
    if uuid::Uuid::parse_str(&lineage).is_err() {
        return Err(damaged(path, "table meta", format!("lineage {lineage:?} is not a UUID")));
    }
    let number = |what, n: i64| u64::try_from(n).map_err(|_| damaged(path, "table meta", format!("{what} is {n}")));
    let epoch = fresh_epoch(number("epoch", last)?);
    db.execute("UPDATE meta SET epoch = ?1 WHERE one = 1", [int(epoch)]).map_err(failed)?;
    Ok(Identity { lineage, epoch, commit_seq: number("commit_seq", commit_seq)? })
}

/// The clock and the luck of an epoch are those of a fresh id.
fn fresh_epoch(last: u64) -> u64 {
    let id = uuid::Uuid::now_v7();
    let (seconds, nanos) = id.get_timestamp().map_or((0, 0), |timestamp| timestamp.to_unix());
    let unix_ms = seconds.saturating_mul(1000).saturating_add(u64::from(nanos / 1_000_000));
    next_epoch(last, unix_ms, id.as_u64_pair().1)
}

/// Removes what interrupted and refused submissions have left.
pub(super) fn sweep(db: &Connection, path: &Path) -> Result<(), Error> {
    item::sweep(db).and_then(|()| body::sweep(db)).map_err(|error| explain("tidy", path, error))
}
