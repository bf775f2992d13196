//! The sidecar's decisions: informer's view × ledger × keeper's list → orders. Deterministic, without clock, I/O, randomness or async.
//!
//! ```text
//!  informer ── Heard ──▶ ┌─────────┐ ── SendReport, SendBeat ──▶ informer
//!  keeper ─── Noticed ─▶ │ Machine │ ── StartAttempt, StopAttempt ──▶ keeper
//!  ledger ── committed ▶ └─────────┘ ── take_batch ──▶ ledger
//! ```
//!
//! The shell applies events, takes the batch, commits it, calls [`Machine::committed`], and only then lets the effects of that batch
//! go. Beats, the lease page, starts and stops go at once ([`Effect::is_urgent`]).
//!
//! What it keeps true, whatever is repeated, late or reordered:
//!
//! - an attempt is acknowledged only after its row is durable, and started once (it may start while the row is being written: its
//!   record tells the next agent of it, and until it is acknowledged the informer repeats its assignment);
//! - nothing starts without a live lease, counted from the send time of the last acknowledged beat;
//! - no `stop` attempt is prolonged by the lease of an informer that has not given it;
//! - per attempt, reports leave in the order accepted, started, ended, published, and again after each reconnect until acknowledged;
//! - a child is stored before it goes up, goes up again until it is answered, and goes before the end of its attempt;
//! - in a fresh link, nothing is said about an attempt (and a waiting one is not started) before the informer's verdict on it;
//! - what the informer has not acknowledged is never purged, nor a log that it wants and has not stored, as long as there is room.
//!
//! | file | holds |
//! |---|---|
//! | [`event`](Event) | what can happen |
//! | [`effect`](Effect) | what can be wanted |
//! | `stage` | where an attempt stands: diagram and table |
//! | `row` | one attempt in memory and in the ledger |
//! | `lease` | beats and the lease they earn |
//! | `link` | what the informer says |
//! | `keeping` | what the keeper says |
//! | `unnamed` | what runs and nobody can name: it is ended before the hello |
//! | `outbox` | reports: order, window, acknowledgement |
//! | `emits` | children of running tasks, until the informer has them |
//! | `uploads` | logs that go up after the end, and what is purged when |
//! | `tally` | what is counted for those who watch |
//! | `books` | counters and indices over the attempts |
//! | `check` | every invariant, recomputed |
//! | `arms` | how often each arm of the table was taken, for the simulation |

#[cfg(feature = "seeded-bugs")]
mod arms;
mod books;
mod check;
mod effect;
#[cfg(test)]
mod emit_stories;
mod emits;
mod event;
mod keeping;
mod lease;
mod link;
mod outbox;
mod row;
mod stage;
#[cfg(test)]
mod stories;
mod tally;
mod unnamed;
mod uploads;
#[cfg(test)]
mod walk;

#[cfg(feature = "seeded-bugs")]
pub use arms::{Arm, Arms};
pub use effect::{Batch, Complaint, Effect};
pub use emits::{Emit, EmitAnswer, EmitRow, Ticket};
pub use event::{Event, Facts, Found, FoundState, Heard, LinkId, Note, Notice, Now, Refusal, Terms};
pub use row::{Row, RowState, Wish};
pub use stage::{LogCopy, Stage};
pub use tally::Tally;
pub use uploads::WINDOW as UPLOADS_ORDERED;

use emits::Emits;
use lease::Lease;
use outbox::Outbox;
use proto::id::{AttemptId, Fence};
use proto::{bounds, v1};
use row::Attempt;
use stage::{Happening, Next};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use unnamed::Unnamed;
use uploads::Uploads;

/// Refused and purged attempts that are remembered, so that a late repetition of their assignment starts nothing. Within one link
/// messages cannot be later than the link's queues are long; four times that leaves room for several links.
const GONE_REMEMBERED: usize = 4 * bounds::LINK_QUEUE;

