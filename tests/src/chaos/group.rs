//! A cgroup of a case's own.

use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Tries to remove it, while what was in it ends.
const TRIES: u32 = 200;
const BETWEEN: Duration = Duration::from_millis(20);

/// A group with a limit of memory. Removed when dropped, with the groups that a keeper made below it.
#[derive(Debug)]
pub(super) struct Group {
    dir: PathBuf,
    /// Which of its files tells how often the limit was met, and on which line.
    counter: (&'static str, &'static str),
}

impl Group {
    /// Makes one.
    ///
    /// # Errors
    /// There is no such controller, or it may not be used.
    pub(super) fn memory(bytes: u64) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let n = COUNTER.fetch_add(1, Ordering::Relaxed);
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let (base, limit, counter) = if v1.is_dir() {
            (v1, "memory.limit_in_bytes", ("memory.failcnt", ""))
        } else {
            (Path::new("/sys/fs/cgroup"), "memory.max", ("memory.events", "max "))
        };
        let dir = base.join(format!("informer-chaos-{}-{n}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let group = Self { dir, counter };
        let file = group.dir.join(limit);
        if let Err(error) = fs::write(&file, bytes.to_string()) {
            bail!("cannot set {}: {error}", file.display());
        }
        Ok(group)
    }

    /// The words that put a command into it.
    pub(super) fn enter(&self) -> Vec<String> {
        let script = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.dir.display());
        ["sh", "-c", &script, "sh"].map(str::to_owned).into()
    }

    /// Whether its limit was met.
    pub(super) fn was_full(&self) -> bool {
        let text = fs::read_to_string(self.dir.join(self.counter.0)).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix(self.counter.1));
        count.and_then(|count| count.trim().parse::<u64>().ok()).is_some_and(|count| count > 0)
    }
}

/// Removes a group and what is below it; groups hold no files that could be removed.
fn remove(dir: &Path) -> bool {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    fs::remove_dir(dir).is_ok()
}

impl Drop for Group {
    fn drop(&mut self) {
        // A killed process leaves its group a moment after it has left the world.
        for _ in 0..TRIES {
            if remove(&self.dir) {
                return;
            }
            std::thread::sleep(BETWEEN);
        }
    }
}
