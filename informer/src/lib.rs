//! The informer: holds every task durably and streams assignments to sidecars.

#[allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the terminal, files and processes live here, outside the machine"
)]
pub mod cli;
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "sockets and deadlines live here, outside the machine")]
pub mod edge;
pub(crate) mod failpoint;
pub mod machine;
pub mod server;
#[allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "clocks, threads and queues live here, outside the machine"
)]
pub mod shell;
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the disk lives here, outside the machine")]
pub mod store;
