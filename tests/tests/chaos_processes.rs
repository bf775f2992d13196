//! The faults of the family "processes", each played once.

#![cfg(feature = "faults")]

use anyhow::Result;
use tests::chaos::{play, processes};

#[test]
fn a_daemon_left_behind() -> Result<()> {
    play(&processes::DAEMON)
}

#[test]
fn stdout_held_open() -> Result<()> {
    play(&processes::STDOUT_HELD)
}

#[test]
fn a_task_that_ignores_sigterm() -> Result<()> {
    play(&processes::IGNORES_TERM)
}

#[test]
fn sessions_started_at_the_end() -> Result<()> {
    play(&processes::LATE_CHILDREN)
}

#[test]
fn process_ids_taken_by_strangers() -> Result<()> {
    play(&processes::PID_REUSE)
}
