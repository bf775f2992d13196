//! What is asked of an evaluation, and what it answers.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::plan::{NodeId, Plan};
use crate::run::{RunStatus, StepIx, TaskStatus};

/// Names a stored JSON by its hash. Nothing here looks inside.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Handle(pub [u8; 32]);

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl From<Handle> for String {
    fn from(handle: Handle) -> Self {
        format!("{handle:?}")
    }
}

impl TryFrom<String> for Handle {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no handle");
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(wrong());
        }
        for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

/// Something to compute from stored JSON. The run asks it with a command; the answer comes back as an event.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// For which step; none: for the run.
    pub step: Option<StepIx>,
    /// The question's number; an answer to an older one is ignored.
    pub ticket: u32,
    /// The node whose templates count.
    pub node: Option<NodeId>,
    /// What is asked.
    pub ask: Ask,
    /// What may be read.
    pub sources: Sources,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// A task's input, and what its kind decides from it.
    Task {
        /// What the dynamic fork gave this branch; it goes over the task's own parameters.
        given: Option<Handle>,
        /// The id its child run will have, where it starts one.
        child: String,
    },
    /// Whether a loop goes on.
    Condition {
        /// The round that has ended.
        iteration: u32,
    },
    /// The output of a loop that is over.
    LoopOutput,
    /// The output of a join.
    Joined {
        /// Reference names and outputs, in the order of the join.
        tasks: Vec<(String, Handle)>,
        /// What the task before it has emitted, in that order; none: it emits nothing.
        children: Option<Vec<Emitted>>,
    },
    /// The run's output.
    End(Box<Ending>),
}

/// A child that a running task has emitted, once it is over.
#[derive(Debug, Clone, PartialEq)]
pub struct Emitted {
    /// Its key.
    pub key: String,
    /// The task that it is, where there are several.
    pub task: Option<String>,
    /// Its status.
    pub status: TaskStatus,
    /// Its output.
    pub output: Option<Handle>,
    /// Why it did not end well.
    pub reason: Option<String>,
}

/// How a run ends, for its output and for the workflow that is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Ending {
    /// Its status.
    pub status: RunStatus,
    /// Why.
    pub reason: Option<String>,
    /// The output of a TERMINATE, which is then the run's.
    pub terminated: Option<Handle>,
    /// Whether a TERMINATE ended it.
    pub by_terminate: bool,
    /// The output of the task that failed, or of the last.
    pub last: Option<Handle>,
    /// The id of the task that failed.
    pub failed_task: Option<String>,
    /// Whether the failure workflow is to be started.
    pub tell: bool,
}

/// What expressions may read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sources {
    /// The run.
    pub run: RunFacts,
    /// Tasks by the name an expression uses.
    pub tasks: Vec<(String, TaskFacts)>,
    /// The id of the task whose input is made.
    pub task_id: String,
}

/// What `workflow` is in an expression.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunFacts {
    /// `workflowId`.
    pub id: String,
    /// `workflowType`.
    pub name: String,
    /// `version`.
    pub version: u32,
    /// `status`.
    pub status: RunStatus,
    /// `correlationId`.
    pub correlation: Option<String>,
    /// `parentWorkflowId`.
    pub parent: Option<String>,
    /// `parentWorkflowTaskId`.
    pub parent_task: Option<String>,
    /// `reasonForIncompletion`.
    pub reason: Option<String>,
    /// `input`.
    pub input: Option<Handle>,
    /// `variables`.
    pub variables: Option<Handle>,
    /// `output`.
    pub output: Option<Handle>,
}

/// What a task is in an expression.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskFacts {
    /// `taskId`.
    pub id: String,
    /// `referenceTaskName`.
    pub reference: String,
    /// `taskDefName`.
    pub name: String,
    /// `taskType`.
    pub task_type: String,
    /// `status`.
    pub status: TaskStatus,
    /// `retryCount`.
    pub retry_count: u32,
    /// `reasonForIncompletion`.
    pub reason: Option<String>,
    /// `scheduledTime`, `startTime` and `endTime`, in ms.
    pub times: [u64; 3],
    /// `input`.
    pub input: Option<Handle>,
    /// `output`.
    pub output: Output,
    /// `subWorkflowId`.
    pub child: Option<String>,
}

