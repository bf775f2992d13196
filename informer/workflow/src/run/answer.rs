//! What becomes of an answer.

use std::sync::Arc;

use super::event::{Command, Outcome, RunEnd};
use super::flow::{Place, below};
use super::row::{Asked, EndingRow, PartRow, Phase, StepIx, TaskStatus};
use super::{MAX_BRANCHES, Transition, bounded};
use crate::definition::Kind;
use crate::evaluate::{Answer, ChildStart, Failing, Handle, Wait};
use crate::plan::{NodeId, Plan};

/// A dynamic fork's answer.
struct Forked {
    input: Option<Handle>,
    tasks: Handle,
    plan: Arc<Plan>,
    inputs: Vec<Option<Handle>>,
}

impl Transition<'_> {
    pub(super) fn on_evaluated(&mut self, step: StepIx, ticket: u32, answer: Answer) -> Outcome {
        let asked = match self.run.steps.get(&step).map(|row| (row.phase, row.ticket)) {
            Some((Phase::Asked(asked), open)) if open == ticket && ticket > 0 => asked,
            // A child's start is asked again after a start of the informer, while the step waits for the child already.
            Some((Phase::Sent, open)) if open == ticket && ticket > 0 => return self.restate(step, answer),
            _ => return Outcome::Ignored("nobody waits for this answer"),
        };
        if !self.flows() && matches!(answer, Answer::Forked { .. } | Answer::Again(_) | Answer::Terminate { .. }) {
            // It would open tasks, or end the run, while the run pauses; it is asked again when the run goes on.
            self.change(step, |row| row.ticket = 0);
            return Outcome::Applied;
        }
        match asked {
            Asked::Task => self.on_task_answer(step, answer),
            Asked::Condition => self.on_condition(step, answer),
            Asked::LoopOutput | Asked::Joined => self.on_output(step, asked, answer),
        }
        self.ask_next_setter();
        Outcome::Applied
    }

    fn ask_next_setter(&mut self) {
        if let Some(next) = self.run.index.setters.first().copied()
            && self.run.step_row(next).ticket == 0
        {
            self.send_question(next);
        }
    }

    fn on_task_answer(&mut self, step: StepIx, answer: Answer) {
        let mapped = !matches!(answer, Answer::Failed { how: Failing::Run, .. } | Answer::Forked { .. });
        self.change(step, |row| row.mapped = mapped);
        match answer {
            Answer::Ready { input, wait } => self.on_ready(step, input, wait),
            Answer::Chosen { input, output, case } => self.on_chosen(step, input, output, &case),
            Answer::Forked { input, tasks, plan, inputs } => {
                self.on_forked(step, Forked { input, tasks, plan, inputs });
            }
            Answer::Named { input, tasks, plan } => self.on_named(step, input, tasks, plan),
            Answer::Looping { input, items, keep_last } => {
                self.change(step, |row| (row.input, row.items, row.keep_last) = (input, items, keep_last));
                self.begin_rounds(step);
            }
            Answer::Child { input, start, output } => {
                self.change(step, |row| (row.input, row.output) = (input, output));
                self.start_child(step, start);
            }
            Answer::Published { input, payload, event } => {
                self.change(step, |row| (row.input, row.output) = (input, Some(payload)));
                self.command(Command::Publish { step, event, payload });
                let waits = self.run.spec(self.run.step_row(step)).async_complete;
                if waits { self.wait_for_word(step) } else { self.end_step(step, TaskStatus::Completed, None) }
            }
            Answer::Done { input, output } => {
                self.change(step, |row| (row.input, row.output) = (input, output));
                self.end_step(step, TaskStatus::Completed, None);
            }
            Answer::Variables { input, variables } => {
                self.row().variables = Some(variables);
                self.change(step, |row| row.input = input);
                self.end_step(step, TaskStatus::Completed, None);
            }
            Answer::Terminate { input, output, status, reason } => {
                self.change(step, |row| (row.input, row.output) = (input, output));
                self.end_step(step, TaskStatus::Completed, None);
                self.terminate_by(step, status, reason);
            }
            Answer::Failed { reason, how, input } => self.on_failed(step, reason, how, input),
            Answer::Again(_) | Answer::Output(_) | Answer::Ended { .. } => self.wrong_answer(step),
        }
    }

    fn on_failed(&mut self, step: StepIx, reason: String, how: Failing, input: Option<Handle>) {
        self.change(step, |row| row.input = input);
        let status = match how {
            Failing::Task | Failing::Run => TaskStatus::Failed,
            Failing::Terminal => TaskStatus::FailedWithTerminalError,
        };
        self.end_step(step, status, Some(bounded(reason)));
        if how == Failing::Run && self.flows() {
            self.change(step, |row| row.flow = super::Flow::Stopped);
            let reason = self.failure_reason(step);
            self.finish(super::RunStatus::Failed, Some(reason), Some(step), true);
        }
    }

    /// An answer of another kind than the question: a fault of the informer, told where the user sees it.
    fn wrong_answer(&mut self, step: StepIx) {
        let reason = "the evaluation answered another question".to_owned();
        self.end_step(step, TaskStatus::FailedWithTerminalError, Some(reason));
    }

    fn on_ready(&mut self, step: StepIx, input: Option<Handle>, wait: Wait) {
        self.change(step, |row| row.input = input);
        let node = self.run.spec(self.run.step_row(step));
        if matches!(node.kind, Kind::Simple | Kind::Http) {
            return self.schedule(step);
        }
        let due_ms = match wait {
            Wait::Word => None,
            Wait::After(ms) => Some(self.now.ms.saturating_add(ms)),
            Wait::At(ms) => Some(ms),
        };
        self.change(step, |row| row.due_ms = due_ms);
        self.wait_for_word(step);
    }

    fn on_chosen(&mut self, step: StepIx, input: Option<Handle>, output: Option<Handle>, case: &str) {
        let row = self.run.step_row(step);
        let Kind::Switch(switch) = &self.run.node(row.node).kind else { return self.wrong_answer(step) };
        let found = switch.cases.iter().position(|(name, first)| name == case && (first.is_some() || !switch.decision));
        let chosen = found.and_then(|case| u32::try_from(case).ok());
        self.change(step, |row| (row.input, row.output, row.chosen) = (input, output, chosen));
        self.end_step(step, TaskStatus::Completed, None);
    }

    fn on_forked(&mut self, step: StepIx, forked: Forked) {
        let roots = forked.plan.roots.clone();
        if roots.len() > MAX_BRANCHES || roots.len() != forked.inputs.len() {
            let reason = format!("the fork has {} branches, at most {MAX_BRANCHES} are allowed", roots.len());
            return self.on_failed(step, reason, Failing::Run, forked.input);
        }
        let clash = roots.iter().map(|root| &forked.plan.nodes[*root as usize].reference).find(|name| {
            // A name of the definition would hide its task from expressions. Names of earlier forks may come again: a loop, or
            // another try, makes the same branches.
            self.run.plans[0].find(name).is_some()
        });
        if let Some(name) = clash {
            let reason = format!("the fork makes a task {name:?}, which the workflow has already; name it otherwise");
            return self.on_failed(step, reason, Failing::Run, forked.input);
        }
        let part = self.append(forked.tasks, forked.plan, step);
        let open = u32::try_from(roots.len()).unwrap_or(u32::MAX);
        let row = self.run.step_row(step);
        let (scope, order) = (row.scope.clone(), row.order.clone());
        self.change(step, |row| {
            row.mapped = true;
            row.input = forked.input;
            row.resolved = Some(NodeId { part, node: 0 });
        });
        self.count_strands(step, open);
        self.end_step(step, TaskStatus::Completed, None);
        for (lane, (root, given)) in roots.into_iter().zip(forked.inputs).enumerate() {
            let place =
                Place { parent: Some(step), scope: scope.clone(), order: below(&order, lane), fork: None, given };
            self.open(NodeId { part, node: root }, place);
        }
    }

    fn on_named(&mut self, step: StepIx, input: Option<Handle>, tasks: Handle, plan: Arc<Plan>) {
        if plan.roots.is_empty() {
            return self.wrong_answer(step);
        }
        let part = self.append(tasks, plan, step);
        self.change(step, |row| row.resolved = Some(NodeId { part, node: 0 }));
        self.on_ready(step, input, Wait::Word);
    }

    /// Appends a part to the run's plan.
    fn append(&mut self, tasks: Handle, plan: Arc<Plan>, step: StepIx) -> u32 {
        let depth = u32::try_from(self.run.step_row(step).scope.len()).unwrap_or(u32::MAX);
        self.row().parts += 1;
        let part = self.run.row.parts;
        self.run.plans.push(plan);
        self.run.parts.push(PartRow { part, tasks, depth });
        self.out.parts.insert(part);
        part
    }

    fn start_child(&mut self, step: StepIx, start: ChildStart) {
        let run = self.run.task_id(step);
        self.change(step, |row| {
            row.phase = Phase::Sent;
            row.child = Some(run.clone());
        });
        self.send_child(step, run, start);
    }

    fn send_child(&mut self, step: StepIx, run: String, start: ChildStart) {
        if matches!(self.run.spec(self.run.step_row(step)).kind, Kind::StartWorkflow) {
            self.command(Command::StartRun { step: Some(step), run, start });
        } else {
            self.command(Command::StartChild { step, run, start });
        }
    }

    /// The start of a child, once more.
    fn restate(&mut self, step: StepIx, answer: Answer) -> Outcome {
        let row = self.run.step_row(step);
        let (Answer::Child { start, .. }, Some(run)) = (answer, row.child.clone()) else {
            return Outcome::Ignored("nobody waits for this answer");
        };
        self.send_child(step, run, start);
        Outcome::Applied
    }

    fn on_output(&mut self, step: StepIx, asked: Asked, answer: Answer) {
        match answer {
            Answer::Output(output) => {
                self.change(step, |row| row.output = output);
                let status = if asked == Asked::Joined { self.joined_status(step) } else { TaskStatus::Completed };
                self.end_step(step, status, None);
            }
            Answer::Failed { reason, .. } => {
                self.end_step(step, TaskStatus::FailedWithTerminalError, Some(bounded(reason)));
            }
            _ => self.wrong_answer(step),
        }
    }

    /// A TERMINATE has been reached.
    fn terminate_by(&mut self, step: StepIx, status: super::RunStatus, reason: Option<String>) {
        let reason = match (status, reason) {
            (super::RunStatus::Completed, reason) => reason,
            (_, Some(reason)) => Some(reason),
            (_, None) => Some(format!("task {} ended the workflow", self.run.full_reference(self.run.step_row(step)))),
        };
        self.change(step, |row| row.flow = super::Flow::Stopped);
        self.finish_with(EndingRow { status, reason, ticket: 0, terminate: Some(step), tell: true }, None);
    }

    pub(super) fn on_run_evaluated(&mut self, ticket: u32, answer: Answer) -> Outcome {
        match &self.run.row.ending {
            Some(ending) if ending.ticket == ticket && !self.run.row.status.is_ended() => {}
            _ => return Outcome::Ignored("nobody waits for this answer"),
        }
        match answer {
            Answer::Ended { output, tell } => self.end_run(output, tell),
            Answer::Failed { reason, .. } => {
                let text = format!("the output could not be made: {reason}");
                if let Some(ending) = &mut self.row().ending {
                    ending.reason = Some(bounded(match ending.reason.take() {
                        Some(why) => format!("{why}; {text}"),
                        None => text,
                    }));
                    if ending.status == super::RunStatus::Completed {
                        ending.status = super::RunStatus::Failed;
                    }
                }
                self.end_run(None, None);
            }
            _ => self.end_run(None, None),
        }
        Outcome::Applied
    }

    /// The run is over.
    pub(super) fn end_run(&mut self, output: Option<Handle>, tell: Option<(String, Handle)>) {
        let now = self.now.ms;
        let row = self.row();
        let Some(ending) = row.ending.take() else { return };
        row.status = ending.status;
        row.reason.clone_from(&ending.reason);
        row.output = output;
        row.ended_ms = Some(now);
        let end = RunEnd { status: ending.status, output, reason: ending.reason, era: row.era };
        let (parent, id, era) = (row.parent.clone(), row.id.clone(), row.era);
        let correlation = row.correlation.clone();
        if self.run.plans[0].settings.timeout_s > 0 {
            self.command(Command::Disarm { step: None });
        }
        self.command(Command::Ended(end.clone()));
        if let Some(parent) = parent {
            self.command(Command::TellParent { parent, end });
        }
        if let Some((name, input)) = tell {
            let start =
                ChildStart { name, version: None, definition: None, input: Some(input), correlation, priority: None };
            self.command(Command::StartRun { step: None, run: format!("{id}.failure{era}"), start });
        }
    }
}
