//! Task files: the TOML and JSON forms of the gRPC `TaskSpec`, with the same field names.
//!
//! Durations are texts like `"5m"`, sizes texts like `"512MiB"` or numbers of bytes; the unit at the end of a field's name may be
//! left out. A bare number is what the key's name says: milliseconds under `attempt_ms`, and under `attempt` seconds, as on a flag. Paths (of scripts, films, inputs,
//! outputs, images, items; `cwd`) are relative to the file. A key that does not exist is refused: a typo must not become a default.

mod array;
mod files;
mod kind;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use proto::{
    bounds,
    v1::{self, TaskSpec},
};
use serde::Deserialize;

use super::{
    array::Array,
    error::Error,
    units::{self, Bytes, Millis, Time},
};

/// Largest task file, in bytes. Comments and escapes may make it larger than the payload it describes, but not without end.
const FILE_BYTES: u64 = 4 * bounds::PAYLOAD_BYTES as u64;

/// From this likeness on (of 1) a name is suggested for another: typing errors pass, other words do not.
const ALIKE: f64 = 0.8;

/// A task file's contents.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Task {
    pub(crate) spec: TaskSpec,
    pub(crate) key: Option<String>,
    pub(crate) array: Option<Array>,
}

/// Reads a task file; `-` is standard input.
///
/// # Errors
/// [`Error::Read`], or [`Error::Content`] with the line.
pub(crate) fn read(path: &Path) -> Result<Task, Error> {
    let text = read_bounded(path, FILE_BYTES)?;
    let folder = if path == Path::new("-") { Path::new("") } else { path.parent().unwrap_or(Path::new("")) };
    let folder = std::path::absolute(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
        .map_err(|source| Error::Read { path: path.to_owned(), source })?;
    parse(path, &text, &folder)
}

/// A path on the command line as an absolute one, relative to where the user stands.
pub(crate) fn absolute(path: &Path) -> Result<String, Error> {
    let folder = std::env::current_dir().map_err(|source| Error::Read { path: path.to_owned(), source })?;
    below(&folder, path, "").map_err(|_| Error::Misuse(format!("the path {} is not UTF-8", path.display())))
}

/// A whole text file of at most `most` bytes; `-` is standard input.
pub(crate) fn read_bounded(path: &Path, most: u64) -> Result<String, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let input: Box<dyn io::Read> =
        if path == Path::new("-") { Box::new(io::stdin()) } else { Box::new(File::open(path).map_err(failed)?) };
    let mut bytes = Vec::new();
    input.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > most {
        return Err(failed(io::Error::other(format!("it is larger than {most} bytes"))));
    }
    String::from_utf8(bytes).map_err(|_| failed(io::Error::other("it is not UTF-8 text")))
}

/// JSON by its name or its first character, else TOML.
pub(crate) fn parse(path: &Path, text: &str, folder: &Path) -> Result<Task, Error> {
    let json = match path.extension().and_then(|end| end.to_str()) {
        Some("json") => true,
        Some("toml") => false,
        _ => text.trim_start().starts_with('{'),
    };
    let content = |line, problem: String| Error::Content { path: path.to_owned(), line, problem };
    let form: Form = if json {
        serde_json::from_str(text)
            .map_err(|error| content(error.line().max(1), without_position(&error.to_string())))?
    } else {
        from_toml(path, text)?
    };
    // What only shows when the fields are seen together has no line of its own: it is told of the table it is in.
    form.task(folder).map_err(|problem| problem.at(path, text))
}

