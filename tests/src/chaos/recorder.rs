//! What clients were told, and what was done to whom: one JSON line an event, in the order in which it was heard.
//!
//! An answer is recorded after it came, never before; a call that failed is recorded as such, since it may have been obeyed all the same.
//! Nothing is synced: the judge is the process that writes.

use super::now;
use anyhow::Result;
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// A submit under this key was acknowledged with this id.
    Submitted {
        /// Also the task's name.
        key: String,
        /// The task.
        id: String,
    },
    /// A submit failed: nothing is known.
    SubmitFailed {
        /// As before.
        key: String,
        /// Its code.
        code: String,
    },
    /// Another payload was sent under a known key.
    OtherPayload {
        /// As before.
        key: String,
        /// Whether it was refused as a conflict.
        refused: bool,
    },
    /// A cancel was acknowledged.
    Cancelled {
        /// The task.
        id: String,
    },
    /// A watcher was told that the task is over.
    Ended {
        /// The task.
        id: String,
        /// Its state, as the schema numbers them.
        state: i32,
        /// Its exit code.
        exit: Option<i32>,
    },
    /// A reader was given bytes of a log.
    Log {
        /// The task.
        id: String,
        /// Of this attempt.
        attempt: u32,
        /// stderr, not stdout.
        err: bool,
        /// Of the first byte.
        offset: u64,
        /// What came.
        data: Vec<u8>,
    },
    /// A fault began.
    Harm {
        /// Which.
        what: String,
    },
    /// It was over: everything that was stopped, cut or killed is back.
    Healed {
        /// Which.
        what: String,
    },
}

/// An event and when it was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `CLOCK_BOOTTIME`.
    pub at: Duration,
    /// What.
    pub told: Told,
}

impl Event {
    fn json(&self) -> Value {
        let at = self.at.as_nanos().to_string();
        match &self.told {
            Told::Submitted { key, id } => json!({"at": at, "event": "submitted", "key": key, "id": id}),
            Told::SubmitFailed { key, code } => json!({"at": at, "event": "submit_failed", "key": key, "code": code}),
            Told::OtherPayload { key, refused } => {
                json!({"at": at, "event": "other_payload", "key": key, "refused": refused})
            }
            Told::Cancelled { id } => json!({"at": at, "event": "cancelled", "id": id}),
            Told::Ended { id, state, exit } => {
                json!({"at": at, "event": "ended", "id": id, "state": state, "exit": exit})
            }
            Told::Log { id, attempt, err, offset, data } => {
                json!({"at": at, "event": "log", "id": id, "attempt": attempt, "err": err, "offset": offset, "bytes": data.len()})
            }
            Told::Harm { what } => json!({"at": at, "event": "harm", "what": what}),
            Told::Healed { what } => json!({"at": at, "event": "healed", "what": what}),
        }
    }
}

#[derive(Debug)]
struct Book {
    file: File,
    events: Vec<Event>,
}

/// Shared by all clients of a round.
#[derive(Debug)]
pub struct Recorder(Mutex<Book>);

impl Recorder {
    /// Writes to this file.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(path: &Path) -> Result<Self> {
        Ok(Self(Mutex::new(Book { file: File::create(path)?, events: Vec::new() })))
    }

    /// Records one event, now.
    pub fn tell(&self, told: Told) {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let event = Event { at: now(), told };
        // The file is for people: the judge reads what is in memory.
        let _told = writeln!(book.file, "{}", event.json());
        book.events.push(event);
    }

    /// Everything so far.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).events.clone()
    }

    /// The ids that submits were acknowledged with, by key; one for each answer.
    #[must_use]
    pub fn acknowledged(&self) -> Vec<(String, String)> {
        let events = self.events();
        let pair = |event: Event| match event.told {
            Told::Submitted { key, id } => Some((key, id)),
            _ => None,
        };
        events.into_iter().filter_map(pair).collect()
    }
}
