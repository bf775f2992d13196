//! Arrays: one template, many members. A member has a row of its own once it has started or was singled out; until then it is an
//! index in one of two sets of runs, so that a million waiting members cost no more than one task.
//!
//! ```text
//!            start, single out                    end
//!  pending ────────────────────▶ live (a task) ─────────▶ succeeded | failed | cancelled (rows)
//!     │ cancel of the whole                                       │ retry
//!     ▼                       retry of one                        ▼
//!  cancelled (runs) ──────────────────────────────────────────▶ live
//!     └── retry of the whole ──▶ pending
//! ```
//!
//! The array itself is a task without attempts: it waits for its start time, stands in the queue while members are pending, runs
//! while any is live, and ends with the last of them.

use super::effect::{Effect, Rejection};
use super::event::NewArray;
use super::outcome::ending;
use super::ready::Spot;
use super::runs::Runs;
use super::task::{State, Task, Terminal, WaitsFor};
use super::{Cx, Machine};
use proto::id::{INDEX_MAX, TaskId};
use proto::{bounds, store, v1};
use std::sync::Arc;

/// What an array knows of its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Members {
    pub first: u32,
    pub count: u32,
    /// Never started.
    pub pending: Runs,
    /// Cancelled before they started.
    pub cancelled: Runs,
    /// With a row that is not terminal.
    pub live: u32,
    pub succeeded: u32,
    pub failed: u32,
    /// Cancelled, with a row.
    pub cancelled_rows: u32,
    /// Each has an item.
    pub items: bool,
    pub max_failures: Option<u32>,
    /// More have failed than may: the rest is being cancelled.
    pub failing: bool,
}

impl Members {
    pub(super) fn new(new: NewArray) -> Self {
        Self {
            first: new.first,
            count: new.count,
            pending: Runs::of(new.first, new.count),
            cancelled: Runs::default(),
            live: 0,
            succeeded: 0,
            failed: 0,
            cancelled_rows: 0,
            items: new.items,
            max_failures: new.max_failures,
            failing: false,
        }
    }

    pub(super) fn from_row(row: &store::ArrayRow) -> Self {
        Self {
            first: row.first,
            count: row.count,
            pending: Runs::from_rows(&row.pending),
            cancelled: Runs::from_rows(&row.cancelled),
            live: row.live,
            succeeded: row.succeeded,
            failed: row.failed,
            cancelled_rows: row.cancelled_rows,
            items: row.items,
            max_failures: row.limited.then_some(row.max_failures),
            failing: row.failing,
        }
    }

    pub(super) fn to_row(&self) -> store::ArrayRow {
        store::ArrayRow {
            first: self.first,
            count: self.count,
            pending: self.pending.to_rows(),
            cancelled: self.cancelled.to_rows(),
            live: self.live,
            succeeded: self.succeeded,
            failed: self.failed,
            cancelled_rows: self.cancelled_rows,
            limited: self.max_failures.is_some(),
            max_failures: self.max_failures.unwrap_or(0),
            items: self.items,
            failing: self.failing,
        }
    }

    /// A member has started, or ended.
    pub(super) fn has_begun(&self) -> bool {
        self.pending.len() < self.count
    }

    /// No member is pending or live.
    fn is_over(&self) -> bool {
        self.pending.is_empty() && self.live == 0
    }

    /// The counter of members with a row that ended so.
    fn ended(&mut self, terminal: Terminal) -> &mut u32 {
        match terminal {
            Terminal::Succeeded => &mut self.succeeded,
            Terminal::Failed => &mut self.failed,
            Terminal::Cancelled => &mut self.cancelled_rows,
        }
    }

    /// How the array ends, once it is over.
    fn outcome(&self, cancelled: bool) -> (Terminal, v1::Ending) {
        if self.succeeded == self.count {
            return (Terminal::Succeeded, v1::Ending { exit_code: Some(0), ..Default::default() });
        }
        let gone = self.cancelled_rows + self.cancelled.len();
        let message = format!(
            "of {} members {} succeeded, {} failed and {gone} were cancelled",
            self.count, self.succeeded, self.failed
        );
        match (cancelled, self.failing, self.failed) {
            (_, true, _) => (Terminal::Failed, ending(v1::Reason::MaxFailures, message)),
            (true, false, _) | (false, false, 0) => (Terminal::Cancelled, ending(v1::Reason::Cancelled, message)),
            (false, false, _) => (Terminal::Failed, ending(v1::Reason::Members, message)),
        }
    }
}

