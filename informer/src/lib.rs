//! The informer: holds every task durably and streams assignments to sidecars.

mod edge;
pub mod machine;
pub mod shell;
pub mod store;
