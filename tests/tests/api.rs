//! Everything through gRPC, on real processes: the calls, and what they promise.

use anyhow::{Context as _, Result, ensure};
use proto::v1::informer_client::InformerClient;
use proto::v1::{self, TaskState};
use std::collections::BTreeSet;
use std::path::PathBuf;
use tests::world::{DEADLINE, World, wait_for};
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// A world and a client of its informer.
struct Api {
    world: World,
    runtime: Runtime,
    channel: Channel,
    client: InformerClient<Channel>,
}

impl Api {
    fn new(sidecars: usize) -> Result<Self> {
        Self::of(World::with_sidecars(sidecars)?)
    }

    fn of(world: World) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let endpoint = tonic::transport::Endpoint::from_shared(world.url().to_owned())?;
        let channel = runtime.block_on(endpoint.connect())?;
        Ok(Self { world, runtime, client: InformerClient::new(channel.clone()), channel })
    }

    fn submit(&mut self, spec: v1::TaskSpec) -> Result<String, Status> {
        let request = v1::SubmitRequest { spec: Some(spec), key: String::new() };
        Ok(self.runtime.block_on(self.client.submit(request))?.into_inner().id)
    }

    fn get(&mut self, id: &str) -> Result<v1::Task, Status> {
        Ok(self.runtime.block_on(self.client.get(v1::GetRequest { id: id.to_owned() }))?.into_inner())
    }

    fn list(&mut self, request: v1::ListRequest) -> Result<v1::ListResponse, Status> {
        Ok(self.runtime.block_on(self.client.list(request))?.into_inner())
    }

    fn history(&mut self, id: &str) -> Result<Vec<v1::HistoryEvent>, Status> {
        let request = v1::HistoryRequest { id: id.to_owned(), ..Default::default() };
        Ok(self.runtime.block_on(self.client.history(request))?.into_inner().events)
    }

    /// Watches until the task is terminal; each of its states once, in order, and the task at last.
    fn watch(&mut self, id: &str) -> Result<(Vec<TaskState>, v1::Task)> {
        let request = v1::WatchRequest { ids: vec![id.to_owned()] };
        let client = &mut self.client;
        let watched = async move {
            let mut stream = client.watch(request).await?.into_inner();
            let (mut states, mut last) = (Vec::new(), None);
            while let Some(task) = stream.message().await? {
                if states.last() != Some(&task.state()) {
                    states.push(task.state());
                }
                last = Some(task);
            }
            anyhow::Ok((states, last.context("a watch tells the task at once")?))
        };
        self.runtime.block_on(async { tokio::time::timeout(DEADLINE, watched).await })?
    }
}

/// A shell line as a task that is tried once.
fn sh(line: &str) -> v1::TaskSpec {
    let argv = ["sh", "-c", line].map(str::to_owned).to_vec();
    v1::TaskSpec {
        kind: Some(v1::task_spec::Kind::Command(v1::Command { argv })),
        retry: Some(v1::Retry { max_attempts: 1, ..Default::default() }),
        ..Default::default()
    }
}

fn named(name: &str, line: &str) -> v1::TaskSpec {
    v1::TaskSpec { name: name.to_owned(), ..sh(line) }
}

fn reason(task: &v1::Task) -> v1::Reason {
    task.ending.as_ref().map_or(v1::Reason::Unspecified, v1::Ending::reason)
}

