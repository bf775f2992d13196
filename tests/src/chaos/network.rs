//! Cuts, losses, resets and delays between sidecars and their informer.

use super::Case;

/// The cases of this family.
pub static CASES: &[&Case] = &[];
