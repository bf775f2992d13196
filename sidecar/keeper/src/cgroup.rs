//! Control groups: one to kill by for each monitor, and one to limit by for the attempts that ask for it.
//!
//! ```text
//! v2   <own group>/keeper-<id>/s<name>     the monitor and, by inheritance, all it spawns: entered once, no cost per attempt
//!                              s<name>/m, l where v2 controllers limit: monitor and limited processes apart
//! v1   <own group>/keeper-<id>/l<name>     per controller; a limited process enters before its exec
//! ```
//!
//! The keeper kills a dead monitor's seat with one write (`cgroup.kill`). A living monitor sweeps by walking its children, for it
//! sits in the group itself. Whatever is not writable is done without.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use keeper::wire::{Limits, Spec};
use rustix::fs::{FlockOperation, flock};

/// Period of CPU limits: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;
/// Begins the name of every keeper's own group.
const PREFIX: &str = "keeper-";
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// What this machine offers.
#[derive(Debug, Clone)]
pub(crate) struct Groups {
    /// `<own group>/keeper-<id>` in the v2 hierarchy.
    seats: Option<PathBuf>,
    /// The keeper's own v2 group, where a monitor goes to stand aside.
    own: Option<PathBuf>,
    limits: Limits,
    /// v1 directories of memory, cpu and pids, in that order.
    v1: [Option<PathBuf>; 3],
    /// Start of this process image, in every seat's name.
    epoch: u64,
    /// Locks on our groups, so that no other keeper takes an empty one for a dead keeper's.
    _claims: Rc<Vec<File>>,
}

/// The place of one monitor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seat {
    /// Name of the seat, never used twice in a boot: a record may name it long after.
    pub(crate) name: String,
    /// v2 group to kill by.
    pub(crate) dir: Option<PathBuf>,
}

