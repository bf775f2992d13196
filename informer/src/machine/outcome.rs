//! What follows from an attempt's end: whose result is accepted, who is fenced, whether there is another try.

use super::effect::Effect;
use super::event::SessionId;
use super::retry::{self, Verdict};
use super::task::{Attempt, Phase, State, Terminal, WaitsFor};
use super::timer::Timer;
use super::{Cx, Machine};
use proto::id::{AttemptId, Fence, TaskId};
use proto::time::span;
use proto::{bounds, v1};

/// An ending that no process produced.
pub(super) fn ending(reason: v1::Reason, message: impl Into<String>) -> v1::Ending {
    v1::Ending { reason: reason.into(), message: message.into(), ..Default::default() }
}

/// The order to stop an attempt.
pub(super) fn stop_message(attempt: AttemptId, why: v1::Reason) -> Box<v1::InformerMessage> {
    let stop = v1::StopAttempt { attempt: Some(attempt.to_wire()), why: why.into() };
    Box::new(v1::InformerMessage { message: Some(v1::informer_message::Message::Stop(stop)) })
}

/// The order to publish a winner's outputs.
pub(super) fn publish_message(attempt: AttemptId, fence: Fence) -> Box<v1::InformerMessage> {
    let publish = v1::Publish { attempt: Some(attempt.to_wire()), fence: Some(fence.into()) };
    Box::new(v1::InformerMessage { message: Some(v1::informer_message::Message::Publish(publish)) })
}

impl Machine {
    /// Moves an attempt to another phase and keeps its sidecar's books with it.
    pub(super) fn set_phase(&mut self, id: AttemptId, phase: Phase) {
        let Some(task) = self.tasks.get_mut(&id.task) else { return };
        let taken = super::placement::taken(task);
        let Some(attempt) = task.attempt_mut(id.number) else { return };
        attempt.phase = phase;
        let (occupies, sidecar_id) = (attempt.occupies(), attempt.sidecar);
        if let Some(sidecar) = self.sidecars.get_mut(&sidecar_id) {
            #[cfg(feature = "seeded-bugs")]
            if self.config.bug == Some(super::Bug::LeakSlot) && phase == Phase::Failed {
                return self.touch_task(id.task);
            }
            if occupies {
                sidecar.take(id, taken);
            } else {
                sidecar.release(id);
            }
            if phase == Phase::PresumedLost {
                sidecar.missing.insert(id);
            } else {
                sidecar.missing.remove(&id);
            }
            self.refresh(sidecar_id);
        }
        self.touch_task(id.task);
    }

    /// An attempt's process has ended and nothing of it is left, or it is known never to have run.
    pub(super) fn on_end(&mut self, cx: &mut Cx<'_>, id: AttemptId, mut ending: v1::Ending) {
        // It is kept as the task's output, not in its rows.
        let result = std::mem::take(&mut ending.result);
        let Some(task) = self.tasks.get_mut(&id.task) else { return };
        let (ended, facts) = (task.is_ended(), task.alike.facts.clone());
        let Some(attempt) = task.attempt_mut(id.number) else { return };
        let was_missing = match attempt.phase {
            Phase::Assigned | Phase::Running => false,
            Phase::PresumedLost => true,
            // A repetition, or a copy of what was already decided.
            Phase::Committing
            | Phase::Succeeded
            | Phase::Failed
            | Phase::Cancelled
            | Phase::Lost
            | Phase::Late
            | Phase::Unspecified => return,
        };
        if attempt.started_unix_ms == 0 {
            // Its end is the first that was heard of it: the link or its agent was down in between.
            attempt.started_unix_ms = ending.started_unix_ms;
        }
        attempt.ended_unix_ms = if ending.ended_unix_ms > 0 { ending.ended_unix_ms } else { cx.now.wall_ms };
        attempt.ending = Some(Box::new(ending.clone()));
        attempt.progress = None;
        // Somebody saw it end, wherever that was.
        attempt.elsewhere &= !shows_a_process(&ending);
        let verdict = retry::judge(&facts, &ending);
        #[cfg(feature = "seeded-bugs")]
        let accept_twice = self.config.bug == Some(super::Bug::AcceptTwice) && verdict == Verdict::Success;
        #[cfg(not(feature = "seeded-bugs"))]
        let accept_twice = false;
        if (attempt.fenced || ended) && !accept_twice {
            return self.on_late(cx, id, &ending);
        }
        let sidecar_id = attempt.sidecar;
        if matches!(ending.reason(), v1::Reason::Unspecified | v1::Reason::ExitCode | v1::Reason::Signal)
            && let Some(sidecar) = self.sidecars.get_mut(&sidecar_id)
        {
            sidecar.on_ran();
        }
        // What was never there has not ended.
        let kind = if ending.reason() == v1::Reason::Spawn { "spawn_failed" } else { "ended" };
        self.note(cx, id, kind, describe(&ending));
        self.keep_result(id.task, result, ending.exit_code);
        let staged = !ending.outputs.is_empty();
        if (verdict != Verdict::Success || staged) && self.tasks.get(&id.task).is_some_and(|task| task.is_stopping()) {
            self.set_phase(id, Phase::Cancelled);
            if staged {
                // The order to stop may have met its end, and what it staged is gone with it: nothing is left to publish.
                self.order_stop(cx, id, v1::Reason::Revoked);
            }
            return self.finish_stopped(cx, id.task, ending);
        }
        match verdict {
            Verdict::Success => self.on_success(cx, id, ending),
            Verdict::Own { .. } | Verdict::Infrastructure if was_missing && self.has_rival(id) => {
                // Its replacement goes on: a failure that nobody waits for any more is charged to nobody.
                self.set_phase(id, Phase::Late);
            }
            Verdict::Own { retriable } => self.on_own_failure(cx, id, ending, retriable),
            Verdict::Infrastructure => self.on_loss(cx, id, ending, was_missing),
        }
    }

