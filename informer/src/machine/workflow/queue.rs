//! Work for workers without a sidecar, who poll by the task definition's name. Whoever has taken a task holds it until it is silent for
//! longer than its response timeout.
//!
//! ```text
//!   Delayed ──▶ Waiting ──polled──▶ Taken ──ended──▶ (gone)
//!      ▲           │ poll timeout     │ yielded, for a while
//!      └───────────┴──────────────────┘ silent, or took too long: the run hears of it
//! ```
//!
//! Nothing of it is stored: the step's row says whether it is taken and by whom, and after a start it is all asked for again.

use super::super::effect::{Effect, PolledWork, Rejection, Reply};
use super::super::event::{Now, PayloadHandle, RunId, StoredRun, Ticket, WorkUpdate};
use super::super::load::on_mono;
use super::super::timer::Timer;
use super::super::{Cx, Machine};
use super::{Nr, StepOf, moment};
use proto::bounds;
use proto::time::span;
use std::collections::{BTreeMap, BTreeSet};
use workflow::run::{Event as RunEvent, Outcome, StepIx, TaskEnd, TaskStatus, Work};

/// The kind of a line in a run's history that a worker has logged: its detail is the step, its payload the text.
pub const LOGGED: &str = "logged";

/// A task's place in its queue: higher priority first, then first come.
type Place = (std::cmp::Reverse<i32>, u64);

/// All queues, and who waits at them.
#[derive(Debug, Default)]
pub(in super::super) struct Queues {
    items: BTreeMap<StepOf, Item>,
    /// Waiting work by name.
    waiting: BTreeMap<String, BTreeMap<Place, StepOf>>,
    pollers: BTreeMap<Ticket, Poller>,
    /// Who waits for a name, who came first first: tickets rise.
    at: BTreeMap<String, BTreeSet<Ticket>>,
    places: u64,
}

#[derive(Debug)]
struct Item {
    work: Work,
    state: State,
    /// `mono_ms` by which a try that was taken must be over; none: no limit.
    over_by: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Not before this `mono_ms`.
    Delayed { until: u64 },
    /// In the queue, until this `mono_ms` at most.
    Waiting { place: Place, until: Option<u64> },
    /// Somebody has it, who is heard until this `mono_ms`.
    Taken { worker: String, until: Option<u64> },
}

#[derive(Debug)]
struct Poller {
    names: Vec<String>,
    worker: String,
    count: usize,
}

impl Machine {
    /// Puts a step's work into the queue of its name; after a start, back to where it was.
    pub(super) fn enqueue(&mut self, cx: &mut Cx<'_>, nr: Nr, work: Work) {
        let at = (nr, work.step);
        if self.flows.queues.items.contains_key(&at) {
            return;
        }
        let Some(row) = self.flows.runs.get(&nr).and_then(|held| held.run.step(work.step)) else { return };
        let taken = row.worker.clone().filter(|_| row.status == TaskStatus::InProgress);
        let until = on_mono(cx.now, work.not_before_ms);
        let limits = work.limits.clone();
        let item = Item { work, state: State::Delayed { until }, over_by: None };
        self.flows.queues.items.insert(at, item);
        match taken {
            Some(worker) => {
                // Its time begins anew: nobody could hear it meanwhile.
                self.take(cx, at, worker, limits.response_ms, limits.timeout_ms);
            }
            None if until > cx.now.mono_ms => self.timers.arm(Timer::Work(nr, at.1), until),
            None => self.offer(cx, at),
        }
    }

    /// Work can be taken from now on.
    fn offer(&mut self, cx: &mut Cx<'_>, at: StepOf) {
        let priority = self.flows.runs.get(&at.0).map_or(0, |held| held.priority);
        let queues = &mut self.flows.queues;
        queues.places += 1;
        let place = (std::cmp::Reverse(priority), queues.places);
        let Some(item) = queues.items.get_mut(&at) else { return };
        let poll_ms = item.work.limits.poll_ms;
        let until = (poll_ms > 0).then(|| cx.now.mono_ms.saturating_add(poll_ms));
        item.state = State::Waiting { place, until };
        let name = item.work.name.clone();
        queues.waiting.entry(name.clone()).or_default().insert(place, at);
        match until {
            Some(until) => self.timers.arm(Timer::Work(at.0, at.1), until),
            None => self.timers.cancel(Timer::Work(at.0, at.1)),
        }
        let first = self.flows.queues.at.get(&name).and_then(BTreeSet::first).copied();
        if let Some(ticket) = first {
            self.serve(cx, ticket);
        }
    }

