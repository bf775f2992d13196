//! Ids as types: a string from the wire is parsed once and can then not be wrong.

use crate::{bounds, v1};
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
    /// A sidecar: made once, kept in its data directory.
    SidecarId,
    "sidecar"
);

/// A task, or a member of an array. A task's id is a UUID version 7, so that the order of ids is the order of submission (to the
/// millisecond); a member's is its array's with its index, and follows its array's directly in that order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// Big-endian, so that their order is the order of ids.
    base: [u8; 16],
    /// 0: no member; else one more than the index.
    member: u32,
}

/// Largest index of an array's member: one more is still a number of 32 bits.
pub const INDEX_MAX: u32 = u32::MAX - 1;

impl TaskId {
    /// A task that is no member, from its 128 bits.
    #[must_use]
    pub const fn from_u128(bits: u128) -> Self {
        Self { base: bits.to_be_bytes(), member: 0 }
    }

    /// The 128 bits of the task, or of the array that it is a member of.
    #[must_use]
    pub const fn as_u128(self) -> u128 {
        u128::from_be_bytes(self.base)
    }

    /// The member of this array with the given index; `None` if this is a member itself or the index is over [`INDEX_MAX`].
    #[must_use]
    pub const fn at(self, index: u32) -> Option<Self> {
        if self.member > 0 || index > INDEX_MAX {
            return None;
        }
        Some(Self { base: self.base, member: index + 1 })
    }

    /// Of a member: its index in its array.
    #[must_use]
    pub const fn index(self) -> Option<u32> {
        self.member.checked_sub(1)
    }

    /// Of a member: its array.
    #[must_use]
    pub const fn array(self) -> Option<Self> {
        if self.member == 0 { None } else { Some(Self { base: self.base, member: 0 }) }
    }

    /// 16 bytes, or 20 of a member: the array's and one more than the index, big-endian. Their order is the order of ids.
    #[must_use]
    pub fn to_bytes(self) -> IdBytes {
        let mut bytes = [0; 20];
        bytes[..16].copy_from_slice(&self.base);
        bytes[16..].copy_from_slice(&self.member.to_be_bytes());
        IdBytes { bytes, len: if self.member == 0 { 16 } else { 20 } }
    }

    /// From what [`TaskId::to_bytes`] gave; `None` for anything else.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (base, rest) = bytes.split_first_chunk::<16>()?;
        let member = if rest.is_empty() { 0 } else { u32::from_be_bytes(rest.try_into().ok()?) };
        (rest.is_empty() || member > 0).then_some(Self { base: *base, member })
    }
}

/// The bytes of a [`TaskId`]; a slice for all purposes.
#[derive(Clone, Copy, Debug)]
pub struct IdBytes {
    bytes: [u8; 20],
    len: usize,
}

impl std::ops::Deref for IdBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Uuid::from_bytes(self.base).hyphenated().fmt(f)?;
        match self.index() {
            Some(index) => write!(f, ".{index}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TaskId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error { what: "task", text: text.chars().take(64).collect() };
        let (base, index) = text.split_once('.').map_or((text, None), |(base, index)| (base, Some(index)));
        // Only the canonical form: one task must not have two spellings.
        if base.len() != 36 {
            return Err(wrong());
        }
        let task = Uuid::parse_str(base).map(|id| Self::from_u128(id.as_u128())).map_err(|_| wrong())?;
        let Some(index) = index else { return Ok(task) };
        let number: u32 = index.parse().map_err(|_| wrong())?;
        // No sign and no leading zero.
        if number.to_string() != index {
            return Err(wrong());
        }
        task.at(number).ok_or_else(wrong)
    }
}

/// The greatest number of an attempt. Nobody comes so far by counting; who is told a number from outside may count on from it, and has
/// as many again before a number of 32 bits is at its end.
pub const LAST_ATTEMPT: u32 = u32::MAX >> 1;

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

    /// From the wire form. An error if the task id is none or the number is 0 or above [`LAST_ATTEMPT`].
    ///
    /// # Errors
    /// [`Error`] names the text.
    pub fn from_wire(wire: &v1::AttemptId) -> Result<Self, Error> {
        if !(1..=LAST_ATTEMPT).contains(&wire.number) {
            let task: String = wire.task.chars().take(64).collect();
            return Err(Error { what: "attempt", text: format!("{task}.{}", wire.number) });
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
        let (task, number) = text.rsplit_once('.').ok_or_else(wrong)?;
        let number: u32 = number.parse().map_err(|_| wrong())?;
        if !(1..=LAST_ATTEMPT).contains(&number) {
            return Err(wrong());
        }
        Ok(Self { task: task.parse()?, number })
    }
}

