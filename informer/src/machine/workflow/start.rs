//! How runs begin: by a client, by a step of another run, or to be told of another run's failure.

use super::super::effect::{Effect, Rejection, Reply};
use super::super::event::{NewRun, Prepared, RunId, RunKeyHit};
use super::super::{Cx, Machine};
use super::{Held, Nr, Touched, moment};
use proto::bounds;
use std::collections::BTreeMap;
use std::sync::Arc;
use workflow::evaluate::ChildStart;
use workflow::run::{Effects, Event as RunEvent, ParentStep, Phase, Run, Start, StepIx};

/// Whose a new run is.
struct Belongs {
    owner: Box<str>,
    labels: BTreeMap<String, String>,
    priority: i32,
    key: Option<(Box<str>, [u8; 32])>,
}

impl Machine {
    pub(in super::super) fn on_run_started(&mut self, cx: &mut Cx<'_>, new: NewRun) {
        let ticket = new.ticket;
        let reply = match self.admit_run(&new) {
            Ok(None) => {
                let run = Arc::clone(&new.id);
                let key = new.key.map(|key| (key.into_boxed_str(), new.digest));
                let noted = key.as_ref();
                #[cfg(feature = "seeded-bugs")]
                let noted = noted.filter(|_| !self.bug(super::super::Bug::ForgetRunKey));
                if let Some((key, digest)) = noted {
                    let pending = &mut self.flows.pending;
                    pending.keys.insert(key.clone(), RunKeyHit { run: Arc::clone(&run), digest: *digest });
                    pending.new_keys.push(key.clone());
                }
                let belongs =
                    Belongs { owner: new.owner.into(), labels: new.labels, priority: new.prepared.priority, key };
                self.begin_run(cx, Arc::clone(&run), new.prepared, belongs, None);
                Reply::RunStarted { run, existed: false }
            }
            Ok(Some(run)) => Reply::RunStarted { run, existed: true },
            Err(rejection) => Reply::Rejected(rejection),
        };
        cx.effects.push(Effect::Reply { ticket, reply });
    }

    /// `Some` names the run that the key already stands for.
    fn admit_run(&self, new: &NewRun) -> Result<Option<RunId>, Rejection> {
        let known = new.key.as_deref().and_then(|key| self.flows.pending.keys.get(key)).or(new.known.as_ref());
        match known {
            Some(hit) if hit.digest == new.digest => Ok(Some(Arc::clone(&hit.run))),
            #[cfg(feature = "seeded-bugs")]
            Some(hit) if self.bug(super::super::Bug::IgnoreRunDigest) => Ok(Some(Arc::clone(&hit.run))),
            Some(hit) => Err(Rejection::RunKeyConflict { run: Arc::clone(&hit.run) }),
            None if self.flows.runs.len() >= bounds::RUNS_LIVE => Err(Rejection::RunsFull { limit: bounds::RUNS_LIVE }),
            None => Ok(None),
        }
    }

    fn begin_run(&mut self, cx: &mut Cx<'_>, id: RunId, new: Prepared, belongs: Belongs, parent: Option<ParentStep>) {
        let mut out = Effects::default();
        let start = Start {
            id: id.to_string(),
            plan: new.plan,
            input: new.input,
            variables: new.variables,
            correlation: new.correlation,
            parent,
        };
        let run = Run::start(moment(cx.now), start, &mut out);
        // Specs of tasks that are made later are the run's from now on.
        let holds = new.templates.values().map(|template| template.payload).collect();
        let held = Held {
            id,
            run,
            templates: vec![new.templates],
            owner: belongs.owner,
            labels: belongs.labels,
            priority: belongs.priority,
            definition: new.definition,
            key: belongs.key,
            operation_key: Box::default(),
            history: 0,
            to_tell: None,
            due: BTreeMap::new(),
            touched: Touched { holds, ..Touched::default() },
            fresh: true,
        };
        let nr = self.flows.insert(held);
        self.note_run(cx, nr, "started", "");
        self.absorb(cx, nr, out);
    }

