//! What processes cost: CPU time and memory, as the kernel counts them.

use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use tests::world::{World, processes_with};

/// Microseconds of one tick of /proc: `USER_HZ` is 100 on every architecture we run on.
const TICK_US: u64 = 10_000;

/// CPU time of a process, µs.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cpu {
    /// Its own threads', dead ones included.
    pub own_us: u64,
    /// Its ended and awaited children's.
    pub children_us: u64,
}

/// CPU time of a process until now; nothing if it is gone.
pub(crate) fn cpu(pid: i32) -> Cpu {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let ticks: Vec<u64> = fields.split(' ').skip(11).take(4).filter_map(|ticks| ticks.parse().ok()).collect();
    match ticks[..] {
        [user, system, child_user, child_system] => {
            Cpu { own_us: (user + system) * TICK_US, children_us: (child_user + child_system) * TICK_US }
        }
        _ => Cpu::default(),
    }
}

/// CPU time of each living thread of a process, finer than ticks.
#[derive(Debug, Clone)]
pub(crate) struct Threads(BTreeMap<OsString, u64>);

impl Threads {
    /// Until now.
    pub(crate) fn of(pid: i32) -> Self {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let spent = threads.filter_map(|thread| {
            let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            Some((thread.file_name(), text.split(' ').next()?.parse::<u64>().ok()? / 1000))
        });
        Self(spent.collect())
    }

    /// What those spent that live now, since then, µs.
    pub(crate) fn since(&self, then: &Self) -> u64 {
        self.0.iter().map(|(thread, us)| us.saturating_sub(then.0.get(thread).copied().unwrap_or(0))).sum()
    }
}

/// CPU time of all that ever ran in the control group above a process's own, µs: of a monitor that is the group of all monitors, with
/// what they spawned, the dead included. Nothing where there is no such hierarchy.
pub(crate) fn group_us(pid: i32) -> Option<f64> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let root = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let path = fields.next()?;
        (fields.next()? == "cgroup2").then_some(path)
    })?;
    let stat = std::fs::read_to_string(Path::new(root).join(own).parent()?.join("cpu.stat")).ok()?;
    stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?.parse().ok()
}

/// CPU time that the whole machine was not idle, the kernel's own work included, µs.
pub(crate) fn machine_us() -> u64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|ticks| ticks.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq
    let busy: u64 = [0, 1, 2, 5, 6].iter().filter_map(|field| ticks.get(*field)).sum();
    busy * TICK_US
}

/// A line of a file in /proc that ends in kB, in kB.
fn kilobytes(file: &str, field: &str) -> f64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    line.trim_start_matches(':').split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0.0)
}

/// Resident memory, kB.
pub(crate) fn rss_kb(pid: i32) -> f64 {
    kilobytes(&format!("/proc/{pid}/status"), "VmRSS")
}

/// Proportional share of resident memory, kB.
pub(crate) fn pss_kb(pid: i32) -> f64 {
    kilobytes(&format!("/proc/{pid}/smaps_rollup"), "Pss")
}

/// Page tables, kB.
pub(crate) fn page_tables_kb(pid: i32) -> f64 {
    kilobytes(&format!("/proc/{pid}/status"), "VmPTE")
}

/// The processes of a world with at most one sidecar.
#[derive(Debug, Clone)]
pub(crate) struct Processes {
    pub informer: i32,
    /// Agent, keeper, monitors.
    pub sidecar: Option<(i32, i32, Vec<i32>)>,
}

impl Processes {
    /// Finds them.
    pub(crate) fn of(world: &World) -> Result<Self> {
        let named =
            |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "informer\n");
        let dir = world.dir().as_os_str().as_encoded_bytes();
        let informer = processes_with(dir).into_iter().find(named).context("the informer does not run")?;
        let sidecar = world.agent(0).map(|agent| {
            let keeper = world.keeper(0).context("the keeper does not run")?;
            let monitors = world.keepers_and_monitors(0).into_iter().filter(|pid| *pid != keeper).collect();
            anyhow::Ok((agent, keeper, monitors))
        });
        Ok(Self { informer, sidecar: sidecar.transpose()? })
    }
}

/// Flushes that the block device below `path` was asked for since it was made: what durability costs, and the proof that it was paid.
pub(crate) fn flushes(path: &Path) -> Result<u64> {
    let device = rustix::fs::stat(path)?.st_dev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let stat = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat"))
        .with_context(|| format!("{} lies on no block device", path.display()))?;
    // The 16th field since Linux 5.5.
    stat.split_whitespace().nth(15).and_then(|field| field.parse().ok()).context("this kernel does not count flushes")
}
