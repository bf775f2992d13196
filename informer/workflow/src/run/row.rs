//! What is stored of a run: one row for the run, one for each step, one for each part of its plan.

use serde::{Deserialize, Serialize};

use crate::evaluate::Handle;
use crate::plan::NodeId;

/// A step's number within its run; never used twice.
pub type StepIx = u32;

/// Conductor's status of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TaskStatus {
    /// Waits to be taken.
    Scheduled,
    /// Was taken.
    InProgress,
    /// Ended well.
    Completed,
    /// Failed, which fails nothing else.
    CompletedWithErrors,
    /// Failed.
    Failed,
    /// Failed, and trying again cannot help.
    FailedWithTerminalError,
    /// Took too long.
    TimedOut,
    /// Ended with its run.
    Canceled,
    /// Left out on request.
    Skipped,
}

impl TaskStatus {
    /// Whether what comes next may run.
    pub fn is_success(self) -> bool {
        matches!(self, Self::Completed | Self::CompletedWithErrors | Self::Skipped)
    }

    /// Whether it is over.
    pub fn is_ended(self) -> bool {
        !matches!(self, Self::Scheduled | Self::InProgress)
    }

    /// Conductor's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "SCHEDULED",
            Self::InProgress => "IN_PROGRESS",
            Self::Completed => "COMPLETED",
            Self::CompletedWithErrors => "COMPLETED_WITH_ERRORS",
            Self::Failed => "FAILED",
            Self::FailedWithTerminalError => "FAILED_WITH_TERMINAL_ERROR",
            Self::TimedOut => "TIMED_OUT",
            Self::Canceled => "CANCELED",
            Self::Skipped => "SKIPPED",
        }
    }
}

/// Conductor's status of a workflow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RunStatus {
    /// Goes on.
    #[default]
    Running,
    /// Schedules nothing until it is resumed.
    Paused,
    /// Ended well.
    Completed,
    /// A task failed.
    Failed,
    /// It, or a task, took too long.
    TimedOut,
    /// Ended on request.
    Terminated,
}

impl RunStatus {
    /// Whether it is over.
    pub fn is_ended(self) -> bool {
        !matches!(self, Self::Running | Self::Paused)
    }

    /// Conductor's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Paused => "PAUSED",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::TimedOut => "TIMED_OUT",
            Self::Terminated => "TERMINATED",
        }
    }
}

/// The step of another run that started this one and waits for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentStep {
    /// The run.
    pub run: String,
    /// Its step.
    pub step: StepIx,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRow {
    /// Its id.
    pub id: String,
    /// The definition's name.
    pub name: String,
    /// The definition's version, pinned.
    pub version: u32,
    /// Its status.
    pub status: RunStatus,
    /// The user's id of what it belongs to.
    pub correlation: Option<String>,
    /// Who waits for it.
    pub parent: Option<ParentStep>,
    /// Its input.
    pub input: Option<Handle>,
    /// Its variables as they are now.
    pub variables: Option<Handle>,
    /// Its variables as they were at the start.
    pub first_variables: Option<Handle>,
    /// Its output, once it has ended.
    pub output: Option<Handle>,
    /// Why it did not end well.
    pub reason: Option<String>,
    /// The step whose failure ended it.
    pub failed_step: Option<StepIx>,
    /// When it started, in ms.
    pub started_ms: u64,
    /// When it last began to run: its start, or its last retry. Its timeout counts from here.
    pub since_ms: u64,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// How often it was brought back after an end; a report of an earlier end is told apart by it.
    pub era: u32,
    /// The next step's number.
    pub next_step: StepIx,
    /// The next place in the order of steps.
    pub wave: u32,
    /// The last question's number.
    pub ticket: u32,
    /// Parts appended to the plan.
    pub parts: u32,
    /// Whether the root sequence has come to its end.
    pub root_done: bool,
    /// Whether a permissive task has failed.
    pub troubled: bool,
    /// How it is about to end, while its output is made.
    pub ending: Option<EndingRow>,
}

/// How a run is about to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndingRow {
    /// Its status then.
    pub status: RunStatus,
    /// Why.
    pub reason: Option<String>,
    /// The question that is open.
    pub ticket: u32,
    /// The TERMINATE that ended it.
    pub terminate: Option<StepIx>,
    /// Whether the failure workflow is started.
    pub tell: bool,
}

