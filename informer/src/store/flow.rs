//! What the store tells of workflows: definitions, and runs with their steps.

use super::{Error, SCAN_ROWS};
use crate::machine::{RunId, RunKeyHit};
use proto::bounds;
use proto::store::{DefinitionRow, RunEventRow, RunRow, TaskDefinitionRow};
use proto::v1::RunStatus;
use std::collections::BTreeMap;
use workflow::run::{PartRow, StepIx, StepRow};

/// Which runs a search shows. Everything given must hold; the default shows all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunFilter {
    /// One of these statuses; empty: any.
    pub statuses: Vec<RunStatus>,
    /// Of this workflow.
    pub name: Option<String>,
    /// Of this version.
    pub version: Option<u32>,
    /// This owner.
    pub owner: Option<String>,
    /// This correlation id.
    pub correlation: Option<String>,
    /// All of these labels.
    pub labels: BTreeMap<String, String>,
    /// The runs that this one waits for.
    pub parent: Option<String>,
    /// Started after this Unix time, ms.
    pub started_after_unix_ms: Option<u64>,
    /// Started before this Unix time, ms.
    pub started_before_unix_ms: Option<u64>,
    /// Runs whose reason contains this.
    pub reason: Option<String>,
    /// Rows wanted; 0 means the default, more than `bounds::PAGE` means `bounds::PAGE`.
    pub page_size: u32,
    /// Only runs whose ids are smaller than this one, which need not exist any more.
    pub before: Option<String>,
}

impl RunFilter {
    /// Rows in a full page.
    #[must_use]
    pub fn rows(&self) -> usize {
        let rows = if self.page_size == 0 { bounds::PAGE_DEFAULT } else { self.page_size.min(bounds::PAGE) };
        rows as usize
    }

    /// Whether a run is shown.
    pub(crate) fn takes(&self, row: &RunRow) -> bool {
        (self.statuses.is_empty() || self.statuses.contains(&row.status()))
            && self.name.as_ref().is_none_or(|name| *name == row.name)
            && self.version.is_none_or(|version| version == row.version)
            && self.owner.as_ref().is_none_or(|owner| *owner == row.owner)
            && self.correlation.as_ref().is_none_or(|correlation| *correlation == row.correlation)
            && self.labels.iter().all(|(key, value)| row.labels.get(key) == Some(value))
            && self.parent.as_ref().is_none_or(|parent| *parent == row.parent)
            && self.started_after_unix_ms.is_none_or(|time| row.started_unix_ms > time)
            && self.started_before_unix_ms.is_none_or(|time| row.started_unix_ms < time)
            && self.reason.as_ref().is_none_or(|wanted| reason(row).is_some_and(|reason| reason.contains(wanted)))
    }
}

/// Why a run did not end well, as its own row tells.
fn reason(row: &RunRow) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Reason {
        reason: Option<String>,
    }
    serde_json::from_slice::<Reason>(&row.body).ok()?.reason
}

/// One page of a search: newest first by id.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunPage {
    /// The rows.
    pub rows: Vec<RunRow>,
    /// Where the next page starts (as [`RunFilter::before`]); `None`: this was the last.
    pub next: Option<String>,
}

impl RunPage {
    /// Fills a page from rows in the order of a search; those after the bound of what is looked at are left for the next.
    pub(crate) fn fill<E>(filter: &RunFilter, rows: impl Iterator<Item = Result<RunRow, E>>) -> Result<Self, E> {
        let mut page = Self::default();
        for (scanned, row) in (1..).zip(rows) {
            let row = row?;
            let id = row.id.clone();
            if filter.takes(&row) {
                if page.rows.len() == filter.rows() {
                    page.next = page.rows.last().map(|row| row.id.clone());
                    break;
                }
                page.rows.push(row);
            }
            if scanned == SCAN_ROWS {
                page.next = Some(id);
                break;
            }
        }
        Ok(page)
    }
}

/// The part of a read handle that knows workflows.
pub trait ReadFlows {
    /// One version of a definition, or the latest.
    ///
    /// # Errors
    /// The store cannot be read.
    fn definition(&mut self, name: &str, version: Option<u32>) -> Result<Option<DefinitionRow>, Error>;

    /// Definitions by name and version, after `after`, at most `limit`; with `name` the versions of that one.
    ///
    /// # Errors
    /// The store cannot be read.
    fn definitions(
        &mut self,
        name: Option<&str>,
        after: Option<(&str, u32)>,
        limit: usize,
    ) -> Result<Vec<DefinitionRow>, Error>;

    /// One task definition.
    ///
    /// # Errors
    /// The store cannot be read.
    fn task_definition(&mut self, name: &str) -> Result<Option<TaskDefinitionRow>, Error>;

    /// Task definitions by name, after `after`, at most `limit`.
    ///
    /// # Errors
    /// The store cannot be read.
    fn task_definitions(&mut self, after: Option<&str>, limit: usize) -> Result<Vec<TaskDefinitionRow>, Error>;

    /// One run.
    ///
    /// # Errors
    /// The store cannot be read.
    fn run(&mut self, id: &str) -> Result<Option<RunRow>, Error>;

    /// Runs that are not over, or that have yet to tell of their failure, by id, after `after`, at most `limit`.
    ///
    /// # Errors
    /// The store cannot be read.
    fn live_runs(&mut self, after: Option<&str>, limit: usize) -> Result<Vec<RunRow>, Error>;

    /// A page of runs, newest first. Looks at no more than [`SCAN_ROWS`] rows, so it may be short, or empty, and still have a next.
    ///
    /// # Errors
    /// The store cannot be read.
    fn runs(&mut self, filter: &RunFilter) -> Result<RunPage, Error>;

    /// The steps of a run from number `from` on, at most `limit`.
    ///
    /// # Errors
    /// The store cannot be read.
    fn run_steps(&mut self, id: &str, from: StepIx, limit: usize) -> Result<Vec<StepRow>, Error>;

    /// The parts of a run's plan, in order.
    ///
    /// # Errors
    /// The store cannot be read.
    fn run_parts(&mut self, id: &str) -> Result<Vec<PartRow>, Error>;

    /// Lines of a run's history after `after_seq`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// The store cannot be read.
    fn run_events(&mut self, id: &str, after_seq: u32, limit: u32) -> Result<Vec<RunEventRow>, Error>;

    /// What the key of a start stands for.
    ///
    /// # Errors
    /// The store cannot be read.
    fn run_key(&mut self, key: &str) -> Result<Option<RunKeyHit>, Error>;

    /// Ended runs that may go by the retention rules, those that ended first first, at most `limit`. A child stays while the run that
    /// waits for it goes on.
    ///
    /// # Errors
    /// The store cannot be read.
    fn prunable_runs(&mut self, ended_before_unix_ms: u64, keep: u64, limit: usize) -> Result<Vec<RunId>, Error>;
}

/// Whether a start loads the run.
pub(crate) fn is_live(row: &RunRow) -> bool {
    matches!(row.status(), RunStatus::Running | RunStatus::Paused | RunStatus::Unspecified)
        || !row.pending_start.is_empty()
}
