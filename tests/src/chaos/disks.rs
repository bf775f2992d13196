//! Disks that are full, fail, lose or damage what was written.

use super::Case;

/// The cases of this family.
pub static CASES: &[&Case] = &[];
