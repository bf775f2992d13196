//! Why a store could not be opened, read or written, for the one who must act.

use super::Reached;
use crate::machine::PayloadHandle;
use proto::id::TaskId;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// What went wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process owns the data directory.
    #[error("the data directory {} is in use by another informer{}; stop that one, or give this one its own --data", path.display(), owner.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The owner, if it left its pid.
        owner: Option<u32>,
    },
    /// The data directory cannot be made.
    #[error("cannot make the data directory {}: {}; name another with --data", path.display(), no_directory(source))]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file in the data directory cannot be made, read or written.
    #[error("cannot {doing} {}: {}; {}", path.display(), plain(source), remedy(source))]
    File {
        /// What was attempted.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is there and is no SQLite database.
    #[error("{} is not a database; nothing was changed: keep a copy of it, and restore a backup, or name another data directory with --data", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// A database of another program.
    #[error("{} is a database, but not an informer's (application id {found:#010x}); name another data directory with --data", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The application id found.
        found: u32,
    },
    /// Written by a newer informer.
    #[error("{} has schema {found}, and this informer knows up to {known}; start the newer informer that wrote it", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest one known.
        known: u32,
    },
    /// Damaged.
    #[error("{} is damaged: {detail}; nothing was repaired or removed: keep a copy of its directory, and restore a backup", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// Commits that were acknowledged are not in the database.
    #[error("{}; nothing was changed: {}, or restore a backup. {}", lost(path, *found, *acknowledged), back(path, *found), meant(witness, *found))]
    Behind {
        /// The database.
        path: PathBuf,
        /// What says so.
        witness: PathBuf,
        /// What the database has; `None`: it is missing.
        found: Option<Reached>,
        /// What it had.
        acknowledged: Reached,
    },
    /// The database and its log are of two times, or of two databases.
    #[error("{} and its log {} do not belong together: {why}; nothing was changed: put the file back that belongs to the other, or restore a whole backup into an emptied directory", path.display(), log.display())]
    Mixed {
        /// The database.
        path: PathBuf,
        /// Its log.
        log: PathBuf,
        /// How that was seen.
        why: String,
    },
    /// The database was copied or left without the log that it had.
    #[error("{} was in use when it was copied, or its informer was killed, and its log {} is not there: whatever came after {found} is missing; nothing was changed: put the log back, or restore a backup. If this file alone is meant, start it once with `serve --accept-restored` if no copy of an exclusive task can run that it does not know", path.display(), log.display())]
    NoLog {
        /// The database.
        path: PathBuf,
        /// Its log.
        log: PathBuf,
        /// What the database has.
        found: Reached,
    },
    /// The database was removed or replaced under a running informer.
    #[error("{} was removed or replaced while this informer ran, and what is committed would be gone with it; nothing that this commit had is acknowledged: put the file back, leave {} beside it as it is, and start the informer again, or restore a whole backup into an emptied directory", path.display(), log.display())]
    Vanished {
        /// The database.
        path: PathBuf,
        /// Its log.
        log: PathBuf,
    },
    /// The same of its log.
    #[error("{} was removed or replaced while this informer ran, and what is committed would be gone with it; nothing that this commit had is acknowledged: {}", log.display(), after_log(path, log, *moved))]
    LogVanished {
        /// The database.
        path: PathBuf,
        /// Its log.
        log: PathBuf,
        /// All that was in it was moved into the database.
        moved: bool,
    },
    /// The database is not there, and its log is.
    #[error("{} is missing, and its log of commits {} is there; nothing was changed: put {} back, or restore a whole backup into an emptied directory", path.display(), log.display(), path.display())]
    Missing {
        /// The database.
        path: PathBuf,
        /// Its log.
        log: PathBuf,
    },
    /// No space left for what every start needs.
    #[error("cannot {doing} {}: no space is left on its disk, and a start needs {} MiB there, for the database and its log of commits; make room and start the informer again; nothing that was acknowledged is lost", path.display(), needs_bytes.div_ceil(1 << 20))]
    NoRoom {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        doing: &'static str,
        /// What a start needs.
        needs_bytes: u64,
    },
    /// No space left for a backup.
    #[error("cannot {doing} {}: no space is left on its disk; make room there, or name another place for the backup; nothing of it stays behind", path.display())]
    FullBackup {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        doing: &'static str,
    },
    /// No space left.
    #[error("cannot {doing} {}: no space is left on its disk; make room and start the informer again; nothing that was acknowledged is lost", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        doing: &'static str,
    },
    /// Any other failure of SQLite.
    #[error("cannot {doing} {}: {source}; look at its disk and start the informer again; nothing that was acknowledged is lost", path.display())]
    Sqlite {
        /// What was attempted.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// A higher epoch was claimed: another informer leads.
    #[error("epoch {ours} was superseded by epoch {claimed}: another informer has taken over this store")]
    Fenced {
        /// The epoch of the refused commit.
        ours: u64,
        /// The epoch in the store.
        claimed: u64,
    },
    /// The commits are not numbered without gaps.
    #[error("commit {given} does not follow commit {last}")]
    OutOfOrder {
        /// Number of the refused commit.
        given: u64,
        /// Number of the last one in the store.
        last: u64,
    },
    /// A row that would take a key from another task.
    #[error("the key of task {task} belongs to another task")]
    KeyTaken {
        /// The task that was to be written.
        task: String,
    },
    /// What a task needs to start is damaged.
    #[error(
        "task {task} cannot be started: {source}. To give only this task up, start the informer while no sidecar runs, and `informer cancel {task}`"
    )]
    Unstartable {
        /// The task.
        task: TaskId,
        /// The damage.
        #[source]
        source: Box<Self>,
    },
    /// The payload of a committed task is missing or unreadable.
    #[error("what task {task} is to run is {} in the store (payload {}), and is not run; restore a backup, or give the task up: start the informer while no sidecar runs, and `informer cancel {task}`", if *found { "damaged" } else { "missing" }, hex(hash))]
    Payload {
        /// The task.
        task: TaskId,
        /// Its SHA-256.
        hash: PayloadHandle,
        /// It is there, but no `TaskSpec`.
        found: bool,
    },
    /// The item of a committed array's member is missing.
    #[error(
        "item {position} of task {task} is missing in the store; restore a backup, or give the task up: start the informer while no sidecar runs, and `informer cancel {task}`"
    )]
    Item {
        /// The member.
        task: TaskId,
        /// Its position, from 0.
        position: u32,
    },
    /// A commit failed before; nothing is written any more.
    #[error("nothing is written since a commit failed: {0}")]
    Poisoned(String),
    /// A fault that a test injected.
    #[error("injected: {0}")]
    Injected(&'static str),
}

