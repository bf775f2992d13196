//! Runs as they ended, against what their definitions mean.

use super::super::World;
use super::super::judge::{Check, Wrong, wrong};
use super::draw::Entry;
use super::model::{Meant, MeantStep, Model};
use super::work::{Outcome, Try};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use workflow::run::{RunStatus, TaskStatus};

/// A run as the store has it at the end.
struct Ended {
    id: String,
    status: RunStatus,
    output: Value,
    steps: Vec<Shown>,
}

struct Shown {
    reference: String,
    tried: u32,
    status: TaskStatus,
    input: Value,
    output: Value,
    /// Its worker was not heard in time, whatever has become of that.
    timed_out: bool,
}

impl World {
    /// Every start with whose runs nobody has meddled came to what its definition means.
    pub(in super::super) fn compare_runs(&mut self) -> Result<(), Wrong> {
        // What a backup did not know was not found, or was done twice.
        if self.flow.disturbed {
            return Ok(());
        }
        for (entry, run) in self.flow.answered.clone() {
            if !self.flow.meddled.contains(&entry) && !self.may_time_out() {
                self.compare_start(entry, &run)?;
            }
        }
        Ok(())
    }

    /// A run that may time out comes as far as it comes.
    fn may_time_out(&self) -> bool {
        self.flow.script.definitions.iter().any(|definition| definition.get("timeoutSeconds").is_some())
    }

    fn compare_start(&mut self, entry: usize, root: &str) -> Result<(), Wrong> {
        let ended = self.ended_runs(root)?;
        let Entry::Start { nth, input } = &self.flow.script.entries[entry].1 else { return Ok(()) };
        let table = self.flow.table;
        // A worker that was not heard in time is what happened, whatever it would have said.
        let outcome = |of: &Try, ours: bool| {
            let run = ended.get(&of.path);
            let mut shown = run.into_iter().flat_map(|run| &run.steps);
            let timed_out = |step: &Shown| step.reference == of.reference && step.tried == of.tried && step.timed_out;
            match !ours && shown.any(timed_out) {
                true => Outcome { status: TaskStatus::TimedOut, output: json!({}) },
                false => table.outcome(of),
            }
        };
        let definitions = &self.flow.script.definitions;
        let name = |definition: &'_ Value| definition["name"].as_str().unwrap_or_default().to_owned();
        let names: Vec<String> = definitions.iter().map(name).collect();
        let by_name = names.iter().map(String::as_str).zip(definitions).collect();
        let mut model = Model {
            definitions: by_name,
            tasks: &self.flow.script.tasks,
            outcome: &outcome,
            runs: BTreeMap::new(),
            unsure: false,
        };
        model.read(entry.to_string(), &names[*nth], input.clone());
        let (meant, unsure) = (model.runs, model.unsure);
        if unsure {
            self.coverage.unsure += 1;
            return Ok(());
        }
        for (path, run) in &ended {
            let Some(what) = meant.get(path) else {
                return wrong(Check::RunsMeanIt, format!("run {} ({path}) is not in its definition", run.id));
            };
            self.coverage.compared += 1;
            if let Err(found) = compare(run, what, is_sure(&meant, path)) {
                let definitions = Value::from(definitions.clone());
                return wrong(
                    Check::RunsMeanIt,
                    format!("run {} ({path}): {found}; its definitions: {definitions}", run.id),
                );
            }
        }
        match meant.keys().find(|path| is_sure(&meant, path) && !ended.contains_key(*path)) {
            Some(path) => wrong(Check::RunsMeanIt, format!("{path} was never started")),
            None => Ok(()),
        }
    }

    /// The runs that a start has led to, by their paths.
    fn ended_runs(&self, root: &str) -> Result<BTreeMap<String, Ended>, Wrong> {
        let rows = &self.center.store.flows;
        let inner = |id: &&String| *id == root || id.strip_prefix(root).is_some_and(|rest| rest.starts_with('.'));
        let mut ended = BTreeMap::new();
        for id in rows.runs.keys().filter(inner) {
            let broken = |what: String| Wrong { check: Check::RunsConsistent, what };
            let stored = rows.stored(id).map_err(broken)?;
            let (Some(stored), Some(path)) = (stored, self.path_of(id)) else {
                return wrong(Check::RunsConsistent, format!("nobody has started run {id}"));
            };
            let steps = stored.run.steps().filter(|step| step.mapped).map(|step| Shown {
                reference: stored.run.full_reference(step),
                tried: step.retry_count,
                status: step.status,
                input: rows.body(step.input),
                output: rows.body(step.output),
                timed_out: step.reason.as_deref().is_some_and(|reason| reason.contains("response timeout")),
            });
            let row = stored.run.row();
            let (status, output, steps) = (row.status, rows.body(row.output), steps.collect());
            ended.insert(path, Ended { id: id.clone(), status, output, steps });
        }
        Ok(ended)
    }
}

/// Nothing around a run can have cut it short.
fn is_sure(meant: &BTreeMap<String, Meant>, path: &str) -> bool {
    let mut at = path;
    while let Some((around, _)) = at.rsplit_once('/') {
        if !meant.get(around).is_some_and(|around| around.exact) {
            return false;
        }
        at = around;
    }
    true
}

fn compare(run: &Ended, meant: &Meant, sure: bool) -> Result<(), String> {
    let status = run.status.as_str();
    if !meant.ends.contains(status) && (sure || run.status != RunStatus::Terminated) {
        return Err(format!("it ended {status}, and should end {:?}", meant.ends));
    }
    let whole = meant.exact && sure;
    if let Some(output) = meant.output.as_ref().filter(|output| whole && **output != run.output) {
        return Err(format!("its output is {}, and should be {output}", run.output));
    }
    let mut left: Vec<&MeantStep> = meant.steps.iter().chain(meant.dropped.iter().filter(|_| !whole)).collect();
    for step in &run.steps {
        let name = format!("{}, try {}, {}", step.reference, step.tried, step.status.as_str());
        let same = |known: &&MeantStep| known.reference == step.reference && known.tried == step.tried;
        let Some(at) = left.iter().position(same) else { return Err(format!("{name}: it should not be there")) };
        let known = left.remove(at);
        if !whole && step.status == TaskStatus::Canceled {
            continue;
        }
        if known.status != step.status {
            return Err(format!("{name}: it should be {}", known.status.as_str()));
        }
        for (what, is, should) in [("input", &step.input, &known.input), ("output", &step.output, &known.output)] {
            if let Some(should) = should.as_ref().filter(|should| *should != is) {
                return Err(format!("{name}: its {what} is {is}, and should be {should}"));
            }
        }
    }
    match left.first() {
        Some(step) if whole => Err(format!("{}, try {}: it is missing", step.reference, step.tried)),
        _ => Ok(()),
    }
}
