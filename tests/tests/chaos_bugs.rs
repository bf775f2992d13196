//! The suite can see: with one wrong line in the informer, chosen at run time, the checker finds the invariant that it breaks.

#![cfg(feature = "faults")]

use anyhow::{Result, bail};
use tests::chaos::{Case, Played, Round, stops};

/// Rounds until a bug must have shown. Each shows in almost every round; a machine that starts processes slowly may spare one.
const ROUNDS: u32 = 4;

/// Some round of the case violates this invariant.
fn caught(case: &Case, bug: (&'static str, &'static str), invariant: u32) -> Result<()> {
    let prefix = format!("invariant {invariant}: ");
    let mut seen = Vec::new();
    for number in 0..ROUNDS {
        let mut round = Round::new(1, number, false)?;
        round.bug = Some(bug);
        match case.round(&mut round)? {
            Played::Skipped(reason) => {
                println!("SKIP {}: {reason}", case.slug());
                return Ok(());
            }
            Played::Done(outcome) if outcome.violations.iter().any(|line| line.starts_with(&prefix)) => return Ok(()),
            Played::Done(outcome) => seen.extend(outcome.violations),
        }
    }
    bail!("{bug:?} broke invariant {invariant} unseen; seen was {seen:#?}")
}

#[test]
fn a_replacement_that_does_not_wait_is_caught() -> Result<()> {
    caught(&stops::AGENT, ("INFORMER_BUG", "NoFenceWait"), 5)
}
