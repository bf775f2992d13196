//! Which task goes to which sidecar. After every event no ready task fits a sidecar that has room: nothing waits for a poll.

use super::event::Now;
use super::ready::Spot;
use super::shared::{Class, ClassId};
use super::sidecar::{Sidecar, Taken};
use super::task::{Attempt, Phase, State, Task, WaitsFor};
use super::timer::Timer;
use super::{Cx, Machine};
use proto::id::{AttemptId, SidecarId, TaskId};

/// Fitting sidecars compared for one task. The best of 32 is within a few per cent of the best of all, and ten thousand idle
/// sidecars do not make a submit slow. Source: M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 1996.
const CANDIDATES: usize = 32;
/// What a sidecar loses in comparison if the task has failed there before: more than any load.
const FAILED_HERE: u64 = 100_000;

/// A task that has waited this long for room, and fits an empty sidecar, has the next such sidecar kept free for it. So it waits for
/// a minute and for what runs there then. Shorter, and every burst would leave machines idle.
pub(super) const KEEP_AFTER_MS: u64 = 60_000;
/// Longest time that counts in one go for an owner's share: a task that runs for days must not bar its owner for as long.
const SHARE_MS: u64 = 3_600_000;

/// What a task's attempt takes from its sidecar.
pub(super) fn taken(task: &Task) -> Taken {
    Taken { cpu_millis: task.alike.facts.cpu_millis, memory_bytes: task.alike.facts.memory_bytes }
}

/// Why a class does not fit an otherwise open sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit<'a> {
    #[error("lacks the required label {0}={1}")]
    Label(&'a str, &'a str),
    #[error("cannot run tasks of kind {0}")]
    Kind(&'a str),
    #[error("fences weakly, which this exclusive task does not accept")]
    WeakFencing,
    #[error("may not start tasks of which no two copies may run yet: the informer was restored from a backup")]
    HeldBack,
    #[error(
        "may not start tasks of which no two copies may run yet: {0} sidecars have not been heard since the informer's start"
    )]
    Unheard(usize),
    #[error("has {free} of {all} {what} free, {asked} are asked for")]
    Full { what: &'static str, free: u64, all: u64, asked: u64 },
}