    /// An attempt came to nothing for no fault of its task.
    fn on_loss(&mut self, cx: &mut Cx<'_>, id: AttemptId, ending: v1::Ending, was_missing: bool) {
        let not_spawned = ending.reason() == v1::Reason::Spawn;
        // What could not be started there is rather tried elsewhere; so is what failed by itself.
        self.set_phase(id, if not_spawned { Phase::Failed } else { Phase::Lost });
        if not_spawned {
            self.on_spawn_failed(cx, id);
        }
        let Some(task) = self.tasks.get(&id.task) else { return };
        if was_missing && (task.waits() || self.has_rival(id)) {
            return; // The loss was charged when it was presumed.
        }
        if not_spawned && task.is_service() {
            return self.on_service_exit(cx, id, ending, false);
        }
        self.on_infrastructure_failure(cx, id, ending);
    }

    /// Another copy of the task is under way.
    fn has_rival(&self, id: AttemptId) -> bool {
        let wanted = |other: &Attempt| other.number != id.number && other.occupies() && !other.fenced;
        self.tasks.get(&id.task).is_some_and(|task| task.attempts.iter().any(wanted))
    }

    /// The result of a fenced attempt, or of one whose task has ended: stored, never applied.
    fn on_late(&mut self, cx: &mut Cx<'_>, id: AttemptId, ending: &v1::Ending) {
        use v1::Reason as R;
        let wanted =
            matches!(ending.reason(), R::Cancelled | R::Revoked | R::Fenced | R::Drained | R::Lost | R::TotalTimeout);
        self.set_phase(id, if wanted { Phase::Cancelled } else { Phase::Late });
        self.note(cx, id, if wanted { "stopped" } else { "late" }, describe(ending));
        if !ending.outputs.is_empty() {
            // Its sidecar keeps what it staged until it hears that nobody wants it.
            self.order_stop(cx, id, v1::Reason::Revoked);
        }
        self.on_old_copy_gone(cx, id.task);
    }

    fn on_success(&mut self, cx: &mut Cx<'_>, id: AttemptId, ending: v1::Ending) {
        self.learn(id, &ending);
        if self.tasks.get(&id.task).is_some_and(|task| task.is_service()) {
            return self.on_service_exit(cx, id, ending, true);
        }
        if ending.outputs.is_empty() {
            self.set_phase(id, Phase::Succeeded);
            return self.finish(cx, id.task, Terminal::Succeeded, ending);
        }
        self.stop_waiting(id.task);
        self.fence_others(cx, id);
        self.set_phase(id, Phase::Committing);
        let Some(task) = self.tasks.get_mut(&id.task) else { return };
        task.state = State::Committing { winner: id.number };
        let Some(attempt) = task.attempt(id.number) else { return };
        let (fence, session) = (attempt.fence, self.sidecars.get(&attempt.sidecar).and_then(super::Sidecar::session));
        self.note(cx, id, "committing", "its result is accepted; its outputs are being published");
        if let Some(session) = session {
            cx.effects.push(Effect::Send { session, message: publish_message(id, fence) });
        }
    }

