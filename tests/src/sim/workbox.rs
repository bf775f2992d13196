//! A machine with an agent (the sidecar machine under a model of shell and ledger), a keeper and processes.

use super::net::{Delivery, Side};
use super::{Rng, Step, World};
use informer::machine::Hello;
use proto::id::{AttemptId, Fence, SidecarId};
use proto::v1;
use sidecar::machine::{
    Batch, Bug, Config, Effect, Event, Facts, FoundState, Heard, LinkId, Machine, Note, Notice, Now, Row, RowState,
    Terms,
};
use std::collections::BTreeMap;
use v1::informer_message::Message;
use v1::sidecar_message::Message as Up;

/// What happens inside a box at some time.
#[derive(Debug, Clone)]
pub(super) enum Inside {
    AgentStart,
    Dial { life: u64 },
    KeeperStart { life: u64 },
    KeeperFound { life: u64, keeper_life: u64 },
    Start { keeper_life: u64, attempt: AttemptId, fence: Fence },
    Stop { keeper_life: u64, attempt: AttemptId, why: v1::Reason },
    ProcessEnd { attempt: AttemptId, token: u64, ending: Box<v1::Ending> },
    LeaseCheck { attempt: AttemptId, token: u64 },
    Noticed { life: u64, keeper_life: u64, attempt: AttemptId, notice: Notice },
    Published { life: u64, attempt: AttemptId },
    LogSent { life: u64, attempt: AttemptId },
    Purged { life: u64, attempt: AttemptId },
}

/// What the keeper's record says of an attempt, and whether a process of it lives.
pub(super) struct Record {
    pub note: Note,
    pub state: FoundState,
    /// A process lives although the record may not know: its monitor was killed.
    pub alive: bool,
    /// Of the process; what was scheduled for an earlier stop is ignored.
    pub token: u64,
    pub stopping: bool,
}

/// The batch that is on its way to the ledger.
struct InFlight {
    batch: Batch,
    effects: Vec<Effect>,
}

/// One box.
pub(super) struct Workbox {
    pub id: SidecarId,
    pub slots: u32,
    bug: Option<Bug>,
    /// Its boot clock runs apart from the informer's.
    pub clock_offset_ms: u64,
    incarnation: u64,
    pub agent: Option<Machine>,
    pub life: u64,
    pub ledger: BTreeMap<AttemptId, Row>,
    effects: Vec<Effect>,
    in_flight: Option<InFlight>,
    ledger_hangs_until_ms: u64,
    next_seq: u64,
    timer_ms: u64,
    paused_until_ms: u64,
    pub link: Option<u64>,
    seen: Option<v1::Identity>,
    pub keeper_alive: bool,
    pub keeper_life: u64,
    pub records: BTreeMap<AttemptId, Record>,
    /// The lease page, on the box's clock.
    pub lease_deadline_ms: u64,
    pub next_token: u64,
}

impl Workbox {
    pub(super) fn new(n: usize, rng: &mut Rng, bug: Option<Bug>) -> Self {
        Self {
            id: SidecarId::from_u128(n as u128 + 1),
            slots: rng.range(1, 4) as u32,
            bug,
            clock_offset_ms: rng.range(0, 1_000_000),
            incarnation: 0,
            agent: None,
            life: 0,
            ledger: BTreeMap::new(),
            effects: Vec::new(),
            in_flight: None,
            ledger_hangs_until_ms: 0,
            next_seq: 0,
            timer_ms: 0,
            paused_until_ms: 0,
            link: None,
            seen: None,
            keeper_alive: false,
            keeper_life: 0,
            records: BTreeMap::new(),
            lease_deadline_ms: 0,
            next_token: 0,
        }
    }

    /// Attempts with a living process.
    pub(super) fn alive(&self) -> impl Iterator<Item = AttemptId> + '_ {
        self.records.iter().filter(|(_, record)| record.alive).map(|(id, _)| *id)
    }

    fn now(&self, now_ms: u64) -> Now {
        Now { boot_ms: now_ms + self.clock_offset_ms, wall_ms: now_ms + 1_000_000 }
    }

    fn hello(&self) -> Hello {
        Hello {
            sidecar: self.id,
            incarnation: self.incarnation,
            host: format!("box{}", self.id.as_u128()),
            version: "simulated".to_owned(),
            labels: BTreeMap::new(),
            // Less than its slots could take, so that the books matter.
            cpu_millis: 400 + 600 * u64::from(self.slots),
            memory_bytes: 1 << 30,
            slots: self.slots,
            weak_fencing: false,
            kinds: vec!["command".to_owned()],
            seen: self.seen.clone(),
            highest_fence: Fence::default(),
        }
    }
}

