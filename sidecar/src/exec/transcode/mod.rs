//! A transcode: one input file, one output file, by ffmpeg, and nothing at the destination but a whole, verified result.
//!
//! ```text
//! plan ──▶ work/transcode.json (Job)
//!             │  monitor spawns `sidecar exec-transcode work/transcode.json` (main), in the attempt's own session
//!             ▼
//!          probe input ─▶ ffmpeg ─▶ .NAME.<attempt>.part ─▶ verify ─▶ hash, fsync ─▶ work/outputs.json (manifest) ─▶ exit 0
//!             │              │ stdout: -progress ─▶ work/progress
//!             │              │ stderr ─▶ log, and the telling lines are kept
//!             └──────────────┴─▶ work/failure (one line), staged file removed, exit code of [`Exit`]
//! ```
//!
//! The supervisor is a process of the attempt and not a part of the agent, so that a transcode is probed, verified and hashed
//! with agent and keeper dead.

mod arguments;
mod complaint;
#[cfg(feature = "decoders")]
pub(crate) mod decoders;
mod ffmpeg;
mod format;
mod manifest;
mod preset;
mod probe;
mod report;
mod supervise;
mod verify;

pub use manifest::{Manifest, Output, read as read_manifest};
pub use preset::{PRESETS, preset};
pub use supervise::main;

pub(super) use manifest::{sync_parent, write_durably};

use super::{Error, Plan, Process, utf8};
use keeper::wire;
use proto::v1;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The job's file in `work/`.
const JOB_FILE: &str = "transcode.json";
/// The reason of a failure, one line, in `work/`.
pub(super) const FAILURE_FILE: &str = "failure";
/// The latest progress, JSON of [`super::progress::Snapshot`], in `work/`; replaced by rename.
pub(super) const PROGRESS_FILE: &str = "progress";

/// Variable in a task's environment that lets a transcode of damaged input succeed with what could be decoded.
pub const TOLERATE_VARIABLE: &str = "TRANSCODE_TOLERATE_ERRORS";

/// Longest file name on the file systems of Linux, bytes.
const NAME_MAX: usize = 255;

/// Exit codes of `sidecar exec-transcode`, after sysexits.h where it has a fitting one. Documented in docs/transcode.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The job file cannot be read or understood.
    Job = 64,
    /// The input is not media, is damaged, or ends too early.
    Input = 65,
    /// The input cannot be opened.
    NoInput = 66,
    /// ffmpeg or ffprobe is not installed.
    NoFfmpeg = 69,
    /// ffmpeg failed for another reason: arguments, encoder, filter.
    Ffmpeg = 70,
    /// The destination's directory cannot be written.
    Destination = 73,
    /// Reading or writing failed: disk full, I/O error.
    Io = 74,
    /// ffmpeg succeeded and its output did not verify.
    Output = 76,
    /// Stopped by a signal: 128 + SIGTERM.
    Stopped = 143,
}

impl Exit {
    /// The process's exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }
}

/// What `sidecar exec-transcode` is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Job {
    /// Absolute path of the input.
    pub(super) input: PathBuf,
    /// Absolute path of the destination.
    pub(super) output: PathBuf,
    /// Beside the destination, so that the rename stays within one file system.
    pub(super) staged: PathBuf,
    /// The attempt's fence as `epoch.n`, for the manifest.
    pub(super) fence: String,
    /// ffmpeg's arguments between input and output.
    pub(super) args: Vec<String>,
    /// The muxer, from the destination's extension, which `.part` hides; none if the arguments have `-f`.
    pub(super) format: Option<String>,
    /// Damaged input may succeed with what could be decoded.
    pub(super) tolerate_errors: bool,
}

