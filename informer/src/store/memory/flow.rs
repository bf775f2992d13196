//! Workflows in the memory store.

use super::{MemoryReader, State};
use crate::machine::{RunChange, RunId, RunKeyHit};
use crate::store::{Commit, Error, ReadFlows, RunFilter, RunPage, is_live};
use proto::bounds;
use proto::store::{DefinitionRow, RunEventRow, RunRow, TaskDefinitionRow};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use workflow::run::{PartRow, StepIx, StepRow};

/// Everything about workflows.
#[derive(Debug, Clone, Default)]
pub(super) struct Flows {
    definitions: BTreeMap<(String, u32), DefinitionRow>,
    task_definitions: BTreeMap<String, TaskDefinitionRow>,
    runs: BTreeMap<String, RunRow>,
    keys: BTreeMap<String, RunKeyHit>,
    steps: BTreeMap<(String, StepIx), StepRow>,
    parts: BTreeMap<(String, u32), PartRow>,
    events: BTreeMap<(String, u32), RunEventRow>,
    bodies: BTreeSet<(String, Vec<u8>)>,
}

impl Flows {
    /// Everything that may be wrong with a commit.
    pub(super) fn check(&self, commit: &Commit) -> Result<(), Error> {
        for change in &commit.batch.runs {
            let Some(row) = &change.row else { continue };
            let there = self.runs.contains_key(&row.id) && !commit.prune_runs.contains(&change.id);
            if change.fresh == there {
                let detail = format!("the row of run {} is missing, or already there", row.id);
                return Err(Error::Corrupt { path: "memory".into(), detail });
            }
            let holder = self.keys.get(&row.key).filter(|hit| !commit.prune_runs.contains(&hit.run));
            if change.fresh && !row.key.is_empty() && holder.is_some() {
                return Err(Error::KeyTaken { task: row.id.clone() });
            }
        }
        Ok(())
    }

    pub(super) fn apply(&mut self, commit: &Commit) {
        for row in &commit.batch.definitions {
            let key = (row.name.clone(), row.version);
            if row.deleted {
                self.definitions.remove(&key)
            } else {
                self.definitions.insert(key, row.clone())
            };
        }
        for row in &commit.batch.task_definitions {
            let key = row.name.clone();
            if row.deleted {
                self.task_definitions.remove(&key)
            } else {
                self.task_definitions.insert(key, row.clone())
            };
        }
        commit.batch.runs.iter().for_each(|change| self.write(change));
        for event in &commit.batch.run_events {
            self.events.insert((event.run.clone(), event.seq), event.clone());
            if event.seq > bounds::RUN_EVENTS {
                self.events.remove(&(event.run.clone(), event.seq - bounds::RUN_EVENTS + 1));
            }
        }
    }

    fn write(&mut self, change: &RunChange) {
        let id = change.id.to_string();
        if let Some(row) = &change.row {
            if let (true, false, Ok(digest)) = (change.fresh, row.key.is_empty(), row.key_digest.as_slice().try_into())
            {
                self.keys.insert(row.key.clone(), RunKeyHit { run: change.id.clone(), digest });
            }
            self.runs.insert(id.clone(), row.clone());
        }
        if change.parts_removed {
            self.parts.retain(|(run, _), _| *run != id);
        }
        for step in &change.removed {
            self.steps.remove(&(id.clone(), *step));
        }
        self.steps.extend(change.steps.iter().map(|step| ((id.clone(), step.step), step.clone())));
        self.parts.extend(change.parts.iter().map(|part| ((id.clone(), part.part), part.clone())));
        self.bodies.extend(change.holds.iter().map(|hash| (id.clone(), hash.to_vec())));
    }

    /// Removes runs; tells which bodies they had.
    pub(super) fn prune(&mut self, runs: &[RunId]) -> Vec<Vec<u8>> {
        let mut released = Vec::new();
        for run in runs {
            let id = &**run;
            if let Some(row) = self.runs.remove(id)
                && self.keys.get(&row.key).is_some_and(|hit| *hit.run == *id)
            {
                self.keys.remove(&row.key);
            }
            self.steps.retain(|(of, _), _| of != id);
            self.parts.retain(|(of, _), _| of != id);
            self.events.retain(|(of, _), _| of != id);
            released.extend(self.bodies.iter().filter(|(of, _)| of == id).map(|(_, hash)| hash.clone()));
            self.bodies.retain(|(of, _)| of != id);
        }
        released
    }

    pub(super) fn has_body(&self, hash: &[u8]) -> bool {
        self.bodies.iter().any(|(_, held)| held == hash)
    }

    fn prunable(&self, before_ms: u64, keep: u64, limit: usize) -> Vec<RunId> {
        let mut ended: Vec<_> = self.runs.values().filter(|row| row.ended_unix_ms > 0).collect();
        ended.sort_unstable_by_key(|row| (row.ended_unix_ms, row.id.clone()));
        let too_many = ended.len().saturating_sub(usize::try_from(keep).unwrap_or(usize::MAX));
        let bar = too_many.checked_sub(1).map_or(0, |last| ended[last].ended_unix_ms + 1).max(before_ms);
        let waits = |id: &String| self.runs.get(id).is_some_and(is_live);
        let may_go = ended.into_iter().filter(|row| row.ended_unix_ms < bar && !is_live(row) && !waits(&row.parent));
        let mut room = limit;
        let fits = |(nth, row): &(usize, &RunRow)| {
            let size = 1 + self.steps.keys().filter(|(run, _)| *run == row.id).count();
            let fits = *nth == 0 || size <= room;
            room = room.saturating_sub(size);
            fits
        };
        may_go.enumerate().take_while(fits).map(|(_, row)| row.id.as_str().into()).collect()
    }
}

