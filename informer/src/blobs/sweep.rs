//! What a crash between the removal of tasks and that of their logs has left: whose logs lie here.

use super::Error;
use super::dir::{Dir, io};
use proto::id::{AttemptId, TaskId};
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Digits of a directory's name.
const DIGITS: usize = 8;

impl Dir {
    /// The directories that logs share, each of a minute.
    ///
    /// # Errors
    /// They cannot be listed.
    pub(crate) fn minutes(&self) -> Result<Vec<PathBuf>, Error> {
        let failed = io("read", &self.root);
        let mut minutes = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(&failed)? {
            let name = entry.map_err(&failed)?.file_name();
            let ours = |name: &&str| name.len() == DIGITS && name.bytes().all(|digit| digit.is_ascii_hexdigit());
            minutes.extend(name.to_str().filter(ours).map(|name| self.root.join(name)));
        }
        Ok(minutes)
    }

    /// The tasks whose logs lie in one of them; for members their array, which outlives them. As many as were submitted in a minute.
    ///
    /// # Errors
    /// It cannot be listed.
    pub(crate) fn tasks_of(minute: &Path) -> Result<Vec<TaskId>, Error> {
        let failed = io("read", minute);
        let mut tasks = BTreeSet::new();
        let entries = match fs::read_dir(minute) {
            // It was the last of its logs that went meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(&failed)?,
        };
        for entry in entries {
            let name = entry.map_err(&failed)?.file_name();
            let Some(name) = name.to_str() else { continue };
            let task = match name.strip_suffix(".log") {
                Some(attempt) => attempt.parse().ok().map(|attempt: AttemptId| attempt.task),
                None => name.parse().ok(),
            };
            tasks.extend(task);
        }
        Ok(tasks.into_iter().collect())
    }
}
