//! What agent and keeper say to each other, over one `SOCK_STREAM` unix socket at `<data>/keeper.sock`.
//!
//! ```text
//! agent ── Request ──▶ keeper            Hello first; then any order, many in flight
//! agent ◀── Notice ─── keeper            Welcome, one Listing, then notices as things happen
//! ```
//!
//! Every message is one frame: `u32` little-endian body length, then the body (see [`crate::codec`]). A frame longer than
//! [`MAX_FRAME_BYTES`] ends the connection: the peer is broken, and nothing after it could be trusted.
//!
//! A request is idempotent by attempt name. A notice may be repeated after a reconnect (a new `Hello` brings a `Listing` that
//! contains every attempt whose directory holds a record), so the agent treats all of them as facts, not as commands.
//!
//! **What no version may change**, because agent, keeper and monitors are replaced one after the other:
//!
//! - `Hello`, the first two fields of `Welcome` (version, pid) and `Upgrade`. So every agent can tell which keeper it met, and can have it
//!   replaced, whatever else they cannot say to each other.
//! - What a monitor and its keeper say while an attempt runs (`Stop`, `Spawned`, `Ended`, its `Listing`): the monitor stays the program it
//!   was forked from until that attempt has ended.

/// Version of this protocol; `Hello` and `Welcome` carry it. An agent has a keeper whose version it does not speak replaced by the one of
/// its own build, and hands it no work before.
pub const VERSION: u32 = 1;

/// The oldest version of a keeper that this build's agent can work with.
pub const OLDEST: u32 = 1;

/// Whether this build's agent can work with a keeper of that version.
#[must_use]
pub const fn is_spoken(version: u32) -> bool {
    OLDEST <= version && version <= VERSION
}

/// Largest frame: a spec is at most 256 KiB of task payload plus an environment; doubling it would only let a broken peer hold
/// more memory.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

/// Longest attempt name; it is a directory name under `attempts/` and must leave room for `NAME_MAX`.
pub const MAX_NAME_BYTES: usize = 100;

/// Orders from the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Opens the conversation; answered by [`Notice::Welcome`] and then [`Notice::Listing`].
    Hello {
        /// [`VERSION`] of the agent.
        version: u32,
    },
    /// Starts an attempt. Answered by `Spawned` (and later `Ended`) or `Refused`.
    Start {
        /// Directory name below `attempts/`: `[A-Za-z0-9._-]{1,100}`, not starting with a dot.
        name: String,
        /// What to run.
        spec: Box<Spec>,
    },
    /// Ends an attempt: stop signal, then KILL after the grace. Harmless on an attempt that has ended or is unknown.
    Stop {
        /// The attempt.
        name: String,
        /// Recorded in the `exit` frame.
        reason: EndReason,
        /// Overrides the grace of the spec, in milliseconds; 0 kills at once.
        grace_ms: Option<u64>,
    },
    /// How many idle monitors to keep warm.
    Warm {
        /// At least 0, at most [`MAX_WARM`].
        monitors: u32,
    },
    /// Replace the keeper by another executable, in place. Whatever runs goes on under its monitor; idle monitors are replaced, too. The
    /// connection ends, and the next one meets the new executable, or the old one if it could not be run.
    Upgrade {
        /// Absolute path of the new executable.
        exe: String,
    },
    /// The keeper ends its idle monitors and, when no attempt runs (or after stopping them all), exits.
    Shutdown {
        /// Stop what runs first (`sidecar run --stop-tasks-on-exit`); otherwise the keeper stays while an attempt runs.
        stop_tasks: bool,
    },
}

/// Most idle monitors that may be kept warm; each costs about 80 kB of its own and 60 kB of page tables.
pub const MAX_WARM: u32 = 64;

