//! Questions: what is asked, and what the answer may read.

use std::collections::BTreeMap;

use super::event::{Command, Effects, Limits, Work};
use super::row::{Asked, EndingRow, Phase, RunStatus, StepIx, StepRow};
use super::{Run, Transition, bounded};
use crate::definition::{Kind, TimeoutPolicy};
use crate::evaluate::{Ask, Ending, Handle, Output, Question, Round, RunFacts, Sources, TaskFacts};
use crate::expression::{self, Needs};
use crate::plan::{NodeId, Parent};

impl Transition<'_> {
    /// Asks about a step. Of SET_VARIABLE steps one is asked at a time: each answer is all variables.
    pub(super) fn ask(&mut self, step: StepIx, what: Asked) {
        self.change(step, |row| {
            row.phase = Phase::Asked(what);
            row.ticket = 0;
        });
        let setters = &self.run.index.setters;
        if setters.contains(&step) && setters.first() != Some(&step) {
            return;
        }
        self.send_question(step);
    }

    /// Asks a question that was put off.
    pub(super) fn send_question(&mut self, step: StepIx) {
        self.row().ticket += 1;
        let ticket = self.run.row.ticket;
        self.change(step, |row| row.ticket = ticket);
        let question = self.run.question(step, &mut self.out.looked_at);
        self.command(Command::Evaluate(Box::new(question)));
    }

    /// Asks for the run's output, or ends it at once when there is nothing to compute.
    pub(super) fn ask_end(&mut self, mut ending: EndingRow) {
        let settings = &self.run.plans[0].settings;
        ending.tell &= ending.status != RunStatus::Completed && settings.failure_workflow.is_some();
        let computes = ending.tell || (!settings.output.is_empty() && ending.terminate.is_none());
        self.row().ticket += 1;
        ending.ticket = self.run.row.ticket;
        ending.reason = ending.reason.map(bounded);
        self.row().ending = Some(ending);
        if computes {
            let question = self.run.end_question(&mut self.out.looked_at);
            self.command(Command::Evaluate(Box::new(question)));
        } else {
            let output = self.run.last_output();
            self.end_run(output, None);
        }
    }

    /// Gives a task to the outside: its input is there.
    pub(super) fn schedule(&mut self, step: StepIx) {
        self.change(step, |row| row.phase = Phase::Sent);
        let work = self.run.work(step);
        self.command(Command::Schedule(Box::new(work)));
    }

    /// Everything under way, once more.
    pub(super) fn reissue(&mut self) {
        if let Some(ending) = &self.run.row.ending {
            if !self.run.row.status.is_ended() && ending.ticket > 0 {
                let question = self.run.end_question(&mut self.out.looked_at);
                self.command(Command::Evaluate(Box::new(question)));
            }
            return;
        }
        if self.run.row.status.is_ended() {
            return;
        }
        self.arm_run();
        let live: Vec<_> = self.run.index.live.iter().copied().collect();
        for step in live {
            let commands = self.run.under_way(step, &mut self.out.looked_at);
            self.out.commands.extend(commands);
        }
    }
}

impl Run {
    /// What a live step has asked for.
    fn under_way(&self, step: StepIx, looked_at: &mut u64) -> Vec<Command> {
        let row = self.step_row(step);
        let timer = [row.due_ms.filter(|_| row.phase != Phase::Sent), row.deadline_ms].into_iter().flatten().min();
        let mut commands: Vec<_> = timer.map(|due_ms| Command::Arm { step: Some(step), due_ms }).into_iter().collect();
        match row.phase {
            Phase::Asked(_) if row.ticket > 0 => {
                commands.push(Command::Evaluate(Box::new(self.question(step, looked_at))));
            }
            Phase::Sent if matches!(self.spec(row).kind, Kind::Simple | Kind::Http) => {
                commands.push(Command::Schedule(Box::new(self.work(step))));
            }
            // What a child is, only its answer knew: it is asked again, and the child's id makes its start harmless.
            Phase::Sent => commands.push(Command::Evaluate(Box::new(self.question(step, looked_at)))),
            _ => {}
        }
        commands
    }

    /// The question that a step waits for.
    fn question(&self, step: StepIx, looked_at: &mut u64) -> Question {
        let row = self.step_row(step);
        let id = row.resolved.filter(|_| matches!(self.node(row.node).kind, Kind::Dynamic { .. })).unwrap_or(row.node);
        let node = self.node(id);
        let mut sources = self.sources(row, &node.needs, looked_at);
        let ask = match row.phase {
            Phase::Asked(Asked::Condition) => {
                sources.tasks = self.loop_tasks(row, &node.needs, looked_at);
                Ask::Condition { iteration: row.iteration }
            }
            Phase::Asked(Asked::LoopOutput) => {
                let rounds = self.rounds(row, looked_at);
                let output = Output::Loop { iteration: row.iteration, rounds };
                sources.tasks = vec![(node.reference.clone(), self.facts(row, output))];
                Ask::LoopOutput
            }
            Phase::Asked(Asked::Joined) => {
                let tasks = self.joined_outputs(step);
                let children = self.emitted_before(step).map(|key| self.emitted(&key));
                *looked_at += (tasks.len() + children.as_ref().map_or(0, Vec::len)) as u64;
                Ask::Joined { tasks, children }
            }
            _ => Ask::Task { given: row.given, child: self.child_id(step) },
        };
        Question { step: Some(step), ticket: row.ticket, node: Some(id), ask, sources }
    }

