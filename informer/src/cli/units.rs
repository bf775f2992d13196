//! Human units on flags and in task files: durations like `1h30m`, byte counts like `512MiB`, signal names like `SIGINT`.

use std::{fmt, ops::RangeInclusive};

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// Why a text is not the quantity it should be. Names the text and shows a right one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0:?} is not a duration; write one like 500ms, 30s, 5m, 1h30m or 2d")]
    Duration(String),
    #[error("a limit of no time would be no limit; leave it out, or name some time like 30s")]
    NoTime,
    #[error("{0:?} is not a number of bytes; write one like 4096, 64KiB, 512MiB or 2GB")]
    Bytes(String),
    #[error("{0:?} is not a signal; write a name like SIGTERM or a number from 1 to 64")]
    Signal(String),
    #[error("{0:?} is not a pair; write KEY=VALUE")]
    Pair(String),
    #[error("{flag} {key} is given twice, as {first:?} and as {second:?}; keep one of them")]
    Twice { flag: &'static str, key: String, first: String, second: String },
    #[error("{0:?} is not a range of indices; write one like 1-100, the first and the last")]
    Range(String),
    #[error("{0:?} ends beyond the bound; the last index is at most {max}", max = proto::id::INDEX_MAX)]
    LastIndex(String),
    #[error("{0:?} has more than {most} members, which is the bound; use several arrays", most = proto::bounds::ARRAY_MEMBERS)]
    Members(String),
    #[error("{0:?} has no unit, and its key counts milliseconds; write a number without quotes, or a unit like 500ms")]
    Unit(String),
    #[error("{0:?} is neither a date nor a time ago; write one like 2026-11-21, 2026-11-21T08:30:00Z or 2h")]
    Moment(String),
    #[error("{0:?} is not a point in time; write one like 2026-11-21T08:30:00Z or 2026-11-21T09:30:00+01:00")]
    Time(String),
}

/// Milliseconds in one of each unit.
const DURATION_UNITS: [(&str, u64); 6] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];

/// Bytes in one of each unit. A lone `M` is missing on purpose: half of the world reads it as MB, the other half as MiB.
const BYTE_UNITS: [(&str, u64); 14] = [
    ("", 1),
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
];

/// Signals by their names on Linux, as on x86-64 and AArch64.
const SIGNALS: [(&str, i32); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// Splits a leading decimal number off: its whole part, its fraction in millionths, the rest. Digits beyond the sixth of the
/// fraction are ignored.
fn number(text: &str) -> Option<(u64, u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = text.split_at(digits);
    let whole: u64 = whole.parse().ok()?;
    let Some(tail) = rest.strip_prefix('.') else { return Some((whole, 0, rest)) };
    let digits = tail.bytes().take_while(u8::is_ascii_digit).count();
    let (fraction, rest) = tail.split_at(digits);
    if fraction.is_empty() {
        return None;
    }
    let millionths: String = fraction.chars().chain("000000".chars()).take(6).collect();
    Some((whole, millionths.parse().ok()?, rest))
}

/// `whole.millionths` units of `size` each; `None` beyond 64 bits.
fn scaled(whole: u64, millionths: u64, size: u64) -> Option<u64> {
    let fraction = u128::from(millionths) * u128::from(size) / 1_000_000;
    whole.checked_mul(size)?.checked_add(u64::try_from(fraction).ok()?)
}

fn duration_with(text: &str, bare: Option<u64>) -> Option<u64> {
    let mut rest = text.trim();
    if let Some(size) = bare
        && let Some((whole, millionths, "")) = number(rest)
    {
        return scaled(whole, millionths, size);
    }
    let mut total: u64 = 0;
    loop {
        let (whole, millionths, tail) = number(rest)?;
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(letters);
        let (_, size) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(scaled(whole, millionths, *size)?)?;
        rest = tail.trim_start();
        if rest.is_empty() {
            return Some(total);
        }
    }
}

/// A duration on a flag, in milliseconds. A bare number is seconds, as with `timeout` and `sleep`.
pub(crate) fn duration_ms(text: &str) -> Result<u64, Error> {
    duration_with(text, Some(1_000)).ok_or_else(|| Error::Duration(text.to_owned()))
}

/// A duration within bounds, in milliseconds.
///
/// # Errors
/// It is none, or out of them.
pub(crate) fn duration_within(text: &str, range: &RangeInclusive<u64>) -> Result<u64, String> {
    let ms = duration_ms(text).map_err(|error| error.to_string())?;
    let (least, most) = (range.start(), range.end());
    if range.contains(&ms) { Ok(ms) } else { Err(format!("{text} is out of range; write {least}ms to {most}ms")) }
}

/// A time limit: a duration that is not nothing, which would read as no limit at all.
pub(crate) fn limit_ms(text: &str) -> Result<u64, Error> {
    limit(duration_ms(text)?)
}

/// The same of milliseconds that somebody named.
pub(crate) fn limit(ms: u64) -> Result<u64, Error> {
    if ms == 0 { Err(Error::NoTime) } else { Ok(ms) }
}

/// A byte count.
pub(crate) fn bytes(text: &str) -> Result<u64, Error> {
    let wrong = || Error::Bytes(text.to_owned());
    let (whole, millionths, unit) = number(text.trim()).ok_or_else(wrong)?;
    let (_, size) = BYTE_UNITS.iter().find(|(name, _)| *name == unit.trim_start()).ok_or_else(wrong)?;
    scaled(whole, millionths, *size).ok_or_else(wrong)
}

/// A signal by name, with or without `SIG`, or by number.
pub(crate) fn signal(text: &str) -> Result<i32, Error> {
    let upper = text.trim().to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let named = SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    named
        .or_else(|| name.parse().ok().filter(|number| (1..=64).contains(number)))
        .ok_or_else(|| Error::Signal(text.to_owned()))
}

/// `SIGTERM` for 15; `None` for a signal without a name here.
pub(crate) fn signal_name(number: i32) -> Option<String> {
    SIGNALS.iter().find(|(_, known)| *known == number).map(|(name, _)| format!("SIG{name}"))
}

/// `KEY=VALUE`; the value may be empty and may hold further equal signs.
pub(crate) fn pair(text: &str) -> Result<(String, String), Error> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Error::Pair(text.to_owned())),
    }
}

