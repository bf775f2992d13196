//! What is counted for those who watch; no decision rests on it.

use super::stage::Stage;
use proto::v1;

/// Reasons that are told apart; a later one, of a newer schema, is counted as the last.
const REASONS: usize = 32;

/// Counts since the agent's start, and of this moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// Attempts now, by [`Stage::NAMES`].
    pub stages: [u32; Stage::NAMES.len()],
    /// Ends, by [`v1::Reason`]; 0 is success.
    pub ends: [u64; REASONS],
    /// Logs that were removed before the informer had stored them.
    pub logs_given_up: u64,
}

impl Tally {
    pub(super) fn on_stage(&mut self, stage: &Stage) {
        let reason = match stage {
            Stage::Ended(ending) => ending.reason,
            Stage::Refused(_) => v1::Reason::Refused.into(),
            _ => return,
        };
        self.ends[usize::try_from(reason).unwrap_or(REASONS).min(REASONS - 1)] += 1;
    }
}
