//! A store in memory that fails when told to: for stories about the shell, and for the simulation.
//!
//! [`Memory`] is the disk; it outlives the [`MemoryStore`]s opened on it, as a disk outlives processes. All calls are synchronous and
//! take the time of a few map operations.

mod flow;

use super::{
    Commit, Error, Filter, HistoryRow, Identity, LIVE, Page, Read, SCAN_ROWS, Store, digest_of, id_of, name_of,
};
use crate::machine::{HistoryEvent, KeyHit, PayloadHandle, TaskChange};
use bytes::Bytes;
use proto::bounds;
use proto::id::TaskId;
use proto::store::{SidecarRow, TaskRow};
use proto::v1::{self, TaskState};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
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
    /// By array and position.
    items: BTreeMap<(TaskId, u32), String>,
    executors: BTreeMap<String, v1::Executor>,
    flows: flow::Flows,
}

impl Memory {
    /// Opens the store, claiming the next epoch. An earlier owner is fenced by it. Nobody restores a backup of a memory, so counting
    /// is enough.
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
        disk.state.sweep();
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
        if let Some(change) = commit.batch.tasks.iter().find(|change| change.fresh == self.has(commit, change)) {
            let detail = format!("the row of task {} is missing, or already there", name_of(&change.row));
            return Err(Error::Corrupt { path: "memory".into(), detail });
        }
        self.flows.check(commit)?;
        let mut fresh = BTreeMap::new();
        let keyed = commit.batch.tasks.iter().filter(|change| change.fresh && !change.row.key.is_empty());
        for (row, task) in keyed.filter_map(|change| Some((&change.row, id_of(&change.row)?))) {
            let holder = self.keys.get(&row.key).map(|hit| hit.task).filter(|holder| !commit.prune.contains(holder));
            if holder.is_some() || fresh.insert(&row.key, task).is_some() {
                return Err(Error::KeyTaken { task: name_of(row) });
            }
        }
        Ok(())
    }

    /// Whether there is a row of the task when the rows of this commit are written.
    fn has(&self, commit: &Commit, change: &TaskChange) -> bool {
        id_of(&change.row).is_some_and(|task| self.tasks.contains_key(&task) && !commit.prune.contains(&task))
    }

    fn apply(&mut self, epoch: u64, commit: &Commit) {
        self.commit_seq = commit.seq;
        self.epoch = commit.batch.epoch.unwrap_or(epoch).max(epoch);
        self.prune(commit);
        for (handle, body) in commit.payloads.iter().chain(&commit.batch.bodies) {
            self.payloads.entry(*handle).or_insert_with(|| body.clone());
        }
        for chunk in &commit.items {
            for (position, item) in (chunk.first..).zip(&chunk.items) {
                self.items.insert((chunk.array, position), item.clone());
            }
        }
        for change in &commit.batch.tasks {
            self.write(change);
        }
        self.flows.apply(commit);
        for row in &commit.batch.sidecars {
            self.sidecars.insert(row.id.clone(), row.clone());
        }
        for (row, executor) in commit.batch.executors.iter().filter_map(|row| Some((row, row.executor.as_ref()?))) {
            if row.deleted {
                self.executors.remove(&executor.r#type);
            } else {
                self.executors.insert(executor.r#type.clone(), executor.clone());
            }
        }
        for event in &commit.batch.history {
            self.append(event);
        }
    }

    fn write(&mut self, change: &TaskChange) {
        let row = &change.row;
        let Some(task) = id_of(row) else { return };
        if !change.fresh {
            // Facts are written once.
            let facts = self.tasks.get_mut(&task).and_then(|old| old.facts.take());
            self.tasks.insert(task, TaskRow { facts, ..row.clone() });
            return;
        }
        if let (false, Ok(digest)) = (row.key.is_empty(), digest_of(row).try_into()) {
            self.keys.insert(row.key.clone(), KeyHit { task, digest });
        }
        self.tasks.insert(task, change.whole());
    }

    fn prune(&mut self, commit: &Commit) {
        let mut released = self.flows.prune(&commit.prune_runs);
        for task in &commit.prune {
            self.history.remove(task);
            self.items.retain(|(array, _), _| array != task);
            let Some(row) = self.tasks.remove(task) else { continue };
            if self.keys.get(&row.key).is_some_and(|hit| hit.task == *task) {
                self.keys.remove(&row.key);
            }
            if task.index().is_none() {
                released.push(row.payload);
            }
        }
        released.sort_unstable();
        released.dedup();
        for payload in released {
            if !self.holds(&payload) {
                self.payloads.retain(|handle, _| handle[..] != payload);
            }
        }
    }

    /// Removes what submissions left that were interrupted or refused: items of arrays and bodies of tasks that are not there.
    fn sweep(&mut self) {
        let Self { tasks, payloads, items, flows, .. } = self;
        items.retain(|(array, _), _| tasks.contains_key(array));
        let held: BTreeSet<&[u8]> = tasks.values().map(|row| row.payload.as_slice()).collect();
        payloads.retain(|handle, _| held.contains(handle.as_slice()) || flows.has_body(handle));
    }

    fn prunable(&self, before_ms: u64, keep: u64, limit: usize) -> Vec<TaskId> {
        let ended = self.tasks.iter().filter(|(task, row)| task.index().is_none() && !LIVE.contains(&row.state()));
        let mut ended: Vec<(u64, TaskId)> = ended.map(|(task, row)| (row.ended_unix_ms, *task)).collect();
        ended.sort_unstable();
        let too_many = ended.len().saturating_sub(usize::try_from(keep).unwrap_or(usize::MAX));
        let may_go = ended.iter().enumerate().filter(|(at, (ended_ms, _))| *at < too_many || *ended_ms < before_ms);
        let mut prunable = Vec::new();
        for (_, (_, task)) in may_go {
            let members = self.members(*task, None).map(|(member, _)| *member);
            let alone = prunable.len();
            prunable.extend(members);
            if prunable.len() == alone {
                prunable.push(*task);
            }
        }
        prunable.truncate(limit);
        prunable
    }

    /// Those of an array that have a row, in order, after `after`.
    fn members(&self, array: TaskId, after: Option<TaskId>) -> impl Iterator<Item = (&TaskId, &TaskRow)> {
        let from = after.map_or(array, |after| after.max(array));
        let later = self.tasks.range((Bound::Excluded(from), Bound::Unbounded));
        later.take_while(move |(member, _)| member.array() == Some(array))
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
        let disk = self.shared.lock();
        if let Some(array) = filter.array {
            return Ok(page(filter, disk.state.members(array, filter.before)));
        }
        let until = filter.before.map_or(Bound::Unbounded, Bound::Excluded);
        let older = disk.state.tasks.range((Bound::Unbounded, until)).rev();
        Ok(page(filter, older.filter(|(task, _)| task.index().is_none())))
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

    fn item(&mut self, array: TaskId, position: u32) -> Result<Option<String>, Error> {
        Ok(self.shared.lock().state.items.get(&(array, position)).cloned())
    }

    fn executors(&mut self) -> Result<Vec<v1::Executor>, Error> {
        Ok(self.shared.lock().state.executors.values().cloned().collect())
    }

    fn prunable(&mut self, ended_before_unix_ms: u64, keep: u64, limit: usize) -> Result<Vec<TaskId>, Error> {
        Ok(self.shared.lock().state.prunable(ended_before_unix_ms, keep, limit))
    }

    fn children(&mut self, parent: TaskId) -> Result<Vec<(TaskState, u32)>, Error> {
        let parent = parent.to_string();
        let state = &self.shared.lock().state;
        let label = |row: &TaskRow| row.facts.as_ref()?.labels.get(bounds::PARENT_LABEL).cloned();
        let mut counts: BTreeMap<TaskState, u32> = BTreeMap::new();
        for row in state.tasks.values().filter(|row| label(row).as_ref() == Some(&parent)) {
            *counts.entry(row.state()).or_default() += 1;
        }
        Ok(counts.into_iter().collect())
    }

    fn key(&mut self, key: &str) -> Result<Option<KeyHit>, Error> {
        Ok(self.shared.lock().state.keys.get(key).copied())
    }
}

fn page<'s>(filter: &Filter, rows: impl Iterator<Item = (&'s TaskId, &'s TaskRow)>) -> Page {
    let mut page = Page::default();
    for (scanned, (task, row)) in (1..).zip(rows) {
        let facts = row.facts.as_ref().is_none_or(|facts| filter.takes_facts(facts));
        if facts && filter.takes_row(row) {
            if page.rows.len() == filter.rows() {
                page.next = page.rows.last().and_then(id_of);
                break;
            }
            page.rows.push(row.clone());
        }
        if scanned == SCAN_ROWS {
            page.next = Some(*task);
            break;
        }
    }
    page
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
