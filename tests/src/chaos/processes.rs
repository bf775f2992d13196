//! What users' processes do to their sidecar.

use super::Case;

/// The cases of this family.
pub static CASES: &[&Case] = &[];
