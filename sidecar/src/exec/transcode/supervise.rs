//! `sidecar exec-transcode JOB`: the process of a transcode attempt. Everything that makes a transcode a success happens here, in
//! the order of the picture in the module above.

use super::{
    Exit, FAILURE_FILE, Job, PROGRESS_FILE, TOLERATE_VARIABLE,
    arguments::{self, Timing},
    ffmpeg, manifest,
    manifest::{Manifest, Output},
    probe, verify,
};
use crate::exec::outputs;
use crate::exec::{progress::Snapshot, publish::sha256};
use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Why the attempt fails: its exit code, and one line for people.
#[derive(Debug)]
pub(super) struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    pub(super) const fn new(exit: Exit, message: String) -> Self {
        Self { exit, message }
    }

    pub(super) fn stopped() -> Self {
        Self::new(Exit::Stopped, "stopped by a signal".to_owned())
    }

    pub(super) fn damaged(input: &Path, reason: &str) -> Self {
        let message = format!(
            "input {} is damaged: {reason} (env {TOLERATE_VARIABLE}=1 accepts what can be decoded)",
            input.display()
        );
        Self::new(Exit::Input, message)
    }
}

/// The signals that ask us to end.
pub(super) struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Returns at each signal. Dropping the future loses none.
    pub(super) async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Runs the job of this file to its end. Writes the manifest, or the reason of the failure, beside the job file.
#[must_use]
pub fn main(job_path: &Path) -> ExitCode {
    ExitCode::from(exit_code(job_path))
}

/// [`main`] as a number: 0, or one of [`Exit`].
pub(super) fn exit_code(job_path: &Path) -> u8 {
    let work = Work { dir: job_path.parent().map(Path::to_owned).unwrap_or_default(), reached: 0 };
    match run(job_path, &work) {
        Ok(()) => 0,
        Err(failure) => {
            // Not `eprintln`, which panics when the log cannot be written: on a full disk, say.
            let _unwritten = writeln!(io::stderr(), "transcode: {}", failure.message);
            work.note_failure(&failure.message);
            failure.exit.code()
        }
    }
}

fn run(job_path: &Path, work: &Work) -> Result<(), Failure> {
    let wrong = |error: String| Failure::new(Exit::Job, format!("cannot read the job {}: {error}", job_path.display()));
    let text = fs::read(job_path).map_err(|error| wrong(error.to_string()))?;
    let job: Job = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    let setup = |error: io::Error| Failure::new(Exit::Io, format!("cannot set up the transcode: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(setup)?;
    let outcome = runtime.block_on(async {
        let mut stop = Stop::listen().map_err(setup)?;
        transcode(&job, &mut work.clone(), &mut stop).await
    });
    if outcome.is_err() {
        // Absent if ffmpeg never began; otherwise the sidecar's `discard` comes after us.
        let _absent = fs::remove_file(&job.staged);
    }
    outcome
}

async fn transcode(job: &Job, work: &mut Work, stop: &mut Stop) -> Result<(), Failure> {
    destination_is_usable(job)?;
    let media = unless_stopped(stop, probe::input(&job.input)).await?;
    let timing = arguments::timing(&job.args);
    let expected = media.span(timing);
    let length = match timing {
        Timing::Changed { limit_seconds: Some(limit) } => {
            media.duration_seconds().map_or(Some(limit), |whole| Some(whole.min(limit)))
        }
        _ => expected.map(|span| span.longest_seconds).or_else(|| media.duration_seconds()),
    };
    let complaints =
        ffmpeg::encode(job, &media.speakers(&job.args), stop, |report| work.show(report.snapshot(length))).await?;
    work.show_phase("verifying", 990);
    unless_stopped(stop, verify::output(job, expected, &complaints)).await?;
    work.show_phase("hashing", 995);
    unless_stopped(stop, async { stage(job, work) }).await?;
    work.show_phase("staged", 1000);
    Ok(())
}

/// For steps that hold nothing worth an orderly end: dropping them kills their process.
async fn unless_stopped<T>(stop: &mut Stop, step: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::select! {
        () = stop.asked() => Err(Failure::stopped()),
        outcome = step => outcome,
    }
}

/// Before any work: a destination that cannot be written would otherwise be found out after it.
fn destination_is_usable(job: &Job) -> Result<(), Failure> {
    let refuse = |why: String| Failure::new(Exit::Destination, why);
    if !outputs::may_be_replaced(&job.output) || job.output.is_dir() {
        return Err(refuse(format!("output {} is there and is no file", job.output.display())));
    }
    let directory = job.output.parent().unwrap_or_else(|| Path::new("/"));
    fs::File::create(&job.staged)
        .map(drop)
        .map_err(|error| refuse(format!("cannot write to the output's directory {}: {error}", directory.display())))
}

/// Makes the staged file durable and tells of it.
fn stage(job: &Job, work: &Work) -> Result<(), Failure> {
    let record = || -> io::Result<()> {
        let file = fs::File::open(&job.staged)?;
        file.sync_all()?;
        manifest::sync_parent(&job.staged)?;
        let output = Output {
            path: job.output.clone(),
            staged: job.staged.clone(),
            size_bytes: file.metadata()?.len(),
            sha256: sha256(&job.staged)?,
        };
        let manifest = Manifest { fence: job.fence.clone(), outputs: vec![output] };
        let text = serde_json::to_vec_pretty(&manifest).map_err(io::Error::other)?;
        manifest::write_durably(&work.dir.join(manifest::FILE), &text)
    };
    record().map_err(|error| Failure::new(Exit::Io, format!("cannot make the output durable: {error}")))
}

/// What the agent reads of us.
#[derive(Debug, Clone)]
struct Work {
    dir: PathBuf,
    /// Highest step told; a step never goes back.
    reached: u64,
}

impl Work {
    fn show(&mut self, snapshot: Snapshot) {
        self.reached = self.reached.max(snapshot.step);
        let snapshot = Snapshot { step: self.reached, ..snapshot };
        // Whole or not at all for the reader; not durable, and no reason to fail.
        let _unwritten = serde_json::to_vec(&snapshot).map(|text| self.replace(PROGRESS_FILE, &text));
    }

    fn show_phase(&mut self, note: &str, permille: u32) {
        self.show(Snapshot { permille, note: note.to_owned(), step: self.reached + 1, ..Snapshot::default() });
    }

    fn note_failure(&self, message: &str) {
        // Without it the agent falls back to the log's last line.
        let _unwritten = self.replace(FAILURE_FILE, message.as_bytes());
    }

    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let temporary = self.dir.join(format!(".{name}.tmp"));
        fs::write(&temporary, content)?;
        fs::rename(&temporary, self.dir.join(name))
    }
}
