//! Queries, on a connection of their own that cannot write.

use super::fault::{damaged, explain};
use super::write::{int, uint};
use super::{list, open};
use crate::machine::{KeyHit, PayloadHandle};
use crate::store::{Error, Filter, HistoryRow, LIVE, Page, Read};
use bytes::Bytes;
use prost::Message;
use proto::id::TaskId;
use proto::store::{SidecarRow, TaskRow};
use rusqlite::{Connection, OptionalExtension as _, Params, params, params_from_iter};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One read connection.
#[derive(Debug)]
pub(super) struct Reader {
    db: Connection,
    path: PathBuf,
}

/// `(id, body)` as stored.
type Raw = (Vec<u8>, Vec<u8>);

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let db = open::connect(path)?;
        let set = db.pragma_update(None, "query_only", true).and_then(|()| open::leave_the_log(&db));
        set.map_err(|error| explain("open", path, error))?;
        Ok(Self { db, path: path.to_owned() })
    }

    fn raw(&self, sql: &str, params: impl Params) -> Result<Vec<Raw>, Error> {
        let read = || -> rusqlite::Result<Vec<Raw>> {
            let mut statement = self.db.prepare(sql)?;
            let rows = statement.query_map(params, |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
        };
        read().map_err(|error| self.failed(error))
    }

    fn one<T>(
        &self,
        sql: &str,
        params: impl Params,
        take: impl FnOnce(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, Error> {
        self.db.query_row(sql, params, take).optional().map_err(|error| self.failed(error))
    }

    fn decode<M: Message + Default>(&self, what: &str, body: &[u8]) -> Result<M, Error> {
        M::decode(body).map_err(|error| damaged(&self.path, what, error))
    }

    fn task(&self, body: &[u8]) -> Result<TaskRow, Error> {
        self.decode("a row of tasks", body)
    }

    /// Several statements over one state of the store: otherwise a task that changes in between shows up twice or never.
    fn snapshot(&self) -> Result<rusqlite::Transaction<'_>, Error> {
        self.db.unchecked_transaction().map_err(|error| self.failed(error))
    }

    fn failed(&self, error: rusqlite::Error) -> Error {
        explain("read", &self.path, error)
    }
}

impl Read for Reader {
    fn live(&mut self, after: Option<TaskId>, limit: usize) -> Result<Vec<TaskRow>, Error> {
        let after = after.map_or_else(Vec::new, |task| task.to_bytes().to_vec());
        let sql = "SELECT id, body FROM tasks INDEXED BY tasks_state
                   WHERE state = ?1 AND id > ?2 ORDER BY id LIMIT ?3";
        let _snapshot = self.snapshot()?;
        let mut rows = Vec::new();
        for state in LIVE {
            rows.extend(self.raw(sql, params![state as i32, after, int(limit as u64)])?);
        }
        rows.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        rows.truncate(limit);
        rows.iter().map(|(_, body)| self.task(body)).collect()
    }

    fn sidecars(&mut self) -> Result<Vec<SidecarRow>, Error> {
        let rows = {
            let read = || -> rusqlite::Result<Vec<Vec<u8>>> {
                let mut statement = self.db.prepare("SELECT body FROM sidecars ORDER BY id")?;
                statement.query_map([], |row| row.get(0))?.collect()
            };
            read().map_err(|error| self.failed(error))?
        };
        rows.iter().map(|body| self.decode("a row of sidecars", body)).collect()
    }

    fn get(&mut self, task: TaskId) -> Result<Option<TaskRow>, Error> {
        let sql = "SELECT body FROM tasks WHERE id = ?1";
        let body: Option<Vec<u8>> = self.one(sql, [&*task.to_bytes()], |row| row.get(0))?;
        body.map(|body| self.task(&body)).transpose()
    }

    fn list(&mut self, filter: &Filter) -> Result<Page, Error> {
        let wanted = filter.rows();
        let _snapshot = self.snapshot()?;
        let mut rows = Vec::new();
        // One more than wanted tells whether there is another page.
        for query in list::queries(filter, wanted + 1) {
            rows.extend(self.raw(&query.sql, params_from_iter(query.params))?);
        }
        rows.sort_unstable_by(|a, b| b.0.cmp(&a.0));
        let more = rows.len() > wanted;
        rows.truncate(wanted);
        let next = if more { rows.last().and_then(|(id, _)| TaskId::from_bytes(id)) } else { None };
        Ok(Page { rows: rows.iter().map(|(_, body)| self.task(body)).collect::<Result<_, _>>()?, next })
    }

    fn history(&mut self, task: TaskId, after_seq: u64, limit: u32) -> Result<Vec<HistoryRow>, Error> {
        let sql = "SELECT seq, unix_ms, kind, attempt, detail FROM history
                   WHERE task = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";
        let read = || -> rusqlite::Result<Vec<HistoryRow>> {
            let mut statement = self.db.prepare(sql)?;
            let rows = statement.query_map(params![&*task.to_bytes(), int(after_seq), limit], |row| {
                Ok(HistoryRow {
                    seq: uint(row.get(0)?),
                    unix_ms: uint(row.get(1)?),
                    kind: row.get(2)?,
                    attempt: row.get(3)?,
                    detail: row.get(4)?,
                })
            })?;
            rows.collect()
        };
        read().map_err(|error| self.failed(error))
    }

    fn payloads(&mut self, handles: &[PayloadHandle]) -> Result<BTreeMap<PayloadHandle, Bytes>, Error> {
        let read = || -> rusqlite::Result<BTreeMap<PayloadHandle, Bytes>> {
            let mut statement = self.db.prepare("SELECT body FROM payloads WHERE hash = ?1")?;
            let mut bodies = BTreeMap::new();
            for handle in handles {
                let body = statement.query_row([handle.as_slice()], |row| row.get::<_, Vec<u8>>(0)).optional()?;
                bodies.extend(body.map(|body| (*handle, Bytes::from(body))));
            }
            Ok(bodies)
        };
        read().map_err(|error| self.failed(error))
    }

    fn item(&mut self, _array: TaskId, _position: u32) -> Result<Option<String>, Error> {
        Ok(None)
    }

    fn executors(&mut self) -> Result<Vec<proto::v1::Executor>, Error> {
        Ok(Vec::new())
    }

    fn prunable(&mut self, _ended_before_unix_ms: u64, _keep: u64, _limit: usize) -> Result<Vec<TaskId>, Error> {
        Ok(Vec::new())
    }

    fn key(&mut self, key: &str) -> Result<Option<KeyHit>, Error> {
        let sql = "SELECT task, payload FROM task_keys WHERE key = ?1";
        let Some((task, payload)) = self.one(sql, [key], |row| Ok((row.get(0)?, row.get(1)?)))? else {
            return Ok(None);
        };
        let (task, payload): Raw = (task, payload);
        let hit = TaskId::from_bytes(&task).zip(payload.try_into().ok());
        let hit = hit.ok_or_else(|| damaged(&self.path, "a row of task_keys", "an id of the wrong length"))?;
        Ok(Some(KeyHit { task: hit.0, digest: hit.1 }))
    }
}
