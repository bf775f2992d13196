//! The schema, by `user_version`.

use super::Error;
use crate::agent::failpoint;
use rusqlite::Connection;
use std::path::Path;

/// Each brings the ledger from its index to the next version. Steps are only ever appended.
pub(super) const STEPS: [&str; 3] = [
    "
    CREATE TABLE meta (
        one             INTEGER PRIMARY KEY CHECK (one = 1),
        sidecar         BLOB NOT NULL,
        incarnation     INTEGER NOT NULL,
        informer        TEXT NOT NULL,
        lineage         TEXT NOT NULL,
        epoch           INTEGER NOT NULL,
        commit_seq      INTEGER NOT NULL,
        fence_epoch     INTEGER NOT NULL,
        fence_n         INTEGER NOT NULL
    );
    CREATE TABLE attempts (
        attempt         TEXT PRIMARY KEY,
        fence_epoch     INTEGER NOT NULL,
        fence_n         INTEGER NOT NULL,
        ord             INTEGER NOT NULL,
        stop            INTEGER NOT NULL,
        set_aside       INTEGER NOT NULL,
        log_bytes       INTEGER NOT NULL,
        state           TEXT NOT NULL,
        started         BLOB,
        ending          BLOB,
        failure         TEXT,
        assign          BLOB
    ) WITHOUT ROWID;
",
    // Of a retired attempt: whether its log shall be, or is, stored at the informer. Earlier versions stored none.
    "
    ALTER TABLE attempts ADD COLUMN log_copy TEXT;
    UPDATE attempts SET log_copy = 'unwanted' WHERE state = 'retired';
",
    // Children of running tasks that the informer has not answered.
    "
    CREATE TABLE emits (
        attempt         TEXT NOT NULL,
        key             TEXT NOT NULL,
        ord             INTEGER NOT NULL,
        digest          BLOB NOT NULL,
        payload         BLOB NOT NULL,
        PRIMARY KEY (attempt, key)
    );
",
];

/// Version that this build writes.
const VERSION: i64 = STEPS.len() as i64;

/// What stands for the column `log_copy` in a ledger of this version.
pub(super) const fn log_copy(version: i64) -> &'static str {
    if version < 2 { "CASE state WHEN 'retired' THEN 'unwanted' END" } else { "log_copy" }
}

/// Brings the ledger to this build's version.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), Error> {
    let unusable = |source| Error::Database { path: path.to_owned(), source };
    let found = version(connection, path)?;
    let transaction = connection.transaction().map_err(unusable)?;
    for step in STEPS.iter().skip(usize::try_from(found).unwrap_or(usize::MAX)) {
        transaction.execute_batch(step).map_err(unusable)?;
    }
    transaction.pragma_update(None, "user_version", VERSION).map_err(unusable)?;
    failpoint::reach("mid-migration");
    transaction.commit().map_err(unusable)?;
    failpoint::reach("after-migration");
    Ok(())
}

/// The version found; one that this build does not know is refused before anything is read.
pub(super) fn version(connection: &Connection, path: &Path) -> Result<i64, Error> {
    let unusable = |source| Error::Database { path: path.to_owned(), source };
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(unusable)?;
    if (0..=VERSION).contains(&found) {
        return Ok(found);
    }
    Err(Error::Newer { path: path.to_owned(), found, known: VERSION })
}
