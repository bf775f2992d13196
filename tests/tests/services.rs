//! Services: restarted as new attempts that nobody is charged for, looked after by command, HTTP and TCP.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use tests::world::{World, alive, binary, kill, wait_for};

/// A service that tells its process id and stays; `health` is a table of the task file.
fn service(world: &World, health: &str) -> Result<String> {
    let dir = world.dir().display();
    let file = format!(
        "name = \"svc\"\n\
         [retry]\ntries = 1\n\
         [service]\nargv = [\"sh\", \"-c\", \"rm -f {dir}/sick; echo $$ >> {dir}/starts; exec sleep 1000000\"]\n\
         [service.restart]\nbackoff = \"50ms\"\n{health}"
    );
    let path = world.dir().join("service.toml");
    std::fs::write(&path, file)?;
    world.submit(&["-f", path.to_str().context("a path in UTF-8")?])
}

fn attempts(task: &Value) -> &[Value] {
    task["attempts"].as_array().map_or(&[], Vec::as_slice)
}

/// Waits until the service has so many attempts and the last one runs, and is healthy if it has a check.
fn wait_attempt(world: &World, id: &str, number: usize, health: Option<&str>) -> Result<Value> {
    let mut last = Value::Null;
    let found = wait_for(&format!("attempt {number} runs, {health:?}"), || {
        last = world.task(id).ok()?;
        let running = attempts(&last).len() == number && last["state"] == "running";
        (running && last["health"].as_str() == health).then(|| last.clone())
    });
    found.with_context(|| format!("last seen: {last}"))
}

fn pid_of(world: &World, start: usize) -> Result<i32> {
    let line = wait_for("the service says that it started", || world.lines("starts").get(start).cloned())?;
    Ok(line.parse()?)
}

#[test]
fn a_service_that_is_killed_is_restarted_and_charged_to_nobody() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let id = service(&world, "")?;
    // More often than it has tries.
    for round in 0..3 {
        wait_attempt(&world, &id, round + 1, None)?;
        kill(pid_of(&world, round)?);
    }
    let task = wait_attempt(&world, &id, 4, None)?;
    for attempt in &attempts(&task)[..3] {
        assert_eq!((&attempt["state"], &attempt["signal"]), (&"failed".into(), &9.into()), "{task}");
    }
    let last = pid_of(&world, 3)?;
    ensure!(world.informer(&["cancel", &id])?.status.success(), "cancel");
    let task = world.wait_state(&id, &["cancelled", "failed", "succeeded"])?;
    assert_eq!(task["state"], "cancelled", "{task}");
    wait_for("its process is gone", || (!alive(last)).then_some(()))?;
    assert_eq!(world.lines("starts").len(), 4);
    Ok(())
}

#[test]
fn a_service_survives_its_agent_and_is_looked_after_by_the_next() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    let dir = world.dir().display().to_string();
    let check = format!(
        "[service.health]\ninterval = \"100ms\"\nfailures = 2\ncommand = {{ argv = [\"test\", \"!\", \"-e\", \"{dir}/sick\"] }}\n"
    );
    let id = service(&world, &check)?;
    wait_attempt(&world, &id, 1, Some("healthy"))?;
    world.kill_agent(0);
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    wait_attempt(&world, &id, 1, Some("healthy"))?;
    assert!(alive(pid_of(&world, 0)?));
    world.touch("sick")?;
    let task = wait_attempt(&world, &id, 2, Some("healthy"))?;
    assert_eq!(attempts(&task)[0]["reason"], "unhealthy", "{task}");
    Ok(())
}

#[test]
fn a_sick_service_is_restarted_by_its_command() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let dir = world.dir().display().to_string();
    let check = format!(
        "[service.health]\ninterval = \"100ms\"\nfailures = 2\ncommand = {{ argv = [\"test\", \"!\", \"-e\", \"{dir}/sick\"] }}\n"
    );
    let id = service(&world, &check)?;
    wait_attempt(&world, &id, 1, Some("healthy"))?;
    world.touch("sick")?;
    let task = wait_attempt(&world, &id, 2, Some("healthy"))?;
    assert_eq!(attempts(&task)[0]["reason"], "unhealthy", "{task}");
    let first = pid_of(&world, 0)?;
    wait_for("the sick process is gone", || (!alive(first)).then_some(()))?;
    assert_eq!(world.lines("starts").len(), 2);
    Ok(())
}

