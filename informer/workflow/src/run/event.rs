//! What can happen to a run, and what it wants done.

use std::sync::Arc;

use super::row::{ParentStep, RunStatus, StepIx, TaskStatus};
use crate::evaluate::{Answer, ChildStart, Handle, Question};
use crate::plan::Plan;

/// Something that has happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A question was answered.
    Evaluated {
        /// For which step; none: for the run.
        step: Option<StepIx>,
        /// The question's number.
        ticket: u32,
        /// The answer.
        answer: Answer,
    },
    /// A worker has taken a task.
    Started {
        /// Which.
        step: StepIx,
        /// Who.
        worker: Option<String>,
    },
    /// A worker says that a task goes on.
    Progressed {
        /// Which.
        step: StepIx,
        /// Its output so far.
        output: Option<Handle>,
        /// Whether it goes back to the queue for a while: IN_PROGRESS with callbackAfterSeconds.
        yields: bool,
    },
    /// A task has ended.
    TaskEnded {
        /// Which.
        step: StepIx,
        /// How.
        end: TaskEnd,
    },
    /// A run that a step wanted has started.
    ChildStarted {
        /// The step.
        step: StepIx,
    },
    /// It could not be started, or not be brought back.
    ChildRefused {
        /// The step.
        step: StepIx,
        /// Why, for the user.
        reason: String,
    },
    /// The run that a step waits for has ended.
    ChildEnded {
        /// The step.
        step: StepIx,
        /// How.
        end: RunEnd,
    },
    /// The run that a step waited for was brought back after its end.
    ChildReopened {
        /// The step.
        step: StepIx,
        /// The child's era since then.
        era: u32,
    },
    /// A running task emits a child.
    Emitted {
        /// Who.
        step: StepIx,
        /// The child.
        child: NewChild,
    },
    /// A running task emits no more.
    Sealed {
        /// Which.
        step: StepIx,
    },
    /// A timer is due.
    TimerDue {
        /// Of which step; none: of the run.
        step: Option<StepIx>,
    },
    /// A user, or an event, says what becomes of a task.
    Update {
        /// Its reference name, with `__N` for a round of a loop.
        reference: String,
        /// Its status from now on.
        status: TaskStatus,
        /// Its output.
        output: Option<Handle>,
        /// Why it failed.
        reason: Option<String>,
    },
    /// Schedule nothing more.
    Pause,
    /// Go on.
    Resume,
    /// End now.
    Terminate {
        /// Why.
        reason: Option<String>,
        /// Whether the failure workflow is started.
        tell: bool,
    },
    /// Try again what failed.
    Retry,
    /// The run that waits for this one was brought back: go on, or say again how it ended.
    Revive,
    /// Go back to a task.
    Rerun {
        /// Its reference name; none: to the start.
        from: Option<String>,
        /// A new input for it, or for the run.
        input: Option<Handle>,
    },
    /// Begin anew.
    Restart {
        /// Another version of the definition, with its first variables.
        latest: Option<(Arc<Plan>, Option<Handle>)>,
    },
    /// Leave a task out that is not scheduled yet.
    Skip {
        /// Its reference name.
        reference: String,
        /// The output it counts as having.
        output: Option<Handle>,
    },
}

/// A child as a running task emits it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewChild {
    /// Its key within its parent.
    pub key: String,
    /// The hash of all that it is.
    pub digest: Handle,
    /// The name of its task; none: the only one there is.
    pub name: Option<String>,
    /// What it is given; it goes over its task's own parameters.
    pub input: Option<Handle>,
}

/// How a task has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskEnd {
    /// COMPLETED, FAILED, FAILED_WITH_TERMINAL_ERROR or TIMED_OUT.
    pub status: TaskStatus,
    /// Its output.
    pub output: Option<Handle>,
    /// Why it did not end well.
    pub reason: Option<String>,
    /// Whether its timeout or its poll timeout ended it, which its timeout policy judges; silence only fails the try.
    pub by_policy: bool,
}

/// How a run has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunEnd {
    /// Its status.
    pub status: RunStatus,
    /// Its output.
    pub output: Option<Handle>,
    /// Why it did not end well.
    pub reason: Option<String>,
    /// Its era.
    pub era: u32,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The run has taken note.
    Applied,
    /// It was a late or repeated one, and nothing changed.
    Ignored(&'static str),
}

