//! Which container a file name means. ffmpeg's own guess looks at the extension, which the staged name hides.

use std::path::Path;

/// Extension and muxer. Only muxers that write one file front to back or rewrite it in place.
const FORMATS: &[(&str, &str)] = &[
    ("mp4", "mp4"),
    ("m4v", "mp4"),
    ("m4a", "ipod"),
    ("mov", "mov"),
    ("mkv", "matroska"),
    ("mka", "matroska"),
    ("webm", "webm"),
    ("ts", "mpegts"),
    ("m2ts", "mpegts"),
    ("mts", "mpegts"),
    ("mpg", "mpeg"),
    ("mpeg", "mpeg"),
    ("avi", "avi"),
    ("flv", "flv"),
    ("3gp", "3gp"),
    ("mxf", "mxf"),
    ("nut", "nut"),
    ("gif", "gif"),
    ("mp3", "mp3"),
    ("aac", "adts"),
    ("flac", "flac"),
    ("wav", "wav"),
    ("ogg", "ogg"),
    ("oga", "oga"),
    ("ogv", "ogv"),
    ("opus", "opus"),
    ("ac3", "ac3"),
    ("h264", "h264"),
    ("h265", "hevc"),
    ("hevc", "hevc"),
];

/// Muxers that write more than the one file they are told.
const MANY_FILES: &[&str] =
    &["hls", "dash", "segment", "stream_segment", "ssegment", "image2", "tee", "smoothstreaming", "hds", "fifo"];

pub(super) fn of_path(path: &Path) -> Option<&'static str> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    FORMATS.iter().find(|(known, _)| *known == extension).map(|(_, format)| *format)
}

pub(super) fn writes_many_files(format: &str) -> bool {
    MANY_FILES.contains(&format)
}

/// All extensions, for a message.
pub(super) fn extensions() -> String {
    FORMATS.iter().map(|(extension, _)| *extension).collect::<Vec<_>>().join(", ")
}