fn code(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

#[test]
fn health_reflection_and_identity_answer() -> Result<()> {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::v1 as reflection;
    let mut api = Api::new(0)?;
    let channel = api.channel.clone();
    let services = api.runtime.block_on(async {
        let request = HealthCheckRequest { service: "informer.v1.Informer".to_owned() };
        let health = HealthClient::new(channel.clone()).check(request).await?.into_inner();
        ensure!(health.status() == tonic_health::pb::health_check_response::ServingStatus::Serving);
        let ask = reflection::server_reflection_request::MessageRequest::ListServices(String::new());
        let request = reflection::ServerReflectionRequest { host: String::new(), message_request: Some(ask) };
        let mut client = reflection::server_reflection_client::ServerReflectionClient::new(channel);
        let mut answers = client.server_reflection_info(tokio_stream::iter([request])).await?.into_inner();
        Ok(format!("{:?}", answers.message().await?))
    })?;
    for service in ["informer.v1.Informer", "informer.v1.SidecarLink", "grpc.health.v1.Health"] {
        assert!(services.contains(service), "{service} is missing in {services}");
    }
    let identity = api.runtime.block_on(api.client.identity(v1::IdentityRequest {}))?.into_inner();
    assert!(!identity.lineage.is_empty() && identity.epoch >= 1 && !identity.restored, "{identity:?}");
    Ok(())
}

#[test]
fn a_batch_is_stored_in_order_with_its_failures() -> Result<()> {
    let mut api = Api::new(0)?;
    let request = |name: &str, key: &str| v1::SubmitRequest { spec: Some(named(name, "true")), key: key.to_owned() };
    let empty = v1::SubmitRequest::default();
    let batch = vec![request("a", "k"), empty, request("a", "k"), request("b", "k"), request("c", "")];
    let answer = api.runtime.block_on(api.client.submit_batch(tokio_stream::iter(batch)))?.into_inner();
    let told: Vec<String> = answer
        .results
        .iter()
        .map(|result| match &result.result {
            Some(v1::submit_result::Result::Ok(ok)) if ok.existed => "existed".to_owned(),
            Some(v1::submit_result::Result::Ok(_)) => "ok".to_owned(),
            Some(v1::submit_result::Result::Failure(failure)) => failure.code.clone(),
            None => "nothing".to_owned(),
        })
        .collect();
    assert_eq!(told, ["ok", "invalid", "existed", "key_conflict", "ok"]);
    assert_eq!(api.list(v1::ListRequest::default())?.tasks.len(), 2);
    Ok(())
}

#[test]
fn pages_are_stable_under_inserts_and_filters_hold() -> Result<()> {
    let mut api = Api::new(0)?;
    for n in 0..25 {
        let labels = [("parity".to_owned(), (n % 2).to_string())].into();
        api.submit(v1::TaskSpec { labels, owner: "me".to_owned(), ..named(&format!("t{n}"), "true") })?;
    }
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let page = api.list(v1::ListRequest { page_size: 4, page_token: token, ..Default::default() })?;
        seen.extend(page.tasks.into_iter().map(|task| task.name));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
        api.submit(named("newcomer", "true"))?;
    }
    let expected: Vec<String> = (0..25).rev().map(|n| format!("t{n}")).collect();
    assert_eq!(seen, expected, "newest first, each once, newcomers on no later page");
    let odd = [("parity".to_owned(), "1".to_owned())].into();
    let filtered = |request: v1::ListRequest, api: &mut Api| Ok::<_, Status>(api.list(request)?.tasks.len());
    assert_eq!(filtered(v1::ListRequest { labels: odd, ..Default::default() }, &mut api)?, 12);
    assert_eq!(filtered(v1::ListRequest { owner: "me".to_owned(), ..Default::default() }, &mut api)?, 25);
    assert_eq!(filtered(v1::ListRequest { name: "t7".to_owned(), ..Default::default() }, &mut api)?, 1);
    let running = v1::ListRequest { states: vec![TaskState::Running.into()], ..Default::default() };
    assert_eq!(filtered(running, &mut api)?, 0);
    let bad = api.list(v1::ListRequest { page_token: "x".to_owned(), ..Default::default() });
    assert_eq!(bad.err().map(|status| status.code()), Some(Code::InvalidArgument));
    Ok(())
}

#[test]
fn a_watch_sees_every_state_in_order_and_history_tells_it_again() -> Result<()> {
    let mut api = Api::new(0)?;
    let id = api.submit(sh(&format!("while [ ! -e {}/go ]; do sleep 0.02; done", api.world.dir().display())))?;
    api.world.start_sidecar(0, &[], &[])?;
    // What begins and ends within one commit is told at its end, so the task ends when its start has been told.
    let (client, wanted, go) = (api.client.clone(), id.clone(), api.world.dir().join("go"));
    api.runtime.spawn(async move { touch_when_running(client, wanted, go).await });
    let (states, task) = api.watch(&id)?;
    assert_eq!(states, [TaskState::Ready, TaskState::Assigned, TaskState::Running, TaskState::Succeeded]);
    assert_eq!(task.attempts.len(), 1);
    let kinds: Vec<String> = api.history(&id)?.into_iter().map(|event| event.kind).collect();
    assert_eq!(kinds, ["submitted", "assigned", "started", "ended", "succeeded"]);
    Ok(())
}

