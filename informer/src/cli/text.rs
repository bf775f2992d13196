//! Text for people: tables, ages, sizes and progress on one line.

use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) use proto::time::span;
use proto::v1::Progress;

use super::{error, words};

/// Rows below a header, columns aligned by two spaces; the last column is not padded.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| error::one_line(cell)).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([header[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded: String = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}  ")).collect();
        format!("{}\n", padded.trim_end())
    };
    let header: Vec<String> = header.iter().map(|name| (*name).to_owned()).collect();
    std::iter::once(line(&header)).chain(rows.iter().map(|row| line(row))).collect()
}

/// `-` for nothing.
pub(crate) fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// A byte count with a binary unit: `512B`, `1.5MiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match UNITS.iter().find(|(_, shift)| bytes >> shift > 0) {
        None => format!("{bytes}B"),
        Some((unit, shift)) => {
            let tenths = (u128::from(bytes) * 10) >> shift;
            format!("{}.{}{unit}", tenths / 10, tenths % 10)
        }
    }
}

/// Milliseconds since 1970, by this machine's clock.
pub(crate) fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// How long ago a time was; `-` for none.
pub(crate) fn age(unix_ms: u64, now_unix_ms: u64) -> String {
    if unix_ms == 0 { "-".to_owned() } else { span(now_unix_ms.saturating_sub(unix_ms)) }
}

/// A time in UTC, to the second: `2026-11-21T08:30:00Z`; `-` for none.
pub(crate) fn time(unix_ms: u64) -> String {
    let time =
        i64::try_from(unix_ms / 1_000).ok().filter(|s| *s > 0).and_then(|s| jiff::Timestamp::from_second(s).ok());
    time.map_or_else(|| "-".to_owned(), |time| time.to_string())
}

/// Progress as `42%  3.1x  eta 12s`, or a service's health; `-` while nothing is known.
pub(crate) fn progress(progress: Option<&Progress>) -> String {
    let Some(progress) = progress else { return "-".to_owned() };
    let mut parts: Vec<String> = words::health(progress.health()).into_iter().collect();
    if progress.permille > 0 {
        parts.push(format!("{}%", progress.permille.min(1_000) / 10));
    }
    if progress.speed > 0.0 {
        parts.push(format!("{:.1}x", progress.speed));
    }
    if progress.eta_ms > 0 {
        parts.push(format!("eta {}", span(progress.eta_ms)));
    }
    if parts.is_empty() { or_dash(&progress.note) } else { parts.join("  ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::Health;

    #[test]
    fn tables_align_and_cells_cannot_move_the_cursor() {
        let rows = vec![vec!["a".into(), "running".into()], vec!["bbbb".into(), "x\u{1b}[2Jy\nz".into()]];
        assert_eq!(table(&["ID", "STATE"], &rows), "ID    STATE\na     running\nbbbb  x [2Jy z\n");
        assert_eq!(table(&["ID", "STATE"], &[]), "ID  STATE\n");
    }

    #[test]
    fn sizes_are_short() {
        let sizes = [(512, "512B"), (1_536, "1.5KiB"), (1 << 20, "1.0MiB"), (u64::MAX, "16777215.9TiB")];
        for (bytes, text) in sizes {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn progress_reads_in_one_glance() {
        let transcode = Progress { permille: 421, speed: 3.1, eta_ms: 12_000, ..Progress::default() };
        assert_eq!(progress(Some(&transcode)), "42%  3.1x  eta 12s");
        assert_eq!(progress(Some(&Progress { health: Health::Starting.into(), ..Progress::default() })), "starting");
        assert_eq!(progress(None), "-");
        assert_eq!(progress(Some(&Progress::default())), "-");
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(time(1_000), "1970-01-01T00:00:01Z");
        assert_eq!(time(0), "-");
    }
}
