//! Floods on real processes, each once and smaller than `tests/chaos.sh` has them.
#![cfg(feature = "faults")]

use anyhow::Result;
use tests::chaos::{floods, play};

#[test]
fn all_sidecars_reconnect_at_once() -> Result<()> {
    play(&floods::links::RECONNECT)
}

#[test]
fn a_flood_of_submits() -> Result<()> {
    play(&floods::submits::SUBMITS)
}

#[test]
fn an_array_of_a_million() -> Result<()> {
    play(&floods::submits::ARRAY)
}

#[test]
fn clients_that_never_read_their_log_stream() -> Result<()> {
    play(&floods::readers::LOGS)
}

#[test]
fn clients_that_never_read_their_watch() -> Result<()> {
    play(&floods::readers::CHANGES)
}

#[test]
fn connections_that_say_nothing() -> Result<()> {
    play(&floods::readers::SILENCE)
}

#[test]
fn a_task_that_floods_its_stdout() -> Result<()> {
    play(&floods::work::OUTPUT)
}

#[test]
fn a_remote_service_that_never_answers() -> Result<()> {
    play(&floods::work::SERVICE)
}