    /// A step wants a run: it is there already, or it is prepared beside the loop.
    pub(super) fn want_child(&mut self, cx: &mut Cx<'_>, by: Nr, step: Option<StepIx>, child: &str, want: Want) {
        if self.flows.find(child).is_some() {
            return self.child_is_there(by, step);
        }
        let Some(held) = self.flows.runs.get(&by) else { return };
        if child.len() > bounds::RUN_ID_BYTES {
            let reason = "workflows start each other too deep, perhaps without end".to_owned();
            return self.child_is_refused(cx, by, step, reason);
        }
        cx.effects.push(Effect::Prepare {
            by: Arc::clone(&held.id),
            step,
            child: child.into(),
            waits: want.waits,
            start: Box::new(want.start),
        });
    }

    pub(in super::super) fn on_run_prepared(&mut self, cx: &mut Cx<'_>, answer: Answered) {
        let Answered { by, step, child, waits, exists, outcome } = answer;
        let Some(by) = self.flows.find(&by) else { return };
        if !self.is_wanted(by, step, &child) {
            return;
        }
        if exists || self.flows.find(&child).is_some() {
            return self.child_is_there(by, step);
        }
        match outcome {
            Ok(_) if self.flows.runs.len() >= bounds::RUNS_LIVE => {
                let limit = bounds::RUNS_LIVE;
                self.child_is_refused(cx, by, step, Rejection::RunsFull { limit }.to_string());
            }
            Ok(new) => {
                let Some(held) = self.flows.runs.get(&by) else { return };
                let belongs = Belongs {
                    owner: held.owner.clone(),
                    labels: held.labels.clone(),
                    priority: if new.priority == 0 { held.priority } else { new.priority },
                    key: None,
                };
                let parent = step.filter(|_| waits).map(|step| ParentStep { run: held.id.to_string(), step });
                self.begin_run(cx, child, *new, belongs, parent);
                self.child_is_there(by, step);
            }
            Err(reason) => self.child_is_refused(cx, by, step, reason),
        }
    }

    /// Whether a run still wants this child: its step may have been cancelled meanwhile.
    fn is_wanted(&self, by: Nr, step: Option<StepIx>, child: &str) -> bool {
        let Some(held) = self.flows.runs.get(&by) else { return false };
        match step {
            Some(step) => {
                let row = held.run.step(step);
                row.is_some_and(|row| row.phase == Phase::Sent && row.child.as_deref() == Some(child))
            }
            None => held.to_tell.as_ref().is_some_and(|tell| tell.run == child),
        }
    }

    fn child_is_there(&mut self, by: Nr, step: Option<StepIx>) {
        match step {
            Some(step) => self.flows.tell(by, RunEvent::ChildStarted { step }),
            None => self.told(by),
        }
    }

    fn child_is_refused(&mut self, cx: &Cx<'_>, by: Nr, step: Option<StepIx>, reason: String) {
        match step {
            Some(step) => self.flows.tell(by, RunEvent::ChildRefused { step, reason }),
            // Nobody waits for it; the run's history says why there is none.
            None => {
                self.note_run(cx, by, "failure_workflow_refused", reason);
                self.told(by);
            }
        }
    }

    /// The failure workflow has started, or never will.
    fn told(&mut self, by: Nr) {
        if let Some(held) = self.flows.runs.get_mut(&by)
            && held.to_tell.take().is_some()
        {
            self.touch_run(by);
        }
    }
}

/// What a step wants to have started.
pub(super) struct Want {
    /// Whether it waits for its end.
    pub waits: bool,
    /// What it is.
    pub start: ChildStart,
}

/// The fields of [`super::super::FlowEvent::RunPrepared`].
pub(in super::super) struct Answered {
    pub by: RunId,
    pub step: Option<StepIx>,
    pub child: RunId,
    pub waits: bool,
    pub exists: bool,
    pub outcome: Result<Box<Prepared>, String>,
}
