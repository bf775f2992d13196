//! Users' scripts: JavaScript and jq, run in child processes with limits.
//!
//! ```text
//!  run of a workflow ─▶ Pool ─▶ queue ─▶ host 1 (informer script-host) ─▶ QuickJS │ jaq
//!                                        host 2 …                       each request a fresh engine
//! ```
//!
//! | what a script does | what ends it |
//! |---|---|
//! | loops for ever | the engine's clock; where the engine does not look at it, the kernel (`RLIMIT_CPU`), which ends the host |
//! | takes memory | QuickJS's own limit; jq has none: the kernel (`RLIMIT_AS`), and the host ends |
//! | recurses | QuickJS's own limit; jq: the end of the stack, and the host ends |
//! | stalls, or takes its host along | the deadline by the wall clock, SIGKILL |
//!
//! Whatever it does, it does to its own request. A host that ended is replaced by the next request that needs one; a host is never
//! shared by two requests at a time, and never outlives the informer.
//!
//! | file | holds |
//! |---|---|
//! | `pool` | places, the queue, the thread that starts hosts |
//! | `process` | one host, seen from here: start, ask, kill, why it died |
//! | `program` | which program a host is |
//! | `host` | one host from within: limits, then requests |
//! | `wire` | what the two say to each other |
//! | `engine` | JavaScript and jq |
//! | `listing` | the scripts of a definition |

mod engine;
mod host;
mod listing;
mod pool;
mod process;
mod program;
#[cfg(test)]
mod tests;
mod wire;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use workflow::evaluate::Scripts;

pub(crate) use host::{Args as HostArgs, run as serve_as_host};
pub use listing::{Script, scripts_of};
use pool::Hosts;
pub(crate) use program::is_informer;
use wire::Request;

/// Most hosts at once. A script computes and never waits, so more than there are processors would only take turns, each with memory
/// of its own.
const MOST_HOSTS: usize = 4;
/// The heap of a script: an input of 10 MiB becomes ten times as much in JavaScript's objects. Doubled, four hosts could take 4 GiB.
const MEMORY_BYTES: u64 = 256 << 20;
/// Processor time of a script, what Conductor grants as well: conditions take microseconds, so whoever needs seconds loops.
const CPU: Duration = Duration::from_secs(4);
/// Time by the clock on the wall: many times the processor time, so that on a loaded machine no script fails for want of a turn.
const WALL: Duration = Duration::from_secs(60);
/// How long a host stays without work: a run's next script comes sooner, and an informer without workflows keeps none.
const IDLE: Duration = Duration::from_secs(60);

/// A language of scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Language {
    /// JavaScript in sloppy mode; `$` is the input, the value of the last expression is the result.
    JavaScript,
    /// jq, whose outputs are the result.
    Jq,
}

/// Limits, and where the hosts' program is.
#[derive(Debug, Clone)]
pub struct Config {
    /// A binary `informer` of this build. None: this program if it is the informer, else the file `informer` beside it.
    pub program: Option<PathBuf>,
    /// Scripts at once; at least 1.
    pub hosts: usize,
    /// The heap of a JavaScript program. A whole host may map twice as much beyond its start.
    pub memory_bytes: u64,
    /// Processor time of a script.
    pub cpu: Duration,
    /// Time by the wall clock until a host that does not answer is killed.
    pub wall: Duration,
    /// How long a host without work is kept; at most twice as long it lives.
    pub idle: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            program: None,
            hosts: processors.min(MOST_HOSTS),
            memory_bytes: MEMORY_BYTES,
            cpu: CPU,
            wall: WALL,
            idle: IDLE,
        }
    }
}

