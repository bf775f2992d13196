//! The manifest of an attempt's outputs, `work/outputs.json`: written last, so its existence means staged, whole and on disk.

use proto::v1;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

/// Its file in `work/`.
pub(crate) const FILE: &str = "outputs.json";

/// Largest manifest that is read: some hundred outputs. A process of the task could have written anything here.
const BYTES: u64 = 256 << 10;

/// What an attempt staged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Fence of the attempt as `epoch.n`, compared before a rename.
    pub fence: String,
    /// One entry an output.
    pub outputs: Vec<Output>,
}

/// One staged output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// The destination, absolute.
    pub path: PathBuf,
    /// Beside it.
    pub staged: PathBuf,
    /// Length.
    pub size_bytes: u64,
    /// Lower-case hex.
    pub sha256: String,
}

impl Manifest {
    /// The wire form for an `Ending`.
    #[must_use]
    pub fn to_wire(&self) -> Vec<v1::StagedOutput> {
        let output = |output: &Output| v1::StagedOutput {
            path: output.path.to_string_lossy().into_owned(),
            size_bytes: output.size_bytes,
            sha256: output.sha256.clone(),
        };
        self.outputs.iter().map(output).collect()
    }
}

/// The manifest of an attempt; `None` if it wrote none.
///
/// # Errors
/// The file cannot be read, is too long or is no manifest.
pub fn read(attempt_dir: &Path) -> io::Result<Option<Manifest>> {
    let path = attempt_dir.join("work").join(FILE);
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(metadata) if metadata.len() > BYTES => return Err(io::Error::other("the manifest is too long to be one")),
        Ok(_) => {}
    }
    let manifest = serde_json::from_slice(&fs::read(&path)?).map_err(io::Error::other)?;
    Ok(Some(manifest))
}

/// Puts a file into place whole: temporary name, fsync, rename, fsync of the directory.
pub(crate) fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_parent(path)
}

/// Makes a rename in the directory of `path` durable.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    fs::File::open(path.parent().unwrap_or_else(|| Path::new("/")))?.sync_all()
}
