//! What the loop publishes after each batch, for readers who must not wait for it.

use super::flows::RunChanged;
use super::numbers::Counters;
use crate::machine::{RunChange, TaskChange};
use proto::id::TaskId;
use proto::store::TaskRow;
use proto::v1;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::broadcast;

/// Rows that a slow watcher may be behind before it has to read again; with 1 kB a row, 8 MB at most over all watchers.
const CHANGES: usize = 8192;
/// Removals that whoever keeps logs may be behind: with 500 ids each, a hundred thousand removed tasks.
const PRUNED: usize = 256;

/// The snapshot. Locks are held for a look-up or an insertion, never across anything that waits.
#[derive(Debug)]
pub(super) struct Published {
    progress: RwLock<HashMap<TaskId, v1::Progress>>,
    /// Of tasks that have any.
    set_aside: RwLock<HashMap<TaskId, Vec<v1::SetAside>>>,
    identity: RwLock<v1::IdentityResponse>,
    changes: broadcast::Sender<Arc<TaskRow>>,
    pruned: broadcast::Sender<Arc<[TaskId]>>,
    runs: broadcast::Sender<RunChanged>,
    pub(super) counters: Counters,
}

impl Published {
    pub(super) fn new(identity: v1::IdentityResponse) -> Self {
        Self {
            progress: RwLock::default(),
            set_aside: RwLock::default(),
            identity: RwLock::new(identity),
            changes: broadcast::channel(CHANGES).0,
            pruned: broadcast::channel(PRUNED).0,
            runs: broadcast::channel(CHANGES).0,
            counters: Counters::default(),
        }
    }

    pub(super) fn progress(&self, task: TaskId) -> Option<v1::Progress> {
        self.progress.read().unwrap_or_else(PoisonError::into_inner).get(&task).cloned()
    }

    pub(super) fn set_aside(&self, task: TaskId) -> Vec<v1::SetAside> {
        self.set_aside.read().unwrap_or_else(PoisonError::into_inner).get(&task).cloned().unwrap_or_default()
    }

    /// Replaces what is known to be set aside of each of these tasks.
    pub(super) fn put_set_aside(&self, tasks: BTreeMap<TaskId, Vec<v1::SetAside>>) {
        if tasks.is_empty() {
            return;
        }
        let mut known = self.set_aside.write().unwrap_or_else(PoisonError::into_inner);
        for (task, aside) in tasks {
            if aside.is_empty() {
                known.remove(&task)
            } else {
                known.insert(task, aside)
            };
        }
    }

    pub(super) fn changes(&self) -> broadcast::Receiver<Arc<TaskRow>> {
        self.changes.subscribe()
    }

    pub(super) fn runs(&self) -> broadcast::Receiver<RunChanged> {
        self.runs.subscribe()
    }

    pub(super) fn runs_changed(&self, changes: Vec<RunChange>) {
        if self.runs.receiver_count() == 0 {
            return;
        }
        for row in changes.into_iter().filter_map(|change| change.row) {
            let changed = RunChanged { status: row.status(), run: row.id.into() };
            // Nobody listens any more: nothing to tell.
            let _ = self.runs.send(changed);
        }
    }

    pub(super) fn pruned(&self) -> broadcast::Receiver<Arc<[TaskId]>> {
        self.pruned.subscribe()
    }

    pub(super) fn identity(&self) -> v1::IdentityResponse {
        self.identity.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Those of the tasks whose progress is known; most never had any.
    pub(super) fn with_progress(&self, tasks: impl Iterator<Item = TaskId>) -> Vec<TaskId> {
        let known = self.progress.read().unwrap_or_else(PoisonError::into_inner);
        if known.is_empty() {
            return Vec::new();
        }
        tasks.filter(|task| known.contains_key(task)).collect()
    }

    pub(super) fn removed(&self, tasks: Vec<TaskId>) {
        if !tasks.is_empty() {
            // Nobody keeps anything of them.
            let _ = self.pruned.send(tasks.into());
        }
    }

    /// Replaces what is known of each task's progress; `None` forgets it.
    pub(super) fn set_progress(&self, tasks: impl Iterator<Item = (TaskId, Option<v1::Progress>)>) {
        let mut known = self.progress.write().unwrap_or_else(PoisonError::into_inner);
        for (task, progress) in tasks {
            match progress {
                Some(progress) => known.insert(task, progress),
                None => known.remove(&task),
            };
        }
    }

    pub(super) fn set_identity(&self, change: impl FnOnce(&mut v1::IdentityResponse)) {
        change(&mut self.identity.write().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn changed(&self, changes: Vec<TaskChange>) {
        if self.changes.receiver_count() == 0 {
            return;
        }
        for change in changes {
            // Nobody listens any more: nothing to tell.
            let _ = self.changes.send(Arc::new(change.whole()));
        }
    }
}
