//! A client's task: every bound, every contradiction, then the defaults.
//!
//! What comes out is normalised: two specs that mean the same are equal, have equal bytes and therefore one payload and one
//! answer under one idempotency key. Checking a checked spec changes nothing.

use super::{Fault, Faults, Kind, files, kind, shown};
use crate::v1::{self, OnDisconnect, task_spec};
use crate::{bounds, store};
use prost::Message as _;
use std::collections::BTreeMap;

/// Owner of a task that names none.
const OWNER: &str = "anonymous";
/// SIGTERM: the stop signal of a task that names none.
const SIGTERM: i32 = 15;
/// The highest signal number of Linux (SIGRTMAX).
const SIGNAL: i32 = 64;
/// Most processes a limit may name: the kernel's own `PID_MAX_LIMIT`.
const PIDS: u64 = 4 << 20;
/// Latest start time: the end of the year 9999, Unix milliseconds. Beyond it dates have no agreed spelling.
const START_UNIX_MS: u64 = 253_402_300_799_999;

/// What a type's name follows where kinds are named: in facts, lists and hellos.
pub const TYPE: &str = "type:";

/// A task that passed.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// The normalised spec; its encoding is the payload and at most [`bounds::PAYLOAD_BYTES`] long.
    pub spec: v1::TaskSpec,
    /// What decisions need of it.
    pub facts: store::Facts,
    /// Which kind of work it is.
    pub kind: Kind,
}

/// Checks a task and fills in its defaults.
///
/// # Errors
/// All that is wrong with it, bounded by [`super::FAULTS`].
pub fn spec(mut spec: v1::TaskSpec) -> Result<Checked, Faults> {
    let mut faults = Faults::default();
    let kind = kind::check(spec.kind.as_mut(), &mut faults);
    who(&mut spec, kind.as_ref().map(|(_, name)| name.as_str()), &mut faults);
    resources(&mut spec, &mut faults);
    retry(spec.retry.get_or_insert_default(), &mut faults);
    let kind = kind.map(|(kind, _)| kind);
    timeouts(&mut spec, kind, &mut faults);
    disconnect(&mut spec, &mut faults);
    stop(spec.stop.get_or_insert_default(), &mut faults);
    surroundings(&mut spec, &mut faults);
    files::check(&mut spec, kind, &mut faults);
    let bytes = spec.encoded_len();
    if bytes > bounds::PAYLOAD_BYTES {
        let remedy = format!("use at most {}; put large inputs into files", bounds::PAYLOAD_BYTES);
        faults.add("spec", format!("{bytes} bytes encoded are over the bound"), remedy);
    }
    faults.into_result()?;
    let kind = kind.expect("a spec without a kind has a fault");
    Ok(Checked { facts: facts(&spec, kind), spec, kind })
}

/// An idempotency key; empty means none.
///
/// # Errors
/// A key that is too long or not printable.
pub fn key(key: String) -> Result<Option<String>, Faults> {
    let mut faults = Faults::default();
    faults.text("key", &key);
    faults.into_result()?;
    Ok((!key.is_empty()).then_some(key))
}

/// A client's reason for a cancel: one line of at most [`bounds::NAME_BYTES`]; may be empty.
///
/// # Errors
/// A reason that is too long or not printable.
pub fn reason(reason: String) -> Result<String, Faults> {
    let mut faults = Faults::default();
    faults.text("reason", &reason);
    faults.into_result()?;
    Ok(reason)
}

/// Labels that a list filters by.
///
/// # Errors
/// Keys or values that no task can have.
pub fn label_filter(labels: &BTreeMap<String, String>) -> Result<(), Faults> {
    let mut faults = Faults::default();
    faults.labels("labels", labels);
    faults.into_result()
}

/// The size of a page: 0 asks for the default.
///
/// # Errors
/// More than [`bounds::PAGE`].
pub fn page_size(size: u32) -> Result<u32, Fault> {
    match size {
        0 => Ok(bounds::PAGE_DEFAULT),
        1..=bounds::PAGE => Ok(size),
        _ => Err(Fault {
            field: "page_size".to_owned(),
            problem: format!("{size} is over the bound"),
            remedy: format!("use at most {} and follow the page token", bounds::PAGE),
        }),
    }
}

fn who(spec: &mut v1::TaskSpec, default_name: Option<&str>, faults: &mut Faults) {
    if spec.name.is_empty() {
        default_name.unwrap_or_default().clone_into(&mut spec.name);
    }
    if spec.owner.is_empty() {
        OWNER.clone_into(&mut spec.owner);
    }
    faults.text("name", &spec.name);
    faults.text("owner", &spec.owner);
    faults.labels("labels", &spec.labels);
    faults.labels("require", &spec.require);
}

