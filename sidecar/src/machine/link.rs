//! What the informer says, and what is said to it besides reports.

use super::keeping::not_started;
use super::row::{Attempt, Told};
use super::stage::Happening;
use super::{
    Bug, Complaint, Effect, Facts, Heard, KeeperState, LinkId, LinkState, Machine, Mode, Now, Stage, Terms, Wish,
};
use proto::id::{AttemptId, Fence, TaskId};
use proto::{bounds, v1};

/// Why what waits is refused while the lease page cannot be written: it is handed back.
pub(super) const UNWRITTEN: &str = "its sidecar cannot write its lease page";

impl Machine {
    pub(super) fn on_link_opened(&mut self, link: LinkId, effects: &mut Vec<Effect>) {
        self.on_any_link_end();
        self.link = LinkState::Opened(link);
        self.introduce(effects);
    }

    pub(super) fn on_link_closed(&mut self, link: LinkId) {
        if self.link_id() == Some(link) {
            self.on_any_link_end();
        }
    }

    /// What was not acknowledged is sent again in the next link, after the verdict on it.
    fn on_any_link_end(&mut self) {
        self.link = LinkState::Down;
        self.lease.on_link_closed();
        self.outbox.on_link_closed();
        self.emits.on_link_closed();
        self.told_room = None;
    }

    /// Hello and inventory. They wait for the keeper's first listing: an inventory from the ledger alone could omit what runs; and for the
    /// end of what is listed and cannot be told.
    pub(super) fn introduce(&mut self, effects: &mut Vec<Effect>) {
        let LinkState::Opened(link) = self.link else { return };
        if self.keeper == KeeperState::Unheard || self.unnamed.is_awaited() {
            return;
        }
        self.link = LinkState::Introduced(link);
        for attempt in self.attempts.values_mut() {
            attempt.told = None;
        }
        // Until it has judged them, the informer may not count them.
        self.apart = self.unfinished;
        let told = |attempt: &Attempt| !(self.has(Bug::ForgetOutbox) && matches!(attempt.stage, Stage::Ended(_)));
        let mut room = bounds::INVENTORY_RESULT_BYTES;
        let listed = |(id, it): (&AttemptId, &Attempt)| it.inventory(*id, &mut room);
        let held = self.attempts.iter().filter(|(_, it)| told(it)).filter_map(listed).collect();
        effects.push(Effect::SendHello { link, held });
    }

    pub(super) fn link_id(&self) -> Option<LinkId> {
        match self.link {
            LinkState::Down => None,
            LinkState::Opened(link) | LinkState::Introduced(link) | LinkState::Welcomed(link) => Some(link),
        }
    }

    pub(super) fn on_heard(&mut self, now: Now, link: LinkId, heard: Heard, effects: &mut Vec<Effect>) {
        if self.link_id() != Some(link) {
            return;
        }
        let expected = matches!(heard, Heard::Welcome { .. } | Heard::Refuse { .. });
        if !expected && self.link != LinkState::Welcomed(link) {
            effects.push(Effect::CloseLink { link, why: "the informer spoke before its welcome" });
            return;
        }
        match heard {
            Heard::Welcome { terms, logs, stranger, children } => {
                let first = self.link == LinkState::Introduced(link);
                self.on_welcome(link, terms, logs, stranger);
                if first {
                    self.on_children_welcome(children, effects);
                }
            }
            Heard::Verdict { attempt, decision, why } => self.on_verdict(now, attempt, decision, why, effects),
            Heard::BeatAck { seq, terms } => self.on_beat_ack(now, seq, terms, effects),
            Heard::Assign { attempt, fence, facts } => self.on_assign(now, attempt, fence, facts, effects),
            Heard::Stop { attempt, why } => self.on_stop(now, attempt, why, effects),
            Heard::Publish { attempt, fence } => self.on_publish(attempt, fence, effects),
            Heard::Ack { seq } => self.on_ack(link, seq, effects),
            Heard::EmitAnswered { attempt, key, answer } => self.on_emit_answered(attempt, key, &answer, effects),
            Heard::Drain { on, stop_running } => self.on_drain(now, on, stop_running, effects),
            Heard::Refuse { code, message, is_final } => self.on_refuse(link, code, message, is_final, effects),
        }
    }

