//! What the informer keeps: one narrow trait, and what its answers look like.
//!
//! ```text
//!   shell loop ──▶ Commit (machine's batch + payload bodies) ──▶ writer thread: Store::commit, one transaction, one fsync
//!   edges, loop ◀── rows, pages, bodies ◀── Read: handles of their own, which never wait for the writer
//! ```
//!
//! | backend | for |
//! |---|---|
//! | [`sqlite`] | the embedded default: WAL, `synchronous=FULL` |
//! | [`memory`] | tests and the simulation: injects faults by plan |
//!
//! A store is opened under an *epoch*: a number above the highest that it has seen, and not merely the next one, so that no two
//! openings of one backup have the same ([`next_epoch`](proto::id::next_epoch)). It is claimed durably before anything else. A commit under an epoch that is no longer the highest is refused: somebody else leads. A commit that failed may or may
//! not be on disk; so nothing is ever committed after it, and the only way on is to open the store again.
//!
//! One suite, `conformance`, says what a backend must do. `filter` holds what a list can ask for, `flow` what is asked about workflows, `error` why a store refuses.

#[cfg(any(test, feature = "failpoints"))]
pub mod conformance;
mod error;
mod filter;
mod flow;
pub mod memory;
pub mod sqlite;

pub use error::Error;
pub use filter::Filter;
pub(crate) use flow::is_live;
pub use flow::{ReadFlows, RunFilter, RunPage};

use crate::machine::{Batch, KeyHit, PayloadHandle, RunId};
use bytes::Bytes;
use proto::id::TaskId;
use proto::store::{SidecarRow, TaskRow};
use proto::v1;
use std::collections::BTreeMap;

/// Rows that the load reads at once: enough that the cost of a query vanishes, few enough (about 1 MB) that a start needs no
/// second copy of everything.
pub const LOAD_PAGE: usize = 1000;

/// The durable name of an informer's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// A UUID made with the store; a copy or a backup keeps it.
    pub lineage: String,
    /// The epoch claimed when the store was opened.
    pub epoch: u64,
    /// Number of the last commit; 0: none yet.
    pub commit_seq: u64,
}

/// How far a store has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// The epoch that was claimed last.
    pub epoch: u64,
    /// Number of the last commit.
    pub commit_seq: u64,
}

impl Reached {
    /// Whether one who has come this far lacks something that `other` has: an epoch is claimed by a commit that has no number, so either
    /// alone counts.
    #[must_use]
    pub const fn lacks(self, other: Self) -> bool {
        self.epoch < other.epoch || self.commit_seq < other.commit_seq
    }
}

impl std::fmt::Display for Reached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "commit {} of epoch {}", self.commit_seq, self.epoch)
    }
}

/// One transaction.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Commit {
    /// Its number: one more than the last.
    pub seq: u64,
    /// What the machine decided. Rows with a key that the store has not seen claim the key.
    pub batch: Batch,
    /// Bodies by their SHA-256; those already there are left alone.
    pub payloads: Vec<(PayloadHandle, Bytes)>,
    /// Items of arrays that are being submitted. Those of an array that is not in the store when it is opened are removed.
    pub items: Vec<ItemChunk>,
    /// Ended tasks to remove with all that belongs to them: keys, labels, history, items, and payloads that no other task has. An
    /// array is only named when no member has a row any more. Removed before the rows of this batch are written. An array that was
    /// never submitted may be named too: its items go.
    pub prune: Vec<TaskId>,
    /// Ended runs to remove with all that belongs to them, likewise.
    pub prune_runs: Vec<RunId>,
}

impl Commit {
    /// The epoch after it, under `epoch`: a batch may raise it.
    #[must_use]
    pub fn epoch(&self, epoch: u64) -> u64 {
        self.batch.epoch.unwrap_or(epoch).max(epoch)
    }
}

/// Consecutive items of one array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemChunk {
    /// The array.
    pub array: TaskId,
    /// The position of the first, from 0 (not its index, which may start elsewhere).
    pub first: u32,
    /// The items in order.
    pub items: Vec<String>,
}

/// Rows that one page looks at, at most; then it ends early, perhaps with no row, and names where the next one goes on. Some 50 ms: a
/// caller with a rare wish pays for it page by page, and no call holds a snapshot for longer.
pub const SCAN_ROWS: usize = 50_000;

/// One page of a list: newest first by id, members of an array lowest index first.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Page {
    /// The rows.
    pub rows: Vec<TaskRow>,
    /// Where the next page starts (as [`Filter::before`]); `None`: this was the last.
    pub next: Option<TaskId>,
}

/// One line of a task's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRow {
    /// Counts from 1 within the task. Pruned lines leave a gap after the first.
    pub seq: u64,
    /// Unix milliseconds.
    pub unix_ms: u64,
    /// One of a fixed set of words: `submitted`, `assigned`, …
    pub kind: String,
    /// 0: the task itself.
    pub attempt: u32,
    /// One line for people; may be empty.
    pub detail: String,
}

/// An opened store: the one who may write. Dropping it releases the data directory.
pub trait Store: Send {
    /// Lineage, the claimed epoch, and the number of the last commit when it was opened.
    fn identity(&self) -> Identity;

    /// Makes everything in `commit` durable, or nothing of it. Blocks until the disk has it.
    ///
    /// # Errors
    /// Any error is final: [`Error::Fenced`] if a higher epoch was claimed, else the cause, after which the outcome is unknown
    /// and every further commit answers [`Error::Poisoned`].
    fn commit(&mut self, epoch: u64, commit: &Commit) -> Result<(), Error>;

