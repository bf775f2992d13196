//! Beats and their absence. One missing beat makes a sidecar suspect, three make it lost.

use super::event::SessionId;
use super::outcome::ending;
use super::sidecar::Link;
use super::task::{Phase, State};
use super::timer::Timer;
use super::{Cx, Machine};
use proto::id::{AttemptId, SidecarId};
use proto::v1;
use v1::informer_message::Message;

/// What a beat tells.
pub(super) struct Beat {
    pub load: v1::Load,
    /// Most attempts it would hold.
    pub limit: u32,
    /// What is taken there that is not in these books.
    pub apart: v1::Resources,
    /// Which attempts take that, if it tells.
    pub aside: Option<Vec<AttemptId>>,
    pub progress: Vec<(AttemptId, v1::Progress)>,
}

impl Machine {
    /// A beat changes nothing durable, so that a slow disk never ends a lease.
    pub(super) fn on_beat(&mut self, cx: &mut Cx<'_>, session: SessionId, seq: u64, beat: Beat) {
        let Some(&id) = self.sessions.get(&session) else { return };
        let Some(sidecar) = self.sidecars.get_mut(&id) else { return };
        sidecar.heard_ms = cx.now.mono_ms;
        sidecar.link = Link::Up { session, suspect: false };
        sidecar.load = beat.load;
        sidecar.limit = beat.limit;
        sidecar.apart = beat.apart;
        // A beat that was sent before the verdicts had come counts what is known here, too.
        let unknown = |attempt: &&AttemptId| !sidecar.taken.contains_key(attempt);
        sidecar.unknown = beat.aside.as_ref().map(|aside| aside.iter().filter(unknown).copied().collect());
        for (attempt_id, progress) in beat.progress {
            let attempt = self.tasks.get_mut(&attempt_id.task).and_then(|task| task.attempt_mut(attempt_id.number));
            if let Some(attempt) = attempt.filter(|attempt| attempt.sidecar == id && attempt.occupies()) {
                attempt.progress = Some(Box::new(progress));
                if attempt.phase == Phase::Assigned && sidecar.taken.contains_key(&attempt_id) {
                    sidecar.preparing.insert(attempt_id);
                }
            }
        }
        if let Some(aside) = beat.aside {
            self.on_aside_told(cx, id, &aside.into_iter().collect());
        }
        let ack = v1::BeatAck {
            seq,
            lease_ms: self.config.lease_ms,
            fence_grace_ms: self.config.fence_grace_ms,
            beat_ms: self.config.beat_ms,
            commit_seq: self.pending.committed,
        };
        self.send(cx, session, Message::BeatAck(ack));
        self.refresh(id);
    }

    /// The path works in both directions, only the beat is late; its silence is still counted.
    pub(super) fn on_pong(&mut self, session: SessionId) {
        let Some(&id) = self.sessions.get(&session) else { return };
        if let Some(sidecar) = self.sidecars.get_mut(&id) {
            sidecar.link = Link::Up { session, suspect: false };
        }
        self.refresh(id);
    }

    /// The next look at a sidecar that stays silent.
    pub(super) fn arm_silence(&mut self, id: SidecarId) {
        let Some(sidecar) = self.sidecars.get(&id) else { return };
        let at_ms = match sidecar.link {
            Link::Up { suspect: false, .. } => self.suspect_at_ms(sidecar.heard_ms).min(sidecar.lease_ends_ms()),
            Link::Up { suspect: true, .. } | Link::Down => sidecar.lease_ends_ms(),
            Link::Lost => return,
        };
        self.timers.arm(Timer::Silence(id), at_ms);
    }

    /// One beat and a half: a beat that is merely late does not make its sidecar suspect.
    fn suspect_at_ms(&self, heard_ms: u64) -> u64 {
        heard_ms + self.config.beat_ms + self.config.beat_ms / 2
    }

    pub(super) fn on_silence(&mut self, cx: &mut Cx<'_>, id: SidecarId) {
        let Some(sidecar) = self.sidecars.get_mut(&id) else { return };
        if cx.now.mono_ms >= sidecar.lease_ends_ms() {
            return self.on_lost(cx, id);
        }
        let heard_ms = sidecar.heard_ms;
        let overdue = cx.now.mono_ms >= heard_ms + self.config.beat_ms + self.config.beat_ms / 2;
        if let Link::Up { session, suspect: false } = sidecar.link
            && overdue
        {
            sidecar.link = Link::Up { session, suspect: true };
            let lease_ends_ms = sidecar.lease_ends_ms();
            self.send(cx, session, Message::Ping(v1::Ping { nonce: cx.now.entropy }));
            self.refresh(id);
            return self.timers.arm(Timer::Silence(id), lease_ends_ms);
        }
        self.arm_silence(id);
    }

