//! Judges one round: what clients were told, what processes did, and what is there at the end, against the invariants.
//!
//! It knows no decision of informer or sidecar; each check is a sentence about the evidence. The numbers are those of the table of
//! invariants in ARCHITECTURE.md.

mod books;
mod ends;
mod processes;
#[cfg(test)]
mod tests;

use super::client::Chunk;
use super::job::Job;
use super::probe::{Act, What};
use super::recorder::{Event, Told};
use proto::v1;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

/// Everything that a round left to judge by.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// What was asked for.
    pub jobs: Vec<Job>,
    /// What clients were told, in that order.
    pub events: Vec<Event>,
    /// What processes did, in that order.
    pub acts: Vec<Act>,
    /// Every task at the end.
    pub tasks: Vec<v1::Task>,
    /// What happened to each, by id.
    pub histories: BTreeMap<String, Vec<v1::HistoryEvent>>,
    /// Logs by id and attempt, as they are read at the end.
    pub logs: BTreeMap<(String, u32), Vec<Chunk>>,
    /// Files in the directory of outputs, locks left out.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    /// Sidecars that are live at the end.
    pub sidecars: Vec<v1::Sidecar>,
    /// How many are to be.
    pub boxes: usize,
    /// Probes that still run when everything should be over.
    pub left: Vec<String>,
    /// What did not come about in time, one line each: a task without an end, books that are not closed.
    pub hung: Vec<String>,
    /// Whether a monitor was killed or stopped, so that an attempt may be lost with it.
    pub monitors_harmed: bool,
    /// Whether durations are judged too; then the beat interval.
    pub timed: Option<Duration>,
}

/// What is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// One line each, with the number of the invariant.
    pub violations: Vec<String>,
    /// Acknowledged tasks, results or log bytes that are gone.
    pub lost: u64,
    /// Keys, results, outputs or exclusive copies that are there twice.
    pub doubled: u64,
}

impl Verdict {
    fn violated(&mut self, invariant: u32, text: &str) {
        self.violations.push(format!("invariant {invariant}: {text}"));
    }

    fn lost(&mut self, invariant: u32, text: &str) {
        self.lost += 1;
        self.violated(invariant, text);
    }

    fn doubled(&mut self, invariant: u32, text: &str) {
        self.doubled += 1;
        self.violated(invariant, text);
    }
}

/// The judgement.
#[must_use]
pub fn judge(evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::default();
    for hung in &evidence.hung {
        verdict.violated(4, hung);
    }
    submits(evidence, &mut verdict);
    ends::judge(evidence, &mut verdict);
    processes::judge(evidence, &mut verdict);
    books::judge(evidence, &mut verdict);
    verdict
}

impl Evidence {
    fn job_of<'e>(&'e self, task: &v1::Task) -> Option<&'e Job> {
        self.jobs.iter().find(|job| job.key == task.name)
    }

    fn acts_of<'e>(&'e self, name: &'e str, attempt: u32) -> impl Iterator<Item = &'e Act> {
        self.acts.iter().filter(move |act| act.name == name && act.attempt == attempt)
    }

    /// The code that the main process of an attempt said it ends with.
    fn said_end(&self, name: &str, attempt: u32) -> Option<(i32, Duration)> {
        self.acts_of(name, attempt).find_map(|act| match act.what {
            What::End(code) => Some((code, act.at)),
            _ => None,
        })
    }

    fn started(&self, name: &str, attempt: u32) -> bool {
        self.acts_of(name, attempt).any(|act| matches!(act.what, What::Start(..)))
    }
}

/// 1 and 2: what was acknowledged is there, once for each key, and no key takes another payload.
fn submits(evidence: &Evidence, verdict: &mut Verdict) {
    let there: BTreeSet<&str> = evidence.tasks.iter().map(|task| task.id.as_str()).collect();
    let mut ids: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for event in &evidence.events {
        match &event.told {
            Told::Submitted { key, id } => {
                ids.entry(key).or_default().insert(id);
            }
            Told::OtherPayload { key, refused: false } => {
                verdict.doubled(2, &format!("another payload under key {key} was not refused"));
            }
            _ => {}
        }
    }
    for (key, ids) in &ids {
        for id in ids.iter().filter(|id| !there.contains(**id)) {
            verdict.lost(1, &format!("task {id} of key {key} was acknowledged and is not there"));
        }
        if ids.len() > 1 {
            verdict.doubled(2, &format!("key {key} was acknowledged as {ids:?}"));
        }
    }
    for job in &evidence.jobs {
        let tasks: Vec<&str> =
            evidence.tasks.iter().filter(|task| task.name == job.key).map(|task| task.id.as_str()).collect();
        if tasks.len() > 1 {
            verdict.doubled(2, &format!("key {} has the tasks {tasks:?}", job.key));
        }
    }
}
