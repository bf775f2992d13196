//! An HTTP service as a kind of work: started by POST, looked at by GET, ended by DELETE. docs/executors.md describes the calls.
//!
//! Polls and callbacks say the same in the same form, so either may be lost, late or repeated: the first end that arrives counts. The
//! start and the stop may be repeated, too; the attempt's id is their key.

use super::{Context, Execution, Executor, Fault, Progress, Status, async_trait};
use crate::http::Client;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, StatusCode};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::Instant;

/// Longest wait for one answer: a service that computes within the call is not what this is for.
const CALL: Duration = Duration::from_secs(30);
/// A start is repeated for this long: a service that is being restarted is back by then; else another sidecar, or a later try, is better.
const START: Duration = Duration::from_secs(30);
/// A service that cannot be asked for this long has lost the attempt. Longer than a restart, shorter than patience.
const SILENCE: Duration = Duration::from_secs(60);
/// A stop is repeated for this long; the attempt then ends without the service's word.
const STOP: Duration = Duration::from_secs(5);
/// Between two tries of the same call.
const AGAIN: Duration = Duration::from_millis(250);
/// Longest answer: an output that is larger belongs into a file or a store.
const ANSWER_BYTES: usize = 1 << 20;
/// Of an unexpected answer's body, this much is shown.
const SHOWN_CHARS: usize = 200;

/// A remote HTTP service.
#[derive(Debug)]
pub struct RemoteService {
    kind: String,
    url: String,
    poll: Duration,
    callback: bool,
    client: Client,
}

/// The body of a start.
#[derive(Serialize)]
struct Start<'a> {
    task: String,
    attempt: u32,
    r#type: &'a str,
    input: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    callback_url: &'a str,
}

/// What a service says of an attempt, as the answer to a poll or in a callback.
#[derive(Debug, Clone, Deserialize)]
struct Report {
    state: State,
    #[serde(default)]
    permille: u32,
    #[serde(default)]
    note: String,
    #[serde(default)]
    output: String,
    /// A JSON object: what comes after the task in a workflow finds it as the task's output.
    result: Option<serde_json::Value>,
    #[serde(default)]
    error: String,
    exit_code: Option<i32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Running,
    Succeeded,
    Failed,
}

impl RemoteService {
    /// The service below `url` as the kind `kind`, asked every `poll`; with `callback` it is told where it may report instead.
    #[must_use]
    pub fn new(kind: impl Into<String>, url: &str, poll: Duration, callback: bool) -> Self {
        Self::with_client(kind.into(), url, poll, callback, Client::default())
    }

    pub(crate) fn with_client(kind: String, url: &str, poll: Duration, callback: bool, client: Client) -> Self {
        Self { kind, url: url.trim_end_matches('/').to_owned(), poll, callback, client }
    }
}

#[async_trait]
impl Executor for RemoteService {
    fn kind(&self) -> &str {
        &self.kind
    }

    async fn start(&self, context: Context) -> Result<Box<dyn Execution>, Fault> {
        let callback_url = if self.callback { context.callback_url() } else { "" };
        let start = Start {
            task: context.task(),
            attempt: context.attempt(),
            r#type: context.kind(),
            input: context.input(),
            callback_url,
        };
        let body = Bytes::from(serde_json::to_vec(&start)?);
        Ok(Box::new(Remote {
            tasks: format!("{}/tasks", self.url),
            url: format!("{}/tasks/{}", self.url, context.id()),
            poll: self.poll,
            client: self.client.clone(),
            context,
            start: Some(body),
            heard: Instant::now(),
            last: None,
            fresh: false,
        }))
    }
}

/// One attempt over there.
struct Remote {
    tasks: String,
    url: String,
    poll: Duration,
    client: Client,
    context: Context,
    /// Until the service has taken it. The start is tried as part of the first looks, so that a stop can follow it at any moment.
    start: Option<Bytes>,
    /// When the service was last heard; before that, when it was first called.
    heard: Instant,
    last: Option<Report>,
    /// `last` came by a callback and was not looked at yet.
    fresh: bool,
}

/// Answers that may be different next time.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::TOO_EARLY)
}

