//! The payloads of held attempts, shared between the threads of the agent.

use proto::id::AttemptId;
use proto::v1;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Assignments by attempt: from the message (or the ledger, or the note of a record) until the attempt is retired.
#[derive(Debug, Clone, Default)]
pub(super) struct Assignments(Arc<Mutex<BTreeMap<AttemptId, Arc<v1::Assign>>>>);

impl Assignments {
    fn map(&self) -> MutexGuard<'_, BTreeMap<AttemptId, Arc<v1::Assign>>> {
        // No code panics while it holds the lock, and a map of finished inserts is whole anyway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first one stays: a repeated assignment changes nothing.
    pub(super) fn insert(&self, attempt: AttemptId, assign: v1::Assign) {
        self.map().entry(attempt).or_insert_with(|| Arc::new(assign));
    }

    pub(super) fn get(&self, attempt: AttemptId) -> Option<Arc<v1::Assign>> {
        self.map().get(&attempt).cloned()
    }

    /// Looks at what was asked for; without an assignment that is a task of no kind, whose end is told as it is.
    pub(super) fn with_spec<T>(&self, attempt: AttemptId, look: impl FnOnce(&v1::TaskSpec) -> T) -> T {
        match self.get(attempt).as_ref().and_then(|assign| assign.spec.as_ref()) {
            Some(spec) => look(spec),
            None => look(&v1::TaskSpec::default()),
        }
    }

    pub(super) fn remove(&self, attempt: AttemptId) {
        self.map().remove(&attempt);
    }
}
