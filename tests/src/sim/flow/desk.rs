//! The shell's part in workflows: what runs ask is answered, and events are completed from the store.

use super::super::disk::Store;
use super::super::judge::{Check, Wrong, wrong};
use super::super::{ShellBug, Step, World};
use super::FlowStep;
use super::rows::{Bodies, Stock, family, templates};
use informer::machine::{Effect, Event, FlowEvent, Machine, Ticket};
use std::collections::BTreeMap;
use std::sync::Arc;
use workflow::evaluate::{self, Answer, Tools};

/// Longest time that an answer takes as a rule, ms.
const ANSWER_MS: u64 = 15;
/// Longest time of some.
const SLOW_ANSWER_MS: u64 = 3000;

/// What a client or a worker waits for.
#[derive(Debug, Clone)]
pub(in super::super) enum Asked {
    Put(usize),
    Start { entry: usize, other: bool },
    Operated(super::draw::Verb),
    Poll { worker: usize, no: u64 },
    Said { run: String, step: u32 },
    Nothing,
}

/// What the shell has in memory about workflows.
#[derive(Default)]
pub(in super::super) struct Desk {
    pub asked: BTreeMap<Ticket, Asked>,
    /// Bodies that the event being told brings.
    offered: Bodies,
    /// Bodies for the next batch.
    bodies: Bodies,
}

impl Desk {
    /// The event has been applied; bodies of one that has changed nothing are left behind.
    pub(in super::super) fn applied(&mut self, wrote: bool) {
        let offered = std::mem::take(&mut self.offered);
        if wrote {
            self.bodies.extend(offered);
        }
    }

    pub(in super::super) fn take_bodies(&mut self) -> Bodies {
        std::mem::take(&mut self.bodies)
    }
}

impl World {
    /// Tells the informer something that brings bodies.
    pub(in super::super) fn tell_flow(&mut self, event: FlowEvent, bodies: Bodies) -> Result<(), Wrong> {
        if self.center.machine.is_none() {
            return Ok(());
        }
        self.center.desk.offered = bodies;
        self.tell_center(event.into())
    }

    /// A run asks: the answer is made of what is stored now, and arrives later.
    pub(in super::super) fn on_question(&mut self, effect: Effect) -> Result<(), Wrong> {
        let stock = Stock::new(&self.center.store.flows);
        let event = match effect {
            Effect::Evaluate { run, question, plan } => {
                let tools = Tools { bodies: &stock, scripts: &stock, registry: &stock };
                let answer = evaluate::answer(&question, &plan, tools);
                let templates = match &answer {
                    Answer::Forked { plan, .. } | Answer::Named { plan, .. } => Arc::new(templates(plan)),
                    _ => Arc::default(),
                };
                let (step, ticket) = (question.step, question.ticket);
                FlowEvent::Evaluated { run, step, ticket, answer: Box::new(answer), templates }
            }
            Effect::Prepare { by, step, child, waits, start } => {
                let exists = self.center.store.flows.runs.contains_key(&*child);
                let outcome = stock.prepare_child(&start).map(Box::new);
                FlowEvent::RunPrepared { by, step, child, waits, exists, outcome }
            }
            _ => return Ok(()),
        };
        if let Some(missing) = stock.missing.borrow_mut().take() {
            return wrong(Check::InformerConsistent, format!("a run asks for what is not there: {missing}"));
        }
        let mut bodies = stock.finish();
        if self.options.shell_bug == Some(ShellBug::LeaveBodies) {
            bodies.clear();
        }
        let slow = self.rng.chance(30);
        let delay_ms = self.rng.range(0, if slow { SLOW_ANSWER_MS } else { ANSWER_MS });
        let life = self.center.life;
        self.agenda.after(delay_ms, Step::Flow(FlowStep::Answered { life, event: Box::new(event), bodies }));
        Ok(())
    }

    pub(in super::super) fn on_answered(&mut self, life: u64, event: FlowEvent, bodies: Bodies) -> Result<(), Wrong> {
        if life != self.center.life {
            return Ok(());
        }
        let again = || Step::Flow(FlowStep::Answered { life, event: Box::new(event.clone()), bodies: bodies.clone() });
        if self.delayed_by_center(again) {
            return Ok(());
        }
        self.tell_flow(event, bodies)
    }
}

/// What the store knows of an event's objects, and the machine does not hold.
pub(in super::super) fn complete(store: &Store, machine: &Machine, event: &mut Event, bug: Option<ShellBug>) {
    let Event::Flow(event) = event else { return };
    match event {
        FlowEvent::RunStarted(new) if bug != Some(ShellBug::ForgetRunKeys) => {
            new.known = new.key.as_ref().and_then(|key| store.flows.keys.get(key)).cloned();
        }
        FlowEvent::RunOperated { run, stored, .. } | FlowEvent::WorkUpdated { run, stored, .. } => {
            *stored = family(&store.flows, machine, run).expect("what the store keeps of runs is runs");
        }
        _ => {}
    }
}