impl Groups {
    /// Finds and prepares what is writable; clears away what dead monitors of this data directory left.
    pub(crate) fn discover(data_dir: &Path) -> Self {
        let id = fs::metadata(data_dir).map_or(0, |meta| meta.ino() ^ meta.dev().rotate_left(32));
        let name = format!("{PREFIX}{id:x}");
        let own = own_dir("");
        let seats = own.as_ref().map(|own| own.join(&name)).filter(|dir| make(dir) && dir.join("cgroup.kill").exists());
        let delegated = seats.as_ref().zip(own.as_ref()).is_some_and(|(seats, own)| delegate(own) && delegate(seats));
        let v1 = CONTROLLERS.map(|controller| own_dir(controller).map(|own| own.join(&name)).filter(|dir| make(dir)));
        let limits = match (delegated, &v1[0]) {
            (true, _) => Limits::CgroupV2,
            (false, Some(_)) => Limits::CgroupV1,
            (false, None) => Limits::Rlimits,
        };
        let claims = Rc::new(seats.iter().chain(v1.iter().flatten()).filter_map(|base| claim(base)).collect());
        let groups = Self { seats, own, limits, v1, epoch: keeper::sys::boottime_ns(), _claims: claims };
        groups.clear_stale();
        groups
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// Clears empty groups away, those of other data directories' dead keepers, too: theirs may never start again. A group with
    /// processes refuses, and those of a living keeper are claimed.
    fn clear_stale(&self) {
        self.bases().flat_map(|base| entries(base)).for_each(|seat| remove_tree(&seat));
        for parent in self.bases().filter_map(|base| base.parent()) {
            for base in entries(parent).filter(|base| is_keepers(base) && self.bases().all(|own| own != base)) {
                let Some(_claim) = claim(&base) else { continue };
                entries(&base).for_each(|seat| remove_tree(&seat));
                let _ = fs::remove_dir(&base);
            }
        }
    }

    fn bases(&self) -> impl Iterator<Item = &PathBuf> {
        self.seats.iter().chain(self.v1.iter().flatten())
    }

    /// Removes what [`discover`](Self::discover) made, as far as it is empty: a killed process holds its group until it is reaped. What
    /// is left, the next keeper on this machine clears.
    pub(crate) fn leave(&self) {
        self.clear_stale();
        for base in self.bases() {
            let _ = fs::remove_dir(base);
        }
    }

    /// A seat for the next monitor, which makes its groups itself.
    pub(crate) fn take_seat(&self, next: &mut u32) -> Seat {
        *next += 1;
        let name = format!("{:x}-{next}", self.epoch);
        let dir = self.seats.as_ref().map(|seats| seats.join(format!("s{name}")));
        Seat { name, dir }
    }

    /// Makes the groups of a seat.
    fn furnish(&self, dir: &Path) -> bool {
        if !make(dir) {
            return false;
        }
        // Nobody reads the pressure of a seat, and keeping it costs every context switch in it.
        let _ = put(&dir.join("cgroup.pressure"), "0");
        self.limits != Limits::CgroupV2 || (delegate(dir) && make(&dir.join("m")) && make(&dir.join("l")))
    }

    /// The forked monitor makes its seat and sits down.
    pub(crate) fn sit(&self, seat: &mut Seat) {
        let sub = if self.limits == Limits::CgroupV2 { "m" } else { "" };
        let sit = |dir: &PathBuf| self.furnish(dir) && put(&dir.join(sub).join("cgroup.procs"), "0").is_ok();
        // A second time, because another keeper may clear an empty group away before we sit in it.
        seat.dir = seat.dir.take().filter(|dir| sit(dir) || sit(dir));
    }

    /// A monitor that ends gets up and clears its seat away.
    pub(crate) fn stand_up(&self, seat: &Seat) {
        if let Some(own) = &self.own {
            let _ = put(&own.join("cgroup.procs"), "0");
        }
        self.clear_seat(seat);
    }

    /// Removes an empty seat and its limit groups.
    pub(crate) fn clear_seat(&self, seat: &Seat) {
        if let Some(dir) = &seat.dir {
            remove_tree(dir);
        }
        for base in self.v1.iter().flatten() {
            let _ = fs::remove_dir(base.join(format!("l{}", seat.name)));
        }
    }

    /// Ends what the subreaper's walk could not (a process that forks faster than it is walked): the monitor stands aside, kills
    /// the whole seat and sits down again. False if that is not possible here.
    pub(crate) fn purge_seat(&self, seat: &Seat) -> bool {
        let (Some(own), Some(dir)) = (&self.own, &seat.dir) else { return false };
        if put(&own.join("cgroup.procs"), "0").is_err() {
            return false;
        }
        let killed = kill(dir);
        self.sit(&mut seat.clone());
        killed
    }

    /// Sets the limits of a spec up; None if it asks for none that a group could enforce.
    pub(crate) fn limit(&self, seat: &Seat, spec: &Spec) -> io::Result<Option<LimitGroup>> {
        if spec.memory_limit_bytes == 0 && spec.cpu_limit_millis == 0 && spec.pids_limit == 0 {
            return Ok(None);
        }
        let group = match self.limits {
            Limits::Rlimits => return Ok(None),
            Limits::CgroupV2 => {
                let Some(dir) = &seat.dir else { return Ok(None) };
                limit_v2(&dir.join("l"), spec)?
            }
            Limits::CgroupV1 => self.limit_v1(seat, spec)?,
        };
        Ok(Some(group))
    }

    fn limit_v1(&self, seat: &Seat, spec: &Spec) -> io::Result<LimitGroup> {
        let quota = if spec.cpu_limit_millis == 0 { "-1".to_owned() } else { quota_us(spec).to_string() };
        let memory = if spec.memory_limit_bytes == 0 { "-1".to_owned() } else { spec.memory_limit_bytes.to_string() };
        let pids = if spec.pids_limit == 0 { "max".to_owned() } else { spec.pids_limit.to_string() };
        let settings = [
            (spec.memory_limit_bytes, "memory.limit_in_bytes", memory),
            (spec.cpu_limit_millis, "cpu.cfs_quota_us", quota),
            (spec.pids_limit, "pids.max", pids),
        ];
        let mut group = LimitGroup { procs: Vec::new(), oom: None };
        for (base, (wanted, file, value)) in self.v1.iter().zip(settings) {
            let Some(base) = base else { continue };
            let dir = base.join(format!("l{}", seat.name));
            if wanted == 0 && !dir.exists() {
                continue;
            }
            if !make(&dir) {
                return Err(io::Error::other(format!("cannot make the cgroup {}", dir.display())));
            }
            if file.starts_with("memory") {
                // A recycled group remembers its last limits, and refuses one of memory above that of memory and swap.
                let _ = put(&dir.join(SWAP_V1), "-1");
            }
            // For the same reason "none" is written, too.
            set(&dir, file, &value)?;
            group.procs.push(OpenOptions::new().write(true).open(dir.join("cgroup.procs"))?);
            if file.starts_with("memory") {
                // Swap would only turn the limit into slowness; the file is absent where swap is not accounted.
                let _ = put(&dir.join(SWAP_V1), &value);
                group.oom = Some(OomCounter::new(dir.join("memory.oom_control")));
            }
        }
        Ok(group)
    }
}

fn limit_v2(dir: &Path, spec: &Spec) -> io::Result<LimitGroup> {
    let or_max = |value: u64| if value == 0 { "max".to_owned() } else { value.to_string() };
    let quota = if spec.cpu_limit_millis == 0 { "max".to_owned() } else { quota_us(spec).to_string() };
    set(dir, "memory.max", &or_max(spec.memory_limit_bytes))?;
    let _ = put(&dir.join("memory.swap.max"), if spec.memory_limit_bytes == 0 { "max" } else { "0" });
    set(dir, "pids.max", &or_max(spec.pids_limit))?;
    set(dir, "cpu.max", &format!("{quota} {CPU_PERIOD_US}"))?;
    let procs = OpenOptions::new().write(true).open(dir.join("cgroup.procs"))?;
    Ok(LimitGroup { procs: vec![procs], oom: Some(OomCounter::new(dir.join("memory.events"))) })
}

/// The limit of memory and swap together, of cgroup v1.
const SWAP_V1: &str = "memory.memsw.limit_in_bytes";

/// The kernel refuses less than a millisecond per period.
fn quota_us(spec: &Spec) -> u64 {
    (spec.cpu_limit_millis.saturating_mul(CPU_PERIOD_US) / 1000).max(1000)
}

/// Limits set up for one attempt.
pub(crate) struct LimitGroup {
    /// Open `cgroup.procs`: the child writes itself in.
    pub(crate) procs: Vec<File>,
    oom: Option<OomCounter>,
}

impl LimitGroup {
    /// Whether the OOM killer struck in it since it was set up.
    pub(crate) fn had_oom(&self) -> bool {
        self.oom.as_ref().is_some_and(|counter| counter.read() > counter.before)
    }
}

struct OomCounter {
    path: PathBuf,
    before: u64,
}

impl OomCounter {
    fn new(path: PathBuf) -> Self {
        let mut counter = Self { path, before: 0 };
        counter.before = counter.read();
        counter
    }

