//! Runs: started, read, listed.

use super::answer::{self, Answer, Refusal};
use super::query::Query;
use super::show::{self, OfRun};
use super::{ENVELOPE_BYTES, Rest};
use crate::edge::error::Error;
use crate::edge::workflow::run_id;
use crate::machine::PayloadHandle;
use crate::store::RunFilter;
use axum::body::Body;
use axum::extract::{Path, State};
use http::Request;
use proto::store::RunRow;
use proto::v1::RunStatus;
use proto::{bounds, v1};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::timeout;

/// Bytes of a start: a definition of its own and an input.
const START_BYTES: usize = bounds::DEFINITION_BYTES + bounds::RUN_INPUT_BYTES + ENVELOPE_BYTES;
/// Tasks shown with their run; the others are read by `/tasks`, page by page. With as many, inputs and outputs of all pages are some
/// forty megabytes, which is what one caller may make the informer hold.
const TASKS: usize = 10_000;
/// Tasks read at once.
const TASKS_PAGE: u32 = 500;
/// Runs in a list of ids.
const IDS: usize = 10_000;
/// Runs in a list with what they hold.
const RUNS: usize = 100;
/// Time that an execution waits unless it says otherwise, seconds; Conductor's.
const EXECUTE_SECONDS: u64 = 10;

/// `StartWorkflowRequest`; `labels` are ours.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Start {
    name: Option<String>,
    version: Option<u32>,
    correlation_id: Option<String>,
    input: Option<Map<String, Value>>,
    task_to_domain: Option<Map<String, Value>>,
    workflow_def: Option<Value>,
    external_input_payload_storage_path: Option<String>,
    priority: Option<i32>,
    created_by: Option<String>,
    idempotency_key: Option<String>,
    idempotency_strategy: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

impl Start {
    fn request(self) -> Result<v1::StartRunRequest, Refusal> {
        if self.task_to_domain.is_some_and(|domains| !domains.is_empty()) {
            return Err(Refusal::not_served("taskToDomain is not served: name the tasks of other workers otherwise"));
        }
        if self.external_input_payload_storage_path.is_some_and(|path| !path.is_empty()) {
            return Err(Refusal::not_served("there is no external storage: pass the path in the input"));
        }
        let on_known_key = match self.idempotency_strategy.as_deref() {
            None | Some("" | "RETURN_EXISTING") => v1::KnownKey::Return,
            Some("FAIL") => v1::KnownKey::Fail,
            Some(other) => {
                let told = format!("the idempotency strategy {other:?} is not served: use RETURN_EXISTING or FAIL");
                return Err(Refusal::not_served(told));
            }
        };
        let definition = self.workflow_def.filter(|definition| !definition.is_null());
        Ok(v1::StartRunRequest {
            name: self.name.unwrap_or_default(),
            version: self.version.unwrap_or(0),
            input: self.input.map(|input| Value::Object(input).to_string()).unwrap_or_default(),
            key: self.idempotency_key.unwrap_or_default(),
            correlation: self.correlation_id.unwrap_or_default(),
            owner: self.created_by.unwrap_or_default(),
            labels: self.labels.unwrap_or_default(),
            priority: self.priority.unwrap_or(0),
            definition: definition.map(|definition| definition.to_string()).unwrap_or_default(),
            on_known_key: on_known_key.into(),
        })
    }
}

pub(super) async fn start(State(rest): State<Rest>, request: Request<Body>) -> Answer {
    let start: Start = rest.object(request, START_BYTES).await?;
    Ok(answer::text(rest.flows.on_start(start.request()?).await?.id))
}

pub(super) async fn start_named(
    State(rest): State<Rest>,
    Path(name): Path<String>,
    query: Query,
    request: Request<Body>,
) -> Answer {
    let input: Option<Map<String, Value>> = rest.json(request, bounds::RUN_INPUT_BYTES).await?;
    let start = Start {
        name: Some(name),
        version: query.get("version")?,
        correlation_id: query.text("correlationId").map(str::to_owned),
        priority: query.get("priority")?,
        input,
        ..Start::default()
    };
    Ok(answer::text(rest.flows.on_start(start.request()?).await?.id))
}

/// Starts a run and waits for its end, but not for longer than was said: then it is shown as it stands.
pub(super) async fn execute(
    State(rest): State<Rest>,
    Path((name, version)): Path<(String, String)>,
    query: Query,
    request: Request<Body>,
) -> Answer {
    for unserved in ["waitUntilTaskRef", "returnStrategy", "consistency"] {
        // The client in Python writes its own word for nothing.
        if query.text(unserved).is_some_and(|given| given != "None") {
            return Err(Refusal::not_served(format!(
                "{unserved} is not served: leave it out, and read the run's tasks"
            )));
        }
    }
    let mut start: Start = rest.object(request, START_BYTES).await?;
    start.name = Some(name);
    // Conductor's clients write 0 or null for the latest.
    start.version = version.parse().ok().or(start.version);
    // The same request sent twice is one run.
    let asked = query.text("requestId").unwrap_or_default().to_owned();
    start.idempotency_key = start.idempotency_key.or_else(|| Some(asked.clone()));
    let wait = query.get("waitForSeconds")?.unwrap_or(EXECUTE_SECONDS);
    let wait = Duration::from_secs(wait).min(Duration::from_millis(bounds::POLL_WAIT_MS));
    let id = rest.flows.on_start(start.request()?).await?.id;
    if let Ok(over) = timeout(wait, rest.flows.on_wait(v1::GetRunRequest { id: id.clone() })).await {
        over?;
    }
    let mut shown = rest.shown(&id, true).await?;
    shown["requestId"] = json!(asked);
    Ok(answer::json(&shown))
}

