//! Attempts that succeeded and whose outputs are being staged: each in a thread of its own, because a large output must not hold up
//! anybody else's end. Bounded by the slots: for the machine, and so for the informer, the attempt still runs.

use super::failpoint;
use super::shell::Input;
use crate::exec::{self, outputs};
use crate::machine::{Event, Notice};
use proto::id::AttemptId;
use proto::v1::{self, Reason};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// Why each attempt that is being staged shall be stopped, if it shall.
type Stops = BTreeMap<AttemptId, Option<Reason>>;

/// All of them.
#[derive(Debug)]
pub(super) struct Stagings {
    inbox: mpsc::Sender<Input>,
    stops: Arc<Mutex<Stops>>,
}

fn lock(stops: &Mutex<Stops>) -> MutexGuard<'_, Stops> {
    // No code panics while it holds the lock, and a map of finished inserts is whole anyway.
    stops.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stagings {
    pub(super) fn new(inbox: mpsc::Sender<Input>) -> Self {
        Self { inbox, stops: Arc::default() }
    }

    /// Gives the end back if there is nothing to stage; else it is told once everything is staged. A repeated end changes nothing.
    pub(super) fn begin(
        &self,
        attempt: AttemptId,
        assign: Option<Arc<v1::Assign>>,
        dir: PathBuf,
        ending: Box<v1::Ending>,
    ) -> Option<Box<v1::Ending>> {
        let Some(assign) = assign.filter(|assign| assign.spec.as_ref().is_some_and(|spec| !spec.outputs.is_empty()))
        else {
            return Some(ending);
        };
        // Without its outputs' directory it was retired long ago; the machine knows its end better than the keeper.
        if ending.reason != 0 || !dir.join("work").exists() {
            return Some(ending);
        }
        if lock(&self.stops).contains_key(&attempt) {
            return None;
        }
        lock(&self.stops).insert(attempt, None);
        let (stops, inbox, fallback) = (self.stops.clone(), self.inbox.clone(), ending.clone());
        let work = move || run(attempt, &assign, &dir, *ending, &stops, &inbox);
        match std::thread::Builder::new().name("staging".into()).spawn(work) {
            Ok(_running) => None,
            Err(error) => {
                lock(&self.stops).remove(&attempt);
                let failed = outputs::Error::Thread(error);
                Some(Box::new(exec::staged(*fallback, Err(failed), None)))
            }
        }
    }

    /// An attempt whose result is not wanted need not be staged to the end. One that is drained has done its work, and is.
    pub(super) fn stop(&self, attempt: AttemptId, why: Reason) {
        if why != Reason::Drained
            && let Some(stop) = lock(&self.stops).get_mut(&attempt)
        {
            stop.get_or_insert(why);
        }
    }
}

fn run(
    attempt: AttemptId,
    assign: &v1::Assign,
    dir: &std::path::Path,
    ending: v1::Ending,
    stops: &Mutex<Stops>,
    inbox: &mpsc::Sender<Input>,
) {
    failpoint::reach("before-stage");
    let spec = assign.spec.clone().unwrap_or_default();
    let staging =
        outputs::Staging { attempt_dir: dir, spec: &spec, attempt, fence: assign.fence.unwrap_or_default().into() };
    let stopped = || lock(stops).get(&attempt).is_some_and(Option::is_some);
    let result = outputs::stage(&staging, &stopped);
    let why = lock(stops).remove(&attempt).flatten();
    let ending = exec::staged(ending, result, why);
    let notice = Notice::Ended(Box::new(ending));
    // Without a loop there is nobody to tell, and the agent is ending.
    let _gone = inbox.blocking_send(Input::Event(Event::Noticed { attempt, notice }));
}
