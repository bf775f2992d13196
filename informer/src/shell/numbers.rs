//! Numbers for whoever watches the informer: counters that loop and writer add to, gauges that the loop sets about once a second.
//! Reading them passes neither.

use crate::machine::Machine;
use crate::store::{Commit, id_of};
use proto::id::TaskId;
use proto::store::TaskRow;
use proto::v1::TaskState;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

/// Upper bounds of the buckets of commit times, microseconds: from a fast NVMe's fsync to a disk that is about to fail.
pub const COMMIT_BUCKETS_US: [u64; 12] =
    [250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000];

/// What commits write to, in the order of [`Numbers::rows`].
pub const TABLES: [&str; 10] = [
    "tasks",
    "sidecars",
    "history",
    "payloads",
    "item_chunks",
    "executors",
    "pruned",
    "runs",
    "run_steps",
    "run_events",
];

/// All numbers at one moment. Counters count since the start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Numbers {
    /// Batches whose effects have left, those that had nothing to commit included.
    pub batches: u64,
    /// Commits: each is one transaction and one fsync.
    pub commits: u64,
    /// Rows committed, by [`TABLES`].
    pub rows: [u64; TABLES.len()],
    /// Bytes of payloads and items committed.
    pub body_bytes: u64,
    /// Commits by the time they took, in the buckets of [`COMMIT_BUCKETS_US`] and beyond; not cumulative.
    pub commit_buckets: [u64; COMMIT_BUCKETS_US.len() + 1],
    /// Time that all commits took together, microseconds.
    pub commit_us: u64,
    /// As the loop saw it last.
    pub gauges: Gauges,
    /// Client calls, link events and chunks of items that wait for the loop.
    pub inbox: [usize; 3],
}

/// What the loop says of the machine; at most a second old.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gauges {
    /// Tasks that are not terminal, by the number of [`TaskState`]; members of arrays that have not started are not among them.
    pub tasks: [u64; 9],
    /// Tasks that the machine holds.
    pub held: u64,
    /// Tasks in the ready queue.
    pub ready: u64,
    /// Sidecars by the number of [`proto::v1::SidecarState`].
    pub sidecars: [u64; 6],
    /// Open links.
    pub links: u64,
    /// Callers that wait for an answer.
    pub waiters: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    batches: AtomicU64,
    commits: AtomicU64,
    rows: [AtomicU64; TABLES.len()],
    body_bytes: AtomicU64,
    commit_buckets: [AtomicU64; COMMIT_BUCKETS_US.len() + 1],
    commit_us: AtomicU64,
    gauges: RwLock<Gauges>,
}

impl Counters {
    pub(super) fn on_released(&self) {
        self.batches.fetch_add(1, Relaxed);
    }

    pub(super) fn on_committed(&self, commit: &Commit, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = COMMIT_BUCKETS_US.partition_point(|bound| *bound < us);
        self.commit_buckets[bucket].fetch_add(1, Relaxed);
        self.commit_us.fetch_add(us, Relaxed);
        self.commits.fetch_add(1, Relaxed);
        let batch = &commit.batch;
        let rows = [
            batch.tasks.len(),
            batch.sidecars.len(),
            batch.history.len(),
            commit.payloads.len() + batch.bodies.len(),
            commit.items.len(),
            batch.executors.len(),
            commit.prune.len() + commit.prune_runs.len(),
            batch.runs.len(),
            batch.runs.iter().map(|run| run.steps.len()).sum(),
            batch.run_events.len(),
        ];
        for (counter, rows) in self.rows.iter().zip(rows) {
            counter.fetch_add(rows as u64, Relaxed);
        }
        let payloads: usize = commit.payloads.iter().chain(&batch.bodies).map(|(_, body)| body.len()).sum();
        let items: usize = commit.items.iter().flat_map(|chunk| &chunk.items).map(String::len).sum();
        self.body_bytes.fetch_add((payloads + items) as u64, Relaxed);
    }

    pub(super) fn set_gauges(&self, gauges: Gauges) {
        *self.gauges.write().unwrap_or_else(PoisonError::into_inner) = gauges;
    }

    pub(super) fn read(&self, inbox: [usize; 3]) -> Numbers {
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        Numbers {
            batches: of(&self.batches),
            commits: of(&self.commits),
            rows: self.rows.each_ref().map(of),
            body_bytes: of(&self.body_bytes),
            commit_buckets: self.commit_buckets.each_ref().map(of),
            commit_us: of(&self.commit_us),
            gauges: self.gauges.read().unwrap_or_else(PoisonError::into_inner).clone(),
            inbox,
        }
    }
}

/// Counts committed tasks by state. Only those that neither queue nor have ended are kept one by one, which are as many as
/// sidecars hold, and those that wait for a time.
#[derive(Debug, Default)]
pub(super) struct Tally {
    states: HashMap<TaskId, TaskState>,
}

impl Tally {
    pub(super) fn see(&mut self, row: &TaskRow) {
        use TaskState::{Assigned, Committing, Running, Waiting};
        let Some(task) = id_of(row) else { return };
        match row.state() {
            state @ (Waiting | Assigned | Running | Committing) => self.states.insert(task, state),
            _ => self.states.remove(&task),
        };
    }

    pub(super) fn gauges(&self, machine: &Machine, links: usize, waiters: usize) -> Gauges {
        let (held, ready) = machine.counts();
        let mut tasks = [0; 9];
        for state in self.states.values() {
            tasks[*state as usize] += 1;
        }
        tasks[TaskState::Ready as usize] = ready as u64;
        Gauges {
            tasks,
            held: held as u64,
            ready: ready as u64,
            sidecars: machine.sidecar_states(),
            links: links as u64,
            waiters: waiters as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_falls_into_the_bucket_whose_bound_it_does_not_exceed() {
        let counters = Counters::default();
        for us in [1, 250, 251, 5_000_000, 5_000_001] {
            counters.on_committed(&Commit::default(), Duration::from_micros(us));
        }
        let numbers = counters.read([0; 3]);
        let full: Vec<(usize, u64)> =
            numbers.commit_buckets.iter().copied().enumerate().filter(|(_, count)| *count > 0).collect();
        assert_eq!(full, [(0, 2), (1, 1), (11, 1), (12, 1)]);
        assert_eq!((numbers.commits, numbers.commit_us), (5, 10_000_503));
    }
}
