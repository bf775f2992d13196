//! Which tasks a list shows, and how a row is held against it.

use proto::bounds;
use proto::id::TaskId;
use proto::store::{Facts, TaskRow};
use proto::v1::{self, TaskState};
use std::collections::BTreeMap;

/// Which tasks a list shows. Everything given must hold; the default shows all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// One of these states; empty: any.
    pub states: Vec<TaskState>,
    /// This owner.
    pub owner: Option<String>,
    /// This name.
    pub name: Option<String>,
    /// All of these labels.
    pub labels: BTreeMap<String, String>,
    /// Names that start with this.
    pub name_prefix: Option<String>,
    /// Members of this array, lowest index first; without it no members are listed. [`Filter::before`] is then the last member of
    /// the page before, and the page after it follows.
    pub array: Option<TaskId>,
    /// This kind: `command`, …, `type:NAME`.
    pub kind: Option<String>,
    /// An attempt of it is, or was, on this sidecar.
    pub sidecar: Option<String>,
    /// Created after this Unix time, ms.
    pub created_after_unix_ms: Option<u64>,
    /// Created before this Unix time, ms.
    pub created_before_unix_ms: Option<u64>,
    /// Ended for this reason.
    pub reason: Option<v1::Reason>,
    /// This priority.
    pub priority: Option<i32>,
    /// Rows wanted; 0 means the default, more than `bounds::PAGE` means `bounds::PAGE`.
    pub page_size: u32,
    /// Only tasks older than this one: the last id of the page before. It need not exist any more.
    pub before: Option<TaskId>,
}

impl Filter {
    /// Rows in a full page.
    #[must_use]
    pub fn rows(&self) -> usize {
        let rows = if self.page_size == 0 { bounds::PAGE_DEFAULT } else { self.page_size.min(bounds::PAGE) };
        rows as usize
    }
    /// Whether a task in this state may be shown.
    pub(crate) fn takes_state(&self, state: TaskState) -> bool {
        self.states.is_empty() || self.states.contains(&state)
    }

    /// Whether anything is asked that stands in a task's facts.
    pub(crate) fn asks_facts(&self) -> bool {
        let names = self.owner.is_some() || self.name.is_some() || self.name_prefix.is_some();
        names || !self.labels.is_empty() || self.kind.is_some() || self.priority.is_some()
    }

    /// Whether a task with these facts may be shown.
    pub(crate) fn takes_facts(&self, facts: &Facts) -> bool {
        self.owner.as_ref().is_none_or(|owner| *owner == facts.owner)
            && self.name.as_ref().is_none_or(|name| *name == facts.name)
            && self.name_prefix.as_ref().is_none_or(|prefix| facts.name.starts_with(prefix))
            && self.labels.iter().all(|(key, value)| facts.labels.get(key) == Some(value))
            && self.kind.as_ref().is_none_or(|kind| *kind == facts.kind)
            && self.priority.is_none_or(|priority| priority == facts.priority)
    }

    /// Whether a task with this row may be shown, as far as its row tells without its facts.
    pub(crate) fn takes_row(&self, row: &TaskRow) -> bool {
        let reason = row.ending.as_ref().map(v1::Ending::reason);
        self.takes_state(row.state())
            && self.reason.is_none_or(|wanted| reason == Some(wanted))
            && self.created_after_unix_ms.is_none_or(|time| row.created_unix_ms > time)
            && self.created_before_unix_ms.is_none_or(|time| row.created_unix_ms < time)
            && self.sidecar.as_ref().is_none_or(|id| row.attempts.iter().any(|attempt| attempt.sidecar == *id))
    }
}
