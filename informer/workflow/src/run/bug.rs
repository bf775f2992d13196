//! Wrong lines that a test chooses at run time, so that the simulation can be shown to catch them. Nothing of it is in a shipped build.

use std::cell::Cell;

/// One wrong line each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A join opens one task early.
    JoinEarly,
    /// A try is counted as two.
    CountTryTwice,
}

thread_local! {
    // A run has no configuration of its own: whoever plays one on this thread says what is wrong with it.
    static BUG: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Chooses what is wrong with the runs of this thread.
pub fn choose(bug: Option<Bug>) {
    BUG.set(bug);
}

pub(super) fn is(bug: Bug) -> bool {
    BUG.get() == Some(bug)
}
