//! JSON becomes a definition.

use serde_json::{Map, Value};

use super::bounds::{MAX_DEPTH, MAX_RETRIES, MAX_SECONDS, MAX_TASKS};
use super::reader::{Reader, present};
use super::{Definition, DoWhile, DynamicFork, Kind, SubWorkflow, Switch, SwitchOn, Task, task_def};

type Object = Map<String, Value>;

const WORKFLOW_KEYS: &[&str] = &[
    "name",
    "description",
    "version",
    "tasks",
    "inputParameters",
    "outputParameters",
    "failureWorkflow",
    "schemaVersion",
    "restartable",
    "workflowStatusListenerEnabled",
    "workflowStatusListenerSink",
    "ownerEmail",
    "ownerApp",
    "timeoutPolicy",
    "timeoutSeconds",
    "variables",
    "inputTemplate",
    "rateLimitConfig",
    "inputSchema",
    "outputSchema",
    "enforceSchema",
    "metadata",
    "cacheConfig",
    "maskedFields",
    "createTime",
    "updateTime",
    "createdBy",
    "updatedBy",
];

const WORKFLOW_KEYS_WITHOUT_EFFECT: &[&str] = &[
    "workflowStatusListenerEnabled",
    "workflowStatusListenerSink",
    "rateLimitConfig",
    "cacheConfig",
    "maskedFields",
    "inputSchema",
    "outputSchema",
];

const TASK_KEYS: &[&str] = &[
    "name",
    "taskReferenceName",
    "description",
    "inputParameters",
    "type",
    "dynamicTaskNameParam",
    "caseValueParam",
    "caseExpression",
    "scriptExpression",
    "decisionCases",
    "dynamicForkJoinTasksParam",
    "dynamicForkTasksParam",
    "dynamicForkTasksInputParamName",
    "defaultCase",
    "forkTasks",
    "startDelay",
    "subWorkflowParam",
    "joinOn",
    "sink",
    "optional",
    "taskDefinition",
    "rateLimited",
    "defaultExclusiveJoinTask",
    "asyncComplete",
    "loopCondition",
    "loopOver",
    "items",
    "retryCount",
    "evaluatorType",
    "expression",
    "onStateChange",
    "joinStatus",
    "joinMode",
    "cacheConfig",
    "permissive",
    "emits",
];

/// The types that run here, for the message that refuses others.
const TYPES: &str = "SIMPLE, SWITCH, DECISION, FORK_JOIN, FORK_JOIN_DYNAMIC, JOIN, EXCLUSIVE_JOIN, DO_WHILE, SUB_WORKFLOW, \
                     START_WORKFLOW, WAIT, HUMAN, HTTP, EVENT, TERMINATE, SET_VARIABLE, INLINE, LAMBDA, JSON_JQ_TRANSFORM or \
                     DYNAMIC";

/// What is left to read, so that neither depth nor number runs away.
struct Budget {
    tasks: usize,
    depth: usize,
    /// Whether inputs are written as in schema version 1: `task.output.key`.
    plain: bool,
}

pub(super) fn workflow(reader: &mut Reader, json: &Value) -> Option<Definition> {
    workflow_at(reader, json, "$", &mut Budget { tasks: MAX_TASKS, depth: MAX_DEPTH, plain: false })
}

pub(super) fn branches(reader: &mut Reader, json: &[Value]) -> Vec<Task> {
    let mut budget = Budget { tasks: usize::MAX, depth: MAX_DEPTH, plain: false };
    sequence(reader, json, "$", &mut budget)
}

