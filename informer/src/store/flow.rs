//! What the store tells of workflows: definitions, and runs with their steps.

use super::{Error, SCAN_ROWS};
use crate::machine::{PayloadHandle, RunId, RunKeyHit};
use bytes::Bytes;
use proto::bounds;
use proto::store::{DefinitionRow, RunEventRow, RunRow, TaskDefinitionRow};
use proto::v1::RunStatus;
use std::collections::BTreeMap;
use workflow::evaluate::Handle;
use workflow::run::{PartRow, StepIx, StepRow};

/// Bytes of inputs and outputs that one page of a search reads. A page then ends short, like one that has looked at [`SCAN_ROWS`]: some
/// tenths of a second, in which a reader serves nobody else.
const SCAN_BYTES: usize = 64 << 20;

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
    /// Runs of which anything that people have written contains this: names, labels, the reason, input or output.
    pub text: Option<String>,
    /// Fields of the input, by path (`film.name`), each with this value; what is no text is compared as its JSON.
    pub input: BTreeMap<String, String>,
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

    /// Whether bodies have to be read to know whether a run is shown.
    fn reads_bodies(&self) -> bool {
        self.text.is_some() || !self.input.is_empty()
    }

    /// Whether a run is shown that [`RunFilter::takes`] takes, by what its input and its output hold; and the bytes that were read for it.
    fn finds<E>(
        &self,
        row: &RunRow,
        body: &mut impl FnMut(PayloadHandle) -> Result<Option<Bytes>, E>,
    ) -> Result<(bool, usize), E> {
        let told = self.text.as_ref().is_none_or(|text| tells(row, text));
        if told && self.input.is_empty() {
            return Ok((true, 0));
        }
        let Ok(own) = serde_json::from_slice::<Own>(&row.body) else { return Ok((false, 0)) };
        let mut read = |handle: Option<Handle>| handle.map_or(Ok(None), |handle| body(handle.0));
        let input = read(own.input)?.unwrap_or_default();
        let mut bytes = input.len();
        if !self.input.is_empty() && !has_fields(&input, &self.input) {
            return Ok((false, bytes));
        }
        let Some(text) = self.text.as_ref().filter(|_| !told) else { return Ok((true, bytes)) };
        // As it stands in JSON, where a quote or a line's end is two characters.
        let quoted = serde_json::Value::String(text.clone()).to_string();
        let sought = &quoted.as_bytes()[1..quoted.len() - 1];
        if contains(&input, sought) {
            return Ok((true, bytes));
        }
        let output = read(own.output)?.unwrap_or_default();
        bytes += output.len();
        Ok((contains(&output, sought), bytes))
    }
}

/// What of a run's own row a search asks for.
#[derive(serde::Deserialize)]
struct Own {
    reason: Option<String>,
    input: Option<Handle>,
    output: Option<Handle>,
}

/// Why a run did not end well, as its own row tells.
fn reason(row: &RunRow) -> Option<String> {
    serde_json::from_slice::<Own>(&row.body).ok()?.reason
}

/// Whether a run's row itself contains the text.
fn tells(row: &RunRow, text: &str) -> bool {
    let words = [&row.id, &row.name, &row.owner, &row.correlation];
    let labels = row.labels.iter().flat_map(|(key, value)| [key, value]);
    words.into_iter().chain(labels).any(|word| word.contains(text))
        || reason(row).is_some_and(|reason| reason.contains(text))
}

fn contains(body: &[u8], sought: &[u8]) -> bool {
    sought.is_empty() || body.windows(sought.len()).any(|window| window == sought)
}

/// Whether a JSON object has all of these fields.
fn has_fields(body: &[u8], wanted: &BTreeMap<String, String>) -> bool {
    let Ok(body) = serde_json::from_slice::<serde_json::Value>(body) else { return false };
    wanted.iter().all(|(path, wanted)| {
        let mut at = Some(&body);
        for name in path.split('.') {
            at = at.and_then(|value| match name.parse::<usize>() {
                Ok(index) if value.is_array() => value.get(index),
                _ => value.get(name),
            });
        }
        match at {
            Some(serde_json::Value::String(text)) => text == wanted,
            Some(value) => {
                let shown = value.to_string();
                shown == *wanted
            }
            None => false,
        }
    })
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
    pub(crate) fn fill<E>(
        filter: &RunFilter,
        rows: impl Iterator<Item = Result<RunRow, E>>,
        mut body: impl FnMut(PayloadHandle) -> Result<Option<Bytes>, E>,
    ) -> Result<Self, E> {
        let mut page = Self::default();
        let mut read = 0;
        for (scanned, row) in (1..).zip(rows) {
            let row = row?;
            let id = row.id.clone();
            let mut taken = filter.takes(&row);
            if taken && filter.reads_bodies() {
                let (found, bytes) = filter.finds(&row, &mut body)?;
                (taken, read) = (found, read + bytes);
            }
            if taken {
                if page.rows.len() == filter.rows() {
                    page.next = page.rows.last().map(|row| row.id.clone());
                    break;
                }
                page.rows.push(row);
            }
            if scanned == SCAN_ROWS || read >= SCAN_BYTES {
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

    /// Ended runs that may go by the retention rules, those that ended first first, at most `limit` of them and their steps together, but
    /// one however large. A child stays while the run that waits for it goes on.
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
