//! What is refused at registration, where, and with which advice; and what is accepted as Conductor accepts it.

#![allow(clippy::unwrap_used, reason = "what a test arranges is there, or the test has failed")]

use serde_json::{Value, json};
use workflow::definition::{
    Definition, MAX_DEPTH, MAX_FAULTS, MAX_TASKS, RetryLogic, TaskCheck, TaskDef, TimeoutPolicy, populate,
};

fn simple(name: &str) -> Value {
    json!({"name": name, "taskReferenceName": name})
}

fn workflow(tasks: Value) -> Value {
    json!({"name": "w", "tasks": tasks})
}

/// The faults of a definition, as `path: message`.
fn faults(definition: &Value) -> Vec<String> {
    match Definition::parse(definition) {
        Ok(_) => Vec::new(),
        Err(refused) => refused.faults.iter().map(ToString::to_string).collect(),
    }
}

#[track_caller]
fn refused(definition: &Value, path: &str, words: &str) {
    let faults = faults(definition);
    let found = faults.iter().any(|fault| fault.starts_with(&format!("{path}: ")) && fault.contains(words));
    assert!(found, "{path} with {words:?} among {faults:#?}");
}

#[track_caller]
fn task_refused(task: Value, path: &str, words: &str) {
    refused(&workflow(json!([task])), &format!("$.tasks[0]{path}"), words);
}

#[track_caller]
fn accepted(definition: &Value) {
    assert_eq!(faults(definition), Vec::<String>::new());
}

#[test]
fn every_fault_is_told_at_once_with_its_path() {
    let bad = json!({"tasks": [
        {"name": "a", "taskReferenceName": "a", "type": "KAFKA_PUBLISH"},
        {"name": "b"},
        {"name": "l", "taskReferenceName": "l", "type": "DO_WHILE", "loopOver": [{"taskReferenceName": "x", "type": "SIMPLE"}]},
        {"name": "c", "taskReferenceName": "c", "optional": 7, "startDelay": -1, "retryCount": "many"}
    ], "timeoutPolicy": "SOMETIMES"});
    let faults = faults(&bad);
    for path in [
        "$.name",
        "$.tasks[0].type",
        "$.tasks[1].taskReferenceName",
        "$.tasks[2].loopOver[0].name",
        "$.tasks[3].optional",
        "$.tasks[3].startDelay",
        "$.tasks[3].retryCount",
        "$.timeoutPolicy",
    ] {
        assert!(faults.iter().any(|fault| fault.starts_with(path)), "{path} among {faults:#?}");
    }
}

#[test]
fn types_that_do_not_run_here_are_refused_by_name_with_what_to_use() {
    for (kind, advice) in [
        ("KAFKA_PUBLISH", "from a worker"),
        ("USER_TASK", "as a SIMPLE task"),
        ("HTTP_POLL", "DO_WHILE"),
        ("NOOP", "SET_VARIABLE"),
    ] {
        let task = json!({"name": "a", "taskReferenceName": "a", "type": kind});
        task_refused(task.clone(), ".type", kind);
        task_refused(task, ".type", advice);
    }
}

/// A task of a type, with more fields.
fn task(kind: &str, extra: Value) -> Value {
    let mut task = json!({"name": "a", "taskReferenceName": "a", "type": kind});
    task.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    task
}

#[test]
fn what_stands_in_an_input_and_cannot_serve_is_refused_before_it_is_used() {
    let given = |kind: &str, input: Value| task(kind, json!({"inputParameters": input}));
    for (kind, input, at, says) in [
        ("HTTP", json!({"http_request": "nonsense"}), ".http_request", "no object"),
        ("HTTP", json!({"http_request": {"method": "GET"}}), ".http_request.uri", "missing"),
        ("HTTP", json!({"http_request": {"uri": "ftp://x"}}), ".http_request.uri", "http(s)"),
        ("HTTP", json!({"http_request": {"uri": "http://x/", "method": 5}}), ".http_request.method", "no text"),
        ("HTTP", json!({"http_request": {"uri": "http://x/", "headers": 5}}), ".http_request.headers", "no object"),
        ("START_WORKFLOW", json!({"startWorkflow": {}}), ".startWorkflow.name", "missing"),
        (
            "START_WORKFLOW",
            json!({"startWorkflow": {"name": "w", "version": "x"}}),
            ".startWorkflow.version",
            "no number",
        ),
        ("START_WORKFLOW", json!({"startWorkflow": {"name": "w", "input": 5}}), ".startWorkflow.input", "no object"),
        ("INLINE", json!({"evaluatorType": "javascript", "expression": 5}), ".expression", "no text"),
        ("LAMBDA", json!({"scriptExpression": 5}), ".scriptExpression", "no text"),
        ("JSON_JQ_TRANSFORM", json!({"queryExpression": 7}), ".queryExpression", "no text"),
    ] {
        task_refused(given(kind, input), &format!(".inputParameters{at}"), says);
    }
    let looped = json!({"loopOver": [simple("b")], "items": [1], "inputParameters": {"keepLastN": -3}});
    task_refused(task("DO_WHILE", looped), ".inputParameters.keepLastN", "no number of rounds");
    task_refused(task("DO_WHILE", json!({"loopOver": [simple("b")], "items": "one"})), ".items", "no list");
}