fn workflow_at(reader: &mut Reader, json: &Value, path: &str, budget: &mut Budget) -> Option<Definition> {
    let from = reader.object(json, path)?;
    reader.known(from, path, WORKFLOW_KEYS);
    reader.without_effect(from, path, WORKFLOW_KEYS_WITHOUT_EFFECT);
    let name = reader.name(from, path, "name");
    let version = reader.number(from, path, "version", u64::from(u32::MAX)).unwrap_or(1);
    let schema = reader.number(from, path, "schemaVersion", u64::MAX).unwrap_or(2);
    if !(1..=2).contains(&schema) {
        reader.fault(format!("{path}.schemaVersion"), format!("{schema} is not known; use 2"));
    }
    let outer = std::mem::replace(&mut budget.plain, schema == 1);
    let listed = reader.list(from, path, "tasks");
    if listed.is_empty() {
        reader.fault(format!("{path}.tasks"), "a workflow has at least one task");
    }
    let tasks = sequence(reader, listed, &format!("{path}.tasks"), budget);
    let output_parameters = parameters(reader, from, path, "outputParameters", budget);
    budget.plain = outer;
    reader.strings_or_notes(from, path);
    let alert_only = match reader.text(from, path, "timeoutPolicy").as_deref() {
        None | Some("ALERT_ONLY") => true,
        Some("TIME_OUT_WF") => false,
        Some(other) => {
            reader.fault(
                format!("{path}.timeoutPolicy"),
                format!("{other:?} is not known; use TIME_OUT_WF or ALERT_ONLY"),
            );
            true
        }
    };
    let timeout_s = reader.number(from, path, "timeoutSeconds", MAX_SECONDS).unwrap_or(0);
    Some(Definition {
        name: name?,
        version: u32::try_from(version).unwrap_or(1),
        tasks,
        output_parameters,
        input_template: reader.map(from, path, "inputTemplate"),
        variables: reader.map(from, path, "variables"),
        failure_workflow: reader.text(from, path, "failureWorkflow").filter(|name| !name.trim().is_empty()),
        timeout_s: if alert_only { 0 } else { timeout_s },
        restartable: reader.flag(from, path, "restartable", true),
    })
}

fn sequence(reader: &mut Reader, list: &[Value], path: &str, budget: &mut Budget) -> Vec<Task> {
    let Some(depth) = budget.depth.checked_sub(1) else {
        reader.fault(path, format!("is nested more than {MAX_DEPTH} deep; move the inner part to a SUB_WORKFLOW"));
        return Vec::new();
    };
    budget.depth = depth;
    let mut tasks = Vec::with_capacity(list.len().min(MAX_TASKS));
    for (index, json) in list.iter().enumerate() {
        let Some(left) = budget.tasks.checked_sub(1) else {
            reader.fault(path, format!("the workflow has more than {MAX_TASKS} tasks; split it with SUB_WORKFLOW"));
            break;
        };
        budget.tasks = left;
        tasks.extend(task(reader, json, &format!("{path}[{index}]"), budget));
    }
    budget.depth += 1;
    tasks
}

fn task(reader: &mut Reader, json: &Value, path: &str, budget: &mut Budget) -> Option<Task> {
    let from = reader.object(json, path)?;
    reader.known(from, path, TASK_KEYS);
    reader.without_effect(from, path, &["onStateChange", "cacheConfig", "rateLimited"]);
    let input = match from.get("inputParameters") {
        Some(Value::String(text)) if text.starts_with("${") => {
            let message = "an expression in place of the whole map is not supported; write one expression per key";
            reader.fault(format!("{path}.inputParameters"), message);
            Object::new()
        }
        _ => parameters(reader, from, path, "inputParameters", budget),
    };
    let kind = kind(reader, from, path, &input, budget);
    let definition = present(from, "taskDefinition")
        .and_then(|json| task_def::parse(reader, json, &format!("{path}.taskDefinition")));
    let reference = reader.name(from, path, "taskReferenceName");
    let name = match (reader.text(from, path, "name"), &kind) {
        (Some(name), _) if !name.trim().is_empty() => reader.name(from, path, "name").or(Some(name)),
        (_, Some(Kind::Simple) | None) => reader.name(from, path, "name"),
        (_, Some(kind)) => Some(kind.type_name().to_owned()),
    };
    let retry_count = reader.number(from, path, "retryCount", u64::from(MAX_RETRIES));
    let listed = reader.list(from, path, "emits");
    let emits = sequence(reader, listed, &format!("{path}.emits"), budget);
    Some(Task {
        name: name?,
        reference: reference?,
        input,
        kind: kind?,
        definition,
        retry_count: retry_count.and_then(|count| u32::try_from(count).ok()),
        start_delay_s: reader.number(from, path, "startDelay", MAX_SECONDS).unwrap_or(0),
        optional: reader.flag(from, path, "optional", false),
        permissive: reader.flag(from, path, "permissive", false),
        async_complete: reader.flag(from, path, "asyncComplete", false),
        emits,
    })
}

/// Templates; those of schema version 1 become expressions.
fn parameters(reader: &mut Reader, from: &Object, path: &str, key: &str, budget: &Budget) -> Object {
    let mut map = reader.map(from, path, key);
    if !budget.plain {
        return map;
    }
    for (name, value) in &mut map {
        match value.as_str().map(|text| (text, text.split('.').count())) {
            Some((text, 3)) => *value = Value::String(format!("${{{text}}}")),
            _ => {
                let message = "schemaVersion 1 knows only task.output.key; use schemaVersion 2";
                reader.fault(format!("{path}.{key}.{name}"), message);
            }
        }
    }
    map
}

