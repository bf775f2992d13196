//! Which lines of ffmpeg's stderr tell why it failed. With `-loglevel level+…` a line looks like
//! `[h264 @ 0x55dc] [error] Invalid NAL unit size`.

use crate::exec::ending::one_line;
use std::collections::VecDeque;

/// First errors that are kept: the cause stands first, what follows from it later.
const FIRST: usize = 3;
/// Last errors that are kept: the conclusion stands last.
const LAST: usize = 2;
/// Longest part of one line that is kept, bytes.
const LINE_BYTES: usize = 300;

/// Lines that say only that something was said before.
const EMPTY_WORDS: [&str; 4] =
    ["Conversion failed!", "Last message repeated", "Error while filtering:", "Terminating demuxer"];

/// Signs that the input is at fault and not the arguments.
const INPUT_SIGNS: [&str; 6] = [
    "corrupt input packet",
    "corrupt decoded frame",
    "Error while decoding",
    "error while decoding",
    "Error submitting packet to decoder",
    "Invalid data found when processing input",
];

/// Signs that the disk is at fault.
const IO_SIGNS: [&str; 4] = ["No space left on device", "Input/output error", "Disk quota exceeded", "File too large"];

/// What a failure is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blame {
    Input,
    Disk,
    Other,
}

/// The telling lines of one run, bounded.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    first: Vec<String>,
    last: VecDeque<String>,
    /// The last line of any level, for a run that fails without an error line.
    any: String,
    count: u64,
    guessed: bool,
}

impl Complaints {
    pub(super) fn of(stderr: &[u8]) -> Self {
        let mut complaints = Self::default();
        stderr.split(|&byte| byte == b'\n').for_each(|line| complaints.line(line));
        complaints
    }

    /// Takes one line without its end.
    pub(super) fn line(&mut self, line: &[u8]) {
        let text = String::from_utf8_lossy(&line[..line.len().min(4 * LINE_BYTES)]);
        let (level, message) = split(text.trim());
        if message.is_empty() || EMPTY_WORDS.iter().any(|words| message.starts_with(words)) {
            return;
        }
        self.guessed |= message.contains("Estimating duration from bitrate");
        let message = one_line(message, LINE_BYTES);
        if !matches!(level, Some("error" | "fatal" | "panic")) {
            self.any = message;
            return;
        }
        self.count += 1;
        if self.first.len() < FIRST {
            self.first.push(message);
        } else {
            self.last.push_back(message);
            if self.last.len() > LAST {
                self.last.pop_front();
            }
        }
    }

    /// The length of the media was not known but estimated.
    pub(super) const fn guessed_duration(&self) -> bool {
        self.guessed
    }

    /// How many error lines there were.
    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn blame(&self) -> Blame {
        let tells = |signs: &[&str]| self.errors().any(|line| signs.iter().any(|sign| line.contains(sign)));
        if tells(&IO_SIGNS) {
            Blame::Disk
        } else if tells(&INPUT_SIGNS) {
            Blame::Input
        } else {
            Blame::Other
        }
    }

    /// Cause and conclusion in one line.
    pub(super) fn reason(&self) -> String {
        let cause = self.errors().next();
        let conclusion = self.errors().last();
        match (cause, conclusion) {
            (Some(cause), Some(conclusion)) if cause != conclusion => format!("{cause}; {conclusion}"),
            (Some(cause), _) => cause.clone(),
            (None, _) if self.any.is_empty() => "it said nothing".to_owned(),
            (None, _) => self.any.clone(),
        }
    }

    fn errors(&self) -> impl Iterator<Item = &String> {
        self.first.iter().chain(&self.last)
    }
}

/// Level and message, without the `[name @ 0x…]` that stands before them.
fn split(line: &str) -> (Option<&str>, &str) {
    let mut rest = line;
    while let Some((tag, after)) = rest.strip_prefix('[').and_then(|inner| inner.split_once("] ")) {
        match tag {
            "panic" | "fatal" | "error" | "warning" | "info" | "verbose" | "debug" | "trace" => {
                return (Some(tag), after.trim());
            }
            _ if tag.contains(" @ 0x") => rest = after,
            _ => break,
        }
    }
    (None, rest.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cause_and_conclusion_are_told_without_addresses() {
        let stderr = b"[info] Input #0, mov\n[NULL @ 0x55dc] [error] Invalid NAL unit size (33802 > 29099).\n\
            [h264 @ 0x55] [warning] something\n[fatal] /in.mp4: corrupt input packet in stream 0\n[info] Conversion failed!\n";
        let complaints = Complaints::of(stderr);
        assert_eq!(
            complaints.reason(),
            "Invalid NAL unit size (33802 > 29099).; /in.mp4: corrupt input packet in stream 0"
        );
        assert_eq!((complaints.count(), complaints.blame()), (2, Blame::Input));
    }

    #[test]
    fn a_flood_keeps_its_beginning_and_its_end() {
        let mut complaints = Complaints::default();
        for n in 0..100_000 {
            complaints.line(format!("[error] line {n}").as_bytes());
        }
        assert_eq!(complaints.reason(), "line 0; line 99999");
        assert_eq!((complaints.first.len(), complaints.last.len()), (FIRST, LAST));
    }

    #[test]
    fn without_an_error_line_the_last_line_tells() {
        assert_eq!(Complaints::of(b"[warning] odd\nUnrecognized option 'x'.\n").reason(), "Unrecognized option 'x'.");
        assert_eq!(Complaints::of(b"\n\n").reason(), "it said nothing");
    }

    #[test]
    fn garbage_is_one_bounded_line() {
        let noise: Vec<u8> = (0..=255).cycle().take(100_000).filter(|&byte| byte != b'\n').collect();
        let reason = Complaints::of(&[b"[error] ", &noise[..]].concat()).reason();
        assert!(reason.len() <= LINE_BYTES && !reason.contains(char::is_control), "{reason:?}");
        for line in ["[", "[]", "[] ", "[error]", "[a @ 0x1] ", "[a @ 0x1] [b @ 0x2] [error] x"] {
            Complaints::of(line.as_bytes());
        }
    }
}
