//! How a process ended, in the informer's words: a reason, and one line for the person who asks why.

use super::transcode::{self, Exit};
use super::{container, outputs, result};
use keeper::wire::{End, EndReason};
use proto::v1::{self, Reason, task_spec::Kind};
use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom},
    path::Path,
};

/// Longest message, bytes: a line on a wide terminal twice over. It is stored with every attempt.
const MESSAGE_BYTES: usize = 400;

/// How much of a log's end is looked at for its last line.
const TAIL_BYTES: u64 = 4096;

/// The ending of an attempt: its process's end, and for a transcode what its supervisor left in `work/`.
///
/// For an unhealthy service the message of `end` is the last failure of its probe, if it is known.
///
/// Reads a few kilobytes at most. Without a readable directory the facts of `end` alone are told, except that a transcode
/// without manifest is no success.
#[must_use]
pub fn ending(attempt_dir: &Path, spec: &v1::TaskSpec, end: &End) -> v1::Ending {
    let verdict = match (&spec.kind, end.reason) {
        (Some(Kind::Transcode(_)), EndReason::Exited) => transcoded(attempt_dir, end),
        (Some(Kind::Container(_)), EndReason::Exited) => contained(attempt_dir, spec, end),
        _ => Verdict::plain(classify(end), message(attempt_dir, spec, end)),
    };
    let (verdict, result) = with_result(attempt_dir, end, verdict);
    v1::Ending {
        reason: verdict.reason.into(),
        // The code of a process that never was is its runtime's.
        exit_code: end.code.filter(|_| !verdict.never_ran),
        signal: end.signal,
        message: one_line(&verdict.message, MESSAGE_BYTES),
        oom: end.oom,
        user_us: end.user_us,
        system_us: end.system_us,
        max_rss_bytes: end.max_rss_bytes,
        out_bytes: end.out_bytes,
        err_bytes: end.err_bytes,
        truncated: end.truncated,
        started_unix_ms: end.started_wall_ms,
        ended_unix_ms: end.ended_wall_ms,
        ran_ms: end.ran_ms,
        outputs: verdict.outputs,
        machine_fault: verdict.reason == Reason::Spawn && !verdict.never_ran && is_machine_fault(spec, end),
        result,
    }
}

/// What a process that ended by itself has left. A failure may have a result, too, as of a request that was answered with an error; one
/// that cannot be taken changes nothing about it, and makes a success a failure.
fn with_result(attempt_dir: &Path, end: &End, verdict: Verdict) -> (Verdict, Vec<u8>) {
    if end.reason != EndReason::Exited {
        return (verdict, Vec::new());
    }
    match result::read(attempt_dir) {
        Ok(result) => (verdict, result),
        Err(_) if verdict.reason != Reason::Unspecified => (verdict, Vec::new()),
        Err(error) => {
            let message = format!("exit code 0, but the result in $TASK_RESULT cannot be taken: {error}");
            (Verdict::plain(Reason::Output, message), Vec::new())
        }
    }
}

/// The ending of an attempt that succeeded and whose declared outputs were then staged, or not. `stopped` is why, if it was.
#[must_use]
pub fn staged(
    ending: v1::Ending,
    result: Result<Vec<v1::StagedOutput>, outputs::Error>,
    stopped: Option<Reason>,
) -> v1::Ending {
    match result {
        Ok(outputs) => v1::Ending { outputs, ..ending },
        Err(error) => {
            let reason = match (&error, stopped) {
                (outputs::Error::Stopped, Some(why)) => why,
                _ => Reason::Output,
            };
            v1::Ending { reason: reason.into(), message: one_line(&error.to_string(), MESSAGE_BYTES), ..ending }
        }
    }
}

/// Whether nothing was spawned for a reason that would meet other tasks too. A program or a directory that is not there is what
/// this task named; quarantining the sidecar for it would let one misspelt command stop everybody's work.
fn is_machine_fault(spec: &v1::TaskSpec, end: &End) -> bool {
    let named = ["execve ", "chdir "].iter().any(|call| end.message.starts_with(call));
    if end.reason != EndReason::SpawnFailed || !named {
        return true;
    }
    let limited = spec.limits.is_some_and(|limits| limits.memory_bytes > 0);
    match os_error(&end.message) {
        // It may be no more than its own limit that is too small for its program.
        Some(libc::ENOMEM) => !limited,
        Some(libc::EAGAIN | libc::EIO) => true,
        Some(errno) => is_lack(errno),
        None => false,
    }
}

