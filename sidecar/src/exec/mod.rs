//! What a kind of task means as a process: one module per kind plans it, and nothing else here knows kinds.
//!
//! ```text
//! v1::TaskSpec ── plan ──▶ keeper::wire::Spec ── keeper, monitor ──▶ process ──▶ keeper::wire::End
//!                                                                                     │
//!                     v1::Ending ◀── ending (exit, work/failure, work/outputs.json) ◀─┘
//! the accepted attempt: publish (staged file → destination)      any other: discard (staged file removed)
//! ```
//!
//! | module | holds |
//! |---|---|
//! | `command`, `script`, `service` | the argv and files of that kind |
//! | [`typed`] | a registered type that stands for a command |
//! | [`http`] | one HTTP request, by a process of our own |
//! | [`transcode`] | ffmpeg: plan, the supervising process, progress, verification |
//! | [`container`] | a process in a container, through `crun` |
//! | `inputs` | what a task finds in its directory: what has to be there before its process starts |
//! | [`outputs`] | declared outputs, staged beside their destinations |
//! | `environment` | a task's variables |
//! | `progress` | how far an attempt is |
//! | [`result`] | the JSON object that a process leaves |
//! | `digest` | bytes that are hashed as they pass |
//! | `ending` | how a process ended, in the informer's words |
//! | `publish` | staged outputs: into place, or away |

mod command;
pub mod container;
pub(crate) mod digest;
mod ending;
mod environment;
pub mod http;
pub(crate) mod inputs;
pub mod outputs;
mod progress;
mod publish;
pub mod result;
mod script;
mod service;
pub mod transcode;
pub mod typed;

pub use ending::{ending, staged};
pub(crate) use ending::{tells_of_lack, tells_of_wrong_limits};
pub use environment::base_env;
pub use progress::Progress;
pub use publish::{discard, publish};

use keeper::wire;
use proto::{
    bounds,
    id::{AttemptId, Fence},
    v1,
};
use std::path::{Path, PathBuf};

/// The kinds of task that [`plan`] knows, as a hello lists them; containers only where there is a working `crun`.
pub const KINDS: [&str; 5] = ["command", "script", "service", "transcode", "http"];
/// What a hello lists besides where containers work.
pub const CONTAINER: &str = "container";

/// Everything that turns a task into a process.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// The attempt; its `dir_name` is its directory below `attempts/`.
    pub attempt: AttemptId,
    /// Its fence, shown to the process.
    pub fence: Fence,
    /// The task's name, for people.
    pub task_name: &'a str,
    /// What to run, as the informer's edge has checked it.
    pub spec: &'a v1::TaskSpec,
    /// Of an array's member: what it was given.
    pub item: Option<&'a str>,
    /// The sidecar's data directory.
    pub data_dir: &'a Path,
    /// The sidecar binary, which supervises a transcode.
    pub exe: &'a Path,
    /// The `crun` of this machine, if containers work here; see [`container::probe`].
    pub crun: Option<&'a Path>,
    /// The environment that the task's own is laid over; see [`base_env`].
    pub base_env: &'a [(String, String)],
    /// From the informer's welcome, in milliseconds.
    pub fence_grace_ms: u64,
}

impl Plan<'_> {
    /// The attempt's directory, absolute.
    fn attempt_dir(&self) -> Result<PathBuf, Error> {
        let data = std::path::absolute(self.data_dir).map_err(Error::DataDir)?;
        Ok(data.join("attempts").join(self.attempt.dir_name()))
    }

    /// The directory in which the process starts unless the task names one, absolute.
    fn work_dir(&self) -> Result<PathBuf, Error> {
        Ok(self.attempt_dir()?.join("work"))
    }

    /// What `TASK_OUTPUTS` names, absolute. A directory of its own where something is declared; to make one for every attempt
    /// would cost each of them an inode.
    fn outputs_dir(&self) -> Result<PathBuf, Error> {
        if self.spec.outputs.is_empty() { self.work_dir() } else { Ok(self.attempt_dir()?.join(outputs::DIR)) }
    }
}