#[test]
fn each_type_needs_its_own_fields() {
    let none = || json!({});
    task_refused(task("SWITCH", none()), ".evaluatorType", "value-param or javascript");
    task_refused(task("SWITCH", json!({"evaluatorType": "python", "expression": "x"})), ".evaluatorType", "python");
    task_refused(task("SWITCH", json!({"evaluatorType": "value-param"})), ".expression", "missing");
    task_refused(task("DECISION", none()), ".caseValueParam", "caseExpression");
    task_refused(task("FORK_JOIN", none()), ".forkTasks", "at least one branch");
    task_refused(task("FORK_JOIN", json!({"forkTasks": [simple("b")]})), ".forkTasks[0]", "list of tasks");
    task_refused(task("FORK_JOIN", json!({"forkTasks": [[simple("b")]]})), "", "not followed by a JOIN");
    task_refused(task("FORK_JOIN_DYNAMIC", none()), ".dynamicForkTasksParam", "forkTaskInputs");
    task_refused(
        task("FORK_JOIN_DYNAMIC", json!({"dynamicForkTasksParam": "t"})),
        ".dynamicForkTasksInputParamName",
        "missing",
    );
    task_refused(task("JOIN", json!({"joinOn": ["nobody"]})), ".joinOn[0]", "no task of this workflow");
    task_refused(
        task("EXCLUSIVE_JOIN", json!({"joinOn": [], "defaultExclusiveJoinTask": ["nobody"]})),
        ".defaultExclusiveJoinTask[0]",
        "nobody",
    );
    task_refused(task("DO_WHILE", json!({"loopOver": [simple("b")]})), ".loopCondition", "missing");
    task_refused(task("DO_WHILE", json!({"loopCondition": "true"})), ".loopOver", "at least one task");
    task_refused(task("SUB_WORKFLOW", none()), ".subWorkflowParam", "name the workflow");
    task_refused(task("SUB_WORKFLOW", json!({"subWorkflowParam": {}})), ".subWorkflowParam.name", "missing");
    let inner = json!({"subWorkflowParam": {"workflowDefinition": {"name": "x", "tasks": []}}});
    task_refused(task("SUB_WORKFLOW", inner), ".subWorkflowParam.workflowDefinition.tasks", "at least one task");
    task_refused(task("EVENT", none()), ".sink", "missing");
    task_refused(task("EVENT", json!({"sink": "sqs:queue"})), ".sink", "conductor:NAME");
    task_refused(task("DYNAMIC", none()), ".dynamicTaskNameParam", "missing");
    task_refused(task("HTTP", none()), ".inputParameters.http_request", "missing");
    task_refused(task("JSON_JQ_TRANSFORM", none()), ".inputParameters.queryExpression", "missing");
    task_refused(task("LAMBDA", none()), ".inputParameters.scriptExpression", "missing");
    task_refused(task("INLINE", none()), ".inputParameters.expression", "missing");
    task_refused(
        task("INLINE", json!({"inputParameters": {"evaluatorType": "python", "expression": "1"}})),
        ".inputParameters.evaluatorType",
        "python",
    );
    task_refused(task("TERMINATE", none()), ".inputParameters.terminationStatus", "COMPLETED, FAILED or TERMINATED");
    task_refused(
        task("WAIT", json!({"inputParameters": {"duration": "a while"}})),
        ".inputParameters.duration",
        "2 days",
    );
}

