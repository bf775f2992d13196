//! Drains: a sidecar takes no new work. What it has is finished there, handed back as far as it has not started, or stopped.
//!
//! | mode | assigned, not started | running |
//! |---|---|---|
//! | finish | finished there | finished there |
//! | hand back | goes elsewhere, charged to nobody | finished there |
//! | stop | goes elsewhere, charged to nobody | is stopped and goes elsewhere, charged to nobody |
//!
//! What a drain stops is marked as `moved` before it is told to stop, durably, so that its end is known as the operator's wish
//! however it is told: by its sidecar, by an informer that was restarted in between, or by the silence of a machine that was switched
//! off before it could tell. Only a task that is never to be tried after a loss (`no_infrastructure_retry`) fails then.
//!
//! `stop` ends what is set aside there, too, and only when it is ordered of a linked sidecar: a backup that was made during a drain
//! remembers the drain, and ends nothing that it does not know when it is restored.

use super::effect::{Effect, Rejection, Reply};
use super::event::{Now, SessionId, Ticket};
use super::task::{Phase, WaitsFor};
use super::{Cx, Machine};
use proto::id::{AttemptId, SidecarId};
use proto::v1;
use v1::DrainMode;
use v1::informer_message::Message;

impl Machine {
    pub(super) fn on_drain_requested(&mut self, cx: &mut Cx<'_>, ticket: Ticket, id: SidecarId, mode: DrainMode) {
        let reply = if self.sidecars.contains_key(&id) {
            self.drain(cx, id, mode);
            let now: Now = cx.now;
            self.sidecar(now, id).map_or(Reply::Rejected(Rejection::UnknownSidecar { sidecar: id }), |sidecar| {
                Reply::Sidecar(Box::new(sidecar))
            })
        } else {
            Reply::Rejected(Rejection::UnknownSidecar { sidecar: id })
        };
        cx.effects.push(Effect::Reply { ticket, reply });
    }

    fn drain(&mut self, cx: &mut Cx<'_>, id: SidecarId, mode: DrainMode) {
        let Some(sidecar) = self.sidecars.get_mut(&id) else { return };
        if sidecar.drain != mode {
            sidecar.drain = mode;
            self.touch_sidecar(id);
        }
        if let Some(session) = self.sidecars.get(&id).and_then(super::Sidecar::session) {
            self.tell_drain(cx, id, session, mode == DrainMode::Stop);
        }
        self.refresh(id);
        self.empty(cx, id);
    }

    /// Its sidecar says `closed` from its next beat on, until it is told otherwise or welcomed anew. Whatever runs there is to end if an
    /// operator has just said so; each attempt that is known here gets an order of its own besides, which follows.
    pub(super) fn tell_drain(&mut self, cx: &mut Cx<'_>, id: SidecarId, session: SessionId, stop_running: bool) {
        let on = self.sidecars.get(&id).is_some_and(super::Sidecar::is_draining);
        self.send(cx, session, Message::Drain(v1::Drain { on, stop_running }));
    }

    /// Takes from a draining sidecar what its mode says; also after it came back, since it may have been told in vain.
    pub(super) fn empty(&mut self, cx: &mut Cx<'_>, id: SidecarId) {
        let Some(sidecar) = self.sidecars.get(&id) else { return };
        let mode = sidecar.drain;
        if !matches!(mode, DrainMode::HandBack | DrainMode::Stop) || sidecar.session().is_none() {
            return;
        }
        let held: Vec<AttemptId> = sidecar.taken.keys().copied().collect();
        for attempt_id in held {
            let Some(task) = self.tasks.get(&attempt_id.task) else { continue };
            let Some(attempt) = task.attempt(attempt_id.number).filter(|attempt| !attempt.fenced) else { continue };
            match attempt.phase {
                Phase::Assigned if !task.is_stopping() => self.hand_back(cx, attempt_id),
                Phase::Running if mode == DrainMode::Stop => self.move_away(cx, attempt_id),
                _ => {}
            }
        }
    }

    /// An attempt that runs is stopped, and its task goes elsewhere once it has ended.
    fn move_away(&mut self, cx: &mut Cx<'_>, id: AttemptId) {
        let Some(attempt) = self.tasks.get_mut(&id.task).and_then(|task| task.attempt_mut(id.number)) else { return };
        if !attempt.moved {
            attempt.moved = true;
            self.touch_task(id.task);
            self.note(cx, id, "drained", "its sidecar drains; it is being stopped");
        }
        self.order_stop(cx, id, v1::Reason::Drained);
    }

    /// An attempt that has not started, as far as is known, is revoked, and its task goes elsewhere at once.
    fn hand_back(&mut self, cx: &mut Cx<'_>, id: AttemptId) {
        self.note(cx, id, "handed_back", "its sidecar drains");
        self.fence(cx, id, v1::Reason::Revoked);
        self.make_waiting(cx, id.task, cx.now.mono_ms, WaitsFor::OldCopy);
    }
}
