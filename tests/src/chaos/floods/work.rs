//! What users' work does: output without end, a service that never answers.

use super::{Scene, size};
use crate::chaos::{Case, Family, Outcome, Round};
use crate::world::{alive, wait_for};
use anyhow::{Context as _, Result, ensure};
use proto::bounds;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Bytes that the task writes, in the ordinary and in the long run.
const OUTPUT_BYTES: (u64, u64) = (256 << 20, 10 << 30);
/// What may lie on the sidecar's disk while it writes: the cap, and what the quickest writer adds between two looks. Judged where times are.
const DISK_BYTES: u64 = bounds::LOG_CAP_DEFAULT_BYTES + (1 << 30);
/// Its log on the way up, unoptimised, kB.
const UPLOAD_KB: u64 = 32 << 10;

/// A task that writes and writes.
pub static OUTPUT: Case = Case {
    fault: "a task that floods its stdout",
    how: "head -c 10G /dev/zero (ordinary run: 256 MiB) under the default cap of 64 MiB",
    family: Family::Floods,
    needs: &[],
    run: output,
};

fn output(round: &mut Round) -> Result<Outcome> {
    let bytes = size(round, OUTPUT_BYTES.0, OUTPUT_BYTES.1);
    let mut scene = Scene::new(round, 1, "1s", UPLOAD_KB)?;
    let data = scene.world.sidecars[0].data.clone();
    let id = scene.world.submit(&["--", "sh", "-c", &format!("head -c {bytes} /dev/zero; echo end >&2")])?;
    scene.world.wait_state(&id, &["running", "succeeded", "failed"])?;
    scene.serve_work()?;
    let mut most_bytes = 0;
    let task = wait_for("the task has written all", || {
        most_bytes = most_bytes.max(disk_bytes(&data));
        let task = scene.world.task(&id).ok()?;
        (task["state"] == "succeeded" || task["state"] == "failed").then_some(task)
    })?;
    let kept_bytes = disk_bytes(&data);
    let log = scene.world.informer(&["logs", &id])?;
    let mut outcome = scene.outcome(&format!(
        "{} MiB written, {} MiB kept and marked truncated, at most {} MiB on the disk",
        bytes >> 20,
        log.stdout.len() >> 20,
        most_bytes >> 20
    ))?;
    let mut check = |right: bool, what: String| {
        if !right {
            outcome.violations.push(what);
        }
    };
    let cap = bounds::LOG_CAP_DEFAULT_BYTES;
    check(task["state"] == "succeeded", format!("the task ended as {}", task["state"]));
    check(log.stdout.len() as u64 == cap, format!("{} bytes of its log are there, not {cap}", log.stdout.len()));
    check(log.stdout.iter().all(|byte| *byte == 0), "its log is another's".to_owned());
    let told =
        task.to_string().contains("\"truncated\":true") || String::from_utf8_lossy(&log.stderr).contains("truncated");
    check(told, format!("nothing says that it was cut: {task}"));
    check(kept_bytes <= cap + (64 << 20), format!("{kept_bytes} bytes are left on the disk"));
    check(!round.timed || most_bytes <= DISK_BYTES, format!("{most_bytes} bytes were on the disk"));
    Ok(outcome)
}

/// Bytes that the files below a directory occupy.
fn disk_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            Some(if metadata.is_dir() { disk_bytes(&entry.path()) } else { metadata.blocks() * 512 })
        })
        .sum()
}

/// A service that takes every connection and never says a word.
struct Mute {
    url: String,
    /// Connections so far.
    came: Arc<AtomicUsize>,
    stopping: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<Vec<TcpStream>>>,
}

impl Mute {
    fn new() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let (came, stopping) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counts, stops) = (Arc::clone(&came), Arc::clone(&stopping));
        let thread = std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming().flatten() {
                if stops.load(Ordering::SeqCst) {
                    break;
                }
                counts.fetch_add(1, Ordering::SeqCst);
                held.push(stream);
            }
            held
        });
        Ok(Self { url, came, stopping, thread: Some(thread) })
    }
}

impl Drop for Mute {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        let woken = TcpStream::connect(self.url.trim_start_matches("http://"));
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            let _held = thread.join();
        }
    }
}

/// Tasks that the service is given: less than the sidecar's slots, so that the other one is nobody's.
const STARTS: usize = 3;
/// Slots of the sidecar.
const SLOTS: &str = "4";

/// A remote service with callbacks that never answers.
pub static SERVICE: Case = Case {
    fault: "a remote service that never answers",
    how: "an executor with callbacks whose endpoint takes connections and says nothing; attempts of 2 s",
    family: Family::Floods,
    needs: &[],
    run: service,
};

fn service(round: &mut Round) -> Result<Outcome> {
    let mute = Mute::new()?;
    let mut scene = Scene::new(round, 0, "1s", 0)?;
    scene.world.start_sidecar(0, &["--slots", SLOTS, "--cpu", "4000"], &[])?;
    scene.world.wait_linked(1)?;
    let put = scene.world.informer(&["executor", "put", "mute", "--url", &mute.url, "--callback"])?;
    ensure!(put.status.success(), "{}", String::from_utf8_lossy(&put.stderr));
    let submit = ["--type", "mute", "--input", "{}", "--tries", "1", "--timeout", "2s"];
    let ids = (0..STARTS).map(|_| scene.world.submit(&submit)).collect::<Result<Vec<_>>>()?;
    wait_for("the service has been called for each", || (mute.came.load(Ordering::SeqCst) >= STARTS).then_some(()))?;
    scene.serve()?;
    scene.serve_work()?;
    let mut ended = Vec::new();
    for id in &ids {
        let task = scene.world.wait_state(id, &["succeeded", "failed", "cancelled"])?;
        ended.push(format!(
            "{} ({})",
            task["state"].as_str().context("a state")?,
            task["reason"].as_str().context("a reason")?
        ));
    }
    scene.serve_work()?;
    let mut outcome = scene.outcome(&format!("{STARTS} attempts ended: {}", ended.join(", ")))?;
    if ended.iter().any(|end| end != "failed (timeout)") {
        outcome.violations.push(format!("a task without an answer ended as {ended:?}"));
    }
    if !scene.world.agent(0).is_some_and(alive) {
        outcome.violations.push("the agent is gone".to_owned());
    }
    Ok(outcome)
}
