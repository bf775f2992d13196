//! The loop's part in workflows: events are completed from the store, and what is to be computed goes to the evaluator.

use super::core::Core;
use super::flows::{self, Bodies, FlowCall, Job, RunCall, What};
use crate::machine::{
    Alone, Effect, EmittedChild, FlowEvent, Rejection, Reply, RunId, StoredRun, WorkUpdate, child_id,
};
use crate::store::Error;
use proto::id::TaskId;
use tokio::sync::oneshot;

impl Core {
    /// A client's call about workflows.
    pub(super) fn on_run_call(&mut self, call: RunCall) -> Result<(), Error> {
        let RunCall { what, bodies, reply } = call;
        let event = match what {
            What::Start(mut new) => {
                new.known = new.key.as_deref().map(|key| self.reader.run_key(key)).transpose()?.flatten();
                new.known = new.known.filter(|hit| !self.is_run_going(&hit.run));
                new.ticket = self.outside.ticket(reply);
                FlowEvent::RunStarted(new)
            }
            What::Operate { run, operation, key } => {
                let Some(stored) = self.family(&run)? else { return self.too_many(run, reply) };
                FlowEvent::RunOperated { ticket: self.outside.ticket(reply), run, stored, operation, key }
            }
            What::PutDefinition { definition, replace } => {
                FlowEvent::DefinitionPut { ticket: self.outside.ticket(reply), definition, replace }
            }
            What::DeleteDefinition { name, version } => {
                FlowEvent::DefinitionDeleted { ticket: self.outside.ticket(reply), name, version }
            }
            What::PutTaskDefinition { definition } => {
                FlowEvent::TaskDefinitionPut { ticket: self.outside.ticket(reply), definition }
            }
            What::DeleteTaskDefinition { name } => {
                FlowEvent::TaskDefinitionDeleted { ticket: self.outside.ticket(reply), name }
            }
            What::Poll { names, worker, count, wait_ms } => {
                FlowEvent::Polled { ticket: self.outside.ticket(reply), names, worker, count, wait_ms }
            }
            What::Update { run, step, update } => {
                let Some(stored) = self.family(&run)? else { return self.too_many(run, reply) };
                FlowEvent::WorkUpdated { ticket: self.outside.ticket(reply), run, step, stored, update }
            }
            What::Log { run, step, lines } => {
                // Only the run itself: a word about it reaches no other.
                let stored = self.run_alone(&run)?;
                FlowEvent::WorkLogged { ticket: self.outside.ticket(reply), run, step, stored, lines }
            }
        };
        self.apply_with(event, bodies);
        Ok(())
    }

    fn too_many(&mut self, run: RunId, reply: oneshot::Sender<Reply>) -> Result<(), Error> {
        let limit = proto::bounds::RUN_FAMILY;
        // Whoever no longer waits has no use for it.
        let _ = reply.send(Reply::Rejected(Rejection::RunFamily { run, limit }));
        Ok(())
    }

    /// What a child needs that becomes a task by itself; a run has it all.
    pub(super) fn complete_child(&mut self, parent: TaskId, child: &mut EmittedChild) -> Result<(), Error> {
        let Ok(what) = &child.what else { return Ok(()) };
        if child.key.is_empty() || !self.machine.emits_alone(parent) {
            return Ok(());
        }
        let id = child_id(parent, &child.key);
        let stored = self.stored(id)?;
        let known = self.machine.holds(id) || !stored.is_empty();
        let made = match known {
            true => Err(String::new()),
            false => flows::child(&mut *self.reader, what, |name| self.machine.has_executor(name))?,
        };
        child.alone = Some(Box::new(Alone { stored, made }));
        Ok(())
    }

    /// An answer of the evaluator.
    pub(super) fn on_flow(&mut self, call: FlowCall) -> Result<(), Error> {
        self.filling.answers += 1;
        match call {
            FlowCall::Evaluated { run, step, ticket, answer, templates, bodies } => {
                self.apply_with(FlowEvent::Evaluated { run, step, ticket, answer, templates }, bodies);
            }
            FlowCall::Prepared { by, step, child, waits, exists, outcome, bodies } => {
                self.apply_with(FlowEvent::RunPrepared { by, step, child, waits, exists, outcome }, bodies);
            }
            FlowCall::Failed(error) => return Err(error),
        }
        Ok(())
    }

    /// Bodies of an event that changes nothing are left behind.
    fn apply_with(&mut self, event: FlowEvent, bodies: Bodies) {
        if self.apply(event.into()) {
            for (handle, body) in bodies {
                self.outside.bodies.keep(handle, body.clone());
                self.filling.payloads.push((handle, body));
            }
        }
    }

    /// A run and its kin, as far as the machine does not hold them. `None`: they are too many.
    fn family(&mut self, run: &RunId) -> Result<Option<Vec<StoredRun>>, Error> {
        let Some(mut stored) = flows::family(&mut *self.reader, &self.plans, &self.machine, run)? else {
            return Ok(None);
        };
        stored.retain(|stored| !self.is_run_going(&stored.row.id));
        Ok(Some(stored))
    }

    /// A run, if the machine does not hold it.
    fn run_alone(&mut self, run: &RunId) -> Result<Vec<StoredRun>, Error> {
        if self.machine.holds_run(run) || self.is_run_going(run) {
            return Ok(Vec::new());
        }
        Ok(flows::one(&mut *self.reader, &self.plans, run)?.into_iter().collect())
    }

    /// Gives tasks back to their queue whose taker has left before it could be told.
    pub(super) fn give_back(&mut self) {
        for work in self.outside.take_undelivered() {
            let update = WorkUpdate::Yield { after_ms: 0, output: None };
            let (run, step, stored) = (work.run, work.step, Vec::new());
            self.apply(FlowEvent::WorkUpdated { ticket: flows::NOBODY, run, step, stored, update }.into());
        }
    }

    /// The batch under way removes it.
    fn is_run_going(&self, run: &str) -> bool {
        self.committing.as_ref().is_some_and(|committing| committing.prune_runs.iter().any(|going| **going == *run))
    }

    /// Hands to the evaluator what is to be computed; the rest is for the outside.
    pub(super) fn compute(&mut self, effects: Vec<Effect>) -> Vec<Effect> {
        let mut rest = Vec::with_capacity(effects.len());
        for effect in effects {
            match effect {
                Effect::Evaluate { run, question, plan } => self.evaluator.add(Job::Evaluate { run, question, plan }),
                Effect::Prepare { by, step, child, waits, start } => {
                    self.evaluator.add(Job::Prepare { by, step, child, waits, start });
                }
                effect => rest.push(effect),
            }
        }
        rest
    }
}
