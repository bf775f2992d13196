//! A task definition's `task` as a task of ours: the JSON form of the gRPC task, with the definition's limits, checked and encoded.

use crate::cli::file;
use crate::machine::{Emission, PayloadHandle, Template, Templates};
use crate::store::{Error, Read};
use bytes::Bytes;
use prost::Message as _;
use proto::{bounds, check, v1};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use v1::task_spec::Kind;
use workflow::definition::{self, TaskDef, TimeoutPolicy};
use workflow::plan::Plan;

/// Labels of such a task: a run's own come on top, and both fit a task.
const LABELS: usize = bounds::LABELS / 2;

/// Where such a process finds its input. It fits: a child is smaller than what the kernel takes of one variable.
const INPUT: &str = "TASK_INPUT";

/// Looks at a task definition's `task` when it is registered.
///
/// # Errors
/// What is wrong with it, and what to use instead.
pub fn check_task(task: &Map<String, Value>) -> Result<(), String> {
    checked(task, &TaskDef::unregistered("task")).map(drop)
}

/// The tasks of ours that a plan names, and their specs as they are stored.
///
/// # Errors
/// One cannot be used, or two task definitions of one name differ in it.
pub(super) fn of_plan(plan: &Plan) -> Result<(Templates, Vec<(PayloadHandle, Bytes)>), String> {
    let mut templates = Templates::new();
    let mut given: BTreeMap<&str, &TaskDef> = BTreeMap::new();
    let mut bodies = Vec::new();
    for node in plan.nodes.iter().filter(|node| matches!(node.kind, definition::Kind::Simple)) {
        let Some(definition) = node.definition.as_deref() else { continue };
        let Some(task) = &definition.task else { continue };
        match given.insert(&node.name, definition) {
            Some(other) if other == definition => continue,
            Some(_) => {
                return Err(format!(
                    "two tasks {:?} are defined differently; give one of them another name",
                    node.name
                ));
            }
            None => {}
        }
        let checked = checked(task, definition).map_err(|why| format!("task {:?}: {why}", node.name))?;
        let body = checked.spec.encode_to_vec();
        let payload = PayloadHandle::from(Sha256::digest(&body));
        bodies.push((payload, body.into()));
        templates.insert(node.name.clone(), Template { payload, facts: checked.facts });
    }
    Ok((templates, bodies))
}

/// A task that another one, of no workflow, emits: what a registered task definition says, else an executor of that type.
///
/// # Errors
/// The store cannot be read. Within: why there is no such task, for the one who emits it.
pub(in super::super) fn child(
    reader: &mut dyn Read,
    what: &Emission,
    has_executor: impl Fn(&str) -> bool,
) -> Result<Result<(Template, Bytes), String>, Error> {
    let Some(name) = &what.name else {
        return Ok(Err("the child needs the name of its task: --name, of a task definition or an executor".to_owned()));
    };
    let input = what.input.as_ref().map_or(&b"{}"[..], |(_, body)| body);
    let input = String::from_utf8_lossy(input).into_owned();
    let registered = reader.task_definition(name)?.and_then(|row| serde_json::from_slice::<Value>(&row.json).ok());
    let checked = match registered.filter(|json| json.get("task").is_some()) {
        Some(json) => defined(&json, &input),
        None if has_executor(name) => {
            let typed = v1::Typed { r#type: name.clone(), input };
            let spec = v1::TaskSpec { name: name.clone(), kind: Some(Kind::Typed(typed)), ..v1::TaskSpec::default() };
            check::spec(spec).map_err(|faults| faults.to_string())
        }
        None => Err(format!(
            "no task definition {name:?} with a `task` is registered, nor an executor of that type; \
             `informer workflow put` registers the one, `informer executor put` the other"
        )),
    };
    Ok(checked.map(|checked| {
        let body = Bytes::from(checked.spec.encode_to_vec());
        (Template { payload: PayloadHandle::from(Sha256::digest(&body)), facts: checked.facts }, body)
    }))
}

/// By a task definition, whose tries it has: here is no run that owns them.
fn defined(json: &Value, input: &str) -> Result<check::Checked, String> {
    let definition = TaskDef::parse_with(json, check_task).map_err(|refused| refused.to_string())?.value;
    let task = definition.task.clone().unwrap_or_default();
    let mut spec = checked(&task, &definition)?.spec;
    spec.retry.get_or_insert_default().max_attempts = definition.retry_count.saturating_add(1);
    match &mut spec.kind {
        Some(Kind::Typed(typed)) => input.clone_into(&mut typed.input),
        _ => drop(spec.env.insert(INPUT.to_owned(), input.to_owned())),
    }
    check::spec(spec).map_err(|faults| faults.to_string())
}

fn checked(task: &Map<String, Value>, definition: &TaskDef) -> Result<check::Checked, String> {
    let mut spec = file::inline(task)?;
    if spec.name.is_empty() {
        spec.name.clone_from(&definition.name);
    }
    if spec.labels.len() > LABELS {
        return Err(format!("it has {} labels; use at most {LABELS}: the run's come on top", spec.labels.len()));
    }
    if matches!(spec.kind, Some(Kind::Service(_))) {
        return Err("a service never ends, so its workflow would wait for ever; use a command".to_owned());
    }
    // The run owns the tries; inside its task only losses are tried again.
    spec.retry.get_or_insert_default().max_attempts = 1;
    limit(&mut spec, definition);
    check::spec(spec).map_err(|faults| faults.to_string())
}

/// The limits of a task definition go over those of its `task`. A worker's silence (`responseTimeoutSeconds`) is the sidecar's beats here.
fn limit(spec: &mut v1::TaskSpec, definition: &TaskDef) {
    if definition.timeout_policy == TimeoutPolicy::AlertOnly {
        return;
    }
    let mut timeouts = spec.timeouts.unwrap_or_default();
    for (timeout_ms, seconds) in
        [(&mut timeouts.attempt_ms, definition.timeout_s), (&mut timeouts.queue_ms, definition.poll_timeout_s)]
    {
        if seconds > 0 {
            *timeout_ms = seconds.saturating_mul(1000).min(bounds::DURATION_MS);
        }
    }
    spec.timeouts = Some(timeouts);
}
