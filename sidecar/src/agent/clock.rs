//! The two clocks, read in one place.

use crate::machine::Now;
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Milliseconds of `CLOCK_BOOTTIME`: it goes on in suspend, as a lease must.
pub(crate) fn boot_ms() -> u64 {
    millis(ClockId::Boottime)
}

/// Both clocks now.
pub(super) fn now() -> Now {
    Now { boot_ms: boot_ms(), wall_ms: millis(ClockId::Realtime) }
}

fn millis(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    // Neither clock is negative on a machine that runs after 1970.
    time.tv_sec.cast_unsigned() * 1000 + time.tv_nsec.cast_unsigned() / 1_000_000
}

/// Sleeps until a moment of `CLOCK_BOOTTIME`. tokio's timers stand still in suspend, so a long sleep is cut: at worst a wake-up is
/// this late after a resume, and early ones are harmless.
pub(super) async fn sleep_until(boot: u64) {
    const LONGEST_MS: u64 = 1_000;
    let wait_ms = boot.saturating_sub(boot_ms()).min(LONGEST_MS);
    tokio::time::sleep(Duration::from_millis(wait_ms)).await;
}
