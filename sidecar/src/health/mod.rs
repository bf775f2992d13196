//! Health of a service: the probes, and the tracker that turns their results into a state.
//!
//! HTTP and TCP probes are made here; a command probe runs as an attempt of its own through the keeper ([`probe_spec`]), since
//! only the keeper spawns. What an unhealthy service means is its restart policy's affair, not ours.

mod probe;
mod tracker;

pub use probe::{Failure, check, probe_name, probe_spec};
pub use tracker::{Change, Settings, Tracker};
