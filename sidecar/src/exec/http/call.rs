//! `sidecar exec-http JOB`: sends the request, and leaves the answer as the task's result.

use super::Exit;
use super::request::Asked;
use crate::exec::result;
use crate::http::{Client, redirected};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Response, header};
use proto::bounds::RESULT_BYTES;
use serde_json::{Map, Value, json};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// As browsers and curl follow by default or fewer; more is a loop.
const REDIRECTS: usize = 10;

/// Why the attempt fails: its exit code, one line for people, and what is left for whoever handles the failure.
#[derive(Debug)]
pub(super) struct Failure {
    pub exit: Exit,
    pub message: String,
    pub response: Value,
}

impl Failure {
    fn new(exit: Exit, message: impl ToString) -> Self {
        let message = message.to_string();
        Self { exit, response: Value::String(message.clone()), message }
    }
}

/// Makes the request that the file holds. The result goes to `TASK_RESULT`, or beside the file where that is not set.
#[must_use]
pub fn main(job: &Path) -> ExitCode {
    let path = std::env::var_os(result::VARIABLE).map_or_else(|| job.with_file_name(result::FILE), PathBuf::from);
    let (response, failed) = match run(job) {
        Ok(response) => (response, None),
        Err(failure) => (failure.response, Some((failure.exit, failure.message))),
    };
    let written = std::fs::write(&path, json!({ "response": response }).to_string());
    let failed = failed.or_else(|| {
        let error = written.err()?;
        Some((Exit::Io, format!("cannot write {}: {error}", path.display())))
    });
    let Some((exit, message)) = failed else { return ExitCode::SUCCESS };
    // Not `eprintln`, which panics when the log cannot be written: on a full disk, say.
    let _unwritten = writeln!(io::stderr(), "http: {message}");
    ExitCode::from(exit as u8)
}

fn run(job: &Path) -> Result<Value, Failure> {
    let input = std::fs::read(job)
        .map_err(|error| Failure::new(Exit::Request, format!("cannot read {}: {error}", job.display())))?;
    let asked = Asked::read(&input).map_err(|error| Failure::new(Exit::Request, error))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::new(Exit::Io, format!("cannot start a runtime: {error}")))?.block_on(ask(asked))
}

/// Sends it, and once more wherever a redirect of a request that only reads leads to.
pub(super) async fn ask(mut asked: Asked) -> Result<Value, Failure> {
    let client = Client::with_connect(asked.connect);
    let mut followed = 0;
    loop {
        let what = format!("{} {}", asked.method, asked.uri);
        let no_answer = |error: &dyn std::fmt::Display| Failure::new(Exit::NoAnswer, format!("{what}: {error}"));
        // Each has a limit of its own; together they bound the time to the answer's head.
        let patience = asked.connect.saturating_add(asked.read);
        let answer = client.send(asked.to_request(), patience).await.map_err(|error| no_answer(&error))?;
        let only_reads = matches!(asked.method, Method::GET | Method::HEAD);
        match redirected(&asked.uri, &answer).filter(|_| only_reads && !asked.names(answer.status().as_u16())) {
            Some(next) if followed < REDIRECTS => {
                followed += 1;
                asked.redirect(next);
            }
            Some(_) => return Err(no_answer(&format!("more than {REDIRECTS} redirects"))),
            None => return take(&asked, &what, answer).await,
        }
    }
}

/// The answer as Conductor shows it, and whether it is a success.
async fn take(asked: &Asked, what: &str, answer: Response<Incoming>) -> Result<Value, Failure> {
    let (head, mut incoming) = answer.into_parts();
    let broken = |why: String| Failure::new(Exit::Answer, format!("{what}: {why}"));
    let mut body = Vec::new();
    loop {
        let frame = tokio::time::timeout(asked.read, incoming.frame()).await;
        let silent = |_| broken(format!("the answer stopped for {} ms", asked.read.as_millis()));
        let Some(frame) = frame.map_err(silent)? else { break };
        let frame = frame.map_err(|error| broken(format!("the answer did not arrive whole: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        body.extend_from_slice(&data);
        if body.len() > RESULT_BYTES {
            return Err(broken(too_large()));
        }
    }
    let response = json!({
        "statusCode": head.status.as_u16(),
        "reasonPhrase": head.status.canonical_reason().unwrap_or_default(),
        "headers": shown(&head.headers),
        "body": parsed(body.into()),
    });
    if json!({ "response": response }).to_string().len() > RESULT_BYTES {
        return Err(broken(too_large()));
    }
    if asked.expects(head.status.as_u16()) {
        return Ok(response);
    }
    Err(Failure { exit: Exit::Status, message: format!("{what} answered {}", head.status), response })
}

fn too_large() -> String {
    format!(
        "the answer is larger than a result may be ({RESULT_BYTES} bytes); fetch it as an input, or by a command, into a file"
    )
}

/// JSON as what it says, anything else as text; nothing is null.
fn parsed(body: Bytes) -> Value {
    if body.is_empty() {
        return Value::Null;
    }
    serde_json::from_slice(&body).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned()))
}

/// Each name, written as most servers do (`Content-Type`), with its values.
fn shown(headers: &HeaderMap) -> Map<String, Value> {
    let values = |name: &header::HeaderName| {
        let texts = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        Value::from(texts.collect::<Vec<_>>())
    };
    headers.keys().map(|name| (titled(name.as_str()), values(name))).collect()
}

fn titled(name: &str) -> String {
    let mut start = true;
    let letter = |c: char| {
        let shown = if start { c.to_ascii_uppercase() } else { c };
        start = c == '-';
        shown
    };
    name.chars().map(letter).collect()
}
