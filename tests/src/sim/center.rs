//! The informer: its machine under a model of shell and store. Effects leave only after their batch is flushed.

use super::disk::{Disk, Store};
use super::flow::{self, Bodies, Desk};
use super::judge::{Check, Wrong, wrong};
use super::net::{Delivery, Introduction, Side};
use super::truth::Asked;
use super::{BEAT_MS, FENCE_GRACE_MS, ShellBug, Step, World};
use informer::machine::{Batch, Config, Effect, Event, Held, Machine, Now, Reply, SessionId, Ticket};
use proto::id::{SidecarId, TaskId, next_epoch};
use proto::v1;
use std::collections::{BTreeMap, BTreeSet};
use v1::informer_message::Message;

/// How far the informer's monotonic clock is from true time.
pub(super) const MONO_OFFSET_MS: u64 = 777;
/// How long an operator takes to restore a backup, at most, ms.
const OPERATOR_MS: u64 = 6_000;

/// The batch that is on its way to the disk.
struct InFlight {
    seq: u64,
    batch: Batch,
    effects: Vec<Effect>,
    /// What the events in it have brought.
    bodies: Bodies,
    /// What retention removes by it.
    prune: BTreeSet<TaskId>,
    drained: BTreeSet<SidecarId>,
}

/// The informer.
#[derive(Default)]
pub(super) struct Center {
    pub store: Store,
    pub disk: Disk,
    /// The last backup.
    backup: Store,
    pub machine: Option<Machine>,
    /// Grows with each start; what was scheduled for an earlier life is ignored.
    pub life: u64,
    /// It runs in an older version.
    pub older: bool,
    pub paused_until_ms: u64,
    pub wall_offset_ms: i64,
    effects: Vec<Effect>,
    in_flight: Option<InFlight>,
    next_session: u64,
    next_ticket: u64,
    timer_ms: u64,
    /// Sidecars that an operator has told to stop their tasks since the last batch was taken: it may be taken back in the same batch.
    pub drained: BTreeSet<SidecarId>,
    /// Requests whose answer a client waits for.
    pub asked: BTreeMap<Ticket, Asked>,
    /// The same of workflows, and what else the shell has of them.
    pub desk: Desk,
}

impl Center {
    /// Nothing waits to be committed or told.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_none() && self.effects.is_empty()
    }

    /// The batch under way removes this task.
    pub(super) fn removes(&self, task: TaskId) -> bool {
        self.in_flight.as_ref().is_some_and(|in_flight| in_flight.prune.contains(&task))
    }
}

impl World {
    /// Its monotonic clock, which drifts.
    pub(super) fn center_mono_ms(&self) -> u64 {
        super::drifted(MONO_OFFSET_MS, self.script.informer_drift_ppm, self.agenda.now_ms)
    }

    fn center_now(&mut self) -> Now {
        let wall_ms = (self.agenda.now_ms + super::WALL_MS).saturating_add_signed(self.center.wall_offset_ms);
        Now { mono_ms: self.center_mono_ms(), wall_ms, entropy: self.rng.bits() }
    }

    /// A stopped informer does nothing; what concerns it waits until it goes on.
    pub(super) fn delayed_by_center(&mut self, step: impl FnOnce() -> Step) -> bool {
        let until_ms = self.center.paused_until_ms;
        if until_ms > self.agenda.now_ms {
            self.agenda.at(until_ms, step());
            return true;
        }
        false
    }

    pub(super) fn on_center_start(&mut self, life: u64) -> Result<(), Wrong> {
        if life != self.center.life || self.center.machine.is_some() {
            return Ok(());
        }
        if self.center.disk.is_full(self.agenda.now_ms) {
            // Its first write fails; whoever supervises it starts it again.
            self.agenda.after(1000, Step::CenterStart { life });
            return Ok(());
        }
        if self.center.disk.damaged {
            if self.options.shell_bug == Some(ShellBug::ResetDamaged) {
                self.center.store = Store::default();
            } else {
                // It says so and leaves everything as it is. An operator brings a backup.
                self.restore_center();
                let delay_ms = self.rng.range(1000, OPERATOR_MS);
                self.agenda.after(delay_ms, Step::CenterStart { life });
                return Ok(());
            }
            self.center.disk.damaged = false;
        }
        self.start_center()
    }

