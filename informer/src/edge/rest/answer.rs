//! Answers, and refusals as Conductor's `ErrorResponse`.

use super::super::error::Error;
use axum::body::Body;
use axum::response::IntoResponse;
use http::header::{CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json as value};

/// What a handler says.
pub(super) type Answer = Result<Response<Body>, Refusal>;

/// Says why a call changed nothing.
const IGNORED: HeaderName = HeaderName::from_static("x-informer-ignored");
/// Seconds after which a refusal for want of room may be different.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// Why a call was refused.
pub(super) enum Refusal {
    /// As a gRPC call would have been.
    Error(Error),
    /// What only HTTP knows.
    Status(StatusCode, String),
}

impl Refusal {
    pub(super) fn status(status: StatusCode, message: impl Into<String>) -> Self {
        Self::Status(status, message.into())
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::status(StatusCode::BAD_REQUEST, message)
    }

    /// Something of Conductor's that is not there, and what helps.
    pub(super) fn not_served(message: impl Into<String>) -> Self {
        Self::status(StatusCode::NOT_IMPLEMENTED, message)
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Error(error) => error.code(),
            Self::Status(StatusCode::NOT_IMPLEMENTED, _) => "not_served",
            Self::Status(_, _) => "invalid",
        }
    }

    fn http(&self) -> StatusCode {
        let Self::Error(error) = self else {
            return if let Self::Status(status, _) = self { *status } else { StatusCode::INTERNAL_SERVER_ERROR };
        };
        match error.code() {
            "invalid" | "definition" => StatusCode::BAD_REQUEST,
            "unauthenticated" => StatusCode::UNAUTHORIZED,
            "unknown_task" | "unknown_run" | "unknown_definition" | "unknown_sidecar" => StatusCode::NOT_FOUND,
            "key_conflict" | "definition_conflict" | "state" | "run_family" => StatusCode::CONFLICT,
            "full" | "busy" => StatusCode::TOO_MANY_REQUESTS,
            "stopping" | "unlinked" => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Error(error) => format!("{error} [{}]", error.code()),
            Self::Status(_, message) => message.clone(),
        }
    }
}

impl<E: Into<Error>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        if let Self::Error(error) = &self {
            error.log_ours();
            error.count();
        }
        let status = self.http();
        let retryable = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        let faults = match &self {
            Self::Error(Error::Invalid(faults)) => faults.list(),
            Self::Error(Error::Field(fault)) => std::slice::from_ref(fault),
            _ => &[],
        };
        let fault = |fault: &proto::check::Fault| value!({"path": fault.field, "message": format!("{}; {}", fault.problem, fault.remedy)});
        let mut body = value!({
            "status": status.as_u16(),
            "code": self.code(),
            "message": self.message(),
            "retryable": retryable,
        });
        if !faults.is_empty() {
            body["validationErrors"] = faults.iter().map(fault).collect();
        }
        let mut response = json(&body);
        *response.status_mut() = status;
        if retryable {
            response.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS);
        }
        response
    }
}

/// A JSON document.
pub(super) fn json(value: &Value) -> Response<Body> {
    of("application/json", value.to_string())
}

/// A text as it is.
pub(super) fn text(text: impl Into<String>) -> Response<Body> {
    of("text/plain;charset=UTF-8", text.into())
}

/// A body of that type.
pub(super) fn of(kind: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Nothing to be said; 200, as Conductor answers most commands.
pub(super) fn done() -> Response<Body> {
    Response::new(Body::empty())
}

/// Nothing to be said; 204.
pub(super) fn nothing() -> Response<Body> {
    let mut response = done();
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// Marks an answer to what had no effect any more. No client of Conductor's reads it; people do.
pub(super) fn ignored(mut response: Response<Body>, why: &str) -> Response<Body> {
    if !why.is_empty()
        && let Ok(why) = HeaderValue::from_str(why)
    {
        response.headers_mut().insert(IGNORED, why);
    }
    response
}
