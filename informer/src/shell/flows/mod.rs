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

pub(super) use call::{Bodies, FlowCall, NOBODY, RunCall, What};
pub(super) use evaluator::{Evaluator, Job};
pub use handle::{NewStart, Operated, Put, PutError, RunChanged, StartError, Steps};
pub(super) use prepare::Plans;
pub(super) use stored::{family, live, one};
pub use template::check_task;
pub(super) use template::child;

use crate::scripts::{Pool, scripts_of};
use serde_json::Value;
use std::sync::Arc;
use workflow::evaluate::Scripts;

/// What runs users' scripts, asked from several threads.
pub trait Engine: Scripts + Send + Sync {
    /// Ends what runs: whoever waits is told so, and nobody looks at the answer any more.
    fn close(&self) {}

    /// Looks at the scripts of a definition that is to be registered; nothing is run.
    ///
    /// # Errors
    /// The first that cannot be read, with its field's path.
    fn check(&self, _definition: &Value) -> Result<(), String> {
        Ok(())
    }
}

impl Engine for Pool {
    fn close(&self) {
        Self::close(self);
    }

    fn check(&self, definition: &Value) -> Result<(), String> {
        for script in scripts_of(definition) {
            match script.check(self) {
                Err(error) if error.is_of_script() => return Err(format!("{}: {error}", script.path)),
                // Whoever cannot look at it now will not hinder its registration: it fails its task if it is broken.
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

/// A shared one.
#[derive(Clone)]
pub struct Engines(Arc<dyn Engine>);

impl Engines {
    /// Shares an engine.
    pub fn new(engine: impl Engine + 'static) -> Self {
        Self(Arc::new(engine))
    }
}

impl std::fmt::Debug for Engines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engines").finish_non_exhaustive()
    }
}

/// Runs no scripts: for an informer that has no engine.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoScripts;

const NO_SCRIPTS: &str =
    "this informer was built without an engine for scripts; use a value-param SWITCH, or let a worker compute it";

impl Engine for NoScripts {}

impl Scripts for NoScripts {
    fn javascript(&self, _: &str, _: &Value) -> Result<Value, String> {
        Err(NO_SCRIPTS.to_owned())
    }

    fn jq(&self, _: &str, _: &Value) -> Result<Vec<Value>, String> {
        Err(NO_SCRIPTS.to_owned())
    }
}
