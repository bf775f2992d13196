//! What the database's file says without its log, and whether the two belong together.
//!
//! SQLite lays a log over a file without asking whether it is *that* file's: an older `informer.db` put back under a newer log, a newer one
//! under an older log, or another database under either, start as a mixture of pages of two times. Four things that every sound pair has
//! tell such a pair:
//!
//! ```text
//!   meta in the log's last commit:   lineage, moved ≤ ……………………………… ≤ reached
//!                                       ║       │                        │
//!   meta in the file alone:          lineage    └──────≤ reached ≤───────┘
//! ```
//!
//! - **One lineage.** It is made with the database and never changes.
//! - **The file has what the log begins after.** A log begins anew only when all of it is in the file and the file is flushed. The
//!   writer, which alone moves the log, learns that moment, and its next commit, the first of the new log at the earliest, says so
//!   (`moved`). A file below it is an older one, whose missing pages are in no log.
//! - **The file has nothing that the log has not reached.** SQLite flushes a log before it moves any of it.
//! - **A file that says that it has no log is the one that the log began after**, exactly. Between its claim and the first move, which
//!   follows at once, the file still says so, and ends where the claim found it. A backup says so, too, of a moment within the log; its
//!   pages lie elsewhere, so the log would destroy it. Its epoch is its own, so it never ends where a log begins.
//!
//! None of the four can refuse a sound store, whatever was cut off when:
//!
//! - `moved` is only ever raised to what a flush has put into the file: after a move that SQLite told to be whole (it flushes the file
//!   before it tells), and at a start to what the file was found to hold, once it is flushed. The flush comes before the commit that
//!   names it, so no power cut can keep the latter and lose the former. A value that was not raised in time is lower, which allows more.
//! - A move that was cut by a kill or a power cut has written some of its pages. That of `meta` is then the one before or the one after,
//!   both within the bounds; it is one row, in the last sector of its page, so it is not torn; and a file that cannot be read alone (its
//!   other pages are of two moments) says nothing here.
//! - A log whose new head was written and no frame yet, one that is all zeros, and one that is not there say nothing: the file then is all
//!   there is, and it is compared with itself.
//! - A database that an earlier version wrote has no `moved`: it counts as zero. The other two held for it, too.
//!
//! A file may also lie there *without* a log that it had (`cp informer.db` and nothing else): as a rule not a mixture, but whatever was
//! in the log is gone, all of it if nothing had been moved yet. Such a file says `logged`, which an informer sets before its first commit
//! and takes back when it ends in order. SQLite removes a log only when all of it is in the file, so somebody who looked at the
//! database of a killed informer by other means may leave a whole one that says `logged`; then the witness still says that nothing is missing.

use super::fault::refused;
use super::meta::{self, Meta};
use crate::store::Error;
use rusqlite::{Connection, OpenFlags};
use std::fs::{self, File};
use std::path::Path;

/// Reads what the file says without its log, after putting it on the disk: what is built on it must not be gone after a power cut. `None`
/// if it says nothing by itself.
///
/// Closing a file ends every lock that this process has on it, and with it the safety of SQLite's connections; so this is done before any
/// is opened.
///
/// # Errors
/// The file cannot be flushed.
pub(super) fn read(path: &Path) -> Result<Option<Meta>, Error> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|source| refused("flush", path, source))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // Immutable: neither log nor locks are looked at or made.
    let file = Connection::open_with_flags(format!("file:{}?immutable=1", escaped(path)), flags);
    Ok(file.ok().and_then(|db| meta::read(&db)))
}

/// A path within a URI.
fn escaped(path: &Path) -> String {
    use std::fmt::Write as _;
    use std::os::unix::ffi::OsStrExt as _;
    let mut uri = String::new();
    for byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.".contains(byte) {
            uri.push(char::from(*byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    uri
}

/// Whether there is a log with anything in it.
pub(super) fn has_log(path: &Path) -> bool {
    fs::metadata(super::log::of(path)).is_ok_and(|log| log.len() > 0)
}

/// Whether the file is that of its log; `both` is what they say together.
///
/// # Errors
/// [`Error::Mixed`].
pub(super) fn judge(file: &Meta, both: &Meta, path: &Path) -> Result<(), Error> {
    let why = if file.lineage != both.lineage {
        "the log is that of another database".to_owned()
    } else if file.reached.lacks(both.moved) {
        format!(
            "the file ends at {}, and the log begins after {}: the file is older than the log",
            file.reached, both.moved
        )
    } else if both.reached.lacks(file.reached) {
        format!(
            "the log ends at {}, and the file has {}: the log is older than the file, or has lost its end",
            both.reached, file.reached
        )
    } else if both.logged && !file.logged && file.reached != both.moved {
        format!(
            "the file is a copy that has no log of its own and ends at {}, and the log begins after {}",
            file.reached, both.moved
        )
    } else {
        return Ok(());
    };
    Err(Error::Mixed { path: path.to_owned(), log: super::log::of(path), why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_path_is_one_in_a_uri() {
        assert_eq!(escaped(Path::new("/a b/c?d#e%f/ü.db")), "/a%20b/c%3Fd%23e%25f/%C3%BC.db");
    }
}
