//! What a box's agent does with its machine, as the shell of the real one does: orders that are urgent go at once, the others with their
//! batch.

use super::Inside;
use crate::sim::judge::{Check, Wrong, wrong};
use crate::sim::{ShellBug, Step, World};
use proto::id::AttemptId;
use proto::v1;
use sidecar::machine::{Batch, Complaint, Effect, Event, FoundState, Machine};
use v1::sidecar_message::Message as Up;

/// An effect that waits for its batch, with what the informer wanted of logs when the machine decided it: by the time it leaves,
/// another informer may have said otherwise.
pub(super) type Decided = (Option<v1::LogPolicy>, Effect);

/// The batch that is on its way to the ledger.
pub(super) struct InFlight {
    pub batch: Batch,
    pub effects: Vec<Decided>,
}

impl World {
    pub(in crate::sim) fn tell_agent(&mut self, n: usize, event: Event) -> Result<(), Wrong> {
        let it = &mut self.boxes[n];
        let now = it.now(self.agenda.now_ms);
        let Some(agent) = &mut it.agent else { return Ok(()) };
        let mut effects = Vec::new();
        agent.apply(now, event, &mut effects);
        self.after_agent(n, effects)
    }

    fn after_agent(&mut self, n: usize, effects: Vec<Effect>) -> Result<(), Wrong> {
        if let Some(Err(found)) = self.boxes[n].agent.as_ref().map(Machine::check) {
            return wrong(Check::SidecarConsistent, format!("box {n}: {found}"));
        }
        let beats_wait = self.options.shell_bug == Some(ShellBug::BeatBehindLedger);
        let logs = self.boxes[n].log_policy;
        for effect in effects {
            if effect.is_urgent() && !(beats_wait && matches!(effect, Effect::SendBeat { .. })) {
                self.act(n, (logs, effect))?;
            } else {
                self.boxes[n].effects.push((logs, effect));
            }
        }
        self.commit_ledger(n)?;
        self.arm_agent(n);
        Ok(())
    }

    fn commit_ledger(&mut self, n: usize) -> Result<(), Wrong> {
        let now_ms = self.agenda.now_ms;
        let it = &mut self.boxes[n];
        let now = it.now(now_ms);
        let Some(agent) = &mut it.agent else { return Ok(()) };
        if it.in_flight.is_some() {
            return Ok(());
        }
        it.next_seq += 1;
        let seq = it.next_seq;
        let batch = agent.take_batch(seq);
        let effects = std::mem::take(&mut it.effects);
        let life = it.life;
        if batch.is_empty() && effects.is_empty() {
            let mut more = Vec::new();
            agent.committed(now, seq, &mut more);
            return if more.is_empty() { Ok(()) } else { self.after_agent(n, more) };
        }
        let hang_ms = it.disk.hangs_until_ms.saturating_sub(now_ms);
        let delay_ms = if batch.is_empty() { 0 } else { hang_ms + self.rng.range(0, 5) };
        self.boxes[n].in_flight = Some(InFlight { batch, effects });
        self.agenda.after(delay_ms, Step::BoxCommitted { workbox: n, life, seq });
        Ok(())
    }

    pub(in crate::sim) fn on_box_committed(&mut self, n: usize, life: u64, seq: u64) -> Result<(), Wrong> {
        let again = || Step::BoxCommitted { workbox: n, life, seq };
        if self.boxes[n].life != life || self.delayed_by_pause(n, again) {
            return Ok(());
        }
        let it = &mut self.boxes[n];
        if it.in_flight.as_ref().is_some_and(|it| !it.batch.is_empty()) && std::mem::take(&mut it.disk.fails_next) {
            // Whether it is there is unknown: the agent ends, and the next one reads what there is.
            let down_ms = self.rng.range(10, 3000);
            self.crash_agent(n, down_ms);
            return Ok(());
        }
        let Some(in_flight) = it.in_flight.take() else { return Ok(()) };
        it.ledger.commit(&in_flight.batch, it.seen.clone(), it.highest_fence);
        for effect in in_flight.effects {
            self.act(n, effect)?;
        }
        let it = &mut self.boxes[n];
        let now = it.now(self.agenda.now_ms);
        let mut effects = Vec::new();
        if let Some(agent) = it.agent.as_mut().filter(|_| it.life == life) {
            agent.committed(now, seq, &mut effects);
        }
        self.after_agent(n, effects)
    }

    fn arm_agent(&mut self, n: usize) {
        let it = &mut self.boxes[n];
        let Some(boot_ms) = it.agent.as_ref().and_then(Machine::next_wakeup) else { return };
        let now_ms = self.agenda.now_ms;
        let at_ms = it.at_boot_ms(boot_ms).max(now_ms);
        if it.timer_ms <= now_ms || at_ms < it.timer_ms {
            it.timer_ms = at_ms.max(now_ms + 1);
            self.agenda.at(it.timer_ms, Step::BoxTimer { workbox: n, life: it.life });
        }
    }

    pub(in crate::sim) fn on_box_timer(&mut self, n: usize, life: u64) -> Result<(), Wrong> {
        if self.boxes[n].life != life || self.delayed_by_pause(n, || Step::BoxTimer { workbox: n, life }) {
            return Ok(());
        }
        self.boxes[n].timer_ms = 0;
        self.tell_agent(n, Event::TimePassed)
    }

