//! `informer show`: everything about a task.

use std::fmt::Write as _;

use proto::v1::{self, Attempt, HistoryEvent, HistoryRequest, Task, TaskSpec, TaskState, task_spec::Kind};

use super::{Context, books, client::Client, error, error::Error, json, text, words};

/// Events asked for at once.
const PAGE: u32 = 500;

/// Arguments of `show`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The task
    #[arg(value_name = "ID")]
    id: String,
    /// What happened to it, too, oldest first
    #[arg(long)]
    history: bool,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<u8, Error> {
    let client = context.connect().await?;
    let task = books::get(&client, &args.id, "show").await?;
    let events = if args.history { history(&client, &args.id).await? } else { Vec::new() };
    if args.json {
        let mut value = json::task(&task);
        if args.history {
            value["history"] = events.iter().map(json::event).collect();
        }
        super::print_json(&value)?;
        return Ok(0);
    }
    let now = text::now_unix_ms();
    let mut shown = described(&task, now);
    shown.push_str(&attempts(&task));
    if args.history {
        shown.push_str(&happened(&events));
    }
    super::print(&shown)?;
    Ok(0)
}

async fn history(client: &Client, id: &str) -> Result<Vec<HistoryEvent>, Error> {
    let mut events = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = HistoryRequest { id: id.to_owned(), page_size: PAGE, page_token };
        let answer = client.grpc().history(request).await;
        let answer =
            answer.map_err(|status| client.failed(&format!("show the history of task {id}"), &status))?.into_inner();
        events.extend(answer.events);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            return Ok(events);
        }
    }
}

/// Lines `name  value`, without those that have nothing to say.
fn lines(rows: &[(&str, String)]) -> String {
    let said = rows.iter().filter(|(_, value)| !value.is_empty() && value != "-");
    said.map(|(name, value)| format!("{name:<12}{}\n", error::one_line(value))).collect()
}

fn described(task: &Task, now_unix_ms: u64) -> String {
    let mut state = words::task_state(task.state());
    if task.cancelling && !words::is_terminal(task.state()) {
        state.push_str(", being cancelled");
    }
    let ended = task.ending.as_ref().map(words::end);
    let waits = task.state() == TaskState::Waiting && task.not_before_unix_ms > 0;
    let when = |unix_ms: u64| match unix_ms {
        0 => String::new(),
        _ => format!("{} ({} ago)", text::time(unix_ms), text::age(unix_ms, now_unix_ms)),
    };
    let health = task.progress.as_ref().and_then(|progress| words::health(progress.health()));
    let running = task.progress.as_ref().filter(|_| !words::is_terminal(task.state()));
    let far = running.map(|progress| v1::Progress { health: v1::Health::Unspecified.into(), ..progress.clone() });
    let mut rows = vec![
        ("task", task.id.clone()),
        ("name", task.name.clone()),
        ("kind", task.kind.clone()),
        ("state", state),
        ("result", ended.unwrap_or_default()),
        ("health", health.unwrap_or_default()),
        ("progress", text::progress(far.as_ref())),
        ("note", task.progress.as_ref().map(|progress| progress.note.clone()).unwrap_or_default()),
        ("owner", task.owner.clone()),
        ("labels", pairs(&task.labels)),
        ("priority", if task.priority == 0 { String::new() } else { task.priority.to_string() }),
        ("created", when(task.created_unix_ms)),
        ("not before", if waits { text::time(task.not_before_unix_ms) } else { String::new() }),
        ("ended", when(task.ended_unix_ms)),
    ];
    if let Some(spec) = &task.spec {
        rows.extend(asked_for(spec));
    }
    lines(&rows)
}