impl World {
    pub(super) fn start_agent(&mut self, n: usize) -> Result<(), String> {
        let it = &mut self.boxes[n];
        if it.agent.is_some() {
            return Ok(());
        }
        it.life += 1;
        it.incarnation += 1;
        let config = Config { bug: it.bug, ..Config::new(it.slots) };
        it.agent = Some(Machine::new(config, it.ledger.values().cloned()));
        let life = it.life;
        self.find_keeper(n);
        self.agenda.after(1, Step::Inside { workbox: n, what: Inside::Dial { life } });
        Ok(())
    }

    pub(super) fn crash_agent(&mut self, n: usize) {
        let durable = self.rng.chance(500);
        let it = &mut self.boxes[n];
        if it.agent.take().is_none() {
            return;
        }
        it.life += 1;
        it.effects.clear();
        it.timer_ms = 0;
        if let Some(in_flight) = it.in_flight.take()
            && durable
        {
            write_ledger(&mut it.ledger, &in_flight.batch);
        }
        if let Some(link) = it.link.take() {
            self.close_link(link, Side::Box);
        }
        let delay_ms = self.rng.range(10, 6000);
        self.agenda.after(delay_ms, Step::Inside { workbox: n, what: Inside::AgentStart });
    }

    pub(super) fn pause_agent(&mut self, n: usize, until_ms: u64) {
        self.boxes[n].paused_until_ms = until_ms;
    }

    pub(super) fn hang_ledger(&mut self, n: usize, until_ms: u64) {
        self.boxes[n].ledger_hangs_until_ms = until_ms;
    }

    /// A stopped agent does nothing; what concerns it waits until it goes on.
    pub(super) fn delayed_by_pause(&mut self, n: usize, step: Step) -> Option<Step> {
        let until_ms = self.boxes[n].paused_until_ms;
        if until_ms > self.agenda.now_ms {
            self.agenda.at(until_ms, step);
            return None;
        }
        Some(step)
    }

    pub(super) fn tell_agent(&mut self, n: usize, event: Event) -> Result<(), String> {
        let it = &mut self.boxes[n];
        let now = it.now(self.agenda.now_ms);
        let Some(agent) = &mut it.agent else { return Ok(()) };
        let mut effects = Vec::new();
        agent.apply(now, event, &mut effects);
        self.after_agent(n, effects)
    }

    fn after_agent(&mut self, n: usize, effects: Vec<Effect>) -> Result<(), String> {
        if let Some(agent) = &self.boxes[n].agent {
            agent.check().map_err(|wrong| format!("sidecar {n}: {wrong}"))?;
        }
        for effect in effects {
            if effect.is_urgent() {
                self.act(n, effect)?;
            } else {
                self.boxes[n].effects.push(effect);
            }
        }
        self.commit_ledger(n)?;
        self.arm_agent(n);
        Ok(())
    }

    fn commit_ledger(&mut self, n: usize) -> Result<(), String> {
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
        let hang_ms = it.ledger_hangs_until_ms.saturating_sub(now_ms);
        let delay_ms = if batch.is_empty() { 0 } else { hang_ms + self.rng.range(0, 5) };
        self.boxes[n].in_flight = Some(InFlight { batch, effects });
        self.agenda.after(delay_ms, Step::BoxCommitted { workbox: n, life, seq });
        Ok(())
    }

    pub(super) fn on_box_committed(&mut self, n: usize, life: u64, seq: u64) -> Result<(), String> {
        let step = Step::BoxCommitted { workbox: n, life, seq };
        if self.boxes[n].life != life || self.delayed_by_pause(n, step).is_none() {
            return Ok(());
        }
        let it = &mut self.boxes[n];
        let Some(in_flight) = it.in_flight.take() else { return Ok(()) };
        write_ledger(&mut it.ledger, &in_flight.batch);
        for effect in in_flight.effects {
            self.act(n, effect)?;
        }
        let it = &mut self.boxes[n];
        let now = it.now(self.agenda.now_ms);
        let mut effects = Vec::new();
        if let Some(agent) = &mut it.agent {
            agent.committed(now, seq, &mut effects);
        }
        self.after_agent(n, effects)
    }

    fn arm_agent(&mut self, n: usize) {
        let it = &mut self.boxes[n];
        let Some(at_ms) = it.agent.as_ref().and_then(Machine::next_wakeup) else { return };
        let at_ms = at_ms.saturating_sub(it.clock_offset_ms).max(self.agenda.now_ms);
        if it.timer_ms <= self.agenda.now_ms || at_ms < it.timer_ms {
            it.timer_ms = at_ms.max(self.agenda.now_ms + 1);
            self.agenda.at(it.timer_ms, Step::BoxTimer { workbox: n, life: it.life });
        }
    }

