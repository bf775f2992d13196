//! What ffmpeg arguments do to time: whether the output's duration can be held against the input's.
//!
//! ffmpeg's grammar is not parsed; options are looked for by name, and any doubt means "not comparable".

/// Options after which the output's duration no longer follows from the input's.
const TIMING_OPTIONS: &[&str] = &[
    "-t",
    "-to",
    "-ss",
    "-sseof",
    "-fs",
    "-shortest",
    "-frames",
    "-vframes",
    "-aframes",
    "-i",
    "-map",
    "-filter_complex",
    "-lavfi",
    "-filter_script",
    "-filter_complex_script",
    "-stream_loop",
    "-itsoffset",
    "-itsscale",
    "-output_ts_offset",
    "-copyts",
    "-start_at_zero",
    "-bsf",
    "-vsync",
    "-fps_mode",
    "-timelimit",
];

/// Filters that change how long a stream lasts.
const TIMING_FILTERS: &[&str] = &[
    "setpts",
    "trim",
    "atempo",
    "select",
    "loop",
    "tpad",
    "apad",
    "concat",
    "framestep",
    "tile",
    "silenceremove",
    "decimate",
    "fps",
    "zoompan",
    "freezeframes",
    "areverse",
    "rubberband",
    "asetrate",
    "tinterlace",
];

/// Which of the input's streams determine how long the output lasts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Timing {
    /// All: the output lasts as long as the input.
    Whole,
    /// The video alone (`-an`).
    Video,
    /// The audio alone (`-vn`).
    Audio,
    /// The arguments trim, stretch or choose; only that it lasts at all can be required.
    Changed {
        /// Known upper estimate of the output's length from `-t`, for the progress; seconds.
        limit_seconds: Option<f64>,
    },
}

/// The muxer that the arguments name, if they do; the last one counts, as in ffmpeg.
pub(super) fn format(args: &[String]) -> Option<&str> {
    value_of(args, "-f")
}

fn value_of<'a>(args: &'a [String], option: &str) -> Option<&'a str> {
    let at = args.iter().rposition(|argument| argument == option)?;
    args.get(at + 1).map(String::as_str)
}

/// See [`Timing`].
pub(super) fn timing(args: &[String]) -> Timing {
    if presets_mapping(args) {
        return timing_of_media(args);
    }
    let changed = args.iter().any(|argument| is_timing_option(argument)) || filters(args).any(changes_time);
    if changed {
        return Timing::Changed { limit_seconds: value_of(args, "-t").and_then(seconds) };
    }
    timing_of_media(args)
}

fn timing_of_media(args: &[String]) -> Timing {
    let has = |option| args.iter().any(|argument| argument == option);
    match (has("-vn"), has("-an")) {
        (true, false) => Timing::Audio,
        (false, true) => Timing::Video,
        (true, true) => Timing::Changed { limit_seconds: None },
        (false, false) => Timing::Whole,
    }
}

/// Our presets map streams, but lose none that outlasts the others for a reason worth a comparison's loss.
fn presets_mapping(args: &[String]) -> bool {
    super::PRESETS.iter().any(|(_, preset)| preset.iter().eq(args.iter()))
}

fn is_timing_option(argument: &str) -> bool {
    let name = argument.split_once(':').map_or(argument, |(name, _)| name);
    TIMING_OPTIONS.contains(&name)
}

fn filters(args: &[String]) -> impl Iterator<Item = &str> {
    args.windows(2).filter_map(|pair| {
        let name = pair[0].split_once(':').map_or(pair[0].as_str(), |(name, _)| name);
        matches!(name, "-vf" | "-af" | "-filter").then_some(pair[1].as_str())
    })
}

/// By substring: `atrim` is found by `trim`, and a false find only loses a comparison.
fn changes_time(graph: &str) -> bool {
    TIMING_FILTERS.iter().any(|filter| graph.contains(filter))
}

/// ffmpeg's time syntax: `12.5`, `500ms`, `01:02:03.5`. `None` for anything else.
pub(super) fn seconds(text: &str) -> Option<f64> {
    let (text, scale) = match text {
        text if text.ends_with("ms") => (&text[..text.len() - 2], 1e-3),
        text if text.ends_with("us") => (&text[..text.len() - 2], 1e-6),
        text => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    let mut total = 0.0;
    for part in text.split(':') {
        let value: f64 = part.parse().ok()?;
        total = total * 60.0 + value;
    }
    (total.is_finite() && total >= 0.0).then_some(total * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn arguments_that_touch_time_are_seen() {
        assert_eq!(timing(&args("-c:v libx264 -crf 20 -r 30")), Timing::Whole);
        assert_eq!(timing(&args("-vn -c:a aac")), Timing::Audio);
        assert_eq!(timing(&args("-an -vf scale=640:-2")), Timing::Video);
        assert_eq!(timing(&args("-t 5")), Timing::Changed { limit_seconds: Some(5.0) });
        for text in ["-ss 3", "-frames:v 1", "-vf setpts=2*PTS", "-filter:a atempo=2", "-map 0:v", "-shortest", "-t"] {
            assert_eq!(timing(&args(text)), Timing::Changed { limit_seconds: None }, "{text}");
        }
    }

    #[test]
    fn times_are_read_as_ffmpeg_reads_them() {
        for (text, expected) in
            [("12.5", Some(12.5)), ("500ms", Some(0.5)), ("00:01:02.5", Some(62.5)), ("2s", Some(2.0))]
        {
            assert_eq!(seconds(text), expected, "{text}");
        }
        for text in ["", "x", "-1", "1:x", "inf", "NaN", "é"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }
}