impl Remote {
    async fn call(&self, method: Method, url: &str, body: Bytes) -> Result<(StatusCode, Bytes), String> {
        let mut request = Request::builder().method(method).uri(url).header("idempotency-key", self.context.id());
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
        self.client.call(request, ANSWER_BYTES, CALL).await.map_err(|error| error.to_string())
    }

    /// One try to start it.
    async fn begin(&mut self, body: Bytes) -> Result<(), Fault> {
        let url = &self.tasks;
        let trouble = match self.call(Method::POST, url, body).await {
            Ok((status, _)) if status.is_success() => {
                (self.start, self.heard) = (None, Instant::now());
                return Ok(());
            }
            Ok((status, body)) if is_passing(status) => answered(status, &body),
            Ok((status, body)) => {
                return Err(Fault::Failed(format!("POST {url} was refused: {}", answered(status, &body))));
            }
            Err(error) => error,
        };
        self.bear(START, || format!("POST {url}"), &trouble)
    }

    /// Trouble is borne for a while.
    fn bear(&self, limit: Duration, call: impl Fn() -> String, trouble: &str) -> Result<(), Fault> {
        if self.heard.elapsed() <= limit {
            return Ok(());
        }
        Err(Fault::Unavailable(format!("{} has failed for {} s: {trouble}", call(), limit.as_secs())))
    }

    async fn ask(&mut self) -> Result<(), Fault> {
        let trouble = match self.call(Method::GET, &self.url, Bytes::new()).await {
            Ok((StatusCode::OK, body)) => match serde_json::from_slice::<Report>(&body) {
                Ok(report) => {
                    self.heard = Instant::now();
                    self.last = Some(report);
                    return Ok(());
                }
                Err(error) => format!("its answer is no status: {error}"),
            },
            Ok((StatusCode::NOT_FOUND | StatusCode::GONE, _)) => {
                return Err(Fault::Unavailable(format!("GET {}: the service knows nothing of it any more", self.url)));
            }
            Ok((status, body)) => answered(status, &body),
            Err(error) => error,
        };
        self.bear(SILENCE, || format!("GET {}", self.url), &trouble)
    }
}

fn answered(status: StatusCode, body: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(body).trim().chars().take(SHOWN_CHARS).collect();
    if text.is_empty() { format!("it answered {status}") } else { format!("it answered {status}: {text}") }
}

#[async_trait]
impl Execution for Remote {
    async fn status(&mut self) -> Result<Status, Fault> {
        match self.start.clone() {
            _ if std::mem::take(&mut self.fresh) => {}
            Some(body) => self.begin(body).await?,
            None => self.ask().await?,
        }
        let Some(report) = &self.last else { return Ok(Status::Running) };
        if let Some(result) = report.result.as_ref().filter(|_| report.state != State::Running) {
            self.context.result(result)?;
        }
        Ok(match report.state {
            State::Running => Status::Running,
            State::Succeeded => Status::Succeeded,
            State::Failed => Status::Failed { exit_code: report.exit_code.unwrap_or(1), message: report.error.clone() },
        })
    }

    fn progress(&self) -> Option<Progress> {
        let report = self.last.as_ref().filter(|report| report.permille > 0 || !report.note.is_empty())?;
        Some(Progress { permille: report.permille.min(1000), note: report.note.clone() })
    }

    async fn stop(&mut self) {
        let begun = Instant::now();
        loop {
            let trouble = match self.call(Method::DELETE, &self.url, Bytes::new()).await {
                Ok((status, _)) if !is_passing(status) => return,
                Ok((status, body)) => answered(status, &body),
                Err(error) => error,
            };
            if begun.elapsed() > STOP {
                return self.context.err(format!("DELETE {} failed: {trouble}\n", self.url));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn output(&mut self) -> Result<Vec<u8>, Fault> {
        Ok(self.last.take().map(|report| report.output.into_bytes()).unwrap_or_default())
    }

    /// What is no report is a mere nudge: the status is asked for next.
    fn on_callback(&mut self, body: &str) {
        if let Ok(report) = serde_json::from_str::<Report>(body) {
            // It has the attempt, whatever became of the answer to the start.
            (self.start, self.heard, self.fresh) = (None, Instant::now(), true);
            self.last = Some(report);
        }
    }

    fn poll(&self) -> Duration {
        if self.start.is_some() { AGAIN } else { self.poll }
    }
}