    /// The winner's outputs are in place, or could not be put there.
    pub(super) fn on_published(&mut self, cx: &mut Cx<'_>, id: AttemptId, failure: Option<String>) {
        let Some(task) = self.tasks.get_mut(&id.task) else { return };
        if task.state != (State::Committing { winner: id.number }) {
            return;
        }
        let Some(attempt) = task.attempt_mut(id.number) else { return };
        let ending = attempt.ending.as_deref().cloned().unwrap_or_default();
        match failure {
            None => {
                self.set_phase(id, Phase::Succeeded);
                self.note(cx, id, "published", "");
                self.finish(cx, id.task, Terminal::Succeeded, ending);
            }
            Some(why) => {
                let ending =
                    v1::Ending { reason: v1::Reason::Output.into(), message: why, outputs: Vec::new(), ..ending };
                attempt.ending = Some(Box::new(ending.clone()));
                task.state = State::Running;
                self.note(cx, id, "publish_failed", ending.message.clone());
                self.on_own_failure(cx, id, ending, true);
            }
        }
    }

    fn on_own_failure(&mut self, cx: &mut Cx<'_>, id: AttemptId, ending: v1::Ending, retriable: bool) {
        self.set_phase(id, Phase::Failed);
        let Some(task) = self.tasks.get_mut(&id.task) else { return };
        if task.is_service() {
            return self.on_service_exit(cx, id, ending, false);
        }
        task.own_failures += 1;
        let (failures, allowed) = (task.own_failures, retry::max_attempts(&task.alike.facts));
        if !retriable || failures >= allowed {
            return self.finish(cx, id.task, Terminal::Failed, ending);
        }
        let delay_ms = retry::backoff_ms(&task.alike.facts, failures, cx.now.entropy);
        self.stop_waiting(id.task);
        self.note_task(
            cx,
            id.task,
            "retry",
            format!("own failure {failures} of {allowed}, next try in {}", span(delay_ms)),
        );
        let until_ms = (cx.now.mono_ms + delay_ms).max(self.copies_gone_ms(cx, id.task));
        self.make_waiting(cx, id.task, until_ms, WaitsFor::BackOff);
    }

    pub(super) fn on_infrastructure_failure(&mut self, cx: &mut Cx<'_>, id: AttemptId, ending: v1::Ending) {
        let Some(task) = self.tasks.get_mut(&id.task) else { return };
        if task.is_stopping() {
            return self.finish_stopped(cx, id.task, ending);
        }
        #[cfg(feature = "seeded-bugs")]
        if self.config.bug == Some(super::Bug::ChargeLoss) {
            task.own_failures += 1;
        }
        let moved = task.attempt(id.number).is_some_and(|attempt| attempt.moved);
        let handed_back = ending.reason() == v1::Reason::Refused;
        if moved && (handed_back || retry::may_be_moved(&task.alike.facts)) {
            return self.go_elsewhere(cx, id);
        }
        if task.attempt(id.number).is_some_and(|attempt| attempt.renumbered) {
            let detail = format!("its attempts count on from {}; charged to nobody", task.next_attempt);
            self.note_task(cx, id.task, "renumbered", detail);
            return self.try_again(cx, id.task, 0);
        }
        task.infra_failures += 1;
        let (failures, allowed) = (task.infra_failures, retry::max_infrastructure(&task.alike.facts));
        #[cfg(feature = "seeded-bugs")]
        let allowed = if self.config.bug == Some(super::Bug::EndlessLosses) { u32::MAX } else { allowed };
        if failures > allowed {
            return self.finish(cx, id.task, Terminal::Failed, ending);
        }
        // The first loss costs nothing: the task did nothing wrong and the next sidecar is likely healthy.
        let delay_ms =
            if failures <= 1 { 0 } else { retry::backoff_ms(&task.alike.facts, failures - 1, cx.now.entropy) };
        let next = span(delay_ms);
        self.note_task(
            cx,
            id.task,
            "retry",
            format!("infrastructure failure {failures} of {allowed} ({}), next try in {next}", reason_word(&ending)),
        );
        self.try_again(cx, id.task, delay_ms);
    }

    /// An operator wanted it away from its sidecar, which costs its task nothing. There is no end to it only if there is none to the
    /// operator's orders: each marks what runs at its time, and a sidecar that drains is given nothing new. Nor is one that hands back what crossed its word that it
    /// takes nothing, until its next beat.
    fn go_elsewhere(&mut self, cx: &mut Cx<'_>, id: AttemptId) {
        let attempt = self.tasks.get(&id.task).and_then(|task| task.attempt(id.number));
        let sidecar = attempt.and_then(|attempt| self.sidecars.get(&attempt.sidecar));
        let why = match sidecar.is_some_and(|sidecar| sidecar.load.lack() != v1::Lack::Unspecified) {
            true => "its sidecar takes nothing; charged to nobody",
            false => "its sidecar drains; charged to nobody",
        };
        self.note_task(cx, id.task, "moved", why);
        self.try_again(cx, id.task, 0);
    }

