//! The informer: its machine under a model of shell and store. Effects leave only after their batch is in the store.

use super::net::{Delivery, Side};
use super::{BEAT_MS, FENCE_GRACE_MS, Step, World};
use informer::machine::{
    Batch, Bug, Config, Effect, Event, KeyHit, Machine, Now, PayloadHandle, Reply, SessionId, Submit, Ticket,
};
use proto::id::TaskId;
use proto::{store, v1};
use std::collections::BTreeMap;
use v1::informer_message::Message;

/// What survives a crash of the informer.
#[derive(Debug, Default, Clone)]
pub(super) struct Store {
    pub tasks: BTreeMap<TaskId, store::TaskRow>,
    pub sidecars: BTreeMap<String, store::SidecarRow>,
    keys: BTreeMap<String, KeyHit>,
    pub seq: u64,
    epoch: u64,
}

impl Store {
    fn commit(&mut self, seq: u64, batch: &Batch) {
        for change in &batch.tasks {
            let row = &change.row;
            let id = TaskId::from_bytes(&row.id).expect("rows carry 16 bytes");
            if !row.key.is_empty() {
                let digest = if row.key_digest.is_empty() { &row.payload } else { &row.key_digest };
                let digest = digest.as_slice().try_into().expect("handles are 32 bytes");
                self.keys.insert(row.key.clone(), KeyHit { task: id, digest });
            }
            self.tasks.insert(id, change.whole());
        }
        for row in &batch.sidecars {
            self.sidecars.insert(row.id.clone(), row.clone());
        }
        self.epoch = self.epoch.max(batch.epoch.unwrap_or(0));
        self.seq = seq;
    }
}

/// The batch that is on its way to the disk.
struct InFlight {
    seq: u64,
    batch: Batch,
    effects: Vec<Effect>,
}

/// The informer.
pub(super) struct Center {
    pub store: Store,
    pub machine: Option<Machine>,
    /// Grows with each start; what was scheduled for an earlier life is ignored.
    pub life: u64,
    effects: Vec<Effect>,
    in_flight: Option<InFlight>,
    next_session: u64,
    next_ticket: u64,
    timer_ms: u64,
    bug: Option<Bug>,
    /// Requests whose answer a client waits for: (key, payload) by ticket.
    pub asked: BTreeMap<Ticket, super::truth::Asked>,
}

impl Center {
    pub(super) fn new(bug: Option<Bug>) -> Self {
        Self {
            store: Store::default(),
            machine: None,
            life: 0,
            effects: Vec::new(),
            in_flight: None,
            next_session: 0,
            next_ticket: 0,
            timer_ms: 0,
            bug,
            asked: BTreeMap::new(),
        }
    }
}

impl World {
    fn center_now(&mut self) -> Now {
        let now_ms = self.agenda.now_ms;
        Now { mono_ms: now_ms + 777, wall_ms: now_ms + 1_000_000, entropy: self.rng.bits() }
    }

    pub(super) fn start_center(&mut self) -> Result<(), String> {
        let now = self.center_now();
        let center = &mut self.center;
        center.life += 1;
        center.store.epoch += 1;
        let config = Config {
            beat_ms: BEAT_MS,
            lease_ms: 3 * BEAT_MS,
            fence_grace_ms: FENCE_GRACE_MS,
            lineage: "simulated".to_owned(),
            epoch: center.store.epoch,
            commit_seq: center.store.seq,
            accept_restored: false,
            shares: [("heavy".to_owned(), 3)].into(),
            log_policy: v1::LogPolicy::Never,
            bug: center.bug,
        };
        let live = center.store.tasks.values().filter(|row| !super::truth::is_terminal(row)).cloned();
        center.machine = Some(Machine::new(config, now, live, center.store.sidecars.values().cloned(), []));
        self.tell_center(Event::TimePassed)
    }

    /// Kills the informer. A batch on its way to the disk is lost, or durable with nobody told.
    pub(super) fn crash_center(&mut self) -> Result<(), String> {
        let durable = self.rng.chance(500);
        let center = &mut self.center;
        center.machine = None;
        center.effects.clear();
        center.asked.clear();
        center.life += 1;
        if let Some(in_flight) = center.in_flight.take()
            && durable
        {
            self.truth.on_commit(&center.store, &in_flight.batch)?;
            center.store.commit(in_flight.seq, &in_flight.batch);
        }
        self.break_all_links(Side::Center);
        Ok(())
    }

