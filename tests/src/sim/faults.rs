//! What goes wrong: the kinds, and what each does to the world when it strikes.

use super::coverage::What;
use super::judge::Wrong;
use super::net::{Content, Delivery, Side};
use super::{Rng, Step, World};

/// How long a strike waits for what it aims at, ms.
const AIM_MS: u64 = 2500;
/// Between two looks, ms: half of what the shortest of these lasts.
const AIM_STEP_MS: u64 = 50;

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Nothing passes between box and informer.
    Cut,
    /// Nothing passes from the box to the informer.
    CutUp,
    /// Nothing passes from the informer to the box.
    CutDown,
    /// The connection is reset.
    Reset,
    /// Messages are lost, repeated and overtaken, as by a broken proxy.
    Rough,
    /// Everything passes very slowly.
    Drip,
    /// `kill -9` of the informer.
    KillInformer,
    /// The informer's box loses its power: nobody is told.
    CutInformersPower,
    /// The informer's disk answers nothing for a while.
    HangStore,
    /// The informer's disk has no room.
    FullStore,
    /// A flush of the informer's disk fails.
    FailStore,
    /// The informer's database is damaged.
    DamageStore,
    /// The informer's database is replaced by an older backup.
    RestoreStore,
    /// The informer is stopped and goes on.
    PauseInformer,
    /// The informer's wall clock jumps.
    JumpInformersClock,
    /// The informer runs in an older version for its next life.
    OlderInformer,
    /// `kill -9` of the agent.
    KillAgent,
    /// `kill -9` of the keeper.
    KillKeeper,
    /// Of both.
    KillAgentAndKeeper,
    /// Of one monitor.
    KillMonitor,
    /// Of agent, keeper and all monitors.
    KillAll,
    /// The box loses its power.
    CutPower,
    /// Its data directory is started on another machine, while its processes run on.
    MoveDirectory,
    /// The agent is stopped and goes on.
    PauseAgent,
    /// The keeper is.
    PauseKeeper,
    /// One monitor is.
    PauseMonitor,
    /// The ledger's disk answers nothing for a while.
    HangLedger,
    /// The ledger's disk has no room.
    FullLedger,
    /// A flush of the ledger fails.
    FailLedger,
    /// The ledger is damaged.
    DamageLedger,
    /// The ledger is replaced by an older copy.
    RestoreLedger,
    /// The ledger is moved away.
    LoseLedger,
    /// The ledger is, and what says who the sidecar is.
    LoseIdentity,
    /// The box's wall clock jumps.
    JumpClock,
    /// The agent is replaced by one whose protocol is too new, and back again.
    NewerAgent,
}

impl Kind {
    /// All.
    pub const ALL: [Self; 35] = [
        Self::Cut,
        Self::CutUp,
        Self::CutDown,
        Self::Reset,
        Self::Rough,
        Self::Drip,
        Self::KillInformer,
        Self::CutInformersPower,
        Self::HangStore,
        Self::FullStore,
        Self::FailStore,
        Self::DamageStore,
        Self::RestoreStore,
        Self::PauseInformer,
        Self::JumpInformersClock,
        Self::OlderInformer,
        Self::KillAgent,
        Self::KillKeeper,
        Self::KillAgentAndKeeper,
        Self::KillMonitor,
        Self::KillAll,
        Self::CutPower,
        Self::MoveDirectory,
        Self::PauseAgent,
        Self::PauseKeeper,
        Self::PauseMonitor,
        Self::HangLedger,
        Self::FullLedger,
        Self::FailLedger,
        Self::DamageLedger,
        Self::RestoreLedger,
        Self::LoseLedger,
        Self::LoseIdentity,
        Self::JumpClock,
        Self::NewerAgent,
    ];

    /// Whether it can strike while this is under way: what waits for a box is not on one.
    pub(super) fn may_meet(self, what: What) -> bool {
        self.is_central() || !matches!(what, What::Waiting | What::Ready)
    }

    /// It concerns all boxes.
    pub(super) fn is_central(self) -> bool {
        use Kind as K;
        matches!(
            self,
            K::KillInformer
                | K::CutInformersPower
                | K::HangStore
                | K::FullStore
                | K::FailStore
                | K::DamageStore
                | K::RestoreStore
                | K::PauseInformer
                | K::JumpInformersClock
                | K::OlderInformer
        )
    }
}

