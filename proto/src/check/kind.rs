//! What is particular to each kind of work: commands, scripts, services, transcodes, registered types, containers, requests.

use super::{Faults, PRESETS, base_name, preset, shown};
use crate::bounds;
use crate::v1::{self, container::Network, health_check::Probe, restart_policy::When, task_spec};
use std::fmt;

/// Interpreter of a script that names none.
const INTERPRETER: &str = "/bin/sh";
/// Time between two health checks unless the service says otherwise, ms.
const HEALTH_INTERVAL_MS: u64 = 5_000;
/// Time one health check may take unless the service says otherwise, ms.
const HEALTH_TIMEOUT_MS: u64 = 2_000;
/// Consecutive failures until a service is unhealthy, unless it says otherwise.
const HEALTH_FAILURES: u32 = 3;
/// Time in which failures before the first success do not count, unless the service says otherwise, ms.
const HEALTH_START_MS: u64 = 10_000;

/// Which kind of work a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A program with arguments.
    Command,
    /// A script's body and its interpreter.
    Script,
    /// A program that is kept running.
    Service,
    /// An ffmpeg transcode.
    Transcode,
    /// Work of a registered type.
    Typed,
    /// A process in a container.
    Container,
    /// An HTTP request.
    Http,
}

impl Kind {
    /// The kinds that a list names by their word alone; work of a type is named by its type.
    pub const PLAIN: [Self; 6] =
        [Self::Command, Self::Script, Self::Service, Self::Transcode, Self::Container, Self::Http];

