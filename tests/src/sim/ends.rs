//! The world as a whole, after every step and at the end.

use super::judge::{Check, Wrong, wrong};
use super::{BEAT_MS, World};
use proto::id::TaskId;
use proto::{bounds, store, v1};

/// How late a beat may leave, ms: a turn of the agent's loop, no more.
const BEAT_SLACK_MS: u64 = 100;

impl World {
    /// After every step.
    pub(super) fn judge(&mut self) -> Result<(), Wrong> {
        self.judge_runs()?;
        for (nth, task) in &self.truth.acknowledged {
            if !self.center.store.tasks.contains_key(task) {
                return wrong(Check::AcknowledgedIsKept, format!("{task} was acknowledged as {nth} and is lost"));
            }
        }
        for (id, row) in &self.center.store.tasks {
            if let Some(array) = &row.array {
                self.judge_members(*id, array)?;
            }
        }
        (0..self.boxes.len()).try_for_each(|n| self.judge_agent(n))
    }

    fn judge_agent(&self, n: usize) -> Result<(), Wrong> {
        let it = &self.boxes[n];
        let Some(agent) = &it.agent else { return Ok(()) };
        // Two facts of each attempt may wait for room in the window, and one answer to each message of the informer.
        let most =
            agent.tally().stages.iter().sum::<u32>() as usize * 4 + bounds::LINK_QUEUE + bounds::REPORTS_IN_FLIGHT;
        if agent.outbox_len() > most {
            return wrong(Check::QueuesAreBounded, format!("{} reports are queued on box {n}", agent.outbox_len()));
        }
        let due_ms = it.beat_ms.max(it.paused_until_ms) + BEAT_MS + BEAT_SLACK_MS;
        if it.link.is_some() && agent.is_linked() && self.agenda.now_ms > due_ms {
            return wrong(Check::BeatsLeave, format!("box {n} has not sent a beat since {} ms", it.beat_ms));
        }
        Ok(())
    }

    /// What an array counts is what is stored.
    fn judge_members(&self, id: TaskId, array: &store::ArrayRow) -> Result<(), Wrong> {
        use v1::TaskState as S;
        let rows = (array.first..array.first + array.count)
            .filter_map(|index| id.at(index))
            .filter_map(|member| self.center.store.tasks.get(&member));
        let (mut live, mut ended) = (0, [0; 3]);
        for row in rows {
            match row.state() {
                S::Succeeded => ended[0] += 1,
                S::Failed => ended[1] += 1,
                S::Cancelled => ended[2] += 1,
                _ => live += 1,
            }
        }
        if (live, ended) == (array.live, [array.succeeded, array.failed, array.cancelled_rows]) {
            return Ok(());
        }
        let what = format!("{id} counts {array:?}, and there are {live} live and {ended:?} ended members");
        wrong(Check::EndsStay, what)
    }

    /// Whether nothing is left to happen that a user waits for.
    pub(super) fn is_over(&self) -> bool {
        self.are_runs_over()
            && !self.truth.has_unanswered()
            && self.truth.acknowledged.values().all(|task| self.truth.terminal.contains_key(task))
            && self.boxes.iter().all(|it| it.alive().count() == 0 && it.is_settled())
            && self.booked().is_none()
    }

    /// A sidecar in whose books at the informer something still stands.
    fn booked(&self) -> Option<String> {
        let now = informer::machine::Now { mono_ms: self.center_mono_ms(), ..Default::default() };
        let sidecars = self.center.machine.iter().flat_map(|machine| machine.sidecars(now, true));
        sidecars.filter(|sidecar| sidecar.running > 0).map(|sidecar| sidecar.id).next()
    }

    /// Once faults have stopped: everything has ended, nothing runs, nothing is booked.
    pub(super) fn judge_end(&self) -> Result<(), Wrong> {
        let left = |what: String| wrong(Check::EverythingEnds, what);
        if let Some(task) = self.truth.unanswered() {
            return left(format!("the submit of task {task} was never answered"));
        }
        for task in self.truth.acknowledged.values() {
            if !self.truth.terminal.contains_key(task) {
                let state = self.center.store.tasks.get(task).map(store::TaskRow::state);
                let now = informer::machine::Now { mono_ms: self.center_mono_ms(), ..Default::default() };
                let why = self.center.machine.as_ref().and_then(|machine| machine.why(now, *task));
                return left(format!("{task} never ended; it is {state:?}: {why:?}"));
            }
        }
        for it in &self.boxes {
            if let Some(attempt) = it.alive().next() {
                return left(format!("a process of {attempt} runs on"));
            }
            if !it.is_settled() {
                return left(format!("sidecar {} still holds what it should have been told about", it.sidecar));
            }
        }
        match self.booked() {
            Some(sidecar) => wrong(Check::BooksAgree, format!("sidecar {sidecar} still has slots booked")),
            None => Ok(()),
        }
    }

    /// What the history came to.
    pub(super) fn count(&mut self) {
        let attempts = || self.center.store.tasks.values().flat_map(|row| &row.attempts);
        self.coverage.late = attempts().filter(|attempt| attempt.state() == v1::AttemptState::Late).count() as u64;
        self.coverage.losses = self.center.store.tasks.values().map(|row| u64::from(row.infra_failures)).sum();
        self.coverage.ended = self.truth.terminal.len() as u64;
        for it in &self.boxes {
            if let Some(agent) = &it.agent {
                self.coverage.on_agent_ended(agent);
            }
        }
    }
}
