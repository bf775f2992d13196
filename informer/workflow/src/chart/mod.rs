//! The flow chart of a run, or of a definition alone: every task once, how it stands, and which ways were taken.
//!
//! ```text
//!  plans + steps ─▶ build ─▶ Chart ─▶ JSON (serde)
//!            history ┘          └───▶ layout ─▶ svg
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `history` | what the steps of a run say of each node |
//! | `build` | nodes, edges, and how they lie in each other |
//! | `label` | the lines of text in a node's box |
//! | `layout` | where boxes, frames and lines lie |
//! | `svg` | the picture |
//!
//! A chart is bounded whatever the run is: the definition's tasks are all in it, of a dynamic fork the branches that matter most,
//! and of a loop its latest round with the counts of all that are kept. Its cost is linear in the run's steps.

mod build;
mod history;
mod label;
mod layout;
mod svg;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::definition::MAX_TASKS;
use crate::plan::Plan;
use crate::run::{Run, RunRow, StepRow, TaskStatus};

/// Nodes that are drawn. All of a definition fit, and half as many of dynamic forks; a picture of more is megabytes that no
/// browser shows well and nobody reads.
pub const MAX_NODES: usize = MAX_TASKS + MAX_TASKS / 2;

/// Branches of one dynamic fork that are drawn. A row of more is wider than any screen; the others are counted.
pub const MAX_BRANCHES_DRAWN: usize = 6;

/// Dynamic forks within branches of dynamic forks that are drawn. Drawing recurses once for each, so this bounds the stack.
pub const MAX_FORKS_WITHIN: usize = 8;

/// A flow chart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Chart {
    /// The definition's name.
    pub workflow: String,
    /// The definition's version that the run is pinned to.
    pub version: u32,
    /// The run; none in a chart of a definition alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<RunState>,
    /// Its nodes: the start, the tasks, each before what it holds, and the end.
    pub nodes: Vec<Node>,
    /// Which node comes after which.
    pub edges: Vec<Edge>,
    /// How the nodes lie in each other.
    #[serde(skip)]
    root: build::Lane,
}

/// How a run stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunState {
    /// Its id.
    pub id: String,
    /// Conductor's status of it.
    pub status: &'static str,
    /// Why it did not end well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it started, in ms since 1970.
    pub started_ms: u64,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
}

/// How a node stands in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It was reached, or skipped before it was: the status of its latest try.
    Reached(TaskStatus),
    /// Nothing of it has run, and something may.
    NotReached,
    /// It lies on a way that was not chosen.
    Untaken,
}

impl State {
    /// Conductor's spelling, or `NOT_REACHED`, or `UNTAKEN`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reached(status) => status.as_str(),
            Self::NotReached => "NOT_REACHED",
            Self::Untaken => "UNTAKEN",
        }
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// How many stand how, by state.
pub type Counts = BTreeMap<&'static str, u32>;

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Unique within the chart: `start`, `end`, `PART.NODE` of a task (part 0 is the definition, each dynamic fork adds one), or
    /// that of a dynamic fork with `.more` for its branches that are not drawn.
    pub id: String,
    /// Conductor's type; `START`, `END`, and `MORE` for the branches that are not drawn.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The task's reference name; empty where it is no task.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reference: String,
    /// The task's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The switch, fork or loop that it lies in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// How it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// Why it did not end well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Tries that were followed by another one, in all rounds.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u32,
    /// Of a task in a loop: the latest round of it, in each of the loops around it, the outermost first. What comes after the
    /// task that a loop is at has run in the round before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub round: Vec<u32>,
    /// Of a task in a loop: how the rounds that are kept stand.
    #[serde(skip_serializing_if = "Counts::is_empty")]
    pub counts: Counts,
    /// Of a loop: where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounds: Option<Rounds>,
    /// Of a dynamic fork and of `MORE`: its branches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branches: Option<Branches>,
    /// Of a switch: the case that was chosen last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<String>,
    /// Of a DYNAMIC: the task that it turned out to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolved: Option<String>,
    /// Of a SUB_WORKFLOW: the workflow that its definition names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starts: Option<String>,
    /// The id of the run that it started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub child: Option<String>,
    /// The id of its latest try for the outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Who has, or had, it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// When its latest try was scheduled, in ms since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduled_ms: Option<u64>,
    /// When that started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_ms: Option<u64>,
    /// When that ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
}

/// Where a loop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rounds {
    /// The latest round, from 1 on; 0 before the first.
    pub round: u32,
    /// How many there will be, where it goes through a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<u32>,
    /// How many are kept, where it does not keep all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<u32>,
}

/// Branches of a dynamic fork.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Branches {
    /// How many there are; of `MORE`: how many are not drawn.
    pub total: u32,
    /// How they stand.
    pub states: Counts,
}

/// One node after another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Edge {
    /// The node before.
    pub from: String,
    /// The node after.
    pub to: String,
    /// Whether it leads back to the beginning of a loop.
    #[serde(skip_serializing_if = "is_false")]
    pub again: bool,
    /// The case of a switch; at a join, that it does not wait for this branch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Whether a run went along it, in any round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taken: Option<bool>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

impl Chart {
    /// The chart of a definition alone.
    pub fn of_plan(plan: &Arc<Plan>) -> Self {
        build::chart(std::slice::from_ref(plan), None)
    }

    /// The chart of a run.
    pub fn of_run(run: &Run) -> Self {
        Self::of_rows(run.row(), run.steps(), run.plans())
    }

    /// The chart of a run by its stored rows, in the order of their numbers. `plans`: of the definition, then of each part.
    pub fn of_rows<'a>(row: &'a RunRow, steps: impl IntoIterator<Item = &'a StepRow>, plans: &'a [Arc<Plan>]) -> Self {
        build::chart(plans, Some(history::History::of(row, steps)))
    }

    /// The picture: one SVG document without scripts, styles, fonts or links.
    pub fn svg(&self) -> String {
        svg::draw(self)
    }
}
