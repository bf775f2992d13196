//! A store in memory that fails when told to: for stories about the shell, and for the simulation.
//!
//! [`Memory`] is the disk; it outlives the [`MemoryStore`]s opened on it, as a disk outlives processes. All calls are synchronous and
//! take the time of a few map operations.

use super::{Commit, Error, Filter, HistoryRow, Identity, LIVE, Page, Read, Store, id_of, name_of};
use crate::machine::{HistoryEvent, KeyHit, PayloadHandle};
use bytes::Bytes;
use proto::bounds;
use proto::id::TaskId;
use proto::store::{SidecarRow, TaskRow};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The lineage of every memory store: nothing random, so that a simulation repeats itself.
const LINEAGE: &str = "00000000-0000-7000-8000-00000000da7a";

/// What happens to a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails and nothing of it is there.
    Before,
    /// It fails although all of it is there: the unknown outcome.
    After,
    /// It answers that all is well, and it and all later ones are gone when the store is opened again: a disk that lies.
    Lost,
}

/// The disk.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    disk: Mutex<Disk>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Disk {
    state: State,
    /// What is there after the next opening, if a disk lied.
    survives: Option<Box<State>>,
    /// By the number of the commit, counted over the life of the disk.
    plan: BTreeMap<u64, Fault>,
    corrupt: bool,
    /// Commits begun, and whether they may go on.
    begun: u64,
    held: bool,
}

#[derive(Debug, Clone, Default)]
struct State {
    epoch: u64,
    commit_seq: u64,
    tasks: BTreeMap<TaskId, TaskRow>,
    keys: BTreeMap<String, KeyHit>,
    payloads: BTreeMap<PayloadHandle, Bytes>,
    sidecars: BTreeMap<String, SidecarRow>,
    history: BTreeMap<TaskId, VecDeque<HistoryRow>>,
}

impl Memory {
    /// Opens the store, claiming the next epoch. An earlier owner is fenced by it.
    ///
    /// # Errors
    /// [`Error::Corrupt`] after [`Memory::corrupt`].
    pub fn open(&self) -> Result<MemoryStore, Error> {
        let mut disk = self.shared.lock();
        if let Some(survivor) = disk.survives.take() {
            disk.state = *survivor;
        }
        if disk.corrupt {
            return Err(Error::Corrupt { path: "memory".into(), detail: "a test said so".into() });
        }
        disk.state.epoch += 1;
        let identity =
            Identity { lineage: LINEAGE.to_owned(), epoch: disk.state.epoch, commit_seq: disk.state.commit_seq };
        Ok(MemoryStore { shared: Arc::clone(&self.shared), identity, poisoned: None })
    }

    /// Plans what happens to commit `nth`, counted from 1 over the life of this disk.
    pub fn plan(&self, nth: u64, fault: Fault) {
        self.shared.lock().plan.insert(nth, fault);
    }

    /// From now on the store cannot be opened.
    pub fn corrupt(&self) {
        self.shared.lock().corrupt = true;
    }

    /// Commits begun over the life of this disk.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.shared.lock().begun
    }

    /// Makes commits hang until the answer is dropped.
    #[must_use]
    pub fn hold(&self) -> Hold {
        self.shared.lock().held = true;
        Hold { shared: Arc::clone(&self.shared) }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A disk that hangs.
#[derive(Debug)]
pub struct Hold {
    shared: Arc<Shared>,
}

impl Hold {
    /// Blocks until commit `nth` (counted from 1 over the life of the disk) has begun.
    pub fn begun(&self, nth: u64) {
        let disk = self.shared.lock();
        drop(self.shared.changed.wait_while(disk, |disk| disk.begun < nth));
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shared.lock().held = false;
        self.shared.changed.notify_all();
    }
}

/// One opening of a [`Memory`].
#[derive(Debug)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    identity: Identity,
    poisoned: Option<String>,
}

impl Store for MemoryStore {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn commit(&mut self, epoch: u64, commit: &Commit) -> Result<(), Error> {
        if let Some(why) = &self.poisoned {
            return Err(Error::Poisoned(why.clone()));
        }
        let outcome = self.shared.commit(epoch, commit);
        if let Err(error) = &outcome {
            self.poisoned = Some(error.to_string());
        }
        outcome
    }

