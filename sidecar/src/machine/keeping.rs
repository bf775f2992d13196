//! What the keeper says. Its records are the truth about processes; the ledger only indexes them.

use super::row::Attempt;
use super::stage::Happening;
use super::{Effect, Found, FoundState, KeeperState, Machine, Mode, Notice, Now, Refusal, Stage, Wish, never_started};
use proto::id::AttemptId;
use proto::v1;
use std::collections::BTreeMap;

impl Machine {
    /// Compares wanted with actual. Agent restart, keeper restart and the first start are all this one path.
    pub(super) fn on_keeper_connected(&mut self, now: Now, listing: Vec<Found>, effects: &mut Vec<Effect>) {
        self.keeper = KeeperState::Connected;
        self.unnamed.forget();
        let mut listed: BTreeMap<AttemptId, Found> = listing.into_iter().map(|found| (found.attempt, found)).collect();
        let held: Vec<_> = self.attempts.keys().copied().collect();
        for attempt in held {
            match listed.remove(&attempt) {
                Some(found) => self.on_found(now, attempt, found.state, effects),
                None => self.on_missing(now, attempt, effects),
            }
        }
        for (_, found) in listed {
            self.adopt(now, found, effects);
        }
        self.introduce(effects);
    }

    /// Processes live on under their monitors; what happens to them meanwhile is in the next listing.
    pub(super) fn on_keeper_gone(&mut self) {
        if self.keeper == KeeperState::Connected {
            self.keeper = KeeperState::Gone;
        }
    }

    pub(super) fn on_noticed(&mut self, now: Now, id: AttemptId, notice: Notice, effects: &mut Vec<Effect>) {
        if self.is_about_unnamed(id, &notice, effects) {
            return;
        }
        match notice {
            Notice::Prepared => self.on_prepared(now, id, effects),
            Notice::Spawned(started) => self.on_spawned(id, started, effects),
            Notice::Refused { refusal, message } => self.on_start_refused(now, id, refusal, message, effects),
            Notice::Ended(ending) => self.on_ended(id, ending, effects),
            Notice::Lost => self.on_ended(id, lost(now, "its monitor and its record are gone"), effects),
        }
    }

    fn on_found(&mut self, now: Now, id: AttemptId, state: FoundState, effects: &mut Vec<Effect>) {
        match state {
            FoundState::Running(_) if self.has(super::Bug::ForgetRunning) => {
                self.on_ended(id, lost(now, "it ran when the agent ended"), effects);
            }
            FoundState::Running(started) => self.on_spawned(id, started, effects),
            FoundState::Ended(ending) => self.on_ended(id, ending, effects),
            FoundState::Lost => self.on_ended(id, lost(now, "it was lost with its monitor, or by a reboot"), effects),
            FoundState::Starting => {
                if self.attempts.get(&id).is_some_and(|attempt| attempt.stage == Stage::Accepted) {
                    self.advance(id, Happening::StartOrdered, effects);
                }
                self.stop_again(id, effects);
            }
        }
    }

    /// No record of it exists, and no monitor has it.
    fn on_missing(&mut self, now: Now, id: AttemptId, effects: &mut Vec<Effect>) {
        let Some(attempt) = self.attempts.get(&id) else { return };
        match (&attempt.stage, attempt.wish) {
            (Stage::Running, _) => self.on_ended(id, lost(now, "its record is gone"), effects),
            (Stage::Starting, Wish::Stop(why)) => {
                self.on_ended(id, never_started(now, why, "stopped before it started"), effects);
            }
            // The order was lost with the keeper's connection; repeating it is harmless.
            (Stage::Starting, wish) => {
                self.advance(id, not_started(wish), effects);
            }
            _ => {}
        }
    }

    /// A process (or its end) that the ledger does not know: an earlier agent's, whose ledger is gone.
    fn adopt(&mut self, now: Now, found: Found, effects: &mut Vec<Effect>) {
        let id = found.attempt;
        if self.gone.contains(&id) {
            return;
        }
        let Some(note) = found.note else { return self.on_unnamed(now, &found, effects) };
        let order = self.next_order;
        self.next_order += 1;
        let attempt = Attempt {
            fence: note.fence,
            facts: note.facts,
            order,
            started: None,
            stage: Stage::Starting,
            wish: Wish::Run,
            told: None,
            progress: None,
            log_bytes: 0,
            emits: 0,
        };
        self.insert(id, attempt);
        self.dirty.insert(id);
        self.on_found(now, id, found.state, effects);
    }

