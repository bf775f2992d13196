//! Work for workers that poll, and what they say of it.
//!
//! A poll waits at the machine for the first task, and whoever leaves meanwhile leaves it for others. A task is named `RUN.STEP`: each
//! try has a name of its own, so that what a worker says too late meets a try that is over.

use super::answer::{self, Answer, Refusal};
use super::query::Query;
use super::show::{self, OfRun};
use super::{ENVELOPE_BYTES, Rest};
use crate::edge::error::Error;
use crate::edge::workflow::{run_id, show as rows};
use crate::machine::{LOGGED, PolledWork, RunId, WorkUpdate};
use axum::body::Body;
use axum::extract::{Path, State};
use http::{Request, Response, StatusCode};
use proto::{bounds, check, v1};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use workflow::run::StepIx;

/// How long a poll waits unless it says otherwise, ms; Conductor's.
const POLL_MS: u64 = 100;
/// Bytes of inputs and outputs in one poll's answer. What does not fit goes back to its queue; the first always fits.
const POLL_BYTES: usize = 32 << 20;
/// Bytes of one line that a worker logs; the rest is cut. A stack trace has some thousands.
const LOG_BYTES: usize = 64 << 10;
/// Lines in one result.
const LOG_LINES: usize = 100;
/// Bytes of a worker's reason that are kept: they stand in its task, in its run, and in lists of these.
const REASON_BYTES: usize = 1 << 10;
/// Bytes of a result: an output, its reason, and its log.
const RESULT_BYTES: usize = bounds::RUN_INPUT_BYTES + LOG_LINES * LOG_BYTES / 4 + ENVELOPE_BYTES;
/// Lines of a run's history read at once.
const EVENTS: u32 = 1_000;
/// Bytes of a task's log in one answer; the oldest lines are shown.
const LOG_SHOWN_BYTES: usize = 16 << 20;

/// Who polls; Conductor's workers name themselves, by hand nobody does.
fn worker(query: &Query) -> String {
    query.text("workerid").unwrap_or("anonymous").chars().take(bounds::NAME_BYTES / 4).collect()
}

impl Rest {
    /// Tasks of a name, as their worker gets them.
    async fn take(&self, name: String, worker: String, count: u32, wait_ms: u64) -> Result<Vec<Value>, Error> {
        let name = check::key(name)?.unwrap_or_default();
        let poll = self.edge.handle.poll(vec![name], worker.clone(), count, wait_ms);
        let taken = tokio::select! {
            taken = poll => taken?,
            stopped = self.edge.stopped() => return Err(stopped),
        };
        let (mut shown, mut bytes) = (Vec::with_capacity(taken.len()), 0);
        for work in taken {
            let handles = work.input.into_iter().chain(work.output).collect();
            let found = if bytes < POLL_BYTES { Some(self.edge.handle.bodies(handles).await?) } else { None };
            let size: usize = found.iter().flat_map(BTreeMap::values).map(bytes::Bytes::len).sum();
            match found {
                Some(found) if shown.is_empty() || bytes + size <= POLL_BYTES => {
                    bytes += size;
                    let body = |handle: Option<_>| handle.and_then(|handle| found.get(&handle));
                    shown.push(show::polled(&work, &worker, body(work.input), body(work.output)));
                }
                _ => self.give_back(work).await?,
            }
        }
        Ok(shown)
    }

    async fn give_back(&self, work: PolledWork) -> Result<(), Error> {
        let back = |output| WorkUpdate::Yield { after_ms: 0, output };
        self.edge.handle.update_work(work.run, work.step, None, back).await?;
        Ok(())
    }

    /// A task by its id, without its input and output, and its run.
    pub(super) async fn task(&self, id: &str) -> Result<(proto::store::RunRow, v1::RunTask), Refusal> {
        let (run, step) = named(id)?;
        let row = self.flows.row(&run).await?;
        let steps = self.edge.handle.run_steps(&run, step, 1).await?.ok_or_else(|| unknown(id))?;
        let task = rows::tasks(&row, &steps).find(|task| task.id == id).ok_or_else(|| unknown(id))?;
        Ok((row, task))
    }
}

/// `RUN.STEP`; the id of a sub-workflow's run has dots of its own.
fn named(id: &str) -> Result<(RunId, StepIx), Refusal> {
    let (run, step) = id.rsplit_once('.').ok_or_else(|| unknown(id))?;
    let step = step.parse().map_err(|_| unknown(id))?;
    Ok((run_id(run)?, step))
}

