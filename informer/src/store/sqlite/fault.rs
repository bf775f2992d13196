//! From SQLite's codes to what someone must do about them.

use crate::store::Error;
use rusqlite::ErrorCode;
use std::path::Path;

/// Says what was attempted, on which file, and the cause.
pub(super) fn explain(doing: &'static str, path: &Path, source: rusqlite::Error) -> Error {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => Error::NotADatabase { path },
        Some(ErrorCode::DatabaseCorrupt) => Error::Corrupt { path, detail: source.to_string() },
        Some(ErrorCode::DiskFull) => Error::Full { path, doing },
        Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly | ErrorCode::CannotOpen) => {
            Error::Directory { path, source: std::io::Error::other(source) }
        }
        _ => Error::Sqlite { doing, path, source },
    }
}

/// The same for what the file system says.
pub(super) fn refused(path: &Path, source: std::io::Error) -> Error {
    let path = path.to_owned();
    match source.kind() {
        std::io::ErrorKind::StorageFull => Error::Full { path, doing: "open the store" },
        _ => Error::Directory { path, source },
    }
}

/// A row that is there and cannot be read.
pub(super) fn damaged(path: &Path, what: &str, why: impl std::fmt::Display) -> Error {
    Error::Corrupt { path: path.to_owned(), detail: format!("{what}: {why}") }
}
