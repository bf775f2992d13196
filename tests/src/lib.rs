//! What the tests share: the simulation, and a harness over the real binaries.

#[cfg(feature = "faults")]
pub mod chaos;
pub mod files;
pub mod proxy;
#[cfg(feature = "faults")]
pub mod sim;
pub mod world;
