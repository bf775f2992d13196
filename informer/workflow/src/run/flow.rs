//! What follows a step, and when a run is over.

use super::event::Command;
use super::row::{Asked, EndingRow, Flow, Phase, RunStatus, StepIx, StepRow, TaskStatus};
use super::{MAX_STEPS, Transition};
use crate::definition::{Kind, TimeoutPolicy};
use crate::plan::{NodeId, Parent};

/// Something still to be done in this transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Todo {
    /// Make something of a step's end.
    Conclude(StepIx),
    /// Open the join: its counter is at zero, or nothing more can come.
    OpenJoin(StepIx),
}

/// Where a step is to be opened.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    pub parent: Option<StepIx>,
    pub scope: Vec<u32>,
    pub order: Vec<u32>,
    pub fork: Option<StepIx>,
    pub given: Option<crate::evaluate::Handle>,
}

impl Transition<'_> {
    /// The beginning of a run, at its start and again at a restart.
    pub(super) fn begin(&mut self) {
        self.out.run = true;
        self.arm_run();
        let order = self.next_wave();
        let root = self.run.plans[0].roots[0];
        self.open(NodeId { part: 0, node: root }, Place { order, ..Place::default() });
    }

    pub(super) fn arm_run(&mut self) {
        let timeout_s = self.run.plans[0].settings.timeout_s;
        if timeout_s > 0 {
            let due_ms = self.run.row.since_ms.saturating_add(timeout_s * 1000);
            self.command(Command::Arm { step: None, due_ms });
        }
    }

    /// Does all that is to be done, then looks whether the run can still go on.
    pub(super) fn drain(&mut self) {
        loop {
            while let Some(todo) = self.todo.pop_front() {
                match todo {
                    Todo::Conclude(step) => self.conclude(step),
                    Todo::OpenJoin(step) => self.open_join(step),
                }
            }
            if !self.flows() || !self.rest() {
                return;
            }
        }
    }

    /// Nothing is left to do. Whether that made something more to do.
    fn rest(&mut self) -> bool {
        let index = &self.run.index;
        if index.active > 0 || !index.held.is_empty() {
            return false;
        }
        // Nothing can go on by itself any more, so what a join still waits for will never run: it lies on a way not taken.
        // Inner joins come later than outer ones, so the last is the innermost.
        if let Some(join) = index.joins.last().copied() {
            self.todo.push_back(Todo::OpenJoin(join));
            return true;
        }
        if !index.live.is_empty() {
            return false;
        }
        self.complete();
        !self.todo.is_empty()
    }

    fn complete(&mut self) {
        if !self.run.row.root_done {
            self.finish(
                RunStatus::Failed,
                Some("nothing is left to run, but the workflow is not at its end".to_owned()),
                None,
                true,
            );
            return;
        }
        match self.permissive_failure() {
            Some(step) => {
                let reason = self.failure_reason(step);
                self.finish(RunStatus::Failed, Some(reason), Some(step), true);
            }
            None => self.finish(RunStatus::Completed, None, None, false),
        }
    }

    /// A permissive task whose latest try failed. Looked for only where there is one.
    fn permissive_failure(&self) -> Option<StepIx> {
        let row = &self.run.row;
        let failed = |step: &StepIx| {
            let step = self.run.step_row(*step);
            step.status.is_ended() && !step.status.is_success()
        };
        row.troubled.then(|| self.run.index.instances.values().copied().find(failed)).flatten()
    }

    pub(super) fn next_wave(&mut self) -> Vec<u32> {
        let row = self.row();
        row.wave += 1;
        vec![row.wave - 1]
    }

    /// Opens a task: makes its step, or passes over it when it was skipped ahead.
    pub(super) fn open(&mut self, node: NodeId, place: Place) {
        let known = self.run.index.instances.get(&(node, place.scope.clone())).copied();
        if let Some(step) = known.filter(|step| self.run.step_row(*step).flow == Flow::Ahead) {
            self.change(step, |row| {
                row.flow = Flow::Due;
                (row.parent, row.order, row.fork) = (place.parent, place.order, place.fork);
            });
            self.todo.push_back(Todo::Conclude(step));
            return;
        }
        if let Some(step) = self.make(node, place) {
            self.begin_step(step, 0);
        }
    }

    /// Makes a step's row.
    pub(super) fn make(&mut self, node: NodeId, place: Place) -> Option<StepIx> {
        let step = self.run.row.next_step;
        if step >= MAX_STEPS {
            self.finish(
                RunStatus::Failed,
                Some(format!("the workflow has made more than {MAX_STEPS} tasks")),
                None,
                true,
            );
            return None;
        }
        self.row().next_step += 1;
        let mut row = StepRow::new(step, node, self.now.ms);
        (row.parent, row.scope, row.order, row.fork, row.given) =
            (place.parent, place.scope, place.order, place.fork, place.given);
        self.insert(row);
        Some(step)
    }

    /// Sets a new step going, `delay_ms` from now at the earliest.
    pub(super) fn begin_step(&mut self, step: StepIx, delay_ms: u64) {
        let row = self.run.step_row(step);
        let node = self.run.spec(row);
        let delay_ms = delay_ms.max(node.start_delay_s * 1000);
        match node.kind {
            Kind::Fork { .. } => {
                self.change(step, |row| row.mapped = true);
                self.end_step(step, TaskStatus::Completed, None);
            }
            Kind::Join { .. } => self.begin_join(step),
            Kind::ExclusiveJoin { .. } => self.begin_exclusive(step),
            // Workers' tasks and requests wait in the queue, and their input is made meanwhile.
            Kind::Simple | Kind::Http if delay_ms > 0 => {
                let due = self.now.ms + delay_ms;
                self.change(step, |row| row.due_ms = Some(due));
                self.ask(step, Asked::Task);
            }
            _ if delay_ms > 0 => {
                let due_ms = self.now.ms + delay_ms;
                self.change(step, |row| {
                    row.phase = Phase::Delayed;
                    row.due_ms = Some(due_ms);
                });
                self.command(Command::Arm { step: Some(step), due_ms });
            }
            _ => self.ask(step, Asked::Task),
        }
    }

    /// A step is over; what that means is decided in its turn.
    pub(super) fn end_step(&mut self, step: StepIx, status: TaskStatus, reason: Option<String>) {
        let now = self.now.ms;
        let timed = self.change(step, |row| {
            row.status = status;
            row.phase = Phase::Ended;
            row.flow = Flow::Due;
            row.ended_ms = Some(now);
            row.started_ms.get_or_insert(now);
            if reason.is_some() {
                row.reason = reason;
            }
            row.due_ms.take().is_some() | row.deadline_ms.take().is_some()
        });
        if timed {
            self.command(Command::Disarm { step: Some(step) });
        }
        self.todo.push_back(Todo::Conclude(step));
    }

    /// Opens what follows a step that has ended well enough.
    pub(super) fn pass(&mut self, step: StepIx) {
        self.change(step, |row| row.flow = Flow::Gone);
        self.note_joins(step);
        let row = self.run.step_row(step);
        let skipped = row.status == TaskStatus::Skipped;
        let (id, scope, order, chosen) = (row.node, row.scope.clone(), row.order.clone(), row.chosen);
        let succeeded = row.status == TaskStatus::Completed;
        if !self.run.emits(id).is_empty() {
            return self.pass_emitter(step);
        }
        match &self.run.node(id).kind {
            Kind::Switch(switch) if !skipped && succeeded => {
                let first = match chosen {
                    Some(case) => switch.cases.get(case as usize).and_then(|(_, first)| *first),
                    None => switch.default,
                };
                if let Some(first) = first {
                    let order = below(&order, 0);
                    let place = Place { parent: Some(step), scope, order, ..Place::default() };
                    self.open(NodeId { part: id.part, node: first }, place);
                    return;
                }
            }
            Kind::Fork { branches } if !skipped => {
                let branches = branches.clone();
                self.open_branches(step, &branches);
                let order = below(&order, branches.len());
                self.advance(step, Some((order, step)));
                return;
            }
            Kind::DynamicFork(_) if !skipped => {
                let lanes =
                    self.run.step_row(step).resolved.map_or(0, |part| self.run.plans[part.part as usize].roots.len());
                self.advance(step, Some((below(&order, lanes), step)));
                return;
            }
            _ => {}
        }
        self.advance(step, None);
    }

    fn open_branches(&mut self, fork: StepIx, branches: &[Option<u32>]) {
        let row = self.run.step_row(fork);
        let (part, scope, order) = (row.node.part, row.scope.clone(), row.order.clone());
        let open = u32::try_from(branches.iter().flatten().count()).unwrap_or(u32::MAX);
        self.count_strands(fork, open);
        for (lane, first) in branches.iter().enumerate() {
            if let Some(node) = *first {
                let order = below(&order, lane);
                self.open(
                    NodeId { part, node },
                    Place { parent: Some(fork), scope: scope.clone(), order, ..Place::default() },
                );
            }
        }
    }

    /// Opens the task after a step, or tells what it lies in that this sequence is at its end. `forked`: the order's place and
    /// the fork, when it is a fork that goes on.
    pub(super) fn advance(&mut self, step: StepIx, forked: Option<(Vec<u32>, StepIx)>) {
        let mut at = step;
        loop {
            let row = self.run.step_row(at);
            let node = self.run.node(row.node);
            let (part, parent, scope) = (row.node.part, row.parent, row.scope.clone());
            if let Some(next) = node.next {
                let (order, fork) = match forked {
                    Some((order, fork)) => (order, Some(fork)),
                    None => (self.next_wave(), None),
                };
                self.open(NodeId { part, node: next }, Place { parent, scope, order, fork, given: None });
                return;
            }
            let (lane, within) = (node.lane, node.parent);
            match (within, parent) {
                (Parent::Case(_), Some(switch)) => at = switch,
                (Parent::Branch(_) | Parent::Part, Some(fork)) => return self.lane_over(fork, lane),
                (Parent::Body(_), Some(looped)) => return self.strand_over(looped),
                // Its join has counted it.
                (Parent::Emitted(_), _) => return,
                _ => {
                    self.row().root_done = true;
                    return;
                }
            }
        }
    }

    /// Branches of a fork begin. Each is a strand that the fork waits for, and every fork around it, up to the round of a loop:
    /// a join inside may let the sequence go on while a branch still runs.
    pub(super) fn count_strands(&mut self, fork: StepIx, branches: u32) {
        for holder in self.holders(fork) {
            self.change(holder, |row| row.open += branches);
        }
    }

    /// A fork, the forks around it, and the loop around them.
    pub(super) fn holders(&self, fork: StepIx) -> Vec<StepIx> {
        let mut holders = vec![fork];
        let mut at = self.run.step_row(fork).parent;
        while let Some(step) = at {
            let row = self.run.step_row(step);
            match self.run.node(row.node).kind {
                Kind::DoWhile(_) => {
                    holders.push(step);
                    break;
                }
                Kind::Fork { .. } | Kind::DynamicFork(_) => holders.push(step),
                _ => {}
            }
            at = row.parent;
        }
        holders
    }

    /// A branch of a fork is at its end.
    fn lane_over(&mut self, fork: StepIx, lane: u32) {
        if let Some(head) = self.lane_head(fork, lane) {
            self.change(head, |row| row.lane_done = true);
        }
        if let Some(join) = self.waiting_join(fork).filter(|join| self.run.joins_branches(*join)) {
            let left = self.change(join, |row| {
                row.open = row.open.saturating_sub(1);
                row.open
            });
            if left == 0 {
                self.todo.push_back(Todo::OpenJoin(join));
            }
        }
        for holder in self.holders(fork) {
            self.strand_over(holder);
        }
    }

    /// A fork or a loop has one strand less to wait for.
    pub(super) fn strand_over(&mut self, holder: StepIx) {
        let open = self.change(holder, |row| {
            row.open = row.open.saturating_sub(1);
            row.open
        });
        if open > 0 {
            return;
        }
        if matches!(self.run.node(self.run.step_row(holder).node).kind, Kind::DoWhile(_)) {
            self.round_over(holder);
        } else if let Some(join) = self.waiting_join(holder) {
            // What it still waits for lies on a way that was not taken.
            self.todo.push_back(Todo::OpenJoin(join));
        }
    }

    pub(super) fn waiting_join(&self, fork: StepIx) -> Option<StepIx> {
        let join = self.run.step_row(fork).join?;
        self.run.steps.get(&join).filter(|row| row.phase == Phase::Joining).map(|row| row.step)
    }

    /// How many branches of a fork are not at their end.
    pub(super) fn lanes_open(&self, fork: StepIx) -> u32 {
        let row = self.run.step_row(fork);
        let lanes = match (&self.run.node(row.node).kind, row.resolved) {
            (Kind::Fork { branches }, _) => branches.len(),
            (_, Some(part)) => self.run.plans[part.part as usize].roots.len(),
            _ => 0,
        };
        let lanes = 0..u32::try_from(lanes).unwrap_or(u32::MAX);
        let open =
            lanes.filter_map(|lane| self.lane_head(fork, lane)).filter(|head| !self.run.step_row(*head).lane_done);
        u32::try_from(open.count()).unwrap_or(u32::MAX)
    }

    /// The step that a branch begins with.
    pub(super) fn lane_head(&self, fork: StepIx, lane: u32) -> Option<StepIx> {
        let row = self.run.step_row(fork);
        let node = match (&self.run.node(row.node).kind, row.resolved) {
            (Kind::Fork { branches }, _) => NodeId { part: row.node.part, node: (*branches.get(lane as usize)?)? },
            (_, Some(part)) => {
                let root = self.run.plans[part.part as usize].roots.get(lane as usize)?;
                NodeId { part: part.part, node: *root }
            }
            _ => return None,
        };
        self.run.index.instances.get(&(node, row.scope.clone())).copied()
    }

    /// Ends the run. `tell`: the definition's failure workflow is started.
    pub(super) fn finish(&mut self, status: RunStatus, reason: Option<String>, failed: Option<StepIx>, tell: bool) {
        self.finish_with(EndingRow { status, reason, ticket: 0, terminate: None, tell }, failed);
    }

    pub(super) fn finish_with(&mut self, ending: EndingRow, failed: Option<StepIx>) {
        if self.run.row.status.is_ended() || self.run.row.ending.is_some() {
            return;
        }
        let live: Vec<_> = self.run.index.live.iter().copied().collect();
        for step in live {
            self.cancel(step, ending.status);
        }
        self.row().failed_step = failed;
        self.ask_end(ending);
    }

    /// Cancels a step with its run.
    fn cancel(&mut self, step: StepIx, status: RunStatus) {
        let now = self.now.ms;
        let row = self.run.step_row(step);
        let (phase, child) = (row.phase, row.child.clone());
        let kind = &self.run.spec(row).kind;
        let (waits_for_child, is_work) =
            (matches!(kind, Kind::SubWorkflow(_)), matches!(kind, Kind::Simple | Kind::Http));
        match child {
            Some(run) if waits_for_child => {
                let reason = format!("Parent workflow has been terminated with status {}", status.as_str());
                self.command(Command::CancelChild { run, reason });
            }
            _ if phase == Phase::Sent && is_work => self.command(Command::Cancel { step }),
            _ => {}
        }
        let timed = self.change(step, |row| {
            row.status = TaskStatus::Canceled;
            row.phase = Phase::Ended;
            row.flow = Flow::Stopped;
            row.ended_ms = Some(now);
            // What the child tells of its end from now on comes too late.
            row.child_era += u32::from(waits_for_child);
            row.due_ms.take().is_some() | row.deadline_ms.take().is_some()
        });
        if timed {
            self.command(Command::Disarm { step: Some(step) });
        }
    }

    /// Arms the timeout of a task that the run itself looks after.
    pub(super) fn arm_deadline(&mut self, step: StepIx) {
        let row = self.run.step_row(step);
        let due_ms = row.due_ms;
        let limit = self.run.spec(row).definition.as_ref().filter(|d| d.timeout_policy != TimeoutPolicy::AlertOnly);
        let deadline_ms = limit.filter(|d| d.timeout_s > 0).map(|d| self.now.ms + d.timeout_s * 1000);
        if deadline_ms.is_some() {
            self.change(step, |row| row.deadline_ms = deadline_ms);
        }
        if let Some(due_ms) = [due_ms, deadline_ms].into_iter().flatten().min() {
            self.command(Command::Arm { step: Some(step), due_ms });
        }
    }
}

pub(super) fn below(order: &[u32], place: usize) -> Vec<u32> {
    let mut order = order.to_vec();
    order.push(u32::try_from(place).unwrap_or(u32::MAX));
    order
}

impl StepRow {
    fn new(step: StepIx, node: NodeId, now_ms: u64) -> Self {
        Self {
            step,
            node,
            resolved: None,
            scope: Vec::new(),
            parent: None,
            fork: None,
            join: None,
            order: Vec::new(),
            status: TaskStatus::Scheduled,
            phase: Phase::Asked(Asked::Task),
            flow: Flow::Open,
            mapped: false,
            ticket: 0,
            retry_count: 0,
            retried_from: None,
            given: None,
            input: None,
            output: None,
            reason: None,
            child: None,
            child_era: 0,
            iteration: 0,
            items: None,
            keep_last: None,
            chosen: None,
            open: 0,
            failed: 0,
            errors: 0,
            lane_done: false,
            first_ms: now_ms,
            scheduled_ms: now_ms,
            started_ms: None,
            ended_ms: None,
            due_ms: None,
            deadline_ms: None,
            worker: None,
            emitted: None,
            sealed: false,
        }
    }
}
