//! Crash points for the kill matrix, compiled only with the feature `failpoints`.
//!
//! `SIDECAR_FAILPOINT=<name>[:count]` makes the agent end itself with SIGKILL the `count`th time (from 1) it reaches the boundary:
//! `after-assign`, `after-ledger` (before the acceptance leaves), `after-accept`, `after-start-sent`, `after-end` (before the ledger),
//! `after-end-ledger`, `after-report`, `after-emit-ledger` (a child is stored and not sent), `before-emit-answer` (the informer has it), `before-purge`, `after-purge`; of logs `log-part` (one has left), `log-stored` (before the ledger);
//! of inputs `before-prepare`, `after-prepare`; of outputs
//! `before-stage`, `mid-copy` (a copy to another file system has begun), `mid-stage` (one is staged), `after-stage` (all are, and there
//! is no manifest), `after-manifest`, `before-publish` (the fences are recorded), `mid-publish` (one is renamed), `after-publish`,
//! `before-retire`. Of the ledger, before anything else: `mid-migration` (before the commit), `after-migration`; of the sidecar's id
//! `before-identity` (the file is written beside), `after-identity` (before the ledger counts the start).
//!
//! `after-accept` and `after-report` mean that the informer has the report: they are armed when it is handed to the link, and fire
//! with the next acknowledgement, before that is applied.

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    static REACHED: AtomicU32 = AtomicU32::new(0);
    static ARMED: AtomicBool = AtomicBool::new(false);

    fn is_due(name: &str) -> bool {
        let Ok(wanted) = std::env::var("SIDECAR_FAILPOINT") else { return false };
        let (point, count) = wanted.split_once(':').unwrap_or((&wanted, "1"));
        point == name && REACHED.fetch_add(1, Ordering::SeqCst) + 1 == count.parse().unwrap_or(1)
    }

    fn die() {
        let _killed = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }

    pub(crate) fn reach(name: &str) {
        if is_due(name) {
            die();
        }
    }

    pub(crate) fn arm(name: &str) {
        if is_due(name) {
            ARMED.store(true, Ordering::SeqCst);
        }
    }

    pub(crate) fn fire() {
        if ARMED.load(Ordering::SeqCst) {
            die();
        }
    }
}

#[cfg(not(feature = "failpoints"))]
mod armed {
    pub(crate) const fn reach(_name: &str) {}
    pub(crate) const fn arm(_name: &str) {}
    pub(crate) const fn fire() {}
}

pub(crate) use armed::{arm, fire, reach};

/// The deliberate mistake that `SIDECAR_BUG` names, so that the suite over real processes can be shown to catch it.
#[cfg(feature = "seeded-bugs")]
pub(crate) fn bug() -> Option<crate::machine::Bug> {
    use crate::machine::Bug as B;
    let name = std::env::var("SIDECAR_BUG").ok()?;
    let of_link = [B::AckBeforeLedger, B::ForgetOutbox, B::IgnoreLease, B::PurgeBeforeAck, B::PurgeBeforeStored];
    let of_processes = [B::ForgetRunning, B::IgnoreStop, B::LeaseToStrangers, B::PublishUnasked, B::StartTwice];
    of_link.into_iter().chain(of_processes).find(|bug| format!("{bug:?}") == name)
}

/// Whether `SIDECAR_BUG` names the mistake of the shell's: beats wait for the ledger.
#[cfg(feature = "seeded-bugs")]
pub(crate) fn beats_wait() -> bool {
    std::env::var("SIDECAR_BUG").is_ok_and(|bug| bug == "BeatBehindLedger")
}

/// They never do.
#[cfg(not(feature = "seeded-bugs"))]
pub(crate) const fn beats_wait() -> bool {
    false
}
