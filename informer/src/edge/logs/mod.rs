//! Logs: from the sidecar's second connection to the reader, byte by byte at their offsets.
//!
//! ```text
//!  client ── Logs ──▶ reader ── registers request n ── LogRequest(n) ── link ──▶ sidecar
//!         ◀─ chunks ─   ▲                                                          │
//!                       └──────── a channel of two pieces ◀──── relay ◀─ SendLog(n) ┘
//! ```
//! The channel is what holds back a sidecar whose reader is slow; its link and its beats never notice. A reader that leaves drops
//! the channel, which ends the upload, and its ticket sends the cancel for an upload that has not begun.
//!
//! Of an attempt that ended, the sidecar sends its log up to be kept ([`store`]); it is read from there ([`kept`]) when the sidecar is
//! not linked, or has removed it.

mod choice;
mod kept;
mod reader;
pub(super) mod store;

use super::Edge;
use super::error::Error;
use super::stream::Produced;
use crate::blobs::Blobs;
use crate::machine::SessionId;
use crate::shell::Handle;
use proto::id::SidecarId;
use proto::{bounds, check, v1};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc};
use tokio::time::timeout;
use tonic::{Status, Streaming};

/// Pieces between a sidecar's upload and its reader: one on its way, one being made. More would only be memory.
const PIECES: usize = 2;
/// Chunks waiting for the client's connection.
const CHUNKS: usize = 2;
/// Time an upload has to name its request.
const UPLOAD_TIME: Duration = Duration::from_secs(10);
/// Opened links that a reader may be behind before it must assume that its own was among them.
const OPENED: usize = 256;

/// Who reads which log.
pub(crate) struct Logs {
    waiting: Mutex<BTreeMap<u64, Option<mpsc::Sender<v1::LogUpload>>>>,
    next: AtomicU64,
    room: Arc<Semaphore>,
    opened: broadcast::Sender<SidecarId>,
    cancels: mpsc::Sender<(SessionId, u64)>,
    blobs: Arc<dyn Blobs>,
    uploads: Arc<Semaphore>,
}

/// Requests whose readers have left; [`tell_cancels`] passes them on.
pub(crate) type Cancels = mpsc::Receiver<(SessionId, u64)>;

impl Logs {
    /// No readers. Numbers start in a range of this epoch's own, so that an upload left over from an earlier run of the informer
    /// finds nobody, and never another's reader.
    pub(crate) fn new(epoch: u64, blobs: Arc<dyn Blobs>) -> (Self, Cancels) {
        let (cancels, left) = mpsc::channel(bounds::LOG_READERS);
        let logs = Self {
            waiting: Mutex::default(),
            next: AtomicU64::new((epoch << 32) + 1),
            room: Arc::new(Semaphore::new(bounds::LOG_READERS)),
            opened: broadcast::channel(OPENED).0,
            cancels,
            blobs,
            uploads: Arc::new(Semaphore::new(store::STREAMS)),
        };
        (logs, left)
    }

    /// Wakes the readers that wait for this sidecar. Called once its new session is known to the shell.
    pub(super) fn link_opened(&self, sidecar: SidecarId) {
        // No reader waits: nobody to tell.
        let _ = self.opened.send(sidecar);
    }

    /// Passes a sidecar's upload on to its reader.
    ///
    /// # Errors
    /// A wrong message, or a request that nobody reads (any more).
    pub(super) async fn take_upload(&self, mut upload: Streaming<v1::LogUpload>) -> Result<v1::LogUploadDone, Status> {
        let first = timeout(UPLOAD_TIME, upload.message()).await.map_err(|_| Error::Silent {
            what: "an upload begins with the number of its request",
            within_ms: UPLOAD_TIME.as_millis(),
        })?;
        let Some(mut piece) = first? else { return Ok(v1::LogUploadDone {}) };
        let request = piece.request;
        let reader = self.claim(request)?;
        loop {
            check::upload(&mut piece).map_err(Error::from)?;
            let is_last = piece.end || !piece.failure.is_empty();
            reader.send(piece).await.map_err(|_| Error::NoReader(request))?;
            if is_last {
                return Ok(v1::LogUploadDone {});
            }
            piece = tokio::select! {
                next = upload.message() => match next? {
                    Some(piece) => piece,
                    None => return Ok(v1::LogUploadDone {}),
                },
                () = reader.closed() => return Err(Error::NoReader(request).into()),
            };
        }
    }

    fn claim(&self, request: u64) -> Result<mpsc::Sender<v1::LogUpload>, Error> {
        self.waiting().get_mut(&request).and_then(Option::take).ok_or(Error::NoReader(request))
    }

    fn register(self: &Arc<Self>, session: SessionId) -> Ticket {
        let (reader, pieces) = mpsc::channel(PIECES);
        let request = self.next.fetch_add(1, Ordering::Relaxed);
        self.waiting().insert(request, Some(reader));
        Ticket { logs: Arc::clone(self), request, session, pieces, is_over: false }
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u64, Option<mpsc::Sender<v1::LogUpload>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request to a sidecar; dropping it takes the request back.
struct Ticket {
    logs: Arc<Logs>,
    request: u64,
    session: SessionId,
    pieces: mpsc::Receiver<v1::LogUpload>,
    /// The upload said that it is complete: nothing to take back.
    is_over: bool,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.logs.waiting().remove(&self.request);
        if !self.is_over {
            // With the queue full the cancel is left out: the upload ends by itself when it finds no reader.
            let _ = self.logs.cancels.try_send((self.session, self.request));
        }
    }
}

/// Tells sidecars that nobody reads, until the edge is gone.
pub(crate) async fn tell_cancels(handle: Handle, mut cancels: Cancels) {
    while let Some((session, request)) = cancels.recv().await {
        let cancel = v1::LogRequest { request, cancel: true, ..Default::default() };
        let message = v1::InformerMessage { message: Some(v1::informer_message::Message::Log(cancel)) };
        if let Err(error) = handle.send(session, message).await {
            // Harmless: its link has ended, or its upload will find no reader.
            tracing::debug!(%error, request, "a log's cancel was not sent");
        }
    }
}

fn chunks() -> usize {
    #[cfg(feature = "seeded-bugs")]
    if crate::failpoint::mistake("HoardLogs") {
        return 32 * CHUNKS;
    }
    CHUNKS
}

/// Starts to read a task's log.
///
/// # Errors
/// A string that is no id, or too many readers.
pub(super) fn read(edge: Edge, request: v1::LogsRequest) -> Result<Produced<v1::LogsChunk>, Error> {
    let task = request.id.parse()?;
    let only = v1::LogStream::try_from(request.only).unwrap_or_default();
    let permit = Arc::clone(&edge.logs.room)
        .try_acquire_owned()
        .map_err(|_| Error::LogReaders { limit: bounds::LOG_READERS })?;
    let (out, queue) = mpsc::channel(chunks());
    let reader = reader::Reader::new(edge.clone(), task, &request, only, out);
    Ok(Produced::new(queue, async move {
        let _permit: OwnedSemaphorePermit = permit;
        tokio::select! {
            result = reader.run() => result,
            stopped = edge.stopped() => Err(stopped),
        }
    }))
}
