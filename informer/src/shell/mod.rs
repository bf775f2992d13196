//! The one loop around the machine, and the handle that edges hold of it.

mod ended;
mod error;
mod handle;
mod message;
mod published;
mod reads;

pub use error::Error;
pub use handle::{Handle, NewTask, Submitted};

/// What a shell is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Beat interval that sidecars are told, milliseconds.
    pub beat_ms: u64,
    /// Lease that each acknowledged beat grants, milliseconds.
    pub lease_ms: u64,
    /// Longest kill delay after a lease's end, milliseconds.
    pub fence_grace_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        use proto::bounds::{BEAT_MS, BEATS_PER_LEASE, FENCE_GRACE_MS};
        Self { beat_ms: BEAT_MS, lease_ms: BEAT_MS * BEATS_PER_LEASE, fence_grace_ms: FENCE_GRACE_MS }
    }
}
