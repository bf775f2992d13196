//! The task options of `submit` and `run`: flags, or a task file with flags on top, become one `TaskSpec`.

mod files;
mod work;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use proto::v1::{self, SubmitRequest, TaskSpec};

use super::{
    array::{Array, ArrayOptions},
    error::Error,
    file, owner, units,
};

/// What a task is, and how it is to be run.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Task options")]
pub(crate) struct TaskOptions {
    /// Read the task from a TOML or JSON file ("-": standard input); flags override what it says
    #[arg(short = 'f', long = "file", value_name = "FILE", conflicts_with_all = ["script", "type_name", "image", "executable", "command"])]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) work: work::WorkOptions,
    /// Idempotency key: a repeat with the same task gives the same id
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) key: Option<String>,
    /// Name for people [default: the program's name]
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) name: Option<String>,
    /// Who owns it [default: your user name]
    #[arg(long, value_name = "NAME")]
    pub(crate) owner: Option<String>,
    /// Label for people and filters (repeat for more)
    #[arg(long = "label", value_name = "K=V", value_parser = units::pair)]
    pub(crate) labels: Vec<(String, String)>,
    /// Label that the sidecar must carry (repeat for more)
    #[arg(long = "require", value_name = "K=V", value_parser = units::pair)]
    pub(crate) require: Vec<(String, String)>,
    /// Processor share to reserve, in thousandths of a core [default: 1000]
    #[arg(long, value_name = "MILLIS")]
    pub(crate) cpu: Option<u64>,
    /// Memory to reserve, like 512MiB
    #[arg(long, value_name = "BYTES", value_parser = units::bytes)]
    pub(crate) memory: Option<u64>,
    /// Higher runs first, -1000 to 1000 [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) priority: Option<i32>,
    /// Attempts in all [default: 3; run: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) tries: Option<u32>,
    /// Limit of one attempt, like 90s
    #[arg(long, value_name = "D", value_parser = units::limit_ms)]
    pub(crate) timeout: Option<u64>,
    /// Limit of the wait for a sidecar
    #[arg(long, value_name = "D", value_parser = units::limit_ms)]
    pub(crate) queue_timeout: Option<u64>,
    /// Limit of the whole task, from submit to end
    #[arg(long, value_name = "D", value_parser = units::limit_ms)]
    pub(crate) total_timeout: Option<u64>,
    /// Limit of a standstill of its progress
    #[arg(long, value_name = "D", value_parser = units::limit_ms)]
    pub(crate) progress_timeout: Option<u64>,
    /// Environment variable (repeat for more)
    #[arg(long = "env", value_name = "K=V", value_parser = units::pair)]
    pub(crate) env: Vec<(String, String)>,
    /// Working directory on the sidecar's machine [default: an empty one of the attempt's own, not yours]
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// At most one copy runs, ever
    #[arg(long)]
    pub(crate) exclusive: bool,
    /// What the process does when its sidecar loses the informer [default: continue; exclusive tasks: stop]
    #[arg(long, value_name = "WHAT")]
    pub(crate) on_disconnect: Option<OnDisconnect>,
    /// Run an exclusive task even where fencing is weak
    #[arg(long)]
    pub(crate) accept_weak_fencing: bool,
    /// Signal that asks the process to stop [default: SIGTERM]
    #[arg(long, value_name = "SIGNAL", value_parser = units::signal)]
    pub(crate) stop_signal: Option<i32>,
    /// Time between that signal and SIGKILL [default: 10s]
    #[arg(long, value_name = "D", value_parser = units::duration_ms)]
    pub(crate) stop_grace: Option<u64>,
    /// Bytes kept of stdout and of stderr, each [default: 64MiB]
    #[arg(long, value_name = "BYTES", value_parser = units::bytes)]
    pub(crate) log_cap: Option<u64>,
    /// Enforced limit of memory
    #[arg(long, value_name = "BYTES", value_parser = units::bytes)]
    pub(crate) memory_limit: Option<u64>,
    /// Enforced limit of processor share, in thousandths of a core
    #[arg(long, value_name = "MILLIS")]
    pub(crate) cpu_limit: Option<u64>,
    /// Enforced limit of processes and threads
    #[arg(long, value_name = "N")]
    pub(crate) pids_limit: Option<u64>,
    /// Not before this time, like 2026-11-21T08:30:00Z
    #[arg(long, value_name = "TIME", value_parser = units::unix_ms, conflicts_with = "delay")]
    pub(crate) start_at: Option<u64>,
    /// Not before this much time has passed
    #[arg(long, value_name = "D", value_parser = units::duration_ms)]
    pub(crate) delay: Option<u64>,
    #[command(flatten)]
    pub(crate) files: files::FileOptions,
    #[command(flatten)]
    pub(crate) members: ArrayOptions,
}

/// What is to be submitted: a task, or the template of an array.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Order {
    pub(crate) request: SubmitRequest,
    pub(crate) array: Option<Array>,
}

/// `--on-disconnect`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnDisconnect {
    /// Runs on; its result is kept
    Continue,
    /// Is stopped before another copy starts
    Stop,
}

