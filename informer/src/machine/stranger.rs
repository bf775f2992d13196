//! Attempts that sidecars have told and that are not applied here, of whatever task: for people, and for a task that comes to wait (`aside`).
//!
//! ```text
//! an inventory tells it ──▶ it runs ──▶ it is over (its record stays there) ──▶ an inventory is without it: forgotten
//!                               └───────────┴──▶ adopted: an attempt like any other
//! ```
//!
//! Not durable: each link tells all of them again.

use super::Machine;
use proto::id::{AttemptId, Fence, SidecarId, TaskId};
use proto::v1;
use std::collections::{BTreeMap, BTreeSet};

/// What is known of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stranger {
    pub fence: Fence,
    /// What it takes there while it runs; `None`: its sidecar is too old to tell.
    pub asked: Option<v1::Resources>,
    /// No process of it is left, nor will there be one.
    pub over: bool,
}

impl Stranger {
    /// A sidecar of before is not told twice what becomes of an attempt.
    pub(super) fn tells_all(&self) -> bool {
        self.asked.is_some()
    }
}

impl Machine {
    pub(super) fn has_strangers(&self) -> bool {
        !self.strangers.is_empty()
    }

    /// Those of one task.
    pub(super) fn strangers_of(&self, task: TaskId) -> impl Iterator<Item = (AttemptId, SidecarId)> + '_ {
        let from = (AttemptId { task, number: 0 }, SidecarId::from_u128(0));
        let to = (AttemptId { task, number: u32::MAX }, SidecarId::from_u128(u128::MAX));
        self.strangers.range(from..=to).copied()
    }

    pub(super) fn meet_stranger(&mut self, id: SidecarId, attempt: AttemptId, stranger: Stranger) {
        let Some(sidecar) = self.sidecars.get_mut(&id) else { return };
        sidecar.strangers.insert(attempt, stranger);
        self.strangers.insert((attempt, id));
        self.strangers_changed.insert(attempt.task);
    }

    /// It is adopted.
    pub(super) fn forget_stranger(&mut self, id: SidecarId, attempt: AttemptId) {
        let Some(sidecar) = self.sidecars.get_mut(&id) else { return };
        let Some(stranger) = sidecar.strangers.remove(&attempt) else { return };
        self.strangers.remove(&(attempt, id));
        self.strangers_changed.insert(attempt.task);
        // Until its next beat, which counts it no more.
        let freed = stranger.asked.filter(|_| !stranger.over).unwrap_or_default();
        sidecar.apart.cpu_millis = sidecar.apart.cpu_millis.saturating_sub(freed.cpu_millis);
        sidecar.apart.memory_bytes = sidecar.apart.memory_bytes.saturating_sub(freed.memory_bytes);
        if let Some(unknown) = &mut sidecar.unknown {
            unknown.retain(|known| *known != attempt);
        }
    }

    /// It is about to tell all that it holds.
    pub(super) fn forget_strangers(&mut self, id: SidecarId) {
        let Some(sidecar) = self.sidecars.get_mut(&id) else { return };
        for attempt in std::mem::take(&mut sidecar.strangers).into_keys() {
            self.strangers.remove(&(attempt, id));
            self.strangers_changed.insert(attempt.task);
        }
    }

    /// A sidecar has told all that is set aside there and may run.
    pub(super) fn on_strangers_told(&mut self, id: SidecarId, there: &BTreeSet<AttemptId>) {
        let Some(sidecar) = self.sidecars.get_mut(&id) else { return };
        for (attempt, stranger) in sidecar.strangers.iter_mut().filter(|(attempt, _)| !there.contains(attempt)) {
            if !std::mem::replace(&mut stranger.over, true) {
                self.strangers_changed.insert(attempt.task);
            }
        }
    }

    pub(super) fn on_stranger_over(&mut self, id: SidecarId, attempt: AttemptId) {
        let stranger = self.sidecars.get_mut(&id).and_then(|sidecar| sidecar.strangers.get_mut(&attempt));
        if let Some(stranger) = stranger {
            stranger.over = true;
            self.strangers_changed.insert(attempt.task);
        }
    }

    /// For people: what is set aside of the tasks of which that has changed since the last call, whole; of none nothing is left.
    pub fn take_set_aside(&mut self) -> BTreeMap<TaskId, Vec<v1::SetAside>> {
        let changed = std::mem::take(&mut self.strangers_changed);
        let all = |task| self.strangers_of(task).map(|(attempt, id)| self.describe_stranger(attempt, id)).collect();
        changed.into_iter().map(|task| (task, all(task))).collect()
    }

    fn describe_stranger(&self, attempt: AttemptId, id: SidecarId) -> v1::SetAside {
        let stranger = self.sidecars.get(&id).and_then(|sidecar| sidecar.strangers.get(&attempt));
        v1::SetAside {
            number: attempt.number,
            sidecar: id.to_string(),
            over: stranger.is_some_and(|stranger| stranger.over),
        }
    }

    /// The first disagreement of the two lists of them, in words.
    pub(super) fn check_strangers(&self) -> Result<(), String> {
        let told =
            self.sidecars.iter().flat_map(|(id, sidecar)| sidecar.strangers.keys().map(|attempt| (*attempt, *id)));
        let told: BTreeSet<_> = told.collect();
        if told == self.strangers {
            Ok(())
        } else {
            Err("what is set aside is listed differently in two places".to_owned())
        }
    }
}
