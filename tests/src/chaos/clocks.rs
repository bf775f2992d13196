//! Clocks that jump.

use super::Case;

/// The cases of this family.
pub static CASES: &[&Case] = &[];
