//! The keeper of a box, its monitors, their records, and the processes: what the agent orders and is told.

use super::judge::{Check, Wrong, wrong};
use super::workbox::Inside;
use super::{BEAT_MS, FENCE_GRACE_MS, Step, World};
use proto::id::{AttemptId, Fence};
use proto::v1;
use sidecar::machine::{Event, Facts, Found, FoundState, Note, Notice, Refusal};

/// A monitor that is dead records nothing.
const DEAD: u64 = u64::MAX;
/// The stop grace of every task.
const STOP_GRACE_MS: u64 = 2 * BEAT_MS;
/// How long a process runs at most on a machine that its directory has left, if no lease ends it.
const LEFT_MS: u64 = 20_000;
/// How much longer than its grace a process may outlive the moment in which its sidecar knew.
const STOP_SLACK_MS: u64 = 2000;

/// What the keeper's record says of an attempt, and whether a process of it lives.
pub(super) struct Record {
    pub note: Note,
    pub state: FoundState,
    /// Of its process, once there was one.
    pub started: Option<v1::Started>,
    /// A process lives although the record may not know: its monitor was killed.
    pub alive: bool,
    /// Of the process; what was scheduled for an earlier stop is ignored.
    pub token: u64,
    /// It is being ended, for this.
    pub stopping: Option<v1::Reason>,
    /// A keeper has noted that it ends its monitor because the lease is over. The mark outlives the keeper.
    condemned: bool,
    /// Its monitor does nothing until then.
    pub paused_until_ms: u64,
    since_ms: u64,
}

impl Record {
    pub(super) fn is_orphan(&self) -> bool {
        self.token == DEAD
    }

    fn is_open(&self) -> bool {
        matches!(self.state, FoundState::Starting | FoundState::Running(_))
    }
}

impl World {
    pub(super) fn on_inside(&mut self, n: usize, what: Inside) -> Result<(), Wrong> {
        let it = &self.boxes[n];
        let is_life = |life: u64| it.life == life;
        match &what {
            Inside::AgentStart { life } => self.on_agent_start(n, *life),
            Inside::Dial { life }
            | Inside::Prepared { life, .. }
            | Inside::Progressed { life, .. }
            | Inside::Condemned { life, .. }
            | Inside::Rename { life, .. }
            | Inside::LogSent { life, .. }
            | Inside::Purged { life, .. }
            | Inside::Room { life }
            | Inside::Left { life, .. }
                if is_life(*life) =>
            {
                self.on_agents(n, what)
            }
            Inside::Noticed { life, keeper_life, .. } if self.is_now(n, *life, *keeper_life) => self.on_agents(n, what),
            Inside::KeeperStart { life } if is_life(*life) => {
                self.start_keeper(n);
                self.find_keeper(n);
                Ok(())
            }
            Inside::KeeperFound { life, keeper_life } if self.is_now(n, *life, *keeper_life) => {
                let delayed = self.delayed_by_pause(n, || Step::Inside { workbox: n, what: what.clone() });
                if delayed || self.delayed_by_keeper(n, &what) { Ok(()) } else { self.on_keeper_found(n) }
            }
            Inside::Start { keeper_life, .. } | Inside::Stop { keeper_life, .. } if *keeper_life == it.keeper_life => {
                self.on_keepers(n, what)
            }
            Inside::Spawn { .. }
            | Inside::ProcessEnd { .. }
            | Inside::LeaseCheck { .. }
            | Inside::StopCheck { .. }
            | Inside::LeftEnds { .. }
            | Inside::MonitorGone { .. } => self.on_monitors(n, what),
            // Of an earlier life.
            _ => Ok(()),
        }
    }

