//! Coming back: rows become state. Restart is not special: what was due while nobody looked is found by the same timers.

use super::array::Members;
use super::aside::Aside;
use super::event::{Now, PayloadHandle};
use super::sidecar::{Link, Sidecar};
use super::task::{Attempt, Child, OfRun, State, Task, Terminal, WaitsFor};
use super::timer::Timer;
use super::{Config, Machine};
use proto::id::{AttemptId, SidecarId, TaskId};
use proto::{store, v1};
use std::collections::BTreeMap;

impl Machine {
    /// A machine that knows what the store held: every task that is not terminal and every sidecar. A row that this program
    /// cannot have written is left out; the store reports it.
    #[must_use]
    pub fn new(
        config: Config,
        now: Now,
        tasks: impl IntoIterator<Item = store::TaskRow>,
        sidecars: impl IntoIterator<Item = store::SidecarRow>,
        executors: impl IntoIterator<Item = v1::Executor>,
    ) -> Self {
        let mut machine = Self {
            pending: super::Pending { committed: config.commit_seq, ..super::Pending::default() },
            tasks: BTreeMap::new(),
            sidecars: BTreeMap::new(),
            sessions: BTreeMap::new(),
            ready: super::Ready::default(),
            shared: super::Shared::new(config.shares.clone()),
            executors: executors.into_iter().map(|executor| (executor.r#type.clone(), executor)).collect(),
            reserved: BTreeMap::new(),
            estimates: super::Estimates::default(),
            timers: super::Timers::default(),
            open: std::collections::BTreeSet::new(),
            cursor: None,
            hydrated: Vec::new(),
            fresh: Vec::new(),
            freed: std::collections::BTreeSet::new(),
            flows: super::workflow::Flows::default(),
            children: BTreeMap::new(),
            fence_n: 0,
            opened_epoch: config.epoch,
            restored_until_ms: None,
            restored: false,
            unheard: std::collections::BTreeSet::new(),
            strangers: std::collections::BTreeSet::new(),
            strangers_changed: std::collections::BTreeSet::new(),
            config,
        };
        for row in sidecars {
            let Ok(id) = row.id.parse::<SidecarId>() else { continue };
            let mut sidecar = Sidecar::from_row(row, now.mono_ms);
            sidecar.elsewhere_until_ms = now.mono_ms + machine.config.copies_end_ms(sidecar.longest_lease_ms);
            machine.timers.arm(Timer::Silence(id), sidecar.lease_ends_ms());
            if sidecar.link != Link::Lost && !machine.config.accept_restored {
                machine.unheard.insert(id);
            }
            machine.sidecars.insert(id, sidecar);
        }
        machine.wait_for_unheard(now);
        for row in tasks {
            machine.load_task(now, row);
        }
        machine
    }

    /// This store may be an older copy, and nobody has said so yet. Whoever was linked may run what it calls unassigned: no second copy
    /// starts before it has told what it holds, or must have ended it.
    fn wait_for_unheard(&mut self, now: Now) {
        let unheard = self.unheard.iter().filter_map(|id| self.sidecars.get(id));
        if let Some(longest_ms) = unheard.map(|sidecar| sidecar.longest_lease_ms).max() {
            self.timers.arm(Timer::Unheard, now.mono_ms + self.config.copies_end_ms(longest_ms));
        }
    }

    fn load_task(&mut self, now: Now, row: store::TaskRow) {
        let Some(id) = TaskId::from_bytes(&row.id) else { return };
        self.hydrate(id, Some(Box::new(row)));
        let Some(task) = self.tasks.get(&id) else { return };
        let total_ms = task.alike.facts.timeouts.map_or(0, |timeouts| timeouts.total_ms);
        // An array has no time of its own: each member's counts from its start.
        if total_ms > 0 && !task.is_ended() && task.members.is_none() {
            let due_unix_ms = task.run_since_unix_ms.min(now.wall_ms).saturating_add(total_ms);
            self.timers.arm(Timer::TotalTimeout(id), on_mono(now, due_unix_ms));
        }
        self.load_attempts(id, now);
        self.load_state(id, now);
    }

    fn load_state(&mut self, id: TaskId, now: Now) {
        let Some(task) = self.tasks.get(&id) else { return };
        let gone_ms = self.old_copies_gone_ms(now, task);
        match task.state {
            State::Waiting { why: WaitsFor::StartTime, .. } => {
                self.rewait(id, on_mono(now, task.not_before_unix_ms).max(gone_ms), WaitsFor::StartTime);
            }
            State::Waiting { .. } | State::Ready { .. } if self.old_copy_runs(task) => {
                self.set_state(id, State::Waiting { until_ms: u64::MAX, why: WaitsFor::OldCopy });
            }
            State::Waiting { why, .. } => {
                // A clock that was set back since must not make it wait longer than it ever would have.
                let longest_ms = now.mono_ms.saturating_add(super::retry::longest_ms(&task.alike.facts));
                self.rewait(id, on_mono(now, task.not_before_unix_ms).min(longest_ms).max(gone_ms), why);
            }
            State::Ready { .. } if gone_ms > now.mono_ms => self.rewait(id, gone_ms, WaitsFor::OldCopy),
            State::Ready { .. } => {
                let queue_ms = task.alike.facts.timeouts.map_or(0, |timeouts| timeouts.queue_ms);
                let since_unix_ms = task.ready_since_unix_ms.min(now.wall_ms);
                let members = task.members().map_or(1, |members| members.pending.len());
                let place = self.ready.push(id, task.alike.facts.priority, task.alike.lane, since_unix_ms, members);
                if queue_ms > 0 {
                    self.timers.arm(Timer::QueueTimeout(id), on_mono(now, since_unix_ms.saturating_add(queue_ms)));
                }
                self.set_state(id, State::Ready { place });
            }
            State::Assigned | State::Running | State::Committing { .. } | State::Ended { .. } => {}
        }
    }

    fn rewait(&mut self, id: TaskId, until_ms: u64, why: WaitsFor) {
        self.set_state(id, State::Waiting { until_ms, why });
        self.timers.arm(Timer::Due(id), until_ms);
    }

    fn set_state(&mut self, id: TaskId, state: State) {
        if let Some(task) = self.tasks.get_mut(&id) {
            task.state = state;
        }
    }

    /// Books what occupies a sidecar. What is out of reach is looked at once: whether its silence has lasted long enough is not
    /// known any more.
    fn load_attempts(&mut self, id: TaskId, now: Now) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let taken = super::placement::taken(task);
        for attempt in &mut task.attempts {
            let attempt_id = attempt.id(id);
            let sidecar = self.sidecars.get_mut(&attempt.sidecar);
            let lost = sidecar.as_ref().is_none_or(|sidecar| sidecar.link == Link::Lost);
            let committing = attempt.phase == v1::AttemptState::Committing;
            if lost && committing {
                // A winner that was lost while it published is given the same time as before the restart.
                self.timers.arm(Timer::Replace(attempt_id), now.mono_ms + self.config.fence_grace_ms);
            }
            match sidecar {
                Some(sidecar) if attempt.occupies() && (!lost || committing) => sidecar.take(attempt_id, taken),
                Some(_) | None if attempt.occupies() && !committing => {
                    attempt.phase = v1::AttemptState::PresumedLost;
                    self.timers.arm(Timer::Replace(attempt_id), now.mono_ms);
                }
                Some(_) | None if attempt.may_win() => self.timers.arm(Timer::Replace(attempt_id), now.mono_ms),
                Some(_) | None => {}
            }
        }
    }

    /// When the `stop` copies of a task that may still run have surely ended: this informer has granted no lease yet, an earlier
    /// one may have granted the longest just before it died.
    fn old_copies_gone_ms(&self, now: Now, task: &Task) -> u64 {
        if !task.alike.facts.stop_on_disconnect {
            return 0;
        }
        let may_run = |attempt: &&Attempt| attempt.may_win() || attempt.elsewhere;
        let longest = task.attempts.iter().filter(may_run).map(|attempt| {
            self.sidecars.get(&attempt.sidecar).map_or(self.config.lease_ms, |sidecar| sidecar.longest_lease_ms)
        });
        let aside = self.copies_aside(task).filter_map(|(aside, _)| self.sidecars.get(&aside.sidecar));
        longest
            .chain(aside.map(|sidecar| sidecar.longest_lease_ms))
            .max()
            .map_or(0, |lease_ms| now.mono_ms + self.config.copies_end_ms(lease_ms))
    }

    pub(super) fn hydrate_all(&mut self, stored: Vec<store::TaskRow>) {
        for row in stored {
            let Some(id) = TaskId::from_bytes(&row.id) else { continue };
            self.hydrate(id, Some(Box::new(row)));
        }
    }

    /// Takes a row from the store into memory, unless the machine holds the task and so knows better.
    pub(super) fn hydrate(&mut self, id: TaskId, stored: Option<Box<store::TaskRow>>) {
        let Some(row) = stored else { return };
        if self.tasks.contains_key(&id) {
            return;
        }
        let Some(mut task) = self.task_from_row(*row) else { return };
        if task.is_ended() {
            self.hydrated.push(id);
            let taken = super::placement::taken(&task);
            // Its process may still be stopping somewhere. On a lost sidecar nobody will ever tell; nor on one that has linked and did not
            // name it, or its task would be here. Where others have the room, an earlier informer has given it away, after such a link:
            // it wrote that of the others, and had not even loaded this one. Should it be there after all, the inventory will say so.
            for attempt in task.attempts.iter_mut().filter(|attempt| attempt.occupies()) {
                match self.sidecars.get_mut(&attempt.sidecar) {
                    Some(sidecar) if sidecar.link == Link::Down && !sidecar.introduced && sidecar.has_room(taken) => {
                        sidecar.take(attempt.id(id), taken)
                    }
                    Some(_) | None => attempt.phase = v1::AttemptState::PresumedLost,
                }
            }
        }
        for attempt in task.attempts.iter().filter(|attempt| attempt.phase == v1::AttemptState::PresumedLost) {
            if let Some(sidecar) = self.sidecars.get_mut(&attempt.sidecar) {
                sidecar.missing.insert(attempt.id(id));
            }
        }
        for aside in &task.aside {
            if let Some(sidecar) = self.sidecars.get_mut(&aside.sidecar) {
                sidecar.aside.insert(AttemptId { task: id, number: aside.number });
            }
        }
        self.note_child(id, &task);
        self.tasks.insert(id, Box::new(task));
    }

    fn task_from_row(&mut self, row: store::TaskRow) -> Option<Task> {
        let payload: PayloadHandle = row.payload.as_slice().try_into().ok()?;
        let state = state_from_row(&row)?;
        let (alike, own) = self.shared.acquire(row.facts?);
        Some(Task {
            payload,
            alike,
            own,
            state,
            members: row.array.as_ref().map(|array| Box::new(Members::from_row(array))),
            attempts: row.attempts.into_iter().filter_map(Attempt::from_row).collect(),
            attempts_dropped: row.attempts_dropped,
            aside: row.aside.iter().filter_map(Aside::from_row).collect(),
            next_attempt: row.next_attempt.max(1),
            created_unix_ms: row.created_unix_ms,
            ended_unix_ms: row.ended_unix_ms,
            not_before_unix_ms: row.not_before_unix_ms,
            ready_since_unix_ms: row.ready_since_unix_ms,
            run_since_unix_ms: row.run_since_unix_ms,
            own_failures: row.own_failures,
            infra_failures: row.infra_failures,
            restarts: row.restarts,
            runs: row.runs,
            cancelling: row.cancelling,
            overtime: false,
            key: (!row.key.is_empty()).then(|| row.key.into_boxed_str()),
            key_digest: row.key_digest.as_slice().try_into().ok().map(Box::new),
            retry_key: row.retry_key.into_boxed_str(),
            version: row.version,
            history: row.history,
            of_run: row.of_run.as_ref().map(|of_run| Box::new(OfRun::from_row(of_run))),
            child: row.child.as_ref().and_then(Child::from_row).map(Box::new),
            children: row.children,
        })
    }
}

/// States that live only in memory (a place in the queue, a time on the monotonic clock) are filled in by `load_task`.
fn state_from_row(row: &store::TaskRow) -> Option<State> {
    let ended = |state| State::Ended { state, ending: Box::new(row.ending.clone().unwrap_or_default()) };
    let pending = row.array.as_ref().is_some_and(|array| !array.pending.is_empty());
    Some(match row.state() {
        // An array in the queue whose first members have started.
        v1::TaskState::Running if pending => State::Ready { place: 0 },
        v1::TaskState::Waiting if row.attempts.is_empty() => State::Waiting { until_ms: 0, why: WaitsFor::StartTime },
        v1::TaskState::Waiting => State::Waiting { until_ms: 0, why: WaitsFor::BackOff },
        v1::TaskState::Ready => State::Ready { place: 0 },
        v1::TaskState::Assigned => State::Assigned,
        v1::TaskState::Running => State::Running,
        v1::TaskState::Committing => {
            let winner = row.attempts.iter().find(|attempt| attempt.state() == v1::AttemptState::Committing)?;
            State::Committing { winner: winner.number }
        }
        v1::TaskState::Succeeded => ended(Terminal::Succeeded),
        v1::TaskState::Failed => ended(Terminal::Failed),
        v1::TaskState::Cancelled => ended(Terminal::Cancelled),
        v1::TaskState::Unspecified => return None,
    })
}

/// A Unix time on the monotonic clock; past ones are now.
pub(super) fn on_mono(now: Now, unix_ms: u64) -> u64 {
    now.mono_ms.saturating_add(unix_ms.saturating_sub(now.wall_ms))
}
