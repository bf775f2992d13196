//! After a restart: what the records tell is taken up again.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use keeper::codec;
use keeper::record::{self, Record};
use keeper::wire::{ListedState, Request};
use rustix::process::Signal;

use super::leftover::Leftover;
use super::slot::Slot;
use super::{Attempt, FENCE_SLACK_NS, Keeper};
use crate::cgroup::Seat;
use crate::life;
use crate::link::Link;

/// First pause before a monitor is tried again: it makes its socket when it notices that its keeper is gone.
const FIRST_PAUSE_NS: u64 = 5_000_000;
/// Longest pause: a stopped monitor may never answer.
const LONGEST_PAUSE_NS: u64 = 1_000_000_000;

/// An attempt whose record is held by a monitor we have no line to.
pub(super) struct Orphan {
    pub(super) name: String,
    /// To be passed on with the first contact.
    pub(super) order: Option<Request>,
    retry_at: u64,
    pause_ns: u64,
}

impl Orphan {
    pub(super) fn new(name: String) -> Self {
        Self { name, order: None, retry_at: 0, pause_ns: FIRST_PAUSE_NS }
    }
}

impl Keeper {
    /// Reads every record that is not final.
    pub(super) fn recover(&mut self) {
        for name in self.attempts_on_disk() {
            if self.attempts.contains_key(&name) {
                continue;
            }
            let record = match record::read(&self.attempt_dir(&name)) {
                Ok(record) if record.is_final() => continue,
                Ok(record) => record,
                // No record yet: its monitor died, or is about to write; either way it is settled below.
                Err(record::Error::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    Record::default()
                }
                Err(error) => {
                    eprintln!("keeper: {error}");
                    continue;
                }
            };
            let obeys = record.spec.as_ref().filter(|spec| life::obeys_lease(spec));
            let fence_grace_ns = obeys.map(|spec| life::fence_grace_ms(spec).saturating_mul(1_000_000));
            let state = record.spawned.clone().map_or(ListedState::Starting, ListedState::Running);
            self.attempts.insert(name.clone(), Attempt { state, token: None, fence_grace_ns, condemned: false });
            self.orphans.push(Orphan::new(name));
        }
    }

    pub(super) fn orphans_wake(&self) -> Option<u64> {
        self.orphans.iter().map(|orphan| orphan.retry_at).min()
    }

    pub(super) fn tick_orphans(&mut self, now: u64) {
        if self.orphans.iter().all(|orphan| orphan.retry_at > now) {
            return;
        }
        for mut orphan in std::mem::take(&mut self.orphans) {
            if orphan.retry_at > now || !self.adopt(&mut orphan) {
                if orphan.retry_at <= now {
                    orphan.retry_at = now + orphan.pause_ns;
                    orphan.pause_ns = (orphan.pause_ns * 2).min(LONGEST_PAUSE_NS);
                }
                self.orphans.push(orphan);
            }
        }
    }

    /// Tries to take up one attempt; false: later again.
    fn adopt(&mut self, orphan: &mut Orphan) -> bool {
        let dir = self.attempt_dir(&orphan.name);
        let record = match record::read(&dir) {
            Ok(record) => record,
            Err(_) if dir.is_dir() => Record::default(),
            Err(_) => {
                self.attempts.remove(&orphan.name);
                return true;
            }
        };
        if record.is_final() {
            self.settle(&orphan.name, &record);
            return true;
        }
        if !record::is_locked(&dir).unwrap_or(false) {
            self.leftovers.push(Leftover::new(orphan.name.clone(), Seat::default()));
            return true;
        }
        let Some((stream, holder)) = connect(&dir).ok().zip(record.holder) else { return false };
        let token = self.take_token();
        let fd = OwnedFd::from(stream);
        if self.watch_fd(&fd, token).is_err() {
            return false;
        }
        let dir = (!holder.cgroup.is_empty()).then(|| holder.cgroup.into());
        let mut slot = Slot::new(Link::new(fd), holder.monitor.pid, Seat { name: String::new(), dir });
        slot.adopted = true;
        slot.attempt = Some(orphan.name.clone());
        if let Some(order) = orphan.order.take() {
            slot.link.push(&codec::encode_request(&order));
        }
        self.slots.insert(token, slot);
        if let Some(attempt) = self.attempts.get_mut(&orphan.name) {
            attempt.token = Some(token);
        }
        true
    }

    /// When the lease's end is next to be checked for monitors that do not do it themselves.
    pub(super) fn fences_wake(&self, now: u64) -> Option<u64> {
        let grace = self.attempts.values().filter_map(|attempt| attempt.fence_grace_ns).min()?;
        let deadline = self.lease_ns?;
        // Once it has passed, only monitors that are being ended are left; their leftovers set the pace.
        Some(deadline.saturating_add(grace + FENCE_SLACK_NS).max(now + FENCE_SLACK_NS))
    }

    /// A stopped monitor cannot end its attempt: it is killed, and with it the namespace of its attempt; the rest is a leftover. That it
    /// was the lease is written down before: a late monitor's attempt is as fenced as a punctual one's.
    pub(super) fn tick_fences(&mut self, now: u64) {
        // A lease that was given up leaves its last deadline in force here: its monitors have until then anyway.
        self.lease_ns = self.world.lease.deadline().or(self.lease_ns);
        let Some(deadline) = self.lease_ns else { return };
        let overdue = |grace: u64| now >= deadline.saturating_add(grace + FENCE_SLACK_NS);
        let due: Vec<String> = self
            .attempts
            .iter()
            .filter(|(_, attempt)| !attempt.condemned && attempt.fence_grace_ns.is_some_and(overdue))
            .map(|(name, _)| name.clone())
            .collect();
        for name in due {
            let dir = self.attempt_dir(&name);
            let record = record::read(&dir).ok().filter(|record| !record.is_copied_to(&dir));
            let Some(holder) = record.and_then(|record| record.holder) else { continue };
            if let Err(error) = record::condemn(&dir) {
                eprintln!("keeper: attempts/{name}: cannot note that its lease is over: {error}");
            }
            self.world.place.signal(&holder.monitor, Signal::KILL);
            if let Some(attempt) = self.attempts.get_mut(&name) {
                attempt.condemned = true;
            }
        }
    }
}

fn connect(dir: &Path) -> std::io::Result<UnixStream> {
    let handle = File::open(dir)?;
    UnixStream::connect(format!("/proc/self/fd/{}/{}", handle.as_raw_fd(), crate::monitor::SOCKET))
}
