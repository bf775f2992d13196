//! What flows while something breaks: a mix of tasks, each with all that the checker must know about it.

use super::probe::Probe;
use crate::files::{command, output};
use crate::sim::Rng;
use proto::v1::{self, task_spec::Kind};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between a stop signal and SIGKILL. Short, since stubborn tasks sit it out.
pub const GRACE: Duration = Duration::from_millis(300);
/// More losses than a round can cause: what fails by them has lost more than was broken.
const LOSSES: u32 = 50;

/// One task of a round.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its key, and its name.
    pub key: String,
    /// What its process does.
    pub probe: Probe,
    /// As it is submitted.
    pub spec: v1::TaskSpec,
    /// Where its outputs are published.
    pub outputs: Vec<PathBuf>,
    /// How it is to end.
    pub ends: Ends,
}

/// How a task is to end, whatever breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// With code 0.
    Well,
    /// With its own code, after this many tries of its own.
    Badly {
        /// Tries.
        tries: u32,
    },
    /// Cancelled while it runs; it may have ended before.
    Cancelled,
    /// It stays until the round is over, and is cancelled then.
    Stays,
}

/// The kinds of a mix, in turn.
const KINDS: [&str; 10] =
    ["short", "strays", "exclusive", "outputs", "stop", "service", "stubborn", "failing", "cancelled", "longer"];

impl Job {
    /// A job of a kind; `dir` is the probes' directory, outputs go to `out` beside it.
    fn new(kind: &str, number: usize, dir: &Path, rng: &mut Rng) -> Self {
        let key = format!("{kind}-{number:02}");
        let mut job = Self {
            probe: Probe {
                millis: rng.range(50, 400),
                lines: u32::try_from(rng.range(0, 400)).unwrap_or(0),
                ..Probe::default()
            },
            spec: v1::TaskSpec::default(),
            outputs: Vec::new(),
            ends: Ends::Well,
            key,
        };
        let mut on_disconnect = v1::OnDisconnect::Continue;
        match kind {
            "strays" => job.probe.strays = 2,
            "exclusive" => {
                // Without a namespace what a task has left may outlive its monitor: weak fencing, which these tasks accept.
                let strays = u32::from(rustix::process::geteuid().is_root());
                (job.probe.alone, job.probe.strays, job.probe.millis) = (true, strays, rng.range(300, 1200));
                on_disconnect = v1::OnDisconnect::Stop;
            }
            "outputs" => job.probe.outputs = 2,
            "stop" => {
                (job.probe.alone, job.probe.millis) = (true, rng.range(300, 1200));
                on_disconnect = v1::OnDisconnect::Stop;
            }
            "service" => (job.probe.millis, job.ends) = (0, Ends::Stays),
            "stubborn" => {
                (job.probe.stubborn, job.probe.strays, job.probe.millis) = (true, 1, 0);
                job.ends = Ends::Cancelled;
            }
            "failing" => (job.probe.exit, job.ends) = (3, Ends::Badly { tries: 2 }),
            "cancelled" => (job.probe.millis, job.ends) = (0, Ends::Cancelled),
            "held" => {
                // It sits out its grace, so that a copy that is started too early meets it.
                (job.probe.alone, job.probe.stubborn, job.probe.millis, job.ends) = (true, true, 0, Ends::Stays);
                on_disconnect = v1::OnDisconnect::Stop;
            }
            "kept" => (job.probe.millis, job.ends) = (0, Ends::Stays),
            "longer" => job.probe.millis = rng.range(1000, 2500),
            _ => {}
        }
        job.spec = job.describe(dir, kind, on_disconnect);
        job
    }

    fn describe(&mut self, dir: &Path, kind: &str, on_disconnect: v1::OnDisconnect) -> v1::TaskSpec {
        let argv = self.probe.argv(dir, &self.key);
        let out = dir.with_file_name("out");
        self.outputs = (0..self.probe.outputs).map(|n| out.join(format!("{}-{n}", self.key))).collect();
        let tries = if let Ends::Badly { tries } = self.ends { tries } else { 1 };
        let mut spec = command(&argv.iter().map(String::as_str).collect::<Vec<_>>());
        if kind == "service" {
            let restart = v1::RestartPolicy { backoff_ms: 50, ..v1::RestartPolicy::default() };
            spec.kind = Some(Kind::Service(v1::Service { argv, restart: Some(restart), health: None }));
        }
        spec.name = self.key.clone();
        spec.owner = "chaos".to_owned();
        spec.exclusive = kind == "exclusive";
        spec.accept_weak_fencing = spec.exclusive;
        spec.resources = Some(v1::Resources { cpu_millis: 500, memory_bytes: 1 << 20 });
        spec.retry = Some(v1::Retry {
            max_attempts: tries,
            max_infrastructure: LOSSES,
            backoff_ms: 20,
            backoff_cap_ms: 200,
            ..v1::Retry::default()
        });
        spec.stop = Some(v1::Stop { grace_ms: u64::try_from(GRACE.as_millis()).unwrap_or(1), ..v1::Stop::default() });
        spec.outputs = self.outputs.iter().enumerate().map(|(n, to)| output(&format!("out-{n}"), to)).collect();
        spec.set_on_disconnect(on_disconnect);
        spec
    }

    /// The same key with another payload, which must be refused.
    #[must_use]
    pub fn other_payload(&self) -> v1::TaskSpec {
        v1::TaskSpec { priority: self.spec.priority + 1, ..self.spec.clone() }
    }
}

/// So many jobs, of every kind in turn, in a shuffled order.
#[must_use]
pub fn mix(count: usize, dir: &Path, rng: &mut Rng) -> Vec<Job> {
    let mut jobs: Vec<Job> = (0..count).map(|n| Job::new(KINDS[n % KINDS.len()], n, dir, rng)).collect();
    for n in (1..jobs.len()).rev() {
        let other = usize::try_from(rng.range(0, n as u64)).unwrap_or(0);
        jobs.swap(n, other);
    }
    jobs
}

/// So many jobs of one kind; beside those of a mix `held` (it stays, and stops with its lease) and `kept` (it stays, and runs on).
#[must_use]
pub fn only(kind: &str, count: usize, dir: &Path, rng: &mut Rng) -> Vec<Job> {
    (0..count).map(|n| Job::new(kind, n, dir, rng)).collect()
}
