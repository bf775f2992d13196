//! An HTTP request as a task, as Conductor's `HTTP` has it.
//!
//! ```text
//! plan ──▶ work/http.json (the task's input)
//!             │  monitor spawns `sidecar exec-http work/http.json` (main)
//!             ▼
//!          request ─▶ answer ─▶ $TASK_RESULT: {"response": {"statusCode", "reasonPhrase", "headers", "body"}} ─▶ exit 0, or one of [`Exit`]
//! ```
//!
//! It is a process of the attempt and not a call of the agent's, so it survives the agent, ends at its timeout, and is stopped like any other.
//! A request that was sent may be sent again by a later attempt: what it does over there should be harmless when it is repeated.

mod call;
mod request;

pub use call::main;

use super::{Error, Plan, Process, utf8};
use keeper::wire;
use proto::v1;

/// The input's file in `work/`.
const JOB_FILE: &str = "http.json";

/// Exit codes of `sidecar exec-http`; documented in docs/tasks.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The answer's status is none that was expected; as of `curl --fail`.
    Status = 22,
    /// The input is no request.
    Request = 64,
    /// There was no answer: no connection, or not in time.
    NoAnswer = 69,
    /// The answer is larger than a result may be, or broke off.
    Answer = 76,
    /// The result cannot be written.
    Io = 74,
}

/// The process that makes the request, and its input.
pub(super) fn process(plan: &Plan<'_>, http: &v1::Http) -> Result<Process, Error> {
    let path = plan.work_dir()?.join(JOB_FILE);
    let argv = vec![utf8(plan.exe)?, "exec-http".to_owned(), utf8(&path)?];
    let content = http.input.clone().into_bytes();
    Ok(Process { argv, files: vec![wire::File { name: JOB_FILE.to_owned(), mode: 0o600, content }] })
}

#[cfg(test)]
mod tests;
