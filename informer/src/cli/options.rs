//! The task options of `submit` and `run`: flags, or a task file with flags on top, become one `TaskSpec`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use proto::v1::{self, SubmitRequest, TaskSpec, task_spec::Kind};

use super::{error::Error, file, owner, text, units};

/// What a task is, and how it is to be run.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Task options")]
pub(crate) struct TaskOptions {
    /// Read the task from a TOML or JSON file ("-": standard input); flags override what it says
    #[arg(short = 'f', long = "file", value_name = "FILE", conflicts_with_all = ["script", "command"])]
    pub(crate) file: Option<PathBuf>,
    /// Run this file as a script; ARGs after -- are its arguments
    #[arg(long, value_name = "FILE")]
    pub(crate) script: Option<PathBuf>,
    /// What runs the script [default: /bin/sh]
    #[arg(long, value_name = "PROGRAM", requires = "script")]
    pub(crate) interpreter: Option<String>,
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
    /// The program and its arguments
    #[arg(last = true, value_name = "CMD ARG")]
    pub(crate) command: Vec<String>,
}

/// `--on-disconnect`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnDisconnect {
    /// Runs on; its result is kept
    Continue,
    /// Is stopped before another copy starts
    Stop,
}

/// Longest script taken from a file, in bytes: the informer refuses larger payloads; reading stops there rather than at the end
/// of somebody's disk image.
const SCRIPT_BYTES: u64 = proto::bounds::PAYLOAD_BYTES as u64;

impl TaskOptions {
    /// The request for these options. Carries an idempotency key in any case, so that it may be sent again after a lost answer.
    ///
    /// # Errors
    /// A file that cannot be read or understood, or nothing to run.
    pub(crate) fn request(&self) -> Result<SubmitRequest, Error> {
        let form = match &self.file {
            Some(path) => file::read(path)?,
            None => file::Task {
                spec: TaskSpec { kind: Some(self.kind()?), ..TaskSpec::default() },
                key: None,
                delay_ms: None,
            },
        };
        let mut spec = form.spec;
        self.describe(&mut spec);
        self.constrain(&mut spec);
        self.protect(&mut spec);
        if let Some(at) = self.start_at {
            spec.start_after_unix_ms = at;
        } else if let Some(delay) = self.delay.or(form.delay_ms) {
            spec.start_after_unix_ms = text::now_unix_ms().saturating_add(delay);
        }
        let key = self.key.clone().or(form.key).unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        Ok(SubmitRequest { spec: Some(spec), key })
    }

    /// What is to be run, by flags alone.
    fn kind(&self) -> Result<Kind, Error> {
        if let Some(path) = &self.script {
            let interpreter = self.interpreter.clone().unwrap_or_default();
            return Ok(Kind::Script(v1::Script { interpreter, body: read_script(path)?, args: self.command.clone() }));
        }
        if self.command.is_empty() {
            return Err(Error::Misuse(
                "there is nothing to run; give a program after --, as in `informer run -- echo hello`, or --script FILE, or -f FILE"
                    .into(),
            ));
        }
        Ok(Kind::Command(v1::Command { argv: self.command.clone() }))
    }

