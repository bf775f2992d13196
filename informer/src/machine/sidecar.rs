//! A sidecar as the machine knows it: its link and lease, its books, its window.
//!
//! ```text
//!            link opened                    one beat missed            beat, pong
//!   (new) ───────────────▶ Up(live) ─────────────────────▶ Up(suspect) ──────────▶ Up(live)
//!                             │ link closed                     │
//!                             ▼                                 │ three missed
//!                       Down(since last beat) ── three missed ──┴──▶ Lost ── link opened ──▶ Up
//! ```

use super::estimate::weighed;
use super::event::{Hello, SessionId};
use super::stranger::Stranger;
use proto::id::{AttemptId, SidecarId, TaskId};
use proto::{store, v1};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Spawn failures of different tasks, with no proper run between them, that quarantine a sidecar. One task may be the cause of its own
/// failures, however they look; two may be of one kind.
pub(super) const SPAWN_FAILURES: usize = 3;
/// The time within which they must fall, and how long the quarantine lasts, in beats: with the default beat a minute. Long enough to
/// outlive a full disk's first clean-up, short enough that a mended sidecar is back before anybody asks. Twice as long, it would leave a
/// machine idle that lacked something for a moment; a task that is tried once in a rest outlives several of them.
pub(super) const QUARANTINE_BEATS: u64 = 12;
/// How long a sidecar is given nothing after it could start nothing, in beats. Whoever has room takes the task meanwhile, and a machine
/// that lacked something for a moment has it back. Without it the next beat, which may come at once, would bring the first retry right
/// back; much longer, and a task of a lone sidecar would stand still for what passes by itself.
pub(super) const PAUSE_BEATS: u64 = 1;
/// Weight of one finished task in a sidecar's learned speed: 1/8, so that about ten tasks decide.
const SPEED_WEIGHT: u64 = 8;

/// Whether and since when a sidecar is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    Up { session: SessionId, suspect: bool },
    Down,
    Lost,
}

/// What an attempt takes from its sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
}

/// One sidecar.
#[derive(Debug, Clone)]
pub(super) struct Sidecar {
    pub incarnation: u64,
    /// Of the agent's process; 0: it did not tell.
    pub start: u64,
    /// Where its directory was in use at its last hello.
    pub place: String,
    /// When whatever may run on where its directory was before has surely ended, if that hangs on its lease.
    pub elsewhere_until_ms: u64,
    pub host: String,
    pub version: String,
    pub labels: BTreeMap<String, String>,
    pub kinds: Vec<String>,
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    pub slots: u32,
    pub weak_fencing: bool,
    pub drain: v1::DrainMode,
    /// The highest epoch that it may have heard of from this store's informers, durable before it was told. None if that is not
    /// known: it was last linked to a version that did not write it.
    pub told_epoch: Option<u64>,
    /// Longest lease ever granted to it, durable before it was granted.
    pub longest_lease_ms: u64,
    pub link: Link,
    /// It has told this informer since its start what it holds.
    pub introduced: bool,
    /// When its last beat (or hello) arrived, monotonic ms.
    pub heard_ms: u64,
    /// Its silence is counted against this lease, ms.
    pub lease_ms: u64,
    /// Last report of this session that was applied.
    pub reported_seq: u64,
    pub load: v1::Load,
    /// Most attempts it says it would hold (those it held plus its credit). Nothing before its first beat: only an acknowledged
    /// beat earns it the lease without which it may start nothing.
    pub limit: u32,
    /// What attempts take there that were set aside. Their slots are in `limit`.
    pub apart: v1::Resources,
    /// Which of those are copies that no other may run beside, of tasks that are held here.
    pub aside: BTreeSet<AttemptId>,
    /// What it has told and is not applied here, until it tells its whole inventory again and that is not in it.
    pub strangers: BTreeMap<AttemptId, Stranger>,
    /// Those attempts, for people; `None`: it is too old to tell, or has not told yet.
    pub unknown: Option<Vec<AttemptId>>,
    /// Slow start: most attempts it may hold now.
    pub window: u32,
    /// Of what is taken, attempts that tell how their inputs come in. They stand outside the window: it is there for a machine on
    /// which processes do not start, and a slow server is no sign of that.
    pub preparing: BTreeSet<AttemptId>,
    /// Learned speed, 1000 is average.
    pub speed_permille: u32,
    /// When and for which task nothing could be spawned; emptied by a proper run.
    pub spawn_failures: VecDeque<(u64, AttemptId)>,
    pub quarantined: bool,
    /// It could start nothing a moment ago.
    pub paused: bool,
    /// It has rested and shown nothing since: one more failure and it rests again.
    pub on_trial: bool,
    /// The informer's own books: what occupies it.
    pub taken: BTreeMap<AttemptId, Taken>,
    pub taken_cpu_millis: u64,
    pub taken_memory_bytes: u64,
    /// Attempts presumed lost here, which may come back.
    pub missing: BTreeSet<AttemptId>,
    /// A task that has waited too long for as much room as there is here: nobody else is taken until it is.
    pub kept_for: Option<TaskId>,
}