fn kind(
    reader: &mut Reader,
    from: &Object,
    path: &str,
    input: &Object,
    budget: &mut Budget,
) -> Option<Kind<Vec<Task>>> {
    let name = reader.text(from, path, "type").unwrap_or_else(|| "SIMPLE".to_owned());
    let inner = |reader: &mut Reader, key: &str, budget: &mut Budget| {
        let list = reader.list(from, path, key);
        sequence(reader, list, &format!("{path}.{key}"), budget)
    };
    Some(match name.as_str() {
        "SIMPLE" => Kind::Simple,
        "DECISION" | "SWITCH" => {
            let decision = name == "DECISION";
            let on = if decision { decision_on(reader, from, path) } else { switch_on(reader, from, path) };
            let cases = cases(reader, from, path, budget);
            let default = inner(reader, "defaultCase", budget);
            Kind::Switch(Switch { decision, on: on?, cases, default })
        }
        "FORK_JOIN" => Kind::Fork { branches: forks(reader, from, path, budget) },
        "FORK_JOIN_DYNAMIC" => Kind::DynamicFork(dynamic_fork(reader, from, path, input)?),
        "JOIN" => Kind::Join { on: reader.strings(from, path, "joinOn") },
        "EXCLUSIVE_JOIN" => Kind::ExclusiveJoin {
            on: reader.strings(from, path, "joinOn"),
            default: reader.strings(from, path, "defaultExclusiveJoinTask"),
        },
        "DO_WHILE" => Kind::DoWhile(DoWhile {
            condition: reader.text(from, path, "loopCondition").filter(|condition| !condition.trim().is_empty()),
            items: present(from, "items").or_else(|| present(input, "items")).cloned(),
            body: inner(reader, "loopOver", budget),
        }),
        "SUB_WORKFLOW" => Kind::SubWorkflow(Box::new(sub_workflow(reader, from, path, budget)?)),
        "EVENT" => Kind::Event { sink: reader.name(from, path, "sink")? },
        "DYNAMIC" => Kind::Dynamic { param: reader.name(from, path, "dynamicTaskNameParam")? },
        other => return plain(reader, other, path),
    })
}

/// The kinds that have nothing but an input.
fn plain(reader: &mut Reader, name: &str, path: &str) -> Option<Kind<Vec<Task>>> {
    Some(match name {
        "START_WORKFLOW" => Kind::StartWorkflow,
        "WAIT" => Kind::Wait,
        "HUMAN" => Kind::Human,
        "HTTP" => Kind::Http,
        "TERMINATE" => Kind::Terminate,
        "SET_VARIABLE" => Kind::SetVariable,
        "INLINE" => Kind::Inline,
        "LAMBDA" => Kind::Lambda,
        "JSON_JQ_TRANSFORM" => Kind::Jq,
        other => {
            let instead = match other {
                "KAFKA_PUBLISH" => "publish from a worker: a SIMPLE task",
                "HTTP_POLL" => "repeat HTTP and WAIT in a DO_WHILE",
                "NOOP" => "use a SET_VARIABLE without parameters",
                "USER_DEFINED" => "use SIMPLE",
                _ => "run it by a worker as a SIMPLE task",
            };
            let short: String = other.chars().take(60).collect();
            reader.fault(format!("{path}.type"), format!("{short:?} is not supported: {instead}. Types are {TYPES}"));
            return None;
        }
    })
}

fn decision_on(reader: &mut Reader, from: &Object, path: &str) -> Option<SwitchOn> {
    if let Some(script) = reader.text(from, path, "caseExpression").filter(|script| !script.trim().is_empty()) {
        return Some(SwitchOn::Script(script));
    }
    let param = reader.text(from, path, "caseValueParam").filter(|param| !param.trim().is_empty());
    if param.is_none() {
        reader.fault(format!("{path}.caseValueParam"), "a DECISION needs caseValueParam or caseExpression");
    }
    param.map(SwitchOn::Param)
}

fn switch_on(reader: &mut Reader, from: &Object, path: &str) -> Option<SwitchOn> {
    let expression = reader.name_of_any_length(from, path, "expression");
    match reader.text(from, path, "evaluatorType").as_deref() {
        Some("value-param") => expression.map(SwitchOn::Param),
        Some("javascript" | "graaljs") => expression.map(SwitchOn::Script),
        Some(other) => {
            reader.fault(
                format!("{path}.evaluatorType"),
                format!("{other:?} is not supported; use value-param or javascript"),
            );
            None
        }
        None => {
            reader.fault(format!("{path}.evaluatorType"), "is missing; use value-param or javascript");
            None
        }
    }
}

