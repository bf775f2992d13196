//! `kill -9` of each role while tasks flow: one round a case. `tests/chaos.sh kills` plays more.

#![cfg(feature = "faults")]

use anyhow::Result;
use tests::chaos::{kills, play};

#[test]
fn the_informer_is_killed() -> Result<()> {
    play(&kills::INFORMER)
}

#[test]
fn an_agent_is_killed() -> Result<()> {
    play(&kills::AGENT)
}

#[test]
fn a_keeper_is_killed() -> Result<()> {
    play(&kills::KEEPER)
}

#[test]
fn a_monitor_is_killed() -> Result<()> {
    play(&kills::MONITOR)
}

#[test]
fn all_of_a_box_is_killed() -> Result<()> {
    play(&kills::BOX)
}

#[test]
fn several_are_killed_in_a_row() -> Result<()> {
    play(&kills::ALL)
}

#[test]
fn the_informer_is_killed_at_a_boundary() -> Result<()> {
    play(&kills::INFORMER_POINTS)
}

#[test]
fn an_agent_is_killed_at_a_boundary() -> Result<()> {
    play(&kills::AGENT_POINTS)
}

#[test]
fn a_monitor_is_killed_at_a_boundary() -> Result<()> {
    play(&kills::KEEPER_POINTS)
}
