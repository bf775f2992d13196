//! Who the agent of a box is: the file beside the ledger, as far as a sidecar's machine cannot know of it.

use super::disk::Ledger;
use super::workbox::Workbox;
use proto::id::SidecarId;

/// A sidecar, and how often its agent was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub sidecar: SidecarId,
    pub incarnation: u64,
}

impl Workbox {
    /// Who the next agent is: whom the ledger names, else the file beside it; with neither a new sidecar. Nobody counts back.
    pub(super) fn introduce(&mut self) {
        let known = [self.ledger.whose, self.file];
        let fresh = || {
            self.lives += 1;
            SidecarId::from_u128(self.id.as_u128() + (self.lives << 64))
        };
        let sidecar = known.iter().flatten().next().map_or_else(fresh, |it| it.sidecar);
        let incarnation = known.iter().flatten().map(|it| it.incarnation).max().unwrap_or(0) + 1;
        (self.sidecar, self.file) = (sidecar, Some(Identity { sidecar, incarnation }));
        self.ledger.whose = self.file;
    }

    pub(super) fn incarnation(&self) -> u64 {
        self.file.map_or(0, |file| file.incarnation)
    }

    /// The lease page guards what was given to the sidecar that this box was before.
    pub(super) fn is_stranger(&self) -> bool {
        self.lease_of.is_some_and(|sidecar| sidecar != self.sidecar)
    }

    /// The ledger is gone, and all copies of it; what says who its sidecar is may be gone, too.
    pub(super) fn lose_ledger(&mut self, with_its_id: bool) {
        (self.ledger, self.ledger_copy) = (Ledger::default(), Ledger::default());
        self.disk.damaged = false;
        if with_its_id {
            self.file = None;
        }
    }
}