pub(super) async fn get(State(rest): State<Rest>, Path(id): Path<String>, query: Query) -> Answer {
    let tasks = query.flag("includeTasks", true)?;
    Ok(answer::json(&rest.shown(&id, tasks).await?))
}

/// `WorkflowStatus`.
pub(super) async fn status(State(rest): State<Rest>, Path(id): Path<String>, query: Query) -> Answer {
    let run = rest.flows.on_get(v1::GetRunRequest { id }).await?;
    let all = show::run(&run);
    let mut shown = json!({"workflowId": run.id, "correlationId": run.correlation, "status": all["status"]});
    for (flag, field) in [("includeOutput", "output"), ("includeVariables", "variables")] {
        if query.flag(flag, false)? {
            shown[field] = all.get(field).cloned().unwrap_or_else(|| json!({}));
        }
    }
    Ok(answer::json(&shown))
}

/// `TaskListSearchResultSummary`: a page of a run's tasks.
pub(super) async fn tasks(State(rest): State<Rest>, Path(id): Path<String>, query: Query) -> Answer {
    let start: u32 = query.get("start")?.unwrap_or(0);
    let page_size = query.get("count")?.unwrap_or(15);
    let run = rest.flows.on_get(v1::GetRunRequest { id: id.clone() }).await?;
    let request = v1::RunTasksRequest { id: id.clone(), page_size, page_token: start.to_string(), bare: false };
    let page = rest.flows.on_tasks(request).await?;
    let wanted: Vec<&str> = query.all("status").collect();
    let tasks = page.tasks.iter().filter(|task| wanted.is_empty() || wanted.contains(&task.status.as_str()));
    let shown: Vec<Value> = tasks.map(|task| show::task(&OfRun::from(&run), task)).collect();
    let row = rest.flows.row(&run_id(&id)?).await?;
    let total = crate::edge::workflow::show::own(&row).map_or(0, |own| own.next_step as usize);
    Ok(answer::json(&show::found(total, shown)))
}

/// Ids of what goes on of a workflow.
pub(super) async fn running(State(rest): State<Rest>, Path(name): Path<String>, query: Query) -> Answer {
    let filter = RunFilter {
        statuses: vec![RunStatus::Running, RunStatus::Paused],
        name: Some(name),
        version: query.get("version")?,
        started_after_unix_ms: query.get("startTime")?,
        started_before_unix_ms: query.get("endTime")?,
        ..RunFilter::default()
    };
    let (rows, _) = rest.found(filter, IDS).await?;
    Ok(answer::json(&rows.iter().map(|row| json!(row.id)).collect()))
}

/// Runs of a workflow with a correlation id.
pub(super) async fn correlated(
    State(rest): State<Rest>,
    Path((name, correlation)): Path<(String, String)>,
    query: Query,
) -> Answer {
    let (closed, tasks) = (query.flag("includeClosed", false)?, query.flag("includeTasks", false)?);
    let statuses = if closed { Vec::new() } else { vec![RunStatus::Running, RunStatus::Paused] };
    let filter = RunFilter { statuses, name: Some(name), correlation: Some(correlation), ..RunFilter::default() };
    let (rows, more) = rest.found(filter, RUNS).await?;
    if more || (tasks && rows.len() > 1) {
        let told = if more { format!("there are more than {RUNS}") } else { "tasks are shown of one run".to_owned() };
        return Err(Refusal::invalid(format!("{told}; list them by /api/workflow/search, and read each by its id")));
    }
    let mut shown = Vec::new();
    for row in rows {
        shown.push(rest.shown(&row.id, tasks).await?);
    }
    Ok(answer::json(&Value::Array(shown)))
}

impl Rest {
    /// A run in Conductor's JSON, with the definition that it goes by.
    pub(super) async fn shown(&self, id: &str, tasks: bool) -> Result<Value, Refusal> {
        let run = self.flows.on_get(v1::GetRunRequest { id: id.to_owned() }).await?;
        let mut shown = show::run(&run);
        let row = self.flows.row(&run_id(id)?).await?;
        if let Ok(definition) = PayloadHandle::try_from(row.definition.as_slice()) {
            let found = self.edge.handle.bodies(vec![definition]).await?;
            shown["workflowDefinition"] = show::body(found.get(&definition));
        }
        let mut list = Vec::new();
        if tasks {
            let more = self.list_tasks(&run, &mut list).await?;
            if more {
                shown["moreTasks"] = json!(true);
            }
        }
        shown["tasks"] = Value::Array(list);
        Ok(shown)
    }

    /// Adds a run's tasks; says whether there are more.
    async fn list_tasks(&self, run: &v1::Run, list: &mut Vec<Value>) -> Result<bool, Error> {
        let mut page_token = String::new();
        loop {
            let request = v1::RunTasksRequest { id: run.id.clone(), page_size: TASKS_PAGE, page_token, bare: false };
            let page = self.flows.on_tasks(request).await?;
            list.extend(page.tasks.iter().map(|task| show::task(&OfRun::from(run), task)));
            page_token = page.next_page_token;
            if page_token.is_empty() || list.len() >= TASKS {
                return Ok(!page_token.is_empty());
            }
        }
    }

    /// The newest runs that a filter takes, at most so many; says whether there are more.
    pub(super) async fn found(&self, mut filter: RunFilter, most: usize) -> Result<(Vec<RunRow>, bool), Error> {
        let mut rows = Vec::new();
        filter.page_size = bounds::PAGE;
        loop {
            let page = self.edge.handle.runs(filter.clone()).await?;
            rows.extend(page.rows);
            if rows.len() > most {
                rows.truncate(most);
                return Ok((rows, true));
            }
            if page.next.is_none() {
                return Ok((rows, false));
            }
            filter.before = page.next;
        }
    }
}