    /// Names, labels, environment.
    fn describe(&self, spec: &mut TaskSpec) {
        set(&mut spec.name, self.name.clone());
        set(&mut spec.owner, self.owner.clone());
        if spec.owner.is_empty() {
            spec.owner = owner::current();
        }
        if spec.name.is_empty()
            && let Some(name) = self.script.as_deref().and_then(Path::file_name)
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

fn read_script(path: &Path) -> Result<String, Error> {
    file::read_bounded(path, SCRIPT_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        task: TaskOptions,
    }

    fn request(line: &str) -> SubmitRequest {
        let words = std::iter::once("x").chain(line.split_whitespace());
        let line = Line::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
        line.task.request().expect("a request")
    }

    fn spec(line: &str) -> TaskSpec {
        request(line).spec.expect("a spec")
    }

    #[test]
    fn a_bare_command_says_nothing_but_what_and_who() {
        let request = request("-- echo -n hi");
        let spec = request.spec.expect("a spec");
        let owner = spec.owner.clone();
        assert!(!owner.is_empty());
        let argv = ["echo", "-n", "hi"].map(String::from).to_vec();
        let kind = Some(Kind::Command(v1::Command { argv }));
        assert_eq!(spec, TaskSpec { owner, kind, ..TaskSpec::default() });
    }

    #[test]
    fn a_key_is_made_when_none_is_given_and_never_twice_the_same() {
        let (one, two) = (request("-- true").key, request("-- true").key);
        assert!(!one.is_empty() && one != two);
        assert_eq!(request("--key k -- true").key, "k");
    }

    #[test]
    fn every_option_reaches_its_field() {
        let spec = spec(
            "--name n --owner o --label a=1 --label b=2 --require gpu=yes --cpu 500 --memory 512MiB --priority -5 --tries 7 \
             --timeout 90s --queue-timeout 1m --total-timeout 1h --progress-timeout 10s --env A=b=c --cwd /tmp --exclusive \
             --on-disconnect stop --accept-weak-fencing --stop-signal INT --stop-grace 3s --log-cap 1MiB --memory-limit 1GiB \
             --cpu-limit 2000 --pids-limit 64 --start-at 1970-01-01T00:00:05Z -- true",
        );
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let expected = TaskSpec {
            inputs: Vec::new(),
            outputs: Vec::new(),
            name: "n".into(),
            owner: "o".into(),
            labels: map(&[("a", "1"), ("b", "2")]),
            require: map(&[("gpu", "yes")]),
            resources: Some(v1::Resources { cpu_millis: 500, memory_bytes: 512 << 20 }),
            priority: -5,
            retry: Some(v1::Retry { max_attempts: 7, ..v1::Retry::default() }),
            timeouts: Some(v1::Timeouts {
                queue_ms: 60_000,
                attempt_ms: 90_000,
                total_ms: 3_600_000,
                progress_ms: 10_000,
            }),
            on_disconnect: v1::OnDisconnect::Stop.into(),
            exclusive: true,
            accept_weak_fencing: true,
            stop: Some(v1::Stop { signal: 2, grace_ms: 3_000, main_only: false }),
            env: map(&[("A", "b=c")]),
            cwd: "/tmp".into(),
            limits: Some(v1::Limits { cpu_millis: 2000, memory_bytes: 1 << 30, pids: 64 }),
            start_after_unix_ms: 5_000,
            log_cap_bytes: 1 << 20,
            replace_after_ms: 0,
            kind: Some(Kind::Command(v1::Command { argv: vec!["true".into()] })),
        };
        assert_eq!(spec, expected);
    }

    #[test]
    fn a_delay_counts_from_now() {
        let before = text::now_unix_ms();
        let at = spec("--delay 1h -- true").start_after_unix_ms;
        assert!(at >= before + 3_600_000 && at <= text::now_unix_ms() + 3_600_000);
    }

    #[test]
    fn nothing_to_run_and_contradictions_are_refused() {
        let empty = TaskOptions::default().request().expect_err("nothing to run");
        assert_eq!(empty.exit(), 2);
        for line in [
            "-f x -- true",
            "-f x --script y",
            "--interpreter sh -- true",
            "--delay 1s --start-at 1970-01-01T00:00:05Z -- true",
        ] {
            let words = std::iter::once("x").chain(line.split_whitespace());
            assert!(Line::try_parse_from(words).is_err(), "{line}");
        }
    }

    #[test]
    fn a_script_brings_its_text_its_arguments_and_its_name() {
        let path = std::env::temp_dir().join(format!("hello-{}.sh", std::process::id()));
        std::fs::write(&path, "echo $1\n").expect("a file");
        let words =
            ["x", "--script", &path.to_string_lossy(), "--interpreter", "/bin/bash", "--", "a"].map(String::from);
        let spec =
            Line::try_parse_from(words).ok().and_then(|line| line.task.request().ok()).and_then(|request| request.spec);
        std::fs::remove_file(&path).expect("removed");
        let spec = spec.expect("a spec");
        let script = v1::Script { interpreter: "/bin/bash".into(), body: "echo $1\n".into(), args: vec!["a".into()] };
        assert_eq!(spec.kind, Some(Kind::Script(script)));
        assert_eq!(spec.name, path.file_name().expect("a name").to_string_lossy());
    }

    #[test]
    fn a_missing_script_is_a_failure_that_names_it() {
        let options = TaskOptions { script: Some("/nonexistent/x.sh".into()), ..TaskOptions::default() };
        let error = options.request().expect_err("no such file");
        assert!(error.to_string().starts_with("cannot read /nonexistent/x.sh: "), "{error}");
    }
}