    fn on_welcome(&mut self, link: LinkId, terms: Terms, logs: v1::LogPolicy, stranger: bool) {
        if self.link == LinkState::Introduced(link) {
            self.link = LinkState::Welcomed(link);
            // The last word about a drain may have been missed: whoever wants one says so after each welcome.
            if self.mode == Mode::Draining {
                self.mode = Mode::Serving;
            }
            self.stranger = stranger;
            self.lease.on_welcome(terms, stranger);
            self.uploads.on_welcome(logs);
        }
    }

    fn on_verdict(
        &mut self,
        now: Now,
        id: AttemptId,
        decision: v1::verdict::Decision,
        why: v1::Reason,
        effects: &mut Vec<Effect>,
    ) {
        use v1::verdict::Decision;
        let Some(attempt) = self.attempts.get(&id) else {
            effects.push(Effect::Complain(Complaint::NotHeld { attempt: id, told: "heed a verdict" }));
            return;
        };
        let (was_set_aside, fence) = (attempt.wish == Wish::SetAside, attempt.fence);
        if decision == Decision::SetAside {
            let hangs = self.stranger && attempt.facts.stop_on_disconnect && attempt.stage.is_unfinished();
            let complaint =
                if hangs { Complaint::GivenByAnother { attempt: id } } else { Complaint::SetAside { attempt: id } };
            effects.push(Effect::Complain(complaint));
            self.amend(id, |attempt| attempt.wish = Wish::SetAside);
            self.dirty.insert(id);
            self.withdraw_reports(id);
            if self.attempts.get(&id).is_some_and(|attempt| attempt.stage.is_waiting()) {
                self.advance(id, not_started(Wish::SetAside), effects);
            }
            return;
        }
        if was_set_aside {
            self.dirty.insert(id);
        }
        self.amend(id, |attempt| {
            attempt.wish = if was_set_aside { Wish::Run } else { attempt.wish };
            attempt.told.get_or_insert_default();
        });
        let unfinished = self.attempts.get(&id).is_some_and(|attempt| attempt.stage.is_unfinished());
        match decision {
            Decision::Keep | Decision::Unspecified | Decision::SetAside => {}
            Decision::Stop => self.stop(now, id, why, effects),
            // The end of this attempt is stored there. If it still has a process, that is a copy nobody waits for.
            Decision::Acknowledged if unfinished => self.stop(now, id, v1::Reason::Revoked, effects),
            Decision::Acknowledged => {
                self.withdraw_reports(id);
                self.retire(id, effects);
            }
            Decision::Publish => self.on_publish(id, fence, effects),
        }
        self.queue_reports(id);
    }

    fn on_beat_ack(&mut self, now: Now, seq: u64, terms: Terms, effects: &mut Vec<Effect>) {
        if self.is_barred() {
            return;
        }
        let from_receipt = self.has(Bug::IgnoreLease).then_some(now.boot_ms);
        if let Some(deadline_ms) = self.lease.on_ack(seq, terms, from_receipt) {
            self.stranger = false;
            effects.push(Effect::PublishLease { deadline_ms });
        }
    }

    /// Whether the next deadline would prolong what this informer has not given: there is one page for all that runs here, and whoever
    /// gave a `stop` attempt counts on its end with the lease it knows of. So that lease is left to end, the monitors end with it what
    /// hangs on it, and only then the page is this informer's. As nothing starts without a deadline, all `stop` attempts that run here
    /// are one giver's at any time.
    fn is_barred(&self) -> bool {
        let hangs_on_it = |attempt: &Attempt| attempt.facts.stop_on_disconnect && attempt.is_apart();
        self.stranger && !self.has(Bug::LeaseToStrangers) && self.attempts.values().any(hangs_on_it)
    }

    fn on_assign(&mut self, now: Now, id: AttemptId, fence: Fence, facts: Facts, effects: &mut Vec<Effect>) {
        if self.knows(id) {
            return self.on_assign_again(id, fence, effects);
        }
        if let Some(why) = self.objection(now, id, fence) {
            effects.push(Effect::Complain(Complaint::Refused { attempt: id, why }));
            self.remember_gone(id);
            let what = v1::report::What::Refused(v1::Refused { why: why.into(), ..Default::default() });
            self.outbox.queue_loose(id, fence, what);
            return;
        }
        let order = self.next_order;
        self.next_order += 1;
        let attempt = Attempt {
            fence,
            facts,
            order,
            started: None,
            stage: Stage::Accepting,
            wish: Wish::Run,
            told: Some(Told::default()),
            progress: None,
            log_bytes: 0,
            emits: 0,
        };
        self.insert(id, attempt);
        if self.has(Bug::AckBeforeLedger) {
            self.advance(id, Happening::Durable, effects);
            return;
        }
        self.dirty.insert(id);
    }

