//! What expressions and scripts see: facts of the run and its tasks, with payloads fetched when they are read.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::{Map, Value, json};

use super::{Bodies, Handle, Output, Sources, TaskFacts};
use crate::expression::Context;

/// The facts of a question.
pub(super) struct Facts<'a> {
    sources: &'a Sources,
    bodies: &'a dyn Bodies,
    made: RefCell<BTreeMap<(String, String), Rc<Value>>>,
}

impl<'a> Facts<'a> {
    pub(super) fn new(sources: &'a Sources, bodies: &'a dyn Bodies) -> Self {
        Self { sources, bodies, made: RefCell::default() }
    }

    fn body(&self, handle: Option<Handle>) -> Result<Rc<Value>, String> {
        match handle {
            None => Ok(Rc::new(Value::Object(Map::new()))),
            Some(handle) => self.bodies.get(&handle),
        }
    }

    fn run_field(&self, field: &str) -> Result<Option<Rc<Value>>, String> {
        let run = &self.sources.run;
        Ok(Some(Rc::new(match field {
            "input" => return self.body(run.input).map(Some),
            "variables" => return self.body(run.variables).map(Some),
            "output" => return self.body(run.output).map(Some),
            "status" => json!(run.status.as_str()),
            "workflowId" => json!(run.id),
            "parentWorkflowId" => json!(run.parent),
            "parentWorkflowTaskId" => json!(run.parent_task),
            "workflowType" => json!(run.name),
            "version" => json!(run.version),
            "correlationId" => json!(run.correlation),
            "reasonForIncompletion" => json!(run.reason),
            "schemaVersion" => json!(2),
            _ => return Ok(None),
        })))
    }

    fn task_field(&self, task: &TaskFacts, field: &str) -> Result<Option<Rc<Value>>, String> {
        Ok(Some(Rc::new(match field {
            "input" => return self.body(task.input).map(Some),
            "output" => return self.output(task).map(Some),
            "status" => json!(task.status.as_str()),
            "taskId" => json!(task.id),
            "referenceTaskName" => json!(task.reference),
            "taskType" => json!(task.task_type),
            "taskDefName" => json!(task.name),
            "retryCount" => json!(task.retry_count),
            "reasonForIncompletion" => json!(task.reason),
            "scheduledTime" => json!(task.times[0]),
            "startTime" => json!(task.times[1]),
            "endTime" => json!(task.times[2]),
            "correlationId" => json!(self.sources.run.correlation),
            "workflowInstanceId" => json!(self.sources.run.id),
            "subWorkflowId" => json!(task.child),
            _ => return Ok(None),
        })))
    }

    /// A task's output; of a loop that is not over, as far as it is.
    pub(super) fn output(&self, task: &TaskFacts) -> Result<Rc<Value>, String> {
        match &task.output {
            Output::Stored(handle) => {
                let body = self.body(*handle)?;
                match (&task.child, body.as_object()) {
                    (Some(child), Some(map)) if !map.contains_key("subWorkflowId") => {
                        let mut map = map.clone();
                        map.insert("subWorkflowId".to_owned(), json!(child));
                        Ok(Rc::new(Value::Object(map)))
                    }
                    _ => Ok(body),
                }
            }
            Output::Loop { iteration, rounds } => {
                let mut output = Map::new();
                output.insert("iteration".to_owned(), json!(iteration));
                self.items(task, *iteration, &mut output)?;
                for round in rounds {
                    let mut tasks = Map::new();
                    for (name, handle) in &round.tasks {
                        tasks.insert(name.clone(), self.body(Some(*handle))?.as_ref().clone());
                    }
                    output.insert(round.iteration.to_string(), Value::Object(tasks));
                }
                Ok(Rc::new(Value::Object(output)))
            }
        }
    }

    /// The item a loop over a list is at.
    fn items(&self, task: &TaskFacts, iteration: u32, output: &mut Map<String, Value>) -> Result<(), String> {
        let input = self.body(task.input)?;
        if let (Some(Value::Array(items)), Some(index)) = (input.get("items"), iteration.checked_sub(1)) {
            output.insert("loopIndex".to_owned(), json!(index));
            output.insert("loopItem".to_owned(), items.get(index as usize).cloned().unwrap_or(Value::Null));
        }
        Ok(())
    }

    pub(super) fn task(&self, name: &str) -> Option<&TaskFacts> {
        self.sources.tasks.iter().find(|(known, _)| known == name).map(|(_, task)| task)
    }

    fn field(&self, root: &str, field: &str) -> Result<Option<Rc<Value>>, String> {
        let key = (root.to_owned(), field.to_owned());
        if let Some(made) = self.made.borrow().get(&key) {
            return Ok(Some(Rc::clone(made)));
        }
        let made = match (root, self.task(root)) {
            ("workflow", _) => self.run_field(field)?,
            (_, Some(task)) => self.task_field(task, field)?,
            _ => None,
        };
        if let Some(made) = &made {
            self.made.borrow_mut().insert(key, Rc::clone(made));
        }
        Ok(made)
    }
}

const RUN_FIELDS: &[&str] = &[
    "input",
    "output",
    "status",
    "workflowId",
    "parentWorkflowId",
    "parentWorkflowTaskId",
    "workflowType",
    "version",
    "correlationId",
    "reasonForIncompletion",
    "schemaVersion",
    "variables",
];

const TASK_FIELDS: &[&str] = &[
    "input",
    "output",
    "status",
    "taskId",
    "referenceTaskName",
    "taskType",
    "taskDefName",
    "retryCount",
    "reasonForIncompletion",
    "scheduledTime",
    "startTime",
    "endTime",
    "correlationId",
    "workflowInstanceId",
];

impl Context for Facts<'_> {
    fn read(&self, root: &str, field: Option<&str>) -> Result<Option<Rc<Value>>, String> {
        if let Some(field) = field {
            return self.field(root, field);
        }
        let fields = match (root, self.task(root)) {
            ("workflow", _) => RUN_FIELDS,
            (_, Some(_)) => TASK_FIELDS,
            _ => return Ok(None),
        };
        let mut whole = Map::new();
        for name in fields {
            if let Some(value) = self.field(root, name)? {
                whole.insert((*name).to_owned(), value.as_ref().clone());
            }
        }
        Ok(Some(Rc::new(Value::Object(whole))))
    }

    fn system(&self, name: &str) -> Option<String> {
        (name == "CPEWF_TASK_ID").then(|| self.sources.task_id.clone())
    }
}
