//! A machine with an agent (the sidecar machine under a model of shell and ledger), a keeper and processes.

mod agent;

use super::disk::{Disk, Ledger};
use super::identity::Identity;
use super::judge::{Check, Wrong, wrong};
use super::keeper::Record;
use super::net::Side;
use super::script::BoxPlan;
use super::{Step, World};
use agent::{Decided, InFlight};
use informer::machine::Hello;
use proto::id::{AttemptId, Fence, SidecarId};
use proto::v1;
use sidecar::machine::{Config, Event, FoundState, Machine, Notice, Now, RowState};
use std::collections::{BTreeMap, BTreeSet};

/// Between two tellings that the disk has no room, ms.
const ROOM_MS: u64 = 1000;
/// How long a leaving agent waits for what it still has to tell, ms.
const LEAVE_MS: u64 = 2000;

/// What happens inside a box at some time.
#[derive(Debug, Clone)]
pub(super) enum Inside {
    AgentStart { life: u64 },
    Dial { life: u64 },
    KeeperStart { life: u64 },
    KeeperFound { life: u64, keeper_life: u64 },
    Start { keeper_life: u64, attempt: AttemptId, fence: Fence },
    Spawn { attempt: AttemptId, token: u64 },
    Stop { keeper_life: u64, attempt: AttemptId, why: v1::Reason },
    ProcessEnd { attempt: AttemptId, token: u64, ending: Box<v1::Ending> },
    LeaseCheck { attempt: AttemptId, token: u64 },
    StopCheck { life: u64, attempt: AttemptId, heard_ms: u64 },
    MonitorGone { attempt: AttemptId },
    LeftEnds { attempt: AttemptId },
    Noticed { life: u64, keeper_life: u64, attempt: AttemptId, notice: Notice },
    Prepared { life: u64, attempt: AttemptId },
    Progressed { life: u64, attempt: AttemptId, step: u64 },
    Condemned { life: u64, attempt: AttemptId, why: v1::Reason },
    Rename { life: u64, attempt: AttemptId, fence: Fence, nth: usize },
    LogSent { life: u64, attempt: AttemptId },
    Purged { life: u64, attempt: AttemptId },
    Room { life: u64 },
    Left { life: u64, by_ms: u64 },
}

/// One box.
pub(super) struct Workbox {
    /// Of the box, whoever its sidecar is.
    pub id: SidecarId,
    /// Who the agent is; the file beside the ledger says so, too, unless it is lost.
    pub sidecar: SidecarId,
    pub file: Option<Identity>,
    /// Sidecars that this box has been.
    pub lives: u128,
    /// Counts the places in which its directory was in use.
    pub place: u64,
    pub plan: BoxPlan,
    pub wall_offset_ms: i64,
    pub agent: Option<Machine>,
    pub life: u64,
    pub disk: Disk,
    pub ledger: Ledger,
    /// What somebody might put in its place.
    pub ledger_copy: Ledger,
    /// An agent that starts until then is of a version that the informer refuses.
    pub too_new_until_ms: u64,
    /// The present one is.
    pub too_new: bool,
    pub seen: Option<v1::Identity>,
    pub highest_fence: Fence,
    effects: Vec<Decided>,
    in_flight: Option<InFlight>,
    next_seq: u64,
    timer_ms: u64,
    pub paused_until_ms: u64,
    pub link: Option<u64>,
    /// What the informer of this agent's last welcome wants of logs; `None`: nobody has welcomed it yet.
    pub log_policy: Option<v1::LogPolicy>,
    /// Beats are judged from here on.
    pub beat_ms: u64,
    /// When something went wrong here that may delay an order.
    pub disturbed_ms: u64,
    pub keeper_alive: bool,
    pub keeper_life: u64,
    pub keeper_paused_until_ms: u64,
    pub records: BTreeMap<AttemptId, Record>,
    /// Attempts whose inputs are there.
    pub prepared: BTreeSet<AttemptId>,
    /// The lease page, on the box's clock.
    pub lease_deadline_ms: u64,
    /// Who earned it.
    pub lease_of: Option<SidecarId>,
    pub next_token: u64,
}

