//! One commit, one transaction. Statements are prepared once a commit and run for every row of it.

use super::fault::explain;
use crate::machine::{HistoryEvent, PayloadHandle, TaskChange};
use crate::store::{Commit, Error};
use bytes::Bytes;
use prost::Message as _;
use proto::bounds;
use proto::store::SidecarRow;
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, params};
use std::path::Path;

pub(super) fn commit(db: &mut Connection, path: &Path, epoch: u64, commit: &Commit) -> Result<(), Error> {
    let failed = |error| explain("commit to", path, error);
    // Immediate: whoever else might write is found out before anything is done.
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    advance(&tx, epoch, commit).map_err(failed)??;
    payloads(&tx, &commit.payloads).map_err(failed)?;
    tasks(&tx, &commit.batch.tasks).map_err(failed)??;
    sidecars(&tx, &commit.batch.sidecars).map_err(failed)?;
    history(&tx, &commit.batch.history).map_err(failed)?;
    tx.commit().map_err(failed)
}

/// Moves the commit sequence on, if the epoch is still ours; raises the epoch if the batch says so.
fn advance(tx: &Transaction<'_>, epoch: u64, commit: &Commit) -> rusqlite::Result<Result<(), Error>> {
    let raised = commit.batch.epoch.unwrap_or(epoch).max(epoch);
    let moved = tx.execute(
        "UPDATE meta SET commit_seq = ?1, epoch = ?2 WHERE one = 1 AND epoch = ?3 AND commit_seq = ?1 - 1",
        params![int(commit.seq), int(raised), int(epoch)],
    )?;
    if moved == 1 {
        return Ok(Ok(()));
    }
    let (claimed, last) =
        tx.query_row("SELECT epoch, commit_seq FROM meta", [], |row| Ok((uint(row.get(0)?), uint(row.get(1)?))))?;
    Ok(Err(if claimed == epoch {
        Error::OutOfOrder { given: commit.seq, last }
    } else {
        Error::Fenced { ours: epoch, claimed }
    }))
}

fn payloads(tx: &Transaction<'_>, payloads: &[(PayloadHandle, Bytes)]) -> rusqlite::Result<()> {
    if payloads.is_empty() {
        return Ok(());
    }
    let mut put = tx.prepare("INSERT INTO payloads (hash, body) VALUES (?1, ?2) ON CONFLICT (hash) DO NOTHING")?;
    for (hash, body) in payloads {
        put.execute(params![hash.as_slice(), body.as_ref()])?;
    }
    Ok(())
}

fn tasks(tx: &Transaction<'_>, rows: &[TaskChange]) -> rusqlite::Result<Result<(), Error>> {
    if rows.is_empty() {
        return Ok(Ok(()));
    }
    let mut update = tx.prepare("UPDATE tasks SET state = ?2, body = ?3 WHERE id = ?1")?;
    let mut insert = tx.prepare("INSERT INTO tasks (id, state, owner, name, body) VALUES (?1, ?2, ?3, ?4, ?5)")?;
    let mut label = tx.prepare("INSERT INTO task_labels (key, value, task) VALUES (?1, ?2, ?3)")?;
    let mut key = tx.prepare("INSERT INTO task_keys (key, task, payload) VALUES (?1, ?2, ?3)")?;
    let mut body = Vec::new();
    for change in rows {
        let row = change.whole();
        body.clear();
        row.encode(&mut body).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
        if update.execute(params![row.id, row.state, body])? == 1 {
            continue;
        }
        // New: only now are key and labels written, which never change.
        let facts = row.facts.as_ref();
        let (owner, name) = facts.map_or(("", ""), |facts| (facts.owner.as_str(), facts.name.as_str()));
        insert.execute(params![row.id, row.state, owner, name, body])?;
        for (name, value) in facts.iter().flat_map(|facts| &facts.labels) {
            label.execute(params![name, value, row.id])?;
        }
        if row.key.is_empty() {
            continue;
        }
        match key.execute(params![row.key, row.id, row.payload]) {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                return Ok(Err(Error::KeyTaken { task: crate::store::name_of(&row) }));
            }
            other => other?,
        };
    }
    Ok(Ok(()))
}

fn sidecars(tx: &Transaction<'_>, rows: &[SidecarRow]) -> rusqlite::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut put = tx.prepare(
        "INSERT INTO sidecars (id, body) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
    )?;
    for row in rows {
        put.execute(params![row.id, row.encode_to_vec()])?;
    }
    Ok(())
}

fn history(tx: &Transaction<'_>, events: &[HistoryEvent]) -> rusqlite::Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let mut append = tx.prepare(
        "INSERT INTO history (task, seq, unix_ms, kind, attempt, detail)
         VALUES (?1, ?6, ?2, ?3, ?4, ?5)",
    )?;
    // Line 1 says that the task was submitted; it stays, whatever else goes.
    let mut prune = tx.prepare("DELETE FROM history WHERE task = ?1 AND seq > 1 AND seq <= ?2")?;
    for event in events {
        let task = &*event.task.to_bytes();
        let seq = i64::from(event.seq);
        append.execute(params![task, int(event.unix_ms), event.kind, event.attempt, event.detail, seq])?;
        if seq > int(bounds::HISTORY_EVENTS) {
            prune.execute(params![task, seq - int(bounds::HISTORY_EVENTS) + 1])?;
        }
    }
    Ok(())
}

/// SQLite's integers are signed; every number here is far below the difference.
pub(super) fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// The way back.
pub(super) fn uint(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}