async fn touch_when_running(mut client: InformerClient<Channel>, id: String, file: PathBuf) -> Result<()> {
    let mut stream = client.watch(v1::WatchRequest { ids: vec![id] }).await?.into_inner();
    while let Some(task) = stream.message().await? {
        if task.state() == TaskState::Running {
            std::fs::write(&file, b"")?;
        }
    }
    Ok(())
}

#[test]
fn cancel_retry_and_why_answer() -> Result<()> {
    let mut api = Api::new(1)?;
    let id = api.submit(sh("sleep 1000"))?;
    let why = api.runtime.block_on(api.client.why(v1::WhyRequest { id: id.clone() }))?.into_inner();
    assert!(!why.summary.is_empty());
    api.world.wait_state(&id, &["running"])?;
    let early = api.runtime.block_on(api.client.retry(v1::RetryRequest { id: id.clone(), key: "r".to_owned() }));
    let early = early.err().context("a running task is not retried")?;
    assert_eq!((early.code(), code(&early).as_str()), (Code::FailedPrecondition, "state"));
    for _ in 0..2 {
        let request = v1::CancelRequest { id: id.clone(), reason: "enough".to_owned() };
        api.runtime.block_on(api.client.cancel(request))?;
    }
    let (_, task) = api.watch(&id)?;
    assert_eq!(task.state(), TaskState::Cancelled);
    for _ in 0..2 {
        api.runtime.block_on(api.client.retry(v1::RetryRequest { id: id.clone(), key: "r".to_owned() }))?;
    }
    let task = api.world.wait_attempt(&id, 2, &["running"])?;
    assert_eq!(task["attempts"].as_array().map(Vec::len), Some(2), "one key is one retry: {task}");
    Ok(())
}

#[test]
fn refusals_carry_their_code_and_a_full_house_a_retry_hint() -> Result<()> {
    let mut api = Api::new(1)?;
    let unknown = api.get("0192f3c4-5b6d-7e8f-9a0b-1c2d3e4f5a6c").err().context("nobody")?;
    assert_eq!((unknown.code(), code(&unknown).as_str()), (Code::NotFound, "unknown_task"));
    let invalid = api.submit(v1::TaskSpec::default()).err().context("nothing to run")?;
    assert!(invalid.get_details_bad_request().is_some_and(|bad| !bad.field_violations.is_empty()), "{invalid}");
    // As many log readers as there may be: the next one is told when to come again.
    let id = api.submit(sh("echo x; sleep 1000"))?;
    api.world.wait_state(&id, &["running"])?;
    let request = v1::LogsRequest { id, follow: true, ..Default::default() };
    let client = api.client.clone();
    let (readers, refused) = api.runtime.block_on(async {
        let mut readers = Vec::new();
        for _ in 0..=proto::bounds::LOG_READERS {
            let mut stream = match client.clone().logs(request.clone()).await {
                Ok(stream) => stream.into_inner(),
                Err(status) => return (readers, Some(status)),
            };
            match stream.message().await {
                Ok(_) => readers.push(stream),
                Err(status) => return (readers, Some(status)),
            }
        }
        (readers, None)
    });
    let refused = refused.context("readers are bounded")?;
    assert_eq!((readers.len(), refused.code()), (proto::bounds::LOG_READERS, Code::ResourceExhausted));
    assert!(refused.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()), "{refused:?}");
    Ok(())
}

/// Appends its name to a file of the world.
fn mark(world: &World, name: &str) -> String {
    format!("echo {name} >> {}/order", world.dir().display())
}