    /// Another read handle. It sees every commit that has returned, and works while one is under way.
    ///
    /// # Errors
    /// What keeps it from being opened.
    fn reader(&self) -> Result<Box<dyn Read>, Error>;
}

/// A read handle; one query at a time.
pub trait Read: ReadFlows + Send {
    /// Tasks that are not terminal, in the order of their ids, after `after`; at most `limit`.
    ///
    /// # Errors
    /// The store cannot be read.
    fn live(&mut self, after: Option<TaskId>, limit: usize) -> Result<Vec<TaskRow>, Error>;

    /// Every sidecar, by id. At most `bounds::SIDECARS`, so not paged.
    ///
    /// # Errors
    /// The store cannot be read.
    fn sidecars(&mut self) -> Result<Vec<SidecarRow>, Error>;

    /// One task.
    ///
    /// # Errors
    /// The store cannot be read.
    fn get(&mut self, task: TaskId) -> Result<Option<TaskRow>, Error>;

    /// A page of tasks, newest first (members of an array: lowest index first). Pages stay stable while tasks come and go: each id
    /// is listed at most once, and every task that was there at the first page and matches throughout is listed. A page looks at no
    /// more than [`SCAN_ROWS`] rows, so it may be short, or empty, and still have a next.
    ///
    /// # Errors
    /// The store cannot be read.
    fn list(&mut self, filter: &Filter) -> Result<Page, Error>;

    /// How many of a task's children are in which state, of those that are kept. A run's task has none: its run has steps.
    ///
    /// # Errors
    /// The store cannot be read.
    fn children(&mut self, parent: TaskId) -> Result<Vec<(v1::TaskState, u32)>, Error>;

    /// The task's history after line `after_seq`, oldest first, at most `limit` lines.
    ///
    /// # Errors
    /// The store cannot be read.
    fn history(&mut self, task: TaskId, after_seq: u64, limit: u32) -> Result<Vec<HistoryRow>, Error>;

    /// Payload bodies, each the one that was stored under its SHA-256; those that are not there are absent from the answer.
    ///
    /// # Errors
    /// The store cannot be read, or a body is damaged.
    fn payloads(&mut self, handles: &[PayloadHandle]) -> Result<BTreeMap<PayloadHandle, Bytes>, Error>;

    /// The item at a position (from 0) of an array; `None` if there is none.
    ///
    /// # Errors
    /// The store cannot be read.
    fn item(&mut self, array: TaskId, position: u32) -> Result<Option<String>, Error>;

    /// Consecutive items of an array, that at a position (from 0) among them: as a rule the stored chunk that holds it. `None` if
    /// there is none.
    ///
    /// # Errors
    /// The store cannot be read.
    fn item_chunk(&mut self, array: TaskId, position: u32) -> Result<Option<ItemChunk>, Error> {
        let item = self.item(array, position)?;
        Ok(item.map(|item| ItemChunk { array, first: position, items: vec![item] }))
    }

    /// Every registered executor, by type. At most `bounds::EXECUTORS`, so not paged.
    ///
    /// # Errors
    /// The store cannot be read.
    fn executors(&mut self) -> Result<Vec<v1::Executor>, Error>;

    /// Ended tasks that may go by the retention rules, those that ended first first, at most `limit`: all that ended before
    /// `ended_before_unix_ms`, and all but the last `keep` that ended. Instead of an array some of its members are named, while it has
    /// any with a row.
    ///
    /// # Errors
    /// The store cannot be read.
    fn prunable(&mut self, ended_before_unix_ms: u64, keep: u64, limit: usize) -> Result<Vec<TaskId>, Error>;

    /// What a key stands for.
    ///
    /// # Errors
    /// The store cannot be read.
    fn key(&mut self, key: &str) -> Result<Option<KeyHit>, Error>;
}

/// Every task that is not terminal, read page by page. The first error ends the iteration and stays in `failed`.
pub(crate) struct Live<'r> {
    reader: &'r mut dyn Read,
    page: std::vec::IntoIter<TaskRow>,
    last: Option<TaskId>,
    failed: &'r mut Option<Error>,
}

impl<'r> Live<'r> {
    pub(crate) fn new(reader: &'r mut dyn Read, failed: &'r mut Option<Error>) -> Self {
        Self { reader, page: Vec::new().into_iter(), last: None, failed }
    }
}

impl Iterator for Live<'_> {
    type Item = TaskRow;

    fn next(&mut self) -> Option<TaskRow> {
        if let Some(row) = self.page.next() {
            return Some(row);
        }
        if self.failed.is_some() {
            return None;
        }
        match self.reader.live(self.last, LOAD_PAGE) {
            Ok(rows) => {
                self.last = rows.last().and_then(id_of).or(self.last);
                self.page = rows.into_iter();
                self.page.next()
            }
            Err(error) => {
                *self.failed = Some(error);
                None
            }
        }
    }
}

/// The id of a row; `None` for a row that no informer has written.
pub(crate) fn id_of(row: &TaskRow) -> Option<TaskId> {
    TaskId::from_bytes(&row.id)
}

/// What a row's key stands for.
pub(crate) fn digest_of(row: &TaskRow) -> &[u8] {
    if row.key_digest.is_empty() { &row.payload } else { &row.key_digest }
}

/// States in which a task still wants something, in the order of their numbers.
pub(crate) const LIVE: [v1::TaskState; 5] = {
    use v1::TaskState::{Assigned, Committing, Ready, Running, Waiting};
    [Waiting, Ready, Assigned, Running, Committing]
};

/// How messages call a row's task.
pub(crate) fn name_of(row: &TaskRow) -> String {
    id_of(row).map_or_else(|| format!("{:02x?}", row.id), |id| id.to_string())
}
