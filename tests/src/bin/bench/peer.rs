//! Other people's systems, each behind a small driver in Python that speaks lines:
//!
//! ```text
//! driver                                   here
//!   ready NAME            ─────────────▶          or: skip REASON
//!                         ◀─────────────   run COUNT
//!   done SECONDS          ─────────────▶
//!                         ◀─────────────   stamp FIRST COUNT
//!   called NS NS …        ─────────────▶          the wall clock before each call
//! ```
//! A driver starts its servers on loopback, keeps their data below the directory it is given, and ends them when its stdin does.

use crate::contender::{Contender, Run};
use anyhow::{Context as _, Result, bail};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// One of them.
pub(crate) struct Peer {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts a driver: a script, and the variant it takes. The reason, if it cannot be had here.
    pub(crate) fn start(script: &str, variant: &str, dir: &Path, pipe: &Path) -> Result<Result<Self, String>> {
        let (Some(python), Some(drivers)) = (variable("BENCH_PYTHON"), variable("BENCH_PEERS")) else {
            return Ok(Err("tests/bench/run.sh prepares the peers; it was not asked to, or could not".to_owned()));
        };
        let data = dir.join(format!("{script}-{variant}"));
        std::fs::create_dir_all(&data)?;
        let log = std::fs::File::create(data.join("driver.log"))?;
        let mut child = Command::new(python)
            .arg(drivers.join(format!("{script}_driver.py")))
            .arg(variant)
            .arg(&data)
            .arg(crate::stamps::program())
            .arg(pipe)
            .current_dir(&data)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("cannot start Python")?;
        let stdout = BufReader::new(child.stdout.take().context("stdout was piped")?);
        let stdin = child.stdin.take();
        let mut peer = Self { name: script.to_owned(), child, stdin, stdout };
        let line = peer.line()?;
        match line.split_once(' ') {
            Some(("ready", name)) => name.clone_into(&mut peer.name),
            Some(("skip", reason)) => return Ok(Err(reason.to_owned())),
            _ => {
                let log = std::fs::read_to_string(data.join("driver.log")).unwrap_or_default();
                return Ok(Err(format!("its driver said {line:?}: {}", log.lines().last().unwrap_or_default())));
            }
        }
        Ok(Ok(peer))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    fn ask(&mut self, request: &str, answer: &str) -> Result<String> {
        writeln!(self.stdin.as_mut().context("its stdin is open until the end")?, "{request}")?;
        let line = self.line()?;
        let Some(rest) = line.strip_prefix(answer) else { bail!("{request:?} was answered by {line:?}") };
        Ok(rest.trim_start().to_owned())
    }
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

impl Contender for Peer {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn run(&mut self, count: usize) -> Result<Run> {
        let seconds = self.ask(&format!("run {count}"), "done")?.parse()?;
        Ok(Run { seconds, parts: Vec::new() })
    }

    fn stamp(&mut self, first: u64, count: u64) -> Result<Vec<u64>> {
        let calls = self.ask(&format!("stamp {first} {count}"), "called")?;
        calls.split(' ').map(|ns| Ok(ns.parse()?)).collect()
    }

    fn end(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Its end is the sign to stop.
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}
