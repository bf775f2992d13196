//! What is asked for: Conductor's `http_request`, read from a task's input.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, Uri};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::time::Duration;

/// To connect, and between two pieces of an answer, unless the request says otherwise; as in Conductor.
const TIMEOUT_MS: u64 = 3_000;
/// What stands for no limit (0): longer than any attempt.
const UNLIMITED_MS: u64 = proto::bounds::DURATION_MS;
/// What is sent and asked for unless the request says otherwise; as in Conductor.
const JSON: &str = "application/json";

/// What is wrong with it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the input is no JSON object with an http_request: {0}")]
    Input(#[from] serde_json::Error),
    #[error("http_request.uri is missing")]
    NoUri,
    #[error("http_request.uri {0:?} is not http(s)://host/path")]
    Uri(String),
    #[error("http_request.method {0:?} is none of HTTP")]
    Method(String),
    #[error("http_request.headers.{0} cannot be sent: a header has a name without spaces and one line of text")]
    Header(String),
}

/// As it stands in the input; what is not listed has no effect.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Wire {
    uri: String,
    method: Option<String>,
    headers: Map<String, Value>,
    accept: Words,
    content_type: Option<String>,
    body: Value,
    #[serde(rename = "connectionTimeOut")]
    connect_ms: Option<u64>,
    #[serde(rename = "readTimeOut")]
    read_ms: Option<u64>,
    expect_status: Codes,
}

/// One or several.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
enum Words {
    #[default]
    None,
    One(String),
    Many(Vec<String>),
}

/// One or several.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
enum Codes {
    #[default]
    None,
    One(u16),
    Many(Vec<u16>),
}

/// A request that can be sent, more than once.
#[derive(Debug)]
pub(super) struct Asked {
    pub uri: Uri,
    pub method: Method,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub connect: Duration,
    pub read: Duration,
    expected: Vec<u16>,
}

impl Asked {
    /// From a task's input: `{"http_request": {…}}`, or the request itself.
    pub(super) fn read(input: &[u8]) -> Result<Self, Error> {
        let mut input: Map<String, Value> = serde_json::from_slice(input)?;
        let request = input.remove("http_request").filter(|request| !request.is_null());
        let wire: Wire = serde_json::from_value(request.unwrap_or(Value::Object(input)))?;
        if wire.uri.is_empty() {
            return Err(Error::NoUri);
        }
        let uri = wire.uri.parse::<Uri>().ok().filter(is_http).ok_or_else(|| Error::Uri(wire.uri.clone()))?;
        let method = wire.method.unwrap_or_else(|| "GET".to_owned());
        let known = Method::from_bytes(method.to_ascii_uppercase().as_bytes());
        let headers = headers(&wire.headers, &wire.accept, wire.content_type.as_deref(), &wire.body)?;
        Ok(Self {
            uri,
            method: known.map_err(|_| Error::Method(method))?,
            headers,
            body: body(wire.body),
            connect: limit(wire.connect_ms),
            read: limit(wire.read_ms),
            expected: match wire.expect_status {
                Codes::None => Vec::new(),
                Codes::One(code) => vec![code],
                Codes::Many(codes) => codes,
            },
        })
    }

    /// Whether a status is a success: one of those expected, or without any below 400.
    pub(super) fn expects(&self, status: u16) -> bool {
        if self.expected.is_empty() { (200..400).contains(&status) } else { self.names(status) }
    }

    /// Whether it names this very status.
    pub(super) fn names(&self, status: u16) -> bool {
        self.expected.contains(&status)
    }

    /// The request, once more.
    pub(super) fn to_request(&self) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        request.method_mut().clone_from(&self.method);
        request.uri_mut().clone_from(&self.uri);
        request.headers_mut().clone_from(&self.headers);
        request
    }

    /// The same at another address. Whoever is there now is told no secrets that were meant for another host.
    pub(super) fn redirect(&mut self, uri: Uri) {
        if uri.authority() != self.uri.authority() || uri.scheme() != self.uri.scheme() {
            for secret in [header::AUTHORIZATION, header::COOKIE, header::PROXY_AUTHORIZATION, header::HOST] {
                self.headers.remove(secret);
            }
        }
        self.uri = uri;
    }
}

fn is_http(uri: &Uri) -> bool {
    matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
}

fn limit(ms: Option<u64>) -> Duration {
    let ms = ms.unwrap_or(TIMEOUT_MS);
    Duration::from_millis(if ms == 0 { UNLIMITED_MS } else { ms.min(UNLIMITED_MS) })
}

/// A text goes as it is, anything else as JSON.
fn body(body: Value) -> Bytes {
    match body {
        Value::Null => Bytes::new(),
        Value::String(text) => text.into(),
        other => other.to_string().into(),
    }
}

/// The request's own, over what is sent unless they say otherwise.
fn headers(
    own: &Map<String, Value>,
    accept: &Words,
    content_type: Option<&str>,
    body: &Value,
) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    let mut set = |name: &str, value: &str| -> Result<(), Error> {
        let wrong = || Error::Header(name.to_owned());
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        // Its length is the body's, whatever the input says; two of them would be two requests to some.
        if name != header::CONTENT_LENGTH && name != header::TRANSFER_ENCODING {
            headers.insert(name, HeaderValue::from_str(value).map_err(|_| wrong())?);
        }
        Ok(())
    };
    set("user-agent", concat!("informer-sidecar/", env!("CARGO_PKG_VERSION")))?;
    match accept {
        Words::None => set("accept", JSON)?,
        Words::One(one) => set("accept", one)?,
        Words::Many(many) => set("accept", &many.join(", "))?,
    }
    if !body.is_null() {
        set("content-type", content_type.unwrap_or(JSON))?;
    }
    for (name, value) in own {
        match value {
            Value::Null => {}
            Value::String(text) => set(name, text)?,
            Value::Number(_) | Value::Bool(_) => set(name, &value.to_string())?,
            Value::Array(_) | Value::Object(_) => return Err(Error::Header(name.clone())),
        }
    }
    Ok(headers)
}
