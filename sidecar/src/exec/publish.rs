//! Staged outputs: into place for the attempt that won, away for any other.
//!
//! ```text
//! lock .NAME.fence ─ fence recorded there > mine? refuse ─ record mine ─ rename .NAME.<attempt>.part → NAME ─ fsync directory
//! ```
//!
//! The fence stays recorded beside the destination, because a winner that was cut off for longer than its lease may come back
//! and publish after its successor did. Every step may be repeated: a destination that already has the manifest's content is a
//! success.

use super::transcode::{self, Manifest};
use proto::{
    id::{AttemptId, Fence, TaskId},
    v1::{self, task_spec::Kind},
};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};
use std::{
    fs, io,
    io::{Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
};

/// Longest content of a fence file: a task id and two numbers.
const FENCE_BYTES: u64 = 128;

/// Read at once when a file is hashed.
const HASH_CHUNK_BYTES: usize = 256 << 10;

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("attempt {attempt} has no manifest of staged outputs")]
    NoManifest { attempt: AttemptId },
    #[error("the manifest names {path:?}, which is not the task's output")]
    Foreign { path: PathBuf },
    #[error("a newer attempt of the task has already published {path:?} (fence {theirs}, this attempt's is {mine})")]
    Fenced { path: PathBuf, theirs: String, mine: String },
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
/// One line for the report: what could not be done to which file. Nothing is half in place: each rename happened or did not.
pub fn publish(attempt_dir: &Path, spec: &v1::TaskSpec, attempt: AttemptId) -> Result<(), String> {
    let Some(Kind::Transcode(kind)) = &spec.kind else { return Ok(()) };
    let manifest = transcode::read_manifest(attempt_dir)
        .map_err(io_error("read the manifest in", attempt_dir))
        .and_then(|manifest| manifest.ok_or(Error::NoManifest { attempt }))
        .map_err(|error| error.to_string())?;
    // The manifest lies where the task's processes can write; only the task's own output is ever touched.
    let expected = transcode::destination(spec, kind).map_err(|error| error.to_string())?;
    manifest.outputs.iter().try_for_each(|output| {
        if output.path != expected || output.staged != transcode::staged_path(&expected, &attempt.dir_name()) {
            return Err(Error::Foreign { path: output.path.clone() }.to_string());
        }
        publish_one(output, &manifest, attempt.task).map_err(|error| error.to_string())
    })
}

fn publish_one(output: &transcode::Output, manifest: &Manifest, task: TaskId) -> Result<(), Error> {
    let path = &output.path;
    let mut fence = FenceFile::lock(path)?;
    if let Some(theirs) = fence.newer_than(task, &manifest.fence)? {
        return Err(Error::Fenced { path: path.clone(), theirs, mine: manifest.fence.clone() });
    }
    let staged = match fs::metadata(&output.staged) {
        Ok(metadata) => Some(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(io_error("inspect", &output.staged)(error)),
    };
    let Some(found) = staged else { return already_in_place(output) };
    if found != output.size_bytes {
        return Err(Error::Size { path: output.staged.clone(), found, expected: output.size_bytes });
    }
    // Before the rename: were it after, a crash between them would let an older attempt's replay through.
    fence.record(task, &manifest.fence)?;
    fs::rename(&output.staged, path).map_err(io_error("rename the staged output to", path))?;
    transcode::sync_parent(path).map_err(io_error("sync the directory of", path))
}

fn already_in_place(output: &transcode::Output) -> Result<(), Error> {
    let matches = fs::metadata(&output.path).is_ok_and(|metadata| metadata.len() == output.size_bytes)
        && sha256(&output.path).map_err(io_error("read", &output.path))? == output.sha256;
    if matches { Ok(()) } else { Err(Error::Gone { path: output.staged.clone() }) }
}

/// Removes what an attempt staged that did not win, was cancelled or failed. Blocking; idempotent.
///
/// # Errors
/// One line: the file that could not be removed, and why.
pub fn discard(spec: &v1::TaskSpec, attempt: AttemptId) -> Result<(), String> {
    let Some(Kind::Transcode(kind)) = &spec.kind else { return Ok(()) };
    // An output that could not be planned was never staged.
    let Ok(output) = transcode::destination(spec, kind) else { return Ok(()) };
    let staged = transcode::staged_path(&output, &attempt.dir_name());
    match fs::remove_file(&staged) {
        Ok(()) => Ok(()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(()),
        Err(error) => Err(io_error("remove", &staged)(error).to_string()),
    }
}

/// Lower-case hex of a file's SHA-256.
pub(super) fn sha256(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; HASH_CHUNK_BYTES];
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        hasher.update(&buffer[..length]);
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// `.NAME.fence` beside a destination: a lock while it is open, and who published there last.
struct FenceFile {
    file: fs::File,
    path: PathBuf,
}

impl FenceFile {
    fn lock(destination: &Path) -> Result<Self, Error> {
        let path = transcode::fence_path(destination);
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io_error("open the lock", &path))?;
        flock(&file, FlockOperation::LockExclusive).map_err(|error| io_error("lock", &path)(error.into()))?;
        Ok(Self { file, path })
    }

    /// The recorded fence if it is of the same task and higher. Other tasks with the same destination are the user's will.
    fn newer_than(&mut self, task: TaskId, mine: &str) -> Result<Option<String>, Error> {
        let mut text = String::new();
        self.file.rewind().map_err(io_error("read", &self.path))?;
        (&mut self.file).take(FENCE_BYTES).read_to_string(&mut text).map_err(io_error("read", &self.path))?;
        let Some((owner, theirs)) = text.trim().split_once(' ') else { return Ok(None) };
        let newer = owner == task.to_string() && fence(theirs) > fence(mine);
        Ok(newer.then(|| theirs.to_owned()))
    }

    fn record(&mut self, task: TaskId, mine: &str) -> Result<(), Error> {
        let mut write = || {
            self.file.rewind()?;
            self.file.write_all(format!("{task} {mine}\n").as_bytes())?;
            let end = self.file.stream_position()?;
            self.file.set_len(end)?;
            self.file.sync_all()
        };
        write().map_err(io_error("write", &self.path))
    }
}

fn fence(text: &str) -> Option<Fence> {
    let (epoch, n) = text.split_once('.')?;
    Some(Fence { epoch: epoch.parse().ok()?, n: n.parse().ok()? })
}
