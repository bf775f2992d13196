//! Whether the file is whole: looked at before the start when it is small, else beside the work, by a thread of its own.
//!
//! Before the start only what is read anyway is known to be good: header, schema, identity, the rows that live. What the thread
//! finds later is logged, and the next commit is refused: nothing more is built on a damaged file.

use super::fault::{damaged, explain};
use super::open;
use crate::store::Error;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

/// Databases up to here are read before the start: some 50 ms. A start with a million tasks must not wait for all that ever ended.
const AT_ONCE_BYTES: i64 = 16 << 20;

/// Steps of SQLite between two looks whether the store is closing: well under a millisecond.
const STEPS: i32 = 1000;

/// Of the thread: whatever else runs goes first.
const NICE: i32 = 10;

/// Whether the whole database is to be read before it is used.
pub(super) fn is_small(db: &Connection, path: &Path) -> Result<bool, Error> {
    let pragma = |name: &str| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let bytes = || Ok(pragma("page_count")?.saturating_mul(pragma("page_size")?));
    bytes().map(|bytes: i64| bytes <= AT_ONCE_BYTES).map_err(|error| explain("read", path, error))
}

/// Faults that a message names; the first ones say where it began.
const NAMED: usize = 3;

/// Letters of each: none of SQLite's is longer, and what a damaged page makes it say need not be.
const LETTERS: usize = 120;

/// Reads every page.
pub(super) fn whole(db: &Connection, path: &Path) -> Result<(), Error> {
    let failed = |error| explain("read", path, error);
    let mut verdict = Vec::new();
    db.pragma_query(None, "quick_check", |row| {
        verdict.push(row.get::<_, String>(0)?);
        Ok(())
    })
    .map_err(failed)?;
    if verdict == ["ok"] {
        return Ok(());
    }
    // A row may have many lines; those with stars only say which database.
    let faults: Vec<&str> =
        verdict.iter().flat_map(|row| row.lines()).filter(|line| !line.is_empty() && !line.starts_with('*')).collect();
    let named: Vec<String> = faults.iter().take(NAMED).map(|fault| name(db, fault)).collect();
    let more = faults.len() - named.len();
    let more = if more == 0 { String::new() } else { format!(", and {more} more") };
    Err(damaged(path, "quick_check", format_args!("{}{more}", named.join(", "))))
}

/// One fault, with the name of what SQLite calls a tree.
fn name(db: &Connection, fault: &str) -> String {
    let tree = fault.strip_prefix("Tree ").and_then(|rest| rest.split_once(' '));
    let named = tree.and_then(|(root, rest)| {
        let root: u32 = root.parse().ok()?;
        let sql = "SELECT name FROM sqlite_schema WHERE rootpage = ?1";
        let name: String = db.query_row(sql, [root], |row| row.get(0)).ok()?;
        Some(format!("{name} {rest}"))
    });
    let fault = named.unwrap_or_else(|| fault.to_owned());
    fault.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(LETTERS).collect()
}

/// A check under way, or done. Dropping it ends the thread.
#[derive(Debug)]
pub(super) struct Check {
    path: PathBuf,
    /// What is wrong.
    found: Arc<OnceLock<String>>,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Check {
    /// Nothing left to check.
    pub(super) fn done(path: &Path) -> Self {
        Self { path: path.to_owned(), found: Arc::default(), closing: Arc::default(), thread: None }
    }

    pub(super) fn start(path: &Path) -> Result<Self, Error> {
        let mut check = Self::done(path);
        let (found, closing) = (Arc::clone(&check.found), Arc::clone(&check.closing));
        let mut db = open::connect_to_read(path)?;
        let closes = Arc::clone(&closing);
        db.progress_handler(STEPS, Some(move || closes.load(Ordering::Relaxed)))
            .map_err(|error| explain("open", path, error))?;
        let file = path.to_owned();
        let work = move || {
            // On Linux a thread's own; if it is refused, the check is only less polite.
            let _ = rustix::process::nice(NICE);
            match whole(&db, &file) {
                Err(error) if !closing.load(Ordering::Relaxed) => {
                    tracing::error!(path = %file.display(), %error, "the store is damaged; the next commit will be refused");
                    // Set once: there is one thread.
                    let _ = found.set(match error {
                        Error::Corrupt { detail, .. } => detail,
                        other => other.to_string(),
                    });
                }
                Ok(()) | Err(_) => {}
            }
        };
        match thread::Builder::new().name("store-check".to_owned()).spawn(work) {
            Ok(thread) => check.thread = Some(thread),
            // No thread to be had: then the start waits.
            Err(_) => whole(&open::connect_to_read(path)?, path)?,
        }
        Ok(check)
    }

    /// What was found so far.
    pub(super) fn damage(&self) -> Option<Error> {
        self.found.get().map(|detail| Error::Corrupt { path: self.path.clone(), detail: detail.clone() })
    }

    /// Waits until everything was read.
    #[cfg(test)]
    pub(super) fn finish(&mut self) {
        self.thread.take().map(JoinHandle::join);
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // If it panicked, the hook has told.
            let _ = thread.join();
        }
    }
}
