//! The one loop around the machine, and the handle that edges hold of it.
//!
//! ```text
//!   edges ── Handle ──▶ clients ─┐                          ┌─▶ writer thread: Store::commit
//!                  └──▶ links ───┴─▶ loop: Core (Machine) ──┤
//!                                                           └─▶ after the commit: replies, messages to sidecars, changes
//!   edges ── Handle ──▶ read handles of the store (never the loop)
//! ```
//!
//! **Order of a turn**: complete an event from the store, apply it; when no commit is under way, hand the batch to the writer; when
//! that has answered, let the effects go. The window is what arrived meanwhile: nothing ever waits for company.
//!
//! **When the disk hangs**: the loop does not. Beats that change nothing are acknowledged; the next batch fills; then clients are
//! told `Busy`, and much later links are held back.
//!
//! **When a commit fails**: its outcome is unknown. Nothing is told to anybody any more, the loop ends with the reason, and the
//! process exits; what is on disk is what happened.
//!
//! | file | holds |
//! |---|---|
//! | `handle`, `message` | what edges call, and the queues it goes through |
//! | `core`, `outside` | the loop's body: batches, effects, callers and links |
//! | `run`, `writer` | the two threads; shutdown is an ordered list in `run` |
//! | `flows`, `core_flows` | workflows: plans, evaluations, and the loop's part in them |
//! | `items`, `bodies` | what goes out with assignments and was read lately |
//! | `retention` | which ended tasks go, and when |
//! | `clock` | time and randomness, as they enter with each event |
//! | `reads`, `published`, `members`, `numbers`, `ended` | what is read beside the loop |
//! | `error` | why a call fails |

mod bodies;
mod clock;
mod core;
mod core_flows;
#[cfg(all(test, feature = "failpoints"))]
mod crash;
mod ended;
mod error;
mod flows;
mod handle;
mod items;
mod members;
mod message;
mod numbers;
mod outside;
mod published;
mod reads;
mod retention;
mod run;
#[cfg(test)]
mod tests;
mod writer;

pub use error::Error;
pub use flows::{
    Engine, Engines, NewStart, NoScripts, Operated, Put, PutError, RunChanged, StartError, Steps, check_task,
};
pub use handle::{Handle, NewTask, Submitted};
pub use members::member;
pub use numbers::{COMMIT_BUCKETS_US, Gauges, Numbers, TABLES};
pub use retention::Retention;
pub use run::Shell;

use std::collections::BTreeMap;

/// What a shell is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Beat interval that sidecars are told, milliseconds.
    pub beat_ms: u64,
    /// Lease that each acknowledged beat grants, milliseconds.
    pub lease_ms: u64,
    /// Longest kill delay after a lease's end, milliseconds.
    pub fence_grace_ms: u64,
    /// Start `exclusive` tasks at once even if the store turns out to be restored from a backup.
    pub accept_restored: bool,
    /// Weights of owners that share a priority; others weigh 1.
    pub shares: BTreeMap<String, u64>,
    /// Which logs sidecars send up after an attempt's end.
    pub log_policy: proto::v1::LogPolicy,
    /// Which ended tasks are kept.
    pub retention: Retention,
}

impl Default for Options {
    fn default() -> Self {
        use proto::bounds::{BEAT_MS, BEATS_PER_LEASE, FENCE_GRACE_MS};
        Self {
            beat_ms: BEAT_MS,
            lease_ms: BEAT_MS * BEATS_PER_LEASE,
            fence_grace_ms: FENCE_GRACE_MS,
            accept_restored: false,
            shares: BTreeMap::new(),
            log_policy: proto::v1::LogPolicy::Always,
            retention: Retention::default(),
        }
    }
}
