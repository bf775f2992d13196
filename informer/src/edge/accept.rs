//! The loop that takes connections. It is our own, and not `tonic::transport::Server`'s, because everything a peer can make us
//! hold has a bound here: connections, streams, resets, headers, and the time until the first request can be read.

use super::front::Front;
use super::traffic::Counted;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use proto::bounds;
use std::io::{self, Cursor};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, join};
use tokio::net::{TcpListener, TcpStream, tcp};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::transport::server::TcpConnectInfo;

/// Connections at once: every sidecar's link, a log upload of each reader, and some four thousand clients. Further ones wait in
/// the listen queue. Doubled, idle peers could hold a gigabyte of buffers.
const CONNECTIONS: usize = bounds::SIDECARS + bounds::LOG_READERS + 4096;
/// Time a peer has for the HTTP/2 preface or an HTTP/1 request's headers. Longer only helps those who never finish.
const HEADER_TIME: Duration = Duration::from_secs(10);
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

/// Takes connections until `stopping` says true, then lets open requests finish for [`DRAIN_TIME`]; what is left is cut off.
pub(crate) async fn run(listener: TcpListener, front: Front, stopping: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let builder = Arc::new(builder());
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
                    let (builder, front, stopping) = (Arc::clone(&builder), front.clone(), stopping.clone());
                    connections.spawn(async move {
                        if let Err(error) = serve(stream, &builder, front, stopping).await {
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

/// Serves one connection. Its errors are the peer's affair: garbage, a reset, silence.
async fn serve(
    stream: TcpStream,
    builder: &auto::Builder<TokioExecutor>,
    front: Front,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), String> {
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let peer = stream.peer_addr().ok();
    let io = timeout(HEADER_TIME, opened(stream)).await.map_err(|_| "nothing said in time".to_owned())?;
    let io = TokioIo::new(Counted(io.map_err(|error| error.to_string())?));
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

/// Reads until the protocol is certain and gives the bytes back in front of the rest. Hyper's own detection has no time limit, so
/// that a peer which connects and says nothing, or half a preface, would be held for ever.
async fn opened(stream: TcpStream) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send> {
    let (mut read, write): (tcp::OwnedReadHalf, tcp::OwnedWriteHalf) = stream.into_split();
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
