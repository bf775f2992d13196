//! `sidecar progress`: a task tells how far it is.

use super::talk::{self, variable};
use crate::agent::socket::Request;
use anyhow::{Context as _, ensure};
use clap::Args;

/// Arguments of `sidecar progress`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Percent, like 42 or 42.5%, or steps done of all, like 3/7
    #[arg(value_name = "PERCENT|N/M", value_parser = amount)]
    amount: Amount,
    /// One line for people
    #[arg(long, value_name = "T", default_value = "")]
    note: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Amount {
    permille: u32,
    step: Option<u64>,
}

/// Tells the sidecar of the task that this process is part of.
pub(super) fn progress(arguments: &Arguments) -> anyhow::Result<()> {
    let request = Request::Progress {
        task: variable("INFORMER_TASK_ID")?,
        attempt: variable("INFORMER_ATTEMPT")?.parse().context("INFORMER_ATTEMPT is no number")?,
        fence: variable("INFORMER_FENCE")?,
        permille: arguments.amount.permille,
        note: arguments.note.clone(),
        step: arguments.amount.step,
    };
    let answer = talk::ask(&request, talk::PATIENCE)?;
    ensure!(answer.ok, "the progress was not taken: {}", answer.error);
    Ok(())
}

fn amount(text: &str) -> Result<Amount, String> {
    const REMEDY: &str = "use a percentage like 42 or 42.5%, or steps like 3/7";
    if let Some((done, all)) = text.split_once('/') {
        let parse = |number: &str| number.trim().parse::<u64>().map_err(|_| REMEDY.to_owned());
        let (done, all) = (parse(done)?, parse(all)?);
        if all == 0 || done > all {
            return Err(format!("{done} of {all} is no share; {REMEDY}"));
        }
        let permille = u128::from(done) * 1000 / u128::from(all);
        return Ok(Amount { permille: u32::try_from(permille).unwrap_or(1000), step: Some(done) });
    }
    let percent: f64 = text.trim_end_matches('%').trim().parse().map_err(|_| REMEDY.to_owned())?;
    if !(0.0..=100.0).contains(&percent) {
        return Err(format!("{percent} is not between 0 and 100; {REMEDY}"));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 0 and 1000")]
    let permille = (percent * 10.0).round() as u32;
    Ok(Amount { permille, step: None })
}

#[cfg(test)]
mod tests {
    use super::{Amount, amount};

    #[test]
    fn percentages_and_steps_become_thousandths() {
        for (text, permille, step) in
            [("0", 0, None), ("42", 420, None), ("12.5%", 125, None), ("3/7", 428, Some(3)), ("7/7", 1000, Some(7))]
        {
            assert_eq!(amount(text), Ok(Amount { permille, step }), "{text}");
        }
        for text in ["", "x", "-1", "101", "NaN", "8/7", "0/0", "1/", "1/x"] {
            assert!(amount(text).is_err(), "{text:?} was taken");
        }
    }
}
