//! When a WAIT is over: a duration in words, or a date.

use serde_json::{Map, Value};

use super::Wait;

/// Checks the literal of a WAIT.
///
/// # Errors
/// What is wrong with it, and what it may look like.
pub fn check(key: &str, text: &str) -> Result<(), String> {
    if text.trim().is_empty() {
        return Ok(());
    }
    if key == "duration" { parse_duration(text).map(drop) } else { parse_until(text).map(drop) }
}

/// Reads a WAIT's input.
pub(super) fn of(input: &Map<String, Value>) -> Result<Wait, String> {
    let given = |key: &str| match input.get(key) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) if text.trim().is_empty() => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(other) => Some(other.to_string()),
    };
    match (given("duration"), given("until")) {
        (Some(_), Some(_)) => Err("a WAIT has a duration or an until, not both".to_owned()),
        (Some(duration), None) => parse_duration(&duration).map(Wait::After),
        (None, Some(until)) => parse_until(&until).map(Wait::At),
        (None, None) => Ok(Wait::Word),
    }
}

/// Milliseconds of `1 day 2 hours 3 minutes 4 seconds`, in any of Conductor's spellings.
///
/// # Errors
/// It is no such duration.
pub fn parse_duration(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no duration; write 2 days 3 hours 4 minutes 5 seconds, or 2d 3h 4m 5s");
    let lower = text.trim().to_ascii_lowercase();
    let mut rest = lower.as_str();
    let mut total: u64 = 0;
    let mut last = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let amount: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "day" | "days" | "d" => 86_400_000,
            "hour" | "hours" | "hr" | "hrs" | "h" => 3_600_000,
            "minute" | "minutes" | "min" | "mins" | "m" => 60_000,
            "second" | "seconds" | "sec" | "secs" | "s" => 1_000,
            _ => return Err(wrong()),
        };
        if unit >= last {
            return Err(wrong());
        }
        last = unit;
        rest = rest[letters..].trim_start();
        total = amount.checked_mul(unit).and_then(|ms| total.checked_add(ms)).ok_or_else(wrong)?;
    }
    if last == u64::MAX || total > crate::definition::MAX_SECONDS * 1000 { Err(wrong()) } else { Ok(total) }
}

/// Milliseconds since 1970 of `yyyy-MM-dd`, `yyyy-MM-dd HH:mm`, with a zone or without (UTC).
///
/// # Errors
/// It is no such date.
pub fn parse_until(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("{text:?} is no date; write 2030-12-31, 2030-12-31 23:59 or 2030-12-31 23:59 UTC (or GMT+02:00)");
    let mut parts = text.split_whitespace();
    let date = parts.next().ok_or_else(wrong)?;
    let numbers: Vec<i64> = date.split('-').map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong())?;
    let [year, month, day] = numbers[..] else { return Err(wrong()) };
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=days_of(year, month)).contains(&day) {
        return Err(wrong());
    }
    let mut minutes = 0;
    if let Some(time) = parts.next() {
        let (hours, rest) = time.split_once(':').ok_or_else(wrong)?;
        let (hour, minute): (i64, i64) = (hours.parse().map_err(|_| wrong())?, rest.parse().map_err(|_| wrong())?);
        if !(0..24).contains(&hour) || !(0..60).contains(&minute) {
            return Err(wrong());
        }
        minutes = hour * 60 + minute;
    }
    if let Some(zone) = parts.next() {
        minutes -= offset(zone).ok_or_else(wrong)?;
    }
    if parts.next().is_some() {
        return Err(wrong());
    }
    let ms = (days_since_1970(year, month, day) * 1440 + minutes) * 60_000;
    u64::try_from(ms).map_err(|_| wrong())
}

/// Minutes east of UTC. Names of places need a database that changes; offsets do not.
fn offset(zone: &str) -> Option<i64> {
    let rest = zone.strip_prefix("UTC").or(zone.strip_prefix("GMT")).unwrap_or(zone);
    if rest.is_empty() || rest == "Z" {
        return Some(0);
    }
    let (sign, rest) = match rest.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = match rest.split_once(':') {
        Some((hours, minutes)) => (hours, minutes),
        None if rest.len() == 4 && rest.is_ascii() => rest.split_at(2),
        None => (rest, "0"),
    };
    let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
    ((0..=18).contains(&hours) && (0..60).contains(&minutes)).then_some(sign * (hours * 60 + minutes))
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days of the Gregorian calendar, counted in years that begin in March.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_words_and_letters() {
        assert_eq!(parse_duration("2 seconds"), Ok(2_000));
        assert_eq!(parse_duration("1d 2h 3m 4s"), Ok(93_784_000));
        assert_eq!(parse_duration("3 Minutes 10 secs"), Ok(190_000));
        for bad in ["", "2", "x", "2s 1m", "1 fortnight", "-1s", "99999999999999999999s", "1m 1m"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn dates_are_read_with_and_without_a_zone() {
        assert_eq!(parse_until("1970-01-02"), Ok(86_400_000));
        assert_eq!(parse_until("2026-11-21 17:41"), Ok(1_795_282_860_000));
        assert_eq!(parse_until("2026-11-21 17:41 GMT+02:00"), Ok(1_795_275_660_000));
        assert_eq!(parse_until("2024-02-29 00:00 UTC"), Ok(1_709_164_800_000));
        for bad in [
            "",
            "tomorrow",
            "2023-02-29",
            "2026-13-01",
            "2026-01-01 25:00",
            "2026-01-01 10:00 Mars",
            "2026-01-01 1:2 UTC x",
        ] {
            assert!(parse_until(bad).is_err(), "{bad}");
        }
    }
}