/// One of them at a time and place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strike {
    pub at_ms: u64,
    pub kind: Kind,
    pub workbox: usize,
    pub length_ms: u64,
    /// For what the kind leaves open.
    pub luck: u64,
}

/// What is wrong at present with the network.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// By box: until when nothing passes towards the informer and from it, until when links are rough and slow.
    weather: Vec<Weather>,
    ended: bool,
}

#[derive(Debug, Default, Clone, Copy)]
struct Weather {
    up_ms: u64,
    down_ms: u64,
    rough_ms: u64,
    drip_ms: u64,
}

impl Faults {
    pub(super) fn new(boxes: usize) -> Self {
        Self { weather: vec![Weather::default(); boxes], ended: false }
    }

    pub(super) fn is_rough(&self, workbox: usize, now_ms: u64) -> bool {
        self.weather[workbox].rough_ms > now_ms
    }

    pub(super) fn is_dripping(&self, workbox: usize, now_ms: u64) -> bool {
        self.weather[workbox].drip_ms > now_ms
    }

    pub(super) fn cut_until_ms(&self, workbox: usize, to_center: bool, now_ms: u64) -> u64 {
        let weather = self.weather[workbox];
        let until_ms = if to_center { weather.up_ms } else { weather.down_ms };
        if until_ms > now_ms { until_ms } else { 0 }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }
}

impl Strike {
    /// What it waits for before it strikes: what is over in a moment would hardly ever be met by chance.
    fn aim(&self) -> Option<What> {
        match (self.luck >> 40) % 16 {
            0..=2 => Some(What::Stopping),
            3 => Some(What::Committing),
            _ => None,
        }
    }
}

impl World {
    pub(super) fn on_strike(&mut self, nth: usize) -> Result<(), Wrong> {
        let mut strike = self.script.strikes[nth];
        strike.workbox %= self.boxes.len();
        if self.faults.has_ended() {
            return Ok(());
        }
        let what = self.what_is_there((!strike.kind.is_central()).then_some(strike.workbox));
        let patient = self.agenda.now_ms < super::START_MS + strike.at_ms + AIM_MS;
        if patient && strike.aim().is_some_and(|aim| self.script.has(aim) && !what.contains(&aim)) {
            self.agenda.after(AIM_STEP_MS, Step::Strike(nth));
            return Ok(());
        }
        self.coverage.on_strike(strike.kind, &what);
        self.tell(|| format!("FAULT {nth}: {:?} on box {} for {} ms", strike.kind, strike.workbox, strike.length_ms));
        if strike.kind.is_central() { self.strike_center(strike) } else { self.strike_box(strike) }
    }