    /// The question for the run's output.
    fn end_question(&self, looked_at: &mut u64) -> Question {
        let ending = self.row.ending.as_ref().expect("only a run that is ending is asked for its output");
        let mut sources = Sources { run: self.run_facts(), ..Sources::default() };
        sources.run.status = ending.status;
        sources.run.reason.clone_from(&ending.reason);
        let mut needs = self.plans[0].settings.output_needs.clone();
        needs.any |= ending.tell;
        sources.tasks = self.needed(&needs, looked_at);
        let terminated = ending.terminate.and_then(|step| self.step_row(step).output);
        let ask = Ask::End(Box::new(Ending {
            status: ending.status,
            reason: ending.reason.clone(),
            terminated,
            by_terminate: ending.terminate.is_some(),
            last: self.last_output(),
            failed_task: self.row.failed_step.map(|step| self.task_id(step)),
            tell: ending.tell,
        }));
        Question { step: None, ticket: ending.ticket, node: None, ask, sources }
    }

    /// The output that the run's is, where the definition gives no other: of the TERMINATE, of the task that failed, of the last.
    fn last_output(&self) -> Option<Handle> {
        let terminate = self.row.ending.as_ref().and_then(|ending| ending.terminate);
        if let Some(step) = terminate.or(self.row.failed_step) {
            return self.step_row(step).output;
        }
        let shown = self.steps.values().filter(|step| step.mapped);
        shown.max_by(|a, b| a.order.cmp(&b.order)).and_then(|step| step.output)
    }

    fn sources(&self, row: &StepRow, needs: &Needs, looked_at: &mut u64) -> Sources {
        Sources { run: self.run_facts(), tasks: self.needed(needs, looked_at), task_id: self.task_id(row.step) }
    }

    fn run_facts(&self) -> RunFacts {
        let row = &self.row;
        RunFacts {
            id: row.id.clone(),
            name: row.name.clone(),
            version: row.version,
            status: row.status,
            correlation: row.correlation.clone(),
            parent: row.parent.as_ref().map(|parent| parent.run.clone()),
            parent_task: row.parent.as_ref().map(|parent| task_id(&parent.run, parent.step)),
            reason: row.reason.clone(),
            input: row.input,
            variables: row.variables,
            output: row.output,
        }
    }

    /// The tasks that templates name.
    fn needed(&self, needs: &Needs, looked_at: &mut u64) -> Vec<(String, TaskFacts)> {
        let mut tasks: BTreeMap<String, TaskFacts> = BTreeMap::new();
        if needs.any {
            for (node, step) in &self.index.latest {
                let facts = self.facts_of(*step, true, looked_at);
                tasks.insert(self.node(*node).reference.clone(), facts);
            }
        }
        for root in &needs.roots {
            if let Some(step) = self.see(root) {
                tasks.insert(root.clone(), self.facts_of(step, needs.whole.contains(root), looked_at));
            }
        }
        tasks.into_iter().collect()
    }

    fn facts_of(&self, step: StepIx, whole: bool, looked_at: &mut u64) -> TaskFacts {
        *looked_at += 1;
        let row = self.step_row(step);
        let loops = matches!(self.node(row.node).kind, Kind::DoWhile(_)) && row.is_live();
        let output = if loops {
            let rounds = if whole { self.rounds(row, looked_at) } else { Vec::new() };
            Output::Loop { iteration: row.iteration, rounds }
        } else {
            Output::Stored(row.output)
        };
        self.facts(row, output)
    }

    /// What a condition reads: the loop, and the latest of each task in it.
    fn loop_tasks(&self, row: &StepRow, needs: &Needs, looked_at: &mut u64) -> Vec<(String, TaskFacts)> {
        let node = self.node(row.node);
        let mut tasks = self.needed(needs, looked_at);
        tasks.retain(|(name, _)| *name != node.reference);
        let whole = needs.whole.contains(&node.reference);
        tasks.push((node.reference.clone(), self.facts_of(row.step, whole, looked_at)));
        for inner in row.node.node + 1..node.end {
            let id = NodeId { part: row.node.part, node: inner };
            if let Some(step) = self.index.latest.get(&id) {
                let name = self.node(id).reference.clone();
                tasks.retain(|(known, _)| *known != name);
                tasks.push((name, self.facts_of(*step, false, looked_at)));
            }
        }
        tasks
    }

