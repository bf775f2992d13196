//! The little that plain HTTP is told: who this is, that it lives, and a real 404 for the rest.

use axum::body::Body;
use axum::routing::get;
use http::{HeaderValue, Response, StatusCode, header::CONTENT_TYPE};

const WELCOME: &str =
    concat!("informer ", env!("CARGO_PKG_VERSION"), ": a gRPC service (informer.v1.Informer); see `informer --help`\n");

/// The routes of plain HTTP.
pub(super) fn router() -> axum::Router {
    axum::Router::new()
        .route("/", get(|| async { line(StatusCode::OK, WELCOME) }))
        .route("/healthz", get(|| async { line(StatusCode::OK, "ok\n") }))
        .fallback(|| async { line(StatusCode::NOT_FOUND, "no such page; there are / and /healthz\n") })
}

/// One line of text.
pub(super) fn line(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
