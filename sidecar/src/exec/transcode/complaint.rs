//! Which lines of ffmpeg's stderr tell why it failed. With `-loglevel level+…` a line looks like
//! `[h264 @ 0x55dc] [error] Invalid NAL unit size`.

use crate::exec::ending::one_line;
use std::collections::VecDeque;

/// First errors that are kept: the cause stands first, what follows from it later.
const FIRST: usize = 3;
/// Last errors that are kept: the conclusion stands last.
const LAST: usize = 2;
/// Components whose errors are told apart; a file has few decoders.
const SPEAKERS: usize = 8;
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
    /// Who reported an error, as in `[h264 @ 0x55dc]`; at most [`SPEAKERS`].
    speakers: Vec<String>,
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
        let Line { speaker, level, message } = split(text.trim());
        if message.is_empty() || EMPTY_WORDS.iter().any(|words| message.starts_with(words)) {
            return;
        }
        self.guessed |= message.contains("Estimating duration from bitrate");
        // Our `file:` is for ffmpeg, not for people.
        let message = one_line(&message.replace("file:/", "/"), LINE_BYTES);
        if !matches!(level, Some("error" | "fatal" | "panic")) {
            self.any = message;
            return;
        }
        self.count += 1;
        if let Some(speaker) = speaker.filter(|_| self.speakers.len() < SPEAKERS) {
            self.speakers.push(speaker.to_owned());
        }
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

    /// What the errors are about. `sources` are the names under which ffmpeg's demuxer and decoders of the input speak.
    pub(super) fn blame(&self, sources: &[String]) -> Blame {
        let tells = |signs: &[&str]| self.errors().any(|line| signs.iter().any(|sign| line.contains(sign)));
        if tells(&IO_SIGNS) {
            Blame::Disk
        } else if tells(&INPUT_SIGNS) || self.speakers.iter().any(|speaker| sources.contains(speaker)) {
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

struct Line<'a> {
    speaker: Option<&'a str>,
    level: Option<&'a str>,
    message: &'a str,
}

/// Takes the tags off a line.
fn split(line: &str) -> Line<'_> {
    let mut speaker = None;
    let mut rest = line;
    while let Some((tag, after)) = rest.strip_prefix('[').and_then(|inner| inner.split_once("] ")) {
        match (tag, tag.split_once(" @ 0x")) {
            ("panic" | "fatal" | "error" | "warning" | "info" | "verbose" | "debug" | "trace", _) => {
                return Line { speaker, level: Some(tag), message: after.trim() };
            }
            (_, Some((name, _))) => (speaker, rest) = (Some(name), after),
            (_, None) => break,
        }
    }
    Line { speaker, level: None, message: rest.trim() }
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
        assert_eq!((complaints.count(), complaints.blame(&[])), (2, Blame::Input));
    }

    #[test]
    fn the_inputs_own_parts_are_blamed_on_the_input() {
        let complaints = Complaints::of(b"[matroska,webm @ 0x1] [error] invalid as first byte of an EBML number\n");
        assert_eq!(complaints.blame(&["matroska,webm".to_owned()]), Blame::Input);
        assert_eq!(complaints.blame(&["h264".to_owned()]), Blame::Other);
        let full = Complaints::of(b"[mp4 @ 0x1] [error] av_interleaved_write_frame(): No space left on device\n");
        assert_eq!(full.blame(&[]), Blame::Disk);
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