#[test]
fn a_sick_service_tells_what_its_probe_said() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let check = "[service.health]\ninterval = \"100ms\"\nfailures = 2\nstart_period = \"1ms\"\n\
                 command = { argv = [\"/no/such/probe\"] }\n";
    let id = service(&world, check)?;
    let task = wait_for("the first attempt is over", || {
        world.task(&id).ok().filter(|task| attempts(task).first().is_some_and(|first| first["reason"] == "unhealthy"))
    })?;
    let message = attempts(&task)[0]["message"].as_str().unwrap_or_default();
    assert!(message.contains("failed too often") && message.contains("/no/such/probe"), "{task}");
    Ok(())
}

/// Answers probes as long as the test wants: 200 and 503 as HTTP, and nothing but the connection as TCP.
struct Probed {
    address: SocketAddr,
    well: Arc<AtomicBool>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Probed {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (well, ends) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let (answer, stop) = (well.clone(), ends.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(mut stream) = stream else { continue };
                let status = if answer.load(Ordering::SeqCst) { "200 OK" } else { "503 Service Unavailable" };
                // A TCP probe says nothing and closes.
                let mut request = [0; 1024];
                if stream.read(&mut request).is_ok_and(|length| length > 0) {
                    let head = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                    let _ = stream.write_all(head.as_bytes());
                }
            }
        });
        Ok(Self { address, well, ends, thread: Some(thread) })
    }
}

impl Drop for Probed {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn a_sick_service_is_restarted_by_http() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let probed = Probed::start()?;
    let check = format!(
        "[service.health]\ninterval = \"100ms\"\nfailures = 2\nhttp = {{ url = \"http://{}/healthz\" }}\n",
        probed.address
    );
    let id = service(&world, &check)?;
    wait_attempt(&world, &id, 1, Some("healthy"))?;
    probed.well.store(false, Ordering::SeqCst);
    pid_of(&world, 1)?;
    probed.well.store(true, Ordering::SeqCst);
    let task = wait_for("a later attempt is healthy", || {
        world.task(&id).ok().filter(|task| attempts(task).len() > 1 && task["health"] == "healthy")
    })?;
    assert_eq!(attempts(&task)[0]["reason"], "unhealthy", "{task}");
    Ok(())
}

#[test]
fn a_sick_service_is_restarted_by_tcp() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let probed = Probed::start()?;
    let address = probed.address;
    let check = format!("[service.health]\ninterval = \"100ms\"\nfailures = 2\ntcp = {{ address = \"{address}\" }}\n");
    let id = service(&world, &check)?;
    wait_attempt(&world, &id, 1, Some("healthy"))?;
    drop(probed);
    pid_of(&world, 1)?;
    let task = world.task(&id)?;
    assert_eq!(attempts(&task)[0]["reason"], "unhealthy", "{task}");
    Ok(())
}

/// The example, found healthy by what it answers itself.
#[test]
fn the_example_server_is_killed_and_healthy_again() -> Result<()> {
    let test = "the_example_server_is_killed_and_healthy_again";
    let server = binary("hello-http");
    if !server.exists() {
        println!("SKIP {test}: {} is not built", server.display());
        return Ok(());
    }
    let world = World::with_sidecars(1)?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let file = format!(
        "[service]\nargv = [\"{}\", \"--port\", \"{port}\"]\n[service.restart]\nbackoff = \"50ms\"\n\
         [service.health]\ninterval = \"100ms\"\nhttp = {{ url = \"http://127.0.0.1:{port}/healthz\" }}\n",
        server.display()
    );
    let path = world.dir().join("hello.toml");
    std::fs::write(&path, file)?;
    let id = world.submit(&["-f", path.to_str().context("a path in UTF-8")?])?;
    wait_attempt(&world, &id, 1, Some("healthy"))?;
    let first: i32 = get(port, "/pid")?.trim().parse()?;
    kill(first);
    wait_attempt(&world, &id, 2, Some("healthy"))?;
    let second: i32 = get(port, "/pid")?.trim().parse()?;
    assert_ne!(first, second);
    Ok(())
}

fn get(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split_once("\r\n\r\n").context("a head and a body")?.1.to_owned())
}

#[test]
fn a_service_has_no_timeouts() -> Result<()> {
    let world = World::with_sidecars(0)?;
    let path = world.dir().join("service.toml");
    std::fs::write(&path, "[service]\nargv = [\"sleep\", \"1000000\"]\n")?;
    let path = path.to_str().context("a path in UTF-8")?;
    for flag in ["--timeout", "--total-timeout", "--progress-timeout"] {
        let refused = world.informer(&["submit", flag, "1s", "-f", path])?;
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{flag}: {said}");
        assert!(said.contains("service") && said.trim().lines().count() == 1, "{flag}: {said}");
    }
    Ok(())
}
