//! Links open and close. A sidecar first tells everything it holds, and each held attempt gets one answer:
//!
//! | held there ↓, here → | open | presumed lost | fenced, or task ended | unknown |
//! |---|---|---|---|---|
//! | accepted, running | keep | keep the one further on, stop the other | stop | adopt, or set aside |
//! | ended | take the result | take it, if nobody else's was | store as late | likewise |
//! | set aside | keep | as one accepted | stop | set aside |
//!
//! What is unknown here is adopted if its task is known and waits (see `aside`).
//!
//! What the machine believes to be there and is not: an assignment that never arrived is sent again; anything else is lost.

use super::effect::Effect;
use super::event::{Held, HeldState, Hello, SessionId};
use super::outcome::ending;
use super::sidecar::{Link, Sidecar};
use super::stranger::Stranger;
use super::task::{Phase, State, Task, Terminal, WaitsFor};
use super::timer::Timer;
use super::{Cx, Machine};
use proto::id::{AttemptId, SidecarId};
use proto::{bounds, store, v1};
use std::collections::BTreeSet;
use v1::informer_message::Message;
use v1::verdict::Decision;

/// What an attempt ends with that may have been started where its sidecar's directory was before.
const ELSEWHERE: &str = "its sidecar's directory is in use in another place now, where it has not started";

/// Whether two places are one, as far as both of them tell: an earlier version does not tell which directory it is.
fn is_same(former: &str, now: &str) -> bool {
    former.split(' ').zip(now.split(' ')).all(|(former, now)| former == now)
}

impl Machine {
    pub(super) fn on_link_opened(&mut self, cx: &mut Cx<'_>, session: SessionId, hello: &Hello, held: Vec<Held>) {
        let id = hello.sidecar;
        if let Some(refuse) = self.refusal(hello) {
            return cx.effects.push(Effect::CloseLink { session, refuse });
        }
        self.forget_strangers(id);
        for held in &held {
            self.single_out_told(cx, held.attempt.task);
        }
        self.check_lineage(cx, hello, &held);
        self.on_place_told(cx, hello);
        self.supersede(cx, hello);
        self.introduce(cx, session, hello);
        self.welcome(cx, session);
        self.learn_embedded(cx, &hello.kinds);
        self.send_executors(cx, session);
        let told: BTreeSet<AttemptId> =
            held.iter().filter(|held| self.is_ours(held)).map(|held| held.attempt).collect();
        if let Some(sidecar) = self.sidecars.get_mut(&id) {
            sidecar.on_found(held.iter().filter(|held| matches!(held.state, HeldState::Running { .. })).count());
        }
        let unfinished = held.iter().filter(|held| held.is_unfinished()).map(|held| held.attempt).collect();
        let mut unknown = Vec::new();
        for held in held {
            let attempt = held.attempt;
            let apart = held.is_unfinished().then_some((held.state == HeldState::Accepted, held.asked));
            let stranger = Stranger { fence: held.fence, asked: held.asked, over: !held.is_unfinished() };
            let answer = self.answer(cx, id, held, &told);
            if answer.0 == Decision::SetAside {
                self.meet_stranger(id, attempt, stranger);
            }
            let (decision, why) = match apart {
                Some((waits, asked)) if answer.0 == Decision::SetAside => self.set_aside(cx, id, attempt, waits, asked),
                _ => answer,
            };
            if decision == Decision::SetAside && apart.is_some() {
                unknown.push(attempt);
            }
            let verdict = v1::Verdict { attempt: Some(attempt.to_wire()), decision: decision.into(), why: why.into() };
            self.send(cx, session, Message::Verdict(verdict));
        }
        self.on_aside_told(cx, id, &unfinished);
        if let Some(sidecar) = self.sidecars.get_mut(&id) {
            // One of them may have been taken up since, when the end of another was told.
            unknown.retain(|attempt| sidecar.strangers.contains_key(attempt));
            // Its first beat tells better; until then nobody shall believe that there are none.
            sidecar.unknown = Some(unknown);
        }
        self.look_for_missing(cx, session, id, &told);
        if self.sidecars.get(&id).is_some_and(Sidecar::is_draining) {
            self.tell_drain(cx, id, session, false);
            self.empty(cx, id);
        }
        self.refresh(id);
    }

