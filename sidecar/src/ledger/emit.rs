//! The rows of emits: children of running tasks that the informer has not answered.

use super::{Error, loaded, stored};
use crate::machine::{Batch, Emit, EmitRow};
use rusqlite::{Connection, params};
use std::path::Path;

/// What a batch changes.
pub(super) fn write(connection: &Connection, batch: &Batch) -> rusqlite::Result<()> {
    for (attempt, key) in &batch.emits_gone {
        let mut delete = connection.prepare_cached("DELETE FROM emits WHERE attempt = ?1 AND key = ?2")?;
        delete.execute(params![attempt.to_string(), key])?;
    }
    for EmitRow { attempt, order, emit } in &batch.emits {
        let mut insert = connection.prepare_cached("INSERT OR REPLACE INTO emits VALUES (?1, ?2, ?3, ?4, ?5)")?;
        insert.execute(params![attempt.to_string(), emit.key, stored(*order), &emit.digest[..], emit.payload])?;
    }
    Ok(())
}

/// All of them, in the order in which they came.
pub(super) fn read(connection: &Connection, path: &Path) -> Result<Vec<EmitRow>, Error> {
    let unusable = |source| Error::Database { path: path.to_owned(), source };
    let mut statement =
        connection.prepare("SELECT attempt, key, ord, digest, payload FROM emits ORDER BY ord").map_err(unusable)?;
    let read = |row: &rusqlite::Row<'_>| {
        let (attempt, key, order, digest): (String, String, i64, Vec<u8>) =
            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        Ok((attempt, key, order, digest, row.get(4)?))
    };
    let mut emits = Vec::new();
    for row in statement.query_map([], read).map_err(unusable)? {
        let (attempt, key, order, digest, payload) = row.map_err(unusable)?;
        let damaged = |what: String| Error::Damaged { path: path.to_owned(), what };
        let parsed = attempt.parse().map_err(|_| damaged(format!("an emit of {attempt}, which is no attempt's id")))?;
        let digest = digest.try_into().map_err(|_| damaged(format!("emit {key:?} of {attempt} has no digest")))?;
        emits.push(EmitRow { attempt: parsed, order: loaded(order), emit: Emit { key, digest, payload } });
    }
    Ok(emits)
}
