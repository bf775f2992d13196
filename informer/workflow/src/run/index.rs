//! What is derived from the rows: which steps are live, waiting, held, and where a task's latest try is.

use std::collections::{BTreeMap, BTreeSet};

use super::row::{Asked, Flow, Phase, StepIx, StepRow};
use super::stream::{Stream, StreamKey};
use super::{Run, Transition};
use crate::definition::Kind;
use crate::plan::NodeId;

/// The derived state of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Index {
    /// Steps that are not over.
    pub live: BTreeSet<StepIx>,
    /// How many of them go on by themselves.
    pub active: usize,
    /// Joins that wait.
    pub joins: BTreeSet<StepIx>,
    /// Steps that ended and of which nothing was made yet.
    pub held: BTreeSet<StepIx>,
    /// Questions that are put off.
    pub unasked: BTreeSet<StepIx>,
    /// SET_VARIABLE steps that wait for their answer: one at a time is asked, or one would undo the other.
    pub setters: BTreeSet<StepIx>,
    /// The latest try of a task in a round.
    pub instances: BTreeMap<(NodeId, Vec<u32>), StepIx>,
    /// The latest step of a task that an expression can see.
    pub latest: BTreeMap<NodeId, StepIx>,
    /// What running tasks have emitted.
    pub streams: BTreeMap<StreamKey, Stream>,
}

impl Index {
    pub(super) fn of(run: &Run) -> Self {
        let mut index = Self::default();
        for step in run.steps.values() {
            index.count(run, step, true);
            index.name(run, step);
        }
        index
    }

    /// Adds or removes what follows from a row's phase and flow.
    fn count(&mut self, run: &Run, step: &StepRow, add: bool) {
        let put = |set: &mut BTreeSet<StepIx>, is: bool| {
            if is {
                if add {
                    set.insert(step.step)
                } else {
                    set.remove(&step.step)
                };
            }
        };
        put(&mut self.live, step.is_live());
        put(&mut self.joins, step.phase == Phase::Joining);
        put(&mut self.held, step.flow == Flow::Due);
        let asked = matches!(step.phase, Phase::Asked(_));
        let sets = step.phase == Phase::Asked(Asked::Task) && matches!(run.node(step.node).kind, Kind::SetVariable);
        put(&mut self.setters, sets);
        put(&mut self.unasked, asked && step.ticket == 0 && !sets);
        if let (Flow::Gone, Some(key)) = (step.flow, run.stream_of(step)) {
            let passed = &mut self.streams.entry(key).or_default().passed;
            *passed = if add { *passed + 1 } else { *passed - 1 };
        }
        if step.is_active() {
            self.active = if add { self.active + 1 } else { self.active - 1 };
        }
    }

    /// Rows come in the order of their numbers, so the last one named is the latest.
    fn name(&mut self, run: &Run, step: &StepRow) {
        let newest = self.instances.entry((step.node, step.scope.clone())).or_insert(step.step);
        *newest = (*newest).max(step.step);
        if step.mapped {
            let latest = self.latest.entry(step.node).or_insert(step.step);
            *latest = (*latest).max(step.step);
        }
        if let (Some(key), Some(emitted), Some(place)) =
            (run.stream_of(step), step.emitted.as_deref(), step.scope.last())
        {
            let stream = self.streams.entry(key).or_default();
            if !stream.children.contains_key(place) {
                stream.places.insert(emitted.key.clone(), *place);
                stream.children.insert(*place, (step.node, emitted.key.clone()));
            }
        }
    }
}

impl Transition<'_> {
    /// The only way a step's row changes: indexes follow, and the row is written.
    pub(super) fn change<T>(&mut self, step: StepIx, change: impl FnOnce(&mut StepRow) -> T) -> T {
        let mut row = self.run.steps.remove(&step).expect("indexes name existing steps only");
        let mut index = std::mem::take(&mut self.run.index);
        index.count(self.run, &row, false);
        let given = change(&mut row);
        index.count(self.run, &row, true);
        index.name(self.run, &row);
        self.run.index = index;
        self.run.steps.insert(step, row);
        self.out.steps.insert(step);
        self.out.looked_at += 1;
        given
    }

    /// Adds a new row.
    pub(super) fn insert(&mut self, row: StepRow) {
        let mut index = std::mem::take(&mut self.run.index);
        index.count(self.run, &row, true);
        index.name(self.run, &row);
        self.run.index = index;
        self.out.steps.insert(row.step);
        self.out.looked_at += 1;
        self.run.steps.insert(row.step, row);
    }

    /// Removes a row; [`Self::reindex`] has to follow.
    pub(super) fn remove(&mut self, step: StepIx) {
        self.run.steps.remove(&step);
        self.out.steps.remove(&step);
        self.out.removed.insert(step);
        self.out.looked_at += 1;
    }

    /// Removes a row of an ended step that a newer round has replaced.
    pub(super) fn forget(&mut self, step: StepIx) {
        let Some(row) = self.run.steps.get(&step) else { return };
        let key = (row.node, row.scope.clone());
        if self.run.index.instances.get(&key) == Some(&step) {
            self.run.index.instances.remove(&key);
        }
        if self.run.index.latest.get(&key.0) == Some(&step) {
            self.run.index.latest.remove(&key.0);
        }
        self.run.index.streams.remove(&key);
        self.remove(step);
    }

    pub(super) fn reindex(&mut self) {
        self.run.index = Index::of(self.run);
    }
}
