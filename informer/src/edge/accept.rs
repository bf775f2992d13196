//! The loop that takes connections. It is our own, and not `tonic::transport::Server`'s, because everything a peer can make us
//! hold has a bound here: connections, handshakes, streams, resets, headers, and the time until the first request can be read.

use super::front::Front;
use super::tls::Guard;
use super::traffic::Counted;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use proto::bounds;
use std::io::{self, Cursor};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, join, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::TcpConnectInfo;

/// Connections at once: every sidecar's link, a log upload of each reader, and some four thousand clients. Further ones wait in
/// the listen queue. Doubled, idle peers could hold a gigabyte of buffers.
pub(crate) const CONNECTIONS: usize = bounds::SIDECARS + bounds::LOG_READERS + 4096;
/// Time a peer has for the HTTP/2 preface or an HTTP/1 request's headers. Longer only helps those who never finish.
const HEADER_TIME: Duration = Duration::from_secs(10);
/// Time for a TLS handshake, from when it may begin. An honest peer needs two round trips.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// Handshakes under way at once; further connections wait for one to end. Each costs a signature and some 30 kB: with as many, 10,000
/// sidecars that come back at once are in within seconds, and peers that only hold their handshake open must come at two hundred a
/// second to be noticed.
const HANDSHAKES: usize = 1024;
/// Streams a peer opened and reset before we looked at them. Beyond it the connection ends ("rapid reset").
const PENDING_RESETS: usize = 32;
/// Streams that we reset for a peer's mistakes on one connection before it ends.
const ERROR_RESETS: usize = 256;
/// Bytes of one stream that may be on their way to us unread: two chunks of a log.
const STREAM_WINDOW_BYTES: u32 = 2 * bounds::LOG_CHUNK_BYTES as u32;
/// So of one connection: as much as all log uploads at once may hold. A sidecar sends all its logs on one connection; with less, a
/// reader that stands still would hold the window that the uploads for other readers need.
const CONNECTION_WINDOW_BYTES: u32 = bounds::LOG_READERS as u32 * STREAM_WINDOW_BYTES;
/// Bytes of one request's headers; ours are a few hundred.
const HEADER_BYTES: u32 = 16 << 10;
/// Bytes of an HTTP/1 connection's buffer; hyper's least is 8 KiB.
const HTTP1_BUFFER_BYTES: usize = 32 << 10;
/// HTTP/2 pings on a silent connection, and the time for the answer: a peer that vanished without a word is found within 40 s. It
/// proves nothing about the application; beats do that.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Pause after a failed `accept` (no file descriptor left): connections that end free some, and the loop must not spin until then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time that open requests have to finish when we stop.
const DRAIN_TIME: Duration = Duration::from_secs(3);
/// What an HTTP/2 client says first (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first byte of every TLS connection: a record of the kind "handshake" (RFC 8446, 5.1).
const TLS_RECORD: u8 = 22;
/// Said to whoever speaks plain HTTP to us where TLS is spoken. Nothing of it was read, so nothing was answered.
const SPEAKS_TLS: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: 31\r\n\r\n\
    this port speaks TLS: https://\n";

