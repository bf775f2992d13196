//! The presets: arguments that a plain Debian ffmpeg encodes. Described for users in docs/transcode.md.

/// Name and arguments of each preset, by name. The names are those of [`proto::check::PRESETS`], which a submit is checked against.
///
/// A video preset needs a video stream: without `-map` ffmpeg would make a sound file of a sound file and call it a success.
/// `trunc(…/2)*2` and `-2` make sides even, as 4:2:0 needs; `min(…)` never enlarges; `faststart` lets a browser play while loading.
pub const PRESETS: &[(&str, &[&str])] = &[
    ("audio-aac", &["-map", "0:a:0", "-vn", "-sn", "-dn", "-c:a", "aac", "-b:a", "160k"]),
    ("audio-opus", &["-map", "0:a:0", "-vn", "-sn", "-dn", "-c:a", "libopus", "-b:a", "96k"]),
    ("copy", &["-map", "0:v?", "-map", "0:a?", "-c", "copy"]),
    ("h264", &h264(SCALE_EVEN, "23")),
    ("h264-480p", &h264(SCALE_480, "23")),
    ("h264-720p", &h264(SCALE_720, "22")),
    ("h265", &H265),
    ("vp9", &VP9),
];

const SCALE_EVEN: &str = "scale='trunc(iw/2)*2':'trunc(ih/2)*2'";
const SCALE_480: &str = "scale=-2:'min(480,trunc(ih/2)*2)'";
const SCALE_720: &str = "scale=-2:'min(720,trunc(ih/2)*2)'";

#[rustfmt::skip]
const fn h264(scale: &'static str, crf: &'static str) -> [&'static str; 24] {
    [
        "-map", "0:v:0", "-map", "0:a:0?", "-sn", "-dn", "-vf", scale, "-c:v", "libx264", "-preset", "medium", "-crf", crf,
        "-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "160k", "-ac", "2", "-movflags", "+faststart",
    ]
}

#[rustfmt::skip]
const H265: [&str; 26] = [
    "-map", "0:v:0", "-map", "0:a:0?", "-sn", "-dn", "-vf", SCALE_EVEN, "-c:v", "libx265", "-preset", "medium", "-crf", "26",
    "-pix_fmt", "yuv420p", "-tag:v", "hvc1", "-c:a", "aac", "-b:a", "160k", "-ac", "2", "-movflags", "+faststart",
];

#[rustfmt::skip]
const VP9: [&str; 24] = [
    "-map", "0:v:0", "-map", "0:a:0?", "-sn", "-dn", "-vf", SCALE_EVEN, "-c:v", "libvpx-vp9", "-crf", "32", "-b:v", "0",
    "-row-mt", "1", "-pix_fmt", "yuv420p", "-c:a", "libopus", "-b:a", "128k", "-ac", "2",
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
