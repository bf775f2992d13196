//! The documents of `--json`. Keys are part of what users touch: they are added to, never renamed.

use proto::v1::{
    ArrayStatus, Attempt, Ending, Executor, HistoryEvent, LogStream, LogsChunk, Progress, Resources, SetAside, Sidecar,
    Task, TaskState, WhyResponse, executor::Mode,
};
use serde_json::{Value, json};

use super::words;

/// A time that the schema leaves 0 when there is none.
fn time(unix_ms: u64) -> Value {
    if unix_ms == 0 { Value::Null } else { json!(unix_ms) }
}

/// `exit_code`, `signal` and `reason` of an end: null where there is none.
fn end(ending: Option<&Ending>) -> (Value, Value, Value, Value) {
    let Some(ending) = ending else { return (Value::Null, Value::Null, Value::Null, Value::Null) };
    let message = if ending.message.is_empty() { Value::Null } else { json!(ending.message) };
    (json!(ending.exit_code), json!(ending.signal), json!(words::reason(ending.reason())), message)
}

/// A task.
pub(crate) fn task(task: &Task) -> Value {
    let (exit_code, signal, reason, message) = end(task.ending.as_ref());
    json!({
        "id": task.id,
        "name": task.name,
        "state": words::task_state(task.state()),
        "exit_code": exit_code,
        "signal": signal,
        "reason": reason,
        "message": message,
        "attempts": task.attempts.iter().map(attempt).collect::<Vec<_>>(),
        "attempts_dropped": task.attempts_dropped,
        "set_aside": task.set_aside.iter().map(set_aside).collect::<Vec<_>>(),
        "kind": task.kind,
        "owner": task.owner,
        "labels": task.labels,
        "priority": task.priority,
        "cancelling": task.cancelling && !words::is_terminal(task.state()),
        "health": task.progress.as_ref().and_then(|progress| words::health(progress.health())),
        "progress": task.progress.as_ref().map(progress),
        "created_unix_ms": time(task.created_unix_ms),
        "not_before_unix_ms": time(task.not_before_unix_ms),
        "ended_unix_ms": time(task.ended_unix_ms),
        "eta_unix_ms": time(task.eta_unix_ms),
        "array": task.array.as_ref().map(array),
        "item": (!task.item.is_empty()).then_some(&task.item),
        "run": (!task.run.is_empty()).then_some(&task.run),
        "reference": (!task.reference.is_empty()).then_some(&task.reference),
        "parent": (!task.parent.is_empty()).then_some(&task.parent),
        "child_key": (!task.child_key.is_empty()).then_some(&task.child_key),
        "children": task.children.map(|children| json!({
            "emitted": children.emitted, "live": children.live, "succeeded": children.succeeded,
            "failed": children.failed, "cancelled": children.cancelled,
        })),
        "retried_from": (!task.retried_from.is_empty()).then_some(&task.retried_from),
        "result": serde_json::from_slice::<Value>(&task.result).ok(),
    })
}

/// An attempt that nothing is applied of.
fn set_aside(aside: &SetAside) -> Value {
    let state = if aside.over { "ended" } else { "running" };
    json!({"number": aside.number, "sidecar": aside.sidecar, "state": state})
}

fn array(array: &ArrayStatus) -> Value {
    json!({
        "first": array.first,
        "count": array.count,
        "pending": array.pending,
        "running": array.live,
        "succeeded": array.succeeded,
        "failed": array.failed,
        "cancelled": array.cancelled,
        "max_failures": array.limited.then_some(array.max_failures),
        "items": array.items,
    })
}

fn attempt(attempt: &Attempt) -> Value {
    let (exit_code, signal, reason, message) = end(attempt.ending.as_ref());
    json!({
        "number": attempt.number,
        "sidecar": attempt.sidecar,
        "state": words::attempt_state(attempt.state()),
        "exit_code": exit_code,
        "signal": signal,
        "reason": reason,
        "message": message,
        "truncated": attempt.ending.as_ref().is_some_and(|ending| ending.truncated),
        "outputs": attempt.ending.as_ref().map(|ending| {
            ending.outputs.iter()
                .map(|output| json!({"path": output.path, "size_bytes": output.size_bytes, "sha256": output.sha256}))
                .collect::<Vec<_>>()
        }).unwrap_or_default(),
        "assigned_unix_ms": time(attempt.assigned_unix_ms),
        "started_unix_ms": time(attempt.started_unix_ms),
        "ended_unix_ms": time(attempt.ended_unix_ms),
        "expected_ms": (attempt.expected_ms > 0).then_some(attempt.expected_ms),
    })
}

