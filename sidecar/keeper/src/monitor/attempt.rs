//! One attempt, from its directory to its report.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use keeper::codec;
use keeper::record::{self, Holder, Writer};
use keeper::sys::{self, Reaped, Waited};
use keeper::wire::{
    End, EndReason, Fencing, Limits, Listed, ListedState, Notice, ProcessId, Refusal, Request, Spec, StopTarget,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, mkdirat, openat, renameat_with, statat};
use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};

use super::contact::Contact;
use super::{Monitor, Refused, sweep};
use crate::cgroup::LimitGroup;
use crate::failpoint::reach;
use crate::life::{Act, Life, obeys_lease};
use crate::logs::Logs;
use crate::spawn::init::Init;
use crate::spawn::{self, Failure, Plan};

/// How long the report of a spawn waits for company: a process that ends within this time costs one wake-up of keeper and agent
/// instead of two, and nobody sees a start two milliseconds late.
const SPAWN_REPORT_DELAY: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };

/// An attempt's directory and what is open in it.
struct Attempt<'a> {
    name: &'a str,
    spec: &'a Spec,
    dir: OwnedFd,
    record: Writer,
    limits: Option<LimitGroup>,
}

/// The process of an attempt.
struct Process {
    /// The monitor's own child: the main process, or the init above it.
    child: u32,
    main: ProcessId,
    init: Option<Init>,
    logs: Logs,
    life: Life,
    started_ns: u64,
}

/// Runs an attempt to its report.
pub(super) fn run(monitor: &mut Monitor<'_>, contact: &mut Contact, name: &str, spec: &Spec) -> Result<(), Refused> {
    let attempt = prepare(monitor, name, spec)?;
    reach("after-spec");
    // What the last attempt left pending would cut the first wait of this one short.
    sys::read_signals(monitor.signals.as_fd());
    let end = match start(monitor, &attempt) {
        Ok(process) => supervise(monitor, contact, &attempt, process),
        Err(message) => fail(&attempt, message),
    };
    contact.close(attempt.dir.as_fd());
    // The record is released before the report, so that whoever hears of the end finds it unlocked.
    drop(attempt);
    contact.tell(&Notice::Ended { name: name.to_owned(), end });
    Ok(())
}

/// Everything up to the record: until it exists, a failure leaves nothing behind and is a refusal.
fn prepare<'a>(monitor: &Monitor<'_>, name: &'a str, spec: &'a Spec) -> Result<Attempt<'a>, Refused> {
    let world = monitor.world;
    if !spec.without_lease && !monitor.lease.is_live(sys::boottime_ns()) {
        let exists = statat(&monitor.attempts, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        return Err(if exists { exists_already(name) } else { no_lease() });
    }
    let limits = world.groups.limit(&monitor.seat, spec).map_err(|error| Refused::system("limits", &error))?;
    match make_dir(monitor, name, spec) {
        Ok(()) => {}
        Err(rustix::io::Errno::EXIST) => return Err(exists_already(name)),
        Err(errno) => return Err(Refused::system(&format!("mkdir attempts/{name}"), &errno)),
    }
    reach("after-mkdir");
    let cgroup = monitor.seat.dir.as_ref().map(|dir| dir.to_string_lossy().into_owned()).unwrap_or_default();
    let holder = Holder { monitor: monitor.me.clone(), cgroup };
    let opened = open_record(monitor, name, &holder, spec);
    let (dir, record) = opened.map_err(|error| {
        // A record that exists is a keeper's, which took us for dead; else the failure leaves nothing behind.
        if error.kind() != io::ErrorKind::AlreadyExists {
            let _ = std::fs::remove_dir_all(world.attempts_dir.join(name));
        }
        Refused::system(&format!("attempts/{name}/record"), &error)
    })?;
    Ok(Attempt { name, spec, dir, record, limits })
}