    /// One event through the machine; the shell's loop after it.
    pub(super) fn tell_center(&mut self, event: Event) -> Result<(), String> {
        let now = self.center_now();
        let Some(machine) = &mut self.center.machine else { return Ok(()) };
        let event = complete(&self.center.store, machine, event);
        let is_beat = matches!(event, Event::BeatReceived { .. });
        let before = machine.write_count();
        let mut effects = Vec::new();
        machine.apply(now, event, &mut effects);
        machine.check().map_err(|wrong| format!("informer: {wrong}"))?;
        let bypass = is_beat && machine.write_count() == before;
        if bypass {
            self.release_center(effects)?;
        } else {
            self.center.effects.append(&mut effects);
        }
        self.commit_center();
        self.arm_center();
        Ok(())
    }

    fn commit_center(&mut self) {
        let hang_ms = self.faults.commit_ms(&mut self.rng, self.agenda.now_ms);
        let center = &mut self.center;
        let Some(machine) = &mut center.machine else { return };
        if center.in_flight.is_some() || (center.effects.is_empty() && !machine.dirty()) {
            return;
        }
        let seq = center.store.seq + 1;
        let batch = machine.take_batch(seq);
        center.in_flight = Some(InFlight { seq, batch, effects: std::mem::take(&mut center.effects) });
        let life = center.life;
        self.agenda.after(hang_ms, Step::CenterCommitted { life, seq });
    }

    pub(super) fn on_center_committed(&mut self, life: u64, seq: u64) -> Result<(), String> {
        if life != self.center.life {
            return Ok(());
        }
        let Some(in_flight) = self.center.in_flight.take() else { return Ok(()) };
        self.truth.on_commit(&self.center.store, &in_flight.batch)?;
        self.center.store.commit(seq, &in_flight.batch);
        if let Some(machine) = &mut self.center.machine {
            machine.committed(seq);
        }
        self.release_center(in_flight.effects)?;
        self.commit_center();
        Ok(())
    }

    fn release_center(&mut self, effects: Vec<Effect>) -> Result<(), String> {
        for effect in effects {
            match effect {
                Effect::Reply { ticket, reply } => self.on_reply(ticket, reply)?,
                Effect::SendAssign { session, attempt, fence, payload, position: _ } => {
                    let assign = v1::Assign {
                        attempt: Some(attempt.to_wire()),
                        fence: Some(fence.into()),
                        spec: None,
                        task_name: payload[0].to_string(),
                        ..Default::default()
                    };
                    self.send_to_box(session.0, v1::InformerMessage { message: Some(Message::Assign(assign)) });
                }
                Effect::Send { session, message } => self.send_to_box(session.0, *message),
                Effect::CloseLink { session, refuse } => {
                    self.send_to_box(session.0, v1::InformerMessage { message: Some(Message::Refuse(refuse)) });
                    self.close_link(session.0, Side::Center);
                }
            }
        }
        Ok(())
    }

    fn on_reply(&mut self, ticket: Ticket, reply: Reply) -> Result<(), String> {
        let Some(asked) = self.center.asked.remove(&ticket) else { return Ok(()) };
        match reply {
            Reply::Submitted { task, .. } => self.truth.on_acknowledged(&self.center.store, asked, task),
            Reply::Task(_) | Reply::Sidecar(_) | Reply::Executor { .. } | Reply::ExecutorGone { .. } => Ok(()),
            Reply::Rejected(rejection) => self.truth.on_rejected(asked, &rejection),
        }
    }

    fn arm_center(&mut self) {
        let Some(at_ms) = self.center.machine.as_ref().and_then(Machine::next_wakeup) else { return };
        let at_ms = at_ms - 777;
        if at_ms != self.center.timer_ms || at_ms <= self.agenda.now_ms {
            self.center.timer_ms = at_ms;
            self.agenda.at(at_ms, Step::CenterTimer(self.center.life));
        }
    }

    pub(super) fn on_center_timer(&mut self, life: u64) -> Result<(), String> {
        if life != self.center.life || self.agenda.now_ms != self.center.timer_ms {
            return Ok(());
        }
        self.center.timer_ms = 0;
        self.tell_center(Event::TimePassed)
    }

    pub(super) fn new_session(&mut self) -> SessionId {
        self.center.next_session += 1;
        SessionId(self.center.next_session)
    }

