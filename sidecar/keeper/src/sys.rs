//! The system calls that rustix does not offer safely: one corner for the crate's `unsafe`, each call wrapped so that nothing
//! outside has to reason about it.
#![allow(
    unsafe_code,
    reason = "fork, clone, OFD locks, signalfd and wait4 have no safe wrapper without new dependencies"
)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Nanoseconds of `CLOCK_BOOTTIME`: goes on while the machine sleeps, never set back.
pub fn boottime_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Milliseconds of `CLOCK_REALTIME`, for people only.
pub fn wall_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    now.tv_sec as u64 * 1_000 + now.tv_nsec as u64 / 1_000_000
}

fn checked(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn whole_file_lock() -> libc::flock {
    // SAFETY: `flock` is plain integers, for which zero is a value; l_pid must be 0 for OFD locks.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as _;
    lock.l_whence = libc::SEEK_SET as _;
    lock
}

/// Takes the exclusive open-file-description lock of a file; it lives as long as the description, whoever else dies.
///
/// # Errors
/// `WouldBlock` if `wait` is false and another description holds it; else what fcntl says.
pub fn lock(file: BorrowedFd<'_>, wait: bool) -> io::Result<()> {
    let lock = whole_file_lock();
    let command = if wait { libc::F_OFD_SETLKW } else { libc::F_OFD_SETLK };
    // SAFETY: the descriptor is borrowed for the call and the lock is a live, initialised value.
    checked(unsafe { libc::fcntl(file.as_raw_fd(), command, &raw const lock) }).map(drop)
}

/// Whether another description holds the lock of a file; asking takes nothing, so it never disturbs the one who is about to lock.
///
/// # Errors
/// What fcntl says.
pub fn is_locked(file: BorrowedFd<'_>) -> io::Result<bool> {
    let mut lock = whole_file_lock();
    // SAFETY: the descriptor is borrowed for the call and the kernel writes into a live, initialised value.
    checked(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) })?;
    Ok(c_int::from(lock.l_type) != libc::F_UNLCK)
}

/// Forks. The child has the one calling thread.
///
/// # Errors
/// What fork says.
pub fn fork() -> io::Result<Option<u32>> {
    // SAFETY: keeper and monitors are single-threaded, so the child may go on using the heap.
    match checked(unsafe { libc::fork() })? {
        0 => Ok(None),
        pid => Ok(Some(pid as u32)),
    }
}

/// Moves a descriptor to number 3 and closes all above: the first act of a forked monitor.
///
/// # Errors
/// What dup3 says.
pub fn keep_only(channel: RawFd) -> io::Result<OwnedFd> {
    const KEPT: RawFd = 3;
    if channel != KEPT {
        // SAFETY: in a fresh fork nothing else uses descriptor 3 any more; the owner of its old meaning lives in the parent.
        checked(unsafe { libc::dup3(channel, KEPT, libc::O_CLOEXEC) })?;
    }
    close_from(KEPT + 1);
    // SAFETY: descriptor 3 is open and, after the line above, owned by nobody else in this process that will ever run its drop.
    Ok(unsafe { OwnedFd::from_raw_fd(KEPT) })
}

/// Closes every descriptor from `first` on.
pub fn close_from(first: RawFd) {
    // SAFETY: called in a fresh fork only, whose inherited owners are never dropped.
    unsafe { libc::syscall(libc::SYS_close_range, first, c_int::MAX, 0) };
}

/// Adopts a descriptor number that a predecessor of this process image left open.
pub fn adopt_fd(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_GETFD only reads; an unopened number gives an error.
    checked(unsafe { libc::fcntl(fd, libc::F_GETFD) }).ok()?;
    // SAFETY: the number is open, and the caller got it from its predecessor, which no longer runs.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Blocks signals, so that they arrive through [`signal_fd`] or not at all.
pub fn block_signals(signals: &[c_int]) {
    let set = signal_set(signals);
    // SAFETY: the set is initialised and the old mask is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) };
}

fn signal_set(signals: &[c_int]) -> libc::sigset_t {
    // SAFETY: sigset_t is plain data, initialised by sigemptyset before use.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        set
    }
}