    pub(super) fn start_center(&mut self) -> Result<(), Wrong> {
        let now = self.center_now();
        let bug = self.options.informer_bug;
        let logs = self.script.logs;
        let luck = self.rng.bits();
        let center = &mut self.center;
        center.life += 1;
        center.store.epoch = match self.options.shell_bug {
            Some(ShellBug::CountEpochs) => center.store.epoch + 1,
            _ => next_epoch(center.store.epoch, now.wall_ms, luck),
        };
        center.paused_until_ms = 0;
        let config = Config {
            beat_ms: BEAT_MS,
            lease_ms: 3 * BEAT_MS,
            fence_grace_ms: FENCE_GRACE_MS,
            lineage: "simulated".to_owned(),
            epoch: center.store.epoch,
            commit_seq: center.store.seq,
            accept_restored: false,
            shares: [("heavy".to_owned(), 3)].into(),
            log_policy: logs,
            bug,
        };
        let live = center.store.tasks.values().filter(|row| !super::truth::is_terminal(row)).cloned();
        let (sidecars, executors) = (center.store.sidecars.values().cloned(), center.store.executors.values().cloned());
        let mut machine = Machine::new(config, now, live, sidecars, executors);
        let definitions = (
            center.store.flows.definitions.values().cloned().collect(),
            center.store.flows.tasks.values().cloned().collect(),
        );
        let runs = center.store.flows.live().map_err(|what| Wrong { check: Check::RunsConsistent, what })?;
        machine.load_flows(now, definitions, runs, &mut center.effects);
        center.machine = Some(machine);
        center.timer_ms = 0;
        self.tell_center(Event::TimePassed)
    }

    /// Ends the informer at once, and starts it again. A batch on its way to the disk is lost, or durable with nobody told.
    pub(super) fn crash_center(&mut self, down_ms: u64, power: bool) -> Result<(), Wrong> {
        if self.center.machine.is_none() {
            return Ok(());
        }
        let durable = self.rng.chance(500);
        self.end_center(down_ms, power, durable)
    }

    /// The same at one side of the commit under way.
    pub(super) fn crash_center_around(&mut self, down_ms: u64, durable: bool) -> Result<(), Wrong> {
        if self.center.machine.is_none() { Ok(()) } else { self.end_center(down_ms, false, durable) }
    }

    fn end_center(&mut self, down_ms: u64, power: bool, durable: bool) -> Result<(), Wrong> {
        let center = &mut self.center;
        center.machine = None;
        center.older = false;
        center.effects.clear();
        center.asked.clear();
        center.desk = Desk::default();
        center.drained.clear();
        center.life += 1;
        let (life, in_flight) = (center.life, center.in_flight.take());
        if let Some(in_flight) = in_flight
            && durable
        {
            self.make_durable(&in_flight)?;
        }
        let silence_ms = if power { self.rng.range(2000, 8000) } else { 0 };
        self.break_all_links(Side::Center, silence_ms);
        self.agenda.after(down_ms, Step::CenterStart { life });
        Ok(())
    }

    /// The last backup is all there is.
    pub(super) fn restore_center(&mut self) {
        let backup = self.center.backup.clone();
        self.truth.on_restored(&backup);
        self.flow.on_restored(&backup);
        self.center.store = backup;
        self.center.disk.damaged = false;
    }

    /// Everybody makes copies now and then.
    pub(super) fn on_backup(&mut self) {
        if !self.center.disk.damaged {
            self.center.backup = self.center.store.clone();
        }
        for it in &mut self.boxes {
            if !it.disk.damaged {
                it.ledger_copy = it.ledger.clone();
            }
        }
        let delay_ms = self.rng.range(3000, 12_000);
        if !self.faults.has_ended() {
            self.agenda.after(delay_ms, Step::Backup);
        }
    }