fn pairs(map: &std::collections::BTreeMap<String, String>) -> String {
    map.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

/// What the user asked for, as far as it is not the default.
fn asked_for(spec: &TaskSpec) -> Vec<(&'static str, String)> {
    let resources = spec.resources.unwrap_or_default();
    let memory = if resources.memory_bytes > 0 {
        format!(", memory {}", text::size(resources.memory_bytes))
    } else {
        String::new()
    };
    let mut rows = what(spec.kind.as_ref());
    rows.extend([
        ("directory", spec.cwd.clone()),
        ("environment", pairs(&spec.env)),
        ("requires", pairs(&spec.require)),
        (
            "reserves",
            if resources.cpu_millis > 0 { format!("cpu {}m{memory}", resources.cpu_millis) } else { String::new() },
        ),
        ("limits", spec.limits.as_ref().map(limits).unwrap_or_default()),
        ("timeouts", spec.timeouts.as_ref().map(timeouts).unwrap_or_default()),
        ("tries", if is_service(spec) { String::new() } else { spec.retry.as_ref().map(retries).unwrap_or_default() }),
        ("restarts", restarts(spec)),
        ("exclusive", if spec.exclusive { "at most one copy runs".into() } else { String::new() }),
    ]);
    if spec.on_disconnect() == v1::OnDisconnect::Stop {
        rows.push(("if cut off", "stops".into()));
    }
    rows
}

/// The kind's own fields.
fn what(kind: Option<&Kind>) -> Vec<(&'static str, String)> {
    match kind {
        None => Vec::new(),
        Some(Kind::Command(command)) => vec![("command", quoted(&command.argv))],
        Some(Kind::Script(script)) => {
            let first = script.body.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
            let lines = script.body.lines().count();
            vec![("script", format!("{} {} ({lines} lines, first: {first})", script.interpreter, quoted(&script.args)))]
        }
        Some(Kind::Service(service)) => vec![
            ("service", quoted(&service.argv)),
            (
                "checked by",
                service.health.as_ref().and_then(|health| health.probe.as_ref()).map(probe).unwrap_or_default(),
            ),
        ],
        Some(Kind::Transcode(transcode)) => vec![
            ("input", transcode.input.clone()),
            ("output", transcode.output.clone()),
            ("preset", transcode.preset.clone()),
            ("arguments", quoted(&transcode.args)),
        ],
        Some(Kind::Typed(typed)) => vec![("type", typed.r#type.clone()), ("input", typed.input.clone())],
        Some(Kind::Container(container)) => {
            vec![("image", container.image.clone()), ("command", quoted(&container.argv))]
        }
    }
}

fn probe(probe: &v1::health_check::Probe) -> String {
    match probe {
        v1::health_check::Probe::Command(command) => quoted(&command.argv),
        v1::health_check::Probe::Http(http) => http.url.clone(),
        v1::health_check::Probe::Tcp(tcp) => format!("tcp {}", tcp.address),
    }
}

/// Words that a shell would read back as the same list.
fn quoted(argv: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=:,+@%".contains(c);
    let quote = |word: &String| match !word.is_empty() && word.chars().all(plain) {
        true => word.clone(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    };
    argv.iter().map(quote).collect::<Vec<_>>().join(" ")
}

fn limits(limits: &v1::Limits) -> String {
    let all = [
        (limits.cpu_millis, format!("cpu {}m", limits.cpu_millis)),
        (limits.memory_bytes, format!("memory {}", text::size(limits.memory_bytes))),
        (limits.pids, format!("processes {}", limits.pids)),
    ];
    given(&all)
}

fn timeouts(timeouts: &v1::Timeouts) -> String {
    let all = [
        (timeouts.queue_ms, format!("queue {}", text::span(timeouts.queue_ms))),
        (timeouts.attempt_ms, format!("attempt {}", text::span(timeouts.attempt_ms))),
        (timeouts.total_ms, format!("total {}", text::span(timeouts.total_ms))),
        (timeouts.progress_ms, format!("progress {}", text::span(timeouts.progress_ms))),
    ];
    given(&all)
}

fn is_service(spec: &TaskSpec) -> bool {
    matches!(spec.kind, Some(Kind::Service(_)))
}

/// When and after which back-off a service is started again.
fn restarts(spec: &TaskSpec) -> String {
    use v1::restart_policy::When;
    let Some(Kind::Service(service)) = &spec.kind else { return String::new() };
    let policy = service.restart.unwrap_or_default();
    let when = match policy.when() {
        When::Unspecified | When::Always => "always",
        When::OnFailure => "on failure",
        When::Never => return "never".to_owned(),
    };
    let most =
        if policy.max_restarts > 0 { format!(", at most {} in a row", policy.max_restarts) } else { String::new() };
    format!("{when}, after {} to {}{most}", text::span(policy.backoff_ms), text::span(policy.backoff_cap_ms))
}

fn retries(retry: &v1::Retry) -> String {
    let infrastructure = match retry.no_infrastructure_retry {
        true => "none after a loss".to_owned(),
        false => format!("and {} more after losses", retry.max_infrastructure),
    };
    if retry.max_attempts == 0 { String::new() } else { format!("{}, {infrastructure}", retry.max_attempts) }
}

/// The texts of those that are not 0.
fn given(all: &[(u64, String)]) -> String {
    all.iter().filter(|(value, _)| *value > 0).map(|(_, text)| text.as_str()).collect::<Vec<_>>().join(", ")
}

fn attempts(task: &Task) -> String {
    if task.attempts.is_empty() {
        return String::new();
    }
    let mut shown = String::from("attempts\n");
    if task.attempts_dropped > 0 {
        // Writing to a String cannot fail.
        let _ = writeln!(shown, "  ({} older ones are only in the history)", task.attempts_dropped);
    }
    for attempt in &task.attempts {
        let _ = writeln!(shown, "  {}", error::one_line(&one_attempt(attempt)));
    }
    shown
}

fn one_attempt(attempt: &Attempt) -> String {
    let mut line = format!("{}  {}", attempt.number, words::attempt_state(attempt.state()).replace('_', " "));
    if !attempt.sidecar.is_empty() {
        let _ = write!(line, "  on {}", attempt.sidecar);
    }
    if let Some(ending) = &attempt.ending {
        let _ = write!(line, "  {}", words::end(ending));
        if ending.truncated {
            line.push_str("  log truncated at its cap");
        }
        if ending.ran_ms > 0 {
            let (cpu, memory) =
                (text::span((ending.user_us + ending.system_us) / 1_000), text::size(ending.max_rss_bytes));
            let _ = write!(line, "  ran {}, cpu {cpu}, memory {memory}", text::span(ending.ran_ms));
        }
        for output in &ending.outputs {
            let _ = write!(line, "  {} ({})", output.path, text::size(output.size_bytes));
        }
    }
    line
}

fn happened(events: &[HistoryEvent]) -> String {
    let rows: Vec<Vec<String>> = events
        .iter()
        .map(|event| {
            let attempt = if event.attempt == 0 { "-".to_owned() } else { event.attempt.to_string() };
            vec![text::time(event.unix_ms), attempt, event.kind.clone(), event.detail.clone()]
        })
        .collect();
    format!("history\n{}", text::table(&["TIME", "ATTEMPT", "WHAT", "DETAIL"], &rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::{AttemptState, Ending, Health, Progress, Reason};

    fn service() -> Task {
        let probe = v1::health_check::Probe::Http(v1::HttpProbe { url: "http://127.0.0.1:80/healthz".into() });
        let health = Some(v1::HealthCheck { probe: Some(probe), ..v1::HealthCheck::default() });
        let argv = ["hello-http", "--say", "it's"].map(String::from).to_vec();
        let restart = v1::RestartPolicy { backoff_ms: 500, backoff_cap_ms: 60_000, ..Default::default() };
        let kind = Kind::Service(v1::Service { argv, health, restart: Some(restart) });
        let ending = Ending { reason: Reason::Signal.into(), signal: Some(9), ran_ms: 2_500, ..Ending::default() };
        let killed = Attempt {
            number: 1,
            sidecar: "s1".into(),
            state: AttemptState::Failed.into(),
            ending: Some(ending),
            ..Attempt::default()
        };
        let running =
            Attempt { number: 2, sidecar: "s1".into(), state: AttemptState::Running.into(), ..Attempt::default() };
        Task {
            id: "i".into(),
            name: "web".into(),
            kind: "service".into(),
            state: TaskState::Running.into(),
            created_unix_ms: 1_000,
            attempts: vec![killed, running],
            progress: Some(Progress { health: Health::Healthy.into(), ..Progress::default() }),
            spec: Some(TaskSpec { kind: Some(kind), ..TaskSpec::default() }),
            ..Task::default()
        }
    }

    #[test]
    fn a_service_is_shown_with_its_health_and_its_restarts() {
        let task = service();
        let shown = described(&task, 61_000) + &attempts(&task);
        insta::assert_snapshot!(shown, @r"
        task        i
        name        web
        kind        service
        state       running
        health      healthy
        created     1970-01-01T00:00:01Z (1m00s ago)
        service     hello-http --say 'it'\''s'
        checked by  http://127.0.0.1:80/healthz
        restarts    always, after 500ms to 1m00s
        attempts
          1  failed  on s1  signal 9 (SIGKILL)  ran 2s, cpu 0ms, memory 0B
          2  running  on s1
        ");
    }

    #[test]
    fn history_is_a_table() {
        let event =
            HistoryEvent { seq: 1, unix_ms: 1_000, kind: "submitted".into(), attempt: 0, detail: "by ops".into() };
        let expected = "history\nTIME                  ATTEMPT  WHAT       DETAIL\n1970-01-01T00:00:01Z  -        submitted  by ops\n";
        assert_eq!(happened(&[event]), expected);
    }
}
