//! Conductor's workflow and task definitions: what they may say, and what is wrong with one.
//!
//! A definition that Conductor would register is accepted as it is; its keys that change nothing here are [notes](Note).
//! Everything that could not run is a [`Fault`] with the JSON path of the field and what to use instead, and all faults of a
//! definition are told at once.

mod bounds;
mod bundle;
mod check;
mod literals;
mod parse;
mod populate;
mod reader;
mod task_def;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use bounds::{MAX_BUNDLE, MAX_DEPTH, MAX_FAULTS, MAX_NAME_BYTES, MAX_RETRIES, MAX_SECONDS, MAX_TASKS};
pub use bundle::Bundle;
pub use populate::populate;
pub use reader::{Fault, Note, TaskCheck};
pub use task_def::{RetryLogic, TaskDef, TimeoutPolicy};

/// A workflow as registered: `WorkflowDef` of Conductor.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// Its name, unique together with the version.
    pub name: String,
    /// From 1 on.
    pub version: u32,
    /// The root sequence, never empty.
    pub tasks: Vec<Task>,
    /// Templates of the run's output; empty: the output of the last task.
    pub output_parameters: Map<String, Value>,
    /// Values for input keys that a start leaves out.
    pub input_template: Map<String, Value>,
    /// The variables a run begins with.
    pub variables: Map<String, Value>,
    /// The workflow that is started when a run fails; may be an expression.
    pub failure_workflow: Option<String>,
    /// Seconds after which a run is timed out; 0: never, also when the policy only alerts.
    pub timeout_s: u64,
    /// Whether a run that ended may be restarted.
    pub restartable: bool,
}

/// One task of a definition: `WorkflowTask` of Conductor.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// What is run: the task definition's name, or a label for system tasks.
    pub name: String,
    /// Unique within the definition; expressions name the task by it.
    pub reference: String,
    /// Templates of its input.
    pub input: Map<String, Value>,
    /// What it is, with all that only this kind has.
    pub kind: Kind<Vec<Task>>,
    /// How it is run and retried; embedded, or registered and filled in by [`populate`].
    pub definition: Option<TaskDef>,
    /// Retries, in place of the task definition's.
    pub retry_count: Option<u32>,
    /// Seconds it waits before its start.
    pub start_delay_s: u64,
    /// Its failure fails nothing else.
    pub optional: bool,
    /// Its failure is told at the join, when all branches are done.
    pub permissive: bool,
    /// It ends when somebody says so, not when its call returns (EVENT and HTTP).
    pub async_complete: bool,
    /// What it may emit children of while it runs, ours: each child is one of these tasks. Empty: it emits none.
    pub emits: Vec<Task>,
}

/// What a task is. `S` is a sequence of tasks: a list in a definition, the first node's index in a plan.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind<S> {
    /// Run by a worker.
    Simple,
    /// One of several sequences (SWITCH, DECISION).
    Switch(Switch<S>),
    /// Sequences side by side.
    Fork {
        /// The sequences.
        branches: Vec<S>,
    },
    /// Branches known at run time only.
    DynamicFork(DynamicFork),
    /// Waits for tasks of the fork before it.
    Join {
        /// Reference names; empty after a dynamic fork.
        on: Vec<String>,
    },
    /// Waits for whichever of several ran.
    ExclusiveJoin {
        /// Reference names, in order of preference.
        on: Vec<String>,
        /// Reference names that serve when none of `on` ran.
        default: Vec<String>,
    },
    /// A sequence repeated.
    DoWhile(DoWhile<S>),
    /// Another workflow, waited for.
    SubWorkflow(Box<SubWorkflow>),
    /// Another workflow, not waited for.
    StartWorkflow,
    /// A time, a duration, or somebody's word.
    Wait,
    /// Somebody's word.
    Human,
    /// A request.
    Http,
    /// An event for others.
    Event {
        /// `conductor` or `conductor:NAME`.
        sink: String,
    },
    /// The end of the run.
    Terminate,
    /// Writes the run's variables.
    SetVariable,
    /// A script over the input (INLINE).
    Inline,
    /// A script over the input, the older form.
    Lambda,
    /// A jq program over the input.
    Jq,
    /// A task whose name is known at run time only.
    Dynamic {
        /// The input parameter that holds the name.
        param: String,
    },
}

/// A choice between sequences.
#[derive(Debug, Clone, PartialEq)]
pub struct Switch<S> {
    /// Whether it is a DECISION, whose empty cases count as missing; a SWITCH takes them as they are.
    pub decision: bool,
    /// What is compared with the cases.
    pub on: SwitchOn,
    /// Case and sequence, in the definition's order.
    pub cases: Vec<(String, S)>,
    /// The sequence for everything else.
    pub default: S,
}

/// What a switch compares with its cases.
#[derive(Debug, Clone, PartialEq)]
pub enum SwitchOn {
    /// The value of an input parameter.
    Param(String),
    /// What a script over the input gives.
    Script(String),
}

