//! The branches of a dynamic fork, in its three forms; the task that a DYNAMIC names; the output of a join.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::context::Facts;
use super::task::text;
use super::{Answer, CHILDREN, Emitted, Evaluation, Fault, Handle};
use crate::definition::{DynamicFork, Task, populate};
use crate::plan::Plan;
use crate::run::{MAX_BRANCHES, TaskStatus};

type Object = Map<String, Value>;

/// The branches as the input gives them: tasks, and what each is given.
type Branches = (Vec<Value>, Vec<Object>);

impl Evaluation<'_> {
    pub(super) fn forked(&self, fork: &DynamicFork, mut input: Object, _: &Facts<'_>) -> Result<Answer, Fault> {
        let (tasks, given) = match fork {
            DynamicFork::Tasks { tasks, inputs } => listed(&input, tasks, inputs)?,
            DynamicFork::Joined { param } => joined(&input, param)?,
            DynamicFork::Same => same(&input, &self.node()?.reference)?,
        };
        if tasks.len() > MAX_BRANCHES {
            return Err(Fault::run(format!(
                "the fork has {} branches, at most {MAX_BRANCHES} are allowed",
                tasks.len()
            )));
        }
        let names: Vec<Value> =
            tasks.iter().map(|task| task.get("taskReferenceName").cloned().unwrap_or_default()).collect();
        let (tasks, plan) = self.lay_out(tasks)?;
        let mut inputs = Vec::with_capacity(given.len());
        for given in given {
            inputs.push(self.put(&Value::Object(given))?);
        }
        input.insert("forkedTasks".to_owned(), Value::Array(names));
        Ok(Answer::Forked { input: self.put(&Value::Object(input))?, tasks, plan, inputs })
    }

    /// Checks tasks made at run time, stores them with their definitions and lays them out.
    fn lay_out(&self, tasks: Vec<Value>) -> Result<(Handle, Arc<Plan>), Fault> {
        let mut tasks = Value::Array(tasks);
        populate(&mut tasks, &|name| self.tools.registry.task_definition(name));
        let list = tasks.as_array().map(Vec::as_slice).unwrap_or_default();
        let parsed =
            Task::parse_list(list).map_err(|refused| Fault::run(format!("the tasks are refused: {refused}")))?;
        let stored = self.keep(&tasks).map_err(|fault| Fault::run(fault.reason))?;
        Ok((stored, Arc::new(Plan::of_branches(parsed.value, self.node()?.depth))))
    }

    pub(super) fn dynamic(&self, param: &str, input: Object) -> Result<Answer, Fault> {
        let name = input.get(param).filter(|name| !name.is_null()).map(text).filter(|name| !name.trim().is_empty());
        let Some(name) = name else {
            return Err(Fault::run(format!("the input parameter {param} names no task")));
        };
        let node = self.node()?;
        let kind = if name == "HTTP" { "HTTP" } else { "SIMPLE" };
        let mut task = json!({
            "name": name, "taskReferenceName": node.reference, "type": kind, "optional": node.optional,
            "permissive": node.permissive, "startDelay": node.start_delay_s, "retryCount": node.retry_count,
            "asyncComplete": node.async_complete,
        });
        if kind == "HTTP" {
            task["inputParameters"] = json!({"http_request": input.get("http_request")});
        }
        let (tasks, plan) = self.lay_out(vec![task])?;
        Ok(Answer::Named { input: self.put(&Value::Object(input))?, tasks, plan })
    }

    pub(super) fn joined(&self, tasks: &[(String, Handle)], children: Option<&[Emitted]>) -> Result<Answer, Fault> {
        let mut output = Map::new();
        for (name, handle) in tasks {
            output.insert(name.clone(), self.get(Some(*handle))?.as_ref().clone());
        }
        if let Some(children) = children {
            let children = children.iter().map(|child| self.emitted(child)).collect::<Result<_, _>>()?;
            output.insert(CHILDREN.to_owned(), Value::Array(children));
        }
        Ok(Answer::Output(self.put(&Value::Object(output))?))
    }

    /// A child as the join tells it. What goes without saying is left out: there may be very many.
    fn emitted(&self, child: &Emitted) -> Result<Value, Fault> {
        let mut told = Map::new();
        told.insert("key".to_owned(), json!(child.key));
        if let Some(task) = &child.task {
            told.insert("task".to_owned(), json!(task));
        }
        if child.status != TaskStatus::Completed {
            told.insert("status".to_owned(), json!(child.status.as_str()));
            told.insert("reason".to_owned(), json!(child.reason));
        }
        told.insert("output".to_owned(), self.get(child.output)?.as_ref().clone());
        Ok(Value::Object(told))
    }
}

