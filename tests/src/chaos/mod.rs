//! Faults, tried on the real binaries and real processes.
//!
//! A [`Case`] is one fault: it builds a world, lets tasks flow, does its harm, heals, and tells what happened as an [`Outcome`]. What
//! clients were told ([`recorder`]) and what processes did (each writes that itself: [`probe`]) is judged by one [`checker`].
//! The ordinary test run plays each case once and judges order only ([`play`]); `tests/chaos.sh` plays more rounds, judges times too, and
//! writes the table of faults ([`report`]).
//!
//! ```text
//! case ─▶ world (informer, sidecars) ◀── clients ──▶ history.jsonl ─┐
//!   └─ fault ──▶     │                                              ├─▶ checker ─▶ violations ─▶ outcome ─▶ report
//!                    └─ probes ──────▶ acts ────────────────────────┘
//! ```

pub mod checker;
pub mod client;
pub mod clocks;
pub mod damage;
pub mod disks;
pub mod floods;
pub mod flow;
mod group;
pub mod identity;
pub mod job;
pub mod kills;
pub mod lease_page;
pub mod limits;
pub mod network;
pub mod pressure;
pub mod probe;
pub mod processes;
mod promises;
pub mod recorder;
pub mod report;
pub mod stops;
mod sys;

pub use crate::world::secure::run;

use crate::sim::Rng;
use anyhow::{Context as _, Result, ensure};
use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The seed of the ordinary test run; `CHAOS_SEED` plays another.
const SEED: u64 = 1;

/// One fault and how it is played.
#[derive(Debug)]
pub struct Case {
    /// What breaks, in a few words: the first column of the table. Unique.
    pub fault: &'static str,
    /// How it is broken here: the second column.
    pub how: &'static str,
    /// Which list it is in.
    pub family: Family,
    /// Without these it is skipped.
    pub needs: &'static [Need],
    /// Plays one round.
    pub run: fn(&mut Round) -> Result<Outcome>,
}

/// Cases that belong together; `tests/chaos.sh` takes their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `kill -9` of each role.
    Kills,
    /// Cuts, losses, resets, delays.
    Network,
    /// SIGSTOP of each role.
    Stops,
    /// Full, failing and damaged disks, power cuts.
    Disks,
    /// Jumping clocks.
    Clocks,
    /// Memory, processes, processor time, open files.
    Limits,
    /// What users' processes do: daemons, closed pipes, ignored signals.
    Processes,
    /// More of everything than there is room for.
    Floods,
}

impl Family {
    /// All of them, as the table shows them.
    pub const ALL: [Self; 8] = [
        Self::Kills,
        Self::Network,
        Self::Stops,
        Self::Disks,
        Self::Clocks,
        Self::Limits,
        Self::Processes,
        Self::Floods,
    ];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kills => "kills",
            Self::Network => "network",
            Self::Stops => "stops",
            Self::Disks => "disks",
            Self::Clocks => "clocks",
            Self::Limits => "limits",
            Self::Processes => "processes",
            Self::Floods => "floods",
        }
    }

    /// The family of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.name() == name)
    }

    /// Its cases, as the table shows them.
    #[must_use]
    pub fn cases(self) -> &'static [&'static Case] {
        match self {
            Self::Kills => kills::CASES,
            Self::Network => network::CASES,
            Self::Stops => stops::CASES,
            Self::Disks => disks::CASES,
            Self::Clocks => clocks::CASES,
            Self::Limits => limits::CASES,
            Self::Processes => processes::CASES,
            Self::Floods => floods::CASES,
        }
    }
}

/// What a case cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The rights of root.
    Root,
    /// A program.
    Tool(&'static str),
    /// A file or directory, such as a device.
    File(&'static str),
}

impl Need {
    /// Why it is not met.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Root => (!rustix::process::geteuid().is_root()).then(|| "needs root".to_owned()),
            Self::Tool(name) => (!is_installed(name)).then(|| format!("{name} is not installed")),
            Self::File(path) => (!Path::new(path).exists()).then(|| format!("there is no {path}")),
        }
    }
}

fn is_installed(name: &str) -> bool {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    path.split(':').any(|dir| Path::new(dir).join(name).is_file())
}

