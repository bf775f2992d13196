//! Attempts of tasks here that this store does not list: another leadership assigned them after the backup that it was restored from.
//!
//! | the task here | what becomes of the attempt |
//! |---|---|
//! | waits, and has never given its number | **adopted**: it becomes the task's attempt, under its own fence, and its result counts |
//! | comes to wait later, in its first run, and all it has given has lower fences | the same, then |
//! | has another attempt, or has ended | set aside: it runs on, nothing of it is applied |
//! | is not known, or its number is given to another | the same |
//!
//! While a copy of a `stop` task that is set aside may run, no other copy of it starts. It is over when its sidecar says so, or was lost
//! for as long as a lease and its grace. What is held back so is in the task's row: the next informer holds it, too.

use super::effect::Effect;
use super::event::{Held, HeldState};
use super::outcome::stop_message;
use super::sidecar::Sidecar;
use super::task::{Attempt, Phase, State, Task, WaitsFor};
use super::timer::Timer;
use super::{Cx, Machine};
use proto::id::{AttemptId, Fence, SidecarId, TaskId};
use proto::{bounds, store, v1};
use std::collections::BTreeSet;
use v1::verdict::Decision;

/// A copy that is set aside, named by its sidecar and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Aside {
    pub sidecar: SidecarId,
    pub number: u32,
}

impl Aside {
    pub(super) fn to_row(self) -> store::AsideRow {
        store::AsideRow { sidecar: self.sidecar.to_string(), number: self.number }
    }

    /// From its durable form; `None` if the row is not one that this program writes.
    pub(super) fn from_row(row: &store::AsideRow) -> Option<Self> {
        Some(Self { sidecar: row.sidecar.parse().ok()?, number: row.number })
    }
}

impl Held {
    /// A process of it may run, or may yet be started.
    pub(super) fn is_unfinished(&self) -> bool {
        match self.state {
            HeldState::Accepted | HeldState::Running { .. } => true,
            HeldState::SetAside => !self.over,
            HeldState::Ended(_) | HeldState::Published(_) => false,
        }
    }
}

impl Machine {
    /// A member that has not started here may run there: it gets a row of its own.
    pub(super) fn single_out_told(&mut self, cx: &mut Cx<'_>, id: TaskId) {
        let members = id.array().and_then(|array| self.tasks.get(&array)).and_then(|task| task.members());
        let pending = members.zip(id.index()).is_some_and(|(members, index)| members.pending.contains(index));
        if pending && self.single_out(cx, id).is_ok() {
            self.make_waiting(cx, id, cx.now.mono_ms, WaitsFor::StartTime);
        }
    }

    /// Takes an attempt that the store does not list for the task's own, if nothing speaks against it. Returns whether it did.
    pub(super) fn adopt(
        &mut self,
        cx: &mut Cx<'_>,
        sidecar_id: SidecarId,
        held: &Held,
        told: &BTreeSet<AttemptId>,
    ) -> bool {
        let (Some(task), Some(sidecar)) = (self.tasks.get(&held.attempt.task), self.sidecars.get(&sidecar_id)) else {
            return false;
        };
        let fits = sidecar.has_room_beside(told, super::placement::taken(task));
        if !fits || !self.may_adopt(task, held.attempt.number, held.fence) {
            return false;
        }
        self.take_up(cx, sidecar_id, held.attempt, held.fence);
        true
    }

    /// Whether nothing here speaks against an attempt that the store does not list.
    fn may_adopt(&self, task: &Task, number: u32, fence: Fence) -> bool {
        task.waits() && self.could_adopt(task, number, fence)
    }

    /// The same if its task came to wait now.
    pub(super) fn could_adopt(&self, task: &Task, number: u32, fence: Fence) -> bool {
        let wanted = task.members.is_none() && !task.is_stopping() && !task.is_ended();
        // What is given from here on has a higher fence: the later of two copies must be able to push the earlier one aside.
        let older = fence.epoch < self.config.epoch;
        wanted && older && (number >= task.next_attempt || was_passed_over(task, number, fence))
    }

