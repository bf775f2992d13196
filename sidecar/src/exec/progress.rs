//! How far an attempt is, read before each beat.

use super::{ending::one_line, transcode};
use proto::v1::{self, task_spec::Kind};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Largest progress file that is read; ours are under 300 bytes. The task's processes can write there.
const BYTES: u64 = 4096;

/// Longest note, bytes: it travels with every beat.
const NOTE_BYTES: usize = 160;

/// What a supervising process writes for the agent, as one JSON document replaced by rename.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Snapshot {
    /// 0 to 1000.
    pub(super) permille: u32,
    /// Times real time; 0: unknown.
    pub(super) speed: f64,
    /// 0: unknown.
    pub(super) eta_ms: u64,
    /// One line.
    pub(super) note: String,
    /// Grows with every advance.
    pub(super) step: u64,
}

impl From<Snapshot> for v1::Progress {
    /// Checked like anything from a user's process: numbers in range, one bounded line.
    fn from(snapshot: Snapshot) -> Self {
        Self {
            permille: snapshot.permille.min(1000),
            speed: if snapshot.speed.is_finite() { snapshot.speed.max(0.0) } else { 0.0 },
            eta_ms: snapshot.eta_ms,
            note: one_line(&snapshot.note, NOTE_BYTES),
            step: snapshot.step,
            health: v1::Health::Unspecified.into(),
        }
    }
}

/// A reader of one attempt's progress.
#[derive(Debug)]
pub struct Progress {
    /// Below the attempt's directory; `None` for kinds that have no progress.
    file: Option<PathBuf>,
    /// Inode and modification time of what was read last.
    seen: Option<(u64, i64, i64)>,
}

impl Progress {
    /// For a task of this kind.
    #[must_use]
    pub fn new(kind: Option<&Kind>) -> Self {
        let file = match kind {
            Some(Kind::Transcode(_)) => Some(Path::new("work").join(transcode::PROGRESS_FILE)),
            Some(
                Kind::Command(_)
                | Kind::Script(_)
                | Kind::Service(_)
                | Kind::Typed(_)
                | Kind::Container(_)
                | Kind::Http(_),
            )
            | None => None,
        };
        Self { file, seen: None }
    }

    /// The progress, if it changed since the last call. One `stat` if it did not; no call at all for kinds without progress.
    pub fn read(&mut self, attempt_dir: &Path) -> Option<v1::Progress> {
        let path = attempt_dir.join(self.file.as_ref()?);
        let metadata = fs::metadata(&path).ok()?;
        let stamp = (metadata.ino(), metadata.mtime(), metadata.mtime_nsec());
        if self.seen == Some(stamp) || metadata.len() > BYTES {
            return None;
        }
        let mut bytes = Vec::new();
        fs::File::open(&path).ok()?.take(BYTES).read_to_end(&mut bytes).ok()?;
        let snapshot: Snapshot = serde_json::from_slice(&bytes).ok()?;
        self.seen = Some(stamp);
        Some(snapshot.into())
    }
}