    fn reader(&self) -> Result<Box<dyn Read>, Error> {
        Ok(Box::new(MemoryReader { shared: Arc::clone(&self.shared) }))
    }
}

impl Shared {
    fn commit(&self, epoch: u64, commit: &Commit) -> Result<(), Error> {
        let mut disk = self.lock();
        disk.begun += 1;
        let nth = disk.begun;
        self.changed.notify_all();
        disk = self.changed.wait_while(disk, |disk| disk.held).unwrap_or_else(PoisonError::into_inner);
        disk.state.check(epoch, commit)?;
        match disk.plan.remove(&nth) {
            Some(Fault::Before) => return Err(Error::Injected("the commit failed")),
            Some(Fault::After) => {
                disk.state.apply(epoch, commit);
                return Err(Error::Injected("the outcome of the commit is unknown"));
            }
            Some(Fault::Lost) if disk.survives.is_none() => disk.survives = Some(Box::new(disk.state.clone())),
            Some(Fault::Lost) | None => {}
        }
        disk.state.apply(epoch, commit);
        Ok(())
    }
}

impl State {
    /// Everything that may be wrong with a commit, before anything of it is applied.
    fn check(&self, epoch: u64, commit: &Commit) -> Result<(), Error> {
        if self.epoch != epoch {
            return Err(Error::Fenced { ours: epoch, claimed: self.epoch });
        }
        if commit.seq != self.commit_seq + 1 {
            return Err(Error::OutOfOrder { given: commit.seq, last: self.commit_seq });
        }
        let mut fresh = BTreeMap::new();
        for row in commit.batch.tasks.iter().map(|change| &change.row).filter(|row| !row.key.is_empty()) {
            let task = id_of(row);
            let holder = self.keys.get(&row.key).map(|hit| hit.task).or_else(|| fresh.get(&row.key).copied());
            if holder.is_some() && holder != task {
                return Err(Error::KeyTaken { task: name_of(row) });
            }
            fresh.extend(task.map(|task| (row.key.clone(), task)));
        }
        Ok(())
    }

    fn apply(&mut self, epoch: u64, commit: &Commit) {
        self.commit_seq = commit.seq;
        self.epoch = commit.batch.epoch.unwrap_or(epoch).max(epoch);
        for (handle, body) in &commit.payloads {
            self.payloads.entry(*handle).or_insert_with(|| body.clone());
        }
        for change in &commit.batch.tasks {
            let row = &change.row;
            let Some(task) = id_of(row) else { continue };
            let digest = if row.key_digest.is_empty() { &row.payload } else { &row.key_digest };
            if let (false, Ok(digest)) = (row.key.is_empty(), digest.as_slice().try_into()) {
                self.keys.insert(row.key.clone(), KeyHit { task, digest });
            }
            self.tasks.insert(task, change.whole());
        }
        for row in &commit.batch.sidecars {
            self.sidecars.insert(row.id.clone(), row.clone());
        }
        for event in &commit.batch.history {
            self.append(event);
        }
    }

    fn append(&mut self, event: &HistoryEvent) {
        let lines = self.history.entry(event.task).or_default();
        lines.push_back(HistoryRow {
            seq: event.seq.into(),
            unix_ms: event.unix_ms,
            kind: event.kind.to_owned(),
            attempt: event.attempt,
            detail: event.detail.clone(),
        });
        // Line 1 says that the task was submitted; it stays, whatever else goes.
        if lines.len() as u64 > bounds::HISTORY_EVENTS {
            lines.remove(1);
        }
    }
}

#[derive(Debug)]
struct MemoryReader {
    shared: Arc<Shared>,
}

