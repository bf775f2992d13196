//! Which faults strike in a history, and when. Each history draws its own mix, so that rare combinations meet.

use super::net::{Content, Delivery, Side};
use super::{FAULTS_END_MS, Rng, Step, World};

/// The mix of one history.
#[derive(Debug, Clone)]
pub struct Faults {
    /// Mean time between faults, ms; 0: none.
    every_ms: u64,
    /// Relative weights, by [`Kind`].
    weights: [u64; KINDS.len()],
    /// Longest delay of a message, ms.
    pub(super) delay_ms: u64,
    /// Longest ordinary commit, ms.
    commit_ms: u64,
    /// Commits hang until then.
    hang_until_ms: u64,
    /// Links also lose, repeat and reorder.
    rough: bool,
    /// Until when each box is cut off, towards the informer and from it.
    cuts: Vec<(u64, u64)>,
    ended: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Cut,
    OneWayCut,
    Reset,
    CrashInformer,
    CrashAgent,
    CrashKeeper,
    CrashBoth,
    CrashBox,
    Reboot,
    PauseAgent,
    HangDisk,
    HangLedger,
}

const KINDS: [Kind; 12] = [
    Kind::Cut,
    Kind::OneWayCut,
    Kind::Reset,
    Kind::CrashInformer,
    Kind::CrashAgent,
    Kind::CrashKeeper,
    Kind::CrashBoth,
    Kind::CrashBox,
    Kind::Reboot,
    Kind::PauseAgent,
    Kind::HangDisk,
    Kind::HangLedger,
];

impl Faults {
    pub(super) fn draw(rng: &mut Rng) -> Self {
        // A third of the kinds is left out of each history: what always strikes together hides what each does alone.
        let weights = std::array::from_fn(|_| if rng.chance(330) { 0 } else { rng.range(1, 10) });
        Self {
            every_ms: if rng.chance(50) { 0 } else { rng.range(700, 9000) },
            weights,
            delay_ms: if rng.chance(200) { rng.range(50, 700) } else { rng.range(1, 30) },
            commit_ms: if rng.chance(200) { rng.range(20, 300) } else { rng.range(1, 8) },
            hang_until_ms: 0,
            rough: rng.chance(250),
            cuts: vec![(0, 0); 8],
            ended: false,
        }
    }

    pub(super) fn commit_ms(&self, rng: &mut Rng, now_ms: u64) -> u64 {
        self.hang_until_ms.saturating_sub(now_ms) + rng.range(0, self.commit_ms)
    }

    pub(super) fn is_rough(&self, now_ms: u64) -> bool {
        self.rough && !self.ended && now_ms < FAULTS_END_MS
    }

    pub(super) fn cut_until_ms(&self, workbox: usize, to_center: bool, now_ms: u64) -> u64 {
        let (up_ms, down_ms) = self.cuts[workbox];
        let until_ms = if to_center { up_ms } else { down_ms };
        if until_ms > now_ms { until_ms } else { 0 }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    fn pick(&self, rng: &mut Rng) -> Option<Kind> {
        let total: u64 = self.weights.iter().sum();
        let mut left = rng.range(0, total.max(1) - 1);
        KINDS.into_iter().zip(self.weights).find_map(|(kind, weight)| {
            if left < weight {
                return Some(kind);
            }
            left -= weight;
            None
        })
    }
}

impl World {
    pub(super) fn schedule_fault(&mut self) {
        if self.faults.every_ms > 0 {
            let delay_ms = self.rng.range(1, 2 * self.faults.every_ms);
            if self.agenda.now_ms + delay_ms < FAULTS_END_MS {
                self.agenda.after(delay_ms, Step::Fault);
            }
        }
    }

    pub(super) fn on_fault(&mut self) -> Result<(), String> {
        self.schedule_fault();
        let Some(kind) = self.faults.pick(&mut self.rng) else { return Ok(()) };
        self.reached.faults += 1;
        let workbox = self.rng.range(0, self.boxes.len() as u64 - 1) as usize;
        if self.options.verbose {
            eprintln!("{:>7} FAULT {kind:?} on box {workbox}", self.agenda.now_ms);
        }
        self.strike(kind, workbox)
    }

    fn strike(&mut self, kind: Kind, workbox: usize) -> Result<(), String> {
        let now_ms = self.agenda.now_ms;
        // Blips are shorter than a lease, cuts longer; both must be met.
        let length_ms = if self.rng.chance(400) { self.rng.range(50, 2500) } else { self.rng.range(2500, 15_000) };
        match kind {
            Kind::Cut => self.faults.cuts[workbox] = (now_ms + length_ms, now_ms + length_ms),
            Kind::OneWayCut if self.rng.chance(500) => self.faults.cuts[workbox].0 = now_ms + length_ms,
            Kind::OneWayCut => self.faults.cuts[workbox].1 = now_ms + length_ms,
            Kind::Reset => self.reset_links(workbox),
            Kind::CrashInformer => {
                if self.center.machine.is_some() {
                    self.crash_center()?;
                    let delay_ms = self.rng.range(10, 8000);
                    self.agenda.after(delay_ms, Step::CenterStart);
                }
            }
            Kind::CrashAgent => self.crash_agent(workbox),
            Kind::CrashKeeper => self.crash_keeper(workbox)?,
            Kind::CrashBoth => {
                self.crash_agent(workbox);
                self.crash_keeper(workbox)?;
            }
            Kind::CrashBox => self.crash_box(workbox, false),
            Kind::Reboot => self.crash_box(workbox, true),
            Kind::PauseAgent => self.pause_agent(workbox, now_ms + length_ms),
            Kind::HangDisk => self.faults.hang_until_ms = now_ms + length_ms,
            Kind::HangLedger => self.hang_ledger(workbox, now_ms + length_ms),
        }
        Ok(())
    }

    fn reset_links(&mut self, workbox: usize) {
        if let Some(link) = self.boxes[workbox].link {
            for side in [Side::Box, Side::Center] {
                let delay_ms = self.rng.range(1, 20);
                self.agenda.after(delay_ms, Step::Deliver(Delivery { link, content: Content::Closed(side) }));
            }
        }
    }

    /// From here on nothing new goes wrong. Links that lost or reordered something start anew, as a broken proxy's would.
    pub(super) fn end_faults(&mut self) {
        self.faults.ended = true;
        self.faults.cuts.fill((0, 0));
        self.faults.hang_until_ms = 0;
        if self.faults.rough {
            for workbox in 0..self.boxes.len() {
                self.reset_links(workbox);
            }
        }
    }
}
