//! The record of an attempt: one append-only file, `attempts/<name>/record`, the truth about its process.
//!
//! ```text
//! spec ──▶ spawned ──▶ (trimmed …) ──▶ exit ──▶ (swept)        written by the monitor, which holds the file locked
//!   └──────────┴───────────────▶ lost | exit (fenced)           written by a keeper that found the lock released
//! ```
//!
//! A keeper that ends a monitor at the end of the lease says so before, in a file beside the record ([`condemn`]): so whoever finds the
//! lock released knows that the attempt was fenced, and not lost.
//!
//! A frame is `u32` length, `u32` CRC-32 of what follows, a kind byte and a body. A torn last frame counts as absent. No frame
//! is fsynced: a record must survive the death of any process, and after a power loss the attempt is lost anyway.

mod file;

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::codec;
use crate::sys;
use crate::wire::{End, ListedState, ProcessId, Spec};

pub use file::{Writer, condemn, is_condemned, mark_fenced, mark_lost, mark_swept};

/// Name of the record inside an attempt's directory.
pub const FILE: &str = "record";
/// Name of the mark beside it: its keeper ends its monitor, for the lease is over.
const CONDEMNED: &str = "fenced";
/// Name of the directory of attempts inside the data directory.
pub const ATTEMPTS: &str = "attempts";
/// Name of the directory inside the data directory where an agent puts directories of attempts together before their start.
pub const PREPARED: &str = "prepared";

/// Longest frame: a spec is at most a wire frame; the rest is a few hundred bytes.
const MAX_FRAME: usize = crate::wire::MAX_FRAME_BYTES + 4096;

const SPEC: u8 = 1;
const SPAWNED: u8 = 2;
const TRIMMED: u8 = 3;
const EXIT: u8 = 4;
const SWEPT: u8 = 5;
const LOST: u8 = 6;

/// Why a record cannot be read.
#[derive(Debug)]
pub enum Error {
    /// The file cannot be opened, read or written.
    File {
        /// The record.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A whole frame, checksum right, holds something else than its kind says: another version wrote it.
    Frame {
        /// The record.
        path: PathBuf,
        /// Kind byte of the frame.
        kind: u8,
        /// What is wrong with it.
        source: codec::Error,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, source } => write!(out, "record {}: {source}", path.display()),
            Self::Frame { path, kind, source } => {
                write!(out, "record {}: frame of kind {kind}: {source}", path.display())
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File { source, .. } => Some(source),
            Self::Frame { source, .. } => Some(source),
        }
    }
}

/// Who holds an attempt; part of the `spec` frame, so that a keeper can end what is left even if nothing else was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The monitor.
    pub monitor: ProcessId,
    /// The monitor's cgroup (v2), absolute; empty if it has none. Everything it spawned is in there.
    pub cgroup: String,
}

/// Which directory an attempt was made in. A directory that is moved stays the same; a copy of it is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Home {
    /// Device of its file system.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// When it was made, nanoseconds: numbers are given again. 0 where the file system does not tell.
    pub born_ns: u64,
}

impl Home {
    /// Of what is found at a path, or through a descriptor.
    #[must_use]
    pub fn of(found: &Metadata) -> Self {
        let since = found.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let born_ns = since.and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or(0);
        Self { device: found.dev(), inode: found.ino(), born_ns }
    }
}

impl fmt::Display for Home {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}:{}", self.device, self.inode, self.born_ns)
    }
}

/// What a record says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// What was to be run.
    pub spec: Option<Spec>,
    /// Who ran it.
    pub holder: Option<Holder>,
    /// Where it was made; records of earlier builds do not tell.
    pub home: Option<Home>,
    /// The user's process.
    pub spawned: Option<ProcessId>,
    /// Init of the attempt's own pid namespace, if it has one: with it everything in there ends.
    pub init: Option<ProcessId>,
    /// How it ended.
    pub end: Option<End>,
    /// Nothing of it is left; only then is the end final.
    pub swept: bool,
    /// A keeper found the lock released without an end.
    pub lost: bool,
    /// Bytes before these offsets of `out` and `err` were dropped.
    pub bases: (u64, u64),
    /// Length of what was read well; beyond it lies a torn frame, a damaged one or nothing.
    pub valid_bytes: u64,
    /// What lies there is no torn frame: no write that was cut short leaves it. It is not believed, nor what follows it.
    pub damaged: bool,
}

impl Record {
    /// The state as a listing gives it. An end that is not swept yet is not told: something may still run.
    pub fn state(&self) -> ListedState {
        match (&self.end, &self.spawned) {
            (Some(end), _) if self.swept => ListedState::Ended(end.clone()),
            _ if self.lost => ListedState::Lost,
            (_, Some(process)) => ListedState::Running(process.clone()),
            _ => ListedState::Starting,
        }
    }

    /// Whether it was made in another directory than the one it is found in: that one is a copy, whoever is named here may be alive and
    /// well in the service of the first, and nothing of it is ours.
    pub fn is_copied_to(&self, attempt_dir: &Path) -> bool {
        let Some(home) = self.home else { return false };
        std::fs::metadata(attempt_dir).is_ok_and(|found| Home::of(&found) != home)
    }

    /// The end knows the last trim, which has no frame of its own.
    fn set_end(&mut self, end: End) {
        self.bases = (end.out_base, end.err_base);
        self.end = Some(end);
    }

    /// No further frame will come.
    pub fn is_final(&self) -> bool {
        self.lost || (self.end.is_some() && self.swept)
    }
}