/// Refuses a key that is given twice under `flag`: one of the values would be lost without a word.
///
/// # Errors
/// [`Error::Twice`] names flag and key.
pub(crate) fn once(flag: &'static str, pairs: &[(String, String)]) -> Result<(), Error> {
    let mut seen = std::collections::BTreeMap::new();
    for (key, value) in pairs {
        if let Some(first) = seen.insert(key, value) {
            let [key, first, second] = [key, first, value].map(Clone::clone);
            return Err(Error::Twice { flag, key, first, second });
        }
    }
    Ok(())
}

/// A point in time (RFC 3339), in milliseconds since 1970.
pub(crate) fn unix_ms(text: &str) -> Result<u64, Error> {
    let wrong = || Error::Time(text.to_owned());
    let time: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
    u64::try_from(time.as_millisecond()).map_err(|_| wrong())
}

/// A point in time, a date (its first moment, UTC), or a duration before `now`.
pub(crate) fn moment(text: &str, now_unix_ms: u64) -> Result<u64, Error> {
    if let Some(ago) = duration_with(text, None) {
        return Ok(now_unix_ms.saturating_sub(ago));
    }
    unix_ms(text).or_else(|_| unix_ms(&format!("{text}T00:00:00Z"))).map_err(|_| Error::Moment(text.to_owned()))
}

/// `A-B`: the first index, and how many there are.
pub(crate) fn range(text: &str) -> Result<(u32, u32), Error> {
    let wrong = || Error::Range(text.to_owned());
    let is_number = |end: &str| !end.is_empty() && end.bytes().all(|byte| byte.is_ascii_digit());
    let (first, last) =
        text.split_once('-').filter(|(first, last)| is_number(first) && is_number(last)).ok_or_else(wrong)?;
    let (Some(first), Some(last)) = (index(first), index(last)) else { return Err(Error::LastIndex(text.to_owned())) };
    let count = last.checked_sub(first).and_then(|more| more.checked_add(1)).ok_or_else(wrong)?;
    Ok((first, count))
}

/// The range of an array's members: a range, and not more of them than an array may have.
pub(crate) fn members(text: &str) -> Result<(u32, u32), Error> {
    let (first, count) = range(text)?;
    if count > proto::bounds::ARRAY_MEMBERS { Err(Error::Members(text.to_owned())) } else { Ok((first, count)) }
}

/// An index, in digits alone: `+1` and ` 1` are no other spellings of it.
pub(crate) fn index(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|index| digits && *index <= proto::id::INDEX_MAX)
}

/// A duration in a task file under a key without a unit (`attempt`): as on a flag, so a bare number is seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) u64);

/// A duration in a task file under a key that counts milliseconds (`attempt_ms`), as the gRPC field of that name does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Millis(pub(crate) u64);

/// A byte count in a task file: a text with a unit, or a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) u64);

/// Reads either form of a quantity.
struct Quantity {
    expected: &'static str,
    /// What a bare number counts.
    size: u64,
    read: fn(&str) -> Result<u64, Error>,
}