impl TaskOptions {
    /// The request for these options. Carries an idempotency key in any case, so that it may be sent again after a lost answer.
    ///
    /// # Errors
    /// A file that cannot be read or understood, nothing to run, or a label that is given twice.
    pub(crate) fn order(&self) -> Result<Order, Error> {
        self.work.check()?;
        units::once("--label", &self.labels)?;
        units::once("--require", &self.require)?;
        let form = match &self.file {
            Some(path) => {
                let mut form = file::read(path)?;
                self.work.override_input(&mut form.spec)?;
                form
            }
            None => file::Task { spec: self.of_flags()?, key: None, array: None },
        };
        let array = self.members.over(form.array)?;
        if self.file.as_deref() == Some(Path::new("-")) && array.as_ref().is_some_and(|array| array.members.is_stdin())
        {
            return Err(Error::Misuse(
                "standard input is either the task or its items; put one of them into a file".into(),
            ));
        }
        let mut spec = form.spec;
        self.describe(&mut spec);
        self.constrain(&mut spec);
        self.protect(&mut spec);
        spec.inputs.extend(self.files.inputs()?);
        spec.outputs.extend(self.files.outputs()?);
        if let Some(at) = self.start_at {
            (spec.start_after_unix_ms, spec.start_after_ms) = (at, 0);
        } else if let Some(delay_ms) = self.delay {
            (spec.start_after_unix_ms, spec.start_after_ms) = (0, delay_ms);
        }
        let key = self.key.clone().or(form.key).unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        Ok(Order { request: SubmitRequest { spec: Some(spec), key }, array })
    }

    /// What is to be run, by flags alone.
    fn of_flags(&self) -> Result<TaskSpec, Error> {
        if self.work.has_executable() && self.cwd.is_some() {
            return Err(Error::Misuse(
                "--executable is started from the attempt's own directory, where it is put; leave --cwd out".into(),
            ));
        }
        let (kind, executable) = self.work.kind()?;
        Ok(TaskSpec { kind: Some(kind), inputs: executable.into_iter().collect(), ..TaskSpec::default() })
    }

    /// Names, labels, environment.
    fn describe(&self, spec: &mut TaskSpec) {
        set(&mut spec.name, self.name.clone());
        set(&mut spec.owner, self.owner.clone());
        if spec.owner.is_empty() {
            spec.owner = owner::current();
        }
        if spec.name.is_empty()
            && let Some(name) = self.work.script.as_deref().and_then(Path::file_name)
        {
            spec.name = name.to_string_lossy().into_owned();
        }
        spec.labels.extend(self.labels.iter().cloned());
        spec.require.extend(self.require.iter().cloned());
        spec.env.extend(self.env.iter().cloned());
        set(&mut spec.cwd, self.cwd.clone());
    }

    /// Resources, limits, retries and timeouts.
    fn constrain(&self, spec: &mut TaskSpec) {
        set(&mut spec.priority, self.priority);
        set(&mut spec.log_cap_bytes, self.log_cap);
        if self.cpu.is_some() || self.memory.is_some() {
            let resources = spec.resources.get_or_insert_default();
            set(&mut resources.cpu_millis, self.cpu);
            set(&mut resources.memory_bytes, self.memory);
        }
        if self.memory_limit.is_some() || self.cpu_limit.is_some() || self.pids_limit.is_some() {
            let limits = spec.limits.get_or_insert_default();
            set(&mut limits.cpu_millis, self.cpu_limit);
            set(&mut limits.memory_bytes, self.memory_limit);
            set(&mut limits.pids, self.pids_limit);
        }
        if let Some(tries) = self.tries {
            spec.retry.get_or_insert_default().max_attempts = tries;
        }
        let timeouts = [self.timeout, self.queue_timeout, self.total_timeout, self.progress_timeout];
        if timeouts.iter().any(Option::is_some) {
            let spec = spec.timeouts.get_or_insert_default();
            set(&mut spec.attempt_ms, self.timeout);
            set(&mut spec.queue_ms, self.queue_timeout);
            set(&mut spec.total_ms, self.total_timeout);
            set(&mut spec.progress_ms, self.progress_timeout);
        }
    }

    /// How it is stopped, and what happens when its sidecar is cut off.
    fn protect(&self, spec: &mut TaskSpec) {
        spec.exclusive |= self.exclusive;
        spec.accept_weak_fencing |= self.accept_weak_fencing;
        if let Some(what) = self.on_disconnect {
            let what = match what {
                OnDisconnect::Continue => v1::OnDisconnect::Continue,
                OnDisconnect::Stop => v1::OnDisconnect::Stop,
            };
            spec.set_on_disconnect(what);
        }
        if self.stop_signal.is_some() || self.stop_grace.is_some() {
            let stop = spec.stop.get_or_insert_default();
            set(&mut stop.signal, self.stop_signal);
            set(&mut stop.grace_ms, self.stop_grace);
        }
    }
}

/// A flag that was given overrides.
fn set<T>(field: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *field = given;
    }
}

#[cfg(test)]
mod tests;