    pub(super) fn on_box_timer(&mut self, n: usize, life: u64) -> Result<(), String> {
        let step = Step::BoxTimer { workbox: n, life };
        if self.boxes[n].life != life || self.delayed_by_pause(n, step).is_none() {
            return Ok(());
        }
        self.boxes[n].timer_ms = 0;
        self.tell_agent(n, Event::TimePassed)
    }

    fn act(&mut self, n: usize, effect: Effect) -> Result<(), String> {
        match effect {
            Effect::SendHello { link, held } => {
                let held: Result<Vec<_>, _> = held.into_iter().map(informer::edge::convert::held).collect();
                let held = held.map_err(|faults| format!("an inventory does not pass the edge: {faults}"))?;
                let hello = self.boxes[n].hello();
                self.net.introduce(link.0, hello, held);
                self.send_up(link, Up::Hello(v1::Hello::default()));
            }
            Effect::SendReport { link, report } => {
                self.rests_on_a_row(n, &report)?;
                self.send_up(link, Up::Report(*report));
            }
            Effect::SendBeat { link, beat } => self.send_up(link, Up::Beat(*beat)),
            Effect::CloseLink { link, .. } => self.hang_up(n, link)?,
            Effect::PublishLease { deadline_ms } => self.on_lease_published(n, deadline_ms)?,
            Effect::StartAttempt { attempt, fence, .. } => {
                self.truth.on_start_ordered(attempt)?;
                let keeper_life = self.boxes[n].keeper_life;
                self.inside(n, 3, Inside::Start { keeper_life, attempt, fence });
            }
            Effect::StopAttempt { attempt, why } => {
                let keeper_life = self.boxes[n].keeper_life;
                self.inside(n, 3, Inside::Stop { keeper_life, attempt, why });
            }
            Effect::PublishOutputs { attempt, .. } => {
                let life = self.boxes[n].life;
                self.inside(n, 200, Inside::Published { life, attempt });
            }
            Effect::Retire { attempt, .. } => self.truth.on_retired(&self.center.store, attempt)?,
            Effect::StoreLog { attempt, .. } => {
                let life = self.boxes[n].life;
                self.inside(n, 0, Inside::LogSent { life, attempt });
            }
            Effect::Purge { attempt } => {
                let life = self.boxes[n].life;
                self.inside(n, 20, Inside::Purged { life, attempt });
            }
            Effect::GiveUp { message } => return Err(format!("sidecar {n} gave up: {message}")),
            Effect::Complain(complaint) => {
                if self.options.verbose {
                    eprintln!("        box {n}: {complaint}");
                }
            }
        }
        Ok(())
    }

    /// What the informer is told of an attempt that this box holds is in its ledger.
    fn rests_on_a_row(&self, n: usize, report: &v1::Report) -> Result<(), String> {
        use v1::report::What;
        let held = matches!(report.what, Some(What::Accepted(_) | What::Started(_) | What::Ended(_)));
        let attempt = report.attempt.as_ref().and_then(|attempt| AttemptId::from_wire(attempt).ok());
        match attempt.filter(|attempt| held && !self.boxes[n].ledger.contains_key(attempt)) {
            Some(attempt) => Err(format!("{attempt} is acknowledged before it is in the ledger")),
            None => Ok(()),
        }
    }

    pub(super) fn inside(&mut self, n: usize, within_ms: u64, what: Inside) {
        let delay_ms = self.rng.range(0, within_ms);
        self.agenda.after(delay_ms, Step::Inside { workbox: n, what });
    }

    fn send_up(&mut self, link: LinkId, message: Up) {
        self.send_to_center(link.0, v1::SidecarMessage { message: Some(message) });
    }

    fn hang_up(&mut self, n: usize, link: LinkId) -> Result<(), String> {
        if self.drop_box_side(link.0) {
            self.close_link(link.0, Side::Box);
        }
        if self.boxes[n].link == Some(link.0) {
            self.boxes[n].link = None;
            self.redial(n);
            return self.tell_agent(n, Event::LinkClosed { link });
        }
        Ok(())
    }

    fn on_lease_published(&mut self, n: usize, deadline_ms: u64) -> Result<(), String> {
        let it = &mut self.boxes[n];
        let granted_ms = self.truth.lease_ends_ms(it.id) + it.clock_offset_ms;
        if deadline_ms > granted_ms {
            return Err(format!(
                "sidecar {n} believes in a lease until {deadline_ms}, the informer until {granted_ms}"
            ));
        }
        it.lease_deadline_ms = deadline_ms;
        Ok(())
    }

