//! A failing history is made smaller: what it does not need is left out, and what is left still fails the same check.

use super::script::Script;
use super::{Failure, Options, play};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Histories that a shrinking may play. Each is a few milliseconds.
const MOST_PLAYS: usize = 1500;
/// Other timings tried for each candidate: what is left out moves everything else.
const NOISES: u64 = 3;

/// What of a history is played. Nothing is left out by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keep {
    /// Which tasks.
    pub tasks: Option<BTreeSet<usize>>,
    /// What clients and operators do besides.
    pub acts: Option<BTreeSet<usize>>,
    /// Which faults.
    pub strikes: Option<BTreeSet<usize>>,
    /// What of the workflows: starts, operations, crashes around their commits.
    pub flow: Option<BTreeSet<usize>>,
    /// How many boxes.
    pub boxes: Option<usize>,
    /// Messages and commits take no time worth telling.
    pub plain: bool,
    /// Which of several timings.
    pub noise: u64,
}

/// Whether a list's element is played.
pub(super) fn keeps(kept: Option<&BTreeSet<usize>>, nth: usize) -> bool {
    kept.is_none_or(|kept| kept.contains(&nth))
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for (name, kept) in
            [("tasks", &self.tasks), ("acts", &self.acts), ("faults", &self.strikes), ("flow", &self.flow)]
        {
            if let Some(kept) = kept {
                let list = kept.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
                parts.push(format!("{name}={list}"));
            }
        }
        parts.extend(self.boxes.map(|boxes| format!("boxes={boxes}")));
        parts.extend(self.plain.then(|| "plain".to_owned()));
        parts.extend((self.noise > 0).then(|| format!("noise={}", self.noise)));
        write!(f, "{}", parts.join(" "))
    }
}

impl FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut keep = Self::default();
        for part in text.split_whitespace() {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let number = |text: &str| text.parse::<usize>().map_err(|_| format!("{part:?} names no number"));
            let list = || value.split(',').filter(|text| !text.is_empty()).map(number).collect::<Result<_, _>>();
            match name {
                "tasks" => keep.tasks = Some(list()?),
                "acts" => keep.acts = Some(list()?),
                "faults" => keep.strikes = Some(list()?),
                "flow" => keep.flow = Some(list()?),
                "boxes" => keep.boxes = Some(number(value)?),
                "noise" => keep.noise = number(value)? as u64,
                "plain" => keep.plain = true,
                _ => return Err(format!("{part:?} is none of tasks=, acts=, faults=, flow=, boxes=, noise=, plain")),
            }
        }
        Ok(keep)
    }
}

/// One list of a history.
#[derive(Debug, Clone, Copy)]
enum List {
    Strikes,
    Acts,
    Tasks,
    Flow,
}

struct Shrinking {
    best: Options,
    failure: Failure,
    plays: usize,
}

/// The smallest history found that fails the same check, and how it fails.
#[must_use]
pub fn shrink(options: &Options, failure: Failure) -> (Options, Failure) {
    let script = Script::of(options);
    let all = |count: usize| Some((0..count).collect());
    let mut best = options.clone();
    best.keep.tasks.get_or_insert(all(script.tasks.len()).unwrap_or_default());
    best.keep.acts.get_or_insert(all(script.acts.len()).unwrap_or_default());
    best.keep.strikes.get_or_insert(all(script.strikes.len()).unwrap_or_default());
    if let Some(flow) = &script.flow {
        best.keep.flow.get_or_insert(all(flow.entries.len()).unwrap_or_default());
    }
    let mut it = Shrinking { best, failure, plays: 0 };
    let mut before = None;
    while before.as_ref() != Some(&it.best.keep) && it.plays < MOST_PLAYS {
        before = Some(it.best.keep.clone());
        it.fewer_boxes(script.boxes.len());
        for list in [List::Strikes, List::Acts, List::Tasks, List::Flow] {
            it.fewer(list);
        }
        it.attempt(|keep| keep.plain = true);
    }
    (it.best, it.failure)
}

impl Shrinking {
    /// Plays a candidate under a few timings; keeps it if it fails the same check.
    fn attempt(&mut self, change: impl Fn(&mut Keep)) -> bool {
        let mut candidate = self.best.clone();
        change(&mut candidate.keep);
        if candidate.keep == self.best.keep {
            return false;
        }
        for noise in std::iter::once(self.best.keep.noise).chain(0..NOISES) {
            candidate.keep.noise = noise;
            self.plays += 1;
            if let Err(failure) = play(&candidate)
                && failure.wrong.check == self.failure.wrong.check
            {
                (self.best, self.failure) = (candidate, *failure);
                return true;
            }
        }
        false
    }

    fn fewer_boxes(&mut self, all: usize) {
        let now = self.best.keep.boxes.unwrap_or(all);
        for boxes in 1..now {
            if self.attempt(|keep| keep.boxes = Some(boxes)) {
                return;
            }
        }
    }

    /// Leaves out halves, quarters and so on down to single elements.
    fn fewer(&mut self, list: List) {
        let mut chunk = self.list(list).len().div_ceil(2);
        while chunk > 0 {
            let mut from = 0;
            while from < self.list(list).len() && self.plays < MOST_PLAYS {
                let left: BTreeSet<usize> = self
                    .list(list)
                    .iter()
                    .enumerate()
                    .filter(|(at, _)| *at < from || *at >= from + chunk)
                    .map(|(_, nth)| *nth)
                    .collect();
                if !self.attempt(|keep| *kept(keep, list) = Some(left.clone())) {
                    from += chunk;
                }
            }
            chunk = if chunk == 1 { 0 } else { chunk.div_ceil(2) };
        }
    }

    fn list(&mut self, list: List) -> BTreeSet<usize> {
        kept(&mut self.best.keep, list).clone().unwrap_or_default()
    }
}

fn kept(keep: &mut Keep, list: List) -> &mut Option<BTreeSet<usize>> {
    match list {
        List::Strikes => &mut keep.strikes,
        List::Acts => &mut keep.acts,
        List::Tasks => &mut keep.tasks,
        List::Flow => &mut keep.flow,
    }
}
