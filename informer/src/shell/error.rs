//! Why a call to the shell failed.

use crate::machine::Rejection;

/// What an edge tells its caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Decided against.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The inbox is full: a client retries later.
    #[error("the informer is behind with its work; retry in a moment")]
    Busy,
    /// The shell has ended or is ending; the reason.
    #[error("the informer has stopped: {0}")]
    Stopped(String),
    /// The store could not be opened or read.
    #[error("{0}")]
    Store(String),
    /// The session has ended.
    #[error("the sidecar is not linked")]
    NoLink,
    /// A thread could not be started.
    #[error("cannot start the thread `{name}`: {why}")]
    Thread {
        /// Its name.
        name: &'static str,
        /// Why.
        why: String,
    },
}

impl From<crate::store::Error> for Error {
    fn from(error: crate::store::Error) -> Self {
        Self::Store(error.to_string())
    }
}