    /// The outputs of the rounds that a loop keeps.
    fn rounds(&self, row: &StepRow, looked_at: &mut u64) -> Vec<Round> {
        let mut rounds: BTreeMap<u32, Vec<(String, Handle)>> = BTreeMap::new();
        let depth = row.scope.len();
        for inner in row.node.node + 1..self.node(row.node).end {
            let id = NodeId { part: row.node.part, node: inner };
            if matches!(self.node(id).parent, Parent::Emitted(_)) {
                // Its join has them all.
                continue;
            }
            let from = (id, row.scope.clone());
            let within =
                self.index.instances.range(from..).take_while(|((node, scope), _)| {
                    *node == id && scope.len() > depth && scope[..depth] == row.scope[..]
                });
            for ((_, scope), step) in within {
                *looked_at += 1;
                let round = rounds.entry(scope[depth]).or_default();
                if let Some(output) = self.step_row(*step).output {
                    round.push((self.node(id).reference.clone(), output));
                }
            }
        }
        rounds.into_iter().map(|(iteration, tasks)| Round { iteration, tasks }).collect()
    }

    /// The latest step that an expression sees under a name: `ref`, or `ref__2`.
    pub(super) fn see(&self, name: &str) -> Option<StepIx> {
        if let Some(step) = self.nodes(name).find_map(|node| self.index.latest.get(&node)) {
            return Some(*step);
        }
        let (base, scope) = expression::base(name)?;
        let step = self.nodes(base).find_map(|node| self.index.instances.get(&(node, scope.clone())))?;
        self.step_row(*step).mapped.then_some(*step)
    }

    /// The node of a reference name.
    pub(super) fn find(&self, reference: &str) -> Option<NodeId> {
        self.nodes(reference).next()
    }

    /// The nodes of a reference name: the definition's, whose names no part takes; else of the parts, the newest first.
    fn nodes(&self, reference: &str) -> impl Iterator<Item = NodeId> {
        let own = self.plans[0].find(reference).map(|node| NodeId { part: 0, node });
        let parts = if own.is_some() { &[] } else { &self.plans[1..] };
        let parts = parts.iter().enumerate().rev().filter_map(move |(part, plan)| {
            Some(NodeId { part: u32::try_from(part + 1).ok()?, node: plan.find(reference)? })
        });
        own.into_iter().chain(parts)
    }

    fn facts(&self, row: &StepRow, output: Output) -> TaskFacts {
        let node = self.spec(row);
        TaskFacts {
            id: self.task_id(row.step),
            reference: self.full_reference(row),
            name: node.name.clone(),
            task_type: self.task_type(row).to_owned(),
            status: row.status,
            retry_count: row.retry_count,
            reason: row.reason.clone(),
            times: [row.scheduled_ms, row.started_ms.unwrap_or(0), row.ended_ms.unwrap_or(0)],
            input: row.input,
            output,
            child: row.child.clone(),
        }
    }

    /// A task as it goes out.
    fn work(&self, step: StepIx) -> Work {
        let row = self.step_row(step);
        let node = self.spec(row);
        let limits = node.definition.as_ref().map(|definition| {
            let alerts = definition.timeout_policy == TimeoutPolicy::AlertOnly;
            let limit = |seconds: u64| if alerts { 0 } else { seconds * 1000 };
            let total_ms = definition.total_timeout_s * 1000;
            Limits {
                timeout_ms: limit(definition.timeout_s),
                response_ms: definition.response_timeout_s * 1000,
                poll_ms: limit(definition.poll_timeout_s),
                deadline_ms: if total_ms > 0 { row.first_ms.saturating_add(total_ms) } else { 0 },
                concurrent: definition.concurrent_exec_limit,
                rate: definition.rate_limit,
                rate_period_ms: definition.rate_period_s * 1000,
            }
        });
        Work {
            step,
            id: self.task_id(step),
            reference: self.full_reference(row),
            name: node.name.clone(),
            http: matches!(node.kind, Kind::Http),
            input: row.input,
            not_before_ms: row.due_ms.unwrap_or(0),
            retry_count: row.retry_count,
            retried_from: row.retried_from,
            limits: limits.unwrap_or_default(),
        }
    }

    /// A step's id for the outside.
    pub fn task_id(&self, step: StepIx) -> String {
        task_id(&self.row.id, step)
    }

    /// The id of the run that a step starts: made of its own, so that a repeated start is the same start.
    fn child_id(&self, step: StepIx) -> String {
        task_id(&self.row.id, step)
    }
}

fn task_id(run: &str, step: StepIx) -> String {
    format!("{run}.{step}")
}

impl Effects {
    /// Takes the commands, leaving none.
    pub fn take_commands(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.commands)
    }
}
