//! Presets of transcodes: a name instead of ffmpeg arguments. The list is here, so that an unknown name is refused at submit and
//! not on a worker an hour later.

/// A named set of ffmpeg arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    /// What a task says.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// What stands between input and output.
    pub args: &'static [&'static str],
}

/// Every preset, by name.
pub const PRESETS: [Preset; 8] = [
    Preset { name: "audio-aac", about: "sound only, AAC 160 kbit/s", args: &["-vn", "-c:a", "aac", "-b:a", "160k"] },
    Preset {
        name: "audio-opus",
        about: "sound only, Opus 96 kbit/s",
        args: &["-vn", "-c:a", "libopus", "-b:a", "96k"],
    },
    Preset { name: "copy", about: "another container, streams unchanged", args: &["-map", "0", "-c", "copy"] },
    Preset {
        name: "h264",
        about: "H.264 at the size of the input, AAC",
        args: &[
            "-c:v", "libx264", "-preset", "medium", "-crf", "23", "-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "160k",
        ],
    },
    Preset {
        name: "h264-480p",
        about: "H.264 480 lines high, AAC",
        args: &[
            "-vf",
            "scale=-2:480",
            "-c:v",
            "libx264",
            "-preset",
            "medium",
            "-crf",
            "23",
            "-pix_fmt",
            "yuv420p",
            "-c:a",
            "aac",
            "-b:a",
            "128k",
        ],
    },
    Preset {
        name: "h264-720p",
        about: "H.264 720 lines high, AAC",
        args: &[
            "-vf",
            "scale=-2:720",
            "-c:v",
            "libx264",
            "-preset",
            "medium",
            "-crf",
            "23",
            "-pix_fmt",
            "yuv420p",
            "-c:a",
            "aac",
            "-b:a",
            "160k",
        ],
    },
    Preset {
        name: "h265",
        about: "H.265 at the size of the input, AAC",
        args: &[
            "-c:v", "libx265", "-preset", "medium", "-crf", "26", "-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "160k",
        ],
    },
    Preset {
        name: "vp9",
        about: "VP9 at the size of the input, Opus",
        args: &["-c:v", "libvpx-vp9", "-crf", "32", "-b:v", "0", "-row-mt", "1", "-c:a", "libopus", "-b:a", "128k"],
    },
];

/// The preset of that name.
#[must_use]
pub fn preset(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}