/// Why an operation cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The run has no such task.
    #[error("the workflow has no task {0:?}")]
    NoSuchTask(String),
    /// The task was not reached yet.
    #[error("task {0:?} is not scheduled yet")]
    NotScheduled(String),
    /// The task is beyond skipping.
    #[error("task {0:?} is scheduled already; only a task that was not reached yet can be skipped")]
    AlreadyScheduled(String),
    /// Which round is meant?
    #[error("task {0:?} lies in a loop; name the round: {0}__1")]
    WhichRound(String),
    /// Only a run that is over can be brought back.
    #[error("the workflow is {0}; {1}")]
    WrongStatus(&'static str, &'static str),
    /// Nothing failed.
    #[error("no task failed or was cancelled; there is nothing to retry")]
    NothingToRetry,
    /// The definition forbids it.
    #[error("the definition says restartable: false")]
    NotRestartable,
    /// The task emits nothing, or not any more.
    #[error("{0}")]
    NotEmitting(&'static str),
    /// Its parent may emit no such child.
    #[error("{}; it takes {takes}", child_fault(.name.as_deref()))]
    NoSuchChild {
        /// The name that was given.
        name: Option<String>,
        /// Those that there are.
        takes: String,
    },
    /// The key is another child's.
    #[error("child {0:?} was emitted with another payload; use another key, or emit the same")]
    OtherChild(String),
    /// There are to be no more.
    #[error("the task is sealed: it said that there are no more children")]
    Sealed,
    /// There are too many.
    #[error("the task has {} children, which is the bound; let a child stand for several pieces", super::MAX_CHILDREN)]
    TooManyChildren,
    /// That is no end.
    #[error("a task is updated to IN_PROGRESS, COMPLETED, FAILED or FAILED_WITH_TERMINAL_ERROR, not to {0}")]
    NoSuchUpdate(&'static str),
}

fn child_fault(name: Option<&str>) -> String {
    match name {
        Some(name) => format!("the workflow takes no child {name:?} of this task"),
        None => "the child needs the name of its task, of which the workflow has several".to_owned(),
    }
}

/// Something to be done once the event is committed.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Compute an answer.
    Evaluate(Box<Question>),
    /// Give a task to a worker, or make a request.
    Schedule(Box<Work>),
    /// Take it back.
    Cancel {
        /// Which.
        step: StepIx,
    },
    /// Start a run that this one waits for, and report it.
    StartChild {
        /// For which step.
        step: StepIx,
        /// Its id.
        run: String,
        /// What it is.
        start: ChildStart,
    },
    /// Start a run that goes its own way. A step wants to know that it started.
    StartRun {
        /// For which step.
        step: Option<StepIx>,
        /// Its id.
        run: String,
        /// What it is.
        start: ChildStart,
    },
    /// End a child with its parent.
    CancelChild {
        /// The child.
        run: String,
        /// Why.
        reason: String,
    },
    /// Bring a child back: [`Event::Revive`] for it.
    RetryChild {
        /// The step that waits.
        step: StepIx,
        /// The child.
        run: String,
    },
    /// Store an event for others.
    Publish {
        /// Which step made it.
        step: StepIx,
        /// Its name.
        event: String,
        /// Its payload.
        payload: Handle,
    },
    /// Say [`Event::TimerDue`] at this time. It replaces the timer this step had.
    Arm {
        /// Of which step; none: of the run.
        step: Option<StepIx>,
        /// When, in ms.
        due_ms: u64,
    },
    /// Forget that timer.
    Disarm {
        /// Of which step; none: of the run.
        step: Option<StepIx>,
    },
    /// Tell the run that waits for this one: [`Event::ChildEnded`].
    TellParent {
        /// Who waits.
        parent: ParentStep,
        /// How this run ended.
        end: RunEnd,
    },
    /// Tell the run that waited for this one that it goes on: [`Event::ChildReopened`].
    TellReopened {
        /// Who waited.
        parent: ParentStep,
        /// This run's era since then.
        era: u32,
    },
    /// The run has ended.
    Ended(RunEnd),
}

/// A task to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// Its step.
    pub step: StepIx,
    /// Its id for the outside, unique over all runs.
    pub id: String,
    /// Its reference name, with the round.
    pub reference: String,
    /// The task definition's name: what workers ask for.
    pub name: String,
    /// Whether it is a request rather than a worker's task.
    pub http: bool,
    /// Its input.
    pub input: Option<Handle>,
    /// It does not start before.
    pub not_before_ms: u64,
    /// How often it was tried before.
    pub retry_count: u32,
    /// The try before.
    pub retried_from: Option<StepIx>,
    /// How it is limited.
    pub limits: Limits,
}

/// How a task is limited; 0 is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// From its start to its end.
    pub timeout_ms: u64,
    /// From one word of its worker to the next.
    pub response_ms: u64,
    /// Until a worker has taken it.
    pub poll_ms: u64,
    /// The time, in ms since 1970, by which all its tries must be over.
    pub deadline_ms: u64,
    /// How many of its name may run at once.
    pub concurrent: u32,
    /// How many of its name may start in each period.
    pub rate: u32,
    /// That period.
    pub rate_period_ms: u64,
}

/// What an event has changed, and wants.
#[derive(Debug, Default)]
pub struct Effects {
    /// What is to be done, in this order, after the commit.
    pub commands: Vec<Command>,
    /// Whether the run's row is to be written.
    pub run: bool,
    /// The steps whose rows are to be written.
    pub steps: std::collections::BTreeSet<StepIx>,
    /// The steps whose rows are to be removed.
    pub removed: std::collections::BTreeSet<StepIx>,
    /// The parts whose rows are to be written.
    pub parts: std::collections::BTreeSet<u32>,
    /// Whether all parts are to be removed first.
    pub parts_removed: bool,
    /// Steps looked at while deciding: what the decision has cost.
    pub looked_at: u64,
}