/// Why no process could be planned. The attempt fails with reason `SPAWN` and this text.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The spec has no kind, or one of a newer informer.
    #[error("the task has no kind that this sidecar knows (it knows {KINDS:?}); upgrade the sidecar")]
    UnknownKind,
    /// A container task on a sidecar that has no `crun`, any more.
    #[error("there is no crun on this machine that works; install it and start the sidecar again")]
    NoCrun,
    /// The command is empty.
    #[error("{kind}.argv is empty; name a program")]
    EmptyArgv {
        /// The kind.
        kind: &'static str,
    },
    /// The data directory has no absolute form.
    #[error("the sidecar's data directory cannot be made absolute")]
    DataDir(#[source] std::io::Error),
    /// A path is not UTF-8, which neither the wire nor the environment can carry.
    #[error("{path:?} is not UTF-8; move the sidecar's data directory or binary to a path that is")]
    NotUtf8 {
        /// The path, lossy.
        path: PathBuf,
    },
    /// The transcode cannot be planned.
    #[error(transparent)]
    Transcode(#[from] transcode::PlanError),
}

/// What a kind contributes to a spec.
struct Process {
    argv: Vec<String>,
    files: Vec<wire::File>,
}

/// The process of an attempt: argv, environment, files, limits and how it is stopped. Reads and writes nothing.
///
/// `note` is left empty for the caller, who finds its own facts there when it adopts.
///
/// # Errors
/// [`Error`] says what is wrong with the task or with this sidecar's paths; nothing was started.
pub fn plan(plan: &Plan<'_>) -> Result<wire::Spec, Error> {
    use v1::task_spec::Kind;
    let spec = plan.spec;
    let process = match &spec.kind {
        None | Some(Kind::Typed(_)) => return Err(Error::UnknownKind),
        Some(Kind::Container(_)) => container::process(plan)?,
        Some(Kind::Command(command)) => command::process(command)?,
        Some(Kind::Script(script)) => script::process(script, &plan.work_dir()?)?,
        Some(Kind::Service(service)) => service::process(service)?,
        Some(Kind::Http(http)) => http::process(plan, http)?,
        Some(Kind::Transcode(transcode)) => transcode::process(plan, transcode)?,
    };
    let stop = spec.stop.unwrap_or_default();
    let limits = spec.limits.unwrap_or_default();
    let is_service = matches!(spec.kind, Some(Kind::Service(_)));
    let is_container = matches!(spec.kind, Some(Kind::Container(_)));
    Ok(wire::Spec {
        argv: inputs::resolve(plan, process.argv)?,
        // Both are the container's own affair, and in its config.
        env: if is_container { plan.base_env.to_vec() } else { environment::of(plan)? },
        cwd: if is_container { String::new() } else { spec.cwd.clone() },
        files: process.files,
        cpu_limit_millis: limits.cpu_millis,
        memory_limit_bytes: limits.memory_bytes,
        pids_limit: limits.pids,
        log_cap_bytes: or_default(spec.log_cap_bytes, bounds::LOG_CAP_DEFAULT_BYTES),
        // A service is asked what it does now, a task what went wrong first.
        log_policy: if is_service { wire::LogPolicy::KeepTail } else { wire::LogPolicy::KeepHead },
        stop_signal: stop.signal,
        stop_grace_ms: or_default(stop.grace_ms, bounds::STOP_GRACE_MS),
        stop_target: if stop.main_only { wire::StopTarget::Main } else { wire::StopTarget::Group },
        // A service has liveness, health check and restart policy instead.
        timeout_ms: if is_service { 0 } else { spec.timeouts.unwrap_or_default().attempt_ms },
        on_disconnect: on_disconnect(spec),
        fence_grace_ms: plan.fence_grace_ms,
        without_lease: false,
        prepared: inputs::needs_preparation(spec),
        note: Vec::new(),
    })
}

/// What the end of the lease means: as the spec says, and `stop` for an exclusive task that says nothing.
fn on_disconnect(spec: &v1::TaskSpec) -> wire::OnDisconnect {
    match spec.on_disconnect() {
        v1::OnDisconnect::Stop => wire::OnDisconnect::Stop,
        v1::OnDisconnect::Continue => wire::OnDisconnect::Continue,
        v1::OnDisconnect::Unspecified if spec.exclusive => wire::OnDisconnect::Stop,
        v1::OnDisconnect::Unspecified => wire::OnDisconnect::Continue,
    }
}

/// The name that an attempt's files carry, from its directory.
fn utf8(path: &Path) -> Result<String, Error> {
    path.to_str().map(str::to_owned).ok_or_else(|| Error::NotUtf8 { path: path.to_owned() })
}

const fn or_default(value: u64, default: u64) -> u64 {
    if value == 0 { default } else { value }
}

#[cfg(test)]
mod tests;
