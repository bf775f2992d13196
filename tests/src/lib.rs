//! What the tests share: the simulation, a harness over the real binaries, and everything that reads foreign bytes.

#[cfg(feature = "faults")]
pub mod chaos;
pub mod client;
pub mod files;
#[cfg(feature = "decoders")]
pub mod fuzz;
pub mod logical;
pub mod proxy;
#[cfg(feature = "faults")]
pub mod sim;
pub mod world;
