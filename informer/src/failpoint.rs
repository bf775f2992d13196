//! Places where a test may kill this process: at every boundary between commit and effect. Nothing of it is in a shipped build.

/// Dies here by SIGKILL if `INFORMER_FAILPOINT` names this place, as `name` or as `name:n` for the n-th time it is passed.
#[cfg(feature = "failpoints")]
#[allow(clippy::disallowed_methods, reason = "a test sets it for one process")]
pub(crate) fn hit(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static PLAN: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let plan = PLAN.get_or_init(|| {
        let plan = std::env::var("INFORMER_FAILPOINT").ok()?;
        let (name, nth) = plan.split_once(':').unwrap_or((&plan, "1"));
        Some((name.to_owned(), nth.parse().ok()?))
    });
    let Some((planned, nth)) = plan else { return };
    if planned == name && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *nth {
        // Cannot fail: a process may always signal itself. The signal arrives before the call returns.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

/// Nothing.
#[cfg(not(feature = "failpoints"))]
pub(crate) fn hit(_name: &str) {}

/// The deliberate mistake that `INFORMER_BUG` names, so that the suite over real processes can be shown to catch it.
#[cfg(feature = "seeded-bugs")]
#[allow(clippy::disallowed_methods, reason = "a test sets it for one process")]
pub(crate) fn bug() -> Option<crate::machine::Bug> {
    use crate::machine::Bug as B;
    let name = std::env::var("INFORMER_BUG").ok()?;
    let bugs = [
        B::AcceptTwice,
        B::ChargeLoss,
        B::ForgetKey,
        B::IgnoreDigest,
        B::LeakSlot,
        B::NeverReplace,
        B::NoFenceWait,
        B::Overcommit,
    ];
    bugs.into_iter().find(|bug| format!("{bug:?}") == name)
}

/// Whether `INFORMER_BUG` names this mistake, which is one outside of the machine.
#[cfg(feature = "seeded-bugs")]
#[allow(clippy::disallowed_methods, reason = "a test sets it for one process")]
pub(crate) fn mistake(name: &str) -> bool {
    std::env::var("INFORMER_BUG").is_ok_and(|bug| bug == name)
}