/// Facts from the keeper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Answer to `Hello`.
    Welcome {
        /// [`VERSION`] of the keeper.
        version: u32,
        /// Process id of the keeper in its own pid namespace.
        pid: u32,
        /// How well a `stop` attempt is fenced here.
        fencing: Fencing,
        /// What enforces limits here.
        limits: Limits,
    },
    /// Every attempt with a record in `attempts/`, in no order. Sent once after `Welcome`, in chunks of at most 256 entries;
    /// the last chunk has `last` set.
    Listing {
        /// Attempts and where they stand.
        attempts: Vec<Listed>,
        /// No further chunk follows.
        last: bool,
    },
    /// The user's process exists.
    Spawned {
        /// The attempt.
        name: String,
        /// Who it is.
        process: ProcessId,
    },
    /// The attempt was not started, and nothing of it runs.
    Refused {
        /// The attempt.
        name: String,
        /// Why.
        why: Refusal,
        /// The system's words, one line.
        message: String,
    },
    /// The attempt ended and its sweep is complete: no process of it is left.
    Ended {
        /// The attempt.
        name: String,
        /// How.
        end: End,
    },
    /// The attempt's monitor died without an `exit` frame, or the record is of another boot; what was left of it is gone.
    Lost {
        /// The attempt.
        name: String,
    },
    /// The keeper was told to terminate (a pod is being deleted): no start will be accepted.
    Terminating,
}

/// One attempt in a [`Notice::Listing`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The attempt.
    pub name: String,
    /// Where it stands.
    pub state: ListedState,
}

/// Where a listed attempt stands, as its record tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListedState {
    /// Its monitor has the spec and no process yet.
    Starting,
    /// Its process runs.
    Running(ProcessId),
    /// It ended.
    Ended(End),
    /// No end was recorded and none will be.
    Lost,
}

/// Identity of a process that survives pid reuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessId {
    /// `/proc/sys/kernel/random/boot_id`, 36 characters.
    pub boot_id: String,
    /// Inode of the pid namespace in which `pid` is meant.
    pub pid_ns: u64,
    /// Process id.
    pub pid: u32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks since boot.
    pub start_ticks: u64,
    /// Milliseconds of `CLOCK_REALTIME` at the spawn, for people.
    pub wall_ms: u64,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct End {
    /// Exit code of the main process, if it exited.
    pub code: Option<i32>,
    /// Signal that ended the main process, if one did.
    pub signal: Option<i32>,
    /// Why it ended.
    pub reason: EndReason,
    /// The kernel's OOM killer ended a process of it.
    pub oom: bool,
    /// User CPU time of all its processes, microseconds.
    pub user_us: u64,
    /// System CPU time of all its processes, microseconds.
    pub system_us: u64,
    /// Largest resident set, bytes (rusage of the main process and what it waited for).
    pub max_rss_bytes: u64,
    /// Logical length of `out`.
    pub out_bytes: u64,
    /// Logical length of `err`.
    pub err_bytes: u64,
    /// Bytes before these offsets (out, err) were dropped by rotation.
    pub out_base: u64,
    /// See `out_base`.
    pub err_base: u64,
    /// The log cap was reached and later bytes were dropped.
    pub truncated: bool,
    /// Milliseconds of `CLOCK_REALTIME` at the spawn; 0 if nothing was spawned.
    pub started_wall_ms: u64,
    /// Milliseconds of `CLOCK_REALTIME` at the end.
    pub ended_wall_ms: u64,
    /// Milliseconds of `CLOCK_BOOTTIME` the attempt ran.
    pub ran_ms: u64,
    /// One line when `reason` is `SpawnFailed`: which call failed on what.
    pub message: String,
}

/// Why an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EndReason {
    /// By itself: look at code and signal.
    #[default]
    Exited,
    /// Nothing could be spawned; `message` says why.
    SpawnFailed,
    /// The attempt's own timeout ran out (enforced by the monitor, agent alive or not).
    TimedOut,
    /// The informer or a user cancelled it.
    Cancelled,
    /// The lease ended and the attempt is a `stop` attempt.
    Fenced,
    /// The informer named another winner, or revoked it.
    Revoked,
    /// The sidecar was told to stop its tasks on exit, or is drained.
    Drained,
    /// No progress for the time allowed.
    Stalled,
    /// Its health check failed too often.
    Unhealthy,
}

