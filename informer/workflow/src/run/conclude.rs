//! What a task's end means: it is tried again, tolerated, passed, or the run ends with it.

use super::event::{Outcome, RunEnd, TaskEnd};
use super::flow::Place;
use super::row::{Flow, Phase, RunStatus, StepIx, TaskStatus};
use super::{Transition, bounded};
use crate::definition::{Kind, TimeoutPolicy};
use crate::evaluate::Handle;

impl Transition<'_> {
    /// Makes something of a step's end. While the run pauses or ends, it stays due.
    pub(super) fn conclude(&mut self, step: StepIx) {
        if !self.flows() {
            return;
        }
        let Some(row) = self.run.steps.get(&step).filter(|row| row.flow == Flow::Due) else { return };
        if row.status.is_success() {
            return self.pass(step);
        }
        let node = self.run.spec(row);
        let (optional, permissive) = (node.optional, node.permissive);
        if let Some(delay_ms) = self.retry_delay(step) {
            return self.try_again(step, delay_ms);
        }
        if optional {
            self.change(step, |row| row.status = TaskStatus::CompletedWithErrors);
            return self.pass(step);
        }
        if permissive {
            self.row().troubled = true;
            return self.pass(step);
        }
        let status = match self.run.step_row(step).status {
            TaskStatus::Canceled => RunStatus::Terminated,
            TaskStatus::TimedOut => RunStatus::TimedOut,
            _ => RunStatus::Failed,
        };
        let reason = self.failure_reason(step);
        self.change(step, |row| row.flow = Flow::Stopped);
        self.finish(status, Some(reason), Some(step), true);
    }

    pub(super) fn failure_reason(&self, step: StepIx) -> String {
        let row = self.run.step_row(step);
        let why = row.reason.as_deref().unwrap_or("no reason was given");
        bounded(format!("task {} ended {}: {why}", self.run.full_reference(row), row.status.as_str()))
    }

    /// How long to wait before another try; none: there is none.
    fn retry_delay(&self, step: StepIx) -> Option<u64> {
        let row = self.run.step_row(step);
        let node = self.run.spec(row);
        if !matches!(row.status, TaskStatus::Failed | TaskStatus::TimedOut) || node.kind.is_never_retried() {
            return None;
        }
        let definition = node.definition.as_ref()?;
        let retries = node.retry_count.unwrap_or(definition.retry_count);
        if row.retry_count >= retries {
            return None;
        }
        let delay_ms = definition.retry_delay_ms(row.retry_count + 1, self.now.jitter);
        let total_ms = definition.total_timeout_s * 1000;
        let late = total_ms > 0 && self.now.ms.saturating_add(delay_ms) >= row.first_ms.saturating_add(total_ms);
        (!late).then_some(delay_ms)
    }

    /// Makes a new record of the same task.
    pub(super) fn try_again(&mut self, step: StepIx, delay_ms: u64) {
        let order = self.next_wave();
        self.replace(step, order, delay_ms);
    }

    /// Makes a new record at a place of the order.
    pub(super) fn replace(&mut self, step: StepIx, order: Vec<u32>, delay_ms: u64) -> Option<StepIx> {
        let row = self.run.step_row(step);
        let (node, first_ms, retry_count) = (row.node, row.first_ms, row.retry_count);
        let (emitted, sealed, lane_done) = (row.emitted.clone(), row.sealed, row.lane_done);
        let place = Place { parent: row.parent, scope: row.scope.clone(), order, fork: row.fork, given: row.given };
        self.change(step, |row| row.flow = Flow::Stopped);
        let again = self.make(node, place)?;
        self.change(again, |row| {
            row.first_ms = first_ms;
            row.retry_count = retry_count + 1;
            row.retried_from = Some(step);
            #[cfg(feature = "seeded-bugs")]
            if super::bug::is(super::bug::Bug::CountTryTwice) {
                row.retry_count += 1;
            }
            // What follows a sealed task may be at its end already.
            (row.emitted, row.sealed, row.lane_done) = (emitted, sealed, lane_done);
        });
        self.begin_step(again, delay_ms);
        Some(again)
    }

    pub(super) fn on_started(&mut self, step: StepIx, worker: Option<String>) -> Outcome {
        let now = self.now.ms;
        match self.run.steps.get(&step) {
            Some(row) if row.phase == Phase::Sent && row.status == TaskStatus::Scheduled => {}
            _ => return Outcome::Ignored("the task does not wait for a worker"),
        }
        self.change(step, |row| {
            row.status = TaskStatus::InProgress;
            row.started_ms.get_or_insert(now);
            row.worker = worker;
        });
        Outcome::Applied
    }

    pub(super) fn on_progressed(&mut self, step: StepIx, output: Option<Handle>, yields: bool) -> Outcome {
        match self.run.steps.get(&step) {
            Some(row) if matches!(row.phase, Phase::Sent | Phase::Waiting) => {}
            _ => return Outcome::Ignored("the task is not under way"),
        }
        self.change(step, |row| {
            row.output = output.or(row.output);
            if yields && row.phase == Phase::Sent {
                row.status = TaskStatus::Scheduled;
                row.worker = None;
            } else {
                row.status = TaskStatus::InProgress;
            }
        });
        Outcome::Applied
    }

    pub(super) fn on_task_ended(&mut self, step: StepIx, end: TaskEnd) -> Outcome {
        let work = |row: &super::StepRow| matches!(self.run.spec(row).kind, Kind::Simple | Kind::Http);
        match self.run.steps.get(&step) {
            Some(row) if matches!(row.phase, Phase::Sent | Phase::Waiting) && work(row) => {}
            _ => return Outcome::Ignored("the task is not under way"),
        }
        let node = self.run.spec(self.run.step_row(step));
        let waits = node.async_complete && matches!(node.kind, Kind::Http) && end.status == TaskStatus::Completed;
        let policy = node.definition.as_ref().map(|definition| definition.timeout_policy);
        self.change(step, |row| row.output = end.output.or(row.output));
        if waits && self.run.step_row(step).phase == Phase::Sent {
            self.wait_for_word(step);
            return Outcome::Applied;
        }
        if end.by_policy && end.status == TaskStatus::TimedOut {
            self.time_out(step, policy, end.reason);
        } else {
            self.end_step(step, end.status, end.reason.map(bounded));
        }
        Outcome::Applied
    }

    /// From now on somebody else says when the task ends.
    pub(super) fn wait_for_word(&mut self, step: StepIx) {
        let now = self.now.ms;
        self.change(step, |row| {
            row.phase = Phase::Waiting;
            row.status = TaskStatus::InProgress;
            row.started_ms.get_or_insert(now);
        });
        self.arm_deadline(step);
    }

    /// A task has taken too long; its policy says what that means.
    pub(super) fn time_out(&mut self, step: StepIx, policy: Option<TimeoutPolicy>, reason: Option<String>) {
        let reason = bounded(reason.unwrap_or_else(|| "it took longer than its timeout".to_owned()));
        if policy == Some(TimeoutPolicy::Retry) {
            return self.end_step(step, TaskStatus::TimedOut, Some(reason));
        }
        self.end_step(step, TaskStatus::TimedOut, Some(reason));
        self.change(step, |row| row.flow = Flow::Stopped);
        let reason = self.failure_reason(step);
        self.finish(RunStatus::TimedOut, Some(reason), Some(step), true);
    }

    pub(super) fn on_child_started(&mut self, step: StepIx) -> Outcome {
        let now = self.now.ms;
        match self.run.steps.get(&step) {
            Some(row) if row.phase == Phase::Sent && row.child.is_some() && row.status == TaskStatus::Scheduled => {}
            _ => return Outcome::Ignored("the task does not wait for a start"),
        }
        if matches!(self.run.spec(self.run.step_row(step)).kind, Kind::StartWorkflow) {
            self.end_step(step, TaskStatus::Completed, None);
            return Outcome::Applied;
        }
        self.change(step, |row| {
            row.status = TaskStatus::InProgress;
            row.started_ms = Some(now);
        });
        self.arm_deadline(step);
        Outcome::Applied
    }

    pub(super) fn on_child_refused(&mut self, step: StepIx, reason: String) -> Outcome {
        match self.run.steps.get(&step) {
            Some(row) if row.phase == Phase::Sent && row.child.is_some() => {}
            _ => return Outcome::Ignored("the task does not wait for a start"),
        }
        self.end_step(step, TaskStatus::Failed, Some(bounded(reason)));
        Outcome::Applied
    }

    pub(super) fn on_child_ended(&mut self, step: StepIx, end: RunEnd) -> Outcome {
        match self.run.steps.get(&step) {
            Some(row) if row.phase == Phase::Sent && row.child.is_some() && end.era >= row.child_era => {}
            _ => return Outcome::Ignored("the task does not wait for this end"),
        }
        let status = match end.status {
            RunStatus::Completed => TaskStatus::Completed,
            RunStatus::TimedOut => TaskStatus::TimedOut,
            RunStatus::Terminated => TaskStatus::Canceled,
            RunStatus::Failed => TaskStatus::Failed,
            RunStatus::Running | RunStatus::Paused => return Outcome::Ignored("the run has not ended"),
        };
        self.change(step, |row| {
            row.output = end.output;
            row.child_era = end.era + 1;
        });
        self.end_step(step, status, end.reason.map(bounded));
        Outcome::Applied
    }

    pub(super) fn on_timer(&mut self, step: StepIx) -> Outcome {
        let now = self.now.ms;
        let Some(row) = self.run.steps.get(&step).filter(|row| row.is_live()) else {
            return Outcome::Ignored("the task is over");
        };
        let due = |at: Option<u64>| at.is_some_and(|at| at <= now);
        if due(row.due_ms) && row.phase == Phase::Delayed {
            self.change(step, |row| row.due_ms = None);
            self.ask(step, super::Asked::Task);
            return Outcome::Applied;
        }
        if due(row.due_ms) && row.phase == Phase::Waiting {
            self.end_step(step, TaskStatus::Completed, None);
            return Outcome::Applied;
        }
        if due(row.deadline_ms) {
            let policy = self.run.spec(row).definition.as_ref().map(|definition| definition.timeout_policy);
            if matches!(self.run.spec(row).kind, Kind::SubWorkflow(_))
                && let Some(run) = row.child.clone()
            {
                let reason = "the task that waited for it has timed out".to_owned();
                self.command(super::Command::CancelChild { run, reason });
            }
            self.time_out(step, policy, None);
            return Outcome::Applied;
        }
        Outcome::Ignored("nothing is due")
    }

    pub(super) fn on_run_timer(&mut self) -> Outcome {
        let timeout_s = self.run.plans[0].settings.timeout_s;
        let row = &self.run.row;
        if timeout_s == 0 || self.now.ms < row.since_ms.saturating_add(timeout_s * 1000) {
            return Outcome::Ignored("nothing is due");
        }
        if row.status.is_ended() || row.ending.is_some() {
            return Outcome::Ignored("the workflow is over");
        }
        let reason = format!("the workflow took longer than its {timeout_s} s");
        self.finish(RunStatus::TimedOut, Some(reason), None, true);
        Outcome::Applied
    }
}
