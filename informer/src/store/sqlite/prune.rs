//! What goes with a task: its keys, labels, history, items, and the body if nobody else has it. And which tasks may go.

use super::fault::{damaged, explain};
use super::row::is_member;
use super::write::int;
use super::{body, flow};
use crate::store::{Commit, Error};
use prost::Message as _;
use proto::store::{Facts, TaskRow};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use std::collections::BTreeMap;
use std::path::Path;

/// Removes tasks and runs; those that are not there are passed over.
pub(super) fn prune(tx: &Transaction<'_>, path: &Path, commit: &Commit) -> Result<(), Error> {
    let failed = |error| explain("commit to", path, error);
    let mut released = BTreeMap::new();
    for task in &commit.prune {
        let id = task.to_bytes();
        if is_member(&id) {
            run(tx, "DELETE FROM members WHERE id = ?1", &id).map_err(failed)?;
        } else {
            names(tx, path, &id, &mut released)?;
            run(tx, "DELETE FROM array_items WHERE array = ?1", &id).map_err(failed)?;
            run(tx, "DELETE FROM tasks WHERE id = ?1", &id).map_err(failed)?;
        }
        run(tx, "DELETE FROM history WHERE task = ?1", &id).map_err(failed)?;
    }
    flow::prune(tx, path, commit, &mut released)?;
    body::release(tx, &released).map_err(failed)
}

fn run(tx: &Transaction<'_>, sql: &str, id: &[u8]) -> rusqlite::Result<usize> {
    tx.prepare_cached(sql)?.execute([id])
}

/// Removes what finds a task besides its id, and counts its body as released.
fn names(tx: &Transaction<'_>, path: &Path, id: &[u8], released: &mut BTreeMap<Vec<u8>, i64>) -> Result<(), Error> {
    let failed = |error| explain("commit to", path, error);
    let unreadable = |error| damaged(path, "a row of tasks", error);
    let mut get = tx.prepare_cached("SELECT body, facts FROM tasks WHERE id = ?1").map_err(failed)?;
    let found: Option<(Vec<u8>, Vec<u8>)> =
        get.query_row([id], |row| Ok((row.get(0)?, row.get(1)?))).optional().map_err(failed)?;
    let Some((body, facts)) = found else { return Ok(()) };
    let row = TaskRow::decode(&*body).map_err(unreadable)?;
    let facts = Facts::decode(&*facts).map_err(unreadable)?;
    for (name, value) in &facts.labels {
        let sql = "DELETE FROM task_labels WHERE key = ?1 AND value = ?2 AND task = ?3";
        let gone = tx.prepare_cached(sql).and_then(|mut label| label.execute(params![name, value, id]));
        gone.map_err(failed)?;
    }
    if !row.key.is_empty() {
        let sql = "DELETE FROM task_keys WHERE key = ?1 AND task = ?2";
        let gone = tx.prepare_cached(sql).and_then(|mut key| key.execute(params![row.key, id]));
        gone.map_err(failed)?;
    }
    *released.entry(row.payload).or_insert(0) += 1;
    Ok(())
}

/// Where the range of ended tasks that may go ends: a time and an id.
type Bar = (i64, Vec<u8>);

/// The ended tasks that may go, or members in the place of their array.
pub(super) fn prunable(db: &Connection, before_ms: u64, keep: u64, limit: usize) -> rusqlite::Result<Vec<Vec<u8>>> {
    let Some((ended_ms, id)) = kept(db, keep)?.max(aged(before_ms)) else { return Ok(Vec::new()) };
    // The first condition is the index's range; the second decides among those that ended in the last millisecond.
    let sql = "SELECT id FROM tasks INDEXED BY tasks_ended
               WHERE ended_ms <= ?1 AND (ended_ms < ?1 OR id <= ?2) ORDER BY ended_ms, id";
    let mut ended = db.prepare_cached(sql)?;
    let mut members = db.prepare_cached("SELECT id FROM members WHERE id > ?1 AND id < ?2 ORDER BY id LIMIT ?3")?;
    let mut rows = ended.query(params![ended_ms, id])?;
    let mut prunable = Vec::new();
    while prunable.len() < limit
        && let Some(row) = rows.next()?
    {
        let task: Vec<u8> = row.get(0)?;
        let (alone, room) = (prunable.len(), int((limit - prunable.len()) as u64));
        for member in members.query_map(params![task, after_members(&task), room], |row| row.get(0))? {
            prunable.push(member?);
        }
        if prunable.len() == alone {
            prunable.push(task);
        }
    }
    Ok(prunable)
}

/// The end of what is too old.
fn aged(before_ms: u64) -> Option<Bar> {
    Some((int(before_ms.checked_sub(1)?), vec![u8::MAX; 17]))
}

/// The end of what is too many.
fn kept(db: &Connection, keep: u64) -> rusqlite::Result<Option<Bar>> {
    let sql = "SELECT ended_ms, id FROM tasks INDEXED BY tasks_ended WHERE ended_ms IS NOT NULL
               ORDER BY ended_ms DESC, id DESC LIMIT 1 OFFSET ?1";
    // More than a database can have: no need to count.
    if keep > u64::from(u32::MAX) {
        return Ok(None);
    }
    let mut statement = db.prepare_cached(sql)?;
    statement.query_row([int(keep)], |row| Ok((row.get(0)?, row.get(1)?))).optional()
}

/// Above the ids of all members of an array, and below every other id above them.
pub(super) fn after_members(array: &[u8]) -> Vec<u8> {
    [array, &[u8::MAX; 5]].concat()
}
