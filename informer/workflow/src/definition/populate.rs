//! Fills registered task definitions into a workflow definition, so that a run keeps those it was started with.

use serde_json::Value;

use super::bounds::MAX_DEPTH;

/// Puts the task definition that `lookup` knows under each task of `json` (a workflow definition or a list of tasks) that has
/// none of its own. What cannot be a task is left as it is: reading it will tell.
pub fn populate(json: &mut Value, lookup: &dyn Fn(&str) -> Option<Value>) {
    match json {
        Value::Array(tasks) => tasks.iter_mut().for_each(|task| fill(task, lookup, MAX_DEPTH)),
        Value::Object(workflow) => {
            if let Some(tasks) = workflow.get_mut("tasks") {
                list(tasks, lookup, MAX_DEPTH);
            }
        }
        _ => {}
    }
}

fn list(tasks: &mut Value, lookup: &dyn Fn(&str) -> Option<Value>, depth: usize) {
    if let (Value::Array(tasks), Some(depth)) = (tasks, depth.checked_sub(1)) {
        tasks.iter_mut().for_each(|task| fill(task, lookup, depth));
    }
}

fn fill(task: &mut Value, lookup: &dyn Fn(&str) -> Option<Value>, depth: usize) {
    let Some(task) = task.as_object_mut() else { return };
    if task.get("taskDefinition").is_none_or(Value::is_null)
        && let Some(definition) = task.get("name").and_then(Value::as_str).and_then(lookup)
    {
        task.insert("taskDefinition".to_owned(), definition);
    }
    for key in ["defaultCase", "loopOver", "emits"] {
        if let Some(tasks) = task.get_mut(key) {
            list(tasks, lookup, depth);
        }
    }
    if let Some(Value::Object(cases)) = task.get_mut("decisionCases") {
        cases.values_mut().for_each(|tasks| list(tasks, lookup, depth));
    }
    if let Some(Value::Array(branches)) = task.get_mut("forkTasks") {
        branches.iter_mut().for_each(|tasks| list(tasks, lookup, depth));
    }
    let inline = task.get_mut("subWorkflowParam").and_then(|param| param.get_mut("workflowDefinition"));
    if let Some(tasks) = inline.and_then(|workflow| workflow.get_mut("tasks")) {
        list(tasks, lookup, depth);
    }
}
