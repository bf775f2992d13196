//! Counters and indices over the attempts: they follow each change of an attempt, so that no event needs to look at all of them.

use super::row::Attempt;
use super::{LogCopy, Machine, Stage};
use proto::id::AttemptId;

impl Machine {
    /// Unfinished attempts that the informer does not count: what they take is told with each beat.
    pub fn apart(&self) -> impl Iterator<Item = AttemptId> + '_ {
        let apart = |(id, attempt): (&AttemptId, &Attempt)| attempt.is_apart().then_some(*id);
        // Hardly ever is there one, and a beat shall not look at each attempt for nothing.
        let attempts = (self.apart > 0).then_some(&self.attempts);
        attempts.into_iter().flatten().filter_map(apart)
    }

    pub(super) fn insert(&mut self, id: AttemptId, attempt: Attempt) {
        if let Some(old) = self.attempts.remove(&id) {
            self.unbook(id, &old);
        }
        self.book(id, &attempt);
        self.attempts.insert(id, attempt);
    }

    /// What the informer wants of an attempt, or was told of it, changes; the books follow.
    pub(super) fn amend(&mut self, id: AttemptId, change: impl FnOnce(&mut Attempt)) {
        if let Some(attempt) = self.attempts.get_mut(&id) {
            self.apart -= u32::from(attempt.is_apart());
            change(attempt);
            self.apart += u32::from(attempt.is_apart());
        }
    }

    pub(super) fn remove(&mut self, id: AttemptId) {
        if let Some(attempt) = self.attempts.remove(&id) {
            self.unbook(id, &attempt);
            self.progressed.remove(&id);
            self.dirty.remove(&id);
            self.deletes.insert(id);
        }
    }

    pub(super) fn book(&mut self, id: AttemptId, attempt: &Attempt) {
        self.unfinished += u32::from(attempt.stage.is_unfinished());
        self.apart += u32::from(attempt.is_apart());
        self.busy += u32::from(attempt.stage.is_busy());
        self.tally.stages[attempt.stage.index()] += 1;
        match attempt.stage {
            Stage::Accepting | Stage::Accepted => {
                self.waiting.insert((attempt.order, id));
            }
            Stage::Retired(copy) => {
                self.retired.insert((attempt.order, id));
                self.retired_bytes += attempt.log_bytes;
                match copy {
                    LogCopy::Wanted => self.uploads.owe(id, attempt.order),
                    LogCopy::Unwanted | LogCopy::Stored => {
                        self.spare.insert((attempt.order, id));
                    }
                }
            }
            _ => {}
        }
    }

    pub(super) fn unbook(&mut self, id: AttemptId, attempt: &Attempt) {
        self.unfinished -= u32::from(attempt.stage.is_unfinished());
        self.apart -= u32::from(attempt.is_apart());
        self.busy -= u32::from(attempt.stage.is_busy());
        self.tally.stages[attempt.stage.index()] -= 1;
        self.waiting.remove(&(attempt.order, id));
        if self.retired.remove(&(attempt.order, id)) {
            self.retired_bytes -= attempt.log_bytes;
            self.spare.remove(&(attempt.order, id));
            self.uploads.forget(id);
        }
    }
}
