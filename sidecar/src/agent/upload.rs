//! Logs of ended attempts on their way to the informer's disk: in the background, on the work thread's connection.
//!
//! ```text
//!  shell ── Order ──▶ keep ── feed ── LogPart… ──▶ StoreLogs ──▶ informer
//!        ◀─ LogSent ──  ▲                              │
//!                       └──────── LogStored ◀──────────┘
//! ```
//!
//! One stream is open while something is owed, and several logs are on it at once, one behind the other. Each order is answered exactly
//! once: by the informer, or by the end of the stream. Who is to be tried again, and when, is the machine's affair.

use super::shell::Input;
use super::{Dirs, clock, failpoint};
use crate::logs::{Final, Parts, Source};
use crate::machine::{Event, UPLOADS_ORDERED};
use proto::bounds;
use proto::dial::Channel;
use proto::id::{AttemptId, Fence};
use proto::v1::{self, sidecar_link_client::SidecarLinkClient};
use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Orders that may wait: what the machine orders at once, and once more what it has forgotten since (logs given up for want of room).
pub(super) const ORDERS: usize = 2 * UPLOADS_ORDERED;
/// Parts between a file and the connection: one being sent and one being read. More would only hold memory.
const QUEUE: usize = 2;
/// How long nothing may move. The informer answers after an fsync of everything sent, which on a loaded disk takes long.
const STALL: Duration = Duration::from_secs(120);

/// Orders, as the uploader takes them.
pub(super) type Uploads = mpsc::Receiver<Order>;

/// One log to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Order {
    pub attempt: AttemptId,
    pub fence: Fence,
}

/// Why a stream of uploads ended before all was answered.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot read the log of attempt {attempt}: {source}")]
    Read { attempt: AttemptId, source: io::Error },
    #[error("{}", .0.message())]
    Call(#[from] tonic::Status),
    #[error("the informer ended the upload")]
    Closed,
    #[error("nothing moved for {} s", STALL.as_secs())]
    Stalled,
    #[error("the agent is ending")]
    Ending,
}

/// What the feeding and the answering half share.
#[derive(Default)]
struct Shared {
    /// Logs that the informer will not keep: what is left of them need not be sent.
    refused: Mutex<BTreeSet<AttemptId>>,
    /// When something moved last, `CLOCK_BOOTTIME` ms.
    moved_ms: AtomicU64,
}

impl Shared {
    fn refused(&self) -> MutexGuard<'_, BTreeSet<AttemptId>> {
        // No code panics while it holds the lock, and a set of finished inserts is whole anyway.
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moved(&self) {
        self.moved_ms.store(clock::boot_ms(), Ordering::Relaxed);
    }

    async fn stalled(&self) {
        loop {
            let end_ms = self.moved_ms.load(Ordering::Relaxed) + STALL.as_millis() as u64;
            if clock::boot_ms() >= end_ms {
                return;
            }
            clock::sleep_until(end_ms).await;
        }
    }
}

/// Uploads what is ordered until nobody orders any more.
pub(super) async fn keep(dirs: Dirs, channel: Channel, inbox: mpsc::Sender<Input>, mut orders: Uploads) {
    let mut failures = 0_u32;
    while let Some(first) = orders.recv().await {
        let mut stream = Stream { dirs: &dirs, inbox: &inbox, unanswered: BTreeSet::new() };
        let ended = stream.converse(&channel, first, &mut orders).await;
        let Err(error) = ended else {
            failures = 0;
            continue;
        };
        failures = failures.saturating_add(1);
        // A long outage is one line, and one more each time it has lasted twice as long.
        if failures.is_power_of_two() && !stream.unanswered.is_empty() {
            tracing::warn!(%error, logs = stream.unanswered.len(), failures, "logs were not stored at the informer; trying again");
        }
        for attempt in std::mem::take(&mut stream.unanswered) {
            if stream.tell(attempt, Some(error.to_string())).await.is_err() {
                return;
            }
        }
    }
}

struct Stream<'a> {
    dirs: &'a Dirs,
    inbox: &'a mpsc::Sender<Input>,
    unanswered: BTreeSet<AttemptId>,
}

