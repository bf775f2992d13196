//! What becomes of a run's commands. Words between runs are told before the `apply` is over, so that parent and child move in one batch.

use super::super::effect::Effect;
use super::super::event::{RunId, StoredRun, Templates};
use super::super::load::on_mono;
use super::super::timer::Timer;
use super::super::{Cx, Machine};
use super::start::Want;
use super::{Nr, ToTell, Word, moment};
use proto::{bounds, store};
use std::sync::Arc;
use workflow::evaluate::Answer;
use workflow::run::{Command, Effects, Event as RunEvent, Moment, Outcome, Refused, StepIx};

impl Machine {
    /// Tells runs what is to be told, until nobody has anything to say.
    pub(in super::super) fn drive(&mut self, cx: &mut Cx<'_>) {
        loop {
            while let Some(Word { to, event, from }) = self.flows.inbox.pop_front() {
                let told = self.tell_run(cx, to, moment(cx.now), event);
                if let (Err(refused), Some((by, step))) = (told, from) {
                    self.flows.tell(by, RunEvent::ChildRefused { step, reason: refused.to_string() });
                }
            }
            if !self.admit_freed(cx) && self.flows.inbox.is_empty() {
                return;
            }
        }
    }

    /// Tells one run one event.
    pub(super) fn tell_run(
        &mut self,
        cx: &mut Cx<'_>,
        nr: Nr,
        at: Moment,
        event: RunEvent,
    ) -> Result<Outcome, Refused> {
        let Some(held) = self.flows.runs.get_mut(&nr) else { return Ok(Outcome::Ignored("the workflow is over")) };
        let mut out = Effects::default();
        let outcome = held.run.apply(at, event, &mut out);
        self.absorb(cx, nr, out);
        outcome
    }

    /// Takes what an event of a run has changed, and does what it wants.
    pub(super) fn absorb(&mut self, cx: &mut Cx<'_>, nr: Nr, mut out: Effects) {
        let commands = out.take_commands();
        self.touch(nr, &out);
        for command in commands {
            self.obey(cx, nr, command);
        }
    }

    fn touch(&mut self, nr: Nr, out: &Effects) {
        let Some(held) = self.flows.runs.get_mut(&nr) else { return };
        let touched = &mut held.touched;
        touched.row |= out.run;
        for step in &out.removed {
            touched.steps.remove(step);
            touched.removed.insert(*step);
        }
        for step in &out.steps {
            touched.removed.remove(step);
            touched.steps.insert(*step);
        }
        if out.parts_removed {
            touched.parts_removed = true;
            touched.parts.clear();
            held.templates.truncate(1);
        }
        touched.parts.extend(&out.parts);
        if out.run || !out.steps.is_empty() || !out.removed.is_empty() || !out.parts.is_empty() || out.parts_removed {
            self.flows.pending.runs.insert(nr);
            self.pending.writes += 1;
        }
    }

    /// The run's row is to be written.
    pub(super) fn touch_run(&mut self, nr: Nr) {
        if let Some(held) = self.flows.runs.get_mut(&nr) {
            held.touched.row = true;
            self.flows.pending.runs.insert(nr);
            self.pending.writes += 1;
        }
    }

    /// Adds a line to a run's history.
    pub(super) fn note_run(&mut self, cx: &Cx<'_>, nr: Nr, kind: &'static str, detail: impl Into<String>) {
        self.note_event(cx, nr, kind, detail.into(), Vec::new());
    }

    pub(super) fn note_event(&mut self, cx: &Cx<'_>, nr: Nr, kind: &'static str, detail: String, payload: Vec<u8>) {
        self.touch_run(nr);
        let Some(held) = self.flows.runs.get_mut(&nr) else { return };
        held.history += 1;
        if let Ok(handle) = payload.as_slice().try_into() {
            held.touched.holds.insert(handle);
        }
        self.flows.pending.events.push(store::RunEventRow {
            run: held.id.to_string(),
            seq: held.history,
            unix_ms: cx.now.wall_ms,
            kind: kind.to_owned(),
            detail,
            payload,
        });
    }

