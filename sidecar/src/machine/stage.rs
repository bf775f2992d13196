//! Where an attempt stands on this sidecar, and every legal step.
//!
//! ```text
//!            Durable          StartOrdered           Spawned
//! Accepting ────────▶ Accepted ─────────▶ Starting ─────────▶ Running
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
//! ```

use proto::v1;

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
    /// The informer has all of it; only its logs are kept, for readers.
    Retired,
    /// Its directory is being removed.
    Purging,
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
    Acknowledged,
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
            (S::Accepted, H::StartOrdered) => To(S::Starting),
            // Accepted too: an earlier agent ordered the start and died before it learned of the process.
            (S::Accepted | S::Starting, H::Spawned) => To(S::Running),
            (S::Starting, H::NotStarted) => To(S::Accepted),
            (S::Accepting | S::Accepted | S::Starting | S::Running, H::Ended(ending)) => To(S::Ended(ending)),
            (S::Accepting | S::Accepted | S::Starting, H::Refused(why)) => To(S::Refused(why)),
            (S::Ended(ending), H::PublishOrdered) => To(S::Publishing(ending.clone())),
            (S::Publishing(ending), H::OutputsPublished(failure)) => To(S::Published(ending.clone(), failure)),
            (S::Ended(_) | S::Publishing(_) | S::Published(..) | S::Refused(_), H::Acknowledged) => To(S::Retired),
            (S::Retired, H::PurgeOrdered) => To(S::Purging),
            // Notices are repeated after each reconnect of the keeper, and messages of the informer by the network.
            (S::Running | S::Ended(_) | S::Publishing(_) | S::Published(..) | S::Retired | S::Purging, H::Spawned) => {
                Stay
            }
            (S::Ended(_) | S::Publishing(_) | S::Published(..) | S::Refused(_), H::Ended(_)) => Stay,
            (S::Retired | S::Purging, H::Ended(_) | H::Acknowledged) => Stay,
            (S::Publishing(_) | S::Published(..), H::PublishOrdered) => Stay,
            // A verdict retired it while its outputs were on their way.
            (S::Retired | S::Purging, H::OutputsPublished(_)) => Stay,
            (S::Accepting | S::Accepted | S::Starting | S::Running, H::PublishOrdered | H::Acknowledged) => Impossible,
            (_, H::StartOrdered | H::Spawned | H::NotStarted | H::Refused(_) | H::PurgeOrdered) => Impossible,
            (_, H::PublishOrdered | H::OutputsPublished(_)) => Impossible,
        }
    }

    /// A process exists, may exist or may yet come to exist.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        matches!(self, Self::Accepting | Self::Accepted | Self::Starting | Self::Running)
    }

    /// It occupies a slot of the machine now.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Starting | Self::Running)
    }

    /// The informer still has to learn of it.
    #[must_use]
    pub fn is_held(&self) -> bool {
        !matches!(self, Self::Retired | Self::Purging)
    }

    /// One word for people.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Accepting => "accepting",
            Self::Accepted => "accepted",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Ended(_) => "ended",
            Self::Publishing(_) => "publishing",
            Self::Published(..) => "published",
            Self::Refused(_) => "refused",
            Self::Retired => "retired",
            Self::Purging => "purging",
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
            Self::Acknowledged => "been acknowledged",
            Self::PurgeOrdered => "been purged",
        }
    }
}
