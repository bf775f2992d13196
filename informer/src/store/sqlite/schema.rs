//! The tables, and how an older file becomes a newer one.

use rusqlite::{Connection, TransactionBehavior};

/// `INFR`, so that `file` and we can tell an informer's database from any other.
pub(super) const APPLICATION_ID: u32 = 0x494e_4652;

/// Each entry leads from the version before it to its own, the first from an empty file to 1. An entry is never edited once it has
/// been released; a change is a new entry.
const MIGRATIONS: &[&str] = &[V1];

/// The newest version known here.
pub(super) fn newest() -> u32 {
    u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX)
}

/// What decides where a row lies:
///
/// - `tasks` keeps its rowid. A row is some 500 bytes; in a table without rowid the inner nodes hold whole rows too, so eight
///   would share a node instead of a hundred keys, and each secondary index would repeat 16 bytes of id. New rows land at the
///   right edge of both trees, since ids grow with time.
/// - A change of a task rewrites its row in place and one small entry of `tasks_state`; names, owners and labels never change.
/// - The small tables (`task_keys`, `task_labels`, `history`) are one tree each. A task's history lies together.
/// - `payloads` keeps its rowid: bodies of up to 256 KiB must not lie in a key's tree.
///
/// A filter that is not in a column is not asked for; everything else of a row is in `body`.
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
pub(super) fn migrate(db: &mut Connection, from: u32) -> rusqlite::Result<()> {
    for (version, step) in (1..).zip(MIGRATIONS).filter(|(version, _)| *version > from) {
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        tx.execute_batch(step)?;
        tx.pragma_update(None, "user_version", version)?;
        tx.commit()?;
    }
    Ok(())
}
