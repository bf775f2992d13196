//! The thread that writes the lease page: the page belongs to a file, and a store into it may wait for the disk. Beats may not.

use keeper::lease::LeasePage;
use std::io;
use std::path::Path;
use std::sync::mpsc;

/// Hands deadlines to the thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct LeasePublisher(mpsc::Sender<u64>);

impl LeasePublisher {
    /// Opens the page and starts the thread. What an earlier incarnation published stays until the first deadline.
    pub(super) fn start(data_dir: &Path, incarnation: u64) -> io::Result<Self> {
        const NS_PER_MS: u64 = 1_000_000;
        let page = LeasePage::open(data_dir)?;
        let (deadlines, queue) = mpsc::channel::<u64>();
        let work = move || {
            while let Ok(first) = queue.recv() {
                // Only the latest counts, so whatever gathered behind a slow disk is one store.
                let deadline_ms = queue.try_iter().last().unwrap_or(first);
                page.publish(deadline_ms.saturating_mul(NS_PER_MS), incarnation);
            }
        };
        std::thread::Builder::new().name("lease".into()).spawn(work)?;
        Ok(Self(deadlines))
    }

    /// Publishes a deadline, milliseconds of `CLOCK_BOOTTIME`. Never waits.
    pub(super) fn publish(&self, deadline_ms: u64) {
        // The thread lives as long as this sender.
        let _alive = self.0.send(deadline_ms);
    }
}
