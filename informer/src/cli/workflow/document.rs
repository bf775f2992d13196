//! The documents of `--json`, and words. Keys are added to, never renamed.

use proto::v1;
use serde_json::{Value, json};

/// JSON of the informer's; what was left out is null.
pub(super) fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(Value::Null)
}

/// Conductor's word of a status.
pub(super) fn status(status: v1::RunStatus) -> String {
    status.as_str_name().trim_start_matches("RUN_STATUS_").to_owned()
}

/// The status of a word, in any case.
pub(super) fn parse_status(text: &str) -> Result<v1::RunStatus, String> {
    let all = (1..).map_while(|number| v1::RunStatus::try_from(number).ok());
    let words: Vec<String> = all.clone().map(status).collect();
    let found = all.zip(&words).find(|(_, word)| word.eq_ignore_ascii_case(text)).map(|(status, _)| status);
    found.ok_or_else(|| format!("{text:?} is not a status; write one of {}", words.join(", ")))
}

fn time(unix_ms: u64) -> Value {
    if unix_ms == 0 { Value::Null } else { json!(unix_ms) }
}

fn given(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { json!(text) }
}

pub(super) fn definition(definition: &v1::WorkflowDefinition) -> Value {
    json!({
        "name": definition.name,
        "version": definition.version,
        "created_unix_ms": time(definition.created_unix_ms),
        "updated_unix_ms": time(definition.updated_unix_ms),
    })
}

pub(super) fn run(run: &v1::Run) -> Value {
    json!({
        "id": run.id,
        "workflow": run.name,
        "version": run.version,
        "status": status(run.status()),
        "reason": given(&run.reason),
        "failed_task": given(&run.failed_task),
        "owner": run.owner,
        "correlation": given(&run.correlation),
        "labels": run.labels,
        "priority": run.priority,
        "key": given(&run.key),
        "parent": given(&run.parent),
        "parent_task": given(&run.parent_task),
        "started_unix_ms": time(run.started_unix_ms),
        "ended_unix_ms": time(run.ended_unix_ms),
    })
}

/// A run with its bodies.
pub(super) fn whole(run: &v1::Run) -> Value {
    let mut document = self::run(run);
    document["input"] = json(&run.input);
    document["output"] = json(&run.output);
    document["variables"] = json(&run.variables);
    document["omitted"] = json!(run.omitted);
    document
}

pub(super) fn task(task: &v1::RunTask) -> Value {
    json!({
        "id": task.id,
        "reference": task.reference,
        "name": task.name,
        "type": task.r#type,
        "status": task.status,
        "reason": given(&task.reason),
        "retry_count": task.retry_count,
        "retried_from": given(&task.retried_from),
        "iteration": task.iteration,
        "scheduled_unix_ms": time(task.scheduled_unix_ms),
        "started_unix_ms": time(task.started_unix_ms),
        "ended_unix_ms": time(task.ended_unix_ms),
        "due_unix_ms": time(task.due_unix_ms),
        "input": json(&task.input),
        "output": json(&task.output),
        "omitted": task.omitted,
        "child": given(&task.child),
        "task": given(&task.task),
        "worker": given(&task.worker),
    })
}

pub(super) fn event(event: &v1::RunEvent) -> Value {
    json!({
        "seq": event.seq,
        "unix_ms": event.unix_ms,
        "kind": event.kind,
        "detail": event.detail,
        "payload": json(&event.payload),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_conductors_words() {
        assert_eq!(status(v1::RunStatus::TimedOut), "TIMED_OUT");
        assert_eq!(parse_status("timed_out"), Ok(v1::RunStatus::TimedOut));
        assert!(parse_status("unspecified").expect_err("no status").contains("RUNNING, PAUSED"));
    }
}
