//! Executors of one's own: code that runs tasks of a type within the sidecar's process.
//!
//! ```text
//! assignment ─▶ validate ─▶ start ─▶ Execution ── status, at each nudge and every `poll` ──▶ succeeded: output ─▶ stdout log
//!                  │          │          ├── progress                                   └──▶ failed
//!                  │          │          ├── on_callback ◀── a service reported by HTTP
//!                  │          │          └── stop ◀── cancel, timeout, the lease's end, the sidecar's end
//!                  └ Failed ──┴─ Unavailable: the attempt goes back into the queue, charged to nobody
//! ```
//!
//! | what | is |
//! |---|---|
//! | [`Executor`], [`Execution`] | a kind of work, and one attempt of it |
//! | [`Function`] | an async function as a kind of work |
//! | [`RemoteService`] | an HTTP service as a kind of work |
//! | [`Context`] | what an attempt knows and may tell |
//!
//! They run on threads of their own, never on the one that beats. They are lost with their process: after the sidecar's death its next
//! start reports such an attempt as lost, and it is tried again as any loss is. An attempt ends when its future has ended; one that never
//! awaits cannot be stopped, holds its slot, and is not reported as ended.

mod context;
mod function;
#[allow(clippy::disallowed_methods, reason = "how long a service was silent is no lease: time asleep should not count")]
mod remote;

pub use async_trait::async_trait;
pub use context::Context;
pub use function::Function;
pub use remote::RemoteService;

pub(crate) use context::{Facts, Logs, Told};

use std::fmt;
use std::time::Duration;

/// Between two looks at an execution that says nothing of itself. One that nudges is looked at when it does.
const POLL: Duration = Duration::from_secs(1);

/// A kind of work: it checks inputs and starts attempts.
///
/// ```
/// use sidecar::executor::{Context, Execution, Executor, Fault, Status, async_trait};
///
/// /// Succeeds at the second look.
/// struct Patience;
/// struct Waiting(u32);
///
/// #[async_trait]
/// impl Executor for Patience {
///     fn kind(&self) -> &str {
///         "patience"
///     }
///     async fn start(&self, _context: Context) -> Result<Box<dyn Execution>, Fault> {
///         Ok(Box::new(Waiting(0)))
///     }
/// }
///
/// #[async_trait]
/// impl Execution for Waiting {
///     async fn status(&mut self) -> Result<Status, Fault> {
///         self.0 += 1;
///         Ok(if self.0 < 2 { Status::Running } else { Status::Succeeded })
///     }
///     async fn stop(&mut self) {}
/// }
/// ```
#[async_trait]
pub trait Executor: Send + Sync + 'static {
    /// The type of task that it runs: 1 to 250 of the characters `A-Z a-z 0-9 . _ -`.
    fn kind(&self) -> &str;

    /// Looks at an input before anything is started with it.
    ///
    /// # Errors
    /// What is wrong with the input, for the one who submitted it; the attempt fails with exit code 2.
    fn validate(&self, input: &str) -> Result<(), String> {
        let _unchecked = input;
        Ok(())
    }

    /// Starts an attempt and returns without waiting for its end. `validate` has passed. Dropping the future gives the start up.
    ///
    /// # Errors
    /// [`Fault::Failed`]: the attempt fails. [`Fault::Unavailable`]: it is not started and goes back into the queue.
    async fn start(&self, context: Context) -> Result<Box<dyn Execution>, Fault>;
}

/// One started attempt. Its methods are called one at a time; dropping it must leave nothing of it running.
#[async_trait]
pub trait Execution: Send + 'static {
    /// Where it stands. Called at each [`Context::nudge`], and at the latest every [`Execution::poll`]. Dropping the future, when the
    /// attempt shall end meanwhile, gives the look up.
    ///
    /// # Errors
    /// [`Fault::Failed`]: it failed. [`Fault::Unavailable`]: what became of it cannot be known; it is lost, and tried again as any loss is.
    async fn status(&mut self) -> Result<Status, Fault>;

    /// How far it is; asked after each status. What was told by [`Context::progress`] is known already.
    fn progress(&self) -> Option<Progress> {
        None
    }

    /// Ends it: cancelled, out of time, or its sidecar may not run it any longer. May take as long as the task's stop grace; then it is
    /// dropped.
    async fn stop(&mut self);

    /// What it gives after a success, for the attempt's stdout log; asked once.
    ///
    /// # Errors
    /// As of [`Execution::status`].
    async fn output(&mut self) -> Result<Vec<u8>, Fault> {
        Ok(Vec::new())
    }

    /// A service reported about it by HTTP; a status is asked next.
    fn on_callback(&mut self, body: &str) {
        let _unheard = body;
    }

    /// Time between two looks at it.
    fn poll(&self) -> Duration {
        POLL
    }
}

/// Where an execution stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Not at its end.
    Running,
    /// At its end, well.
    Succeeded,
    /// At its end, badly.
    Failed {
        /// 1 to 255; anything else counts as 1.
        exit_code: i32,
        /// For people; it becomes the last line of the stderr log.
        message: String,
    },
}

/// How far an execution is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// 0 to 1000.
    pub permille: u32,
    /// One line for people.
    pub note: String,
}

/// Why an attempt cannot go on.
///
/// Any error becomes `Failed` by `?`, with its causes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The work itself failed; charged to the task's tries.
    Failed(String),
    /// What it needs is not there now; charged to nobody, and tried again, here or elsewhere.
    Unavailable(String),
}

impl Fault {
    /// The work itself failed.
    pub fn failed(why: impl fmt::Display) -> Self {
        Self::Failed(why.to_string())
    }

    /// What it needs is not there now.
    pub fn unavailable(why: impl fmt::Display) -> Self {
        Self::Unavailable(why.to_string())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(why) => f.write_str(why),
            Self::Unavailable(why) => write!(f, "unavailable: {why}"),
        }
    }
}

/// As with other catch-all errors this excludes that `Fault` is an error itself.
impl<E: std::error::Error> From<E> for Fault {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        Self::Failed(text)
    }
}

/// The words of a panic, as far as it has any.
pub(crate) fn panicked(error: tokio::task::JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return "it was ended from outside".to_owned() };
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("it panicked: {}", text.unwrap_or("without a word"))
}
