//! The configuration file of `sidecar run`. `examples/config/sidecar.toml` explains each key; a test keeps it true.

#[cfg(test)]
mod tests;

use proto::bounds;
use proto::dial::{Access, Address};
use proto::settings::{FILE_BYTES, Faults, Section, Settings};
use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tracing_subscriber::EnvFilter;

/// Where the informer listens unless told otherwise.
pub(crate) const INFORMER: &str = "http://127.0.0.1:7070";
/// What is logged unless told otherwise.
pub(crate) const LOG: &str = "info";

/// What a file says; nothing where it says nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) informer: Option<String>,
    pub(crate) data: Option<PathBuf>,
    pub(crate) slots: Option<u32>,
    pub(crate) cpu_millis: Option<u64>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) stop_tasks_on_exit: Option<bool>,
    pub(crate) metrics: Option<SocketAddr>,
    /// Directives of `tracing`.
    pub(crate) log: Option<String>,
    pub(crate) access: Access,
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Faults(#[from] Faults),
}

/// Reads a file.
///
/// # Errors
/// It cannot be read, or everything that is wrong with it.
pub(crate) fn read(path: &Path) -> Result<Config, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(FILE_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > FILE_BYTES {
        return Err(failed(io::Error::other(format!("it is larger than {FILE_BYTES} bytes"))));
    }
    Ok(parse(path, &text)?)
}

/// Everything that a text says.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn parse(path: &Path, text: &str) -> Result<Config, Faults> {
    let settings = Settings::parse(path, text);
    let mut root = settings.root();
    let slots = root.whole("slots", 1..=u64::from(bounds::SLOTS));
    let config = Config {
        informer: root.text("informer", informer),
        data: root.path("data"),
        slots: slots.and_then(|slots| u32::try_from(slots).ok()),
        cpu_millis: root.whole("cpu", 1..=bounds::CPU_MILLIS),
        memory_bytes: root.whole("memory", 1..=bounds::MEMORY_BYTES),
        labels: root.section("labels").texts(label),
        stop_tasks_on_exit: root.flag("stop_tasks_on_exit"),
        metrics: root.text("metrics", metrics),
        log: root.text("log", |text| directives(text).map(|_| text.to_owned())),
        access: access(&mut root),
    };
    root.end();
    settings.finish(config)
}

fn access(root: &mut Section<'_>) -> Access {
    Access {
        tls_ca: root.path("tls_ca"),
        tls_cert: root.path("tls_cert"),
        tls_key: root.path("tls_key"),
        token_file: root.path("token_file"),
    }
}

/// Where metrics are served: without a token, so to this machine alone.
pub(crate) fn metrics(text: &str) -> Result<SocketAddr, String> {
    let address: Option<SocketAddr> = text.parse().ok();
    let address = address.ok_or_else(|| format!("{text:?} is no address and port; write one like 127.0.0.1:9102"))?;
    if address.ip().is_loopback() {
        return Ok(address);
    }
    Err(format!(
        "{address} can be reached from other machines; write one of loopback, like 127.0.0.1:{}",
        address.port()
    ))
}

/// The address of an informer, as its URL says it.
pub(crate) fn informer(text: &str) -> Result<String, String> {
    let wrong =
        |wrong| format!("{text:?} is no URL of an informer: {wrong}; write one like {INFORMER} or https://HOST:7070");
    text.parse().map(|address: Address| address.to_string()).map_err(wrong)
}

/// What is logged, as a text says it.
pub(crate) fn directives(text: &str) -> Result<EnvFilter, String> {
    text.parse()
        .map_err(|error| format!("{text:?} says nothing about logs ({error}); write one like info or sidecar=debug"))
}

/// What is wrong with a label.
pub(crate) fn label(key: &str, value: &str) -> Result<(), String> {
    let fits = |part: &str| part.len() <= bounds::NAME_BYTES && !part.chars().any(char::is_control);
    if key.is_empty() || !fits(key) || !fits(value) {
        return Err(format!("key and value have 1 to {} bytes and no control characters", bounds::NAME_BYTES));
    }
    Ok(())
}
