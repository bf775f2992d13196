//! Which task goes to which sidecar. After every event no ready task fits a sidecar that has room: nothing waits for a poll.

use super::effect::Effect;
use super::ready::Class;
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

/// What a task's attempt takes from its sidecar.
pub(super) fn taken(task: &Task) -> Taken {
    Taken { cpu_millis: task.facts.cpu_millis, memory_bytes: task.facts.memory_bytes }
}

/// Why a class does not fit an otherwise open sidecar; `None` if it does.
pub(super) fn unfit_because(sidecar: &Sidecar, class: &Class, held_back: bool) -> Option<String> {
    if let Some((key, value)) = class.require.iter().find(|(key, value)| sidecar.labels.get(*key) != Some(value)) {
        return Some(format!("lacks the required label {key}={value}"));
    }
    if !sidecar.kinds.contains(&class.kind) {
        return Some(format!("cannot run tasks of kind {}", class.kind));
    }
    if class.strong_fencing && sidecar.weak_fencing {
        return Some("fences weakly, which this exclusive task does not accept".to_owned());
    }
    if class.exclusive && held_back {
        return Some("may not start exclusive tasks yet: the informer was restored from a backup".to_owned());
    }
    let free = sidecar.cpu_millis.saturating_sub(sidecar.taken_cpu_millis);
    if class.cpu_millis > free {
        return Some(format!("has {free} of {} millicpu free, {} are asked for", sidecar.cpu_millis, class.cpu_millis));
    }
    let free = sidecar.memory_bytes.saturating_sub(sidecar.taken_memory_bytes);
    if class.memory_bytes > free {
        return Some(format!(
            "has {free} of {} bytes free, {} are asked for",
            sidecar.memory_bytes, class.memory_bytes
        ));
    }
    None
}

/// Whether a class will not fit this sidecar however empty it is.
pub(super) fn never_fits(sidecar: &Sidecar, class: &Class) -> bool {
    let empty = Sidecar { taken_cpu_millis: 0, taken_memory_bytes: 0, ..sidecar.clone() };
    unfit_because(&empty, class, false).is_some()
}

/// Lower is better: projected use of its processors, weighed by learned speed, plus what the machine itself feels.
fn cost(sidecar: &Sidecar, task: &Task, id: SidecarId) -> u64 {
    let projected = (sidecar.taken_cpu_millis + task.facts.cpu_millis) * 1000 / sidecar.cpu_millis.max(1);
    let load = &sidecar.load;
    let pressure = load.cpu_pressure_permille.max(load.memory_pressure_permille).max(load.io_pressure_permille);
    let failed = task.attempts.iter().any(|a| a.sidecar == id && a.phase == Phase::Failed);
    projected * 1000 / u64::from(sidecar.speed_permille.max(1))
        + u64::from(pressure.min(1000)) / 2
        + if failed { FAILED_HERE } else { 0 }
}

impl Machine {
    /// A sidecar's room or willingness changed.
    pub(super) fn refresh(&mut self, id: SidecarId) {
        let Some(sidecar) = self.sidecars.get(&id) else { return };
        if sidecar.closed_because().is_none() {
            self.open.insert(id);
            self.freed.insert(id);
        } else {
            self.open.remove(&id);
        }
    }

    /// Assigns whatever fits, after an event.
    pub(super) fn place(&mut self, cx: &mut Cx<'_>) {
        for id in std::mem::take(&mut self.freed) {
            self.fill(cx, id);
        }
        for task in std::mem::take(&mut self.fresh) {
            if let Some(sidecar) = self.pick(task) {
                self.assign(cx, task, sidecar);
            }
        }
    }

    fn fill(&mut self, cx: &mut Cx<'_>, id: SidecarId) {
        while self.ready.len() > 0 && self.open.contains(&id) {
            let Some(sidecar) = self.sidecars.get(&id) else { return };
            let held_back = self.restored_until_ms.is_some();
            let shared = &self.shared;
            let next =
                self.ready.first_fitting(|class| unfit_because(sidecar, shared.class(class), held_back).is_none());
            #[cfg(feature = "seeded-bugs")]
            let next = if self.bug(super::Bug::Overcommit) { self.ready.first_fitting(|_| true) } else { next };
            let Some(task) = next else { return };
            self.assign(cx, task, id);
        }
    }