fn progress(progress: &Progress) -> Value {
    json!({
        "percent": f64::from(progress.permille) / 10.0,
        "speed": (progress.speed > 0.0).then_some(progress.speed),
        "eta_ms": (progress.eta_ms > 0).then_some(progress.eta_ms),
        "note": (!progress.note.is_empty()).then_some(&progress.note),
    })
}

/// One event of a task's history.
pub(crate) fn event(event: &HistoryEvent) -> Value {
    json!({
        "seq": event.seq,
        "unix_ms": event.unix_ms,
        "kind": event.kind,
        "attempt": (event.attempt > 0).then_some(event.attempt),
        "detail": event.detail,
    })
}

/// `why`.
pub(crate) fn why(id: &str, why: &WhyResponse) -> Value {
    let state = TaskState::try_from(why.state).unwrap_or_default();
    json!({"id": id, "state": words::task_state(state), "summary": why.summary, "details": why.details})
}

/// A sidecar. The key `id` stands here once and nowhere below, so that a script may count sidecars by it.
pub(crate) fn sidecar(sidecar: &Sidecar) -> Value {
    let load = sidecar.load.unwrap_or_default();
    json!({
        "id": sidecar.id,
        "state": words::sidecar_state(sidecar.state()),
        "drain": words::drain_mode(sidecar.drain()),
        "lack": words::lack(load.lack()),
        "host": sidecar.host,
        "labels": sidecar.labels,
        "slots": sidecar.slots,
        "running": sidecar.running,
        "window": sidecar.window,
        "total": resources(sidecar.total.as_ref()),
        "allocated": resources(sidecar.allocated.as_ref()),
        "set_aside": {
            "count": sidecar.set_aside_count,
            "attempts": sidecar.set_aside_attempts,
            "taken": resources(sidecar.set_aside.as_ref()),
        },
        "load": {
            "cpu_permille": load.cpu_permille,
            "memory_used_bytes": load.memory_used_bytes,
            "memory_total_bytes": load.memory_total_bytes,
            "cpu_pressure_permille": load.cpu_pressure_permille,
            "memory_pressure_permille": load.memory_pressure_permille,
            "io_pressure_permille": load.io_pressure_permille,
            "load1": f64::from(load.load1_centi) / 100.0,
        },
        "speed_permille": sidecar.speed_permille,
        "last_beat_age_ms": sidecar.last_beat_age_ms,
        "fencing": sidecar.fencing,
        "version": sidecar.version,
    })
}

/// A registered executor.
pub(crate) fn executor(executor: &Executor) -> Value {
    let mut value = json!({
        "type": executor.r#type,
        "id": executor.id,
        "description": executor.description,
        "registered_unix_ms": time(executor.registered_unix_ms),
        "mode": Value::Null,
    });
    match &executor.mode {
        None => {}
        Some(Mode::Command(command)) => {
            value["mode"] = json!("command");
            value["argv"] = json!(command.argv);
        }
        Some(Mode::Service(service)) => {
            value["mode"] = json!("service");
            value["url"] = json!(service.url);
            value["poll_ms"] = json!(service.poll_ms);
            value["callback"] = json!(service.callback);
        }
        Some(Mode::Embedded(_)) => value["mode"] = json!("embedded"),
    }
    value
}

fn resources(resources: Option<&Resources>) -> Value {
    let resources = resources.copied().unwrap_or_default();
    json!({"cpu_millis": resources.cpu_millis, "memory_bytes": resources.memory_bytes})
}

