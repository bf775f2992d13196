//! Too little memory, too few processes, no processor time, no open files.

use super::Case;

/// The cases of this family.
pub static CASES: &[&Case] = &[];
