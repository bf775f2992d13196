//! What SQLite refused, and what to do about it, for the one who reads the agent's last line.

use rusqlite::{Error, ErrorCode};

/// Why, once: SQLite's own sentence names the file again.
pub(super) fn cause(source: &Error) -> String {
    match source.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "no space is left on its disk".to_owned(),
        Some(ErrorCode::CannotOpen) => "it cannot be opened by this user, or is no file".to_owned(),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => "this user may not write it".to_owned(),
        Some(ErrorCode::NotADatabase) => "it is no database".to_owned(),
        Some(ErrorCode::DatabaseCorrupt) => "it is damaged".to_owned(),
        _ => source.to_string(),
    }
}

/// What helps against that cause, and not against another.
pub(super) fn remedy(source: &Error) -> &'static str {
    match source.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "make room and start the sidecar again; what runs here runs on",
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            "start the sidecar as the user who owns its data directory, or give another directory with --data"
        }
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            "nothing was changed. Move it and what begins with its name away: the next agent finds in the records what runs here"
        }
        _ => "look at its disk and start the sidecar again; what runs here runs on",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::ffi;

    #[test]
    fn each_cause_has_its_own_remedy() {
        let of = |code| Error::SqliteFailure(ffi::Error::new(code), Some("unable to open database file: /x".into()));
        for (code, why, what) in [
            (ffi::SQLITE_FULL, "no space", "make room"),
            (ffi::SQLITE_CANTOPEN, "cannot be opened", "--data"),
            (ffi::SQLITE_READONLY, "may not write", "--data"),
            (ffi::SQLITE_NOTADB, "no database", "Move it"),
            (ffi::SQLITE_CORRUPT, "damaged", "Move it"),
        ] {
            let (cause, remedy) = (cause(&of(code)), remedy(&of(code)));
            assert!(cause.contains(why) && remedy.contains(what) && !cause.contains("/x"), "{cause}; {remedy}");
        }
        assert!(remedy(&of(ffi::SQLITE_IOERR)).contains("look at its disk"));
    }
}
