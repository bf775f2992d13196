//! Conductor's REST interface below `/api`, as far as its clients and workers need it: shapes, status codes and content types are theirs.
//! Everything goes the way that gRPC goes ([`Workflows`]), so that both mean the same and have the same bounds.
//!
//! | file | holds |
//! |---|---|
//! | `metadata` | definitions |
//! | `run` | starts, reads, lists |
//! | `operate` | what is done to a run |
//! | `search` | runs by Conductor's query |
//! | `work` | polls, and what workers say |
//! | `look` | what is ours: charts, histories, `why` |
//! | `query` | parameters |
//! | `show` | rows in Conductor's JSON |
//! | `answer` | answers and refusals |
//!
//! `docs/rest.md` lists it all.

mod answer;
mod look;
mod metadata;
mod operate;
mod query;
mod run;
mod search;
mod show;
mod work;

use super::Edge;
use super::tls::Guard;
use super::workflow::Workflows;
use answer::{Answer, Refusal};
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse as _;
use axum::routing::{any, delete, get, post, put};
use http::header::ORIGIN;
use http::{HeaderValue, Request, Response, StatusCode};
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Where a client of Conductor's changes its key for a token; it has none before.
pub(super) const TOKEN: &str = "/api/token";
/// Requests whose bodies are being read. Each may hold some megabytes; further ones wait, and the gRPC calls beside them do not.
const BODIES: usize = 128;
/// Time for a whole body. The largest has some megabytes; longer only helps those who never finish, and would keep the others waiting.
const BODY_TIME: Duration = Duration::from_secs(10);
/// Bytes beside an input in a request that holds one: names, labels, and how JSON is written.
const ENVELOPE_BYTES: usize = 64 << 10;

/// What every call needs. Cheap to clone.
#[derive(Clone)]
pub(super) struct Rest {
    edge: Edge,
    flows: Workflows,
    guard: Arc<Guard>,
    bodies: Arc<Semaphore>,
}

