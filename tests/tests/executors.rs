//! Registered executors on real processes: a command that stands for a type, and a remote service that is polled or calls back.

use anyhow::{Context as _, Result, ensure};
use proto::v1::executor::Mode;
use proto::v1::informer_client::InformerClient;
use proto::v1::{self, task_spec::Kind};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tests::world::{World, wait_for};
use tokio::runtime::Runtime;
use tonic::transport::Channel;

/// A world, and a client that registers and submits.
struct Types {
    world: World,
    runtime: Runtime,
    client: InformerClient<Channel>,
}

impl Types {
    fn new() -> Result<Self> {
        let world = World::with_sidecars(1)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let client = runtime.block_on(connect(world.url()))?;
        Ok(Self { world, runtime, client })
    }

    fn register(&mut self, kind: &str, mode: Mode) -> Result<()> {
        let executor = Some(v1::Executor { r#type: kind.to_owned(), mode: Some(mode), ..Default::default() });
        self.runtime.block_on(self.client.put_executor(v1::PutExecutorRequest { executor, replace: true }))?;
        Ok(())
    }

    fn submit(&mut self, kind: &str, input: &str) -> Result<String> {
        let typed = v1::Typed { r#type: kind.to_owned(), input: input.to_owned() };
        let retry = Some(v1::Retry { max_attempts: 1, ..Default::default() });
        let spec = Some(v1::TaskSpec { kind: Some(Kind::Typed(typed)), retry, ..Default::default() });
        let request = v1::SubmitRequest { spec, key: String::new() };
        Ok(self.runtime.block_on(self.client.submit(request))?.into_inner().id)
    }

    /// The ended task, and its stdout.
    fn ended(&self, id: &str) -> Result<(Value, String)> {
        let task = self.world.wait_state(id, &["succeeded", "failed", "cancelled"])?;
        let logs = self.world.informer(&["logs", id])?;
        Ok((task, String::from_utf8(logs.stdout)?))
    }
}

async fn connect(url: &str) -> Result<InformerClient<Channel>> {
    let channel = tonic::transport::Endpoint::from_shared(url.to_owned())?.connect().await?;
    Ok(InformerClient::new(channel))
}

fn command(argv: &[&str]) -> Mode {
    Mode::Command(v1::Command { argv: argv.iter().map(|&argument| argument.to_owned()).collect() })
}

#[test]
fn a_command_gets_the_input_as_argument_variable_or_file() -> Result<()> {
    let mut types = Types::new()?;
    types.register("greet", command(&["sh", "-c", "echo \"$1, $TASK_INPUT\"", "sh", "to {input}"]))?;
    let id = types.submit("greet", "you & $me")?;
    let (task, out) = types.ended(&id)?;
    assert_eq!((&task["state"], out.as_str()), (&"succeeded".into(), "to you & $me, you & $me\n"), "{task}");

    types.register("count", command(&["sh", "-c", "wc -c < \"$TASK_INPUT_FILE\""]))?;
    let id = types.submit("count", &"x".repeat(200_000))?;
    let (task, out) = types.ended(&id)?;
    assert_eq!((&task["state"], out.trim()), (&"succeeded".into(), "200000"), "{task}");

    // Too long for an argument: said so, and not the sidecar's fault.
    let id = types.submit("greet", &"x".repeat(200_000))?;
    let (task, _) = types.ended(&id)?;
    ensure!(task["state"] == "failed" && task.to_string().contains("TASK_INPUT_FILE"), "{task}");
    Ok(())
}

#[test]
fn a_replaced_command_counts_at_once_and_a_restarted_sidecar_knows_it() -> Result<()> {
    let mut types = Types::new()?;
    types.register("which", command(&["echo", "first"]))?;
    let id = types.submit("which", "")?;
    assert_eq!(types.ended(&id)?.1, "first\n");
    types.register("which", command(&["echo", "second"]))?;
    let id = types.submit("which", "")?;
    assert_eq!(types.ended(&id)?.1, "second\n");
    let kept = types.world.sidecars[0].data.join("executors");
    wait_for("the set is kept", || {
        let kept = std::fs::read(&kept).ok()?;
        kept.windows(6).any(|window| window == b"second").then_some(())
    })?;
    types.world.kill_agent(0);
    types.world.kill_informer();
    types.world.start_informer(&[])?;
    types.world.start_sidecar(0, &[], &[])?;
    types.world.wait_linked(1)?;
    types.client = types.runtime.block_on(connect(types.world.url()))?;
    let id = types.submit("which", "")?;
    assert_eq!(types.ended(&id)?.1, "second\n");
    Ok(())
}

/// Starts an informer that dies when it passes `point`; if that is before it listens, one that passes it more often first.
#[cfg(feature = "faults")]
fn start_doomed(world: &mut World, point: &str) -> Result<()> {
    let plans = (1..=50).map(|nth| format!("{point}:{nth}"));
    for plan in plans {
        if world.start_informer(&[("INFORMER_FAILPOINT", &plan)]).is_ok() {
            return Ok(());
        }
    }
    anyhow::bail!("with a death at {point} it never listens")
}

#[cfg(feature = "faults")]
fn informer_dies_while_it_registers(point: &str) -> Result<()> {
    let mut world = World::empty()?;
    start_doomed(&mut world, point)?;
    let put = ["executor", "put", "echo", "--json", "--command", "--", "echo", "said {input}"];
    let mut client = tests::world::life::Watched::new(world.informer_started(&put)?)?;
    wait_for("the informer dies", || world.informer_has_ended().then_some(()))?;
    world.start_informer(&[])?;
    // Whose answer was lost asks again by itself.
    ensure!(client.wait()?.success(), "{point}: the registration failed");
    let told: Value = serde_json::from_slice(&client.stdout)?;
    let check = |world: &World| -> Result<()> {
        let all = world.json(&["executor", "list", "--json"])?;
        let ids: Vec<_> = all.as_array().context("a list")?.iter().map(|executor| &executor["id"]).collect();
        assert_eq!(ids, [&told["id"]], "{point}: {all}");
        Ok(())
    };
    check(&world)?;
    let again = world.json(&put)?;
    assert_eq!((&again["id"], &again["existed"]), (&told["id"], &true.into()), "{point}");
    world.kill_informer();
    world.start_informer(&[])?;
    check(&world)?;
    let other = world.informer(&["executor", "put", "echo", "--command", "--", "false"])?;
    assert_eq!(other.status.code(), Some(1), "{point}: {}", String::from_utf8_lossy(&other.stderr));
    world.start_sidecar(0, &[], &[])?;
    let id = world.submit(&["--type", "echo", "--input", "it"])?;
    world.wait_state(&id, &["succeeded"])?;
    assert_eq!(world.informer(&["logs", &id])?.stdout, b"said it\n", "{point}");
    Ok(())
}

#[cfg(feature = "faults")]
#[test]
fn an_informer_that_dies_around_a_registration_has_it_whole_or_not_and_once() -> Result<()> {
    ["before-apply", "after-apply", "before-commit", "after-commit", "after-reply"]
        .into_iter()
        .try_for_each(informer_dies_while_it_registers)
}

/// A service that remembers what it was asked, and says of every attempt what the test wants it to.
struct Service {
    url: String,
    shared: Arc<Shared>,
    serving: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// Method and path, with the idempotency key and the body.
    asked: Mutex<Vec<(String, String, Value)>>,
    /// Answers to POST: status; the last one stays.
    starts: Mutex<Vec<u16>>,
    status: Mutex<Value>,
    closed: AtomicBool,
}

impl Service {
    fn new(starts: &[u16]) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}/api", listener.local_addr()?);
        let shared = Arc::new(Shared { starts: Mutex::new(starts.to_vec()), ..Default::default() });
        *shared.status.lock().expect("no panic") = json!({"state": "running", "permille": 300, "note": "so far"});
        let held = shared.clone();
        let serving = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if held.closed.load(Ordering::Relaxed) {
                    return;
                }
                // A client that gives up early costs the service nothing.
                let _broken = answer(&held, stream);
            }
        });
        Ok(Self { url, shared, serving: Some(serving) })
    }

    fn mode(&self, poll_ms: u64, callback: bool) -> Mode {
        Mode::Service(v1::RemoteService { url: self.url.clone(), poll_ms, callback })
    }

    fn say(&self, status: Value) {
        *self.shared.status.lock().expect("no panic") = status;
    }

    fn asked(&self, what: &str) -> Vec<(String, String, Value)> {
        let asked = self.shared.asked.lock().expect("no panic");
        asked.iter().filter(|(line, ..)| line.starts_with(what)).cloned().collect()
    }

    fn wait_asked(&self, what: &str) -> Result<(String, String, Value)> {
        wait_for(&format!("the service is asked {what}"), || self.asked(what).into_iter().next())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        let address = self.url.trim_start_matches("http://").trim_end_matches("/api");
        let _woken = TcpStream::connect(address);
        if let Some(serving) = self.serving.take() {
            let _ended = serving.join();
        }
    }
}

