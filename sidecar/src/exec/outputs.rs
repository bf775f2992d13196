//! Declared outputs: from `TASK_OUTPUTS` to a place beside their destinations, where only a rename is missing.
//!
//! ```text
//! TASK_OUTPUTS/path ─ fsync, hash ─ rename ──────────────────────▶ .NAME.<attempt>.part ┐
//!        │ another file system, or a file of more than one name                         ├ all of them ─▶ staged.json ─▶ reported
//!        └─ copy, hash, fsync ─▶ .NAME.<attempt>.copy ─ rename ──▶ .NAME.<attempt>.part ┘                (the manifest)
//! ```
//!
//! A `.part` is whole from its first moment, so what an agent that died has staged is taken as it is; a `.copy` is begun again.
//! Nothing of the attempt runs any more, but what it left was made by somebody else's program: a symbolic link, a device or a
//! path that leads out of `TASK_OUTPUTS` is refused, because staging would otherwise publish a file that the task never wrote.

use super::digest::{self, Cut, Passed, pour};
use super::transcode::{Manifest, Output, hidden_sibling, staged_path, sync_parent, write_durably};
use crate::agent::failpoint;
use proto::{
    id::{AttemptId, Fence},
    v1,
};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, openat, renameat, statat};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The directory that `TASK_OUTPUTS` names, in the attempt's directory.
pub const DIR: &str = "outputs";
/// The manifest in the attempt's directory: not in `work/`, where the task may have a file of that name.
const MANIFEST: &str = "staged.json";

/// Why an attempt has no outputs although its process succeeded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was stopped while its outputs were being staged.
    #[error("stopped while its outputs were being staged")]
    Stopped,
    /// No thread could be started for it.
    #[error("cannot start a thread to stage its outputs: {0}")]
    Thread(#[source] io::Error),
    /// The declaration is gone with the ledger and was too long for the record.
    #[error("the ledger that knew its declared outputs is gone; run the task again")]
    Forgotten,
    /// The task did not write it.
    #[error("output {path}: the task left no such file in TASK_OUTPUTS; if that may be, declare it optional")]
    Missing {
        /// As declared.
        path: String,
    },
    /// It is no plain file.
    #[error("output {path}: it is {what}; only regular files are published")]
    NotAFile {
        /// As declared.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// The destination's directory is not there.
    #[error("output {path}: there is no directory {}; make it on the sidecar's machine, or change the destination", directory.display())]
    NoDirectory {
        /// As declared.
        path: String,
        /// The directory of the destination.
        directory: PathBuf,
    },
    /// The destination is a directory, a device, a pipe or a socket: what must not be replaced by a file.
    #[error("output {path}: its destination {} is there and is no file; name another", destination.display())]
    NoFile {
        /// As declared.
        path: String,
        /// The destination.
        destination: PathBuf,
    },
    /// Two destinations are one file, by way of a link between directories.
    #[error("outputs {first} and {second}: their destinations are the same file; give each one of its own")]
    Same {
        /// As declared.
        first: String,
        /// As declared.
        second: String,
    },
    /// The system's answer.
    #[error("output {path}: cannot {what} {}: {source}", file.display())]
    Io {
        /// As declared.
        path: String,
        /// What was attempted.
        what: &'static str,
        /// On what.
        file: PathBuf,
        /// The answer.
        source: io::Error,
    },
}

/// What is to be staged.
#[derive(Debug, Clone, Copy)]
pub struct Staging<'a> {
    /// The attempt's directory.
    pub attempt_dir: &'a Path,
    /// The task.
    pub spec: &'a v1::TaskSpec,
    /// The attempt.
    pub attempt: AttemptId,
    /// Its fence.
    pub fence: Fence,
}