fn resources(spec: &mut v1::TaskSpec, faults: &mut Faults) {
    let resources = spec.resources.get_or_insert_default();
    if resources.cpu_millis == 0 {
        resources.cpu_millis = bounds::CPU_DEFAULT_MILLIS;
    }
    faults.at_most("resources.cpu_millis", resources.cpu_millis, bounds::CPU_MILLIS);
    faults.at_most("resources.memory_bytes", resources.memory_bytes, bounds::MEMORY_BYTES);
    if !(-bounds::PRIORITY..=bounds::PRIORITY).contains(&spec.priority) {
        let remedy = format!("use {} to {}", -bounds::PRIORITY, bounds::PRIORITY);
        faults.add("priority", format!("{} is out of range", spec.priority), remedy);
    }
    if let Some(limits) = spec.limits {
        faults.at_most("limits.cpu_millis", limits.cpu_millis, bounds::CPU_MILLIS);
        faults.at_most("limits.memory_bytes", limits.memory_bytes, bounds::MEMORY_BYTES);
        if (1..bounds::MEMORY_LIMIT_LEAST_BYTES).contains(&limits.memory_bytes) {
            let problem = format!("{} bytes are less than any process needs", limits.memory_bytes);
            let remedy = format!("use {} (1 MiB) at least, or leave it out", bounds::MEMORY_LIMIT_LEAST_BYTES);
            faults.add("limits.memory_bytes", problem, remedy);
        }
        faults.at_most("limits.pids", limits.pids, PIDS);
    }
    spec.limits = spec.limits.filter(|limits| *limits != v1::Limits::default());
}

fn retry(retry: &mut v1::Retry, faults: &mut Faults) {
    if retry.max_attempts == 0 {
        retry.max_attempts = bounds::MAX_ATTEMPTS_DEFAULT;
    }
    if retry.no_infrastructure_retry {
        if retry.max_infrastructure > 0 {
            let problem = format!("{} contradicts no_infrastructure_retry", retry.max_infrastructure);
            faults.add("retry.max_infrastructure", problem, "leave one of the two out");
        }
    } else if retry.max_infrastructure == 0 {
        retry.max_infrastructure = bounds::MAX_INFRASTRUCTURE_DEFAULT;
    }
    faults.at_most("retry.max_attempts", retry.max_attempts.into(), bounds::ATTEMPTS.into());
    faults.at_most("retry.max_infrastructure", retry.max_infrastructure.into(), bounds::ATTEMPTS.into());
    kind::backoff(
        "retry",
        (&mut retry.backoff_ms, bounds::BACKOFF_MS),
        (&mut retry.backoff_cap_ms, bounds::BACKOFF_CAP_MS),
        faults,
    );
    codes("retry.final_codes", &mut retry.final_codes, faults);
    codes("retry.retriable_codes", &mut retry.retriable_codes, faults);
    if let Some(code) = retry.final_codes.iter().find(|code| retry.retriable_codes.contains(code)) {
        faults.add("retry.final_codes", format!("{code} is retriable too"), "list each code once");
    }
}

fn codes(field: &str, codes: &mut Vec<u32>, faults: &mut Faults) {
    faults.count(field, codes.len(), bounds::CODES);
    codes.truncate(bounds::CODES);
    codes.sort_unstable();
    codes.dedup();
    if let Some(code) = codes.iter().find(|code| **code > 255) {
        faults.add(field, format!("{code} is no exit code"), "use 0 to 255");
    }
}

fn timeouts(spec: &mut v1::TaskSpec, kind: Option<Kind>, faults: &mut Faults) {
    let timeouts = spec.timeouts.unwrap_or_default();
    for (field, ms) in [
        ("timeouts.queue_ms", timeouts.queue_ms),
        ("timeouts.attempt_ms", timeouts.attempt_ms),
        ("timeouts.total_ms", timeouts.total_ms),
        ("timeouts.progress_ms", timeouts.progress_ms),
    ] {
        faults.duration(field, ms);
        if kind == Some(Kind::Service) && ms > 0 {
            let remedy = "leave it out: a service runs until it is cancelled; use its health check and restart policy";
            faults.add(field, "a service has no timeouts", remedy);
        }
    }
    spec.timeouts = spec.timeouts.filter(|timeouts| *timeouts != v1::Timeouts::default());
}

