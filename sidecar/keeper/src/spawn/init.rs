//! The init of a `stop` attempt's pid namespace.
//!
//! ```text
//! monitor ──clone NEWPID|NEWNS──▶ init ──clone VM|VFORK──▶ main process ──▶ …
//!    └────── one socketpair: started, ended ◀── / ──▶ signals ──────┘
//! ```
//!
//! Init dies with the monitor, and with init dies everything in the namespace: that is the whole fence. It is the parent of the
//! main process, so it delivers the stop signals (nobody else could be sure whose pid it is) and reports the end.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use keeper::sys::{self, Reaped, Waited};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

use super::{Failure, Plan, Stack, Step, spawn_in};

const NAMESPACES: c_int = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::SIGCHLD;

/// A started namespace.
pub(crate) struct Init {
    /// Init's pid: the monitor's child.
    pub(crate) pid: u32,
    /// The main process as the monitor sees it; 0 if `/proc` would not tell.
    pub(crate) main: u32,
    socket: OwnedFd,
}

struct Birth<'a> {
    plan: &'a Plan,
    socket: RawFd,
}

/// Whether this process may make pid namespaces; tried once, when the keeper starts.
pub(crate) fn is_possible() -> bool {
    extern "C" fn nothing(_: *mut c_void) -> c_int {
        0
    }
    let mut stack = Stack::new();
    // SAFETY: without CLONE_VM the child has a copy of everything, and does nothing.
    let Ok(pid) = (unsafe { sys::clone_on(&mut stack.0, NAMESPACES, nothing, &mut ()) }) else { return false };
    while let Reaped::Child(child) = sys::wait_any(true) {
        if child.pid == pid {
            break;
        }
    }
    true
}

/// Starts the namespace and the main process in it.
pub(crate) fn start(plan: &Plan, stack: &mut Stack) -> Result<Init, Failure> {
    let failed = |source: io::Error| Failure { step: Step::Init, source };
    // Packets, so that a report is whole or absent.
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (ours, theirs) = pair.map_err(|errno| failed(errno.into()))?;
    let mut birth = Birth { plan, socket: theirs.as_raw_fd() };
    // SAFETY: without CLONE_VM the child runs on copies.
    let result = unsafe { sys::clone_on(&mut stack.0, NAMESPACES, run, &mut birth) };
    let pid = result.map_err(|source| Failure { step: Step::Clone, source })?;
    drop(theirs);
    let mut report = [0u8; 9];
    let count = recv(&ours, &mut report[..], RecvFlags::empty()).map_or(0, |(count, _)| count);
    if count != report.len() {
        return Err(failed(io::Error::other("it ended without a report")));
    }
    let word = |at: usize| u32::from_le_bytes([report[at], report[at + 1], report[at + 2], report[at + 3]]);
    if report[0] != 0 {
        let source = io::Error::from_raw_os_error(word(1) as i32);
        return Err(Failure { step: Step::from_byte(report[0]), source });
    }
    Ok(Init { pid, main: word(5), socket: ours })
}