/// The manifest of an attempt with declared outputs; `None` if nothing was staged.
pub(super) fn read_manifest(attempt_dir: &Path) -> io::Result<Option<Manifest>> {
    match fs::read(attempt_dir.join(MANIFEST)) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where `.NAME.<attempt>.part` is copied together if it cannot be renamed.
pub(super) fn copy_path(destination: &Path, attempt: AttemptId) -> PathBuf {
    hidden_sibling(destination, &format!(".{}.copy", attempt.dir_name()))
}

/// Stages the declared outputs of an attempt that succeeded. Blocking, for as long as the copying takes; idempotent. Nothing at a
/// destination is touched. What an error leaves behind, [`discard`](super::discard) removes.
///
/// # Errors
/// See [`Error`]; its text is one line for the report.
pub fn stage(staging: &Staging<'_>, stopped: &dyn Fn() -> bool) -> Result<Vec<v1::StagedOutput>, Error> {
    let manifest_path = staging.attempt_dir.join(MANIFEST);
    let failed = |what, source| Error::Io { path: MANIFEST.to_owned(), what, file: manifest_path.clone(), source };
    if let Some(manifest) = read_manifest(staging.attempt_dir).map_err(|source| failed("read", source))? {
        return Ok(manifest.to_wire());
    }
    check_destinations(&staging.spec.outputs)?;
    let mut outputs = Vec::new();
    for declared in &staging.spec.outputs {
        if let Some(output) = (One { staging, declared, stopped }).stage()? {
            outputs.push(output);
            failpoint::reach("mid-stage");
        }
    }
    if outputs.is_empty() {
        return Ok(Vec::new());
    }
    failpoint::reach("after-stage");
    let manifest = Manifest { fence: format!("{}.{}", staging.fence.epoch, staging.fence.n), outputs };
    let content = serde_json::to_vec(&manifest).map_err(|error| failed("write", io::Error::other(error)))?;
    write_durably(&manifest_path, &content).map_err(|source| failed("write", source))?;
    // The directory that the manifest lies in was made without a sync.
    sync_parent(staging.attempt_dir).map_err(|source| failed("sync the directory of", source))?;
    failpoint::reach("after-manifest");
    Ok(manifest.to_wire())
}

/// Every destination can be renamed to, and no two of them are one file.
pub(super) fn check_destinations(outputs: &[v1::Output]) -> Result<(), Error> {
    let mut seen: BTreeMap<PathBuf, &str> = BTreeMap::new();
    for output in outputs {
        let (path, destination) = (&output.path, Path::new(&output.destination));
        if path.is_empty() {
            return Err(Error::Forgotten);
        }
        let directory = destination.parent().unwrap_or(Path::new("/"));
        let found = directory.canonicalize().ok().filter(|found| found.is_dir());
        let Some(found) = found else {
            return Err(Error::NoDirectory { path: path.clone(), directory: directory.to_owned() });
        };
        if !may_be_replaced(destination) {
            return Err(Error::NoFile { path: path.clone(), destination: destination.to_owned() });
        }
        if let Some(first) = seen.insert(found.join(destination.file_name().unwrap_or_default()), path) {
            return Err(Error::Same { first: first.to_owned(), second: path.clone() });
        }
    }
    Ok(())
}

/// Nothing is there, or a file, or a link, which itself is replaced. A device renamed over would be gone for the whole machine.
pub(super) fn may_be_replaced(destination: &Path) -> bool {
    fs::symlink_metadata(destination).map_or(true, |found| found.is_file() || found.is_symlink())
}

/// One output on its way.
struct One<'a> {
    staging: &'a Staging<'a>,
    declared: &'a v1::Output,
    stopped: &'a dyn Fn() -> bool,
}

/// A file below `TASK_OUTPUTS`, open for reading.
struct Source {
    directory: OwnedFd,
    name: String,
    file: File,
    metadata: fs::Metadata,
}

