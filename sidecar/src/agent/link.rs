//! The link to the informer: opened, kept and opened again with full jitter.

use super::shell::Input;
use crate::machine::LinkId;
use proto::dial::{CONNECT, Channel, Dial};
use proto::v1::sidecar_link_client::SidecarLinkClient;
use proto::{bounds, v1};
use rustix::rand::{GetRandomFlags, getrandom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

/// Messages waiting for the stream: all reports and emits in flight, and beside them beats and pongs. A link that lags further is ended, and the
/// next one begins with an inventory.
const OUT: usize = bounds::REPORTS_IN_FLIGHT + bounds::EMITS_IN_FLIGHT + 256;
/// First back-off; doubled with each failure.
const BACKOFF_MS: u64 = 100;
/// Longest back-off. Half a default beat: a restarted informer has its sidecars back before a lease ends.
const BACKOFF_CAP_MS: u64 = 2_500;

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot connect to the informer: {}", root(.0))]
    Connect(#[from] tonic::transport::Error),
    #[error("the informer ended the link: {0}")]
    Status(tonic::Status),
    #[error("{0}")]
    Token(String),
    #[error("the informer did not answer within {} s", CONNECT.as_secs())]
    Timeout,
    #[error("nothing was heard from the informer for {0} ms")]
    Silent(u64),
    #[error("the informer closed the link")]
    Closed,
    #[error("closed here")]
    Dropped,
    #[error("the agent is ending")]
    Ending,
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        match status.code() {
            Code::Unauthenticated => Self::Token(status.message().to_owned()),
            _ => Self::Status(status),
        }
    }
}

/// The innermost cause: what the system said.
fn root(error: &tonic::transport::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// The shell's end of an open link. Dropping it ends the link.
#[derive(Debug)]
pub(super) struct Open {
    pub id: LinkId,
    pub out: mpsc::Sender<v1::SidecarMessage>,
    /// Only held.
    pub _close: oneshot::Sender<()>,
}

/// Keeps a link until the shell is gone. `silence_ms` is how long an informer may say nothing: the lease, once one was granted.
pub(super) async fn keep(dial: Dial, inbox: mpsc::Sender<Input>, silence_ms: Arc<AtomicU64>) {
    let mut failures = 0_u32;
    let mut next = 1;
    let mut told = false;
    loop {
        let id = LinkId(next);
        next += 1;
        let mut heard = false;
        let ended = converse(&dial, id, &inbox, &silence_ms, &mut heard).await;
        if let Err(Error::Ending) = ended {
            return;
        }
        failures = if heard { 0 } else { failures.saturating_add(1) };
        told &= !heard;
        if let Err(Error::Token(refusal)) = &ended {
            // Once: until somebody changes a file, every try ends alike. The file is read at each.
            if !std::mem::replace(&mut told, true) {
                tracing::error!("the informer does not let this sidecar in: {refusal}; trying on until that is mended");
            }
        } else if let Err(error) = ended {
            // A long outage is one line, and one more whenever the reason may have changed by back-off.
            if failures <= 1 || failures.is_power_of_two() {
                tracing::warn!(%error, failures, "no link; trying again");
            }
        }
        tokio::time::sleep(jittered(failures)).await;
    }
}

/// Full jitter: anything from nothing to the cap of this failure.
fn jittered(failures: u32) -> Duration {
    let cap_ms = BACKOFF_MS.saturating_mul(1 << failures.min(10)).min(BACKOFF_CAP_MS);
    let mut bytes = [0; 8];
    // Without randomness all sidecars come at once, which is worse for the informer and not wrong.
    let _filled = getrandom(&mut bytes, GetRandomFlags::NONBLOCK);
    Duration::from_millis(u64::from_le_bytes(bytes) % (cap_ms + 1))
}

async fn converse(
    dial: &Dial,
    id: LinkId,
    inbox: &mpsc::Sender<Input>,
    silence_ms: &AtomicU64,
    heard: &mut bool,
) -> Result<(), Error> {
    let channel = tokio::time::timeout(CONNECT, dial.connect(&dial.endpoint())).await.map_err(|_| Error::Timeout)??;
    let (out, queue) = mpsc::channel(OUT);
    let (_close, closed) = oneshot::channel();
    inbox.send(Input::LinkUp(Open { id, out, _close })).await.map_err(|_| Error::Ending)?;
    let result = tokio::select! {
        result = receive(channel, queue, id, inbox, silence_ms, heard) => result,
        _ = closed => Err(Error::Dropped),
    };
    inbox.send(Input::LinkDown(id)).await.map_err(|_| Error::Ending)?;
    result
}

async fn receive(
    channel: Channel,
    queue: mpsc::Receiver<v1::SidecarMessage>,
    id: LinkId,
    inbox: &mpsc::Sender<Input>,
    silence_ms: &AtomicU64,
    heard: &mut bool,
) -> Result<(), Error> {
    let mut client = SidecarLinkClient::new(channel).max_decoding_message_size(bounds::MESSAGE_BYTES);
    let call = tokio::time::timeout(CONNECT, client.link(ReceiverStream::new(queue)));
    let mut stream = call.await.map_err(|_| Error::Timeout)??.into_inner();
    loop {
        let silence = silence_ms.load(Ordering::Relaxed);
        let next = tokio::time::timeout(Duration::from_millis(silence), stream.message());
        let message = next.await.map_err(|_| Error::Silent(silence))??.ok_or(Error::Closed)?;
        *heard = true;
        inbox.send(Input::Message(id, Box::new(message))).await.map_err(|_| Error::Ending)?;
    }
}