/// Why a sidecar takes nothing now, whatever the task; its text follows the sidecar's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Closed {
    #[error("is lost")]
    Lost,
    #[error("is not linked")]
    Unlinked,
    #[error("missed a beat")]
    Suspect,
    #[error("is draining")]
    Draining,
    #[error("is quarantined after spawn failures")]
    Quarantined,
    #[error("pauses for a beat, since it could start nothing")]
    Paused,
    #[error("takes nothing, for its disk is full")]
    Disk,
    #[error("takes nothing, for it cannot write its lease page")]
    LeasePage,
    #[error("has no free slot")]
    Slots,
    #[error("grants no credit")]
    Credit,
    #[error("starts slowly and has its window full")]
    Window,
}

impl Closed {
    /// It has work enough, and takes more when some of that has ended.
    pub(super) fn is_for_want_of_room(self) -> bool {
        matches!(self, Self::Slots | Self::Credit)
    }
}

impl Sidecar {
    /// What is told again in each hello.
    pub(super) fn introduce(&mut self, hello: &Hello) {
        self.introduced = true;
        self.incarnation = hello.incarnation;
        self.start = hello.start;
        self.place.clone_from(&hello.place);
        self.host.clone_from(&hello.host);
        self.version.clone_from(&hello.version);
        self.labels.clone_from(&hello.labels);
        self.kinds.clone_from(&hello.kinds);
        self.cpu_millis = hello.cpu_millis;
        self.memory_bytes = hello.memory_bytes;
        self.slots = hello.slots;
        self.weak_fencing = hello.weak_fencing;
        self.limit = 0;
        self.apart = v1::Resources::default();
    }

    /// Whether this is another process of the same incarnation: its data directory was copied before its last start.
    pub(super) fn is_copy(&self, hello: &Hello) -> bool {
        let both_tell = self.start != 0 && hello.start != 0;
        self.incarnation == hello.incarnation && both_tell && self.start != hello.start
    }

    /// From its durable form; silent until it is heard, its silence counted from `now_ms`.
    pub(super) fn from_row(row: store::SidecarRow, now_ms: u64) -> Self {
        let drain = match row.drain() {
            v1::DrainMode::Unspecified if row.draining => v1::DrainMode::Finish,
            mode => mode,
        };
        Self {
            incarnation: row.incarnation,
            start: row.start,
            place: row.place,
            elsewhere_until_ms: 0,
            host: row.host,
            version: row.version,
            labels: row.labels,
            kinds: Vec::new(),
            cpu_millis: row.cpu_millis,
            memory_bytes: row.memory_bytes,
            slots: row.slots,
            weak_fencing: row.weak_fencing,
            drain,
            told_epoch: Some(row.told_epoch).filter(|epoch| *epoch > 0),
            kept_for: None,
            longest_lease_ms: row.longest_lease_ms,
            link: if row.lost { Link::Lost } else { Link::Down },
            introduced: false,
            heard_ms: now_ms,
            lease_ms: row.longest_lease_ms,
            reported_seq: 0,
            load: v1::Load::default(),
            limit: 0,
            apart: v1::Resources::default(),
            aside: BTreeSet::new(),
            strangers: BTreeMap::new(),
            unknown: None,
            window: 1,
            preparing: BTreeSet::new(),
            speed_permille: 1000,
            spawn_failures: VecDeque::new(),
            quarantined: false,
            paused: false,
            on_trial: false,
            taken: BTreeMap::new(),
            taken_cpu_millis: 0,
            taken_memory_bytes: 0,
            missing: BTreeSet::new(),
        }
    }

    pub(super) fn to_row(&self, id: SidecarId) -> store::SidecarRow {
        store::SidecarRow {
            id: id.to_string(),
            incarnation: self.incarnation,
            longest_lease_ms: self.longest_lease_ms,
            host: self.host.clone(),
            labels: self.labels.clone(),
            cpu_millis: self.cpu_millis,
            memory_bytes: self.memory_bytes,
            slots: self.slots,
            weak_fencing: self.weak_fencing,
            draining: self.is_draining(),
            lost: self.link == Link::Lost,
            version: self.version.clone(),
            drain: self.drain.into(),
            start: self.start,
            told_epoch: self.told_epoch.unwrap_or(0),
            place: self.place.clone(),
        }
    }

