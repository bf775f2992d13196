//! Running ffmpeg and ffprobe: their command lines, and their outputs read within bounds.

use super::{
    Exit, Job,
    complaint::{Blame, Complaints},
    report::{Parser, Report},
    supervise::{Failure, Stop},
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    ffi::{OsStr, OsString},
    io,
    io::Write as _,
    path::Path,
    process::{ExitStatus, Stdio},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader},
    process::{Child, Command},
};

/// Most that is read of a probe's output: a few hundred bytes a stream.
const PROBE_BYTES: u64 = 1 << 20;
/// Longest line that is read from ffmpeg; the rest of a longer one counts as the next.
const LINE_BYTES: u64 = 8 << 10;

/// How a finished run ended, and what it said.
pub(super) struct Output {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    pub(super) complaints: Complaints,
}

/// A path that ffmpeg takes as a file whatever it looks like: `-x.mp4` is no option and `concat:a|b` no protocol.
pub(super) fn file_url(path: &Path) -> OsString {
    let mut url = OsString::from("file:");
    url.push(path);
    url
}

/// Runs a probe to its end. Dropping the future kills it.
pub(super) async fn probe<A: AsRef<OsStr>>(
    program: &str,
    args: impl IntoIterator<Item = A>,
) -> Result<Output, Failure> {
    let mut command = Command::new(program);
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(command, program)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) =
        tokio::try_join!(read_bounded(stdout), read_bounded(stderr)).map_err(|error| lost(program, &error))?;
    let status = child.wait().await.map_err(|error| lost(program, &error))?;
    Ok(Output { status, stdout, complaints: Complaints::of(&stderr) })
}

async fn read_bounded(stream: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        stream.take(PROBE_BYTES).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

fn spawn(mut command: Command, program: &str) -> Result<Child, Failure> {
    command.stdin(Stdio::null()).kill_on_drop(true).spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::new(
            Exit::NoFfmpeg,
            format!("{program} is not installed on the sidecar's machine (or not in PATH); install the package ffmpeg"),
        ),
        _ => Failure::new(Exit::NoFfmpeg, format!("cannot start {program}: {error}")),
    })
}

fn lost(program: &str, error: &io::Error) -> Failure {
    Failure::new(Exit::Io, format!("lost contact with {program}: {error}"))
}

/// Encodes the job's input into its staged file and calls `on_report` for each progress block. ffmpeg's stderr becomes ours, that
/// is the attempt's log. A stop is passed on, and ffmpeg's end waited for.
pub(super) async fn encode(
    job: &Job,
    stop: &mut Stop,
    mut on_report: impl FnMut(&Report),
) -> Result<Complaints, Failure> {
    let mut child = spawn(command(job), "ffmpeg")?;
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut parser = Parser::default();
    let mut complaints = Complaints::default();
    let reports = each_line(stdout, |line| {
        if let Some(report) = parser.line(&String::from_utf8_lossy(line)) {
            on_report(&report);
        }
    });
    let log = each_line(stderr, |line| {
        // A log that cannot be written is no reason to end the work.
        let _unwritten = io::stderr().write_all(line);
        complaints.line(line.trim_ascii_end());
    });
    let run = async move {
        tokio::try_join!(reports, log)?;
        child.wait().await
    };
    let (status, stopped) = passing_stops_on(run, pid, stop).await.map_err(|error| lost("ffmpeg", &error))?;
    match status.success() {
        _ if stopped => Err(Failure::stopped()),
        true => Ok(complaints),
        false => Err(failure(job, status, &complaints)),
    }
}

/// Waits for `run`, which reaps the process `pid` last, and passes every stop on to it. True if there was one.
async fn passing_stops_on<T>(
    run: impl Future<Output = io::Result<T>>,
    pid: Option<Pid>,
    stop: &mut Stop,
) -> io::Result<(T, bool)> {
    tokio::pin!(run);
    let mut stopped = false;
    loop {
        tokio::select! {
            biased;
            outcome = &mut run => return outcome.map(|value| (value, stopped)),
            () = stop.asked() => {
                stopped = true;
                // Not reaped yet, since `run` is not done: the pid is still its own.
                let _gone = pid.map(|pid| kill_process(pid, Signal::TERM));
            }
        }
    }
}

fn command(job: &Job) -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-hide_banner", "-nostdin", "-y", "-loglevel", "level+info", "-nostats", "-progress", "pipe:1"]);
    if !job.tolerate_errors {
        // Without it ffmpeg conceals what it cannot decode and exits 0.
        command.arg("-xerror");
    }
    command.arg("-i").arg(file_url(&job.input)).args(&job.args);
    if let Some(format) = &job.format {
        command.args(["-f", format]);
    }
    command.arg(file_url(&job.staged)).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn each_line(stream: Option<impl AsyncRead + Unpin>, mut on_line: impl FnMut(&[u8])) -> io::Result<()> {
    let Some(stream) = stream else { return Ok(()) };
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    while (&mut reader).take(LINE_BYTES).read_until(b'\n', &mut line).await? > 0 {
        on_line(&line);
        line.clear();
    }
    Ok(())
}

fn failure(job: &Job, status: ExitStatus, complaints: &Complaints) -> Failure {
    use std::os::unix::process::ExitStatusExt as _;
    if let Some(signal) = status.signal() {
        return Failure::new(Exit::Ffmpeg, format!("ffmpeg was ended by signal {signal}"));
    }
    let reason = complaints.reason();
    match complaints.blame() {
        Blame::Input => Failure::damaged(&job.input, &reason),
        Blame::Disk => Failure::new(Exit::Io, format!("ffmpeg: {reason}")),
        Blame::Other => Failure::new(Exit::Ffmpeg, format!("ffmpeg: {reason}")),
    }
}
