//! The ledger: which attempts this sidecar has, and what of them the informer has not acknowledged.
//!
//! ```text
//! machine ── Batch ──▶ Writer (a thread of its own) ── one transaction, one fsync ──▶ <data>/ledger.db
//!    ▲                        │
//!    └────── committed ◀──────┘
//! ```
//!
//! SQLite with WAL and synchronous=FULL. The record of an attempt is the truth about its process; the ledger is written before an
//! assignment is acknowledged, so that no accepted attempt is forgotten. It is never repaired or reset: what cannot be read is an error
//! that names the file. Who this sidecar is stands beside it, too, in a file of its own (`identity`), so that a sidecar whose ledger is
//! lost stays who it is: then the records tell what runs, and the informer what it knows of that. A full disk is survived: a reserve is
//! released for it, and no new work is taken until it is there again.

mod emit;
mod identity;
mod journal;
mod lock;
mod reserve;
mod schema;
#[cfg(test)]
mod tests;
mod words;
mod writer;

pub use lock::Lock;
pub use writer::{Commit, News, Writer};

use crate::machine::{EmitRow, Facts, LogCopy, Row, RowState};
use identity::Identity;
use prost::Message as _;
use proto::id::{AttemptId, Fence, SidecarId};
use proto::v1;
use reserve::Reserve;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Name of the database inside the data directory.
pub const FILE: &str = "ledger.db";
/// What an agent holds open inside the data directory for as long as it lives: the lock, the database and its journal, which is made
/// by the first write and removed by the last to close it.
pub const FILES: [&str; 3] = [lock::FILE, FILE, journal::FILE];

/// How long a reader (`sidecar status`) and the writer wait for each other. Both are done in milliseconds.
const BUSY: Duration = Duration::from_secs(5);

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data directory cannot be made or written.
    #[error("cannot use the data directory {}: {source}; give another one with --data", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Another agent owns the data directory.
    #[error("the data directory {} belongs to the running sidecar with process id {owner}; stop that one, or give another directory with --data", dir.display())]
    Taken {
        /// The directory.
        dir: PathBuf,
        /// Process id of the owner.
        owner: u32,
    },
    /// SQLite cannot read or write it.
    #[error("cannot use the ledger {}: {}; {}", path.display(), words::cause(source), words::remedy(source))]
    Database {
        /// The file.
        path: PathBuf,
        /// SQLite's answer.
        source: rusqlite::Error,
    },
    /// SQLite reads it and finds it damaged, or a value in it makes no sense.
    #[error("the ledger {} is damaged ({what}); nothing was changed. Move it and what begins with its name away: the next agent finds in the records what runs here", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// The file with the sidecar's id cannot be read or is damaged.
    #[error("cannot use {}, which holds this sidecar's id: {what}; nothing was changed. Put a copy of it back, or move it away: the ledger beside it has the id, too, and only without both the sidecar is a new one", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A newer sidecar wrote it.
    #[error("the ledger {} has schema version {found} and this sidecar knows {known}; run the newer sidecar", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// This build's.
        known: i64,
    },
    /// It is missing where there is a sidecar.
    #[error("the ledger {} is missing, and a sidecar was here; what runs goes on. Start the sidecar: it is the same one if sidecar.id is there, and finds in the records what runs and how it ended", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// There is none.
    #[error("there is no sidecar in {}; `sidecar run --data {}` makes one", dir.display(), dir.display())]
    Absent {
        /// The directory.
        dir: PathBuf,
    },
}

impl Error {
    /// Want of room is all that is wrong.
    fn is_full(&self) -> bool {
        match self {
            Self::Database { source, .. } => is_full(source),
            Self::Directory { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            _ => false,
        }
    }
}

/// What is kept besides attempts.
#[derive(Debug, Clone, PartialEq)]
pub struct Meta {
    /// Made once, and kept beside the ledger as well.
    pub sidecar: SidecarId,
    /// Grows with each start of the agent, durably before anybody hears of it, also if the ledger is lost or an older one.
    pub incarnation: u64,
    /// URL of the informer that was used last.
    pub informer: String,
    /// The highest informer identity seen; an empty lineage: none.
    pub seen: v1::Identity,
    /// The highest fence seen.
    pub highest_fence: Fence,
}

/// One attempt and the assignment it came with.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// What the machine keeps.
    pub row: Row,
    /// The assignment, as it was received; `None` for an adopted attempt whose record had none.
    pub assign: Option<v1::Assign>,
}

