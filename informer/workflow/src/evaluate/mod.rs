//! The answers to a run's questions: the only place that looks inside payloads.
//!
//! Pure but for what the caller lends: [`Bodies`] reads and stores JSON by handle, [`Scripts`] runs users' scripts (in a child
//! process, with limits), [`Registry`] knows registered task definitions. An answer depends on the question and on what they
//! give, so a question may be asked again at any time.

mod context;
mod end;
mod fork;
mod question;
mod task;
mod wait;

use std::rc::Rc;

use serde_json::{Map, Value};

pub use question::{
    Answer, Ask, ChildStart, Emitted, Ending, Failing, Handle, Output, Question, Round, RunFacts, Sources, TaskFacts,
    Wait,
};
pub use wait::{check as check_wait, parse_duration, parse_until};

use crate::plan::{Node, Plan};
use context::Facts;

/// Bytes of a run's variables: every SET_VARIABLE writes them whole. Conductor's limit.
pub const MAX_VARIABLES_BYTES: usize = 256 << 10;

/// Bytes of a task's input or output that is made here.
pub const MAX_BODY_BYTES: usize = 32 << 20;

/// The key of a join's output under which the children are that the task before it has emitted.
pub const CHILDREN: &str = "children";

/// Stored JSON.
pub trait Bodies {
    /// What a handle names.
    ///
    /// # Errors
    /// It is not there, or is no JSON.
    fn get(&self, handle: &Handle) -> Result<Rc<Value>, String>;

    /// Stores a value and names it. The same value has the same handle.
    ///
    /// # Errors
    /// It could not be stored.
    fn put(&self, value: &Value) -> Result<Handle, String>;
}

/// Users' scripts.
pub trait Scripts {
    /// The value of a JavaScript program whose `$` is `input`.
    ///
    /// # Errors
    /// What the script threw, or that it took too long.
    fn javascript(&self, script: &str, input: &Value) -> Result<Value, String>;

    /// The outputs of a jq program for `input`.
    ///
    /// # Errors
    /// What is wrong with the program, or what it threw.
    fn jq(&self, program: &str, input: &Value) -> Result<Vec<Value>, String>;
}

/// Registered definitions.
pub trait Registry {
    /// A task definition as registered.
    fn task_definition(&self, name: &str) -> Option<Value>;
}

/// What an evaluation is lent.
#[derive(Clone, Copy)]
pub struct Tools<'a> {
    /// Stored JSON.
    pub bodies: &'a dyn Bodies,
    /// Users' scripts.
    pub scripts: &'a dyn Scripts,
    /// Registered definitions.
    pub registry: &'a dyn Registry,
}

/// Why something could not be evaluated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
struct Fault {
    reason: String,
    how: Failing,
    input: Option<Handle>,
}

impl Fault {
    fn new(how: Failing, reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), how, input: None }
    }

    /// The task failed for good.
    fn terminal(reason: impl Into<String>) -> Self {
        Self::new(Failing::Terminal, reason)
    }

    /// The task failed.
    fn task(reason: impl Into<String>) -> Self {
        Self::new(Failing::Task, reason)
    }

    /// The task could not be made.
    fn run(reason: impl Into<String>) -> Self {
        Self::new(Failing::Run, reason)
    }

    fn with(mut self, input: Option<Handle>) -> Self {
        self.input = input;
        self
    }
}

/// A question being answered.
struct Evaluation<'a> {
    question: &'a Question,
    plan: &'a Plan,
    tools: Tools<'a>,
}

/// Answers a question. `plan`: the one that the question's node is of, or the run's first.
pub fn answer(question: &Question, plan: &Plan, tools: Tools<'_>) -> Answer {
    let evaluation = Evaluation { question, plan, tools };
    let answer = match &question.ask {
        Ask::Task { given, child } => evaluation.task(*given, child),
        Ask::Condition { .. } => evaluation.condition(),
        Ask::LoopOutput => evaluation.loop_output(),
        Ask::Joined { tasks, children } => evaluation.joined(tasks, children.as_deref()),
        Ask::End(ending) => evaluation.end(ending),
    };
    answer.unwrap_or_else(|fault| Answer::Failed { reason: fault.reason, how: fault.how, input: fault.input })
}

/// The input of a run: what was given, and the template's values for keys that were left out.
///
/// # Errors
/// It could not be stored.
pub fn run_input(plan: &Plan, given: Map<String, Value>, bodies: &dyn Bodies) -> Result<Option<Handle>, String> {
    let mut input = given;
    for (key, value) in &plan.settings.input_template {
        if input.get(key).is_none_or(Value::is_null) {
            input.insert(key.clone(), value.clone());
        }
    }
    if input.is_empty() { Ok(None) } else { bodies.put(&Value::Object(input)).map(Some) }
}

impl Evaluation<'_> {
    fn node(&self) -> Result<&Node, Fault> {
        let node = self.question.node.and_then(|id| self.plan.node(id.node));
        node.ok_or_else(|| Fault::terminal("the question is of a task that the plan does not have"))
    }

    fn facts(&self) -> Facts<'_> {
        Facts::new(&self.question.sources, self.tools.bodies)
    }

    fn get(&self, handle: Option<Handle>) -> Result<Rc<Value>, Fault> {
        match handle {
            None => Ok(Rc::new(Value::Object(Map::new()))),
            Some(handle) => self.tools.bodies.get(&handle).map_err(Fault::terminal),
        }
    }

    /// Stores a value; an empty object is none.
    fn put(&self, value: &Value) -> Result<Option<Handle>, Fault> {
        if value.as_object().is_some_and(Map::is_empty) {
            return Ok(None);
        }
        self.keep(value).map(Some)
    }

    fn keep(&self, value: &Value) -> Result<Handle, Fault> {
        let bytes = crate::expression::weigh(value);
        if bytes > MAX_BODY_BYTES {
            return Err(Fault::terminal(format!("it has about {bytes} bytes, at most {MAX_BODY_BYTES} are allowed")));
        }
        self.tools.bodies.put(value).map_err(Fault::terminal)
    }
}