    pub(super) fn session(&self) -> Option<SessionId> {
        match self.link {
            Link::Up { session, .. } => Some(session),
            Link::Down | Link::Lost => None,
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.drain != v1::DrainMode::Unspecified
    }

    /// When its lease is over as the informer counts it.
    pub(super) fn lease_ends_ms(&self) -> u64 {
        self.heard_ms.saturating_add(self.lease_ms)
    }

    /// Why it takes nothing now, whatever the task; `None` if it does.
    pub(super) fn closed_because(&self) -> Option<Closed> {
        let held = u32::try_from(self.taken.len()).unwrap_or(u32::MAX);
        let starting = held.saturating_sub(u32::try_from(self.preparing.len()).unwrap_or(u32::MAX));
        match self.link {
            Link::Lost => Some(Closed::Lost),
            Link::Down => Some(Closed::Unlinked),
            Link::Up { suspect: true, .. } => Some(Closed::Suspect),
            Link::Up { .. } if self.is_draining() => Some(Closed::Draining),
            Link::Up { .. } if self.quarantined => Some(Closed::Quarantined),
            Link::Up { .. } if self.paused => Some(Closed::Paused),
            Link::Up { .. } if self.load.lack() == v1::Lack::Disk => Some(Closed::Disk),
            Link::Up { .. } if self.load.lack() == v1::Lack::LeasePage => Some(Closed::LeasePage),
            Link::Up { .. } if held >= self.slots => Some(Closed::Slots),
            Link::Up { .. } if held >= self.limit => Some(Closed::Credit),
            Link::Up { .. } if starting >= self.window => Some(Closed::Window),
            Link::Up { .. } => None,
        }
    }

    /// Whether the books have room for this, whatever the sidecar says.
    pub(super) fn has_room(&self, taken: Taken) -> bool {
        self.taken.len() < self.slots as usize
            && self.taken_cpu_millis.saturating_add(taken.cpu_millis) <= self.cpu_millis
            && self.taken_memory_bytes.saturating_add(taken.memory_bytes) <= self.memory_bytes
    }

    /// Whether the books have room for this once what its inventory does not name is gone from them.
    pub(super) fn has_room_beside(&self, told: &BTreeSet<AttemptId>, taken: Taken) -> bool {
        let there = self.taken.iter().filter(|(attempt, _)| told.contains(attempt)).map(|(_, taken)| taken);
        let (cpu_millis, memory_bytes) = there.fold((taken.cpu_millis, taken.memory_bytes), |(cpu, memory), taken| {
            (cpu.saturating_add(taken.cpu_millis), memory.saturating_add(taken.memory_bytes))
        });
        cpu_millis <= self.cpu_millis && memory_bytes <= self.memory_bytes
    }

    /// What is taken and what is set aside are together more than there is.
    pub(super) fn is_overbooked(&self) -> bool {
        self.taken_cpu_millis.saturating_add(self.apart.cpu_millis) > self.cpu_millis
            || self.taken_memory_bytes.saturating_add(self.apart.memory_bytes) > self.memory_bytes
    }

    pub(super) fn take(&mut self, attempt: AttemptId, taken: Taken) {
        if self.taken.insert(attempt, taken).is_none() {
            self.taken_cpu_millis += taken.cpu_millis;
            self.taken_memory_bytes += taken.memory_bytes;
        }
    }

    pub(super) fn release(&mut self, attempt: AttemptId) {
        self.preparing.remove(&attempt);
        if let Some(taken) = self.taken.remove(&attempt) {
            self.taken_cpu_millis -= taken.cpu_millis;
            self.taken_memory_bytes -= taken.memory_bytes;
        }
    }

    /// A process started here: the window doubles.
    pub(super) fn on_spawned(&mut self, attempt: AttemptId) {
        self.preparing.remove(&attempt);
        self.window = self.window.saturating_mul(2).min(self.slots.max(1));
    }

    /// So many processes run here from before this link, of an earlier agent or under an earlier informer: one more may be tried. A
    /// window that they fill by themselves would stay shut for as long as they run, which for services is for ever.
    pub(super) fn on_found(&mut self, running: usize) {
        let running = u32::try_from(running).unwrap_or(u32::MAX);
        self.window = self.window.max(running.saturating_add(1).min(self.slots.max(1)));
    }

    /// An attempt ran here to an end of its own: what could not be spawned before was no fault of the machine that lasts. A start
    /// alone does not show that: a transcode's own process starts before it finds that there is no ffmpeg.
    pub(super) fn on_ran(&mut self) {
        self.spawn_failures.clear();
        self.on_trial = false;
    }

    /// Its quarantine is over.
    pub(super) fn on_rested(&mut self) {
        self.quarantined = false;
        self.on_trial = true;
    }

    /// Nothing could be started here. Returns whether that was one too many: then it rests.
    pub(super) fn on_spawn_failed(&mut self, now_ms: u64, rest_ms: u64, attempt: AttemptId) -> bool {
        // What is here already may stay for ever; beside it, one is tried.
        let others = u32::try_from(self.taken.len()).unwrap_or(u32::MAX);
        self.window = others.saturating_add(1).min(self.slots.max(1));
        self.spawn_failures.retain(|(at, other)| at + rest_ms > now_ms && other.task != attempt.task);
        self.spawn_failures.push_back((now_ms, attempt));
        if self.quarantined || (self.spawn_failures.len() < SPAWN_FAILURES && !self.on_trial) {
            return false;
        }
        self.spawn_failures.clear();
        self.quarantined = true;
        true
    }

    /// A task showed this speed, permille.
    pub(super) fn learn_speed(&mut self, shown: u64) {
        self.speed_permille = weighed(self.speed_permille, shown, SPEED_WEIGHT);
    }
}
