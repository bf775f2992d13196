//! The HTTP client of the sidecar: requests to other machines, over http and https, for whatever fetches or asks there.
//!
//! Nothing is connected and no certificate is read before the first request, so a sidecar that needs none pays for none. Connections
//! are kept open for reuse; redirects are the caller's affair, who knows how many it allows and whither.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode, Uri, header};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Longest wait for a connection: a host that drops packets must not look like a slow one.
const CONNECT: Duration = Duration::from_secs(10);
/// An idle connection is closed after this: servers close theirs after a minute or so, and a request on a closed one fails.
const IDLE: Duration = Duration::from_secs(30);
/// Idle connections kept to one host. More requests at once open more, which are then closed.
const IDLE_PER_HOST: usize = 8;

/// Why a request got no answer, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL is none, or of another scheme.
    #[error("{0:?} is no http(s) URL")]
    Url(String),
    /// https cannot be used on this machine at all.
    #[error("https cannot be used here: {0}; install the system's certificates (Debian: ca-certificates)")]
    Tls(String),
    /// No connection, or it broke before the answer.
    #[error("{}", innermost(.0))]
    Connection(#[from] legacy::Error),
    /// The answer did not come in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The connection broke within the answer, or the answer is longer than it may be.
    #[error("the answer did not arrive whole: {0}")]
    Body(String),
}

/// What the system or the peer said at the bottom of it.
fn innermost(error: &legacy::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

type Body = Full<Bytes>;
type Secure = legacy::Client<HttpsConnector<HttpConnector>, Body>;

/// The client. A clone shares connections with its original.
#[derive(Debug, Clone)]
pub struct Client {
    plain: legacy::Client<HttpConnector, Body>,
    /// Made at the first https request: the system's certificates are a megabyte that most sidecars never need.
    secure: Arc<OnceLock<Result<Secure, String>>>,
    connect: Duration,
}

impl Default for Client {
    fn default() -> Self {
        Self::with_connect(CONNECT)
    }
}

impl Client {
    /// One that waits so long for a connection.
    pub(crate) fn with_connect(connect: Duration) -> Self {
        Self { plain: builder().build(connector(connect)), secure: Arc::default(), connect }
    }

    /// Sends one request and answers with the head of what comes back; its body is read by the caller. `timeout` bounds the time to
    /// that head. Dropping the future gives the request up.
    ///
    /// # Errors
    /// See [`Error`]; any status code is an answer, not an error.
    pub async fn send(&self, request: Request<Body>, timeout: Duration) -> Result<Response<Incoming>, Error> {
        let answer = async {
            match request.uri().scheme_str() {
                Some("http") => Ok(self.plain.request(request).await?),
                Some("https") => Ok(self.secure()?.request(request).await?),
                _ => Err(Error::Url(request.uri().to_string())),
            }
        };
        tokio::time::timeout(timeout, answer).await.map_err(|_| Error::Timeout(timeout))?
    }

    /// Sends one request and answers with status and whole body, which may have `most_bytes`. `timeout` bounds all of it.
    ///
    /// # Errors
    /// See [`Error`]; any status code is an answer, not an error.
    pub async fn call(
        &self,
        request: Request<Body>,
        most_bytes: usize,
        timeout: Duration,
    ) -> Result<(StatusCode, Bytes), Error> {
        let whole = async {
            let (head, body) = self.send(request, timeout).await?.into_parts();
            let body =
                Limited::new(body, most_bytes).collect().await.map_err(|error| Error::Body(error.to_string()))?;
            Ok((head.status, body.to_bytes()))
        };
        tokio::time::timeout(timeout, whole).await.map_err(|_| Error::Timeout(timeout))?
    }

    fn secure(&self) -> Result<&Secure, Error> {
        self.secure.get_or_init(|| secure(self.connect)).as_ref().map_err(|why| Error::Tls(why.clone()))
    }
}

/// Where an answer leads, if it is a redirect.
pub(crate) fn redirected<B>(url: &Uri, answer: &Response<B>) -> Option<Uri> {
    let location = answer.headers().get(header::LOCATION).filter(|_| answer.status().is_redirection())?;
    elsewhere(url, location.to_str().ok()?)
}

/// Where a redirect leads: an URL, or a path on the same host.
pub(crate) fn elsewhere(url: &Uri, location: &str) -> Option<Uri> {
    let (scheme, authority) = (url.scheme_str()?, url.authority()?);
    let location = location.split('#').next().unwrap_or_default();
    let absolute = if proto::check::is_url(location) {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let directory = url.path().rsplit_once('/').map_or("", |(directory, _)| directory);
        format!("{scheme}://{authority}{directory}/{location}")
    };
    absolute.parse().ok()
}

fn builder() -> legacy::Builder {
    let mut builder = legacy::Client::builder(TokioExecutor::new());
    builder.timer(TokioTimer::new()).pool_timer(TokioTimer::new());
    builder.pool_idle_timeout(IDLE).pool_max_idle_per_host(IDLE_PER_HOST);
    builder
}

fn connector(connect: Duration) -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(connect));
    connector.set_nodelay(true);
    connector
}

