//! How a task is written: its first row with all that belongs to it and never changes, and each later one.

use super::fault::{damaged, explain};
use super::write::int;
use crate::machine::{Own, TaskChange};
use crate::store::{Error, id_of, name_of};
use prost::Message as _;
use proto::store::{Facts, TaskRow};
use proto::v1::TaskState;
use rusqlite::{Connection, ErrorCode, params};
use std::path::Path;
use std::sync::Arc;

pub(super) const INSERT_TASK: &str = "INSERT INTO tasks (id, phase, state, ended_ms, body, facts, owner, name)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
const INSERT_MEMBER: &str = "INSERT INTO members (id, phase, state, body, facts) VALUES (?1, ?2, ?3, ?4, ?5)";

/// For a change within a phase: no index is touched.
const STEP_TASK: &str = "UPDATE tasks SET state = ?3, body = ?4 WHERE id = ?1 AND phase = ?2";
const STEP_MEMBER: &str = "UPDATE members SET state = ?3, body = ?4 WHERE id = ?1 AND phase = ?2";

/// For every other change.
const TURN_TASK: &str = "UPDATE tasks SET phase = ?2, state = ?3, body = ?4, ended_ms = ?5 WHERE id = ?1";
const TURN_MEMBER: &str = "UPDATE members SET phase = ?2, state = ?3, body = ?4 WHERE id = ?1";

/// What the index by phase has of a state; `None`: it is not in there.
pub(super) const fn phase(state: TaskState) -> Option<i32> {
    match state {
        TaskState::Waiting | TaskState::Ready => Some(0),
        TaskState::Assigned | TaskState::Running | TaskState::Committing => Some(1),
        TaskState::Failed => Some(2),
        TaskState::Cancelled => Some(3),
        TaskState::Succeeded | TaskState::Unspecified => None,
    }
}

pub(super) const fn is_ended(state: TaskState) -> bool {
    matches!(state, TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled)
}

/// Whether the bytes of an id are those of a member.
pub(super) const fn is_member(id: &[u8]) -> bool {
    id.len() > 16
}

/// Writes the changed tasks of one commit.
#[derive(Debug)]
pub(super) struct Rows<'c> {
    db: &'c Connection,
    path: &'c Path,
    body: Vec<u8>,
    /// The facts encoded last, of which the first `shared` bytes are what others share: in one commit many are alike.
    encoded: Vec<u8>,
    shared: usize,
    facts: Option<Arc<Facts>>,
}

impl<'c> Rows<'c> {
    pub(super) fn new(db: &'c Connection, path: &'c Path) -> Self {
        Self { db, path, body: Vec::new(), encoded: Vec::new(), shared: 0, facts: None }
    }

    pub(super) fn write(&mut self, change: &TaskChange) -> Result<(), Error> {
        self.body.clear();
        change.row.encode(&mut self.body).expect("a vector grows as needed");
        if change.fresh { self.insert(change) } else { self.update(&change.row) }
    }

    fn update(&self, row: &TaskRow) -> Result<(), Error> {
        let failed = |error| explain("commit to", self.path, error);
        let state = row.state();
        let (phase, member) = (phase(state), is_member(&row.id));
        // Going to these is always a turn; the others are mostly steps, unless it comes from another phase after all.
        if !is_ended(state) && state != TaskState::Assigned {
            let sql = if member { STEP_MEMBER } else { STEP_TASK };
            let values = params![row.id, phase, state as i32, self.body];
            let mut step = self.db.prepare_cached(sql).map_err(failed)?;
            if step.execute(values).map_err(failed)? == 1 {
                return Ok(());
            }
        }
        let hit = if member {
            let values = params![row.id, phase, state as i32, self.body];
            self.db.prepare_cached(TURN_MEMBER).and_then(|mut turn| turn.execute(values))
        } else {
            let ended_ms = is_ended(state).then_some(int(row.ended_unix_ms));
            let values = params![row.id, phase, state as i32, self.body, ended_ms];
            self.db.prepare_cached(TURN_TASK).and_then(|mut turn| turn.execute(values))
        };
        if hit.map_err(failed)? == 1 {
            return Ok(());
        }
        Err(damaged(self.path, "the row of a task", format!("{} is missing", name_of(row))))
    }

    fn insert(&mut self, change: &TaskChange) -> Result<(), Error> {
        let failed = |error| explain("commit to", self.path, error);
        let (db, row, own) = (self.db, &change.row, &change.own);
        self.encode(&change.facts, own);
        let (state, encoded) = (row.state(), &self.encoded);
        let inserted = if is_member(&row.id) {
            let values = params![row.id, phase(state), state as i32, self.body, encoded];
            db.prepare_cached(INSERT_MEMBER).and_then(|mut insert| insert.execute(values))
        } else {
            let ended_ms = is_ended(state).then_some(int(row.ended_unix_ms));
            let (owner, name) = (&change.facts.owner, &own.name);
            let values = params![row.id, phase(state), state as i32, ended_ms, self.body, encoded, owner, name];
            db.prepare_cached(INSERT_TASK).and_then(|mut insert| insert.execute(values))
        };
        inserted.map_err(|error| match error.sqlite_error_code() {
            Some(ErrorCode::ConstraintViolation) if id_of(row).is_some() => {
                damaged(self.path, "the row of a new task", format!("{} is already there", name_of(row)))
            }
            _ => failed(error),
        })?;
        if is_member(&row.id) {
            return Ok(());
        }
        self.names(row, own)
    }

    /// What finds a task besides its id; it never changes.
    fn names(&self, row: &TaskRow, own: &Own) -> Result<(), Error> {
        let failed = |error| explain("commit to", self.path, error);
        for (name, value) in &*own.labels {
            let sql = "INSERT INTO task_labels (key, value, task) VALUES (?1, ?2, ?3)";
            let mut label = self.db.prepare_cached(sql).map_err(failed)?;
            label.execute(params![name, value, row.id]).map_err(failed)?;
        }
        if row.key.is_empty() {
            return Ok(());
        }
        let sql = "INSERT INTO task_keys (key, task, digest) VALUES (?1, ?2, ?3)";
        let mut key = self.db.prepare_cached(sql).map_err(failed)?;
        match key.execute(params![row.key, row.id, crate::store::digest_of(row)]) {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                Err(Error::KeyTaken { task: name_of(row) })
            }
            other => other.map(|_| ()).map_err(failed),
        }
    }

    /// Both parts of a task's facts, one after the other, which is the encoding of the whole.
    fn encode(&mut self, facts: &Arc<Facts>, own: &Own) {
        if !self.facts.as_ref().is_some_and(|last| Arc::ptr_eq(last, facts)) {
            self.facts = Some(Arc::clone(facts));
            self.encoded.clear();
            facts.encode(&mut self.encoded).expect("a vector grows as needed");
            self.shared = self.encoded.len();
        }
        self.encoded.truncate(self.shared);
        own.alone().encode(&mut self.encoded).expect("a vector grows as needed");
    }
}