/// The epoch of a leadership that follows `last`: greater than it, and no other's. Counting alone would give an epoch twice: an informer
/// restored from a backup knows of no leadership after that backup, and the sidecars that know of one may not be linked yet. So it is
/// microseconds since 1970, which puts a restored informer above every leadership before it, and luck of another second, which keeps two
/// apart whose clocks were set to the same time.
#[must_use]
pub fn next_epoch(last: u64, unix_ms: u64, luck: u64) -> u64 {
    let by_clock = unix_ms.saturating_mul(1000).min(EPOCHS_BY_CLOCK);
    last.max(by_clock).saturating_add(1 + luck % EPOCH_LUCK).min(bounds::EPOCH)
}

/// How far the luck of an epoch reaches. Twenty bits: two openings of one backup under one time meet in one of a million cases, and an
/// epoch stays below 2^53, which every reader of numbers can tell apart, until the year 2255.
const EPOCH_LUCK: u64 = 1 << 20;
/// What a clock may say at most: one that stands in a far future leaves room to count on.
const EPOCHS_BY_CLOCK: u64 = 1 << 53;

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
    fn an_epoch_rises_whatever_the_clock_says() {
        let (now_ms, luck) = (1_790_000_000_000, EPOCH_LUCK + 7);
        assert_eq!(next_epoch(3, now_ms, luck), now_ms * 1000 + 8);
        // Set back, broken, or far ahead.
        assert_eq!(next_epoch(now_ms * 1000 + 8, now_ms - 60_000, 0), now_ms * 1000 + 9);
        assert_eq!(next_epoch(3, 0, 0), 4);
        assert_eq!(next_epoch(3, u64::MAX, 0), EPOCHS_BY_CLOCK + 1);
        assert_eq!(next_epoch(u64::MAX, u64::MAX, u64::MAX), bounds::EPOCH);
    }

    #[test]
    fn attempt_ids_read_what_they_write() {
        let id = AttemptId { task: TaskId::from_u128(0x0192_f3c4_5b6d_7e8f_9a0b_1c2d_3e4f_5a6b), number: 7 };
        assert_eq!(id.to_string().parse::<AttemptId>(), Ok(id));
        assert_eq!(AttemptId::from_wire(&id.to_wire()), Ok(id));
    }

    #[test]
    fn a_member_follows_its_array_and_reads_what_it_writes() {
        let array = TaskId::from_u128(0x0192_f3c4_5b6d_7e8f_9a0b_1c2d_3e4f_5a6b);
        let next = TaskId::from_u128(array.as_u128() + 1);
        let members: Vec<TaskId> =
            [0, 1, 255, 256, INDEX_MAX].into_iter().filter_map(|index| array.at(index)).collect();
        assert_eq!(members.len(), 5);
        let ordered: Vec<TaskId> = std::iter::once(array).chain(members.iter().copied()).chain([next]).collect();
        assert!(ordered.is_sorted());
        assert!(ordered.is_sorted_by_key(|id| id.to_bytes().to_vec()));
        for member in members {
            assert_eq!(member.to_string().parse(), Ok(member));
            assert_eq!(TaskId::from_bytes(&member.to_bytes()), Some(member));
            assert_eq!((member.array(), member.at(1)), (Some(array), None));
            let attempt = AttemptId { task: member, number: 2 };
            assert_eq!(attempt.to_string().parse(), Ok(attempt));
        }
        assert_eq!(array.at(u32::MAX), None);
        assert_eq!(TaskId::from_bytes(&[0; 20]), None, "a member with no index");
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in ["", "x", "0192f3c45b6d7e8f9a0b1c2d3e4f5a6b", "{0192f3c4-5b6d-7e8f-9a0b-1c2d3e4f5a6b}"] {
            assert!(text.parse::<TaskId>().is_err(), "{text:?} was read as an id");
        }
        for text in ["", "01", "+1", "-1", "x", "4294967295", "4294967296", "1.1"] {
            let text = format!("0192f3c4-5b6d-7e8f-9a0b-1c2d3e4f5a6b.{text}");
            assert!(text.parse::<TaskId>().is_err(), "{text:?} was read as an id");
        }
        assert!("0192f3c4-5b6d-7e8f-9a0b-1c2d3e4f5a6b.0".parse::<AttemptId>().is_err());
    }
}