    pub(in super::super) fn on_polled(
        &mut self,
        cx: &mut Cx<'_>,
        ticket: Ticket,
        names: Vec<String>,
        worker: String,
        (count, wait_ms): (u32, u64),
    ) {
        let queues = &mut self.flows.queues;
        if queues.pollers.len() >= bounds::POLLERS {
            let rejection = Rejection::Pollers { limit: bounds::POLLERS };
            return cx.effects.push(Effect::Reply { ticket, reply: Reply::Rejected(rejection) });
        }
        let count = count.clamp(1, bounds::POLL_TASKS) as usize;
        for name in &names {
            queues.at.entry(name.clone()).or_default().insert(ticket);
        }
        queues.pollers.insert(ticket, Poller { names, worker, count });
        self.serve(cx, ticket);
        if self.flows.queues.pollers.contains_key(&ticket) {
            if wait_ms == 0 {
                self.on_poll_over(cx, ticket);
            } else {
                let until = cx.now.mono_ms.saturating_add(wait_ms.min(bounds::POLL_WAIT_MS));
                self.timers.arm(Timer::Poll(ticket), until);
            }
        }
    }

    /// Gives a worker what there is of its names; who gets nothing waits on.
    fn serve(&mut self, cx: &mut Cx<'_>, ticket: Ticket) {
        let Some(poller) = self.flows.queues.pollers.get(&ticket) else { return };
        let (names, worker, count) = (poller.names.clone(), poller.worker.clone(), poller.count);
        let mut given = Vec::new();
        for name in &names {
            while given.len() < count
                && let Some(at) = self.flows.queues.next_of(name)
            {
                given.extend(self.give(cx, at, &worker));
            }
        }
        if !given.is_empty() {
            self.dismiss(ticket);
            cx.effects.push(Effect::Reply { ticket, reply: Reply::Polled(given) });
        }
    }

    /// A worker takes it.
    fn give(&mut self, cx: &mut Cx<'_>, at: StepOf, worker: &str) -> Option<PolledWork> {
        let item = self.flows.queues.items.get(&at)?;
        let (response_ms, timeout_ms) = (item.work.limits.response_ms, item.work.limits.timeout_ms);
        self.take(cx, at, worker.to_owned(), response_ms, timeout_ms);
        // Whoever polls is told after the commit, so it is the run's word that counts.
        let _ =
            self.tell_run(cx, at.0, moment(cx.now), RunEvent::Started { step: at.1, worker: Some(worker.to_owned()) });
        let (held, item) = (self.flows.runs.get(&at.0)?, self.flows.queues.items.get(&at)?);
        let row = held.run.step(at.1)?;
        Some(PolledWork {
            run: held.id.clone(),
            step: at.1,
            name: item.work.name.clone(),
            reference: item.work.reference.clone(),
            workflow: held.run.row().name.clone(),
            correlation: held.run.row().correlation.clone(),
            input: row.input.map(|input| input.0),
            output: row.output.map(|output| output.0),
            retry_count: item.work.retry_count,
            response_ms,
            scheduled_unix_ms: row.scheduled_ms,
            started_unix_ms: row.started_ms.unwrap_or(cx.now.wall_ms),
        })
    }

    fn take(&mut self, cx: &Cx<'_>, at: StepOf, worker: String, response_ms: u64, timeout_ms: u64) {
        self.flows.queues.leave(at);
        let Some(item) = self.flows.queues.items.get_mut(&at) else { return };
        let after = |ms: u64| (ms > 0).then(|| cx.now.mono_ms.saturating_add(ms));
        item.over_by = item.over_by.or(after(timeout_ms));
        item.state = State::Taken { worker, until: after(response_ms) };
        self.arm_work(at);
    }

    /// Arms what comes first: silence, or the end of its time.
    fn arm_work(&mut self, at: StepOf) {
        let timer = Timer::Work(at.0, at.1);
        let due = self.flows.queues.items.get(&at).and_then(|item| match item.state {
            State::Delayed { until } => Some(until),
            State::Waiting { until, .. } => until,
            State::Taken { until, .. } => until.into_iter().chain(item.over_by).min(),
        });
        match due {
            Some(due) => self.timers.arm(timer, due),
            None => self.timers.cancel(timer),
        }
    }

    /// Forgets work: it is over, or not wanted any more.
    pub(super) fn dequeue(&mut self, at: StepOf) {
        self.flows.queues.leave(at);
        if self.flows.queues.items.remove(&at).is_some() {
            self.timers.cancel(Timer::Work(at.0, at.1));
            self.give_place_back(at);
        }
    }