impl Machine {
    /// Makes a task of the next member of an array that waits in the queue.
    pub(super) fn start_member(&mut self, cx: &Cx<'_>, id: TaskId) -> Option<TaskId> {
        let task = self.tasks.get_mut(&id)?;
        let State::Ready { place } = task.state else { return None };
        let spot = Spot { priority: task.alike.facts.priority, lane: task.alike.lane, place };
        let index = task.members_mut()?.pending.pop()?;
        self.ready.remove_member(spot);
        self.leave_queue_if_empty(id);
        let member = id.at(index)?;
        self.add_member(cx, id, member);
        Some(member)
    }

    /// An array whose last member has started no longer waits.
    fn leave_queue_if_empty(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        if task.members().is_some_and(|members| members.pending.is_empty()) && task.waits() {
            self.stop_waiting(id);
            if let Some(task) = self.tasks.get_mut(&id) {
                task.state = State::Running;
            }
        }
        self.touch_task(id);
    }

    /// A member gets a life of its own, made after its array.
    fn add_member(&mut self, cx: &Cx<'_>, id: TaskId, member: TaskId) {
        let Some(array) = self.tasks.get_mut(&id) else { return };
        let alike = Arc::clone(&array.alike);
        let total_ms = alike.facts.timeouts.map_or(0, |timeouts| timeouts.total_ms);
        let mut task = Task::new(array.payload, alike, Arc::clone(&array.own), cx.now.wall_ms);
        task.created_unix_ms = array.created_unix_ms;
        if let Some(members) = array.members_mut() {
            members.live += 1;
        }
        self.tasks.insert(member, Box::new(task));
        self.touch_task(id);
        self.touch_task(member);
        self.arm_total(cx, member, total_ms);
    }

    /// A member without a row that a user means gets one. `None` if there is no such member.
    ///
    /// # Errors
    /// The array would fall into too many runs.
    pub(super) fn single_out(&mut self, cx: &Cx<'_>, member: TaskId) -> Result<(), Rejection> {
        let unknown = Rejection::Unknown { task: member };
        let (Some(id), Some(index)) = (member.array(), member.index()) else { return Err(unknown) };
        if self.tasks.contains_key(&member) {
            return Ok(());
        }
        let Some(task) = self.tasks.get_mut(&id) else { return Err(unknown) };
        let state = task.state.clone();
        let (priority, lane) = (task.alike.facts.priority, task.alike.lane);
        let Some(members) = task.members_mut() else { return Err(unknown) };
        if members.pending.pieces() + members.cancelled.pieces() >= bounds::ARRAY_RUNS {
            return Err(Rejection::Scattered { task: id, limit: bounds::ARRAY_RUNS });
        }
        if members.pending.remove(index) {
            if let State::Ready { place } = state {
                self.ready.remove_member(Spot { priority, lane, place });
            }
            self.leave_queue_if_empty(id);
        } else if members.cancelled.remove(index) {
            self.reopen_array(id);
        } else {
            return Err(unknown);
        }
        self.add_member(cx, id, member);
        Ok(())
    }

    /// An ended array runs again, because a member does.
    pub(super) fn reopen_array(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        if task.is_ended() {
            task.state = State::Running;
            task.ended_unix_ms = 0;
            task.runs += 1;
        }
        task.cancelling = false;
        if let Some(members) = task.members_mut() {
            members.failing = false;
        }
        self.touch_task(id);
    }

    /// A member that had ended runs again.
    pub(super) fn on_member_revived(&mut self, member: TaskId, was: Terminal) {
        let Some(id) = member.array() else { return };
        self.reopen_array(id);
        if let Some(members) = self.tasks.get_mut(&id).and_then(|task| task.members_mut()) {
            let ended = members.ended(was);
            *ended = ended.saturating_sub(1);
            members.live += 1;
        }
    }