    fn strike_center(&mut self, strike: Strike) -> Result<(), Wrong> {
        let now_ms = self.agenda.now_ms;
        let until_ms = now_ms + strike.length_ms;
        let down_ms = 10 + strike.luck % 8000;
        match strike.kind {
            Kind::KillInformer => self.crash_center(down_ms, false)?,
            Kind::CutInformersPower => self.crash_center(down_ms, true)?,
            Kind::HangStore => self.center.disk.hangs_until_ms = until_ms,
            Kind::FullStore => self.center.disk.full_until_ms = until_ms,
            Kind::FailStore => self.center.disk.fails_next = true,
            Kind::DamageStore => {
                self.center.disk.damaged = true;
                self.crash_center(down_ms, false)?;
            }
            Kind::RestoreStore => {
                self.crash_center(down_ms, false)?;
                self.restore_center();
            }
            Kind::PauseInformer => self.center.paused_until_ms = self.center.paused_until_ms.max(until_ms),
            Kind::JumpInformersClock => self.center.wall_offset_ms = jump(strike.luck),
            Kind::OlderInformer => {
                self.crash_center(down_ms, false)?;
                self.center.older = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn strike_box(&mut self, strike: Strike) -> Result<(), Wrong> {
        let (n, luck) = (strike.workbox, strike.luck);
        let until_ms = self.agenda.now_ms + strike.length_ms;
        let down_ms = 10 + luck % 6000;
        match strike.kind {
            Kind::Cut | Kind::CutUp | Kind::CutDown | Kind::Rough | Kind::Drip => self.worsen(strike, until_ms),
            Kind::Reset => self.reset_links(n),
            Kind::KillAgent => self.crash_agent(n, down_ms),
            Kind::KillKeeper => self.crash_keeper(n)?,
            Kind::KillAgentAndKeeper => {
                self.crash_agent(n, down_ms);
                self.crash_keeper(n)?;
            }
            Kind::KillMonitor => self.kill_monitor(n, luck),
            Kind::KillAll => self.crash_box(n, down_ms, false),
            Kind::CutPower => self.crash_box(n, down_ms, true),
            Kind::MoveDirectory => self.move_directory(n, down_ms),
            Kind::PauseAgent => self.pause_agent(n, until_ms),
            Kind::PauseKeeper => self.pause_keeper(n, until_ms),
            Kind::PauseMonitor => self.pause_monitor(n, luck, until_ms),
            Kind::HangLedger => self.boxes[n].disk.hangs_until_ms = until_ms,
            Kind::FullLedger => self.fill_ledgers_disk(n, until_ms, luck)?,
            Kind::FailLedger => self.boxes[n].disk.fails_next = true,
            Kind::DamageLedger => {
                self.boxes[n].disk.damaged = true;
                self.crash_agent(n, down_ms);
            }
            Kind::RestoreLedger => {
                self.crash_agent(n, down_ms);
                self.restore_ledger(n);
            }
            Kind::LoseLedger | Kind::LoseIdentity => {
                self.crash_agent(n, down_ms);
                self.boxes[n].lose_ledger(strike.kind == Kind::LoseIdentity);
            }
            Kind::JumpClock => self.boxes[n].wall_offset_ms = jump(luck),
            Kind::NewerAgent => {
                self.boxes[n].too_new_until_ms = until_ms;
                self.crash_agent(n, down_ms);
            }
            _ => {}
        }
        Ok(())
    }

    fn worsen(&mut self, strike: Strike, until_ms: u64) {
        let weather = &mut self.faults.weather[strike.workbox];
        match strike.kind {
            Kind::Cut => (weather.up_ms, weather.down_ms) = (until_ms, until_ms),
            Kind::CutUp => weather.up_ms = until_ms,
            Kind::CutDown => weather.down_ms = until_ms,
            Kind::Drip => weather.drip_ms = until_ms,
            Kind::Rough => {
                weather.rough_ms = until_ms;
                // What was lost or overtaken breaks a stream for good: it starts anew, as a broken proxy's would.
                self.agenda.at(until_ms, Step::Reset(strike.workbox));
            }
            _ => {}
        }
    }

    pub(super) fn reset_links(&mut self, workbox: usize) {
        if let Some(link) = self.boxes[workbox].link {
            for side in [Side::Box, Side::Center] {
                let delay_ms = self.rng.range(1, 20);
                self.agenda.after(delay_ms, Step::Deliver(Delivery { link, content: Content::Closed(side) }));
            }
        }
    }

    /// From here on nothing new goes wrong.
    pub(super) fn end_faults(&mut self) -> Result<(), Wrong> {
        let now_ms = self.agenda.now_ms;
        self.faults.ended = true;
        let rough: Vec<bool> = self.faults.weather.iter().map(|weather| weather.rough_ms > now_ms).collect();
        self.faults.weather.fill(Weather::default());
        for (n, was_rough) in rough.into_iter().enumerate() {
            if was_rough {
                self.reset_links(n);
            }
            self.boxes[n].too_new_until_ms = 0;
            self.boxes[n].disk.mend();
            self.tell_room(n)?;
        }
        self.center.disk.mend();
        Ok(())
    }

    /// What is under way on a box, or anywhere.
    fn what_is_there(&self, workbox: Option<usize>) -> Vec<What> {
        let sidecar = workbox.map(|n| self.boxes[n].sidecar.to_string());
        let mut found = Vec::new();
        for row in self.center.store.tasks.values() {
            found.extend(super::coverage::seen(row, sidecar.as_deref()));
        }
        let boxes = self.boxes.iter().enumerate().filter(|(n, _)| workbox.is_none_or(|wanted| wanted == *n));
        for (_, it) in boxes {
            if it.ledger.rows.values().any(|row| matches!(row.state, sidecar::machine::RowState::Ended(_))) {
                found.push(What::EndUntold);
            }
            if it.ledger.rows.values().any(|row| row.set_aside) {
                found.push(What::SetAside);
            }
        }
        if found.is_empty() {
            found.push(What::Nothing);
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// A wall clock is set: some seconds or minutes forth or back.
fn jump(luck: u64) -> i64 {
    let mut rng = Rng::new(luck);
    let far = if rng.chance(300) { 150_000 } else { 30_000 };
    rng.range(0, 2 * far).cast_signed() - far.cast_signed()
}