fn disconnect(spec: &mut v1::TaskSpec, faults: &mut Faults) {
    faults.duration("replace_after_ms", spec.replace_after_ms);
    match OnDisconnect::try_from(spec.on_disconnect) {
        Ok(OnDisconnect::Unspecified) => {
            let default = if spec.exclusive { OnDisconnect::Stop } else { OnDisconnect::Continue };
            spec.on_disconnect = default.into();
        }
        Ok(OnDisconnect::Continue) if spec.exclusive => {
            let problem = "CONTINUE lets copies overlap, which exclusive forbids";
            faults.add("on_disconnect", problem, "use STOP, or leave exclusive out");
        }
        Ok(OnDisconnect::Continue | OnDisconnect::Stop) => {}
        Err(_) => {
            let problem = format!("{} is none of its values", spec.on_disconnect);
            faults.add("on_disconnect", problem, "use CONTINUE or STOP");
        }
    }
    if spec.replace_after_ms > 0 && spec.on_disconnect == i32::from(OnDisconnect::Stop) {
        let remedy = "leave it out, or use on_disconnect CONTINUE without exclusive";
        faults.add(
            "replace_after_ms",
            "a task that stops is replaced when its lease ended, never earlier or later",
            remedy,
        );
    }
}

fn stop(stop: &mut v1::Stop, faults: &mut Faults) {
    if stop.signal == 0 {
        stop.signal = SIGTERM;
    }
    if stop.grace_ms == 0 {
        stop.grace_ms = bounds::STOP_GRACE_MS;
    }
    if !(1..=SIGNAL).contains(&stop.signal) {
        faults.add(
            "stop.signal",
            format!("{} is no signal", stop.signal),
            format!("use 1 to {SIGNAL}, like 15 (SIGTERM)"),
        );
    }
    faults.duration("stop.grace_ms", stop.grace_ms);
}

/// Environment, directory, start time, logs.
fn surroundings(spec: &mut v1::TaskSpec, faults: &mut Faults) {
    faults.count("env", spec.env.len(), bounds::ENV_VARS);
    for (name, value) in spec.env.iter().take(bounds::ENV_VARS) {
        let field = format!("env[{}]", shown(name));
        if name.is_empty() || name.len() > bounds::NAME_BYTES || name.contains(['=', '\0']) {
            let remedy = format!("use 1 to {} bytes without = and NUL", bounds::NAME_BYTES);
            faults.add(field.as_str(), "this is no name of a variable", remedy);
        }
        if value.contains('\0') {
            faults.add(field, "its value contains a NUL byte", "leave it out: the kernel ends the text there");
        }
    }
    if !spec.cwd.is_empty() {
        faults.absolute("cwd", &spec.cwd);
    }
    if spec.start_after_unix_ms > START_UNIX_MS {
        let remedy = "use milliseconds since 1970, before the year 10000";
        faults.add("start_after_unix_ms", format!("{} is no date", spec.start_after_unix_ms), remedy);
    }
    faults.duration("start_after_ms", spec.start_after_ms);
    if spec.start_after_ms > 0 && spec.start_after_unix_ms > 0 {
        faults.add("start_after_ms", "start_after_unix_ms is given too", "keep one of them");
    }
    if spec.log_cap_bytes == 0 {
        spec.log_cap_bytes = bounds::LOG_CAP_DEFAULT_BYTES;
    }
    faults.at_most("log_cap_bytes", spec.log_cap_bytes, bounds::LOG_CAP_BYTES);
}

fn facts(spec: &v1::TaskSpec, kind: Kind) -> store::Facts {
    let resources = spec.resources.unwrap_or_default();
    let restart = match &spec.kind {
        Some(task_spec::Kind::Service(service)) => service.restart,
        _ => None,
    };
    store::Facts {
        name: spec.name.clone(),
        owner: spec.owner.clone(),
        labels: spec.labels.clone(),
        require: spec.require.clone(),
        cpu_millis: resources.cpu_millis,
        memory_bytes: resources.memory_bytes,
        priority: spec.priority,
        retry: spec.retry.clone(),
        timeouts: spec.timeouts,
        stop_on_disconnect: spec.on_disconnect == i32::from(OnDisconnect::Stop),
        exclusive: spec.exclusive,
        accept_weak_fencing: spec.accept_weak_fencing,
        replace_after_ms: spec.replace_after_ms,
        kind: match &spec.kind {
            Some(task_spec::Kind::Typed(typed)) => format!("{TYPE}{}", typed.r#type),
            _ => kind.as_str().to_owned(),
        },
        restart,
    }
}
