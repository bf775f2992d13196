//! Connections that have not said `Hello`: whoever only looks whether somebody listens takes nothing from the agent.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;

use keeper::codec;
use keeper::sys;
use keeper::wire::Request;
use rustix::event::epoll;

use super::Keeper;
use crate::link::Link;

/// Most of them at once; one more takes the place of the oldest. An agent says hello with its first bytes, so there is one at most
/// unless something connects without being one.
const MAX_NEWCOMERS: usize = 4;
/// An agent that has not said hello by now is stuck, and tries again when the line is closed.
const HELLO_NS: u64 = 5_000_000_000;

/// How long connections wait when there was no descriptor for one. An agent waits longer for an answer.
const DEAF_NS: u64 = 1_000_000_000;

/// One connection.
pub(super) struct Newcomer {
    link: Link,
    token: u64,
    deadline_ns: u64,
}

impl Keeper {
    pub(super) fn on_connect(&mut self) {
        loop {
            let stream = match self.listener().accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => return self.be_deaf(&error),
            };
            let token = self.take_token();
            let fd = OwnedFd::from(stream);
            if let Err(error) = self.watch_fd(&fd, token) {
                eprintln!("keeper: a new connection cannot be watched: {error}");
                continue;
            }
            if self.newcomers.len() == MAX_NEWCOMERS {
                self.drop_newcomer(0);
            }
            let deadline_ns = sys::boottime_ns() + HELLO_NS;
            self.newcomers.push(Newcomer { link: Link::new(fd), token, deadline_ns });
        }
    }

    /// A connection waits that cannot be taken, mostly for want of a descriptor: epoll would tell of it without end.
    fn be_deaf(&mut self, error: &io::Error) {
        eprintln!("keeper: a connection cannot be taken: {error}; looking again in a second");
        let _ = epoll::delete(&self.epoll, self.listener());
        self.listening = false;
        self.deaf_until_ns = sys::boottime_ns() + DEAF_NS;
    }

    pub(super) fn on_newcomer(&mut self, at: usize) {
        let newcomer = &mut self.newcomers[at];
        let open = newcomer.link.receive(false);
        match newcomer.link.take().and_then(|body| body.map(|body| codec::decode_request(&body)).transpose()) {
            Ok(Some(Request::Hello { .. })) => {
                let newcomer = self.newcomers.remove(at);
                self.on_new_agent(newcomer.link, newcomer.token);
                return;
            }
            Ok(None) if open => return,
            Ok(None) => {}
            Ok(Some(_)) => eprintln!("keeper: a connection is closed: it did not begin with Hello"),
            Err(error) => eprintln!("keeper: a connection is closed: {error}"),
        }
        self.drop_newcomer(at);
    }

    /// Said to epoll explicitly: a monitor forked this instant may still hold a copy of the descriptor.
    fn drop_newcomer(&mut self, at: usize) {
        let gone = self.newcomers.remove(at);
        let _ = epoll::delete(&self.epoll, gone.link.fd());
    }

    pub(super) fn tick_newcomers(&mut self, now: u64) {
        while self.newcomers.first().is_some_and(|oldest| oldest.deadline_ns <= now) {
            self.drop_newcomer(0);
        }
    }

    pub(super) fn newcomers_wake(&self) -> Option<u64> {
        let deaf = (!self.listening && self.deaf_until_ns > 0).then_some(self.deaf_until_ns);
        self.newcomers.first().map(|newcomer| newcomer.deadline_ns).into_iter().chain(deaf).min()
    }

    pub(super) fn newcomer(&self, token: u64) -> Option<usize> {
        self.newcomers.iter().position(|newcomer| newcomer.token == token)
    }
}
