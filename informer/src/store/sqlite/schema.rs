//! The tables, and how an older file becomes a newer one.

use super::fault::explain;
use super::{v2, v4};
use crate::failpoint;
use crate::store::Error;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use std::path::Path;

/// `INFR`, so that `file` and we can tell an informer's database from any other.
pub(super) const APPLICATION_ID: u32 = 0x494e_4652;

/// One step: everything it does is in the given transaction.
type Step = fn(&Transaction<'_>, &Path) -> Result<(), Error>;

/// Each entry leads from the version before it to its own, the first from an empty file to 1. An entry is never edited once it has
/// been released; a change is a new entry.
const MIGRATIONS: &[Step] = &[v1, v2::run, v3, v4::run];

/// The first version that tells what of the log is in the file.
pub(super) const WITH_LOG_COLUMNS: u32 = 3;

/// The newest version known here.
pub(super) fn newest() -> u32 {
    u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX)
}

fn v1(tx: &Transaction<'_>, path: &Path) -> Result<(), Error> {
    tx.execute_batch(V1).map_err(|error| explain("create", path, error))
}

/// What the file is known to hold without its log, and whether it had one; why, is told at [`super::alone`].
fn v3(tx: &Transaction<'_>, path: &Path) -> Result<(), Error> {
    tx.execute_batch(V3).map_err(|error| explain("migrate", path, error))
}

const V3: &str = "
    ALTER TABLE meta ADD COLUMN moved_epoch INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE meta ADD COLUMN moved_seq   INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE meta ADD COLUMN logged      INTEGER NOT NULL DEFAULT 0;
";

/// The first tables; what decides where a row lies now is told at [`v2`].
const V1: &str = "
    CREATE TABLE meta (
        one        INTEGER PRIMARY KEY CHECK (one = 1),
        lineage    TEXT    NOT NULL,
        epoch      INTEGER NOT NULL,
        commit_seq INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE tasks (
        id    BLOB    NOT NULL UNIQUE CHECK (length(id) = 16),
        state INTEGER NOT NULL,
        owner TEXT    NOT NULL,
        name  TEXT    NOT NULL,
        body  BLOB    NOT NULL
    ) STRICT;
    CREATE INDEX tasks_state ON tasks (state, id);
    CREATE INDEX tasks_owner ON tasks (owner, id);
    CREATE INDEX tasks_name  ON tasks (name, id);
    CREATE TABLE task_labels (
        key   TEXT NOT NULL,
        value TEXT NOT NULL,
        task  BLOB NOT NULL,
        PRIMARY KEY (key, value, task)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE task_keys (
        key     TEXT PRIMARY KEY NOT NULL,
        task    BLOB NOT NULL,
        payload BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE payloads (
        hash BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
        body BLOB NOT NULL
    ) STRICT;
    CREATE TABLE sidecars (
        id   TEXT PRIMARY KEY NOT NULL,
        body BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE history (
        task    BLOB    NOT NULL,
        seq     INTEGER NOT NULL,
        unix_ms INTEGER NOT NULL,
        kind    TEXT    NOT NULL,
        attempt INTEGER NOT NULL,
        detail  TEXT    NOT NULL,
        PRIMARY KEY (task, seq)
    ) STRICT, WITHOUT ROWID;
";

/// Brings the file to the newest version, one transaction a step: a crash in between leaves a whole older version.
///
/// # Errors
/// SQLite's, and a row that cannot be read.
pub(super) fn migrate(db: &mut Connection, path: &Path, from: u32) -> Result<(), Error> {
    migrate_to(db, path, from, newest())
}

/// The same up to version `to`, so that a test has files of older versions.
pub(super) fn migrate_to(db: &mut Connection, path: &Path, from: u32, to: u32) -> Result<(), Error> {
    let failed = |error| explain("migrate", path, error);
    for (version, step) in (1..=to).zip(MIGRATIONS).filter(|(version, _)| *version > from) {
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        step(&tx, path)?;
        tx.pragma_update(None, "user_version", version).map_err(failed)?;
        failpoint::hit("mid-migration");
        tx.commit().map_err(failed)?;
        failpoint::hit("after-migration");
    }
    Ok(())
}