    /// The next try after a loss: after this delay, and not before the copies that must be gone surely are.
    fn try_again(&mut self, cx: &mut Cx<'_>, id: TaskId, delay_ms: u64) {
        self.stop_waiting(id);
        let gone_ms = self.copies_gone_ms(cx, id);
        let due_ms = cx.now.mono_ms + delay_ms;
        let why = if gone_ms > due_ms { WaitsFor::OldCopy } else { WaitsFor::BackOff };
        self.make_waiting(cx, id, due_ms.max(gone_ms), why);
    }

    /// A service's process ended: its restart policy decides; nothing is charged.
    fn on_service_exit(&mut self, cx: &mut Cx<'_>, id: AttemptId, ending: v1::Ending, clean: bool) {
        use v1::restart_policy::When;
        self.set_phase(id, if clean { Phase::Succeeded } else { Phase::Failed });
        let Some(task) = self.tasks.get_mut(&id.task) else { return };
        let Some(policy) = task.alike.facts.restart else { return };
        if task.is_stopping() {
            return self.finish_stopped(cx, id.task, ending);
        }
        let wanted = match policy.when() {
            When::Unspecified | When::Always => true,
            When::OnFailure => !clean,
            When::Never => false,
        };
        if ending.ran_ms >= bounds::RESTART_RESET_MS {
            task.restarts = 0;
            task.infra_failures = 0;
        }
        task.restarts += 1;
        let restarts = task.restarts;
        if !wanted || (policy.max_restarts > 0 && restarts > policy.max_restarts) {
            let state = if clean { Terminal::Succeeded } else { Terminal::Failed };
            return self.finish(cx, id.task, state, ending);
        }
        if self.has_rival(id) {
            return; // It was presumed lost, and what runs in its place is the restart.
        }
        let delay_ms = retry::restart_ms(&policy, restarts);
        self.stop_waiting(id.task);
        self.note_task(cx, id.task, "restart", format!("restart {restarts} in a row, in {}", span(delay_ms)));
        let until_ms = (cx.now.mono_ms + delay_ms).max(self.copies_gone_ms(cx, id.task));
        self.make_waiting(cx, id.task, until_ms, WaitsFor::BackOff);
    }

    /// A task that was to be stopped has stopped.
    fn finish_stopped(&mut self, cx: &mut Cx<'_>, id: TaskId, ending: v1::Ending) {
        let Some(task) = self.tasks.get(&id) else { return };
        let (state, reason, message) = if task.cancelling {
            (Terminal::Cancelled, v1::Reason::Cancelled, "cancelled by request")
        } else {
            (Terminal::Failed, v1::Reason::TotalTimeout, "the whole task took longer than its total timeout")
        };
        let ending = v1::Ending { reason: reason.into(), message: message.to_owned(), outputs: Vec::new(), ..ending };
        self.finish(cx, id, state, ending);
    }

    /// Orders the processes of a stopping task to end; a task without any ends at once.
    pub(super) fn stop_or_finish(&mut self, cx: &mut Cx<'_>, id: TaskId) {
        let Some(task) = self.tasks.get(&id) else { return };
        let why = if task.cancelling { v1::Reason::Cancelled } else { v1::Reason::TotalTimeout };
        let running: Vec<u32> = task.attempts.iter().filter(|a| a.occupies() && !a.fenced).map(|a| a.number).collect();
        if running.is_empty() {
            return self.finish_stopped(cx, id, v1::Ending::default());
        }
        for number in running {
            self.order_stop(cx, AttemptId { task: id, number }, why);
        }
    }

    /// Asks the attempt's sidecar to stop it; one that is not linked is told when it comes back.
    pub(super) fn order_stop(&mut self, cx: &mut Cx<'_>, id: AttemptId, why: v1::Reason) {
        if let Some(session) = self.session_of_attempt(id) {
            cx.effects.push(Effect::Send { session, message: stop_message(id, why) });
        }
    }

    fn session_of_attempt(&self, id: AttemptId) -> Option<SessionId> {
        let attempt = self.tasks.get(&id.task)?.attempt(id.number)?;
        self.sidecars.get(&attempt.sidecar)?.session()
    }

    /// From here on nobody else's result counts; copies that run are told to stop.
    pub(super) fn fence_others(&mut self, cx: &mut Cx<'_>, winner: AttemptId) {
        let Some(task) = self.tasks.get_mut(&winner.task) else { return };
        let others: Vec<AttemptId> = task
            .attempts
            .iter()
            .filter(|a| a.number != winner.number && a.may_win())
            .map(|a| a.id(winner.task))
            .collect();
        for other in others {
            self.fence(cx, other, v1::Reason::Revoked);
        }
    }

