//! Both clocks and fresh randomness: what the outside contributes to a decision.

use crate::machine::Now;
use rustix::time::{ClockId, clock_gettime};
use std::hash::{BuildHasher as _, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

/// Reads the clocks; makes the entropy of each event from one random seed.
#[derive(Debug)]
pub(super) struct Clock {
    state: u64,
}

impl Clock {
    pub(super) fn new() -> Self {
        // The standard library seeds its hash maps from the kernel's generator; jitter needs no better.
        Self { state: RandomState::new().hash_one(0) }
    }

    pub(super) fn now(&mut self) -> Now {
        Now { mono_ms: mono_ms(), wall_ms: wall_ms(), entropy: self.entropy() }
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn entropy(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// `CLOCK_BOOTTIME`: it runs on while the machine is suspended, as leases do.
pub(super) fn mono_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

pub(super) fn wall_ms() -> u64 {
    // Before 1970 only if nobody has set the clock.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