/// Whether an error is of what a machine has too little of: descriptors, memory, room on its disk.
const fn is_lack(errno: i32) -> bool {
    matches!(errno, libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOSPC | libc::EDQUOT)
}

/// The system's number in a message that ends with the system's words.
fn os_error(message: &str) -> Option<i32> {
    message.rsplit_once("(os error ")?.1.split_once(')')?.0.parse().ok()
}

/// Whether a message ends with words of the system that say what this machine lacks.
pub(crate) fn tells_of_lack(message: &str) -> bool {
    os_error(message).is_some_and(is_lack)
}

/// Whether the keeper refused a start for the limits that the task asks for: a value that no kernel takes.
pub(crate) fn tells_of_wrong_limits(message: &str) -> bool {
    message.starts_with("limits: ") && matches!(os_error(message), Some(libc::EINVAL | libc::ERANGE))
}

struct Verdict {
    reason: Reason,
    message: String,
    outputs: Vec<v1::StagedOutput>,
    /// A runtime that works here could not start what the task named.
    never_ran: bool,
}

impl Verdict {
    const fn plain(reason: Reason, message: String) -> Self {
        Self { reason, message, outputs: Vec::new(), never_ran: false }
    }
}

fn classify(end: &End) -> Reason {
    match end.reason {
        EndReason::Exited => classify_exit(end),
        EndReason::SpawnFailed => Reason::Spawn,
        EndReason::TimedOut => Reason::Timeout,
        EndReason::Cancelled => Reason::Cancelled,
        EndReason::Fenced => Reason::Fenced,
        EndReason::Revoked => Reason::Revoked,
        EndReason::Drained => Reason::Drained,
        EndReason::Stalled => Reason::Stalled,
        EndReason::Unhealthy => Reason::Unhealthy,
    }
}

fn classify_exit(end: &End) -> Reason {
    match (end.code, end.signal) {
        // The OOM killer may take a child whose parent copes: then the task succeeded, and `oom` still tells.
        (Some(0), _) => Reason::Unspecified,
        _ if end.oom => Reason::Oom,
        (Some(_), _) => Reason::ExitCode,
        (None, Some(_)) => Reason::Signal,
        // An end without code and signal is none that a kernel reports: the record is not to be believed as a success.
        (None, None) => Reason::Lost,
    }
}

fn message(attempt_dir: &Path, spec: &v1::TaskSpec, end: &End) -> String {
    match end.reason {
        EndReason::Exited => exit_message(attempt_dir, spec, end),
        EndReason::SpawnFailed => match relative_program(spec).filter(|_| end.message.starts_with("execve ")) {
            Some(_) => format!("{}; {}", end.message, looked_in(spec)),
            None => end.message.clone(),
        },
        EndReason::TimedOut => {
            let limit = spec.timeouts.unwrap_or_default().attempt_ms;
            format!("still running after its timeout of {}", duration(limit))
        }
        EndReason::Cancelled => "cancelled".to_owned(),
        EndReason::Fenced => "stopped: the sidecar's lease ended, and the task is one that stops then".to_owned(),
        EndReason::Revoked => "stopped: another attempt was named".to_owned(),
        EndReason::Drained => "stopped: the sidecar is draining or leaving".to_owned(),
        EndReason::Stalled => {
            let limit = spec.timeouts.unwrap_or_default().progress_ms;
            format!("no progress for {}", duration(limit))
        }
        EndReason::Unhealthy if end.message.is_empty() => "stopped: its health check failed too often".to_owned(),
        EndReason::Unhealthy => format!("stopped: its health check failed too often, the last time: {}", end.message),
    }
}

/// The task's program, if it is looked for from the working directory and not in `PATH`.
fn relative_program(spec: &v1::TaskSpec) -> Option<&str> {
    use v1::task_spec::Kind;
    let argv = match spec.kind.as_ref()? {
        Kind::Command(command) => &command.argv,
        Kind::Service(service) => &service.argv,
        Kind::Script(_) | Kind::Transcode(_) | Kind::Typed(_) | Kind::Container(_) | Kind::Http(_) => return None,
    };
    argv.first().map(String::as_str).filter(|program| program.contains('/') && !program.starts_with('/'))
}