impl Visitor<'_> for Quantity {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<u64, E> {
        value.checked_mul(self.size).ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(value), &self))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<u64, E> {
        match u64::try_from(value) {
            Ok(value) => self.visit_u64(value),
            Err(_) => Err(E::invalid_value(de::Unexpected::Signed(value), &self)),
        }
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<u64, E> {
        let whole = value * self.size as f64;
        // Only where a part of a unit is something: half a second is, half a byte is not.
        if self.size == 1 || !(0.0..=MOST_MS).contains(&whole) {
            return Err(E::invalid_value(de::Unexpected::Float(value), &self));
        }
        Ok(whole.round() as u64)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<u64, E> {
        (self.read)(value).map_err(E::custom)
    }
}

/// Beyond it a float no longer tells one millisecond from the next; the informer refuses far less.
const MOST_MS: f64 = 9_007_199_254_740_992.0;

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let expected = "a duration like \"5m\", or seconds";
        input.deserialize_any(Quantity { expected, size: 1_000, read: duration_ms }).map(Self)
    }
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        // A bare number in quotes is refused here: a text is read like a flag's, where it would be seconds.
        let read = |text: &str| match duration_with(text, None) {
            Some(ms) => Ok(ms),
            None if text.trim().parse::<f64>().is_ok() => Err(Error::Unit(text.to_owned())),
            None => Err(Error::Duration(text.to_owned())),
        };
        let expected = "milliseconds, or a duration like \"5m\"";
        input.deserialize_any(Quantity { expected, size: 1, read }).map(Self)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(Quantity { expected: "a size like \"512MiB\", or bytes", size: 1, read: bytes }).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_nonsense_is_refused() {
        let good = [
            ("500ms", 500),
            ("30s", 30_000),
            ("1h30m", 5_400_000),
            ("1.5s", 1_500),
            ("2d", 172_800_000),
            ("1h 5m", 3_900_000),
            ("0", 0),
            ("30", 30_000),
            ("0.25", 250),
        ];
        for (text, ms) in good {
            assert_eq!(duration_ms(text), Ok(ms), "{text}");
        }
        for text in ["", "s", "5x", "-1s", "1.s", "5 minutes", "99999999999999999999s", "18446744073709551615w", "1h30"]
        {
            assert!(duration_ms(text).is_err(), "{text:?} was read as a duration");
        }
    }

    #[test]
    fn byte_counts_are_read_and_a_lone_m_is_refused() {
        let good = [
            ("4096", 4096),
            ("64KiB", 65_536),
            ("1.5MiB", 1_572_864),
            ("2GB", 2_000_000_000),
            ("512 MiB", 536_870_912),
        ];
        for (text, bytes_) in good {
            assert_eq!(bytes(text), Ok(bytes_), "{text}");
        }
        for text in ["", "M", "5M", "-1", "1e9", "99999999999999TiB"] {
            assert!(bytes(text).is_err(), "{text:?} was read as bytes");
        }
    }

    #[test]
    fn signals_have_names_and_numbers() {
        assert_eq!(signal("SIGINT"), Ok(2));
        assert_eq!(signal("term"), Ok(15));
        assert_eq!(signal("9"), Ok(9));
        assert!(signal("0").is_err() && signal("65").is_err() && signal("SIGNOPE").is_err());
        assert_eq!(signal_name(9).as_deref(), Some("SIGKILL"));
        assert_eq!(signal_name(40), None);
    }

    #[test]
    fn pairs_keep_further_equal_signs() {
        assert_eq!(pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(pair("a="), Ok(("a".into(), String::new())));
        let pairs = |values: [&str; 2]| values.map(|text| pair(text).expect("a pair"));
        assert_eq!(once("--label", &pairs(["a=1", "b=1"])), Ok(()));
        let twice = once("--label", &pairs(["a=1", "a=2"])).expect_err("twice").to_string();
        assert_eq!(twice, "--label a is given twice, as \"1\" and as \"2\"; keep one of them");
        assert!(pair("=b").is_err() && pair("ab").is_err());
    }

    #[test]
    fn ranges_have_two_ends_in_order() {
        assert_eq!(range("1-100"), Ok((1, 100)));
        assert_eq!(range("0-0"), Ok((0, 1)));
        assert_eq!(range("7-9"), Ok((7, 3)));
        for text in ["", "5", "9-7", "-1-2", "1-", "1-+2", "1 - 2", "0-4294967295", "1-99999999999"] {
            assert!(range(text).is_err(), "{text:?} was read as a range");
        }
        assert_eq!(members("1-10000000"), Ok((1, 10_000_000)));
        for (text, bound) in
            [("1-99999999999", "4294967294"), ("0-4294967295", "4294967294"), ("1-10000001", "10000000")]
        {
            let error = members(text).expect_err(text).to_string();
            assert!(error.contains(bound) && !error.contains("not a range"), "{error}");
        }
    }

    #[test]
    fn moments_are_dates_or_times_ago() {
        const HOUR: u64 = 3_600_000;
        assert_eq!(moment("2h", 5 * HOUR), Ok(3 * HOUR));
        assert_eq!(moment("1970-01-01T01:00:00Z", 0), Ok(HOUR));
        assert_eq!(moment("1970-01-02", 0), Ok(24 * HOUR));
        for text in ["", "5", "yesterday", "1970-13-01"] {
            assert!(moment(text, 0).is_err(), "{text:?} was read as a moment");
        }
    }

    #[test]
    fn points_in_time_need_a_zone() {
        assert_eq!(unix_ms("1970-01-01T00:00:01Z"), Ok(1_000));
        assert_eq!(unix_ms("1970-01-01T01:00:01+01:00"), Ok(1_000));
        assert!(unix_ms("2026-11-21T08:30:00").is_err() && unix_ms("tomorrow").is_err());
    }
}
