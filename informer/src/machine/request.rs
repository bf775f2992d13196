//! What clients ask: submit, cancel, retry. Each repeats harmlessly.

use super::array::Members;
use super::effect::{Effect, Rejection, Reply};
use super::event::{KeyHit, Submit, Ticket};
use super::load::on_mono;
use super::outcome;
use super::task::{State, Task, Terminal, WaitsFor};
use super::timer::Timer;
use super::{Cx, Machine};
use proto::id::TaskId;
use proto::time::span;
use proto::{bounds, store, v1};

impl Machine {
    pub(super) fn on_submitted(&mut self, cx: &mut Cx<'_>, submit: Submit) {
        let ticket = submit.ticket;
        let reply = match self.admit(&submit) {
            Ok(None) => {
                let task = submit.task;
                self.create(cx, submit);
                Reply::Submitted { task, existed: false }
            }
            Ok(Some(task)) => Reply::Submitted { task, existed: true },
            Err(rejection) => Reply::Rejected(rejection),
        };
        cx.effects.push(Effect::Reply { ticket, reply });
    }

    /// `Some` names the task that the key already stands for.
    fn admit(&self, submit: &Submit) -> Result<Option<TaskId>, Rejection> {
        let known = submit.key.as_deref().and_then(|key| self.pending.keys.get(key).copied()).or(submit.known);
        match known {
            Some(hit) if hit.digest == submit.digest => Ok(Some(hit.task)),
            #[cfg(feature = "seeded-bugs")]
            Some(hit) if self.bug(super::Bug::IgnoreDigest) => Ok(Some(hit.task)),
            Some(hit) => Err(Rejection::KeyConflict { task: hit.task }),
            None if self.tasks.len() >= bounds::TASKS_LIVE => Err(Rejection::Full { limit: bounds::TASKS_LIVE }),
            None => self.check_type(&submit.facts).map(|()| None),
        }
    }

    fn create(&mut self, cx: &mut Cx<'_>, submit: Submit) {
        let id = submit.task;
        let (alike, own) = self.shared.acquire(*submit.facts);
        let total_ms = alike.facts.timeouts.map_or(0, |timeouts| timeouts.total_ms);
        if let Some(key) = &submit.key {
            self.remember_key(key, KeyHit { task: id, digest: submit.digest });
        }
        let mut task = Task::new(submit.payload, alike, own, cx.now.wall_ms);
        task.not_before_unix_ms = match submit.start_after_ms {
            0 => submit.start_after_unix_ms,
            ms => cx.now.wall_ms.saturating_add(ms),
        };
        let start_ms = on_mono(cx.now, task.not_before_unix_ms);
        task.key_digest = (submit.array.is_some() && submit.key.is_some()).then(|| Box::new(submit.digest));
        task.key = submit.key.map(String::into_boxed_str);
        task.members = submit.array.map(|array| Box::new(Members::new(array)));
        let total_ms = if submit.array.is_some() { 0 } else { total_ms };
        self.tasks.insert(id, Box::new(task));
        self.note_task(cx, id, "submitted", "");
        self.arm_total(cx, id, total_ms);
        self.make_waiting(cx, id, start_ms, WaitsFor::StartTime);
    }

    fn remember_key(&mut self, key: &str, hit: KeyHit) {
        #[cfg(feature = "seeded-bugs")]
        if self.bug(super::Bug::ForgetKey) {
            return;
        }
        self.pending.keys.insert(key.into(), hit);
        self.pending.new_keys.push(key.into());
    }

    pub(super) fn arm_total(&mut self, cx: &Cx<'_>, id: TaskId, total_ms: u64) {
        if total_ms > 0 {
            self.timers.arm(Timer::TotalTimeout(id), cx.now.mono_ms.saturating_add(total_ms));
        }
    }

    pub(super) fn on_cancel_requested(&mut self, cx: &mut Cx<'_>, ticket: Ticket, id: TaskId, reason: &str) {
        let reply = match self.cancel_any(cx, id, reason) {
            Ok(()) => self.reply_task(id),
            Err(rejection) => Reply::Rejected(rejection),
        };
        cx.effects.push(Effect::Reply { ticket, reply });
    }

    /// A member that has not started gets a row of its own to be cancelled in; one that was cancelled so has none.
    fn cancel_any(&mut self, cx: &mut Cx<'_>, id: TaskId, reason: &str) -> Result<(), Rejection> {
        if let (Some(array), Some(index)) = (id.array(), id.index()) {
            let members = self.tasks.get(&array).and_then(|task| task.members());
            if members.is_some_and(|members| members.pending.contains(index)) {
                self.single_out(cx, id)?;
            }
        }
        self.cancel(cx, id, reason)
    }