/// Why a transcode cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A relative path without a `cwd` to resolve it.
    #[error("transcode.{field} {path:?} is relative; give an absolute path on the sidecar's machine, or a cwd")]
    Relative {
        /// `input` or `output`.
        field: &'static str,
        /// The path.
        path: String,
    },
    /// The output names no file.
    #[error("transcode.output {path:?} does not name a file")]
    NoFileName {
        /// The path.
        path: String,
    },
    /// Nobody knows the preset.
    #[error("transcode.preset {name:?} is unknown; the presets are {}", preset::names())]
    Preset {
        /// The name.
        name: String,
    },
    /// Both were given, and neither could be meant alone.
    #[error("transcode has both args and preset; give one of them")]
    ArgsAndPreset,
    /// The extension says no container.
    #[error(
        "transcode.output {path:?}: its extension names no single-file container known here; use one of {}, or add `-f FORMAT` to args",
        format::extensions()
    )]
    Format {
        /// The path.
        path: String,
    },
    /// The arguments name a muxer that writes more than one file.
    #[error(
        "transcode.args: `-f {format}` writes several files, which cannot be staged and published as one; use a command task"
    )]
    ManyFiles {
        /// The muxer.
        format: String,
    },
}

/// The supervising process and its job file.
pub(super) fn process(plan: &Plan<'_>, transcode: &v1::Transcode) -> Result<Process, Error> {
    let job = job(plan, transcode)?;
    let content = serde_json::to_vec_pretty(&job).map_err(|_| Error::NotUtf8 { path: job.staged.clone() })?;
    let path = plan.work_dir()?.join(JOB_FILE);
    let argv = vec![utf8(plan.exe)?, "exec-transcode".to_owned(), utf8(&path)?];
    Ok(Process { argv, files: vec![wire::File { name: JOB_FILE.to_owned(), mode: 0o600, content }] })
}

fn job(plan: &Plan<'_>, transcode: &v1::Transcode) -> Result<Job, PlanError> {
    let output = destination(plan.spec, transcode)?;
    let args = match (transcode.preset.as_str(), transcode.args.is_empty()) {
        ("", _) => transcode.args.clone(),
        (_, false) => return Err(PlanError::ArgsAndPreset),
        (name, true) => preset(name)
            .ok_or_else(|| PlanError::Preset { name: name.to_owned() })?
            .iter()
            .map(|&argument| argument.to_owned())
            .collect(),
    };
    let format = match arguments::format(&args) {
        Some(format) if format::writes_many_files(format) => {
            return Err(PlanError::ManyFiles { format: format.to_owned() });
        }
        Some(_) => None,
        None => Some(
            format::of_path(&output).ok_or_else(|| PlanError::Format { path: transcode.output.clone() })?.to_owned(),
        ),
    };
    Ok(Job {
        input: absolute("input", plan.spec, &transcode.input)?,
        staged: staged_path(&output, &plan.attempt.dir_name()),
        output,
        fence: format!("{}.{}", plan.fence.epoch, plan.fence.n),
        args,
        format,
        tolerate_errors: plan.spec.env.get(TOLERATE_VARIABLE).is_some_and(|value| value == "1"),
    })
}

/// Where the output goes in the end, absolute.
pub(super) fn destination(spec: &v1::TaskSpec, transcode: &v1::Transcode) -> Result<PathBuf, PlanError> {
    let output = absolute("output", spec, &transcode.output)?;
    if output.file_name().is_none() || transcode.output.ends_with('/') {
        return Err(PlanError::NoFileName { path: transcode.output.clone() });
    }
    Ok(output)
}

fn absolute(field: &'static str, spec: &v1::TaskSpec, path: &str) -> Result<PathBuf, PlanError> {
    let joined = Path::new(&spec.cwd).join(path);
    if path.is_empty() || !joined.is_absolute() {
        return Err(PlanError::Relative { field, path: path.to_owned() });
    }
    Ok(joined)
}

/// `.NAME.<attempt>.part` beside the destination; a name too long for that is cut, the attempt keeps it unique.
pub(super) fn staged_path(output: &Path, attempt: &str) -> PathBuf {
    hidden_sibling(output, &format!(".{attempt}.part"))
}

/// `.NAME.fence` beside the destination: its lock, and the fence of who published there last.
pub(super) fn fence_path(output: &Path) -> PathBuf {
    hidden_sibling(output, ".fence")
}

/// A name that begins with a dot beside a file, cut to what a file system takes.
pub(super) fn hidden_sibling(output: &Path, suffix: &str) -> PathBuf {
    let name = output.file_name().unwrap_or_default().to_string_lossy();
    let room = NAME_MAX.saturating_sub(suffix.len() + 1);
    let cut = name.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|&end| end <= room).last().unwrap_or(0);
    output.with_file_name(format!(".{}{suffix}", &name[..cut]))
}

#[cfg(test)]
mod tests;
