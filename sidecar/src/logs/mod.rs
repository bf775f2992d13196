//! The log of one attempt, sent up on a connection of its own, so that no slow reader delays a beat.
//!
//! ```text
//! attempts/<name>/{out,err} ── Reader (offset, holes) ──▶ channel of QUEUE chunks ──▶ SendLog ──▶ informer
//!            └── inotify ── Growth ──▲            back-pressure: a full channel stops the reading
//! ```
//!
//! Offsets are logical: rotation frees the head of a file and leaves a hole, so the byte at an offset stays what it was, and a
//! reader who asks for freed bytes sees the offset jump.
//!
//! After the end the whole log goes up once more, to be kept there: [`Parts`].

mod growth;
mod parts;
mod reader;

pub use parts::Parts;

use growth::Growth;
use keeper::wire::{self, LogPolicy};
use proto::dial::Channel;
use proto::{
    bounds::LOG_CAP_DEFAULT_BYTES,
    v1::{self, LogStream, sidecar_link_client::SidecarLinkClient},
};
use reader::Reader;
use std::{io, path::PathBuf};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

/// Chunks between the file and the connection: one being sent and one being read. More would only hold memory, HTTP/2 has a
/// window of its own.
const QUEUE: usize = 2;

/// Where the log of an attempt lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The attempt's directory, which holds `out` and `err`.
    pub attempt_dir: PathBuf,
    /// Nothing from this offset on is sent: a log that keeps its head is cut back to its cap after the fact, so bytes beyond it
    /// are not final until then.
    pub head_cap_bytes: u64,
}

impl Source {
    /// From the spec that the attempt was started with.
    #[must_use]
    pub const fn of(attempt_dir: PathBuf, spec: &wire::Spec) -> Self {
        let head_cap_bytes = match spec.log_policy {
            LogPolicy::KeepHead if spec.log_cap_bytes > 0 => spec.log_cap_bytes,
            LogPolicy::KeepHead => LOG_CAP_DEFAULT_BYTES,
            LogPolicy::KeepTail => u64::MAX,
        };
        Self { attempt_dir, head_cap_bytes }
    }
}

/// Facts about the log of an attempt that ended: nothing is written any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Final {
    /// Bytes of `out` before this offset were dropped by rotation.
    pub out_base: u64,
    /// Bytes of `err` before this offset were dropped by rotation.
    pub err_base: u64,
    /// The cap was reached and later bytes were dropped.
    pub truncated: bool,
}

impl From<&wire::End> for Final {
    fn from(end: &wire::End) -> Self {
        Self { out_base: end.out_base, err_base: end.err_base, truncated: end.truncated }
    }
}

