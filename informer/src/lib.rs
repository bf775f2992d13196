//! The informer: holds every task durably and streams assignments to sidecars.

pub mod cli;
pub mod machine;
