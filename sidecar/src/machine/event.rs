//! What the machine is told. Events are past tense: they have happened, and the machine only decides what follows.

use super::emits::{Emit, EmitAnswer, Ticket};
use proto::id::{AttemptId, Fence};
use proto::v1;

/// Both clocks at the moment of one `apply`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// `CLOCK_BOOTTIME`, milliseconds. Never goes back; beats and leases count on it.
    pub boot_ms: u64,
    /// Unix time, milliseconds. May jump; only for what people see.
    pub wall_ms: u64,
}

/// One link as this agent counts them; never used again, so that what a dead link still delivers is recognised and dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// What decisions need of an assignment besides its id; the payload itself stays in the shell and the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    /// The end of the lease ends the attempt.
    pub stop_on_disconnect: bool,
}

/// What a lease and its beats are, as the informer dictates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Beat interval, milliseconds.
    pub beat_ms: u64,
    /// Lease from the send time of an acknowledged beat, milliseconds.
    pub lease_ms: u64,
    /// Longest kill delay after the lease's end, milliseconds.
    pub fence_grace_ms: u64,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A stream to the informer is open, and nothing was said on it yet.
    LinkOpened {
        /// The fresh link.
        link: LinkId,
    },
    /// The link is gone, for whatever reason.
    LinkClosed {
        /// Which.
        link: LinkId,
    },
    /// The informer said something on a link.
    Heard {
        /// On which; an old one is ignored.
        link: LinkId,
        /// What, checked.
        heard: Heard,
    },
    /// The keeper is connected and told every attempt that has a record.
    KeeperConnected {
        /// All of it.
        listing: Vec<Found>,
    },
    /// The keeper's connection is gone; monitors and processes live on.
    KeeperGone,
    /// The keeper tells about one attempt.
    Noticed {
        /// The attempt.
        attempt: AttemptId,
        /// What.
        notice: Notice,
    },
    /// An attempt advanced, or its health changed.
    Progressed {
        /// The attempt.
        attempt: AttemptId,
        /// How far it is.
        progress: v1::Progress,
    },
    /// The agent's own watch condemns a running attempt: `Stalled` or `Unhealthy`.
    Condemned {
        /// The attempt.
        attempt: AttemptId,
        /// Why.
        why: v1::Reason,
    },
    /// A running task emits a child, or says that there will be no more.
    EmitAsked {
        /// Who waits; answered once by `AnswerEmit`.
        ticket: Ticket,
        /// The attempt, as it says.
        attempt: AttemptId,
        /// Its fence, as it says.
        fence: Fence,
        /// The child.
        emit: Emit,
    },
    /// The outputs of an attempt were published (`None`) or could not be (why).
    OutputsPublished {
        /// The attempt.
        attempt: AttemptId,
        /// What went wrong.
        failure: Option<String>,
    },
    /// An ordered upload of a log has ended.
    LogSent {
        /// The attempt.
        attempt: AttemptId,
        /// Why it is not stored; `None`: it is on the informer's disk.
        failure: Option<String>,
    },
    /// The attempt's directory is gone.
    Purged {
        /// The attempt.
        attempt: AttemptId,
    },
    /// The load of this machine, for the next beat.
    LoadSampled(v1::Load),
    /// Whether the disk has room for more work; repeated for as long as it has none.
    DiskSeen {
        /// It has.
        room: bool,
    },
    /// Whether the lease page could be written; told when that changes. What cannot be written there guards nothing.
    LeasePageSeen {
        /// It could.
        written: bool,
    },
    /// The agent shall end.
    ShutdownRequested {
        /// End the tasks too; otherwise they are left for the next agent.
        stop_tasks: bool,
    },
    /// The time named by `next_wakeup` has come. A repeated or early one is harmless.
    TimePassed,
}

/// What the informer says.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// It took the hello.
    Welcome {
        /// How to beat.
        terms: Terms,
        /// Which logs it wants to store.
        logs: v1::LogPolicy,
        /// It takes children of running tasks.
        children: bool,
        /// The lease page guards what another informer has given, or what was given to this box under another sidecar's id.
        stranger: bool,
    },
    /// It decided about an attempt of the inventory.
    Verdict {
        /// The attempt.
        attempt: AttemptId,
        /// What shall become of it.
        decision: v1::verdict::Decision,
        /// For a stop.
        why: v1::Reason,
    },
    /// It acknowledged a beat.
    BeatAck {
        /// Which.
        seq: u64,
        /// How to beat from now on.
        terms: Terms,
    },
    /// It assigned an attempt.
    Assign {
        /// The attempt.
        attempt: AttemptId,
        /// Its fence.
        fence: Fence,
        /// What decisions need of it.
        facts: Facts,
    },
    /// It wants an attempt stopped.
    Stop {
        /// The attempt.
        attempt: AttemptId,
        /// Why.
        why: v1::Reason,
    },
    /// An attempt won: its outputs shall be published.
    Publish {
        /// The attempt.
        attempt: AttemptId,
        /// The winner's fence.
        fence: Fence,
    },
    /// Every report up to this one is durable there.
    Ack {
        /// Number in this link.
        seq: u64,
    },
    /// What became of a child.
    EmitAnswered {
        /// The attempt that emitted it.
        attempt: AttemptId,
        /// Its key.
        key: String,
        /// Taken, durably there; or not.
        answer: EmitAnswer,
    },
    /// Take no new work (or do again).
    Drain {
        /// On or off.
        on: bool,
        /// Stop what runs, too.
        stop_running: bool,
    },
    /// It will not talk to this sidecar.
    Refuse {
        /// One word for programs.
        code: String,
        /// Told to the operator.
        message: String,
        /// Never come back with this incarnation.
        is_final: bool,
    },
}

/// What the keeper tells about one attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// Its inputs and directories are there, so that it may be ordered to start again.
    Prepared,
    /// Its process exists.
    Spawned(v1::Started),
    /// It was not started, and nothing of it runs.
    Refused {
        /// Why.
        refusal: Refusal,
        /// One line.
        message: String,
    },
    /// It ended, and nothing of it is left.
    Ended(Box<v1::Ending>),
    /// No end was recorded and none will be; nothing of it is left.
    Lost,
}

/// Why a start was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is a record of that name: the start was a repetition.
    Exists,
    /// The lease page says that no lease is live.
    NoLease,
    /// The keeper is being terminated and starts nothing any more.
    Terminating,
    /// This sidecar lacks what the attempt needs just now; another one, or a later try, may have it.
    NotHere,
    /// It cannot be started here now, and nor could another: the system lacks what a start takes.
    Failed,
    /// An input could not be brought into its directory.
    Input,
    /// What the task names for its process is not as it must be on this machine: the task's fault, and no other task's trouble.
    Task,
}

/// One attempt that the keeper listed.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The attempt.
    pub attempt: AttemptId,
    /// What its record's note tells, for an attempt that the machine does not hold.
    pub note: Option<Note>,
    /// Where it stands.
    pub state: FoundState,
}

/// What an agent wrote into the record at the start, for a later agent whose ledger does not know the attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note {
    /// Its fence.
    pub fence: Fence,
    /// What decisions need of it.
    pub facts: Facts,
}

/// Where a listed attempt stands.
#[derive(Debug, Clone, PartialEq)]
pub enum FoundState {
    /// A monitor has it, and there is no process yet.
    Starting,
    /// Its process runs.
    Running(v1::Started),
    /// It ended.
    Ended(Box<v1::Ending>),
    /// Gone without an end.
    Lost,
}