/// A task's output.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// As stored.
    Stored(Option<Handle>),
    /// Of a loop that is not over.
    Loop {
        /// The round it is in.
        iteration: u32,
        /// The rounds, where they are needed.
        rounds: Vec<Round>,
    },
}

/// The outputs of one round of a loop.
#[derive(Debug, Clone, PartialEq)]
pub struct Round {
    /// From 1 on.
    pub iteration: u32,
    /// Reference names and outputs.
    pub tasks: Vec<(String, Handle)>,
}

/// What an evaluation gives.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The task has its input and can go out, or wait.
    Ready {
        /// The input.
        input: Option<Handle>,
        /// When a WAIT is over.
        wait: Wait,
    },
    /// A switch has chosen.
    Chosen {
        /// The input.
        input: Option<Handle>,
        /// The output, which names the case.
        output: Option<Handle>,
        /// The value that was looked up.
        case: String,
    },
    /// A dynamic fork has its branches.
    Forked {
        /// The input.
        input: Option<Handle>,
        /// The list of tasks, stored, from which the plan can be made again.
        tasks: Handle,
        /// That list, laid out.
        plan: Arc<Plan>,
        /// The inputs of the branches.
        inputs: Vec<Option<Handle>>,
    },
    /// A DYNAMIC task is now known.
    Named {
        /// The input.
        input: Option<Handle>,
        /// The task in a list of one, stored.
        tasks: Handle,
        /// That list, laid out.
        plan: Arc<Plan>,
    },
    /// A loop begins.
    Looping {
        /// The input.
        input: Option<Handle>,
        /// How many items it goes through.
        items: Option<u32>,
        /// How many rounds are kept.
        keep_last: Option<u32>,
    },
    /// A child run is to be started.
    Child {
        /// The task's input, which is the child's.
        input: Option<Handle>,
        /// Which workflow.
        start: ChildStart,
        /// The output of a task that only starts it.
        output: Option<Handle>,
    },
    /// An event is to be stored.
    Published {
        /// The input.
        input: Option<Handle>,
        /// The payload, which is the output too.
        payload: Handle,
        /// The event's name.
        event: String,
    },
    /// A task that is computed here is done.
    Done {
        /// The input.
        input: Option<Handle>,
        /// The output.
        output: Option<Handle>,
    },
    /// Variables are written.
    Variables {
        /// The input.
        input: Option<Handle>,
        /// All variables.
        variables: Handle,
    },
    /// The run is to end.
    Terminate {
        /// The input.
        input: Option<Handle>,
        /// The task's output, which is the run's.
        output: Option<Handle>,
        /// The run's status.
        status: RunStatus,
        /// Why.
        reason: Option<String>,
    },
    /// Whether a loop goes on.
    Again(bool),
    /// The output of a loop, a join or the run.
    Output(Option<Handle>),
    /// The run's output, and the workflow that is told.
    Ended {
        /// The output.
        output: Option<Handle>,
        /// The failure workflow and its input.
        tell: Option<(String, Handle)>,
    },
    /// It did not work.
    Failed {
        /// Why.
        reason: String,
        /// What that means.
        how: Failing,
        /// The input, if it got that far.
        input: Option<Handle>,
    },
}

/// What a failed evaluation means for its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failing {
    /// The task failed.
    Task,
    /// The task failed, and trying again cannot help.
    Terminal,
    /// The task could not even be made: the run fails, and the task does not show.
    Run,
}

/// When a WAIT is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// When somebody says so.
    Word,
    /// So many ms after it began.
    After(u64),
    /// At this time, in ms since 1970.
    At(u64),
}

/// Which workflow a child run is of.
#[derive(Debug, Clone, PartialEq)]
pub struct ChildStart {
    /// The registered name.
    pub name: String,
    /// The version, or the latest.
    pub version: Option<u32>,
    /// A definition of its own, stored.
    pub definition: Option<Handle>,
    /// Its input.
    pub input: Option<Handle>,
    /// Its correlation id.
    pub correlation: Option<String>,
    /// Its priority.
    pub priority: Option<u32>,
}
