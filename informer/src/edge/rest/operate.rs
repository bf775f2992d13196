//! What is done to a run. What has no effect any more is done, and its answer says why in a header.

use super::answer::{self, Answer, Refusal};
use super::query::Query;
use super::{ENVELOPE_BYTES, Rest};
use axum::body::Body;
use axum::extract::{Path, State};
use http::Request;
use proto::{bounds, v1};
use serde::Deserialize;
use serde_json::{Map, Value};

fn run(id: String) -> v1::RunRequest {
    v1::RunRequest { id, key: String::new() }
}

pub(super) async fn pause(State(rest): State<Rest>, Path(id): Path<String>) -> Answer {
    let told = rest.flows.on_pause(run(id)).await?;
    Ok(answer::ignored(answer::done(), &told.ignored))
}

pub(super) async fn resume(State(rest): State<Rest>, Path(id): Path<String>) -> Answer {
    let told = rest.flows.on_resume(run(id)).await?;
    Ok(answer::ignored(answer::done(), &told.ignored))
}

/// As Conductor's, it starts no failure workflow unless it is told to.
pub(super) async fn terminate(State(rest): State<Rest>, Path(id): Path<String>, query: Query) -> Answer {
    let reason = query.text("reason").unwrap_or_default().to_owned();
    let quiet = !query.flag("triggerFailureWorkflow", false)?;
    let told = rest.flows.on_terminate(v1::TerminateRunRequest { id, reason, quiet }).await?;
    Ok(answer::ignored(answer::done(), &told.ignored))
}

pub(super) async fn retry(State(rest): State<Rest>, Path(id): Path<String>) -> Answer {
    let told = rest.flows.on_retry_run(run(id)).await?;
    Ok(answer::ignored(answer::nothing(), &told.ignored))
}

pub(super) async fn restart(State(rest): State<Rest>, Path(id): Path<String>, query: Query) -> Answer {
    let latest = query.flag("useLatestDefinitions", false)?;
    let told = rest.flows.on_restart(v1::RestartRequest { id, latest, key: String::new() }).await?;
    Ok(answer::ignored(answer::nothing(), &told.ignored))
}

/// `RerunWorkflowRequest`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rerun {
    workflow_input: Option<Map<String, Value>>,
    re_run_from_task_id: Option<String>,
    task_input: Option<Map<String, Value>>,
}

pub(super) async fn rerun(State(rest): State<Rest>, Path(id): Path<String>, request: Request<Body>) -> Answer {
    let wanted: Option<Rerun> = rest.json(request, bounds::RUN_INPUT_BYTES + ENVELOPE_BYTES).await?;
    let Rerun { workflow_input, re_run_from_task_id, task_input } = wanted.unwrap_or_default();
    let task = re_run_from_task_id.filter(|task| !task.is_empty());
    let (from, input) = match task {
        None => (String::new(), workflow_input),
        Some(_) if workflow_input.is_some_and(|input| !input.is_empty()) => {
            let told = "workflowInput: a rerun from a task keeps the run's input; leave it out, or reRunFromTaskId";
            return Err(Refusal::invalid(told));
        }
        Some(task) => {
            let (_, found) = rest.task(&task).await?;
            (found.reference, task_input)
        }
    };
    let input = input.map(|input| Value::Object(input).to_string()).unwrap_or_default();
    let told = rest.flows.on_rerun(v1::RerunRequest { id: id.clone(), from, input, key: String::new() }).await?;
    Ok(answer::ignored(answer::text(id), &told.ignored))
}

/// `SkipTaskRequest`. What the task would have been given is of no use to anybody.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Skip {
    task_output: Option<Map<String, Value>>,
}

pub(super) async fn skip(
    State(rest): State<Rest>,
    Path((id, reference)): Path<(String, String)>,
    request: Request<Body>,
) -> Answer {
    let wanted: Option<Skip> = rest.json(request, 2 * bounds::RUN_INPUT_BYTES + ENVELOPE_BYTES).await?;
    let output = wanted.and_then(|wanted| wanted.task_output);
    let output = output.map(|output| Value::Object(output).to_string()).unwrap_or_default();
    let told = rest.flows.on_skip(v1::SkipRequest { id, reference, output }).await?;
    Ok(answer::ignored(answer::done(), &told.ignored))
}