    fn on_spawned(&mut self, id: AttemptId, started: v1::Started, effects: &mut Vec<Effect>) {
        let Some(attempt) = self.attempts.get_mut(&id) else {
            // Refused or purged here while an order to start it was still on its way to the keeper.
            effects.push(Effect::StopAttempt { attempt: id, why: v1::Reason::Revoked });
            return;
        };
        if attempt.stage.is_unfinished() && attempt.started.as_ref() != Some(&started) {
            attempt.started = Some(started);
            self.dirty.insert(id);
        }
        if attempt.stage == Stage::Starting {
            // It told how its inputs came in, and they are in.
            attempt.progress = None;
            self.progressed.remove(&id);
        }
        let over = !attempt.stage.is_unfinished();
        // One that was set aside and has ended was ended by nobody here; one that was refused must not run.
        let unwanted = attempt.wish != Wish::SetAside || matches!(attempt.stage, Stage::Refused(_));
        if over && unwanted {
            effects.push(Effect::StopAttempt { attempt: id, why: v1::Reason::Revoked });
            return;
        }
        self.advance(id, Happening::Spawned, effects);
        self.stop_again(id, effects);
    }

    /// An order to stop may have been lost, or have come before there was anything to stop.
    fn stop_again(&mut self, id: AttemptId, effects: &mut Vec<Effect>) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        if self.mode == Mode::StoppingTasks && attempt.wish == Wish::Run {
            attempt.wish = Wish::Stop(v1::Reason::Drained);
        }
        if let (true, Wish::Stop(why)) = (attempt.stage.is_busy(), attempt.wish) {
            effects.push(Effect::StopAttempt { attempt: id, why });
        }
    }

    fn on_ended(&mut self, id: AttemptId, mut ending: Box<v1::Ending>, effects: &mut Vec<Effect>) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        // The keeper knows one kind of timeout; which of them it was is known here.
        if attempt.wish == Wish::Stop(v1::Reason::TotalTimeout) && ending.reason == i32::from(v1::Reason::Timeout) {
            ending.reason = v1::Reason::TotalTimeout.into();
        }
        self.progressed.remove(&id);
        let staged = !ending.outputs.is_empty();
        if self.advance(id, Happening::Ended(ending), effects) && staged && self.has(super::Bug::PublishUnasked) {
            let fence = self.attempts[&id].fence;
            effects.push(Effect::PublishOutputs { attempt: id, fence });
        }
    }

    /// Fetching may take longer than a lease or a link: whether it still may start is asked again, as if it had just been accepted.
    fn on_prepared(&mut self, now: Now, id: AttemptId, effects: &mut Vec<Effect>) {
        let Some(attempt) = self.attempts.get(&id).filter(|attempt| attempt.stage == Stage::Starting) else { return };
        let happening = match attempt.wish {
            Wish::Stop(why) => Happening::Ended(never_started(now, why, "stopped before it started")),
            wish @ (Wish::Run | Wish::SetAside) => not_started(wish),
        };
        self.advance(id, happening, effects);
    }

    fn on_start_refused(
        &mut self,
        now: Now,
        id: AttemptId,
        refusal: Refusal,
        message: String,
        effects: &mut Vec<Effect>,
    ) {
        let Some(attempt) = self.attempts.get(&id).filter(|attempt| attempt.stage == Stage::Starting) else { return };
        let happening = match (refusal, attempt.wish) {
            // What became of the first order is in the listing or will be in a notice.
            (Refusal::Exists, _) => return,
            (_, Wish::Stop(why)) => Happening::Ended(never_started(now, why, "stopped before it started")),
            (Refusal::NoLease, wish) if self.lease.is_unwritten() => not_started(wish),
            (Refusal::NoLease, _) if attempt.facts.stop_on_disconnect => {
                Happening::Refused("the lease ended before it started".into())
            }
            (Refusal::NoLease, wish) => not_started(wish),
            (Refusal::Terminating | Refusal::NotHere, _) => Happening::Refused(message),
            (Refusal::Input, _) => Happening::Ended(never_started(now, v1::Reason::Input, &message)),
            (Refusal::Task, _) => Happening::Ended(never_started(now, v1::Reason::Spawn, &message)),
            (Refusal::Failed, _) => {
                let ending = never_started(now, v1::Reason::Spawn, &message);
                Happening::Ended(Box::new(v1::Ending { machine_fault: true, ..*ending }))
            }
        };
        self.advance(id, happening, effects);
    }
}

/// There is no process and no order for one. What was set aside gets no other order: it must not hold a slot for ever.
pub(super) fn not_started(wish: Wish) -> Happening {
    match wish {
        Wish::SetAside => Happening::Refused("set aside before it started".into()),
        Wish::Run | Wish::Stop(_) => Happening::NotStarted,
    }
}

/// The end of an attempt whose end nobody saw: never exit code 0.
fn lost(now: Now, message: &str) -> Box<v1::Ending> {
    never_started(now, v1::Reason::Lost, message)
}
