//! The simulation: the very machines that the binaries run, on virtual time, from one seed.
//!
//! ```text
//!   clients ─▶ Center (informer machine + disk) ◀─ Net (delay, loss, cuts) ─▶ Boxes (sidecar machine + ledger
//!                                                                                    + keeper, monitors, processes)
//!                      after every step: what clients were told and what processes did judges both
//! ```
//!
//! | file | models |
//! |---|---|
//! | `script` | what a history is made of, drawn from the seed before it is played |
//! | `clients` | who submits, cancels, retries, drains, prunes |
//! | `center` | the informer's shell: batches, commits that may hang, fail or be lost, effects after commits |
//! | `workbox` | a machine with an agent (the sidecar machine under a model of shell and ledger: `workbox/agent`) |
//! | `identity` | who its sidecar is |
//! | `uplink` | its agent's end of the link |
//! | `keeper` | its keeper, monitors, records and processes |
//! | `disk` | databases, their faults and their backups |
//! | `net`, `wire` | links: ordered streams that delay and break, and peers of other versions |
//! | `faults` | what goes wrong |
//! | `truth`, `commits`, `ends` | the judge: what was observed, what may become durable, what must hold of the whole |
//! | `coverage`, `reached` | which faults struck what, which arms of the tables were taken, and what must be |
//! | `flow` | runs of workflows: who starts them, what they mean, and what must hold of them |
//! | `shrink` | makes a failing history short |
//!
//! A history has one of two modes. *Liveness*: faults stop after a minute, and then everything must end. *Safety*: they never stop,
//! and only what must hold at every moment is judged.
//!
//! | invariant | check | its deliberate mistake |
//! |---|---|---|
//! | 1 an acknowledged submit is kept | `AcknowledgedIsKept` | `ShellBug::AcknowledgeBeforeFlush`, `ShellBug::TellOfGoing` |
//! | 2 one key is one task | `OneKeyOneTask` | informer `ForgetKey`, `IgnoreDigest` |
//! | 3 one result is accepted, its outputs are published once and whole | `OneResult`, `OutputsAreTheWinners`, `EndsStay` | informer `AcceptTwice`, sidecar `PublishUnasked` |
//! | 4 everything ends once faults stop | `EverythingEnds` | informer `NeverReplace`, sidecar `ForgetOutbox` |
//! | 5 a second `stop` copy waits for the first | `SecondCopyWaits`, `LeaseEndsFirst` | informer `NoFenceWait`, sidecar `IgnoreLease`, `LeaseToStrangers` |
//! | 6 what is told to stop stops in time | `StoppedInTime` | sidecar `IgnoreStop` |
//! | 7 restarts and restored backups end nothing; ends are kept | `NothingStoppedUnasked`, `AdoptedWithItsEnd`, `LedgerFirst` | informer `StopUnknown`, sidecar `ForgetRunning`, `StartTwice`, `AckBeforeLedger` |
//! | 8 a wanted log is stored before it goes | `LogBeforePurge` (bytes and offsets: on real processes) | sidecar `PurgeBeforeStored` |
//! | 9 capacity is kept, books agree | `BooksAgree`, `InformerConsistent`, `SidecarConsistent` | informer `Overcommit`, `LeakSlot`, `MiscountMember`, `KeepForNobody` |
//! | 10 a failed flush is believed, damage is not reset | `AcknowledgedIsKept` | `ShellBug::GoOnAfterFailedFlush`, `ShellBug::ResetDamaged` |
//! | 11 queues are bounded | `QueuesAreBounded` (memory: on real processes) | – |
//! | 12 beats leave on time | `BeatsLeave` | `ShellBug::BeatBehindLedger` |
//! | 13 losses are counted apart | `LossesApart` | informer `ChargeLoss`, `EndlessLosses` |
//! | a key is one run; another start under it is refused | `OneKeyOneRun` | informer `ForgetRunKey`, `IgnoreRunDigest`, `ShellBug::ForgetRunKeys` |
//! | a run comes to what its definition means | `RunsMeanIt` | runs `CountTryTwice`, informer `TellParentLater` |
//! | a run ends once faults stop | `EverythingEnds` | informer `ForgetRunTimers`, `TellParentLater`, `KeepPlace` |
//! | a step has one task, one worker at a time | `StepOnce` | informer `WorkTwice` |
//! | a join waits | `JoinsWait` | runs `JoinEarly` |
//! | a run's end is the end of its work, and of the runs it waits for | `NothingAfterTheEnd`, `ChildEndsWithIt` | informer `OrphanWork`, `OrphanChild` |
//! | no more of a name runs than may | `LimitsHold` | informer `IgnoreExecLimit` |
//! | what a run names is stored | `RunsConsistent` | `ShellBug::LeaveBodies` |
//! | no fence is given twice, and those of a task rise | `FencesRise` | `ShellBug::CountEpochs` |
//! | no end is forgotten before it is stored | `EndBeforeForgetting` | sidecar `PurgeBeforeAck` |