    fn pick(&mut self, task_id: TaskId) -> Option<SidecarId> {
        let task = self.tasks.get(&task_id)?;
        if !matches!(task.state, State::Ready { .. }) {
            return None;
        }
        let class = self.shared.class(task.class);
        let held_back = self.restored_until_ms.is_some();
        let from =
            self.cursor.map_or(SidecarId::from_u128(0), |last| SidecarId::from_u128(last.as_u128().wrapping_add(1)));
        let best = self
            .open
            .range(from..)
            .chain(self.open.range(..from))
            .filter_map(|id| {
                let sidecar = self.sidecars.get(id)?;
                unfit_because(sidecar, class, held_back).is_none().then(|| (cost(sidecar, task, *id), *id))
            })
            .take(CANDIDATES)
            .min_by_key(|(cost, _)| *cost)
            .map(|(_, id)| id);
        self.cursor = best.or(self.cursor);
        best
    }

    /// A ready task goes to a sidecar that has room.
    fn assign(&mut self, cx: &mut Cx<'_>, task_id: TaskId, sidecar_id: SidecarId) {
        let fence = self.next_fence();
        let (Some(task), Some(sidecar)) = (self.tasks.get_mut(&task_id), self.sidecars.get_mut(&sidecar_id)) else {
            return;
        };
        let (State::Ready { place }, Some(session)) = (&task.state, sidecar.session()) else { return };
        self.ready.remove(task.facts.priority, task.class, *place);
        self.timers.cancel(Timer::QueueTimeout(task_id));
        if task.facts.stop_on_disconnect {
            // From here on a second copy may run, so the first one's result must never count.
            task.attempts.iter_mut().filter(|old| old.may_win()).for_each(|old| old.fenced = true);
        }
        let attempt = AttemptId { task: task_id, number: task.next_attempt };
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
        });
        task.state = State::Assigned;
        sidecar.take(attempt, taken(task));
        let (payload, host) = (task.payload, sidecar.host.clone());
        cx.effects.push(Effect::SendAssign { session, attempt, fence, payload, position: None });
        self.touch_task(task_id);
        self.note(cx, attempt, "assigned", format!("to {host} ({sidecar_id})"));
        self.refresh(sidecar_id);
    }

    /// Puts a task into the queue for sidecars.
    pub(super) fn make_ready(&mut self, cx: &mut Cx<'_>, id: TaskId) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let place = self.ready.push(id, task.facts.priority, task.class);
        task.state = State::Ready { place };
        task.ready_since_unix_ms = cx.now.wall_ms;
        if let Some(timeouts) = task.facts.timeouts.filter(|timeouts| timeouts.queue_ms > 0) {
            self.timers.arm(Timer::QueueTimeout(id), cx.now.mono_ms.saturating_add(timeouts.queue_ms));
        }
        self.fresh.push(id);
        self.touch_task(id);
    }

    /// Lets a task wait until a time on the monotonic clock; a time not in the future makes it ready at once.
    pub(super) fn make_waiting(&mut self, cx: &mut Cx<'_>, id: TaskId, until_ms: u64, why: WaitsFor) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        if task.old_copy_runs() {
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
                self.ready.remove(task.facts.priority, task.class, place);
                self.timers.cancel(Timer::QueueTimeout(id));
            }
            State::Assigned | State::Running | State::Committing { .. } | State::Ended { .. } => {}
        }
    }

    /// A copy of a `stop` task ended or went out of reach: its replacement may have waited for that.
    pub(super) fn on_old_copy_gone(&mut self, cx: &mut Cx<'_>, id: TaskId) {
        let Some(task) = self.tasks.get(&id) else { return };
        if matches!(task.state, State::Waiting { until_ms: u64::MAX, why: WaitsFor::OldCopy }) && !task.old_copy_runs()
        {
            let until_ms = self.copies_gone_ms(cx, id);
            self.make_waiting(cx, id, until_ms, WaitsFor::OldCopy);
        }
    }

    pub(super) fn on_due(&mut self, cx: &mut Cx<'_>, id: TaskId) {
        if self.tasks.get(&id).is_some_and(|task| matches!(task.state, State::Waiting { .. })) {
            self.make_ready(cx, id);
        }
    }
}