/// What a step waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// For an answer.
    Asked(Asked),
    /// For its delay.
    Delayed,
    /// For a worker, a request, or a run it started.
    Sent,
    /// For a time, or somebody's word.
    Waiting,
    /// For the body of its loop.
    Looping,
    /// For the tasks it joins.
    Joining,
    /// For nothing: it is over.
    Ended,
}

/// Which answer a step waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// Its input, and what follows from it.
    Task,
    /// Whether its loop goes on.
    Condition,
    /// Its loop's output.
    LoopOutput,
    /// Its join's output.
    Joined,
}

/// What has become of what follows a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flow {
    /// The step is not over.
    Open,
    /// The step was skipped before it was reached.
    Ahead,
    /// The step is over, and nothing was made of it yet: the run pauses or ends.
    Due,
    /// What follows was opened.
    Gone,
    /// Nothing follows: it failed, was cancelled, or was tried again.
    Stopped,
}

/// A step: one try of one task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRow {
    /// Its number.
    pub step: StepIx,
    /// Its node.
    pub node: NodeId,
    /// The node that a DYNAMIC task turned out to be.
    pub resolved: Option<NodeId>,
    /// The rounds of the loops around it, the outermost first.
    pub scope: Vec<u32>,
    /// The step it lies in: a switch, a fork, a loop.
    pub parent: Option<StepIx>,
    /// The dynamic or static fork that a join follows.
    pub fork: Option<StepIx>,
    /// The join that follows a fork.
    pub join: Option<StepIx>,
    /// Its place in the order that Conductor would have made the tasks in.
    pub order: Vec<u32>,
    /// Its status.
    pub status: TaskStatus,
    /// What it waits for.
    pub phase: Phase,
    /// What has become of what follows it.
    pub flow: Flow,
    /// Whether its input could be made; before, it does not show.
    pub mapped: bool,
    /// The question it waits for; 0: to be asked later.
    pub ticket: u32,
    /// How often the task was tried before.
    pub retry_count: u32,
    /// The try before.
    pub retried_from: Option<StepIx>,
    /// What a dynamic fork gave this branch.
    pub given: Option<Handle>,
    /// Its input.
    pub input: Option<Handle>,
    /// Its output.
    pub output: Option<Handle>,
    /// Why it did not end well.
    pub reason: Option<String>,
    /// The id of the run it started.
    pub child: Option<String>,
    /// Reports of the child's ends before this era are late ones.
    pub child_era: u32,
    /// The round a loop is in.
    pub iteration: u32,
    /// The items a loop goes through.
    pub items: Option<u32>,
    /// The rounds a loop keeps.
    pub keep_last: Option<u32>,
    /// The case that was chosen: its index, or none for the default.
    pub chosen: Option<u32>,
    /// What is still to come: of a fork, branches that are not over, those of forks in them included; of a loop, the same and the
    /// body itself; of a join, tasks or branches.
    pub open: u32,
    /// Joined tasks that failed.
    pub failed: u32,
    /// Joined tasks that ended with errors.
    pub errors: u32,
    /// Whether the branch that begins with this step is over.
    pub lane_done: bool,
    /// When its first try was scheduled.
    pub first_ms: u64,
    /// When it was scheduled.
    pub scheduled_ms: u64,
    /// When it started.
    pub started_ms: Option<u64>,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// When its delay or its wait is over; it does not start before.
    pub due_ms: Option<u64>,
    /// When it has taken too long, where the run itself looks after that.
    pub deadline_ms: Option<u64>,
    /// Who has it.
    pub worker: Option<String>,
    /// Of a child that a running task has emitted: what it was emitted as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emitted: Option<Box<EmittedRow>>,
    /// It emits no more, and what follows it was opened.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sealed: bool,
}

/// What a child was emitted as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmittedRow {
    /// Its key within its parent.
    pub key: String,
    /// The hash of its payload: the same child is emitted with the same.
    pub digest: Handle,
}

/// A part of a run's plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRow {
    /// Its number, from 1 on.
    pub part: u32,
    /// The list of tasks it was made from.
    pub tasks: Handle,
    /// How many loops lie around it.
    pub depth: u32,
}

impl StepRow {
    /// Whether it is not over.
    pub fn is_live(&self) -> bool {
        self.phase != Phase::Ended
    }

    /// Whether it can go on by itself, without another step's end.
    pub(super) fn is_active(&self) -> bool {
        !matches!(self.phase, Phase::Ended | Phase::Looping | Phase::Joining)
    }

    /// Whether it ended and what follows it was opened.
    pub(super) fn is_passed(&self) -> bool {
        self.flow == Flow::Gone
    }
}
