//! What brings a run back after its end: retry, rerun from a task, restart.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Transition;
use super::event::{Command, Outcome, Refused, RunEnd};
use super::flow::Place;
use super::row::{Flow, Phase, RunStatus, StepIx, StepRow, TaskStatus};
use crate::definition::Kind;
use crate::evaluate::Handle;
use crate::plan::{Parent, Plan};

impl Transition<'_> {
    /// Tries again, in place, what failed or was cancelled.
    pub(super) fn on_retry(&mut self) -> Result<Outcome, Refused> {
        let status = self.run.row.status;
        if !matches!(status, RunStatus::Failed | RunStatus::TimedOut | RunStatus::Terminated) {
            return Err(Refused::WrongStatus(
                status.as_str(),
                "only one that failed, timed out or was terminated can be retried",
            ));
        }
        if self.stopped().is_empty() && self.tolerated().is_empty() && self.run.index.held.is_empty() {
            return Err(Refused::NothingToRetry);
        }
        self.bring_back();
        for step in self.tolerated() {
            // What followed it was made of its failure, so it is done again.
            if self.run.steps.contains_key(&step) {
                self.rewind(step);
                self.try_again(step, 0);
            }
        }
        self.revive();
        Ok(Outcome::Applied)
    }

    /// The run that waits for this one goes on after its end.
    pub(super) fn on_revive(&mut self) -> Result<Outcome, Refused> {
        if self.run.row.ending.is_some() {
            // Its output is not wanted any more.
            self.end_run(None, None);
        }
        match self.run.row.status {
            RunStatus::Failed | RunStatus::TimedOut | RunStatus::Terminated => return self.on_retry(),
            RunStatus::Running | RunStatus::Paused | RunStatus::Completed => {}
        }
        self.row().era += 1;
        let row = &self.run.row;
        let (status, output, reason, era) = (row.status, row.output, row.reason.clone(), row.era);
        if let Some(parent) = row.parent.clone() {
            self.command(match status {
                RunStatus::Completed => Command::TellParent { parent, end: RunEnd { status, output, reason, era } },
                _ => Command::TellReopened { parent, era },
            });
        }
        Ok(Outcome::Applied)
    }

    /// Goes back to a task.
    pub(super) fn on_rerun(&mut self, from: Option<String>, input: Option<Handle>) -> Result<Outcome, Refused> {
        let status = self.run.row.status;
        if !status.is_ended() {
            return Err(Refused::WrongStatus(status.as_str(), "only one that is over can be rerun"));
        }
        let Some(name) = from else {
            if input.is_some() {
                self.row().input = input;
            }
            self.anew();
            return Ok(Outcome::Applied);
        };
        let Some(step) = self.run.see(&name) else {
            let known = self.run.find(&name).is_some();
            return Err(if known { Refused::NotScheduled(name) } else { Refused::NoSuchTask(name) });
        };
        self.bring_back();
        self.rewind(step);
        let row = self.run.step_row(step).clone();
        self.remove(step);
        self.reindex();
        self.redo(&row, input);
        self.revive();
        Ok(Outcome::Applied)
    }

    /// Makes a task's step anew, in its old place.
    fn redo(&mut self, old: &StepRow, input: Option<Handle>) {
        let worked = matches!(self.run.spec(old).kind, Kind::Simple | Kind::Http);
        let given = if worked { old.given } else { input.or(old.given) };
        let place =
            Place { parent: old.parent, scope: old.scope.clone(), order: old.order.clone(), fork: old.fork, given };
        let Some(step) = self.make(old.node, place) else { return };
        if old.emitted.is_some() {
            self.change(step, |row| row.emitted.clone_from(&old.emitted));
        }
        match input {
            Some(input) if worked => {
                self.change(step, |row| {
                    row.input = Some(input);
                    row.mapped = true;
                    row.resolved = old.resolved;
                });
                self.schedule(step);
            }
            _ => self.begin_step(step, 0),
        }
    }

    /// Begins anew, perhaps by another version.
    pub(super) fn on_restart(&mut self, latest: Option<(Arc<Plan>, Option<Handle>)>) -> Result<Outcome, Refused> {
        let status = self.run.row.status;
        if !status.is_ended() {
            return Err(Refused::WrongStatus(status.as_str(), "only one that is over can be restarted"));
        }
        if !self.run.plans[0].settings.restartable {
            return Err(Refused::NotRestartable);
        }
        if let Some((plan, variables)) = latest {
            self.row().version = plan.settings.version;
            self.row().first_variables = variables;
            self.run.plans[0] = plan;
        }
        self.anew();
        Ok(Outcome::Applied)
    }

    fn anew(&mut self) {
        let steps: Vec<_> = self.run.steps.keys().copied().collect();
        steps.into_iter().for_each(|step| self.remove(step));
        self.run.plans.truncate(1);
        self.run.parts.clear();
        self.out.parts.clear();
        self.out.parts_removed = true;
        self.reindex();
        self.bring_back();
        let row = self.row();
        row.variables = row.first_variables;
        (row.root_done, row.troubled) = (false, false);
        row.parts = 0;
        row.wave = 0;
        self.begin();
    }

    /// The run goes on after its end, and tells who waited for it.
    fn bring_back(&mut self) {
        let now = self.now.ms;
        let row = self.row();
        row.status = RunStatus::Running;
        (row.ending, row.ended_ms, row.output, row.reason, row.failed_step) = (None, None, None, None, None);
        row.since_ms = now;
        row.era += 1;
        let (parent, era) = (row.parent.clone(), row.era);
        self.arm_run();
        if let Some(parent) = parent {
            self.command(Command::TellReopened { parent, era });
        }
    }

    /// The latest tries that ended badly and that nothing followed.
    fn stopped(&self) -> Vec<StepIx> {
        self.latest_where(|row| row.flow == Flow::Stopped && !row.status.is_success())
    }

    /// The latest tries that failed and were passed all the same: permissive ones.
    fn tolerated(&self) -> Vec<StepIx> {
        self.latest_where(|row| row.flow == Flow::Gone && !row.status.is_success())
    }

    fn latest_where(&self, is: impl Fn(&StepRow) -> bool) -> Vec<StepIx> {
        let latest = self.run.index.instances.values().copied();
        let mut steps: Vec<_> = latest.filter(|step| is(self.run.step_row(*step))).collect();
        steps.sort_by(|a, b| self.run.step_row(*a).order.cmp(&self.run.step_row(*b).order));
        steps
    }

    /// Sets going again whatever was stopped, and takes up what was put off.
    fn revive(&mut self) {
        let stopped = self.stopped();
        let mut joins = Vec::new();
        for step in stopped {
            let row = self.run.step_row(step);
            match &self.run.node(row.node).kind {
                Kind::Join { .. } | Kind::ExclusiveJoin { .. } => joins.push(step),
                Kind::DoWhile(_) if row.iteration > 0 => self.revive_loop(step),
                Kind::SubWorkflow(_) if row.child.is_some() => self.revive_child(step, true),
                _ => self.try_again(step, 0),
            }
        }
        for join in joins {
            self.reopen(join, Phase::Joining);
            if matches!(self.run.node(self.run.step_row(join).node).kind, Kind::Join { .. }) {
                self.count_join(join);
            } else {
                self.check_exclusive(join);
            }
        }
        self.go_on();
    }

    fn reopen(&mut self, step: StepIx, phase: Phase) {
        self.change(step, |row| {
            row.status = TaskStatus::InProgress;
            row.phase = phase;
            row.flow = Flow::Open;
            (row.ended_ms, row.output, row.reason) = (None, None, None);
        });
    }

    /// A loop goes on in its round; when nothing of the round is left to do, its end is looked at again.
    fn revive_loop(&mut self, step: StepIx) {
        self.reopen(step, Phase::Looping);
        if self.run.step_row(step).open == 0 {
            self.round_over(step);
        }
    }

    fn revive_child(&mut self, step: StepIx, command: bool) {
        self.reopen(step, Phase::Sent);
        self.arm_deadline(step);
        if let (true, Some(run)) = (command, self.run.step_row(step).child.clone()) {
            self.command(Command::RetryChild { step, run });
        }
    }

    /// The child of a step goes on after its end, so this run does too.
    pub(super) fn on_child_reopened(&mut self, step: StepIx, era: u32) -> Outcome {
        let Some(row) = self.run.steps.get(&step).filter(|row| row.child.is_some() && era >= row.child_era) else {
            return Outcome::Ignored("the task does not know of this");
        };
        if row.is_live() {
            self.change(step, |row| row.child_era = era);
            return Outcome::Applied;
        }
        let newest = self.run.index.instances.get(&(row.node, row.scope.clone())) == Some(&step);
        let failed = matches!(self.run.row.status, RunStatus::Failed | RunStatus::TimedOut | RunStatus::Terminated);
        if !newest || !failed || row.flow != Flow::Stopped {
            return Outcome::Ignored("the workflow has gone on without it");
        }
        self.bring_back();
        self.change(step, |row| row.child_era = era);
        self.revive_child(step, false);
        self.revive();
        Outcome::Applied
    }

    /// The steps around a step, the innermost first.
    fn ancestors(&self, step: StepIx) -> Vec<StepIx> {
        let mut ancestors = Vec::new();
        let mut at = self.run.steps.get(&step).and_then(|row| row.parent);
        while let Some(step) = at {
            ancestors.push(step);
            at = self.run.steps.get(&step).and_then(|row| row.parent);
        }
        ancestors
    }

    /// Removes what came after a step, and what it held; sets back what it lies in.
    fn rewind(&mut self, from: StepIx) {
        let mut chain = vec![from];
        chain.extend(self.ancestors(from));
        let levels: BTreeMap<Option<StepIx>, StepIx> =
            chain.iter().map(|step| (self.run.step_row(*step).parent, *step)).collect();
        let around: BTreeSet<StepIx> = chain[1..].iter().copied().collect();
        let mut gone = Vec::new();
        let mut joins = Vec::new();
        for row in self.run.steps.values() {
            let fork = row.fork.filter(|fork| around.contains(fork));
            if !self.comes_after(row, from, &levels) {
                continue;
            }
            if fork.is_some() { joins.push(row.step) } else { gone.push(row.step) }
        }
        self.out.looked_at += self.run.steps.len() as u64;
        gone.into_iter().for_each(|step| self.remove(step));
        self.reindex();
        // The end of the run comes after every task of it.
        self.row().root_done = false;
        if self.run.step_row(from).sealed {
            self.change(from, |row| row.sealed = false);
        }
        for pair in chain.windows(2) {
            self.set_back(pair[1], pair[0]);
        }
        self.recount(&around);
        for join in joins {
            self.change(join, |row| {
                row.status = TaskStatus::Canceled;
                row.phase = Phase::Ended;
                row.flow = Flow::Stopped;
            });
        }
    }

    fn comes_after(&self, row: &StepRow, from: StepIx, levels: &BTreeMap<Option<StepIx>, StepIx>) -> bool {
        if row.flow == Flow::Ahead {
            return false;
        }
        let mut at = row;
        loop {
            if let Some(level) = levels.get(&at.parent) {
                if at.step == *level {
                    return *level == from && row.step != from;
                }
                let (mine, theirs) = (self.run.node(at.node), self.run.step_row(*level));
                let other = self.run.node(theirs.node);
                // Siblings among the children of a task run side by side.
                if mine.lane != other.lane || matches!(mine.parent, Parent::Emitted(_)) {
                    return false;
                }
                if (at.node, &at.scope) == (theirs.node, &theirs.scope) && at.step != row.step {
                    // What an earlier try of the task holds.
                    return *level == from;
                }
                return (at.scope.as_slice(), mine.position) > (theirs.scope.as_slice(), other.position);
            }
            match at.parent.and_then(|parent| self.run.steps.get(&parent)) {
                Some(parent) => at = parent,
                None => return false,
            }
        }
    }

    /// Sets back a step that holds `inner`, which is done again.
    fn set_back(&mut self, step: StepIx, inner: StepIx) {
        let row = self.run.step_row(step);
        let depth = row.scope.len();
        let inner_row = self.run.step_row(inner);
        let (lane, round) = (self.run.node(inner_row.node).lane, inner_row.scope.get(depth).copied());
        match &self.run.node(row.node).kind {
            Kind::DoWhile(_) => {
                self.reopen(step, Phase::Looping);
                self.change(step, |row| row.iteration = round.unwrap_or(row.iteration));
            }
            Kind::Fork { .. } | Kind::DynamicFork(_) => {
                if let Some(head) = self.lane_head(step, lane) {
                    self.change(head, |row| row.lane_done = false);
                }
            }
            _ => {}
        }
    }

    /// Counts anew what the steps around a task still wait for, now that it is done again: a body goes on after it.
    fn recount(&mut self, around: &BTreeSet<StepIx>) {
        let mut open: BTreeMap<StepIx, u32> = around.iter().map(|step| (*step, 0)).collect();
        let forks: Vec<StepIx> =
            self.run.steps.values().filter(|row| self.run.is_open_fork(row)).map(|row| row.step).collect();
        for fork in forks {
            let lanes = self.lanes_open(fork);
            for holder in self.holders(fork) {
                open.entry(holder).and_modify(|open| *open += lanes);
            }
        }
        let beside: Vec<StepIx> = self.run.runs_beside().collect();
        for sealed in beside {
            for holder in self.around(sealed) {
                open.entry(holder).and_modify(|open| *open += 1);
            }
        }
        for (step, open) in open {
            match self.run.node(self.run.step_row(step).node).kind {
                Kind::DoWhile(_) => self.change(step, |row| row.open = open + 1),
                Kind::Fork { .. } | Kind::DynamicFork(_) => self.change(step, |row| row.open = open),
                _ => {}
            }
        }
    }
}

impl super::Run {
    /// Whether a step is a fork whose branches have begun.
    pub(super) fn is_open_fork(&self, row: &StepRow) -> bool {
        let forks = match self.node(row.node).kind {
            Kind::Fork { .. } => true,
            Kind::DynamicFork(_) => row.resolved.is_some(),
            _ => false,
        };
        forks && row.flow == Flow::Gone && row.status != TaskStatus::Skipped
    }
}
