//! What workers make of runs' tasks, by a table that the seed is: the same try of the same task ends the same, whoever does it and
//! however often.

use super::super::script::TaskPlan;
use super::super::truth::{Plan, Truth};
use super::super::{Rng, World};
use proto::id::TaskId;
use proto::{store, v1};
use serde_json::{Value, json};
use workflow::run::{StepRow, TaskStatus};

/// The exit code that the tasks of ours call final.
const FINAL: i32 = 9;
/// Losses that a task of a run survives: more than a history has, so that its end is its worker's.
const LOSSES: u32 = 1000;

/// One try of one task: its run by the steps that led to it, its reference name with its rounds, and how often it was tried before.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) struct Try {
    pub path: String,
    pub reference: String,
    pub tried: u32,
}

/// How a try ends.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct Outcome {
    pub status: TaskStatus,
    pub output: Value,
}

/// What every try ends with.
#[derive(Debug, Clone, Copy, Default)]
pub(in super::super) struct Table {
    pub seed: u64,
    pub failing: u64,
}

impl Table {
    fn luck(self, of: &Try, what: u64) -> Rng {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in of.path.bytes().chain([0]).chain(of.reference.bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        Rng::of(self.seed, &[6, hash, u64::from(of.tried), what])
    }

    pub(in super::super) fn outcome(self, of: &Try) -> Outcome {
        let rng = &mut self.luck(of, 0);
        let status = match rng.chance(self.failing) {
            true if rng.chance(200) => TaskStatus::FailedWithTerminalError,
            true => TaskStatus::Failed,
            false => TaskStatus::Completed,
        };
        let output = match status {
            TaskStatus::Completed => json!({"v": rng.range(0, 999), "c": rng.range(0, 2).to_string()}),
            _ => json!({}),
        };
        Outcome { status, output }
    }

    /// How long it takes, ms.
    pub(in super::super) fn takes_ms(self, of: &Try) -> u64 {
        let rng = &mut self.luck(of, 1);
        if rng.chance(150) { rng.range(3000, 9000) } else { rng.range(1, 1200) }
    }

    /// What else a worker does with it.
    pub(in super::super) fn manners(self, of: &Try) -> Manners {
        let rng = &mut self.luck(of, 2);
        match rng.range(0, 19) {
            0 => Manners::Forgets,
            1..=3 => Manners::GivesBack,
            4..=6 => Manners::GoesOn,
            _ => Manners::Plain,
        }
    }
}

/// How a worker that polls treats a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Manners {
    /// It works and says how it ended.
    Plain,
    /// It says in between that it works.
    GoesOn,
    /// It gives it back for a while, once.
    GivesBack,
    /// It never says anything.
    Forgets,
}

/// What the informer knows of a task of ours: the nth of [`super::draw::OURS`].
pub(in super::super) fn facts(nth: usize) -> store::Facts {
    let retry = v1::Retry {
        max_attempts: 1,
        max_infrastructure: LOSSES,
        backoff_ms: 100,
        backoff_cap_ms: 2000,
        final_codes: vec![FINAL.unsigned_abs()],
        ..v1::Retry::default()
    };
    store::Facts {
        name: super::draw::OURS[nth].to_owned(),
        kind: "command".to_owned(),
        cpu_millis: 250,
        memory_bytes: 250 << 20,
        retry: Some(retry),
        timeouts: Some(v1::Timeouts::default()),
        stop_on_disconnect: nth == 1,
        ..store::Facts::default()
    }
}

/// The same as the script has it of other tasks.
pub(in super::super) fn plan(nth: usize) -> TaskPlan {
    TaskPlan {
        submit_at_ms: 0,
        facts: facts(nth),
        array: None,
        start_in_ms: 0,
        outputs: false,
        inputs: false,
        endless: false,
    }
}

/// What its process does.
pub(in super::super) fn process(table: Table, of: &Try, nth: usize) -> Plan {
    let (outcome, runs_ms) = (table.outcome(of), table.takes_ms(of));
    let code = match outcome.status {
        TaskStatus::Completed => 0,
        TaskStatus::FailedWithTerminalError => FINAL,
        _ => 1,
    };
    let mut ending = v1::Ending { ran_ms: runs_ms, exit_code: Some(code), ..v1::Ending::default() };
    if code == 0 {
        ending.result = outcome.output.to_string().into_bytes();
    } else {
        ending.reason = v1::Reason::ExitCode.into();
    }
    let stops = facts(nth).stop_on_disconnect;
    Plan::plain(runs_ms, ending, stops)
}

/// The output that a run sees of a try that failed: what a task of ours left, or what a worker said, which is nothing.
pub(in super::super) fn left_by(outcome: &Outcome, ours: bool) -> Value {
    match outcome.status {
        TaskStatus::Completed => outcome.output.clone(),
        TaskStatus::FailedWithTerminalError if ours => json!({"exitCode": FINAL}),
        _ if ours => json!({"exitCode": 1}),
        _ => json!({}),
    }
}

impl World {
    /// Where a run stands among the runs of its root: the steps that led to it.
    pub(in super::super) fn path_of(&self, run: &str) -> Option<String> {
        if let Some(path) = self.flow.paths.get(run) {
            return Some(path.clone());
        }
        let rows = &self.center.store.flows;
        let Some((by, step)) = rows.starter(run) else { return Some(self.flow.root_of(run)?.to_string()) };
        let above = self.path_of(by)?;
        match step {
            None => Some(format!("{above}/{}", &run[by.len() + 1..])),
            Some(step) => {
                let row = rows.step(by, step)?;
                Some(format!("{above}/{}#{}", self.reference_of(by, row)?, row.retry_count))
            }
        }
    }

    pub(in super::super) fn reference_of(&self, run: &str, step: &StepRow) -> Option<String> {
        let stored = self.center.store.flows.stored(run).ok().flatten()?;
        Some(stored.run.full_reference(step))
    }

    /// A task of a run has become durable: from now on its processes know what they are.
    pub(in super::super) fn note_work(&mut self, task: TaskId, of_run: &store::OfRunRow, payload: u8) {
        let rows = &self.center.store.flows;
        let tried = rows.step(&of_run.run, of_run.step).map(|step| step.retry_count);
        let (Some(path), Some(tried)) = (self.path_of(&of_run.run), tried) else { return };
        let of = Try { path, reference: of_run.reference.clone(), tried };
        self.truth.of_runs.insert(task, (of, usize::from(payload - super::rows::PAYLOADS)));
    }
}

impl Truth {
    /// Whether a task does the work of a run's step.
    pub(in super::super) fn is_of_run(&self, task: TaskId) -> bool {
        self.of_runs.contains_key(&task)
    }
}