    pub(super) fn cancel(&mut self, cx: &mut Cx<'_>, id: TaskId, reason: &str) -> Result<(), Rejection> {
        let task = self.tasks.get_mut(&id).ok_or(Rejection::Unknown { task: id })?;
        let refused = |task: &Task, why| Err(Rejection::State { task: id, state: task.state_word(), why });
        match task.state {
            State::Committing { .. } => refused(task, "its result is accepted and its outputs are being published"),
            State::Ended { state: Terminal::Cancelled, .. } => Ok(()),
            State::Ended { .. } => refused(task, "it has ended; there is nothing to cancel"),
            _ if task.cancelling => Ok(()),
            State::Waiting { .. } | State::Ready { .. } | State::Assigned | State::Running => {
                task.cancelling = true;
                self.touch_task(id);
                self.note_task(cx, id, "cancel_requested", reason);
                self.cancel_children(cx, id, reason);
                if self.tasks.get(&id).is_some_and(|task| task.members.is_some()) {
                    self.cancel_members(cx, id, reason);
                    self.end_array_if_over(cx, id);
                } else {
                    self.stop_aside(cx, id);
                    self.stop_or_finish(cx, id);
                }
                Ok(())
            }
        }
    }

    pub(super) fn on_retry_requested(&mut self, cx: &mut Cx<'_>, ticket: Ticket, id: TaskId, key: &str) {
        let reply = match self.retry(cx, id, key) {
            Ok(()) => self.reply_task(id),
            Err(rejection) => Reply::Rejected(rejection),
        };
        cx.effects.push(Effect::Reply { ticket, reply });
    }

    fn retry(&mut self, cx: &mut Cx<'_>, id: TaskId, key: &str) -> Result<(), Rejection> {
        let live = self.tasks.len();
        if self.was_cancelled_unstarted(id) {
            self.single_out(cx, id)?;
            self.make_waiting(cx, id, cx.now.mono_ms, WaitsFor::BackOff);
            return Ok(());
        }
        let task = self.tasks.get_mut(&id).ok_or(Rejection::Unknown { task: id })?;
        if !key.is_empty() && *task.retry_key == *key {
            return Ok(());
        }
        if task.members.is_some() {
            task.retry_key = key.into();
            self.retry_array(cx, id);
            return Ok(());
        }
        if task.of_run.is_some() {
            let why = "it does the work of a workflow, which owns its tries; `informer workflow retry` its run";
            return Err(Rejection::State { task: id, state: task.state_word(), why });
        }
        if !task.is_ended() {
            let why = "only a task that has ended can be retried; `informer cancel` ends it";
            return Err(Rejection::State { task: id, state: task.state_word(), why });
        }
        if live > bounds::TASKS_LIVE {
            return Err(Rejection::Full { limit: bounds::TASKS_LIVE });
        }
        let was = match task.state {
            State::Ended { state, .. } => state,
            _ => Terminal::Failed,
        };
        task.retry_key = key.into();
        task.own_failures = 0;
        task.infra_failures = 0;
        task.restarts = 0;
        task.runs += 1;
        task.cancelling = false;
        task.overtime = false;
        task.ended_unix_ms = 0;
        task.run_since_unix_ms = cx.now.wall_ms;
        // What the last run left behind must not win this one.
        task.attempts.iter_mut().filter(|attempt| attempt.may_win()).for_each(|attempt| attempt.fenced = true);
        let total_ms = task.alike.facts.timeouts.map_or(0, |timeouts| timeouts.total_ms);
        let until_ms = self.copies_gone_ms(cx, id);
        self.on_member_revived(id, was);
        self.note_task(cx, id, "retried", "by request");
        self.arm_total(cx, id, total_ms);
        self.make_waiting(cx, id, until_ms, WaitsFor::OldCopy);
        Ok(())
    }

    /// A member that was cancelled before it had a row.
    fn was_cancelled_unstarted(&self, id: TaskId) -> bool {
        let members = id.array().and_then(|array| self.tasks.get(&array)).and_then(|task| task.members());
        members.zip(id.index()).is_some_and(|(members, index)| members.cancelled.contains(index))
    }

    pub(super) fn on_queue_timeout(&mut self, cx: &mut Cx<'_>, id: TaskId) {
        let Some(task) = self.tasks.get(&id) else { return };
        if !matches!(task.state, State::Ready { .. }) {
            return;
        }
        if task.members.is_some() {
            self.on_array_queue_timeout(cx, id);
        } else {
            let waited_ms = task.alike.facts.timeouts.map_or(0, |timeouts| timeouts.queue_ms);
            let message = format!("no sidecar took it within {}", span(waited_ms));
            self.finish(cx, id, Terminal::Failed, outcome::ending(v1::Reason::QueueTimeout, message));
        }
    }

    pub(super) fn on_total_timeout(&mut self, cx: &mut Cx<'_>, id: TaskId) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        if task.is_ended() || matches!(task.state, State::Committing { .. }) {
            return;
        }
        task.overtime = true;
        self.touch_task(id);
        self.note_task(cx, id, "total_timeout", "");
        self.stop_or_finish(cx, id);
    }

    fn reply_task(&self, id: TaskId) -> Reply {
        match self.tasks.get(&id) {
            Some(task) => {
                let facts = Some(task.own.whole(&task.alike.facts));
                Reply::Task(Box::new(store::TaskRow { facts, ..task.to_row(id) }))
            }
            None => Reply::Rejected(Rejection::Unknown { task: id }),
        }
    }
}