    /// One event through the machine; the shell's loop after it.
    pub(super) fn tell_center(&mut self, event: Event) -> Result<(), Wrong> {
        let now = self.center_now();
        let Some(machine) = &mut self.center.machine else { return Ok(()) };
        let none = BTreeSet::new();
        let honest = self.options.shell_bug != Some(ShellBug::TellOfGoing);
        let in_flight = self.center.in_flight.as_ref().filter(|_| honest);
        let going = in_flight.map_or(&none, |in_flight| &in_flight.prune);
        let mut event = complete(&self.center.store, machine, going, event);
        flow::complete(&self.center.store, machine, &mut event, self.options.shell_bug);
        let is_beat = matches!(event, Event::BeatReceived { .. });
        let before = machine.write_count();
        let questions = self.coverage.questions(machine, &event);
        let mut effects = Vec::new();
        machine.apply(now, event, &mut effects);
        self.coverage.on_applied(machine, questions, &effects);
        if let Err(found) = machine.check() {
            return wrong(Check::InformerConsistent, found);
        }
        let wrote = machine.write_count() != before;
        self.center.desk.applied(wrote);
        let bypass = is_beat && !wrote;
        if bypass {
            self.release_center(effects)?;
        } else {
            self.center.effects.append(&mut effects);
        }
        self.commit_center()?;
        self.arm_center();
        Ok(())
    }

    fn commit_center(&mut self) -> Result<(), Wrong> {
        let nothing = |machine: &Machine| self.center.effects.is_empty() && !machine.dirty();
        if self.center.in_flight.is_some() || self.center.machine.as_ref().is_none_or(nothing) {
            return Ok(());
        }
        self.flush_center(BTreeSet::new())
    }

    /// Sends a batch to the disk, with what retention removes by it.
    pub(super) fn flush_center(&mut self, prune: BTreeSet<TaskId>) -> Result<(), Wrong> {
        let hang_ms = self.center.disk.hangs_until_ms.saturating_sub(self.agenda.now_ms);
        let center = &mut self.center;
        let Some(machine) = &mut center.machine else { return Ok(()) };
        let seq = center.store.seq + 1;
        let batch = machine.take_batch(seq);
        let mut effects = std::mem::take(&mut center.effects);
        let early = if self.options.shell_bug == Some(ShellBug::AcknowledgeBeforeFlush) {
            std::mem::take(&mut effects)
        } else {
            Vec::new()
        };
        let drained = std::mem::take(&mut center.drained);
        let bodies = center.desk.take_bodies();
        let life = center.life;
        self.meet_edges(&batch);
        self.center.in_flight = Some(InFlight { seq, batch, effects, bodies, prune, drained });
        let delay_ms = hang_ms + self.rng.range(0, self.script.commit_ms);
        self.agenda.after(delay_ms, Step::CenterCommitted { life, seq });
        self.release_center(early)
    }

    pub(super) fn on_center_committed(&mut self, life: u64, seq: u64) -> Result<(), Wrong> {
        if life != self.center.life || self.delayed_by_center(|| Step::CenterCommitted { life, seq }) {
            return Ok(());
        }
        let failed = std::mem::take(&mut self.center.disk.fails_next);
        if self.center.disk.is_full(self.agenda.now_ms) || failed {
            if failed && self.options.shell_bug == Some(ShellBug::GoOnAfterFailedFlush) {
                let Some(in_flight) = self.center.in_flight.take() else { return Ok(()) };
                self.release_center(in_flight.effects)?;
                return self.commit_center();
            }
            // Nobody is told anything; what became of the batch, the next start sees.
            let delay_ms = self.rng.range(100, 2000);
            return self.crash_center(delay_ms, false);
        }
        let Some(in_flight) = self.center.in_flight.take() else { return Ok(()) };
        self.make_durable(&in_flight)?;
        if let Some(machine) = &mut self.center.machine {
            machine.committed(seq);
        }
        self.truth.drained = in_flight.drained;
        self.release_center(in_flight.effects)?;
        self.truth.drained.clear();
        self.commit_center()
    }

