//! Disk space set aside, so that a full disk does not keep the ledger from telling how things end.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Name of the file inside the data directory.
const FILE: &str = "reserve";
/// Its length: some thousand endings, which is what a sidecar holds at most.
const BYTES: u64 = 1 << 20;
/// Free bytes at which it is made again: as much as it takes itself must remain for the tasks.
const FREE_BYTES: u64 = 2 * BYTES;

/// The space.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    held: bool,
}

impl Reserve {
    /// Sets it aside if it is not there and the disk has room.
    pub(super) fn of(data_dir: &Path) -> Self {
        let path = data_dir.join(FILE);
        let held = std::fs::metadata(&path).is_ok_and(|found| found.len() == BYTES);
        let mut reserve = Self { path, held };
        reserve.restore();
        reserve
    }

    pub(super) const fn is_held(&self) -> bool {
        self.held
    }

    /// Gives the space to whoever writes next. False: there is none to give.
    pub(super) fn release(&mut self) -> bool {
        std::mem::take(&mut self.held) && std::fs::remove_file(&self.path).is_ok()
    }

    /// Sets it aside again, if there is room enough.
    pub(super) fn restore(&mut self) {
        self.held = self.held || self.make().is_ok();
    }

    fn make(&self) -> io::Result<()> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let disk = rustix::fs::statvfs(dir)?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < FREE_BYTES {
            return Err(io::ErrorKind::StorageFull.into());
        }
        // Written, because not every file system can allocate without it.
        let zeros = io::Read::take(io::repeat(0), BYTES);
        let made = File::create(&self.path).and_then(|mut file| io::copy(&mut { zeros }, &mut file));
        if made.is_err() {
            let _absent = std::fs::remove_file(&self.path);
        }
        made.map(drop)
    }
}
