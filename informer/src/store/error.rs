//! Why a store could not be opened, read or written, for the one who must act.

use super::Reached;
use crate::machine::PayloadHandle;
use proto::id::TaskId;
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
    /// The data directory cannot be made or written.
    #[error("cannot use the data directory {}: {source}; make it writable for this user, or choose another with --data", path.display())]
    Directory {
        /// The directory or the file in it.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is there and is no SQLite database.
    #[error("{} is not a database; it was left as it is: move it away, or restore a backup", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// A database of another program.
    #[error("{} is a database, but not an informer's (application id {found:#010x}); choose another --data", path.display())]
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
    #[error("{} is damaged: {detail}; nothing was changed: keep a copy, and restore a backup", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// Commits that were acknowledged are not in the database.
    #[error("{}; nothing was changed: put the missing file back, or restore a backup. {}", lost(path, *found, *acknowledged), meant(witness, *found))]
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
    /// No space left.
    #[error("no space left for {} while trying to {doing}; free some and start again", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        doing: &'static str,
    },
    /// Any other failure of SQLite.
    #[error("cannot {doing} {}: {source}", path.display())]
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
    /// The payload of a committed task is missing or unreadable.
    #[error("the payload {} of task {task} is {}; keep a copy of the store, and restore a backup", hex(hash), if *found { "damaged" } else { "missing" })]
    Payload {
        /// The task.
        task: TaskId,
        /// Its SHA-256.
        hash: PayloadHandle,
        /// It is there, but no `TaskSpec`.
        found: bool,
    },
    /// The item of a committed array's member is missing.
    #[error("item {position} of task {task} is missing; keep a copy of the store, and restore a backup")]
    Item {
        /// The member.
        task: TaskId,
        /// Its position, from 0.
        position: u32,
    },
    /// A commit failed before; nothing is written any more.
    #[error("the store takes nothing since a commit failed ({0}); restart the informer")]
    Poisoned(String),
    /// A fault that a test injected.
    #[error("injected: {0}")]
    Injected(&'static str),
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