/// A parameter's value; JSON that came as text is read.
fn parameter(input: &Object, name: &str) -> Value {
    match input.get(name) {
        Some(Value::String(text)) => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone())),
        Some(value) => value.clone(),
        None => Value::Null,
    }
}

/// `dynamicForkTasksParam`: a list of tasks, and their inputs by reference name.
fn listed(input: &Object, tasks: &str, inputs: &str) -> Result<Branches, Fault> {
    let list = match parameter(input, tasks) {
        Value::Array(list) => list,
        Value::Null => Vec::new(),
        _ => return Err(Fault::run(format!("the input parameter {tasks} is no list of tasks"))),
    };
    let Value::Object(given) = parameter(input, inputs) else {
        return Err(Fault::run(format!("the input parameter {inputs} is no object of inputs by reference name")));
    };
    let of = |task: &Value| {
        let name = task.get("taskReferenceName").and_then(Value::as_str).unwrap_or_default();
        given.get(name).and_then(Value::as_object).cloned().unwrap_or_default()
    };
    let inputs = list.iter().map(of).collect();
    Ok((list, inputs))
}

/// `dynamicForkJoinTasksParam`: `{"dynamicTasks": [{"taskName", "referenceName", "type", "input"}]}`.
fn joined(input: &Object, param: &str) -> Result<Branches, Fault> {
    let value = parameter(input, param);
    let list = value.get("dynamicTasks").and_then(Value::as_array).or(value.as_array());
    let Some(list) = list else {
        return Err(Fault::run(format!("the input parameter {param} has no dynamicTasks")));
    };
    let mut tasks = Vec::with_capacity(list.len());
    let mut inputs = Vec::with_capacity(list.len());
    for task in list {
        let kind = task.get("type").filter(|kind| !kind.is_null()).cloned().unwrap_or(json!("SIMPLE"));
        tasks.push(json!({"name": task.get("taskName"), "taskReferenceName": task.get("referenceName"), "type": kind}));
        inputs.push(task.get("input").and_then(Value::as_object).cloned().unwrap_or_default());
    }
    Ok((tasks, inputs))
}

/// `forkTaskName` or `forkTaskWorkflow` with `forkTaskInputs`: the same for each.
fn same(input: &Object, reference: &str) -> Result<Branches, Fault> {
    let given = match parameter(input, "forkTaskInputs") {
        Value::Array(list) => list,
        Value::Null => Vec::new(),
        _ => return Err(Fault::run("the input parameter forkTaskInputs is no list")),
    };
    let named = |key: &str| input.get(key).filter(|value| !value.is_null()).map(text);
    let kind = named("forkTaskType").unwrap_or_else(|| "SIMPLE".to_owned());
    let name =
        named("forkTaskName").unwrap_or_else(|| if kind == "SIMPLE" { reference.to_owned() } else { kind.clone() });
    let workflow = named("forkTaskWorkflow");
    let mut tasks = Vec::with_capacity(given.len());
    let mut inputs = Vec::with_capacity(given.len());
    for (index, item) in given.into_iter().enumerate() {
        let own = format!("_{reference}_{index}");
        tasks.push(match &workflow {
            Some(workflow) => json!({
                "name": workflow, "taskReferenceName": own, "type": "SUB_WORKFLOW",
                "subWorkflowParam": {"name": workflow, "version": input.get("forkTaskWorkflowVersion")},
            }),
            None => json!({
                "name": name, "taskReferenceName": own, "type": kind,
                // The kinds that must have a parameter get it with their own input.
                "inputParameters": if kind == "SIMPLE" { json!({}) } else { item.clone() },
            }),
        });
        let mut item = match item {
            Value::Object(map) => map,
            other => Map::from_iter([("input".to_owned(), other)]),
        };
        item.insert("__index".to_owned(), json!(index));
        inputs.push(item);
    }
    Ok((tasks, inputs))
}