    fn take_up(&mut self, cx: &mut Cx<'_>, sidecar_id: SidecarId, id: AttemptId, fence: Fence) {
        let (Some(task), Some(sidecar)) = (self.tasks.get_mut(&id.task), self.sidecars.get_mut(&sidecar_id)) else {
            return;
        };
        if task.alike.facts.stop_on_disconnect {
            task.attempts.iter_mut().filter(|old| old.may_win()).for_each(|old| old.fenced = true);
        }
        task.aside.retain(|aside| *aside != Aside { sidecar: sidecar_id, number: id.number });
        sidecar.aside.remove(&id);
        sidecar.take(id, super::placement::taken(task));
        let detail = format!("on {} ({sidecar_id}), which was given it after the backup", sidecar.host);
        self.stop_waiting(id.task);
        let Some(task) = self.tasks.get_mut(&id.task) else { return };
        task.push_attempt(Attempt {
            number: id.number,
            sidecar: sidecar_id,
            phase: Phase::Assigned,
            fence,
            fenced: false,
            ending: None,
            assigned_unix_ms: cx.now.wall_ms,
            started_unix_ms: 0,
            ended_unix_ms: 0,
            progress: None,
            expected_ms: 0,
            moved: false,
            renumbered: false,
            elsewhere: false,
        });
        task.state = State::Assigned;
        self.touch_task(id.task);
        self.note(cx, id, "adopted", detail);
    }

    /// A task has come to wait: what a sidecar has told of it before, while it had another attempt, may be taken up now. Of several the
    /// one that was given last.
    pub(super) fn adopt_told(&mut self, cx: &mut Cx<'_>, id: TaskId) {
        let Some(task) = self.tasks.get(&id).filter(|_| self.has_strangers()) else { return };
        let taken = super::placement::taken(task);
        let adoptable = |(attempt, sidecar_id): (AttemptId, SidecarId)| {
            let sidecar = self.sidecars.get(&sidecar_id)?;
            let (stranger, session) = (sidecar.strangers.get(&attempt)?, sidecar.session()?);
            let fits = sidecar.has_room_beside(&sidecar.taken.keys().copied().collect(), taken);
            let may = fits && stranger.tells_all() && self.may_adopt(task, attempt.number, stranger.fence);
            may.then_some((stranger.fence, attempt, sidecar_id, session))
        };
        let Some((fence, attempt, sidecar_id, session)) = self.strangers_of(id).filter_map(adoptable).max() else {
            return;
        };
        self.forget_stranger(sidecar_id, attempt);
        self.take_up(cx, sidecar_id, attempt, fence);
        let keep = v1::Verdict {
            attempt: Some(attempt.to_wire()),
            decision: Decision::Keep.into(),
            why: v1::Reason::Unspecified.into(),
        };
        self.send(cx, session, v1::informer_message::Message::Verdict(keep));
        self.refresh(sidecar_id);
    }

    /// What an attempt is told that is not applied here. It takes room from its inventory on, before the first beat has told of it.
    pub(super) fn set_aside(
        &mut self,
        cx: &mut Cx<'_>,
        id: SidecarId,
        attempt: AttemptId,
        waits: bool,
        asked: Option<v1::Resources>,
    ) -> (Decision, v1::Reason) {
        let held = self.hold_for(cx, id, attempt);
        match (asked, self.sidecars.get_mut(&id)) {
            (Some(asked), Some(sidecar)) => {
                sidecar.apart.cpu_millis = sidecar.apart.cpu_millis.saturating_add(asked.cpu_millis);
                sidecar.apart.memory_bytes = sidecar.apart.memory_bytes.saturating_add(asked.memory_bytes);
            }
            // A sidecar of before is silent about what is set aside. What is kept reports its end, for which the task waits; what
            // has not started yet must not start any more.
            (None, _) if held && waits => return (Decision::Stop, v1::Reason::Revoked),
            (None, _) if held => return (Decision::Keep, v1::Reason::Unspecified),
            (Some(_) | None, _) => {}
        }
        (Decision::SetAside, v1::Reason::Unspecified)
    }