mod center;
mod clients;
mod commits;
mod coverage;
mod disk;
mod ends;
mod faults;
mod flow;
mod identity;
mod judge;
mod keeper;
mod net;
mod reached;
pub mod rng;
mod script;
mod shrink;
mod truth;
mod uplink;
mod wire;
mod workbox;

pub use coverage::{Coverage, What};
pub use faults::Kind;
pub use flow::Edge;
pub use judge::{Check, Wrong};
pub use rng::Rng;
pub use script::Feature;
pub use shrink::{Keep, shrink};

use center::Center;
use faults::Faults;
use flow::Flow;
use judge::wrong;
use net::Net;
use proto::v1;
use script::Script;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use truth::Truth;
use workbox::Workbox;

/// What is judged of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Faults never stop; what must hold at every moment is judged.
    Safety,
    /// Faults stop; then everything must end, too.
    Liveness,
}

/// A mistake of the shells, which are models here: each is one that a shell could make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShellBug {
    /// Effects leave before their batch is flushed.
    AcknowledgeBeforeFlush,
    /// A failed flush is taken for a good one.
    GoOnAfterFailedFlush,
    /// A damaged database is replaced by an empty one.
    ResetDamaged,
    /// Beats wait for the ledger, like all else.
    BeatBehindLedger,
    /// An epoch is the one before and one more.
    CountEpochs,
    /// What the commit under way removes is told of as if it stayed.
    TellOfGoing,
    /// A start is not completed with what its key stands for.
    ForgetRunKeys,
    /// What an evaluation has made is not committed with its answer.
    LeaveBodies,
}

/// What a history is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// Everything follows from it.
    pub seed: u64,
    /// What is judged.
    pub mode: Mode,
    /// Wrong line of the informer, if the history is to show that it is caught.
    pub informer_bug: Option<informer::machine::Bug>,
    /// Wrong line of runs.
    pub run_bug: Option<workflow::run::bug::Bug>,
    /// Wrong line of the sidecar.
    pub sidecar_bug: Option<sidecar::machine::Bug>,
    /// Wrong line of a shell.
    pub shell_bug: Option<ShellBug>,
    /// What of it is played.
    pub keep: Keep,
    /// Its story is told, too.
    pub verbose: bool,
}

impl Options {
    /// A history without deliberate mistakes. Every third seed is one without an end to its faults.
    #[must_use]
    pub fn seed(seed: u64) -> Self {
        Self {
            seed,
            mode: if seed % 3 == 2 { Mode::Safety } else { Mode::Liveness },
            informer_bug: None,
            run_bug: None,
            sidecar_bug: None,
            shell_bug: None,
            keep: Keep::default(),
            verbose: false,
        }
    }
}

/// How a history failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Of which history.
    pub options: Options,
    /// When.
    pub at_ms: u64,
    /// In what.
    pub wrong: Wrong,
    /// What happened, if it was to be told.
    pub story: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { seed, mode, keep, .. } = &self.options;
        for line in &self.story {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "seed {seed} ({mode:?}) at {} ms: {}", self.at_ms, self.wrong)?;
        match keep.to_string().as_str() {
            "" => write!(f, "replay: SIM_SEED={seed} tests/sim.sh"),
            keep => write!(f, "replay: SIM_SEED={seed} SIM_KEEP={keep:?} tests/sim.sh"),
        }
    }
}

/// Beat interval of every history, ms.
const BEAT_MS: u64 = 1000;
/// Kill delay after a lease's end, ms.
const FENCE_GRACE_MS: u64 = 400;
/// When a history begins: times in its script count from here.
const START_MS: u64 = 1000;
/// Faults strike until then, if they end.
const FAULTS_END_MS: u64 = 60_000;
/// The end of a history whose faults do not.
const SAFETY_END_MS: u64 = 90_000;
/// Everything has ended by then: the longest retry chain of the tasks submitted here takes less than half of it.
const END_MS: u64 = 600_000;
/// Steps of one history; more means that something spins.
const MAX_STEPS: u64 = 400_000;
/// How far wall clocks are ahead of true time at the beginning, ms: so far that they can be set back by a day.
const WALL_MS: u64 = 1_000_000_000;
/// Longest line of a told step, in bytes.
const LINE_BYTES: usize = 220;