/// What the machine is told at its start and never again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Attempts that may run at once.
    pub slots: u32,
    /// Attempts whose logs are kept after the informer has their end, so that they can still be read. The oldest go first.
    pub keep_attempts: usize,
    /// Log bytes that are kept in all for such attempts.
    pub keep_bytes: u64,
    /// One deliberately wrong line, to show that the simulation catches it.
    #[cfg(feature = "seeded-bugs")]
    pub bug: Option<Bug>,
}

impl Config {
    /// A sidecar with so many slots and default retention.
    #[must_use]
    pub fn new(slots: u32) -> Self {
        Self {
            slots,
            keep_attempts: 200,
            keep_bytes: 1 << 30,
            #[cfg(feature = "seeded-bugs")]
            bug: None,
        }
    }
}

/// Deliberate mistakes, each one production line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A repeated assignment is taken for a new one.
    StartTwice,
    /// An assignment is acknowledged and started before its row is durable.
    AckBeforeLedger,
    /// An attempt is forgotten when its end was sent, not when it was acknowledged.
    PurgeBeforeAck,
    /// The lease is counted from the receipt of the acknowledgement.
    IgnoreLease,
    /// Ends are not told again in a new link.
    ForgetOutbox,
    /// An order to stop what runs does not reach the keeper.
    IgnoreStop,
    /// What the keeper lists as running after a restart is called lost.
    ForgetRunning,
    /// Outputs are put in place as soon as they are staged.
    PublishUnasked,
    /// A log that the informer wants is not waited for.
    PurgeBeforeStored,
    /// What another informer has given is prolonged by the lease of this one.
    LeaseToStrangers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkState {
    Down,
    /// Open; the hello waits for the keeper's first listing.
    Opened(LinkId),
    /// Hello and inventory are sent.
    Introduced(LinkId),
    /// The informer took the hello: beats, reports and work.
    Welcomed(LinkId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeeperState {
    /// Not heard since the agent's start: what runs is unknown, so nothing may be told to the informer.
    Unheard,
    Connected,
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Serving,
    Draining,
    Leaving,
    StoppingTasks,
    /// The informer will not have this incarnation again.
    Superseded,
}

/// All state that decisions need.
#[derive(Debug)]
pub struct Machine {
    config: Config,
    attempts: BTreeMap<AttemptId, Attempt>,
    /// Taken and not started, by order.
    waiting: BTreeSet<(u64, AttemptId)>,
    /// Retired, by order.
    retired: BTreeSet<(u64, AttemptId)>,
    retired_bytes: u64,
    /// Of these, the ones whose log the informer has, or does not want.
    spare: BTreeSet<(u64, AttemptId)>,
    uploads: Uploads,
    emits: Emits,
    /// The informer of this link knows what an emit is.
    takes_children: bool,
    tally: Tally,
    unfinished: u32,
    /// Of these, the ones that the informer does not count.
    apart: u32,
    busy: u32,
    next_order: u64,
    gone: BTreeSet<AttemptId>,
    gone_order: VecDeque<AttemptId>,
    dirty: BTreeSet<AttemptId>,
    deletes: BTreeSet<AttemptId>,
    /// Rows in batches that are on their way to the disk, by batch.
    committing: VecDeque<(u64, Vec<AttemptId>)>,
    link: LinkState,
    keeper: KeeperState,
    unnamed: Unnamed,
    mode: Mode,
    lease: Lease,
    /// The lease page is another informer's, or was earned under another sidecar's id.
    stranger: bool,
    outbox: Outbox,
    load: v1::Load,
    /// The disk is not full.
    room: bool,
    progressed: BTreeSet<AttemptId>,
    /// Whether new work is welcome, and how many attempts are apart, as the last beat of this link told it.
    told_room: Option<(bool, u32)>,
    /// Whether new work is welcome, as it was after the last event.
    open: bool,
    lease_end_seen_ms: u64,
    /// How often each arm of the table was taken, for the simulation.
    #[cfg(feature = "seeded-bugs")]
    arms: Arms,
}

impl Machine {
    /// A machine that knows what the ledger held. Until the keeper has listed what there is, it tells nobody anything.
    #[must_use]
    pub fn new(config: Config, rows: impl IntoIterator<Item = Row>) -> Self {
        let mut machine = Self {
            config,
            attempts: BTreeMap::new(),
            waiting: BTreeSet::new(),
            retired: BTreeSet::new(),
            retired_bytes: 0,
            spare: BTreeSet::new(),
            uploads: Uploads::default(),
            emits: Emits::default(),
            takes_children: false,
            tally: Tally::default(),
            unfinished: 0,
            apart: 0,
            busy: 0,
            next_order: 1,
            gone: BTreeSet::new(),
            gone_order: VecDeque::new(),
            dirty: BTreeSet::new(),
            deletes: BTreeSet::new(),
            committing: VecDeque::new(),
            link: LinkState::Down,
            keeper: KeeperState::Unheard,
            unnamed: Unnamed::default(),
            mode: Mode::Serving,
            lease: Lease::default(),
            stranger: false,
            outbox: Outbox::default(),
            load: v1::Load::default(),
            room: true,
            progressed: BTreeSet::new(),
            told_room: None,
            open: false,
            lease_end_seen_ms: 0,
            #[cfg(feature = "seeded-bugs")]
            arms: Arms::default(),
        };
        for row in rows {
            let (id, attempt) = Attempt::from_row(row);
            machine.next_order = machine.next_order.max(attempt.order + 1);
            machine.insert(id, attempt);
        }
        machine
    }

    /// Decides what follows from one event; effects are appended in order.
    pub fn apply(&mut self, now: Now, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::LinkOpened { link } => self.on_link_opened(link, effects),
            Event::LinkClosed { link } => self.on_link_closed(link),
            Event::Heard { link, heard } => self.on_heard(now, link, heard, effects),
            Event::KeeperConnected { listing } => self.on_keeper_connected(now, listing, effects),
            Event::KeeperGone => self.on_keeper_gone(),
            Event::Noticed { attempt, notice } => self.on_noticed(now, attempt, notice, effects),
            Event::Progressed { attempt, progress } => self.on_progressed(attempt, progress),
            Event::Condemned { attempt, why } => self.on_condemned(attempt, why, effects),
            Event::EmitAsked { ticket, attempt, fence, emit } => {
                self.on_emit_asked(ticket, attempt, fence, emit, effects);
            }
            Event::OutputsPublished { attempt, failure } => {
                self.advance(attempt, Happening::OutputsPublished(failure), effects);
            }
            Event::LogSent { attempt, failure } => self.on_log_sent(now, attempt, failure.is_none(), effects),
            Event::Purged { attempt } => self.on_purged(attempt),
            Event::LoadSampled(load) => self.load = load,
            Event::DiskSeen { room } => self.on_disk_seen(room, effects),
            Event::LeasePageSeen { written } => self.lease.on_page_seen(written),
            Event::ShutdownRequested { stop_tasks } => self.on_shutdown_requested(now, stop_tasks, effects),
            Event::TimePassed => self.on_unnamed_overdue(now, effects),
        }
        self.settle(now, effects);
    }

    /// Takes what must be committed before the effects collected since the last call may leave. `seq` names the batch for
    /// [`Machine::committed`].
    #[must_use]
    pub fn take_batch(&mut self, seq: u64) -> Batch {
        let dirty = std::mem::take(&mut self.dirty);
        let deletes = std::mem::take(&mut self.deletes);
        self.committing.push_back((seq, dirty.iter().copied().collect()));
        let (emits, emits_gone) = self.emits.take_dirty();
        Batch {
            emits,
            emits_gone,
            rows: dirty.iter().filter_map(|id| self.attempts.get(id).map(|attempt| attempt.to_row(*id))).collect(),
            deletes: deletes.into_iter().filter(|id| !self.attempts.contains_key(id)).collect(),
        }
    }

    /// The batch `seq` and all before it are durable: attempts that waited for it are acknowledged.
    pub fn committed(&mut self, now: Now, seq: u64, effects: &mut Vec<Effect>) {
        while self.committing.front().is_some_and(|(first, _)| *first <= seq) {
            let (_, rows) = self.committing.pop_front().expect("the queue was just seen not to be empty");
            for attempt in rows {
                self.advance(attempt, Happening::Durable, effects);
            }
        }
        self.settle(now, effects);
    }

    /// When `TimePassed` is wanted, on the `boot_ms` clock.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<u64> {
        let beat = self.beating().map(|_| self.lease.next_beat_ms(self.has_news()));
        let deadline = self.lease.deadline_ms();
        let lease_end = (deadline != self.lease_end_seen_ms).then_some(deadline);
        let upload = self.next_upload_ms();
        [beat, lease_end, upload, self.unnamed.wakeup_ms()].into_iter().flatten().min()
    }

    /// Whether the machine holds the attempt, so that a note from its record is not needed.
    #[must_use]
    pub fn holds(&self, attempt: AttemptId) -> bool {
        self.attempts.contains_key(&attempt)
    }

    /// Where the attempt stands.
    #[must_use]
    pub fn stage(&self, attempt: AttemptId) -> Option<&Stage> {
        self.attempts.get(&attempt).map(|held| &held.stage)
    }

    /// Attempts with a process, as far as is known.
    pub fn running(&self) -> impl Iterator<Item = AttemptId> + '_ {
        self.attempts.iter().filter(|(_, attempt)| attempt.stage == Stage::Running).map(|(id, _)| *id)
    }

    /// Whether nothing keeps the agent from ending, after a shutdown was requested.
    #[must_use]
    pub fn may_exit(&self) -> bool {
        match self.mode {
            Mode::Leaving => true,
            // The ends are in the ledger at least; whether the informer hears of them now or from the next agent is the same to it.
            Mode::StoppingTasks => self.unfinished == 0,
            Mode::Serving | Mode::Draining | Mode::Superseded => false,
        }
    }

    /// Whether the outbox of the present link is empty, so that a parting agent need not wait for acknowledgements.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        !matches!(self.link, LinkState::Welcomed(_)) || self.outbox.is_empty()
    }

    /// Whether logs are on their way up, or about to be, so that a parting agent may wait for them.
    #[must_use]
    pub fn is_uploading(&self) -> bool {
        self.may_upload() && !self.uploads.is_empty()
    }

    /// What is counted for those who watch.
    #[must_use]
    pub const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Whether the informer has welcomed this sidecar on a link that is open.
    #[must_use]
    pub const fn is_linked(&self) -> bool {
        matches!(self.link, LinkState::Welcomed(_))
    }

    /// Reports that are queued or in flight.
    #[must_use]
    pub fn outbox_len(&self) -> usize {
        self.outbox.len()
    }

    /// Logs that shall be stored at the informer and are not.
    #[must_use]
    pub fn logs_owed(&self) -> usize {
        self.uploads.len()
    }

    /// When the lease ends, `CLOCK_BOOTTIME` ms; 0 if none was ever held.
    #[must_use]
    pub fn lease_deadline_ms(&self) -> u64 {
        self.lease.deadline_ms()
    }

    /// Recomputes every invariant. Tests and the simulation call it after each step.
    ///
    /// # Errors
    /// The invariant that does not hold, in words.
    pub fn check(&self) -> Result<(), String> {
        check::all(self)
    }

    /// How often each arm of the table of stages was taken.
    #[cfg(feature = "seeded-bugs")]
    #[must_use]
    pub const fn arms(&self) -> &Arms {
        &self.arms
    }

    #[cfg(feature = "seeded-bugs")]
    fn has(&self, bug: Bug) -> bool {
        self.config.bug == Some(bug)
    }

    #[cfg(not(feature = "seeded-bugs"))]
    #[expect(clippy::unused_self, reason = "the same call sites with and without the feature")]
    const fn has(&self, _bug: Bug) -> bool {
        false
    }

    /// What may have become possible by any event: beats, starts, refusals at the lease's end, reports, uploads, purges.
    fn settle(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.refuse_at_lease_end(now, effects);
        self.hand_back(effects);
        self.start_waiting(now, effects);
        self.pump_emits(effects);
        self.pump(effects);
        self.order_uploads(now, effects);
        self.purge_oldest(effects);
        self.open = self.is_open(now);
        self.beat_if_due(now, effects);
    }

    /// The one place where a stage changes: the table decides, the books follow, the ledger is told.
    fn advance(&mut self, id: AttemptId, happening: Happening, effects: &mut Vec<Effect>) -> bool {
        let Some(held) = self.attempts.get(&id) else { return false };
        let happened = happening.name();
        #[cfg(feature = "seeded-bugs")]
        self.arms.count(&held.stage, &happening);
        let stage = match held.stage.after(happening) {
            Next::Stay => return false,
            Next::Impossible => {
                let stage = held.stage.name();
                effects.push(Effect::Complain(Complaint::Impossible { attempt: id, stage, happened }));
                return false;
            }
            Next::To(stage) => stage,
        };
        let mut attempt = self.attempts.remove(&id).expect("it was just seen");
        self.unbook(id, &attempt);
        // What the ledger already says in other words need not be written: who is starting, the keeper knows.
        if !stage.is_written_as(&attempt.stage) {
            self.dirty.insert(id);
        }
        attempt.stage = stage;
        self.book(id, &attempt);
        self.tally.on_stage(&attempt.stage);
        self.attempts.insert(id, attempt);
        self.queue_reports(id);
        true
    }

    /// Remembers an attempt that must not start any more although it is not held.
    fn remember_gone(&mut self, id: AttemptId) {
        if self.gone.insert(id) {
            self.gone_order.push_back(id);
        }
        if self.gone_order.len() > GONE_REMEMBERED
            && let Some(oldest) = self.gone_order.pop_front()
        {
            self.gone.remove(&oldest);
        }
    }

    /// Starts what waits, in the order it came, as far as lease, keeper, slots and the informer's word allow.
    fn start_waiting(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let may_start = self.keeper == KeeperState::Connected && matches!(self.mode, Mode::Serving | Mode::Draining);
        if !may_start || !self.lease.is_live(now.boot_ms) || self.lease.is_unwritten() || self.waiting.is_empty() {
            return;
        }
        let free = self.config.slots.saturating_sub(self.busy) as usize;
        let wanted = |id: &AttemptId| {
            self.attempts.get(id).is_some_and(|attempt| attempt.wish == Wish::Run && attempt.told.is_some())
        };
        let ready: Vec<_> = self.waiting.iter().map(|(_, id)| *id).filter(wanted).take(free).collect();
        let fence_grace_ms = self.lease.fence_grace_ms();
        for attempt in ready {
            if self.advance(attempt, Happening::StartOrdered, effects) {
                let fence = self.attempts[&attempt].fence;
                effects.push(Effect::StartAttempt { attempt, fence, fence_grace_ms });
            }
        }
    }

    /// A `stop` attempt that has not started by the end of the lease never will: its replacement may start from then on.
    fn refuse_at_lease_end(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.lease.is_live(now.boot_ms) || self.lease.deadline_ms() == self.lease_end_seen_ms {
            return;
        }
        self.lease_end_seen_ms = self.lease.deadline_ms();
        let too_late = |attempt: &Attempt| {
            matches!(attempt.stage, Stage::Accepting | Stage::Accepted)
                && attempt.facts.stop_on_disconnect
                && attempt.wish == Wish::Run
        };
        let ended: Vec<_> = self.attempts.iter().filter(|(_, attempt)| too_late(attempt)).map(|(id, _)| *id).collect();
        for attempt in ended {
            self.advance(attempt, Happening::Refused("the lease ended before it started".into()), effects);
        }
    }

    fn on_purged(&mut self, attempt: AttemptId) {
        if self.attempts.get(&attempt).is_some_and(|held| matches!(held.stage, Stage::Purging(_))) {
            self.remember_gone(attempt);
            self.remove(attempt);
        }
    }

    /// Ends an attempt for a reason that lies outside it.
    fn stop(&mut self, now: Now, id: AttemptId, why: v1::Reason, effects: &mut Vec<Effect>) {
        let ignored = self.has(Bug::IgnoreStop);
        self.amend(id, |attempt| {
            if attempt.stage.is_held() {
                attempt.wish = Wish::Stop(why);
            }
        });
        let Some(attempt) = self.attempts.get(&id).filter(|attempt| attempt.stage.is_held()) else { return };
        match attempt.stage {
            Stage::Accepting | Stage::Accepted => {
                let ending = never_started(now, why, "stopped before it started");
                self.advance(id, Happening::Ended(ending), effects);
            }
            Stage::Starting | Stage::Running if ignored => {}
            Stage::Starting | Stage::Running => effects.push(Effect::StopAttempt { attempt: id, why }),
            // It ended by itself first; if its end is acknowledged already, nothing more is wanted of it.
            _ => self.retire_if_settled(id, effects),
        }
        // It may have been set aside before, and silent.
        self.queue_reports(id);
    }

    fn on_shutdown_requested(&mut self, now: Now, stop_tasks: bool, effects: &mut Vec<Effect>) {
        if !stop_tasks {
            self.mode = Mode::Leaving;
            return;
        }
        self.mode = Mode::StoppingTasks;
        for attempt in self.unfinished_attempts() {
            self.stop(now, attempt, v1::Reason::Drained, effects);
        }
    }

    fn unfinished_attempts(&self) -> Vec<AttemptId> {
        let unfinished = |(_, attempt): &(&AttemptId, &Attempt)| attempt.stage.is_unfinished();
        self.attempts.iter().filter(unfinished).map(|(id, _)| *id).collect()
    }

    fn on_progressed(&mut self, id: AttemptId, progress: v1::Progress) {
        if let Some(attempt) = self.attempts.get_mut(&id)
            // Before it runs: how its inputs come in.
            && matches!(attempt.stage, Stage::Starting | Stage::Running)
        {
            attempt.progress = Some(progress);
            self.progressed.insert(id);
        }
    }

    fn on_condemned(&mut self, id: AttemptId, why: v1::Reason, effects: &mut Vec<Effect>) {
        if let Some(attempt) = self.attempts.get_mut(&id)
            && attempt.stage == Stage::Running
            && attempt.wish == Wish::Run
        {
            attempt.wish = Wish::Stop(why);
            effects.push(Effect::StopAttempt { attempt: id, why });
        }
    }
}

/// The end of an attempt that never had a process.
fn never_started(now: Now, why: v1::Reason, message: &str) -> Box<v1::Ending> {
    Box::new(v1::Ending {
        reason: why.into(),
        message: message.into(),
        ended_unix_ms: now.wall_ms,
        ..Default::default()
    })
}

/// Attempts of one task other than this one.
fn siblings(attempts: &BTreeMap<AttemptId, Attempt>, id: AttemptId) -> impl Iterator<Item = Fence> + '_ {
    let first = AttemptId { task: id.task, number: 0 };
    let last = AttemptId { task: id.task, number: u32::MAX };
    attempts.range(first..=last).filter(move |(other, _)| **other != id).map(|(_, attempt)| attempt.fence)
}