    fn on_keepers(&mut self, n: usize, what: Inside) -> Result<(), Wrong> {
        if self.delayed_by_keeper(n, &what) {
            return Ok(());
        }
        match what {
            Inside::Start { attempt, fence, .. } => self.start_attempt(n, attempt, fence),
            Inside::Stop { attempt, why, .. } => {
                self.stop_process(n, attempt, why);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn on_monitors(&mut self, n: usize, what: Inside) -> Result<(), Wrong> {
        match what {
            Inside::Spawn { attempt, token } => self.spawn(n, attempt, token),
            Inside::ProcessEnd { attempt, token, ref ending } => {
                if self.delayed_by_monitor(n, attempt, &what) {
                    return Ok(());
                }
                self.on_process_end(n, attempt, token, (**ending).clone());
                Ok(())
            }
            Inside::LeaseCheck { attempt, token } => {
                self.check_lease(n, attempt, token);
                Ok(())
            }
            Inside::StopCheck { life, attempt, heard_ms } if life == self.boxes[n].life => {
                self.check_stop(n, attempt, heard_ms)
            }
            Inside::LeftEnds { attempt } => {
                self.truth.on_process_gone(self.boxes[n].id, attempt);
                Ok(())
            }
            Inside::MonitorGone { attempt } => {
                self.on_monitor_gone(n, attempt);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn is_now(&self, n: usize, life: u64, keeper_life: u64) -> bool {
        let it = &self.boxes[n];
        it.life == life && it.keeper_life == keeper_life && it.keeper_alive
    }

    fn delayed_by_keeper(&mut self, n: usize, what: &Inside) -> bool {
        let until_ms = self.boxes[n].keeper_paused_until_ms;
        let delayed = until_ms > self.agenda.now_ms;
        if delayed {
            self.agenda.at(until_ms, Step::Inside { workbox: n, what: what.clone() });
        }
        delayed
    }

    fn delayed_by_monitor(&mut self, n: usize, attempt: AttemptId, what: &Inside) -> bool {
        let until_ms = self.boxes[n].records.get(&attempt).map_or(0, |record| record.paused_until_ms);
        let delayed = until_ms > self.agenda.now_ms;
        if delayed {
            self.agenda.at(until_ms, Step::Inside { workbox: n, what: what.clone() });
        }
        delayed
    }

    pub(super) fn pause_keeper(&mut self, n: usize, until_ms: u64) {
        let it = &mut self.boxes[n];
        it.keeper_paused_until_ms = it.keeper_paused_until_ms.max(until_ms);
        it.disturb(until_ms);
        self.wake_monitors(n);
    }

    /// One monitor is stopped. Its keeper ends what it should have ended: that both are is more than the bound of a lease assumes.
    pub(super) fn pause_monitor(&mut self, n: usize, luck: u64, until_ms: u64) {
        let it = &mut self.boxes[n];
        if !it.keeper_alive || it.keeper_paused_until_ms > self.agenda.now_ms {
            return;
        }
        // One that is ending its process for the lease's end makes no difference: the keeper ends it at the same time.
        let ending = |id: &AttemptId| it.records[id].stopping == Some(v1::Reason::Fenced);
        let running: Vec<AttemptId> = it.alive().filter(|id| !ending(id)).collect();
        let Some(attempt) = running.get(luck as usize % running.len().max(1)) else { return };
        if let Some(record) = it.records.get_mut(attempt) {
            record.paused_until_ms = record.paused_until_ms.max(until_ms);
        }
        it.disturb(until_ms);
    }

    /// Whoever stops a keeper lets its monitors go on.
    fn wake_monitors(&mut self, n: usize) {
        self.boxes[n].records.values_mut().for_each(|record| record.paused_until_ms = 0);
    }

    /// The agent connects to its keeper, or starts one.
    pub(super) fn find_keeper(&mut self, n: usize) {
        let it = &self.boxes[n];
        let (life, keeper_life) = (it.life, it.keeper_life);
        let what =
            if it.keeper_alive { Inside::KeeperFound { life, keeper_life } } else { Inside::KeeperStart { life } };
        self.inside(n, 50, what);
    }

    fn start_keeper(&mut self, n: usize) {
        let now_ms = self.agenda.now_ms;
        let it = &mut self.boxes[n];
        if it.keeper_alive {
            return;
        }
        it.keeper_alive = true;
        it.keeper_life += 1;
        it.disturb(now_ms);
        // What lives without its monitor is ended; its end is not known.
        let orphans: Vec<AttemptId> = it.alive().filter(|id| it.records[id].is_orphan()).collect();
        for attempt in orphans {
            self.end_process(n, attempt);
        }
        let left = self.boxes[n].records.iter().filter(|(_, record)| record.is_orphan() && record.is_open());
        let left: Vec<AttemptId> = left.map(|(id, _)| *id).collect();
        for attempt in left {
            self.settle(n, attempt);
        }
    }

    fn on_keeper_found(&mut self, n: usize) -> Result<(), Wrong> {
        let found = |(id, record): (&AttemptId, &Record)| Found {
            attempt: *id,
            note: Some(record.note),
            state: record.state.clone(),
        };
        let records = &self.boxes[n].records;
        let listing = records.iter().map(found).collect();
        let spawned: Vec<_> = records.iter().filter_map(|(id, it)| Some((*id, it.started.clone()?))).collect();
        self.tell_agent(n, Event::KeeperConnected { listing })?;
        // What it told the agent before may come once more behind the listing.
        for (attempt, started) in spawned {
            if self.rng.chance(200) {
                self.notice(n, attempt, Notice::Spawned(started));
            }
        }
        Ok(())
    }

    /// Kills the keeper alone: monitors, processes and records live on.
    pub(super) fn crash_keeper(&mut self, n: usize) -> Result<(), Wrong> {
        let now_ms = self.agenda.now_ms;
        let it = &mut self.boxes[n];
        if !it.keeper_alive {
            return Ok(());
        }
        it.keeper_alive = false;
        it.keeper_life += 1;
        it.keeper_paused_until_ms = 0;
        it.disturb(now_ms);
        self.wake_monitors(n);
        self.tell_agent(n, Event::KeeperGone)?;
        let life = self.boxes[n].life;
        self.inside(n, 2000, Inside::KeeperStart { life });
        Ok(())
    }

    /// Kills agent, keeper and monitors; without power nothing runs, otherwise `continue` processes run on without a monitor.
    pub(super) fn crash_box(&mut self, n: usize, down_ms: u64, power: bool) {
        self.crash_agent(n, down_ms);
        let it = &mut self.boxes[n];
        it.keeper_alive = false;
        it.keeper_life += 1;
        it.keeper_paused_until_ms = 0;
        let open = |state: &FoundState| matches!(state, FoundState::Starting | FoundState::Running(_));
        let watched: Vec<AttemptId> =
            it.records.iter().filter(|(_, record)| record.alive || open(&record.state)).map(|(id, _)| *id).collect();
        for attempt in watched {
            self.truth.on_unrecorded(attempt);
            let Some(record) = self.boxes[n].records.get_mut(&attempt) else { continue };
            record.token = DEAD;
            if power || record.note.facts.stop_on_disconnect {
                self.end_process(n, attempt);
            }
        }
        if power {
            self.boxes[n].place += 1;
            self.lose_unflushed(n);
        }
        self.boxes[n].disk.mend();
    }

    /// The directory is started on another machine, as far as it was flushed. Of what runs on the first one nobody tells any more; what hangs
    /// on the lease that was earned there ends with it, the rest when it likes.
    pub(super) fn move_directory(&mut self, n: usize, down_ms: u64) {
        self.crash_agent(n, down_ms);
        let it = &mut self.boxes[n];
        it.keeper_alive = false;
        it.keeper_life += 1;
        it.keeper_paused_until_ms = 0;
        it.place += 1;
        let deadline_ms = it.at_boot_ms(it.lease_deadline_ms);
        it.lease_deadline_ms = 0;
        it.lease_of = None;
        let open: Vec<AttemptId> =
            it.records.iter().filter(|(_, record)| record.alive || record.is_open()).map(|(id, _)| *id).collect();
        for attempt in open {
            self.truth.on_unrecorded(attempt);
            let (delay_ms, grace_ms) = (self.rng.range(0, LEFT_MS), self.rng.range(0, FENCE_GRACE_MS - 1));
            let Some(record) = self.boxes[n].records.get_mut(&attempt) else { continue };
            record.token = DEAD;
            if !std::mem::replace(&mut record.alive, false) {
                continue;
            }
            let now_ms = self.agenda.now_ms;
            let stops = record.note.facts.stop_on_disconnect;
            let at_ms = if stops { deadline_ms.max(now_ms) + grace_ms } else { now_ms + delay_ms };
            self.agenda.at(at_ms, Step::Inside { workbox: n, what: Inside::LeftEnds { attempt } });
        }
        self.lose_unflushed(n);
        self.boxes[n].disk.mend();
    }

    /// Records are not flushed: without power, young ones may be gone.
    fn lose_unflushed(&mut self, n: usize) {
        let young_ms = self.agenda.now_ms.saturating_sub(5000);
        let young: Vec<AttemptId> =
            self.boxes[n].records.iter().filter(|(_, it)| it.since_ms >= young_ms).map(|(id, _)| *id).collect();
        for attempt in young {
            if self.rng.chance(500) {
                self.boxes[n].records.remove(&attempt);
                self.truth.on_unrecorded(attempt);
            }
        }
    }

    /// Kills the monitor of one attempt. A `stop` process goes with it; another is ended as soon as a keeper sees it.
    pub(super) fn kill_monitor(&mut self, n: usize, luck: u64) {
        let running: Vec<AttemptId> =
            self.boxes[n].alive().filter(|id| !self.boxes[n].records[id].is_orphan()).collect();
        let Some(attempt) = running.get(luck as usize % running.len().max(1)).copied() else { return };
        self.truth.on_unrecorded(attempt);
        let Some(record) = self.boxes[n].records.get_mut(&attempt) else { return };
        record.token = DEAD;
        if record.note.facts.stop_on_disconnect {
            self.end_process(n, attempt);
        }
        self.inside(n, 50, Inside::MonitorGone { attempt });
    }

    fn on_monitor_gone(&mut self, n: usize, attempt: AttemptId) {
        let now_ms = self.agenda.now_ms;
        let it = &mut self.boxes[n];
        if !it.keeper_alive {
            return;
        }
        if it.keeper_paused_until_ms > now_ms {
            let until_ms = it.keeper_paused_until_ms;
            return self.agenda.at(until_ms, Step::Inside { workbox: n, what: Inside::MonitorGone { attempt } });
        }
        let Some(record) = it.records.get_mut(&attempt).filter(|record| record.is_orphan()) else { return };
        if !record.is_open() {
            return;
        }
        if record.alive {
            self.end_process(n, attempt);
        }
        let notice = self.settle(n, attempt);
        self.notice(n, attempt, notice);
    }

    /// The keeper writes into the record of an attempt without a monitor what became of it: it was lost, unless a keeper had noted that
    /// it was its lease.
    fn settle(&mut self, n: usize, attempt: AttemptId) -> Notice {
        let Some(record) = self.boxes[n].records.get_mut(&attempt) else { return Notice::Lost };
        if !record.condemned {
            record.state = FoundState::Lost;
            return Notice::Lost;
        }
        let ending = Box::new(v1::Ending { reason: v1::Reason::Fenced.into(), ..Default::default() });
        record.state = FoundState::Ended(ending.clone());
        self.truth.on_ended(attempt, &ending);
        Notice::Ended(ending)
    }

    pub(super) fn end_process(&mut self, n: usize, attempt: AttemptId) {
        if let Some(record) = self.boxes[n].records.get_mut(&attempt) {
            record.alive = false;
        }
        self.truth.on_process_gone(self.boxes[n].id, attempt);
    }

    fn notice(&mut self, n: usize, attempt: AttemptId, notice: Notice) {
        let it = &self.boxes[n];
        if it.keeper_alive {
            let (life, keeper_life) = (it.life, it.keeper_life);
            let at_ms = it.keeper_paused_until_ms.max(self.agenda.now_ms + 1);
            self.agenda
                .at(at_ms, Step::Inside { workbox: n, what: Inside::Noticed { life, keeper_life, attempt, notice } });
        }
    }

    fn start_attempt(&mut self, n: usize, attempt: AttemptId, fence: Fence) -> Result<(), Wrong> {
        let refuse = |refusal| Notice::Refused { refusal, message: "simulated".to_owned() };
        let now_ms = self.agenda.now_ms;
        let it = &mut self.boxes[n];
        if it.records.contains_key(&attempt) {
            self.notice(n, attempt, refuse(Refusal::Exists));
            return Ok(());
        }
        if it.boot_ms(now_ms) >= it.lease_deadline_ms {
            self.notice(n, attempt, refuse(Refusal::NoLease));
            return Ok(());
        }
        let plan = self.truth.plan_process(attempt);
        if let Some(refusal) = plan.refusal {
            if matches!(refusal, Refusal::Task | Refusal::Input) {
                self.truth.on_fault(attempt.task);
            }
            self.notice(n, attempt, refuse(refusal));
            return Ok(());
        }
        it.next_token += 1;
        let token = it.next_token;
        let note = Note { fence, facts: Facts { stop_on_disconnect: plan.stops } };
        let record = Record {
            note,
            state: FoundState::Starting,
            started: None,
            alive: false,
            token,
            stopping: None,
            condemned: false,
            paused_until_ms: 0,
            since_ms: now_ms,
        };
        it.records.insert(attempt, record);
        self.inside(n, 4, Inside::Spawn { attempt, token });
        Ok(())
    }

    /// The monitor makes the process.
    fn spawn(&mut self, n: usize, attempt: AttemptId, token: u64) -> Result<(), Wrong> {
        let now_ms = self.agenda.now_ms;
        let it = &mut self.boxes[n];
        let over = it.boot_ms(now_ms) >= it.lease_deadline_ms;
        let wall_ms = it.wall_ms(now_ms);
        let Some(record) = it.records.get_mut(&attempt).filter(|record| record.token == token) else { return Ok(()) };
        let plan = self.truth.plan_process(attempt);
        let fenced = (over && plan.stops).then_some(v1::Reason::Fenced);
        if let Some(why) = record.stopping.or(fenced) {
            let ending = Box::new(v1::Ending { reason: why.into(), ..Default::default() });
            record.state = FoundState::Ended(ending.clone());
            self.truth.on_ended(attempt, &ending);
            self.notice(n, attempt, Notice::Ended(ending));
            return Ok(());
        }
        let started = v1::Started { unix_ms: wall_ms, pid: token as u32, ..Default::default() };
        record.state = FoundState::Running(started.clone());
        record.started = Some(started.clone());
        record.alive = true;
        let fence = record.note.fence;
        let (life, sidecar) = (it.life, it.id);
        self.judge_room(n)?;
        self.coverage.processes += 1;
        self.truth.on_spawned(sidecar, attempt, fence)?;
        self.notice(n, attempt, Notice::Spawned(started));
        let end = Inside::ProcessEnd { attempt, token, ending: Box::new(plan.ending) };
        self.agenda.after(plan.runs_ms, Step::Inside { workbox: n, what: end });
        for (at_ms, step) in plan.progress {
            self.agenda.after(at_ms, Step::Inside { workbox: n, what: Inside::Progressed { life, attempt, step } });
        }
        if let Some((at_ms, why)) = plan.condemned {
            self.agenda.after(at_ms, Step::Inside { workbox: n, what: Inside::Condemned { life, attempt, why } });
        }
        if plan.stops {
            self.watch_lease(n, attempt, token);
        }
        Ok(())
    }

    /// What runs here has room here, whether the informer knows of it or has set it aside.
    fn judge_room(&self, n: usize) -> Result<(), Wrong> {
        let it = &self.boxes[n];
        let (busy, slots) = (it.alive().count(), it.plan.slots);
        if busy > slots as usize {
            return wrong(Check::BooksAgree, format!("box {n} runs {busy} processes in {slots} slots"));
        }
        let (asked, has) = (self.truth.asked_by(it.alive()), (it.plan.cpu_millis(), it.plan.memory_bytes()));
        // An old agent cannot tell what it holds apart.
        let excused = it.plan.old;
        if !excused && (asked.cpu_millis > has.0 || asked.memory_bytes > has.1) {
            let running: Vec<String> = it.alive().map(|attempt| attempt.to_string()).collect();
            let what = format!("box {n} has {has:?} and runs {} that ask for {asked:?}", running.join(", "));
            return wrong(Check::BooksAgree, what);
        }
        Ok(())
    }

    fn watch_lease(&mut self, n: usize, attempt: AttemptId, token: u64) {
        let it = &self.boxes[n];
        let at_ms = it.at_boot_ms(it.lease_deadline_ms);
        self.agenda.at(at_ms, Step::Inside { workbox: n, what: Inside::LeaseCheck { attempt, token } });
    }

    /// The monitor's timer: it reads the page again, and ends a `stop` attempt whose lease is over. If it is stopped itself, the
    /// keeper ends both.
    fn check_lease(&mut self, n: usize, attempt: AttemptId, token: u64) {
        let now_ms = self.agenda.now_ms;
        let it = &self.boxes[n];
        let Some(record) = it.records.get(&attempt).filter(|record| record.alive && record.token == token) else {
            return;
        };
        if record.stopping == Some(v1::Reason::Fenced) && record.paused_until_ms <= now_ms {
            return;
        }
        // The lease's end brings forward what another order has begun, and leaves it its reason.
        let why = record.stopping.unwrap_or(v1::Reason::Fenced);
        if it.boot_ms(now_ms) < it.lease_deadline_ms {
            self.watch_lease(n, attempt, token);
        } else if record.paused_until_ms > now_ms {
            if let Some(record) = self.boxes[n].records.get_mut(&attempt) {
                record.condemned = true;
                record.token = DEAD;
            }
            self.inside(n, FENCE_GRACE_MS - 1, Inside::MonitorGone { attempt });
        } else {
            self.end_within(n, attempt, FENCE_GRACE_MS, why);
        }
    }

    fn stop_process(&mut self, n: usize, attempt: AttemptId, why: v1::Reason) {
        let Some(record) = self.boxes[n].records.get_mut(&attempt) else { return };
        if record.stopping.is_some() || record.is_orphan() {
            return;
        }
        if record.alive {
            self.end_within(n, attempt, STOP_GRACE_MS, why);
        } else if record.state == FoundState::Starting {
            record.stopping = Some(why);
        }
    }

    fn end_within(&mut self, n: usize, attempt: AttemptId, grace_ms: u64, why: v1::Reason) {
        // Strictly before the grace is over: at its end the KILL has done its work.
        let delay_ms = self.rng.range(0, grace_ms - 1);
        let it = &mut self.boxes[n];
        let Some(record) = it.records.get_mut(&attempt) else { return };
        record.stopping = Some(why);
        let token = record.token;
        let ending = Box::new(v1::Ending { reason: why.into(), signal: Some(15), ..Default::default() });
        let what = Inside::ProcessEnd { attempt, token, ending };
        self.agenda.after(delay_ms, Step::Inside { workbox: n, what });
    }

    /// The sidecar has heard that an attempt is to stop: its process must be gone in time.
    pub(super) fn watch_stop(&mut self, n: usize, attempt: AttemptId) {
        let heard_ms = self.agenda.now_ms;
        if self.boxes[n].records.get(&attempt).is_some_and(|record| record.alive) {
            let what = Inside::StopCheck { life: self.boxes[n].life, attempt, heard_ms };
            self.agenda.after(STOP_GRACE_MS + STOP_SLACK_MS, Step::Inside { workbox: n, what });
        }
    }

    /// Whatever kept the agent or the keeper from acting counts as if the order came after it. The next agent is told anew.
    fn check_stop(&mut self, n: usize, attempt: AttemptId, heard_ms: u64) -> Result<(), Wrong> {
        let it = &self.boxes[n];
        let lives = it.records.get(&attempt).is_some_and(|record| record.alive && !record.is_orphan());
        if !lives {
            return Ok(());
        }
        if it.disturbed_ms > heard_ms || !it.keeper_alive {
            let heard_ms = it.disturbed_ms.max(self.agenda.now_ms);
            let what = Inside::StopCheck { life: it.life, attempt, heard_ms };
            let at_ms = heard_ms + STOP_GRACE_MS + STOP_SLACK_MS;
            self.agenda.at(at_ms, Step::Inside { workbox: n, what });
            return Ok(());
        }
        wrong(Check::StoppedInTime, format!("box {n} was told to stop {attempt} at {heard_ms} ms, and it runs"))
    }

    fn on_process_end(&mut self, n: usize, attempt: AttemptId, token: u64, ending: v1::Ending) {
        let Some(record) = self.boxes[n].records.get_mut(&attempt).filter(|record| record.alive) else { return };
        if record.is_orphan() {
            // Its monitor is dead: it ends and nobody records it.
            return self.end_process(n, attempt);
        }
        if record.token != token {
            return;
        }
        record.state = FoundState::Ended(Box::new(ending.clone()));
        self.end_process(n, attempt);
        self.truth.on_ended(attempt, &ending);
        self.notice(n, attempt, Notice::Ended(Box::new(ending)));
    }
}
