//! What a media file holds, asked of ffprobe.

use super::{
    Exit,
    arguments::{Timing, seconds},
    ffmpeg::{self, Output},
    supervise::Failure,
};
use serde::Deserialize;
use std::{ffi::OsString, fs, io, path::Path};

/// What is asked of ffprobe; everything else would only be parsed and dropped.
const ENTRIES: &str = "format=format_name,duration:stream=codec_type,codec_name,duration,start_time,nb_read_packets:stream_disposition=attached_pic:stream_tags=DURATION";

/// Demuxers that find "media" in any text file.
const TEXT_FORMATS: [&str; 2] = ["tty", "subviewer"];

/// ffprobe's answer.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Media {
    #[serde(default)]
    streams: Vec<Stream>,
    #[serde(default)]
    format: Format,
    /// The duration was guessed from the bit rate, so nothing can be held against it.
    #[serde(skip)]
    guessed: bool,
}

#[derive(Debug, Default, Deserialize)]
struct Format {
    #[serde(default)]
    format_name: String,
    duration: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Stream {
    #[serde(default)]
    codec_type: String,
    #[serde(default)]
    codec_name: String,
    duration: Option<String>,
    start_time: Option<String>,
    nb_read_packets: Option<String>,
    #[serde(default)]
    disposition: Disposition,
    #[serde(default)]
    tags: Tags,
}

#[derive(Debug, Default, Deserialize)]
struct Disposition {
    #[serde(default)]
    attached_pic: u8,
}

#[derive(Debug, Default, Deserialize)]
struct Tags {
    /// Matroska keeps a stream's duration here, as `00:00:20.040000000`.
    #[serde(rename = "DURATION")]
    duration: Option<String>,
}

/// How long something lasts, as a range: a stream that starts late may or may not keep its gap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Span {
    pub(super) shortest_seconds: f64,
    pub(super) longest_seconds: f64,
}

impl Stream {
    fn is_video(&self) -> bool {
        // A cover picture is an attachment that happens to be coded as video.
        self.codec_type == "video" && self.disposition.attached_pic == 0
    }

    fn is_audio(&self) -> bool {
        self.codec_type == "audio"
    }

    fn span(&self) -> Option<Span> {
        let start = self.start_time.as_deref().and_then(seconds).unwrap_or(0.0);
        let span = match (self.duration.as_deref().and_then(seconds), self.tags.duration.as_deref().and_then(seconds)) {
            (Some(lasts), _) => Span { shortest_seconds: lasts, longest_seconds: lasts + start },
            // Matroska's tag is the end of the last frame, counted from the file's beginning.
            (None, Some(end)) => Span { shortest_seconds: (end - start).max(0.0), longest_seconds: end },
            (None, None) => return None,
        };
        (span.longest_seconds > 0.0).then_some(span)
    }
}

impl Media {
    /// How long an output of this timing should last; `None` if the input does not tell.
    pub(super) fn span(&self, timing: Timing) -> Option<Span> {
        let wanted = |stream: &&Stream| match timing {
            Timing::Whole => stream.is_video() || stream.is_audio(),
            Timing::Video => stream.is_video(),
            Timing::Audio => stream.is_audio(),
            Timing::Changed { .. } => false,
        };
        if self.guessed {
            return None;
        }
        let streams: Option<Vec<Span>> = self.streams.iter().filter(wanted).map(Stream::span).collect();
        let longest =
            streams.and_then(|spans| spans.into_iter().max_by(|a, b| a.longest_seconds.total_cmp(&b.longest_seconds)));
        let whole = || self.duration_seconds().map(|lasts| Span { shortest_seconds: lasts, longest_seconds: lasts });
        longest.or_else(|| if timing == Timing::Whole { whole() } else { None })
    }

    /// The container's own duration.
    pub(super) fn duration_seconds(&self) -> Option<f64> {
        self.format.duration.as_deref().and_then(seconds)
    }

    /// The names under which ffmpeg's demuxer and decoders of this file speak. A codec that the arguments name is left out: it may
    /// be the encoder that speaks.
    pub(super) fn speakers(&self, args: &[String]) -> Vec<String> {
        let codecs = self.streams.iter().map(|stream| &stream.codec_name).filter(|codec| !args.contains(codec));
        codecs.chain([&self.format.format_name]).cloned().collect()
    }

    pub(super) fn has_media(&self) -> bool {
        self.streams.iter().any(|stream| stream.is_video() || stream.is_audio())
    }

    /// Kind and packets of each video and audio stream; only of a counted probe.
    pub(super) fn packets(&self) -> impl Iterator<Item = (&str, u64)> {
        self.streams.iter().filter(|stream| stream.is_video() || stream.is_audio()).map(|stream| {
            let packets = stream.nb_read_packets.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0);
            (stream.codec_type.as_str(), packets)
        })
    }
}

/// Probes the input; an input that cannot be transcoded is told apart with its reason.
pub(super) async fn input(path: &Path) -> Result<Media, Failure> {
    let shown = path.display();
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            Failure::new(Exit::NoInput, format!("input {shown} does not exist on the sidecar's machine"))
        }
        _ => Failure::new(Exit::NoInput, format!("input {shown} cannot be opened: {error}")),
    })?;
    if metadata.is_dir() {
        return Err(Failure::new(Exit::NoInput, format!("input {shown} is a directory")));
    }
    fs::File::open(path)
        .map_err(|error| Failure::new(Exit::NoInput, format!("input {shown} cannot be opened: {error}")))?;
    if metadata.len() == 0 {
        return Err(Failure::new(Exit::Input, format!("input {shown} is empty")));
    }
    let output = media(path, &[]).await?;
    let not_media =
        |why: &str| Failure::new(Exit::Input, format!("input {shown} is not media that ffmpeg can read: {why}"));
    if !output.status.success() {
        return Err(not_media(&output.complaints.reason()));
    }
    let media = parse(&output)?;
    if TEXT_FORMATS.contains(&media.format.format_name.as_str()) {
        return Err(not_media("it is text"));
    }
    if !media.has_media() {
        return Err(Failure::new(Exit::Input, format!("input {shown} has neither video nor audio")));
    }
    Ok(media)
}

/// Probes a file and reads it to its end, counting packets.
pub(super) async fn counted(path: &Path) -> Result<(Media, Output), Failure> {
    let output = media(path, &["-count_packets"]).await?;
    let parsed = if output.status.success() { parse(&output)? } else { Media::default() };
    Ok((parsed, output))
}

async fn media(path: &Path, options: &[&str]) -> Result<Output, Failure> {
    let mut args: Vec<OsString> =
        ["-hide_banner", "-v", "level+warning", "-print_format", "json"].map(OsString::from).into();
    args.extend(options.iter().map(OsString::from));
    args.extend(["-show_entries", ENTRIES].map(OsString::from));
    args.push(ffmpeg::file_url(path));
    ffmpeg::probe("ffprobe", args).await
}

pub(super) fn parse(output: &Output) -> Result<Media, Failure> {
    let media: Media = serde_json::from_slice(&output.stdout)
        .map_err(|error| Failure::new(Exit::Ffmpeg, format!("ffprobe's answer cannot be read: {error}")))?;
    Ok(Media { guessed: output.complaints.guessed_duration(), ..media })
}