    /// This attempt's result no longer counts; if it may run, it is told to stop.
    pub(super) fn fence(&mut self, cx: &mut Cx<'_>, id: AttemptId, why: v1::Reason) {
        let Some(attempt) = self.tasks.get_mut(&id.task).and_then(|task| task.attempt_mut(id.number)) else { return };
        attempt.fenced = true;
        let occupies = attempt.occupies();
        self.timers.cancel(Timer::Replace(id));
        self.touch_task(id.task);
        self.note(cx, id, "fenced", "");
        if occupies {
            self.order_stop(cx, id, why);
        }
    }

    /// The task is terminal from here on.
    pub(super) fn finish(&mut self, cx: &mut Cx<'_>, id: TaskId, state: Terminal, ending: v1::Ending) {
        self.stop_waiting(id);
        self.timers.cancel(Timer::TotalTimeout(id));
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let open: Vec<AttemptId> = task.attempts.iter().filter(|a| a.may_win()).map(|a| a.id(id)).collect();
        task.ended_unix_ms = cx.now.wall_ms;
        task.cancelling = false;
        task.overtime = false;
        let detail = describe(&ending);
        task.state = State::Ended { state, ending: Box::new(ending) };
        let kind = task.state_word();
        if let State::Ended { state, ending } = task.state.clone() {
            self.on_work_ended(id, state, &ending);
        }
        for attempt in open {
            self.fence(cx, attempt, v1::Reason::Revoked);
        }
        self.touch_task(id);
        self.note_task(cx, id, kind, detail);
        self.on_member_ended(cx, id, state);
    }

    /// When every `stop` copy of the task that is out of reach has surely ended; 0 if there is none to wait for.
    pub(super) fn copies_gone_ms(&self, cx: &Cx<'_>, id: TaskId) -> u64 {
        #[cfg(feature = "seeded-bugs")]
        if self.bug(super::Bug::NoFenceWait) {
            return 0;
        }
        let Some(task) = self.tasks.get(&id).filter(|task| task.alike.facts.stop_on_disconnect) else { return 0 };
        let gone = task.attempts.iter().filter(|attempt| attempt.phase == Phase::PresumedLost).filter_map(|attempt| {
            let sidecar = self.sidecars.get(&attempt.sidecar)?;
            Some(sidecar.heard_ms + self.config.copies_end_ms(sidecar.lease_ms))
        });
        let aside = self.copies_aside(task).filter_map(|(aside, _)| {
            let sidecar = self.sidecars.get(&aside.sidecar)?;
            Some(sidecar.heard_ms + self.config.copies_end_ms(sidecar.lease_ms))
        });
        let elsewhere = task.attempts.iter().filter(|attempt| attempt.elsewhere).filter_map(|attempt| {
            let sidecar = self.sidecars.get(&attempt.sidecar)?;
            Some(sidecar.elsewhere_until_ms)
        });
        gone.chain(aside).chain(elsewhere).max().unwrap_or(0).max(cx.now.mono_ms)
    }

    /// What a finished run teaches about its name and its sidecar's speed.
    fn learn(&mut self, id: AttemptId, ending: &v1::Ending) {
        let Some(task) = self.tasks.get(&id.task).filter(|task| !task.is_service()) else { return };
        let Some(attempt) = task.attempt(id.number) else { return };
        let shown = self.estimates.learn(&task.own.name, attempt.sidecar, ending.ran_ms);
        if let (Some(shown), Some(sidecar)) = (shown, self.sidecars.get_mut(&attempt.sidecar)) {
            sidecar.learn_speed(shown);
        }
    }
}

/// The end of a process that ran, as its monitor recorded it: no word of somebody who looked for it where it never was.
fn shows_a_process(ending: &v1::Ending) -> bool {
    ending.started_unix_ms > 0 && ending.reason() != v1::Reason::Lost
}

/// One line about an ending.
pub(super) fn describe(ending: &v1::Ending) -> String {
    let what = match (ending.exit_code, ending.signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => reason_word(ending),
    };
    match ending.message.as_str() {
        "" => what,
        // The sidecar's own words begin like that, too.
        message if message.starts_with(&what) => message.to_owned(),
        message => format!("{what}: {message}"),
    }
}

/// The reason of an ending in one word.
pub(super) fn reason_word(ending: &v1::Ending) -> String {
    ending.reason().as_str_name().trim_start_matches("REASON_").to_lowercase()
}