/// Why a script gave no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("{}{message}", line.map(|line| format!("line {line}: ")).unwrap_or_default())]
    Syntax {
        /// Counted from 1.
        line: Option<u32>,
        /// What is wrong.
        message: String,
    },
    /// It threw something.
    #[error("{message}")]
    Thrown {
        /// What it threw, in words.
        message: String,
    },
    /// It, its input or its result is too large.
    #[error("the {what} has more than {limit_bytes} bytes; leave out what is not needed")]
    TooLarge {
        /// Script, input or result.
        what: &'static str,
        /// The bound.
        limit_bytes: usize,
    },
    /// It did not end in time.
    #[error("it was stopped after {} s; look for a loop that does not end", limit.as_secs_f32())]
    TooSlow {
        /// The time it was granted.
        limit: Duration,
    },
    /// It needed too much memory.
    #[error("it needed more than {limit_bytes} bytes of memory")]
    OutOfMemory {
        /// The heap it was granted.
        limit_bytes: u64,
    },
    /// It recursed too deeply, or its input or result nests too deeply.
    #[error("it recursed, or its values are nested, too deeply")]
    TooDeep,
    /// The result is JSON that cannot be taken.
    #[error("its result cannot be taken: {0}")]
    Result(#[source] serde_json::Error),
    /// The engine failed.
    #[error("the engine failed on it: {said}")]
    Engine {
        /// The engine's last words.
        said: String,
    },
    /// Its host was killed, twice.
    #[error("the process that ran it was killed ({how}), and so was the next")]
    Lost {
        /// How it ended.
        how: String,
    },
    /// There is no program that could be a host.
    #[error(
        "scripts run in processes of the program informer, and there is none at {}; put it there, or name it in the configuration \
         of scripts",
        looked_at.display()
    )]
    NoProgram {
        /// Where it was looked for.
        looked_at: PathBuf,
    },
    /// A program is no host, or of another build.
    #[error("{} cannot run scripts ({said}); use the informer of this build", program.display())]
    NoHost {
        /// The program.
        program: PathBuf,
        /// What it said.
        said: String,
    },
    /// A host cannot be started.
    #[error("cannot start {} to run a script: {source}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// This process has no room for another thread or descriptor.
    #[error("cannot make ready to run a script: {source}")]
    NoRoom {
        /// The system's answer.
        source: io::Error,
    },
    /// The informer is stopping.
    #[error("the informer is stopping")]
    Closed,
}

impl Error {
    /// The script, its input or its result is to blame: the same would happen again.
    #[must_use]
    pub fn is_of_script(&self) -> bool {
        match self {
            Self::Syntax { .. }
            | Self::Thrown { .. }
            | Self::TooLarge { .. }
            | Self::TooSlow { .. }
            | Self::OutOfMemory { .. }
            | Self::TooDeep
            | Self::Result(_)
            | Self::Engine { .. } => true,
            Self::Lost { .. }
            | Self::NoProgram { .. }
            | Self::NoHost { .. }
            | Self::Start { .. }
            | Self::NoRoom { .. }
            | Self::Closed => false,
        }
    }
}

/// Runs scripts, each in a process with limits.
///
/// Hosts are started by the first scripts that need them and end when idle. All calls block: for a place (first come, first served;
/// there are [`Config::hosts`]), then for at most [`Config::wall`], and where somebody kills the host, for as long again. Dropping
/// the pool, or [`close`](Self::close), ends all hosts.
pub struct Pool {
    hosts: Hosts,
}

impl Pool {
    /// A pool without hosts as yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { hosts: Hosts::new(config) }
    }

    /// The value of a JavaScript program whose `$` is `input`. `undefined` and `NaN` are null, a date is its ISO text.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn javascript(&self, source: &str, input: &Value) -> Result<Value, Error> {
        self.value(Language::JavaScript, source, input)
    }

    /// The outputs of a jq program for `input`, in their order.
    ///
    /// # Errors
    /// See [`Error`]; what it gave before it threw is lost.
    pub fn jq(&self, source: &str, input: &Value) -> Result<Vec<Value>, Error> {
        match self.value(Language::Jq, source, input)? {
            Value::Array(outputs) => Ok(outputs),
            other => Err(Error::Engine { said: format!("it gave {other} in place of a list") }),
        }
    }

    /// Whether a program can be read; it is not run.
    ///
    /// # Errors
    /// [`Error::Syntax`] with the line if not, or why that cannot be told.
    pub fn syntax(&self, language: Language, source: &str) -> Result<(), Error> {
        self.ask(Request { language, source, input: None }).map(drop)
    }

    /// Ends all hosts, also those at work. Who waits gets [`Error::Closed`], and so does whoever comes later.
    pub fn close(&self) {
        self.hosts.close();
    }

    fn value(&self, language: Language, source: &str, input: &Value) -> Result<Value, Error> {
        let input = input.to_string();
        if input.len() > wire::INPUT_BYTES {
            return Err(Error::TooLarge { what: "input", limit_bytes: wire::INPUT_BYTES });
        }
        let text = self.ask(Request { language, source, input: Some(&input) })?;
        serde_json::from_str(&text).map_err(Error::Result)
    }

    fn ask(&self, request: Request<'_>) -> Result<String, Error> {
        if request.source.len() > wire::SOURCE_BYTES {
            return Err(Error::TooLarge { what: "script", limit_bytes: wire::SOURCE_BYTES });
        }
        let reply = self.hosts.ask(&request)?;
        reply.result.map_err(|fault| process::error(fault, self.hosts.config()))
    }
}

impl Scripts for Pool {
    fn javascript(&self, script: &str, input: &Value) -> Result<Value, String> {
        self.javascript(script, input).map_err(|error| error.to_string())
    }

    fn jq(&self, program: &str, input: &Value) -> Result<Vec<Value>, String> {
        self.jq(program, input).map_err(|error| error.to_string())
    }
}
