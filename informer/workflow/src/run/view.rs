//! What can be seen of a run.

use std::sync::Arc;

use super::Run;
use super::row::{PartRow, RunRow, StepIx, StepRow};
use crate::definition::Kind;
use crate::plan::{Node, Plan};

impl Run {
    /// The run's row.
    pub fn row(&self) -> &RunRow {
        &self.row
    }

    /// A step's row.
    pub fn step(&self, step: StepIx) -> Option<&StepRow> {
        self.steps.get(&step)
    }

    /// All steps' rows, by number.
    pub fn steps(&self) -> impl Iterator<Item = &StepRow> {
        self.steps.values()
    }

    /// The parts that were appended to its plan.
    pub fn parts(&self) -> &[PartRow] {
        &self.parts
    }

    /// Its plans: of the definition, then of each part.
    pub fn plans(&self) -> &[Arc<Plan>] {
        &self.plans
    }

    /// The steps that show, in the order in which Conductor would have made them.
    pub fn shown(&self) -> Vec<&StepRow> {
        let mut shown: Vec<_> = self.steps.values().filter(|step| step.mapped || step.is_live()).collect();
        shown.sort_by(|a, b| a.order.cmp(&b.order));
        shown
    }

    /// The node that says how a step is run.
    pub fn node_of(&self, step: &StepRow) -> &Node {
        self.spec(step)
    }

    /// A step's reference name with its rounds: `task__2`.
    pub fn full_reference(&self, step: &StepRow) -> String {
        let mut name = self.node(step.node).reference.clone();
        for round in &step.scope {
            name.push_str("__");
            name.push_str(&round.to_string());
        }
        name
    }

    /// Conductor's `taskType`: for a worker's task its name.
    pub fn task_type<'a>(&'a self, step: &'a StepRow) -> &'a str {
        let node = self.node_of(step);
        match &node.kind {
            Kind::Simple => &node.name,
            Kind::Fork { .. } | Kind::DynamicFork(_) => "FORK",
            kind => kind.type_name(),
        }
    }
}
