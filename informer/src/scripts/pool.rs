//! The pool: a few hosts, and whoever wants one.
//!
//! ```text
//!  caller ─▶ queue (first come, first served) ─▶ a place ─▶ idle host, else a new one ─▶ ask ─▶ idle again, or dead
//!                                                                 │
//!                                     thread `scripts`: starts every host, ends those idle for long
//! ```
//!
//! Callers wait on their own threads, so the queue is as long as there are callers and holds nothing for them. A host dies with the
//! thread that started it (`PR_SET_PDEATHSIG` means the thread, not the process). That is why one thread starts them all, and
//! lives as long as the pool.

use std::collections::{BTreeMap, VecDeque};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::process::{Death, Host};
use super::program::Program;
use super::wire::{Reply, Request};
use super::{Config, Error};

/// A host that is wanted, and who wants it.
type Order = Sender<Result<Host, Error>>;

/// Places, hosts and the queue.
#[derive(Default)]
struct State {
    /// Hosts that nobody asks, and since when; the last one was asked last.
    idle: Vec<(Host, Instant)>,
    /// Places taken. Never more than `Config::hosts`.
    taken: usize,
    /// Callers without a place, in the order they came.
    queue: VecDeque<u64>,
    next_ticket: u64,
    /// The sockets of hosts being asked, by their process.
    asked: BTreeMap<u32, UnixStream>,
    starter: Option<(Sender<Order>, JoinHandle<()>)>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    config: Config,
    state: Mutex<State>,
    /// A place became free, the queue moved, or the pool closed.
    moved: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can leave it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The hosts of one informer.
pub(super) struct Hosts {
    shared: Arc<Shared>,
}

impl Hosts {
    pub(super) fn new(config: Config) -> Self {
        Self { shared: Arc::new(Shared { config, ..Shared::default() }) }
    }

    pub(super) fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Has a host answer. One that somebody killed meanwhile is replaced once: a script can be run again, as it changes nothing.
    pub(super) fn ask(&self, request: &Request<'_>) -> Result<Reply, Error> {
        match self.ask_once(request) {
            Err(Death::Script(error)) => Err(error),
            Ok(reply) => Ok(reply),
            Err(Death::Lost(how)) => {
                tracing::warn!(how, "the host of a script was killed; running the script again");
                self.ask_once(request).map_err(|death| match death {
                    Death::Script(error) => error,
                    Death::Lost(how) => Error::Lost { how },
                })
            }
        }
    }

    fn ask_once(&self, request: &Request<'_>) -> Result<Reply, Death> {
        let mut place = self.place().map_err(Death::Script)?;
        let mut host = match place.host.take() {
            Some(host) => host,
            None => self.start().map_err(Death::Script)?,
        };
        place.enter(&host).map_err(Death::Script)?;
        let reply = host.ask(request, self.config());
        place.leave(host.id());
        match reply {
            // One that is worn ends by itself.
            Ok(reply) => {
                place.host = Some(host).filter(|_| !reply.worn);
                Ok(reply)
            }
            Err(_) if self.shared.lock().closed => Err(Death::Script(Error::Closed)),
            Err(death) => Err(death),
        }
    }

    /// Waits for a place, in turn, with a host if one is idle.
    fn place(&self) -> Result<Place<'_>, Error> {
        let shared = &*self.shared;
        let mut state = shared.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.queue.push_back(ticket);
        let waits = |state: &mut State| {
            !state.closed && (state.queue.front() != Some(&ticket) || state.taken >= shared.config.hosts.max(1))
        };
        state = shared.moved.wait_while(state, waits).unwrap_or_else(PoisonError::into_inner);
        state.queue.retain(|waiting| *waiting != ticket);
        shared.moved.notify_all();
        if state.closed {
            return Err(Error::Closed);
        }
        state.taken += 1;
        let mut dead = Vec::new();
        let mut host = None;
        while let Some((mut idle, _)) = state.idle.pop() {
            if idle.lives() {
                host = Some(idle);
                break;
            }
            dead.push(idle);
        }
        Ok(Place { shared, host })
    }

