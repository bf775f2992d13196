//! Progress that attempts tell of themselves, on its way to the next beat. The latest wins, so however often one tells, a beat carries
//! one.

use proto::id::{AttemptId, Fence};
use proto::v1;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Running attempts, and the latest word of each. Shared between those who tell and the work thread.
#[derive(Debug, Clone, Default)]
pub(super) struct Reports(Arc<Mutex<BTreeMap<AttemptId, Desk>>>);

#[derive(Debug)]
struct Desk {
    fence: Fence,
    latest: Option<v1::Progress>,
}

/// Longest note, bytes: it travels with a beat.
const NOTE_BYTES: usize = 160;

/// One bounded line of what somebody told.
pub(super) fn note(text: &str) -> String {
    let mut line: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    while line.len() > NOTE_BYTES {
        line.pop();
    }
    line
}

/// Why a report is not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    #[error("attempt {0} does not run on this sidecar")]
    Unknown(AttemptId),
    #[error("attempt {0} runs under another fence; this copy of it is not wanted any more")]
    Fenced(AttemptId),
}

impl Reports {
    fn desks(&self) -> MutexGuard<'_, BTreeMap<AttemptId, Desk>> {
        // No code panics while it holds the lock, and a map of finished inserts is whole anyway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The attempt is being started, or was found running: its reports are taken from now on.
    pub(super) fn open(&self, attempt: AttemptId, fence: Fence) {
        self.desks().entry(attempt).or_insert(Desk { fence, latest: None });
    }

    /// It runs no more.
    pub(super) fn close(&self, attempt: AttemptId) {
        self.desks().remove(&attempt);
    }

    /// One report.
    pub(super) fn put(&self, attempt: AttemptId, fence: Fence, progress: v1::Progress) -> Result<(), Error> {
        let mut desks = self.desks();
        let desk = desks.get_mut(&attempt).ok_or(Error::Unknown(attempt))?;
        if desk.fence != fence {
            return Err(Error::Fenced(attempt));
        }
        desk.latest = Some(progress);
        Ok(())
    }

    /// The latest since the last call.
    pub(super) fn take(&self, attempt: AttemptId) -> Option<v1::Progress> {
        self.desks().get_mut(&attempt)?.latest.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::TaskId;

    #[test]
    fn the_latest_word_of_a_running_attempt_counts_once() {
        let attempt = AttemptId { task: TaskId::from_u128(1), number: 1 };
        let (fence, other) = (Fence { epoch: 1, n: 2 }, Fence { epoch: 1, n: 3 });
        let word = |permille| v1::Progress { permille, ..Default::default() };
        let reports = Reports::default();
        assert_eq!(reports.put(attempt, fence, word(1)), Err(Error::Unknown(attempt)));
        reports.open(attempt, fence);
        assert_eq!(reports.put(attempt, other, word(1)), Err(Error::Fenced(attempt)));
        for permille in [1, 2] {
            assert_eq!(reports.put(attempt, fence, word(permille)), Ok(()));
        }
        assert_eq!((reports.take(attempt), reports.take(attempt)), (Some(word(2)), None));
        reports.close(attempt);
        assert_eq!(reports.put(attempt, fence, word(3)), Err(Error::Unknown(attempt)));
    }
}