/// The open database.
#[derive(Debug)]
pub struct Ledger {
    connection: Connection,
    path: PathBuf,
    reserve: Reserve,
    /// Of [`Commit::seen`] and [`Commit::highest_fence`], what the file holds.
    seen: (v1::Identity, Fence),
}

impl Ledger {
    /// Opens or makes the ledger of a data directory whose [`Lock`] the caller holds, and counts one incarnation up, in the ledger and
    /// beside it. `fresh` is the id of this sidecar if it has none yet.
    ///
    /// # Errors
    /// See [`Error`]; the file is left as it was.
    pub fn open(data_dir: &Path, informer: &str, fresh: SidecarId) -> Result<(Self, Meta, Vec<Entry>), Error> {
        let path = data_dir.join(FILE);
        let mut reserve = Reserve::of(data_dir);
        let mut connection =
            Connection::open(&path).map_err(|source| Error::Database { path: path.clone(), source })?;
        let mut result = set_up(&mut connection, informer, fresh, data_dir);
        if result.as_ref().is_err_and(Error::is_full) && reserve.release() {
            result = set_up(&mut connection, informer, fresh, data_dir);
        }
        let (meta, entries) = result?;
        journal::grow(data_dir);
        let seen = (meta.seen.clone(), meta.highest_fence);
        Ok((Self { connection, path, reserve, seen }, meta, entries))
    }

    /// Reads without changing anything and without the lock.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn peek(data_dir: &Path) -> Result<(Meta, Vec<Entry>), Error> {
        let path = data_dir.join(FILE);
        if !path.exists() {
            let was_here = [identity::FILE, lock::FILE, keeper::record::ATTEMPTS];
            return Err(match was_here.iter().any(|name| data_dir.join(name).exists()) {
                true => Error::Missing { path },
                false => Error::Absent { dir: data_dir.to_owned() },
            });
        }
        let unusable = |source| Error::Database { path: path.clone(), source };
        let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(unusable)?;
        connection.busy_timeout(BUSY).map_err(unusable)?;
        schema::version(&connection, &path)?;
        let meta = read_meta(&connection, &path)?.ok_or_else(|| Error::Absent { dir: data_dir.to_owned() })?;
        Ok((meta, read_entries(&connection, &path)?))
    }

    /// The emits that the informer has not answered, in their order.
    ///
    /// # Errors
    /// See [`Error`]; the file is left as it was.
    pub fn emits(&self) -> Result<Vec<EmitRow>, Error> {
        emit::read(&self.connection, &self.path)
    }

    /// Commits one batch: when this returns, it is on the disk.
    ///
    /// # Errors
    /// [`Error::Database`]; whether the batch is durable is then unknown, and the agent must end and read again.
    pub fn commit(&mut self, commit: &Commit) -> Result<(), Error> {
        let mut written = self.write(commit);
        // Unlike after a failed fsync it is known what is on the disk: SQLite has rolled back, so the batch may be written again.
        if written.as_ref().is_err_and(is_full) && self.reserve.release() {
            written = self.write(commit);
        }
        written.map_err(|source| Error::Database { path: self.path.clone(), source })
    }

    /// Whether the reserve is there, so that more work may be taken.
    #[must_use]
    pub const fn has_room(&self) -> bool {
        self.reserve.is_held()
    }

    /// Makes the reserve again if the disk has room.
    pub fn restore(&mut self) {
        self.reserve.restore();
    }

    fn write(&mut self, commit: &Commit) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        for row in &commit.batch.rows {
            let assign = commit.assigns.iter().find(|(attempt, _)| *attempt == row.attempt).map(|(_, body)| &body[..]);
            write_row(&transaction, row, assign)?;
        }
        for attempt in &commit.batch.deletes {
            transaction.prepare_cached("DELETE FROM attempts WHERE attempt = ?1")?.execute([attempt.to_string()])?;
        }
        emit::write(&transaction, &commit.batch)?;
        // Most commits leave it as it is, and a row that is not written is a page less to flush.
        let seen = (commit.seen.clone(), commit.highest_fence);
        if self.seen != seen {
            transaction
                .prepare_cached(
                    "UPDATE meta SET lineage = ?1, epoch = ?2, commit_seq = ?3, fence_epoch = ?4, fence_n = ?5",
                )?
                .execute(params![
                    commit.seen.lineage,
                    stored(commit.seen.epoch),
                    stored(commit.seen.commit_seq),
                    stored(commit.highest_fence.epoch),
                    stored(commit.highest_fence.n)
                ])?;
        }
        transaction.commit()?;
        self.seen = seen;
        Ok(())
    }
}

fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
}

fn set_up(
    connection: &mut Connection,
    informer: &str,
    fresh: SidecarId,
    data_dir: &Path,
) -> Result<(Meta, Vec<Entry>), Error> {
    let path = &data_dir.join(FILE);
    let unusable = |source| Error::Database { path: path.clone(), source };
    connection.busy_timeout(BUSY).map_err(unusable)?;
    // Before anything is written: a damaged or newer file is left exactly as it was.
    schema::version(connection, path)?;
    let file = Identity::read(data_dir)?;
    let verdict: String = connection.pragma_query_value(None, "quick_check", |row| row.get(0)).map_err(unusable)?;
    if verdict != "ok" {
        // The first line is a heading, each further one a finding; the first finding is enough to act on.
        let what = verdict.lines().find(|line| !line.starts_with("***")).unwrap_or_default().to_owned();
        return Err(Error::Damaged { path: path.clone(), what });
    }
    connection.pragma_update(None, "journal_mode", "WAL").map_err(unusable)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(unusable)?;
    schema::migrate(connection, path)?;
    let next = Identity::next(file, read_meta(connection, path)?.as_ref(), fresh);
    next.write(data_dir).map_err(|source| Error::Directory { dir: data_dir.to_owned(), source })?;
    connection
        .execute(
            "INSERT INTO meta VALUES (1, ?1, ?2, ?3, '', 0, 0, 0, 0)
             ON CONFLICT DO UPDATE SET incarnation = ?2, informer = ?3",
            params![next.sidecar.to_bytes(), stored(next.incarnation), informer],
        )
        .map_err(unusable)?;
    let meta = read_meta(connection, path)?
        .ok_or_else(|| Error::Damaged { path: path.clone(), what: "it names no sidecar".into() })?;
    Ok((meta, read_entries(connection, path)?))
}

/// SQLite has no unsigned integers; the bits are kept, and nothing in SQL compares these columns.
fn stored(value: u64) -> i64 {
    value.cast_signed()
}

fn loaded(value: i64) -> u64 {
    value.cast_unsigned()
}

fn read_meta(connection: &Connection, path: &Path) -> Result<Option<Meta>, Error> {
    let unusable = |source| Error::Database { path: path.to_owned(), source };
    let read = |row: &rusqlite::Row<'_>| {
        let id: Vec<u8> = row.get(0)?;
        let seen = v1::Identity { lineage: row.get(3)?, epoch: loaded(row.get(4)?), commit_seq: loaded(row.get(5)?) };
        let highest_fence = Fence { epoch: loaded(row.get(6)?), n: loaded(row.get(7)?) };
        Ok((id, loaded(row.get(1)?), row.get(2)?, seen, highest_fence))
    };
    let columns = "sidecar, incarnation, informer, lineage, epoch, commit_seq, fence_epoch, fence_n";
    let found = connection.query_row(&format!("SELECT {columns} FROM meta"), [], read).optional().map_err(unusable)?;
    let Some((id, incarnation, informer, seen, highest_fence)) = found else { return Ok(None) };
    let sidecar = SidecarId::from_bytes(&id)
        .ok_or_else(|| Error::Damaged { path: path.to_owned(), what: "the sidecar's id is not 16 bytes".into() })?;
    Ok(Some(Meta { sidecar, incarnation, informer, seen, highest_fence }))
}