    fn knows(&self, id: AttemptId) -> bool {
        !self.has(Bug::StartTwice) && (self.attempts.contains_key(&id) || self.gone.contains(&id))
    }

    /// A repeated assignment starts nothing. Under another fence it is not a repetition, and the informer must learn that this
    /// name is taken. Nor is it one if its end was acknowledged: only an informer restored from a backup asks then, and waits for an
    /// answer that nobody would give.
    fn on_assign_again(&mut self, id: AttemptId, fence: Fence, effects: &mut Vec<Effect>) {
        let why = match self.attempts.get(&id) {
            Some(attempt) if attempt.fence == fence && attempt.stage.is_held() => return,
            Some(attempt) if attempt.fence != fence => "held here under another fence",
            Some(_) => "it was here, and its end was acknowledged",
            None => "it was here, and is over",
        };
        effects.push(Effect::Complain(Complaint::Refused { attempt: id, why }));
        let taken = self.highest_of(id.task).max(id.number);
        self.outbox.queue_loose(
            id,
            fence,
            v1::report::What::Refused(v1::Refused { why: why.into(), taken, handed_back: false }),
        );
    }

    /// The highest number of a task's attempts that is known here.
    fn highest_of(&self, task: TaskId) -> u32 {
        let all = AttemptId { task, number: 0 }..=AttemptId { task, number: u32::MAX };
        let held = self.attempts.range(all.clone()).next_back().map(|(id, _)| id.number);
        let gone = self.gone.range(all).next_back().map(|id| id.number);
        held.max(gone).unwrap_or_default()
    }

