//! Monitors, and the lines to them.

use std::os::fd::{AsRawFd, OwnedFd};

use keeper::codec;
use keeper::sys;
use keeper::wire::{ListedState, Notice, Refusal, Request, Spec};
use rustix::event::epoll;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::leftover::Leftover;
use super::{Attempt, Keeper, MAX_MONITORS, QUIET_NS, TRIM_NS};
use crate::cgroup::Seat;
use crate::life;
use crate::link::Link;
use crate::monitor;

/// Attempts one monitor runs before it is replaced: whatever a fork may gather in that time (a leaked descriptor, a grown heap) ends
/// with it, and a fork per thousand costs nothing.
pub(super) const MAX_SERVED: u32 = 1000;

/// One monitor.
pub(super) struct Slot {
    pub(super) link: Link,
    pub(super) pid: u32,
    pub(super) seat: Seat,
    pub(super) served: u32,
    /// Found after a restart: its last attempt is the one it runs.
    pub(super) adopted: bool,
    /// What it runs.
    pub(super) attempt: Option<String>,
    writes: bool,
}

impl Slot {
    pub(super) fn new(link: Link, pid: u32, seat: Seat) -> Self {
        Self { link, pid, seat, served: 0, adopted: false, attempt: None, writes: false }
    }

    fn is_idle(&self) -> bool {
        self.attempt.is_none() && !self.adopted
    }

    /// Sends what is queued and asks to be woken if the socket is full. A peer that is gone is noticed by reading.
    pub(super) fn flush(&mut self, epoll: &OwnedFd, token: u64) {
        if self.link.backlog() == 0 {
            return;
        }
        let _ = self.link.flush(false);
        let full = self.link.backlog() > 0;
        if full != self.writes {
            self.writes = full;
            let flags = if full { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
            let _ = epoll::modify(epoll, self.link.fd(), epoll::EventData::new_u64(token), flags);
        }
    }
}

impl Keeper {
    /// Hands an attempt to a monitor.
    pub(super) fn start(&mut self, name: String, spec: &Spec, body: &[u8]) -> Result<(), (Refusal, String)> {
        let idle = self.slots.iter().find(|(_, slot)| slot.is_idle()).map(|(token, _)| *token);
        let token = match idle {
            Some(token) => token,
            None => self.fork_monitor().map_err(|error| (Refusal::System, format!("fork a monitor: {error}")))?,
        };
        let slot = self.slots.get_mut(&token).expect("just found or made");
        slot.link.push(body);
        slot.attempt = Some(name.clone());
        let fence_grace_ns = life::obeys_lease(spec).then(|| life::fence_grace_ms(spec).saturating_mul(1_000_000));
        let state = ListedState::Starting;
        self.attempts.insert(name, Attempt { state, token: Some(token), fence_grace_ns, condemned: false });
        Ok(())
    }

    /// Passes an order on to the monitor it concerns; one without a line to us gets it when it has.
    pub(super) fn pass_on(&mut self, order: &Request) {
        let Request::Stop { name, .. } = order else { return };
        let Some(attempt) = self.attempts.get(name) else { return };
        match attempt.token.and_then(|token| self.slots.get_mut(&token)) {
            Some(slot) => slot.link.push(&codec::encode_request(order)),
            None => {
                if let Some(orphan) = self.orphans.iter_mut().find(|orphan| orphan.name == *name) {
                    orphan.order = Some(order.clone());
                }
            }
        }
    }

    fn fork_monitor(&mut self) -> std::io::Result<u64> {
        if self.slots.len() >= MAX_MONITORS {
            return Err(std::io::Error::other(format!("{MAX_MONITORS} monitors run already")));
        }
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let seat = self.world.groups.take_seat(&mut self.next_seat);
        let Some(pid) = sys::fork()? else { monitor::run(&self.world, seat, theirs.as_raw_fd()) };
        drop(theirs);
        let token = self.take_token();
        self.watch_fd(&ours, token)?;
        self.slots.insert(token, Slot::new(Link::new(ours), pid, seat));
        Ok(token)
    }

