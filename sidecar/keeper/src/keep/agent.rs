//! The agent's connection: one counts at a time, a newer one replaces it when it has said `Hello`.

use std::os::fd::OwnedFd;

use keeper::codec;
use keeper::record;
use keeper::sys;
use keeper::wire::{Listed, MAX_WARM, Notice, Refusal, Request, Spec, VERSION};
use rustix::event::epoll;

use super::{Keeper, Leaving};
use crate::link::Link;

/// Unsent bytes at which an agent that does not read is dropped; it reconnects and gets a listing, so nothing is lost. A listing of
/// ten thousand ended attempts takes about two thirds of it.
const MAX_BACKLOG_BYTES: usize = 4 << 20;
/// Entries per chunk of a listing.
const CHUNK: usize = 256;

/// The connected agent: one that has said `Hello`.
pub(super) struct Agent {
    pub(super) link: Link,
    pub(super) token: u64,
    writes: bool,
}

impl Agent {
    /// Sends what is queued. False: it is gone, or does not read.
    pub(super) fn flush(&mut self, epoll: &OwnedFd) -> bool {
        if self.link.backlog() == 0 {
            return true;
        }
        if self.link.flush(false).is_err() || self.link.backlog() > MAX_BACKLOG_BYTES {
            return false;
        }
        let full = self.link.backlog() > 0;
        if full != self.writes {
            self.writes = full;
            let flags = if full { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
            let _ = epoll::modify(epoll, self.link.fd(), epoll::EventData::new_u64(self.token), flags);
        }
        true
    }
}

impl Keeper {
    pub(super) fn drop_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            let _ = epoll::delete(&self.epoll, agent.link.fd());
        }
    }

    pub(super) fn on_agent(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        let open = agent.link.receive(false);
        self.take_requests();
        if !open {
            self.drop_agent();
        }
    }

    /// Does what the agent has asked for so far.
    fn take_requests(&mut self) {
        while let Some(agent) = &mut self.agent {
            let request = match agent.link.take() {
                Ok(Some(body)) => codec::decode_request(&body).map(|request| (request, body)),
                Ok(None) => return,
                Err(error) => Err(error),
            };
            match request {
                Ok((request, body)) => self.on_request(request, &body),
                Err(error) => {
                    eprintln!("keeper: the agent's connection is closed: {error}");
                    self.drop_agent();
                }
            }
        }
    }

    /// A newcomer has said hello: it is the agent from now on.
    pub(super) fn on_new_agent(&mut self, link: Link, token: u64) {
        self.drop_agent();
        self.agent = Some(Agent { link, token, writes: false });
        self.on_hello();
        self.take_requests();
    }

    fn on_request(&mut self, request: Request, body: &[u8]) {
        match request {
            Request::Hello { .. } => self.on_hello(),
            Request::Start { name, spec } => {
                if let Err((why, message)) = self.on_start(&name, &spec, body) {
                    self.tell(&Notice::Refused { name, why, message });
                }
            }
            Request::Stop { .. } => self.pass_on(&request),
            Request::Warm { monitors } => self.warm = monitors.min(MAX_WARM),
            Request::Upgrade { exe } => self.upgrade(&exe),
            Request::Shutdown { stop_tasks } => {
                self.leaving = self.leaving.max(Leaving::Ordered);
                if stop_tasks {
                    self.stop_all(None);
                }
            }
        }
    }

    fn on_hello(&mut self) {
        if self.leaving == Leaving::Ordered {
            self.leaving = Leaving::No;
        }
        let welcome = Notice::Welcome {
            version: VERSION,
            pid: std::process::id(),
            fencing: self.world.fencing,
            limits: self.world.groups.limits(),
        };
        let listed = self.listed();
        let terminating = self.leaving == Leaving::Terminating;
        let Some(agent) = &mut self.agent else { return };
        agent.link.notify(&welcome);
        let chunks = listed.len().div_ceil(CHUNK).max(1);
        for at in 0..chunks {
            let attempts = listed.iter().skip(at * CHUNK).take(CHUNK).cloned().collect();
            agent.link.notify(&Notice::Listing { attempts, last: at + 1 == chunks });
        }
        if terminating {
            agent.link.notify(&Notice::Terminating);
        }
    }

    /// What runs, as the keeper knows it; what has ended, as the records tell.
    fn listed(&self) -> Vec<Listed> {
        let mut listed = Vec::new();
        for (name, attempt) in &self.attempts {
            listed.push(Listed { name: name.clone(), state: attempt.state.clone() });
        }
        for name in self.attempts_on_disk() {
            if self.attempts.contains_key(&name) {
                continue;
            }
            match record::read(&self.attempt_dir(&name)) {
                Ok(record) if record.is_final() => listed.push(Listed { name, state: record.state() }),
                // Being purged, or being made: neither is a fact yet.
                Ok(_) => {}
                Err(error) => eprintln!("keeper: {error}"),
            }
        }
        listed
    }

    fn on_start(&mut self, name: &str, spec: &Spec, body: &[u8]) -> Result<(), (Refusal, String)> {
        check(name, spec).map_err(|message| (Refusal::Invalid, message))?;
        if self.leaving != Leaving::No || self.vanished {
            return Err((Refusal::Terminating, "the keeper is terminating".to_owned()));
        }
        if self.attempts.contains_key(name) {
            return Err((Refusal::Exists, format!("attempts/{name} exists")));
        }
        self.started_ns = sys::boottime_ns();
        self.start(name.to_owned(), spec, body)
    }
}

fn check(name: &str, spec: &Spec) -> Result<(), String> {
    if !record::is_name(name) {
        return Err(format!("{name:?} is no attempt's name"));
    }
    if spec.argv.first().is_none_or(String::is_empty) {
        return Err("argv names no program".to_owned());
    }
    let texts = spec.argv.iter().chain([&spec.cwd]).chain(spec.env.iter().flat_map(|(key, value)| [key, value]));
    if texts.into_iter().any(|text| text.contains('\0')) {
        return Err("argv, env or cwd holds a NUL byte".to_owned());
    }
    if let Some((key, _)) = spec.env.iter().find(|(key, _)| key.is_empty() || key.contains('=')) {
        return Err(format!("{key:?} is no environment variable's name"));
    }
    let is_file = |name: &str| !matches!(name, "" | "." | "..") && !name.contains(['/', '\0']);
    if let Some(file) = spec.files.iter().find(|file| !is_file(&file.name)) {
        return Err(format!("{:?} is no file's name", file.name));
    }
    if !(0..=64).contains(&spec.stop_signal) {
        return Err(format!("{} is no signal", spec.stop_signal));
    }
    Ok(())
}
