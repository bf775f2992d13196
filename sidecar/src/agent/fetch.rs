//! One file from one URL, over HTTP/1.1.
//!
//! No proxies, no credentials, no compression: the declared hash says what the file is, and whoever needs more puts a mirror in
//! between.

use crate::exec::digest::{Meter, Passed, Seen};
use crate::http::elsewhere;
use bytes::Bytes;
use http::{Uri, header, uri::PathAndQuery};
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, Response, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsConnector, rustls};

/// To connect, TLS included: a host that has not answered by then is down for a fetch that will be tried again.
const CONNECT: Duration = Duration::from_secs(10);
/// Without one byte: longer than any server thinks before it begins, and a dead connection is noticed within a minute.
const SILENCE: Duration = Duration::from_secs(60);
/// As browsers and curl follow by default or fewer; more is a loop.
const REDIRECTS: usize = 10;
/// Largest file: what is larger belongs on a shared file system, where it is declared by path.
const FILE_BYTES: u64 = 64 << 30;
/// Bytes that stay free for the ledger and the tasks' own work.
const SPARE_BYTES: u64 = 256 << 20;

/// Why there is no file; its text is one line for people, after the source.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("stopped")]
    Stopped,
    #[error("{0:?} is not http(s)://host/path")]
    Url(String),
    #[error("no connection to {address}: {error}")]
    Connect { address: String, error: io::Error },
    #[error("no connection to {address} within {} s", CONNECT.as_secs())]
    ConnectTimeout { address: String },
    #[error("{address} sent nothing for {} s", SILENCE.as_secs())]
    Silence { address: String },
    #[error("{host}: {error}")]
    Http { host: String, error: hyper::Error },
    #[error("{host} answered {status}")]
    Status { host: String, status: http::StatusCode },
    #[error("more than {REDIRECTS} redirects, the last one to {0}")]
    Redirects(String),
    #[error("it has more than {FILE_BYTES} bytes, which is the bound of an input")]
    TooLarge,
    #[error("its {bytes} bytes do not fit on the disk")]
    Room { bytes: u64 },
    #[error("cannot write it: {0}")]
    Write(io::Error),
    #[error("cannot prepare TLS: {0}")]
    Tls(String),
    #[error("cannot start a runtime: {0}")]
    Runtime(io::Error),
}

/// An order to stop, seen by whoever waits and whoever works.
#[derive(Debug, Clone)]
pub(super) struct Stop(watch::Sender<bool>);

impl Stop {
    pub(super) fn new() -> Self {
        Self(watch::channel(false).0)
    }

    pub(super) fn stop(&self) {
        self.0.send_replace(true);
    }

    pub(super) fn is_stopped(&self) -> bool {
        *self.0.borrow()
    }

    async fn stopped(&self) {
        // The sender is this value's own, so the channel does not close.
        let mut told = self.0.subscribe();
        let _stopped = told.wait_for(|stopped| *stopped).await;
    }
}

/// Where a file goes, and who is told.
struct Target<'a> {
    file: &'a mut File,
    dir: &'a Path,
    seen: Seen<'a>,
}

/// Fetches into a file. Blocking; a stop ends it at once. `dir` is where the file lies, for the room on its disk.
pub(super) fn fetch(source: &str, file: &mut File, dir: &Path, stop: &Stop, seen: Seen<'_>) -> Result<Passed, Error> {
    seen(0, None);
    let mut target = Target { file, dir, seen };
    // A runtime of its own: whatever this fetch does, it delays nobody else's.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    runtime.block_on(async {
        tokio::select! {
            biased;
            () = stop.stopped() => Err(Error::Stopped),
            fetched = follow(source, &mut target) => fetched,
        }
    })
}

async fn follow(source: &str, target: &mut Target<'_>) -> Result<Passed, Error> {
    let mut url: Uri = source.parse().map_err(|_| Error::Url(source.to_owned()))?;
    for _ in 0..=REDIRECTS {
        match get(&url, target).await? {
            Answer::File(passed) => return Ok(passed),
            Answer::Elsewhere(next) => url = next,
        }
    }
    Err(Error::Redirects(url.to_string()))
}

enum Answer {
    File(Passed),
    Elsewhere(Uri),
}

