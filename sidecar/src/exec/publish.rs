//! Staged outputs: into place for the attempt that won, away for any other.
//!
//! ```text
//! lock every .NAME.fence ─ a fence recorded in one of them > mine? refuse ─ is every .part there? ─ record mine in all of them
//!     ─ rename each .NAME.<attempt>.part → NAME ─ fsync the directories ─ unlock
//! ```
//!
//! All locks are held at once and all fences are looked at before the first rename, so two attempts never mix their outputs: the
//! one with the lower fence finds that out before it has touched anything. The fence stays recorded beside the destination,
//! because a winner that was cut off for longer than its lease may come back and publish after its successor did. Every step may
//! be repeated: a destination that already has the manifest's content is a success.

use super::digest::{Cut, pour};
use super::outputs;
use super::transcode::{self, Manifest};
use crate::agent::failpoint;
use proto::{
    id::{AttemptId, Fence, TaskId},
    v1::{self, task_spec::Kind},
};
use rustix::fs::{FlockOperation, flock};
use std::{
    collections::BTreeSet,
    fs, io,
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Longest content of a fence file: a task id and two numbers.
const FENCE_BYTES: u64 = 128;

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("attempt {attempt} has no manifest of staged outputs")]
    NoManifest { attempt: AttemptId },
    #[error("the manifest names {path:?}, which is not the task's output")]
    Foreign { path: PathBuf },
    #[error("a newer attempt of the task has already published {path:?} (fence {theirs}, this attempt's is {mine})")]
    Fenced { path: PathBuf, theirs: String, mine: String },
    #[error("{path:?} is the same file as another output's destination")]
    Same { path: PathBuf },
    #[error("{path:?} is not what was staged: {found} bytes instead of {expected}")]
    Size { path: PathBuf, found: u64, expected: u64 },
    #[error("the staged output {path:?} is gone, and the destination holds something else")]
    Gone { path: PathBuf },
    #[error("cannot {what} {path:?}: {source}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

fn io_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Io { what, path: path.to_owned(), source }
}

/// Renames the attempt's staged outputs into place. Kinds without outputs have nothing to publish. Blocking; idempotent.
///
/// # Errors
/// One line for the report: what could not be done to which file. A refusal has touched nothing; each rename happened or did not.
pub fn publish(attempt_dir: &Path, spec: &v1::TaskSpec, attempt: AttemptId) -> Result<(), String> {
    publish_all(attempt_dir, spec, attempt).map_err(|error| error.to_string())
}

fn publish_all(attempt_dir: &Path, spec: &v1::TaskSpec, attempt: AttemptId) -> Result<(), Error> {
    let (destinations, manifest) = match &spec.kind {
        Some(Kind::Transcode(kind)) => {
            let unknown = |_| Error::NoManifest { attempt };
            (vec![transcode::destination(spec, kind).map_err(unknown)?], transcode::read_manifest(attempt_dir))
        }
        _ if spec.outputs.is_empty() => return Ok(()),
        _ => (declared(spec), outputs::read_manifest(attempt_dir)),
    };
    let manifest =
        manifest.map_err(io_error("read the manifest in", attempt_dir))?.ok_or(Error::NoManifest { attempt })?;
    // A transcode's manifest lies where the task's processes can write; only the task's own outputs are ever touched.
    for output in &manifest.outputs {
        let expected = transcode::staged_path(&output.path, &attempt.dir_name());
        if !destinations.contains(&output.path) || output.staged != expected {
            return Err(Error::Foreign { path: output.path.clone() });
        }
    }
    Publication::begin(destinations, &manifest, attempt.task)?.finish()
}

fn declared(spec: &v1::TaskSpec) -> Vec<PathBuf> {
    spec.outputs.iter().map(|output| PathBuf::from(&output.destination)).collect()
}

/// A manifest that nothing stands against any more, under all its locks.
struct Publication<'a> {
    manifest: &'a Manifest,
    task: TaskId,
    fences: Vec<FenceFile>,
    /// The outputs whose rename is still missing.
    missing: Vec<&'a transcode::Output>,
}