    pub(super) fn on_slot(&mut self, token: u64) {
        let Some(slot) = self.slots.get_mut(&token) else { return };
        let mut open = slot.link.receive(false);
        let mut bodies = Vec::new();
        loop {
            match slot.link.take() {
                Ok(Some(body)) => bodies.push(body),
                Ok(None) => break,
                Err(_) => {
                    open = false;
                    break;
                }
            }
        }
        for body in bodies {
            match codec::decode_notice(&body) {
                Ok(notice) => self.on_report(token, &notice, &body),
                Err(_) => open = false,
            }
        }
        if !open {
            self.on_slot_closed(token);
        }
    }

    /// A monitor's report goes on to the agent in the bytes it came in.
    fn on_report(&mut self, token: u64, notice: &Notice, body: &[u8]) {
        match notice {
            Notice::Spawned { name, process } => {
                if let Some(attempt) = self.attempts.get_mut(name) {
                    attempt.state = ListedState::Running(process.clone());
                }
            }
            Notice::Ended { name, .. } | Notice::Refused { name, .. } => {
                self.attempts.remove(name);
                let Some(slot) = self.slots.get_mut(&token) else { return };
                slot.attempt = None;
                slot.served += 1;
                self.active_ns = sys::boottime_ns();
                if slot.served >= MAX_SERVED {
                    self.retire(token);
                }
            }
            // How an adopted monitor opens the conversation.
            Notice::Listing { attempts, .. } => {
                for listed in attempts {
                    if let Some(attempt) = self.attempts.get_mut(&listed.name) {
                        attempt.state = listed.state.clone();
                    }
                }
                return;
            }
            _ => return,
        }
        if let Some(agent) = &mut self.agent {
            agent.link.push(body);
        }
    }

    /// A monitor is gone, or its line is: what it ran is lost once what is left of it has ended.
    fn on_slot_closed(&mut self, token: u64) {
        let Some(slot) = self.remove_slot(token) else { return };
        let Some(name) = slot.attempt else { return };
        if let Some(attempt) = self.attempts.get_mut(&name) {
            attempt.token = None;
        }
        self.leftovers.push(Leftover::new(name, slot.seat));
    }

    fn remove_slot(&mut self, token: u64) -> Option<Slot> {
        let slot = self.slots.remove(&token)?;
        // Said explicitly: a monitor forked this instant may still hold a copy of the descriptor, and epoll would go on about it.
        let _ = epoll::delete(&self.epoll, slot.link.fd());
        Some(slot)
    }

    /// Ends an idle monitor: it exits when its channel closes, and clears its seat itself.
    fn retire(&mut self, token: u64) {
        self.remove_slot(token);
    }

    pub(super) fn on_reaped(&mut self, pid: u32) {
        let token = self.slots.iter().find(|(_, slot)| slot.pid == pid).map(|(token, _)| *token);
        if let Some(token) = token {
            // Everything it said is in the socket; then its end follows.
            self.on_slot(token);
        }
    }

    /// Keeps the wanted number of idle monitors, in quiet moments only.
    pub(super) fn tick_slots(&mut self, now: u64) {
        let idle: Vec<u64> = self.slots.iter().filter(|(_, slot)| slot.is_idle()).map(|(token, _)| *token).collect();
        let wanted = self.warm as usize;
        if self.vanished || self.leaving != super::Leaving::No {
            return;
        }
        if idle.len() < wanted && now >= self.started_ns + QUIET_NS {
            for _ in idle.len()..wanted {
                if let Err(error) = self.fork_monitor() {
                    eprintln!("keeper: fork a warm monitor: {error}");
                    self.started_ns = now + TRIM_NS;
                    return;
                }
            }
        }
        if idle.len() > wanted && now >= self.started_ns + TRIM_NS {
            for token in idle.into_iter().skip(wanted) {
                self.retire(token);
            }
        }
    }

    /// When [`tick_slots`](Self::tick_slots) will have something to do.
    pub(super) fn slots_wake(&self) -> Option<u64> {
        if self.vanished || self.leaving != super::Leaving::No {
            return None;
        }
        let idle = self.slots.values().filter(|slot| slot.is_idle()).count();
        match idle.cmp(&(self.warm as usize)) {
            std::cmp::Ordering::Less => Some(self.started_ns + QUIET_NS),
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Greater => Some(self.started_ns + TRIM_NS),
        }
    }
}
