//! Workers without a sidecar: they poll by name, hold what they were given until they say what became of it, and repeat what they were
//! not answered.

use super::super::judge::{Check, Wrong, wrong};
use super::super::{Step, World};
use super::draw::POLLED;
use super::rows::named;
use super::work::{Manners, Try};
use super::{Asked, FlowStep, Saying};
use informer::machine::{FlowEvent, PolledWork, WorkUpdate};
use serde_json::json;
use workflow::evaluate::Handle;
use workflow::run::TaskStatus;

/// How long a poll waits at most, ms.
const WAIT_MS: u64 = 5000;
/// A poll that is not answered by then was lost, ms.
const LOST_MS: u64 = 7000;
/// Between two tries to say something, ms.
const AGAIN_MS: u64 = 1500;

impl World {
    pub(super) fn on_poll(&mut self, worker: usize, no: u64) -> Result<(), Wrong> {
        if no != self.flow.polls[worker] {
            return Ok(());
        }
        self.flow.polls[worker] += 1;
        let no = self.flow.polls[worker];
        self.agenda.after(LOST_MS, Step::Flow(FlowStep::Poll { worker, no }));
        if self.is_away() {
            return Ok(());
        }
        let (count, wait_ms) = (self.rng.range(1, 3) as u32, self.rng.range(0, WAIT_MS));
        let ticket = self.ask(Asked::Poll { worker, no });
        let names = vec![POLLED[worker].to_owned()];
        let worker = format!("worker{worker}");
        self.tell_flow(FlowEvent::Polled { ticket, names, worker, count, wait_ms }, Vec::new())
    }

    pub(super) fn on_polled(&mut self, worker: usize, no: u64, works: &[PolledWork]) -> Result<(), Wrong> {
        // A reply to a poll that its worker has given up goes nowhere, with what it carries.
        let heard = no == self.flow.polls[worker];
        for work in works {
            self.check_handed(work, heard)?;
            if !heard {
                continue;
            }
            let Some(of) = self.try_of(work) else { continue };
            let at = (work.run.to_string(), work.step);
            let takes_ms = self.flow.table.takes_ms(&of);
            let mut say = |within_ms: u64, what: Saying| {
                let step = FlowStep::Say { worker, work: Box::new(work.clone()), what };
                self.agenda.after(within_ms, Step::Flow(step));
            };
            match self.flow.table.manners(&of) {
                Manners::Forgets => {}
                Manners::GivesBack if self.flow.given_back.insert(at) => say(takes_ms, Saying::GivesBack),
                Manners::GoesOn => {
                    say(takes_ms / 2, Saying::GoesOn);
                    say(takes_ms, Saying::End);
                }
                Manners::Plain | Manners::GivesBack => say(takes_ms, Saying::End),
            }
        }
        if heard {
            self.agenda.after(50, Step::Flow(FlowStep::Poll { worker, no }));
        }
        Ok(())
    }

    /// One step is one worker's, until it is given back.
    fn check_handed(&mut self, work: &PolledWork, heard: bool) -> Result<(), Wrong> {
        let at = (work.run.to_string(), work.step);
        if heard && !self.flow.handed.insert(at) {
            let what = format!("step {} of run {} was handed to two workers", work.step, work.run);
            return wrong(Check::StepOnce, what);
        }
        Ok(())
    }

    fn try_of(&self, work: &PolledWork) -> Option<Try> {
        let path = self.path_of(&work.run)?;
        Some(Try { path, reference: work.reference.clone(), tried: work.retry_count })
    }

    pub(super) fn on_say(&mut self, worker: usize, work: PolledWork, what: Saying) -> Result<(), Wrong> {
        let at = (work.run.to_string(), work.step);
        if self.flow.said.contains(&at) && what == Saying::End && !self.rng.chance(100) {
            return Ok(());
        }
        if what == Saying::End && !self.flow.said.contains(&at) {
            let again = FlowStep::Say { worker, work: Box::new(work.clone()), what };
            self.agenda.after(AGAIN_MS, Step::Flow(again));
        }
        if self.is_away() {
            return Ok(());
        }
        let Some(of) = self.try_of(&work) else { return Ok(()) };
        let outcome = self.flow.table.outcome(&of);
        let (handle, body) = named(&outcome.output);
        let output = (outcome.output != json!({})).then_some(Handle(handle));
        let after_ms = self.rng.range(0, 2000);
        let update = match what {
            Saying::End => WorkUpdate::End { status: outcome.status, output, reason: None },
            Saying::GoesOn => WorkUpdate::Extend { output: None },
            Saying::GivesBack => {
                self.flow.handed.remove(&at);
                WorkUpdate::Yield { after_ms, output: None }
            }
        };
        let bodies = if outcome.status == TaskStatus::Completed { vec![(handle, body)] } else { Vec::new() };
        let (run, step) = at;
        let asked = if what == Saying::End { Asked::Said { run, step } } else { Asked::Nothing };
        let (ticket, run, step) = (self.ask(asked), work.run.clone(), work.step);
        self.tell_flow(FlowEvent::WorkUpdated { ticket, run, step, stored: Vec::new(), update }, bodies)
    }
}