/// How a dynamic fork is told its branches.
#[derive(Debug, Clone, PartialEq)]
pub enum DynamicFork {
    /// A list of tasks in one parameter, their inputs by reference name in another.
    Tasks {
        /// The parameter with the list.
        tasks: String,
        /// The parameter with the inputs.
        inputs: String,
    },
    /// A list of tasks with their inputs in one parameter.
    Joined {
        /// The parameter.
        param: String,
    },
    /// One task or workflow, once for each of `forkTaskInputs`.
    Same,
}

/// A loop.
#[derive(Debug, Clone, PartialEq)]
pub struct DoWhile<S> {
    /// The script that says whether there is another round.
    pub condition: Option<String>,
    /// The list that is gone through, one item a round.
    pub items: Option<Value>,
    /// What is repeated.
    pub body: S,
}

/// Which workflow a SUB_WORKFLOW task starts.
#[derive(Debug, Clone, PartialEq)]
pub struct SubWorkflow {
    /// The registered name; may be an expression.
    pub name: Option<String>,
    /// The version, or the latest.
    pub version: Option<Value>,
    /// A definition of its own, or an expression that gives one.
    pub definition: Option<Value>,
    /// A priority for the child, a number or an expression.
    pub priority: Option<Value>,
}

impl<S> Kind<S> {
    /// Conductor's name of the type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Kind::Simple => "SIMPLE",
            Kind::Switch(switch) if switch.decision => "DECISION",
            Kind::Switch(_) => "SWITCH",
            Kind::Fork { .. } => "FORK_JOIN",
            Kind::DynamicFork(_) => "FORK_JOIN_DYNAMIC",
            Kind::Join { .. } => "JOIN",
            Kind::ExclusiveJoin { .. } => "EXCLUSIVE_JOIN",
            Kind::DoWhile(_) => "DO_WHILE",
            Kind::SubWorkflow(_) => "SUB_WORKFLOW",
            Kind::StartWorkflow => "START_WORKFLOW",
            Kind::Wait => "WAIT",
            Kind::Human => "HUMAN",
            Kind::Http => "HTTP",
            Kind::Event { .. } => "EVENT",
            Kind::Terminate => "TERMINATE",
            Kind::SetVariable => "SET_VARIABLE",
            Kind::Inline => "INLINE",
            Kind::Lambda => "LAMBDA",
            Kind::Jq => "JSON_JQ_TRANSFORM",
            Kind::Dynamic { .. } => "DYNAMIC",
        }
    }

    /// Whether Conductor never retries this kind, whatever its task definition says.
    pub fn is_never_retried(&self) -> bool {
        matches!(
            self,
            Kind::Switch(_)
                | Kind::Fork { .. }
                | Kind::DynamicFork(_)
                | Kind::Join { .. }
                | Kind::ExclusiveJoin { .. }
                | Kind::DoWhile(_)
        )
    }
}

/// A definition that can run, and what was left out of account.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted<T> {
    /// The definition.
    pub value: T,
    /// Keys and references without effect.
    pub notes: Vec<Note>,
}

/// Why a definition is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{}", tell(.faults))]
pub struct Refused {
    /// Every fault, in the order of the definition, [`MAX_FAULTS`] at most.
    pub faults: Vec<Fault>,
}

fn tell(faults: &[Fault]) -> String {
    faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("\n")
}

impl Definition {
    /// Reads a workflow definition.
    ///
    /// # Errors
    /// All its faults, each with its path.
    pub fn parse(json: &Value) -> Result<Accepted<Self>, Refused> {
        Self::parse_with(json, |_| Ok(()))
    }

    /// Reads a workflow definition whose embedded task definitions say how they are run: `check` looks at that.
    ///
    /// # Errors
    /// All its faults, each with its path.
    pub fn parse_with(json: &Value, check: TaskCheck) -> Result<Accepted<Self>, Refused> {
        let mut reader = reader::Reader::checking(check);
        let definition = parse::workflow(&mut reader, json);
        if let Some(definition) = &definition {
            check::workflow(&mut reader, definition);
        }
        reader.finish(definition)
    }
}

impl Task {
    /// Reads tasks that are made at run time, the branches of a dynamic fork; each is a sequence of its own.
    ///
    /// # Errors
    /// All their faults.
    pub fn parse_list(json: &[Value]) -> Result<Accepted<Vec<Self>>, Refused> {
        let mut reader = reader::Reader::default();
        let tasks = parse::branches(&mut reader, json);
        check::branches(&mut reader, &tasks);
        reader.finish(Some(tasks))
    }
}

impl TaskDef {
    /// Reads a task definition.
    ///
    /// # Errors
    /// All its faults.
    pub fn parse(json: &Value) -> Result<Accepted<Self>, Refused> {
        Self::parse_with(json, |_| Ok(()))
    }

    /// Reads a task definition that says how it is run: `check` looks at that.
    ///
    /// # Errors
    /// All its faults.
    pub fn parse_with(json: &Value, check: TaskCheck) -> Result<Accepted<Self>, Refused> {
        let mut reader = reader::Reader::checking(check);
        let definition = task_def::parse(&mut reader, json, "$");
        reader.finish(definition)
    }
}