impl Workbox {
    pub(super) fn new(n: usize, plan: BoxPlan) -> Self {
        Self {
            id: super::sidecar_id(n),
            sidecar: super::sidecar_id(n),
            file: None,
            lives: 0,
            place: 0,
            plan,
            wall_offset_ms: 0,
            agent: None,
            life: 0,
            disk: Disk::default(),
            ledger: Ledger::default(),
            ledger_copy: Ledger::default(),
            too_new_until_ms: 0,
            too_new: false,
            seen: None,
            highest_fence: Fence::default(),
            effects: Vec::new(),
            in_flight: None,
            next_seq: 0,
            timer_ms: 0,
            paused_until_ms: 0,
            link: None,
            log_policy: None,
            beat_ms: 0,
            disturbed_ms: 0,
            keeper_alive: false,
            keeper_life: 0,
            keeper_paused_until_ms: 0,
            records: BTreeMap::new(),
            prepared: BTreeSet::new(),
            lease_deadline_ms: 0,
            lease_of: None,
            next_token: 0,
        }
    }

    /// Attempts with a living process.
    pub(super) fn alive(&self) -> impl Iterator<Item = AttemptId> + '_ {
        self.records.iter().filter(|(_, record)| record.alive).map(|(id, _)| *id)
    }

    pub(super) fn boot_ms(&self, now_ms: u64) -> u64 {
        super::drifted(self.plan.clock_offset_ms, self.plan.drift_ppm, now_ms)
    }

    /// When its clock will show this.
    pub(super) fn at_boot_ms(&self, boot_ms: u64) -> u64 {
        super::undrifted(self.plan.clock_offset_ms, self.plan.drift_ppm, boot_ms)
    }

    pub(super) fn wall_ms(&self, now_ms: u64) -> u64 {
        (now_ms + super::WALL_MS).saturating_add_signed(self.wall_offset_ms)
    }

    fn now(&self, now_ms: u64) -> Now {
        Now { boot_ms: self.boot_ms(now_ms), wall_ms: self.wall_ms(now_ms) }
    }

    pub(super) fn hello(&self) -> Hello {
        Hello {
            sidecar: self.sidecar,
            incarnation: self.incarnation(),
            start: if self.plan.old { 0 } else { self.incarnation() },
            yields: false,
            place: format!("{} {}", self.id, self.place),
            host: format!("box{}", self.id.as_u128()),
            version: "simulated".to_owned(),
            labels: [("zone".to_owned(), self.plan.zone.to_owned())].into(),
            cpu_millis: self.plan.cpu_millis(),
            memory_bytes: self.plan.memory_bytes(),
            slots: self.plan.slots,
            weak_fencing: self.plan.weak_fencing,
            kinds: self.plan.kinds.clone(),
            seen: self.seen.clone(),
            highest_fence: self.highest_fence,
        }
    }

    /// The record tells how it ended, or a monitor will.
    pub(super) fn has_end_or_process(&self, attempt: AttemptId) -> bool {
        let record = self.records.get(&attempt);
        record.is_some_and(|it| matches!(it.state, FoundState::Ended(_)) || it.alive && !it.is_orphan())
    }

    /// Every end it knows of is the informer's knowledge too.
    pub(super) fn is_settled(&self) -> bool {
        self.agent.is_some()
            && self.ledger.rows.values().all(|row| matches!(row.state, RowState::Retired(_)) || row.set_aside)
    }

    pub(super) fn disturb(&mut self, at_ms: u64) {
        self.disturbed_ms = self.disturbed_ms.max(at_ms);
    }

    pub(super) fn learn(&mut self, identity: v1::Identity) {
        let newer = |seen: &v1::Identity| {
            seen.lineage != identity.lineage || (seen.epoch, seen.commit_seq) < (identity.epoch, identity.commit_seq)
        };
        if self.seen.as_ref().is_none_or(newer) {
            self.seen = Some(identity);
        }
    }
}

impl World {
    pub(super) fn on_agent_start(&mut self, n: usize, life: u64) -> Result<(), Wrong> {
        let it = &self.boxes[n];
        if it.agent.is_some() || it.life != life {
            return Ok(());
        }
        if it.disk.damaged {
            // It says so and leaves everything as it is. Somebody brings a copy.
            self.restore_ledger(n);
            let delay_ms = self.rng.range(1000, 5000);
            self.agenda.after(delay_ms, Step::Inside { workbox: n, what: Inside::AgentStart { life } });
            return Ok(());
        }
        self.start_agent(n)
    }

