//! A monitor's line to its keeper, which may die and come back as another process.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;

use keeper::sys;
use keeper::wire::{Listed, Notice, Refusal};
use rustix::event::Timespec;

use crate::link::Link;

/// Name of the control socket in an attempt's directory; the number is the version of what is spoken on it.
pub(crate) const SOCKET: &str = "ctl.v1";

/// An idle monitor gives memory back after this time: in a burst of short attempts it would only fetch it again.
const REST: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

enum State {
    /// Talking to a keeper.
    Linked(Link),
    /// Waiting for one.
    Listening(UnixListener),
    /// Nobody will come.
    Closed,
}

/// The line.
pub(super) struct Contact {
    state: State,
    /// The keeper that forked us is gone: this attempt is our last.
    orphaned: bool,
    /// Memory was given back since the last order.
    rested: bool,
}

impl Contact {
    pub(super) fn new(link: Link) -> Self {
        Self { state: State::Linked(link), orphaned: false, rested: false }
    }

    /// The next order while idle; None ends the monitor.
    pub(super) fn next_order(&mut self) -> Option<Vec<u8>> {
        if self.orphaned {
            return None;
        }
        let State::Linked(link) = &mut self.state else { return None };
        loop {
            if let Some(body) = link.take().ok()? {
                return Some(body);
            }
            if !self.rested && !link.is_readable_within(&REST) {
                sys::rest();
                self.rested = true;
            }
            if !link.receive(true) {
                return None;
            }
            self.rested = false;
        }
    }

    /// What to wait on while an attempt runs.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            State::Linked(link) => Some(link.fd()),
            State::Listening(listener) => Some(listener.as_fd()),
            State::Closed => None,
        }
    }

    /// Takes what has arrived while an attempt runs. A keeper that connects is told where the attempt stands; one that is gone is
    /// replaced by a socket in the attempt's directory.
    pub(super) fn on_readable(&mut self, dir: BorrowedFd<'_>, listed: impl FnOnce() -> Listed) -> Vec<Vec<u8>> {
        match &mut self.state {
            State::Linked(link) => {
                let open = link.receive(false);
                let mut orders = Vec::new();
                let broken = loop {
                    match link.take() {
                        Ok(Some(body)) => orders.push(body),
                        Ok(None) => break !open,
                        Err(_) => break true,
                    }
                };
                if broken {
                    self.listen(dir);
                }
                orders
            }
            State::Listening(listener) => {
                if let Ok((stream, _)) = listener.accept() {
                    let mut link = Link::new(OwnedFd::from(stream));
                    link.notify(&Notice::Listing { attempts: vec![listed()], last: true });
                    self.link(link, dir);
                }
                Vec::new()
            }
            State::Closed => Vec::new(),
        }
    }

    fn link(&mut self, mut link: Link, dir: BorrowedFd<'_>) {
        if link.flush(true).is_ok() {
            self.state = State::Linked(link);
        } else {
            self.listen(dir);
        }
    }

    /// Only a monitor whose keeper died needs a socket: made for every attempt, it would cost two of the six files.
    fn listen(&mut self, dir: BorrowedFd<'_>) {
        self.orphaned = true;
        match bind(dir) {
            Ok(listener) => self.state = State::Listening(listener),
            // The directory is gone or full; the attempt goes on by its own clock, and its record tells the rest.
            Err(_) => self.state = State::Closed,
        }
    }

    /// Sends a notice at once. A keeper that is gone is noticed by the next read.
    pub(super) fn tell(&mut self, notice: &Notice) {
        if let State::Linked(link) = &mut self.state {
            link.notify(notice);
            let _ = link.flush(true);
        }
    }

    /// Queues a notice that the next [`tell`](Self::tell) takes along.
    pub(super) fn tell_later(&mut self, notice: &Notice) {
        if let State::Linked(link) = &mut self.state {
            link.notify(notice);
        }
    }

    /// Sends what was queued.
    pub(super) fn flush(&mut self) {
        if let State::Linked(link) = &mut self.state {
            let _ = link.flush(true);
        }
    }

    pub(super) fn refuse(&mut self, name: &str, why: Refusal, message: String) {
        self.tell(&Notice::Refused { name: name.to_owned(), why, message });
    }

    /// The attempt is over; an orphan takes its socket away.
    pub(super) fn close(&mut self, dir: BorrowedFd<'_>) {
        if self.orphaned {
            let _ = rustix::fs::unlinkat(dir, SOCKET, rustix::fs::AtFlags::empty());
        }
    }
}

fn bind(dir: BorrowedFd<'_>) -> io::Result<UnixListener> {
    let _ = rustix::fs::unlinkat(dir, SOCKET, rustix::fs::AtFlags::empty());
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