/// Gives every signal its default action, except SIGPIPE, which stays ignored here: an agent started under `nohup` must not make
/// its tasks deaf.
pub fn default_signals() {
    for signal in 1..=64 {
        if !matches!(signal, libc::SIGKILL | libc::SIGSTOP | libc::SIGPIPE | 32 | 33) {
            // SAFETY: SIG_DFL installs no code.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}

/// A descriptor that becomes readable when one of the signals is pending.
///
/// # Errors
/// What signalfd says.
pub fn signal_fd(signals: &[c_int]) -> io::Result<OwnedFd> {
    let set = signal_set(signals);
    // SAFETY: the set is initialised; the new descriptor is owned by nobody else.
    unsafe {
        let fd = checked(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Reads the pending signal numbers of a [`signal_fd`].
pub fn read_signals(fd: BorrowedFd<'_>) -> Vec<c_int> {
    const INFO: usize = size_of::<libc::signalfd_siginfo>();
    let mut buffer = [0u8; INFO * 4];
    let mut signals = Vec::new();
    while let Ok(count) = rustix::io::read(fd, &mut buffer) {
        for info in buffer[..count].as_chunks::<INFO>().0 {
            // `ssi_signo` is the first field.
            signals.push(i32::from_ne_bytes([info[0], info[1], info[2], info[3]]));
        }
        if count < buffer.len() {
            break;
        }
    }
    signals
}

/// A reaped child.
#[derive(Debug, Clone, Copy, Default)]
pub struct Waited {
    /// Its process id.
    pub pid: u32,
    /// Exit code, if it exited.
    pub code: Option<i32>,
    /// Signal, if one ended it.
    pub signal: Option<i32>,
    /// User CPU time of it and what it waited for, microseconds.
    pub user_us: u64,
    /// System CPU time, microseconds.
    pub system_us: u64,
    /// Largest resident set, bytes.
    pub max_rss_bytes: u64,
}

/// What [`wait_any`] found.
#[derive(Debug, Clone, Copy)]
pub enum Reaped {
    /// A child ended.
    Child(Waited),
    /// Children exist, none has ended.
    Pending,
    /// There is no child, hence for a subreaper no descendant.
    None,
}

/// Reaps any one child.
pub fn wait_any(block: bool) -> Reaped {
    let mut status = 0;
    loop {
        // SAFETY: rusage is plain integers; both out-parameters live across the call.
        let (pid, usage) = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            let pid = libc::wait4(-1, &raw mut status, if block { 0 } else { libc::WNOHANG }, &raw mut usage);
            (pid, usage)
        };
        if pid < 0 && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
            continue;
        }
        return match pid {
            0 => Reaped::Pending,
            1.. => Reaped::Child(waited(pid as u32, status, &usage)),
            _ => Reaped::None,
        };
    }
}

fn waited(pid: u32, status: c_int, usage: &libc::rusage) -> Waited {
    let micros = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    Waited {
        pid,
        code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
        signal: libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)),
        user_us: micros(usage.ru_utime),
        system_us: micros(usage.ru_stime),
        max_rss_bytes: usage.ru_maxrss as u64 * 1024,
    }
}

/// Signals a process or, negative, a group; errors are for the caller to ignore where the target may be gone.
///
/// # Errors
/// What kill says.
pub fn kill(pid: i32, signal: c_int) -> io::Result<()> {
    // SAFETY: kill touches no memory.
    checked(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Runs `child` in a clone on a stack of its own and returns the clone's pid. With `CLONE_VM` in the flags the clone must have
/// `CLONE_VFORK` too.
///
/// # Errors
/// What clone says.
///
/// # Safety
/// With `CLONE_VM` the child may only make async-signal-safe calls and write to memory the parent reads after the call.
pub unsafe fn clone_on<T>(
    stack: &mut [MaybeUninit<u128>],
    flags: c_int,
    child: extern "C" fn(*mut c_void) -> c_int,
    context: &mut T,
) -> io::Result<u32> {
    let top = stack.as_mut_ptr_range().end;
    // SAFETY: the stack is exclusively borrowed, aligned to 16 bytes, and outlives the child's use of it: with CLONE_VFORK the
    // parent sleeps until exec or exit, without CLONE_VM the child has a copy. The caller vouches for the rest.
    let pid = unsafe { libc::clone(child, top.cast(), flags, (&raw mut *context).cast()) };
    Ok(checked(pid)? as u32)
}

/// Replaces the process image; returns only the error.
pub fn exec(exe: &CStr, arguments: &[CString]) -> io::Error {
    let mut argv: Vec<*const c_char> = arguments.iter().map(|argument| argument.as_ptr()).collect();
    argv.push(std::ptr::null());
    // SAFETY: argv is a null-terminated array of live C strings.
    unsafe { libc::execv(exe.as_ptr(), argv.as_ptr()) };
    io::Error::last_os_error()
}

/// Ends this process at once, without destructors: the way out of a fork.
pub fn exit_now(code: c_int) -> ! {
    // SAFETY: _exit runs nothing of ours.
    unsafe { libc::_exit(code) }
}

/// Gives back what a process at rest does not need: the free parts of its heap, and its pages of code and constants. Code that is
/// needed again comes back from the page cache, by a fault for each sixteen pages; what ran once, at the start, does not.
pub fn rest() {
    drop_code();
    // SAFETY: malloc_trim takes the allocator's own locks.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}

fn drop_code() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (from, to) in maps.lines().filter_map(unwritten) {
        // SAFETY: no page of the range was ever written to, so each comes back with what it held, whichever thread asks for it.
        unsafe { libc::madvise(from as *mut c_void, to - from, libc::MADV_DONTNEED) };
    }
}

/// The range of a line of `/proc/self/maps`, if it maps a file and nobody wrote to it: code, or the beginning of a binary, in which
/// no linker puts what is relocated. (Read-only alone does not tell: relocated constants are write-protected afterwards.)
fn unwritten(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, rights, offset) = (fields.next()?, fields.next()?, fields.next()?);
    let is_file = fields.nth(1)? != "0";
    let is_unwritten = rights == "r-xp" || rights == "r--p" && offset == "00000000";
    let (from, to) = range.split_once('-').filter(|_| is_file && is_unwritten)?;
    Some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_wrote_to_is_let_go() {
        let code = "55c0-55d0 r-xp 00021000 fe:00 1234    /usr/bin/sidecar";
        assert_eq!(unwritten(code), Some((0x55c0, 0x55d0)));
        assert_eq!(unwritten("10-20 r--p 00000000 fe:00 1234 /usr/lib/libc.so.6"), Some((0x10, 0x20)));
        for kept in [
            "10-20 r--p 000ab000 fe:00 1234 /usr/bin/sidecar",
            "10-20 rw-p 00000000 fe:00 1234 /usr/bin/sidecar",
            "10-20 r--s 00000000 fe:00 1234 /data/lease",
            "7ff0-7ff1 r-xp 00000000 00:00 0 [vdso]",
            "10-20 rw-p 00000000 00:00 0",
            "",
        ] {
            assert_eq!(unwritten(kept), None, "{kept}");
        }
    }

    #[test]
    fn who_has_rested_works_on() {
        rest();
        assert_eq!("42".parse(), Ok(42));
    }
}
