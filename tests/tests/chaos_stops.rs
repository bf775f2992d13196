//! SIGSTOP of each role while tasks flow: one round a case. `tests/chaos.sh stops` plays more, and judges times.

#![cfg(feature = "faults")]

use anyhow::Result;
use tests::chaos::{play, stops};

#[test]
fn the_informer_is_stopped_past_every_lease() -> Result<()> {
    play(&stops::INFORMER)
}

#[test]
fn the_informer_is_stopped_for_a_beat() -> Result<()> {
    play(&stops::INFORMER_SHORTLY)
}

#[test]
fn an_agent_is_stopped_past_its_lease() -> Result<()> {
    play(&stops::AGENT)
}

#[test]
fn a_keeper_is_stopped() -> Result<()> {
    play(&stops::KEEPER)
}

#[test]
fn agent_and_monitor_are_stopped_past_the_lease() -> Result<()> {
    play(&stops::MONITOR)
}

#[test]
fn a_monitor_alone_is_stopped() -> Result<()> {
    play(&stops::MONITOR_ALONE)
}