impl Read for MemoryReader {
    fn live(&mut self, after: Option<TaskId>, limit: usize) -> Result<Vec<TaskRow>, Error> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let disk = self.shared.lock();
        let live = disk.state.tasks.range((from, Bound::Unbounded)).filter(|(_, row)| LIVE.contains(&row.state()));
        Ok(live.take(limit).map(|(_, row)| row.clone()).collect())
    }

    fn sidecars(&mut self) -> Result<Vec<SidecarRow>, Error> {
        Ok(self.shared.lock().state.sidecars.values().cloned().collect())
    }

    fn get(&mut self, task: TaskId) -> Result<Option<TaskRow>, Error> {
        Ok(self.shared.lock().state.tasks.get(&task).cloned())
    }

    fn list(&mut self, filter: &Filter) -> Result<Page, Error> {
        let until = filter.before.map_or(Bound::Unbounded, Bound::Excluded);
        let disk = self.shared.lock();
        let older = disk.state.tasks.range((Bound::Unbounded, until)).rev();
        let mut rows: Vec<TaskRow> =
            older.filter(|(_, row)| shows(filter, row)).take(filter.rows() + 1).map(|(_, row)| row.clone()).collect();
        let more = rows.len() > filter.rows();
        rows.truncate(filter.rows());
        let next = if more { rows.last().and_then(id_of) } else { None };
        Ok(Page { rows, next })
    }

    fn history(&mut self, task: TaskId, after_seq: u64, limit: u32) -> Result<Vec<HistoryRow>, Error> {
        let disk = self.shared.lock();
        let lines = disk.state.history.get(&task).into_iter().flatten();
        Ok(lines.filter(|line| line.seq > after_seq).take(limit as usize).cloned().collect())
    }

    fn payloads(&mut self, handles: &[PayloadHandle]) -> Result<BTreeMap<PayloadHandle, Bytes>, Error> {
        let disk = self.shared.lock();
        let found = handles.iter().filter_map(|handle| Some((*handle, disk.state.payloads.get(handle)?.clone())));
        Ok(found.collect())
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
        Ok(self.shared.lock().state.keys.get(key).copied())
    }
}

fn shows(filter: &Filter, row: &TaskRow) -> bool {
    let Some(facts) = &row.facts else { return *filter == Filter::default() };
    (filter.states.is_empty() || filter.states.contains(&row.state()))
        && filter.owner.as_ref().is_none_or(|owner| *owner == facts.owner)
        && filter.name.as_ref().is_none_or(|name| *name == facts.name)
        && filter.labels.iter().all(|(key, value)| facts.labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;

    #[test]
    fn conforms() {
        conformance::suite(|| {
            let memory = Memory::default();
            Box::new(move || memory.open().map(|store| Box::new(store) as Box<dyn Store>))
        });
    }

    fn commit(seq: u64, task: u128) -> Commit {
        let row = conformance::row(task, proto::v1::TaskState::Ready);
        Commit {
            seq,
            batch: crate::machine::Batch { tasks: vec![conformance::change(row)], ..Default::default() },
            ..Commit::default()
        }
    }

    #[test]
    fn an_unknown_outcome_is_there_after_a_restart_and_a_failed_one_is_not() {
        for (fault, there) in [(Fault::Before, false), (Fault::After, true)] {
            let memory = Memory::default();
            memory.plan(1, fault);
            let mut store = memory.open().unwrap();
            assert!(matches!(store.commit(1, &commit(1, 7)), Err(Error::Injected(_))));
            assert!(matches!(store.commit(1, &commit(1, 7)), Err(Error::Poisoned(_))));
            let again = memory.open().unwrap();
            let found = again.reader().unwrap().get(TaskId::from_u128(7)).unwrap();
            assert_eq!(found.is_some(), there, "{fault:?}");
        }
    }

    #[test]
    fn a_lying_disk_loses_all_that_followed() {
        let memory = Memory::default();
        memory.plan(2, Fault::Lost);
        let mut store = memory.open().unwrap();
        for seq in 1..=3 {
            store.commit(1, &commit(seq, u128::from(seq))).unwrap();
        }
        assert_eq!(store.reader().unwrap().live(None, 9).unwrap().len(), 3);
        let again = memory.open().unwrap();
        assert_eq!(again.identity().commit_seq, 1);
        assert_eq!(again.reader().unwrap().live(None, 9).unwrap().len(), 1);
    }

    #[test]
    fn a_damaged_disk_cannot_be_opened() {
        let memory = Memory::default();
        memory.corrupt();
        assert!(matches!(memory.open(), Err(Error::Corrupt { .. })));
    }
}