impl Stream<'_> {
    async fn tell(&self, attempt: AttemptId, failure: Option<String>) -> Result<(), Error> {
        let sent = self.inbox.send(Input::Event(Event::LogSent { attempt, failure })).await;
        sent.map_err(|_| Error::Ending)
    }

    /// One stream, from the first order until every one is answered.
    async fn converse(&mut self, channel: &Channel, first: Order, orders: &mut Uploads) -> Result<(), Error> {
        let shared = Shared::default();
        shared.moved();
        let (logs, to_feed) = mpsc::channel(ORDERS);
        self.take(first, &logs, &shared).await?;
        if self.unanswered.is_empty() {
            return Ok(());
        }
        let (parts, queue) = mpsc::channel(QUEUE);
        let mut client = SidecarLinkClient::new(channel.clone()).max_decoding_message_size(bounds::MESSAGE_BYTES);
        let call = client.store_logs(ReceiverStream::new(queue));
        let feeding = feed(to_feed, parts, &shared);
        tokio::pin!(feeding);
        let mut answers = tokio::select! {
            called = call => called?.into_inner(),
            () = shared.stalled() => return Err(Error::Stalled),
        };
        while !self.unanswered.is_empty() {
            tokio::select! {
                answer = next(&mut answers) => self.on_answer(answer?, &shared).await?,
                failed = &mut feeding => return Err(failed),
                Some(order) = orders.recv() => self.take(order, &logs, &shared).await?,
                () = shared.stalled() => return Err(Error::Stalled),
            }
        }
        Ok(())
    }

    /// Hands one log to the feeding half.
    async fn take(&mut self, order: Order, logs: &mpsc::Sender<Parts>, shared: &Shared) -> Result<(), Error> {
        let dir = self.dirs.attempt(order.attempt);
        if !dir.exists() {
            // Purged for want of room, or by hand: there is nothing left to store.
            return self.tell(order.attempt, None).await;
        }
        let record = keeper::record::read(&dir).ok();
        let facts = record.as_ref().and_then(|record| record.end.as_ref()).map(Final::from).unwrap_or_default();
        let spec = record.and_then(|record| record.spec).unwrap_or_default();
        let parts = Parts::new(order.attempt, order.fence, &Source::of(dir, &spec), facts);
        shared.refused().remove(&order.attempt);
        if logs.try_send(parts).is_err() {
            return self.tell(order.attempt, Some("too many uploads wait".to_owned())).await;
        }
        self.unanswered.insert(order.attempt);
        Ok(())
    }

    async fn on_answer(&mut self, stored: v1::LogStored, shared: &Shared) -> Result<(), Error> {
        shared.moved();
        let attempt = stored.attempt.as_ref().and_then(|wire| AttemptId::from_wire(wire).ok());
        let Some(attempt) = attempt.filter(|attempt| self.unanswered.remove(attempt)) else { return Ok(()) };
        if stored.failure.is_empty() {
            failpoint::reach("log-stored");
            return self.tell(attempt, None).await;
        }
        tracing::warn!(%attempt, failure = stored.failure, "the informer did not store a log; it is sent again later");
        shared.refused().insert(attempt);
        self.tell(attempt, Some(stored.failure)).await
    }
}

async fn next(answers: &mut Streaming<v1::LogStored>) -> Result<v1::LogStored, Error> {
    answers.message().await?.ok_or(Error::Closed)
}

/// Sends logs one after the other; returns only when it cannot go on.
async fn feed(mut logs: mpsc::Receiver<Parts>, parts: mpsc::Sender<v1::LogPart>, shared: &Shared) -> Error {
    while let Some(mut log) = logs.recv().await {
        loop {
            let attempt = log.attempt();
            let next = if shared.refused().contains(&attempt) { Ok(log.abandon()) } else { log.next().await };
            let part = match next {
                Ok(Some(part)) => part,
                Ok(None) => break,
                Err(source) => return Error::Read { attempt, source },
            };
            if parts.send(part).await.is_err() {
                // The call has ended; why, its answers tell.
                return std::future::pending().await;
            }
            shared.moved();
            failpoint::reach("log-part");
        }
    }
    std::future::pending().await
}