    /// Why an assignment is not taken.
    fn objection(&self, now: Now, id: AttemptId, fence: Fence) -> Option<&'static str> {
        let held = self.attempts.len() - self.retired.len();
        match self.mode {
            Mode::Draining => return Some("this sidecar is draining"),
            Mode::Leaving | Mode::StoppingTasks => return Some("this sidecar is shutting down"),
            Mode::Superseded => return Some("this sidecar was superseded"),
            Mode::Serving => {}
        }
        // Right after the inventory the informer repeats what was not in it, before it can have answered a beat: that waits for the lease.
        if !self.lease.is_live(now.boot_ms) && !self.lease.is_awaited() {
            return Some("no live lease");
        }
        if super::siblings(&self.attempts, id).any(|other| other > fence) {
            return Some("a newer attempt of the task is held here");
        }
        // The informer counts too, and may for a moment count differently; what exceeds the slots waits. Twice as many is no moment.
        if self.unfinished >= self.config.slots.saturating_mul(2) {
            return Some("no free slot");
        }
        (held >= bounds::HELD_ATTEMPTS).then_some("too many ends are not acknowledged")
    }

    fn on_stop(&mut self, now: Now, id: AttemptId, why: v1::Reason, effects: &mut Vec<Effect>) {
        if self.attempts.contains_key(&id) {
            return self.stop(now, id, why, effects);
        }
        // Whatever became of it, it must not start when its assignment comes late.
        effects.push(Effect::Complain(Complaint::NotHeld { attempt: id, told: "stop" }));
        self.remember_gone(id);
    }

    fn on_publish(&mut self, id: AttemptId, fence: Fence, effects: &mut Vec<Effect>) {
        let held = self.attempts.get(&id).filter(|attempt| attempt.fence == fence && attempt.stage.is_held());
        if held.is_none() {
            effects.push(Effect::Complain(Complaint::NotHeld { attempt: id, told: "publish" }));
            let failure = "its outputs are no longer here".to_owned();
            self.outbox.queue_loose(id, fence, v1::report::What::Published(v1::Published { failure }));
            return;
        }
        if self.advance(id, Happening::PublishOrdered, effects) {
            effects.push(Effect::PublishOutputs { attempt: id, fence });
        }
    }

    fn on_drain(&mut self, now: Now, on: bool, stop_running: bool, effects: &mut Vec<Effect>) {
        self.mode = match self.mode {
            Mode::Serving | Mode::Draining if on => Mode::Draining,
            Mode::Serving | Mode::Draining => Mode::Serving,
            other => other,
        };
        if on && stop_running {
            for attempt in self.unfinished_attempts() {
                // An order that names an attempt says better why.
                if self.attempts.get(&attempt).is_some_and(|attempt| matches!(attempt.wish, Wish::Stop(_))) {
                    continue;
                }
                self.stop(now, attempt, v1::Reason::Drained, effects);
            }
        }
    }

    fn on_refuse(&mut self, link: LinkId, code: String, message: String, is_final: bool, effects: &mut Vec<Effect>) {
        self.on_link_closed(link);
        effects.push(Effect::CloseLink { link, why: "the informer refused it" });
        if is_final {
            self.mode = Mode::Superseded;
            effects.push(Effect::GiveUp { code, message });
        }
    }

    /// The link on which beats are due; a superseded agent earns no lease.
    pub(super) fn beating(&self) -> Option<LinkId> {
        match self.link {
            LinkState::Welcomed(link) if self.mode != Mode::Superseded => Some(link),
            _ => None,
        }
    }

    /// Whether new work is welcome at all.
    pub(super) fn is_open(&self, now: Now) -> bool {
        self.mode == Mode::Serving
            && self.room
            && self.keeper == KeeperState::Connected
            && self.lease.is_live(now.boot_ms)
            && !self.lease.is_unwritten()
            && self.attempts.len() - self.retired.len() < bounds::HELD_ATTEMPTS
    }

    /// For want of what nothing is taken.
    fn lack(&self) -> v1::Lack {
        match (self.room, self.lease.is_unwritten()) {
            (false, _) => v1::Lack::Disk,
            (true, true) => v1::Lack::LeasePage,
            (true, false) => v1::Lack::Unspecified,
        }
    }

    /// Nothing starts while the lease page cannot be written. What waits, or has just come, is better off elsewhere.
    pub(super) fn hand_back(&mut self, effects: &mut Vec<Effect>) {
        if !self.lease.is_unwritten() {
            return;
        }
        let waits = |id: &AttemptId| {
            self.attempts.get(id).is_some_and(|held| held.stage == Stage::Accepted && held.wish == Wish::Run)
        };
        let waiting: Vec<_> = self.waiting.iter().map(|(_, id)| *id).filter(waits).collect();
        for id in waiting {
            self.advance(id, Happening::Refused(UNWRITTEN.into()), effects);
        }
    }

    /// A changed limit is told before the next beat is due; single starts and ends are in the informer's own books.
    pub(super) fn has_news(&self) -> bool {
        self.told_room.is_some_and(|told| told != (self.open, self.apart))
    }

    pub(super) fn beat_if_due(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Some(link) = self.beating() else { return };
        if now.boot_ms < self.lease.next_beat_ms(self.has_news()) {
            return;
        }
        // What the informer counts and what it may add are together what it may hold here: slots, less what it does not know of.
        let held = self.unfinished - self.apart;
        let credit = if self.open { self.config.slots.saturating_sub(self.unfinished) } else { 0 };
        self.told_room = Some((self.open, self.apart));
        // What waits for the informer's verdict is told after it: a service's health may not change again for a year.
        let may_tell = |id: &AttemptId| self.attempts.get(id).is_some_and(|attempt| attempt.told.is_some());
        let told: Vec<_> = self.progressed.iter().copied().filter(may_tell).take(bounds::BEAT_PROGRESS).collect();
        let mut progress = Vec::new();
        for id in told {
            self.progressed.remove(&id);
            if let Some(attempt) = self.attempts.get(&id) {
                progress.push(v1::AttemptProgress { attempt: Some(id.to_wire()), progress: attempt.progress.clone() });
            }
        }
        let seq = self.lease.on_beat(now.boot_ms);
        let closed = !self.open;
        let aside = Some(v1::Aside { attempts: self.apart().map(AttemptId::to_wire).collect() });
        // What the apart ones take is in their assignments, which the shell has.
        let load = Some(v1::Load { lack: self.lack().into(), ..self.load });
        let beat = v1::Beat { seq, load, credit, held, closed, progress, apart: None, aside };
        effects.push(Effect::SendBeat { link, beat: Box::new(beat) });
    }
}