impl Init {
    /// Has the main process, or its group, signalled.
    pub(crate) fn signal(&self, signal: c_int, group: bool) {
        let order = [signal as u8, u8::from(group)];
        // An init that is gone needs no signal.
        let _ = send(&self.socket, &order, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    }

    /// How the main process ended, once init is reaped; an init that was killed took it along.
    pub(crate) fn ended(&self, init: Waited) -> Waited {
        let mut report = [0u8; 33];
        match recv(&self.socket, &mut report[..], RecvFlags::DONTWAIT) {
            Ok((33, _)) => decode(&report),
            _ => init,
        }
    }
}

fn encode(waited: &Waited) -> [u8; 33] {
    let mut report = [0u8; 33];
    report[0] = u8::from(waited.signal.is_some());
    let status = waited.signal.or(waited.code).unwrap_or(0);
    report[1..9].copy_from_slice(&i64::from(status).to_le_bytes());
    report[9..17].copy_from_slice(&waited.user_us.to_le_bytes());
    report[17..25].copy_from_slice(&waited.system_us.to_le_bytes());
    report[25..33].copy_from_slice(&waited.max_rss_bytes.to_le_bytes());
    report
}

fn decode(report: &[u8; 33]) -> Waited {
    let word = |at: usize| {
        let mut bytes = [0u8; 8];
        bytes.copy_from_slice(&report[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let status = word(1) as i32;
    let (code, signal) = if report[0] == 0 { (Some(status), None) } else { (None, Some(status)) };
    Waited { pid: 0, code, signal, user_us: word(9), system_us: word(17), max_rss_bytes: word(25) }
}

extern "C" fn run(birth: *mut c_void) -> c_int {
    // SAFETY: our copy of the monitor's `Birth`.
    let birth = unsafe { &*birth.cast::<Birth<'_>>() };
    // SAFETY: prctl on integers; the mount call gets constants.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        let flags = libc::MS_REC | libc::MS_SLAVE;
        libc::mount(std::ptr::null(), c"/".as_ptr(), std::ptr::null(), flags, std::ptr::null());
    }
    let mut kept = birth.plan.groups.clone();
    kept.extend_from_slice(&birth.plan.files);
    kept.push(birth.socket);
    close_all_but(&mut kept);
    let Some(socket) = sys::adopt_fd(birth.socket) else { return 1 };
    let mut stack = Stack::new();
    let (main, report) = match spawn_in(birth.plan, &mut stack, true) {
        Ok((pid, outer)) => (pid, report_of(0, 0, outer)),
        Err(failure) => (0, report_of(failure.step as u8, failure.source.raw_os_error().unwrap_or(0), 0)),
    };
    // A monitor that died before the death signal was set is noticed here, at the latest in the loop below.
    if send(&socket, &report, SendFlags::NOSIGNAL).is_err() || main == 0 {
        return 1;
    }
    let mut only = [socket.as_raw_fd()];
    close_all_but(&mut only);
    attend(&socket, main);
    0
}

fn report_of(step: u8, errno: i32, outer: u32) -> [u8; 9] {
    let mut report = [step; 9];
    report[1..5].copy_from_slice(&errno.to_le_bytes());
    report[5..9].copy_from_slice(&outer.to_le_bytes());
    report
}

/// Above all the record must not stay open here: its lock would outlive the monitor.
fn close_all_but(kept: &mut [RawFd]) {
    kept.sort_unstable();
    let mut from = 0;
    for fd in kept.iter().copied().chain([RawFd::MAX]) {
        if from < fd {
            // SAFETY: this process owns nothing above that it will ever use or drop.
            unsafe { libc::syscall(libc::SYS_close_range, from, fd - 1, 0) };
        }
        from = fd.saturating_add(1);
    }
}

/// Until the main process ends or the monitor is gone; returning ends the namespace.
fn attend(socket: &OwnedFd, main: u32) {
    let Ok(signals) = sys::signal_fd(&[libc::SIGCHLD]) else { return };
    loop {
        while let Reaped::Child(child) = sys::wait_any(false) {
            if child.pid == main {
                let _ = send(socket, &encode(&child), SendFlags::NOSIGNAL);
                return;
            }
        }
        let mut fds = [PollFd::new(&signals, PollFlags::IN), PollFd::new(socket, PollFlags::IN)];
        if poll(&mut fds, None).is_err() {
            continue;
        }
        let ordered = !fds[1].revents().is_empty();
        sys::read_signals(signals.as_fd());
        if ordered {
            let mut order = [0u8; 2];
            match recv(socket, &mut order[..], RecvFlags::DONTWAIT) {
                Ok((2, _)) => {
                    let target = if order[1] == 1 { -(main as i32) } else { main as i32 };
                    let _ = sys::kill(target, i32::from(order[0]));
                }
                Ok((0, _)) => return,
                _ => {}
            }
        }
    }
}