impl Machine {
    /// Why a class does not fit an otherwise open sidecar; `None` if it does.
    pub(super) fn unfit_because<'a>(&'a self, sidecar: &Sidecar, class: ClassId) -> Option<Unfit<'a>> {
        let class = self.shared.class(class);
        if let Some(why) = self.unsuited_because(sidecar, class) {
            return Some(why);
        }
        if let Some(held) = self.held_back(class) {
            return Some(held);
        }
        let full = |what, all: u64, taken: u64, asked| {
            let free = all.saturating_sub(taken);
            (asked > free).then_some(Unfit::Full { what, free, all, asked })
        };
        let apart = sidecar.apart;
        let taken_cpu_millis = sidecar.taken_cpu_millis.saturating_add(apart.cpu_millis);
        let taken_memory_bytes = sidecar.taken_memory_bytes.saturating_add(apart.memory_bytes);
        full("millicpu", sidecar.cpu_millis, taken_cpu_millis, class.cpu_millis)
            .or_else(|| full("bytes", sidecar.memory_bytes, taken_memory_bytes, class.memory_bytes))
    }

    /// Why no sidecar at all may start a class yet: copies may run that this informer has not heard of.
    pub(super) fn held_back(&self, class: &Class) -> Option<Unfit<'static>> {
        match (class.one_copy, self.restored_until_ms, self.unheard.len()) {
            (false, ..) | (true, None, 0) => None,
            (true, Some(_), _) => Some(Unfit::HeldBack),
            (true, None, unheard) => Some(Unfit::Unheard(unheard)),
        }
    }

    /// Why a class does not fit this sidecar, whatever runs there.
    fn unsuited_because<'a>(&self, sidecar: &Sidecar, class: &'a Class) -> Option<Unfit<'a>> {
        let lacking = class.require.iter().find(|(key, value)| sidecar.labels.get(*key) != Some(value));
        if let Some((key, value)) = lacking {
            return Some(Unfit::Label(key, value));
        }
        let kind = self.announced_as(&class.kind);
        if !sidecar.kinds.iter().any(|known| known == kind) {
            return Some(Unfit::Kind(&class.kind));
        }
        (class.strong_fencing && sidecar.weak_fencing).then_some(Unfit::WeakFencing)
    }

    /// Whether a class will not fit this sidecar however empty it is.
    pub(super) fn never_fits(&self, sidecar: &Sidecar, class: ClassId) -> bool {
        let class = self.shared.class(class);
        self.unsuited_because(sidecar, class).is_some()
            || class.cpu_millis > sidecar.cpu_millis
            || class.memory_bytes > sidecar.memory_bytes
    }

    /// A sidecar's room or willingness changed.
    pub(super) fn refresh(&mut self, id: SidecarId) {
        let Some(sidecar) = self.sidecars.get(&id) else { return };
        let kept_for = sidecar.kept_for;
        if sidecar.closed_because().is_none() {
            self.open.insert(id);
            self.freed.insert(id);
        } else {
            self.open.remove(&id);
            // Full or slow is what it is kept free from; out of reach or draining, it is of no use to anybody.
            if let Some(task) = kept_for.filter(|_| sidecar.session().is_none() || sidecar.is_draining()) {
                self.release_kept(task);
            }
        }
    }

    /// Assigns whatever fits, after an event.
    pub(super) fn place(&mut self, cx: &mut Cx<'_>) {
        // Giving one its place may free another: room that was kept for it.
        while !self.freed.is_empty() || !self.fresh.is_empty() {
            for id in std::mem::take(&mut self.freed) {
                self.fill(cx, id);
            }
            for task in std::mem::take(&mut self.fresh) {
                // An array has a place for each of its members.
                while let Some(sidecar) = self.pick(task) {
                    self.assign(cx, task, sidecar);
                }
            }
        }
    }

    fn fill(&mut self, cx: &mut Cx<'_>, id: SidecarId) {
        while self.ready.len() > 0 && self.open.contains(&id) {
            let Some(task) = self.next_for(cx.now, id) else { return };
            self.assign(cx, task, id);
        }
    }

    /// What this sidecar takes next. One that is kept free for a task takes that or nothing.
    fn next_for(&mut self, now: Now, id: SidecarId) -> Option<TaskId> {
        #[cfg(feature = "seeded-bugs")]
        if self.bug(super::Bug::Overcommit) {
            return self.ready.next(&self.shared.owners, |_| true);
        }
        if let Some(task) = self.reserve(now, id) {
            let lane = self.tasks.get(&task)?.alike.lane;
            return self.fits(id, lane.class).then_some(task);
        }
        self.ready.next(&self.shared.owners, |class| self.fits(id, class))
    }

    fn fits(&self, id: SidecarId, class: ClassId) -> bool {
        self.sidecars.get(&id).is_some_and(|sidecar| self.unfit_because(sidecar, class).is_none())
    }

    /// The task that a sidecar is kept free for: one that has waited too long for as much room as this sidecar has when it is empty.
    /// Otherwise small tasks would fill each gap, and a large one would wait for ever.
    fn reserve(&mut self, now: Now, id: SidecarId) -> Option<TaskId> {
        let sidecar = self.sidecars.get(&id)?;
        if let Some(task) = sidecar.kept_for {
            return Some(task);
        }
        let overdue = now.wall_ms.saturating_sub(KEEP_AFTER_MS);
        let mut heads = self.ready.overdue(overdue);
        let task = heads.find(|head| {
            !self.reserved.contains_key(&head.task)
                && self.unfit_because(sidecar, head.class).is_some()
                && !self.never_fits(sidecar, head.class)
        })?;
        let task = task.task;
        self.reserved.insert(task, id);
        if let Some(sidecar) = self.sidecars.get_mut(&id) {
            sidecar.kept_for = Some(task);
        }
        Some(task)
    }

    /// Nothing is kept free for a task any more.
    pub(super) fn release_kept(&mut self, task: TaskId) {
        let Some(id) = self.reserved.remove(&task) else { return };
        #[cfg(feature = "seeded-bugs")]
        if self.bug(super::Bug::KeepForNobody) {
            return;
        }
        if let Some(sidecar) = self.sidecars.get_mut(&id) {
            sidecar.kept_for = None;
        }
        self.refresh(id);
    }

    fn pick(&mut self, task_id: TaskId) -> Option<SidecarId> {
        let task = self.tasks.get(&task_id)?;
        task.spot()?;
        let class = task.alike.lane.class;
        let from =
            self.cursor.map_or(SidecarId::from_u128(0), |last| SidecarId::from_u128(last.as_u128().wrapping_add(1)));
        let best = self
            .open
            .range(from..)
            .chain(self.open.range(..from))
            .filter_map(|id| {
                let sidecar = self.sidecars.get(id)?;
                let free = sidecar.kept_for.is_none_or(|kept| kept == task_id);
                (free && self.unfit_because(sidecar, class).is_none()).then(|| (self.cost(sidecar, task, *id), *id))
            })
            .take(CANDIDATES)
            .min_by_key(|(cost, _)| *cost)
            .map(|(_, id)| id);
        self.cursor = best.or(self.cursor);
        best
    }

    /// Lower is better: projected use of its processors, weighed by its learned speed at tasks of this name, plus what the machine
    /// itself feels.
    fn cost(&self, sidecar: &Sidecar, task: &Task, id: SidecarId) -> u64 {
        let projected = (sidecar.taken_cpu_millis + task.alike.facts.cpu_millis) * 1000 / sidecar.cpu_millis.max(1);
        let load = &sidecar.load;
        let pressure = load.cpu_pressure_permille.max(load.memory_pressure_permille).max(load.io_pressure_permille);
        let failed = task.attempts.iter().any(|a| a.sidecar == id && a.phase == Phase::Failed);
        let speed = self.estimates.speed(&task.own.name, id).unwrap_or(sidecar.speed_permille);
        projected * 1000 / u64::from(speed.max(1))
            + u64::from(pressure.min(1000)) / 2
            + if failed { FAILED_HERE } else { 0 }
    }

    /// A ready task, or the next member of a ready array, goes to a sidecar that has room.
    fn assign(&mut self, cx: &mut Cx<'_>, id: TaskId, sidecar_id: SidecarId) {
        let is_array = self.tasks.get(&id).is_some_and(|task| task.members.is_some());
        let task_id = if is_array {
            self.release_kept(id);
            self.start_member(cx, id)
        } else {
            self.stop_waiting(id);
            Some(id)
        };
        if let Some(task_id) = task_id {
            self.hand_over(cx, task_id, sidecar_id);
        }
    }

    fn hand_over(&mut self, cx: &mut Cx<'_>, task_id: TaskId, sidecar_id: SidecarId) {
        let fence = self.next_fence();
        let (Some(task), Some(sidecar)) = (self.tasks.get_mut(&task_id), self.sidecars.get_mut(&sidecar_id)) else {
            return;
        };
        let Some(session) = sidecar.session() else { return };
        if task.alike.facts.stop_on_disconnect {
            // From here on a second copy may run, so the first one's result must never count.
            task.attempts.iter_mut().filter(|old| old.may_win()).for_each(|old| old.fenced = true);
            // It was waited for.
            task.attempts.iter_mut().for_each(|old| old.elsewhere = false);
        }
        let attempt = AttemptId { task: task_id, number: task.next_attempt };
        let name = &task.own.name;
        let expected_ms = self.estimates.expected_ms(name, sidecar_id, sidecar.speed_permille);
        // Whoever names each of his tasks anew has no larger share for it.
        let share_ms = expected_ms.unwrap_or(self.estimates.usual_ms()).clamp(1, SHARE_MS);
        let size = task.alike.facts.cpu_millis.max(1).saturating_mul(share_ms);
        self.shared.owners.serve(task.alike.lane.owner, size);
        task.push_attempt(Attempt {
            number: attempt.number,
            sidecar: sidecar_id,
            phase: Phase::Assigned,
            fence,
            fenced: false,
            ending: None,
            assigned_unix_ms: cx.now.wall_ms,
            started_unix_ms: 0,
            ended_unix_ms: 0,
            progress: None,
            expected_ms: if task.is_service() { 0 } else { expected_ms.unwrap_or(0) },
            moved: false,
            renumbered: false,
            elsewhere: false,
        });
        task.state = State::Assigned;
        sidecar.take(attempt, taken(task));
        let detail = format!("to {} ({sidecar_id})", sidecar.host);
        cx.effects.extend(self.send_assign(session, attempt, fence));
        self.touch_task(task_id);
        self.note(cx, attempt, "assigned", detail);
        // It has less room than before: nobody else need be looked for, only whether it still has any.
        if self.sidecars.get(&sidecar_id).is_some_and(|sidecar| sidecar.closed_because().is_some()) {
            self.refresh(sidecar_id);
        }
    }

    /// Puts a task into the queue for sidecars.
    pub(super) fn make_ready(&mut self, cx: &mut Cx<'_>, id: TaskId) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let members = task.members().map_or(1, |members| members.pending.len());
        let place = self.ready.push(id, task.alike.facts.priority, task.alike.lane, cx.now.wall_ms, members);
        task.state = State::Ready { place };
        task.ready_since_unix_ms = cx.now.wall_ms;
        if let Some(timeouts) = task.alike.facts.timeouts.filter(|timeouts| timeouts.queue_ms > 0) {
            self.timers.arm(Timer::QueueTimeout(id), cx.now.mono_ms.saturating_add(timeouts.queue_ms));
        }
        self.fresh.push(id);
        self.touch_task(id);
    }

    /// Lets a task wait until a time on the monotonic clock; a time not in the future makes it ready at once. If a sidecar has told a
    /// copy of it that may be taken up, that is done instead.
    pub(super) fn make_waiting(&mut self, cx: &mut Cx<'_>, id: TaskId, until_ms: u64, why: WaitsFor) {
        self.wait(cx, id, until_ms, why);
        self.adopt_told(cx, id);
    }

    fn wait(&mut self, cx: &mut Cx<'_>, id: TaskId, until_ms: u64, why: WaitsFor) {
        let held = self.tasks.get(&id).is_some_and(|task| self.old_copy_runs(task));
        let Some(task) = self.tasks.get_mut(&id) else { return };
        if held {
            task.state = State::Waiting { until_ms: u64::MAX, why: WaitsFor::OldCopy };
            return self.touch_task(id);
        }
        if until_ms <= cx.now.mono_ms {
            return self.make_ready(cx, id);
        }
        task.state = State::Waiting { until_ms, why };
        task.not_before_unix_ms = cx.now.wall_ms.saturating_add(until_ms - cx.now.mono_ms);
        self.timers.arm(Timer::Due(id), until_ms);
        self.touch_task(id);
    }

    /// Takes a task out of whatever it waits in.
    pub(super) fn stop_waiting(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get(&id) else { return };
        match task.state {
            State::Waiting { .. } => self.timers.cancel(Timer::Due(id)),
            State::Ready { place } => {
                self.ready.remove(Spot { priority: task.alike.facts.priority, lane: task.alike.lane, place });
                self.timers.cancel(Timer::QueueTimeout(id));
                self.release_kept(id);
            }
            State::Assigned | State::Running | State::Committing { .. } | State::Ended { .. } => {}
        }
    }

    /// A copy of a `stop` task ended or went out of reach: its replacement may have waited for that.
    pub(super) fn on_old_copy_gone(&mut self, cx: &mut Cx<'_>, id: TaskId) {
        let Some(task) = self.tasks.get(&id) else { return };
        if matches!(task.state, State::Waiting { until_ms: u64::MAX, why: WaitsFor::OldCopy })
            && !self.old_copy_runs(task)
        {
            let until_ms = self.copies_gone_ms(cx, id);
            self.make_waiting(cx, id, until_ms, WaitsFor::OldCopy);
        }
    }

    /// It has waited long enough; unless an old copy of it that was out of reach has come back meanwhile and is still stopping.
    pub(super) fn on_due(&mut self, cx: &mut Cx<'_>, id: TaskId) {
        if self.tasks.get(&id).is_some_and(|task| matches!(task.state, State::Waiting { .. })) {
            self.make_waiting(cx, id, cx.now.mono_ms, WaitsFor::OldCopy);
        }
    }
}
