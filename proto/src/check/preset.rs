//! Presets of transcodes: a name instead of ffmpeg arguments. The names are here, so that an unknown one is refused at submit and
//! not on a worker an hour later; the arguments are the sidecar's.

/// A named way to transcode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    /// What a task says.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
}

/// Every preset, by name.
pub const PRESETS: [Preset; 8] = [
    Preset { name: "audio-aac", about: "sound only, AAC 160 kbit/s" },
    Preset { name: "audio-opus", about: "sound only, Opus 96 kbit/s" },
    Preset { name: "copy", about: "another container, streams unchanged" },
    Preset { name: "h264", about: "H.264 at the size of the input, AAC" },
    Preset { name: "h264-480p", about: "H.264 480 lines high, AAC" },
    Preset { name: "h264-720p", about: "H.264 720 lines high, AAC" },
    Preset { name: "h265", about: "H.265 at the size of the input, AAC" },
    Preset { name: "vp9", about: "VP9 at the size of the input, Opus" },
];

/// The preset of that name.
#[must_use]
pub fn preset(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}
