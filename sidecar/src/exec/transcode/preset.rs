//! The presets: arguments that a plain Debian ffmpeg encodes. Described for users in docs/transcode.md.

/// Name and arguments of each preset, in the order in which they are shown.
///
/// `-2` keeps the width even and the aspect ratio; `min(…)` never enlarges; `yuv420p` and `faststart` are what browsers play.
pub const PRESETS: &[(&str, &[&str])] = &[
    ("h264-480p", &h264(SCALE_480, "23")),
    ("h264-720p", &h264(SCALE_720, "22")),
    ("h264-1080p", &h264(SCALE_1080, "21")),
    ("h265-720p", &H265_720),
    ("vp9-720p", &VP9_720),
    ("audio-aac", &["-map", "0:a:0", "-vn", "-sn", "-dn", "-c:a", "aac", "-b:a", "160k"]),
    ("audio-mp3", &["-map", "0:a:0", "-vn", "-sn", "-dn", "-c:a", "libmp3lame", "-q:a", "2"]),
    ("remux", &["-map", "0:v?", "-map", "0:a?", "-c", "copy"]),
];

const SCALE_480: &str = "scale=-2:'min(480,trunc(ih/2)*2)'";
const SCALE_720: &str = "scale=-2:'min(720,trunc(ih/2)*2)'";
const SCALE_1080: &str = "scale=-2:'min(1080,trunc(ih/2)*2)'";

const fn h264(scale: &'static str, crf: &'static str) -> [&'static str; 24] {
    [
        "-map",
        "0:v:0",
        "-map",
        "0:a:0?",
        "-sn",
        "-dn",
        "-vf",
        scale,
        "-c:v",
        "libx264",
        "-preset",
        "medium",
        "-crf",
        crf,
        "-pix_fmt",
        "yuv420p",
        "-c:a",
        "aac",
        "-b:a",
        "160k",
        "-ac",
        "2",
        "-movflags",
        "+faststart",
    ]
}

const H265_720: [&str; 26] = [
    "-map",
    "0:v:0",
    "-map",
    "0:a:0?",
    "-sn",
    "-dn",
    "-vf",
    SCALE_720,
    "-c:v",
    "libx265",
    "-preset",
    "medium",
    "-crf",
    "26",
    "-pix_fmt",
    "yuv420p",
    "-tag:v",
    "hvc1",
    "-c:a",
    "aac",
    "-b:a",
    "160k",
    "-ac",
    "2",
    "-movflags",
    "+faststart",
];

const VP9_720: [&str; 24] = [
    "-map",
    "0:v:0",
    "-map",
    "0:a:0?",
    "-sn",
    "-dn",
    "-vf",
    SCALE_720,
    "-c:v",
    "libvpx-vp9",
    "-crf",
    "32",
    "-b:v",
    "0",
    "-row-mt",
    "1",
    "-pix_fmt",
    "yuv420p",
    "-c:a",
    "libopus",
    "-b:a",
    "128k",
    "-ac",
    "2",
];

/// The arguments of a preset; `None` if there is none of that name.
#[must_use]
pub fn preset(name: &str) -> Option<&'static [&'static str]> {
    PRESETS.iter().find(|(known, _)| *known == name).map(|(_, args)| *args)
}

/// All names, for a message.
pub(super) fn names() -> String {
    PRESETS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}