#[test]
fn reference_names_are_unique_at_every_depth() {
    let tasks = json!([simple("a"), {"name": "l", "taskReferenceName": "l", "type": "DO_WHILE", "loopCondition": "true", "loopOver": [simple("a")]}]);
    refused(&workflow(tasks), "$.tasks[1].loopOver[0].taskReferenceName", "used already at $.tasks[0]");
    refused(&workflow(json!([simple("workflow")])), "$.tasks[0].taskReferenceName", "choose another name");
}

#[test]
fn expressions_that_are_not_understood_are_refused_where_they_stand() {
    let task = |text: &str| {
        workflow(json!([{"name": "a", "taskReferenceName": "a", "inputParameters": {"x": {"deep": [text]}}}]))
    };
    refused(&task("${workflow.input.list[?(@.a == 1)]}"), "$.tasks[0].inputParameters.x", "filter");
    refused(&task("${workflow.input.list.sum()}"), "$.tasks[0].inputParameters.x", "length()");
    accepted(&task("${workflow.input.list[0].a['b']} and ${workflow.input..c}"));
    let mut definition = workflow(json!([simple("a")]));
    definition["outputParameters"] = json!({"x": "${a.output[}"});
    refused(&definition, "$.outputParameters.x", "not closed");
}

#[test]
fn what_conductor_ignores_is_noted_and_accepted() {
    let mut definition = workflow(json!([simple("a")]));
    definition["tasks"][0]["colour"] = json!("red");
    definition["tasks"][0]["inputParameters"] = json!({"x": "${nobody.output.y}"});
    (definition["description"], definition["maskedFields"]) = (Value::Null, json!(["password"]));
    definition["workflowStatusListenerEnabled"] = json!(false);
    let accepted = Definition::parse(&definition).unwrap();
    let notes: Vec<String> = accepted.notes.iter().map(ToString::to_string).collect();
    assert_eq!(notes.len(), 3, "{notes:?}");
    assert!(notes[0].starts_with("$.maskedFields: has no effect"));
    assert!(notes[1].starts_with("$.tasks[0].colour"));
    assert!(notes[2].contains("\"nobody\" is no task of this workflow"));
}

#[test]
fn a_definition_has_bounds() {
    let many: Vec<Value> = (0..=MAX_TASKS).map(|n| simple(&format!("t{n}"))).collect();
    refused(&workflow(json!(many)), "$.tasks", "more than 2000 tasks");
    let mut deep = simple("last");
    for n in 0..=MAX_DEPTH {
        deep = json!({"name": "l", "taskReferenceName": format!("l{n}"), "type": "DO_WHILE", "loopCondition": "true", "loopOver": [deep]});
    }
    assert!(faults(&workflow(json!([deep]))).iter().any(|fault| fault.contains("nested more than")));
    refused(&workflow(json!([simple(&"x".repeat(300))])), "$.tasks[0].taskReferenceName", "at most 255");
    let bad: Vec<Value> = (0..500).map(|_| json!({})).collect();
    assert_eq!(faults(&workflow(json!(bad))).len(), MAX_FAULTS);
    for nonsense in [
        json!(null),
        json!([]),
        json!("x"),
        json!({}),
        json!({"name": 1, "tasks": 2}),
        json!({"name": "w", "tasks": [3, null]}),
    ] {
        assert!(!faults(&nonsense).is_empty());
    }
}

#[test]
fn schema_version_1_is_read_as_it_was() {
    let mut definition =
        workflow(json!([{"name": "a", "taskReferenceName": "a", "inputParameters": {"x": "workflow.input.y"}}]));
    definition["schemaVersion"] = json!(1);
    let parsed = Definition::parse(&definition).unwrap().value;
    assert_eq!(parsed.tasks[0].input["x"], json!("${workflow.input.y}"));
    definition["tasks"][0]["inputParameters"]["z"] = json!("just text");
    refused(&definition, "$.tasks[0].inputParameters.z", "schemaVersion 2");
    definition["schemaVersion"] = json!(3);
    refused(&definition, "$.schemaVersion", "3 is not known");
}

