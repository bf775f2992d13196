//! More of everything than there is room for.

use super::Case;

/// The cases of this family.
pub static CASES: &[&Case] = &[];
