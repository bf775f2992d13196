//! Runs and tasks in Conductor's JSON.

use crate::machine::PolledWork;
use bytes::Bytes;
use proto::v1;
use serde_json::{Map, Value, json};

/// JSON of the informer's; what was left out is null.
pub(super) fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(Value::Null)
}

/// The same of stored bytes; none: {}.
pub(super) fn body(bytes: Option<&Bytes>) -> Value {
    bytes.map_or_else(|| json!({}), |bytes| serde_json::from_slice(bytes).unwrap_or(Value::Null))
}

/// Conductor's word of a status.
pub(super) fn status(status: v1::RunStatus) -> &'static str {
    status.as_str_name().trim_start_matches("RUN_STATUS_")
}

/// Conductor leaves out what is not there.
fn trimmed(mut object: Value) -> Value {
    if let Value::Object(object) = &mut object {
        object.retain(|_, value| !value.is_null() && *value != Value::String(String::new()));
    }
    object
}

/// `Workflow`.
pub(super) fn run(run: &v1::Run) -> Value {
    let failed: Vec<&String> = Some(&run.failed_task).into_iter().filter(|task| !task.is_empty()).collect();
    let end = (run.ended_unix_ms > 0).then_some(run.ended_unix_ms);
    trimmed(json!({
        "workflowId": run.id,
        "workflowName": run.name,
        "workflowVersion": run.version,
        "status": status(run.status()),
        "correlationId": run.correlation,
        "parentWorkflowId": run.parent,
        "parentWorkflowTaskId": run.parent_task,
        "input": parsed(&run.input),
        "output": parsed(&run.output),
        "variables": parsed(&run.variables),
        "reasonForIncompletion": run.reason,
        "failedReferenceTaskNames": failed,
        "createdBy": run.owner,
        "ownerApp": run.owner,
        "priority": run.priority,
        "idempotencyKey": run.key,
        "taskToDomain": {},
        "labels": run.labels,
        "createTime": run.started_unix_ms,
        "startTime": run.started_unix_ms,
        "updateTime": end.unwrap_or(run.started_unix_ms),
        "endTime": end.unwrap_or(0),
        "omitted": run.omitted.then_some(true),
    }))
}

/// `WorkflowSummary`. Inputs and outputs are not in lists.
pub(super) fn summary(run: &v1::Run) -> Value {
    let end = (run.ended_unix_ms > 0).then_some(run.ended_unix_ms);
    trimmed(json!({
        "workflowId": run.id,
        "workflowType": run.name,
        "version": run.version,
        "correlationId": run.correlation,
        "status": status(run.status()),
        "startTime": date(run.started_unix_ms),
        "updateTime": date(end.unwrap_or(run.started_unix_ms)),
        "endTime": end.map(date),
        "executionTime": end.map_or(0, |end| end.saturating_sub(run.started_unix_ms)),
        "reasonForIncompletion": run.reason,
        "priority": run.priority,
        "createdBy": run.owner,
        "failedTaskNames": [],
        "labels": run.labels,
    }))
}

/// As `2026-11-21T19:00:00.000Z`.
fn date(unix_ms: u64) -> String {
    let at = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map(|at| format!("{at:.3}")).unwrap_or_default()
}

/// Conductor's `taskType`: of a worker's task its name.
fn task_type(kind: &str, name: &str) -> String {
    match kind {
        "SIMPLE" => name.to_owned(),
        "FORK_JOIN" | "FORK_JOIN_DYNAMIC" => "FORK".to_owned(),
        kind => kind.to_owned(),
    }
}

/// What a task tells of its run.
pub(super) struct OfRun<'r> {
    pub id: &'r str,
    pub name: &'r str,
    pub correlation: &'r str,
    pub priority: i32,
}

impl<'r> From<&'r v1::Run> for OfRun<'r> {
    fn from(run: &'r v1::Run) -> Self {
        Self { id: &run.id, name: &run.name, correlation: &run.correlation, priority: run.priority }
    }
}

