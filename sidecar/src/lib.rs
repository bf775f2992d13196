//! The sidecar: runs next to a worker, holds the link to the informer and hands processes to the keeper.

pub mod exec;
pub mod health;
pub mod load;
pub mod logs;
