//! Becoming the keeper of a data directory: lock, socket, and a life apart from whoever started us.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use keeper::{launch, record, sys};
use rustix::fs::Mode;
use rustix::process::umask;

/// Where a detached keeper's complaints go.
const LOG: &str = "keeper.log";
/// A log longer than this is begun anew at the start: the keeper complains rarely, and nobody rotates for it.
const LOG_BYTES: u64 = 1 << 20;

/// Why this process does not become the keeper.
#[derive(Debug)]
pub(crate) enum Error {
    /// Another one is.
    Taken { data_dir: PathBuf },
    /// Something cannot be made or opened.
    System { what: String, source: io::Error },
}

impl std::fmt::Display for Error {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Taken { data_dir } => write!(out, "another keeper owns {}", data_dir.display()),
            Self::System { what, source } => write!(out, "{what}: {source}"),
        }
    }
}

impl std::error::Error for Error {}

fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |source| Error::System { what, source }
}

/// Proof of ownership: the held lock and the listening socket.
pub(crate) struct Owned {
    pub(crate) lock: File,
    pub(crate) listener: UnixListener,
    dir: File,
    /// Held open, so that nothing that is made in its place has its number.
    attempts: File,
}

/// The two directories.
fn open_dirs(data_dir: &Path) -> Result<(File, File), Error> {
    let open = |path: &Path| File::open(path).map_err(system(format!("open {}", path.display())));
    Ok((open(data_dir)?, open(&data_dir.join(record::ATTEMPTS))?))
}

impl Owned {
    /// Takes the data directory, creating it and `attempts/` if they are absent.
    pub(crate) fn take(data_dir: &Path) -> Result<Self, Error> {
        let attempts = data_dir.join(record::ATTEMPTS);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&attempts);
        made.map_err(system(format!("create {}", attempts.display())))?;
        let path = data_dir.join(launch::LOCK);
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let lock = options.map_err(system(format!("open {}", path.display())))?;
        match sys::lock(lock.as_fd(), false) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(Error::Taken { data_dir: data_dir.to_owned() });
            }
            other => other.map_err(system(format!("lock {}", path.display())))?,
        }
        let (dir, attempts) = open_dirs(data_dir)?;
        let listener = listen(&dir).map_err(system(format!("listen on {}/{}", data_dir.display(), launch::SOCKET)))?;
        Ok(Self { lock, listener, dir, attempts })
    }

    /// Goes on with what the process image before this one held.
    pub(crate) fn resume(data_dir: &Path, lock: File, listener: UnixListener) -> Result<Self, Error> {
        let (dir, attempts) = open_dirs(data_dir)?;
        Ok(Self { lock, listener, dir, attempts })
    }

    /// Writes our pid into the lock file, for people; the lock is what counts.
    pub(crate) fn sign(&mut self) {
        let _ = self.lock.set_len(0).and_then(|()| writeln!(self.lock, "{}", std::process::id()));
    }

    /// The first of our lock file and `attempts/` that is no longer under its path: without the one the directory is another's, without
    /// the other nothing that runs has a record.
    pub(crate) fn lost(&self, data_dir: &Path) -> Option<PathBuf> {
        let moved = |(ours, path): &(&File, PathBuf)| {
            let there = std::fs::metadata(path);
            !matches!((ours.metadata(), there), (Ok(ours), Ok(there)) if (ours.dev(), ours.ino()) == (there.dev(), there.ino()))
        };
        let held = [(&self.lock, data_dir.join(launch::LOCK)), (&self.attempts, data_dir.join(record::ATTEMPTS))];
        held.into_iter().find(moved).map(|(_, path)| path)
    }

    /// Takes the socket away, before the lock is released with this process.
    pub(crate) fn remove_socket(&self) {
        let _ = rustix::fs::unlinkat(&self.dir, launch::SOCKET, rustix::fs::AtFlags::empty());
    }
}

/// Binds through the directory's descriptor: a path of a data directory may exceed the 108 bytes of a socket address.
fn listen(dir: &File) -> io::Result<UnixListener> {
    match rustix::fs::unlinkat(dir, launch::SOCKET, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    // The mode is right from the first moment; a chmod would come after it. Masking only the bind leaves the tasks our umask.
    let before = umask(Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(format!("/proc/self/fd/{}/{}", dir.as_raw_fd(), launch::SOCKET));
    umask(before);
    let listener = bound?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Leaves the starter's session and process tree: two forks and a session in between. The first process returns its exit code to
/// the starter, who thereby knows that the socket listens; only the last one returns from here as `None`.
pub(crate) fn detach(data_dir: &Path) -> Result<Option<i32>, Error> {
    let log = data_dir.join(LOG);
    let fresh = std::fs::metadata(&log).is_ok_and(|meta| meta.len() > LOG_BYTES);
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600).append(!fresh).write(true).truncate(fresh);
    let log = options.open(&log).map_err(system(format!("open {}", log.display())))?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(system("open /dev/null"))?;
    if sys::fork().map_err(system("fork"))?.is_some() {
        sys::wait_any(true);
        return Ok(Some(0));
    }
    rustix::process::setsid().map_err(|errno| system("setsid")(errno.into()))?;
    if sys::fork().map_err(system("fork"))?.is_some() {
        return Ok(Some(0));
    }
    let redirect = || -> rustix::io::Result<()> {
        // The starter's directory may want to be unmounted one day; every path of ours is absolute.
        rustix::process::chdir("/")?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&log)
    };
    redirect().map_err(|errno| system("redirect")(errno.into()))?;
    Ok(None)
}
