//! How busy the machine is, for the beats; and what it is, for the hello.
//!
//! Inside a pod the cgroup's limits are the machine: a sidecar that counted the node's memory would take work that the kernel
//! then kills.

mod cgroup;
mod pressure;

use cgroup::Cgroup;
use pressure::Pressure;
use proto::v1;
use std::fs;
use std::os::unix::fs::MetadataExt;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, System};

/// What this machine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Thousandths of a core that may be used: all cores, or the cgroup's quota.
    pub cpu_millis: u64,
    /// Memory that may be used, bytes.
    pub memory_bytes: u64,
    /// Cores that this process may run on.
    pub cores: u32,
    /// Host name.
    pub host: String,
    /// `/proc/sys/kernel/random/boot_id`; empty if unreadable.
    pub boot_id: String,
    /// Inode of this process's pid namespace; 0 if unreadable.
    pub pid_ns: u64,
}

/// Reads what this machine is. Blocking, some hundred microseconds; the limits of a cgroup are those at the call.
#[must_use]
pub fn machine() -> Machine {
    let cores = std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX));
    let cgroup = Cgroup::of_self();
    let memory = system().map_or(0, |mut system| {
        system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        system.total_memory()
    });
    let whole = u64::from(cores) * 1000;
    Machine {
        cpu_millis: cgroup.cpu_millis().map_or(whole, |quota| quota.clamp(1, whole)),
        memory_bytes: cgroup.memory_limit().map_or(memory, |limit| limit.min(memory)),
        cores,
        host: System::host_name().unwrap_or_else(|_| "unknown".to_owned()),
        boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_or_else(|_| String::new(), |id| id.trim().to_owned()),
        pid_ns: fs::metadata("/proc/self/ns/pid").map_or(0, |namespace| namespace.ino()),
    }
}

/// Samples the load. Keeps what it needs open between samples; one sample reads some small files of `/proc` and takes well under
/// a millisecond. CPU usage is the mean since the previous sample, and 0 in the first.
#[derive(Debug)]
pub struct Sampler {
    /// `None` where `/proc` is hidden; then all of it is 0.
    system: Option<System>,
    cgroup: Cgroup,
    cpu: Pressure,
    memory: Pressure,
    io: Pressure,
}

impl Default for Sampler {
    fn default() -> Self {
        Self::new()
    }
}

impl Sampler {
    /// Opens what will be read.
    #[must_use]
    pub fn new() -> Self {
        let mut system = system();
        if let Some(system) = &mut system {
            system.refresh_cpu_specifics(CpuRefreshKind::nothing().with_usage());
        }
        Self {
            system,
            cgroup: Cgroup::of_self(),
            cpu: Pressure::open("cpu"),
            memory: Pressure::open("memory"),
            io: Pressure::open("io"),
        }
    }

    /// The load now. Blocking; what the kernel does not tell is 0.
    pub fn sample(&mut self) -> v1::Load {
        let (cpu_percent, host) = self.system.as_mut().map_or_else(Default::default, refreshed);
        let memory = host.within(self.cgroup.memory_limit(), self.cgroup.memory_used());
        v1::Load {
            cpu_permille: permille(cpu_percent),
            memory_used_bytes: memory.used,
            memory_total_bytes: memory.total,
            cpu_pressure_permille: self.cpu.some_avg10_permille(),
            memory_pressure_permille: self.memory.some_avg10_permille(),
            io_pressure_permille: self.io.some_avg10_permille(),
            load1_centi: load1_centi(),
            // The machine knows what its tasks need.
            lack: v1::Lack::Unspecified.into(),
        }
    }
}

fn system() -> Option<System> {
    System::new().inspect_err(|error| tracing::warn!(%error, "the load of this machine cannot be read")).ok()
}

/// Busy share of all cores in per cent since the last call, and memory. Never `refresh_all`: it walks every process, 29 ms
/// against 0.15.
fn refreshed(system: &mut System) -> (f32, Memory) {
    system.refresh_cpu_specifics(CpuRefreshKind::nothing().with_usage());
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    let total = system.total_memory();
    (system.global_cpu_usage(), Memory { used: total.saturating_sub(system.available_memory()), total })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Memory {
    used: u64,
    total: u64,
}

impl Memory {
    /// The tighter of host and cgroup.
    fn within(self, limit: Option<u64>, used: Option<u64>) -> Self {
        match limit {
            Some(limit) if limit < self.total => Self { used: used.unwrap_or(self.used).min(limit), total: limit },
            _ => self,
        }
    }
}

/// From per cent; the cast saturates, and NaN becomes 0.
fn permille(percent: f32) -> u32 {
    ((percent * 10.0) as u32).min(1000)
}

fn load1_centi() -> u32 {
    System::load_average().map_or(0, |load| (load.one * 100.0) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a measurement needs a clock")]
    fn a_sample_is_cheap_and_in_range() {
        let mut sampler = Sampler::new();
        sampler.sample();
        let rounds = 200;
        let start = Instant::now();
        for _ in 0..rounds {
            let load = sampler.sample();
            assert!(load.cpu_permille <= 1000 && load.memory_used_bytes <= load.memory_total_bytes, "{load:?}");
            assert!(load.memory_total_bytes > 0, "{load:?}");
        }
        println!("one sample: {:?} (budget 200 µs)", start.elapsed() / rounds);
    }

    #[test]
    fn the_machine_has_cores_memory_and_a_boot() {
        let machine = machine();
        assert!(machine.cores >= 1 && machine.cpu_millis <= u64::from(machine.cores) * 1000, "{machine:?}");
        assert!(machine.memory_bytes > 0 && machine.boot_id.len() == 36, "{machine:?}");
    }

    #[test]
    fn a_cgroup_smaller_than_the_host_is_the_machine() {
        let host = Memory { used: 60, total: 100 };
        assert_eq!(host.within(Some(50), Some(20)), Memory { used: 20, total: 50 });
        assert_eq!(
            host.within(Some(50), Some(70)),
            Memory { used: 50, total: 50 },
            "page cache may stand above the limit"
        );
        assert_eq!(host.within(Some(200), Some(20)), host);
        assert_eq!(host.within(None, None), host);
    }
}
