//! What the loop needs of workflows and may not do itself: reading definitions, laying out plans, answering the questions of runs.
//!
//! | file | holds |
//! |---|---|
//! | `prepare` | a definition, or a list of tasks, laid out; the start of a run |
//! | `template` | a task definition's `task` as a task of ours |
//! | `stock` | stored JSON for an evaluation, and what it makes |
//! | `evaluator` | the threads that answer |
//! | `stored` | runs as the store has them, for the start and for operations |
//! | `call` | what edges want of workflows |
//! | `handle` | the same as methods |

mod call;
mod evaluator;
mod handle;
mod prepare;
mod stock;
mod stored;
mod template;

pub(super) use call::{Bodies, FlowCall, RunCall, What};
pub(super) use evaluator::{Evaluator, Job};
pub use handle::{NewStart, Operated, Put, PutError, RunChanged, StartError, Steps};
pub(super) use prepare::Plans;
pub(super) use stored::{family, live};
pub use template::check_task;

use std::sync::Arc;
use workflow::evaluate::Scripts;

/// What runs users' scripts, asked from several threads.
pub trait Engine: Scripts + Send + Sync {
    /// Ends what runs: whoever waits is told so, and nobody looks at the answer any more.
    fn close(&self) {}
}

impl Engine for crate::scripts::Pool {
    fn close(&self) {
        Self::close(self);
    }
}

/// A shared one.
pub type Engines = Arc<dyn Engine>;

/// Runs no scripts: for an informer that has no engine.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoScripts;

const NO_SCRIPTS: &str =
    "this informer was built without an engine for scripts; use a value-param SWITCH, or let a worker compute it";

impl Engine for NoScripts {}

impl Scripts for NoScripts {
    fn javascript(&self, _: &str, _: &serde_json::Value) -> Result<serde_json::Value, String> {
        Err(NO_SCRIPTS.to_owned())
    }

    fn jq(&self, _: &str, _: &serde_json::Value) -> Result<Vec<serde_json::Value>, String> {
        Err(NO_SCRIPTS.to_owned())
    }
}
