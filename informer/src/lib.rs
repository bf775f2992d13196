//! The informer: holds every task durably and streams assignments to sidecars.

pub mod machine;
pub mod shell;
pub mod store;
