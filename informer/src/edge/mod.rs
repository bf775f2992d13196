//! Where bytes become checked events, and answers become bytes. Nothing here touches the machine's state: everything goes through
//! the shell's [`Handle`].
//!
//! ```text
//!  TCP ─ accept (TLS) ─ front ─┬─ content-type: application/grpc* ─ tonic ─┬─ client   (Submit, Get, List, Cancel, …)
//!                        │                                           ├─ watch    (Watch)
//!                        │                                           ├─ workflow (definitions and runs)
//!                        │                                           ├─ logs     (Logs ◀── relay ── SendLog)
//!                        │                                           ├─ link     (Link)
//!                        │                                           └─ health, reflection
//!                        └─ all else ─ axum ─┬─ http  (/, /healthz, /metrics, /v1/callback, 404)
//!                                            └─ rest  (/api)
//! ```
//!
//! | module | holds |
//! |---|---|
//! | `accept` | the loop that takes connections, and their bounds |
//! | `tls` | certificates and token: who is let in |
//! | `front` | who may call, and the choice between gRPC and HTTP |
//! | `client`, `submit`, `array`, `list`, `many`, `watch`, `logs` | the service `Informer` |
//! | `workflow` | the service `WorkflowService` |
//! | `link` | the service `SidecarLink` |
//! | `rest` | Conductor's REST interface |
//! | `http`, `metrics`, `traffic` | what plain HTTP is told |
//! | [`convert`] | wire messages to events, rows to wire messages |
//! | `error` | every refusal with its code; `docs/errors.md` explains each |
//! | `stream` | a response stream that owns the task which fills it |

pub(crate) mod accept;
mod array;
mod client;
pub mod convert;
pub(crate) mod error;
pub(crate) mod front;
mod http;
mod link;
mod list;
pub(crate) mod logs;
mod many;
mod metrics;
mod rest;
mod stream;
mod submit;
#[cfg(test)]
mod tests;
pub(crate) mod tls;
mod traffic;
mod watch;
pub(super) mod workflow;

use crate::shell::Handle;
use logs::Logs;
use std::sync::Arc;
use tokio::sync::{Semaphore, watch as signal};

/// What every call needs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Edge {
    pub(crate) handle: Handle,
    pub(crate) logs: Arc<Logs>,
    /// Room for watched tasks: [`proto::bounds::WATCHED_TASKS`].
    pub(crate) watched: Arc<Semaphore>,
    /// True once we are stopping: streams end, so that connections can.
    pub(crate) stopping: signal::Receiver<bool>,
}

impl Edge {
    /// Completes when we are stopping; also when nobody is left who could say so.
    async fn stopped(&self) -> error::Error {
        let mut stopping = self.stopping.clone();
        // An error means that the server is gone, which is a stop as well.
        let _ = stopping.wait_for(|stopping| *stopping).await;
        error::Error::Stopping
    }
}