    fn read(&self) -> u64 {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }
}

/// Kills everything in a v2 group. False if there is no such group.
pub(crate) fn kill(dir: &Path) -> bool {
    put(&dir.join("cgroup.kill"), "1").is_ok()
}

/// Whether a v2 group or one below it holds a process.
pub(crate) fn is_populated(dir: &Path) -> bool {
    fs::read_to_string(dir.join("cgroup.events")).is_ok_and(|text| text.lines().any(|line| line == "populated 1"))
}

fn is_keepers(base: &Path) -> bool {
    base.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()))
}

/// Locks a keeper's group for as long as the file is open; None if a living keeper holds it.
fn claim(base: &Path) -> Option<File> {
    // Made again if another keeper, which took it for a dead one's, removed it before it was locked. That keeper goes on to the next
    // group, so a few rounds are plenty.
    for _ in 0..8 {
        let dir = File::open(base).ok()?;
        flock(&dir, FlockOperation::NonBlockingLockExclusive).ok()?;
        let held = dir.metadata().ok()?.ino();
        match fs::metadata(base) {
            Ok(there) if there.ino() == held => return Some(dir),
            Ok(_) => {}
            Err(_) => drop(make(base)),
        }
    }
    None
}

fn delegate(dir: &Path) -> bool {
    let offered = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    CONTROLLERS.iter().all(|controller| offered.split_whitespace().any(|one| one == *controller))
        && put(&dir.join("cgroup.subtree_control"), "+memory +cpu +pids").is_ok()
}

fn make(dir: &Path) -> bool {
    fs::create_dir_all(dir).is_ok()
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn remove_tree(dir: &Path) {
    for sub in ["m", "l"] {
        let _ = fs::remove_dir(dir.join(sub));
    }
    let _ = fs::remove_dir(dir);
}

fn put(file: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(file)?.write_all(value.as_bytes())
}

fn set(dir: &Path, file: &str, value: &str) -> io::Result<()> {
    put(&dir.join(file), value).map_err(|error| {
        io::Error::new(error.kind(), format!("writing {value} to {}: {error}", dir.join(file).display()))
    })
}

/// The directory of this process's own group: of a v1 controller, or (empty name) of the v2 hierarchy.
fn own_dir(controller: &str) -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    find_dir(&groups, &mounts, controller).filter(|dir| dir.is_dir())
}

fn find_dir(groups: &str, mounts: &str, controller: &str) -> Option<PathBuf> {
    let path = groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (names, path) = (parts.next()?, parts.next()?);
        names.split(',').any(|name| name == controller).then_some(path)
    })?;
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let mut fields = after.split(' ');
        let (kind, options) = (fields.next()?, fields.nth(1)?);
        let fits = if controller.is_empty() {
            kind == "cgroup2"
        } else {
            kind == "cgroup" && options.split(',').any(|option| option == controller)
        };
        // A container sees its own group as the root of the mount.
        let below = path.strip_prefix(root.trim_end_matches('/')).unwrap_or("");
        fits.then(|| Path::new(point).join(below.trim_start_matches('/')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUPS: &str = "4:memory:/pod/a\n2:cpu,cpuacct:/\n0::/x\n";
    const MOUNTS: &str = "30 1 0:26 / /sys/fs/cgroup/unified rw shared:5 - cgroup2 cgroup rw\n\
        31 1 0:27 /pod/a /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        32 1 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n";

    #[test]
    fn the_own_group_is_found_through_roots_and_joint_controllers() {
        let find = |controller| find_dir(GROUPS, MOUNTS, controller);
        assert_eq!(find(""), Some("/sys/fs/cgroup/unified/x".into()));
        assert_eq!(find("memory"), Some("/sys/fs/cgroup/memory/".into()));
        assert_eq!(find("cpu"), Some("/sys/fs/cgroup/cpu/".into()));
        assert_eq!(find("pids"), None);
    }
}
