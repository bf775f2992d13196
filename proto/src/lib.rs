//! What informer, sidecar and clients share: the schema, ids, bounds and the checks that every message passes at the edge.
//!
//! | module | holds |
//! |---|---|
//! | [`v1`] | the generated messages and services of `informer.v1` |
//! | [`store`] | the rows that the informer's store keeps |
//! | [`id`] | task, sidecar and attempt ids as types |
//! | [`bounds`] | every bound of the wire, each with its reason |
//! | [`check`] | bytes become checked types here, once |
//! | [`dial`] | how a client or a sidecar reaches an informer |
//! | [`settings`] | how both daemons read their configuration files |
//! | [`time`] | spans as people read them |

pub mod bounds;
pub mod check;
pub mod codec;
pub mod dial;
pub mod id;
pub mod member;
pub mod settings;
pub mod time;

/// The generated messages, clients and servers of the package `informer.v1`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::too_many_lines,
    reason = "generated; documented in the .proto"
)]
pub mod v1 {
    tonic::include_proto!("informer.v1");
}

/// The generated rows of the package `informer.store.v1`.
pub mod store {
    #[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated; documented in the .proto")]
    mod v1 {
        tonic::include_proto!("informer.store.v1");
    }
    pub use v1::*;
}

/// The encoded descriptor set of the whole schema, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Oldest link protocol this build speaks.
pub const PROTOCOL_MIN: u32 = 1;
/// Newest link protocol this build speaks.
pub const PROTOCOL_MAX: u32 = 1;
