//! Spans of time as people read them, wherever a message names one.

/// A span in its two largest units: `950ms`, `12s`, `3m05s`, `2h10m`, `4d3h`.
#[must_use]
pub fn span(ms: u64) -> String {
    let s = ms / 1_000;
    match s {
        0 => format!("{ms}ms"),
        1..60 => format!("{s}s"),
        60..3_600 => format!("{}m{:02}s", s / 60, s % 60),
        3_600..86_400 => format!("{}h{:02}m", s / 3_600, s / 60 % 60),
        _ => format!("{}d{}h", s / 86_400, s / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::span;

    #[test]
    fn spans_are_short() {
        let spans = [
            (0, "0ms"),
            (950, "950ms"),
            (12_300, "12s"),
            (185_000, "3m05s"),
            (7_800_000, "2h10m"),
            (356_400_000, "4d3h"),
        ];
        for (ms, text) in spans {
            assert_eq!(span(ms), text);
        }
    }
}
