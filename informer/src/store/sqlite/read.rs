//! Queries, on a connection of their own that cannot write.

use super::fault::{damaged, explain};
use super::list::Query;
use super::row::is_member;
use super::write::{int, uint};
use super::{body, item, open, prune};
use crate::machine::{KeyHit, PayloadHandle};
use crate::store::{Error, Filter, HistoryRow, ItemChunk, Page, Read, SCAN_ROWS, id_of};
use bytes::Bytes;
use prost::Message;
use proto::bounds;
use proto::id::TaskId;
use proto::store::{SidecarRow, TaskRow};
use proto::v1::{Executor, TaskState};
use rusqlite::{Connection, OptionalExtension as _, Params, params, params_from_iter};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One read connection.
#[derive(Debug)]
pub(super) struct Reader {
    db: Connection,
    path: PathBuf,
}

/// A task's id, its row and its facts as stored.
type Raw = (Vec<u8>, Vec<u8>, Vec<u8>);

/// Everything that lives, in the order of ids: four ranges of the indexes, merged on the way.
const LIVE: &str = "
    SELECT id, body, facts FROM tasks INDEXED BY tasks_phase WHERE phase = 0 AND id > ?1
    UNION ALL SELECT id, body, facts FROM tasks INDEXED BY tasks_phase WHERE phase = 1 AND id > ?1
    UNION ALL SELECT id, body, facts FROM members INDEXED BY members_phase WHERE phase = 0 AND id > ?1
    UNION ALL SELECT id, body, facts FROM members INDEXED BY members_phase WHERE phase = 1 AND id > ?1
    ORDER BY id LIMIT ?2";

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self { db: open::connect_to_read(path)?, path: path.to_owned() })
    }

    /// All answers of a statement about a table.
    pub(super) fn all<T>(
        &self,
        table: &str,
        sql: &str,
        params: impl Params,
        take: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, Error> {
        let read = || -> rusqlite::Result<Vec<T>> { self.db.prepare_cached(sql)?.query_map(params, take)?.collect() };
        read().map_err(|error| self.failed_in(table, error))
    }

    fn one<T>(
        &self,
        table: &str,
        sql: &str,
        params: impl Params,
        take: impl FnOnce(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, Error> {
        let read = || self.db.prepare_cached(sql)?.query_row(params, take).optional();
        read().map_err(|error| self.failed_in(table, error))
    }

    pub(super) fn decode<M: Message + Default>(&self, what: &str, body: &[u8]) -> Result<M, Error> {
        M::decode(body).map_err(|error| damaged(&self.path, what, error))
    }

    fn task(&self, (id, body, facts): &Raw) -> Result<TaskRow, Error> {
        let row = self.named(id, body)?;
        Ok(TaskRow { facts: Some(self.decode("facts of tasks", facts)?), ..row })
    }

    /// A task's row, which must be the one that stands under this id.
    fn named(&self, id: &[u8], body: &[u8]) -> Result<TaskRow, Error> {
        let row: TaskRow = self.decode("a row of tasks", body)?;
        if row.id == id { Ok(row) } else { Err(damaged(&self.path, "a row of tasks", "it tells of another task")) }
    }

    /// A row of a list; `None` if the filter does not take it. The cheap questions come first.
    fn taken(&self, filter: &Filter, row: &rusqlite::Row<'_>) -> Result<Option<TaskRow>, Error> {
        let failed = |error| self.failed(error);
        let blob = |column| -> Result<&[u8], Error> {
            let value = row.get_ref(column).map_err(failed)?;
            value.as_blob().map_err(|error| failed(error.into()))
        };
        let state: i32 = row.get(1).map_err(failed)?;
        if !filter.states.is_empty() && !filter.states.iter().any(|wanted| *wanted as i32 == state) {
            return Ok(None);
        }
        let mut facts = None;
        if filter.asks_facts() {
            let decoded = self.decode("facts of tasks", blob(3)?)?;
            if !filter.takes_facts(&decoded) {
                return Ok(None);
            }
            facts = Some(decoded);
        }
        let mut row = self.named(blob(0)?, blob(2)?)?;
        if !filter.takes_row(&row) {
            return Ok(None);
        }
        row.facts = Some(match facts {
            Some(facts) => facts,
            None => self.decode("facts of tasks", blob(3)?)?,
        });
        Ok(Some(row))
    }

    pub(super) fn db(&self) -> &Connection {
        &self.db
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn failed(&self, error: rusqlite::Error) -> Error {
        explain("read", &self.path, error)
    }

    /// The same of a row of this table: a value that is not of its column's kind is damage too.
    fn failed_in(&self, table: &str, error: rusqlite::Error) -> Error {
        use rusqlite::Error as E;
        match error {
            E::FromSqlConversionFailure(..) | E::InvalidColumnType(..) | E::Utf8Error(..) => {
                damaged(&self.path, &format!("a row of {table}"), error)
            }
            error => self.failed(error),
        }
    }
}

impl Read for Reader {
    fn live(&mut self, after: Option<TaskId>, limit: usize) -> Result<Vec<TaskRow>, Error> {
        let after = after.map_or_else(Vec::new, |task| task.to_bytes().to_vec());
        let rows = self
            .all("tasks", LIVE, params![after, int(limit as u64)], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        rows.iter().map(|row| self.task(row)).collect()
    }

    fn sidecars(&mut self) -> Result<Vec<SidecarRow>, Error> {
        let rows: Vec<Vec<u8>> = self.all("sidecars", "SELECT body FROM sidecars ORDER BY id", [], |row| row.get(0))?;
        rows.iter().map(|body| self.decode("a row of sidecars", body)).collect()
    }

    fn get(&mut self, task: TaskId) -> Result<Option<TaskRow>, Error> {
        let id = task.to_bytes();
        let sql = if is_member(&id) {
            "SELECT id, body, facts FROM members WHERE id = ?1"
        } else {
            "SELECT id, body, facts FROM tasks WHERE id = ?1"
        };
        let row: Option<Raw> = self.one("tasks", sql, [&*id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        row.map(|row| self.task(&row)).transpose()
    }

    fn list(&mut self, filter: &Filter) -> Result<Page, Error> {
        let failed = |error| self.failed(error);
        let query = Query::of(filter);
        let mut statement = self.db.prepare_cached(&query.sql).map_err(failed)?;
        let mut found = statement.query(params_from_iter(query.params)).map_err(failed)?;
        let mut page = Page::default();
        for scanned in 1.. {
            let Some(row) = found.next().map_err(failed)? else { break };
            if let Some(task) = self.taken(filter, row)? {
                if page.rows.len() == filter.rows() {
                    page.next = page.rows.last().and_then(id_of);
                    break;
                }
                page.rows.push(task);
            }
            if scanned == SCAN_ROWS {
                let id: Vec<u8> = row.get(0).map_err(failed)?;
                page.next = TaskId::from_bytes(&id);
                break;
            }
        }
        Ok(page)
    }

    fn history(&mut self, task: TaskId, after_seq: u64, limit: u32) -> Result<Vec<HistoryRow>, Error> {
        let sql = "SELECT seq, unix_ms, kind, attempt, detail FROM history
                   WHERE task = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";
        self.all("history", sql, params![&*task.to_bytes(), int(after_seq), limit], |row| {
            Ok(HistoryRow {
                seq: uint(row.get(0)?),
                unix_ms: uint(row.get(1)?),
                kind: row.get(2)?,
                attempt: row.get(3)?,
                detail: row.get(4)?,
            })
        })
    }

    fn children(&mut self, parent: TaskId) -> Result<Vec<(TaskState, u32)>, Error> {
        let sql = "SELECT t.state, COUNT(*) FROM task_labels l CROSS JOIN tasks t ON t.id = l.task
                   WHERE l.key = ?1 AND l.value = ?2 GROUP BY t.state";
        let counts: Vec<(i32, u32)> =
            self.all("tasks", sql, params![bounds::PARENT_LABEL, parent.to_string()], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        let state = |state| TaskState::try_from(state).unwrap_or_default();
        Ok(counts.into_iter().map(|(of, count)| (state(of), count)).collect())
    }

    fn payloads(&mut self, handles: &[PayloadHandle]) -> Result<BTreeMap<PayloadHandle, Bytes>, Error> {
        body::read(&self.db, &self.path, handles)
    }

    fn item(&mut self, array: TaskId, position: u32) -> Result<Option<String>, Error> {
        item::read(&self.db, &self.path, array, position)
    }

    fn item_chunk(&mut self, array: TaskId, position: u32) -> Result<Option<ItemChunk>, Error> {
        item::chunk(&self.db, &self.path, array, position)
    }

    fn executors(&mut self) -> Result<Vec<Executor>, Error> {
        let rows: Vec<Vec<u8>> =
            self.all("executors", "SELECT body FROM executors ORDER BY type", [], |row| row.get(0))?;
        rows.iter().map(|body| self.decode("a row of executors", body)).collect()
    }

    fn prunable(&mut self, ended_before_unix_ms: u64, keep: u64, limit: usize) -> Result<Vec<TaskId>, Error> {
        // One state of the store: what ended in between must not count for what is kept.
        let snapshot = self.db.unchecked_transaction().map_err(|error| self.failed(error))?;
        let found = prune::prunable(&snapshot, ended_before_unix_ms, keep, limit);
        let ids = found.map_err(|error| self.failed(error))?;
        let read = |id: &Vec<u8>| {
            TaskId::from_bytes(id).ok_or_else(|| damaged(&self.path, "a row of tasks", "an id of the wrong length"))
        };
        ids.iter().map(read).collect()
    }

    fn key(&mut self, key: &str) -> Result<Option<KeyHit>, Error> {
        let sql = "SELECT task, digest FROM task_keys WHERE key = ?1";
        let found =
            self.one("task_keys", sql, [key], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?)))?;
        let Some((task, digest)) = found else { return Ok(None) };
        let hit = TaskId::from_bytes(&task).zip(digest.try_into().ok());
        let hit = hit.ok_or_else(|| damaged(&self.path, "a row of task_keys", "an id of the wrong length"))?;
        Ok(Some(KeyHit { task: hit.0, digest: hit.1 }))
    }
}
