//! Joins: counters that tasks' ends count down. No end looks at its siblings.

use super::flow::Todo;
use super::row::{Asked, Flow, Phase, StepIx, StepRow, TaskStatus};
use super::{Run, Transition, bounded};
use crate::definition::Kind;
use crate::plan::{NodeId, Parent};

impl Transition<'_> {
    pub(super) fn begin_join(&mut self, step: StepIx) {
        let now = self.now.ms;
        let fork = self.change(step, |row| {
            row.phase = Phase::Joining;
            row.status = TaskStatus::InProgress;
            row.mapped = true;
            row.started_ms = Some(now);
            row.fork
        });
        if let Some(fork) = fork {
            self.change(fork, |row| row.join = Some(step));
        }
        self.count_join(step);
    }

    /// Counts what a join waits for from scratch: when it is opened, and when its run was brought back.
    pub(super) fn count_join(&mut self, step: StepIx) {
        let row = self.run.step_row(step);
        let fork = row.fork;
        let emitted = self.run.emitted_before(step);
        let fork_open = fork.filter(|_| emitted.is_none()).map(|fork| self.run.step_row(fork).open);
        let joined = self.run.joined(step);
        let (mut open, mut failed, mut errors) = (0, 0, 0);
        let mut reason = String::new();
        for (_, other) in &joined {
            match other.map(|other| self.run.step_row(other)) {
                Some(other) if other.is_passed() => match other.status {
                    TaskStatus::CompletedWithErrors => errors += 1,
                    status if status.is_success() => {}
                    _ => failed += 1,
                },
                Some(other) if self.run.goes_on_without(other, step) => {}
                _ => open += 1,
            }
            if let Some(other) = other.map(|other| self.run.step_row(other)).filter(|other| troubled(other)) {
                append(&mut reason, other);
            }
        }
        if let (true, Some(fork)) = (self.run.joins_branches(step), fork) {
            open = self.lanes_open(fork);
        }
        let children = emitted.map(|key| (self.run.children_open(&key), self.run.children(&key)));
        for (_, child) in children.iter().flat_map(|(_, children)| children).filter(|(_, child)| troubled(child)) {
            if child.status.is_success() {
                errors += 1
            } else {
                failed += 1
            }
            append(&mut reason, child);
        }
        open += children.as_ref().map_or(0, |(open, _)| *open);
        self.out.looked_at += (joined.len() + children.map_or(0, |(_, children)| children.len())) as u64;
        let forced = fork_open == Some(0);
        self.change(step, |row| {
            (row.open, row.failed, row.errors) = (open, failed, errors);
            row.reason = (!reason.is_empty()).then(|| bounded(reason));
        });
        if open == 0 || forced {
            self.todo.push_back(Todo::OpenJoin(step));
        }
    }

    /// A step has passed: the joins that wait for it count down.
    pub(super) fn note_joins(&mut self, step: StepIx) {
        let row = self.run.step_row(step);
        let node = self.run.node(row.node);
        let (status, scope, part) = (row.status, row.scope.clone(), row.node.part);
        let (row_emitted, sealed, next) = (row.emitted.is_some(), row.sealed, node.next);
        let joins: Vec<u32> = node.joined_by.clone();
        let branch = matches!(node.parent, Parent::Part);
        let trouble = status == TaskStatus::CompletedWithErrors || !status.is_success();
        if let (true, Some(fork)) = (branch && trouble, row.parent)
            && let Some(join) = self.waiting_join(fork)
        {
            self.tally(join, step, 0);
        }
        if row_emitted {
            self.note_sibling(step);
        }
        for join in joins {
            let id = NodeId { part, node: join };
            let depth = self.run.node(id).depth as usize;
            let waiting: Vec<StepIx> = if depth <= scope.len() {
                // A task in a loop within the join's round counts with its loop, not by itself.
                let same = depth == scope.len();
                self.run
                    .index
                    .instances
                    .get(&(id, scope[..depth].to_vec()))
                    .copied()
                    .filter(|_| same)
                    .into_iter()
                    .collect()
            } else {
                let joins = self.run.index.joins.iter().copied();
                joins.filter(|join| self.run.step_row(*join).node == id).collect()
            };
            for join in waiting {
                if self.run.step_row(join).phase == Phase::Joining {
                    // Who was opened by a seal has not counted the one that sealed.
                    let counted = !(sealed && next == Some(id.node));
                    self.tally(join, step, u32::from(counted));
                }
            }
        }
    }

    pub(super) fn tally(&mut self, join: StepIx, step: StepIx, count: u32) {
        if matches!(self.run.node(self.run.step_row(join).node).kind, Kind::ExclusiveJoin { .. }) {
            self.check_exclusive(join);
            return;
        }
        let other = self.run.step_row(step);
        let (status, trouble) = (other.status, troubled(other));
        let mut reason = self.run.step_row(join).reason.clone().unwrap_or_default();
        if trouble {
            append(&mut reason, other);
        }
        // Who joins the branches of a dynamic fork counts branches, not tasks.
        let count = if count > 0 && self.run.joins_branches(join) { 0 } else { count };
        let open = self.change(join, |row| {
            row.open = row.open.saturating_sub(count);
            match status {
                TaskStatus::CompletedWithErrors => row.errors += 1,
                status if status.is_success() => {}
                _ => row.failed += 1,
            }
            if trouble {
                row.reason = Some(bounded(reason));
            }
            row.open
        });
        let last = open == 0;
        #[cfg(feature = "seeded-bugs")]
        let last = last || open == 1 && super::bug::is(super::bug::Bug::JoinEarly);
        if last && count > 0 {
            self.todo.push_back(Todo::OpenJoin(join));
        }
    }

    /// Opens a join: everything it waits for has ended, or will never run.
    pub(super) fn open_join(&mut self, step: StepIx) {
        if self.run.step_row(step).phase != Phase::Joining {
            return;
        }
        if matches!(self.run.node(self.run.step_row(step).node).kind, Kind::ExclusiveJoin { .. }) {
            self.end_step(step, TaskStatus::Completed, None);
            return;
        }
        self.ask(step, Asked::Joined);
    }

    /// How a join ends, once its output is there.
    pub(super) fn joined_status(&self, join: StepIx) -> TaskStatus {
        let row = self.run.step_row(join);
        match (row.failed, row.errors) {
            (0, 0) => TaskStatus::Completed,
            (0, _) => TaskStatus::CompletedWithErrors,
            _ => TaskStatus::Failed,
        }
    }

    pub(super) fn begin_exclusive(&mut self, step: StepIx) {
        let now = self.now.ms;
        self.change(step, |row| {
            row.phase = Phase::Joining;
            row.status = TaskStatus::InProgress;
            row.mapped = true;
            row.started_ms = Some(now);
        });
        self.check_exclusive(step);
    }

    /// Takes the first of the tasks that ran; of the default tasks when none of the others has ended.
    pub(super) fn check_exclusive(&mut self, step: StepIx) {
        let row = self.run.step_row(step);
        let Kind::ExclusiveJoin { on, default } = &self.run.node(row.node).kind else { return };
        let ran = |names: &[String]| {
            let steps = names.iter().filter_map(|name| self.run.near(row, name));
            let first = steps.map(|step| self.run.step_row(step)).find(|step| step.status != TaskStatus::Skipped);
            first.filter(|step| matches!(step.flow, Flow::Gone))
        };
        let Some(found) = ran(on).or_else(|| ran(default)) else { return };
        let (status, output, reason) = (found.status, found.output, found.reason.clone());
        let status = if status.is_success() { TaskStatus::Completed } else { TaskStatus::Failed };
        self.change(step, |row| row.output = output);
        self.end_step(step, status, reason.filter(|_| !status.is_success()));
    }
}

