//! One log file read by offset, over the hole that rotation leaves.

use bytes::Bytes;
use proto::bounds::LOG_CHUNK_BYTES;
use rustix::{
    fs::{SeekFrom, seek},
    io::{Errno, pread},
};
use std::{fs, io, path::PathBuf, sync::Arc};

/// Bytes of a log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Of the first byte.
    pub(super) offset: u64,
    /// 1 to [`LOG_CHUNK_BYTES`].
    pub(super) data: Bytes,
}

/// A position in a log file, which may not exist yet.
#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    file: Option<Arc<fs::File>>,
    offset: u64,
    /// No byte from here on is read.
    limit: u64,
}

impl Reader {
    pub(super) const fn new(path: PathBuf, offset: u64, limit: u64) -> Self {
        Self { path, file: None, offset, limit }
    }

    /// The next bytes, from `base` at least; `None` at the end of what is there. Reads off the runtime's thread: a slow disk
    /// must not hold up the agent.
    pub(super) async fn next(&mut self, base: u64) -> io::Result<Option<Chunk>> {
        self.offset = self.offset.max(base);
        let (path, file, offset, limit) = (self.path.clone(), self.file.clone(), self.offset, self.limit);
        let read = move || -> io::Result<(Option<Arc<fs::File>>, Option<Chunk>)> {
            let file = match file {
                Some(file) => file,
                None => match fs::File::open(&path) {
                    Ok(file) => Arc::new(file),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((None, None)),
                    Err(error) => return Err(error),
                },
            };
            let chunk = read_at(&file, offset, limit)?;
            Ok((Some(file), chunk))
        };
        let (file, chunk) = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??;
        self.file = file;
        if let Some(chunk) = &chunk {
            self.offset = chunk.offset + chunk.data.len() as u64;
        }
        Ok(chunk)
    }
}

fn read_at(file: &fs::File, mut offset: u64, limit: u64) -> io::Result<Option<Chunk>> {
    loop {
        offset = offset.max(hole_at_head(file)?);
        let room = limit.saturating_sub(offset).min(LOG_CHUNK_BYTES as u64) as usize;
        let mut buffer = vec![0; room];
        let length = if room == 0 { 0 } else { pread(file, &mut buffer, offset)? };
        if length == 0 {
            return Ok(None);
        }
        // Rotation may have punched what was just read, and freed bytes read as zeros that were never written.
        if hole_at_head(file)? <= offset {
            buffer.truncate(length);
            return Ok(Some(Chunk { offset, data: buffer.into() }));
        }
    }
}

/// Where the file's bytes begin. Only the hole at the head is rotation's; a hole further on would be the task's own zeros.
fn hole_at_head(file: &fs::File) -> io::Result<u64> {
    match seek(file, SeekFrom::Data(0)) {
        Ok(offset) => Ok(offset),
        // Nothing but a hole, or nothing at all: all of it is freed. Its end is where bytes will come.
        Err(Errno::NXIO) => Ok(file.metadata()?.len()),
        // A file system without holes has never freed any.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(0),
        Err(error) => Err(error.into()),
    }
}
