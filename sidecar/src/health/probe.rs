//! One probe: an HTTP request, a TCP connection, or the spec of a command for the keeper.

use super::Settings;
use http_body_util::Empty;
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use keeper::wire;
use proto::v1::{self, health_check::Probe};
use std::time::Duration;
use tokio::net::TcpStream;

/// Cap of each log stream of a command probe: its output is only ever looked at by a person.
const PROBE_LOG_BYTES: u64 = 64 << 10;

/// Between TERM and KILL of a command probe that ran out of time, ms: it holds nothing worth saving.
const PROBE_GRACE_MS: u64 = 500;

/// The name says what may connect to it: nothing but a probe sends it.
const USER_AGENT: &str = "sidecar-health";

/// Why a probe failed; its text is one line for people.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The check has no probe, or one that is not made over the network.
    #[error("the health check has no HTTP or TCP probe")]
    NoProbe,
    /// The address cannot be used.
    #[error("{url:?} is not http://host:port/path")]
    Url {
        /// As given.
        url: String,
    },
    /// No connection.
    #[error("no connection to {address}: {source}")]
    Connect {
        /// As given.
        address: String,
        /// The system's word.
        source: std::io::Error,
    },
    /// The connection broke or what came was no HTTP.
    #[error("GET {url} failed: {source}")]
    Http {
        /// As given.
        url: String,
        /// hyper's word.
        source: hyper::Error,
    },
    /// An answer other than 2xx and 3xx.
    #[error("GET {url} answered {status}")]
    Status {
        /// As given.
        url: String,
        /// The status code.
        status: u16,
    },
    /// No answer in time.
    #[error("no answer within {timeout_ms} ms")]
    Timeout {
        /// The time limit.
        timeout_ms: u64,
    },
}

/// Makes the check's HTTP or TCP probe once, within its timeout. Dropping the future closes the connection.
///
/// # Errors
/// [`Failure`] says what a healthy service would have done. A command probe is [`Failure::NoProbe`]: see [`probe_spec`].
pub async fn check(check: &v1::HealthCheck) -> Result<(), Failure> {
    let timeout_ms = Settings::of(check).timeout_ms;
    let probe = async {
        match &check.probe {
            Some(Probe::Http(probe)) => http(&probe.url).await,
            Some(Probe::Tcp(probe)) => connect(&probe.address).await.map(drop),
            Some(Probe::Command(_)) | None => Err(Failure::NoProbe),
        }
    };
    tokio::time::timeout(Duration::from_millis(timeout_ms), probe).await.unwrap_or(Err(Failure::Timeout { timeout_ms }))
}

async fn connect(address: &str) -> Result<TcpStream, Failure> {
    TcpStream::connect(address).await.map_err(|source| Failure::Connect { address: address.to_owned(), source })
}

/// Only the head of the answer is waited for; a redirect is an answer.
async fn http(url: &str) -> Result<(), Failure> {
    let wrong = || Failure::Url { url: url.to_owned() };
    let uri: http::Uri = url.parse().map_err(|_| wrong())?;
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(wrong)?;
    let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let request = Request::get(path)
        .header(http::header::HOST, authority.as_str())
        .header(http::header::USER_AGENT, USER_AGENT)
        .header(http::header::CONNECTION, "close")
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|_| wrong())?;
    let failed = |source| Failure::Http { url: url.to_owned(), source };
    let (mut sender, connection) = http1::handshake(TokioIo::new(connect(&address).await?)).await.map_err(failed)?;
    let driven = async {
        // How it ended is the answer's affair, which fails with it.
        let _closed = connection.await;
        std::future::pending::<()>().await;
    };
    // The connection makes progress only while it is polled; polling both here leaves no task behind.
    let answer = tokio::select! {
        answer = sender.send_request(request) => answer,
        () = driven => return Err(wrong()),
    };
    let status = answer.map_err(failed)?.status();
    if status.is_success() || status.is_redirection() {
        Ok(())
    } else {
        Err(Failure::Status { url: url.to_owned(), status: status.as_u16() })
    }
}

/// The name of a command probe's attempt: the service's, and a counter so that a record is never in the way.
#[must_use]
pub fn probe_name(attempt_dir_name: &str, n: u64) -> String {
    format!("probe.{attempt_dir_name}.{n}")
}

