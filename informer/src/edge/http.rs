//! The little that plain HTTP is told: who this is, that it lives, its metrics, a real 404 for the rest; and the callbacks of remote
//! services.

use super::tls::Guard;
use super::{Edge, metrics, rest};
use crate::shell;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, State};
use axum::routing::{get, post};
use http::{HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use proto::id::{AttemptId, Fence};
use proto::v1::{self, informer_message::Message};
use std::sync::Arc;

/// Bytes of one callback: a status with a note or a result by reference. It goes down a link among assignments and cancels, which
/// it must not hold up.
const CALLBACK_BYTES: usize = 64 << 10;

const WELCOME: &str =
    concat!("informer ", env!("CARGO_PKG_VERSION"), ": a gRPC service (informer.v1.Informer); see `informer --help`\n");
/// Before the attempt at which a remote service reports.
pub(super) const CALLBACK: &str = "/v1/callback/";
const NOT_FOUND: &str = "no such page; there are /, /healthz, /metrics, /api/ (docs/rest.md) and /v1/callback/\n";

/// The routes of plain HTTP.
pub(super) fn router(edge: Edge, guard: Arc<Guard>) -> axum::Router {
    let rest = rest::router(edge.clone(), guard);
    axum::Router::new()
        .route("/", get(|| async { line(StatusCode::OK, WELCOME) }))
        .route("/healthz", get(|| async { line(StatusCode::OK, "ok\n") }))
        .route("/metrics", get(scrape))
        .route(&format!("{CALLBACK}{{attempt}}"), post(callback))
        .fallback(|| async { line(StatusCode::NOT_FOUND, NOT_FOUND) })
        .with_state(edge)
        .merge(rest)
}

async fn scrape(State(edge): State<Edge>) -> Response<Body> {
    let mut response = Response::new(Body::from(metrics::page(&edge.handle)));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// A remote service reports about an attempt: passed down to the sidecar that asked it, which knows what it means. A lost one does
/// no harm, since that sidecar polls too.
///
/// The token is the attempt's fence, which with the attempt's id only the start call was told: so a service that was started for
/// another attempt, or an earlier copy, cannot report by mistake. Neither is a secret from those who may list tasks; who may reach
/// this port at all is decided before.
async fn callback(
    State(edge): State<Edge>,
    Path(attempt): Path<String>,
    request: Request<Body>,
) -> Result<Response<Body>, Refusal> {
    let attempt: AttemptId = attempt.parse().map_err(|_| Refusal::Unknown)?;
    let token = request.uri().query().and_then(token).ok_or(Refusal::Token)?;
    let body = to_bytes(request.into_body(), CALLBACK_BYTES).await.map_err(|_| Refusal::Body)?;
    let body = String::from_utf8(body.into()).map_err(|_| Refusal::Text)?;
    let row = edge.handle.get(attempt.task).await?.ok_or(Refusal::Unknown)?;
    let known = row.attempts.iter().find(|row| row.number == attempt.number).ok_or(Refusal::Unknown)?;
    if known.fence.map(Fence::from) != Some(token) {
        return Err(Refusal::Token);
    }
    let session = edge.handle.session_of(known.sidecar.clone()).await?.ok_or(Refusal::Unlinked)?;
    let report = v1::Callback { attempt: Some(attempt.to_wire()), body };
    edge.handle.send(session, v1::InformerMessage { message: Some(Message::Callback(report)) }).await?;
    Ok(line(StatusCode::ACCEPTED, "passed on\n"))
}

/// `EPOCH-N` of the parameter `token`.
fn token(query: &str) -> Option<Fence> {
    let token = query.split('&').find_map(|pair| pair.strip_prefix("token="))?;
    let (epoch, n) = token.split_once('-')?;
    Some(Fence { epoch: epoch.parse().ok()?, n: n.parse().ok()? })
}

/// Why a callback was not passed on.
enum Refusal {
    Unknown,
    Token,
    Body,
    Text,
    Unlinked,
    Behind,
    Internal,
}

impl From<shell::Error> for Refusal {
    fn from(error: shell::Error) -> Self {
        match error {
            shell::Error::NoLink => Self::Unlinked,
            shell::Error::Busy | shell::Error::Stopped(_) => Self::Behind,
            shell::Error::Rejected(_) | shell::Error::Store(_) | shell::Error::Thread { .. } => {
                tracing::error!(%error, "a callback was not passed on");
                Self::Internal
            }
        }
    }
}

impl axum::response::IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        match self {
            Self::Unknown => line(StatusCode::NOT_FOUND, "no such attempt\n"),
            Self::Token => {
                line(StatusCode::FORBIDDEN, "the token is not this attempt's; use the URL of the start call\n")
            }
            Self::Body => line(StatusCode::PAYLOAD_TOO_LARGE, "the body is over 64 KiB, or broke off\n"),
            Self::Text => line(StatusCode::BAD_REQUEST, "the body is no UTF-8\n"),
            Self::Unlinked => {
                line(StatusCode::SERVICE_UNAVAILABLE, "its sidecar is not linked; it will ask by itself\n")
            }
            Self::Behind => line(StatusCode::SERVICE_UNAVAILABLE, "the informer is behind or stopping; report again\n"),
            Self::Internal => line(StatusCode::INTERNAL_SERVER_ERROR, "a fault of the informer; its log says more\n"),
        }
    }
}

/// One line of text.
pub(super) fn line(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_fence() {
        assert_eq!(token("token=3-17"), Some(Fence { epoch: 3, n: 17 }));
        assert_eq!(token("a=b&token=3-17"), Some(Fence { epoch: 3, n: 17 }));
        for query in ["", "token=", "token=3", "token=3-", "token=-3-1", "xtoken=3-17"] {
            assert_eq!(token(query), None, "{query}");
        }
    }
}