    fn refusal(&self, hello: &Hello) -> Option<v1::Refuse> {
        let known = self.sidecars.get(&hello.sidecar);
        // Before incarnations are compared: whoever is always started again would have the greater one sooner or later.
        let other = known.filter(|sidecar| sidecar.session().is_some() && sidecar.start != hello.start);
        if let Some(first) = other.filter(|_| hello.yields) {
            let message = format!(
                "sidecar {} is linked as another process, on {}, to which this one has lost it before; only one of them may run: stop \
                 one, and remove sidecar.id and ledger.db (with what begins with its name) from its data directory if it shall be a \
                 sidecar of its own",
                hello.sidecar, first.host
            );
            return Some(v1::Refuse { code: "copy".to_owned(), message, r#final: true });
        }
        // Of one that is lost nothing is known to run: its directory may have been put back from a copy, and it counts on from there.
        let newer = known.filter(|sidecar| sidecar.incarnation > hello.incarnation && sidecar.link != Link::Lost);
        if let Some(newer) = newer {
            let message = format!(
                "sidecar {} runs in a newer incarnation ({} on {}); stop this one, or give it a data directory of its own",
                hello.sidecar, newer.incarnation, newer.host
            );
            return Some(v1::Refuse { code: "superseded".to_owned(), message, r#final: true });
        }
        if let Some(first) = known.filter(|sidecar| sidecar.is_copy(hello)) {
            let message = format!(
                "sidecar {} was linked before by another process, on {}, that was started as often as this one: one of their data \
                 directories is a copy; stop this sidecar, and remove sidecar.id and ledger.db (with what begins with its name) from its \
                 directory if it shall be one of its own",
                hello.sidecar, first.host
            );
            return Some(v1::Refuse { code: "copy".to_owned(), message, r#final: true });
        }
        if known.is_none() && self.sidecars.len() >= bounds::SIDECARS {
            let message = format!("{} sidecars are known, which is the bound", bounds::SIDECARS);
            return Some(v1::Refuse { code: "full".to_owned(), message, r#final: false });
        }
        None
    }

    /// An older link of the same sidecar ends: the newer incarnation wins, and one that came back replaces its dead stream.
    fn supersede(&mut self, cx: &mut Cx<'_>, hello: &Hello) {
        let Some(old) = self.sidecars.get(&hello.sidecar) else { return };
        let Some(session) = old.session() else { return };
        let superseded = old.incarnation < hello.incarnation;
        let (code, message) = if superseded {
            ("superseded", "a newer incarnation of this sidecar has linked")
        } else {
            ("replaced", "this sidecar has opened a newer link")
        };
        let refuse = v1::Refuse { code: code.to_owned(), message: message.to_owned(), r#final: superseded };
        self.close_link(cx, session, refuse);
    }

    fn introduce(&mut self, cx: &mut Cx<'_>, session: SessionId, hello: &Hello) {
        let id = hello.sidecar;
        let lease_ms = self.config.lease_ms;
        // One never seen before is one of whom nothing is kept.
        let unknown = || Sidecar::from_row(store::SidecarRow::default(), cx.now.mono_ms);
        let sidecar = self.sidecars.entry(id).or_insert_with(unknown);
        if hello.incarnation > sidecar.incarnation {
            sidecar.window = 1;
        }
        sidecar.introduce(hello);
        sidecar.link = Link::Up { session, suspect: false };
        sidecar.heard_ms = cx.now.mono_ms;
        sidecar.lease_ms = lease_ms;
        sidecar.longest_lease_ms = sidecar.longest_lease_ms.max(lease_ms);
        sidecar.told_epoch = Some(self.config.epoch);
        sidecar.reported_seq = 0;
        self.sessions.insert(session, id);
        self.arm_silence(id);
        self.touch_sidecar(id);
        if self.unheard.remove(&id) && self.unheard.is_empty() {
            self.on_all_heard();
        }
    }

    fn welcome(&mut self, cx: &mut Cx<'_>, session: SessionId) {
        let informer = v1::Identity {
            lineage: self.config.lineage.clone(),
            epoch: self.config.epoch,
            commit_seq: self.pending.committed,
        };
        let welcome = v1::Welcome {
            protocol: proto::PROTOCOL_MAX,
            informer: Some(informer),
            session: session.0,
            beat_ms: self.config.beat_ms,
            lease_ms: self.config.lease_ms,
            fence_grace_ms: self.config.fence_grace_ms,
            log_policy: self.config.log_policy.into(),
            children: true,
        };
        self.send(cx, session, Message::Welcome(welcome));
    }

    /// What is held under another fence is another attempt, of the same number: an informer restored from a backup counts anew.
    fn is_ours(&self, held: &Held) -> bool {
        let known = self.tasks.get(&held.attempt.task).and_then(|task| task.attempt(held.attempt.number));
        known.is_none_or(|attempt| attempt.fence == held.fence)
    }

    /// The answer to one held attempt, and why if it is to stop.
    fn answer(
        &mut self,
        cx: &mut Cx<'_>,
        sidecar: SidecarId,
        held: Held,
        told: &BTreeSet<AttemptId>,
    ) -> (Decision, v1::Reason) {
        let id = held.attempt;
        #[cfg(feature = "seeded-bugs")]
        if self.bug(super::Bug::StopUnknown) && !self.tasks.contains_key(&id.task) {
            return (Decision::Stop, v1::Reason::Revoked);
        }
        let Some(task) = self.tasks.get(&id.task) else { return (Decision::SetAside, v1::Reason::Unspecified) };
        let known = task.attempt(id.number).filter(|attempt| attempt.sidecar == sidecar && attempt.fence == held.fence);
        if known.is_none() && !self.adopt(cx, sidecar, &held, told) {
            return self.answer_unlisted(&held);
        }
        match held.state {
            HeldState::Accepted if self.may_run_elsewhere(id) => {
                self.on_end(cx, id, ending(v1::Reason::Lost, ELSEWHERE));
                (Decision::Stop, v1::Reason::Revoked)
            }
            HeldState::Accepted => self.on_returned(cx, id, None),
            // Its end is known here, and came too large for the inventory.
            HeldState::Running { started_unix_ms, progress } => match self.acknowledged_or_publish(id) {
                publish @ (Decision::Publish, _) => publish,
                _ => self.on_returned(cx, id, Some((started_unix_ms, progress))),
            },
            HeldState::Ended(ending) => {
                self.on_end(cx, id, *ending);
                self.acknowledged_or_publish(id)
            }
            HeldState::Published(ending) => {
                self.on_end(cx, id, *ending);
                self.on_published(cx, id, None);
                (Decision::Acknowledged, v1::Reason::Unspecified)
            }
            // This store knows it again: it was set aside by an older backup of it. What became of it follows in reports.
            HeldState::SetAside => match self.acknowledged_or_publish(id) {
                publish @ (Decision::Publish, _) => publish,
                _ => self.on_returned(cx, id, None),
            },
        }
    }

    /// An attempt whose task is known and which is not in its list: dropped as old, or younger than this store.
    fn answer_unlisted(&mut self, held: &Held) -> (Decision, v1::Reason) {
        let id = held.attempt;
        let Some(task) = self.tasks.get_mut(&id.task) else { return (Decision::SetAside, v1::Reason::Unspecified) };
        if id.number >= task.next_attempt {
            task.next_attempt = id.number + 1;
            self.touch_task(id.task);
            return (Decision::SetAside, v1::Reason::Unspecified);
        }
        let oldest = task.attempts.iter().map(|attempt| attempt.number).min();
        let was_dropped = task.attempts_dropped > 0 && oldest.is_some_and(|oldest| id.number < oldest);
        if !was_dropped {
            // It was younger than this store when it was first told, and still nobody here has ordered anything of it.
            return (Decision::SetAside, v1::Reason::Unspecified);
        }
        match held.state {
            HeldState::Ended(_) | HeldState::Published(_) => (Decision::Acknowledged, v1::Reason::Unspecified),
            HeldState::Accepted | HeldState::Running { .. } | HeldState::SetAside => {
                (Decision::Stop, v1::Reason::Revoked)
            }
        }
    }

    /// A directory that is in use in another place than before: a volume that was moved, a disk or a directory that was copied, a container
    /// that was made anew, a boot. Which of these it is cannot be told from here, and in all but the last something may run on where it was, of which
    /// nobody there tells any more. It ends with the lease that was last earned there.
    fn on_place_told(&mut self, cx: &Cx<'_>, hello: &Hello) {
        let Some(sidecar) =
            self.sidecars.get_mut(&hello.sidecar).filter(|sidecar| !is_same(&sidecar.place, &hello.place))
        else {
            return;
        };
        let until_ms = sidecar.heard_ms.saturating_add(self.config.copies_end_ms(sidecar.lease_ms));
        if until_ms <= cx.now.mono_ms {
            return;
        }
        sidecar.elsewhere_until_ms = sidecar.elsewhere_until_ms.max(until_ms);
        let open: Vec<AttemptId> = sidecar.taken.keys().chain(&sidecar.missing).copied().collect();
        for id in open {
            let Some(task) = self.tasks.get_mut(&id.task).filter(|task| task.alike.facts.stop_on_disconnect) else {
                continue;
            };
            if let Some(attempt) = task.attempt_mut(id.number) {
                attempt.elsewhere = true;
            }
            self.touch_task(id.task);
        }
    }

    /// It is told as not started, which whoever has a copy of the directory cannot know, and is to be started by this one.
    fn may_run_elsewhere(&self, id: AttemptId) -> bool {
        let attempt = self.tasks.get(&id.task).and_then(|task| task.attempt(id.number));
        attempt.is_some_and(|attempt| {
            attempt.elsewhere && !attempt.fenced && matches!(attempt.phase, Phase::Assigned | Phase::Running)
        })
    }

    fn acknowledged_or_publish(&self, id: AttemptId) -> (Decision, v1::Reason) {
        let attempt = self.tasks.get(&id.task).and_then(|task| task.attempt(id.number));
        if attempt.is_some_and(|attempt| attempt.phase == Phase::Committing) {
            (Decision::Publish, v1::Reason::Unspecified)
        } else {
            (Decision::Acknowledged, v1::Reason::Unspecified)
        }
    }

    /// An attempt that has not ended is there; `running` tells since when and how far.
    fn on_returned(
        &mut self,
        cx: &mut Cx<'_>,
        id: AttemptId,
        running: Option<(u64, v1::Progress)>,
    ) -> (Decision, v1::Reason) {
        let keep = (Decision::Keep, v1::Reason::Unspecified);
        let Some(task) = self.tasks.get_mut(&id.task) else { return (Decision::SetAside, v1::Reason::Unspecified) };
        if let Some(why) = unwanted(task) {
            self.reoccupy(cx, id, running.is_some());
            return (Decision::Stop, why);
        }
        let Some(attempt) = task.attempt_mut(id.number) else { return keep };
        match (attempt.phase, attempt.fenced) {
            (Phase::Assigned, false) => {
                if let Some((started_unix_ms, progress)) = running {
                    attempt.progress = Some(Box::new(progress));
                    self.on_started(cx, id, started_unix_ms);
                }
                keep
            }
            (Phase::Running | Phase::Committing, false) => {
                attempt.progress = running.map(|(_, progress)| Box::new(progress)).or(attempt.progress.take());
                keep
            }
            (Phase::PresumedLost, false) => self.on_back_in_time(cx, id, running),
            (_, true) | (_, false) => {
                self.reoccupy(cx, id, running.is_some());
                (Decision::Stop, v1::Reason::Revoked)
            }
        }
    }

    /// An attempt that is to stop occupies its sidecar until its end is told. A task of which no two copies may run waits for that.
    fn reoccupy(&mut self, cx: &mut Cx<'_>, id: AttemptId, running: bool) {
        let attempt = self.tasks.get_mut(&id.task).and_then(|task| task.attempt_mut(id.number));
        if let Some(attempt) = attempt.filter(|attempt| attempt.phase == Phase::PresumedLost) {
            attempt.fenced = true;
            self.timers.cancel(Timer::Replace(id));
            self.set_phase(id, if running { Phase::Running } else { Phase::Assigned });
        }
        if self.tasks.get(&id.task).is_some_and(|task| task.waits() && task.old_copy_runs()) {
            self.stop_waiting(id.task);
            self.make_waiting(cx, id.task, cx.now.mono_ms, WaitsFor::OldCopy);
        }
    }

    /// An attempt that was presumed lost runs. The copy that is further on is kept.
    fn on_back_in_time(
        &mut self,
        cx: &mut Cx<'_>,
        id: AttemptId,
        running: Option<(u64, v1::Progress)>,
    ) -> (Decision, v1::Reason) {
        let Some(task) = self.tasks.get_mut(&id.task) else { return (Decision::SetAside, v1::Reason::Unspecified) };
        if task.alike.facts.stop_on_disconnect {
            // Its lease is over there too, and it is being stopped; its replacement waits for its end.
            let waiting = task.waits();
            self.reoccupy(cx, id, running.is_some());
            if !waiting {
                // Its silence was still being borne (`replace_after`): the loss is charged now.
                self.on_infrastructure_failure(
                    cx,
                    id,
                    ending(v1::Reason::Fenced, "its lease ended while it was out of reach"),
                );
            }
            return (Decision::Stop, v1::Reason::Fenced);
        }
        let step = running.as_ref().map_or(0, |(_, progress)| progress.step);
        let rival = task.attempts.iter().find(|other| other.number != id.number && !other.fenced && other.occupies());
        let rival_ahead = rival.is_some_and(|rival| {
            rival.phase == Phase::Running
                && (running.is_none() || rival.progress.as_ref().is_some_and(|p| p.step > step))
        });
        if rival_ahead {
            self.reoccupy(cx, id, running.is_some());
            self.note(cx, id, "fenced", "it came back, and its replacement is further on");
            return (Decision::Stop, v1::Reason::Revoked);
        }
        let charged = rival.is_some() || task.waits();
        if charged {
            task.infra_failures = task.infra_failures.saturating_sub(1);
        }
        self.stop_waiting(id.task);
        self.fence_others(cx, id);
        self.timers.cancel(Timer::Replace(id));
        self.note(cx, id, "returned", "it was presumed lost and is kept");
        self.resume(id, running);
        (Decision::Keep, v1::Reason::Unspecified)
    }

    fn resume(&mut self, id: AttemptId, running: Option<(u64, v1::Progress)>) {
        let Some(task) = self.tasks.get_mut(&id.task) else { return };
        task.state = if running.is_some() { State::Running } else { State::Assigned };
        let phase = if running.is_some() { Phase::Running } else { Phase::Assigned };
        if let (Some(attempt), Some((started_unix_ms, progress))) = (task.attempt_mut(id.number), running) {
            attempt.started_unix_ms = started_unix_ms;
            attempt.progress = Some(Box::new(progress));
        }
        self.set_phase(id, phase);
    }

    /// What should be on this sidecar and was not told.
    fn look_for_missing(&mut self, cx: &mut Cx<'_>, session: SessionId, id: SidecarId, told: &BTreeSet<AttemptId>) {
        let Some(sidecar) = self.sidecars.get(&id) else { return };
        let missing: Vec<AttemptId> =
            sidecar.taken.keys().chain(&sidecar.missing).filter(|attempt| !told.contains(attempt)).copied().collect();
        for attempt_id in missing {
            let Some(task) = self.tasks.get(&attempt_id.task) else { continue };
            let beside = self.copies_aside(task).next().is_some();
            let Some(task) = self.tasks.get_mut(&attempt_id.task) else { continue };
            let wanted = unwanted(task).is_none();
            let overbooked = self.sidecars.get(&id).is_some_and(Sidecar::is_overbooked);
            let Some(attempt) = task.attempt(attempt_id.number) else { continue };
            match attempt.phase {
                // Its directory may be a copy from before the assignment came.
                Phase::Assigned if attempt.elsewhere => {
                    self.on_end(cx, attempt_id, ending(v1::Reason::Lost, ELSEWHERE));
                }
                Phase::Assigned if wanted && !attempt.fenced && beside => {
                    let lost = "it never arrived, and a copy that was assigned after the backup may run";
                    self.on_end(cx, attempt_id, ending(v1::Reason::Lost, lost));
                }
                Phase::Assigned if wanted && !attempt.fenced && !overbooked => {
                    let fence = attempt.fence;
                    cx.effects.extend(self.send_assign(session, attempt_id, fence));
                }
                Phase::Assigned if wanted && !attempt.fenced => {
                    let lost = "it never arrived, and what its sidecar holds from after the backup has its room";
                    self.on_end(cx, attempt_id, ending(v1::Reason::Lost, lost));
                }
                Phase::Committing => {
                    task.state = State::Running;
                    self.set_phase(attempt_id, Phase::Lost);
                    let lost = ending(v1::Reason::Lost, "its sidecar came back without the outputs it had staged");
                    self.on_infrastructure_failure(cx, attempt_id, lost);
                }
                _ => self.on_end(cx, attempt_id, ending(v1::Reason::Lost, "its sidecar came back without it")),
            }
        }
    }

    pub(super) fn on_link_closed(&mut self, session: SessionId) {
        let Some(id) = self.sessions.remove(&session) else { return };
        if let Some(sidecar) = self.sidecars.get_mut(&id).filter(|sidecar| sidecar.session() == Some(session)) {
            sidecar.link = Link::Down;
            self.arm_silence(id);
            self.refresh(id);
        }
    }

    /// Ends a link from here.
    pub(super) fn close_link(&mut self, cx: &mut Cx<'_>, session: SessionId, refuse: v1::Refuse) {
        cx.effects.push(Effect::CloseLink { session, refuse });
        self.on_link_closed(session);
    }

    pub(super) fn send(&self, cx: &mut Cx<'_>, session: SessionId, message: Message) {
        cx.effects.push(Effect::Send { session, message: Box::new(v1::InformerMessage { message: Some(message) }) });
    }
}

/// Why no process of the task is wanted any more; `None` if one is.
fn unwanted(task: &Task) -> Option<v1::Reason> {
    match task.state {
        _ if task.cancelling => Some(v1::Reason::Cancelled),
        _ if task.overtime => Some(v1::Reason::TotalTimeout),
        State::Ended { state: Terminal::Cancelled, .. } => Some(v1::Reason::Cancelled),
        State::Ended { .. } => Some(v1::Reason::Revoked),
        State::Waiting { .. } | State::Ready { .. } | State::Assigned | State::Running | State::Committing { .. } => {
            None
        }
    }
}