    /// What is queued is a step's that was sent, and whoever waits for a name finds nothing of it.
    pub(super) fn check_queues(&self) -> Result<(), String> {
        let queues = &self.flows.queues;
        for (at, item) in &queues.items {
            let row = self.flows.runs.get(&at.0).and_then(|held| held.run.step(at.1));
            if row.is_none_or(|row| row.phase != workflow::run::Phase::Sent) {
                return Err(format!("{:?} is queued, and its step does not wait for it", item.work.id));
            }
            let queued =
                queues.waiting.get(&item.work.name).is_some_and(|waiting| waiting.values().any(|other| other == at));
            if queued != matches!(item.state, State::Waiting { .. }) {
                return Err(format!("{:?} is {:?}, and queued: {queued}", item.work.id, item.state));
            }
        }
        match queues.at.keys().find(|name| queues.waiting.contains_key(*name)) {
            Some(name) => Err(format!("a worker waits for {name:?}, and there is some")),
            None => Ok(()),
        }
    }

    pub(in super::super) fn on_work_due(&mut self, cx: &mut Cx<'_>, at: StepOf) {
        let Some(item) = self.flows.queues.items.get(&at) else { return };
        let now_ms = cx.now.mono_ms;
        let late = |until: Option<u64>| until.is_some_and(|until| until <= now_ms);
        let (reason, by_policy) = match item.state {
            State::Delayed { .. } => return self.offer(cx, at),
            State::Waiting { .. } => ("no worker has polled for it within its poll timeout", true),
            State::Taken { .. } if late(item.over_by) => ("it took longer than its timeout", true),
            State::Taken { until, .. } if late(until) => {
                ("its worker was silent for longer than its response timeout", false)
            }
            State::Taken { .. } => return,
        };
        self.dequeue(at);
        let (status, reason) = (TaskStatus::TimedOut, Some(reason.to_owned()));
        self.flows
            .tell(at.0, RunEvent::TaskEnded { step: at.1, end: TaskEnd { status, output: None, reason, by_policy } });
        self.drive(cx);
    }

    /// A poll has waited long enough, or its caller has left.
    pub(in super::super) fn on_poll_over(&mut self, cx: &mut Cx<'_>, ticket: Ticket) {
        if self.dismiss(ticket) {
            cx.effects.push(Effect::Reply { ticket, reply: Reply::Polled(Vec::new()) });
        }
    }

    fn dismiss(&mut self, ticket: Ticket) -> bool {
        self.timers.cancel(Timer::Poll(ticket));
        let queues = &mut self.flows.queues;
        let Some(poller) = queues.pollers.remove(&ticket) else { return false };
        for name in poller.names {
            if let Some(at) = queues.at.get_mut(&name) {
                at.remove(&ticket);
                if at.is_empty() {
                    queues.at.remove(&name);
                }
            }
        }
        true
    }

    pub(in super::super) fn on_work_updated(
        &mut self,
        cx: &mut Cx<'_>,
        ticket: Ticket,
        (run, step): (RunId, StepIx),
        stored: Vec<StoredRun>,
        update: WorkUpdate,
    ) {
        self.hydrate_runs(stored);
        let reply = match self.flows.find(&run) {
            None => Reply::Rejected(Rejection::UnknownRun { run }),
            Some(nr) => match self.update_work(cx, (nr, step), update) {
                Ok(Outcome::Applied) => Reply::WorkUpdated { ignored: None },
                Ok(Outcome::Ignored(why)) => Reply::WorkUpdated { ignored: Some(why) },
                Err(why) => Reply::Rejected(Rejection::RunRefused { run, why }),
            },
        };
        cx.effects.push(Effect::Reply { ticket, reply });
    }

    /// Keeps what a worker tells, as lines of the run's history: until half of it is full, so that no talkative worker leaves nothing of
    /// what was done to the run.
    pub(in super::super) fn on_work_logged(
        &mut self,
        cx: &mut Cx<'_>,
        ticket: Ticket,
        (run, step): (RunId, StepIx),
        (stored, lines): (Vec<StoredRun>, Vec<PayloadHandle>),
    ) {
        self.hydrate_runs(stored);
        let held = self.flows.find(&run).and_then(|nr| Some((nr, self.flows.runs.get(&nr)?)));
        let reply = match held {
            None => Reply::Rejected(Rejection::UnknownRun { run }),
            Some((_, held)) if held.run.step(step).is_none() => {
                Reply::WorkUpdated { ignored: Some("the workflow has no such task") }
            }
            Some((nr, held)) => {
                let room = (bounds::RUN_EVENTS / 2).saturating_sub(held.history) as usize;
                for line in lines.iter().take(room) {
                    self.note_event(cx, nr, LOGGED, step.to_string(), line.to_vec());
                }
                let ignored = (lines.len() > room).then_some("the run has as many lines as are kept");
                Reply::WorkUpdated { ignored }
            }
        };
        cx.effects.push(Effect::Reply { ticket, reply });
    }

