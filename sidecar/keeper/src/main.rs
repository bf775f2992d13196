//! The keeper: owns one data directory and keeps the processes of its attempts, whoever else dies.
//!
//! ```text
//! keeper --data DIR [--detach] [--idle-ms N]
//! keeper --version
//! ```

mod cgroup;
mod daemon;
mod failpoint;
mod keep;
mod life;
mod link;
mod logs;
mod monitor;
mod spawn;
mod world;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use daemon::Owned;
use keep::{Keeper, Resumed};
use keeper::launch;
use world::World;

/// Without agent and attempts the keeper goes after this time: longer than an agent's restart takes.
const IDLE_EXIT_MS: u64 = 60_000;
/// Wrong arguments.
const EXIT_MISUSE: u8 = 2;

const HELP: &str = "\
keeper: keeps the processes of one sidecar's data directory; `sidecar run` starts it

usage: keeper --data DIR [--detach] [--idle-ms N]
       keeper --version

  --data DIR     the data directory; it has one keeper (exit status 75 if there is one)
  --detach       go on in the background once the socket listens
  --idle-ms N    exit after N milliseconds without agent and attempts (default 60000)";

/// What the command line asks for.
enum Asked {
    Keep(Arguments),
    /// To say this and go.
    Tell(String),
}

struct Arguments {
    data_dir: PathBuf,
    detach: bool,
    idle_ms: u64,
    /// Descriptor with the state of the process image before this one.
    resume: Option<i32>,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args_os().skip(1)) {
        Ok(Asked::Keep(arguments)) => arguments,
        Ok(Asked::Tell(text)) => {
            println!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            eprintln!("keeper: {message}; see keeper --help");
            return ExitCode::from(EXIT_MISUSE);
        }
    };
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("keeper: {error}");
            match error.downcast_ref::<daemon::Error>() {
                Some(daemon::Error::Taken { .. }) => ExitCode::from(launch::EXIT_TAKEN as u8),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let data_dir = std::path::absolute(&arguments.data_dir)?;
    let (mut owned, resumed) = match arguments.resume {
        Some(fd) => {
            let mut resumed = Resumed::read(fd)?;
            (resumed.owned(&data_dir)?, Some(resumed))
        }
        None => (Owned::take(&data_dir)?, None),
    };
    if arguments.detach
        && resumed.is_none()
        && let Some(code) = daemon::detach(&data_dir)?
    {
        return Ok(ExitCode::from(code as u8));
    }
    owned.sign();
    // An executable of another name, after an upgrade, is still the keeper.
    rustix::thread::set_name(c"keeper")?;
    let world = World::new(data_dir)?;
    let mut keeper = Keeper::new(world, owned, arguments.idle_ms.saturating_mul(1_000_000))?;
    if let Some(resumed) = resumed {
        keeper.resume(resumed);
    }
    keeper.run()?;
    Ok(ExitCode::SUCCESS)
}

fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Asked, String> {
    let (mut data_dir, mut detach, mut idle_ms, mut resume) = (None, false, IDLE_EXIT_MS, None);
    while let Some(argument) = arguments.next() {
        let mut value = |name: &str| arguments.next().ok_or(format!("{name} needs a value"));
        match argument.to_str() {
            Some("--data") => data_dir = Some(PathBuf::from(value("--data")?)),
            Some("--detach") => detach = true,
            Some("--idle-ms") => idle_ms = number(&value("--idle-ms")?)?,
            Some("--resume") => resume = Some(number(&value("--resume")?)?),
            Some("--help" | "-h") => return Ok(Asked::Tell(HELP.to_owned())),
            Some("--version" | "-V") => return Ok(Asked::Tell(launch::version_line())),
            _ => return Err(format!("unknown argument {}", argument.display())),
        }
    }
    let data_dir = data_dir.ok_or("--data DIR is missing")?;
    Ok(Asked::Keep(Arguments { data_dir, detach, idle_ms, resume }))
}

fn number<T: std::str::FromStr>(value: &OsString) -> Result<T, String> {
    value.to_str().and_then(|value| value.parse().ok()).ok_or(format!("{} is no number", value.display()))
}
