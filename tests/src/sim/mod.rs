//! The simulation: the very machines that the binaries run, on virtual time, from one seed.
//!
//! ```text
//!   clients ─▶ Center (informer machine + store model) ◀─ Net (delay, loss, cuts) ─▶ Boxes (sidecar machine + ledger model
//!                                                                                        + keeper and process model)
//!                      after every step: Truth (what clients were told, what processes did) judges both
//! ```
//!
//! | file | models |
//! |---|---|
//! | `center` | the informer's shell: batches, commits that may hang or be lost, effects after commits |
//! | `workbox` | a machine with an agent (the sidecar machine under a model of shell and ledger) |
//! | `keeper` | its keeper, records and processes |
//! | `net` | links: ordered streams that delay, lose, repeat and break |
//! | `faults` | which of them strike in this history, and when |
//! | `truth` | the invariants, judged from outside |

mod center;
mod faults;
mod keeper;
mod net;
pub mod rng;
mod truth;
mod workbox;

pub use faults::Faults;
pub use rng::Rng;

use center::Center;
use net::Net;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use truth::Truth;
use workbox::Workbox;

/// What a history is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// Everything follows from it.
    pub seed: u64,
    /// Wrong line of the informer, if the history is to show that it is caught.
    pub informer_bug: Option<informer::machine::Bug>,
    /// Wrong line of the sidecar.
    pub sidecar_bug: Option<sidecar::machine::Bug>,
    /// Print each step to stderr.
    pub verbose: bool,
}

impl Options {
    /// A history without deliberate mistakes.
    #[must_use]
    pub fn seed(seed: u64) -> Self {
        Self { seed, informer_bug: None, sidecar_bug: None, verbose: false }
    }
}

/// What a history reached, for the coverage of faults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reached {
    /// Steps taken.
    pub steps: u64,
    /// Tasks that ended.
    pub ended: u64,
    /// Sidecars that were declared lost.
    pub losses: u64,
    /// Results stored as late.
    pub late: u64,
    /// Faults injected.
    pub faults: u64,
    /// Processes started.
    pub processes: u64,
}

/// Beat interval of every history, ms.
const BEAT_MS: u64 = 1000;
/// Kill delay after a lease's end, ms.
const FENCE_GRACE_MS: u64 = 400;
/// Faults strike until then.
const FAULTS_END_MS: u64 = 60_000;
/// Everything has ended by then: the longest retry chain of the tasks submitted here takes less than half of it.
const END_MS: u64 = 400_000;
/// Steps of one history; more means that something spins.
const MAX_STEPS: u64 = 400_000;

/// What happens at some time.
#[derive(Debug, Clone)]
enum Step {
    /// A client submits (or repeats) something.
    Client,
    /// A message arrives; see [`Net`].
    Deliver(net::Delivery),
    /// The informer's timer.
    CenterTimer(u64),
    /// The informer's commit is done.
    CenterCommitted { life: u64, seq: u64 },
    /// A crashed informer starts again.
    CenterStart,
    /// A box's timer.
    BoxTimer { workbox: usize, life: u64 },
    /// A box's ledger batch is durable.
    BoxCommitted { workbox: usize, life: u64, seq: u64 },
    /// Something inside a box.
    Inside { workbox: usize, what: workbox::Inside },
    /// A fault strikes.
    Fault,
    /// The last fault is over.
    Calm,
    /// The operator takes his drains back.
    Undrain,
}

/// The scheduler: virtual time and what is to come.
struct Agenda {
    now_ms: u64,
    counter: u64,
    queue: BinaryHeap<Reverse<Entry>>,
}

struct Entry {
    at_ms: u64,
    counter: u64,
    step: Step,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at_ms, self.counter) == (other.at_ms, other.counter)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_ms, self.counter).cmp(&(other.at_ms, other.counter))
    }
}

impl Agenda {
    fn at(&mut self, at_ms: u64, step: Step) {
        self.counter += 1;
        self.queue.push(Reverse(Entry { at_ms: at_ms.max(self.now_ms), counter: self.counter, step }));
    }

    fn after(&mut self, delay_ms: u64, step: Step) {
        self.at(self.now_ms + delay_ms, step);
    }
}

/// Everything there is.
struct World {
    options: Options,
    rng: Rng,
    agenda: Agenda,
    net: Net,
    center: Center,
    boxes: Vec<Workbox>,
    truth: Truth,
    faults: Faults,
    reached: Reached,
}

/// Plays one history.
///
/// # Errors
/// The violated invariant, with the seed and how to play it again.
pub fn play(options: &Options) -> Result<Reached, String> {
    let mut world = World::new(options.clone());
    world.run().map(|()| world.reached).map_err(|wrong| {
        let seed = options.seed;
        format!("seed {seed} at {} ms: {wrong}\nreplay: SIM_SEED={seed} tests/sim.sh", world.agenda.now_ms)
    })
}

impl World {
    fn new(options: Options) -> Self {
        let mut rng = Rng::new(options.seed);
        let faults = Faults::draw(&mut rng);
        let count = rng.range(1, 3) as usize;
        let boxes = (0..count).map(|n| Workbox::new(n, &mut rng, options.sidecar_bug)).collect();
        let agenda = Agenda { now_ms: 1000, counter: 0, queue: BinaryHeap::new() };
        let center = Center::new(options.informer_bug);
        let truth = Truth::default();
        Self { options, rng, agenda, net: Net::default(), center, boxes, truth, faults, reached: Reached::default() }
    }

    fn run(&mut self) -> Result<(), String> {
        self.start_center()?;
        for n in 0..self.boxes.len() {
            self.start_agent(n)?;
        }
        for _ in 0..self.rng.range(3, 14) {
            let at = self.agenda.now_ms + self.rng.range(0, FAULTS_END_MS / 2);
            self.agenda.at(at, Step::Client);
        }
        self.schedule_fault();
        self.agenda.at(FAULTS_END_MS, Step::Calm);
        let mut calm = false;
        while let Some(Reverse(Entry { at_ms, step, .. })) = self.agenda.queue.pop() {
            self.agenda.now_ms = at_ms;
            calm |= matches!(step, Step::Calm);
            if at_ms >= END_MS || (calm && self.is_over()) {
                break;
            }
            self.reached.steps += 1;
            if self.reached.steps > MAX_STEPS {
                return Err("it spins: too many steps".to_owned());
            }
            if self.options.verbose {
                eprintln!("{at_ms:>7} {step:?}");
            }
            self.take(step)?;
            self.judge()?;
        }
        self.judge_end()
    }

    fn take(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Client => self.on_client(),
            Step::Deliver(delivery) => self.on_delivery(delivery),
            Step::CenterTimer(life) => self.on_center_timer(life),
            Step::CenterCommitted { life, seq } => self.on_center_committed(life, seq),
            Step::CenterStart => self.start_center(),
            Step::BoxTimer { workbox, life } => self.on_box_timer(workbox, life),
            Step::BoxCommitted { workbox, life, seq } => self.on_box_committed(workbox, life, seq),
            Step::Inside { workbox, what } => self.on_inside(workbox, what),
            Step::Fault => self.on_fault(),
            Step::Calm => {
                self.end_faults();
                self.on_undrain()
            }
            Step::Undrain => self.on_undrain(),
        }
    }
}
