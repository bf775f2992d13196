//! Memory that a daemon needs no more once it is up: the pages of its program that ran only at its start.
//!
//! Two thirds of what an idle informer had resident was program text: the command line's, the reader's of settings, the migrations',
//! which the kernel maps sixteen pages at a time. What is needed again comes back from the page cache, by a fault for each sixteen
//! pages.
#![allow(unsafe_code, reason = "no safe call lets go of mapped pages")]

use rustix::mm::{Advice, madvise};
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

/// The process is a daemon of ours, and its start is over.
static DAEMON: AtomicBool = AtomicBool::new(false);

/// For the moment when a daemon's start is over: lets go, and allows [`at_rest`] to.
pub(crate) fn after_start() {
    DAEMON.store(true, Ordering::Relaxed);
    let_go();
}

/// For a moment when nothing has happened for a while. In a program that only embeds the informer it does nothing: its pages are not
/// ours.
pub(crate) fn at_rest() {
    if DAEMON.load(Ordering::Relaxed) {
        let_go();
    }
}

/// Lets go of all pages of code and constants; where `/proc` is missing it does nothing.
fn let_go() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (from, to) in maps.lines().filter_map(unwritten) {
        let start = ptr::with_exposed_provenance_mut::<c_void>(from);
        // SAFETY: no page of the range was ever written to, so each comes back with what it held, whichever thread asks for it.
        // A range that is no longer mapped is refused, and then it holds no memory either.
        let _ = unsafe { madvise(start, to.saturating_sub(from), Advice::LinuxDontNeed) };
    }
}

/// The range of a line of `/proc/self/maps`, if it maps a file and nobody wrote to it: code, or the beginning of a binary, in which
/// no linker puts what is relocated. (Read-only alone does not tell: relocated constants are write-protected afterwards.)
fn unwritten(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, rights, offset) = (fields.next()?, fields.next()?, fields.next()?);
    let is_file = fields.nth(1)? != "0";
    let is_unwritten = rights == "r-xp" || rights == "r--p" && offset == "00000000";
    let (from, to) = range.split_once('-').filter(|_| is_file && is_unwritten)?;
    Some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_wrote_to_is_let_go() {
        let code = "55c0-55d0 r-xp 00021000 fe:00 1234    /usr/bin/informer";
        assert_eq!(unwritten(code), Some((0x55c0, 0x55d0)));
        assert_eq!(unwritten("10-20 r--p 00000000 fe:00 1234 /usr/lib/libc.so.6"), Some((0x10, 0x20)));
        for kept in [
            "10-20 r--p 000ab000 fe:00 1234 /usr/bin/informer",
            "10-20 rw-p 00000000 fe:00 1234 /usr/bin/informer",
            "10-20 rw-s 00000000 fe:00 1234 /data/informer.db-shm",
            "7ff0-7ff1 r-xp 00000000 00:00 0 [vdso]",
            "10-20 rw-p 00000000 00:00 0",
            "",
        ] {
            assert_eq!(unwritten(kept), None, "{kept}");
        }
    }

    #[test]
    fn who_has_let_go_works_on() {
        let_go();
        assert_eq!("42".parse(), Ok(42));
    }
}