async fn get(url: &Uri, target: &mut Target<'_>) -> Result<Answer, Error> {
    let wrong = || Error::Url(url.to_string());
    let host = url.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
    let tls = match url.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(wrong()),
    };
    let port = url.port_u16().unwrap_or(if tls { 443 } else { 80 });
    // An IPv6 address stands in brackets in a URL only.
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let address = format!("{host}:{port}");
    let failed = |error| Error::Connect { address: address.clone(), error };
    let connected = tokio::time::timeout(CONNECT, async {
        let stream = TcpStream::connect((name, port)).await.map_err(failed)?;
        if !tls {
            return Ok::<Box<dyn Stream>, Error>(Box::new(stream));
        }
        let server = ServerName::try_from(name.to_owned()).map_err(|_| wrong())?;
        let secured = TlsConnector::from(tls_config()?).connect(server, stream).await.map_err(failed)?;
        Ok(Box::new(secured))
    });
    let stream = connected.await.map_err(|_| Error::ConnectTimeout { address: address.clone() })??;
    let request = Request::get(url.path_and_query().map_or("/", PathAndQuery::as_str))
        .header(header::HOST, url.authority().map_or(host, |authority| without_user(authority.as_str())))
        .header(header::USER_AGENT, concat!("informer-sidecar/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| wrong())?;
    let broken = |error| Error::Http { host: address.clone(), error };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let driven = async {
        // How it ended is the answer's affair, which fails with it.
        let _closed = connection.await;
        std::future::pending::<()>().await;
    };
    let answered = async {
        let answer = tokio::time::timeout(SILENCE, sender.send_request(request)).await;
        let answer = answer.map_err(|_| Error::Silence { address: address.clone() })?.map_err(broken)?;
        take(url, &address, answer, target).await
    };
    tokio::select! {
        answer = answered => answer,
        () = driven => Err(wrong()),
    }
}

fn without_user(authority: &str) -> &str {
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

async fn take(url: &Uri, address: &str, answer: Response<Incoming>, target: &mut Target<'_>) -> Result<Answer, Error> {
    let status = answer.status();
    if status.is_redirection()
        && let Some(location) = answer.headers().get(header::LOCATION)
    {
        let location = location.to_str().unwrap_or_default();
        return elsewhere(url, location).map(Answer::Elsewhere).ok_or_else(|| Error::Url(location.to_owned()));
    }
    if status != http::StatusCode::OK {
        return Err(Error::Status { host: address.to_owned(), status });
    }
    let mut body = answer.into_body();
    let total = hyper::body::Body::size_hint(&body).exact();
    if let Some(bytes) = total {
        check_room(bytes, target.dir)?;
    }
    let mut meter = Meter::default();
    loop {
        let frame = tokio::time::timeout(SILENCE, body.frame()).await;
        let Some(frame) = frame.map_err(|_| Error::Silence { address: address.to_owned() })? else { break };
        let frame = frame.map_err(|error| Error::Http { host: address.to_owned(), error })?;
        let Ok(data) = frame.into_data() else { continue };
        meter.pass(&data);
        if meter.bytes() > FILE_BYTES {
            return Err(Error::TooLarge);
        }
        target.file.write_all(&data).map_err(Error::Write)?;
        (target.seen)(meter.bytes(), total);
    }
    Ok(Answer::File(meter.finish()))
}

fn check_room(bytes: u64, dir: &Path) -> Result<(), Error> {
    if bytes > FILE_BYTES {
        return Err(Error::TooLarge);
    }
    let disk = rustix::fs::statvfs(dir).map_err(|errno| Error::Write(errno.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < bytes.saturating_add(SPARE_BYTES) { Err(Error::Room { bytes }) } else { Ok(()) }
}

/// Both kinds of connection.
trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// With the certificates that this machine trusts, read once.
fn tls_config() -> Result<Arc<rustls::ClientConfig>, Error> {
    static CONFIG: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(config.clone());
    }
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map_or(String::new(), |error| format!(": {error}"));
        let remedy = "install ca-certificates, or name a file in SSL_CERT_FILE";
        return Err(Error::Tls(format!("this machine has no certificates to trust{why}; {remedy}")));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(CONFIG.get_or_init(|| Arc::new(config)).clone())
}
