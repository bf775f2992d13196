//! A file of definitions: one workflow, a list, or task and workflow definitions together.

use serde_json::{Map, Value};

use super::bounds::MAX_BUNDLE;
use super::reader::Reader;
use super::{Accepted, Refused};

/// Definitions of one file, not read yet: each is told its own faults when it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Bundle {
    /// Task definitions, in the file's order. They come first: workflows may need their input templates.
    pub task_definitions: Vec<Value>,
    /// Workflow definitions, in the file's order.
    pub workflows: Vec<Value>,
}

const TASKS: &str = "taskDefs";
const WORKFLOWS: &str = "workflows";

impl Bundle {
    /// Takes a file apart. It is one of
    ///
    /// - a workflow definition;
    /// - a list of task definitions and workflow definitions, which are told apart by their `tasks`;
    /// - `{"taskDefs": […], "workflows": […]}`, of which either may be left out.
    ///
    /// # Errors
    /// It is nothing of these, or has more than [`MAX_BUNDLE`] definitions.
    pub fn parse(json: Value) -> Result<Accepted<Self>, Refused> {
        let mut reader = Reader::default();
        let bundle = match json {
            Value::Object(map) if map.contains_key(TASKS) || map.contains_key(WORKFLOWS) => both(&mut reader, map),
            workflow @ Value::Object(_) => Self { task_definitions: Vec::new(), workflows: vec![workflow] },
            Value::Array(list) => {
                objects(&mut reader, &list, "$");
                let (workflows, task_definitions) =
                    list.into_iter().partition(|json| json.get("tasks").is_some_and(|tasks| !tasks.is_null()));
                Self { task_definitions, workflows }
            }
            _ => {
                reader.fault(
                    "$",
                    format!("expected a workflow definition, a list of definitions, or {TASKS} and {WORKFLOWS}"),
                );
                Self::default()
            }
        };
        let count = bundle.task_definitions.len() + bundle.workflows.len();
        if count > MAX_BUNDLE {
            reader.fault("$", format!("has {count} definitions, at most {MAX_BUNDLE} are allowed; split the file"));
        }
        reader.finish(Some(bundle))
    }
}

fn both(reader: &mut Reader, mut map: Map<String, Value>) -> Bundle {
    for key in map.keys().filter(|key| *key != TASKS && *key != WORKFLOWS) {
        reader.fault(format!("$.{key}"), format!("is not known beside {TASKS} and {WORKFLOWS}"));
    }
    for key in [TASKS, WORKFLOWS] {
        let list = reader.list(&map, "$", key);
        objects(reader, list, &format!("$.{key}"));
    }
    let mut take = |key: &str| match map.remove(key) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    Bundle { task_definitions: take(TASKS), workflows: take(WORKFLOWS) }
}

fn objects(reader: &mut Reader, list: &[Value], path: &str) {
    for (index, json) in list.iter().enumerate() {
        reader.object(json, &format!("{path}[{index}]"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn names(json: Value) -> (Vec<String>, Vec<String>) {
        let bundle = Bundle::parse(json).unwrap().value;
        let names = |list: Vec<Value>| list.iter().map(|json| json["name"].as_str().unwrap().to_owned()).collect();
        (names(bundle.task_definitions), names(bundle.workflows))
    }

    fn refused(json: Value) -> String {
        Bundle::parse(json).unwrap_err().to_string()
    }

    #[test]
    fn a_file_is_a_workflow_a_list_or_both() {
        let (task, workflow) = (json!({"name": "t"}), json!({"name": "w", "tasks": []}));
        let of = |tasks: &[&str], workflows: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
            (owned(tasks), owned(workflows))
        };
        assert_eq!(names(workflow.clone()), of(&[], &["w"]));
        assert_eq!(names(json!({"name": "w"})), of(&[], &["w"]), "what its tasks lack, reading it tells");
        assert_eq!(names(json!([task, task])), of(&["t", "t"], &[]));
        assert_eq!(names(json!([workflow, task])), of(&["t"], &["w"]));
        assert_eq!(names(json!({"taskDefs": [task], "workflows": [workflow]})), of(&["t"], &["w"]));
        assert_eq!(names(json!({"workflows": [workflow]})), of(&[], &["w"]));
        assert_eq!(names(json!({"taskDefs": null, "workflows": [workflow]})), of(&[], &["w"]));
        assert_eq!(names(json!([])), of(&[], &[]));
    }

    #[test]
    fn a_file_that_is_nothing_of_these_is_refused_by_name() {
        assert!(refused(json!("w")).starts_with("$: expected a workflow definition"));
        assert_eq!(refused(json!(["w"])), "$[0]: expected an object, found a string");
        assert_eq!(refused(json!({"taskDefs": {}})), "$.taskDefs: expected a list, found an object");
        assert_eq!(
            refused(json!({"workflows": [1], "tasks": []})),
            "$.tasks: is not known beside taskDefs and workflows\n$.workflows[0]: expected an object, found a number"
        );
        assert!(refused(json!(vec![json!({"name": "t"}); MAX_BUNDLE + 1])).contains("split the file"));
    }
}