impl MemoryReader {
    fn flows<T>(&self, read: impl FnOnce(&Flows) -> T) -> Result<T, Error> {
        Ok(read(&self.shared.lock().state.flows))
    }
}

impl State {
    /// Whether anybody has this body.
    pub(super) fn holds(&self, hash: &[u8]) -> bool {
        self.tasks.iter().any(|(task, row)| task.index().is_none() && row.payload == hash) || self.flows.has_body(hash)
    }
}

impl ReadFlows for MemoryReader {
    fn definition(&mut self, name: &str, version: Option<u32>) -> Result<Option<DefinitionRow>, Error> {
        self.flows(|flows| {
            let (from, to) = version.map_or((0, u32::MAX), |version| (version, version));
            let mut versions = flows.definitions.range((name.to_owned(), from)..=(name.to_owned(), to));
            versions.next_back().map(|(_, row)| row.clone())
        })
    }

    fn definitions(
        &mut self,
        name: Option<&str>,
        after: Option<(&str, u32)>,
        limit: usize,
    ) -> Result<Vec<DefinitionRow>, Error> {
        self.flows(|flows| {
            let after = match (after, name) {
                (Some((after, version)), None) => Bound::Excluded((after.to_owned(), version)),
                (after, Some(name)) => Bound::Excluded((name.to_owned(), after.map_or(0, |(_, version)| version))),
                (None, None) => Bound::Unbounded,
            };
            let rows = flows.definitions.range((after, Bound::Unbounded)).map(|(_, row)| row);
            rows.filter(|row| name.is_none_or(|name| row.name == name)).take(limit).cloned().collect()
        })
    }

    fn task_definition(&mut self, name: &str) -> Result<Option<TaskDefinitionRow>, Error> {
        self.flows(|flows| flows.task_definitions.get(name).cloned())
    }

    fn task_definitions(&mut self, after: Option<&str>, limit: usize) -> Result<Vec<TaskDefinitionRow>, Error> {
        self.flows(|flows| {
            let after = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.to_owned()));
            flows.task_definitions.range((after, Bound::Unbounded)).map(|(_, row)| row).take(limit).cloned().collect()
        })
    }

    fn run(&mut self, id: &str) -> Result<Option<RunRow>, Error> {
        self.flows(|flows| flows.runs.get(id).cloned())
    }

    fn live_runs(&mut self, after: Option<&str>, limit: usize) -> Result<Vec<RunRow>, Error> {
        self.flows(|flows| {
            let after = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.to_owned()));
            let runs = flows.runs.range((after, Bound::Unbounded)).map(|(_, row)| row);
            runs.filter(|row| is_live(row)).take(limit).cloned().collect()
        })
    }

    fn runs(&mut self, filter: &RunFilter) -> Result<RunPage, Error> {
        let disk = self.shared.lock();
        let until = filter.before.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let older = disk.state.flows.runs.range((Bound::Unbounded, until)).rev();
        let body = |handle| Ok(disk.state.payloads.get(&handle).cloned());
        RunPage::fill(filter, older.map(|(_, row)| Ok(row.clone())), body)
    }

    fn run_steps(&mut self, id: &str, from: StepIx, limit: usize) -> Result<Vec<StepRow>, Error> {
        self.flows(|flows| {
            let steps = flows.steps.range((id.to_owned(), from)..=(id.to_owned(), StepIx::MAX));
            steps.map(|(_, row)| row).take(limit).cloned().collect()
        })
    }

    fn run_parts(&mut self, id: &str) -> Result<Vec<PartRow>, Error> {
        self.flows(|flows| {
            let parts = flows.parts.range((id.to_owned(), 0)..=(id.to_owned(), u32::MAX));
            parts.map(|(_, row)| row).cloned().collect()
        })
    }

    fn run_events(&mut self, id: &str, after_seq: u32, limit: u32) -> Result<Vec<RunEventRow>, Error> {
        self.flows(|flows| {
            let from = Bound::Excluded((id.to_owned(), after_seq));
            let lines = flows.events.range((from, Bound::Included((id.to_owned(), u32::MAX))));
            lines.map(|(_, row)| row).take(limit as usize).cloned().collect()
        })
    }

    fn run_key(&mut self, key: &str) -> Result<Option<RunKeyHit>, Error> {
        self.flows(|flows| flows.keys.get(key).cloned())
    }

    fn prunable_runs(&mut self, ended_before_unix_ms: u64, keep: u64, limit: usize) -> Result<Vec<RunId>, Error> {
        self.flows(|flows| flows.prunable(ended_before_unix_ms, keep, limit))
    }
}
