//! Drives the real keeper over its real socket.
//!
//! A [`Bed`] owns a data directory and everything that runs for it; dropped, it ends what is left: the keeper and its monitors by the
//! pids they themselves name, user processes by the mark their environment carries. Nothing is ever killed by name.
#![allow(dead_code, reason = "each test file uses its part of the kit")]
#![allow(clippy::disallowed_methods, reason = "a bound on waiting, not a lease")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use keeper::codec::{self, FrameReader};
use keeper::identity;
use keeper::lease::LeasePage;
use keeper::record;
use keeper::sys;
use keeper::wire::{End, EndReason, ListedState, Notice, ProcessId, Refusal, Request, Spec, VERSION};

/// Longest wait for an event: generous, because the machine is shared; a test that hits it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A data directory with its keeper.
pub(crate) struct Bed {
    pub(crate) dir: PathBuf,
    failpoint: Option<&'static str>,
    idle_ms: u64,
    pub(crate) lease: LeasePage,
}

/// A name for a bed; unique in this process.
fn fresh_dir() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("keeper-test-{}-{number}", std::process::id()))
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self::at(fresh_dir())
    }

    pub(crate) fn at(dir: PathBuf) -> Self {
        std::fs::create_dir_all(&dir).unwrap();
        let lease = LeasePage::open(&dir).unwrap();
        let bed = Self { dir, failpoint: None, idle_ms: 60_000, lease };
        bed.grant(Duration::from_secs(3600));
        bed
    }

    pub(crate) fn with_failpoint(failpoint: &'static str) -> Self {
        let mut bed = Self::new();
        bed.failpoint = Some(failpoint);
        bed
    }

    pub(crate) fn with_idle_ms(idle_ms: u64) -> Self {
        let mut bed = Self::new();
        bed.idle_ms = idle_ms;
        bed
    }

    /// Publishes a lease that ends in so long.
    pub(crate) fn grant(&self, time: Duration) {
        self.lease.publish(sys::boottime_ns() + time.as_nanos() as u64, 1).unwrap();
    }

    pub(crate) fn exe() -> &'static str {
        env!("CARGO_BIN_EXE_keeper")
    }

    pub(crate) fn command(&self) -> std::process::Command {
        let mut command = std::process::Command::new(Self::exe());
        command.arg("--data").arg(&self.dir).arg("--idle-ms").arg(self.idle_ms.to_string());
        if let Some(failpoint) = self.failpoint {
            command.env("KEEPER_FAILPOINT", failpoint);
        }
        command
    }

    /// Starts a keeper if none runs, without the failpoint from the second on, and says hello.
    pub(crate) fn agent(&mut self) -> Agent {
        loop {
            if let Ok(Ok(stream)) = keeper::launch::connect(&self.dir)
                && let Some(agent) = Agent::greet(stream)
            {
                return agent;
            }
            let status = self.command().arg("--detach").status().unwrap();
            assert!(matches!(status.code(), Some(0 | 75)), "keeper: {status}");
            self.failpoint = None;
        }
    }

    pub(crate) fn attempt(&self, name: &str) -> PathBuf {
        self.dir.join(record::ATTEMPTS).join(name)
    }

    pub(crate) fn out(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.attempt(name).join("out")).unwrap()
    }

    pub(crate) fn record(&self, name: &str) -> record::Record {
        record::read(&self.attempt(name)).unwrap()
    }

    /// Waits for a file that a task makes.
    pub(crate) fn wait_for_file(&self, name: &str, file: &str) -> String {
        let path = self.attempt(name).join("work").join(file);
        until(&format!("{}", path.display()), || {
            std::fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n'))
        })
        .trim()
        .to_owned()
    }

    /// Pids whose environment carries this data directory.
    pub(crate) fn tasks(&self) -> Vec<u32> {
        let mark = format!("TASK_DIR={}/", self.dir.display());
        pids_where(|pid| {
            std::fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|env| env.split(|byte| *byte == 0).any(|entry| entry.starts_with(mark.as_bytes())))
        })
    }

    /// Pids of keeper and monitors of this data directory.
    pub(crate) fn keepers(&self) -> Vec<u32> {
        let dir = self.dir.to_str().unwrap().as_bytes();
        pids_where(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.split(|byte| *byte == 0).skip(1).take(2).eq([b"--data".as_slice(), dir]))
        })
    }

    /// Waits until nothing of any attempt runs.
    pub(crate) fn wait_until_empty(&self) {
        until("no task left", || self.tasks().is_empty().then_some(()));
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let left: Vec<u32> = self.keepers().into_iter().chain(self.tasks()).collect();
            if left.is_empty() {
                break;
            }
            left.into_iter().for_each(kill9);
            std::thread::yield_now();
        }
        // One more keeper settles what was killed and takes its cgroups away.
        let mut last = std::process::Command::new(Self::exe());
        last.arg("--data").arg(&self.dir).args(["--idle-ms", "0"]).stderr(std::process::Stdio::null());
        if self.dir.exists() {
            let _ = last.status();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// SIGKILL.
pub(crate) fn kill9(pid: u32) {
    signal(pid, libc::SIGKILL);
}

pub(crate) fn signal(pid: u32, signal: i32) {
    assert!(pid > 1, "never init, never a group");
    let _ = sys::kill(pid as i32, signal);
}

fn pids_where(fits: impl Fn(u32) -> bool) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| identity::stat(*pid).is_ok_and(|stat| !stat.is_dead()) && fits(*pid))
        .collect()
}