    fn obey(&mut self, cx: &mut Cx<'_>, nr: Nr, command: Command) {
        match command {
            Command::Evaluate(question) => {
                let Some(held) = self.flows.runs.get(&nr) else { return };
                let part = question.node.map_or(0, |node| node.part as usize);
                let Some(plan) = held.run.plans().get(part).cloned() else { return };
                cx.effects.push(Effect::Evaluate { run: Arc::clone(&held.id), question, plan });
            }
            Command::Schedule(work) => self.limit(cx, nr, *work),
            Command::Cancel { step } => self.cancel_work(cx, nr, step),
            Command::StartChild { step, run, start } => {
                self.want_child(cx, nr, Some(step), &run, Want { waits: true, start });
            }
            Command::StartRun { step: Some(step), run, start } => {
                self.want_child(cx, nr, Some(step), &run, Want { waits: false, start });
            }
            Command::StartRun { step: None, run, start } => {
                let tell = ToTell {
                    run: run.clone(),
                    name: start.name.clone(),
                    input: start.input,
                    correlation: start.correlation.clone(),
                };
                if let Some(held) = self.flows.runs.get_mut(&nr) {
                    held.to_tell = Some(tell);
                }
                self.touch_run(nr);
                self.want_child(cx, nr, None, &run, Want { waits: false, start });
            }
            #[cfg(feature = "seeded-bugs")]
            Command::CancelChild { .. } if self.bug(super::super::Bug::OrphanChild) => {}
            Command::CancelChild { run, reason } => {
                let event = RunEvent::Terminate { reason: Some(reason), tell: false };
                self.tell_other(&run, event);
            }
            Command::RetryChild { step, run } => match self.flows.find(&run) {
                Some(to) => self.flows.inbox.push_back(Word { to, event: RunEvent::Revive, from: Some((nr, step)) }),
                None => {
                    let reason = format!("the sub-workflow {run} is not kept any more; rerun the task instead");
                    self.flows.tell(nr, RunEvent::ChildRefused { step, reason });
                }
            },
            Command::Publish { step: _, event, payload } => {
                self.note_event(cx, nr, "published", event, payload.0.to_vec());
            }
            Command::Arm { step, due_ms } => self.arm_run(cx, nr, step, due_ms),
            Command::Disarm { step } => self.disarm_run(nr, step),
            #[cfg(feature = "seeded-bugs")]
            Command::TellParent { parent, end } if self.bug(super::super::Bug::TellParentLater) => {
                if let Some(to) = self.flows.find(&parent.run) {
                    let event = RunEvent::ChildEnded { step: parent.step, end };
                    self.flows.late.push(Word { to, event, from: None });
                }
            }
            // Whoever is not held is over, or gone: it waits for nobody.
            Command::TellParent { parent, end } => {
                self.tell_other(&parent.run, RunEvent::ChildEnded { step: parent.step, end });
            }
            Command::TellReopened { parent, era } => {
                self.tell_other(&parent.run, RunEvent::ChildReopened { step: parent.step, era });
            }
            Command::Ended(end) => {
                let kind = match end.status {
                    workflow::run::RunStatus::Completed => "completed",
                    workflow::run::RunStatus::TimedOut => "timed_out",
                    workflow::run::RunStatus::Terminated => "terminated",
                    _ => "failed",
                };
                self.note_run(cx, nr, kind, end.reason.unwrap_or_default());
            }
        }
    }

    fn tell_other(&mut self, run: &str, event: RunEvent) {
        if let Some(to) = self.flows.find(run) {
            self.flows.tell(to, event);
        }
    }

    fn arm_run(&mut self, cx: &Cx<'_>, nr: Nr, step: Option<StepIx>, due_ms: u64) {
        if let Some(held) = self.flows.runs.get_mut(&nr) {
            held.due.insert(step, due_ms);
            self.timers.arm(Timer::Run(nr, step), on_mono(cx.now, due_ms));
        }
    }

    fn disarm_run(&mut self, nr: Nr, step: Option<StepIx>) {
        if let Some(held) = self.flows.runs.get_mut(&nr) {
            held.due.remove(&step);
        }
        self.timers.cancel(Timer::Run(nr, step));
    }

    /// The time that a run named has come, whatever the wall clock says since: it may have been set back.
    pub(in super::super) fn on_run_due(&mut self, cx: &mut Cx<'_>, nr: Nr, step: Option<StepIx>) {
        let Some(due_ms) = self.flows.runs.get_mut(&nr).and_then(|held| held.due.remove(&step)) else { return };
        let at = Moment { ms: cx.now.wall_ms.max(due_ms), ..moment(cx.now) };
        // A timer is no request: whatever it finds, there is nobody to be told.
        let _ = self.tell_run(cx, nr, at, RunEvent::TimerDue { step });
    }

    pub(in super::super) fn on_evaluated(
        &mut self,
        cx: &mut Cx<'_>,
        run: &RunId,
        (step, ticket): (Option<StepIx>, u32),
        answer: Answer,
        templates: Arc<Templates>,
    ) {
        let Some(nr) = self.flows.find(run) else { return };
        let Some(held) = self.flows.runs.get_mut(&nr) else { return };
        let parts = held.run.parts().len();
        held.templates.push(templates);
        let told = self.tell_run(cx, nr, moment(cx.now), RunEvent::Evaluated { step, ticket, answer });
        debug_assert!(told.is_ok(), "answers are not refused: {told:?}");
        let Some(held) = self.flows.runs.get_mut(&nr) else { return };
        if held.run.parts().len() == parts {
            held.templates.pop();
        } else if let Some(templates) = held.templates.last() {
            held.touched.holds.extend(templates.values().map(|template| template.payload));
        }
    }

    /// Takes runs from the store into memory, unless the machine holds them and so knows better.
    pub(super) fn hydrate_runs(&mut self, stored: Vec<StoredRun>) {
        for stored in stored {
            if self.flows.find(&stored.row.id).is_some() {
                continue;
            }
            let nr = self.hold_stored(stored);
            if self.flows.runs.get(&nr).is_some_and(|held| held.is_settled()) {
                self.flows.hydrated.push(nr);
            }
        }
    }

    /// Runs that were over leave again if nothing became of them.
    pub(in super::super) fn release_hydrated(&mut self) {
        for nr in std::mem::take(&mut self.flows.hydrated) {
            self.forget_run(nr);
        }
    }

    /// The runs that an operation on this one can reach: who waits for it, and its children whose steps ended badly.
    #[must_use]
    pub fn kin(&self, run: &str) -> Option<Vec<String>> {
        let held = self.flows.runs.get(&self.flows.find(run)?)?;
        Some(kin(&held.run).take(bounds::RUN_FAMILY + 1).collect())
    }

    /// Whether the machine holds the run, so that the store's rows would be older than what it knows.
    #[must_use]
    pub fn holds_run(&self, run: &str) -> bool {
        self.flows.find(run).is_some()
    }
}

/// Who waits for a run, and its children whose steps did not end well: those that a retry brings back.
pub fn kin(run: &workflow::run::Run) -> impl Iterator<Item = String> {
    let parent = run.row().parent.as_ref().map(|parent| parent.run.clone());
    let children = run.steps().filter(|step| !step.status.is_success()).filter_map(|step| step.child.clone());
    parent.into_iter().chain(children)
}