    /// A copy of a known task runs on beside its attempts: if no two may run, no other one starts meanwhile. Returns whether that is so.
    fn hold_for(&mut self, cx: &mut Cx<'_>, sidecar: SidecarId, id: AttemptId) -> bool {
        let Some(task) = self.tasks.get_mut(&id.task).filter(|task| task.alike.facts.stop_on_disconnect) else {
            return false;
        };
        let aside = Aside { sidecar, number: id.number };
        // So many at once are an enemy's; what is listed holds the task already.
        if !task.aside.contains(&aside) && task.aside.len() < bounds::ATTEMPTS_LISTED {
            task.aside.push(aside);
            self.note(cx, id, "set_aside", format!("it runs on sidecar {sidecar}, and this store does not know it"));
            if let Some(sidecar) = self.sidecars.get_mut(&sidecar) {
                sidecar.aside.insert(id);
            }
        }
        if self.tasks.get(&id.task).is_some_and(|task| matches!(task.state, State::Ready { .. })) {
            self.stop_waiting(id.task);
            self.make_waiting(cx, id.task, cx.now.mono_ms, WaitsFor::OldCopy);
        }
        true
    }

    /// A sidecar has told all that is set aside there and may run: what else was held back for it is free.
    pub(super) fn on_aside_told(&mut self, cx: &mut Cx<'_>, id: SidecarId, there: &BTreeSet<AttemptId>) {
        self.on_strangers_told(id, there);
        let Some(sidecar) = self.sidecars.get(&id).filter(|sidecar| !sidecar.aside.is_empty()) else { return };
        let over: Vec<AttemptId> = sidecar.aside.difference(there).copied().collect();
        for attempt in over {
            self.on_aside_over(cx, id, attempt);
        }
    }

    /// Nothing of a copy that was set aside runs any more.
    pub(super) fn on_aside_over(&mut self, cx: &mut Cx<'_>, id: SidecarId, attempt: AttemptId) {
        self.on_stranger_over(id, attempt);
        let removed = self.sidecars.get_mut(&id).is_some_and(|sidecar| sidecar.aside.remove(&attempt));
        let Some(task) = self.tasks.get_mut(&attempt.task).filter(|_| removed) else { return };
        task.aside.retain(|aside| *aside != Aside { sidecar: id, number: attempt.number });
        self.touch_task(attempt.task);
        self.note(cx, attempt, "aside_over", format!("nothing of it runs on sidecar {id} any more"));
        self.on_old_copy_gone(cx, attempt.task);
    }

    /// A cancel means every copy, those that are set aside, too, where their sidecars can be told.
    pub(super) fn stop_aside(&self, cx: &mut Cx<'_>, id: TaskId) {
        let Some(task) = self.tasks.get(&id) else { return };
        for aside in &task.aside {
            let session = self.sidecars.get(&aside.sidecar).and_then(Sidecar::session);
            let Some(session) = session else { continue };
            let message = stop_message(AttemptId { task: id, number: aside.number }, v1::Reason::Cancelled);
            cx.effects.push(Effect::Send { session, message });
        }
    }

    /// A copy of the task that no other may run beside is on a sidecar that is heard, or may be again: its end will be told.
    pub(super) fn old_copy_runs(&self, task: &Task) -> bool {
        task.old_copy_runs() || self.copies_aside(task).any(|(_, lost)| !lost)
    }

    /// The copies that are set aside, and whether their sidecar is lost.
    pub(super) fn copies_aside<'a>(&'a self, task: &'a Task) -> impl Iterator<Item = (Aside, bool)> + 'a {
        task.aside.iter().filter_map(|aside| {
            let sidecar = self.sidecars.get(&aside.sidecar)?;
            Some((*aside, sidecar.link == super::sidecar::Link::Lost))
        })
    }

    /// Every sidecar that may have been given something after this store's last state has told what it holds, or had the time to end it.
    pub(super) fn on_all_heard(&mut self) {
        self.unheard.clear();
        self.timers.cancel(Timer::Unheard);
        self.freed.extend(self.open.iter().copied());
    }
}

/// It was told before, and its number was not given to another here. Whatever this task has had may have begun to publish: the fence beside
/// a destination must let this one follow. What a user has asked to run again is not to end by what an earlier run left.
fn was_passed_over(task: &Task, number: u32, fence: Fence) -> bool {
    let behind = |known: &Attempt| known.number != number && known.fence < fence;
    task.runs <= 1 && task.attempts_dropped == 0 && task.attempts.iter().all(behind)
}
