//! Cuts, losses, resets and delays while tasks flow: one round a case. `tests/chaos.sh network` plays more.

#![cfg(feature = "faults")]

use anyhow::Result;
use tests::chaos::{network, play};

#[test]
fn the_network_is_cut_both_ways() -> Result<()> {
    play(&network::CUT)
}

#[test]
fn the_network_is_cut_upwards() -> Result<()> {
    play(&network::CUT_UP)
}

#[test]
fn the_network_is_cut_downwards() -> Result<()> {
    play(&network::CUT_DOWN)
}

#[test]
fn packets_are_lost() -> Result<()> {
    play(&network::LOSS)
}

#[test]
fn connections_are_reset() -> Result<()> {
    play(&network::RESET)
}

#[test]
fn the_network_flaps() -> Result<()> {
    play(&network::FLAP)
}

#[test]
fn the_network_is_throttled() -> Result<()> {
    play(&network::THROTTLE)
}

#[test]
fn bytes_are_held_back() -> Result<()> {
    play(&network::DELAY)
}
