//! The configuration file of `informer serve`. `examples/config/informer.toml` explains each key; a test keeps it true.

#[cfg(test)]
mod tests;

use crate::cli::error::Error;
use crate::cli::{file, place, units};
use crate::server::{LEASE_BEATS, LogUpload, Retention, Security};
use proto::bounds;
use proto::settings::{FILE_BYTES, Faults, Section, Settings, word};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// Most ended tasks that may be kept: a disk's worth; more is a typing error.
const KEEP_ENDED_COUNT: u64 = 1_000_000_000;
/// Weights of owners. Beyond a thousand to one the lighter is starved, which is what a fair share is there to prevent.
const WEIGHTS: RangeInclusive<u64> = 1..=1_000;

/// What a file says; `None` and defaults where it says nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) data: Option<PathBuf>,
    pub(crate) beat_ms: Option<u64>,
    pub(crate) lease_beats: Option<u64>,
    pub(crate) fence_grace_ms: Option<u64>,
    /// Directives of `tracing`.
    pub(crate) log: Option<String>,
    pub(crate) security: Security,
    pub(crate) retention: Retention,
    pub(crate) log_upload: LogUpload,
    pub(crate) shares: BTreeMap<String, u64>,
}

/// Reads a file.
///
/// # Errors
/// It cannot be read, or everything that is wrong with it.
pub(crate) fn read(path: &Path) -> Result<Config, Error> {
    Ok(parse(path, &file::read_bounded(path, FILE_BYTES)?)?)
}

/// Everything that a text says.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn parse(path: &Path, text: &str) -> Result<Config, Faults> {
    let settings = Settings::parse(path, text);
    let mut root = settings.root();
    let config = Config {
        listen: root.text("listen", place::listen),
        data: root.path("data"),
        beat_ms: duration(&mut root, "beat", bounds::BEAT_RANGE_MS),
        lease_beats: root.whole("lease_beats", LEASE_BEATS),
        fence_grace_ms: duration(&mut root, "fence_grace", 0..=bounds::DURATION_MS),
        log: root.text("log", |text| place::directives(text).map(|_| text.to_owned())),
        security: security(&mut root),
        retention: retention(root.section("retention")),
        log_upload: logs(root.section("logs")),
        shares: root.section("fair_share").numbers(WEIGHTS),
    };
    root.never("accept_restored", "it vouches for one start and would vouch for all; give --accept-restored");
    root.end();
    settings.finish(config)
}

fn security(root: &mut Section<'_>) -> Security {
    Security {
        tls_cert: root.path("tls_cert"),
        tls_key: root.path("tls_key"),
        tls_ca: root.path("tls_ca"),
        token_file: root.path("token_file"),
    }
}

fn retention(mut section: Section<'_>) -> Retention {
    let default = Retention::default();
    let retention = Retention {
        keep_ended_ms: duration(&mut section, "keep_ended", 0..=bounds::DURATION_MS).unwrap_or(default.keep_ended_ms),
        keep_ended_count: section.whole("keep_ended_count", 0..=KEEP_ENDED_COUNT).unwrap_or(default.keep_ended_count),
    };
    section.end();
    retention
}

fn logs(mut section: Section<'_>) -> LogUpload {
    let words = [("always", LogUpload::Always), ("on-failure", LogUpload::OnFailure), ("never", LogUpload::Never)];
    let upload = section.text("upload", |text| word(text, &words));
    section.end();
    upload.unwrap_or_default()
}

/// A duration within the range, like `"5s"`.
fn duration(section: &mut Section<'_>, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
    section.text(key, |text| units::duration_within(text, &range))
}
