//! The keeper's loop: one epoll, no threads.
//!
//! ```text
//! agent ◀──▶ [ keeper ] ◀──▶ slot per monitor (idle | running an attempt)
//!                 ├── orphans: attempts whose monitor has no line to us yet (after a restart)
//!                 └── leftovers: attempts whose monitor died; what is left of them is being ended
//! ```
//!
//! The keeper holds nothing that a successor could not read from the records: killed at any point, the next one goes on.

mod agent;
mod leftover;
mod newcomer;
mod recovery;
mod slot;
mod upgrade;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;

use keeper::record;
use keeper::sys;
use keeper::wire::{EndReason, ListedState, Notice, Request};
use rustix::event::{Timespec, epoll};
use rustix::fs::inotify;

use crate::daemon::Owned;
use crate::world::World;

use agent::Agent;
use leftover::Leftover;
use newcomer::Newcomer;
use recovery::Orphan;
use slot::Slot;

pub(crate) use upgrade::Resumed;

/// Most monitors at once: one descriptor and one process each. The agent's slots are far fewer; a broken agent stops here and not at
/// the machine's process limit.
pub(crate) const MAX_MONITORS: usize = 4096;

/// Longest time, in nanoseconds, a new keeper spends on what its predecessor's dead left behind before it hears an agent. A kill takes milliseconds; a
/// process that hangs in the kernel must not keep the whole sidecar away.
const SETTLE_NS: u64 = 1_000_000_000;
const LISTENER: u64 = 0;
const SIGNALS: u64 = 1;
const WATCH: u64 = 2;
const FIRST_TOKEN: u64 = 3;

/// Monitors kept warm until an agent says how many.
const DEFAULT_WARM: u32 = 1;
/// A moment of quiet after which missing warm monitors are forked: never between two starts of a burst.
const QUIET_NS: u64 = 50_000_000;
/// Beyond the wanted number, idle monitors stay this long: a burst is often followed by another.
const TRIM_NS: u64 = 5_000_000_000;
/// After the lease's deadline and its grace a monitor has had its chance; it is stopped, or very late. Enough for a healthy one to be
/// scheduled, little against the drift the lease allows for. Who comes later is ended by its keeper, which says the same of its attempt.
const FENCE_SLACK_NS: u64 = 20_000_000;

/// What an attempt is to the keeper.
struct Attempt {
    state: ListedState,
    /// The slot that runs it, if there is a line to its monitor.
    token: Option<u64>,
    /// Nanoseconds between the lease's deadline and KILL, for attempts that obey it.
    fence_grace_ns: Option<u64>,
    /// Its monitor was killed here for the lease's end.
    condemned: bool,
}

/// Whether the keeper is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Leaving {
    No,
    /// By the agent's order; a new agent cancels it.
    Ordered,
    /// By SIGTERM.
    Terminating,
}

/// The loop's state.
pub(crate) struct Keeper {
    world: World,
    owned: Owned,
    epoll: OwnedFd,
    signals: OwnedFd,
    watch: OwnedFd,
    agent: Option<Agent>,
    /// In the order they came.
    newcomers: Vec<Newcomer>,
    slots: BTreeMap<u64, Slot>,
    attempts: BTreeMap<String, Attempt>,
    orphans: Vec<Orphan>,
    leftovers: Vec<Leftover>,
    next_token: u64,
    next_seat: u32,
    warm: u32,
    leaving: Leaving,
    /// The lease's deadline as last seen.
    lease_ns: Option<u64>,
    /// When an attempt was last started; the pool of monitors is tended in quiet moments after.
    started_ns: u64,
    /// When an agent or an attempt was last seen.
    active_ns: u64,
    idle_exit_ns: u64,
    vanished: bool,
    /// Agents are heard: the dead of an earlier keeper are settled, or have had their time.
    listening: bool,
    /// Not before: until then there was no descriptor for a connection.
    deaf_until_ns: u64,
}

