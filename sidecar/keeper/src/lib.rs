//! The keeper's library: what it shares with the agent.
//!
//! ```text
//! agent ── launch::ensure ──▶ keeper (binary) ── fork ──▶ monitor ── clone ──▶ user process
//!   │  wire + codec over <data>/keeper.sock ▲                │
//!   ├─ lease page <data>/lease ─────────────┴── reads ───────┤
//!   └─ record::read ◀── attempts/<name>/record ── writes ────┘
//! ```
//!
//! Everything here is free of async and of the agent's dependencies: the keeper's memory is a budget that every worker pays.

pub mod codec;
pub mod identity;
pub mod launch;
pub mod lease;
pub mod record;
#[doc(hidden)]
pub mod sys;
pub mod wire;
