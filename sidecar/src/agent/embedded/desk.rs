//! Directory, record and logs of one attempt that runs within this process.

use super::{Dirs, Start};
use crate::executor::Logs;
use keeper::codec;
use keeper::record::{self, Holder, Record, Writer};
use keeper::wire::{End, ProcessId, Spec};
use proto::bounds;
use proto::id::AttemptId;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;

/// What an attempt writes.
pub(super) struct Desk {
    pub dir: PathBuf,
    pub logs: Arc<Logs>,
    record: Writer,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Somebody had one for this attempt; how it ended, unless it is still held.
    #[error("the attempt was started before")]
    Taken(Option<Box<Record>>),
    /// The disk's answer.
    #[error("cannot make the attempt's directory: {0}")]
    Disk(#[from] io::Error),
}

impl Desk {
    /// Makes it, exclusively.
    pub(super) fn make(dirs: &Dirs, start: &Start) -> Result<Self, Error> {
        let dir = dirs.attempt(start.attempt);
        // With its declared inputs in it, if there are any.
        let prepared = dirs.data.join(record::PREPARED).join(start.attempt.dir_name());
        match renameat_with(CWD, &prepared, CWD, &dir, RenameFlags::NOREPLACE) {
            Ok(()) | Err(Errno::NOENT | Errno::EXIST) => {}
            Err(error) => return Err(Error::Disk(error.into())),
        }
        let private = |path: &PathBuf| DirBuilder::new().recursive(true).mode(0o700).create(path);
        private(&dir)?;
        // A directory without a record is what an agent left that died in between; nothing of the attempt has run.
        if record::read(&dir).is_ok() {
            let record = record::mark_lost(&dir).map_err(io::Error::other)?;
            return Err(Error::Taken(record.map(Box::new)));
        }
        private(&dir.join("work"))?;
        let task = start.assign.spec.as_ref();
        let cap_bytes = task.map_or(0, |task| task.log_cap_bytes);
        let log_cap_bytes = if cap_bytes == 0 { bounds::LOG_CAP_DEFAULT_BYTES } else { cap_bytes };
        // Without argv: that is how it is told from a process's.
        let spec = Spec { log_cap_bytes, note: start.note.clone(), ..Spec::default() };
        // Of no boot, so that nobody takes it for a process that could be signalled.
        let nobody = ProcessId { boot_id: String::new(), pid_ns: 0, pid: 0, start_ticks: 0, wall_ms: 0 };
        let holder = Holder { monitor: nobody, cgroup: String::new() };
        let record = Writer::create(File::open(&dir)?.as_fd(), &holder, &codec::encode_spec(&spec))?;
        let logs = Arc::new(Logs::create(&dir, log_cap_bytes)?);
        Ok(Self { dir, logs, record })
    }

    pub(super) fn spawned(&self, me: &ProcessId) {
        self.told(self.record.spawned(me, None));
    }

    /// The end, with nothing of it left.
    pub(super) fn ended(self, end: &End) {
        self.told(self.record.exit(end, true));
    }

    /// What became of it is not known.
    pub(super) fn lost(self) {
        let dir = self.dir.clone();
        drop(self);
        if let Err(error) = record::mark_lost(&dir) {
            tracing::warn!(%error, "an attempt's record cannot be closed");
        }
    }

    /// The ledger has the fact, too; what is not in the record is lost to the next agent only.
    fn told(&self, written: io::Result<()>) {
        if let Err(error) = written {
            tracing::warn!(dir = %self.dir.display(), %error, "cannot write the attempt's record");
        }
    }
}

/// Whether the record is of an attempt that ran within an agent.
pub(in crate::agent) fn is_embedded(record: &Record) -> bool {
    record.spec.as_ref().is_some_and(|spec| spec.argv.is_empty())
}

/// At the start of an agent: what the last one ran within itself is lost, and its record says so before anybody lists it.
pub(in crate::agent) fn settle(dirs: &Dirs, attempt: AttemptId) {
    let dir = dirs.attempt(attempt);
    let left = record::read(&dir).is_ok_and(|record| is_embedded(&record) && !record.is_final());
    if left && let Err(error) = record::mark_lost(&dir) {
        tracing::warn!(%attempt, %error, "the record of a lost attempt cannot be closed");
    }
}
