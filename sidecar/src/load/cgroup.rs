//! The limits of the cgroup this process is in, and of those above it: the tightest holds.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where the v2 hierarchy is mounted, alone or beside v1.
const V2_ROOTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// A v1 limit above this is the kernel's way to say "none" (it is the largest page-aligned number).
const V1_UNLIMITED_BYTES: u64 = 1 << 62;
/// Deepest nesting that is looked at; Kubernetes nests five.
const DEPTH: usize = 32;

/// The cgroups of this process, found once: a process's cgroup is moved by nobody but its manager, before it starts.
#[derive(Debug)]
pub(super) struct Cgroup {
    memory: Option<MemoryFiles>,
    /// Directories whose `cpu.max` counts.
    cpu_v2: Vec<PathBuf>,
    /// Directories whose `cpu.cfs_quota_us` counts.
    cpu_v1: Vec<PathBuf>,
}

/// The cgroup with the tightest memory limit.
#[derive(Debug)]
struct MemoryFiles {
    limit: u64,
    used: PathBuf,
}

impl Cgroup {
    pub(super) fn of_self() -> Self {
        let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let v2_path = path_of(&text, "");
        let v2 = V2_ROOTS
            .iter()
            .find(|root| Path::new(root).join("cgroup.controllers").exists())
            .map_or_else(Vec::new, |root| upwards(Path::new(root), v2_path.unwrap_or("/")));
        let v1 = |controller: &str| {
            let root = Path::new("/sys/fs/cgroup").join(controller);
            path_of(&text, controller).map_or_else(Vec::new, |path| upwards(&root, path))
        };
        let v2_memory = v2.iter().filter_map(|dir| memory_files(dir, "memory.max", "memory.current"));
        let v1_memory_dirs = v1("memory");
        let v1_memory =
            v1_memory_dirs.iter().filter_map(|dir| memory_files(dir, "memory.limit_in_bytes", "memory.usage_in_bytes"));
        let memory = v2_memory.chain(v1_memory).min_by_key(|files| files.limit);
        Self { memory, cpu_v1: v1("cpu"), cpu_v2: v2 }
    }

    /// Bytes; `None` without a limit.
    pub(super) fn memory_limit(&self) -> Option<u64> {
        self.memory.as_ref().map(|memory| memory.limit)
    }

    /// Bytes in use in the limited cgroup.
    pub(super) fn memory_used(&self) -> Option<u64> {
        fs::read_to_string(&self.memory.as_ref()?.used).ok()?.trim().parse().ok()
    }

    /// Thousandths of a core; `None` without a quota.
    pub(super) fn cpu_millis(&self) -> Option<u64> {
        let v2 = self.cpu_v2.iter().filter_map(|dir| quota(&fs::read_to_string(dir.join("cpu.max")).ok()?));
        let v1 = self.cpu_v1.iter().filter_map(|dir| {
            let read = |file: &str| fs::read_to_string(dir.join(file)).ok();
            quota(&format!("{} {}", read("cpu.cfs_quota_us")?.trim(), read("cpu.cfs_period_us")?.trim()))
        });
        v2.chain(v1).min()
    }
}

fn memory_files(dir: &Path, limit: &str, used: &str) -> Option<MemoryFiles> {
    let limit: u64 = fs::read_to_string(dir.join(limit)).ok()?.trim().parse().ok()?;
    (limit < V1_UNLIMITED_BYTES).then(|| MemoryFiles { limit, used: dir.join(used) })
}

/// The path of a controller in `/proc/self/cgroup`; the empty controller is v2's line, `0::/path`.
fn path_of<'a>(text: &'a str, controller: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        controllers.split(',').any(|known| known == controller).then_some(path)
    })
}

/// The directory of `path` below `root`, and those above it down to `root` itself. In a container the path may be the host's,
/// which is not mounted; then only the root is there to be read.
fn upwards(root: &Path, path: &str) -> Vec<PathBuf> {
    let inner = root.join(path.trim_start_matches('/'));
    inner
        .ancestors()
        .take(DEPTH)
        .take_while(|dir| dir.starts_with(root))
        .filter(|dir| dir.is_dir())
        .map(Path::to_owned)
        .collect()
}

/// `quota period` in microseconds as thousandths of a core; `None` for `max` and -1.
fn quota(text: &str) -> Option<u64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
    quota.saturating_mul(1000).checked_div(period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_controllers_are_found_in_both_versions() {
        let text = "12:cpu,cpuacct:/pods/a\n5:memory:/pods/b\n0::/system.slice/x:y\n";
        assert_eq!(path_of(text, "cpu"), Some("/pods/a"));
        assert_eq!(path_of(text, "memory"), Some("/pods/b"));
        assert_eq!(path_of(text, ""), Some("/system.slice/x:y"));
        assert_eq!(path_of(text, "cpuset"), None);
        assert_eq!(path_of("garbage\n1:2", "cpu"), None);
    }

    #[test]
    fn quotas_are_thousandths_of_a_core() {
        assert_eq!(quota("150000 100000\n"), Some(1500));
        for text in ["max 100000", "-1 100000", "1 0", "", "x"] {
            assert_eq!(quota(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_path_that_is_not_mounted_leaves_the_root() {
        assert_eq!(upwards(Path::new("/proc"), "/no/such/pod"), [Path::new("/proc")]);
    }
}
