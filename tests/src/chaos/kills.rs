//! `kill -9` of each role, at random moments and at each boundary.

use super::Case;

/// The cases of this family.
pub static CASES: &[&Case] = &[];