fn unknown(id: &str) -> Refusal {
    let id: String = id.chars().take(bounds::NAME_BYTES).collect();
    Refusal::status(StatusCode::NOT_FOUND, format!("no task {id:?}; its id is RUN.STEP, as a poll tells it"))
}

/// Nothing is ever in a domain, so that a worker of one would wait for ever.
fn no_domain(query: &Query) -> Result<(), Refusal> {
    match query.text("domain") {
        None => Ok(()),
        Some(_) => Err(Refusal::not_served("domains are not served: leave `domain` out, and name the tasks otherwise")),
    }
}

pub(super) async fn poll(State(rest): State<Rest>, Path(name): Path<String>, query: Query) -> Answer {
    no_domain(&query)?;
    let wait_ms = query.get("timeout")?.unwrap_or(POLL_MS);
    let mut taken = rest.take(name, worker(&query), 1, wait_ms).await?;
    Ok(taken.pop().map_or_else(answer::nothing, |task| answer::json(&task)))
}

pub(super) async fn poll_batch(State(rest): State<Rest>, Path(name): Path<String>, query: Query) -> Answer {
    no_domain(&query)?;
    let (count, wait_ms) = (query.get("count")?.unwrap_or(1), query.get("timeout")?.unwrap_or(POLL_MS));
    let taken = rest.take(name, worker(&query), count, wait_ms).await?;
    Ok(answer::json(&Value::Array(taken)))
}

/// `TaskResult`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TaskResult {
    task_id: String,
    #[serde(default)]
    workflow_instance_id: Option<String>,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    output_data: Option<Map<String, Value>>,
    #[serde(default)]
    reason_for_incompletion: Option<String>,
    #[serde(default)]
    callback_after_seconds: Option<u64>,
    #[serde(default)]
    worker_id: Option<String>,
    #[serde(default)]
    logs: Option<Vec<LogLine>>,
    #[serde(default)]
    extend_lease: Option<bool>,
}

/// `TaskExecLog`.
#[derive(Debug, Deserialize)]
struct LogLine {
    log: String,
}

impl TaskResult {
    /// What it says, once its output has its name.
    fn update(&self) -> Result<impl FnOnce(Option<workflow::evaluate::Handle>) -> WorkUpdate + use<>, Refusal> {
        let word = self.status.as_deref().unwrap_or("IN_PROGRESS");
        let status = rows::status(word).ok_or_else(|| {
            let told = "use IN_PROGRESS, COMPLETED, FAILED or FAILED_WITH_TERMINAL_ERROR";
            Refusal::invalid(format!("status: {word:?} is none that a worker can give; {told}"))
        })?;
        let reason = self.reason_for_incompletion.as_deref().map(one_line).filter(|reason| !reason.is_empty());
        let after_ms = self.callback_after_seconds.unwrap_or(0).saturating_mul(1_000);
        let extends = self.extend_lease.unwrap_or(false);
        Ok(move |output| match status {
            workflow::run::TaskStatus::InProgress if extends => WorkUpdate::Extend { output },
            workflow::run::TaskStatus::InProgress => WorkUpdate::Yield { after_ms, output },
            status => WorkUpdate::End { status, output, reason },
        })
    }
}

/// A reason as rows, lists and histories have it: one line, whatever an exception says of itself.
fn one_line(reason: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    cut(reason.trim().chars().map(plain).collect(), REASON_BYTES)
}

/// The beginning of a text, at most so many bytes.
fn cut(mut text: String, most: usize) -> String {
    text.truncate(text.floor_char_boundary(most));
    text
}

impl Rest {
    /// Takes a worker's word; gives back why nothing was changed, if so, and the task.
    async fn on_result(&self, result: &TaskResult) -> Result<(&'static str, v1::RunTask), Refusal> {
        let (_, task) = self.task(&result.task_id).await?;
        let (run, step) = named(&result.task_id)?;
        if let Some(named) = result.workflow_instance_id.as_deref().filter(|named| !named.is_empty() && **named != *run)
        {
            let id: String = named.chars().take(bounds::NAME_BYTES).collect();
            return Err(Refusal::invalid(format!("workflowInstanceId: task {} is not of run {id:?}", result.task_id)));
        }
        let update = result.update()?;
        if let Some(lines) = result.logs.as_ref().filter(|lines| !lines.is_empty()) {
            let lines = lines.iter().take(LOG_LINES).map(|line| cut(line.log.clone(), LOG_BYTES)).collect();
            self.edge.handle.log_work(RunId::clone(&run), step, lines).await?;
        }
        let output = result.output_data.as_ref().filter(|output| !output.is_empty()).cloned().map(Value::Object);
        let ignored = self.edge.handle.update_work(run, step, output.as_ref(), update).await?;
        Ok((ignored.unwrap_or_default(), task))
    }
}