/// One playing of a case.
#[derive(Debug)]
pub struct Round {
    /// The whole of its chance.
    pub seed: u64,
    /// Counted from 0 within a run.
    pub number: u32,
    /// Choices that follow from the seed.
    pub rng: Rng,
    /// Whether times are judged too, and not order alone.
    pub timed: bool,
    /// A directory of its own, removed with it.
    pub scratch: PathBuf,
    /// The deliberate mistake in informer or sidecars: its variable and its name.
    pub bug: Option<(&'static str, &'static str)>,
}

impl Round {
    /// A round with its directory.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn new(seed: u64, number: u32, timed: bool) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let n = COUNTER.fetch_add(1, Ordering::Relaxed);
        let scratch = std::env::temp_dir().join(format!("informer-chaos-{}-{n:04}", std::process::id()));
        std::fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
        // Neighbouring rounds share nothing but the run's seed.
        let rng = Rng::new(seed ^ u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Ok(Self { seed, number, rng, timed, scratch, bug: None })
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("TESTS_KEEP").is_some() {
            eprintln!("kept for a look: {}", self.scratch.display());
        } else {
            let _gone = std::fs::remove_dir_all(&self.scratch);
        }
    }
}

/// What a round showed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// In one sentence, for the table.
    pub happened: String,
    /// From the fault to the first sign that the system knows; `None` where there is nothing to notice.
    pub detected: Option<Duration>,
    /// From the fault (or from the healing, where the system cannot go on before) until work went on.
    pub recovered: Option<Duration>,
    /// Acknowledged tasks, accepted results or log bytes that are gone.
    pub lost: u64,
    /// Results or outputs that were accepted twice, keys with two tasks, `exclusive` copies that overlapped.
    pub doubled: u64,
    /// What the checker found, one line each; none if all is well.
    pub violations: Vec<String>,
}

/// A case finds out while it runs that the machine does not let it; it counts as skipped.
#[derive(Debug)]
pub struct Absent(pub String);

impl Display for Absent {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Absent {}

/// How a round went.
#[derive(Debug)]
pub enum Played {
    /// To its end.
    Done(Outcome),
    /// Not at all, for this reason.
    Skipped(String),
}

impl Case {
    /// Its name as a word, as `SKIP` lines have it.
    #[must_use]
    pub fn slug(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphabetic() { c.to_ascii_lowercase() } else { '_' };
        format!("chaos::{}::{}", self.family.name(), self.fault.chars().map(plain).collect::<String>())
    }

    /// Plays one round, unless something that it needs is missing.
    ///
    /// # Errors
    /// The round cannot be played to its end: something hangs, or its world cannot be built.
    pub fn round(&self, round: &mut Round) -> Result<Played> {
        if let Some(reason) = self.needs.iter().find_map(|need| need.missing()) {
            return Ok(Played::Skipped(reason));
        }
        match (self.run)(round) {
            Ok(outcome) => Ok(Played::Done(outcome)),
            Err(error) => match error.downcast::<Absent>() {
                Ok(absent) => Ok(Played::Skipped(absent.0)),
                Err(error) => Err(error),
            },
        }
    }
}

/// Plays a case once, as the ordinary test run does: order is judged, times are not.
///
/// # Errors
/// Anything is violated, or the round does not come to its end.
pub fn play(case: &Case) -> Result<()> {
    let seed = std::env::var("CHAOS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(SEED);
    let slug = case.slug();
    let told = || format!("{slug}; again: CHAOS_SEED={seed}");
    let mut round = Round::new(seed, 0, false)?;
    match case.round(&mut round).with_context(told)? {
        Played::Skipped(reason) => println!("SKIP {slug}: {reason}"),
        Played::Done(outcome) => {
            println!("{slug}: {}", outcome.happened);
            let violations = outcome.violations.join("\n");
            ensure!(violations.is_empty(), "{}\n{violations}", told());
            ensure!((outcome.lost, outcome.doubled) == (0, 0), "{}\n{outcome:?}", told());
        }
    }
    Ok(())
}

/// Now, on the clock that every probe and every lease counts by (`CLOCK_BOOTTIME`).
#[must_use]
pub fn now() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
}
