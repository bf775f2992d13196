//! What must hold of runs whatever is done to them: after every commit, and once everything is over.

use super::super::judge::{Check, Wrong, wrong};
use super::super::truth::is_terminal;
use super::super::{Step, World};
use super::draw::{OURS, POLLED};
use super::rows::{Rows, is_live, own};
use super::{Edge, FlowStep};
use informer::machine::{Batch, RunChange, StoredRun};
use proto::store;
use std::collections::BTreeSet;
use workflow::definition::Kind;
use workflow::run::{Asked, Phase, StepIx, StepRow, TaskStatus};

impl World {
    /// A batch is on its way to the disk: perhaps it is one around which the informer dies.
    pub(in super::super) fn meet_edges(&mut self, batch: &Batch) {
        if !self.flow.is_there() {
            return;
        }
        for edge in Edge::of(&self.center.store, batch) {
            *self.coverage.edges.entry((edge, "in flight")).or_default() += 1;
            let Some(at) = self.flow.kills.iter().position(|(wanted, _)| *wanted == edge) else { continue };
            let (_, durable) = self.flow.kills.remove(at);
            *self.coverage.edges.entry((edge, if durable { "durable" } else { "lost" })).or_default() += 1;
            let life = self.center.life;
            self.tell(|| format!("FAULT: the informer is killed at {edge:?}, durable: {durable}"));
            self.agenda.after(0, Step::Flow(FlowStep::Kill { life, durable }));
            return;
        }
    }

    /// A batch has become durable.
    pub(in super::super) fn judge_flow_commit(&mut self, batch: &Batch) -> Result<(), Wrong> {
        for change in batch.runs.iter().filter(|change| change.fresh) {
            if let Some(path) = self.path_of(&change.id) {
                self.flow.paths.insert(change.id.to_string(), path);
            }
        }
        for change in &batch.tasks {
            if let (Some(of_run), Some(payload)) = (&change.row.of_run, change.row.payload.first())
                && let Some(task) = proto::id::TaskId::from_bytes(&change.row.id)
                && !self.truth.is_of_run(task)
            {
                self.note_work(task, of_run, *payload);
            }
        }
        for change in &batch.runs {
            let Some(rows) = self.center.store.flows.runs.get(&*change.id) else { continue };
            self.judge_over(&change.id, rows)?;
            if change.steps.iter().any(is_opened) {
                self.judge_joins(change)?;
            }
        }
        for change in &batch.runs {
            self.count_types(change);
        }
        self.judge_limits()
    }

    /// Nothing of a run goes on after its end, nor do the runs that it has waited for.
    fn judge_over(&self, id: &str, rows: &Rows) -> Result<(), Wrong> {
        let store = &self.center.store;
        let Some(row) = own(&rows.row) else {
            return wrong(Check::RunsConsistent, format!("the row of run {id} is none"));
        };
        if row.status.is_ended() || row.ending.is_some() {
            let work = store.flows.work.range((id.to_owned(), 0)..=(id.to_owned(), StepIx::MAX));
            let goes_on = |task: &store::TaskRow| !is_terminal(task) && !task.cancelling;
            for ((_, step), task) in work {
                if store.tasks.get(task).is_some_and(goes_on) {
                    return wrong(
                        Check::NothingAfterTheEnd,
                        format!("run {id} is over, and {task} of its step {step} goes on"),
                    );
                }
            }
        }
        let meddled = self.flow.root_of(id).is_none_or(|root| self.flow.meddled.contains(&root));
        let Some(parent) = row.parent.filter(|_| !meddled) else { return Ok(()) };
        let around = store.flows.runs.get(&parent.run).and_then(|rows| own(&rows.row));
        let over = around.is_none_or(|around| around.status.is_ended() || around.ending.is_some());
        if over && !row.status.is_ended() && row.ending.is_none() {
            return wrong(
                Check::ChildEndsWithIt,
                format!("run {} is over, and run {id}, which it waited for, is not", parent.run),
            );
        }
        Ok(())
    }

    /// A join opens when what it waits for is over.
    fn judge_joins(&self, change: &RunChange) -> Result<(), Wrong> {
        let meddled = self.flow.root_of(&change.id).is_none_or(|root| self.flow.meddled.contains(&root));
        let stored =
            self.center.store.flows.stored(&change.id).map_err(|what| Wrong { check: Check::RunsConsistent, what })?;
        let Some(stored) = stored.filter(|_| !meddled) else { return Ok(()) };
        for join in change.steps.iter().filter(|step| is_opened(step)) {
            if let Some(live) = awaited(&stored, join) {
                let (join, live) = (stored.run.full_reference(join), stored.run.full_reference(live));
                return wrong(
                    Check::JoinsWait,
                    format!("{join} of run {} has opened, and {live} is not over", change.id),
                );
            }
        }
        Ok(())
    }