/// One request a connection.
fn answer(shared: &Shared, mut stream: TcpStream) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let (mut length, mut key) = (0, String::new());
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim().split_once(": ") else { break };
        match name.to_lowercase().as_str() {
            "content-length" => length = value.parse()?,
            "idempotency-key" => value.clone_into(&mut key),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let line = line.trim_end_matches(" HTTP/1.1\r\n").to_owned();
    let (status, text) = match line.split(' ').next() {
        Some("POST") => {
            let mut starts = shared.starts.lock().expect("no panic");
            let status = if starts.len() > 1 { starts.remove(0) } else { starts[0] };
            (status, "as you wish".to_owned())
        }
        Some("GET") => (200, shared.status.lock().expect("no panic").to_string()),
        _ => (204, String::new()),
    };
    shared.asked.lock().expect("no panic").push((line, key, body));
    let length = text.len();
    write!(stream, "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{text}")?;
    Ok(())
}

#[test]
fn a_remote_service_is_started_polled_and_gives_its_output() -> Result<()> {
    let mut types = Types::new()?;
    // A start that fails in passing is repeated under the same key.
    let service = Service::new(&[503, 202])?;
    types.register("remote", service.mode(50, false))?;
    let id = types.submit("remote", "the input")?;
    wait_for("progress is shown", || (types.world.task(&id).ok()?["progress"]["percent"] == 30.0).then_some(()))?;
    service.say(json!({"state": "succeeded", "output": "done over there\n"}));
    let (task, out) = types.ended(&id)?;
    assert_eq!((&task["state"], out.as_str()), (&"succeeded".into(), "done over there\n"), "{task}");
    let starts = service.asked("POST /api/tasks");
    assert_eq!(starts.len(), 2, "{starts:?}");
    for (_, key, body) in &starts {
        assert_eq!(key, &format!("{id}.1"));
        assert_eq!(body, &json!({"task": id, "attempt": 1, "type": "remote", "input": "the input"}));
    }
    ensure!(!service.asked(&format!("GET /api/tasks/{id}.1")).is_empty());
    Ok(())
}

