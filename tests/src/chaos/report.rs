//! What a run showed: one JSON line a round, and the table of faults.

use super::{Case, Outcome};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Duration;

/// The rounds of one case, added up.
#[derive(Debug, Default)]
pub struct Line {
    fault: String,
    how: String,
    happened: Vec<String>,
    detected: Vec<Duration>,
    recovered: Vec<Duration>,
    rounds: usize,
    lost: u64,
    doubled: u64,
    violations: usize,
    skipped: Option<String>,
}

impl Line {
    /// A case that has not been played yet.
    #[must_use]
    pub fn new(case: &Case) -> Self {
        Self { fault: case.fault.to_owned(), how: case.how.to_owned(), ..Self::default() }
    }

    /// Counts a round.
    pub fn add(&mut self, outcome: &Outcome) {
        if !self.happened.contains(&outcome.happened) {
            self.happened.push(outcome.happened.clone());
        }
        self.detected.extend(outcome.detected);
        self.recovered.extend(outcome.recovered);
        self.rounds += 1;
        self.lost += outcome.lost;
        self.doubled += outcome.doubled;
        self.violations += outcome.violations.len();
    }

    /// It was not played, for this reason.
    pub fn skip(&mut self, reason: &str) {
        self.skipped = Some(reason.to_owned());
    }

    /// Whether anything was lost, doubled or violated.
    #[must_use]
    pub const fn is_bad(&self) -> bool {
        self.lost > 0 || self.doubled > 0 || self.violations > 0
    }
}

/// One JSON line about a round.
#[must_use]
pub fn raw(case: &Case, number: u32, outcome: &Outcome) -> String {
    let millis = |time: Option<Duration>| time.map_or(Value::Null, |time| json!(time.as_millis()));
    let line = json!({
        "family": case.family.name(), "fault": case.fault, "round": number, "happened": outcome.happened,
        "detected_ms": millis(outcome.detected), "recovered_ms": millis(outcome.recovered),
        "lost": outcome.lost, "doubled": outcome.doubled, "violations": outcome.violations,
    });
    line.to_string()
}

/// The table in Markdown.
#[must_use]
pub fn table(lines: &[Line]) -> String {
    let mut text = "| fault | how injected | rounds | what happened | detected | recovered | lost | doubled |\n\
                    |---|---|---:|---|---:|---:|---:|---:|\n"
        .to_owned();
    for line in lines {
        let cell = |text: &str| text.replace('|', "\\|");
        let (fault, how) = (cell(&line.fault), cell(&line.how));
        if let Some(reason) = &line.skipped {
            let _ = writeln!(text, "| {fault} | {how} | 0 | skipped: {} | – | – | – | – |", cell(reason));
            continue;
        }
        let _ = writeln!(
            text,
            "| {fault} | {how} | {} | {} | {} | {} | {} | {} |",
            line.rounds,
            cell(&line.happened.join("; ")),
            spread(&line.detected),
            spread(&line.recovered),
            line.lost,
            line.doubled
        );
    }
    text
}

/// Median and greatest.
fn spread(times: &[Duration]) -> String {
    let mut times = times.to_vec();
    times.sort();
    match times[..] {
        [] => "–".to_owned(),
        [only] => seconds(only),
        [.., last] => format!("{}, at most {}", seconds(times[times.len() / 2]), seconds(last)),
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::Family;

    const CASE: Case =
        Case { fault: "a | b", how: "by hand", family: Family::Kills, needs: &[], run: |_| Ok(Outcome::default()) };

    #[test]
    fn a_table_has_one_line_a_case() {
        let mut line = Line::new(&CASE);
        for millis in [100, 2000, 300] {
            let recovered = Some(Duration::from_millis(millis));
            line.add(&Outcome { happened: "nothing".to_owned(), recovered, ..Outcome::default() });
        }
        let mut skipped = Line::new(&CASE);
        skipped.skip("needs root");
        let table = table(&[line, skipped]);
        let rows: Vec<_> = table.lines().skip(2).collect();
        assert_eq!(rows[0], "| a \\| b | by hand | 3 | nothing | – | 0.30 s, at most 2.00 s | 0 | 0 |");
        assert_eq!(rows[1], "| a \\| b | by hand | 0 | skipped: needs root | – | – | – | – |");
    }
}