impl Rest {
    /// The whole body as text, if it is not larger than `most`.
    async fn read(&self, request: Request<Body>, most: usize) -> Result<String, Refusal> {
        let _turn = self.bodies.acquire().await.map_err(|_| Refusal::from(super::error::Error::Stopping))?;
        let body = timeout(BODY_TIME, to_bytes(request.into_body(), most)).await;
        let body = body.map_err(|_| Refusal::status(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"))?;
        let body = body.map_err(|_| {
            let told = format!("the body is over {most} bytes, or broke off");
            Refusal::status(StatusCode::PAYLOAD_TOO_LARGE, told)
        })?;
        String::from_utf8(body.into()).map_err(|_| Refusal::invalid("the body is no UTF-8"))
    }

    /// The same as JSON; nothing at all counts as `null`.
    async fn json<T: DeserializeOwned>(&self, request: Request<Body>, most: usize) -> Result<T, Refusal> {
        let text = self.read(request, most).await?;
        let text = if text.trim().is_empty() { "null" } else { &text };
        serde_json::from_str(text).map_err(|error| Refusal::invalid(format!("the body: {error}")))
    }

    /// The same of an object: a list of the right length would do for one otherwise, field by field.
    async fn object<T: DeserializeOwned>(&self, request: Request<Body>, most: usize) -> Result<T, Refusal> {
        let object: serde_json::Map<String, serde_json::Value> = self.json(request, most).await?;
        let read = serde_json::from_value(serde_json::Value::Object(object));
        read.map_err(|error| Refusal::invalid(format!("the body: {error}")))
    }
}

/// The routes, and what becomes of all others below `/api`.
pub(super) fn router(edge: Edge, guard: Arc<Guard>) -> axum::Router {
    let flows = Workflows::new(edge.clone());
    let rest = Rest { edge, flows, guard, bodies: Arc::new(Semaphore::new(BODIES)) };
    let routes = axum::Router::new().route("/token", post(token));
    let routes = work_routes(run_routes(metadata_routes(routes))).fallback(not_served).with_state(rest);
    let routes = routes.layer(from_fn(no_strange_page));
    axum::Router::new().nest("/api", routes)
}

fn metadata_routes(routes: axum::Router<Rest>) -> axum::Router<Rest> {
    routes
        .route("/metadata/workflow", get(metadata::list).post(metadata::create).put(metadata::update))
        .route("/metadata/workflow/names-and-versions", get(metadata::names))
        .route("/metadata/workflow/{name}", get(metadata::get))
        .route("/metadata/workflow/{name}/chart", get(look::chart_of))
        .route("/metadata/workflow/{name}/chart.svg", get(look::picture_of))
        .route("/metadata/workflow/{name}/{version}", delete(metadata::remove))
        .route("/metadata/taskdefs", get(metadata::list_tasks).post(metadata::create_tasks).put(metadata::update_task))
        .route("/metadata/taskdefs/{name}", get(metadata::get_task).delete(metadata::remove_task))
}

fn run_routes(routes: axum::Router<Rest>) -> axum::Router<Rest> {
    routes
        .route("/workflow", post(run::start))
        .route("/workflow/{id}", post(run::start_named).get(run::get).delete(operate::terminate))
        .route("/workflow/execute/{name}/{version}", post(run::execute))
        // Else these would be taken for runs of that name.
        .route("/workflow/bulk/{what}", any(not_served))
        .route("/workflow/search", get(search::runs))
        .route("/workflow/running/{name}", get(run::running))
        .route("/workflow/{id}/correlated/{correlation}", get(run::correlated))
        .route("/workflow/{id}/tasks", get(run::tasks))
        .route("/workflow/{id}/status", get(run::status))
        .route("/workflow/{id}/pause", put(operate::pause))
        .route("/workflow/{id}/resume", put(operate::resume))
        .route("/workflow/{id}/retry", post(operate::retry))
        .route("/workflow/{id}/restart", post(operate::restart))
        .route("/workflow/{id}/rerun", post(operate::rerun))
        .route("/workflow/{id}/skiptask/{reference}", put(operate::skip))
        .route("/workflow/{id}/chart", get(look::chart))
        .route("/workflow/{id}/chart.svg", get(look::picture))
        .route("/workflow/{id}/history", get(look::history))
        .route("/workflow/{id}/why", get(look::why))
}

fn work_routes(routes: axum::Router<Rest>) -> axum::Router<Rest> {
    routes
        .route("/tasks", post(work::update))
        .route("/tasks/update-v2", post(work::update_and_poll))
        .route("/tasks/poll/{name}", get(work::poll))
        .route("/tasks/poll/batch/{name}", get(work::poll_batch))
        .route("/tasks/search", get(search::tasks))
        .route("/tasks/queue/sizes", get(work::sizes))
        .route("/tasks/queue/all", get(work::sizes))
        .route("/tasks/queue/size", get(work::size))
        .route("/tasks/{id}", get(work::get))
        .route("/tasks/{id}/log", get(work::logs).post(work::log))
        .route("/tasks/{id}/{reference}/{status}", post(work::signal))
        .route("/tasks/{id}/{reference}/{status}/sync", post(work::signal_and_show))
}

/// Whoever has the informer's token as the secret of a key gets it back: Conductor's clients send what they get here as `x-authorization`.
async fn token(State(rest): State<Rest>, request: Request<Body>) -> Answer {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Key {
        key_secret: String,
    }
    let key: Key = rest.json(request, ENVELOPE_BYTES).await?;
    rest.guard.knows(key.key_secret.as_bytes()).map_err(|refusal| Refusal::from(super::error::Error::from(refusal)))?;
    Ok(answer::json(&serde_json::json!({"token": key.key_secret})))
}

/// Whoever looks at a strange page in a browser is no caller of ours, though the browser may reach this port: a page can have it send what
/// registers a command, or an image's address that takes a task, without reading the answer. Browsers say where a request comes from; whoever
/// types an address, or follows a link of ours, is let in.
async fn no_strange_page(request: axum::extract::Request, next: Next) -> Response<Body> {
    let from = request.headers().get("sec-fetch-site").map(HeaderValue::as_bytes);
    if request.headers().contains_key(ORIGIN) || from.is_some_and(|from| !matches!(from, b"none" | b"same-origin")) {
        let told = "a page in a browser may not call this; call it from a program";
        return Refusal::status(StatusCode::FORBIDDEN, told).into_response();
    }
    next.run(request).await
}

async fn not_served(request: Request<Body>) -> Refusal {
    const THEIRS: [&str; 5] = ["/metadata", "/workflow", "/tasks", "/event", "/admin"];
    let path = request.uri().path();
    if THEIRS.iter().any(|theirs| path.starts_with(theirs)) {
        let told = format!("{} {path} of Conductor's is not served here; docs/rest.md lists what is", request.method());
        return Refusal::status(StatusCode::NOT_IMPLEMENTED, told);
    }
    Refusal::status(StatusCode::NOT_FOUND, "no such page; docs/rest.md lists what there is")
}
