//! Whether this store is the last of its lineage. One that was restored from a backup is not: sidecars have heard of leaderships that
//! are not in it.
//!
//! | what a sidecar has seen | shows |
//! |---|---|
//! | an epoch above what this store has ever told it | somebody led after the backup |
//! | more commits than there were when this informer began, under an earlier epoch | an earlier leadership went on after the backup |
//! | an attempt of a task here, of a number that was not given here, or under another fence | it was assigned after the backup |
//!
//! No fence is given twice before that is noticed, or if it never is: an epoch belongs to one leadership (`proto::id::next_epoch`).

use super::event::{Held, Hello};
use super::timer::Timer;
use super::{Cx, Machine};
use proto::id::{SidecarId, next_epoch};
use proto::v1;

impl Machine {
    /// A sidecar that has seen what this store does not know of shows that it was restored: unknown copies may run, and whatever is
    /// given from here on must count above what was.
    pub(super) fn check_lineage(&mut self, cx: &mut Cx<'_>, hello: &Hello, held: &[Held]) {
        let Some(seen) = hello.seen.as_ref().filter(|seen| seen.lineage == self.config.lineage) else { return };
        let epoch = seen.epoch.max(hello.highest_fence.epoch);
        let seen_before = epoch <= self.told_epoch(hello.sidecar) && seen.commit_seq <= self.last_commit_of(seen);
        if seen_before && !held.iter().any(|held| self.is_younger(held)) {
            return;
        }
        let longest_ms = self.sidecars.values().map(|sidecar| sidecar.longest_lease_ms).max().unwrap_or(0);
        let until_ms = cx.now.mono_ms + self.config.copies_end_ms(longest_ms.max(self.config.lease_ms));
        self.restored = true;
        if !self.config.accept_restored {
            self.restored_until_ms = Some(until_ms);
            self.timers.arm(Timer::Restored, until_ms);
        }
        if epoch >= self.config.epoch {
            self.raise_epoch(cx, epoch);
        }
    }

    /// An attempt that was assigned after this store's state, of a task that is in it.
    fn is_younger(&self, held: &Held) -> bool {
        self.tasks.get(&held.attempt.task).is_some_and(|task| {
            let known = task.attempt(held.attempt.number);
            held.attempt.number >= task.next_attempt || known.is_some_and(|attempt| attempt.fence != held.fence)
        })
    }

    /// The highest epoch that a sidecar may have heard of from here.
    fn told_epoch(&self, sidecar: SidecarId) -> u64 {
        let known = self.sidecars.get(&sidecar);
        known.map_or(0, |sidecar| sidecar.told_epoch.unwrap_or(self.config.epoch))
    }

    /// The last commit that anybody can have seen under an epoch, if it was one of this store's.
    fn last_commit_of(&self, seen: &v1::Identity) -> u64 {
        if seen.epoch < self.opened_epoch { self.config.commit_seq } else { self.pending.committed }
    }

    fn raise_epoch(&mut self, cx: &Cx<'_>, above: u64) {
        self.config.epoch = next_epoch(above, cx.now.wall_ms, cx.now.entropy);
        self.fence_n = 0;
        self.pending.epoch = Some(self.config.epoch);
        self.pending.writes += 1;
        // Who is linked was welcomed under the old one, and may get a fence of the new one.
        let linked = self.sidecars.iter_mut().filter(|(_, sidecar)| sidecar.session().is_some());
        for (id, sidecar) in linked {
            sidecar.told_epoch = Some(self.config.epoch);
            self.pending.sidecars.insert(*id);
        }
    }

    pub(super) fn on_restore_accepted(&mut self) {
        if self.restored_until_ms.take().is_some() {
            self.timers.cancel(Timer::Restored);
            self.freed.extend(self.open.iter().copied());
        }
    }
}
