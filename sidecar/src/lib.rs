//! The sidecar: runs next to a worker, holds the link to the informer and hands processes to the keeper.
//!
//! | module | holds |
//! |---|---|
//! | [`Sidecar`] | a sidecar within another program |
//! | [`agent`] | the shell around the machine: links, threads, files |
//! | [`cli`] | the command line |
//! | `config` | its configuration file |
//! | `decoders` | what reads foreign bytes, opened to a test; nothing in a shipped build |
//! | [`machine`] | every decision, pure |
//! | [`ledger`] | what survives the agent's death |
//! | [`exec`] | one module per kind of task: plan, progress, end |
//! | [`executor`] | kinds of work of one's own, run within this process |
//! | [`health`] | probes of services |
//! | [`http`] | requests to other machines: inputs by URL, remote services |
//! | [`load`] | what this machine is and how busy it is |
//! | [`logs`] | the log of an attempt on its way up |
//! | [`metrics`] | what is counted, and the page that shows it |

pub mod agent;
pub mod cli;
pub(crate) mod config;
#[cfg(feature = "decoders")]
#[doc(hidden)]
pub mod decoders;
mod embedding;
pub mod exec;
pub mod executor;
pub mod health;
pub mod http;
pub mod ledger;
pub mod load;
pub mod logs;
pub mod machine;
pub mod metrics;

pub use embedding::{Builder, Running, Sidecar};
