//! The command line `sidecar`.

mod emit;
mod progress;
mod run;
mod status;
mod talk;

use crate::{agent, config};
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use proto::settings::environment;
use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// What is logged, as directives of `tracing`.
const LOG: &str = "SIDECAR_LOG";
/// Exit status where what was asked for cannot be meant, as of a command line that cannot be read.
const MISUSE: u8 = 2;

/// The sidecar: runs next to a worker and gives it tasks from an informer.
#[derive(Debug, Parser)]
#[command(name = "sidecar", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Take tasks from an informer and run them here, until SIGTERM or Ctrl-C. Running tasks are left for the next `sidecar run` on
    /// the same data directory.
    Run(Box<run::Arguments>),
    /// Show a sidecar's id, informer, lease, keeper and attempts; works with the sidecar dead, too.
    Status(status::Arguments),
    /// Tell how far the task is that this runs in; it shows in `informer show`, and the task does not count as standing still.
    Progress(progress::Arguments),
    /// Give the task that this runs in a child, or say that there will be no more; returns once the informer has it, durably. Exits with 75
    /// where it is not acknowledged yet: emitting it again is harmless.
    Emit(emit::Arguments),
    /// Supervise one transcode: how the sidecar runs ffmpeg.
    #[command(hide = true)]
    ExecTranscode {
        /// The job that the agent has written.
        job: PathBuf,
    },
    /// Make one HTTP request: how the sidecar runs a task that is one.
    #[command(hide = true)]
    ExecHttp {
        /// The input that the agent has written.
        job: PathBuf,
    },
    /// Become crun: how the sidecar runs a container.
    #[command(hide = true)]
    ExecContainer {
        /// The program.
        crun: PathBuf,
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

/// The id belongs to another process, so that starting again mends nothing: the unit in `examples/systemd` heeds it.
const EXIT_SUPERSEDED: u8 = 3;

/// Parses the arguments and does what they say.
#[must_use]
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let read = environment::read(Cli::command(), &args);
    let (cli, wrong) = match read.and_then(|line| Ok((Cli::from_arg_matches(&line.matches)?, line.faults))) {
        Ok(read) => read,
        // Ends with 2 on misuse and 0 on --help, having said why.
        Err(error) => error.exit(),
    };
    let wrong = faults(&cli, wrong);
    if !wrong.is_empty() {
        eprintln!("{}", wrong.join("\n"));
        return ExitCode::from(MISUSE);
    }
    let done = match cli.verb {
        Verb::ExecTranscode { job } => return crate::exec::transcode::main(&job),
        Verb::ExecHttp { job } => return crate::exec::http::main(&job),
        Verb::Emit(arguments) => match emit::emit(&arguments) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Verb::Run(arguments) => run::run(*arguments),
        Verb::ExecContainer { crun, args } => return crate::exec::container::main(&crun, &args),
        Verb::Status(arguments) => status::status(&arguments),
        Verb::Progress(arguments) => progress::progress(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Each error of ours names its cause already. A file's faults stand as editors and terminals find them.
            match error.downcast_ref::<config::Error>() {
                Some(config::Error::Faults(faults)) => eprintln!("{faults}"),
                _ => eprintln!("sidecar: {error}"),
            }
            match error.downcast_ref::<agent::Error>() {
                Some(agent::Error::Superseded(_)) => ExitCode::from(EXIT_SUPERSEDED),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// Everything that is wrong with the environment of `sidecar run`, given what its flags' variables have; and then with its file as well,
/// since whoever mends the one wants to mend the other, too.
fn faults(cli: &Cli, mut wrong: Vec<String>) -> Vec<String> {
    if let Verb::Run(arguments) = &cli.verb {
        if let Some(problem) = std::env::var(LOG).ok().and_then(|text| config::directives(&text).err()) {
            wrong.push(format!("{LOG}: {problem}"));
        }
        wrong.extend(run::label_faults());
        if !wrong.is_empty() {
            wrong.extend(arguments.file_fault());
        }
    }
    wrong
}

/// Lines on stderr; `SIDECAR_LOG` takes the directives of `tracing`'s environment filter, and what is `configured` comes after it.
fn log_to_stderr(configured: Option<&str>) -> anyhow::Result<()> {
    let filter = match std::env::var(LOG) {
        Ok(text) => config::directives(&text).map_err(|problem| anyhow::anyhow!("{LOG}: {problem}"))?,
        Err(_) => config::directives(configured.unwrap_or(config::LOG)).map_err(anyhow::Error::msg)?,
    };
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(false)
        .init();
    Ok(())
}

/// Where a sidecar lives unless told: `$XDG_STATE_HOME/sidecar`, else `~/.local/state/sidecar`.
fn default_data() -> anyhow::Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")));
    state
        .map(|state| state.join("sidecar"))
        .ok_or_else(|| anyhow::anyhow!("neither XDG_STATE_HOME nor HOME is set; name a data directory with --data"))
}
