//! Facts from sidecars. A repeated, late or reordered one is harmless: it is acknowledged and moves nothing back.

use super::effect::Effect;
use super::event::{Report, SessionId};
use super::outcome::ending;
use super::sidecar::{PAUSE_BEATS, QUARANTINE_BEATS};
use super::task::{Phase, State};
use super::timer::Timer;
use super::{Cx, Machine};
use proto::id::{AttemptId, Fence};
use proto::time::span;
use proto::v1;
use v1::informer_message::Message;

/// What an attempt ends with whose number its sidecar has had before.
const NUMBER_TAKEN: &str = "an attempt of this number ran there after the backup";

/// One numbered report.
pub(super) struct Reported {
    pub seq: u64,
    pub attempt: AttemptId,
    pub fence: Fence,
    pub report: Report,
}

impl Machine {
    pub(super) fn on_reported(&mut self, cx: &mut Cx<'_>, session: SessionId, reported: Reported) {
        let Reported { seq, attempt: id, fence, report } = reported;
        let Some(&sidecar_id) = self.sessions.get(&session) else { return };
        let Some(sidecar) = self.sidecars.get_mut(&sidecar_id) else { return };
        if seq > sidecar.reported_seq + 1 {
            let message = format!("report {seq} came after {}: numbers must be without gaps", sidecar.reported_seq);
            let refuse = v1::Refuse { code: "protocol".to_owned(), message, r#final: false };
            return self.close_link(cx, session, refuse);
        }
        if seq == sidecar.reported_seq + 1 {
            sidecar.reported_seq = seq;
            let known = self.tasks.get(&id.task).and_then(|task| task.attempt(id.number));
            if known.is_some_and(|attempt| attempt.sidecar == sidecar_id && attempt.fence == fence) {
                self.on_report(cx, id, report);
            } else if matches!(report, Report::Ended(_) | Report::Refused { .. } | Report::HandedBack(_)) {
                self.on_aside_over(cx, sidecar_id, id);
                self.decline_outputs(cx, session, id, &report);
            }
        }
        let seq = self.sidecars.get(&sidecar_id).map_or(seq, |sidecar| sidecar.reported_seq);
        let message = Box::new(v1::InformerMessage { message: Some(Message::Ack(v1::Ack { seq })) });
        cx.effects.push(Effect::Send { session, message });
    }

    /// An end that nothing here waits for is told. Its sidecar keeps what it staged until it hears that nobody publishes it.
    fn decline_outputs(&self, cx: &mut Cx<'_>, session: SessionId, id: AttemptId, report: &Report) {
        let Report::Ended(ending) = report else { return };
        if !ending.outputs.is_empty() {
            let decision = v1::verdict::Decision::Acknowledged.into();
            let verdict = v1::Verdict { attempt: Some(id.to_wire()), decision, why: v1::Reason::Unspecified.into() };
            self.send(cx, session, Message::Verdict(verdict));
        }
    }

    fn on_report(&mut self, cx: &mut Cx<'_>, id: AttemptId, report: Report) {
        match report {
            // The assignment arrived; there is nothing to do but to acknowledge.
            Report::Accepted => {}
            Report::Started { unix_ms } => self.on_started(cx, id, unix_ms),
            Report::Ended(ending) => {
                if ending.reason() == v1::Reason::Drained {
                    self.give_no_more(id);
                }
                self.on_end(cx, id, *ending);
            }
            Report::Published(failure) => self.on_published(cx, id, failure),
            Report::Refused { why, taken } => self.on_refused(cx, id, why, taken),
            Report::HandedBack(why) => self.on_handed_back(cx, id, why),
        }
    }

    /// Only an assigned attempt can become running: `started` after `ended` moves nothing back.
    pub(super) fn on_started(&mut self, cx: &mut Cx<'_>, id: AttemptId, unix_ms: u64) {
        let Some(task) = self.tasks.get_mut(&id.task) else { return };
        let assigned = task.state == State::Assigned;
        let Some(attempt) = task.attempt_mut(id.number).filter(|attempt| attempt.phase == Phase::Assigned) else {
            return;
        };
        attempt.started_unix_ms = unix_ms;
        // What it told before was of its inputs.
        attempt.progress = None;
        let (fenced, sidecar_id) = (attempt.fenced, attempt.sidecar);
        if assigned && !fenced {
            task.state = State::Running;
        }
        self.set_phase(id, Phase::Running);
        self.note(cx, id, "started", "");
        if assigned && !fenced {
            self.on_work_started(id.task, &sidecar_id.to_string());
        }
        if let Some(sidecar) = self.sidecars.get_mut(&sidecar_id) {
            sidecar.on_spawned(id);
        }
        self.refresh(sidecar_id);
    }

    /// The sidecar of an attempt that it refused or drained takes no more until its next beat says otherwise: without this
    /// the retry, which waits for nothing, would go right back to it.
    fn give_no_more(&mut self, id: AttemptId) {
        let attempt = self.tasks.get(&id.task).and_then(|task| task.attempt(id.number));
        if let Some(sidecar) = attempt.and_then(|attempt| self.sidecars.get_mut(&attempt.sidecar)) {
            sidecar.limit = 0;
        }
    }

    fn on_refused(&mut self, cx: &mut Cx<'_>, id: AttemptId, why: String, taken: u32) {
        let Some(attempt) = self.tasks.get(&id.task).and_then(|task| task.attempt(id.number)) else { return };
        if attempt.phase != Phase::Assigned {
            return;
        }
        if self.on_number_taken(id, taken) {
            return self.on_end(cx, id, ending(v1::Reason::Refused, NUMBER_TAKEN));
        }
        self.give_no_more(id);
        self.on_end(cx, id, ending(v1::Reason::Refused, why));
    }

    /// The assignment crossed the word that nothing can be started there; the next beat says for how long.
    fn on_handed_back(&mut self, cx: &mut Cx<'_>, id: AttemptId, why: String) {
        let attempt = self.tasks.get_mut(&id.task).and_then(|task| task.attempt_mut(id.number));
        if let Some(attempt) = attempt.filter(|attempt| attempt.phase == Phase::Assigned) {
            attempt.moved = true;
            if let Some(sidecar) = self.sidecars.get_mut(&attempt.sidecar) {
                sidecar.load.set_lack(v1::Lack::LeasePage);
            }
        }
        self.on_refused(cx, id, why, 0);
    }

    /// The number was given to another attempt before, which this store does not know of since it was restored from a backup: the task
    /// counts on above all that its sidecar has had of it. No fault of anybody, so nobody is charged, and the sidecar may be asked again
    /// at once. It has told its highest number, so it has no second reason: once for each leadership, and what it refuses so again is
    /// a refusal like any other. Returns whether it is one of these.
    fn on_number_taken(&mut self, id: AttemptId, taken: u32) -> bool {
        let Some(task) = self.tasks.get_mut(&id.task).filter(|_| taken >= id.number) else { return false };
        task.next_attempt = task.next_attempt.max(taken + 1);
        let Some(attempt) = task.attempt(id.number) else { return false };
        let (sidecar, epoch) = (attempt.sidecar, attempt.fence.epoch);
        let again = task.attempts.iter().any(|earlier| {
            let message = earlier.ending.as_deref().map(|ending| ending.message.as_str());
            earlier.sidecar == sidecar && earlier.fence.epoch == epoch && message == Some(NUMBER_TAKEN)
        });
        if let Some(attempt) = task.attempt_mut(id.number) {
            attempt.renumbered = !again;
        }
        !again
    }

    /// The machine could spawn nothing: the sidecar pauses and starts slowly again, and after three different tasks within one rest it
    /// rests. The task's history says so, since that is why its next attempt is elsewhere, or later.
    pub(super) fn on_spawn_failed(&mut self, cx: &mut Cx<'_>, id: AttemptId) {
        let Some(sidecar_id) = self.tasks.get(&id.task).and_then(|task| task.attempt(id.number)).map(|a| a.sidecar)
        else {
            return;
        };
        let Some(sidecar) = self.sidecars.get_mut(&sidecar_id) else { return };
        let (rest_ms, pause_ms) = (QUARANTINE_BEATS * self.config.beat_ms, PAUSE_BEATS * self.config.beat_ms);
        let rests = sidecar.on_spawn_failed(cx.now.mono_ms, rest_ms, id);
        let name = format!("sidecar {} ({sidecar_id})", sidecar.host);
        let (kind, detail) = if rests {
            self.timers.arm(Timer::Quarantine(sidecar_id), cx.now.mono_ms + rest_ms);
            (
                "quarantined",
                format!("{name} rests for {}: it could not start this one, nor others before", span(rest_ms)),
            )
        } else if sidecar.quarantined {
            ("quarantined", format!("{name} could not start it, and rests already"))
        } else {
            sidecar.paused = true;
            self.timers.arm(Timer::Pause(sidecar_id), cx.now.mono_ms + pause_ms);
            ("paused", format!("{name} could not start it and is given nothing for {}", span(pause_ms)))
        };
        self.note(cx, id, kind, detail);
        self.refresh(sidecar_id);
    }

    pub(super) fn on_pause_over(&mut self, id: proto::id::SidecarId) {
        if let Some(sidecar) = self.sidecars.get_mut(&id) {
            sidecar.paused = false;
        }
        self.refresh(id);
    }

    pub(super) fn on_quarantine_over(&mut self, id: proto::id::SidecarId) {
        if let Some(sidecar) = self.sidecars.get_mut(&id) {
            sidecar.on_rested();
        }
        self.refresh(id);
    }
}
