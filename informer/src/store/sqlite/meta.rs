//! The one row that says whose database this is and how far it has come.

use super::fault::{damaged, explain};
use super::schema;
use super::write::{int, uint};
use crate::store::{Error, Identity, Reached};
use proto::id::next_epoch;
use rusqlite::{Connection, OptionalExtension as _, params};
use std::path::Path;
use uuid::Uuid;

/// What stands there, as some reader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) lineage: Uuid,
    pub(super) reached: Reached,
    /// What the file is known to hold without its log; see [`super::alone`].
    pub(super) moved: Reached,
    /// An informer has it open, or was killed: its newest commits are in its log.
    pub(super) logged: bool,
}

/// Lineage, epoch, commit, and the same that is in the file itself.
type Raw = (String, i64, i64, i64, i64, bool);

fn raw(db: &Connection) -> rusqlite::Result<Option<Raw>> {
    let version: u32 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let sql = if version < schema::WITH_LOG_COLUMNS {
        "SELECT lineage, epoch, commit_seq, 0, 0, 0 FROM meta WHERE one = 1"
    } else {
        "SELECT lineage, epoch, commit_seq, moved_epoch, moved_seq, logged FROM meta WHERE one = 1"
    };
    let take =
        |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?));
    db.query_row(sql, [], take).optional()
}

/// What a database says of itself; `None` if that cannot be read.
pub(super) fn read(db: &Connection) -> Option<Meta> {
    let (lineage, epoch, commit_seq, moved_epoch, moved_seq, logged) = raw(db).ok()??;
    let number = |n: i64| u64::try_from(n).ok();
    Some(Meta {
        lineage: lineage.parse().ok()?,
        reached: Reached { epoch: number(epoch)?, commit_seq: number(commit_seq)? },
        moved: Reached { epoch: number(moved_epoch)?, commit_seq: number(moved_seq)? },
        logged,
    })
}

/// The same from a database that must have it.
///
/// # Errors
/// [`Error::Corrupt`] says what is wrong with it.
pub(super) fn required(db: &Connection, path: &Path) -> Result<Meta, Error> {
    if let Some(meta) = read(db) {
        return Ok(meta);
    }
    Err(match raw(db) {
        Ok(None) => damaged(path, "table meta", "its one row is missing"),
        Ok(Some((lineage, ..))) if lineage.parse::<Uuid>().is_err() => {
            damaged(path, "table meta", format_args!("lineage {lineage:?} is not a UUID"))
        }
        Ok(Some((_, epoch, commit_seq, ..))) => {
            damaged(path, "table meta", format_args!("epoch {epoch}, commit {commit_seq}"))
        }
        Err(error) => explain("read", path, error),
    })
}

/// The row of a new database.
pub(super) fn make(db: &Connection) -> rusqlite::Result<()> {
    let lineage = Uuid::now_v7().to_string();
    db.execute("INSERT INTO meta (one, lineage, epoch, commit_seq) VALUES (1, ?1, 0, 0)", [lineage]).map(drop)
}

/// Claims an epoch of its own, durably. The lock of the data directory keeps everybody else from doing so meanwhile. `moved` is what the
/// file is known to hold.
pub(super) fn claim(db: &Connection, path: &Path, moved: Reached) -> Result<Identity, Error> {
    let meta = required(db, path)?;
    let epoch = fresh_epoch(meta.reached.epoch);
    let sql = "UPDATE meta SET epoch = ?1, moved_epoch = ?2, moved_seq = ?3, logged = 1 WHERE one = 1";
    db.execute(sql, params![int(epoch), int(moved.epoch), int(moved.commit_seq)])
        .map_err(|error| explain("claim the next epoch in", path, error))?;
    Ok(Identity { lineage: meta.lineage.to_string(), epoch, commit_seq: meta.reached.commit_seq })
}

/// The clock and the luck of an epoch are those of a fresh id.
fn fresh_epoch(last: u64) -> u64 {
    let id = Uuid::now_v7();
    let (seconds, nanos) = id.get_timestamp().map_or((0, 0), |timestamp| timestamp.to_unix());
    let unix_ms = seconds.saturating_mul(1000).saturating_add(u64::from(nanos / 1_000_000));
    next_epoch(last, unix_ms, id.as_u64_pair().1)
}

/// The last commit before an orderly end: nothing of this database is in a log.
pub(super) fn settle(db: &Connection) -> rusqlite::Result<()> {
    db.execute("UPDATE meta SET logged = 0 WHERE one = 1", []).map(drop)
}

/// The only commit of a copy: it has no log, and an epoch of its own, by which it is told from the file that it was made of.
pub(super) fn settle_copy(db: &Connection, copied: Reached) -> rusqlite::Result<()> {
    let sql = "UPDATE meta SET logged = 0, epoch = ?1 WHERE one = 1";
    db.execute(sql, params![int(fresh_epoch(copied.epoch))]).map(drop)
}

/// Moves the commit sequence on, if the epoch is still ours; raises the epoch to `raised`.
pub(super) fn advance(
    db: &Connection,
    epoch: u64,
    raised: u64,
    seq: u64,
    moved: Reached,
) -> rusqlite::Result<Result<(), Error>> {
    let sql = "UPDATE meta SET commit_seq = ?1, epoch = ?2, moved_epoch = ?4, moved_seq = ?5
         WHERE one = 1 AND epoch = ?3 AND commit_seq = ?1 - 1";
    let values = params![int(seq), int(raised), int(epoch), int(moved.epoch), int(moved.commit_seq)];
    if db.prepare_cached(sql)?.execute(values)? == 1 {
        return Ok(Ok(()));
    }
    let (claimed, last) =
        db.query_row("SELECT epoch, commit_seq FROM meta", [], |row| Ok((uint(row.get(0)?), uint(row.get(1)?))))?;
    Ok(Err(if claimed == epoch {
        Error::OutOfOrder { given: seq, last }
    } else {
        Error::Fenced { ours: epoch, claimed }
    }))
}