impl Keeper {
    /// Takes over a data directory whose lock and socket are held.
    pub(crate) fn new(world: World, owned: Owned, idle_exit_ns: u64) -> io::Result<Self> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        sys::default_signals();
        let handled = [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT];
        sys::block_signals(&handled);
        let signals = sys::signal_fd(&handled)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let gone = inotify::WatchFlags::DELETE | inotify::WatchFlags::MOVED_FROM | inotify::WatchFlags::MOVE_SELF;
        inotify::add_watch(&watch, &world.data_dir, gone | inotify::WatchFlags::DELETE_SELF)?;
        let add = |fd: &dyn AsFd, token| {
            epoll::add(&epoll, fd.as_fd(), epoll::EventData::new_u64(token), epoll::EventFlags::IN)
        };
        add(&signals, SIGNALS)?;
        add(&watch, WATCH)?;
        Ok(Self {
            world,
            owned,
            epoll,
            signals,
            watch,
            agent: None,
            newcomers: Vec::new(),
            slots: BTreeMap::new(),
            attempts: BTreeMap::new(),
            orphans: Vec::new(),
            leftovers: Vec::new(),
            next_token: FIRST_TOKEN,
            next_seat: 0,
            warm: DEFAULT_WARM,
            leaving: Leaving::No,
            lease_ns: None,
            started_ns: 0,
            active_ns: sys::boottime_ns(),
            idle_exit_ns,
            vanished: false,
            listening: false,
            deaf_until_ns: 0,
        })
    }

    /// Runs until there is nothing left to keep.
    pub(crate) fn run(mut self) -> io::Result<()> {
        self.recover();
        let settle_by = sys::boottime_ns() + SETTLE_NS;
        let mut events = Vec::with_capacity(64);
        loop {
            let now = sys::boottime_ns();
            self.tick(now);
            self.listen(now, settle_by)?;
            self.flush();
            if self.is_done(now) {
                break;
            }
            let timeout = self.timeout(now);
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                self.on_event(event.data.u64());
            }
        }
        self.close();
        Ok(())
    }

    /// Takes connections once every attempt whose monitor died with the last keeper is declared lost. An agent that was told earlier
    /// would pass a dead attempt on as running, and its healthy replacement elsewhere would be stopped for it.
    fn listen(&mut self, now: u64, settle_by: u64) -> io::Result<()> {
        if !self.listening && now >= self.deaf_until_ns && (self.leftovers.is_empty() || now >= settle_by) {
            let readable = epoll::EventFlags::IN;
            epoll::add(&self.epoll, self.owned.listener.as_fd(), epoll::EventData::new_u64(LISTENER), readable)?;
            self.listening = true;
        }
        Ok(())
    }

    fn on_event(&mut self, token: u64) {
        match token {
            LISTENER => self.on_connect(),
            SIGNALS => self.on_signals(),
            WATCH => self.on_watch(),
            _ if self.agent.as_ref().is_some_and(|agent| agent.token == token) => self.on_agent(),
            _ => match self.newcomer(token) {
                Some(at) => self.on_newcomer(at),
                None => self.on_slot(token),
            },
        }
    }

    fn on_signals(&mut self) {
        for signal in sys::read_signals(self.signals.as_fd()) {
            if signal != libc::SIGCHLD {
                self.on_terminate();
            }
        }
        while let sys::Reaped::Child(child) = sys::wait_any(false) {
            self.on_reaped(child.pid);
        }
    }

    /// The first SIGTERM announces the end and lets attempts finish; the second stops them.
    fn on_terminate(&mut self) {
        if self.leaving == Leaving::Terminating {
            self.stop_all(None);
            return;
        }
        self.leaving = Leaving::Terminating;
        if let Some(agent) = &mut self.agent {
            agent.link.notify(&Notice::Terminating);
        }
    }

    fn stop_all(&mut self, grace_ms: Option<u64>) {
        let names: Vec<String> = self.attempts.keys().cloned().collect();
        for name in names {
            self.pass_on(&Request::Stop { name, reason: EndReason::Drained, grace_ms });
        }
    }

    /// Something was removed from the data directory: if it is the directory itself, or that of the attempts, there is nobody left to
    /// keep for.
    fn on_watch(&mut self) {
        let mut buffer = [0u8; 4096];
        while rustix::io::read(&self.watch, &mut buffer).is_ok_and(|count| count > 0) {}
        if self.vanished {
            return;
        }
        if let Some(path) = self.owned.lost(&self.world.data_dir) {
            eprintln!("keeper: {} is gone; stopping what runs", path.display());
            self.vanished = true;
            self.stop_all(Some(0));
            // No line will ever be found to an orphan: its socket went with the directory, and so did its record.
            for orphan in &self.orphans {
                leftover::end_marked(&self.attempt_dir(&orphan.name).join("work"));
            }
        }
    }

    fn tick(&mut self, now: u64) {
        self.tick_newcomers(now);
        if self.agent.is_some() || !self.newcomers.is_empty() || !self.attempts.is_empty() {
            self.active_ns = now;
        }
        self.tick_orphans(now);
        self.tick_leftovers(now);
        self.tick_fences(now);
        self.tick_slots(now);
    }

    fn flush(&mut self) {
        if let Some(agent) = &mut self.agent
            && !agent.flush(&self.epoll)
        {
            self.drop_agent();
        }
        for (token, slot) in &mut self.slots {
            slot.flush(&self.epoll, *token);
        }
    }

    /// Whether nothing is left to do here.
    fn is_done(&self, now: u64) -> bool {
        if self.vanished {
            // What no line reaches any more (an orphan's socket went with the directory) cannot be ended by order.
            return self.leftovers.is_empty() && self.slots.values().all(|slot| slot.attempt.is_none());
        }
        self.attempts.is_empty()
            && (self.leaving != Leaving::No
                || (self.agent.is_none()
                    && self.newcomers.is_empty()
                    && now.saturating_sub(self.active_ns) >= self.idle_exit_ns))
    }

    fn close(mut self) {
        if let Some(agent) = &mut self.agent {
            let _ = agent.link.flush(false);
        }
        self.owned.remove_socket();
        // Idle monitors end with their channel; their seats are empty then. PID 1 may have children that are none of ours, and takes
        // everything along anyway.
        self.slots.clear();
        if std::process::id() != 1 {
            while let sys::Reaped::Child(_) = sys::wait_any(true) {}
        }
        self.world.groups.leave();
    }

    /// The nearest of all times at which [`tick`](Self::tick) has something to do; an idle keeper with an agent sleeps for good.
    fn timeout(&self, now: u64) -> Option<Timespec> {
        let idle = self.agent.is_none().then(|| self.active_ns.saturating_add(self.idle_exit_ns));
        let idle = idle.filter(|_| self.attempts.is_empty());
        let newcomers = self.newcomers_wake();
        let times =
            [idle, newcomers, self.orphans_wake(), self.leftovers_wake(), self.fences_wake(now), self.slots_wake()];
        let at = times.into_iter().flatten().min()?;
        // Rounded up, or the last fraction of a millisecond would be spent spinning.
        let wait = at.saturating_sub(now) + 999_999;
        Some(Timespec { tv_sec: (wait / 1_000_000_000) as i64, tv_nsec: (wait % 1_000_000_000) as i64 })
    }

    fn attempt_dir(&self, name: &str) -> std::path::PathBuf {
        self.world.attempts_dir.join(name)
    }

    fn tell(&mut self, notice: &Notice) {
        if let Some(agent) = &mut self.agent {
            agent.link.notify(notice);
        }
    }

    fn watch_fd(&self, fd: &impl AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?)
    }

    fn take_token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    fn listener(&self) -> &UnixListener {
        &self.owned.listener
    }

    /// Names of attempts on disk.
    fn attempts_on_disk(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.world.attempts_dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| record::is_name(name)).collect()
    }
}
