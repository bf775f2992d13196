//! The one system call that a power cut needs and nobody offers safely.
#![allow(unsafe_code, reason = "an ioctl of ext4 has no safe wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

/// `EXT4_IOC_SHUTDOWN`, `_IOR('X', 125, __u32)` of the kernel's `uapi/linux/ext4.h`.
const EXT4_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;

/// What of a file system's journal still reaches the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Cut {
    /// `EXT4_GOING_FLAGS_LOGFLUSH`: the journal, and no data.
    AfterJournal = 1,
    /// `EXT4_GOING_FLAGS_NOLOGFLUSH`: nothing that was not flushed before.
    AtOnce = 2,
}

/// Stops an ext4 file system as a power cut would: nothing reaches its device any more, and whoever uses it gets `EIO`.
///
/// # Errors
/// The file does not lie on ext4, or the right is missing.
pub(super) fn cut_power(on: &File, cut: Cut) -> io::Result<()> {
    let flags = cut as u32;
    // SAFETY: the descriptor is open for the call, and the kernel reads four bytes of a live, initialised value.
    match unsafe { libc::ioctl(on.as_raw_fd(), EXT4_IOC_SHUTDOWN as _, &raw const flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
