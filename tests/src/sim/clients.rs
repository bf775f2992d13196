//! Clients and operators: who asks what, and who asks again.

use super::judge::Wrong;
use super::script::{Act, TYPE};
use super::truth::Asked;
use super::{Step, World};
use informer::machine::{Event, PayloadHandle, Submit};
use proto::id::TaskId;
use proto::{store, v1};
use std::collections::BTreeSet;

/// Marks a payload that differs from the one first submitted under its key.
const OTHER: u8 = 0x80;
/// How often a client repeats its key just then, in a thousand.
const AGAIN: u64 = 300;
/// Between two looks of the operator who tidies up, ms.
const TIDY_MS: u64 = 700;

impl World {
    pub(super) fn on_act(&mut self, nth: usize) -> Result<(), Wrong> {
        let (_, act) = self.script.acts[nth];
        if self.delayed_by_center(|| Step::Act(nth)) || self.center.machine.is_none() {
            return Ok(());
        }
        match act {
            Act::Again { task } => self.submit(task, false),
            Act::Conflict { task } if self.has_key(task) => self.submit(task, true),
            Act::Conflict { .. } => Ok(()),
            Act::Cancel { task, member } => self.cancel(task, member),
            Act::Retry { task, member } => self.retry(nth, task, member),
            Act::Drain { workbox, mode } => self.drain(workbox % self.boxes.len(), mode),
            Act::Put { embedded, replace } => self.put(embedded, replace),
            Act::Delete => {
                let ticket = self.new_ticket();
                self.tell_center(Event::ExecutorDeleted { ticket, r#type: TYPE.to_owned() })
            }
            Act::Prune => self.prune(),
            Act::Leave { workbox, stop_tasks } => self.leave(workbox % self.boxes.len(), stop_tasks),
            // An operator vouches only for what is so.
            Act::AcceptRestored if self.truth.no_copy_is_unknown(&self.center.store) => {
                self.tell_center(Event::RestoreAccepted)
            }
            Act::AcceptRestored => Ok(()),
        }
    }

    /// A client submits, and asks again until it is answered.
    pub(super) fn on_submit(&mut self, task: usize) -> Result<(), Wrong> {
        if self.truth.is_acknowledged(task) || self.truth.is_given_up(task) {
            return Ok(());
        }
        self.truth.expect_answer(task);
        let patience_ms = self.rng.range(500, 5000);
        self.agenda.after(patience_ms, Step::Submit(task));
        self.submit(task, false)
    }

    fn submit(&mut self, task: usize, other: bool) -> Result<(), Wrong> {
        if self.center.machine.is_none() || self.center.paused_until_ms > self.agenda.now_ms {
            return Ok(());
        }
        let plan = &self.script.tasks[task];
        let wall_ms = (self.agenda.now_ms + super::WALL_MS).saturating_add_signed(self.center.wall_offset_ms);
        // Some clients name a time, some a span.
        let (start_after_unix_ms, start_after_ms) = match plan.start_in_ms {
            0 => (0, 0),
            ms if task.is_multiple_of(2) => (wall_ms + ms, 0),
            ms => (0, ms),
        };
        let byte = u8::try_from(task).expect("there are few tasks") | if other { OTHER } else { 0 };
        let payload: PayloadHandle = [byte; 32];
        let (facts, array) = (Box::new(plan.facts.clone()), plan.array);
        let ticket = self.new_ticket();
        self.center.asked.insert(ticket, Asked { task, other });
        let submit = Submit {
            ticket,
            task: TaskId::from_u128(u128::from(ticket.0) << 64 | u128::from(byte) << 32),
            key: Some(format!("key-{task}")),
            payload,
            digest: payload,
            array,
            facts,
            start_after_unix_ms,
            start_after_ms,
            known: None,
        };
        self.truth.on_submitted(submit.task, task);
        self.tell_center(Event::Submitted(Box::new(submit)))
    }

    /// Its key is taken, and not by what is just being removed.
    fn has_key(&self, task: usize) -> bool {
        self.truth.acknowledged_task(task).is_some_and(|id| !self.center.removes(id))
    }

    fn named(&self, task: usize, member: Option<u32>) -> Option<TaskId> {
        let id = self.truth.acknowledged_task(task)?;
        let array = self.script.tasks[task].array;
        Some(array.zip(member).and_then(|(array, nth)| id.at(array.first + nth % array.count)).unwrap_or(id))
    }

    fn cancel(&mut self, task: usize, member: Option<u32>) -> Result<(), Wrong> {
        let Some(task) = self.named(task, member) else { return Ok(()) };
        self.truth.on_cancel_asked(task);
        let ticket = self.new_ticket();
        self.tell_center(Event::CancelRequested { ticket, task, stored: Vec::new(), reason: String::new() })
    }

    fn retry(&mut self, nth: usize, task: usize, member: Option<u32>) -> Result<(), Wrong> {
        let Some(task) = self.named(task, member) else { return Ok(()) };
        self.truth.on_retry_asked(task);
        let ticket = self.new_ticket();
        self.tell_center(Event::RetryRequested { ticket, task, stored: Vec::new(), key: format!("retry-{nth}") })
    }

    fn drain(&mut self, n: usize, mode: v1::DrainMode) -> Result<(), Wrong> {
        let ticket = self.new_ticket();
        if mode == v1::DrainMode::Stop {
            self.center.drained.insert(self.boxes[n].sidecar);
        }
        self.tell_center(Event::DrainRequested { ticket, sidecar: self.boxes[n].sidecar, mode })
    }

    fn put(&mut self, embedded: bool, replace: bool) -> Result<(), Wrong> {
        use v1::executor::Mode;
        let mode = if embedded { Mode::Embedded(v1::Embedded {}) } else { Mode::Command(v1::Command::default()) };
        let executor = v1::Executor { r#type: TYPE.to_owned(), mode: Some(mode), ..Default::default() };
        let ticket = self.new_ticket();
        self.tell_center(Event::ExecutorPut { ticket, executor: Box::new(executor), replace })
    }

    /// Retention: what has ended goes, unless the machine holds some of it. A service may still run set aside, for ever.
    /// Some client repeats its key while the commit that removes its task is under way.
    fn prune(&mut self) -> Result<(), Wrong> {
        // The shell looks for what may go only when nothing else waits.
        let Some(machine) = self.center.machine.as_ref().filter(|_| self.center.is_idle()) else { return Ok(()) };
        let store = &self.center.store;
        let gone = |id: &TaskId| {
            let whole = || store.tasks.iter().filter(|(other, _)| *other == id || other.array() == Some(*id));
            let service = |row: &store::TaskRow| row.facts.as_ref().is_some_and(|facts| facts.restart.is_some());
            whole().all(|(other, row)| super::truth::is_terminal(row) && !service(row) && !machine.holds(*other))
        };
        let pruned: BTreeSet<TaskId> = store
            .tasks
            .keys()
            .filter(|id| id.array().is_none() && !self.truth.is_of_run(**id) && gone(id))
            .copied()
            .collect();
        let Some(first) = pruned.first().copied() else { return Ok(()) };
        self.flush_center(pruned)?;
        match self.truth.submitted_as(first) {
            Some(task) if self.rng.chance(AGAIN) => self.submit(task, false),
            _ => Ok(()),
        }
    }

    /// Faults have stopped, and operators take back what they did: no drain, every type registered, no endless service left. They look
    /// again and again: what they did before may become durable, or be undone by a backup, only after their look.
    pub(super) fn on_tidy(&mut self) -> Result<(), Wrong> {
        let store = &self.center.store;
        let drained = store.sidecars.values().any(|row| row.drain() != v1::DrainMode::Unspecified);
        let is_command = |executor: &v1::Executor| matches!(executor.mode, Some(v1::executor::Mode::Command(_)));
        let typed = store.executors.get(TYPE).is_some_and(is_command);
        let endless: Vec<TaskId> = self.truth.endless_left(&self.script, store);
        self.agenda.after(TIDY_MS, Step::Tidy);
        if drained || self.center.machine.is_none() {
            (0..self.boxes.len()).try_for_each(|n| self.drain(n, v1::DrainMode::Unspecified))?;
        }
        if !typed {
            self.put(false, true)?;
        }
        for task in endless {
            self.truth.on_cancel_asked(task);
            let ticket = self.new_ticket();
            self.tell_center(Event::CancelRequested { ticket, task, stored: Vec::new(), reason: String::new() })?;
        }
        Ok(())
    }
}
