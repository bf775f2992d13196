//! Conductor's own client for Python (conductor-python) as the independent side of the REST interface: it registers, starts, polls, fails,
//! logs and completes, as `examples/conductor/worker.py` has it, and the command line sees what it did.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use tests::world::{World, binary};

/// The interpreter with `conductor-python`, which `tests/run.sh` puts below the target directory.
fn python() -> Option<PathBuf> {
    let python = binary("informer").parent()?.parent()?.join("python/bin/python");
    let works = Command::new(&python).args(["-c", "import conductor.client"]).output();
    works.is_ok_and(|output| output.status.success()).then_some(python)
}

/// The worker's process; it ends with the test.
struct Worker {
    process: Child,
    out: BufReader<ChildStdout>,
}

impl Worker {
    fn start(python: &Path, world: &World, name: &str) -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/conductor/worker.py");
        let mut process = Command::new(python)
            .arg(script)
            .arg(name)
            .env("CONDUCTOR_SERVER_URL", format!("{}/api", world.url()))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env_remove("CONDUCTOR_AUTH_SECRET")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the worker cannot be run")?;
        let out = BufReader::new(process.stdout.take().context("its output")?);
        Ok(Self { process, out })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.out.read_line(&mut line)?;
        ensure!(!line.is_empty(), "the worker has ended and said nothing");
        Ok(line.trim_end().to_owned())
    }

    /// Tells it to end; gives back what it says last.
    fn end(mut self) -> Result<String> {
        drop(self.process.stdin.take());
        let mut last = String::new();
        self.out.read_to_string(&mut last)?;
        let status = self.process.wait()?;
        ensure!(status.success(), "the worker failed: {status}");
        Ok(last)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // One that has ended is killed by nobody.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn told(world: &World, words: &[&str]) -> Result<Value> {
    let out = world.informer(words)?;
    ensure!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(serde_json::from_slice(&out.stdout)?)
}

#[test]
fn a_worker_of_conductors_own_package_polls_fails_logs_and_completes() -> Result<()> {
    let Some(python) = python() else {
        println!("SKIP conductor: no conductor-python; tests/run.sh installs it where pip reaches its index");
        return Ok(());
    };
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    let mut worker = Worker::start(&python, &world, "Grace")?;
    let id = worker.line()?;
    let run = told(&world, &["workflow", "wait", &id, "--json"])?;
    assert_eq!((&run["status"], &run["output"]), (&json!("COMPLETED"), &json!({"said": "HELLO GRACE"})), "{run}");

    let seen: Value = serde_json::from_str(&worker.end()?)?;
    assert_eq!(
        seen,
        json!({
            "status": "COMPLETED",
            "output": {"said": "HELLO GRACE"},
            "tasks": [["greet", "FAILED", 0], ["greet", "COMPLETED", 1], ["shout", "COMPLETED", 0]],
            "reason": "not in the mood",
            "log": ["try 1"],
            "found": [id],
        })
    );
    let history = told(&world, &["workflow", "history", &id, "--json"])?;
    let logged = history.as_array().context("lines")?.iter().filter(|line| line["kind"] == "logged");
    assert_eq!(logged.map(|line| line["payload"].clone()).collect::<Vec<_>>(), ["try 0", "try 1"]);
    let chart = told(&world, &["workflow", "chart", &id, "--json"])?;
    assert_eq!(
        (&chart["nodes"][1]["reference"], &chart["nodes"][1]["retries"]),
        (&json!("greet"), &json!(1)),
        "{chart}"
    );
    Ok(())
}
