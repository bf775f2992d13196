//! What the keeper lists and nobody can name: its record is gone or cut, and with it the ledger that had its fence.
//!
//! No report on it would be believed, and the informer, in whose inventory it is missing, gives its task to another. So it is ended before
//! the agent introduces itself: what is missing there is gone.

use super::{Complaint, Effect, Found, FoundState, Machine, Notice, Now};
use proto::id::AttemptId;
use std::collections::BTreeSet;

/// Between its stop signal and its kill. Its own grace stood in the record; a longer one would cost what else runs here its lease, for no
/// beat leaves before the introduction.
const GRACE_MS: u64 = 2000;
/// How long the introduction waits for the keeper's word of the end: the grace, and time to sweep what was killed. What hangs in the kernel
/// for longer runs no code.
const PATIENCE_MS: u64 = GRACE_MS + 5000;

/// Those that are being ended.
#[derive(Debug, Default)]
pub(super) struct Unnamed {
    attempts: BTreeSet<AttemptId>,
    /// Until when the introduction waits for them; `None`: it does not.
    until_ms: Option<u64>,
}

impl Unnamed {
    /// The keeper's list comes anew.
    pub(super) fn forget(&mut self) {
        self.attempts.clear();
    }

    pub(super) fn is_awaited(&self) -> bool {
        self.until_ms.is_some() && !self.attempts.is_empty()
    }

    pub(super) fn wakeup_ms(&self) -> Option<u64> {
        self.until_ms.filter(|_| !self.attempts.is_empty())
    }
}

impl Machine {
    /// Neither the ledger nor its record names its fence.
    pub(super) fn on_unnamed(&mut self, now: Now, found: &Found, effects: &mut Vec<Effect>) {
        let attempt = found.attempt;
        if matches!(found.state, FoundState::Ended(_) | FoundState::Lost) {
            effects.push(Effect::Complain(Complaint::NoNote { attempt }));
            return;
        }
        self.unnamed.attempts.insert(attempt);
        self.unnamed.until_ms.get_or_insert(now.boot_ms + PATIENCE_MS);
        effects.push(Effect::Complain(Complaint::Unnamed { attempt }));
        effects.push(Effect::EndUnnamed { attempt, grace_ms: GRACE_MS });
    }

    /// Whether this was about one of them; once all have ended, nothing keeps the agent from its introduction.
    pub(super) fn is_about_unnamed(&mut self, id: AttemptId, notice: &Notice, effects: &mut Vec<Effect>) -> bool {
        if !self.unnamed.attempts.contains(&id) {
            return false;
        }
        if matches!(notice, Notice::Ended(_) | Notice::Lost | Notice::Refused { .. }) {
            self.unnamed.attempts.remove(&id);
            // Its name is taken: a repeated assignment must not wait for an end that was told already.
            self.remember_gone(id);
            self.introduce(effects);
        }
        true
    }

    pub(super) fn on_unnamed_overdue(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.unnamed.wakeup_ms().is_some_and(|at_ms| at_ms <= now.boot_ms) {
            let complain = |attempt: &AttemptId| Effect::Complain(Complaint::UnnamedStays { attempt: *attempt });
            effects.extend(self.unnamed.attempts.iter().map(complain));
            self.unnamed.until_ms = None;
            self.introduce(effects);
        }
    }
}