    fn redial(&mut self, n: usize) {
        let life = self.boxes[n].life;
        let delay_ms = self.rng.range(1, 1500);
        self.agenda.after(delay_ms, Step::Inside { workbox: n, what: Inside::Dial { life } });
    }

    pub(super) fn dial(&mut self, n: usize) -> Result<(), String> {
        let now_ms = self.agenda.now_ms;
        let reachable = self.center.machine.is_some()
            && self.faults.cut_until_ms(n, true, now_ms) == 0
            && self.faults.cut_until_ms(n, false, now_ms) == 0;
        if self.boxes[n].link.is_some() {
            return Ok(());
        }
        if !reachable {
            self.redial(n);
            return Ok(());
        }
        let link = self.new_session().0;
        self.net.open(link, n);
        self.boxes[n].link = Some(link);
        self.tell_agent(n, Event::LinkOpened { link: LinkId(link) })
    }

    pub(super) fn on_box_link_closed(&mut self, n: usize, link: u64) -> Result<(), String> {
        if !self.drop_box_side(link) {
            return Ok(());
        }
        if self.boxes[n].link == Some(link) {
            self.boxes[n].link = None;
            self.redial(n);
        }
        self.tell_agent(n, Event::LinkClosed { link: LinkId(link) })
    }

    pub(super) fn on_box_heard(
        &mut self,
        n: usize,
        delivery: Delivery,
        message: v1::InformerMessage,
    ) -> Result<(), String> {
        let link = LinkId(delivery.link);
        if self.delayed_by_pause(n, Step::Deliver(delivery)).is_none() {
            return Ok(());
        }
        let facts = |name: &str| self.truth.facts_of_payload(name.parse().unwrap_or(0));
        let terms = |beat_ms, lease_ms, fence_grace_ms| Terms { beat_ms, lease_ms, fence_grace_ms };
        let id = |wire: Option<v1::AttemptId>| AttemptId::from_wire(&wire.unwrap_or_default()).expect("ids are whole");
        let heard = match message.message {
            Some(Message::Welcome(m)) => {
                let (logs, terms) = (m.log_policy(), terms(m.beat_ms, m.lease_ms, m.fence_grace_ms));
                self.boxes[n].seen = m.informer;
                Heard::Welcome { terms, logs }
            }
            Some(Message::Verdict(m)) => {
                Heard::Verdict { decision: m.decision(), why: m.why(), attempt: id(m.attempt) }
            }
            Some(Message::BeatAck(m)) => {
                Heard::BeatAck { seq: m.seq, terms: terms(m.beat_ms, m.lease_ms, m.fence_grace_ms) }
            }
            Some(Message::Assign(m)) => {
                let stop_on_disconnect = facts(&m.task_name).stop_on_disconnect;
                let fence = m.fence.map(Fence::from).unwrap_or_default();
                Heard::Assign { attempt: id(m.attempt), fence, facts: Facts { stop_on_disconnect } }
            }
            Some(Message::Stop(m)) => Heard::Stop { why: m.why(), attempt: id(m.attempt) },
            Some(Message::Publish(m)) => {
                Heard::Publish { attempt: id(m.attempt), fence: m.fence.map(Fence::from).unwrap_or_default() }
            }
            Some(Message::Ack(m)) => Heard::Ack { seq: m.seq },
            Some(Message::Refuse(m)) => Heard::Refuse { message: m.message, is_final: m.r#final },
            Some(Message::Ping(m)) => {
                self.send_up(link, Up::Pong(v1::Pong { nonce: m.nonce }));
                return Ok(());
            }
            Some(Message::Drain(m)) => Heard::Drain { on: m.on, stop_running: m.stop_running },
            Some(Message::Log(_) | Message::Executors(_) | Message::Callback(_)) | None => {
                return Ok(());
            }
        };
        self.tell_agent(n, Event::Heard { link, heard })
    }
}

impl Workbox {
    /// Every end it knows of is the informer's knowledge too.
    pub(super) fn is_settled(&self) -> bool {
        self.agent.is_some()
            && self.ledger.values().all(|row| matches!(row.state, RowState::Retired(_)) || row.set_aside)
    }

    pub(super) fn is_orphan(&self, attempt: AttemptId) -> bool {
        self.records.get(&attempt).is_some_and(|record| record.token == u64::MAX)
    }
}

fn write_ledger(ledger: &mut BTreeMap<AttemptId, Row>, batch: &Batch) {
    for row in &batch.rows {
        ledger.insert(row.attempt, row.clone());
    }
    for attempt in &batch.deletes {
        ledger.remove(attempt);
    }
}