/// What a clock shows that was `offset_ms` ahead at the beginning and runs too fast by so many millionths.
fn drifted(offset_ms: u64, ppm: i64, now_ms: u64) -> u64 {
    let drift_ms = now_ms.cast_signed() * ppm / 1_000_000;
    (offset_ms + now_ms).saturating_add_signed(drift_ms)
}

/// When such a clock will first show a time.
fn undrifted(offset_ms: u64, ppm: i64, shown_ms: u64) -> u64 {
    let elapsed_ms = shown_ms.saturating_sub(offset_ms).cast_signed();
    let guess_ms = (elapsed_ms * 1_000_000 / (1_000_000 + ppm)).cast_unsigned();
    let from_ms = guess_ms.saturating_sub(2);
    (from_ms..=guess_ms + 2).find(|at_ms| drifted(offset_ms, ppm, *at_ms) >= shown_ms).unwrap_or(guess_ms + 2)
}

/// What happens at some time.
#[derive(Debug, Clone)]
enum Step {
    /// A client submits, or asks again.
    Submit(usize),
    /// A client or an operator does something else.
    Act(usize),
    /// A message arrives; see [`Net`].
    Deliver(net::Delivery),
    /// The informer's timer.
    CenterTimer(u64),
    /// The informer's commit is done.
    CenterCommitted { life: u64, seq: u64 },
    /// An ended informer starts again.
    CenterStart { life: u64 },
    /// A box's timer.
    BoxTimer { workbox: usize, life: u64 },
    /// A box's ledger batch is durable.
    BoxCommitted { workbox: usize, life: u64, seq: u64 },
    /// Something inside a box.
    Inside { workbox: usize, what: workbox::Inside },
    /// A fault strikes.
    Strike(usize),
    /// The link of a box breaks.
    Reset(usize),
    /// Databases are copied.
    Backup,
    /// Something about workflows.
    Flow(flow::FlowStep),
    /// The last fault is over.
    Calm,
    /// Operators take back what they did.
    Tidy,
}

