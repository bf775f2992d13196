//! The sidecar: runs next to a worker, spawns and supervises its tasks.

pub mod ledger;
pub mod machine;
