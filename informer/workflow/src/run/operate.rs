//! What a user can do to a run that goes on.

use super::Transition;
use super::event::{Command, Outcome, Refused};
use super::flow::Todo;
use super::row::{Flow, Phase, RunStatus, TaskStatus};
use crate::definition::Kind;
use crate::evaluate::Handle;
use crate::expression;
use crate::plan::NodeId;

impl Transition<'_> {
    pub(super) fn on_pause(&mut self) -> Result<Outcome, Refused> {
        match self.run.row.status {
            RunStatus::Paused => return Ok(Outcome::Ignored("the workflow is paused already")),
            RunStatus::Running if self.run.row.ending.is_none() => {}
            status => return Err(Refused::WrongStatus(status.as_str(), "only a running workflow can be paused")),
        }
        self.row().status = RunStatus::Paused;
        Ok(Outcome::Applied)
    }

    pub(super) fn on_resume(&mut self) -> Result<Outcome, Refused> {
        match self.run.row.status {
            RunStatus::Running => return Ok(Outcome::Ignored("the workflow is running already")),
            RunStatus::Paused => {}
            status => return Err(Refused::WrongStatus(status.as_str(), "only a paused workflow can be resumed")),
        }
        self.row().status = RunStatus::Running;
        self.go_on();
        Ok(Outcome::Applied)
    }

    /// Takes up what was put off.
    pub(super) fn go_on(&mut self) {
        self.todo.extend(self.run.index.held.iter().copied().map(Todo::Conclude));
        let unasked: Vec<_> = self.run.index.unasked.iter().copied().collect();
        for step in unasked {
            self.send_question(step);
        }
    }

    pub(super) fn on_terminate(&mut self, reason: Option<String>, tell: bool) -> Result<Outcome, Refused> {
        if self.run.row.status.is_ended() || self.run.row.ending.is_some() {
            return Ok(Outcome::Ignored("the workflow is over already"));
        }
        let reason = reason.unwrap_or_else(|| "terminated on request".to_owned());
        self.finish(RunStatus::Terminated, Some(reason), None, tell);
        Ok(Outcome::Applied)
    }

    pub(super) fn on_update(
        &mut self,
        reference: &str,
        status: TaskStatus,
        output: Option<Handle>,
        reason: Option<String>,
    ) -> Result<Outcome, Refused> {
        use TaskStatus::{Completed, Failed, FailedWithTerminalError, InProgress};
        if !matches!(status, InProgress | Completed | Failed | FailedWithTerminalError) {
            return Err(Refused::NoSuchUpdate(status.as_str()));
        }
        let Some(step) = self.run.see(reference) else {
            let name = reference.to_owned();
            let base = expression::base(reference).map_or(reference, |(base, _)| base);
            let known = self.run.find(reference).or_else(|| self.run.find(base)).is_some();
            return Err(if known { Refused::NotScheduled(name) } else { Refused::NoSuchTask(name) });
        };
        let row = self.run.step_row(step);
        let kind = &self.run.spec(row).kind;
        let for_others = matches!(kind, Kind::Simple | Kind::Http | Kind::Wait | Kind::Human | Kind::Event { .. });
        match row.phase {
            Phase::Ended => return Ok(Outcome::Ignored("the task is over already")),
            Phase::Sent | Phase::Waiting if for_others => {}
            Phase::Asked(_) | Phase::Delayed => return Err(Refused::NotScheduled(reference.to_owned())),
            _ => return Ok(Outcome::Ignored("the task ends by itself")),
        }
        if status == InProgress {
            return Ok(self.on_progressed(step, output, false));
        }
        if row.phase == Phase::Sent {
            self.command(Command::Cancel { step });
        }
        self.change(step, |row| row.output = output.or(row.output));
        self.end_step(step, status, reason.map(super::bounded));
        Ok(Outcome::Applied)
    }

    pub(super) fn on_skip(&mut self, reference: &str, output: Option<Handle>) -> Result<Outcome, Refused> {
        let status = self.run.row.status;
        if status.is_ended() || self.run.row.ending.is_some() {
            return Err(Refused::WrongStatus(status.as_str(), "its tasks cannot be skipped any more"));
        }
        let (node, scope) = self.place_of(reference)?;
        if let Some(step) = self.run.index.instances.get(&(node, scope.clone())) {
            return match self.run.step_row(*step).status {
                TaskStatus::Skipped => Ok(Outcome::Ignored("the task is skipped already")),
                _ => Err(Refused::AlreadyScheduled(reference.to_owned())),
            };
        }
        let order = self.next_wave();
        let place = super::flow::Place { scope, order, ..super::flow::Place::default() };
        let now = self.now.ms;
        if let Some(step) = self.make(node, place) {
            self.change(step, |row| {
                row.status = TaskStatus::Skipped;
                row.phase = Phase::Ended;
                row.flow = Flow::Ahead;
                row.mapped = true;
                row.output = output;
                row.ended_ms = Some(now);
            });
        }
        Ok(Outcome::Applied)
    }

    fn place_of(&self, reference: &str) -> Result<(NodeId, Vec<u32>), Refused> {
        let missing = || Refused::NoSuchTask(reference.to_owned());
        let (node, scope) = match (self.run.find(reference), expression::base(reference)) {
            (Some(node), _) => (node, Vec::new()),
            (None, Some((base, scope))) => (self.run.find(base).ok_or_else(missing)?, scope),
            (None, None) => return Err(missing()),
        };
        if self.run.node(node).depth as usize != scope.len() {
            return Err(Refused::WhichRound(reference.to_owned()));
        }
        Ok((node, scope))
    }
}