/// Whether a process runs (a zombie does not).
pub(crate) fn runs(pid: u32) -> bool {
    identity::stat(pid).is_ok_and(|stat| !stat.is_dead())
}

/// Looks until it is there: for facts of the system that nobody announces.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

/// The agent's end of the line.
pub(crate) struct Agent {
    stream: UnixStream,
    reader: FrameReader,
    pub(crate) keeper: u32,
    pub(crate) limits: keeper::wire::Limits,
    pub(crate) fencing: keeper::wire::Fencing,
    pub(crate) listing: Vec<keeper::wire::Listed>,
    /// Notices passed over while waiting for another one.
    pub(crate) seen: Vec<Notice>,
}

impl Agent {
    fn greet(stream: UnixStream) -> Option<Self> {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut agent = Self {
            stream,
            reader: FrameReader::default(),
            keeper: 0,
            limits: keeper::wire::Limits::Rlimits,
            fencing: keeper::wire::Fencing::Weak,
            listing: Vec::new(),
            seen: Vec::new(),
        };
        agent.try_send(&Request::Hello { version: VERSION })?;
        let Notice::Welcome { pid, limits, fencing, version } = agent.next()? else { panic!("no welcome first") };
        assert_eq!(version, VERSION);
        (agent.keeper, agent.limits, agent.fencing) = (pid, limits, fencing);
        loop {
            let Notice::Listing { attempts, last } = agent.next()? else { panic!("no listing second") };
            agent.listing.extend(attempts);
            if last {
                return Some(agent);
            }
        }
    }

    fn try_send(&mut self, request: &Request) -> Option<()> {
        self.stream.write_all(&codec::frame(&codec::encode_request(request))).ok()
    }

    pub(crate) fn send(&mut self, request: &Request) {
        self.try_send(request).expect("the keeper is there");
    }

    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn start(&mut self, name: &str, spec: Spec) {
        self.send(&Request::Start { name: name.into(), spec: Box::new(spec) });
    }

    pub(crate) fn stop(&mut self, name: &str, grace_ms: Option<u64>) {
        self.send(&Request::Stop { name: name.into(), reason: EndReason::Cancelled, grace_ms });
    }

    /// The next notice; None when the line is closed.
    pub(crate) fn next(&mut self) -> Option<Notice> {
        loop {
            if let Some(body) = self.reader.take().unwrap() {
                return Some(codec::decode_notice(body).unwrap());
            }
            let mut buffer = [0u8; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.reader.feed(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no notice within {PATIENCE:?}: {error}; seen {:?}", self.seen),
            }
        }
    }

    fn find<T>(&mut self, what: &str, mut fits: impl FnMut(&Notice) -> Option<T>) -> T {
        if let Some((at, found)) = self.seen.iter().enumerate().find_map(|(at, one)| Some((at, fits(one)?))) {
            self.seen.remove(at);
            return found;
        }
        loop {
            let Some(notice) = self.next() else { panic!("line closed, waiting for {what}; seen {:?}", self.seen) };
            if let Some(found) = fits(&notice) {
                return found;
            }
            self.seen.push(notice);
        }
    }

    pub(crate) fn spawned(&mut self, wanted: &str) -> ProcessId {
        self.find(&format!("{wanted} spawned"), |notice| match notice {
            Notice::Spawned { name, process } if name == wanted => Some(process.clone()),
            _ => None,
        })
    }

    pub(crate) fn ended(&mut self, wanted: &str) -> End {
        self.find(&format!("{wanted} ended"), |notice| match notice {
            Notice::Ended { name, end } if name == wanted => Some(end.clone()),
            _ => None,
        })
    }

    pub(crate) fn refused(&mut self, wanted: &str) -> (Refusal, String) {
        self.find(&format!("{wanted} refused"), |notice| match notice {
            Notice::Refused { name, why, message } if name == wanted => Some((*why, message.clone())),
            _ => None,
        })
    }

    pub(crate) fn lost(&mut self, wanted: &str) {
        self.find(&format!("{wanted} lost"), |notice| match notice {
            Notice::Lost { name } if name == wanted => Some(()),
            _ => None,
        });
    }

    pub(crate) fn terminating(&mut self) {
        self.find("terminating", |notice| (*notice == Notice::Terminating).then_some(()));
    }

    pub(crate) fn run(&mut self, name: &str, spec: Spec) -> End {
        self.start(name, spec);
        self.ended(name)
    }

    pub(crate) fn listed(&self, name: &str) -> Option<ListedState> {
        self.listing.iter().find(|listed| listed.name == name).map(|listed| listed.state.clone())
    }

    /// Reads until the line is closed.
    pub(crate) fn wait_closed(&mut self) {
        while let Some(notice) = self.next() {
            self.seen.push(notice);
        }
    }
}

/// `sh -c script`.
pub(crate) fn sh(script: &str) -> Spec {
    Spec {
        argv: vec!["sh".into(), "-c".into(), script.into()],
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        stop_grace_ms: 5_000,
        fence_grace_ms: 5_000,
        ..Spec::default()
    }
}

/// Whether this machine lets us do what needs root; says why a test is skipped.
pub(crate) fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("{test}: skipped, needs root");
    }
    root
}

pub(crate) fn canonical(path: &Path) -> String {
    path.canonicalize().unwrap().to_str().unwrap().to_owned()
}