/// `Task`.
pub(super) fn task(run: &OfRun<'_>, task: &v1::RunTask) -> Value {
    let seq = task.id.rsplit_once('.').and_then(|(_, step)| step.parse::<u64>().ok()).map(|step| step + 1);
    let waited = task.started_unix_ms.saturating_sub(task.scheduled_unix_ms);
    let changed = task.ended_unix_ms.max(task.started_unix_ms).max(task.scheduled_unix_ms);
    trimmed(json!({
        "taskId": task.id,
        "taskType": task_type(&task.r#type, &task.name),
        "taskDefName": task.name,
        "referenceTaskName": task.reference,
        "status": task.status,
        "inputData": parsed(&task.input),
        "outputData": parsed(&task.output),
        "reasonForIncompletion": task.reason,
        "retryCount": task.retry_count,
        "retriedTaskId": task.retried_from,
        "seq": seq,
        "pollCount": u32::from(!task.worker.is_empty()),
        "scheduledTime": task.scheduled_unix_ms,
        "startTime": task.started_unix_ms,
        "endTime": task.ended_unix_ms,
        "updateTime": changed,
        "queueWaitTime": waited,
        "executed": task.ended_unix_ms > 0,
        "callbackFromWorker": true,
        "workflowInstanceId": run.id,
        "workflowType": run.name,
        "correlationId": run.correlation,
        "workflowPriority": run.priority,
        "workerId": task.worker,
        "subWorkflowId": task.child,
        "iteration": task.iteration,
        "loopOverTask": task.iteration > 0 && task.r#type != "DO_WHILE",
        "workflowTask": workflow_task(&task.name, &task.reference, &task.r#type),
        "omitted": task.omitted.then_some(true),
    }))
}

fn workflow_task(name: &str, reference: &str, kind: &str) -> Value {
    json!({"name": name, "taskReferenceName": reference, "type": kind})
}

/// `TaskSummary`.
pub(super) fn task_summary(run: &OfRun<'_>, task: &v1::RunTask) -> Value {
    trimmed(json!({
        "workflowId": run.id,
        "workflowType": run.name,
        "correlationId": run.correlation,
        "taskId": task.id,
        "taskType": task_type(&task.r#type, &task.name),
        "taskDefName": task.name,
        "taskReferenceName": task.reference,
        "status": task.status,
        "scheduledTime": date(task.scheduled_unix_ms),
        "startTime": date(task.started_unix_ms),
        "endTime": date(task.ended_unix_ms),
        "updateTime": date(task.ended_unix_ms.max(task.started_unix_ms).max(task.scheduled_unix_ms)),
        "reasonForIncompletion": task.reason,
        "executionTime": task.ended_unix_ms.saturating_sub(task.started_unix_ms.min(task.ended_unix_ms)),
        "queueWaitTime": task.started_unix_ms.saturating_sub(task.scheduled_unix_ms),
        "workflowPriority": run.priority,
    }))
}

/// `Task`, as the worker gets it that has just taken it.
pub(super) fn polled(work: &PolledWork, worker: &str, input: Option<&Bytes>, output: Option<&Bytes>) -> Value {
    trimmed(json!({
        "taskId": format!("{}.{}", work.run, work.step),
        "taskType": work.name,
        "taskDefName": work.name,
        "referenceTaskName": work.reference,
        "status": "IN_PROGRESS",
        "inputData": body(input),
        "outputData": body(output),
        "retryCount": work.retry_count,
        "seq": work.step + 1,
        "pollCount": 1,
        "scheduledTime": work.scheduled_unix_ms,
        "startTime": work.started_unix_ms,
        "endTime": 0,
        "updateTime": work.started_unix_ms,
        "queueWaitTime": work.started_unix_ms.saturating_sub(work.scheduled_unix_ms),
        "executed": false,
        "callbackFromWorker": true,
        "callbackAfterSeconds": 0,
        "responseTimeoutSeconds": work.response_ms.div_ceil(1_000),
        "workflowInstanceId": &*work.run,
        "workflowType": work.workflow,
        "correlationId": work.correlation,
        "workerId": worker,
        "workflowTask": workflow_task(&work.name, &work.reference, "SIMPLE"),
    }))
}

/// A page of a search.
pub(super) fn found(total: usize, results: Vec<Value>) -> Value {
    let mut page = Map::new();
    page.insert("totalHits".to_owned(), json!(total));
    page.insert("results".to_owned(), Value::Array(results));
    Value::Object(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_iso_and_types_are_conductors() {
        assert_eq!(date(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(task_type("SIMPLE", "encode"), "encode");
        assert_eq!(task_type("FORK_JOIN_DYNAMIC", "f"), "FORK");
        assert_eq!(status(v1::RunStatus::TimedOut), "TIMED_OUT");
    }

    #[test]
    fn what_is_not_there_is_left_out() {
        let shown = run(&v1::Run { id: "r".to_owned(), ..v1::Run::default() });
        assert_eq!((&shown["workflowId"], shown.get("correlationId"), shown.get("output")), (&json!("r"), None, None));
    }
}