    /// No more of a name is under way than its definition allows.
    fn judge_limits(&self) -> Result<(), Wrong> {
        let limit = |name: &str| self.flow.script.tasks.get(name).and_then(|task| task["concurrentExecLimit"].as_u64());
        for name in OURS.into_iter().chain(POLLED) {
            let Some(limit) = limit(name) else { continue };
            let ours = self.center.store.tasks.values().filter(|row| {
                let named = row.facts.as_ref().is_some_and(|facts| facts.name == name);
                row.of_run.is_some() && named && !is_terminal(row) && !row.cancelling
            });
            let worker = POLLED.iter().position(|polled| *polled == name).map(|nth| format!("worker{nth}"));
            let steps = self.center.store.flows.runs.values().flat_map(|rows| rows.steps.values());
            let polled = steps.filter(|step| step.worker.is_some() && step.worker == worker && step.is_live());
            let count = ours.count() + polled.count();
            if count as u64 > limit {
                return wrong(Check::LimitsHold, format!("{count} tasks {name} are under way, and {limit} may be"));
            }
        }
        Ok(())
    }

    /// Once everything is over: every run has ended, what was left out was left out once, and all came to what it means.
    pub(in super::super) fn judge_runs_end(&mut self) -> Result<(), Wrong> {
        let left = |what: String| wrong(Check::EverythingEnds, what);
        if let Some(entry) = self.flow.unanswered.first() {
            return left(format!("start {entry} was never answered"));
        }
        for (id, rows) in &self.center.store.flows.runs {
            if is_live(&rows.row) {
                let open: Vec<String> = rows
                    .steps
                    .values()
                    .filter(|step| step.is_live())
                    .map(|step| format!("{} {:?} {}", step.step, step.phase, step.status.as_str()))
                    .collect();
                let status = own(&rows.row).map(|own| (own.status, own.ending));
                return left(format!("run {id} never ended: {status:?}, {open:?}"));
            }
            let mut skipped = BTreeSet::new();
            for step in rows.steps.values().filter(|step| step.status == TaskStatus::Skipped) {
                if !skipped.insert((step.node, step.scope.clone())) {
                    return wrong(Check::StepOnce, format!("step {} of run {id} was left out twice", step.step));
                }
            }
        }
        self.coverage.runs += self.center.store.flows.runs.len() as u64;
        self.compare_runs()
    }

    /// What is acknowledged is there.
    pub(in super::super) fn judge_runs(&self) -> Result<(), Wrong> {
        let lost = self.flow.answered.values().find(|run| !self.center.store.flows.runs.contains_key(*run));
        match lost {
            Some(run) => wrong(Check::AcknowledgedIsKept, format!("run {run} was acknowledged and is lost")),
            None => Ok(()),
        }
    }

    fn count_types(&mut self, change: &RunChange) {
        let ended: Vec<&StepRow> = change.steps.iter().filter(|step| step.status.is_ended()).collect();
        if ended.is_empty() {
            return;
        }
        let Ok(Some(stored)) = self.center.store.flows.stored(&change.id) else { return };
        for step in ended {
            let node = stored.run.node_of(step);
            let own = stored.run.plans().get(step.node.part as usize).and_then(|plan| plan.node(step.node.node));
            let kind = match &node.kind {
                _ if own.is_some_and(|own| matches!(own.kind, Kind::Dynamic { .. })) => "DYNAMIC",
                Kind::Simple if POLLED.contains(&node.name.as_str()) => "SIMPLE, polled for",
                Kind::Switch(switch) if switch.decision => "DECISION",
                Kind::DynamicFork(_) => "FORK_JOIN_DYNAMIC",
                kind => kind.type_name(),
            };
            *self.coverage.types.entry((kind.to_owned(), step.status.as_str())).or_default() += 1;
        }
    }
}

/// A join that has opened, in this batch or before.
fn is_opened(step: &StepRow) -> bool {
    let over = step.status.is_ended() && step.status != TaskStatus::Canceled && step.status != TaskStatus::Skipped;
    step.fork.is_some() && (step.phase == Phase::Asked(Asked::Joined) || over)
}

/// Something that a join waits for and that is not over.
fn awaited<'r>(stored: &'r StoredRun, join: &StepRow) -> Option<&'r StepRow> {
    let run = &stored.run;
    let Kind::Join { on } = &run.node_of(join).kind else { return None };
    let fork = run.step(join.fork?)?;
    let within = |step: &&StepRow| {
        let mut at = step.parent;
        while let Some(parent) = at.filter(|parent| *parent != fork.step) {
            at = run.step(parent).and_then(|parent| parent.parent);
        }
        at == Some(fork.step)
    };
    let live = || run.steps().filter(|step| step.is_live()).filter(within);
    if matches!(run.node_of(fork).kind, Kind::DynamicFork(_)) {
        return live().next();
    }
    for name in on {
        let named = |step: &&StepRow| {
            step.scope == join.scope && run.plans()[0].find(name) == Some(step.node.node) && step.node.part == 0
        };
        let latest = run.steps().filter(named).max_by_key(|step| step.step);
        let open = match latest {
            Some(latest) => Some(latest).filter(|latest| latest.is_live()),
            // It lies on a way that was not taken.
            None => live().next(),
        };
        if open.is_some() {
            return open;
        }
    }
    None
}
