//! The faults of the family "clocks", each played once.

#![cfg(feature = "faults")]

use anyhow::Result;
use tests::chaos::{clocks, play};

#[test]
fn a_wall_clock_that_jumps_forward() -> Result<()> {
    play(&clocks::FORWARD)
}

#[test]
fn a_wall_clock_that_jumps_back() -> Result<()> {
    play(&clocks::BACK)
}

#[test]
fn a_keeper_in_a_time_namespace() -> Result<()> {
    play(&clocks::TIME_NAMESPACE)
}

#[test]
fn a_keeper_restarted_in_another_time_namespace() -> Result<()> {
    play(&clocks::OTHER_TIME_NAMESPACE)
}
