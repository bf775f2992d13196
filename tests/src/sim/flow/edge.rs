//! The boundaries around which the informer is killed: the commit of a batch that does one of these things, before or after it is durable.

use super::super::disk::Store;
use informer::machine::{Batch, TaskChange};
use std::collections::BTreeMap;
use workflow::run::{RunStatus, StepRow, TaskStatus};

/// What a batch does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Edge {
    /// A definition is registered.
    Registration,
    /// A client's run begins.
    Start,
    /// A step's work becomes a task of ours.
    Work,
    /// A worker that polls takes a step.
    Taken,
    /// A worker's task ends.
    WorkEnded,
    /// A try fails and another is made.
    Retry,
    /// A join opens.
    Join,
    /// A run that another one wants begins.
    ChildStart,
    /// It ends, and so does the step that waits for it.
    ChildEnd,
    /// A run begins to end: its output is asked for.
    Ending,
    /// A run ends.
    End,
    /// A run is over, and a failure workflow is yet to be started.
    Telling,
}

impl Edge {
    /// All.
    pub const ALL: [Self; 12] = [
        Self::Registration,
        Self::Start,
        Self::Work,
        Self::Taken,
        Self::WorkEnded,
        Self::Retry,
        Self::Join,
        Self::ChildStart,
        Self::ChildEnd,
        Self::Ending,
        Self::End,
        Self::Telling,
    ];

    /// What a batch does, by what the store held before.
    pub(in super::super) fn of(store: &Store, batch: &Batch) -> Vec<Self> {
        let mut found = BTreeMap::new();
        let mut note = |edge: Self, met: bool| {
            if met {
                found.insert(edge, ());
            }
        };
        note(Self::Registration, !batch.definitions.is_empty());
        let of_run = |change: &TaskChange| change.row.of_run.is_some();
        note(Self::Work, batch.tasks.iter().any(|change| change.fresh && of_run(change)));
        for change in &batch.runs {
            let own = change.row.as_ref().and_then(super::rows::own);
            if let (Some(row), Some(own)) = (&change.row, &own) {
                note(Self::Start, change.fresh && !row.key.is_empty());
                note(Self::ChildStart, change.fresh && row.key.is_empty());
                note(Self::Ending, own.ending.is_some());
                note(Self::End, own.status.is_ended());
                note(Self::ChildEnd, own.status.is_ended() && own.parent.is_some());
                let failed = matches!(own.status, RunStatus::Failed | RunStatus::Terminated | RunStatus::TimedOut);
                note(Self::Telling, failed && row.pending_start.starts_with('{'));
            }
            let before = |step: &StepRow| store.flows.step(&change.id, step.step).map(|row| row.status);
            for step in &change.steps {
                let (was, ended) = (before(step), step.status.is_ended());
                note(Self::Taken, step.worker.is_some() && step.status == TaskStatus::InProgress);
                note(Self::WorkEnded, ended && step.worker.is_some() && was.is_some_and(|was| !was.is_ended()));
                note(Self::Retry, was.is_none() && step.retried_from.is_some());
                note(Self::Join, ended && step.fork.is_some() && step.status != TaskStatus::Canceled);
            }
        }
        found.into_keys().collect()
    }
}