    /// Its word on the wire and in lists.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Script => "script",
            Self::Service => "service",
            Self::Transcode => "transcode",
            Self::Typed => "typed",
            Self::Container => "container",
            Self::Http => "http",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Checks the kind and fills its defaults. Answers with the kind and the name that the task has if it names none; `None` if it
/// has no kind.
pub(super) fn check(kind: Option<&mut task_spec::Kind>, faults: &mut Faults) -> Option<(Kind, String)> {
    let (kind, name) = match kind {
        None => {
            let remedy = "give one of command, script, service, transcode, typed, container or http";
            faults.add("kind", "the task says nothing to run", remedy);
            return None;
        }
        Some(task_spec::Kind::Command(command)) => {
            argv("command.argv", &command.argv, faults);
            (Kind::Command, command.argv.first().and_then(|program| base_name(program)))
        }
        Some(task_spec::Kind::Script(wire)) => {
            script(wire, faults);
            (Kind::Script, None)
        }
        Some(task_spec::Kind::Service(wire)) => {
            service(wire, faults);
            (Kind::Service, wire.argv.first().and_then(|program| base_name(program)))
        }
        Some(task_spec::Kind::Transcode(wire)) => {
            transcode(wire, faults);
            (Kind::Transcode, base_name(&wire.output))
        }
        Some(task_spec::Kind::Typed(wire)) => {
            super::executor::type_name("typed.type", &wire.r#type, faults);
            (Kind::Typed, Some(wire.r#type.clone()))
        }
        Some(task_spec::Kind::Container(wire)) => {
            container(wire, faults);
            (Kind::Container, wire.argv.first().and_then(|program| base_name(program)))
        }
        // What its input says is for the sidecar's process to judge: a workflow's request is not known before it leaves.
        Some(task_spec::Kind::Http(_)) => (Kind::Http, None),
    };
    Some((kind, name.unwrap_or_else(|| kind.as_str().to_owned())))
}

pub(super) fn argv(field: &str, argv: &[String], faults: &mut Faults) {
    if argv.first().is_none_or(String::is_empty) {
        faults.add(field, "there is no program", "give the program and its arguments");
    }
    args(field, argv, faults);
}

fn args(field: &str, args: &[String], faults: &mut Faults) {
    faults.count(field, args.len(), bounds::ARGS);
    for (index, argument) in args.iter().take(bounds::ARGS).enumerate() {
        faults.argument(&format!("{field}[{index}]"), argument);
    }
}

fn script(script: &mut v1::Script, faults: &mut Faults) {
    if script.interpreter.is_empty() {
        INTERPRETER.clone_into(&mut script.interpreter);
    }
    faults.argument("script.interpreter", &script.interpreter);
    if script.body.trim().is_empty() {
        faults.add("script.body", "it is empty", "give the script's text");
    }
    args("script.args", &script.args, faults);
}

fn service(service: &mut v1::Service, faults: &mut Faults) {
    argv("service.argv", &service.argv, faults);
    if let Some(health) = &mut service.health {
        health_check(health, faults);
    }
    restart(service.restart.get_or_insert_default(), faults);
}

fn health_check(health: &mut v1::HealthCheck, faults: &mut Faults) {
    match &mut health.probe {
        None => {
            faults.add("service.health", "there is no probe", "give one of command, http or tcp, or leave health out")
        }
        Some(Probe::Command(probe)) => argv("service.health.command.argv", &probe.argv, faults),
        Some(Probe::Http(probe)) => http_url(&mut probe.url, faults),
        Some(Probe::Tcp(probe)) => {
            if !is_address(&probe.address) {
                let problem = format!("{} is not an address", shown(&probe.address));
                faults.add("service.health.tcp.address", problem, "use host:port, like 127.0.0.1:8080 or [::1]:8080");
            }
        }
    }
    let default = |value: &mut u64, ms: u64| {
        if *value == 0 {
            *value = ms;
        }
    };
    default(&mut health.interval_ms, HEALTH_INTERVAL_MS);
    default(&mut health.timeout_ms, HEALTH_TIMEOUT_MS);
    default(&mut health.start_period_ms, HEALTH_START_MS);
    if health.failures == 0 {
        health.failures = HEALTH_FAILURES;
    }
    faults.duration("service.health.interval_ms", health.interval_ms);
    faults.duration("service.health.timeout_ms", health.timeout_ms);
    faults.duration("service.health.start_period_ms", health.start_period_ms);
    faults.at_most("service.health.failures", health.failures.into(), bounds::ATTEMPTS.into());
}

/// `http://host:port/path`; a missing path becomes `/`.
fn http_url(url: &mut String, faults: &mut Faults) {
    let field = "service.health.http.url";
    faults.argument(field, url);
    let rest = url.strip_prefix("http://").unwrap_or_default();
    let (address, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    if !is_address(address) || path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        let problem = format!("{} is not a URL that can be probed", shown(url));
        return faults.add(field, problem, "use http://host:port/path, like http://127.0.0.1:8080/healthz");
    }
    if path.is_empty() {
        url.push('/');
    }
}

/// `host:port` with a port from 1; an IPv6 address stands in brackets.
fn is_address(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let host_fits = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        }
    };
    host_fits
        && host.len() <= bounds::NAME_BYTES
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn restart(restart: &mut v1::RestartPolicy, faults: &mut Faults) {
    match When::try_from(restart.when) {
        Ok(When::Unspecified) => restart.when = When::Always.into(),
        Ok(_) => {}
        Err(_) => {
            let problem = format!("{} is none of its values", restart.when);
            faults.add("service.restart.when", problem, "use ALWAYS, ON_FAILURE or NEVER");
        }
    }
    backoff(
        "service.restart",
        (&mut restart.backoff_ms, bounds::RESTART_BACKOFF_MS),
        (&mut restart.backoff_cap_ms, bounds::RESTART_BACKOFF_CAP_MS),
        faults,
    );
}

/// A first delay and its cap, each with its default.
pub(super) fn backoff(field: &str, first: (&mut u64, u64), cap: (&mut u64, u64), faults: &mut Faults) {
    if *first.0 == 0 {
        // A low cap alone means: never longer than this.
        *first.0 = if *cap.0 == 0 { first.1 } else { first.1.min(*cap.0) };
    }
    if *cap.0 == 0 {
        *cap.0 = cap.1.max(*first.0);
    }
    faults.duration(&format!("{field}.backoff_ms"), *first.0);
    faults.duration(&format!("{field}.backoff_cap_ms"), *cap.0);
    if *first.0 > *cap.0 {
        let problem = format!("{} ms is over the cap of {} ms", first.0, cap.0);
        faults.add(format!("{field}.backoff_ms"), problem, "use a first delay of at most backoff_cap_ms");
    }
}

fn transcode(transcode: &v1::Transcode, faults: &mut Faults) {
    for (field, path) in [("transcode.input", &transcode.input), ("transcode.output", &transcode.output)] {
        if path.is_empty() {
            faults.add(field, "it is empty", "give the absolute path of a file");
        } else {
            faults.absolute(field, path);
        }
        if path.ends_with('/') {
            faults.add(field, format!("{} is a directory", shown(path)), "give the absolute path of a file");
        }
    }
    if !transcode.input.is_empty() && components(&transcode.input).eq(components(&transcode.output)) {
        faults.add("transcode.output", "it is the input", "give another file: the input must stay whole");
    }
    args("transcode.args", &transcode.args, faults);
    if transcode.preset.is_empty() {
        return;
    }
    if !transcode.args.is_empty() {
        faults.add("transcode.preset", "args are given too", "give either a preset or args");
    }
    if preset(&transcode.preset).is_none() {
        let names: Vec<_> = PRESETS.iter().map(|preset| preset.name).collect();
        let problem = format!("there is no preset {}", shown(&transcode.preset));
        faults.add("transcode.preset", problem, format!("use one of {}, or args", names.join(", ")));
    }
}

fn container(container: &mut v1::Container, faults: &mut Faults) {
    argv("container.argv", &container.argv, faults);
    faults.absolute("container.image", &container.image);
    if components(&container.image).next().is_none() {
        faults.add(
            "container.image",
            "it is this machine's own root",
            "give the directory of an unpacked root file system",
        );
    }
    faults.count("container.mounts", container.mounts.len(), bounds::MOUNTS);
    for (index, mount) in container.mounts.iter().take(bounds::MOUNTS).enumerate() {
        faults.absolute(&format!("container.mounts[{index}].source"), &mount.source);
        faults.absolute(&format!("container.mounts[{index}].target"), &mount.target);
    }
    match Network::try_from(container.network) {
        Ok(Network::Unspecified) => container.network = Network::None.into(),
        Ok(_) => {}
        Err(_) => {
            let problem = format!("{} is none of its values", container.network);
            faults.add("container.network", problem, "use NONE or HOST");
        }
    }
    if container.user.is_empty() {
        "0:0".clone_into(&mut container.user);
    }
    let (user, group) = container.user.split_once(':').unwrap_or((&container.user, "0"));
    if [user, group].iter().any(|id| id.parse::<u32>().is_err()) {
        faults.add(
            "container.user",
            format!("{} is no user", shown(&container.user)),
            "use uid or uid:gid, in numbers",
        );
    }
}

/// A path's components without what changes nothing (`//`, `/./`).
pub(super) fn components(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".")
}
