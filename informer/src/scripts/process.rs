//! One host as the informer has it: a child process and the socket to it.
//!
//! ```text
//!  started ─HELLO─▶ idle ◀─reply── asked          any silence, nonsense or missed deadline: killed, and never asked again
//! ```

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::engine::Fault;
use super::program::Program;
use super::wire::{self, Reply, Request};
use super::{Config, Error};

/// A host says hello after milliseconds; a machine that needs this long for it is down in all but name.
const HELLO_WAIT: Duration = Duration::from_secs(30);
/// Bytes of a dead host's last words: a line or two.
const WORDS_BYTES: u64 = 4 << 10;

/// A host. Dropping it kills it.
pub(super) struct Host {
    child: Child,
    channel: UnixStream,
}

/// Why a host gave no reply; it is of no use any more.
#[derive(Debug)]
pub(super) enum Death {
    /// The script is to blame.
    Script(Error),
    /// The script need not be to blame: somebody killed the host.
    Lost(String),
}

impl Host {
    /// Starts one and waits until it is locked in. It dies with the thread that calls this.
    pub(super) fn start(program: &Program, config: &Config) -> Result<Self, Error> {
        let path = program.path();
        let failed = |source: io::Error| Error::Start { program: path.to_owned(), source };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let mut command = Command::new(path);
        command.arg0("informer").arg("script-host");
        command.arg("--memory-bytes").arg(config.memory_bytes.to_string());
        command.arg("--cpu-ms").arg(config.cpu.as_millis().to_string());
        // Ctrl-C at the informer's terminal is for the informer, which may have scripts to finish.
        command.env_clear().process_group(0);
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().map_err(failed)?;
        // The command holds the other end of the socket, whose end would not show while it does.
        drop(command);
        let mut host = Self { child, channel: ours };
        host.greet(path)?;
        Ok(host)
    }

    fn greet(&mut self, path: &Path) -> Result<(), Error> {
        let mut channel = Until { channel: &self.channel, end: Instant::now() + HELLO_WAIT };
        match wire::read_frame(&mut channel, wire::HELLO.len()) {
            Ok(hello) if hello == wire::HELLO => Ok(()),
            Ok(_) => Err(self.not_a_host(path, "it is of another version".to_owned())),
            Err(error) => {
                let (status, words) = self.end();
                let said = if words.is_empty() { format!("{error}, {status}") } else { words };
                Err(self.not_a_host(path, said))
            }
        }
    }

    fn not_a_host(&self, path: &Path, said: String) -> Error {
        Error::NoHost { program: path.to_owned(), said }
    }

    /// A second hold on the socket, by which another thread can end a request.
    pub(super) fn socket(&self) -> io::Result<UnixStream> {
        self.channel.try_clone()
    }

    /// Its process.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it lives. One that died idle is not asked.
    pub(super) fn lives(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it, and waits for the reply until the deadline. After an error it is dead.
    pub(super) fn ask(&mut self, request: &Request<'_>, config: &Config) -> Result<Reply, Death> {
        let mut channel = Until { channel: &self.channel, end: Instant::now() + config.wall };
        let bytes = wire::write_frame(&mut channel, &request.encode())
            .and_then(|()| wire::read_frame(&mut channel, wire::REPLY_BYTES));
        let problem = match bytes {
            Ok(bytes) => match Reply::decode(&bytes) {
                Ok(reply) => return Ok(reply),
                Err(error) => error.to_string(),
            },
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                self.end();
                return Err(Death::Script(Error::TooSlow { limit: config.wall }));
            }
            Err(error) => error.to_string(),
        };
        let (status, words) = self.end();
        Err(cause(status, &words, config).map_or_else(|| Death::Lost(format!("{problem}, {status}")), Death::Script))
    }

    /// Kills it, and gives how it had ended and what it said last.
    fn end(&mut self) -> (ExitStatus, String) {
        // One that ended by itself keeps its status.
        let _ = self.child.kill();
        let status = self.child.wait().unwrap_or_else(|_| ExitStatus::from_raw(Signal::KILL.as_raw()));
        let mut words = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            // The other end is closed, so this does not wait.
            let _ = stderr.take(WORDS_BYTES).read_to_end(&mut words);
        }
        let words = String::from_utf8_lossy(&words);
        (status, words.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a script did to its host, if it was a script. The words are those of Rust's runtime.
fn cause(status: ExitStatus, words: &str, config: &Config) -> Option<Error> {
    if status.signal() == Some(Signal::XCPU.as_raw()) {
        return Some(Error::TooSlow { limit: config.cpu });
    }
    if words.contains("overflowed its stack") || status.signal() == Some(Signal::SEGV.as_raw()) {
        return Some(Error::TooDeep);
    }
    if words.contains("memory allocation of") || words.contains("capacity overflow") {
        return Some(Error::OutOfMemory { limit_bytes: config.memory_bytes });
    }
    let fell = status.signal() == Some(Signal::ABORT.as_raw()) || words.contains("panicked");
    fell.then(|| Error::Engine { said: words.to_owned() })
}

/// What a fault of an engine is to a user.
pub(super) fn error(fault: Fault, config: &Config) -> Error {
    match fault {
        Fault::Syntax { line, message } => Error::Syntax { line, message },
        Fault::Thrown(message) => Error::Thrown { message },
        Fault::TooLarge => Error::TooLarge { what: "result", limit_bytes: wire::OUTPUT_BYTES },
        Fault::TooSlow => Error::TooSlow { limit: config.cpu },
        Fault::OutOfMemory => Error::OutOfMemory { limit_bytes: config.memory_bytes },
    }
}

/// A socket with one deadline for all that is read and written.
struct Until<'a> {
    channel: &'a UnixStream,
    end: Instant,
}

impl Until<'_> {
    fn left(&self) -> io::Result<Duration> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

fn timed(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.channel.set_read_timeout(Some(self.left()?))?;
        (&mut &*self.channel).read(buffer).map_err(timed)
    }
}

impl Write for Until<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.channel.set_write_timeout(Some(self.left()?))?;
        (&mut &*self.channel).write(buffer).map_err(timed)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_is_laid_to_the_script_only_if_it_was_its_doing() {
        let config = Config::default();
        let cause = |status: i32, words: &str| cause(ExitStatus::from_raw(status), words, &config);
        let (aborted, panicked) = (Signal::ABORT.as_raw(), 1 << 8);
        assert!(matches!(cause(Signal::XCPU.as_raw(), ""), Some(Error::TooSlow { .. })));
        assert!(matches!(cause(aborted, "thread 'engine' has overflowed its stack"), Some(Error::TooDeep)));
        assert!(matches!(cause(aborted, "memory allocation of 9 bytes failed"), Some(Error::OutOfMemory { .. })));
        assert!(matches!(cause(panicked, "thread panicked: capacity overflow"), Some(Error::OutOfMemory { .. })));
        assert!(matches!(cause(panicked, "thread panicked: no"), Some(Error::Engine { .. })));
        assert!(cause(Signal::KILL.as_raw(), "").is_none() && cause(0, "").is_none());
    }
}