    fn act(&mut self, n: usize, (logs, effect): Decided) -> Result<(), Wrong> {
        let it = &mut self.boxes[n];
        let (life, keeper_life, sidecar) = (it.life, it.keeper_life, it.id);
        match effect {
            Effect::SendHello { link, held } => self.send_hello(n, link, held)?,
            Effect::SendReport { link, report } => {
                self.rests_on_a_row(n, &report)?;
                self.send_up(link, Up::Report(*report));
            }
            Effect::SendEmit { link, emitted } => self.send_up(link, Up::Emitted(*emitted)),
            // Its asker is the machine's own: no process of this world waits for one.
            Effect::AnswerEmit { .. } => {}
            Effect::SendBeat { link, beat } => {
                it.beat_ms = self.agenda.now_ms;
                let beat = v1::Beat { apart: self.apart(n), ..*beat };
                let beat = if self.boxes[n].plan.old { crate::sim::wire::old_beat(beat) } else { beat };
                self.send_up(link, Up::Beat(beat));
            }
            Effect::CloseLink { link, .. } => self.hang_up(n, link)?,
            Effect::PublishLease { deadline_ms } => self.on_lease_published(n, deadline_ms)?,
            Effect::StartAttempt { attempt, fence, .. } => {
                self.truth.on_start_ordered(sidecar, attempt)?;
                if self.truth.needs_inputs(attempt.task) && !it.prepared.contains(&attempt) {
                    self.inside(n, 3000, Inside::Prepared { life, attempt });
                } else {
                    self.inside(n, 3, Inside::Start { keeper_life, attempt, fence });
                }
            }
            Effect::StopAttempt { attempt, why } => self.inside(n, 3, Inside::Stop { keeper_life, attempt, why }),
            Effect::EndUnnamed { attempt, .. } => {
                self.inside(n, 3, Inside::Stop { keeper_life, attempt, why: v1::Reason::Lost });
            }
            Effect::PublishOutputs { attempt, fence } => {
                self.truth.on_publish_ordered(attempt)?;
                let rename_ms = self.truth.plan_process(attempt).rename_ms;
                self.inside(n, rename_ms, Inside::Rename { life, attempt, fence, nth: 0 });
            }
            Effect::Retire { attempt, .. } => self.on_retire(n, attempt, logs)?,
            Effect::StoreLog { attempt, .. } => self.inside(n, 50, Inside::LogSent { life, attempt }),
            Effect::Purge { attempt } => {
                if !matches!(logs, Some(v1::LogPolicy::Never | v1::LogPolicy::Unspecified)) {
                    self.truth.on_purge(n, attempt)?;
                }
                // A directory may be large.
                let purge_ms = if self.rng.chance(100) { 3000 } else { 20 };
                self.inside(n, purge_ms, Inside::Purged { life, attempt });
            }
            Effect::GiveUp { message, .. } => return self.on_given_up(n, &message),
            Effect::Complain(complaint) => self.on_complaint(n, &complaint),
        }
        Ok(())
    }

    /// What the informer is told of an attempt that this box holds is in its ledger.
    fn rests_on_a_row(&self, n: usize, report: &v1::Report) -> Result<(), Wrong> {
        use v1::report::What;
        let held = matches!(report.what, Some(What::Accepted(_) | What::Started(_) | What::Ended(_)));
        let attempt = report.attempt.as_ref().and_then(|attempt| AttemptId::from_wire(attempt).ok());
        match attempt.filter(|attempt| held && !self.boxes[n].ledger.rows.contains_key(attempt)) {
            Some(attempt) => wrong(Check::LedgerFirst, format!("{attempt} is acknowledged before it is in the ledger")),
            None => Ok(()),
        }
    }

    fn on_complaint(&mut self, n: usize, complaint: &Complaint) {
        if let Complaint::LogGivenUp { attempt, .. } = complaint {
            self.truth.logs_given_up.insert((n, *attempt));
        }
        self.tell(|| format!("box {n}: {complaint}"));
    }

    /// What attempts ask for that the informer does not count, as the agent's shell tells it.
    fn apart(&self, n: usize) -> Option<v1::Resources> {
        let apart: Vec<AttemptId> = self.boxes[n].agent.iter().flat_map(Machine::apart).collect();
        (!apart.is_empty()).then(|| self.truth.asked_by(apart))
    }

    /// Whether its log is wanted is decided anew each time it retires: an agent whose ledger was restored hears once more of an end
    /// that an earlier one had told, perhaps of another informer.
    fn on_retire(&mut self, n: usize, attempt: AttemptId, logs: Option<v1::LogPolicy>) -> Result<(), Wrong> {
        self.truth.on_retired(&self.center.store, self.boxes[n].sidecar, attempt)?;
        // By the record here: after a backup another box may have an attempt of the same name.
        let it = &self.boxes[n];
        let wanted = match it.records.get(&attempt).map(|record| &record.state) {
            Some(FoundState::Ended(ending)) => match logs {
                Some(v1::LogPolicy::Always) => ending.out_bytes > 0,
                Some(v1::LogPolicy::OnFailure) => ending.out_bytes > 0 && ending.reason != 0,
                Some(v1::LogPolicy::Never | v1::LogPolicy::Unspecified) | None => false,
            },
            _ => false,
        };
        if wanted && !self.truth.unrecorded.contains(&attempt) {
            self.truth.logs_wanted.insert((n, attempt));
        } else {
            self.truth.logs_wanted.remove(&(n, attempt));
        }
        Ok(())
    }
}
