//! `informer show`: everything about a task.

use std::fmt::Write as _;

use proto::v1::{self, Attempt, Task, TaskSpec, TaskState, task_spec::Kind};

use super::{Context, books, error, error::Error, history, json, list, short, tally, text, words};

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
    let id = short::whole(&client, &args.id).await?;
    let task = books::get(&client, &id, "show").await?;
    let events = if args.history { history::read(&client, &id).await? } else { Vec::new() };
    let failed = match &task.array {
        Some(array) if array.failed > 0 => tally::failures(&client, &id).await,
        _ => Vec::new(),
    };
    if args.json {
        let mut value = json::task(&task);
        if args.history {
            value["history"] = events.iter().map(json::event).collect();
        }
        if task.array.is_some() {
            value["array"]["first_failed"] = failed.iter().map(|member| member.id.as_str()).collect();
        }
        super::print_json(&value)?;
        return Ok(0);
    }
    let now = text::now_unix_ms();
    let mut shown = described(&task, now);
    shown.push_str(&attempts(&task));
    shown.push_str(&set_aside(&task));
    shown.push_str(&failures(&failed));
    if args.history {
        shown.push_str("history\n");
        shown.push_str(&history::table(&events));
    }
    super::print(&shown)?;
    Ok(0)
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
    // Health and note stand on lines of their own.
    let far = running.map(|progress| v1::Progress {
        health: v1::Health::Unspecified.into(),
        note: String::new(),
        ..progress.clone()
    });
    let mut rows = vec![
        ("task", task.id.clone()),
        ("name", task.name.clone()),
        ("kind", task.kind.clone()),
        ("state", state),
        ("result", ended.unwrap_or_default()),
        ("members", task.array.as_ref().map(members).unwrap_or_default()),
        ("", task.array.as_ref().map(tally::bar).unwrap_or_default()),
        ("item", task.item.clone()),
        ("workflow", of_run(task)),
        ("child", of_parent(task)),
        ("children", task.children.as_ref().map(children).unwrap_or_default()),
        ("health", health.unwrap_or_default()),
        ("progress", text::progress(far.as_ref())),
        ("note", task.progress.as_ref().map(|progress| progress.note.clone()).unwrap_or_default()),
        ("owner", task.owner.clone()),
        ("labels", pairs(&task.labels)),
        ("priority", if task.priority == 0 { String::new() } else { task.priority.to_string() }),
        ("created", when(task.created_unix_ms)),
        ("not before", if waits { text::time(task.not_before_unix_ms) } else { String::new() }),
        ("expected", list::eta(task, now_unix_ms).map(|ms| expected(task, ms)).unwrap_or_default()),
        ("ended", when(task.ended_unix_ms)),
    ];
    if let Some(spec) = &task.spec {
        rows.extend(asked_for(spec));
    }
    lines(&rows)
}

/// `piece-1 of task 0192…`.
fn of_parent(task: &Task) -> String {
    if task.parent.is_empty() { String::new() } else { format!("{} of task {}", task.child_key, task.parent) }
}

/// `5 emitted; 2 live, 3 succeeded, 0 failed, 0 cancelled`.
fn children(status: &v1::ChildrenStatus) -> String {
    let v1::ChildrenStatus { emitted, live, succeeded, failed, cancelled } = status;
    format!("{emitted} emitted; {live} live, {succeeded} succeeded, {failed} failed, {cancelled} cancelled")
}

/// `greet of run 0192…; tried before as 0192…`.
fn of_run(task: &Task) -> String {
    match (task.run.as_str(), task.retried_from.as_str()) {
        ("", _) => String::new(),
        (run, "") => format!("{} of run {run}", task.reference),
        (run, before) => format!("{} of run {run}; tried before as {before}", task.reference),
    }
}

/// `37/100 done, 2 failed, 8 running; 1 to 100, with items; more than 3 failures cancel the rest`.
fn members(array: &v1::ArrayStatus) -> String {
    let last = array.first.saturating_add(array.count.saturating_sub(1));
    let items = if array.items { ", with items" } else { "" };
    let most = match (array.limited, array.max_failures) {
        (false, _) => String::new(),
        (true, 0) => "; a failure cancels the rest".to_owned(),
        (true, most) => format!("; more than {most} failures cancel the rest"),
    };
    format!("{}; {} to {last}{items}{most}", tally::counts(array), array.first)
}

/// When it should end, going by how long such tasks took before.
fn expected(task: &Task, left_ms: u64) -> String {
    match left_ms {
        0 => format!("to have ended at {}; it takes longer than such tasks did", text::time(task.eta_unix_ms)),
        _ => format!("to end in {}, at {}", text::span(left_ms), text::time(task.eta_unix_ms)),
    }
}