#[test]
fn higher_priorities_run_first_across_tasks() -> Result<()> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    let mut api = Api::of(world)?;
    let mut ids = Vec::new();
    for (name, priority) in [("low", -5), ("first", 0), ("second", 0), ("high", 22), ("highest", 1000)] {
        let line = mark(&api.world, name);
        ids.push(api.submit(v1::TaskSpec { priority, ..named(name, &line) })?);
    }
    api.world.start_sidecar(0, &["--slots", "1", "--cpu", "1000"], &[])?;
    for id in &ids {
        api.world.wait_state(id, &["succeeded"])?;
    }
    assert_eq!(api.world.lines("order"), ["highest", "high", "first", "second", "low"]);
    Ok(())
}

#[test]
fn required_labels_route_by_service_tag_and_version() -> Result<()> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    let label = |version: &'static str| ["--label", "service=live", "--label", "tag=hd", "--label", version];
    world.start_sidecar(0, &label("version=1"), &[])?;
    world.start_sidecar(1, &label("version=2"), &[])?;
    world.wait_linked(2)?;
    let mut api = Api::of(world)?;
    for version in ["2", "1", "2", "2", "1"] {
        let require = [("service", "live"), ("tag", "hd"), ("version", version)];
        let require = require.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let id = api.submit(v1::TaskSpec { require, ..sh("true") })?;
        let (_, task) = api.watch(&id)?;
        let n = api.world.sidecar_named(&task.attempts[0].sidecar)?;
        assert_eq!((task.state(), (n + 1).to_string().as_str()), (TaskState::Succeeded, version));
    }
    Ok(())
}

fn sidecar(world: &World) -> Option<serde_json::Value> {
    world.json(&["sidecars", "--json"]).ok()?.as_array()?.first().cloned()
}

#[test]
fn a_fresh_sidecar_starts_slowly_and_a_failing_one_is_quarantined() -> Result<()> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    // A machine without ffmpeg can start no transcode.
    let empty = world.dir().join("no-programs");
    std::fs::create_dir(&empty)?;
    world.start_sidecar(0, &["--slots", "8", "--cpu", "8000"], &[("PATH", &empty.to_string_lossy())])?;
    world.wait_linked(1)?;
    assert_eq!(sidecar(&world).context("a sidecar")?["window"], 1);
    for (runs, window) in [(1, 2), (1, 4), (1, 8)] {
        for _ in 0..runs {
            assert_eq!(world.informer(&["run", "--", "/bin/true"])?.status.code(), Some(0));
        }
        assert_eq!(sidecar(&world).context("a sidecar")?["window"], window);
    }
    for _ in 0..4 {
        assert_eq!(world.informer(&["run", "--", "/no/such/program"])?.status.code(), Some(125));
    }
    assert_eq!(sidecar(&world).context("a sidecar")?["state"], "live", "a misspelt program is its task's fault");
    std::fs::write(world.dir().join("a.mp4"), "there is something to look at")?;
    let film = world.dir().join("film.toml");
    std::fs::write(&film, "[transcode]\ninput = \"a.mp4\"\noutput = \"b.mp4\"\npreset = \"h264\"\n")?;
    for _ in 0..3 {
        world.submit(&["-f", &film.to_string_lossy()])?;
    }
    wait_for("it is quarantined", || (sidecar(&world)?["state"] == "quarantined").then_some(()))?;
    let id = world.submit(&["--", "/bin/true"])?;
    let why = world.json(&["why", &id, "--json"])?;
    assert!(why["details"].to_string().contains("quarantined"), "{why}");
    Ok(())
}

#[test]
fn load_and_books_are_shown() -> Result<()> {
    let mut api = Api::new(1)?;
    let id = api.submit(sh("sleep 1000"))?;
    api.world.wait_state(&id, &["running"])?;
    let shown = wait_for("a beat told its load", || {
        sidecar(&api.world).filter(|sidecar| sidecar["load"]["memory_total_bytes"].as_u64() > Some(0))
    })?;
    assert_eq!((&shown["running"], &shown["allocated"]["cpu_millis"]), (&1.into(), &1000.into()), "{shown}");
    Ok(())
}

