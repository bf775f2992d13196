//! The write-ahead log, at its full size from the start.
//!
//! A commit that lengthens the file flushes its new length besides its content: on a journalling file system two flushes of the device,
//! measured 0.65 ms, where one that overwrites costs one, 0.24 ms. SQLite begins the log anew after each checkpoint and never shortens
//! it while it is open, so only the first thousand pages of each agent are slow; they are also all that a sidecar with little to do
//! ever writes.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// Name of the log inside the data directory.
pub(super) const FILE: &str = "ledger.db-wal";
/// Pages at which SQLite checkpoints (`wal_autocheckpoint`), after the commit that reaches them, and that commit's own.
const PAGES: u64 = 1000 + 100;
/// A page and the head of its frame.
const FRAME_BYTES: u64 = 4096 + 24;
/// Length of the whole log; the first 32 bytes are its head.
const BYTES: u64 = 32 + PAGES * FRAME_BYTES;
/// Free bytes without which it is left to grow as it must: it takes nothing from tasks that they would miss.
const FREE_BYTES: u64 = 16 * BYTES;

/// Lengthens the log of an open ledger. Where that fails, commits are slower and nothing else: what is behind the last valid frame,
/// SQLite takes for the leavings of an earlier round.
pub(super) fn grow(data_dir: &Path) {
    let path = data_dir.join(FILE);
    if let Err(error) = lengthen(&path, data_dir) {
        tracing::debug!(%error, path = %path.display(), "the ledger's log is left as short as it is");
    }
}

fn lengthen(path: &Path, data_dir: &Path) -> io::Result<()> {
    // SQLite's locks are on other files; closing this one releases none of them.
    let mut file = File::options().write(true).open(path)?;
    let length = file.seek(SeekFrom::End(0))?;
    let disk = rustix::fs::statvfs(data_dir)?;
    if length >= BYTES || disk.f_bavail.saturating_mul(disk.f_frsize) < FREE_BYTES {
        return Ok(());
    }
    // Written, because blocks that are only allocated cost a second flush at their first write, too.
    let grown = io::copy(&mut io::repeat(0).take(BYTES - length), &mut file).and_then(|_| file.sync_all());
    if grown.is_err() {
        file.set_len(length)?;
    }
    grown
}
