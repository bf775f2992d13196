//! Leaving nothing behind.
//!
//! A monitor is a subreaper: whatever its attempt started, `setsid` or not, becomes its child when the parent in between dies. So it
//! kills its direct children until there are none. A direct child cannot be reaped by anyone else, so its pid is certain.

use keeper::sys::{self, Reaped};

use super::Monitor;

/// Rounds of walking before the whole cgroup is killed: deeper trees than that are a process that forks faster than we walk.
const WALKS: u32 = 64;

/// Reaps what has ended; true if no descendant is left.
pub(super) fn is_clean() -> bool {
    loop {
        match sys::wait_any(false) {
            Reaped::Child(_) => {}
            Reaped::Pending => return false,
            Reaped::None => return true,
        }
    }
}

/// Kills until no descendant is left.
pub(super) fn sweep(monitor: &Monitor<'_>) {
    let mut walks = 0;
    while !is_clean() {
        walks += 1;
        let purged = walks > WALKS && monitor.world.groups.purge_seat(&monitor.seat);
        if !purged {
            for child in children() {
                let _ = sys::kill(child as i32, libc::SIGKILL);
            }
        }
        // Each of them was killed, so one ends; it may hang in the kernel, and then so do we: nothing may be reported before.
        sys::wait_any(true);
    }
}

/// Direct children, zombies too.
pub(super) fn children() -> Vec<u32> {
    let me = std::process::id();
    if let Ok(text) = std::fs::read_to_string(format!("/proc/self/task/{me}/children")) {
        return text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    }
    // A kernel without CONFIG_PROC_CHILDREN.
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| keeper::identity::stat(*pid).is_ok_and(|stat| stat.parent == me)).collect()
}
