//! The faults of the family "limits", each played once.

#![cfg(feature = "faults")]

use anyhow::Result;
use tests::chaos::{limits, play, pressure};

#[test]
fn a_task_that_takes_too_much_memory() -> Result<()> {
    play(&limits::TASK_MEMORY)
}

#[test]
fn a_fork_bomb() -> Result<()> {
    play(&limits::TASK_PROCESSES)
}

#[test]
fn a_task_that_burns_more_than_its_share() -> Result<()> {
    play(&limits::TASK_PROCESSOR)
}

#[test]
fn an_informer_without_open_files() -> Result<()> {
    play(&limits::INFORMER_FILES)
}

#[test]
fn an_agent_without_open_files() -> Result<()> {
    play(&limits::AGENT_FILES)
}

#[test]
fn a_keeper_without_open_files() -> Result<()> {
    play(&limits::KEEPER_FILES)
}

#[test]
fn busy_processors() -> Result<()> {
    play(&pressure::PROCESSOR)
}

#[test]
fn a_blocked_disk_and_busy_processors() -> Result<()> {
    play(&pressure::DISK_AND_PROCESSOR)
}

#[test]
fn scarce_memory() -> Result<()> {
    play(&pressure::MEMORY)
}
