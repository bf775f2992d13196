//! Where an attempt stands on this sidecar, and every legal step.
//!
//! ```text
//!            Durable          StartOrdered           Spawned
//! Accepting ────────▶ Accepted ─────────▶ Starting ─────────▶ Running
//!     │ └──────────── StartOrdered ──────────▲                  │
//!     │                │  ▲ ▲               │ │                 │
//!     │                │  │ └─ NotStarted ──┘ │                 │
//!     ├── Refused ─────┤  │   (no lease, start lost)             │
//!     │                │  └──────────── adopted ────────────────┤
//!     ▼                ▼                      ▼                 ▼ Ended
//!  Refused◀────────────┴──────────────────────┘      ┌───── Ended ◀── also from Accepting, Accepted, Starting:
//!     │                                              │        │       stopped or failed before there was a process
//!     │                              PublishOrdered  ▼        │
//!     │                                        Publishing     │
//!     │                        OutputsPublished      ▼        │
//!     │                                         Published     │
//!     └────────────────── Acknowledged ──────────────┴────────┘
//!                              ▼
//!                           Retired ── PurgeOrdered ──▶ Purging ──▶ (gone)
//!                            │   ▲
//!                            └───┘ LogStored
//! ```

use proto::v1;

/// What there is of a retired attempt's log besides the one here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogCopy {
    /// The informer does not want one, or there is nothing to copy.
    Unwanted,
    /// It shall be stored at the informer, and is not known to be: the attempt is not purged yet.
    Wanted,
    /// It is on the informer's disk.
    Stored,
}

/// Where an attempt stands.
#[derive(Debug, Clone, PartialEq)]
pub enum Stage {
    /// Assigned; its row is not in the ledger yet. Nobody was told.
    Accepting,
    /// In the ledger; no start was ordered.
    Accepted,
    /// A start was ordered of the keeper; it may or may not have happened.
    Starting,
    /// Its process runs, or ran when the keeper was last heard.
    Running,
    /// It ended, or never began and never will.
    Ended(Box<v1::Ending>),
    /// It won; its outputs are being put in place.
    Publishing(Box<v1::Ending>),
    /// Its outputs are in place, or could not be put there (why).
    Published(Box<v1::Ending>, Option<String>),
    /// It will not be run here, and has not been.
    Refused(String),
    /// The informer has its end; only its logs are kept, for readers.
    Retired(LogCopy),
    /// Its directory is being removed.
    Purging(LogCopy),
}

/// What can happen to an attempt.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Happening {
    Durable,
    StartOrdered,
    Spawned,
    NotStarted,
    Ended(Box<v1::Ending>),
    Refused(String),
    PublishOrdered,
    OutputsPublished(Option<String>),
    Acknowledged(LogCopy),
    LogStored,
    PurgeOrdered,
}

/// What follows for the stage.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    To(Stage),
    /// Repeated or late: it says nothing new.
    Stay,
    Impossible,
}

