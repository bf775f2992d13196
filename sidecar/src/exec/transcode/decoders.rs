//! The transcodes' part of [`crate::decoders`].

use super::arguments;
use super::complaint::Complaints;
use super::ffmpeg::Output;
use super::probe;
use super::report::Parser;
use crate::exec::progress::Snapshot;
use proto::v1;
use std::process::ExitStatus;

/// What ffmpeg writes with `-progress`, of an output that should last so long: the progress that people are shown, block by block.
pub fn progress(bytes: &[u8], expected_seconds: Option<f64>) -> Vec<v1::Progress> {
    let mut parser = Parser::default();
    let text = String::from_utf8_lossy(bytes);
    let blocks = text.split('\n').filter_map(|line| parser.line(line));
    blocks.map(|block| block.snapshot(expected_seconds).into()).collect()
}

/// The file in which a supervisor tells its progress; anybody in the task could have written there.
pub fn snapshot(bytes: &[u8]) -> Option<v1::Progress> {
    serde_json::from_slice::<Snapshot>(bytes).ok().map(Into::into)
}

/// What ffmpeg writes to stderr: the line that people are told.
pub fn complaints(bytes: &[u8]) -> String {
    let complaints = Complaints::of(bytes);
    // Whom it blames is not the point here.
    let _ = complaints.blame(&["h264".to_owned()]);
    complaints.reason()
}

/// ffprobe's answer: whether there is anything in it to transcode; `None` if it cannot be read.
pub fn streams(bytes: &[u8]) -> Option<bool> {
    let output = Output { status: ExitStatus::default(), stdout: bytes.to_vec(), complaints: Complaints::default() };
    let media = probe::parse(&output).ok()?;
    let _ = (media.span(arguments::Timing::Whole), media.packets().count(), media.speakers(&[]));
    Some(media.has_media())
}
