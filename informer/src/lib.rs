//! The informer: holds every task durably and streams assignments to sidecars.
//!
//! | module | holds |
//! |---|---|
//! | [`server`] | a whole informer within a program: start, stop, options |
//! | [`machine`] | every decision, pure |
//! | [`shell`] | the one loop around the machine: commit, then act |
//! | [`store`] | what is kept, and how it is read |
//! | [`scripts`] | users' scripts, run in child processes with limits |
//! | [`blobs`] | logs of attempts, kept beyond their sidecars |
//! | [`backup`] | a copy of all that is kept |
//! | [`edge`] | bytes to events, answers to bytes: gRPC, HTTP, TLS |
//! | [`cli`] | the command line, the server's verbs and the client's |
//! | `config` | the configuration file of `informer serve` |
//! | `decoders` | what reads foreign text, opened to a test; nothing in a shipped build |
//! | `rest` | memory that a daemon gives back once it is up |
//! | `failpoint` | where a test may kill this process; nothing in a shipped build |

#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the disk lives here, outside the machine")]
pub mod backup;
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the disk lives here, outside the machine")]
pub mod blobs;
#[allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "clocks, files and terminals of the command line"
)]
pub mod cli;
pub(crate) mod config;
#[cfg(feature = "decoders")]
#[doc(hidden)]
pub mod decoders;
#[allow(
    clippy::disallowed_methods,
    reason = "connections, fresh ids and tasks with owners live here, outside the machine"
)]
pub mod edge;
pub(crate) mod failpoint;
pub mod machine;
pub(crate) mod rest;
#[allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "processes, threads and deadlines of scripts live here, outside the machine"
)]
pub mod scripts;
#[allow(clippy::disallowed_methods, reason = "it owns the tasks it starts")]
pub mod server;
#[allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "clocks, threads and queues live here, outside the machine"
)]
pub mod shell;
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the disk lives here, outside the machine")]
pub mod store;