#[test]
fn a_delayed_task_waits_for_its_time() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let id = world.submit(&["--key", "later", "--delay", "2s", "--", "true"])?;
    let task = world.task(&id)?;
    assert_eq!(task["state"], "waiting");
    assert_eq!(world.submit(&["--key", "later", "--delay", "2s", "--", "true"])?, id, "the same task at another time");
    let not_before = task["not_before_unix_ms"].as_u64().context("a start time")?;
    assert!(world.json(&["why", &id, "--json"])?["summary"].to_string().contains("start time"));
    let task = world.wait_state(&id, &["succeeded"])?;
    assert!(task["attempts"][0]["started_unix_ms"].as_u64() >= Some(not_before), "{task}");
    Ok(())
}

#[test]
fn every_timeout_ends_its_task_with_its_reason() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let cases: [(&[&str], &str); 4] = [
        (&["--timeout", "300ms", "--tries", "1"], "timeout"),
        (&["--progress-timeout", "300ms", "--tries", "1"], "stalled"),
        (&["--total-timeout", "300ms"], "total_timeout"),
        (&["--queue-timeout", "300ms", "--require", "no=where"], "queue_timeout"),
    ];
    for (flags, reason) in cases {
        let id = world.submit(&[flags, &["--", "sleep", "1000"]].concat())?;
        let task = world.wait_state(&id, &["failed"])?;
        assert_eq!(task["reason"], reason, "{task}");
        assert_eq!(world.informer(&["wait", &id])?.status.code(), Some(124));
    }
    Ok(())
}

#[test]
fn a_service_is_kept_up_and_ends_when_it_is_cancelled() -> Result<()> {
    let mut api = Api::new(1)?;
    let argv = ["sh", "-c", "echo up; exec sleep 1000"].map(str::to_owned).to_vec();
    let restart = Some(v1::RestartPolicy { backoff_ms: 10, ..Default::default() });
    let service = v1::Service { argv, restart, health: None };
    let id = api.submit(v1::TaskSpec { kind: Some(v1::task_spec::Kind::Service(service)), ..Default::default() })?;
    for number in 1..=2 {
        api.world.wait_attempt(&id, number, &["running"])?;
        let inside = format!("INFORMER_TASK_ID={id}");
        let process =
            wait_for("its process is there", || tests::world::processes_with(inside.as_bytes()).first().copied())?;
        tests::world::kill(process);
    }
    let task = api.world.wait_attempt(&id, 3, &["running"])?;
    assert_eq!(task["attempts"][0]["reason"], "signal", "{task}");
    api.runtime.block_on(api.client.cancel(v1::CancelRequest { id: id.clone(), reason: String::new() }))?;
    assert_eq!(api.watch(&id)?.1.state(), TaskState::Cancelled);
    let stopped = format!("INFORMER_TASK_ID={id}");
    assert!(tests::world::processes_with(stopped.as_bytes()).is_empty(), "its process outlived the task");
    Ok(())
}

#[test]
fn a_failure_is_retried_with_back_off_and_a_final_code_is_not() -> Result<()> {
    let mut api = Api::new(1)?;
    let retry =
        v1::Retry { max_attempts: 3, backoff_ms: 10, backoff_cap_ms: 20, final_codes: vec![9], ..Default::default() };
    let id = api.submit(v1::TaskSpec { retry: Some(retry.clone()), ..sh("[ $INFORMER_ATTEMPT = 3 ] || exit 5") })?;
    let (_, task) = api.watch(&id)?;
    assert_eq!((task.state(), task.attempts.len()), (TaskState::Succeeded, 3));
    let retries =
        api.history(&id)?.iter().filter(|event| event.kind == "retry" && event.detail.contains("next try in")).count();
    assert_eq!(retries, 2);
    let id = api.submit(v1::TaskSpec { retry: Some(retry), ..sh("exit 9") })?;
    let (_, task) = api.watch(&id)?;
    assert_eq!((task.state(), task.attempts.len(), reason(&task)), (TaskState::Failed, 1, v1::Reason::ExitCode));
    let only = v1::Retry { max_attempts: 2, backoff_ms: 1, retriable_codes: vec![75], ..Default::default() };
    for (exit, attempts) in [(75, 2), (1, 1)] {
        let id = api.submit(v1::TaskSpec { retry: Some(only.clone()), ..sh(&format!("exit {exit}")) })?;
        let (_, task) = api.watch(&id)?;
        assert_eq!((task.state(), task.attempts.len()), (TaskState::Failed, attempts), "exit {exit}");
    }
    Ok(())
}

