//! Whether an output is what a success promises. docs/transcode.md tells users the same list.

use super::{
    Exit, Job, TOLERATE_VARIABLE,
    complaint::Complaints,
    ffmpeg,
    probe::{self, Span},
    supervise::Failure,
};
use std::{ffi::OsString, path::Path};

/// How far the output's duration may be off: codec delay, padding of the last audio frame, a frame more or less at each end.
const TOLERANCE_SECONDS: f64 = 0.5;
/// The same for long media: time bases and frame rates are rounded. A loss below it is found by decode errors, not by length.
const TOLERANCE_SHARE: f64 = 0.01;

/// How much of the output's end is decoded. An encoder's last frames are what a full disk or a killed helper spoils; decoding all
/// of it would cost as much again as some encodes.
const DECODED_SECONDS: &str = "-3";

/// Fails unless the staged file is whole, readable to its end, decodable at its end, and as long as `expected`.
pub(super) async fn output(job: &Job, expected: Option<Span>, complaints: &Complaints) -> Result<(), Failure> {
    if complaints.count() > 0 && !job.tolerate_errors {
        return Err(Failure::damaged(&job.input, &complaints.reason()));
    }
    let (media, probe) = probe::counted(&job.staged).await?;
    if !probe.status.success() || probe.complaints.count() > 0 {
        return Err(unverified(&format!("it cannot be read to its end: {}", probe.complaints.reason())));
    }
    if !media.has_media() {
        return Err(unverified("it has neither video nor audio"));
    }
    if let Some((kind, _)) = media.packets().find(|(_, packets)| *packets == 0) {
        return Err(unverified(&format!("its {kind} stream is empty")));
    }
    let lasts = media.duration_seconds();
    if lasts.is_some_and(|seconds| seconds <= 0.0) {
        return Err(unverified("its duration is zero"));
    }
    if let (Some(lasts), Some(expected)) = (lasts, expected) {
        compare(job, lasts, expected)?;
    }
    // Raw streams have no duration, and so no end that could be sought.
    if lasts.is_some() { decode_end(&job.staged).await } else { Ok(()) }
}

fn compare(job: &Job, lasts: f64, expected: Span) -> Result<(), Failure> {
    let tolerance = |seconds: f64| (seconds * TOLERANCE_SHARE).max(TOLERANCE_SECONDS);
    let Span { shortest_seconds, longest_seconds } = expected;
    if lasts < shortest_seconds - tolerance(shortest_seconds) && !job.tolerate_errors {
        return Err(Failure::new(
            Exit::Input,
            format!(
                "the output lasts {lasts:.2} s and the input {} claims {shortest_seconds:.2} s: the input is truncated or damaged \
                 (env {TOLERATE_VARIABLE}=1 accepts what can be decoded)",
                job.input.display()
            ),
        ));
    }
    if lasts > longest_seconds + tolerance(longest_seconds) {
        return Err(unverified(&format!("it lasts {lasts:.2} s and the input {longest_seconds:.2} s")));
    }
    Ok(())
}

async fn decode_end(staged: &Path) -> Result<(), Failure> {
    let mut args: Vec<OsString> =
        ["-hide_banner", "-nostdin", "-v", "level+error", "-xerror", "-sseof", DECODED_SECONDS, "-i"]
            .map(OsString::from)
            .into();
    args.push(ffmpeg::file_url(staged));
    args.extend(["-map", "0:v?", "-map", "0:a?", "-f", "null", "-"].map(OsString::from));
    let output = ffmpeg::probe("ffmpeg", args).await?;
    if output.status.success() && output.complaints.count() == 0 {
        return Ok(());
    }
    Err(unverified(&format!("its end cannot be decoded: {}", output.complaints.reason())))
}

fn unverified(why: &str) -> Failure {
    Failure::new(Exit::Output, format!("ffmpeg exited with 0, but its output did not verify: {why}"))
}
