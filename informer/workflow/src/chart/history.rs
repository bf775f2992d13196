//! What the steps of a run say of each node.

use std::collections::{BTreeMap, BTreeSet};

use super::{Counts, State};
use crate::plan::NodeId;
use crate::run::{Flow, RunRow, StepIx, StepRow, TaskStatus};

/// The steps of a run, by node.
pub(super) struct History<'a> {
    pub run: &'a RunRow,
    nodes: BTreeMap<NodeId, Story<'a>>,
}

/// What the steps of one node say.
pub(super) struct Story<'a> {
    /// The latest try of the latest round.
    pub latest: &'a StepRow,
    /// Tries that were followed by another one.
    pub retries: u32,
    /// How the latest tries of all rounds stand.
    pub counts: Counts,
    /// Whether the run came here.
    pub reached: bool,
    /// Whether it went on from here.
    pub passed: bool,
    /// The cases that were chosen: their index, or none for the default.
    pub chosen: BTreeSet<Option<u32>>,
}

impl<'a> History<'a> {
    /// `steps`: in the order of their numbers.
    pub(super) fn of(run: &'a RunRow, steps: impl IntoIterator<Item = &'a StepRow>) -> Self {
        let steps: Vec<&StepRow> = steps.into_iter().collect();
        let replaced: BTreeSet<StepIx> = steps.iter().filter_map(|step| step.retried_from).collect();
        let mut nodes: BTreeMap<NodeId, Story<'a>> = BTreeMap::new();
        for step in steps {
            let story = nodes.entry(step.node).or_insert_with(|| Story::begin(step));
            story.add(step, replaced.contains(&step.step));
        }
        Self { run, nodes }
    }

    pub(super) fn story(&self, id: NodeId) -> Option<&Story<'a>> {
        self.nodes.get(&id)
    }

    /// How a node stands. `dead`: no way leads there any more.
    pub(super) fn state(&self, id: NodeId, dead: bool) -> State {
        match self.nodes.get(&id) {
            Some(story) => State::Reached(story.latest.status),
            None if dead => State::Untaken,
            None => State::NotReached,
        }
    }

    /// How a branch stands that begins with `id`: what runs within it counts, too.
    pub(super) fn branch_state(&self, id: NodeId, dead: bool) -> State {
        match self.nodes.get(&id).map(|story| story.latest) {
            Some(head) if head.status.is_success() && !head.lane_done && !self.run.status.is_ended() => {
                State::Reached(TaskStatus::InProgress)
            }
            _ => self.state(id, dead),
        }
    }
}

impl<'a> Story<'a> {
    fn begin(step: &'a StepRow) -> Self {
        let (counts, chosen) = (Counts::new(), BTreeSet::new());
        Self { latest: step, retries: 0, counts, reached: false, passed: false, chosen }
    }

    fn add(&mut self, step: &'a StepRow, replaced: bool) {
        self.latest = step;
        self.reached |= step.flow != Flow::Ahead;
        self.passed |= step.flow == Flow::Gone;
        if replaced {
            self.retries += 1;
            return;
        }
        *self.counts.entry(step.status.as_str()).or_default() += 1;
        if step.flow == Flow::Gone && step.status == TaskStatus::Completed {
            self.chosen.insert(step.chosen);
        }
    }

    /// Whether a switch that is over went another way each time.
    pub(super) fn passed_by(&self, case: Option<u32>) -> bool {
        self.latest.flow == Flow::Gone && !self.chosen.contains(&case)
    }

    /// Whether a fork or a loop is over and nothing in it ever ran.
    pub(super) fn left_out(&self, is_loop: bool) -> bool {
        let none = if is_loop { self.latest.iteration == 0 } else { self.latest.status != TaskStatus::Completed };
        self.latest.flow == Flow::Gone && none
    }
}
