//! The schema, by `user_version`.

use super::Error;
use rusqlite::Connection;
use std::path::Path;

/// Each brings the ledger from its index to the next version. Steps are only ever appended.
const STEPS: [&str; 1] = ["
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
"];

/// Version that this build writes.
const VERSION: i64 = STEPS.len() as i64;

/// Brings the ledger to this build's version.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), Error> {
    let unusable = |source| Error::Database { path: path.to_owned(), source };
    let found = version(connection, path)?;
    let transaction = connection.transaction().map_err(unusable)?;
    for step in STEPS.iter().skip(usize::try_from(found).unwrap_or(usize::MAX)) {
        transaction.execute_batch(step).map_err(unusable)?;
    }
    transaction.pragma_update(None, "user_version", VERSION).map_err(unusable)?;
    transaction.commit().map_err(unusable)
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
