//! The log of an attempt that ended, in the parts that the informer stores: stdout from its first kept byte to its last, then stderr.

use super::{Final, Source, cut, readers};
use crate::logs::reader::Reader;
use proto::id::{AttemptId, Fence};
use proto::v1::{self, LogStream};
use std::io;

/// What is still to be sent of one log. Holds one file open and no bytes.
#[derive(Debug)]
pub struct Parts {
    attempt: AttemptId,
    fence: Fence,
    facts: Final,
    readers: Vec<(LogStream, Reader)>,
    /// The stream being read; their number: all is read.
    current: usize,
    /// Of each stream, the bytes before the first one kept; `None` until it is known.
    dropped: [Option<u64>; 2],
    is_over: bool,
}

impl Parts {
    /// The whole log of an attempt on which nothing writes any more.
    #[must_use]
    pub fn new(attempt: AttemptId, fence: Fence, source: &Source, facts: Final) -> Self {
        let readers = readers(&v1::LogRequest::default(), source);
        Self { attempt, fence, facts, readers, current: 0, dropped: [None; 2], is_over: false }
    }

    /// The next part, of at most [`proto::bounds::LOG_CHUNK_BYTES`]; the last one has `end`, and after it comes `None`.
    ///
    /// # Errors
    /// The log cannot be read, or bytes of it vanish while it is read: nothing of what was read is then worth keeping.
    pub async fn next(&mut self) -> io::Result<Option<v1::LogPart>> {
        if self.is_over {
            return Ok(None);
        }
        while let Some((stream, reader)) = self.readers.get_mut(self.current) {
            let base = if *stream == LogStream::Out { self.facts.out_base } else { self.facts.err_base };
            let expected = reader.offset();
            let Some(chunk) = reader.next(base).await? else {
                self.dropped[self.current].get_or_insert(reader.offset());
                self.current += 1;
                continue;
            };
            let begun = self.dropped[self.current].replace(self.dropped[self.current].unwrap_or(chunk.offset));
            if begun.is_some() && chunk.offset != expected {
                return Err(io::Error::other("bytes of the log vanished while it was read"));
            }
            let stream = (*stream).into();
            return Ok(Some(v1::LogPart { stream, data: chunk.data, ..self.labelled() }));
        }
        self.is_over = true;
        let cut = cut(&self.readers, self.facts.truncated);
        Ok(Some(v1::LogPart {
            end: true,
            out_dropped: self.dropped[0].unwrap_or(0),
            err_dropped: self.dropped[1].unwrap_or(0),
            out_truncated: cut.contains(&LogStream::Out),
            err_truncated: cut.contains(&LogStream::Err),
            ..self.labelled()
        }))
    }

    /// Whose it is.
    #[must_use]
    pub const fn attempt(&self) -> AttemptId {
        self.attempt
    }

    /// Ends it early, because nobody wants the rest: the end without what belongs to it, once.
    pub fn abandon(&mut self) -> Option<v1::LogPart> {
        let is_first = !std::mem::replace(&mut self.is_over, true);
        is_first.then(|| v1::LogPart { end: true, ..self.labelled() })
    }

    fn labelled(&self) -> v1::LogPart {
        v1::LogPart { attempt: Some(self.attempt.to_wire()), fence: Some(self.fence.into()), ..Default::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::TaskId;
    use std::path::PathBuf;

    /// A directory of the test's own, gone with it.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("log-parts-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _gone = std::fs::remove_dir_all(&self.0);
        }
    }

    async fn all(dir: &Dir, head_cap_bytes: u64, facts: Final) -> (Vec<u8>, Vec<u8>, v1::LogPart) {
        let attempt = AttemptId { task: TaskId::from_u128(1), number: 1 };
        let source = Source { attempt_dir: dir.0.clone(), head_cap_bytes };
        let mut parts = Parts::new(attempt, Fence::default(), &source, facts);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        loop {
            let part = parts.next().await.unwrap().expect("the last one has an end");
            assert_eq!(part.attempt, Some(attempt.to_wire()));
            match part.stream() {
                LogStream::Out => out.extend_from_slice(&part.data),
                LogStream::Err => err.extend_from_slice(&part.data),
                LogStream::Unspecified => {
                    assert!(part.end && part.data.is_empty());
                    assert_eq!(parts.next().await.unwrap(), None);
                    return (out, err, part);
                }
            }
        }
    }

    #[tokio::test]
    async fn both_streams_come_whole_and_then_the_end() {
        let dir = Dir::new("whole");
        let long: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        std::fs::write(dir.0.join("out"), &long).unwrap();
        std::fs::write(dir.0.join("err"), b"oh").unwrap();
        let (out, err, end) = all(&dir, u64::MAX, Final::default()).await;
        assert!(out == long && err == b"oh");
        assert_eq!((end.out_dropped, end.out_truncated, end.err_truncated), (0, false, false));
    }

    #[tokio::test]
    async fn what_was_dropped_and_cut_is_told() {
        let dir = Dir::new("dropped");
        std::fs::write(dir.0.join("out"), b"0123456789").unwrap();
        let facts = Final { out_base: 4, err_base: 7, truncated: true };
        let (out, err, end) = all(&dir, 8, facts).await;
        assert_eq!((&out[..], &err[..]), (&b"4567"[..], &b""[..]));
        assert_eq!((end.out_dropped, end.err_dropped), (4, 7));
        assert_eq!((end.out_truncated, end.err_truncated), (true, false));
    }

    #[tokio::test]
    async fn a_log_that_was_never_written_is_an_end() {
        let dir = Dir::new("absent");
        let (out, err, end) = all(&dir, u64::MAX, Final::default()).await;
        assert!(out.is_empty() && err.is_empty() && end.out_dropped == 0);
    }
}
