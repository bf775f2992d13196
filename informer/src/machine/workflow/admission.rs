//! How much work of one name may be under way, or start, at once: concurrentExecLimit and rate limits. Both are counted over what there
//! is, so that nothing leaks: work is admitted when it goes to a queue, and gives its place back when it is over or its run is gone.

use super::super::load::on_mono;
use super::super::timer::Timer;
use super::super::{Cx, Machine};
use super::{Nr, StepOf};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use workflow::run::{Limits, StepIx, TaskStatus, Work};

/// Work by name, as far as it is limited.
#[derive(Debug, Default)]
pub(super) struct Admission {
    names: BTreeMap<String, Name>,
    /// The name of each piece of work that is counted, waits or is not due.
    of: BTreeMap<StepOf, String>,
    /// Names of which something may start now.
    freed: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Name {
    /// Counted: it was admitted and is not over.
    live: BTreeSet<StepOf>,
    /// Not due yet.
    delayed: BTreeMap<StepOf, Work>,
    /// Due, who came first first.
    waiting: VecDeque<(StepOf, Work)>,
    /// `mono_ms` of the last starts, as many as one period may have.
    starts: VecDeque<u64>,
}

fn is_limited(limits: &Limits) -> bool {
    limits.concurrent > 0 || limits.rate > 0
}

impl Machine {
    /// Work that is limited waits here until there is room for it; all else goes on at once.
    pub(super) fn limit(&mut self, cx: &mut Cx<'_>, nr: Nr, work: Work) {
        let at = (nr, work.step);
        if !is_limited(&work.limits) {
            return self.dispatch(cx, nr, work);
        }
        if self.flows.admission.of.contains_key(&at) {
            return;
        }
        self.flows.admission.of.insert(at, work.name.clone());
        let row = self.flows.runs.get(&nr).and_then(|held| held.run.step(work.step));
        let runs = row.is_some_and(|row| row.status == TaskStatus::InProgress)
            || self.task_of(nr, work.step).is_some_and(|id| self.tasks.contains_key(&id));
        let due_ms = on_mono(cx.now, work.not_before_ms);
        let name = self.flows.admission.names.entry(work.name.clone()).or_default();
        if runs {
            // It was admitted before this informer's start.
            name.live.insert(at);
            return self.dispatch(cx, nr, work);
        }
        if due_ms > cx.now.mono_ms {
            name.delayed.insert(at, work);
            return self.timers.arm(Timer::Admit(nr, at.1), due_ms);
        }
        self.flows.admission.freed.insert(work.name.clone());
        name.waiting.push_back((at, work));
    }

    /// Its delay is over, or the period in which too much has started.
    pub(in super::super) fn on_admission_due(&mut self, nr: Nr, step: StepIx) {
        let admission = &mut self.flows.admission;
        let Some(name) = admission.of.get(&(nr, step)) else { return };
        admission.freed.insert(name.clone());
        let Some(of_name) = admission.names.get_mut(name) else { return };
        if let Some(work) = of_name.delayed.remove(&(nr, step)) {
            of_name.waiting.push_back(((nr, step), work));
        }
    }

    /// Starts what there is room for now. Whether anything was started.
    pub(super) fn admit_freed(&mut self, cx: &mut Cx<'_>) -> bool {
        let mut any = false;
        for name in std::mem::take(&mut self.flows.admission.freed) {
            while let Some((at, work)) = self.next_of(cx, &name) {
                any = true;
                self.dispatch(cx, at.0, work);
            }
        }
        any
    }

    fn next_of(&mut self, cx: &Cx<'_>, name: &str) -> Option<(StepOf, Work)> {
        #[cfg(feature = "seeded-bugs")]
        let ignores = self.bug(super::super::Bug::IgnoreExecLimit);
        #[cfg(not(feature = "seeded-bugs"))]
        let ignores = false;
        let of_name = self.flows.admission.names.get_mut(name)?;
        let Some((at, work)) = of_name.waiting.front() else {
            if of_name.live.is_empty() && of_name.delayed.is_empty() && of_name.starts.is_empty() {
                self.flows.admission.names.remove(name);
            }
            return None;
        };
        let limits = &work.limits;
        if !ignores && limits.concurrent > 0 && of_name.live.len() >= limits.concurrent as usize {
            return None;
        }
        if limits.rate > 0 {
            while of_name.starts.front().is_some_and(|start| start + limits.rate_period_ms <= cx.now.mono_ms) {
                of_name.starts.pop_front();
            }
            if of_name.starts.len() >= limits.rate as usize {
                let due_ms = of_name.starts.front().map_or(cx.now.mono_ms, |start| start + limits.rate_period_ms);
                self.timers.arm(Timer::Admit(at.0, at.1), due_ms);
                return None;
            }
            of_name.starts.push_back(cx.now.mono_ms);
        }
        let (at, work) = of_name.waiting.pop_front()?;
        of_name.live.insert(at);
        Some((at, work))
    }

    /// Work is over, or not wanted any more: its place is somebody else's.
    pub(super) fn give_place_back(&mut self, at: StepOf) {
        #[cfg(feature = "seeded-bugs")]
        if self.bug(super::super::Bug::KeepPlace) {
            return;
        }
        let admission = &mut self.flows.admission;
        let Some(name) = admission.of.remove(&at) else { return };
        self.timers.cancel(Timer::Admit(at.0, at.1));
        if let Some(of_name) = admission.names.get_mut(&name) {
            of_name.live.remove(&at);
            of_name.delayed.remove(&at);
            of_name.waiting.retain(|(waiting, _)| *waiting != at);
        }
        admission.freed.insert(name);
    }

    /// A run is gone, with all that it had here.
    pub(super) fn give_places_back(&mut self, nr: Nr) {
        let of_run = self.flows.admission.of.range((nr, 0)..=(nr, StepIx::MAX));
        let places: Vec<StepOf> = of_run.map(|(at, _)| *at).collect();
        places.into_iter().for_each(|at| self.give_place_back(at));
    }

    /// Why a step's work has not gone to a queue; `None`: it has, or there is none.
    #[must_use]
    pub fn why_not_admitted(&self, run: &str, step: StepIx) -> Option<String> {
        let at = (self.flows.find(run)?, step);
        let name = self.flows.admission.of.get(&at)?;
        let of_name = self.flows.admission.names.get(name)?;
        let ahead = of_name.waiting.iter().position(|(waiting, _)| *waiting == at)?;
        let limits = &of_name.waiting.get(ahead)?.1.limits;
        let live = of_name.live.len();
        Some(match limits.concurrent {
            limit if limit > 0 && live >= limit as usize => {
                format!("{live} tasks {name} are under way, which is its concurrentExecLimit; {ahead} wait before it")
            }
            _ => format!(
                "{} tasks {name} have started in this period, which is its rate limit; {ahead} wait before it",
                limits.rate
            ),
        })
    }
}