impl<'a> Publication<'a> {
    fn begin(mut destinations: Vec<PathBuf>, manifest: &'a Manifest, task: TaskId) -> Result<Self, Error> {
        // In one order, so that two publishers never wait for each other.
        destinations.sort();
        let mut fences: Vec<FenceFile> = Vec::new();
        for destination in destinations {
            let fence = FenceFile::lock(destination, &fences)?;
            if let Some(theirs) = fence.recorded(task).filter(|theirs| theirs.is_newer_than(&manifest.fence)) {
                let (theirs, mine) = (theirs.0.clone(), manifest.fence.clone());
                return Err(Error::Fenced { path: fence.destination, theirs, mine });
            }
            fences.push(fence);
        }
        let mut missing = Vec::new();
        for output in &manifest.outputs {
            match fs::metadata(&output.staged).map(|found| found.len()) {
                Ok(found) if found == output.size_bytes => missing.push(output),
                Ok(found) => {
                    let (path, expected) = (output.staged.clone(), output.size_bytes);
                    return Err(Error::Size { path, found, expected });
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => already_in_place(output)?,
                Err(error) => return Err(io_error("inspect", &output.staged)(error)),
            }
        }
        Ok(Self { manifest, task, fences, missing })
    }

    fn finish(mut self) -> Result<(), Error> {
        // An optional output that this attempt does not have, but an older one that was cut off has published.
        let strays = self.fences.iter().filter(|fence| {
            let mine = self.manifest.outputs.iter().any(|output| output.path == fence.destination);
            let recorded = fence.recorded(self.task);
            !mine && recorded.is_some_and(|recorded| recorded.0 != self.manifest.fence)
        });
        let strays: Vec<PathBuf> = strays.map(|fence| fence.destination.clone()).collect();
        for stray in &strays {
            match fs::remove_file(stray) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", stray)(error)),
                _ => {}
            }
        }
        // Before the renames: were it after, a crash between them would let an older attempt's replay through. After the removals:
        // what is recorded as mine is no stray any more.
        for fence in &mut self.fences {
            fence.record(self.task, &self.manifest.fence)?;
        }
        failpoint::reach("before-publish");
        for output in &self.missing {
            fs::rename(&output.staged, &output.path).map_err(io_error("rename the staged output to", &output.path))?;
            failpoint::reach("mid-publish");
        }
        // Of those renamed by an agent that died, too: it may not have come to this.
        let parents: BTreeSet<&Path> = self.fences.iter().filter_map(|fence| fence.destination.parent()).collect();
        for parent in parents {
            fs::File::open(parent)
                .and_then(|directory| directory.sync_all())
                .map_err(io_error("sync the directory", parent))?;
        }
        failpoint::reach("after-publish");
        Ok(())
    }
}

fn already_in_place(output: &transcode::Output) -> Result<(), Error> {
    let matches = fs::metadata(&output.path).is_ok_and(|metadata| metadata.len() == output.size_bytes)
        && sha256(&output.path).map_err(io_error("read", &output.path))? == output.sha256;
    if matches { Ok(()) } else { Err(Error::Gone { path: output.staged.clone() }) }
}

/// Removes what an attempt staged that did not win, was cancelled or failed, also what it had only begun. Blocking; idempotent.
///
/// # Errors
/// One line: the file that could not be removed, and why.
pub fn discard(spec: &v1::TaskSpec, attempt: AttemptId) -> Result<(), String> {
    let destinations = match &spec.kind {
        // An output that could not be planned was never staged.
        Some(Kind::Transcode(kind)) => transcode::destination(spec, kind).into_iter().collect(),
        _ => declared(spec),
    };
    let staged = |destination: &PathBuf| {
        [transcode::staged_path(destination, &attempt.dir_name()), outputs::copy_path(destination, attempt)]
    };
    let mut first = Ok(());
    for path in destinations.iter().flat_map(staged) {
        match fs::remove_file(&path) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                // The others are removed all the same.
                first = first.and_then(|()| Err(io_error("remove", &path)(error).to_string()));
            }
            _ => {}
        }
    }
    first
}

/// Lower-case hex of a file's SHA-256.
pub(super) fn sha256(path: &Path) -> io::Result<String> {
    match pour(&mut fs::File::open(path)?, &mut io::sink(), &|| false) {
        Ok(passed) => Ok(passed.sha256),
        Err(Cut::Read(error) | Cut::Write(error)) => Err(error),
        Err(Cut::Stopped) => Err(io::ErrorKind::Interrupted.into()),
    }
}

/// A fence as it is written: `epoch.n`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Written(String);

impl Written {
    fn is_newer_than(&self, mine: &str) -> bool {
        fence(&self.0) > fence(mine)
    }
}

/// `.NAME.fence` beside a destination: a lock while it is open, and who published there last.
struct FenceFile {
    destination: PathBuf,
    file: fs::File,
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
    content: String,
}

impl FenceFile {
    /// Waits for the lock. A file that is among the held ones already is refused: one would wait for oneself.
    fn lock(destination: PathBuf, held: &[Self]) -> Result<Self, Error> {
        let path = transcode::fence_path(&destination);
        let mut file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io_error("open the lock", &path))?;
        let found = file.metadata().map_err(io_error("inspect", &path))?;
        let identity = (found.dev(), found.ino());
        if held.iter().any(|other| other.identity == identity) {
            return Err(Error::Same { path: destination });
        }
        flock(&file, FlockOperation::LockExclusive).map_err(|error| io_error("lock", &path)(error.into()))?;
        let mut content = Vec::new();
        (&mut file).take(FENCE_BYTES).read_to_end(&mut content).map_err(io_error("read", &path))?;
        let content = String::from_utf8_lossy(&content).trim().to_owned();
        Ok(Self { destination, file, path, identity, content })
    }

    /// The recorded fence if it is of the same task. Other tasks with the same destination are the user's will.
    fn recorded(&self, task: TaskId) -> Option<Written> {
        let (owner, theirs) = self.content.split_once(' ')?;
        (owner == task.to_string()).then(|| Written(theirs.to_owned()))
    }

    fn record(&mut self, task: TaskId, mine: &str) -> Result<(), Error> {
        let content = format!("{task} {mine}");
        let mut write = || {
            self.file.rewind()?;
            self.file.write_all(format!("{content}\n").as_bytes())?;
            let end = self.file.stream_position()?;
            self.file.set_len(end)?;
            self.file.sync_all()
        };
        write().map_err(io_error("write", &self.path))?;
        self.content = content;
        Ok(())
    }
}

fn fence(text: &str) -> Option<Fence> {
    let (epoch, n) = text.split_once('.')?;
    Some(Fence { epoch: epoch.parse().ok()?, n: n.parse().ok()? })
}
