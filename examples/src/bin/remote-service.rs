//! A remote service that runs tasks of its type: it counts to the number that is its input, one in a tenth of a second.
//!
//! ```sh
//! informer dev &
//! cargo run -p examples --bin remote-service
//! ```
//!
//! It registers itself with the informer as type `count`, submits one task, and serves until Ctrl-C. The calls are described in
//! docs/executors.md; a service that must survive its own restart keeps what it is running, which this one does not.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use proto::v1::{self, executor::Mode, informer_client::InformerClient, task_spec::Kind};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Longest body of a start; an informer's tasks are smaller.
const BODY_BYTES: usize = 512 << 10;
/// One step of the count.
const STEP: Duration = Duration::from_millis(100);

/// What is running, by attempt: when it began and how far it is to count.
type Running = Arc<Mutex<BTreeMap<String, (Instant, u32)>>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let informer = std::env::var("INFORMER_URL").unwrap_or_else(|_| "http://127.0.0.1:7070".into());
    let id = introduce(&informer, &url).await?;
    println!("serving tasks of type count at {url}; `informer logs -f {id}` shows the first one's result");

    let running = Running::default();
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            Some(_) = connections.join_next() => continue,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let running = running.clone();
        connections.spawn(async move {
            let serve = service_fn(move |request| answer(running.clone(), request));
            // A client that breaks off costs nobody else anything.
            let _broken = http1::Builder::new().serve_connection(TokioIo::new(stream), serve).await;
        });
    }
}

/// Registers the type and submits a task of it.
async fn introduce(informer: &str, url: &str) -> anyhow::Result<String> {
    let channel = tonic::transport::Endpoint::from_shared(informer.to_owned())?.connect().await;
    let channel = channel.with_context(|| format!("no informer at {informer}; start one with `informer dev`"))?;
    let mut client = InformerClient::new(channel);
    let service = v1::RemoteService { url: url.to_owned(), poll_ms: 200, callback: false };
    let mode = Some(Mode::Service(service));
    let executor = Some(v1::Executor { r#type: "count".into(), mode, ..Default::default() });
    client.put_executor(v1::PutExecutorRequest { executor, replace: true }).await?;
    let kind = Some(Kind::Typed(v1::Typed { r#type: "count".into(), input: "20".into() }));
    let spec = Some(v1::TaskSpec { kind, ..Default::default() });
    Ok(client.submit(v1::SubmitRequest { spec, key: String::new() }).await?.into_inner().id)
}

async fn answer(running: Running, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let attempt = head.uri.path().strip_prefix("/tasks/").map(str::to_owned);
    let (status, value) = match (head.method, attempt) {
        (Method::POST, None) => match Limited::new(body, BODY_BYTES).collect().await {
            Ok(body) => start(&running, &body.to_bytes()),
            Err(error) => (StatusCode::BAD_REQUEST, json!({ "error": error.to_string() })),
        },
        (Method::GET, Some(attempt)) => status(&running, &attempt),
        (Method::DELETE, Some(attempt)) => {
            lock(&running).remove(&attempt);
            (StatusCode::OK, Value::Null)
        }
        _ => (StatusCode::NOT_FOUND, Value::Null),
    };
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
    *response.status_mut() = status;
    Ok(response)
}

fn lock(running: &Running) -> std::sync::MutexGuard<'_, BTreeMap<String, (Instant, u32)>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A repeated start of the same attempt begins nothing anew.
fn start(running: &Running, body: &[u8]) -> (StatusCode, Value) {
    let start: Value = serde_json::from_slice(body).unwrap_or_default();
    let (Some(task), Some(number)) = (start["task"].as_str(), start["attempt"].as_u64()) else {
        return (StatusCode::BAD_REQUEST, json!({ "error": "a start names task and attempt" }));
    };
    let Some(goal) = start["input"].as_str().and_then(|input| input.trim().parse().ok()).filter(|goal| *goal > 0)
    else {
        return (StatusCode::UNPROCESSABLE_ENTITY, json!({ "error": "the input is no number to count to" }));
    };
    lock(running).entry(format!("{task}.{number}")).or_insert((Instant::now(), goal));
    (StatusCode::ACCEPTED, Value::Null)
}

fn status(running: &Running, attempt: &str) -> (StatusCode, Value) {
    let Some((began, goal)) = lock(running).get(attempt).copied() else {
        return (StatusCode::NOT_FOUND, Value::Null);
    };
    let steps = began.elapsed().as_millis() / STEP.as_millis();
    let done = u32::try_from(steps).unwrap_or(u32::MAX).min(goal);
    if done == goal {
        return (StatusCode::OK, json!({ "state": "succeeded", "output": format!("counted to {goal}\n") }));
    }
    let permille = u64::from(done) * 1000 / u64::from(goal);
    (StatusCode::OK, json!({ "state": "running", "permille": permille, "note": format!("{done} of {goal}") }))
}
