//! One commit, one transaction. Statements are prepared once for the life of the connection.

use super::fault::explain;
use super::row::Rows;
use super::{body, flow, item, meta, prune};
use crate::machine::HistoryEvent;
use crate::store::{Commit, Error, Reached};
use prost::Message as _;
use proto::bounds;
use proto::store::{ExecutorRow, SidecarRow};
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use std::path::Path;

pub(super) fn commit(
    db: &mut Connection,
    path: &Path,
    epoch: u64,
    moved: Reached,
    commit: &Commit,
) -> Result<(), Error> {
    let failed = |error| explain("commit to", path, error);
    // Immediate: whoever else might write is found out before anything is done.
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    meta::advance(&tx, epoch, commit.epoch(epoch), commit.seq, moved).map_err(failed)??;
    if !commit.prune.is_empty() || !commit.prune_runs.is_empty() {
        prune::prune(&tx, path, commit)?;
    }
    body::store(&tx, commit).map_err(failed)?;
    item::store(&tx, &commit.items).map_err(failed)?;
    let mut rows = Rows::new(&tx, path);
    for change in &commit.batch.tasks {
        rows.write(change)?;
    }
    flow::store(&tx, path, &commit.batch)?;
    sidecars(&tx, &commit.batch.sidecars).map_err(failed)?;
    executors(&tx, &commit.batch.executors).map_err(failed)?;
    history(&tx, &commit.batch.history).map_err(failed)?;
    tx.commit().map_err(failed)
}

fn sidecars(tx: &Transaction<'_>, rows: &[SidecarRow]) -> rusqlite::Result<()> {
    let mut put = tx.prepare_cached(
        "INSERT INTO sidecars (id, body) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
    )?;
    for row in rows {
        put.execute(params![row.id, row.encode_to_vec()])?;
    }
    Ok(())
}

fn executors(tx: &Transaction<'_>, rows: &[ExecutorRow]) -> rusqlite::Result<()> {
    let mut put = tx.prepare_cached(
        "INSERT INTO executors (type, body) VALUES (?1, ?2) ON CONFLICT (type) DO UPDATE SET body = excluded.body",
    )?;
    let mut delete = tx.prepare_cached("DELETE FROM executors WHERE type = ?1")?;
    for (row, executor) in rows.iter().filter_map(|row| Some((row, row.executor.as_ref()?))) {
        if row.deleted {
            delete.execute([&executor.r#type])?;
        } else {
            put.execute(params![executor.r#type, executor.encode_to_vec()])?;
        }
    }
    Ok(())
}

fn history(tx: &Transaction<'_>, events: &[HistoryEvent]) -> rusqlite::Result<()> {
    let mut append = tx.prepare_cached(
        "INSERT INTO history (task, seq, unix_ms, kind, attempt, detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    // Line 1 says that the task was submitted; it stays, whatever else goes.
    let mut prune = tx.prepare_cached("DELETE FROM history WHERE task = ?1 AND seq > 1 AND seq <= ?2")?;
    for event in events {
        let (task, seq) = (&*event.task.to_bytes(), i64::from(event.seq));
        append.execute(params![task, seq, int(event.unix_ms), event.kind, event.attempt, event.detail])?;
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