/// Makes the attempt's directory, exclusively; a prepared one is moved, which is as exclusive.
fn make_dir(monitor: &Monitor<'_>, name: &str, spec: &Spec) -> rustix::io::Result<()> {
    if !spec.prepared {
        return mkdirat(&monitor.attempts, name, Mode::RWXU);
    }
    let prepared = monitor.world.data_dir.join(record::PREPARED).join(name);
    match renameat_with(CWD, &prepared, &monitor.attempts, name, RenameFlags::NOREPLACE) {
        // A repeated order: the first one took it.
        Err(rustix::io::Errno::NOENT) if statat(&monitor.attempts, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() => {
            Err(rustix::io::Errno::EXIST)
        }
        other => other,
    }
}

fn open_record(monitor: &Monitor<'_>, name: &str, holder: &Holder, spec: &Spec) -> io::Result<(OwnedFd, Writer)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = openat(&monitor.attempts, name, flags, Mode::empty())?;
    let record = Writer::create(dir.as_fd(), holder, &codec::encode_spec(spec))?;
    Ok((dir, record))
}

fn exists_already(name: &str) -> Refused {
    Refused { why: Refusal::Exists, message: format!("attempts/{name} exists") }
}

fn no_lease() -> Refused {
    Refused { why: Refusal::NoLease, message: "no live lease is published".to_owned() }
}

/// Spawns. The error is the message of the end.
fn start(monitor: &mut Monitor<'_>, attempt: &Attempt<'_>) -> Result<Process, String> {
    let spec = attempt.spec;
    write_files(attempt.dir.as_fd(), spec)?;
    let logs = Logs::create(attempt.dir.as_fd(), spec, sys::boottime_ns())
        .map_err(|error| format!("open out and err: {error}"))?;
    let work = monitor.world.attempts_dir.join(attempt.name).join("work");
    let work = work.to_string_lossy();
    let mut plan = Plan::new(spec, &work, monitor.world.open_files).map_err(|error| error.to_string())?;
    let (out, err) = logs.fds();
    plan.files = [monitor.null.as_raw_fd(), out, err];
    plan.groups = attempt.limits.iter().flat_map(|group| &group.procs).map(AsRawFd::as_raw_fd).collect();
    if monitor.world.groups.limits() == Limits::Rlimits && spec.memory_limit_bytes > 0 {
        plan.address_space = Some(spec.memory_limit_bytes);
    }
    let describe = |failure: Failure| failure.describe(&plan);
    let fenced = obeys_lease(spec);
    let now = sys::boottime_ns();
    let (child, main, init) = if fenced && monitor.world.fencing == Fencing::Strong {
        let init = spawn::init::start(&plan, &mut monitor.stack).map_err(describe)?;
        let main = if init.main == 0 { init.pid } else { init.main };
        (init.pid, main, Some(init))
    } else {
        plan.dies_with_parent = fenced;
        let describe = |failure: Failure| failure.describe(&plan);
        let pid = spawn::spawn(&plan, &mut monitor.stack).map_err(describe)?;
        (pid, pid, None)
    };
    reach("after-spawn");
    record_spawn(monitor, attempt, child, main, now).map(|main| Process {
        child,
        main,
        init,
        logs,
        life: Life::new(spec, now),
        started_ns: now,
    })
}

/// The process exists: it is recorded before anything else happens, or ended again.
fn record_spawn(
    monitor: &Monitor<'_>,
    attempt: &Attempt<'_>,
    child: u32,
    main: u32,
    before: u64,
) -> Result<ProcessId, String> {
    let place = &monitor.world.place;
    let recorded = (|| {
        // In a namespace the main process may have ended already, and init with it; its identity is then that of init, a zombie.
        let init = (child != main).then(|| place.identify(child)).transpose()?;
        let process = match &init {
            None => place.identify_child(main, before, sys::boottime_ns())?,
            Some(init) => place.identify(main).unwrap_or_else(|_| init.clone()),
        };
        attempt.record.spawned(&process, init.as_ref())?;
        Ok::<_, io::Error>(process)
    })();
    reach("after-spawned");
    recorded.map_err(|error| {
        sweep::sweep(monitor);
        format!("attempts/{}/record: {error}", attempt.name)
    })
}

fn write_files(dir: BorrowedFd<'_>, spec: &Spec) -> Result<(), String> {
    match mkdirat(dir, "work", Mode::RWXU) {
        Err(rustix::io::Errno::EXIST) if spec.prepared => {}
        made => made.map_err(|errno| format!("mkdir work: {errno}"))?,
    }
    for file in &spec.files {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let path = format!("work/{}", file.name);
        let written = openat(dir, &path, flags, Mode::from_raw_mode(file.mode & 0o777))
            .map_err(io::Error::from)
            .and_then(|fd| io::Write::write_all(&mut std::fs::File::from(fd), &file.content));
        written.map_err(|error| format!("write {path}: {error}"))?;
    }
    Ok(())
}

/// Nothing runs: the end is recorded as such.
fn fail(attempt: &Attempt<'_>, message: String) -> End {
    // A child that failed before its exec is still to be reaped.
    sweep::is_clean();
    let end = End { reason: EndReason::SpawnFailed, message, ended_wall_ms: sys::wall_ms(), ..End::default() };
    report_unwritten(attempt, attempt.record.exit(&end, true));
    reach("after-exit");
    end
}

fn report_unwritten(attempt: &Attempt<'_>, result: io::Result<()>) {
    if let Err(error) = result {
        eprintln!("keeper: attempts/{}/{}: {error}", attempt.name, record::FILE);
    }
}

fn supervise(monitor: &Monitor<'_>, contact: &mut Contact, attempt: &Attempt<'_>, mut process: Process) -> End {
    contact.tell_later(&Notice::Spawned { name: attempt.name.to_owned(), process: process.main.clone() });
    let waited = wait(monitor, contact, attempt, &mut process);
    let clean = sweep::is_clean();
    reach("after-wait");
    let mut end = process.end(attempt, &waited);
    report_unwritten(attempt, attempt.record.exit(&end, clean));
    reach("after-exit");
    if !clean {
        // What is told to go on must know that the process is gone, however long the sweep takes.
        contact.flush();
        sweep::sweep(monitor);
        end = process.end(attempt, &waited);
        reach("after-sweep");
        report_unwritten(attempt, attempt.record.swept(&end));
    } else {
        reach("after-sweep");
    }
    end
}

/// Until the main process has ended.
fn wait(monitor: &Monitor<'_>, contact: &mut Contact, attempt: &Attempt<'_>, process: &mut Process) -> Waited {
    let mut ready = Ready::wait(monitor, contact, Some(&SPAWN_REPORT_DELAY));
    loop {
        if ready.child {
            sys::read_signals(monitor.signals.as_fd());
        }
        while let Reaped::Child(waited) = sys::wait_any(false) {
            if waited.pid == process.child {
                return process.init.as_ref().map_or(waited, |init| init.ended(waited));
            }
        }
        // Whatever it was that woke us, the main process runs on: its start is told now.
        contact.flush();
        if ready.contact {
            let listed = || Listed { name: attempt.name.to_owned(), state: ListedState::Running(process.main.clone()) };
            for body in contact.on_readable(attempt.dir.as_fd(), listed) {
                if let Ok(Request::Stop { name, reason, grace_ms }) = codec::decode_request(&body)
                    && name == attempt.name
                {
                    let act = process.life.stop(reason, grace_ms, sys::boottime_ns());
                    process.act(act, attempt.spec);
                }
            }
        }
        process.tick(monitor, attempt);
        ready = Ready::wait(monitor, contact, None);
    }
}

/// What woke the monitor.
struct Ready {
    child: bool,
    contact: bool,
}

impl Ready {
    fn wait(monitor: &Monitor<'_>, contact: &Contact, timeout: Option<&Timespec>) -> Self {
        let mut fds = vec![PollFd::new(&monitor.signals, PollFlags::IN), PollFd::new(&monitor.timer, PollFlags::IN)];
        let line = contact.fd();
        fds.extend(line.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        if poll(&mut fds, timeout).is_err() {
            return Self { child: true, contact: false };
        }
        if !fds[1].revents().is_empty() {
            let _ = rustix::io::read(&monitor.timer, &mut [0u8; 8]);
        }
        Self { child: !fds[0].revents().is_empty(), contact: fds.get(2).is_some_and(|fd| !fd.revents().is_empty()) }
    }
}

impl Process {
    /// Does what is due and sets the timer for what is next.
    fn tick(&mut self, monitor: &Monitor<'_>, attempt: &Attempt<'_>) {
        let now = sys::boottime_ns();
        let (lease, doubtful) = monitor.lease.deadline_and_doubt();
        self.life.doubt(doubtful);
        let act = self.life.due(now, lease);
        self.act(act, attempt.spec);
        if now >= self.logs.look_at && self.logs.look(now) {
            report_unwritten(attempt, attempt.record.trimmed(self.logs.bases()));
        }
        let wake = self.life.wake(lease).map_or(self.logs.look_at, |at| at.min(self.logs.look_at)).max(1);
        let at = Timespec { tv_sec: (wake / 1_000_000_000) as i64, tv_nsec: (wake % 1_000_000_000) as i64 };
        let timer = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at };
        // It fails only for values no boottime can have.
        let _ = timerfd_settime(&monitor.timer, TimerfdTimerFlags::ABSTIME, &timer);
    }

    fn act(&self, act: Option<Act>, spec: &Spec) {
        match act {
            None => {}
            Some(Act::Signal) => {
                let signal = if spec.stop_signal == 0 { libc::SIGTERM } else { spec.stop_signal };
                self.signal(signal, spec.stop_target == StopTarget::Group);
            }
            Some(Act::Kill) => {
                // Init takes the whole namespace along. Without one the group goes too; the sweep ends what left it.
                let _ = sys::kill(self.child as i32, libc::SIGKILL);
                if self.init.is_none() {
                    let _ = sys::kill(-(self.child as i32), libc::SIGKILL);
                }
            }
        }
    }

    fn signal(&self, signal: i32, group: bool) {
        let child = self.child as i32;
        match &self.init {
            Some(init) => init.signal(signal, group),
            // A main process may have left the group it was started in.
            None if group && sys::kill(-child, signal).is_ok() => {}
            None => {
                let _ = sys::kill(child, signal);
            }
        }
    }

    fn end(&mut self, attempt: &Attempt<'_>, waited: &Waited) -> End {
        let now = sys::boottime_ns();
        self.logs.look(now);
        let ((out_bytes, err_bytes), (out_base, err_base)) = (self.logs.bytes(), self.logs.bases());
        End {
            code: waited.code,
            signal: waited.signal,
            reason: self.life.reason().unwrap_or(EndReason::Exited),
            oom: attempt.limits.as_ref().is_some_and(LimitGroup::had_oom),
            user_us: waited.user_us,
            system_us: waited.system_us,
            max_rss_bytes: waited.max_rss_bytes,
            out_bytes,
            err_bytes,
            out_base,
            err_base,
            truncated: self.logs.truncated,
            started_wall_ms: self.main.wall_ms,
            ended_wall_ms: sys::wall_ms(),
            ran_ms: (now - self.started_ns) / 1_000_000,
            message: String::new(),
        }
    }
}