    /// A member has ended: its array counts it, cancels the rest if that was one failure too many, and ends with the last.
    pub(super) fn on_member_ended(&mut self, cx: &mut Cx<'_>, member: TaskId, terminal: Terminal) {
        let Some(id) = member.array() else { return };
        #[cfg(feature = "seeded-bugs")]
        let terminal = match terminal {
            Terminal::Failed if self.bug(super::Bug::MiscountMember) => Terminal::Succeeded,
            terminal => terminal,
        };
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let cancelling = task.cancelling;
        let Some(members) = task.members_mut() else { return };
        members.live = members.live.saturating_sub(1);
        *members.ended(terminal) += 1;
        let too_many = members.max_failures.is_some_and(|most| members.failed > most);
        let breaks = too_many && !members.failing && !cancelling;
        members.failing |= breaks;
        self.touch_task(id);
        if breaks {
            self.note_task(cx, id, "max_failures", "more members failed than may; the rest is cancelled");
            self.cancel_members(cx, id, "its array has failed too often");
        }
        self.end_array_if_over(cx, id);
    }

    /// Cancels every member that has not ended.
    pub(super) fn cancel_members(&mut self, cx: &mut Cx<'_>, id: TaskId, reason: &str) {
        self.stop_waiting(id);
        let Some(task) = self.tasks.get_mut(&id) else { return };
        if task.waits() {
            task.state = State::Running;
        }
        if let Some(members) = task.members_mut() {
            let mut pending = std::mem::take(&mut members.pending);
            members.cancelled.absorb(&mut pending);
        }
        self.touch_task(id);
        for member in self.live_members(id) {
            // One that publishes its outputs is past cancelling, and ends by itself.
            let _ends_by_itself = self.cancel(cx, member, reason);
        }
    }

    pub(super) fn end_array_if_over(&mut self, cx: &mut Cx<'_>, id: TaskId) {
        let Some(task) = self.tasks.get(&id).filter(|task| !task.is_ended()) else { return };
        let Some(members) = task.members().filter(|members| members.is_over()) else { return };
        let (state, ending) = members.outcome(task.cancelling);
        self.finish(cx, id, state, ending);
    }

    /// The members with a life of their own that have not ended. All are held: an array with any is.
    pub(super) fn live_members(&self, id: TaskId) -> Vec<TaskId> {
        let (Some(first), Some(last)) = (id.at(0), id.at(INDEX_MAX)) else { return Vec::new() };
        self.tasks.range(first..=last).filter(|(_, task)| !task.is_ended()).map(|(member, _)| *member).collect()
    }

    /// An array that a user wants again: what was cancelled before it started waits anew. Members that ended are retried one by one.
    pub(super) fn retry_array(&mut self, cx: &mut Cx<'_>, id: TaskId) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let waited = task.waits();
        let Some(members) = task.members_mut() else { return };
        if members.cancelled.is_empty() {
            return;
        }
        let mut cancelled = std::mem::take(&mut members.cancelled);
        members.pending.absorb(&mut cancelled);
        self.reopen_array(id);
        self.note_task(cx, id, "retried", "members that never started wait again");
        if waited {
            self.stop_waiting(id);
        }
        self.make_waiting(cx, id, cx.now.mono_ms, WaitsFor::BackOff);
    }

    /// Its queue timeout came: what has not started by now never will.
    pub(super) fn on_array_queue_timeout(&mut self, cx: &mut Cx<'_>, id: TaskId) {
        self.note_task(cx, id, "queue_timeout", "members that have not started are cancelled");
        self.stop_waiting(id);
        let Some(task) = self.tasks.get_mut(&id) else { return };
        task.state = State::Running;
        if let Some(members) = task.members_mut() {
            let mut pending = std::mem::take(&mut members.pending);
            members.cancelled.absorb(&mut pending);
        }
        self.touch_task(id);
        self.end_array_if_over(cx, id);
    }

    /// The effect that hands a task's attempt to its sidecar.
    pub(super) fn send_assign(
        &self,
        session: super::SessionId,
        attempt: proto::id::AttemptId,
        fence: proto::id::Fence,
    ) -> Option<Effect> {
        let payload = self.tasks.get(&attempt.task)?.payload;
        let members = attempt.task.array().and_then(|array| self.tasks.get(&array)).and_then(|task| task.members());
        let items = members.filter(|members| members.items);
        let position = items.zip(attempt.task.index()).map(|(members, index)| index - members.first);
        let of_run = self.tasks.get(&attempt.task)?.of_run.as_ref();
        let (input, of_run) = (of_run.and_then(|of_run| of_run.input), of_run.is_some());
        Some(Effect::SendAssign { session, attempt, fence, payload, position, input, of_run })
    }
}
