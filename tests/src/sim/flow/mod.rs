//! Runs of workflows in the simulated world: clients that register, start and meddle, workers that poll, what answers runs' questions,
//! and the judge of all of it.
//!
//! | file | models |
//! |---|---|
//! | `draw` | definitions, starts and operations, drawn from the seed |
//! | `rows` | what the store keeps of workflows, and the reading side of the shell |
//! | `desk` | the shell's part: questions answered, children prepared, events completed |
//! | `clients` | who registers, starts, signals and operates |
//! | `workers` | who polls |
//! | `work` | what every try of every task ends with |
//! | `edge` | commits around which the informer is killed |
//! | `model` | what a definition means, by a second and simpler reading |
//! | `compare` | runs as they ended against that reading |
//! | `reached` | what must have been reached |
//! | `laws` | what must hold of runs after every commit, and at the end |
//!
//! The questions of runs are answered by the product's own pure evaluation, over simulated bodies: an answer is made when the question
//! leaves and arrives some time later, or never if the informer is killed meanwhile. Scripts have no engine here; the loops' conditions
//! are of one form that is understood.

mod clients;
mod compare;
mod desk;
mod draw;
mod edge;
mod laws;
mod model;
mod reached;
mod rows;
mod work;
mod workers;

pub use edge::Edge;

pub(super) use desk::complete;
pub(super) use desk::{Asked, Desk};
pub(super) use draw::{FlowScript, OURS, Verb};
pub(super) use rows::{Bodies, FlowRows};
pub(super) use work::{Table, Try, plan, process};

use super::disk::Store;
use informer::machine::{FlowEvent, PolledWork};
use std::collections::{BTreeMap, BTreeSet};

/// The first byte of the payloads of runs' tasks.
pub(super) use rows::PAYLOADS;

/// Something that happens about workflows.
#[derive(Debug, Clone)]
pub(super) enum FlowStep {
    /// A client registers the nth definition, until it is answered.
    Put(usize),
    /// The nth entry of the script comes.
    Entry(usize),
    /// A client starts, until it is answered.
    Start(usize),
    /// The evaluator has answered.
    Answered { life: u64, event: Box<FlowEvent>, bodies: Bodies },
    /// A worker polls; only its latest poll counts.
    Poll { worker: usize, no: u64 },
    /// A worker says something of a task, until it is answered.
    Say { worker: usize, work: Box<PolledWork>, what: Saying },
    /// Somebody looks after what waits for a word; once faults have stopped, after what was paused, too.
    Look,
    /// The informer dies around a commit.
    Kill { life: u64, durable: bool },
}

/// What a worker says of its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Saying {
    End,
    GoesOn,
    GivesBack,
}

/// Everything that is known outside of the informer.
#[derive(Default)]
pub(super) struct Flow {
    pub script: FlowScript,
    pub table: Table,
    /// Definitions that are registered, as a client was told.
    registered: BTreeMap<usize, u32>,
    /// Starts that were answered: the entry, and the run.
    answered: BTreeMap<usize, String>,
    unanswered: BTreeSet<usize>,
    /// The paths of all runs there have been: a loop may forget the steps that started them.
    paths: BTreeMap<String, String>,
    /// Which entry each id stands for that a client has named.
    named: BTreeMap<String, usize>,
    /// Starts with whose runs somebody has meddled.
    meddled: BTreeSet<usize>,
    /// Definitions were taken away, or a backup restored: children may not have been found.
    disturbed: bool,
    /// Commits around which the informer is yet to be killed.
    kills: Vec<(Edge, bool)>,
    /// Steps that workers have.
    handed: BTreeSet<(String, u32)>,
    given_back: BTreeSet<(String, u32)>,
    said: BTreeSet<(String, u32)>,
    polls: [u64; draw::POLLED.len()],
}

impl Flow {
    pub(super) fn new(seed: u64, script: FlowScript) -> Self {
        let table = Table { seed, failing: script.failing };
        Self { script, table, ..Self::default() }
    }

    /// The history has workflows.
    pub(super) fn is_there(&self) -> bool {
        !self.script.definitions.is_empty()
    }

    /// The entry that a run, or one of its children, began with.
    fn root_of(&self, run: &str) -> Option<usize> {
        let root = run.split_once('.').map_or(run, |(root, _)| root);
        self.named.get(root).copied()
    }

    /// The informer begins again with a backup.
    pub(super) fn on_restored(&mut self, backup: &Store) {
        self.disturbed = true;
        self.answered.retain(|_, run| backup.flows.runs.contains_key(run));
        for (run, entry) in &self.named {
            if backup.flows.runs.contains_key(run) {
                self.answered.insert(*entry, run.clone());
                self.unanswered.remove(entry);
            }
        }
        self.handed.clear();
    }

    pub(super) fn has_unanswered(&self) -> bool {
        !self.unanswered.is_empty()
    }
}
