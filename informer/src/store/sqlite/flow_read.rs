//! Queries about workflows.

use super::body;
use super::fault::damaged;
use super::read::Reader;
use super::write::int;
use crate::machine::{RunId, RunKeyHit};
use crate::store::{Error, ReadFlows, RunFilter, RunPage};
use proto::store::{DefinitionRow, RunEventRow, RunRow, TaskDefinitionRow};
use rusqlite::types::Value;
use rusqlite::{params, params_from_iter};
use workflow::run::{PartRow, StepIx, StepRow};

impl Reader {
    fn json<T: serde::de::DeserializeOwned>(&self, what: &str, body: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(body).map_err(|error| damaged(self.path(), what, error))
    }

    fn bodies(&self, table: &str, sql: &str, params: impl rusqlite::Params) -> Result<Vec<Vec<u8>>, Error> {
        self.all(table, sql, params, |row| row.get(0))
    }
}

impl ReadFlows for Reader {
    fn definition(&mut self, name: &str, version: Option<u32>) -> Result<Option<DefinitionRow>, Error> {
        let sql = "SELECT body FROM definitions WHERE name = ?1 AND (?2 IS NULL OR version = ?2)
                   ORDER BY version DESC LIMIT 1";
        let found = self.bodies("definitions", sql, params![name, version])?;
        found.first().map(|body| self.decode("a row of definitions", body)).transpose()
    }

    fn definitions(
        &mut self,
        name: Option<&str>,
        after: Option<(&str, u32)>,
        limit: usize,
    ) -> Result<Vec<DefinitionRow>, Error> {
        let (after_name, after_version) = after.unwrap_or(("", 0));
        let limit = int(limit as u64);
        let found = match name {
            Some(name) => {
                let sql = "SELECT body FROM definitions WHERE name = ?1 AND version > ?2 ORDER BY version LIMIT ?3";
                self.bodies("definitions", sql, params![name, after_version, limit])?
            }
            None => {
                let sql =
                    "SELECT body FROM definitions WHERE (name, version) > (?1, ?2) ORDER BY name, version LIMIT ?3";
                self.bodies("definitions", sql, params![after_name, after_version, limit])?
            }
        };
        found.iter().map(|body| self.decode("a row of definitions", body)).collect()
    }

    fn task_definition(&mut self, name: &str) -> Result<Option<TaskDefinitionRow>, Error> {
        let found = self.bodies("task_definitions", "SELECT body FROM task_definitions WHERE name = ?1", [name])?;
        found.first().map(|body| self.decode("a row of task_definitions", body)).transpose()
    }

    fn task_definitions(&mut self, after: Option<&str>, limit: usize) -> Result<Vec<TaskDefinitionRow>, Error> {
        let sql = "SELECT body FROM task_definitions WHERE name > ?1 ORDER BY name LIMIT ?2";
        let found = self.bodies("task_definitions", sql, params![after.unwrap_or_default(), int(limit as u64)])?;
        found.iter().map(|body| self.decode("a row of task_definitions", body)).collect()
    }

    fn run(&mut self, id: &str) -> Result<Option<RunRow>, Error> {
        let found = self.bodies("runs", "SELECT body FROM runs WHERE id = ?1", [id])?;
        found.first().map(|body| self.decode("a row of runs", body)).transpose()
    }

    fn live_runs(&mut self, after: Option<&str>, limit: usize) -> Result<Vec<RunRow>, Error> {
        let sql = "SELECT body FROM runs INDEXED BY runs_live WHERE live IS NOT NULL AND id > ?1 ORDER BY id LIMIT ?2";
        let found = self.bodies("runs", sql, params![after.unwrap_or_default(), int(limit as u64)])?;
        found.iter().map(|body| self.decode("a row of runs", body)).collect()
    }

    fn runs(&mut self, filter: &RunFilter) -> Result<RunPage, Error> {
        let (sql, values) = search(filter);
        let failed = |error| self.failed(error);
        let mut statement = self.db().prepare_cached(&sql).map_err(failed)?;
        let found = statement.query_map(params_from_iter(values), |row| row.get::<_, Vec<u8>>(0)).map_err(failed)?;
        let rows = found.map(|body| self.decode("a row of runs", &body.map_err(failed)?));
        RunPage::fill(filter, rows, |handle| Ok(body::read(self.db(), self.path(), &[handle])?.remove(&handle)))
    }

