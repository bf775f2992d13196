//! What the simulation counts: where tasks and attempts stand between two events. Decides nothing, and is in no shipped build.

use super::Machine;
use proto::id::{AttemptId, TaskId};
use proto::v1;

/// Where one attempt stands, for the table of answers to a returning sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// Its state.
    pub state: v1::AttemptState,
    /// Its result can no longer be accepted.
    pub fenced: bool,
    /// Its task has ended, or is to be stopped.
    pub unwanted: bool,
}

impl Machine {
    /// The tasks that changed since the last batch was taken, with their states and those of their attempts.
    pub fn changed(&self) -> impl Iterator<Item = (TaskId, v1::TaskState, Vec<(u32, v1::AttemptState)>)> + '_ {
        self.pending.tasks.iter().filter_map(|id| {
            let task = self.tasks.get(id)?;
            let attempts = task.attempts.iter().map(|attempt| (attempt.number, attempt.phase)).collect();
            Some((*id, task.wire_state(), attempts))
        })
    }

    /// What is known of an attempt.
    #[must_use]
    pub fn sight(&self, id: AttemptId) -> Option<Sight> {
        let task = self.tasks.get(&id.task)?;
        let attempt = task.attempt(id.number)?;
        let unwanted = task.is_ended() || task.is_stopping();
        Some(Sight { state: attempt.phase, fenced: attempt.fenced, unwanted })
    }
}
