//! What a run showed: one JSON line a round, and the table of faults that is made of these lines.
//!
//! The lines are kept: a run of some families replaces their lines and leaves the others', and the table is always made of all.

use super::{Case, Family, Outcome, Played};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// One JSON line about a round.
#[must_use]
pub fn line(case: &Case, number: u32, played: &Played) -> String {
    let mut line = json!({"family": case.family.name(), "fault": case.fault, "round": number});
    match played {
        Played::Skipped(reason) => line["skipped"] = json!(reason),
        Played::Done(outcome) => {
            let Outcome { happened, detected, recovered, lost, doubled, violations } = outcome;
            line["happened"] = json!(happened);
            line["detected_ms"] = json!(detected.map(|time| time.as_millis()));
            line["recovered_ms"] = json!(recovered.map(|time| time.as_millis()));
            line["lost"] = json!(lost);
            line["doubled"] = json!(doubled);
            line["violations"] = json!(violations);
        }
    }
    line.to_string()
}

/// The lines of `old`, those of the played families left out, and then `new`.
#[must_use]
pub fn merge(old: &str, new: &str, played: &[Family]) -> String {
    let is_kept = |line: &&str| {
        let value: Option<Value> = serde_json::from_str(line).ok();
        let family = value.as_ref().and_then(|value| value["family"].as_str()).and_then(Family::named);
        family.is_some_and(|family| !played.contains(&family))
    };
    let mut lines: Vec<&str> = old.lines().filter(is_kept).chain(new.lines()).collect();
    // Stable: rounds of a family stay in their order.
    let place = |line: &str| {
        let value: Option<Value> = serde_json::from_str(line).ok();
        let family = value.and_then(|value| Family::named(value["family"].as_str()?));
        Family::ALL.iter().position(|known| Some(*known) == family)
    };
    lines.sort_by_key(|line| place(line));
    lines.iter().flat_map(|line| [*line, "\n"]).collect()
}

/// The rounds of one case, added up.
#[derive(Debug, Default)]
struct Sum {
    happened: Vec<String>,
    detected: Vec<u64>,
    recovered: Vec<u64>,
    rounds: usize,
    lost: u64,
    doubled: u64,
    violations: usize,
    skipped: Option<String>,
}

impl Sum {
    fn add(&mut self, line: &Value) {
        if let Some(reason) = line["skipped"].as_str() {
            self.skipped = Some(reason.to_owned());
            return;
        }
        let happened = line["happened"].as_str().unwrap_or_default().to_owned();
        if !self.happened.contains(&happened) {
            self.happened.push(happened);
        }
        self.rounds += 1;
        self.detected.extend(line["detected_ms"].as_u64());
        self.recovered.extend(line["recovered_ms"].as_u64());
        self.lost += line["lost"].as_u64().unwrap_or_default();
        self.doubled += line["doubled"].as_u64().unwrap_or_default();
        self.violations += line["violations"].as_array().map_or(0, Vec::len);
    }

    fn row(&self, case: &Case) -> String {
        let cell = |text: &str| text.replace('|', "\\|");
        let (fault, how) = (cell(case.fault), cell(case.how));
        if self.rounds == 0 {
            let reason = self.skipped.as_deref().map_or("not played".to_owned(), |reason| format!("skipped: {reason}"));
            return format!("| {fault} | {how} | 0 | {} | – | – | – | – |", cell(&reason));
        }
        let mut happened = cell(&self.happened.join("; "));
        if self.violations > 0 {
            let _ = write!(happened, "; **{} violations**", self.violations);
        }
        let (detected, recovered) = (spread(&self.detected), spread(&self.recovered));
        let (rounds, lost, doubled) = (self.rounds, self.lost, self.doubled);
        format!("| {fault} | {how} | {rounds} | {happened} | {detected} | {recovered} | {lost} | {doubled} |")
    }
}

/// The table in Markdown, made of the lines of all families.
#[must_use]
pub fn table(lines: &str) -> String {
    let lines: Vec<Value> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let mut text = String::new();
    for family in Family::ALL.into_iter().filter(|family| !family.cases().is_empty()) {
        let title = family.name();
        let _ = writeln!(text, "\n## {}{}\n", title[..1].to_uppercase(), &title[1..]);
        text.push_str("| fault | how injected | rounds | what happened | detected | recovered | lost | doubled |\n");
        text.push_str("|---|---|---:|---|---:|---:|---:|---:|\n");
        for case in family.cases() {
            let mut sum = Sum::default();
            lines.iter().filter(|line| line["fault"] == case.fault).for_each(|line| sum.add(line));
            let _ = writeln!(text, "{}", sum.row(case));
        }
    }
    text
}

/// Median and greatest, in seconds.
fn spread(millis: &[u64]) -> String {
    let mut millis = millis.to_vec();
    millis.sort_unstable();
    let seconds = |millis: u64| format!("{}.{:02} s", millis / 1000, millis % 1000 / 10);
    match millis[..] {
        [] => "–".to_owned(),
        [only] => seconds(only),
        [.., last] => format!("{}, at most {}", seconds(millis[millis.len() / 2]), seconds(last)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::time::Duration;

    const CASE: Case =
        Case { fault: "a | b", how: "by hand", family: Family::Kills, needs: &[], run: |_| Ok(Outcome::default()) };

    fn done(millis: u64) -> Played {
        let recovered = Some(Duration::from_millis(millis));
        Played::Done(Outcome { happened: "nothing".to_owned(), recovered, ..Outcome::default() })
    }

    #[test]
    fn rounds_add_up_to_a_row() {
        let mut sum = Sum::default();
        assert_eq!(sum.row(&CASE), "| a \\| b | by hand | 0 | not played | – | – | – | – |");
        for (number, millis) in [(0, 100), (1, 2000), (2, 300)] {
            sum.add(&serde_json::from_str(&line(&CASE, number, &done(millis))).expect("a line"));
        }
        assert_eq!(sum.row(&CASE), "| a \\| b | by hand | 3 | nothing | – | 0.30 s, at most 2.00 s | 0 | 0 |");
        let mut skipped = Sum::default();
        let reason = line(&CASE, 0, &Played::Skipped("needs root".to_owned()));
        skipped.add(&serde_json::from_str(&reason).expect("a line"));
        assert_eq!(skipped.row(&CASE), "| a \\| b | by hand | 0 | skipped: needs root | – | – | – | – |");
    }

    #[test]
    fn a_run_replaces_the_lines_of_its_families_only() {
        let kill = line(&CASE, 7, &done(1));
        let stop = line(&Case { family: Family::Stops, ..CASE }, 0, &done(2));
        let old = format!("{stop}\n{kill}\n");
        let new = line(&CASE, 0, &done(3));
        assert_eq!(merge(&old, &new, &[Family::Kills]), format!("{new}\n{stop}\n"));
    }

    #[test]
    fn each_case_has_a_name_of_its_own_and_stands_in_its_family() {
        let mut names = BTreeSet::new();
        for family in Family::ALL {
            for case in family.cases() {
                assert_eq!(case.family, family, "{}", case.fault);
                assert!(names.insert(case.fault), "{} is there twice", case.fault);
                assert!(!case.how.is_empty(), "{}", case.fault);
            }
        }
    }
}