/// The system's roots rather than built-in ones: a company's own authority is among them, and they are kept up to date.
fn secure(connect: Duration) -> Result<Secure, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_native_roots()
        .map_err(|error| error.to_string())?
        .with_no_client_auth();
    let mut inner = connector(connect);
    inner.enforce_http(false);
    let https = HttpsConnectorBuilder::new().with_tls_config(config).https_only().enable_http1();
    Ok(builder().build(https.wrap_connector(inner)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    const TIMEOUT: Duration = Duration::from_secs(10);

    /// A server that answers one request with these bytes and goes on holding the connection.
    async fn server(answer: &'static str) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/x", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            let asked = String::from_utf8_lossy(&request[..length]).into_owned();
            let _until_closed = stream.read(&mut request).await;
            asked
        });
        (url, serving)
    }

    fn post(url: &str) -> Request<Body> {
        Request::post(url).body(Body::from("question")).unwrap()
    }

    #[tokio::test]
    async fn a_request_is_answered_whole() {
        let (url, serving) = server("HTTP/1.1 201 Created\r\ncontent-length: 6\r\n\r\nanswer").await;
        let client = Client::default();
        let (status, body) = client.call(post(&url), 100, TIMEOUT).await.unwrap();
        assert_eq!((status.as_u16(), &body[..]), (201, &b"answer"[..]));
        drop(client);
        assert!(serving.await.unwrap().ends_with("\r\n\r\nquestion"));
    }

    #[tokio::test]
    async fn what_is_too_long_too_late_or_not_there_is_an_error() {
        let (url, _serving) = server("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nanswer").await;
        assert!(matches!(Client::default().call(post(&url), 5, TIMEOUT).await, Err(Error::Body(_))));
        let (url, _serving) = server("").await;
        let soon = Duration::from_millis(50);
        assert!(matches!(Client::default().call(post(&url), 5, soon).await, Err(Error::Timeout(_))));
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let error = Client::default().call(post(&format!("http://{gone}/")), 5, TIMEOUT).await.unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
        assert!(matches!(Client::default().call(post("ftp://x/"), 5, TIMEOUT).await, Err(Error::Url(_))));
    }

    #[test]
    fn redirects_lead_where_they_say() {
        let url: Uri = "https://a.example:8443/x/y?q=1".parse().expect("a URL");
        let cases = [
            ("http://b.example/z", "http://b.example/z"),
            ("//b.example/z", "https://b.example/z"),
            ("/z?r=2#part", "https://a.example:8443/z?r=2"),
            ("z", "https://a.example:8443/x/z"),
        ];
        for (location, expected) in cases {
            assert_eq!(elsewhere(&url, location).map(|uri| uri.to_string()).as_deref(), Some(expected), "{location}");
        }
        assert_eq!(elsewhere(&url, "http://"), None);
    }
}
