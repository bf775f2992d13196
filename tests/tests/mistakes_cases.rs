//! The cases can see: with one wrong line in the informer, chosen at run time, a case of the suite finds the invariant that it breaks.

#![cfg(feature = "faults")]

use anyhow::{Result, bail};
use tests::chaos::{Case, Played, Round, disks, floods};

/// The case violates this invariant when the informer has this mistake.
fn caught(case: &Case, mistake: &'static str, invariant: u32) -> Result<()> {
    let mut round = Round::new(1, 0, false)?;
    round.bug = Some(("INFORMER_BUG", mistake));
    match case.round(&mut round)? {
        Played::Skipped(reason) => println!("SKIP {}: {reason}", case.slug()),
        Played::Done(outcome) => {
            let prefix = format!("invariant {invariant}: ");
            if !outcome.violations.iter().any(|line| line.starts_with(&prefix)) {
                bail!("{mistake} broke invariant {invariant} unseen: {outcome:#?}");
            }
            println!("{mistake}: {}", outcome.violations.join("; "));
        }
    }
    Ok(())
}

#[test]
fn a_flush_that_fails_and_is_taken_for_a_good_one() -> Result<()> {
    caught(&disks::INFORMER_EIO, "GoOnAfterFailedFlush", 10)
}

#[test]
fn a_queue_towards_who_does_not_read_that_takes_too_much() -> Result<()> {
    caught(&floods::readers::LOGS, "HoardLogs", 11)
}
