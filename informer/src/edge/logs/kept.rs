//! Reading a log that is kept here, because its sidecar is not linked or has removed it: the same bytes, offsets and marks.

use super::reader::Reader;
use crate::blobs::Log;
use crate::edge::error::Error;
use proto::bounds::LOG_CHUNK_BYTES;
use proto::id::AttemptId;
use proto::store::AttemptRow;
use proto::v1::{self, LogStream, Reason};
use std::sync::Arc;

impl Reader {
    /// Sends what the client does not have of an attempt's kept log, to the end; false if there is nothing kept.
    pub(super) async fn read_kept(&mut self, attempt: &AttemptRow) -> Result<bool, Error> {
        let id = AttemptId { task: self.task, number: attempt.number };
        let blobs = Arc::clone(&self.edge.logs.blobs);
        let Some(mut log) = blocking(move || blobs.open(id)).await?.map_err(gone)? else {
            // Nothing is stored of an empty log; that it is empty, its end said.
            let is_empty = ended_silently(attempt);
            if is_empty {
                self.complete(attempt).await?;
            }
            return Ok(is_empty);
        };
        let streams = [LogStream::Out, LogStream::Err];
        let only = self.only;
        for stream in streams.into_iter().filter(|stream| [*stream, LogStream::Unspecified].contains(&only)) {
            log = self.send_kept(stream, log).await?;
        }
        for stream in streams {
            let (facts, offset) = log.facts(stream);
            if facts.truncated {
                let stream = stream.into();
                self.pass(v1::LogUpload { stream, offset, truncated: true, ..Default::default() }).await?;
            }
        }
        self.complete(attempt).await?;
        Ok(true)
    }

    async fn send_kept(&mut self, stream: LogStream, mut log: Box<dyn Log>) -> Result<Box<dyn Log>, Error> {
        loop {
            let offset = *self.at.of(stream);
            let read = blocking(move || {
                let piece = log.read(stream, offset);
                (log, piece)
            });
            let (back, piece) = read.await?;
            log = back;
            let Some((mut offset, mut data)) = piece.map_err(gone)? else { return Ok(log) };
            while !data.is_empty() {
                let chunk = data.split_to(data.len().min(LOG_CHUNK_BYTES));
                let upload = v1::LogUpload { stream: stream.into(), offset, data: chunk, ..Default::default() };
                offset += upload.data.len() as u64;
                self.pass(upload).await?;
            }
        }
    }
}

/// Its sidecar told its end, and that it had written nothing. Ends that are concluded here know nothing of what was written.
fn ended_silently(attempt: &AttemptRow) -> bool {
    attempt.ending.as_ref().is_some_and(|ending| {
        let told = [Reason::Unspecified, Reason::ExitCode, Reason::Signal, Reason::Oom, Reason::Output];
        told.contains(&ending.reason()) && ending.out_bytes == 0 && ending.err_bytes == 0
    })
}

/// The disk may be slow, and unpacking takes a millisecond.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Panicked)
}

fn gone(error: crate::blobs::Error) -> Error {
    tracing::error!(%error, "a kept log cannot be read");
    Error::LogGone(error.to_string())
}
