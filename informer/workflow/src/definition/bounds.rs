//! How large a definition may be.

/// Tasks of one definition, nested ones included. The plan of a run lies in memory; Conductor's own largest samples have
/// fewer than a hundred.
pub const MAX_TASKS: usize = 2_000;

/// Lists within lists. Parsing recurses once per level, so this bounds the stack.
pub const MAX_DEPTH: usize = 32;

/// Bytes of a name, a reference name or a case. They are part of keys and are repeated in every row.
pub const MAX_NAME_BYTES: usize = 255;

/// Faults told of one definition. Who has more mends these first; without a bound a definition could make its answer
/// larger than itself.
pub const MAX_FAULTS: usize = 100;

/// Seconds of any timeout or delay: ten years. More overflows nothing but is surely a slip of units.
pub const MAX_SECONDS: u64 = 10 * 366 * 24 * 3600;

/// Retries of one task. Each is a record of its own.
pub const MAX_RETRIES: u32 = 1_000;

/// Definitions of one file. Each is a registration of its own, and a file of more would hold its sender for minutes.
pub const MAX_BUNDLE: usize = 1_000;