pub(super) async fn update(State(rest): State<Rest>, request: Request<Body>) -> Answer {
    let result: TaskResult = rest.object(request, RESULT_BYTES).await?;
    let (ignored, task) = rest.on_result(&result).await?;
    Ok(answer::ignored(answer::text(task.id), ignored))
}

/// The next task of the same name, if there is one soon.
pub(super) async fn update_and_poll(State(rest): State<Rest>, request: Request<Body>) -> Answer {
    let result: TaskResult = rest.object(request, RESULT_BYTES).await?;
    let (ignored, task) = rest.on_result(&result).await?;
    let worker = cut(result.worker_id.unwrap_or_else(|| "anonymous".to_owned()), bounds::NAME_BYTES);
    // What is taken here is the worker's, whatever became of what it said: a stop is no reason to lose the answer.
    let mut next = match rest.take(task.name, worker, 1, POLL_MS).await {
        Ok(next) => next,
        Err(Error::Stopping) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let response = next.pop().map_or_else(answer::nothing, |next| answer::json(&next));
    Ok(answer::ignored(response, ignored))
}

pub(super) async fn get(State(rest): State<Rest>, Path(id): Path<String>) -> Answer {
    let (row, task) = rest.task(&id).await?;
    let step = named(&id)?.1;
    let request = v1::RunTasksRequest { id: row.id.clone(), page_size: 1, page_token: step.to_string(), bare: false };
    let whole = rest.flows.on_tasks(request).await?.tasks.into_iter().find(|whole| whole.id == id);
    let run = crate::edge::workflow::show::run(&row);
    Ok(answer::json(&show::task(&OfRun::from(&run), &whole.unwrap_or(task))))
}

impl Rest {
    /// Says what becomes of a task by its name; answers with its id.
    async fn on_signal(
        &self,
        (id, reference, status): (String, String, String),
        request: Request<Body>,
    ) -> Result<(String, String), Refusal> {
        let output: Option<Map<String, Value>> = self.json(request, bounds::RUN_INPUT_BYTES).await?;
        let output = output.map(|output| Value::Object(output).to_string()).unwrap_or_default();
        let request = v1::UpdateTaskRequest {
            id: id.clone(),
            reference: reference.clone(),
            status,
            output,
            reason: String::new(),
        };
        let told = self.flows.on_update_task(request).await?;
        Ok((self.latest(&id, &reference).await?, told.ignored))
    }

    /// The id of the latest try of a task: what was named last is looked for first.
    async fn latest(&self, id: &str, reference: &str) -> Result<String, Refusal> {
        let run = run_id(id)?;
        let row = self.flows.row(&run).await?;
        let mut end = rows::own(&row).map_or(0, |own| own.next_step);
        while end > 0 {
            let from = end.saturating_sub(EVENTS);
            let steps = self.edge.handle.run_steps(&run, from, (end - from) as usize).await?;
            let Some(steps) = steps else { break };
            if let Some(task) = rows::tasks(&row, &steps).filter(|task| task.reference == reference).last() {
                return Ok(task.id);
            }
            end = from;
        }
        Err(unknown(reference))
    }
}

pub(super) async fn signal(
    State(rest): State<Rest>,
    Path(named): Path<(String, String, String)>,
    request: Request<Body>,
) -> Answer {
    let (id, ignored) = rest.on_signal(named, request).await?;
    Ok(answer::ignored(answer::text(id), &ignored))
}

pub(super) async fn signal_and_show(
    State(rest): State<Rest>,
    Path(named): Path<(String, String, String)>,
    request: Request<Body>,
) -> Answer {
    let run = named.0.clone();
    let (_, ignored) = rest.on_signal(named, request).await?;
    Ok(answer::ignored(answer::json(&rest.shown(&run, true).await?), &ignored))
}

/// A line of a task's log. Some clients send it as it is, others as a JSON text.
pub(super) async fn log(State(rest): State<Rest>, Path(id): Path<String>, request: Request<Body>) -> Answer {
    let line = rest.read(request, LOG_BYTES + ENVELOPE_BYTES).await?;
    let line = serde_json::from_str::<String>(&line).unwrap_or(line);
    rest.task(&id).await?;
    let (run, step) = named(&id)?;
    let ignored = rest.edge.handle.log_work(run, step, vec![cut(line, LOG_BYTES)]).await?;
    Ok(answer::ignored(answer::done(), ignored.unwrap_or_default()))
}

pub(super) async fn logs(State(rest): State<Rest>, Path(id): Path<String>) -> Answer {
    rest.task(&id).await?;
    let (run, step) = named(&id)?;
    let wanted = step.to_string();
    let (mut shown, mut after, mut bytes) = (Vec::new(), 0, 0);
    loop {
        let events = rest.edge.handle.run_events(&run, after, EVENTS).await?;
        let Some(last) = events.last() else { break };
        after = last.seq;
        for event in events.iter().filter(|event| event.kind == LOGGED && event.detail == wanted) {
            let Ok(handle) = event.payload.as_slice().try_into() else { continue };
            let found = rest.edge.handle.bodies(vec![handle]).await?;
            let text = show::body(found.get(&handle));
            bytes += text.as_str().map_or(0, str::len);
            if bytes > LOG_SHOWN_BYTES {
                return Ok(answer::json(&Value::Array(shown)));
            }
            shown.push(json!({"log": text, "taskId": id, "createdTime": event.unix_ms}));
        }
    }
    Ok(answer::json(&Value::Array(shown)))
}

/// How many wait, by name; of the names that are asked for, or all.
pub(super) async fn sizes(State(rest): State<Rest>, query: Query) -> Answer {
    let queued = rest.edge.handle.queued().await?;
    let asked: Vec<&str> = query.all("taskType").flat_map(|names| names.split(',')).collect();
    if asked.is_empty() {
        return Ok(answer::json(&json!(queued)));
    }
    let sizes: BTreeMap<&str, usize> =
        asked.iter().map(|name| (*name, queued.get(*name).copied().unwrap_or(0))).collect();
    Ok(answer::json(&json!(sizes)))
}

pub(super) async fn size(State(rest): State<Rest>, query: Query) -> Result<Response<Body>, Refusal> {
    let queued = rest.edge.handle.queued().await?;
    let name = query.text("taskType").ok_or_else(|| Refusal::invalid("taskType is missing; name a task"))?;
    Ok(answer::json(&json!(queued.get(name).copied().unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(json: Value) -> TaskResult {
        serde_json::from_value(json).expect("a result")
    }

    fn update(json: Value) -> WorkUpdate {
        result(json).update().unwrap_or_else(|_| panic!("it is refused"))(None)
    }

    #[test]
    fn results_mean_what_conductor_means() {
        assert_eq!(
            update(json!({"taskId": "r.1", "status": "IN_PROGRESS", "extendLease": true, "workerId": null})),
            WorkUpdate::Extend { output: None }
        );
        assert_eq!(
            update(json!({"taskId": "r.1", "status": "IN_PROGRESS", "callbackAfterSeconds": 3})),
            WorkUpdate::Yield { after_ms: 3_000, output: None }
        );
        let failed = update(json!({"taskId": "r.1", "status": "FAILED", "reasonForIncompletion": "broken"}));
        let status = workflow::run::TaskStatus::Failed;
        assert_eq!(failed, WorkUpdate::End { status, output: None, reason: Some("broken".to_owned()) });
        assert!(result(json!({"taskId": "r.1", "status": "SKIPPED"})).update().is_err());
    }

    #[test]
    fn a_task_is_named_by_its_run_and_step() {
        let named = |id| named(id).map(|(run, step)| (run.to_string(), step)).ok();
        assert_eq!(named("r.7"), Some(("r".to_owned(), 7)));
        assert_eq!(named("r.3.7"), Some(("r.3".to_owned(), 7)));
        for none in ["", ".", "r", "r.", "r.x", ".7", "r.-1", "r/x.1"] {
            assert_eq!(named(none), None, "{none}");
        }
    }
}