    /// Has the thread start one.
    fn start(&self) -> Result<Host, Error> {
        let order = {
            let mut state = self.shared.lock();
            if state.closed {
                return Err(Error::Closed);
            }
            if state.starter.is_none() {
                let (orders, received) = mpsc::channel();
                let shared = Arc::clone(&self.shared);
                let thread = thread::Builder::new().name("scripts".to_owned());
                let thread =
                    thread.spawn(move || keep(&shared, &received)).map_err(|source| Error::NoRoom { source })?;
                state.starter = Some((orders, thread));
            }
            let (order, started) = mpsc::channel();
            let sent = state.starter.as_ref().is_some_and(|(orders, _)| orders.send(order).is_ok());
            sent.then_some(started).ok_or(Error::Closed)?
        };
        order.recv().unwrap_or(Err(Error::Closed))
    }

    /// Ends all hosts. Who waits for a reply or a place gets an error.
    pub(super) fn close(&self) {
        let (idle, starter) = {
            let mut state = self.shared.lock();
            state.closed = true;
            // Whoever asks reads the end of the socket, and kills the host.
            state.asked.values().for_each(|socket| drop(socket.shutdown(Shutdown::Both)));
            (std::mem::take(&mut state.idle), state.starter.take())
        };
        self.shared.moved.notify_all();
        drop(idle);
        if let Some((orders, thread)) = starter {
            drop(orders);
            // It panics on nothing; and if it did, its hosts died with it.
            let _ = thread.join();
        }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.close();
    }
}

/// A place, and the host that returns to the pool with it.
struct Place<'a> {
    shared: &'a Shared,
    host: Option<Host>,
}

impl Place<'_> {
    /// Notes whom to stop when the pool closes.
    fn enter(&self, host: &Host) -> Result<(), Error> {
        let socket = host.socket().map_err(|source| Error::NoRoom { source })?;
        let mut state = self.shared.lock();
        if state.closed {
            return Err(Error::Closed);
        }
        state.asked.insert(host.id(), socket);
        Ok(())
    }

    fn leave(&self, id: u32) {
        self.shared.lock().asked.remove(&id);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.taken -= 1;
        let host = self.host.take();
        let unwanted = if state.closed {
            host
        } else {
            state.idle.extend(host.map(|host| (host, Instant::now())));
            None
        };
        drop(state);
        self.shared.moved.notify_all();
        drop(unwanted);
    }
}

/// The thread `scripts`: starts hosts, ends those that nobody asked for a while, and ends with the pool.
fn keep(shared: &Shared, orders: &Receiver<Order>) {
    // Until the next look at what is idle; none while there can be no host.
    let mut look: Option<Duration> = None;
    loop {
        let order = match look {
            Some(pause) => orders.recv_timeout(pause),
            None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match order {
            Ok(order) => {
                let host = Program::find(shared.config.program.as_deref())
                    .and_then(|program| Host::start(&program, &shared.config));
                // Who ordered it waits for it; were he gone, the host would die here.
                let _ = order.send(host);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        look = end_idle(shared);
    }
}

/// Ends what was idle for long. Gives when to look again.
fn end_idle(shared: &Shared) -> Option<Duration> {
    let (now, limit) = (Instant::now(), shared.config.idle);
    let mut state = shared.lock();
    let (over, kept) = std::mem::take(&mut state.idle)
        .into_iter()
        .partition(|(_, since)| now.saturating_duration_since(*since) >= limit);
    state.idle = kept;
    let first = state.idle.iter().map(|(_, since)| *since).min();
    // A host being asked can be idle for long after `limit` at the earliest.
    let next = first
        .map(|since| limit.saturating_sub(now.saturating_duration_since(since)))
        .or((state.taken > 0).then_some(limit));
    drop(state);
    let ended: Vec<(Host, Instant)> = over;
    drop(ended);
    next
}
