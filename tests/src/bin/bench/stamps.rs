//! Stamps: each started process writes its own clock into one named pipe.

use crate::contender::Contender;
use anyhow::{Context as _, Result, ensure};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// No stamp takes longer; only a hang meets it.
const LONGEST: Duration = Duration::from_secs(60);

/// The pipe and what came out of it.
pub(crate) struct Stamps {
    pipe: PathBuf,
    lines: mpsc::Receiver<(u64, u64)>,
    next: u64,
}

/// Nanoseconds of the wall clock, which processes share.
pub(crate) fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// The program that leaves a stamp.
pub(crate) fn program() -> PathBuf {
    tests::world::binary("bench_stamp")
}

impl Stamps {
    /// Makes the pipe in `dir` and reads it.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        let pipe = dir.join("stamps");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0)?;
        // Also open for writing, so that it never ends between two writers.
        let file = std::fs::File::options().read(true).write(true).open(&pipe)?;
        let (sender, lines) = mpsc::channel();
        // Ends with this process: nothing ever closes the pipe.
        std::thread::Builder::new().name("stamps".to_owned()).spawn(move || {
            for line in BufReader::new(file).lines().map_while(Result::ok) {
                let numbers = line.split_once(' ').and_then(|(id, ns)| Some((id.parse().ok()?, ns.parse().ok()?)));
                let Some(stamp) = numbers else { continue };
                if sender.send(stamp).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { pipe, lines, next: 0 })
    }

    /// The pipe's path.
    pub(crate) fn pipe(&self) -> &Path {
        &self.pipe
    }

    /// An id that nobody used.
    pub(crate) fn fresh(&mut self, count: u64) -> u64 {
        let first = self.next;
        self.next += count;
        first
    }

    /// Milliseconds from each call to its process's start.
    pub(crate) fn measure(&mut self, contender: &mut dyn Contender, count: u64) -> Result<Vec<f64>> {
        let first = self.fresh(count);
        let calls = contender.stamp(first, count).with_context(|| contender.name())?;
        ensure!(calls.len() as u64 == count, "{}: {} of {count} were started", contender.name(), calls.len());
        self.since(first, &calls).with_context(|| contender.name())
    }

    /// Milliseconds between calls, whose ids follow `first`, and their stamps.
    pub(crate) fn since(&self, first: u64, calls: &[u64]) -> Result<Vec<f64>> {
        let mut missing: BTreeMap<u64, u64> = (first..).zip(calls.iter().copied()).collect();
        let mut all = Vec::new();
        while !missing.is_empty() {
            let (id, at_ns) =
                self.lines.recv_timeout(LONGEST).with_context(|| format!("{} never started", missing.len()))?;
            if let Some(call_ns) = missing.remove(&id) {
                all.push(at_ns.saturating_sub(call_ns) as f64 / 1e6);
            }
        }
        Ok(all)
    }
}
