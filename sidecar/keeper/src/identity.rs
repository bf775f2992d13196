//! Who a process is: boot id, pid namespace, pid and start time together name one process for ever, a pid alone names whoever
//! has it now. Nothing here signals by a bare pid.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::sys;
use crate::wire::ProcessId;

/// The machine's current boot and this process's pid namespace: what every [`ProcessId`] made here shares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Inode of the pid namespace.
    pub pid_ns: u64,
}

impl Place {
    /// Reads where this process is.
    ///
    /// # Errors
    /// `/proc` is not mounted or not readable.
    pub fn here() -> io::Result<Self> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        Ok(Self { boot_id, pid_ns: fs::metadata("/proc/self/ns/pid")?.ino() })
    }

    /// The identity of a live process that cannot be reaped meanwhile (one's own child, or oneself).
    ///
    /// # Errors
    /// The process does not exist.
    pub fn identify(&self, pid: u32) -> io::Result<ProcessId> {
        Ok(ProcessId {
            boot_id: self.boot_id.clone(),
            pid_ns: self.pid_ns,
            pid,
            start_ticks: stat(pid)?.start_ticks,
            wall_ms: sys::wall_ms(),
        })
    }

    /// Whether pids of that identity mean anything here.
    pub fn knows(&self, process: &ProcessId) -> bool {
        process.boot_id == self.boot_id && process.pid_ns == self.pid_ns
    }

    /// Whether exactly that process runs (a zombie does not).
    pub fn is_running(&self, process: &ProcessId) -> bool {
        self.knows(process)
            && stat(process.pid).is_ok_and(|now| now.start_ticks == process.start_ticks && !now.is_dead())
    }

    /// Signals exactly that process; false if it is gone.
    pub fn signal(&self, process: &ProcessId, signal: Signal) -> bool {
        let Some(handle) = hold(process.pid) else { return false };
        self.is_running(process) && pidfd_send_signal(&handle, signal).is_ok()
    }
}

/// A handle on whoever has that pid now. Verify after taking it: what is verified then is what the handle holds.
pub fn hold(pid: u32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid as i32)?, PidfdFlags::empty()).ok()
}

/// What `/proc/<pid>/stat` says that we need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Field 3.
    pub state: u8,
    /// Field 4.
    pub parent: u32,
    /// Field 22.
    pub start_ticks: u64,
}

impl Stat {
    /// Zombie or dead: it runs no code any more.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// Reads `/proc/<pid>/stat`.
///
/// # Errors
/// The process does not exist.
pub fn stat(pid: u32) -> io::Result<Stat> {
    // One read is enough, and a buffer on the stack spares the size hunting of read_to_string: this runs once per spawn.
    let file = fs::File::open(format!("/proc/{pid}/stat"))?;
    let mut buffer = [0u8; 512];
    let count = rustix::io::read(&file, &mut buffer)?;
    parse(&buffer[..count]).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is not understood")))
}

fn parse(text: &[u8]) -> Option<Stat> {
    // The command name stands in parentheses and may hold anything, parentheses and blanks too; the last one ends it.
    let close = text.iter().rposition(|byte| *byte == b')')?;
    let mut fields = std::str::from_utf8(text.get(close + 2..)?).ok()?.split(' ');
    let state = *fields.next()?.as_bytes().first()?;
    let parent = fields.next()?.parse().ok()?;
    Some(Stat { state, parent, start_ticks: fields.nth(17)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_command_name_does_not_shift_the_fields() {
        let text = b"7 (a) R 1 (b) S 42 7 7 0 -1 4194304 1 0 0 0 1 1 0 0 20 0 1 0 9876 1 2 3";
        assert_eq!(parse(text), Some(Stat { state: b'S', parent: 42, start_ticks: 9876 }));
    }

    #[test]
    fn this_process_runs_and_one_with_another_start_does_not() {
        let place = Place::here().expect("proc");
        let mut me = place.identify(std::process::id()).expect("self");
        assert!(place.is_running(&me));
        me.start_ticks += 1;
        assert!(!place.is_running(&me));
    }
}
