//! From SQLite's codes to what someone must do about them.

use crate::store::Error;
use rusqlite::ErrorCode;
use rustix::fs::{Access, access};
use std::io;
use std::path::Path;

/// Says what was attempted, on which file, and the cause.
pub(super) fn explain(doing: &'static str, path: &Path, source: rusqlite::Error) -> Error {
    let cause = match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => return Error::NotADatabase { path: path.to_owned() },
        Some(ErrorCode::DatabaseCorrupt) => {
            return damaged(path, "a page", "SQLite found something in it that it cannot have written");
        }
        Some(ErrorCode::DiskFull) => return Error::Full { path: path.to_owned(), doing },
        Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly | ErrorCode::CannotOpen) => refusal(path, &source),
        _ => return Error::Sqlite { doing, path: path.to_owned(), source },
    };
    Error::File { doing, path: path.to_owned(), source: cause }
}

/// Why a file cannot be opened or written: SQLite does not say. Asked of the file without opening it, for closing it would end the locks of
/// every connection.
fn refusal(path: &Path, source: &rusqlite::Error) -> io::Error {
    let parent = path.parent().unwrap_or(path);
    let refused = access(path, Access::READ_OK | Access::WRITE_OK).and_then(|()| access(parent, Access::WRITE_OK));
    match refused {
        Err(errno) => errno.into(),
        // What the call says about its path is in the message already.
        Ok(()) => io::Error::other(source.sqlite_error().map_or_else(|| source.to_string(), ToString::to_string)),
    }
}

/// The same for what the file system says.
pub(super) fn refused(doing: &'static str, path: &Path, source: io::Error) -> Error {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full { path, doing },
        _ => Error::File { doing, path, source },
    }
}

/// A row that is there and cannot be read.
pub(super) fn damaged(path: &Path, what: &str, why: impl std::fmt::Display) -> Error {
    Error::Corrupt { path: path.to_owned(), detail: format!("{what}: {why}") }
}