    /// How many tasks of each name wait for a worker.
    #[must_use]
    pub fn queued(&self) -> BTreeMap<String, usize> {
        self.flows.queues.waiting.iter().map(|(name, waiting)| (name.clone(), waiting.len())).collect()
    }

    /// Why a worker has not taken a step's work, or who has it; `None`: it is in no queue.
    pub(super) fn why_queued(&self, now: Now, at: StepOf) -> Option<String> {
        let item = self.flows.queues.items.get(&at)?;
        let name = &item.work.name;
        let left = |until: u64| span(until.saturating_sub(now.mono_ms));
        Some(match &item.state {
            State::Delayed { until } => format!("it goes to the queue {name:?} in {}", left(*until)),
            State::Waiting { place, .. } => {
                let waiting = self.flows.queues.waiting.get(name);
                let ahead = waiting.map_or(0, |waiting| waiting.range(..*place).count());
                let gives_up = match &item.state {
                    State::Waiting { until: Some(until), .. } => format!("; it gives up in {}", left(*until)),
                    _ => String::new(),
                };
                format!("no worker has polled for {name:?} since it was ready, and {ahead} wait before it{gives_up}")
            }
            State::Taken { worker, until: None } => format!("worker {worker:?} has it"),
            State::Taken { worker, until: Some(until) } => {
                format!("worker {worker:?} has it, and is to say something within {}", left(*until))
            }
        })
    }

    fn update_work(
        &mut self,
        cx: &mut Cx<'_>,
        at: StepOf,
        update: WorkUpdate,
    ) -> Result<Outcome, workflow::run::Refused> {
        let now = moment(cx.now);
        if !self.flows.queues.items.contains_key(&at) {
            return self.update_other(cx, at, update);
        }
        match update {
            WorkUpdate::Extend { output } => {
                let item = self.flows.queues.items.get_mut(&at);
                if let Some(Item { work, state: State::Taken { until, .. }, .. }) = item {
                    let response_ms = work.limits.response_ms;
                    *until = (response_ms > 0).then(|| cx.now.mono_ms.saturating_add(response_ms));
                    self.arm_work(at);
                }
                self.tell_run(cx, at.0, now, RunEvent::Progressed { step: at.1, output, yields: false })
            }
            WorkUpdate::Yield { after_ms, output } => {
                let told = self.tell_run(cx, at.0, now, RunEvent::Progressed { step: at.1, output, yields: true })?;
                self.flows.queues.leave(at);
                let until = cx.now.mono_ms.saturating_add(after_ms.min(bounds::DURATION_MS));
                if let Some(item) = self.flows.queues.items.get_mut(&at) {
                    item.state = State::Delayed { until };
                }
                if after_ms == 0 {
                    self.offer(cx, at)
                } else {
                    self.arm_work(at)
                }
                Ok(told)
            }
            WorkUpdate::End { status, output, reason } => {
                self.dequeue(at);
                let end = TaskEnd { status, output, reason, by_policy: false };
                self.tell_run(cx, at.0, now, RunEvent::TaskEnded { step: at.1, end })
            }
        }
    }

    /// A word about what no worker has taken: a WAIT, a HUMAN, a task of ours, or something that is over.
    fn update_other(
        &mut self,
        cx: &mut Cx<'_>,
        at: StepOf,
        update: WorkUpdate,
    ) -> Result<Outcome, workflow::run::Refused> {
        let run = self.flows.runs.get(&at.0).map(|held| &held.run);
        let Some((run, row)) = run.and_then(|run| Some((run, run.step(at.1)?))) else {
            return Ok(Outcome::Ignored("the workflow has no such task"));
        };
        if !row.is_live() {
            return Ok(Outcome::Ignored("the task is over already"));
        }
        let reference = run.full_reference(row);
        let (status, output, reason) = match update {
            WorkUpdate::Extend { output } | WorkUpdate::Yield { output, .. } => (TaskStatus::InProgress, output, None),
            WorkUpdate::End { status, output, reason } => (status, output, reason),
        };
        self.tell_run(cx, at.0, moment(cx.now), RunEvent::Update { reference, status, output, reason })
    }
}

impl Queues {
    /// The next of a name.
    fn next_of(&self, name: &str) -> Option<StepOf> {
        self.waiting.get(name)?.first_key_value().map(|(_, at)| *at)
    }

    /// Takes work out of its queue, if it waits there.
    fn leave(&mut self, at: StepOf) {
        let Some(item) = self.items.get(&at) else { return };
        if let State::Waiting { place, .. } = item.state
            && let Some(waiting) = self.waiting.get_mut(&item.work.name)
        {
            waiting.remove(&place);
            if waiting.is_empty() {
                self.waiting.remove(&item.work.name);
            }
        }
    }
}