#[test]
fn a_task_definition_has_conductors_defaults_and_its_own_bounds() {
    let plain = TaskDef::parse(&json!({"name": "a"})).unwrap().value;
    assert_eq!(plain, TaskDef::unregistered("a"));
    assert_eq!((plain.retry_count, plain.retry_delay_s, plain.response_timeout_s), (3, 60, 3600));
    let full = json!({"name": "a", "retryCount": 5, "retryLogic": "LINEAR_BACKOFF", "retryDelaySeconds": 2, "backoffScaleFactor": 3,
        "timeoutSeconds": 9, "timeoutPolicy": "RETRY", "concurrentExecLimit": 4, "rateLimitPerFrequency": 2, "rateLimitFrequencyInSeconds": 7,
        "pollTimeoutSeconds": 8, "totalTimeoutSeconds": 90, "inputTemplate": {"x": 1}});
    let full = TaskDef::parse(&full).unwrap().value;
    assert_eq!((full.retry_logic, full.timeout_policy), (RetryLogic::Linear, TimeoutPolicy::Retry));
    assert_eq!([1, 2].map(|retry| full.retry_delay_ms(retry, 0)), [6_000, 12_000]);
    let faults = TaskDef::parse(&json!({"name": "", "retryLogic": "x", "timeoutSeconds": -1, "retryCount": 1_000_000}))
        .unwrap_err()
        .faults;
    assert_eq!(faults[0].path, "$.name");
    let bad =
        json!({"name": "a", "retryLogic": "x", "timeoutPolicy": "y", "timeoutSeconds": -1, "retryCount": 1_000_000});
    let paths: Vec<String> = TaskDef::parse(&bad).unwrap_err().faults.into_iter().map(|fault| fault.path).collect();
    assert_eq!(paths, ["$.timeoutSeconds", "$.retryCount", "$.retryLogic", "$.timeoutPolicy"]);
}

#[test]
fn how_a_task_is_run_is_kept_as_it_is_and_looked_at_by_whoever_knows() {
    let check: TaskCheck = |task| match task.contains_key("command") {
        true => Ok(()),
        false => Err("has no command".to_owned()),
    };
    let good = json!({"name": "a", "task": {"command": {"argv": ["true"]}}});
    let accepted = TaskDef::parse_with(&good, check).unwrap();
    assert_eq!(accepted.value.task.map(Value::Object), Some(good["task"].clone()));
    assert_eq!(accepted.notes, []);
    let bad = json!({"name": "a", "task": {}});
    assert!(TaskDef::parse(&bad).is_ok());
    assert_eq!(TaskDef::parse_with(&bad, check).unwrap_err().to_string(), "$.task: has no command");
    let text = TaskDef::parse_with(&json!({"name": "a", "task": "true"}), check).unwrap_err();
    assert_eq!(text.to_string(), "$.task: expected an object, found a string");
    let embedded = workflow(json!([{"name": "a", "taskReferenceName": "a", "taskDefinition": bad}]));
    let refused = Definition::parse_with(&embedded, check).unwrap_err();
    assert_eq!(refused.to_string(), "$.tasks[0].taskDefinition.task: has no command");
}

#[test]
fn exponential_delays_grow_to_their_cap_and_jitter_is_bounded() {
    let definition = json!({"name": "a", "retryLogic": "EXPONENTIAL_BACKOFF", "retryDelaySeconds": 3, "maxRetryDelaySeconds": 20, "backoffJitterMs": 100});
    let definition = TaskDef::parse(&definition).unwrap().value;
    assert_eq!(
        [1, 2, 3, 4, 200].map(|retry| definition.retry_delay_ms(retry, 0)),
        [3_000, 6_000, 12_000, 20_000, 20_000]
    );
    for jitter in [0, 7, u64::MAX] {
        assert!((3_000..=3_100).contains(&definition.retry_delay_ms(1, jitter)));
    }
}

#[test]
fn registered_task_definitions_are_filled_in_where_there_are_none() {
    let mut definition = workflow(json!([
        simple("a"),
        {"name": "s", "taskReferenceName": "s", "type": "SWITCH", "evaluatorType": "value-param", "expression": "x", "decisionCases": {"1": [simple("b")]}},
        {"name": "a", "taskReferenceName": "own", "taskDefinition": {"name": "a", "retryCount": 9}}
    ]));
    populate(&mut definition, &|name| Some(json!({"name": name, "retryCount": 1})).filter(|_| name != "s"));
    assert_eq!(definition["tasks"][0]["taskDefinition"]["retryCount"], json!(1));
    assert_eq!(definition["tasks"][1]["decisionCases"]["1"][0]["taskDefinition"]["retryCount"], json!(1));
    assert_eq!(definition["tasks"][1].get("taskDefinition"), None);
    assert_eq!(definition["tasks"][2]["taskDefinition"]["retryCount"], json!(9));
}