    fn make_durable(&mut self, in_flight: &InFlight) -> Result<(), Wrong> {
        for task in &in_flight.prune {
            self.center.store.forget(*task);
            self.truth.on_pruned(*task);
        }
        self.truth.on_commit(&self.boxes, &self.center.store, &in_flight.batch)?;
        self.center.store.commit(in_flight.seq, &in_flight.batch);
        self.center.store.flows.commit(&in_flight.batch, &in_flight.bodies)?;
        self.judge_flow_commit(&in_flight.batch)
    }

    fn release_center(&mut self, effects: Vec<Effect>) -> Result<(), Wrong> {
        for effect in effects {
            match effect {
                Effect::Reply { ticket, reply } => self.on_reply(ticket, reply)?,
                Effect::SendAssign { session, attempt, fence, payload, position: _, input: _, of_run: _ } => {
                    self.truth.on_assigned(self.net.workbox_of(session.0), attempt, fence)?;
                    let assign = v1::Assign {
                        attempt: Some(attempt.to_wire()),
                        fence: Some(fence.into()),
                        spec: None,
                        task_name: payload[0].to_string(),
                        ..Default::default()
                    };
                    self.send_to_box(session.0, v1::InformerMessage { message: Some(Message::Assign(assign)) });
                }
                Effect::Send { session, message } => {
                    self.truth.on_order(&self.center.store, &message)?;
                    if matches!(message.message, Some(Message::Welcome(_))) {
                        self.truth.on_welcomed(self.net.workbox_of(session.0));
                    }
                    if let Some(message) = super::wire::from_informer(*message, self.center.older) {
                        self.send_to_box(session.0, message);
                    }
                }
                Effect::Evaluate { .. } | Effect::Prepare { .. } => self.on_question(effect)?,
                Effect::CloseLink { session, refuse } => {
                    self.send_to_box(session.0, v1::InformerMessage { message: Some(Message::Refuse(refuse)) });
                    self.close_link(session.0, Side::Center, 0);
                }
            }
        }
        Ok(())
    }

    fn on_reply(&mut self, ticket: Ticket, reply: Reply) -> Result<(), Wrong> {
        if let Some(told) = self.on_flow_reply(ticket, &reply) {
            return told;
        }
        let Some(asked) = self.center.asked.remove(&ticket) else { return Ok(()) };
        match reply {
            Reply::Submitted { task, .. } => self.truth.on_acknowledged(&self.center.store, asked, task),
            Reply::Rejected(rejection) => self.truth.on_rejected(asked, &rejection),
            Reply::Task(_)
            | Reply::Sidecar(_)
            | Reply::Executor { .. }
            | Reply::ExecutorGone { .. }
            | Reply::RunStarted { .. }
            | Reply::Run { .. }
            | Reply::Definition { .. }
            | Reply::Registered { .. }
            | Reply::Polled(_)
            | Reply::WorkUpdated { .. } => Ok(()),
        }
    }

    fn arm_center(&mut self) {
        let Some(mono_ms) = self.center.machine.as_ref().and_then(Machine::next_wakeup) else { return };
        let at_ms = super::undrifted(MONO_OFFSET_MS, self.script.informer_drift_ppm, mono_ms);
        if at_ms != self.center.timer_ms || at_ms <= self.agenda.now_ms {
            self.center.timer_ms = at_ms.max(self.agenda.now_ms);
            self.agenda.at(at_ms, Step::CenterTimer(self.center.life));
        }
    }

