//! The thread that writes the lease page: the page belongs to a file, and a store into it may wait for the disk. Beats may not.

use keeper::lease::{LeasePage, Seal};
use proto::id::SidecarId;
use std::io;
use std::path::Path;
use std::sync::mpsc;

/// Hands deadlines to the thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct LeasePublisher {
    deadlines: mpsc::Sender<(u64, Seal)>,
    incarnation: u64,
    sidecar: SidecarId,
    /// Whose the page's deadline is; `None`: it has none.
    sealed: Option<Seal>,
}

impl LeasePublisher {
    /// Opens the page and starts the thread. What an earlier incarnation published stays until the first deadline.
    pub(super) fn start(data_dir: &Path, sidecar: SidecarId, incarnation: u64) -> io::Result<Self> {
        const NS_PER_MS: u64 = 1_000_000;
        let page = LeasePage::open(data_dir)?;
        let sealed = page.sealed();
        let (deadlines, queue) = mpsc::channel::<(u64, Seal)>();
        let work = move || {
            while let Ok(first) = queue.recv() {
                // Only the latest counts, so whatever gathered behind a slow disk is one store.
                let (deadline_ms, seal) = queue.try_iter().last().unwrap_or(first);
                page.seal(seal);
                page.publish(deadline_ms.saturating_mul(NS_PER_MS), incarnation);
            }
        };
        std::thread::Builder::new().name("lease".into()).spawn(work)?;
        Ok(Self { deadlines, incarnation, sidecar, sealed })
    }

    /// Whether the page guards what another informer, or another sidecar's id, has given.
    pub(super) fn is_strange_to(&self, lineage: &str) -> bool {
        self.sealed.is_some_and(|seal| !seal.is_of(&self.sidecar.to_bytes(), lineage))
    }

    /// Publishes a deadline, milliseconds of `CLOCK_BOOTTIME`, earned from the informer of this lineage. Never waits.
    pub(super) fn publish(&mut self, deadline_ms: u64, lineage: &str) {
        let seal = Seal::of(&self.sidecar.to_bytes(), lineage, self.incarnation);
        self.sealed = Some(seal);
        // The thread lives as long as this sender.
        let _alive = self.deadlines.send((deadline_ms, seal));
    }
}