    /// A client submits something new, repeats an earlier submit, cancels, or asks why.
    pub(super) fn on_client(&mut self) -> Result<(), String> {
        if self.center.machine.is_none() {
            // It will try again, as clients do.
            let delay_ms = self.rng.range(100, 2000);
            self.agenda.after(delay_ms, Step::Client);
            return Ok(());
        }
        if self.rng.chance(120) {
            self.cancel_something()?;
        }
        if self.rng.chance(100) && !self.faults.has_ended() {
            self.drain_something()?;
        }
        let Some((asked, facts)) = self.truth.draw_submit(&mut self.rng, self.agenda.now_ms) else { return Ok(()) };
        self.center.next_ticket += 1;
        let ticket = Ticket(self.center.next_ticket);
        let payload: PayloadHandle = [asked.payload; 32];
        let key = asked.key.clone();
        let known = self.center.store.keys.get(&key).copied();
        self.center.asked.insert(ticket, asked.clone());
        // A client that hears nothing for a while asks again, under the same key.
        let patience_ms = self.rng.range(500, 5000);
        self.truth.expect_answer(asked, self.agenda.now_ms + patience_ms);
        self.agenda.after(patience_ms, Step::Client);
        let submit = Submit {
            ticket,
            task: TaskId::from_u128(u128::from(self.rng.bits()) << 64 | u128::from(self.rng.bits())),
            key: Some(key),
            payload,
            digest: payload,
            array: self.truth.array_of_payload(payload[0]),
            facts: Box::new(facts),
            start_after_unix_ms: 0,
            known,
        };
        self.tell_center(Event::Submitted(Box::new(submit)))
    }

    /// An operator drains a box, in one way or another, or takes that back.
    fn drain_something(&mut self) -> Result<(), String> {
        use v1::DrainMode as M;
        let n = self.rng.range(0, self.boxes.len() as u64 - 1) as usize;
        let mode = [M::Unspecified, M::Finish, M::HandBack, M::Stop][self.rng.range(0, 3) as usize];
        self.drain_box(n, mode)
    }

    fn drain_box(&mut self, n: usize, mode: v1::DrainMode) -> Result<(), String> {
        self.center.next_ticket += 1;
        let ticket = Ticket(self.center.next_ticket);
        self.tell_center(Event::DrainRequested { ticket, sidecar: self.boxes[n].id, mode })
    }

    /// No drain lasts for ever: the operator asks until it is durable.
    pub(super) fn on_undrain(&mut self) -> Result<(), String> {
        let drained = |row: &&store::SidecarRow| row.drain() != v1::DrainMode::Unspecified;
        if self.center.machine.is_some() && !self.center.store.sidecars.values().any(|row| drained(&row)) {
            return Ok(());
        }
        self.agenda.after(700, Step::Undrain);
        (0..self.boxes.len()).try_for_each(|n| self.drain_box(n, v1::DrainMode::Unspecified))
    }

    fn cancel_something(&mut self) -> Result<(), String> {
        let Some(task) = self.truth.draw_acknowledged(&mut self.rng) else { return Ok(()) };
        self.truth.on_cancel_asked(task);
        self.center.next_ticket += 1;
        let ticket = Ticket(self.center.next_ticket);
        self.tell_center(Event::CancelRequested { ticket, task, stored: Vec::new(), reason: String::new() })
    }

    /// A message of a box arrives.
    pub(super) fn on_center_heard(&mut self, delivery: &Delivery, message: v1::SidecarMessage) -> Result<(), String> {
        use v1::sidecar_message::Message as M;
        let link = delivery.link;
        match message.message {
            Some(M::Hello(_)) => {
                let Some((hello, held)) = self.net.introduction(link) else { return Ok(()) };
                let session = SessionId(link);
                self.tell_center(Event::LinkOpened { session, hello: Box::new(hello), held, stored: BTreeMap::new() })
            }
            other => {
                if let (Some(M::Beat(_)), Some(sidecar)) = (&other, self.net.workbox_of(link).map(|n| self.boxes[n].id))
                {
                    self.truth.on_beat_heard(sidecar, self.agenda.now_ms);
                }
                let message = v1::SidecarMessage { message: other };
                match informer::edge::convert::event(SessionId(link), message) {
                    Ok(Some(event)) => self.tell_center(event),
                    Ok(None) => Ok(()),
                    Err(faults) => Err(format!("a sidecar's message does not pass the edge: {faults}")),
                }
            }
        }
    }
}

/// The shell completes an event from the store when the machine does not hold the object.
fn complete(store: &Store, machine: &Machine, mut event: Event) -> Event {
    let row = |task: TaskId| {
        if machine.holds(task) { None } else { store.tasks.get(&task).cloned() }
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
        Event::Submitted(_)
        | Event::DrainRequested { .. }
        | Event::ExecutorPut { .. }
        | Event::ExecutorDeleted { .. }
        | Event::LinkClosed { .. }
        | Event::BeatReceived { .. }
        | Event::PongReceived { .. }
        | Event::RestoreAccepted
        | Event::TimePassed => {}
    }
    event
}