fn cases(reader: &mut Reader, from: &Object, path: &str, budget: &mut Budget) -> Vec<(String, Vec<Task>)> {
    let mut cases = Vec::new();
    for (case, list) in reader.map(from, path, "decisionCases") {
        let at = format!("{path}.decisionCases['{case}']");
        match list {
            Value::Array(list) => cases.push((case, sequence(reader, &list, &at, budget))),
            Value::Null => cases.push((case, Vec::new())),
            _ => reader.fault(at, "expected a list of tasks"),
        }
    }
    cases
}

fn forks(reader: &mut Reader, from: &Object, path: &str, budget: &mut Budget) -> Vec<Vec<Task>> {
    let list = reader.list(from, path, "forkTasks");
    if list.is_empty() {
        reader.fault(format!("{path}.forkTasks"), "a FORK_JOIN has at least one branch");
    }
    let mut branches = Vec::new();
    for (index, branch) in list.iter().enumerate() {
        let at = format!("{path}.forkTasks[{index}]");
        match branch {
            Value::Array(tasks) => branches.push(sequence(reader, tasks, &at, budget)),
            _ => reader.fault(at, "expected a list of tasks: each branch is one"),
        }
    }
    branches
}

fn dynamic_fork(reader: &mut Reader, from: &Object, path: &str, input: &Object) -> Option<DynamicFork> {
    if let Some(tasks) = reader.text(from, path, "dynamicForkTasksParam").filter(|name| !name.is_empty()) {
        let inputs = reader.name(from, path, "dynamicForkTasksInputParamName")?;
        return Some(DynamicFork::Tasks { tasks, inputs });
    }
    if let Some(param) = reader.text(from, path, "dynamicForkJoinTasksParam").filter(|name| !name.is_empty()) {
        return Some(DynamicFork::Joined { param });
    }
    if ["forkTaskInputs", "forkTaskName", "forkTaskType", "forkTaskWorkflow"].iter().any(|key| input.contains_key(*key))
    {
        return Some(DynamicFork::Same);
    }
    let message = "is missing; give dynamicForkTasksParam with dynamicForkTasksInputParamName, or dynamicForkJoinTasksParam, or \
                   forkTaskName (or forkTaskWorkflow) with forkTaskInputs as input parameters";
    reader.fault(format!("{path}.dynamicForkTasksParam"), message);
    None
}

fn sub_workflow(reader: &mut Reader, from: &Object, path: &str, budget: &mut Budget) -> Option<SubWorkflow> {
    let at = format!("{path}.subWorkflowParam");
    let Some(json) = present(from, "subWorkflowParam") else {
        reader.fault(at, "is missing; name the workflow, or give its workflowDefinition");
        return None;
    };
    let param = reader.object(json, &at)?;
    let name = reader.text(param, &at, "name").filter(|name| !name.trim().is_empty());
    let definition = present(param, "workflowDefinition").cloned();
    match &definition {
        Some(inline @ Value::Object(_)) => {
            let inner = workflow_at(reader, inline, &format!("{at}.workflowDefinition"), budget);
            if let Some(inner) = inner {
                super::check::inner(reader, &inner, &format!("{at}.workflowDefinition"));
            }
        }
        Some(Value::String(text)) if text.starts_with("${") => {}
        Some(_) => {
            reader.fault(format!("{at}.workflowDefinition"), "expected a definition or an expression that gives one")
        }
        None if name.is_none() => {
            reader.fault(format!("{at}.name"), "is missing; name the workflow, or give its workflowDefinition")
        }
        None => {}
    }
    let version = present(param, "version").cloned();
    Some(SubWorkflow { name, version, definition, priority: present(param, "priority").cloned() })
}

impl Reader {
    /// `inputParameters` of a workflow is documentation; whatever it is, it changes nothing.
    fn strings_or_notes(&mut self, from: &Object, path: &str) {
        if present(from, "inputParameters").is_some_and(|value| !value.is_array()) {
            self.note(format!("{path}.inputParameters"), "is not a list and has no effect");
        }
    }

    /// A script or a parameter's name, which must be there but may be long.
    fn name_of_any_length(&mut self, from: &Object, path: &str, key: &str) -> Option<String> {
        let text = self.text(from, path, key).filter(|text| !text.trim().is_empty());
        if text.is_none() {
            self.fault(format!("{path}.{key}"), "is missing");
        }
        text
    }
}
