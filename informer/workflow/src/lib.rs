//! Workflows without a clock, a disk or a network: Conductor's definitions, and the state machine of one run.
//!
//! ```text
//!  JSON ─▶ definition ─▶ plan ─┐
//!                              ▼        Command::Evaluate(Question)
//!           Event ──────▶ run::Run ────────────────────────────────▶ evaluate::answer ─▶ Answer
//!                              │                                         (over stored JSON, beside the machine)
//!                              └──▶ rows touched, commands
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`chart`] | the flow chart of a run or a definition, as JSON and as SVG |
//! | [`definition`] | what a workflow or task definition may say, and everything that is wrong with one |
//! | [`expression`] | `${…}` |
//! | [`plan`] | a definition laid out for running |
//! | [`run`] | one run: events in, rows and commands out; payloads are handles |
//! | [`evaluate`] | the answers to a run's questions, the only place that looks inside payloads |

pub mod chart;
pub mod definition;
pub mod evaluate;
pub mod expression;
pub mod plan;
pub mod run;