/// Takes connections until `stopping` says true, then lets open requests finish for [`DRAIN_TIME`]; what is left is cut off.
pub(crate) async fn run(listener: TcpListener, front: Front, guard: Arc<Guard>, stopping: watch::Receiver<bool>) {
    let serving = Serving { front, guard, shaking: Arc::new(Semaphore::new(HANDSHAKES)), builder: Arc::new(builder()) };
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut stopped = pin!({
        let mut stopping = stopping.clone();
        async move {
            let _ = stopping.wait_for(|stopping| *stopping).await;
        }
    });
    loop {
        let next = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
        };
        tokio::select! {
            () = &mut stopped => break,
            // Finished connections are taken out, or the set would grow with every one that ever was.
            Some(_) = connections.join_next() => {}
            (permit, accepted) = next => match accepted {
                Ok((stream, peer)) => {
                    let (serving, stopping) = (serving.clone(), stopping.clone());
                    connections.spawn(async move {
                        if let Err(error) = serving.serve(stream, stopping).await {
                            tracing::debug!(%peer, error, "connection ended");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let drained = timeout(DRAIN_TIME, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::info!(connections = connections.len(), "cutting off connections that did not end in time");
        connections.shutdown().await;
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIME).max_buf_size(HTTP1_BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(bounds::STREAMS_PER_CONNECTION)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(ERROR_RESETS)
        .max_header_list_size(HEADER_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// What every connection needs. Cheap to clone.
#[derive(Clone)]
struct Serving {
    front: Front,
    guard: Arc<Guard>,
    shaking: Arc<Semaphore>,
    builder: Arc<auto::Builder<TokioExecutor>>,
}

impl Serving {
    /// Serves one connection. Its errors are the peer's affair: garbage, a reset, silence.
    async fn serve(self, stream: TcpStream, stopping: watch::Receiver<bool>) -> Result<(), String> {
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let peer = stream.peer_addr().ok();
        match self.guard.acceptor() {
            Some(acceptor) => {
                let (read, write) = split(self.shake(acceptor, stream).await?);
                self.converse(opened(read, write), peer, stopping).await
            }
            None => {
                let (read, write) = stream.into_split();
                self.converse(opened(read, write), peer, stopping).await
            }
        }
    }

    /// The handshake, in its turn and its time.
    async fn shake(&self, acceptor: TlsAcceptor, mut stream: TcpStream) -> Result<TlsStream<TcpStream>, String> {
        let _turn = self.shaking.acquire().await.map_err(|error| error.to_string())?;
        let shaken = timeout(HANDSHAKE_TIME, async {
            let mut first = [0];
            if stream.peek(&mut first).await? == 1 && first[0] != TLS_RECORD {
                // What stays unread would turn the end into a reset, and the answer would be lost.
                let mut said = [0; HTTP1_BUFFER_BYTES / 8];
                let _some = stream.read(&mut said).await?;
                stream.write_all(SPEAKS_TLS).await?;
                stream.shutdown().await?;
                return Err(io::Error::other("what was said is not TLS"));
            }
            acceptor.accept(stream).await
        });
        let shaken = shaken.await.map_err(|_| "the TLS handshake was not over in time".to_owned())?;
        shaken.map_err(|error| format!("no TLS: {error}"))
    }

    async fn converse(
        self,
        opened: impl Future<Output = io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static>>,
        peer: Option<SocketAddr>,
        mut stopping: watch::Receiver<bool>,
    ) -> Result<(), String> {
        let io = timeout(HEADER_TIME, opened).await.map_err(|_| "nothing said in time".to_owned())?;
        let io = TokioIo::new(Counted(io.map_err(|error| error.to_string())?));
        let Self { front, builder, .. } = self;
        let service = service_fn(move |mut request: Request<Incoming>| {
            // What tonic's own server would tell its services.
            request.extensions_mut().insert(TcpConnectInfo { local_addr: None, remote_addr: peer });
            front.clone().serve(request)
        });
        let mut connection = pin!(builder.serve_connection(io, service));
        tokio::select! {
            result = connection.as_mut() => return result.map_err(|error| error.to_string()),
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
        connection.as_mut().graceful_shutdown();
        connection.await.map_err(|error| error.to_string())
    }
}

/// Reads until the protocol is certain and gives the bytes back in front of the rest. Hyper's own detection has no time limit, so
/// that a peer which connects and says nothing, or half a preface, would be held for ever.
async fn opened<R, W>(mut read: R, write: W) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static>
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let mut start = Vec::with_capacity(PREFACE.len());
    while start.len() < PREFACE.len() && PREFACE.starts_with(&start) {
        let mut byte = [0; PREFACE.len()];
        let wanted = PREFACE.len() - start.len();
        let count = read.read(&mut byte[..wanted]).await?;
        if count == 0 {
            break;
        }
        start.extend_from_slice(&byte[..count]);
    }
    Ok(join(Cursor::new(start).chain(read), write))
}