impl One<'_> {
    fn stage(&self) -> Result<Option<Output>, Error> {
        let destination = Path::new(&self.declared.destination);
        let staged = staged_path(destination, &self.staging.attempt.dir_name());
        let copy = copy_path(destination, self.staging.attempt);
        match fs::remove_file(&copy) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(self.io("remove", &copy, error)),
            _ => {}
        }
        let passed = match fs::symlink_metadata(&staged) {
            Ok(found) if found.is_file() => self.hash(&mut self.open(&staged)?, &staged)?,
            Ok(_) => return Err(self.io("use", &staged, io::ErrorKind::AlreadyExists.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => match self.source()? {
                Some(source) => self.bring(source, &copy, &staged)?,
                None if self.declared.optional => return Ok(None),
                None => return Err(Error::Missing { path: self.declared.path.clone() }),
            },
            Err(error) => return Err(self.io("inspect", &staged, error)),
        };
        sync_parent(&staged).map_err(|error| self.io("sync the directory of", &staged, error))?;
        let path = destination.to_owned();
        Ok(Some(Output { path, staged, size_bytes: passed.bytes, sha256: passed.sha256 }))
    }

    /// Walks down from `TASK_OUTPUTS` without following a link anywhere. `None`: there is nothing of that name.
    fn source(&self) -> Result<Option<Source>, Error> {
        let root = self.staging.attempt_dir.join(DIR);
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let failed = |errno: Errno| self.io("open", &root.join(&self.declared.path), errno.into());
        let mut at = match openat(CWD, &root, directory, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR) => return Err(self.refused("below a symbolic link")),
            Err(errno) => return Err(failed(errno)),
        };
        let mut parts: Vec<&str> = self.declared.path.split('/').filter(|part| !["", "."].contains(part)).collect();
        let Some(name) = parts.pop().filter(|name| *name != ".." && !parts.contains(&"..")) else {
            return Err(self.refused("no path below TASK_OUTPUTS"));
        };
        for part in parts {
            at = match openat(&at, part, directory, Mode::empty()) {
                Ok(fd) => fd,
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::LOOP | Errno::NOTDIR) => return Err(self.refused("below a symbolic link or a file")),
                Err(errno) => return Err(failed(errno)),
            };
        }
        // Looked at before it is opened: to open a device may already do something.
        match statat(&at, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => self.check_kind(FileType::from_raw_mode(found.st_mode))?,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(failed(errno)),
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(&at, name, flags, Mode::empty()).map_err(failed)?);
        let metadata = file.metadata().map_err(|error| self.io("inspect", &root.join(name), error))?;
        self.check_kind(FileType::from_raw_mode(metadata.mode()))?;
        Ok(Some(Source { directory: at, name: name.to_owned(), file, metadata }))
    }

    fn check_kind(&self, kind: FileType) -> Result<(), Error> {
        Err(self.refused(match kind {
            FileType::RegularFile => return Ok(()),
            FileType::Directory => "a directory",
            FileType::Symlink => "a symbolic link",
            FileType::Fifo | FileType::Socket => "a pipe or a socket",
            _ => "a device",
        }))
    }

    /// To `.part`: renamed if it may be, else copied.
    fn bring(&self, mut source: Source, copy: &Path, staged: &Path) -> Result<Passed, Error> {
        let origin = self.staging.attempt_dir.join(DIR).join(&self.declared.path);
        let there = fs::metadata(staged.parent().unwrap_or(Path::new("/")));
        let there = there.map_err(|error| self.io("inspect the directory of", staged, error))?;
        // A file of two names would go on changing at its destination whenever it is written by the other one.
        if source.metadata.dev() == there.dev() && source.metadata.nlink() == 1 {
            let passed = self.hash(&mut source.file, &origin)?;
            source.file.sync_all().map_err(|error| self.io("sync", &origin, error))?;
            match renameat(&source.directory, &source.name, CWD, staged) {
                Ok(()) => return Ok(passed),
                // One file system mounted twice is two for a rename.
                Err(Errno::XDEV) => io::Seek::rewind(&mut source.file).map_err(|e| self.io("read", &origin, e))?,
                Err(errno) => return Err(self.io("rename the output to", staged, errno.into())),
            }
        }
        let passed = self.copy(source, &origin, copy)?;
        fs::rename(copy, staged).map_err(|error| self.io("rename the copy to", staged, error))?;
        Ok(passed)
    }

    fn copy(&self, mut source: Source, origin: &Path, copy: &Path) -> Result<Passed, Error> {
        let mut options = fs::OpenOptions::new();
        let made = options.write(true).create_new(true).mode(0o600).open(copy);
        let mut file = made.map_err(|error| self.io("create", copy, error))?;
        failpoint::reach("mid-copy");
        let passed = pour(&mut source.file, &mut file, self.stopped).map_err(|cut| self.cut(cut, origin, copy))?;
        let permissions = fs::Permissions::from_mode(source.metadata.mode() & 0o777);
        file.set_permissions(permissions).map_err(|error| self.io("set the mode of", copy, error))?;
        file.sync_all().map_err(|error| self.io("sync", copy, error))?;
        Ok(passed)
    }

    fn open(&self, path: &Path) -> Result<File, Error> {
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        let opened = fs::OpenOptions::new().read(true).custom_flags(flags).open(path);
        opened.map_err(|error| self.io("open", path, error))
    }

    fn hash(&self, file: &mut File, path: &Path) -> Result<Passed, Error> {
        pour(file, &mut io::sink(), self.stopped).map_err(|cut| self.cut(cut, path, path))
    }

    fn cut(&self, cut: digest::Cut, from: &Path, to: &Path) -> Error {
        match cut {
            Cut::Stopped => Error::Stopped,
            Cut::Read(source) => self.io("read", from, source),
            Cut::Write(source) => self.io("write", to, source),
        }
    }

    fn refused(&self, what: &'static str) -> Error {
        Error::NotAFile { path: self.declared.path.clone(), what }
    }

    fn io(&self, what: &'static str, file: &Path, source: io::Error) -> Error {
        Error::Io { path: self.declared.path.clone(), what, file: file.to_owned(), source }
    }
}
