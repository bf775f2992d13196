//! How workflows are written: definitions, runs and what belongs to them; and how a run goes.

use super::fault::{damaged, explain};
use super::write::int;
use crate::machine::{Batch, RunChange};
use crate::store::{Commit, Error, is_live};
use prost::Message as _;
use proto::bounds;
use proto::store::{DefinitionRow, RunRow, TaskDefinitionRow};
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, params};
use std::collections::BTreeMap;
use std::path::Path;

/// How many more holders each body has.
pub(super) type Holders = BTreeMap<Vec<u8>, i64>;

/// Writes everything about workflows except bodies.
pub(super) fn store(db: &Connection, path: &Path, batch: &Batch) -> Result<(), Error> {
    let failed = |error| explain("commit to", path, error);
    definitions(db, &batch.definitions).map_err(failed)?;
    task_definitions(db, &batch.task_definitions).map_err(failed)?;
    for change in &batch.runs {
        if let Some(row) = &change.row {
            write_run(db, path, row, change.fresh)?;
        }
        steps(db, change).map_err(failed)?;
    }
    events(db, batch).map_err(failed)
}

fn definitions(db: &Connection, rows: &[DefinitionRow]) -> rusqlite::Result<()> {
    let sql = "INSERT INTO definitions (name, version, body) VALUES (?1, ?2, ?3)
               ON CONFLICT (name, version) DO UPDATE SET body = excluded.body";
    for row in rows {
        if row.deleted {
            let mut delete = db.prepare_cached("DELETE FROM definitions WHERE name = ?1 AND version = ?2")?;
            delete.execute(params![row.name, row.version])?;
        } else {
            db.prepare_cached(sql)?.execute(params![row.name, row.version, row.encode_to_vec()])?;
        }
    }
    Ok(())
}

fn task_definitions(db: &Connection, rows: &[TaskDefinitionRow]) -> rusqlite::Result<()> {
    let sql = "INSERT INTO task_definitions (name, body) VALUES (?1, ?2)
               ON CONFLICT (name) DO UPDATE SET body = excluded.body";
    for row in rows {
        if row.deleted {
            db.prepare_cached("DELETE FROM task_definitions WHERE name = ?1")?.execute([&row.name])?;
        } else {
            db.prepare_cached(sql)?.execute(params![row.name, row.encode_to_vec()])?;
        }
    }
    Ok(())
}

fn write_run(db: &Connection, path: &Path, row: &RunRow, fresh: bool) -> Result<(), Error> {
    let failed = |error| explain("commit to", path, error);
    let live = is_live(row).then_some(1);
    let ended_ms = (row.ended_unix_ms > 0).then_some(int(row.ended_unix_ms));
    let body = row.encode_to_vec();
    if !fresh {
        let sql = "UPDATE runs SET live = ?2, status = ?3, ended_ms = ?4, body = ?5 WHERE id = ?1";
        let values = params![row.id, live, row.status, ended_ms, body];
        let hit = db.prepare_cached(sql).and_then(|mut update| update.execute(values)).map_err(failed)?;
        return if hit == 1 { Ok(()) } else { Err(strange(path, row, "is missing")) };
    }
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let sql = "INSERT INTO runs (id, live, status, name, owner, correlation, parent, ended_ms, body)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    let (correlation, parent) = (given(&row.correlation), given(&row.parent));
    let values = params![row.id, live, row.status, row.name, row.owner, correlation, parent, ended_ms, body];
    let inserted = db.prepare_cached(sql).and_then(|mut insert| insert.execute(values));
    inserted.map_err(|error| match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation) => strange(path, row, "is already there"),
        _ => failed(error),
    })?;
    for (key, value) in &row.labels {
        let sql = "INSERT INTO run_labels (key, value, run) VALUES (?1, ?2, ?3)";
        let label = db.prepare_cached(sql).and_then(|mut label| label.execute(params![key, value, row.id]));
        label.map_err(failed)?;
    }
    if row.key.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO run_keys (key, run, digest) VALUES (?1, ?2, ?3)";
    let mut key = db.prepare_cached(sql).map_err(failed)?;
    match key.execute(params![row.key, row.id, row.key_digest]) {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
            Err(Error::KeyTaken { task: row.id.clone() })
        }
        other => other.map(|_| ()).map_err(failed),
    }
}

fn strange(path: &Path, row: &RunRow, what: &str) -> Error {
    damaged(path, "the row of a run", format!("{} {what}", row.id))
}