/// Why a start was refused. Nothing was spawned; an existing attempt of that name is untouched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A record of that name exists: the start was a repetition, and the listing or the notices tell the rest.
    Exists,
    /// The lease page says that no live lease is held.
    NoLease,
    /// No monitor could be forked, a file not be made, a limit not be set.
    System,
    /// The keeper is terminating.
    Terminating,
    /// The request itself is wrong (name, empty argv).
    Invalid,
}

/// What to run, and how it is treated. One `spec` frame of the record holds it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Spec {
    /// Program and arguments; the program is looked up in the `PATH` of `env` unless it contains a slash.
    pub argv: Vec<String>,
    /// The whole environment of the process. `TASK_DIR` is appended by the monitor (`attempts/<name>/work`).
    pub env: Vec<(String, String)>,
    /// Working directory; empty: `attempts/<name>/work`.
    pub cwd: String,
    /// Files written into `work/` before the spawn.
    pub files: Vec<File>,
    /// CPU limit in thousandths of a core; 0: none (requests are the informer's books, limits are optional).
    pub cpu_limit_millis: u64,
    /// Memory limit in bytes; 0: none.
    pub memory_limit_bytes: u64,
    /// Process limit; 0: none.
    pub pids_limit: u64,
    /// Cap per log stream in bytes; 0: 64 MiB (every log is bounded).
    pub log_cap_bytes: u64,
    /// What happens at the cap.
    pub log_policy: LogPolicy,
    /// Sent first; 0 means SIGTERM.
    pub stop_signal: i32,
    /// Between the stop signal and KILL, in milliseconds.
    pub stop_grace_ms: u64,
    /// Who gets the stop signal.
    pub stop_target: StopTarget,
    /// One attempt's time limit in milliseconds; 0: none.
    pub timeout_ms: u64,
    /// What the end of the lease means for it.
    pub on_disconnect: OnDisconnect,
    /// After the lease's deadline a `stop` attempt is killed at deadline + min(stop grace, this), in milliseconds.
    pub fence_grace_ms: u64,
    /// Start even without a live lease: probes and health checks of the agent itself.
    pub without_lease: bool,
    /// The agent has put the attempt's directory together below [`PREPARED`](crate::record::PREPARED); the monitor takes it as it is.
    /// Without it there the start is refused: a task must not run without what it was promised.
    pub prepared: bool,
    /// Opaque to keeper and monitor; the agent finds its own facts here when it adopts (at most 4 KiB).
    pub note: Vec<u8>,
}

/// A file to be written into `work/` before the spawn.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct File {
    /// File name without a slash.
    pub name: String,
    /// Permission bits.
    pub mode: u32,
    /// Content.
    pub content: Vec<u8>,
}

/// What happens when a log stream reaches its cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogPolicy {
    /// Keep the head; drop what comes after the cap and mark the end `truncated`.
    #[default]
    KeepHead,
    /// Keep the tail: free the oldest bytes, offsets stay what they were (services).
    KeepTail,
}

/// Who gets the stop signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StopTarget {
    /// The whole process group.
    #[default]
    Group,
    /// The main process alone.
    Main,
}

/// What the end of the lease means for an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDisconnect {
    /// Runs on; its result is buffered.
    #[default]
    Continue,
    /// TERM at the deadline, KILL after the grace.
    Stop,
}

/// How well a `stop` attempt is fenced on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fencing {
    /// In a pid namespace whose init dies with the monitor.
    Strong,
    /// Only the main process dies with the monitor (PDEATHSIG).
    Weak,
}

/// What enforces limits on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limits {
    /// cgroup v2 controllers.
    CgroupV2,
    /// cgroup v1 controllers.
    CgroupV1,
    /// setrlimit only.
    Rlimits,
}
