//! Writing a record.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, openat};

use super::{
    CONDEMNED, EXIT, Error, FILE, Holder, Home, LOST, Record, SPAWNED, SPEC, SWEPT, TRIMMED, crc32, read_from,
};
use crate::codec;
use crate::sys;
use crate::wire::{End, EndReason, ProcessId};

/// An open record, locked by its monitor for as long as it lives.
#[derive(Debug)]
pub struct Writer {
    file: File,
}

impl Writer {
    /// Creates the record exclusively in an attempt's directory, locks it and writes the `spec` frame from its encoded bytes.
    ///
    /// # Errors
    /// `AlreadyExists` if a keeper declared the attempt lost meanwhile; else what the calls say.
    pub fn create(dir: BorrowedFd<'_>, holder: &Holder, spec: &[u8]) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::APPEND | OFlags::CLOEXEC;
        let file = File::from(openat(dir, FILE, flags, Mode::RUSR | Mode::WUSR)?);
        sys::lock(file.as_fd(), true)?;
        // Between creation and lock a keeper may have taken the file for an orphan's and marked it.
        if file.metadata()?.len() != 0 {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        let mut body = codec::Writer::tagged(SPEC);
        body.bytes(&codec::encode_process(&holder.monitor));
        body.text(&holder.cgroup);
        body.bytes(spec);
        let home = Home::of(&File::from(dir.try_clone_to_owned()?).metadata()?);
        [home.device, home.inode, home.born_ns].into_iter().for_each(|part| body.u64(part));
        let writer = Self { file };
        append(&writer.file, &body.done())?;
        Ok(writer)
    }

    /// Appends the `spawned` frame.
    ///
    /// # Errors
    /// What write says.
    pub fn spawned(&self, process: &ProcessId, init: Option<&ProcessId>) -> io::Result<()> {
        let mut body = codec::Writer::tagged(SPAWNED);
        body.bytes(&codec::encode_process(process));
        body.option(init, |body, init| body.bytes(&codec::encode_process(init)));
        append(&self.file, &body.done())
    }

    /// Appends a `trimmed` frame: the first offsets still kept of `out` and `err`.
    ///
    /// # Errors
    /// What write says.
    pub fn trimmed(&self, bases: (u64, u64)) -> io::Result<()> {
        let mut body = codec::Writer::tagged(TRIMMED);
        body.u64(bases.0);
        body.u64(bases.1);
        append(&self.file, &body.done())
    }

    /// Appends the `exit` frame; `swept` tells that nothing of the attempt was left when the main process ended.
    ///
    /// # Errors
    /// What write says.
    pub fn exit(&self, end: &End, swept: bool) -> io::Result<()> {
        append(&self.file, &exit_frame(end, swept))
    }

    /// Appends the `swept` frame with the end as it is now.
    ///
    /// # Errors
    /// What write says.
    pub fn swept(&self, end: &End) -> io::Result<()> {
        append(&self.file, &swept_frame(end))
    }
}

fn exit_frame(end: &End, swept: bool) -> Vec<u8> {
    let mut body = codec::Writer::tagged(EXIT);
    body.bool(swept);
    body.bytes(&codec::encode_end(end));
    body.done()
}

fn swept_frame(end: &End) -> Vec<u8> {
    let mut body = codec::Writer::tagged(SWEPT);
    body.bytes(&codec::encode_end(end));
    body.done()
}

/// Declares an attempt lost, if nobody holds its record and it has no end. Creates the record if the monitor died before it did.
/// Returns the record as it stands afterwards; None if a monitor holds it.
///
/// # Errors
/// See [`Error`].
pub fn mark_lost(attempt_dir: &Path) -> Result<Option<Record>, Error> {
    amend(attempt_dir, |record| {
        if record.is_final() || record.end.is_some() {
            return None;
        }
        record.lost = true;
        Some(codec::Writer::tagged(LOST).done())
    })
}

/// Says that the monitor of an attempt is now ended because the lease is over. To be called before it is.
///
/// # Errors
/// The mark cannot be made. Then a keeper that dies before [`mark_fenced`] leaves an attempt that counts as lost.
pub fn condemn(attempt_dir: &Path) -> io::Result<()> {
    File::options().write(true).create(true).truncate(false).open(attempt_dir.join(CONDEMNED)).map(drop)
}

/// Whether a keeper has said so.
#[must_use]
pub fn is_condemned(attempt_dir: &Path) -> bool {
    attempt_dir.join(CONDEMNED).exists()
}

/// Declares an attempt fenced whose monitor a keeper has ended at the end of the lease, under the conditions of [`mark_lost`]. How its
/// process ended nobody saw; its logs are what is there.
///
/// # Errors
/// See [`Error`].
pub fn mark_fenced(attempt_dir: &Path) -> Result<Option<Record>, Error> {
    amend(attempt_dir, |record| {
        if record.is_final() || record.end.is_some() {
            return None;
        }
        let bytes = |log: &str| std::fs::metadata(attempt_dir.join(log)).map_or(0, |found| found.len());
        let (started_wall_ms, ended_wall_ms) =
            (record.spawned.as_ref().map_or(0, |process| process.wall_ms), sys::wall_ms());
        let end = End {
            reason: EndReason::Fenced,
            out_bytes: bytes("out"),
            err_bytes: bytes("err"),
            out_base: record.bases.0,
            err_base: record.bases.1,
            started_wall_ms,
            ended_wall_ms,
            // Of a clock that may jump: good enough for people, and nothing is learned from such an end.
            ran_ms: if started_wall_ms > 0 { ended_wall_ms.saturating_sub(started_wall_ms) } else { 0 },
            ..End::default()
        };
        let frame = exit_frame(&end, true);
        record.swept = true;
        record.set_end(end);
        Some(frame)
    })
}

/// Completes an attempt whose monitor recorded the end and died before its sweep was done; the caller has swept.
///
/// # Errors
/// See [`Error`].
pub fn mark_swept(attempt_dir: &Path) -> Result<Option<Record>, Error> {
    amend(attempt_dir, |record| {
        let end = record.end.as_ref().filter(|_| !record.swept)?;
        record.swept = true;
        Some(swept_frame(end))
    })
}

fn amend(attempt_dir: &Path, change: impl FnOnce(&mut Record) -> Option<Vec<u8>>) -> Result<Option<Record>, Error> {
    let path = attempt_dir.join(FILE);
    let failed = |source| Error::File { path: path.clone(), source };
    let mut options = File::options();
    let file = options.read(true).append(true).create(true).open(&path).map_err(failed)?;
    match sys::lock(file.as_fd(), false) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        other => other.map_err(failed)?,
    }
    let mut record = read_from(&file, &path)?;
    if let Some(body) = change(&mut record) {
        // What lies behind the last whole frame is torn; a frame after it would never be found.
        file.set_len(record.valid_bytes).map_err(failed)?;
        append(&file, &body).map_err(failed)?;
    }
    Ok(Some(record))
}

/// One write per frame, so that a kill between two frames leaves whole ones.
fn append(mut file: &File, content: &[u8]) -> io::Result<()> {
    let mut frame = Vec::with_capacity(8 + content.len());
    frame.extend_from_slice(&(content.len() as u32).to_le_bytes());
    frame.extend_from_slice(&crc32(content).to_le_bytes());
    frame.extend_from_slice(content);
    file.write_all(&frame)
}
