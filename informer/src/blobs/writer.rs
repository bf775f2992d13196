//! Logs on their way to the disk.
//!
//! ```text
//!  begin ─▶ parts/x.part ── finish ─▶ (waits) ── flush: fsync each, rename each, fsync their directories once ─▶ <attempt>.log
//! ```

use super::dir::{self, Dir, io};
use super::format::{FRAME_BYTES, Index, LEVEL, Stream};
use super::{Error, Facts, Writer};
use crate::failpoint;
use proto::bounds::LOG_CAP_BYTES;
use proto::id::AttemptId;
use proto::v1::LogStream;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufWriter, ErrorKind, Write as _};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

/// Writes into a [`Dir`].
pub(super) struct DirWriter {
    dir: Dir,
    compressor: Compressor<'static>,
    /// Bytes of the current stream that fill no frame yet.
    buffer: Vec<u8>,
    current: Option<Draft>,
    finished: Vec<Draft>,
}

/// One file that is not kept yet; dropping it removes it.
struct Draft {
    attempt: AttemptId,
    file: BufWriter<File>,
    part: Part,
    index: Index,
    is_err: bool,
}

struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        // After a rename there is none. One that cannot be removed is, at the next start.
        let _absent = fs::remove_file(&self.0);
    }
}

impl Draft {
    fn stream(&mut self) -> &mut Stream {
        if self.is_err { &mut self.index.err } else { &mut self.index.out }
    }
}

impl DirWriter {
    pub(super) fn new(dir: Dir) -> Result<Self, Error> {
        let compressor = Compressor::new(LEVEL).and_then(|mut compressor| {
            compressor.set_parameter(CParameter::ChecksumFlag(true))?;
            Ok(compressor)
        });
        let compressor = compressor.map_err(io("compress into", &dir.root))?;
        Ok(Self { compressor, buffer: Vec::new(), current: None, finished: Vec::new(), dir })
    }

    /// Writes one frame of what is buffered; all of it, if that is less.
    fn write_frame(&mut self) -> Result<(), Error> {
        let Some(draft) = &mut self.current else { return Err(Error::Order) };
        let length = self.buffer.len().min(FRAME_BYTES);
        if length == 0 {
            return Ok(());
        }
        let frame = self.compressor.compress(&self.buffer[..length]).map_err(io("compress", &draft.part.0))?;
        draft.file.write_all(&frame).map_err(io("write", &draft.part.0))?;
        let frame_bytes = u32::try_from(frame.len()).expect("a frame of a mebibyte does not grow to gibibytes");
        draft.stream().frames.push(frame_bytes);
        self.buffer.drain(..length);
        Ok(())
    }

    fn append(&mut self, stream: LogStream, data: &[u8]) -> Result<(), Error> {
        let draft = self.current.as_mut().ok_or(Error::Order)?;
        match stream {
            LogStream::Err if !draft.is_err => {
                self.write_frame()?;
                self.current.as_mut().ok_or(Error::Order)?.is_err = true;
            }
            LogStream::Out if draft.is_err => return Err(Error::Order),
            LogStream::Unspecified => return Err(Error::Order),
            LogStream::Err | LogStream::Out => {}
        }
        let stream = self.current.as_mut().ok_or(Error::Order)?.stream();
        stream.kept += data.len() as u64;
        if stream.kept > LOG_CAP_BYTES {
            return Err(Error::TooLong { limit: LOG_CAP_BYTES });
        }
        self.buffer.extend_from_slice(data);
        while self.buffer.len() >= FRAME_BYTES {
            self.write_frame()?;
        }
        Ok(())
    }

    fn complete(&mut self, facts: [Facts; 2]) -> Result<(), Error> {
        self.write_frame()?;
        let mut draft = self.current.take().ok_or(Error::Order)?;
        for (stream, facts) in [&mut draft.index.out, &mut draft.index.err].into_iter().zip(facts) {
            (stream.dropped, stream.truncated) = (facts.dropped, facts.truncated);
            // What is read back must be what an index may say.
            stream.dropped.checked_add(stream.kept).ok_or(Error::TooLong { limit: LOG_CAP_BYTES })?;
        }
        let written = draft.file.write_all(&draft.index.encoded()).and_then(|()| draft.file.flush());
        written.map_err(io("write", &draft.part.0))?;
        self.finished.push(draft);
        Ok(())
    }
}

impl Writer for DirWriter {
    fn begin(&mut self, attempt: AttemptId) -> Result<(), Error> {
        self.abandon();
        let number = self.dir.next_part.fetch_add(1, Ordering::Relaxed);
        let part = Part(self.dir.parts().join(format!("{attempt}.{number}.part")));
        let file = match File::create_new(&part.0) {
            // Somebody has removed the directory under this informer: what was kept in it is gone, and what comes is kept.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                dir::make(&self.dir.parts())?;
                File::create_new(&part.0)
            }
            made => made,
        };
        let file = file.map_err(io("make", &part.0))?;
        let index = Index { frame_bytes: FRAME_BYTES as u64, ..Index::default() };
        self.current = Some(Draft { attempt, file: BufWriter::new(file), part, index, is_err: false });
        Ok(())
    }

    fn write(&mut self, stream: LogStream, data: &[u8]) -> Result<(), Error> {
        self.append(stream, data).inspect_err(|_| self.abandon())
    }

    fn finish(&mut self, facts: [Facts; 2]) -> Result<(), Error> {
        self.complete(facts).inspect_err(|_| self.abandon())
    }

    fn abandon(&mut self) {
        self.buffer.clear();
        self.current = None;
    }

    fn finished(&self) -> usize {
        self.finished.len()
    }

    fn flush(&mut self) -> Vec<(AttemptId, Result<(), Error>)> {
        // A burst of long logs is over; its buffer need not stay.
        self.buffer.shrink_to(FRAME_BYTES);
        let mut answers = Vec::with_capacity(self.finished.len());
        let mut renamed: BTreeMap<PathBuf, Vec<AttemptId>> = BTreeMap::new();
        failpoint::hit("log-written");
        for draft in mem::take(&mut self.finished) {
            let to = self.dir.path(draft.attempt);
            match keep(&draft, &to) {
                Ok(dir) => renamed.entry(dir).or_default().push(draft.attempt),
                Err(error) => answers.push((draft.attempt, Err(error))),
            }
        }
        let dirs: BTreeSet<PathBuf> = renamed.keys().cloned().collect();
        for dir in dirs {
            let synced = dir::sync(&dir).map_err(Arc::new);
            for attempt in renamed.remove(&dir).unwrap_or_default() {
                let answer = synced.clone().map_err(Error::Shared);
                answers.push((attempt, answer));
            }
        }
        failpoint::hit("log-kept");
        answers
    }
}

/// Flushes and renames one file; the directory that is to be flushed.
fn keep(draft: &Draft, to: &Path) -> Result<PathBuf, Error> {
    draft.file.get_ref().sync_all().map_err(io("flush", &draft.part.0))?;
    let dir = to.parent().unwrap_or(to).to_owned();
    dir::make(&dir)?;
    fs::rename(&draft.part.0, to).map_err(io("rename", &draft.part.0))?;
    Ok(dir)
}