#[test]
fn a_remote_service_that_refuses_or_fails_fails_the_task_and_a_cancel_reaches_it() -> Result<()> {
    let mut types = Types::new()?;
    let service = Service::new(&[422])?;
    types.register("remote", service.mode(50, false))?;
    let id = types.submit("remote", "nonsense")?;
    let (task, _) = types.ended(&id)?;
    ensure!(task["state"] == "failed" && task.to_string().contains("422"), "{task}");

    let service = Service::new(&[200])?;
    types.register("remote", service.mode(50, false))?;
    service.say(json!({"state": "failed", "error": "no more paper", "exit_code": 7}));
    let id = types.submit("remote", "")?;
    let (task, _) = types.ended(&id)?;
    ensure!(task["exit_code"] == 7 && task.to_string().contains("no more paper"), "{task}");

    service.say(json!({"state": "running"}));
    let id = types.submit("remote", "")?;
    service.wait_asked(&format!("GET /api/tasks/{id}.1"))?;
    ensure!(types.world.informer(&["cancel", &id])?.status.success());
    assert_eq!(types.ended(&id)?.0["state"], "cancelled");
    service.wait_asked(&format!("DELETE /api/tasks/{id}.1"))?;
    Ok(())
}

#[test]
fn a_callback_ends_the_task_before_the_next_poll() -> Result<()> {
    let mut types = Types::new()?;
    let service = Service::new(&[202])?;
    // No poll would come within the test's patience.
    types.register("remote", service.mode(3_600_000, true))?;
    let id = types.submit("remote", "")?;
    let (_, _, body) = service.wait_asked("POST /api/tasks")?;
    let callback = body["callback_url"].as_str().context("a callback's URL")?.to_owned();
    types.world.wait_state(&id, &["running"])?;
    let (address, path) = callback.trim_start_matches("http://").split_once('/').context("a path")?;
    let report = |path: &str| -> Result<String> {
        let body = json!({"state": "succeeded", "output": "called back\n"}).to_string();
        let mut stream = TcpStream::connect(address)?;
        let length = body.len();
        write!(
            stream,
            "POST /{path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.lines().next().unwrap_or_default().to_owned())
    };
    let forged = path.split_once("token=").context("a token")?.0.to_owned() + "token=1-999999";
    ensure!(!report(&forged)?.contains("202"), "a report without the right to it was taken");
    ensure!(report(path)?.contains("202"));
    let (task, out) = types.ended(&id)?;
    assert_eq!((&task["state"], out.as_str()), (&"succeeded".into(), "called back\n"), "{task}");
    // A second report comes too late and changes nothing.
    report(path)?;
    assert_eq!(types.world.task(&id)?["state"], "succeeded");
    Ok(())
}

#[test]
fn a_keeper_that_dies_leaves_what_runs_within_the_agent_alone() -> Result<()> {
    let mut types = Types::new()?;
    let service = Service::new(&[202])?;
    types.register("remote", service.mode(50, false))?;
    let id = types.submit("remote", "")?;
    types.world.wait_state(&id, &["running"])?;
    let before = types.world.keeper(0);
    types.world.kill_keeper(0)?;
    wait_for("another keeper runs", || types.world.keeper(0).filter(|keeper| Some(*keeper) != before))?;
    // The next keeper has listed what it found once it runs something.
    ensure!(types.world.informer(&["run", "--", "true"])?.status.success());
    service.say(json!({"state": "succeeded", "output": "none the wiser\n"}));
    let (task, out) = types.ended(&id)?;
    assert_eq!((&task["state"], out.as_str()), (&"succeeded".into(), "none the wiser\n"), "{task}");
    assert_eq!(task["attempts"].as_array().map(Vec::len), Some(1), "{task}");
    Ok(())
}

#[test]
fn what_ran_within_an_agent_that_died_is_lost_and_started_anew() -> Result<()> {
    let mut types = Types::new()?;
    let service = Service::new(&[202])?;
    types.register("remote", service.mode(50, false))?;
    let id = types.submit("remote", "")?;
    types.world.wait_state(&id, &["running"])?;
    types.world.kill_agent(0);
    types.world.start_sidecar(0, &[], &[])?;
    wait_for("it is started anew", || {
        service.asked("POST /api/tasks").iter().any(|(_, key, _)| *key == format!("{id}.2")).then_some(())
    })?;
    service.say(json!({"state": "succeeded"}));
    let (task, _) = types.ended(&id)?;
    let attempts = task["attempts"].as_array().context("attempts")?;
    assert_eq!((attempts.len(), &task["state"]), (2, &"succeeded".into()), "{task}");
    assert_eq!((&attempts[0]["state"], &attempts[0]["reason"]), (&"lost".into(), &"lost".into()), "{task}");
    Ok(())
}

#[test]
fn an_agent_that_ends_in_order_hands_back_what_runs_within_it() -> Result<()> {
    let mut types = Types::new()?;
    let service = Service::new(&[202])?;
    types.register("remote", service.mode(50, false))?;
    let id = types.submit("remote", "")?;
    types.world.wait_state(&id, &["running"])?;
    ensure!(types.world.terminate_agent(0)?.success());
    service.wait_asked(&format!("DELETE /api/tasks/{id}.1"))?;
    types.world.start_sidecar(0, &[], &[])?;
    let task = types.world.wait_attempt(&id, 2, &["running"])?;
    assert_eq!(task["attempts"][0]["reason"], "drained", "{task}");
    ensure!(types.world.informer(&["cancel", &id])?.status.success());
    types.ended(&id)?;
    Ok(())
}
