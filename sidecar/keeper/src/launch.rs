//! How the agent reaches its keeper: connect to the live one, else start one and connect.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::sys;

/// Name of the socket inside the data directory.
pub const SOCKET: &str = "keeper.sock";
/// Name of the lock inside the data directory; who holds it is the keeper.
pub const LOCK: &str = "keeper.lock";
/// Exit status of a keeper that found another one alive (`EX_TEMPFAIL`).
pub const EXIT_TAKEN: i32 = 75;

/// Attempts to start or reach a keeper before giving up: one is enough unless a keeper is just ending or just starting, which
/// takes it milliseconds; 2.5 s of both means that something else is wrong, and waiting longer would only hide it.
const TRIES: u32 = 50;
/// Between two tries, when another keeper holds the lock and does not listen (it is about to, or it is ending): nothing signals
/// either moment to a third process.
const PAUSE: Duration = Duration::from_millis(50);

/// Why there is no keeper to talk to.
#[derive(Debug)]
pub enum Error {
    /// The data directory cannot be opened.
    Data {
        /// The directory.
        dir: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The executable cannot be run.
    Start {
        /// The executable.
        exe: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The keeper ended before it listened.
    Ended {
        /// Its exit status, as the system words it.
        status: String,
        /// What it said.
        said: String,
    },
    /// A keeper holds the lock and cannot be reached.
    Unreachable {
        /// The last answer to connect.
        source: io::Error,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data { dir, source } => write!(out, "cannot open the data directory {}: {source}", dir.display()),
            Self::Start { exe, source } => write!(out, "cannot start the keeper {}: {source}", exe.display()),
            Self::Ended { status, said } => write!(out, "the keeper ended before it listened ({status}): {said}"),
            Self::Unreachable { source } => write!(out, "the running keeper cannot be reached: {source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Data { source, .. } | Self::Start { source, .. } | Self::Unreachable { source } => Some(source),
            Self::Ended { .. } => None,
        }
    }
}

/// What `keeper --version` says.
#[must_use]
pub fn version_line() -> String {
    format!("keeper {} (protocol {})", env!("CARGO_PKG_VERSION"), crate::wire::VERSION)
}

/// The version of the protocol that `keeper --version` tells, from its output.
#[must_use]
pub fn told_version(output: &str) -> Option<u32> {
    output.trim_end().strip_suffix(')')?.rsplit_once("(protocol ")?.1.parse().ok()
}

/// Connects to the keeper of a data directory, starting one detached if there is none. Blocking; at most a few milliseconds
/// unless another keeper is just ending.
///
/// The executable is started without `pre_exec`, so the standard library may use `posix_spawn`: forking a large agent would cost
/// time in proportion to its memory. The child exits, and is reaped here, once its detached descendant listens.
///
/// # Errors
/// See [`Error`].
pub fn ensure(data_dir: &Path, keeper_exe: &Path) -> Result<UnixStream, Error> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for attempt in 0..TRIES {
        match connect(data_dir)? {
            Ok(stream) => return Ok(stream),
            Err(source) => last = source,
        }
        let result = Command::new(keeper_exe)
            .arg("--data")
            .arg(data_dir)
            .arg("--detach")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output();
        let output = result.map_err(|source| Error::Start { exe: keeper_exe.to_owned(), source })?;
        match output.status.code() {
            Some(0) => {}
            Some(EXIT_TAKEN) if attempt > 0 => std::thread::sleep(PAUSE),
            Some(EXIT_TAKEN) => {}
            _ => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Err(Error::Ended { status: output.status.to_string(), said });
            }
        }
    }
    Err(Error::Unreachable { source: last })
}

/// Whether a keeper lives there. It is not disturbed: nothing connects to it.
#[must_use]
pub fn is_running(data_dir: &Path) -> bool {
    File::open(data_dir.join(LOCK)).is_ok_and(|lock| sys::is_locked(lock.as_fd()).unwrap_or(false))
}

/// Connects through the directory's descriptor, because a socket address holds 108 bytes and a data directory's path may not fit.
///
/// # Errors
/// The outer one: the directory cannot be opened. The inner one: nobody listens.
pub fn connect(data_dir: &Path) -> Result<io::Result<UnixStream>, Error> {
    let dir = File::open(data_dir).map_err(|source| Error::Data { dir: data_dir.to_owned(), source })?;
    Ok(UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_told_and_understood() {
        assert_eq!(told_version(&format!("{}\n", version_line())), Some(crate::wire::VERSION));
        assert_eq!((told_version("keeper 1.2.3"), told_version("(protocol x)")), (None, None));
    }
}