#[test]
fn a_memory_limit_ends_with_reason_oom() -> Result<()> {
    let mut api = Api::new(1)?;
    let limits = Some(v1::Limits { memory_bytes: 32 << 20, ..Default::default() });
    let id = api.submit(v1::TaskSpec { limits, ..sh("x=$(head -c 300000000 /dev/zero | tr '\\0' x); echo ${#x}") })?;
    let (_, task) = api.watch(&id)?;
    if reason(&task) != v1::Reason::Oom {
        let ending = task.ending.clone().unwrap_or_default();
        // Without a memory controller the limit is an rlimit, under which the shell itself reports the failure.
        println!("SKIP a_memory_limit_ends_with_reason_oom: no memory controller for us: {ending:?}");
        assert_eq!(task.state(), TaskState::Failed, "the limit was not enforced at all");
        return Ok(());
    }
    assert!(task.ending.is_some_and(|ending| ending.oom));
    Ok(())
}

#[test]
fn a_log_over_its_cap_is_cut_and_said_to_be() -> Result<()> {
    let mut api = Api::new(1)?;
    let id = api.submit(v1::TaskSpec { log_cap_bytes: 64 << 10, ..sh("head -c 1000000 /dev/zero; echo end >&2") })?;
    let (_, task) = api.watch(&id)?;
    assert_eq!(task.state(), TaskState::Succeeded, "a full log does not fail its task");
    assert!(task.ending.is_some_and(|ending| ending.truncated));
    let client = &mut api.client;
    let (bytes, truncated) = api.runtime.block_on(async {
        let mut stream = client
            .logs(v1::LogsRequest { id, only: v1::LogStream::Out.into(), ..Default::default() })
            .await?
            .into_inner();
        let (mut bytes, mut truncated) = (0, false);
        while let Some(chunk) = stream.message().await? {
            bytes += chunk.data.len();
            truncated |= chunk.truncated;
        }
        Ok::<_, Status>((bytes, truncated))
    })?;
    assert_eq!((bytes, truncated), (64 << 10, true));
    // Nor may a person at a terminal, or a script, take the rest for the whole.
    let cut = api.world.informer(&["run", "--log-cap", "10", "--name", "cut", "--", "echo", "123456789012345"])?;
    assert_eq!((cut.status.code(), cut.stdout.as_slice()), (Some(0), b"1234567890".as_slice()));
    assert!(String::from_utf8_lossy(&cut.stderr).contains("truncated"), "{cut:?}");
    let shown = api.world.json(&["list", "--name", "cut", "--json"])?;
    assert_eq!(shown[0]["attempts"][0]["truncated"], true, "{shown}");
    Ok(())
}

#[test]
fn each_task_and_attempt_has_an_identity_that_never_repeats() -> Result<()> {
    let mut api = Api::new(1)?;
    let mut ids = BTreeSet::new();
    for _ in 0..3 {
        let retry = Some(v1::Retry { max_attempts: 2, backoff_ms: 1, ..Default::default() });
        let line = "echo $INFORMER_TASK_ID $INFORMER_ATTEMPT $INFORMER_FENCE; exit 1";
        let id = api.submit(v1::TaskSpec { retry, ..named("same", line) })?;
        let (_, task) = api.watch(&id)?;
        for attempt in &task.attempts {
            let fence = attempt.fence.unwrap_or_default();
            assert!(ids.insert((fence.epoch, fence.n)), "a fence was given twice: {task:?}");
        }
        let log = api.world.informer(&["logs", &id])?;
        assert!(String::from_utf8_lossy(&log.stdout).starts_with(&id));
    }
    assert_eq!(ids.len(), 6);
    Ok(())
}