    pub(super) fn on_center_timer(&mut self, life: u64) -> Result<(), Wrong> {
        if life != self.center.life || self.delayed_by_center(|| Step::CenterTimer(life)) {
            return Ok(());
        }
        if self.agenda.now_ms < self.center.timer_ms {
            return Ok(());
        }
        self.center.timer_ms = 0;
        self.tell_center(Event::TimePassed)
    }

    pub(super) fn new_session(&mut self) -> SessionId {
        self.center.next_session += 1;
        SessionId(self.center.next_session)
    }

    pub(super) fn new_ticket(&mut self) -> Ticket {
        self.center.next_ticket += 1;
        Ticket(self.center.next_ticket)
    }

    /// A message of a box arrives.
    pub(super) fn on_center_heard(&mut self, delivery: &Delivery, message: v1::SidecarMessage) -> Result<(), Wrong> {
        use v1::sidecar_message::Message as M;
        let link = delivery.link;
        let other = match message.message {
            Some(M::Hello(_)) => {
                let Some(introduction) = self.net.introduction(link) else { return Ok(()) };
                return self.on_introduced(SessionId(link), introduction);
            }
            other => other,
        };
        if let (Some(M::Beat(_)), Some(n)) = (&other, self.net.workbox_of(link)) {
            self.truth.on_beat_heard(self.boxes[n].id, self.agenda.now_ms);
        }
        match informer::edge::convert::event(SessionId(link), v1::SidecarMessage { message: other }) {
            Ok(Some(event)) => self.tell_center(event),
            Ok(None) => Ok(()),
            Err(faults) => wrong(Check::EdgeTakesIt, format!("a sidecar's message does not pass the edge: {faults}")),
        }
    }

    fn on_introduced(&mut self, session: SessionId, introduction: Introduction) -> Result<(), Wrong> {
        let Introduction { hello, held, protocols } = introduction;
        if proto::check::protocol(protocols.0, protocols.1).is_none() {
            let refuse = v1::Refuse { code: "protocol".to_owned(), message: "too new".to_owned(), r#final: true };
            self.send_to_box(session.0, v1::InformerMessage { message: Some(Message::Refuse(refuse)) });
            self.close_link(session.0, Side::Center, 0);
            return Ok(());
        }
        let held: Vec<Held> = held;
        self.tell_center(Event::LinkOpened { session, hello: Box::new(hello), held, stored: BTreeMap::new() })
    }
}

/// The shell completes an event from the store when the machine does not hold the object, and the batch under way does not remove it.
fn complete(store: &Store, machine: &Machine, going: &BTreeSet<TaskId>, mut event: Event) -> Event {
    let goes = |task: TaskId| going.contains(&task) || task.array().is_some_and(|array| going.contains(&array));
    let row = |task: TaskId| {
        if machine.holds(task) || goes(task) { None } else { store.tasks.get(&task).cloned() }
    };
    match &mut event {
        Event::CancelRequested { task, stored, .. } | Event::RetryRequested { task, stored, .. } => {
            *stored = row(*task).into_iter().chain(task.array().and_then(row)).collect();
        }
        Event::Reported { attempt, stored, .. } => {
            *stored = row(attempt.task).into_iter().chain(attempt.task.array().and_then(row)).collect();
        }
        Event::LinkOpened { held, stored, .. } => {
            for held in held {
                if let Some(row) = row(held.attempt.task) {
                    stored.insert(held.attempt.task, row);
                }
            }
        }
        Event::Submitted(submit) => {
            let known = submit.key.as_ref().and_then(|key| store.keys.get(key)).copied();
            submit.known = known.filter(|hit| !goes(hit.task));
        }
        Event::DrainRequested { .. }
        | Event::ExecutorPut { .. }
        | Event::ExecutorDeleted { .. }
        | Event::LinkClosed { .. }
        | Event::BeatReceived { .. }
        | Event::PongReceived { .. }
        | Event::Emitted { .. }
        | Event::Flow(_)
        | Event::RestoreAccepted
        | Event::TimePassed => {}
    }
    event
}