/// A step in one line; `None` for those that are nothing but clockwork.
fn told(step: &Step) -> Option<String> {
    use net::Content as C;
    use v1::informer_message::Message as Down;
    use v1::sidecar_message::Message as Up;
    use workbox::Inside as I;
    match step {
        Step::CenterTimer(_) | Step::BoxTimer { .. } | Step::BoxCommitted { .. } | Step::CenterCommitted { .. } => None,
        Step::Inside { what: I::LeaseCheck { .. } | I::StopCheck { .. }, .. } => None,
        Step::Strike(_) => None,
        Step::Inside { workbox, what } => Some(format!("box {workbox}: {what:?}")),
        Step::Deliver(net::Delivery { link, content }) => match content {
            C::ToCenter(message) => match &message.message {
                Some(Up::Beat(_) | Up::Pong(_)) | None => None,
                Some(message) => Some(format!("link {link} to informer: {message:?}")),
            },
            C::ToBox(message) => match &message.message {
                Some(Down::BeatAck(_) | Down::Ping(_) | Down::Executors(_)) | None => None,
                Some(message) => Some(format!("link {link} to box: {message:?}")),
            },
            C::Closed(side) => Some(format!("link {link} is closed for {side:?}")),
        },
        other => Some(format!("{other:?}")),
    }
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

/// The id of the nth box.
fn sidecar_id(n: usize) -> proto::id::SidecarId {
    proto::id::SidecarId::from_u128(n as u128 + 1)
}

/// Everything there is.
struct World {
    options: Options,
    script: Script,
    rng: Rng,
    agenda: Agenda,
    net: Net,
    center: Center,
    boxes: Vec<Workbox>,
    truth: Truth,
    faults: Faults,
    flow: Flow,
    coverage: Coverage,
    story: Vec<String>,
}

/// Plays one history.
///
/// # Errors
/// The check that failed, and how to play it again.
pub fn play(options: &Options) -> Result<Coverage, Box<Failure>> {
    workflow::run::bug::choose(options.run_bug);
    let mut world = World::new(options.clone());
    match world.run() {
        Ok(()) => Ok(world.coverage),
        Err(wrong) => {
            Err(Box::new(Failure { options: options.clone(), at_ms: world.agenda.now_ms, wrong, story: world.story }))
        }
    }
}

impl World {
    fn new(options: Options) -> Self {
        let script = Script::of(&options);
        let boxes: Vec<Workbox> =
            script.boxes.iter().enumerate().map(|(n, plan)| Workbox::new(n, plan.clone())).collect();
        Self {
            rng: Rng::of(options.seed, &[4, options.keep.noise]),
            agenda: Agenda { now_ms: START_MS, counter: 0, queue: BinaryHeap::new() },
            net: Net::default(),
            center: Center::default(),
            truth: Truth::new(options.seed, &script),
            faults: Faults::new(boxes.len()),
            flow: Flow::new(options.seed, script.flow.clone().unwrap_or_default()),
            coverage: Coverage::default(),
            story: Vec::new(),
            boxes,
            script,
            options,
        }
    }

    /// A line of the story, if it is to be told.
    fn tell(&mut self, line: impl FnOnce() -> String) {
        if self.options.verbose {
            let mut line = line();
            line.truncate((0..=LINE_BYTES).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0));
            self.story.push(format!("{:>7} {line}", self.agenda.now_ms));
        }
    }

    fn schedule(&mut self) {
        let keep = self.options.keep.clone();
        for (nth, task) in self.script.tasks.iter().enumerate() {
            if shrink::keeps(keep.tasks.as_ref(), nth) {
                self.agenda.at(START_MS + task.submit_at_ms, Step::Submit(nth));
            }
        }
        for (nth, (at_ms, _)) in self.script.acts.iter().enumerate() {
            if shrink::keeps(keep.acts.as_ref(), nth) {
                self.agenda.at(START_MS + at_ms, Step::Act(nth));
            }
        }
        for (nth, strike) in self.script.strikes.iter().enumerate() {
            if shrink::keeps(keep.strikes.as_ref(), nth) {
                self.agenda.at(START_MS + strike.at_ms, Step::Strike(nth));
            }
        }
        self.schedule_flow();
        self.agenda.at(2000, Step::Backup);
        if self.options.mode == Mode::Liveness {
            self.agenda.at(START_MS + FAULTS_END_MS, Step::Calm);
        }
    }

    fn run(&mut self) -> Result<(), Wrong> {
        self.start_center()?;
        for n in 0..self.boxes.len() {
            self.start_agent(n)?;
        }
        self.schedule();
        let safety = self.options.mode == Mode::Safety;
        let end_ms = if safety { SAFETY_END_MS } else { END_MS };
        let mut calm = false;
        while let Some(Reverse(Entry { at_ms, step, .. })) = self.agenda.queue.pop() {
            self.agenda.now_ms = at_ms;
            calm |= matches!(step, Step::Calm);
            if at_ms >= end_ms || (calm && self.is_over()) {
                break;
            }
            self.coverage.steps += 1;
            if self.coverage.steps > MAX_STEPS {
                return wrong(Check::NothingSpins, "too many steps");
            }
            if let Some(line) = self.options.verbose.then(|| told(&step)).flatten() {
                self.tell(|| line);
            }
            self.take(step)?;
            self.judge()?;
        }
        self.count();
        if safety {
            return Ok(());
        }
        self.judge_end()?;
        self.judge_runs_end()
    }

    fn take(&mut self, step: Step) -> Result<(), Wrong> {
        match step {
            Step::Submit(task) => self.on_submit(task),
            Step::Act(nth) => self.on_act(nth),
            Step::Deliver(delivery) => self.on_delivery(delivery),
            Step::CenterTimer(life) => self.on_center_timer(life),
            Step::CenterCommitted { life, seq } => self.on_center_committed(life, seq),
            Step::CenterStart { life } => self.on_center_start(life),
            Step::BoxTimer { workbox, life } => self.on_box_timer(workbox, life),
            Step::BoxCommitted { workbox, life, seq } => self.on_box_committed(workbox, life, seq),
            Step::Inside { workbox, what } => self.on_inside(workbox, what),
            Step::Strike(nth) => self.on_strike(nth),
            Step::Reset(workbox) => {
                self.reset_links(workbox);
                Ok(())
            }
            Step::Backup => {
                self.on_backup();
                Ok(())
            }
            Step::Flow(step) => self.on_flow_step(step),
            Step::Calm => {
                self.end_faults()?;
                self.on_tidy()
            }
            Step::Tidy => self.on_tidy(),
        }
    }
}
