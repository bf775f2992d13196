//! Attempts whose monitor is dead: what is left of them is ended, then they are declared lost (or, if the end was recorded, ended).

use std::path::Path;

use keeper::identity;
use keeper::record::{self, Record};
use keeper::wire::{ListedState, Notice};
use rustix::process::{Signal, pidfd_send_signal};

use super::Keeper;
use super::recovery::Orphan;
use crate::cgroup::{self, Seat};

/// First pause between two rounds; what was killed is usually gone by then.
const FIRST_PAUSE_NS: u64 = 2_000_000;
/// Longest pause: a process hanging in the kernel may take minutes, and a round reads all of `/proc`.
const LONGEST_PAUSE_NS: u64 = 500_000_000;

/// One such attempt.
pub(super) struct Leftover {
    pub(super) name: String,
    seat: Seat,
    retry_at: u64,
    pause_ns: u64,
    /// Rounds that found nothing. Two in a row are asked for: a dying parent may hand its children on between two glances.
    clean: u32,
}

impl Leftover {
    pub(super) fn new(name: String, seat: Seat) -> Self {
        Self { name, seat, retry_at: 0, pause_ns: FIRST_PAUSE_NS, clean: 0 }
    }
}

impl Keeper {
    pub(super) fn leftovers_wake(&self) -> Option<u64> {
        self.leftovers.iter().map(|leftover| leftover.retry_at).min()
    }

    pub(super) fn tick_leftovers(&mut self, now: u64) {
        if self.leftovers.iter().all(|leftover| leftover.retry_at > now) {
            return;
        }
        for mut leftover in std::mem::take(&mut self.leftovers) {
            if leftover.retry_at > now || !self.finish(&mut leftover, now) {
                self.leftovers.push(leftover);
            }
        }
    }

    /// Ends what is left of it; true once nothing was.
    fn is_clean(&self, dir: &Path, record: &Record, leftover: &mut Leftover, now: u64) -> bool {
        if self.end_remains(dir, record, &leftover.seat) {
            leftover.clean = 0;
        } else {
            leftover.clean += 1;
        }
        if leftover.clean < 2 {
            leftover.pause_ns = if leftover.clean > 0 { FIRST_PAUSE_NS } else { leftover.pause_ns };
            leftover.retry_at = now + leftover.pause_ns;
            leftover.pause_ns = (leftover.pause_ns * 2).min(LONGEST_PAUSE_NS);
            return false;
        }
        self.world.groups.clear_seat(&leftover.seat);
        true
    }

    /// One round for one attempt; true if it is settled.
    fn finish(&mut self, leftover: &mut Leftover, now: u64) -> bool {
        let dir = self.attempt_dir(&leftover.name);
        let record = record::read(&dir).unwrap_or_default();
        let copied = record.is_copied_to(&dir);
        if copied {
            eprintln!(
                "keeper: attempts/{}: a copy of an attempt made in another directory; nothing is ended for it",
                leftover.name
            );
        } else if !self.is_clean(&dir, &record, leftover, now) {
            return false;
        }
        if record.damaged {
            let (path, at) = (dir.join(record::FILE), record.valid_bytes);
            eprintln!("keeper: record {}: damaged at byte {at}; what follows there is not believed", path.display());
        }
        // The mark may be a predecessor's; it may also not have found room on the disk.
        let condemned =
            self.attempts.get(&leftover.name).is_some_and(|attempt| attempt.condemned) || record::is_condemned(&dir);
        let settled = match record.end {
            Some(_) => record::mark_swept(&dir),
            None if condemned && !copied => record::mark_fenced(&dir),
            None => record::mark_lost(&dir),
        };
        match settled {
            Ok(Some(record)) => self.settle(&leftover.name, &record),
            // Held after all: a monitor that was just about to write when it was taken for dead.
            Ok(None) => self.orphans.push(Orphan::new(leftover.name.clone())),
            // Purged meanwhile, or the disk is broken: for the agent it is lost, and nothing of it runs.
            Err(error) => {
                eprintln!("keeper: {error}");
                self.settle(&leftover.name, &Record { lost: true, ..Record::default() });
            }
        }
        true
    }

    /// Tells the agent how an attempt without a monitor stands, and forgets it.
    pub(super) fn settle(&mut self, name: &str, record: &Record) {
        self.attempts.remove(name);
        let name = name.to_owned();
        let notice = match record.state() {
            ListedState::Ended(end) => Notice::Ended { name, end },
            _ => Notice::Lost { name },
        };
        if self.agent.is_some() {
            self.tell(&notice);
        }
    }

    /// Kills what is found of an attempt; true if anything was found.
    fn end_remains(&self, dir: &Path, record: &Record, seat: &Seat) -> bool {
        let place = &self.world.place;
        if record.holder.as_ref().is_some_and(|holder| holder.monitor.boot_id != place.boot_id) {
            return false;
        }
        let mut found = false;
        // In another pid namespace, another container's that is, the same path may name another's group.
        let known = record.holder.as_ref().filter(|holder| place.knows(&holder.monitor));
        let recorded = known.map(|holder| Path::new(&holder.cgroup));
        let group = seat.dir.as_deref().or(recorded.filter(|group| group.is_absolute()));
        if let Some(group) = group
            && cgroup::is_populated(group)
        {
            found = true;
            cgroup::kill(group);
        }
        let holder = record.holder.iter().map(|holder| &holder.monitor);
        for process in holder.chain(&record.init).chain(&record.spawned) {
            found |= place.signal(process, Signal::KILL);
        }
        found |= end_marked(&dir.join("work"));
        found | self.end_strays()
    }

    /// Children of the keeper that are no monitors were handed on by a dead monitor. PID 1 inherits others' children, too, and leaves
    /// them alone.
    fn end_strays(&self) -> bool {
        let me = std::process::id();
        if me == 1 {
            return false;
        }
        let mut found = false;
        for pid in pids() {
            if self.slots.values().any(|slot| slot.pid == pid) {
                continue;
            }
            let Some(handle) = identity::hold(pid) else { continue };
            if identity::stat(pid).is_ok_and(|stat| stat.parent == me && !stat.is_dead()) {
                found = true;
                let _ = pidfd_send_signal(&handle, Signal::KILL);
            }
        }
        found
    }
}

/// Ends processes whose environment names the attempt's directory: what a monitor and a keeper, both dead and without a cgroup, left.
pub(super) fn end_marked(work: &Path) -> bool {
    let mark = format!("TASK_DIR={}", work.display());
    let mut found = false;
    for pid in pids() {
        // The handle comes first: what is read afterwards is of the process it holds, or of none.
        let Some(handle) = identity::hold(pid) else { continue };
        let Ok(environment) = std::fs::read(format!("/proc/{pid}/environ")) else { continue };
        if environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes()) {
            found = true;
            let _ = pidfd_send_signal(&handle, Signal::KILL);
        }
    }
    found
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}
