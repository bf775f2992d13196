//! Plays the cases of the chaos suite in many rounds, judges times too, and writes the table of faults. `tests/chaos.sh` runs it.

use anyhow::{Context as _, Result, bail, ensure};
use std::collections::BTreeMap;
use std::path::PathBuf;
use tests::chaos::{Case, Family, Outcome, Played, Round, report};

/// Rounds of the kills, over all of their cases.
const KILL_ROUNDS: u32 = 200;
/// Rounds of each other case.
const ROUNDS: u32 = 3;
/// Rounds of each flood: it is long by itself.
const FLOODS: u32 = 1;
/// What stands above the table.
const HEAD: &str = "# What was broken, and what came of it\n\n\
    Made by `tests/chaos.sh` from the real binaries and real processes; one line a round is in\n\
    [`measurements/raw/chaos.txt`](measurements/raw/chaos.txt). The beat is 0.5 s and a lease three of them, unless a row says otherwise;\n\
    times are the median and the greatest of the rounds. *Detected*: from the fault until the system shows that it knows. *Recovered*: from\n\
    the moment from which on it can be mended (a process is started again, a cut is healed; else from the fault) until work goes on.\n\
    *Lost*: acknowledged tasks, accepted results or log bytes that are gone. *Doubled*: results, outputs or exclusive copies too many.\n";

#[derive(Debug)]
struct Args {
    rounds: u32,
    seed: u64,
    families: Vec<Family>,
    raw: Option<PathBuf>,
    table: Option<PathBuf>,
}

fn args() -> Result<Args> {
    let mut args = Args { rounds: KILL_ROUNDS, seed: 1, families: Vec::new(), raw: None, table: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--rounds" => args.rounds = value()?.parse().context("--rounds")?,
            "--seed" => args.seed = value()?.parse().context("--seed")?,
            "--raw" => args.raw = Some(value()?.into()),
            "--table" => args.table = Some(value()?.into()),
            name => match Family::named(name) {
                Some(family) => args.families.push(family),
                None => bail!("{name} is no family; there are {}", Family::ALL.map(Family::name).join(", ")),
            },
        }
    }
    if args.families.is_empty() {
        args.families = Family::ALL.to_vec();
    }
    Ok(args)
}

/// Which case each round of a family plays.
fn plan(family: Family, kill_rounds: u32) -> Vec<&'static Case> {
    let cases = family.cases();
    let rounds = match family {
        Family::Kills => kill_rounds as usize,
        Family::Floods => cases.len() * FLOODS as usize,
        _ => cases.len() * ROUNDS as usize,
    };
    cases.iter().copied().cycle().take(rounds).collect()
}

/// A round that does not come to its end is a violation like any other.
fn play(case: &'static Case, seed: u64, number: u32) -> Result<Played> {
    let mut round = Round::new(seed, number, true)?;
    Ok(case.round(&mut round).unwrap_or_else(|error| {
        let violations = vec![format!("invariant 4: the round did not come to its end: {error:#}")];
        Played::Done(Outcome { happened: "it hung".to_owned(), violations, ..Outcome::default() })
    }))
}

fn main() -> Result<()> {
    let args = args()?;
    let (mut lines, mut bad, mut played) = (String::new(), 0, 0);
    let mut skipped: BTreeMap<&str, String> = BTreeMap::new();
    for family in &args.families {
        for (number, case) in plan(*family, args.rounds).into_iter().enumerate() {
            if skipped.contains_key(case.fault) {
                continue;
            }
            let number = u32::try_from(number)?;
            let outcome = play(case, args.seed, number)?;
            lines.push_str(&report::line(case, number, &outcome));
            lines.push('\n');
            let told = match &outcome {
                Played::Skipped(reason) => {
                    skipped.insert(case.fault, reason.clone());
                    format!("SKIP {}: {reason}", case.slug())
                }
                Played::Done(outcome) => {
                    played += 1;
                    bad += usize::from(!outcome.violations.is_empty() || outcome.lost + outcome.doubled > 0);
                    let faults: String = outcome.violations.iter().map(|line| format!("\n  {line}")).collect();
                    format!("{} round {number}: {}{faults}", case.slug(), if faults.is_empty() { "ok" } else { "BAD" })
                }
            };
            println!("{told}");
        }
    }
    write(&args, &lines)?;
    println!("{played} rounds with seed {}, {bad} of them bad, {} cases skipped", args.seed, skipped.len());
    ensure!(bad == 0, "{bad} rounds violated an invariant");
    Ok(())
}

fn write(args: &Args, lines: &str) -> Result<()> {
    let Some(raw) = &args.raw else { return Ok(()) };
    let old = std::fs::read_to_string(raw).unwrap_or_default();
    let all = report::merge(&old, lines, &args.families);
    std::fs::write(raw, &all).with_context(|| raw.display().to_string())?;
    if let Some(table) = &args.table {
        std::fs::write(table, format!("{HEAD}{}", report::table(&all))).with_context(|| table.display().to_string())?;
    }
    Ok(())
}
