//! What runs: the tables of a task file of which there is exactly one.

use std::path::{Path, PathBuf};

use proto::{
    bounds,
    v1::{self, task_spec::Kind},
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Problem, below, ms, read_bounded};
use crate::cli::units::{Millis, Time};

/// All of them, as far as they are there.
pub(super) struct Kinds {
    pub(super) command: Option<Command>,
    pub(super) script: Option<Script>,
    pub(super) service: Option<Service>,
    pub(super) transcode: Option<Transcode>,
    pub(super) typed: Option<Typed>,
    pub(super) container: Option<Container>,
    pub(super) http: Option<Http>,
}

impl Kinds {
    /// The one that is there.
    pub(super) fn wire(self, folder: &Path) -> Result<Kind, Problem> {
        const TABLES: &str = "[command], [script], [service], [transcode], [typed], [container], [http]";
        let wrong = |problem: String| Problem::Content { near: "", problem };
        let kinds = [
            self.command.map(|command| Ok(Kind::Command(v1::Command { argv: command.argv }))),
            self.script.map(|script| script.wire(folder).map(Kind::Script)),
            self.service.map(|service| service.wire().map(Kind::Service)),
            self.transcode.map(|transcode| transcode.wire(folder).map(Kind::Transcode)),
            self.typed.map(|typed| typed.wire(folder).map(Kind::Typed)),
            self.container.map(|container| container.wire(folder).map(Kind::Container)),
            self.http.map(|http| http.wire().map(Kind::Http)),
        ];
        let mut kinds = kinds.into_iter().flatten();
        match (kinds.next(), kinds.next()) {
            (Some(kind), None) => kind,
            (None, _) => Err(wrong(format!("it does not say what to run; add one of the tables {TABLES}"))),
            (Some(_), Some(_)) => Err(wrong(format!("it holds more than one of {TABLES}; a task is one of them"))),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Command {
    argv: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Script {
    interpreter: String,
    body: Option<String>,
    file: Option<PathBuf>,
    args: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Service {
    argv: Vec<String>,
    health: Option<HealthCheck>,
    restart: Option<RestartPolicy>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HealthCheck {
    command: Option<Command>,
    http: Option<HttpProbe>,
    tcp: Option<TcpProbe>,
    interval: Option<Time>,
    interval_ms: Option<Millis>,
    timeout: Option<Time>,
    timeout_ms: Option<Millis>,
    failures: u32,
    start_period: Option<Time>,
    start_period_ms: Option<Millis>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HttpProbe {
    url: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TcpProbe {
    address: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RestartPolicy {
    when: Option<When>,
    backoff: Option<Time>,
    backoff_ms: Option<Millis>,
    backoff_cap: Option<Time>,
    backoff_cap_ms: Option<Millis>,
    max_restarts: u32,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum When {
    #[serde(alias = "WHEN_ALWAYS")]
    Always,
    #[serde(alias = "WHEN_ON_FAILURE", alias = "on-failure")]
    OnFailure,
    #[serde(alias = "WHEN_NEVER")]
    Never,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Transcode {
    input: PathBuf,
    output: PathBuf,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    preset: String,
}

/// `input` is a text as it is, or anything else as its compact JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Typed {
    r#type: String,
    input: Option<Value>,
    input_file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Container {
    image: PathBuf,
    argv: Vec<String>,
    #[serde(default)]
    mounts: Vec<Mount>,
    network: Option<Network>,
    #[serde(default)]
    user: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mount {
    source: PathBuf,
    target: String,
    #[serde(default)]
    writable: bool,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Network {
    #[serde(alias = "NETWORK_NONE")]
    None,
    #[serde(alias = "NETWORK_HOST")]
    Host,
}

/// What `http_request` of Conductor's says, in the words of a task file; or `input`, the whole of it as the informer takes it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Http {
    input: Option<Value>,
    uri: Option<String>,
    method: Option<String>,
    headers: Option<Value>,
    body: Option<Value>,
    #[serde(alias = "contentType")]
    content_type: Option<String>,
    accept: Option<Value>,
    connect_timeout: Option<Time>,
    connect_timeout_ms: Option<Millis>,
    read_timeout: Option<Time>,
    read_timeout_ms: Option<Millis>,
    #[serde(alias = "expectStatus")]
    expect_status: Option<Value>,
}

impl Script {
    fn wire(self, folder: &Path) -> Result<v1::Script, Problem> {
        let body = match (self.body, self.file) {
            (Some(body), None) => body,
            (None, Some(file)) => {
                read_bounded(&folder.join(file), bounds::PAYLOAD_BYTES as u64).map_err(Problem::File)?
            }
            _ => {
                let problem = "a script needs either `body`, its text, or `file`, where the text is".into();
                return Err(Problem::Content { near: "script", problem });
            }
        };
        Ok(v1::Script { interpreter: self.interpreter, body, args: self.args })
    }
}

impl Service {
    fn wire(self) -> Result<v1::Service, Problem> {
        let restart = self.restart.map(RestartPolicy::wire).transpose()?;
        Ok(v1::Service { argv: self.argv, health: self.health.map(HealthCheck::wire).transpose()?, restart })
    }
}

impl RestartPolicy {
    fn wire(self) -> Result<v1::RestartPolicy, Problem> {
        Ok(v1::RestartPolicy {
            when: self.when.map_or(v1::restart_policy::When::Unspecified, When::wire).into(),
            backoff_ms: ms("backoff", self.backoff, self.backoff_ms)?,
            backoff_cap_ms: ms("backoff_cap", self.backoff_cap, self.backoff_cap_ms)?,
            max_restarts: self.max_restarts,
        })
    }
}

impl When {
    fn wire(self) -> v1::restart_policy::When {
        match self {
            Self::Always => v1::restart_policy::When::Always,
            Self::OnFailure => v1::restart_policy::When::OnFailure,
            Self::Never => v1::restart_policy::When::Never,
        }
    }
}

impl HealthCheck {
    fn wire(self) -> Result<v1::HealthCheck, Problem> {
        use v1::health_check::Probe;
        let probe = match (self.command, self.http, self.tcp) {
            (Some(command), None, None) => Probe::Command(v1::CommandProbe { argv: command.argv }),
            (None, Some(http), None) => Probe::Http(v1::HttpProbe { url: http.url }),
            (None, None, Some(tcp)) => Probe::Tcp(v1::TcpProbe { address: tcp.address }),
            _ => {
                let problem = "a health check needs exactly one of `http`, `tcp` and `command`".into();
                return Err(Problem::Content { near: "health", problem });
            }
        };
        Ok(v1::HealthCheck {
            probe: Some(probe),
            interval_ms: ms("interval", self.interval, self.interval_ms)?,
            timeout_ms: ms("timeout", self.timeout, self.timeout_ms)?,
            failures: self.failures,
            start_period_ms: ms("start_period", self.start_period, self.start_period_ms)?,
        })
    }
}

impl Transcode {
    fn wire(self, folder: &Path) -> Result<v1::Transcode, Problem> {
        Ok(v1::Transcode {
            input: below(folder, &self.input, "input")?,
            output: below(folder, &self.output, "output")?,
            args: self.args,
            preset: self.preset,
        })
    }
}

impl Typed {
    fn wire(self, folder: &Path) -> Result<v1::Typed, Problem> {
        let input = match (self.input, self.input_file) {
            (None, None) => String::new(),
            (Some(input), None) => super::array::text(input),
            (None, Some(file)) => {
                read_bounded(&folder.join(file), bounds::PAYLOAD_BYTES as u64).map_err(Problem::File)?
            }
            (Some(_), Some(_)) => {
                let problem = "input and input_file say the same thing; keep one of them".into();
                return Err(Problem::Content { near: "input", problem });
            }
        };
        Ok(v1::Typed { r#type: self.r#type, input })
    }
}

impl Http {
    fn wire(self) -> Result<v1::Http, Problem> {
        let wrong = |problem: &str| Problem::Content { near: "http", problem: problem.into() };
        let timeout = |name, time: Option<Time>, millis: Option<Millis>| match time.is_some() || millis.is_some() {
            true => ms(name, time, millis).map(|ms| Some(Value::from(ms))),
            false => Ok(None),
        };
        let fields = [
            ("uri", self.uri.map(Value::from)),
            ("method", self.method.map(Value::from)),
            ("headers", self.headers),
            ("body", self.body),
            ("contentType", self.content_type.map(Value::from)),
            ("accept", self.accept),
            ("connectionTimeOut", timeout("connect_timeout", self.connect_timeout, self.connect_timeout_ms)?),
            ("readTimeOut", timeout("read_timeout", self.read_timeout, self.read_timeout_ms)?),
            ("expectStatus", self.expect_status),
        ];
        let request: Map<String, Value> =
            fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        let input = match self.input {
            None if request.contains_key("uri") => serde_json::json!({"http_request": request}).to_string(),
            None => return Err(wrong("a request needs `uri`")),
            Some(_) if !request.is_empty() => return Err(wrong("`input` says all of it; leave the other keys out")),
            Some(input) => super::array::text(input),
        };
        Ok(v1::Http { input })
    }
}

impl Container {
    fn wire(self, folder: &Path) -> Result<v1::Container, Problem> {
        let mount = |mount: Mount| {
            let source = below(folder, &mount.source, "source")?;
            Ok(v1::container::Mount { source, target: mount.target, writable: mount.writable })
        };
        let network = match self.network {
            None => v1::container::Network::Unspecified,
            Some(Network::None) => v1::container::Network::None,
            Some(Network::Host) => v1::container::Network::Host,
        };
        Ok(v1::Container {
            image: below(folder, &self.image, "image")?,
            argv: self.argv,
            mounts: self.mounts.into_iter().map(mount).collect::<Result<_, Problem>>()?,
            network: network.into(),
            user: self.user,
        })
    }
}