    pub(super) fn start_agent(&mut self, n: usize) -> Result<(), Wrong> {
        let now_ms = self.agenda.now_ms;
        let it = &mut self.boxes[n];
        it.life += 1;
        it.introduce();
        (it.seen, it.highest_fence) = (it.ledger.seen.clone(), it.ledger.highest_fence);
        it.disturb(now_ms);
        it.too_new = it.too_new_until_ms > now_ms;
        it.log_policy = None;
        let keep_attempts = it.plan.keep_attempts;
        let config = Config { bug: self.options.sidecar_bug, keep_attempts, ..Config::new(it.plan.slots) };
        it.agent = Some(Machine::new(config, it.ledger.rows.values().cloned()));
        let life = it.life;
        if it.disk.is_full(now_ms) {
            self.agenda.after(0, Step::Inside { workbox: n, what: Inside::Room { life } });
        }
        self.find_keeper(n);
        self.agenda.after(1, Step::Inside { workbox: n, what: Inside::Dial { life } });
        Ok(())
    }

    /// Ends the agent at once, and starts it again.
    pub(super) fn crash_agent(&mut self, n: usize, down_ms: u64) {
        let durable = self.rng.chance(500);
        self.end_agent(n, down_ms, durable);
    }

    fn end_agent(&mut self, n: usize, down_ms: u64, durable: bool) {
        let now_ms = self.agenda.now_ms;
        let it = &mut self.boxes[n];
        let Some(agent) = it.agent.take() else { return };
        self.coverage.on_agent_ended(&agent);
        it.life += 1;
        it.effects.clear();
        it.timer_ms = 0;
        it.paused_until_ms = 0;
        it.disturb(now_ms);
        if let Some(in_flight) = it.in_flight.take()
            && durable
        {
            it.ledger.commit(&in_flight.batch, it.seen.clone(), it.highest_fence);
        }
        let life = it.life;
        if let Some(link) = it.link.take() {
            self.close_link(link, Side::Box, 0);
        }
        self.agenda.after(down_ms, Step::Inside { workbox: n, what: Inside::AgentStart { life } });
    }

    pub(super) fn pause_agent(&mut self, n: usize, until_ms: u64) {
        let it = &mut self.boxes[n];
        // One that is stopped twice goes on when both are over.
        it.paused_until_ms = it.paused_until_ms.max(until_ms);
        it.disturb(until_ms);
    }

    pub(super) fn restore_ledger(&mut self, n: usize) {
        let it = &mut self.boxes[n];
        it.ledger = it.ledger_copy.clone();
        it.disk.damaged = false;
    }

    pub(super) fn fill_ledgers_disk(&mut self, n: usize, until_ms: u64, luck: u64) -> Result<(), Wrong> {
        let it = &mut self.boxes[n];
        it.disk.full_until_ms = until_ms;
        // What was set aside for ends may be used up.
        it.disk.fails_next |= luck.is_multiple_of(4);
        self.on_room(n, self.boxes[n].life)
    }

    fn on_room(&mut self, n: usize, life: u64) -> Result<(), Wrong> {
        if life == self.boxes[n].life && self.boxes[n].disk.is_full(self.agenda.now_ms) {
            self.agenda.after(ROOM_MS, Step::Inside { workbox: n, what: Inside::Room { life } });
        }
        self.tell_room(n)
    }

    pub(super) fn tell_room(&mut self, n: usize) -> Result<(), Wrong> {
        let room = !self.boxes[n].disk.is_full(self.agenda.now_ms);
        self.tell_agent(n, Event::DiskSeen { room })
    }

    /// An operator ends the agent, for an upgrade or for good; it starts again.
    pub(super) fn leave(&mut self, n: usize, stop_tasks: bool) -> Result<(), Wrong> {
        let life = self.boxes[n].life;
        self.tell_agent(n, Event::ShutdownRequested { stop_tasks })?;
        let by_ms = self.agenda.now_ms + LEAVE_MS;
        self.agenda.after(50, Step::Inside { workbox: n, what: Inside::Left { life, by_ms } });
        Ok(())
    }