/// What the keeper runs for a command probe: exit code 0 is healthy. `None` if the check has no command probe.
///
/// `service` is the service's own spec: the probe gets its environment and working directory, and none of its limits.
#[must_use]
pub fn probe_spec(check: &v1::HealthCheck, service: &wire::Spec) -> Option<wire::Spec> {
    let Some(Probe::Command(command)) = &check.probe else { return None };
    Some(wire::Spec {
        argv: command.argv.clone(),
        env: service.env.clone(),
        cwd: service.cwd.clone(),
        log_cap_bytes: PROBE_LOG_BYTES,
        stop_grace_ms: PROBE_GRACE_MS,
        timeout_ms: Settings::of(check).timeout_ms,
        without_lease: true,
        ..wire::Spec::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    /// A listener that answers each connection with these bytes and then closes, or holds it open.
    async fn server(answer: &'static [u8], hold: bool) -> (String, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let serve = async move {
            let mut held = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0; 1024];
                let _request = stream.read(&mut buffer).await;
                let _sent = stream.write_all(answer).await;
                if hold {
                    held.push(stream);
                }
            }
        };
        (address, tokio::spawn(serve))
    }

    fn http_check(url: String) -> v1::HealthCheck {
        let probe = Some(Probe::Http(v1::HttpProbe { url }));
        v1::HealthCheck { probe, timeout_ms: 300, ..Default::default() }
    }

    async fn outcome(answer: &'static [u8], hold: bool) -> Result<(), String> {
        let (address, serving) = server(answer, hold).await;
        let result = check(&http_check(format!("http://{address}/healthz?deep=1"))).await;
        serving.abort();
        result.map_err(|failure| failure.to_string().replace(&address, "HOST"))
    }

    #[tokio::test]
    async fn answers_decide() {
        for head in ["200 OK", "204 No Content", "302 Found"] {
            let answer = format!("HTTP/1.1 {head}\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n").leak();
            assert_eq!(outcome(answer.as_bytes(), false).await, Ok(()), "{head}");
        }
        let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(outcome(answer, false).await, Err("GET http://HOST/healthz?deep=1 answered 503".to_owned()));
        let garbage = outcome(b"what?\r\n\r\n", false).await.expect_err("garbage is no answer");
        assert!(garbage.starts_with("GET http://HOST/healthz?deep=1 failed"), "{garbage}");
    }

    #[tokio::test]
    async fn a_body_is_not_waited_for_and_silence_times_out() {
        let endless = b"HTTP/1.1 200 OK\r\ncontent-length: 999999\r\n\r\nabc";
        assert_eq!(outcome(endless, true).await, Ok(()));
        assert_eq!(outcome(b"", true).await, Err("no answer within 300 ms".to_owned()));
    }

    #[tokio::test]
    async fn tcp_needs_a_listener() {
        let (address, serving) = server(b"", true).await;
        let tcp = |address: String| {
            let probe = Some(Probe::Tcp(v1::TcpProbe { address }));
            v1::HealthCheck { probe, ..Default::default() }
        };
        check(&tcp(address.clone())).await.expect("it listens");
        serving.abort();
        let _aborted = serving.await;
        let refused = check(&tcp(address)).await.expect_err("nobody listens").to_string();
        assert!(refused.starts_with("no connection to 127.0.0.1:"), "{refused}");
    }

    #[tokio::test]
    async fn addresses_that_cannot_be_probed_are_named() {
        for url in ["", "x", "https://localhost/", "http://", "ftp://h:1/", "http://h:99999/"] {
            check(&http_check(url.to_owned())).await.expect_err(url);
        }
        check(&v1::HealthCheck::default()).await.expect_err("no probe");
    }

    #[test]
    fn a_command_probe_lives_in_its_services_world() {
        let probe = Some(Probe::Command(v1::CommandProbe { argv: vec!["true".to_owned()] }));
        let check = v1::HealthCheck { probe, timeout_ms: 700, ..Default::default() };
        let env = vec![("PATH".to_owned(), "/bin".to_owned())];
        let service =
            wire::Spec { env: env.clone(), cwd: "/srv".to_owned(), memory_limit_bytes: 1, ..Default::default() };
        let spec = probe_spec(&check, &service).expect("a command probe");
        assert_eq!((spec.argv, spec.env, spec.cwd), (vec!["true".to_owned()], env, "/srv".to_owned()));
        assert_eq!((spec.timeout_ms, spec.without_lease, spec.memory_limit_bytes), (700, true, 0));
        assert_eq!(probe_spec(&v1::HealthCheck::default(), &service), None);
    }
}
