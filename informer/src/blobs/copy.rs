//! All kept logs into a backup, also while an informer adds and removes some.

use super::Error;
use super::dir::{NAME, PARTS, io};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// What was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Copied {
    /// Logs.
    pub logs: u64,
    /// Their bytes, as they are kept.
    pub bytes: u64,
}

/// Copies the kept logs of the data directory `data` into the directory `into`. A log has its name only when it is whole, and never changes
/// then; one that goes meanwhile is of a task that is forgotten. They are not flushed.
///
/// # Errors
/// One of them cannot be read, or not be written there.
pub fn copy(data: &Path, into: &Path) -> Result<Copied, Error> {
    let mut copied = Copied::default();
    copy_below(&data.join(NAME), &into.join(NAME), &mut copied)?;
    Ok(copied)
}

/// Never more than four directories deep.
fn copy_below(from: &Path, into: &Path, copied: &mut Copied) -> Result<(), Error> {
    let entries = match fs::read_dir(from) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(io("read", from))?,
    };
    fs::create_dir(into).map_err(io("make", into))?;
    for entry in entries {
        let entry = entry.map_err(io("read", from))?;
        let (name, path) = (entry.file_name(), entry.path());
        if entry.file_type().map_err(io("read", &path))?.is_dir() {
            if name != PARTS {
                copy_below(&path, &into.join(&name), copied)?;
            }
            continue;
        }
        let target = into.join(&name);
        match fs::copy(&path, &target) {
            Ok(bytes) => *copied = Copied { logs: copied.logs + 1, bytes: copied.bytes + bytes },
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(io("copy", &path)(error)),
        }
    }
    Ok(())
}