/// Where a relative program was looked for, for somebody who thinks of another directory.
fn looked_in(spec: &v1::TaskSpec) -> String {
    if spec.cwd.is_empty() {
        "it was looked for in the attempt's own directory, where only its inputs are: give an absolute path, --cwd, or \
         bring it along by --executable"
            .to_owned()
    } else {
        format!("it was looked for in {}", spec.cwd)
    }
}

fn exit_message(attempt_dir: &Path, spec: &v1::TaskSpec, end: &End) -> String {
    let fact = match (end.code, end.signal) {
        (Some(0), _) => return String::new(),
        _ if end.oom => {
            let limit = spec.limits.unwrap_or_default().memory_bytes;
            let limit = if limit == 0 { String::new() } else { format!(" (its memory limit is {limit} bytes)") };
            return format!("out of memory: the kernel ended it{limit}");
        }
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("ended by {}", signal_name(signal)),
        (None, None) => return "its end was recorded without a code or a signal".to_owned(),
    };
    match last_line(&attempt_dir.join("err")) {
        Some(line) => format!("{fact}: {line}"),
        None => fact,
    }
}

/// A container whose `crun` ended by itself: with what it complains of nothing was started, else with the container's exit code.
fn contained(attempt_dir: &Path, spec: &v1::TaskSpec, end: &End) -> Verdict {
    match container::complaint(attempt_dir).filter(|_| end.code != Some(0) && !end.oom) {
        Some(why) => {
            let message = format!("the container's process was not started: {why}");
            Verdict { never_ran: true, ..Verdict::plain(Reason::Spawn, message) }
        }
        None => Verdict::plain(classify(end), message(attempt_dir, spec, end)),
    }
}

/// A transcode that ended by itself: the manifest is its success, the failure file its reason.
fn transcoded(attempt_dir: &Path, end: &End) -> Verdict {
    if end.code == Some(0) {
        return match transcode::read_manifest(attempt_dir) {
            Ok(Some(manifest)) => {
                Verdict { outputs: manifest.to_wire(), ..Verdict::plain(Reason::Unspecified, String::new()) }
            }
            Ok(None) => Verdict::plain(Reason::Output, "exit code 0, but no output was staged".to_owned()),
            Err(error) => {
                Verdict::plain(Reason::Output, format!("exit code 0, but its manifest cannot be read: {error}"))
            }
        };
    }
    let exit = |exit: Exit| end.code == Some(i32::from(exit.code()));
    let reason = match classify_exit(end) {
        Reason::ExitCode if exit(Exit::Output) => Reason::Output,
        // A machine without ffmpeg can start no transcode at all, which is what a sidecar's quarantine is for.
        Reason::ExitCode if exit(Exit::NoFfmpeg) => Reason::Spawn,
        other => other,
    };
    let told = read_bounded(&attempt_dir.join("work").join(transcode::FAILURE_FILE)).filter(|_| !end.oom);
    let message = told.unwrap_or_else(|| exit_message(attempt_dir, &v1::TaskSpec::default(), end));
    Verdict::plain(reason, message)
}

fn read_bounded(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(TAIL_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned()).filter(|text| !text.trim().is_empty())
}

/// The last line with anything in it, from the end of a file.
fn last_line(path: &Path) -> Option<String> {
    let mut file = fs::File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES))).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

/// One line without control characters, at most `bytes` long, cut between characters.
pub(super) fn one_line(text: &str, bytes: usize) -> String {
    let clean: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if clean.len() <= bytes {
        return clean;
    }
    let room = bytes.saturating_sub('…'.len_utf8());
    let cut = clean.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|&end| end <= room).last().unwrap_or(0);
    format!("{}…", &clean[..cut])
}

fn duration(ms: u64) -> String {
    if ms.is_multiple_of(1000) { format!("{} s", ms / 1000) } else { format!("{ms} ms") }
}

fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        libc::SIGSYS => "SIGSYS",
        _ => return format!("signal {signal}"),
    };
    format!("{name} ({signal})")
}