fn failures(failed: &[Task]) -> String {
    if failed.is_empty() {
        return String::new();
    }
    let mut shown = String::from("first failures\n");
    for member in failed {
        let ending = member.ending.clone().unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = writeln!(shown, "  {}  {}", member.id, words::end(&ending));
    }
    shown
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
        ("takes in", spec.inputs.iter().map(input).collect::<Vec<_>>().join(", ")),
        ("leaves", spec.outputs.iter().map(output).collect::<Vec<_>>().join(", ")),
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
        Some(Kind::Http(http)) => vec![("request", http.input.clone())],
        Some(Kind::Typed(typed)) => vec![("type", typed.r#type.clone()), ("input", typed.input.clone())],
        Some(Kind::Container(container)) => {
            let mounts: Vec<String> = container.mounts.iter().map(mount).collect();
            let network = if container.network() == v1::container::Network::Host { "host" } else { "none" };
            vec![
                ("image", container.image.clone()),
                ("command", quoted(&container.argv)),
                ("mounts", mounts.join(", ")),
                ("network", network.to_owned()),
                ("user", container.user.clone()),
            ]
        }
    }
}

fn mount(mount: &v1::container::Mount) -> String {
    format!("{}:{}{}", mount.source, mount.target, if mount.writable { ":rw" } else { "" })
}

fn input(input: &v1::Input) -> String {
    let executable = if input.executable { " (executable)" } else { "" };
    format!("{} as {}{executable}", input.source, input.path)
}

fn output(output: &v1::Output) -> String {
    let optional = if output.optional { " (if it is there)" } else { "" };
    format!("{} to {}{optional}", output.path, output.destination)
}

fn probe(probe: &v1::health_check::Probe) -> String {
    match probe {
        v1::health_check::Probe::Command(command) => quoted(&command.argv),
        v1::health_check::Probe::Http(http) => http.url.clone(),
        v1::health_check::Probe::Tcp(tcp) => format!("tcp {}", tcp.address),
    }
}

/// Words that a shell would read back as the same list.
pub(crate) fn quoted(argv: &[String]) -> String {
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

/// Attempts that nothing is applied of.
fn set_aside(task: &Task) -> String {
    if task.set_aside.is_empty() {
        return String::new();
    }
    let mut shown = String::from("set aside: the informer does not know them, and nothing of them is applied\n");
    for aside in &task.set_aside {
        let stands = if aside.over { "ended" } else { "running" };
        // Writing to a String cannot fail.
        let _ = writeln!(shown, "  {}  {stands}  on {}", aside.number, aside.sidecar);
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
    } else if attempt.expected_ms > 0 {
        let _ = write!(line, "  expected to take {}", text::span(attempt.expected_ms));
    }
    line
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
    fn what_is_set_aside_is_listed_apart() {
        let aside = |number, over| v1::SetAside { number, sidecar: "s2".into(), over };
        let task = Task { set_aside: vec![aside(2, false), aside(3, true)], ..service() };
        assert!(set_aside(&service()).is_empty());
        let expected = "set aside: the informer does not know them, and nothing of them is applied\n  2  running  on s2\n  3  ended  on s2\n";
        assert_eq!(set_aside(&task), expected);
        let json = json::task(&task);
        assert_eq!(json["set_aside"][1], serde_json::json!({"number": 3, "sidecar": "s2", "state": "ended"}));
    }

    #[test]
    fn the_note_of_a_progress_is_shown_once() {
        let shown = |permille: u32| {
            let progress = Progress { permille, note: "page 3".into(), ..Progress::default() };
            let state = TaskState::Running.into();
            described(&Task { id: "i".into(), state, progress: Some(progress), ..Task::default() }, 0)
        };
        assert_eq!(shown(420), "task        i\nstate       running\nprogress    42%\nnote        page 3\n");
        assert_eq!(shown(0), "task        i\nstate       running\nnote        page 3\n");
    }

    #[test]
    fn an_array_is_shown_with_counts_bar_and_first_failures() {
        let array = v1::ArrayStatus {
            first: 1,
            count: 4,
            pending: 1,
            live: 1,
            succeeded: 1,
            failed: 1,
            limited: true,
            max_failures: 2,
            items: true,
            ..v1::ArrayStatus::default()
        };
        let task = Task {
            id: "a".into(),
            name: "greet".into(),
            state: TaskState::Running.into(),
            array: Some(array),
            eta_unix_ms: 66_000,
            ..Task::default()
        };
        let ending = Ending { reason: Reason::ExitCode.into(), exit_code: Some(3), ..Ending::default() };
        let member = Task { id: "a.2".into(), ending: Some(ending), ..Task::default() };
        let shown = described(&task, 1_000) + &failures(&[member]);
        insta::assert_snapshot!(shown, @r"
        task        a
        name        greet
        state       running
        members     2/4 done, 1 failed, 1 running; 1 to 4, with items; more than 2 failures cancel the rest
                    [====================                    ] 50%
        expected    to end in 1m05s, at 1970-01-01T00:01:06Z
        first failures
          a.2  exit code 3
        ");
    }

    #[test]
    fn a_member_and_a_container_tell_what_they_were_given() {
        let mount = v1::container::Mount { source: "/a".into(), target: "/b".into(), writable: true };
        let container = v1::Container {
            image: "/img".into(),
            argv: vec!["ls".into()],
            mounts: vec![mount],
            user: "0:0".into(),
            ..v1::Container::default()
        };
        let input = v1::Input { source: "/t".into(), path: "t".into(), executable: true, ..v1::Input::default() };
        let output = v1::Output { path: "o".into(), destination: "/o".into(), optional: true };
        let kind = Some(Kind::Container(container));
        let spec = TaskSpec { kind, inputs: vec![input], outputs: vec![output], ..TaskSpec::default() };
        let attempt =
            Attempt { number: 1, state: AttemptState::Running.into(), expected_ms: 65_000, ..Attempt::default() };
        let task = Task {
            id: "a.2".into(),
            state: TaskState::Running.into(),
            item: "b.mp4".into(),
            attempts: vec![attempt],
            spec: Some(spec),
            ..Task::default()
        };
        let shown = described(&task, 1_000) + &attempts(&task);
        insta::assert_snapshot!(shown, @r"
        task        a.2
        state       running
        item        b.mp4
        image       /img
        command     ls
        mounts      /a:/b:rw
        network     none
        user        0:0
        takes in    /t as t (executable)
        leaves      o to /o (if it is there)
        attempts
          1  running  expected to take 1m05s
        ");
    }
}
