//! Attempts that run within this process: for them the agent is keeper and monitor, and tells the same facts in the same words.
//!
//! ```text
//! shell ── start, stop, lease, callback ──▶ Embedded ── a runtime of its own threads ──▶ attend ── conduct ──▶ Execution
//! work thread ◀──────────── FromKeeper::Inside ──────────────────────────────────────────┘
//! ```
//!
//! Each has a directory and a record like any attempt's, held locked by this process. The record names no monitor of this boot, so a
//! keeper that finds it neither signals nor adopts anything; once this process is dead the lock is free, and the attempt is lost.
//!
//! | file | holds |
//! |---|---|
//! | `attend` | one attempt from its directory to its end |
//! | `desk` | directory, record and logs of one attempt |

mod attend;
mod desk;

use super::Dirs;
use super::keeping::FromKeeper;
use super::reports::Reports;
use crate::executor::Executor;
use keeper::identity::Place;
use keeper::wire::{EndReason, Listed, ListedState};
use proto::id::{AttemptId, Fence};
use proto::v1;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

pub(super) use desk::{is_embedded, settle};

/// Callbacks of one attempt that wait to be heard; one more is dropped, which the next poll makes good.
const CALLBACKS: usize = 8;
/// Most threads of the runtime: async functions share them, and blocking ones are not to be written.
const THREADS: usize = 8;

/// What becomes of an attempt that runs here, for the work thread.
#[derive(Debug)]
pub(super) enum Inside {
    /// As a keeper would tell it.
    Fact(keeper::wire::Notice),
    /// It was not started, for want of something.
    Refused(String),
    /// What became of it is not known.
    Lost(String),
}

/// An order to start.
pub(super) struct Start {
    pub attempt: AttemptId,
    pub fence: Fence,
    pub executor: Arc<dyn Executor>,
    pub assign: Arc<v1::Assign>,
    pub note: Vec<u8>,
    pub fence_grace_ms: u64,
}

/// What all attempts here share.
#[derive(Clone)]
struct Shared {
    dirs: Dirs,
    informer: String,
    said: mpsc::Sender<FromKeeper>,
    reports: Reports,
    lease: watch::Sender<u64>,
}

/// One attempt, as the shell's orders reach it.
struct Live {
    state: watch::Receiver<ListedState>,
    stop: watch::Sender<Option<EndReason>>,
    callbacks: mpsc::Sender<String>,
}

/// The attempts that run here, from their start until their end is told. Shared with the work thread.
#[derive(Clone, Default)]
pub(super) struct Attempts(Arc<Mutex<BTreeMap<AttemptId, Live>>>);

impl Attempts {
    fn map(&self) -> MutexGuard<'_, BTreeMap<AttemptId, Live>> {
        // No code panics while it holds the lock, and a map of finished inserts is whole anyway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the attempt runs here, so that a keeper's word on it counts for nothing.
    pub(super) fn holds(&self, attempt: AttemptId) -> bool {
        self.map().contains_key(&attempt)
    }

    /// The end was told.
    pub(super) fn forget(&self, attempt: AttemptId) {
        self.map().remove(&attempt);
    }

    /// Adds what runs here to what a keeper has listed.
    pub(super) fn complete(&self, listing: &mut Vec<Listed>) {
        listing.retain(|listed| listed.name.parse().map_or(true, |attempt| !self.holds(attempt)));
        let state = |live: &Live| live.state.borrow().clone();
        let here = |(attempt, live): (&AttemptId, &Live)| Listed { name: attempt.dir_name(), state: state(live) };
        listing.extend(self.map().iter().map(here));
    }
}

/// The shell's end. Dropping it ends what runs here without a word, like the death of the process.
pub(super) struct Embedded {
    shared: Shared,
    attempts: Attempts,
    /// Made at the first start: most sidecars never need it.
    runtime: Option<Runtime>,
}

impl Embedded {
    pub(super) fn new(dirs: Dirs, informer: String, said: mpsc::Sender<FromKeeper>, reports: Reports) -> Self {
        let lease = watch::channel(0).0;
        Self { shared: Shared { dirs, informer, said, reports, lease }, attempts: Attempts::default(), runtime: None }
    }

    pub(super) fn attempts(&self) -> Attempts {
        self.attempts.clone()
    }

    /// Starts an attempt; what becomes of it is told to the work thread. The error says why that cannot even be tried.
    pub(super) fn start(&mut self, start: Start) -> Result<(), String> {
        let runtime = match &self.runtime {
            Some(runtime) => runtime,
            None => self.runtime.insert(runtime().map_err(|error| format!("cannot start threads: {error}"))?),
        };
        let me = Place::here().and_then(|place| place.identify(std::process::id()));
        let me = me.map_err(|error| format!("cannot tell who this process is: {error}"))?;
        let (state, seen) = watch::channel(ListedState::Starting);
        let (stop, stopped) = watch::channel(None);
        let (callbacks, heard) = mpsc::channel(CALLBACKS);
        let attempt = start.attempt;
        let live = Live { state: seen, stop, callbacks };
        if self.attempts.map().insert(attempt, live).is_some() {
            // The machine starts an attempt once.
            tracing::warn!(%attempt, "an attempt was started again; the first one goes on without orders");
        }
        runtime.spawn(attend::attend(self.shared.clone(), start, attend::Ears { me, state, stopped, heard }));
        Ok(())
    }

    /// Ends an attempt, if it runs here.
    pub(super) fn stop(&self, attempt: AttemptId, why: EndReason) -> bool {
        let attempts = self.attempts.map();
        let Some(live) = attempts.get(&attempt) else { return false };
        // The first reason is the one that counts.
        live.stop.send_if_modified(|reason| reason.is_none() && reason.replace(why).is_none());
        true
    }

    /// The process ends: whatever runs here is to end before it. Answers what that is.
    pub(super) fn stop_all(&self) -> Vec<AttemptId> {
        let all: Vec<_> = self.attempts.map().keys().copied().collect();
        for attempt in &all {
            self.stop(*attempt, EndReason::Drained);
        }
        all
    }

    /// A service reported about an attempt.
    pub(super) fn on_callback(&self, attempt: AttemptId, body: String) {
        if let Some(live) = self.attempts.map().get(&attempt)
            && live.callbacks.try_send(body).is_err()
        {
            tracing::debug!(%attempt, "too many callbacks at once; the next poll tells the same");
        }
    }

    /// Until when the lease lasts, `CLOCK_BOOTTIME` ms.
    pub(super) fn on_lease(&self, deadline_ms: u64) {
        self.shared.lease.send_replace(deadline_ms);
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Without waiting: a function that blocks must not keep the agent from ending.
            runtime.shutdown_background();
        }
    }
}

fn runtime() -> std::io::Result<Runtime> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS);
    tokio::runtime::Builder::new_multi_thread().worker_threads(threads).thread_name("executor").enable_all().build()
}
