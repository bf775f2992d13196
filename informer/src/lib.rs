//! The informer: holds every task durably and streams assignments to sidecars.

mod edge;
pub mod machine;
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "clocks, threads and queues live here, outside the machine")]
pub mod shell;
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the disk lives here, outside the machine")]
pub mod store;
