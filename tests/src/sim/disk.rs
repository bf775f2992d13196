//! Disks: what survives a crash, and what goes wrong with writing. A commit counts from its flush on; before that a crash may lose
//! it or keep it.

use super::flow::FlowRows;
use super::identity::Identity;
use informer::machine::{Batch, KeyHit};
use proto::id::{Fence, TaskId};
use proto::{store, v1};
use sidecar::machine::Row;
use std::collections::BTreeMap;

/// What is wrong with a disk.
#[derive(Debug, Default)]
pub(super) struct Disk {
    /// Flushes do not return until then.
    pub hangs_until_ms: u64,
    /// Writes fail for want of room until then.
    pub full_until_ms: u64,
    /// The next flush fails; whether the batch is there afterwards is unknown.
    pub fails_next: bool,
    /// What is on it cannot be read.
    pub damaged: bool,
}

impl Disk {
    pub(super) fn is_full(&self, now_ms: u64) -> bool {
        self.full_until_ms > now_ms
    }

    /// Nothing is wrong any more, except that what is damaged stays so.
    pub(super) fn mend(&mut self) {
        *self = Self { damaged: self.damaged, ..Self::default() };
    }
}

/// What the informer's database holds.
#[derive(Debug, Default, Clone)]
pub(super) struct Store {
    pub tasks: BTreeMap<TaskId, store::TaskRow>,
    pub sidecars: BTreeMap<String, store::SidecarRow>,
    pub executors: BTreeMap<String, v1::Executor>,
    pub keys: BTreeMap<String, KeyHit>,
    pub flows: FlowRows,
    pub seq: u64,
    pub epoch: u64,
}

impl Store {
    pub(super) fn commit(&mut self, seq: u64, batch: &Batch) {
        for change in &batch.tasks {
            let row = &change.row;
            let id = TaskId::from_bytes(&row.id).expect("rows carry 16 bytes");
            if !row.key.is_empty() {
                let digest = if row.key_digest.is_empty() { &row.payload } else { &row.key_digest };
                let digest = digest.as_slice().try_into().expect("handles are 32 bytes");
                self.keys.insert(row.key.clone(), KeyHit { task: id, digest });
            }
            self.tasks.insert(id, change.whole());
        }
        for row in &batch.sidecars {
            self.sidecars.insert(row.id.clone(), row.clone());
        }
        for row in &batch.executors {
            let executor = row.executor.clone().unwrap_or_default();
            if row.deleted {
                self.executors.remove(&executor.r#type);
            } else {
                self.executors.insert(executor.r#type.clone(), executor);
            }
        }
        self.epoch = self.epoch.max(batch.epoch.unwrap_or(0));
        self.seq = seq;
    }

    /// Forgets an ended task, with its members and its key.
    pub(super) fn forget(&mut self, task: TaskId) {
        self.tasks.retain(|id, _| *id != task && id.array() != Some(task));
        self.keys.retain(|_, hit| hit.task != task);
    }
}

/// What a sidecar's ledger holds.
#[derive(Debug, Default, Clone)]
pub(super) struct Ledger {
    pub rows: BTreeMap<proto::id::AttemptId, Row>,
    /// Whose it is, once an agent has opened it.
    pub whose: Option<Identity>,
    pub seen: Option<v1::Identity>,
    pub highest_fence: Fence,
}

impl Ledger {
    pub(super) fn commit(&mut self, batch: &sidecar::machine::Batch, seen: Option<v1::Identity>, fence: Fence) {
        for row in &batch.rows {
            self.rows.insert(row.attempt, row.clone());
        }
        for attempt in &batch.deletes {
            self.rows.remove(attempt);
        }
        self.seen = seen;
        self.highest_fence = fence;
    }
}
