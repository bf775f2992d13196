//! Everything that starts processes for us, seen alike, so that rounds can go through all of them.

use crate::report::{median, percentile, range, table, whole};
use crate::stamps::Stamps;
use crate::usage;
use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use std::time::Duration;

/// Between two single starts: ten times the slowest usual one, so that each finds everybody idle.
const PACE: Duration = Duration::from_millis(30);

/// One timed run.
pub(crate) struct Run {
    /// From the first submit to the last end.
    pub seconds: f64,
    /// CPU time in µs by process, where it is known.
    pub parts: Vec<(&'static str, f64)>,
}

/// One who starts processes.
pub(crate) trait Contender {
    /// How tables call it.
    fn name(&self) -> String;

    /// Runs `/bin/true` so often, to the last end.
    ///
    /// # Errors
    /// One of them fails, or everything does.
    fn run(&mut self, count: usize) -> Result<Run>;

    /// Asks for processes that leave a stamp, with ids from `first` on, by one call each; the wall clock before each call.
    ///
    /// # Errors
    /// A call fails.
    fn stamp(&mut self, first: u64, count: u64) -> Result<Vec<u64>>;

    /// Ends it and leaves nothing behind.
    ///
    /// # Errors
    /// Something does not end.
    fn end(self: Box<Self>) -> Result<()>;
}

/// Ends all of them.
pub(crate) fn end(contenders: Vec<Box<dyn Contender>>) -> Result<()> {
    contenders.into_iter().try_for_each(Contender::end)
}

/// Rates of all contenders, one after another in each round.
pub(crate) fn rates(contenders: &mut [Box<dyn Contender>], count: usize, rounds: usize) -> Result<()> {
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); contenders.len()];
    let mut shares = rates.clone();
    let mut costs = rates.clone();
    let mut parts: Vec<BTreeMap<usize, (&'static str, Vec<f64>)>> = vec![BTreeMap::new(); contenders.len()];
    for contender in &mut *contenders {
        contender.run(count / 10).with_context(|| format!("{}: warming up", contender.name()))?;
    }
    for round in 1..=rounds {
        for (index, contender) in contenders.iter_mut().enumerate() {
            let before = usage::machine_us();
            let run = contender.run(count).with_context(|| contender.name())?;
            let rate = count as f64 / run.seconds;
            let cost = (usage::machine_us() - before) as f64 / count as f64;
            rates[index].push(rate);
            costs[index].push(cost);
            // The first contender is the baseline.
            let share = 100.0 * rate / rates[0][round - 1];
            shares[index].push(share);
            let mut line =
                format!("round {round}: {:<28} {rate:7.0}/s {share:6.1} %  machine {cost:5.0} us", contender.name());
            for (order, (part, spent_us)) in run.parts.iter().enumerate() {
                let each = spent_us / count as f64;
                line += &format!("  {part} {each:.0}");
                parts[index].entry(order).or_insert((part, Vec::new())).1.push(each);
            }
            println!("{line}");
        }
    }
    let split = |parts: &BTreeMap<usize, (&'static str, Vec<f64>)>| {
        let each = parts.values().map(|(part, spent)| format!("{part} {:.0}", median(spent)));
        each.collect::<Vec<_>>().join(", ")
    };
    let rows: Vec<Vec<String>> = (0..contenders.len())
        .map(|index| {
            vec![
                contenders[index].name(),
                format!("{}/s ({})", whole(median(&rates[index])), range(&rates[index])),
                format!("**{:.1} %** ({})", median(&shares[index]), range(&shares[index])),
                whole(median(&costs[index])),
                split(&parts[index]),
            ]
        })
        .collect();
    let title = format!("/bin/true × {count}, median of {rounds} rounds (least–most)");
    table(&title, &["", "rate", "share of the bare loop", "CPU µs a task, machine", "of it"], &rows);
    Ok(())
}

/// Latencies of single starts, one of each contender in turn; then of bursts. Milliseconds from the call to the process's own clock.
pub(crate) fn latencies(
    contenders: &mut [Box<dyn Contender>],
    stamps: &mut Stamps,
    single: usize,
    burst: u64,
) -> Result<()> {
    /// Bursts of each: five p50s tell whether one of them was unlucky.
    const BURSTS: usize = 5;
    let mut singles: Vec<Vec<f64>> = vec![Vec::new(); contenders.len()];
    let mut bursts = singles.clone();
    for _ in 0..single {
        for (index, contender) in contenders.iter_mut().enumerate() {
            singles[index].extend(stamps.measure(contender.as_mut(), 1)?);
            std::thread::sleep(PACE);
        }
    }
    for _ in 0..BURSTS {
        for (index, contender) in contenders.iter_mut().enumerate() {
            bursts[index].extend(stamps.measure(contender.as_mut(), burst)?);
            std::thread::sleep(10 * PACE);
        }
    }
    let mut rows = Vec::new();
    for (index, contender) in contenders.iter().enumerate() {
        let shown = |values: &[f64], percent| format!("{:.2} ms", percentile(values, percent));
        let (one, many) = (&singles[index], &bursts[index]);
        rows.push(vec![contender.name(), shown(one, 50), shown(one, 99), shown(many, 50), shown(many, 99)]);
        println!("single ms, {}: {}", contender.name(), listed(one));
    }
    let title = format!(
        "submit → process started: {single} single ones, each finding everything idle; {BURSTS} bursts of {burst}"
    );
    table(&title, &["", "single p50", "p99", "burst p50", "p99"], &rows);
    Ok(())
}

fn listed(values: &[f64]) -> String {
    values.iter().map(|value| format!("{value:.2}")).collect::<Vec<_>>().join(" ")
}