impl Run {
    /// Whether a task was sealed, and this join is what follows it: then it waits for its children, not for its end.
    fn goes_on_without(&self, other: &StepRow, join: StepIx) -> bool {
        other.sealed && self.node(other.node).next == Some(self.step_row(join).node.node)
    }

    /// Whether a join waits for the branches of a dynamic fork rather than for named tasks.
    pub(super) fn joins_branches(&self, join: StepIx) -> bool {
        let fork = self.step_row(join).fork.map(|fork| self.step_row(fork));
        fork.is_some_and(|fork| matches!(self.node(fork.node).kind, Kind::DynamicFork(_)))
    }

    /// The tasks of a join, each with its latest try.
    fn joined(&self, join: StepIx) -> Vec<(String, Option<StepIx>)> {
        let row = self.step_row(join);
        if let (true, Some(fork)) = (self.joins_branches(join), row.fork) {
            let Some(part) = self.step_row(fork).resolved else { return Vec::new() };
            let plan = &self.plans[part.part as usize];
            let scope = &row.scope;
            let step = |root: u32| {
                let key = (NodeId { part: part.part, node: root }, scope.clone());
                self.index.instances.get(&key).copied()
            };
            return plan.roots.iter().map(|root| (plan.nodes[*root as usize].reference.clone(), step(*root))).collect();
        }
        let on = match &self.node(row.node).kind {
            Kind::Join { on } => on.as_slice(),
            _ => &[],
        };
        let mut seen = std::collections::BTreeSet::new();
        on.iter().filter(|name| seen.insert(*name)).map(|name| (name.clone(), self.near(row, name))).collect()
    }

    /// The latest try of a named task in the round that `row` is in.
    fn near(&self, row: &StepRow, name: &str) -> Option<StepIx> {
        let node = NodeId { part: row.node.part, node: self.plans[row.node.part as usize].find(name)? };
        let depth = self.node(node).depth as usize;
        let scope = row.scope.get(..depth)?.to_vec();
        self.index.instances.get(&(node, scope)).copied()
    }

    /// What a join puts together: the outputs there are, in its order.
    pub(super) fn joined_outputs(&self, join: StepIx) -> Vec<(String, crate::evaluate::Handle)> {
        let outputs = self.joined(join).into_iter();
        outputs.filter_map(|(name, step)| Some((name, self.step_row(step?).output?))).collect()
    }
}

fn troubled(step: &StepRow) -> bool {
    step.is_passed() && (step.status == TaskStatus::CompletedWithErrors || !step.status.is_success())
}

fn append(reason: &mut String, step: &StepRow) {
    if let Some(why) = &step.reason
        && reason.len() < super::MAX_REASON_BYTES
    {
        if !reason.is_empty() {
            reason.push(' ');
        }
        reason.push_str(why);
    }
}
