//! A task definition's `task` as a task of ours: the JSON form of the gRPC task, with the definition's limits, checked and encoded.

use crate::cli::file;
use crate::machine::{PayloadHandle, Template, Templates};
use bytes::Bytes;
use prost::Message as _;
use proto::{bounds, check, v1};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use workflow::definition::{Kind, TaskDef, TimeoutPolicy};
use workflow::plan::Plan;

/// Labels of such a task: a run's own come on top, and both fit a task.
const LABELS: usize = bounds::LABELS / 2;

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
    for node in plan.nodes.iter().filter(|node| matches!(node.kind, Kind::Simple)) {
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

fn checked(task: &Map<String, Value>, definition: &TaskDef) -> Result<check::Checked, String> {
    let mut spec = file::inline(task)?;
    if spec.name.is_empty() {
        spec.name.clone_from(&definition.name);
    }
    if spec.labels.len() > LABELS {
        return Err(format!("it has {} labels; use at most {LABELS}: the run's come on top", spec.labels.len()));
    }
    if matches!(spec.kind, Some(v1::task_spec::Kind::Service(_))) {
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
