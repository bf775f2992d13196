//! `ffmpeg -progress`: blocks of `key=value` lines, each closed by `progress=continue` or `progress=end`.
//!
//! Tolerant on purpose: keys come and go between versions, values may be `N/A`, and a progress bar is no reason to fail.

use crate::exec::progress::Snapshot;

/// Of 1000, while ffmpeg runs: the rest is verification, so that nobody sees 100 % of something that may still fail.
const ENCODED_PERMILLE: f64 = 990.0;

/// One block.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Report {
    frame: Option<u64>,
    frames_per_second: Option<f64>,
    out_time_us: Option<u64>,
    total_size: Option<u64>,
    speed: Option<f64>,
}

/// Collects lines into blocks.
#[derive(Debug, Default)]
pub(super) struct Parser {
    current: Report,
}

impl Parser {
    /// Takes one line; `Some` when it closed a block. A value that cannot be read counts as unknown, any other line as noise.
    pub(super) fn line(&mut self, line: &str) -> Option<Report> {
        let (key, value) = line.trim().split_once('=')?;
        let value = value.trim();
        match key {
            "frame" => self.current.frame = value.parse().ok(),
            "fps" => self.current.frames_per_second = number(value),
            "out_time_us" => self.current.out_time_us = value.parse().ok(),
            "total_size" => self.current.total_size = value.parse().ok(),
            "speed" => self.current.speed = number(value.trim_end_matches('x').trim()).filter(|&speed| speed > 0.0),
            "progress" => return Some(std::mem::take(&mut self.current)),
            _ => {}
        }
        None
    }
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|value: &f64| value.is_finite() && *value >= 0.0)
}

impl Report {
    /// What the agent shows, given how long the output will be.
    pub(super) fn snapshot(&self, expected_seconds: Option<f64>) -> Snapshot {
        let done_seconds = self.out_time_us.unwrap_or(0) as f64 / 1e6;
        let expected = expected_seconds.filter(|&seconds| seconds > 0.0);
        // Casts saturate, so an absurd number ends at a bound.
        let permille =
            expected.map_or(0, |seconds| (done_seconds / seconds * ENCODED_PERMILLE).min(ENCODED_PERMILLE) as u32);
        let eta_ms = match (expected, self.speed) {
            (Some(seconds), Some(speed)) => ((seconds - done_seconds).max(0.0) / speed * 1000.0) as u64,
            _ => 0,
        };
        Snapshot {
            permille,
            speed: self.speed.unwrap_or(0.0),
            eta_ms,
            note: self.note(done_seconds),
            step: self.out_time_us.unwrap_or(0) / 1000,
        }
    }

    fn note(&self, done_seconds: f64) -> String {
        let mut parts = vec![format!("{done_seconds:.1} s")];
        parts.extend(self.frame.map(|frame| format!("frame {frame}")));
        parts.extend(self.frames_per_second.map(|rate| format!("{rate:.0} fps")));
        parts.extend(self.total_size.map(|size| format!("{:.1} MB", size as f64 / 1e6)));
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn blocks(text: &str) -> Vec<Report> {
        let mut parser = Parser::default();
        text.lines().filter_map(|line| parser.line(line)).collect()
    }

    #[test]
    fn a_block_becomes_percent_speed_and_eta() {
        let text = "frame=120\nfps=48.0\nbitrate= 900.1kbits/s\ntotal_size=1500000\nout_time_us=5000000\nspeed=2.5x\nprogress=continue\n";
        let [report] = &blocks(text)[..] else { panic!("one block expected") };
        let snapshot = report.snapshot(Some(20.0));
        assert_eq!((snapshot.permille, snapshot.speed, snapshot.eta_ms, snapshot.step), (247, 2.5, 6000, 5000));
        assert_eq!(snapshot.note, "5.0 s, frame 120, 48 fps, 1.5 MB");
        assert_eq!(report.snapshot(None).permille, 0, "unknown length, unknown share");
    }

    #[test]
    fn what_ffmpeg_does_not_know_is_unknown_here() {
        let text = "frame=0\nfps=0.00\ntotal_size=N/A\nout_time_us=N/A\nspeed=N/A\nprogress=continue\nout_time_us=-21333\nspeed=   0x\nprogress=end\n";
        for report in blocks(text) {
            assert_eq!((report.out_time_us, report.speed, report.total_size), (None, None, None));
            assert_eq!(report.snapshot(Some(5.0)).eta_ms, 0);
        }
    }

    #[test]
    fn a_report_past_the_expected_end_stays_in_bounds() {
        let report = Report { out_time_us: Some(u64::MAX), speed: Some(1e-300), ..Default::default() };
        let snapshot = report.snapshot(Some(1.0));
        assert_eq!((snapshot.permille, snapshot.eta_ms), (990, 0));
    }

    proptest! {
        #[test]
        fn garbage_never_panics_or_leaves_the_bounds(lines in proptest::collection::vec("(?s).{0,40}|(frame|fps|out_time_us|total_size|speed|progress)=.{0,30}", 0..30), expected: f64) {
            let mut parser = Parser::default();
            for line in lines {
                if let Some(report) = parser.line(&line) {
                    let snapshot = report.snapshot(Some(expected));
                    prop_assert!(snapshot.permille <= 990 && snapshot.speed.is_finite());
                }
            }
        }
    }
}