    fn on_left(&mut self, n: usize, by_ms: u64) {
        let it = &self.boxes[n];
        let (life, now_ms) = (it.life, self.agenda.now_ms);
        let Some(agent) = &it.agent else { return };
        // Tasks that it stops have their grace.
        let patience_ms = if agent.may_exit() { by_ms } else { by_ms + 2 * LEAVE_MS };
        if now_ms < patience_ms && !(agent.may_exit() && agent.is_quiet() && !agent.is_uploading()) {
            return self.agenda.after(50, Step::Inside { workbox: n, what: Inside::Left { life, by_ms } });
        }
        let down_ms = self.rng.range(10, 4000);
        self.end_agent(n, down_ms, true);
    }

    /// A stopped agent does nothing; what concerns it waits until it goes on.
    pub(super) fn delayed_by_pause(&mut self, n: usize, step: impl FnOnce() -> Step) -> bool {
        let until_ms = self.boxes[n].paused_until_ms;
        if until_ms > self.agenda.now_ms {
            self.agenda.at(until_ms, step());
            return true;
        }
        false
    }

    /// What concerns the agent alone.
    pub(super) fn on_agents(&mut self, n: usize, what: Inside) -> Result<(), Wrong> {
        if self.delayed_by_pause(n, || Step::Inside { workbox: n, what: what.clone() }) {
            return Ok(());
        }
        match what {
            Inside::Dial { .. } => self.dial(n),
            Inside::Noticed { attempt, notice, .. } => self.tell_agent(n, Event::Noticed { attempt, notice }),
            Inside::Prepared { attempt, .. } => {
                self.boxes[n].prepared.insert(attempt);
                self.tell_agent(n, Event::Noticed { attempt, notice: Notice::Prepared })
            }
            Inside::Progressed { attempt, step, .. } => {
                let progress = v1::Progress { step, ..Default::default() };
                self.tell_agent(n, Event::Progressed { attempt, progress })
            }
            Inside::Condemned { attempt, why, .. } => self.tell_agent(n, Event::Condemned { attempt, why }),
            Inside::Rename { life, attempt, fence, nth } => self.on_rename(n, life, attempt, fence, nth),
            Inside::LogSent { attempt, .. } => self.on_log_sent(n, attempt),
            Inside::Purged { attempt, .. } => {
                self.boxes[n].records.remove(&attempt);
                self.tell_agent(n, Event::Purged { attempt })
            }
            Inside::Room { life } => self.on_room(n, life),
            Inside::Left { by_ms, .. } => {
                self.on_left(n, by_ms);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn on_log_sent(&mut self, n: usize, attempt: AttemptId) -> Result<(), Wrong> {
        let now_ms = self.agenda.now_ms;
        let reachable = self.center.machine.is_some()
            && self.faults.cut_until_ms(n, true, now_ms) == 0
            && self.faults.cut_until_ms(n, false, now_ms) == 0;
        let failure = (!reachable || self.rng.chance(100)).then(|| "no answer".to_owned());
        if failure.is_none() {
            self.truth.logs_stored.insert((n, attempt));
        }
        self.tell_agent(n, Event::LogSent { attempt, failure })
    }

    /// One file after the other, each under the fence beside it.
    fn on_rename(&mut self, n: usize, life: u64, attempt: AttemptId, fence: Fence, nth: usize) -> Result<(), Wrong> {
        let plan = self.truth.plan_process(attempt);
        let failure = if !self.truth.rename(attempt, fence, nth) {
            Some("a newer attempt has published".to_owned())
        } else if plan.unpublishable && nth > 0 {
            Some("the directory is gone".to_owned())
        } else if nth + 1 < super::truth::FILES {
            self.inside(n, plan.rename_ms, Inside::Rename { life, attempt, fence, nth: nth + 1 });
            return Ok(());
        } else {
            None
        };
        if failure.is_some() {
            self.truth.on_fault(attempt.task);
        }
        self.tell_agent(n, Event::OutputsPublished { attempt, failure })
    }

    /// The informer will not have this agent: it is too new. Whoever supervises it starts it again.
    fn on_given_up(&mut self, n: usize, message: &str) -> Result<(), Wrong> {
        let it = &self.boxes[n];
        if !it.too_new {
            return wrong(Check::EverythingEnds, format!("sidecar {n} gave up: {message}"));
        }
        self.crash_agent(n, 500);
        Ok(())
    }

    pub(super) fn inside(&mut self, n: usize, within_ms: u64, what: Inside) {
        let delay_ms = self.rng.range(0, within_ms);
        self.agenda.after(delay_ms, Step::Inside { workbox: n, what });
    }
}
