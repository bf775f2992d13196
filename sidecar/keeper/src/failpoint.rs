//! Crash points for the kill matrix, compiled only with the feature `failpoints`.
//!
//! `KEEPER_FAILPOINT=<name>` in the keeper's environment makes the process that reaches the boundary end itself with SIGKILL:
//! `after-mkdir`, `after-spec`, `after-spawn` (before the `spawned` frame), `after-spawned`, `after-wait` (before the `exit` frame),
//! `after-exit`, `after-sweep` (before the report). A suffix `,keeper` ends the parent of that process as well, so that both are
//! gone before anything else happens. `KEEPER_FAILPOINT_ONCE=<file>` lets only the first one die: the one that can create the file.

#[cfg(feature = "failpoints")]
pub(crate) fn reach(name: &str) {
    let Ok(wanted) = std::env::var("KEEPER_FAILPOINT") else { return };
    let (point, both) = wanted.split_once(',').map_or((wanted.as_str(), false), |(point, _)| (point, true));
    if point != name {
        return;
    }
    if let Some(file) = std::env::var_os("KEEPER_FAILPOINT_ONCE")
        && std::fs::File::create_new(file).is_err()
    {
        return;
    }
    if both && let Some(parent) = rustix::process::getppid().filter(|parent| !parent.is_init()) {
        let _ = keeper::sys::kill(parent.as_raw_nonzero().get(), libc::SIGKILL);
    }
    let _ = keeper::sys::kill(std::process::id() as i32, libc::SIGKILL);
}

#[cfg(not(feature = "failpoints"))]
pub(crate) fn reach(_name: &str) {}