/// The task of a definition that an informer keeps: the JSON form, in which nothing is read from a disk. Whose disk would it be?
///
/// # Errors
/// What is wrong with it.
pub(crate) fn inline(task: &serde_json::Map<String, serde_json::Value>) -> Result<TaskSpec, String> {
    for key in ["key", "array", "start_at", "start_after_unix_ms", "start_after_ms", "delay"] {
        if task.contains_key(key) {
            return Err(format!("{key}: it is for a task that is submitted; leave it out"));
        }
    }
    for (table, key, instead) in [("script", "file", "body"), ("typed", "input_file", "input")] {
        if task.get(table).is_some_and(|table| table.get(key).is_some()) {
            return Err(format!("{table}.{key}: the informer reads no files; use {table}.{instead}"));
        }
    }
    let text = serde_json::Value::Object(task.clone()).to_string();
    match parse(Path::new("task.json"), &text, Path::new("/")) {
        Ok(task) => Ok(task.spec),
        Err(Error::Content { problem, .. }) => Err(problem),
        Err(error) => Err(error.to_string()),
    }
}

/// Any TOML file of ours, its mistakes told with their line.
///
/// # Errors
/// [`Error::Content`].
pub(crate) fn from_toml<T: serde::de::DeserializeOwned>(path: &Path, text: &str) -> Result<T, Error> {
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = 1 + text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count();
        Error::Content { path: path.to_owned(), line, problem: flat(error.message()) }
    })
}

/// Serde's text without its own ` at line 1 column 2`; the line stands in front.
fn without_position(text: &str) -> String {
    flat(text.rsplit_once(" at line ").map_or(text, |(problem, _)| problem))
}

/// A parser's message on one line; of a name that is none, the one that was probably meant instead of all that there are.
fn flat(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.split_once(", expected ") {
        Some((problem, known)) if problem.starts_with("unknown ") => match meant(problem, known) {
            Some(name) => format!("{problem}; did you mean `{name}`?"),
            None => line,
        },
        _ => line,
    }
}

/// Of the names in backticks in `known`, the one most like the one in `problem`.
fn meant<'a>(problem: &str, known: &'a str) -> Option<&'a str> {
    let written = problem.split('`').nth(1)?;
    let names = known.split('`').skip(1).step_by(2);
    let rated = names.map(|name| (strsim::jaro_winkler(written, name), name));
    rated.filter(|(likeness, _)| *likeness >= ALIKE).max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, name)| name)
}

