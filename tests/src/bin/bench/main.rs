//! The benchmarks: `bench SECTION [--quick]`, started by `tests/bench/run.sh`, which gives it a file system and namespaces of its own.
//!
//! | module | holds |
//! |---|---|
//! | [`contender`] | everything that starts processes, seen alike; the rounds over all of them |
//! | [`bare`], [`ours`], [`peer`] | the contenders |
//! | [`throughput`], [`latency`], [`submit`], [`dispatch`], [`memory`], [`workflow`], [`scale`], [`peers`] | one section each |
//!
//! `docs/measurements/README.md` says what each section measures.

mod bare;
mod contender;
mod dispatch;
mod durable;
mod latency;
mod memory;
mod ours;
mod peer;
mod peers;
mod report;
mod scale;
mod stamps;
mod submit;
mod throughput;
mod usage;
mod workflow;

use anyhow::{Result, bail};
use std::path::Path;
use tests::{client, logical};

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Size {
    quick: bool,
}

impl Size {
    /// A twentieth when only the harness is tried.
    fn of(self, count: usize) -> usize {
        if self.quick { count / 20 } else { count }
    }

    fn rounds(self, rounds: usize) -> usize {
        if self.quick { 1 } else { rounds }
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (section, quick) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [section] => (section, false),
        [section, "--quick"] => (section, true),
        _ => bail!("usage: bench SECTION [--quick]; use tests/bench/run.sh"),
    };
    let size = Size { quick };
    let dir = std::env::temp_dir();
    let section: fn(&Path, Size) -> Result<()> = match section {
        "throughput" => throughput::run,
        "latency" => latency::run,
        "submit" => submit::run,
        "dispatch" => dispatch::run,
        "workflow" => workflow::run,
        "memory" => memory::run,
        "scale" => scale::run,
        "peers" => peers::run,
        _ => bail!("there is no section {section:?}"),
    };
    durable::show(&dir)?;
    section(&dir, size)
}
