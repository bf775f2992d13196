//! How the verbs for use within a task talk to its sidecar: one line there, one line back.

use crate::agent::socket::{self, Answer, Request};
use anyhow::{Context as _, bail};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::time::Duration;

/// An agent answers in milliseconds; one that is being replaced must not hold a task up for long.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// One request, answered within `patience`.
pub(super) fn ask(request: &Request, patience: Duration) -> anyhow::Result<Answer> {
    let path = PathBuf::from(variable("SIDECAR_SOCKET")?);
    let mut stream = socket::connect(&path)
        .with_context(|| format!("no sidecar listens at {}; it may be restarting, try again", path.display()))?;
    stream.set_read_timeout(Some(patience)).context("cannot set a timeout")?;
    let mut line = serde_json::to_vec(request).context("cannot write the request")?;
    line.push(b'\n');
    stream.write_all(&line).context("the sidecar did not take the request")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).context("the sidecar did not answer")?;
    serde_json::from_str(&answer).context("the sidecar's answer cannot be read")
}

/// What the sidecar sets for its tasks.
pub(super) fn variable(name: &str) -> anyhow::Result<String> {
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => Ok(value),
        _ => bail!("{name} is not set; this is for use within a task, whose sidecar sets it"),
    }
}