/// A piece of a log. `text` where the bytes are UTF-8, else `hex`: a document must not change them.
pub(crate) fn chunk(chunk: &LogsChunk, offset: u64, data: &[u8]) -> Value {
    let stream = if chunk.stream() == LogStream::Err { "stderr" } else { "stdout" };
    let mut value = json!({"attempt": chunk.attempt, "stream": stream, "offset": offset});
    match std::str::from_utf8(data) {
        Ok(text) => value["text"] = json!(text),
        Err(_) => value["hex"] = json!(data.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::{AttemptState, Health, Load, Reason};

    #[test]
    fn a_task_has_the_promised_keys_and_words() {
        let ending = Ending { reason: Reason::ExitCode.into(), exit_code: Some(3), ..Ending::default() };
        let attempt = Attempt {
            number: 1,
            sidecar: "s".into(),
            state: AttemptState::PresumedLost.into(),
            ending: Some(ending.clone()),
            ..Attempt::default()
        };
        let failed = Task {
            id: "i".into(),
            name: "n".into(),
            state: TaskState::Failed.into(),
            ending: Some(ending),
            attempts: vec![attempt],
            ..Task::default()
        };
        let value = task(&failed);
        assert_eq!((&value["id"], &value["name"], &value["state"]), (&json!("i"), &json!("n"), &json!("failed")));
        assert_eq!(
            (&value["exit_code"], &value["signal"], &value["reason"]),
            (&json!(3), &Value::Null, &json!("exit_code"))
        );
        let attempt = &value["attempts"][0];
        assert_eq!((&attempt["number"], &attempt["sidecar"]), (&json!(1), &json!("s")));
        assert_eq!((&attempt["state"], &attempt["exit_code"]), (&json!("presumed_lost"), &json!(3)));
        assert_eq!((&attempt["signal"], &attempt["reason"]), (&Value::Null, &json!("exit_code")));
    }

    #[test]
    fn a_running_service_tells_its_health_and_no_end() {
        let progress = Progress { health: Health::Healthy.into(), permille: 421, ..Progress::default() };
        let value = task(&Task { state: TaskState::Running.into(), progress: Some(progress), ..Task::default() });
        assert_eq!((&value["health"], &value["exit_code"]), (&json!("healthy"), &Value::Null));
        assert_eq!(value["progress"]["percent"], json!(42.1));
        assert_eq!(value["ended_unix_ms"], Value::Null);
    }

    #[test]
    fn an_array_is_counted_and_an_executor_told() {
        let counts = ArrayStatus { count: 3, live: 1, succeeded: 2, limited: true, ..ArrayStatus::default() };
        let value = task(&Task { array: Some(counts), item: "x".into(), ..Task::default() });
        let expected = (&json!(3), &json!(1), &json!(2), &json!(0));
        let told = &value["array"];
        assert_eq!((&told["count"], &told["running"], &told["succeeded"], &told["max_failures"]), expected);
        assert_eq!((&value["item"], &task(&Task::default())["array"]), (&json!("x"), &Value::Null));
        let command = proto::v1::Command { argv: vec!["a".into()] };
        let put = Executor { r#type: "t".into(), mode: Some(Mode::Command(command)), ..Executor::default() };
        let value = executor(&put);
        assert_eq!((&value["type"], &value["mode"], &value["argv"]), (&json!("t"), &json!("command"), &json!(["a"])));
    }

    #[test]
    fn a_sidecar_holds_the_key_id_once() {
        let value = sidecar(&Sidecar { id: "s1".into(), load: Some(Load::default()), ..Sidecar::default() });
        assert_eq!(value.to_string().matches("\"id\"").count(), 1);
    }

    #[test]
    fn log_bytes_that_are_no_text_are_told_in_hex() {
        let part = LogsChunk { attempt: 2, stream: LogStream::Err.into(), ..LogsChunk::default() };
        assert_eq!(chunk(&part, 5, b"ok")["text"], json!("ok"));
        let value = chunk(&part, 5, &[0xff, 0x00]);
        assert_eq!((&value["hex"], &value["stream"], &value["offset"]), (&json!("ff00"), &json!("stderr"), &json!(5)));
    }
}
