//! Version 4 of the tables: workflows. Definitions, runs, and the steps, plan parts, histories and bodies of runs.
//!
//! - `runs` is one tree in the order of ids, which is that of starts; a child's id is its parent's and more, so a family lies together.
//!   What a search asks for is in columns.
//! - `live` is 1 for what a start loads, and nothing else is in that index.
//! - Steps are rows of their own: a transition writes those that it touched.
//! - `run_bodies` says which bodies a run has. Each counts as a holder in `payload_shares`, as tasks do, so that inputs and outputs lie in
//!   the same table as the specs of tasks, once, whoever shares them.

use super::fault::explain;
use crate::store::Error;
use rusqlite::Transaction;
use std::path::Path;

const TABLES: &str = "
    CREATE TABLE definitions (
        name    TEXT    NOT NULL,
        version INTEGER NOT NULL,
        body    BLOB    NOT NULL,
        PRIMARY KEY (name, version)
    ) STRICT;
    CREATE TABLE task_definitions (
        name TEXT PRIMARY KEY NOT NULL,
        body BLOB NOT NULL
    ) STRICT;
    CREATE TABLE runs (
        id          TEXT    PRIMARY KEY NOT NULL,
        live        INTEGER,
        status      INTEGER NOT NULL,
        name        TEXT    NOT NULL,
        owner       TEXT    NOT NULL,
        correlation TEXT,
        parent      TEXT,
        ended_ms    INTEGER,
        body        BLOB    NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX runs_live ON runs (id) WHERE live IS NOT NULL;
    CREATE INDEX runs_status ON runs (status, id);
    CREATE INDEX runs_name ON runs (name, id);
    CREATE INDEX runs_owner ON runs (owner, id);
    CREATE INDEX runs_correlation ON runs (correlation, id) WHERE correlation IS NOT NULL;
    CREATE INDEX runs_parent ON runs (parent, id) WHERE parent IS NOT NULL;
    CREATE INDEX runs_ended ON runs (ended_ms, id) WHERE ended_ms IS NOT NULL;
    CREATE TABLE run_labels (
        key   TEXT NOT NULL,
        value TEXT NOT NULL,
        run   TEXT NOT NULL,
        PRIMARY KEY (key, value, run)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE run_keys (
        key    TEXT PRIMARY KEY NOT NULL,
        run    TEXT NOT NULL,
        digest BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE run_steps (
        run  TEXT    NOT NULL,
        step INTEGER NOT NULL,
        body BLOB    NOT NULL,
        PRIMARY KEY (run, step)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE run_parts (
        run  TEXT    NOT NULL,
        part INTEGER NOT NULL,
        body BLOB    NOT NULL,
        PRIMARY KEY (run, part)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE run_events (
        run  TEXT    NOT NULL,
        seq  INTEGER NOT NULL,
        body BLOB    NOT NULL,
        PRIMARY KEY (run, seq)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE run_bodies (
        run  TEXT NOT NULL,
        hash BLOB NOT NULL,
        PRIMARY KEY (run, hash)
    ) STRICT, WITHOUT ROWID;
";

pub(super) fn run(tx: &Transaction<'_>, path: &Path) -> Result<(), Error> {
    tx.execute_batch(TABLES).map_err(|error| explain("migrate", path, error))
}