/// Why a log was not sent whole. The informer asks again if somebody still reads.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A log file cannot be read; the reader was told.
    #[error("cannot read the log in {path:?}")]
    Read {
        /// The attempt's directory.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The call failed: the informer is gone, or does not know the request any more.
    #[error("the log could not be sent to the informer")]
    Call(#[from] tonic::Status),
}

/// Sends the log that `request` asks for, from its offsets: what is there now, and with `follow` what comes until the attempt
/// ended. Returns when all is sent, or when the informer ends the call because nobody reads any more.
///
/// `ended` becomes `Some` when the attempt has ended and its log is final; if its sender is dropped, the log is final as it is.
/// Cancel by dropping the future: the call is reset and no task is left behind. The bytes of one stream are in order and without
/// repetition; `out` and `err` alternate by chunks while both have bytes. A dropped range shows as a jump of the offset.
///
/// # Errors
/// [`Error`]; what was sent up to then is correct.
pub async fn serve(
    channel: Channel,
    request: v1::LogRequest,
    source: Source,
    ended: watch::Receiver<Option<Final>>,
) -> Result<(), Error> {
    let (chunks, queue) = mpsc::channel(QUEUE);
    let sending = Sending { request: request.request, chunks };
    let mut client = SidecarLinkClient::new(channel);
    let call = client.send_log(ReceiverStream::new(queue));
    let reading = read(sending, request, source, ended);
    tokio::pin!(call, reading);
    tokio::select! {
        // The informer answers before the end only if nobody reads any more.
        answer = &mut call => answer.map(drop).map_err(Error::from),
        outcome = &mut reading => {
            // The queue is closed by now; the answer says that its last chunk has arrived.
            call.await?;
            outcome
        }
    }
}

/// The sending end of the call, labelled.
struct Sending {
    request: u64,
    chunks: mpsc::Sender<v1::LogUpload>,
}

/// The call takes no more chunks.
struct Closed;

impl Sending {
    async fn send(&self, upload: v1::LogUpload) -> Result<(), Closed> {
        self.chunks.send(v1::LogUpload { request: self.request, ..upload }).await.map_err(|_| Closed)
    }
}

/// Reads both streams to their ends. Owns the sender, so that returning closes the queue.
async fn read(
    sending: Sending,
    request: v1::LogRequest,
    source: Source,
    mut ended: watch::Receiver<Option<Final>>,
) -> Result<(), Error> {
    let mut readers = readers(&request, &source);
    // Before the first read, so that no growth after it is missed.
    let mut growth = request.follow.then(|| Growth::watch(&source.attempt_dir));
    loop {
        // Looked at before reading: if the log is final now, reading to its end reads everything.
        let finished = *ended.borrow_and_update();
        let orphaned = ended.has_changed().is_err();
        match drain(&mut readers, &sending, finished.as_ref()).await {
            Ok(Ok(())) => {}
            Ok(Err(Closed)) => return Ok(()),
            Err(error) => {
                // Without a word the answer breaks off, and the reader asks again; the log is there.
                if !is_out_of_files(&error) {
                    let failure = format!("cannot read the log: {error}");
                    // Nobody takes it: then nobody needs it either.
                    let _closed = sending.send(v1::LogUpload { failure, ..Default::default() }).await;
                }
                return Err(Error::Read { path: source.attempt_dir, source: error });
            }
        }
        match &mut growth {
            Some(growth) if finished.is_none() && !orphaned => tokio::select! {
                () = growth.grown() => {}
                _ = ended.changed() => {}
                () = sending.chunks.closed() => return Ok(()),
            },
            _ => {
                let truncated = finished.is_some_and(|facts| facts.truncated);
                // Nobody takes it: then nobody needs it either.
                let _closed = close(&readers, &sending, truncated).await;
                return Ok(());
            }
        }
    }
}

/// Marks the streams that lost bytes at their cap, then ends the upload.
/// This process, or the machine, has no descriptor for another file: it will have one.
fn is_out_of_files(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

async fn close(readers: &[(LogStream, Reader)], sending: &Sending, truncated: bool) -> Result<(), Closed> {
    let cut = cut(readers, truncated);
    for (stream, reader) in readers.iter().filter(|(stream, _)| cut.contains(stream)) {
        let stream = (*stream).into();
        sending.send(v1::LogUpload { stream, offset: reader.offset(), truncated, ..Default::default() }).await?;
    }
    sending.send(v1::LogUpload { end: true, ..Default::default() }).await
}

/// The streams that lost bytes at their cap, once both are read to their ends. The record does not say which it was; the one that is as
/// long as it may be. Where rotation fell back to cutting no length tells, so both may have lost bytes.
fn cut(readers: &[(LogStream, Reader)], truncated: bool) -> Vec<LogStream> {
    let any_full = readers.iter().any(|(_, reader)| reader.is_full());
    let lost = readers.iter().filter(|(_, reader)| truncated && (reader.is_full() || !any_full));
    lost.map(|(stream, _)| *stream).collect()
}

fn readers(request: &v1::LogRequest, source: &Source) -> Vec<(LogStream, Reader)> {
    let reader = |file, offset| Reader::new(source.attempt_dir.join(file), offset, source.head_cap_bytes);
    let mut readers = Vec::with_capacity(2);
    if request.only() != LogStream::Err {
        readers.push((LogStream::Out, reader("out", request.out_offset)));
    }
    if request.only() != LogStream::Out {
        readers.push((LogStream::Err, reader("err", request.err_offset)));
    }
    readers
}

/// Sends everything that is in the files now, in turns, until one round finds nothing.
async fn drain(
    readers: &mut [(LogStream, Reader)],
    sending: &Sending,
    facts: Option<&Final>,
) -> io::Result<Result<(), Closed>> {
    loop {
        let mut quiet = true;
        for (stream, reader) in readers.iter_mut() {
            let base = facts.map_or(0, |facts| if *stream == LogStream::Out { facts.out_base } else { facts.err_base });
            let Some(chunk) = reader.next(base).await? else { continue };
            quiet = false;
            let upload = v1::LogUpload {
                stream: (*stream).into(),
                offset: chunk.offset,
                data: chunk.data,
                ..Default::default()
            };
            if sending.send(upload).await.is_err() {
                return Ok(Err(Closed));
            }
        }
        if quiet {
            return Ok(Ok(()));
        }
    }
}

#[cfg(test)]
mod tests;
