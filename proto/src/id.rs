//! Ids as types: a string from the wire is parsed once and can then not be wrong.

use crate::v1;
use std::{fmt, str::FromStr};
use uuid::Uuid;

/// Why a string is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} id {text:?} is not a UUID like 0192f3c4-5b6d-7e8f-9a0b-1c2d3e4f5a6b")]
pub struct Error {
    what: &'static str,
    text: String,
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// From its 128 bits.
            #[must_use]
            pub const fn from_u128(bits: u128) -> Self {
                Self(bits)
            }

            /// Its 128 bits.
            #[must_use]
            pub const fn as_u128(self) -> u128 {
                self.0
            }

            /// Its 16 bytes, big-endian, so that their order is the order of ids.
            #[must_use]
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }

            /// From 16 bytes, big-endian; `None` for any other length.
            #[must_use]
            pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(|bytes| Self(u128::from_be_bytes(bytes)))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                Uuid::from_u128(self.0).hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                let shown = || Error { what: $what, text: text.chars().take(64).collect() };
                // Only the canonical form: one task must not have two spellings.
                if text.len() != 36 {
                    return Err(shown());
                }
                Uuid::parse_str(text).map(|id| Self(id.as_u128())).map_err(|_| shown())
            }
        }
    };
}

uuid_id!(
    /// A task. UUID version 7, so that the order of ids is the order of submission (to the millisecond).
    TaskId,
    "task"
);
uuid_id!(
    /// A sidecar: made once, kept in its data directory.
    SidecarId,
    "sidecar"
);

/// One try of a task: its number counts from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId {
    /// The task.
    pub task: TaskId,
    /// Counts from 1.
    pub number: u32,
}

impl AttemptId {
    /// The name of its directory below `attempts/`: `<task>.<number>`.
    #[must_use]
    pub fn dir_name(self) -> String {
        self.to_string()
    }

    /// The wire form.
    #[must_use]
    pub fn to_wire(self) -> v1::AttemptId {
        v1::AttemptId { task: self.task.to_string(), number: self.number }
    }

    /// From the wire form. An error if the task id is none or the number is 0.
    ///
    /// # Errors
    /// [`Error`] names the text.
    pub fn from_wire(wire: &v1::AttemptId) -> Result<Self, Error> {
        if wire.number == 0 {
            return Err(Error {
                what: "attempt",
                text: format!("{}.0", wire.task.chars().take(64).collect::<String>()),
            });
        }
        Ok(Self { task: wire.task.parse()?, number: wire.number })
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.task, self.number)
    }
}

impl fmt::Debug for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for AttemptId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error { what: "attempt", text: text.chars().take(64).collect() };
        let (task, number) = text.split_once('.').ok_or_else(wrong)?;
        let number: u32 = number.parse().map_err(|_| wrong())?;
        if number == 0 {
            return Err(wrong());
        }
        Ok(Self { task: task.parse()?, number })
    }
}

/// Orders attempts of one task for acceptance: (epoch of the informer, counter within it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Fence {
    /// Epoch of the informer that made it.
    pub epoch: u64,
    /// Grows within the epoch.
    pub n: u64,
}

impl From<v1::Fence> for Fence {
    fn from(wire: v1::Fence) -> Self {
        Self { epoch: wire.epoch, n: wire.n }
    }
}

impl From<Fence> for v1::Fence {
    fn from(fence: Fence) -> Self {
        Self { epoch: fence.epoch, n: fence.n }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempt_ids_read_what_they_write() {
        let id = AttemptId { task: TaskId::from_u128(0x0192_f3c4_5b6d_7e8f_9a0b_1c2d_3e4f_5a6b), number: 7 };
        assert_eq!(id.to_string().parse::<AttemptId>(), Ok(id));
        assert_eq!(AttemptId::from_wire(&id.to_wire()), Ok(id));
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in ["", "x", "0192f3c45b6d7e8f9a0b1c2d3e4f5a6b", "{0192f3c4-5b6d-7e8f-9a0b-1c2d3e4f5a6b}"] {
            assert!(text.parse::<TaskId>().is_err(), "{text:?} was read as an id");
        }
        assert!("0192f3c4-5b6d-7e8f-9a0b-1c2d3e4f5a6b.0".parse::<AttemptId>().is_err());
    }
}
