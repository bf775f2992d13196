//! Version 2 of the tables: arrays, their members and items, executors, and what pruning needs.
//!
//! What decides where a row lies:
//!
//! - `tasks` and `members` are one tree each, in the order of ids: a change rewrites its row in one place, a list or a start reads
//!   rows that lie together, and there is no second tree of ids. Members are apart, so that a list of tasks never steps over them
//!   and they carry no names, owners or labels of their own; those of an array are a range.
//! - A task's facts are a column that is written once.
//! - `phase` is what is asked of a state in bulk: 0 queued, 1 placed, 2 failed, 3 cancelled, and nothing for what succeeded, which
//!   leaves the index. So the usual four writes of a task touch that index three times, and `running`, `failed` and the start's
//!   "everything that lives" are each found at once.
//! - `tasks_ended` is written once, at its right edge, when a task ends.
//! - A body belongs to one task unless `payload_shares` says how many more have it: the usual submit writes nothing there, and a
//!   million submits of one body write one small row a commit.
//! - The small tables (`task_keys`, `task_labels`, `history`, `executors`) are one tree each. A task's history lies together.
//! - `payloads` and `array_items` keep their rowid: bodies of up to 256 KiB must not lie in a key's tree.
//!
//! What is not in a column is looked for in rows, one by one.

use super::fault::{damaged, explain};
use super::row;
use super::write::int;
use crate::store::Error;
use prost::Message as _;
use proto::store::TaskRow;
use rusqlite::{Transaction, params};
use std::collections::BTreeMap;
use std::path::Path;

const TABLES: &str = "
    ALTER TABLE tasks RENAME TO tasks_v1;
    DROP INDEX tasks_state;
    DROP INDEX tasks_owner;
    DROP INDEX tasks_name;
    ALTER TABLE task_keys RENAME COLUMN payload TO digest;
    CREATE TABLE tasks (
        id       BLOB    PRIMARY KEY NOT NULL CHECK (length(id) = 16),
        phase    INTEGER,
        state    INTEGER NOT NULL,
        ended_ms INTEGER,
        body     BLOB    NOT NULL,
        owner    TEXT    NOT NULL,
        name     TEXT    NOT NULL,
        facts    BLOB    NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE members (
        id       BLOB    PRIMARY KEY NOT NULL CHECK (length(id) = 20),
        phase    INTEGER,
        state    INTEGER NOT NULL,
        body     BLOB    NOT NULL,
        facts    BLOB    NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX members_phase ON members (phase, id) WHERE phase IS NOT NULL;
    CREATE TABLE payload_shares (
        hash BLOB    PRIMARY KEY NOT NULL,
        more INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE array_items (
        array BLOB    NOT NULL CHECK (length(array) = 16),
        first INTEGER NOT NULL,
        body  BLOB    NOT NULL,
        UNIQUE (array, first)
    ) STRICT;
    CREATE TABLE executors (
        type TEXT PRIMARY KEY NOT NULL,
        body BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
";

/// After the rows, since a tree is built faster at once.
const INDICES: &str = "
    DROP TABLE tasks_v1;
    CREATE INDEX tasks_phase ON tasks (phase, id) WHERE phase IS NOT NULL;
    CREATE INDEX tasks_ended ON tasks (ended_ms, id) WHERE ended_ms IS NOT NULL;
    CREATE INDEX tasks_owner ON tasks (owner, id);
    CREATE INDEX tasks_name  ON tasks (name, id);
";

pub(super) fn run(tx: &Transaction<'_>, path: &Path) -> Result<(), Error> {
    let failed = |error| explain("migrate", path, error);
    tx.execute_batch(TABLES).map_err(failed)?;
    let holders = copy(tx, path)?;
    shares(tx, &holders).map_err(failed)?;
    tx.execute_batch(INDICES).map_err(failed)
}

/// Moves every row, its facts into their own column, and tells how many tasks have each payload.
fn copy(tx: &Transaction<'_>, path: &Path) -> Result<BTreeMap<Vec<u8>, i64>, Error> {
    let failed = |error| explain("migrate", path, error);
    let mut old = tx.prepare("SELECT body, owner, name FROM tasks_v1 ORDER BY id").map_err(failed)?;
    let mut last_line = tx.prepare("SELECT max(seq) FROM history WHERE task = ?1").map_err(failed)?;
    let mut insert = tx.prepare(row::INSERT_TASK).map_err(failed)?;
    let mut holders = BTreeMap::new();
    let mut rows = old.query([]).map_err(failed)?;
    while let Some(found) = rows.next().map_err(failed)? {
        let body: Vec<u8> = found.get(0).map_err(failed)?;
        let mut task = TaskRow::decode(&*body).map_err(|error| damaged(path, "a row of tasks", error))?;
        let facts = task.facts.take().unwrap_or_default();
        // Lines were numbered by the store; from now on the row counts them.
        let lines: Option<u32> = last_line.query_row([&task.id], |row| row.get(0)).map_err(failed)?;
        task.history = lines.unwrap_or(0);
        let (owner, name): (String, String) = (found.get(1).map_err(failed)?, found.get(2).map_err(failed)?);
        let state = task.state();
        let ended_ms = row::is_ended(state).then_some(int(task.ended_unix_ms));
        let (body, facts) = (task.encode_to_vec(), facts.encode_to_vec());
        let values = params![task.id, row::phase(state), state as i32, ended_ms, body, facts, owner, name];
        insert.execute(values).map_err(failed)?;
        *holders.entry(task.payload).or_insert(0) += 1;
    }
    Ok(holders)
}

fn shares(tx: &Transaction<'_>, holders: &BTreeMap<Vec<u8>, i64>) -> rusqlite::Result<()> {
    let mut share = tx.prepare("INSERT INTO payload_shares (hash, more) VALUES (?1, ?2)")?;
    for (hash, tasks) in holders.iter().filter(|(_, tasks)| **tasks > 1) {
        share.execute(params![hash, tasks - 1])?;
    }
    // Bodies of submissions that were refused: the next start removes them.
    let mut bodies = tx.prepare("SELECT hash FROM payloads")?;
    let mut rows = bodies.query([])?;
    while let Some(row) = rows.next()? {
        let hash: Vec<u8> = row.get(0)?;
        if !holders.contains_key(&hash) {
            share.execute(params![hash, -1])?;
        }
    }
    Ok(())
}