/// What the system says, without its number.
fn plain(source: &io::Error) -> String {
    let said = source.to_string();
    let said = said.split(" (os error").next().unwrap_or_default();
    let mut letters = said.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

fn no_directory(source: &io::Error) -> String {
    match source.kind() {
        ErrorKind::AlreadyExists => "a file has this name".to_owned(),
        ErrorKind::NotADirectory => "what should hold it is a file".to_owned(),
        _ => plain(source),
    }
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        ErrorKind::PermissionDenied => {
            "start the informer as the user who owns its data directory, or name another with --data"
        }
        ErrorKind::ReadOnlyFilesystem => "mount it writable, or name another data directory with --data",
        _ => "start the informer again when the cause is gone, or name another data directory with --data",
    }
}

/// What to do when the log is gone.
fn after_log(path: &Path, log: &Path, moved: bool) -> String {
    let (path, log) = (path.display(), log.display());
    if moved {
        format!(
            "all that was in it has been moved into {path}; remove what is called {log} now, if anything is, and start the informer again"
        )
    } else {
        format!(
            "put it back as it was and start the informer again, or restore a whole backup in place of the directory of {path}"
        )
    }
}

/// What is missing.
fn lost(path: &Path, found: Option<Reached>, acknowledged: Reached) -> String {
    let path = path.display();
    match found {
        Some(found) => format!(
            "{path} with its log {path}-wal ends at {found}, and {acknowledged} was acknowledged: what came between was cut off, damaged, or \
             is newer than this file"
        ),
        None => format!("{path} is missing, and {acknowledged} in it was acknowledged"),
    }
}

/// What to put back.
fn back(path: &Path, found: Option<Reached>) -> String {
    let path = path.display();
    match found {
        Some(_) => format!("put {path} and {path}-wal back as they were together"),
        None => format!("put {path} back, and {path}-wal if there was one"),
    }
}

/// What to do if it is missing on purpose.
fn meant(witness: &Path, found: Option<Reached>) -> String {
    let witness = witness.display();
    match found {
        Some(_) => format!(
            "If this file is an older copy on purpose, remove {witness}, or start it once with `serve --accept-restored` if no copy of an \
             exclusive task can run that it does not know"
        ),
        None => format!("To begin anew, remove {witness}"),
    }
}

fn hex(hash: &PayloadHandle) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
