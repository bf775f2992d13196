//! What the list leaves out, guessed from the definitions: inputs and outputs that lead down each way.

use super::text;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Every task of a definition, nested ones included.
pub(super) fn tasks(json: &Value) -> Vec<&Value> {
    let mut found = Vec::new();
    let mut open = vec![json];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(map) => {
                if map.contains_key("taskReferenceName") {
                    found.push(value);
                }
                open.extend(map.values());
            }
            Value::Array(list) => open.extend(list),
            _ => {}
        }
    }
    found
}

fn visit(json: &mut Value, change: &dyn Fn(&mut Map<String, Value>)) {
    match json {
        Value::Object(map) => {
            change(map);
            map.values_mut().for_each(|value| visit(value, change));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| visit(value, change)),
        _ => {}
    }
}

/// The tests register their task definitions, which replace embedded ones.
pub(super) fn strip_definitions(json: &mut Value) {
    visit(json, &|map| {
        if map.get("taskReferenceName").is_some() {
            map.remove("taskDefinition");
        }
    });
}

/// The tests of SWITCH use definitions like those of DECISION.
pub(super) fn make_switches(json: &mut Value) {
    visit(json, &|map| {
        if let (Some("DECISION"), Some(param)) =
            (map.get("type").and_then(Value::as_str), map.get("caseValueParam").cloned())
        {
            map.insert("type".to_owned(), json!("SWITCH"));
            map.insert("evaluatorType".to_owned(), json!("value-param"));
            map.insert("expression".to_owned(), param);
        }
    });
}

/// Inputs that lead a definition down each of its ways.
pub(super) fn inputs(json: &Value, all: &BTreeMap<String, Value>) -> Vec<Value> {
    let mut choices: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for task in tasks(json) {
        let Some(parameter) = task.get("caseValueParam").or(task.get("expression")).and_then(Value::as_str) else {
            continue;
        };
        let from = task["inputParameters"][parameter].as_str().unwrap_or_default();
        if let Some(name) = from.strip_prefix("${workflow.input.").and_then(|name| name.strip_suffix('}')) {
            let cases = task["decisionCases"].as_object().into_iter().flat_map(Map::keys).cloned();
            choices.entry(name.to_owned()).or_default().extend(cases);
        }
    }
    let names: Vec<&str> = all.values().map(|json| text(json, "name")).collect();
    let mut base = json!({"param1": "p1", "param2": "p2", "p1": 1, "loop": 2, "value": 2, "max_iterations": 3, "a": 1,
        "requestedAction": "redeliver", "task2Name": "task_5", "lambdaValue": 1, "var": "some", "var_size": 1,
        "startWorkflow": {"name": "integration_test_wf", "input": {}}, "in1": {"array": ["a"]}, "in2": {"array": ["b"]}});
    let mut guesses = Vec::new();
    for subwf in ["sub_workflow", "integration_test_wf"].iter().filter(|name| names.contains(name)) {
        base["subwf"] = json!(subwf);
        let mut ways = vec![base.clone()];
        for (name, cases) in &choices {
            let cases: Vec<&String> = cases.iter().collect();
            ways = ways
                .into_iter()
                .flat_map(|way| {
                    let with = |case: Value| {
                        let mut way = way.clone();
                        way[name] = case;
                        way
                    };
                    let mut all: Vec<Value> = cases.iter().map(|case| with(json!(case))).collect();
                    all.push(with(json!("no such case")));
                    all
                })
                .collect();
        }
        guesses.extend(ways);
    }
    let mut bad = base;
    (bad["startWorkflow"], bad["in1"]) = (json!("nonsense"), json!({"array": "a"}));
    bad["var"] = json!("x".repeat(300_000));
    guesses.push(bad);
    guesses
}

/// What the first task of the dynamic fork's sample may give.
pub(super) fn outputs() -> Vec<BTreeMap<String, Value>> {
    let task = |name: &str, reference: &str| json!({"name": name, "taskReferenceName": reference, "type": "SIMPLE"});
    let sub = json!({"name": "integration_test_wf", "taskReferenceName": "xdt1", "type": "SUB_WORKFLOW", "subWorkflowParam": {"name": "integration_test_wf3"}});
    let of = |tasks: Value, inputs: Value| {
        BTreeMap::from([("integration_task_1".to_owned(), json!({"dynamicTasks": tasks, "dynamicTasksInput": inputs}))])
    };
    vec![
        of(
            json!([task("integration_task_2", "xdt1"), task("integration_task_3", "xdt2")]),
            json!({"xdt1": {"k1": "v1"}, "xdt2": {"k2": "v2"}}),
        ),
        of(json!([sub, task("integration_task_10", "xdt10")]), json!({"xdt1": {}, "xdt10": {"k2": "v2"}})),
        of(json!([task("integration_task_2", "xdt1")]), json!("nonsense")),
    ]
}
