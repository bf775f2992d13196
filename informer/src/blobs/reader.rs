//! One kept log, read from any offset.

use super::dir::io;
use super::format::{FRAME_BYTES, Index, Stream, TRAILER_BYTES, index_bytes};
use super::{Error, Facts, Log};
use bytes::Bytes;
use proto::v1::LogStream;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// An open file and its index.
pub(super) struct Reader {
    file: File,
    path: PathBuf,
    index: Index,
    /// The frame that was unpacked last, by its position in the file: who reads on reads from it again.
    unpacked: Option<(u64, Bytes)>,
}

impl Reader {
    /// `None` if there is no such file.
    pub(super) fn open(path: PathBuf) -> Result<Option<Self>, Error> {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io("open", &path)(error)),
        };
        let index = read_index(&file, &path)?;
        Ok(Some(Self { file, path, index, unpacked: None }))
    }

    fn stream(&self, stream: LogStream) -> &Stream {
        if stream == LogStream::Err { &self.index.err } else { &self.index.out }
    }

    /// Position and length of a frame in the file, and its length unpacked.
    fn frame(&self, stream: LogStream, number: usize) -> Option<(u64, usize, usize)> {
        let before: u64 = if stream == LogStream::Err { sum(&self.index.out.frames) } else { 0 };
        let of = self.stream(stream);
        let packed = *of.frames.get(number)? as usize;
        let position = before + sum(&of.frames[..number]);
        let left = of.kept - (number * FRAME_BYTES) as u64;
        Some((position, packed, usize::try_from(left).unwrap_or(usize::MAX).min(FRAME_BYTES)))
    }

    fn unpack(&mut self, position: u64, packed: usize, length: usize) -> Result<Bytes, Error> {
        if let Some((_, bytes)) = self.unpacked.as_ref().filter(|(at, _)| *at == position) {
            return Ok(bytes.clone());
        }
        let mut frame = vec![0; packed];
        self.file.read_exact_at(&mut frame, position).map_err(io("read", &self.path))?;
        let damaged = |what: String| Error::Damaged { path: self.path.clone(), what };
        let bytes = zstd::bulk::decompress(&frame, length).map_err(|error| damaged(error.to_string()))?;
        if bytes.len() != length {
            return Err(damaged(format!("a frame has {} bytes instead of {length}", bytes.len())));
        }
        let bytes = Bytes::from(bytes);
        self.unpacked = Some((position, bytes.clone()));
        Ok(bytes)
    }
}

impl Log for Reader {
    fn facts(&self, stream: LogStream) -> (Facts, u64) {
        let of = self.stream(stream);
        (Facts { dropped: of.dropped, truncated: of.truncated }, of.dropped + of.kept)
    }

    fn read(&mut self, stream: LogStream, offset: u64) -> Result<Option<(u64, Bytes)>, Error> {
        let dropped = self.stream(stream).dropped;
        let within = offset.saturating_sub(dropped);
        let number = usize::try_from(within / FRAME_BYTES as u64).unwrap_or(usize::MAX);
        let Some((position, packed, length)) = self.frame(stream, number) else { return Ok(None) };
        let start = (within % FRAME_BYTES as u64) as usize;
        if start >= length {
            return Ok(None);
        }
        let bytes = self.unpack(position, packed, length)?;
        Ok(Some((dropped + within, bytes.slice(start..))))
    }
}

fn sum(lengths: &[u32]) -> u64 {
    lengths.iter().map(|length| u64::from(*length)).sum()
}

fn read_index(file: &File, path: &Path) -> Result<Index, Error> {
    let damaged = |what: String| Error::Damaged { path: path.to_owned(), what };
    let length = file.metadata().map_err(io("read", path))?.len();
    let too_short = || damaged(format!("it has only {length} bytes"));
    let end = length.checked_sub(TRAILER_BYTES as u64).ok_or_else(too_short)?;
    let mut trailer = [0; TRAILER_BYTES];
    file.read_exact_at(&mut trailer, end).map_err(io("read", path))?;
    let bytes = index_bytes(&trailer).map_err(damaged)?;
    let start = end.checked_sub(bytes as u64).ok_or_else(too_short)?;
    let mut index = vec![0; bytes];
    file.read_exact_at(&mut index, start).map_err(io("read", path))?;
    Index::decoded(&index, &trailer, start).map_err(damaged)
}
