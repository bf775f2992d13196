//! Waiting for a log to grow: inotify on the attempt's directory, which reports writes to the files in it.
//!
//! A user may have few inotify instances (128 by default, over all programs). A log that gets none is looked at on a timer
//! instead: later by a moment, but not refused.

use rustix::{
    fd::OwnedFd,
    fs::inotify::{self, CreateFlags, WatchFlags},
    io::{Errno, read},
};
use std::{io, path::Path, time::Duration};
use tokio::io::{Interest, unix::AsyncFd};

/// Between looks without inotify: below what a person following a log notices as a delay, and rare enough to cost nothing.
const LOOK: Duration = Duration::from_millis(500);

/// Between a first event and the next read: a task that prints a line at a time would otherwise cost one read and one message a
/// line. Below what a person notices.
const GATHER: Duration = Duration::from_millis(10);

/// Room for some dozen events; they are only counted as "something happened".
const EVENT_BYTES: usize = 1024;

#[derive(Debug)]
pub(super) enum Growth {
    Inotify(AsyncFd<OwnedFd>),
    Timer,
}

impl Growth {
    /// Watches from now on.
    pub(super) fn watch(attempt_dir: &Path) -> Self {
        match inotify(attempt_dir) {
            Ok(watch) => Self::Inotify(watch),
            Err(error) => {
                tracing::debug!(%error, ?attempt_dir, "no inotify for this log; it is looked at on a timer");
                Self::Timer
            }
        }
    }

    /// Returns once something may have grown since the last call, or spuriously. Dropping the future loses nothing.
    pub(super) async fn grown(&mut self) {
        let Self::Inotify(watch) = self else { return tokio::time::sleep(LOOK).await };
        match watch.readable_mut().await {
            Ok(mut ready) => {
                tokio::time::sleep(GATHER).await;
                forget_events(ready.get_inner());
                ready.clear_ready();
            }
            // The runtime's I/O driver is gone, so this future will not be polled for long.
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

#[allow(unsafe_code, reason = "tokio has no safe way to wait for a descriptor that is neither socket nor pipe")]
fn inotify(attempt_dir: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    inotify::add_watch(&watch, attempt_dir, WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::ONLYDIR)?;
    // SAFETY: the descriptor is owned by the `AsyncFd` from here on, and nothing else closes or replaces it while it is registered.
    unsafe { AsyncFd::register_with_interest(watch, Interest::READABLE) }.map_err(io::Error::from)
}

/// Reads the queue empty. What is written while the caller reads the files makes a new event.
fn forget_events(watch: &OwnedFd) {
    let mut buffer = [0; EVENT_BYTES];
    while let Ok(1..) | Err(Errno::INTR) = read(watch, &mut buffer) {}
}