    fn run_steps(&mut self, id: &str, from: StepIx, limit: usize) -> Result<Vec<StepRow>, Error> {
        let sql = "SELECT body FROM run_steps WHERE run = ?1 AND step >= ?2 ORDER BY step LIMIT ?3";
        let found = self.bodies("run_steps", sql, params![id, from, int(limit as u64)])?;
        found.iter().map(|body| self.json("a row of run_steps", body)).collect()
    }

    fn run_parts(&mut self, id: &str) -> Result<Vec<PartRow>, Error> {
        let found = self.bodies("run_parts", "SELECT body FROM run_parts WHERE run = ?1 ORDER BY part", [id])?;
        found.iter().map(|body| self.json("a row of run_parts", body)).collect()
    }

    fn run_events(&mut self, id: &str, after_seq: u32, limit: u32) -> Result<Vec<RunEventRow>, Error> {
        let sql = "SELECT body FROM run_events WHERE run = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";
        let found = self.bodies("run_events", sql, params![id, after_seq, limit])?;
        found.iter().map(|body| self.decode("a row of run_events", body)).collect()
    }

    fn run_key(&mut self, key: &str) -> Result<Option<RunKeyHit>, Error> {
        let sql = "SELECT run, digest FROM run_keys WHERE key = ?1";
        let found =
            self.all("run_keys", sql, [key], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?)))?;
        let Some((run, digest)) = found.into_iter().next() else { return Ok(None) };
        let digest = digest.try_into();
        let digest = digest.map_err(|_| damaged(self.path(), "a row of run_keys", "a digest of the wrong length"))?;
        Ok(Some(RunKeyHit { run: run.into(), digest }))
    }

    fn prunable_runs(&mut self, ended_before_unix_ms: u64, keep: u64, limit: usize) -> Result<Vec<RunId>, Error> {
        // Those beyond the number to keep ended no later than the first of them.
        let bar = "SELECT ended_ms FROM runs INDEXED BY runs_ended WHERE ended_ms IS NOT NULL
                   ORDER BY ended_ms DESC, id DESC LIMIT 1 OFFSET ?1";
        let too_many: Vec<i64> = match i64::try_from(keep) {
            Ok(keep) if keep < i64::from(u32::MAX) => self.all("runs", bar, [keep], |row| row.get(0))?,
            _ => Vec::new(),
        };
        let before = int(ended_before_unix_ms).max(too_many.first().map_or(0, |ended| ended.saturating_add(1)));
        let sql = "SELECT id FROM runs AS ended INDEXED BY runs_ended
                   WHERE ended_ms IS NOT NULL AND ended_ms < ?1 AND live IS NULL
                     AND NOT EXISTS (SELECT 1 FROM runs AS waiting WHERE waiting.id = ended.parent AND waiting.live IS NOT NULL)
                   ORDER BY ended_ms, id LIMIT ?2";
        let found = self.all("runs", sql, params![before, int(limit as u64)], |row| row.get::<_, String>(0))?;
        let steps = "SELECT COUNT(*) FROM (SELECT 1 FROM run_steps WHERE run = ?1 LIMIT ?2)";
        let (mut may_go, mut room) = (Vec::new(), int(limit as u64));
        for run in found {
            let counted = self.all("run_steps", steps, params![run, room], |row| row.get::<_, i64>(0))?;
            room -= 1 + counted.first().copied().unwrap_or_default();
            if room < 0 && !may_go.is_empty() {
                break;
            }
            may_go.push(run.into());
            if room <= 0 {
                break;
            }
        }
        Ok(may_go)
    }
}

/// The statement of a search; what no column tells is looked for in rows.
fn search(filter: &RunFilter) -> (String, Vec<Value>) {
    let mut wheres = Vec::new();
    let mut values: Vec<Value> = Vec::new();
    let mut want = |sql: &str, value: Value| {
        values.push(value);
        wheres.push(sql.replace('?', &format!("?{}", values.len())));
    };
    for (column, wanted) in [
        ("name = ?", &filter.name),
        ("owner = ?", &filter.owner),
        ("correlation = ?", &filter.correlation),
        ("parent = ?", &filter.parent),
        ("id < ?", &filter.before),
    ] {
        if let Some(wanted) = wanted {
            want(column, wanted.clone().into());
        }
    }
    if let [status] = filter.statuses[..] {
        want("status = ?", i64::from(status as i32).into());
    }
    for (key, value) in &filter.labels {
        want("id IN (SELECT run FROM run_labels WHERE key = ?", key.clone().into());
        want("value = ?)", value.clone().into());
    }
    let wheres = if wheres.is_empty() { String::new() } else { format!(" WHERE {}", wheres.join(" AND ")) };
    (format!("SELECT body FROM runs{wheres} ORDER BY id DESC"), values)
}