fn steps(db: &Connection, change: &RunChange) -> rusqlite::Result<()> {
    let id = &*change.id;
    if change.parts_removed {
        db.prepare_cached("DELETE FROM run_parts WHERE run = ?1")?.execute([id])?;
    }
    if !change.removed.is_empty() {
        let mut remove = db.prepare_cached("DELETE FROM run_steps WHERE run = ?1 AND step = ?2")?;
        for step in &change.removed {
            remove.execute(params![id, step])?;
        }
    }
    let mut put = db.prepare_cached(
        "INSERT INTO run_steps (run, step, body) VALUES (?1, ?2, ?3)
         ON CONFLICT (run, step) DO UPDATE SET body = excluded.body",
    )?;
    for step in &change.steps {
        put.execute(params![id, step.step, json(step)])?;
    }
    let mut put = db.prepare_cached(
        "INSERT INTO run_parts (run, part, body) VALUES (?1, ?2, ?3)
         ON CONFLICT (run, part) DO UPDATE SET body = excluded.body",
    )?;
    for part in &change.parts {
        put.execute(params![id, part.part, json(part)])?;
    }
    Ok(())
}

fn json(row: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(row).expect("rows are plain data with text for keys")
}

fn events(db: &Connection, batch: &Batch) -> rusqlite::Result<()> {
    let mut append = db.prepare_cached("INSERT INTO run_events (run, seq, body) VALUES (?1, ?2, ?3)")?;
    // Line 1 says that the run started; it stays, whatever else goes.
    let mut prune = db.prepare_cached("DELETE FROM run_events WHERE run = ?1 AND seq > 1 AND seq <= ?2")?;
    for event in &batch.run_events {
        append.execute(params![event.run, event.seq, event.encode_to_vec()])?;
        if event.seq > bounds::RUN_EVENTS {
            prune.execute(params![event.run, event.seq - bounds::RUN_EVENTS + 1])?;
        }
    }
    Ok(())
}

/// Notes which bodies runs have from now on, and counts those that are new to a run.
pub(super) fn hold(db: &Connection, commit: &Commit, holders: &mut Holders) -> rusqlite::Result<()> {
    let sql = "INSERT INTO run_bodies (run, hash) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
    let mut hold = db.prepare_cached(sql)?;
    for change in &commit.batch.runs {
        for hash in &change.holds {
            if hold.execute(params![&*change.id, hash.as_slice()])? == 1 {
                *holders.entry(hash.to_vec()).or_insert(0) += 1;
            }
        }
    }
    Ok(())
}

/// Removes runs with all that belongs to them, and counts their bodies as released.
pub(super) fn prune(db: &Connection, path: &Path, commit: &Commit, released: &mut Holders) -> Result<(), Error> {
    let failed = |error| explain("commit to", path, error);
    for run in &commit.prune_runs {
        names(db, path, run)?;
        let mut bodies = db.prepare_cached("SELECT hash FROM run_bodies WHERE run = ?1").map_err(failed)?;
        let found = bodies.query_map([&**run], |row| row.get::<_, Vec<u8>>(0)).map_err(failed)?;
        for hash in found {
            *released.entry(hash.map_err(failed)?).or_insert(0) += 1;
        }
        for sql in [
            "DELETE FROM run_bodies WHERE run = ?1",
            "DELETE FROM run_steps WHERE run = ?1",
            "DELETE FROM run_parts WHERE run = ?1",
            "DELETE FROM run_events WHERE run = ?1",
            "DELETE FROM runs WHERE id = ?1",
        ] {
            db.prepare_cached(sql).and_then(|mut delete| delete.execute([&**run])).map_err(failed)?;
        }
    }
    Ok(())
}

/// Removes what finds a run besides its id.
fn names(db: &Connection, path: &Path, run: &str) -> Result<(), Error> {
    let failed = |error| explain("commit to", path, error);
    let mut get = db.prepare_cached("SELECT body FROM runs WHERE id = ?1").map_err(failed)?;
    let Some(body) = get.query_row([run], |row| row.get::<_, Vec<u8>>(0)).optional().map_err(failed)? else {
        return Ok(());
    };
    let row = RunRow::decode(&*body).map_err(|error| damaged(path, "a row of runs", error))?;
    for (key, value) in &row.labels {
        let sql = "DELETE FROM run_labels WHERE key = ?1 AND value = ?2 AND run = ?3";
        let gone = db.prepare_cached(sql).and_then(|mut label| label.execute(params![key, value, run]));
        gone.map_err(failed)?;
    }
    let sql = "DELETE FROM run_keys WHERE key = ?1 AND run = ?2";
    let gone = db.prepare_cached(sql).and_then(|mut key| key.execute(params![row.key, run]));
    gone.map(|_| ()).map_err(failed)
}
