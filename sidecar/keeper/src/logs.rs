//! The two log files of an attempt and their caps.
//!
//! The process writes to the files itself (a dead reader never blocks it), so the monitor can only look after them: at intervals
//! that follow from the room left, so that a task that prints little is never woken for.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use keeper::wire::{LogPolicy, Spec};
use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, fstat, ftruncate, openat};

/// Cap of a spec that names none: the design bounds every log.
const DEFAULT_CAP_BYTES: u64 = 64 << 20;
/// Bytes a process may write per second before a look can come too late; a quick disk's page cache takes about that.
const RATE_BYTES_PER_S: u64 = 1 << 30;
/// Shortest interval between looks: more often would cost more than the overshoot.
const SHORTEST_NS: u64 = 50_000_000;
/// Longest interval, once the files stand still: bounds the overshoot of a service that suddenly talks.
const LONGEST_NS: u64 = 2_000_000_000;
/// Longest interval at a cap that was reached: who was held up by a slow disk writes on as fast as before, and a second of that is gigabytes.
const FLOODED_NS: u64 = 250_000_000;
/// Holes are punched in whole blocks of this size.
const BLOCK_BYTES: u64 = 4096;

/// The log files.
pub(crate) struct Logs {
    files: [Log; 2],
    cap: u64,
    policy: LogPolicy,
    interval_ns: u64,
    /// When to look again.
    pub(crate) look_at: u64,
    /// Bytes were dropped at the cap.
    pub(crate) truncated: bool,
}

struct Log {
    fd: OwnedFd,
    bytes: u64,
    base: u64,
}

impl Logs {
    /// Creates `out` and `err` in the attempt's directory.
    pub(crate) fn create(dir: BorrowedFd<'_>, spec: &Spec, now: u64) -> io::Result<Self> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::APPEND | OFlags::CLOEXEC;
        let open = |name: &str| -> io::Result<Log> {
            let fd = openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?;
            Ok(Log { fd, bytes: 0, base: 0 })
        };
        let cap = if spec.log_cap_bytes == 0 { DEFAULT_CAP_BYTES } else { spec.log_cap_bytes };
        let interval_ns = interval(cap);
        Ok(Self {
            files: [open("out")?, open("err")?],
            cap,
            policy: spec.log_policy,
            interval_ns,
            look_at: now + interval_ns,
            truncated: false,
        })
    }

    pub(crate) fn fds(&self) -> (RawFd, RawFd) {
        (self.files[0].fd.as_raw_fd(), self.files[1].fd.as_raw_fd())
    }

    /// Logical lengths.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.files[0].bytes, self.files[1].bytes)
    }

    /// First offsets kept.
    pub(crate) fn bases(&self) -> (u64, u64) {
        (self.files[0].base, self.files[1].base)
    }

    /// Looks at both files and holds them to the cap. True if a base moved and is to be recorded.
    pub(crate) fn look(&mut self, now: u64) -> bool {
        let before = (self.bytes(), self.bases());
        let mut room = self.cap;
        for file in &mut self.files {
            file.bytes = fstat(&file.fd).map_or(file.bytes, |stat| stat.st_size as u64);
            let kept = file.bytes - file.base.min(file.bytes);
            if kept > self.cap {
                if self.policy == LogPolicy::KeepTail && !file.drop_head(self.cap) {
                    self.policy = LogPolicy::KeepHead;
                }
                if self.policy == LogPolicy::KeepHead {
                    self.truncated |= file.cut(self.cap);
                }
            }
            room = room.min(self.cap.saturating_sub(file.bytes - file.base));
        }
        let quiet = before.0 == self.bytes();
        let flooded = self.truncated || self.files.iter().any(|file| file.base > 0);
        let longest_ns = if flooded { FLOODED_NS } else { LONGEST_NS };
        self.interval_ns = if quiet { (self.interval_ns * 2).min(longest_ns) } else { interval(room) };
        self.look_at = now + self.interval_ns;
        before.1 != self.bases()
    }
}

fn interval(room: u64) -> u64 {
    (room.saturating_mul(1_000_000_000) / RATE_BYTES_PER_S).clamp(SHORTEST_NS, LONGEST_NS)
}

impl Log {
    /// Truncates to the cap; the writer goes on at the new end, because the file is open for appending.
    fn cut(&mut self, cap: u64) -> bool {
        let end = self.base + cap;
        let done = ftruncate(&self.fd, end).is_ok();
        if done {
            self.bytes = end;
        }
        done
    }

    /// Frees the oldest bytes, offsets staying what they are. A quarter more than needed goes, so that holes and their frames in
    /// the record stay rare. False: this file system makes no holes.
    fn drop_head(&mut self, cap: u64) -> bool {
        let base = (self.bytes - (cap - cap / 4)) / BLOCK_BYTES * BLOCK_BYTES;
        if base <= self.base {
            return true;
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let done = fallocate(self.fd.as_fd(), flags, 0, base).is_ok();
        if done {
            self.base = base;
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_flooded_log_that_stands_still_is_looked_at_soon_again() {
        let path = std::env::temp_dir().join(format!("keeper-logs-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        let dir = rustix::fs::open(&path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let mut logs = Logs::create(dir.as_fd(), &Spec { log_cap_bytes: 4096, ..Spec::default() }, 0).unwrap();
        let longest = |logs: &mut Logs| {
            for _ in 0..20 {
                logs.look(logs.look_at);
            }
            logs.interval_ns
        };
        assert_eq!(longest(&mut logs), LONGEST_NS, "who prints nothing is never woken for");
        let mut out = std::fs::File::options().append(true).open(path.join("out")).unwrap();
        out.write_all(&[b'x'; 5000]).unwrap();
        assert_eq!((longest(&mut logs), logs.truncated, logs.bytes()), (FLOODED_NS, true, (4096, 0)));
        std::fs::remove_dir_all(&path).unwrap();
    }
}