    /// Three beats are missing: what ran there is presumed lost.
    fn on_lost(&mut self, cx: &mut Cx<'_>, id: SidecarId) {
        let Some(sidecar) = self.sidecars.get_mut(&id) else { return };
        let session = sidecar.session();
        sidecar.link = Link::Lost;
        let held: Vec<AttemptId> = sidecar.taken.keys().copied().collect();
        if let Some(session) = session {
            let message = "three beats were missed; link again and tell what is held".to_owned();
            self.close_link(cx, session, v1::Refuse { code: "lease_lost".to_owned(), message, r#final: false });
            if let Some(sidecar) = self.sidecars.get_mut(&id) {
                sidecar.link = Link::Lost;
            }
        }
        self.timers.cancel(Timer::Silence(id));
        self.touch_sidecar(id);
        self.refresh(id);
        let Some(sidecar) = self.sidecars.get(&id) else { return };
        let aside: Vec<AttemptId> = sidecar.aside.iter().copied().collect();
        for attempt in held {
            self.presume_lost(cx, attempt);
        }
        for attempt in aside {
            self.on_old_copy_gone(cx, attempt.task);
        }
    }

    fn presume_lost(&mut self, cx: &mut Cx<'_>, id: AttemptId) {
        #[cfg(feature = "seeded-bugs")]
        if self.bug(super::Bug::NeverReplace) {
            return;
        }
        let Some(task) = self.tasks.get(&id.task) else { return };
        let Some(attempt) = task.attempt(id.number) else { return };
        if attempt.phase == Phase::Committing {
            // It won and may be publishing: it yields only when it surely has stopped.
            return self.timers.arm(Timer::Replace(id), cx.now.mono_ms + self.config.fence_grace_ms);
        }
        let (fenced, sidecar_id, stopping) = (attempt.fenced, attempt.sidecar, task.is_stopping());
        let replace_after_ms = task.alike.facts.replace_after_ms;
        self.set_phase(id, Phase::PresumedLost);
        self.note(cx, id, "presumed_lost", self.silence(sidecar_id));
        if fenced || self.tasks.get(&id.task).is_some_and(|task| task.is_ended()) {
            return self.on_old_copy_gone(cx, id.task);
        }
        let heard_ms = self.sidecars.get(&sidecar_id).map_or(cx.now.mono_ms, |sidecar| sidecar.heard_ms);
        let due_ms = heard_ms.saturating_add(replace_after_ms);
        if due_ms > cx.now.mono_ms && !stopping {
            return self.timers.arm(Timer::Replace(id), due_ms);
        }
        self.replace(cx, id);
    }

    pub(super) fn on_replace_due(&mut self, cx: &mut Cx<'_>, id: AttemptId) {
        let Some(task) = self.tasks.get_mut(&id.task) else { return };
        let Some(attempt) = task.attempt_mut(id.number).filter(|attempt| !attempt.fenced) else { return };
        match attempt.phase {
            Phase::PresumedLost => self.replace(cx, id),
            // A task loaded from the store whose sidecar the store does not know.
            Phase::Assigned | Phase::Running if !self.sidecars.contains_key(&attempt.sidecar) => {
                self.set_phase(id, Phase::PresumedLost);
                self.replace(cx, id);
            }
            Phase::Committing if self.sidecars.get(&attempt.sidecar).is_none_or(|s| s.session().is_none()) => {
                attempt.fenced = true;
                task.state = State::Running;
                self.set_phase(id, Phase::Lost);
                self.note(cx, id, "lost", "it won and was lost before its outputs were published");
                let lost = ending(v1::Reason::Lost, "its sidecar was lost while it published its outputs");
                self.on_infrastructure_failure(cx, id, lost);
            }
            _ => {}
        }
    }

    /// An attempt out of reach is given a replacement, as far as the budget goes.
    fn replace(&mut self, cx: &mut Cx<'_>, id: AttemptId) {
        let Some(task) = self.tasks.get(&id.task) else { return };
        let rival = task.attempts.iter().any(|other| other.number != id.number && !other.fenced && other.occupies());
        if !rival && !task.waits() && !task.is_ended() {
            let silent = task.attempt(id.number).map_or_else(String::new, |attempt| self.silence(attempt.sidecar));
            self.on_infrastructure_failure(cx, id, ending(v1::Reason::Lost, silent));
        }
    }

    /// What a lost sidecar was silent for, in beats: as many as its lease was granted for.
    fn silence(&self, id: SidecarId) -> String {
        let lease_ms = self.sidecars.get(&id).map_or(self.config.lease_ms, |sidecar| sidecar.lease_ms);
        format!("its sidecar missed {} beats", (lease_ms / self.config.beat_ms.max(1)).max(1))
    }
}