/// What is wrong with fields that are right one by one.
#[derive(Debug)]
enum Problem {
    /// Told of the first line that mentions `near`.
    Content { near: &'static str, problem: String },
    /// A file named in the task file.
    File(Error),
}

impl Problem {
    fn at(self, path: &Path, text: &str) -> Error {
        match self {
            Self::File(error) => error,
            Self::Content { near, problem } => {
                let line = text.lines().position(|line| line.contains(near)).unwrap_or(0) + 1;
                Error::Content { path: path.to_owned(), line, problem }
            }
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct Form {
    name: String,
    owner: String,
    key: Option<String>,
    labels: BTreeMap<String, String>,
    require: BTreeMap<String, String>,
    resources: Option<Resources>,
    priority: i32,
    retry: Option<Retry>,
    timeouts: Option<Timeouts>,
    on_disconnect: Option<OnDisconnect>,
    exclusive: bool,
    accept_weak_fencing: bool,
    stop: Option<Stop>,
    env: BTreeMap<String, String>,
    cwd: Option<PathBuf>,
    limits: Option<Limits>,
    start_after_unix_ms: Option<u64>,
    start_at: Option<String>,
    start_after_ms: Option<Millis>,
    delay: Option<Time>,
    #[serde(alias = "log_cap")]
    log_cap_bytes: Option<Bytes>,
    replace_after: Option<Time>,
    replace_after_ms: Option<Millis>,
    command: Option<kind::Command>,
    script: Option<kind::Script>,
    service: Option<kind::Service>,
    transcode: Option<kind::Transcode>,
    typed: Option<kind::Typed>,
    container: Option<kind::Container>,
    http: Option<kind::Http>,
    inputs: Vec<files::Input>,
    outputs: Vec<files::Output>,
    array: Option<array::Array>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Resources {
    #[serde(alias = "cpu")]
    cpu_millis: u64,
    #[serde(alias = "memory")]
    memory_bytes: Option<Bytes>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Limits {
    #[serde(alias = "cpu")]
    cpu_millis: u64,
    #[serde(alias = "memory")]
    memory_bytes: Option<Bytes>,
    pids: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Retry {
    #[serde(alias = "tries")]
    max_attempts: u32,
    max_infrastructure: u32,
    no_infrastructure_retry: bool,
    backoff: Option<Time>,
    backoff_ms: Option<Millis>,
    backoff_cap: Option<Time>,
    backoff_cap_ms: Option<Millis>,
    final_codes: Vec<u32>,
    retriable_codes: Vec<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Timeouts {
    queue: Option<Time>,
    queue_ms: Option<Millis>,
    attempt: Option<Time>,
    attempt_ms: Option<Millis>,
    total: Option<Time>,
    total_ms: Option<Millis>,
    progress: Option<Time>,
    progress_ms: Option<Millis>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OnDisconnect {
    #[serde(alias = "ON_DISCONNECT_CONTINUE")]
    Continue,
    #[serde(alias = "ON_DISCONNECT_STOP")]
    Stop,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Stop {
    signal: Option<Signal>,
    grace: Option<Time>,
    grace_ms: Option<Millis>,
    main_only: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a signal: a name like \"SIGTERM\" or a number")]
enum Signal {
    Number(i32),
    Name(String),
}

/// 0 is the schema's word for "not said".
///
/// # Errors
/// Both keys are there, and either may have been meant.
fn ms(near: &'static str, time: Option<Time>, ms: Option<Millis>) -> Result<u64, Problem> {
    match (time, ms) {
        (Some(_), Some(_)) => {
            let problem = format!("{near} and {near}_ms say the same thing; keep one of them");
            Err(Problem::Content { near, problem })
        }
        (Some(Time(ms)), None) | (None, Some(Millis(ms))) => Ok(ms),
        (None, None) => Ok(0),
    }
}

/// A time limit: none if nothing is said, and never nothing if something is.
fn limit(near: &'static str, time: Option<Time>, millis: Option<Millis>) -> Result<u64, Problem> {
    let said = time.is_some() || millis.is_some();
    match ms(near, time, millis)? {
        0 if !said => Ok(0),
        ms => units::limit(ms).map_err(|error| Problem::Content { near, problem: format!("{near}: {error}") }),
    }
}

fn size(value: Option<Bytes>) -> u64 {
    value.map_or(0, |value| value.0)
}

impl Form {
    fn task(self, folder: &Path) -> Result<Task, Problem> {
        let start_after_unix_ms = self.start()?;
        let kinds = kind::Kinds {
            command: self.command,
            script: self.script,
            service: self.service,
            transcode: self.transcode,
            typed: self.typed,
            container: self.container,
            http: self.http,
        };
        let kind = kinds.wire(folder)?;
        let on_disconnect = self.on_disconnect.map_or(v1::OnDisconnect::Unspecified, |what| match what {
            OnDisconnect::Continue => v1::OnDisconnect::Continue,
            OnDisconnect::Stop => v1::OnDisconnect::Stop,
        });
        let spec = TaskSpec {
            name: self.name,
            owner: self.owner,
            labels: self.labels,
            require: self.require,
            resources: self.resources.map(Resources::wire),
            priority: self.priority,
            retry: self.retry.map(Retry::wire).transpose()?,
            timeouts: self.timeouts.map(Timeouts::wire).transpose()?,
            on_disconnect: on_disconnect.into(),
            exclusive: self.exclusive,
            accept_weak_fencing: self.accept_weak_fencing,
            stop: self.stop.map(Stop::wire).transpose()?,
            env: self.env,
            cwd: self.cwd.map(|cwd| below(folder, &cwd, "cwd")).transpose()?.unwrap_or_default(),
            limits: self.limits.map(Limits::wire),
            start_after_unix_ms,
            start_after_ms: ms("delay", self.delay, self.start_after_ms)?,
            log_cap_bytes: size(self.log_cap_bytes),
            replace_after_ms: ms("replace_after", self.replace_after, self.replace_after_ms)?,
            kind: Some(kind),
            inputs: self.inputs.into_iter().map(|input| input.wire(folder)).collect::<Result<_, _>>()?,
            outputs: self.outputs.into_iter().map(|output| output.wire(folder)).collect::<Result<_, _>>()?,
        };
        let array = self.array.map(|array| array.members(folder)).transpose()?;
        Ok(Task { spec, key: self.key, array })
    }

    fn start(&self) -> Result<u64, Problem> {
        let times = [self.start_after_unix_ms.is_some(), self.start_at.is_some()];
        let spans = [self.start_after_ms.is_some(), self.delay.is_some()];
        if times.into_iter().chain(spans).filter(|given| *given).count() > 1 {
            let problem =
                "start_at, delay, start_after_unix_ms and start_after_ms say the same thing; keep one of them".into();
            return Err(Problem::Content { near: "start_a", problem });
        }
        match &self.start_at {
            None => Ok(self.start_after_unix_ms.unwrap_or(0)),
            Some(text) => {
                units::unix_ms(text).map_err(|error| Problem::Content { near: "start_at", problem: error.to_string() })
            }
        }
    }
}

/// `path` below the folder of the task file, without `.` and `..`, as text.
fn below(folder: &Path, path: &Path, near: &'static str) -> Result<String, Problem> {
    let mut whole = PathBuf::new();
    for part in folder.join(path).components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => {
                whole.pop();
            }
            part => whole.push(part),
        }
    }
    let problem = format!("{near}: the path {} is not UTF-8", whole.display());
    whole.into_os_string().into_string().map_err(|_| Problem::Content { near, problem })
}

impl Resources {
    fn wire(self) -> v1::Resources {
        v1::Resources { cpu_millis: self.cpu_millis, memory_bytes: size(self.memory_bytes) }
    }
}

impl Limits {
    fn wire(self) -> v1::Limits {
        v1::Limits { cpu_millis: self.cpu_millis, memory_bytes: size(self.memory_bytes), pids: self.pids }
    }
}

impl Retry {
    fn wire(self) -> Result<v1::Retry, Problem> {
        Ok(v1::Retry {
            max_attempts: self.max_attempts,
            max_infrastructure: self.max_infrastructure,
            no_infrastructure_retry: self.no_infrastructure_retry,
            backoff_ms: ms("backoff", self.backoff, self.backoff_ms)?,
            backoff_cap_ms: ms("backoff_cap", self.backoff_cap, self.backoff_cap_ms)?,
            final_codes: self.final_codes,
            retriable_codes: self.retriable_codes,
        })
    }
}

impl Timeouts {
    fn wire(self) -> Result<v1::Timeouts, Problem> {
        Ok(v1::Timeouts {
            queue_ms: limit("queue", self.queue, self.queue_ms)?,
            attempt_ms: limit("attempt", self.attempt, self.attempt_ms)?,
            total_ms: limit("total", self.total, self.total_ms)?,
            progress_ms: limit("progress", self.progress, self.progress_ms)?,
        })
    }
}

impl Stop {
    fn wire(self) -> Result<v1::Stop, Problem> {
        let signal = match self.signal {
            None => 0,
            Some(Signal::Number(number)) => number,
            Some(Signal::Name(name)) => {
                units::signal(&name).map_err(|error| Problem::Content { near: "signal", problem: error.to_string() })?
            }
        };
        Ok(v1::Stop { signal, grace_ms: ms("grace", self.grace, self.grace_ms)?, main_only: self.main_only })
    }
}

#[cfg(test)]
mod tests;