/// Reads the record in an attempt's directory, live or ended.
///
/// # Errors
/// See [`Error`]; a record that is absent or empty is `File` with `NotFound`, or an empty [`Record`].
pub fn read(attempt_dir: &Path) -> Result<Record, Error> {
    let path = attempt_dir.join(FILE);
    let file = File::open(&path).map_err(|source| Error::File { path: path.clone(), source })?;
    read_from(&file, &path)
}

/// Whether a monitor holds the record in an attempt's directory.
///
/// # Errors
/// The file cannot be opened or asked.
pub fn is_locked(attempt_dir: &Path) -> Result<bool, Error> {
    let path = attempt_dir.join(FILE);
    let file = File::options().read(true).write(true).open(&path);
    file.and_then(|file| sys::is_locked(file.as_fd())).map_err(|source| Error::File { path, source })
}

/// Removes an ended attempt's directory. It is first renamed to a dot name, so that no keeper mistakes a half-removed directory
/// for an attempt whose monitor died before its record. Absent is success.
///
/// # Errors
/// The rename or the removal failed; calling again goes on.
pub fn purge(data_dir: &Path, name: &str) -> io::Result<()> {
    let attempts = data_dir.join(ATTEMPTS);
    let gone = attempts.join(format!(".gone-{name}"));
    let absent_is_fine = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    let aside = || std::fs::rename(attempts.join(name), &gone);
    absent_is_fine(match aside() {
        // An earlier try was cut short.
        Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => {
            std::fs::remove_dir_all(&gone).and_then(|()| aside())
        }
        other => other,
    })?;
    // What nearly every attempt consists of once it is retired: to remove it by name spares reading the directory.
    for file in [FILE, "out", "err"] {
        let _absent = std::fs::remove_file(gone.join(file));
    }
    let removed = std::fs::remove_dir(&gone).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => std::fs::remove_dir_all(&gone),
    });
    absent_is_fine(removed)
}

/// Whether a name may be an attempt: `[A-Za-z0-9._-]{1,100}`, not starting with a dot.
pub fn is_name(name: &str) -> bool {
    (1..=crate::wire::MAX_NAME_BYTES).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

fn read_from(file: &File, path: &Path) -> Result<Record, Error> {
    let mut record = Record::default();
    let mut reader = BufReader::new(file);
    let mut content = Vec::new();
    loop {
        match next_frame(&mut reader, &mut content) {
            Ok(Next::Frame) => {}
            Ok(Next::End) => return Ok(record),
            Ok(Next::Damaged) => return Ok(Record { damaged: true, ..record }),
            Err(source) => return Err(Error::File { path: path.to_owned(), source }),
        }
        let (kind, body) = (content[0], &content[1..]);
        apply(&mut record, kind, body).map_err(|source| Error::Frame { path: path.to_owned(), kind, source })?;
        record.valid_bytes += (8 + content.len()) as u64;
    }
}

/// What stands where a frame may begin.
enum Next {
    Frame,
    /// Nothing, or the beginning of a frame whose write was cut short.
    End,
    /// Bytes that no monitor wrote.
    Damaged,
}

/// Reads one frame's kind and body into `content`.
fn next_frame(reader: &mut impl Read, content: &mut Vec<u8>) -> io::Result<Next> {
    let mut head = [0u8; 8];
    match reader.read_exact(&mut head) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Next::End),
        other => other?,
    }
    let [length, crc] =
        [[head[0], head[1], head[2], head[3]], [head[4], head[5], head[6], head[7]]].map(u32::from_le_bytes);
    if length == 0 || length as usize > MAX_FRAME {
        return Ok(Next::Damaged);
    }
    content.clear();
    reader.by_ref().take(u64::from(length)).read_to_end(content)?;
    Ok(match content.len() == length as usize {
        false => Next::End,
        true if crc32(content) == crc => Next::Frame,
        true => Next::Damaged,
    })
}

fn apply(record: &mut Record, kind: u8, body: &[u8]) -> Result<(), codec::Error> {
    let mut fields = codec::Fields::new(body);
    match kind {
        SPEC => {
            let monitor = codec::decode_process(fields.bytes()?)?;
            record.holder = Some(Holder { monitor, cgroup: fields.text()? });
            record.spec = Some(codec::decode_spec(fields.bytes()?)?);
            if !fields.is_empty() {
                record.home = Some(Home { device: fields.u64()?, inode: fields.u64()?, born_ns: fields.u64()? });
            }
        }
        SPAWNED => {
            record.spawned = Some(codec::decode_process(fields.bytes()?)?);
            record.init = fields.option("init", |fields| codec::decode_process(fields.bytes()?))?;
        }
        TRIMMED => record.bases = (fields.u64()?, fields.u64()?),
        EXIT => {
            record.swept = fields.bool("swept")?;
            record.set_end(codec::decode_end(fields.bytes()?)?);
        }
        // A later `swept` repeats the end, whose log sizes are final only now.
        SWEPT => {
            record.swept = true;
            record.set_end(codec::decode_end(fields.bytes()?)?);
        }
        LOST => record.lost = true,
        value => return Err(codec::Error::Value { field: "kind", value }),
    }
    fields.end()
}

/// CRC-32 (IEEE 802.3), a byte at a time: records are short.
#[must_use]
pub fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    !bytes.iter().fold(!0u32, |crc, byte| (crc >> 8) ^ TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize])
}

const fn table() -> [u32; 256] {
    let mut table = [0u32; 256];
    let mut at = 0;
    while at < 256 {
        let mut value = at as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ 0xedb8_8320 } else { value >> 1 };
            bit += 1;
        }
        table[at] = value;
        at += 1;
    }
    table
}

#[cfg(test)]
mod tests;
