//! A monitor: a fork of the keeper that runs one attempt at a time.
//!
//! ```text
//!            Start                     main ends              nothing left
//! idle ───────────────▶ prepare ─▶ run ─────────▶ record end ─▶ sweep ─────▶ report ─▶ idle (own keeper) | exit (adopted, orphan)
//!   └─ keeper gone: exit            └─ keeper gone: listen on ctl.v1, go on
//! ```

mod attempt;
mod contact;
mod sweep;

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;

use keeper::codec;
use keeper::lease::LeasePage;
use keeper::sys;
use keeper::wire::{ProcessId, Refusal, Request};
use rustix::fs::{Mode, OFlags, open};
use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};

use crate::cgroup::Seat;
use crate::link::Link;
use crate::spawn::Stack;
use crate::world::World;

pub(crate) use contact::SOCKET;

use contact::Contact;

/// Signals a monitor is deaf to: it ends with its work, or by KILL. SIGCHLD arrives through a descriptor.
const BLOCKED: [i32; 5] = [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];

/// What a monitor keeps from attempt to attempt.
struct Monitor<'a> {
    world: &'a World,
    seat: Seat,
    me: ProcessId,
    attempts: OwnedFd,
    lease: LeasePage,
    null: OwnedFd,
    signals: OwnedFd,
    timer: OwnedFd,
    stack: Stack,
}

/// Runs in the fork; never returns.
pub(crate) fn run(world: &World, seat: Seat, channel: RawFd) -> ! {
    let code = match serve(world, seat, channel) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("keeper: a monitor cannot work: {error}");
            1
        }
    };
    sys::exit_now(code)
}

fn serve(world: &World, seat: Seat, channel: RawFd) -> io::Result<()> {
    let channel = sys::keep_only(channel)?;
    let mut monitor = Monitor::new(world, seat)?;
    let mut contact = Contact::new(Link::new(channel));
    while let Some(body) = contact.next_order() {
        match codec::decode_request(&body) {
            Ok(Request::Start { name, spec }) => {
                if let Err(refused) = attempt::run(&mut monitor, &mut contact, &name, &spec) {
                    contact.refuse(&name, refused.why, refused.message);
                }
            }
            // A stop that crossed the end it asked for, or an order only the keeper itself knows.
            Ok(_) => {}
            Err(error) => return Err(io::Error::other(error)),
        }
    }
    world.groups.stand_up(&monitor.seat);
    Ok(())
}

/// Nothing was spawned, and nothing is recorded.
struct Refused {
    why: Refusal,
    message: String,
}

impl Refused {
    fn system(what: &str, error: &dyn std::fmt::Display) -> Self {
        Self { why: Refusal::System, message: format!("{what}: {error}") }
    }
}

impl<'a> Monitor<'a> {
    fn new(world: &'a World, mut seat: Seat) -> io::Result<Self> {
        rustix::process::setsid()?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        rustix::thread::set_name(c"monitor")?;
        sys::block_signals(&BLOCKED);
        world.groups.sit(&mut seat);
        let dir = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            world,
            seat,
            me: world.place.identify(std::process::id())?,
            attempts: open(&world.attempts_dir, dir, Mode::empty())?,
            lease: world.lease.in_fork(&world.data_dir)?,
            null: open(Path::new("/dev/null"), OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?,
            signals: sys::signal_fd(&[libc::SIGCHLD])?,
            timer: timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?,
            stack: Stack::new(),
        })
    }
}