impl Stage {
    /// The one table of legal steps.
    pub(super) fn after(&self, happening: Happening) -> Next {
        use Happening as H;
        use Next::{Impossible, Stay, To};
        use Stage as S;
        match (self, happening) {
            (S::Accepting, H::Durable) => To(S::Accepted),
            // Its fate was decided while the row was being written.
            (_, H::Durable) => Stay,
            (S::Accepting | S::Accepted, H::StartOrdered) => To(S::Starting),
            // Accepted too: an earlier agent ordered the start and died before it learned of the process.
            (S::Accepted | S::Starting, H::Spawned) => To(S::Running),
            (S::Starting, H::NotStarted) => To(S::Accepted),
            (S::Accepting | S::Accepted | S::Starting | S::Running, H::Ended(ending)) => To(S::Ended(ending)),
            (S::Accepting | S::Accepted | S::Starting, H::Refused(why)) => To(S::Refused(why)),
            (S::Ended(ending), H::PublishOrdered) => To(S::Publishing(ending.clone())),
            (S::Publishing(ending), H::OutputsPublished(failure)) => To(S::Published(ending.clone(), failure)),
            (S::Ended(_) | S::Publishing(_) | S::Published(..) | S::Refused(_), H::Acknowledged(copy)) => {
                To(S::Retired(copy))
            }
            (S::Retired(LogCopy::Wanted), H::LogStored) => To(S::Retired(LogCopy::Stored)),
            (S::Retired(copy), H::PurgeOrdered) => To(S::Purging(*copy)),
            // Notices are repeated after each reconnect of the keeper, and messages of the informer by the network.
            (S::Running | S::Ended(_) | S::Publishing(_) | S::Published(..), H::Spawned) => Stay,
            (S::Retired(_) | S::Purging(_), H::Spawned) => Stay,
            (S::Ended(_) | S::Publishing(_) | S::Published(..) | S::Refused(_), H::Ended(_)) => Stay,
            (S::Retired(_) | S::Purging(_), H::Ended(_) | H::Acknowledged(_)) => Stay,
            (S::Publishing(_) | S::Published(..), H::PublishOrdered) => Stay,
            // A verdict retired it while its outputs were on their way.
            (S::Retired(_) | S::Purging(_), H::OutputsPublished(_)) => Stay,
            // It was sent twice, or given up for want of room while it was on its way.
            (S::Retired(_) | S::Purging(_), H::LogStored) => Stay,
            (S::Accepting | S::Accepted | S::Starting | S::Running, H::PublishOrdered | H::Acknowledged(_)) => {
                Impossible
            }
            (_, H::StartOrdered | H::Spawned | H::NotStarted | H::Refused(_) | H::PurgeOrdered) => Impossible,
            (_, H::PublishOrdered | H::OutputsPublished(_) | H::LogStored) => Impossible,
        }
    }

    /// A process exists, may exist or may yet come to exist.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        matches!(self, Self::Accepting | Self::Accepted | Self::Starting | Self::Running)
    }

    /// No start was ordered yet.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        matches!(self, Self::Accepting | Self::Accepted)
    }

    /// It occupies a slot of the machine now.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Starting | Self::Running)
    }

    /// The informer still has to learn of it.
    #[must_use]
    pub fn is_held(&self) -> bool {
        !matches!(self, Self::Retired(_) | Self::Purging(_))
    }

    /// Whether the row says the same of both. An attempt's ending never changes, so the kind of a stage tells.
    pub(super) fn is_written_as(&self, other: &Self) -> bool {
        use Stage as S;
        match (self, other) {
            (S::Accepting | S::Accepted | S::Starting, S::Accepting | S::Accepted | S::Starting) => true,
            (S::Ended(_) | S::Publishing(_), S::Ended(_) | S::Publishing(_)) => true,
            (S::Retired(one) | S::Purging(one), S::Retired(two) | S::Purging(two)) => one == two,
            _ => self.index() == other.index(),
        }
    }

    /// One word for people.
    #[must_use]
    pub fn name(&self) -> &'static str {
        Self::NAMES[self.index()]
    }

    /// The words for all stages.
    pub const NAMES: [&'static str; 10] = [
        "accepting",
        "accepted",
        "starting",
        "running",
        "ended",
        "publishing",
        "published",
        "refused",
        "retired",
        "purging",
    ];

    /// Its place among the words.
    pub(super) const fn index(&self) -> usize {
        match self {
            Self::Accepting => 0,
            Self::Accepted => 1,
            Self::Starting => 2,
            Self::Running => 3,
            Self::Ended(_) => 4,
            Self::Publishing(_) => 5,
            Self::Published(..) => 6,
            Self::Refused(_) => 7,
            Self::Retired(_) => 8,
            Self::Purging(_) => 9,
        }
    }
}

impl Happening {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Durable => "become durable",
            Self::StartOrdered => "been ordered to start",
            Self::Spawned => "been spawned",
            Self::NotStarted => "failed to start",
            Self::Ended(_) => "ended",
            Self::Refused(_) => "been refused",
            Self::PublishOrdered => "been told to publish",
            Self::OutputsPublished(_) => "published",
            Self::Acknowledged(_) => "been acknowledged",
            Self::LogStored => "had its log stored",
            Self::PurgeOrdered => "been purged",
        }
    }
}
