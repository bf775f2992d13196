//! Loops: rounds one after another, each with its own steps.

use super::flow::Place;
use super::row::{Asked, Phase, StepIx, TaskStatus};
use super::{MAX_ROUNDS, Transition, bounded};
use crate::definition::Kind;
use crate::evaluate::{Answer, Failing};
use crate::plan::NodeId;

impl Transition<'_> {
    pub(super) fn begin_rounds(&mut self, step: StepIx) {
        let now = self.now.ms;
        let items = self.change(step, |row| {
            row.status = TaskStatus::InProgress;
            row.started_ms = Some(now);
            row.items
        });
        if items == Some(0) {
            return self.ask(step, Asked::LoopOutput);
        }
        self.next_round(step);
    }

    fn next_round(&mut self, step: StepIx) {
        let row = self.run.step_row(step);
        let (mut scope, id) = (row.scope.clone(), row.node);
        let Kind::DoWhile(looped) = &self.run.node(id).kind else { return };
        let body = looped.body;
        let iteration = self.change(step, |row| {
            row.phase = Phase::Looping;
            row.iteration += 1;
            row.open = 1;
            row.iteration
        });
        if iteration > MAX_ROUNDS {
            let reason = format!("the loop has gone through more than {MAX_ROUNDS} rounds");
            return self.end_step(step, TaskStatus::FailedWithTerminalError, Some(reason));
        }
        scope.push(iteration);
        let order = self.next_wave();
        match body {
            Some(node) => self
                .open(NodeId { part: id.part, node }, Place { parent: Some(step), scope, order, ..Place::default() }),
            None => self.strand_over(step),
        }
    }

    /// The body, and every branch that it left running, has come to its end: is there another round?
    pub(super) fn round_over(&mut self, step: StepIx) {
        self.drop_rounds(step);
        let row = self.run.step_row(step);
        let Kind::DoWhile(looped) = &self.run.node(row.node).kind else { return };
        let more = row.items.is_none_or(|items| row.iteration < items);
        if !more {
            self.ask(step, Asked::LoopOutput);
        } else if looped.condition.is_some() {
            self.ask(step, Asked::Condition);
        } else {
            self.next_round(step);
        }
    }

    pub(super) fn on_condition(&mut self, step: StepIx, answer: Answer) {
        match answer {
            Answer::Again(true) => self.next_round(step),
            Answer::Again(false) => self.ask(step, Asked::LoopOutput),
            Answer::Failed { reason, how, .. } => {
                let status = match how {
                    Failing::Task => TaskStatus::Failed,
                    Failing::Terminal | Failing::Run => TaskStatus::FailedWithTerminalError,
                };
                self.end_step(step, status, Some(bounded(reason)));
            }
            _ => {
                let reason = "the evaluation answered another question".to_owned();
                self.end_step(step, TaskStatus::FailedWithTerminalError, Some(reason));
            }
        }
    }

    /// Removes the steps of the round that is not kept any more, now that another has ended.
    fn drop_rounds(&mut self, step: StepIx) {
        let row = self.run.step_row(step);
        let Some(keep) = row.keep_last else { return };
        let Some(old) = row.iteration.checked_sub(keep).filter(|old| *old > 0) else { return };
        let mut prefix = row.scope.clone();
        prefix.push(old);
        let (part, inner) = (row.node.part, row.node.node + 1..self.run.node(row.node).end);
        let mut gone = Vec::new();
        for node in inner {
            self.collect_round(NodeId { part, node }, &prefix, &mut gone);
        }
        for step in gone {
            let mut at = Some(step);
            while let Some(step) = at {
                at = self.run.steps.get(&step).and_then(|row| row.retried_from);
                self.forget(step);
            }
        }
    }

    fn collect_round(&self, id: NodeId, prefix: &[u32], gone: &mut Vec<StepIx>) {
        let within = self.run.index.instances.range((id, prefix.to_vec())..);
        for ((_, _), step) in within.take_while(|((node, scope), _)| *node == id && scope.starts_with(prefix)) {
            gone.push(*step);
            let row = self.run.step_row(*step);
            if let (Kind::DynamicFork(_), Some(part)) = (&self.run.node(row.node).kind, row.resolved) {
                for node in (0..).take(self.run.plans[part.part as usize].nodes.len()) {
                    self.collect_round(NodeId { part: part.part, node }, prefix, gone);
                }
            }
        }
    }
}
