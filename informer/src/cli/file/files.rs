//! What a task takes in and leaves, in a task file.

use std::path::Path;

use proto::v1;
use serde::Deserialize;

use super::{Problem, below};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    source: String,
    #[serde(default)]
    sha256: String,
    #[serde(default)]
    path: String,
    #[serde(default)]
    executable: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Output {
    path: String,
    destination: String,
    #[serde(default)]
    optional: bool,
}

impl Input {
    pub(super) fn wire(self, folder: &Path) -> Result<v1::Input, Problem> {
        let source = match proto::check::is_url(&self.source) {
            true => self.source,
            false => below(folder, Path::new(&self.source), "source")?,
        };
        Ok(v1::Input { source, sha256: self.sha256, path: self.path, executable: self.executable })
    }
}

impl Output {
    pub(super) fn wire(self, folder: &Path) -> Result<v1::Output, Problem> {
        let destination = destination(folder, &self.destination)?;
        Ok(v1::Output { path: self.path, destination, optional: self.optional })
    }
}

/// A slash at the end is kept: it makes a directory of a destination, which the informer then refuses with the reason.
fn destination(folder: &Path, text: &str) -> Result<String, Problem> {
    let path = below(folder, Path::new(text), "destination")?;
    Ok(if text.ends_with('/') && !path.ends_with('/') { path + "/" } else { path })
}