fn write_row(connection: &Connection, row: &Row, assign: Option<&[u8]>) -> rusqlite::Result<()> {
    let (state, ending, failure, copy) = match &row.state {
        RowState::Accepted => ("accepted", None, None, None),
        RowState::Running => ("running", None, None, None),
        RowState::Ended(ending) => ("ended", Some(ending.encode_to_vec()), None, None),
        RowState::Published(ending, failure) => ("published", Some(ending.encode_to_vec()), failure.as_deref(), None),
        RowState::Refused(why) => ("refused", None, Some(&why[..]), None),
        RowState::Retired(LogCopy::Unwanted) => ("retired", None, None, Some("unwanted")),
        RowState::Retired(LogCopy::Wanted) => ("retired", None, None, Some("wanted")),
        RowState::Retired(LogCopy::Stored) => ("retired", None, None, Some("stored")),
    };
    let mut statement = connection.prepare_cached(
        "INSERT INTO attempts VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
         ON CONFLICT DO UPDATE
         SET set_aside = ?6, log_bytes = ?7, state = ?8, started = ?9, ending = ?10, failure = ?11, log_copy = ?13",
    )?;
    statement.execute(params![
        row.attempt.to_string(),
        stored(row.fence.epoch),
        stored(row.fence.n),
        stored(row.order),
        row.facts.stop_on_disconnect,
        row.set_aside,
        stored(row.log_bytes),
        state,
        row.started.as_ref().map(v1::Started::encode_to_vec),
        ending,
        failure,
        assign,
        copy,
    ])?;
    Ok(())
}

fn read_entries(connection: &Connection, path: &Path) -> Result<Vec<Entry>, Error> {
    let unusable = |source| Error::Database { path: path.to_owned(), source };
    let columns =
        "attempt, fence_epoch, fence_n, ord, stop, set_aside, log_bytes, state, started, ending, failure, assign";
    // A ledger that is only looked at may be an earlier version's.
    let copy = schema::log_copy(schema::version(connection, path)?);
    let sql = format!("SELECT {columns}, {copy} FROM attempts ORDER BY ord");
    let mut statement = connection.prepare(&sql).map_err(unusable)?;
    let mut rows = statement.query([]).map_err(unusable)?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next().map_err(unusable)? {
        let entry = read_entry(row).map_err(unusable)?;
        entries.push(entry.map_err(|what| Error::Damaged { path: path.to_owned(), what })?);
    }
    Ok(entries)
}

fn read_entry(row: &rusqlite::Row<'_>) -> rusqlite::Result<Result<Entry, String>> {
    let name: String = row.get(0)?;
    let fence = Fence { epoch: loaded(row.get(1)?), n: loaded(row.get(2)?) };
    let order = loaded(row.get(3)?);
    let facts = Facts { stop_on_disconnect: row.get(4)? };
    let (set_aside, log_bytes) = (row.get(5)?, loaded(row.get(6)?));
    let (state, started, ending): (String, Option<Vec<u8>>, Option<Vec<u8>>) = (row.get(7)?, row.get(8)?, row.get(9)?);
    let (failure, assign): (Option<String>, Option<Vec<u8>>) = (row.get(10)?, row.get(11)?);
    let copy: Option<String> = row.get(12)?;
    Ok((|| {
        let wrong = |what: &str| format!("attempt {name}: {what}");
        let attempt: AttemptId = name.parse().map_err(|_| wrong("not an attempt id"))?;
        let decoded = |_| wrong("a message cannot be decoded");
        let started = started.map(|bytes| v1::Started::decode(&bytes[..])).transpose().map_err(decoded)?;
        let assign = assign.map(|bytes| v1::Assign::decode(&bytes[..])).transpose().map_err(decoded)?;
        let ending = ending.map(|bytes| v1::Ending::decode(&bytes[..])).transpose().map_err(decoded)?.map(Box::new);
        let state = match (&state[..], ending, copy.as_deref()) {
            ("accepted", None, None) => RowState::Accepted,
            ("running", None, None) => RowState::Running,
            ("ended", Some(ending), None) => RowState::Ended(ending),
            ("published", Some(ending), None) => RowState::Published(ending, failure),
            ("refused", None, None) => RowState::Refused(failure.unwrap_or_default()),
            ("retired", None, Some("unwanted")) => RowState::Retired(LogCopy::Unwanted),
            ("retired", None, Some("wanted")) => RowState::Retired(LogCopy::Wanted),
            ("retired", None, Some("stored")) => RowState::Retired(LogCopy::Stored),
            (state, _, _) => return Err(wrong(&format!("state {state} does not fit its columns"))),
        };
        let row = Row { attempt, fence, facts, order, started, set_aside, log_bytes, state };
        Ok(Entry { row, assign })
    })())
}
