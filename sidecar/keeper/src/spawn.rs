//! From a spec to a process.
//!
//! The monitor clones with shared memory and sleeps until the exec (`CLONE_VM | CLONE_VFORK`, on a stack of its own): nothing is
//! copied, and a failed step comes back through memory. `stop` attempts get an init in between, see [`init`].
#![allow(unsafe_code, reason = "what runs between clone and exec must be raw system calls")]

pub(crate) mod init;

use std::ffi::{CStr, CString, NulError, c_char, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use keeper::sys;
use keeper::wire::Spec;

/// Words of 16 bytes of the stack a clone runs on: 64 KiB, of which it needs a few hundred bytes.
const STACK_WORDS: usize = 4096;

/// Where programs are looked for when the environment names no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The step of the child that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Step {
    Clone = 1,
    Group = 2,
    Files = 3,
    Directory = 4,
    Limit = 5,
    Exec = 6,
    Init = 7,
}

impl Step {
    const ALL: [Self; 7] =
        [Self::Clone, Self::Group, Self::Files, Self::Directory, Self::Limit, Self::Exec, Self::Init];

    fn from_byte(byte: u8) -> Self {
        Self::ALL.into_iter().find(|step| *step as u8 == byte).unwrap_or(Self::Init)
    }
}

/// Why nothing was spawned.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) source: io::Error,
}

impl Failure {
    /// One line: which call failed on what.
    pub(crate) fn describe(&self, plan: &Plan) -> String {
        let show = |text: &CStr| text.to_string_lossy().into_owned();
        let what = match self.step {
            Step::Clone => "clone".to_owned(),
            Step::Group => "setpgid".to_owned(),
            Step::Files => "dup2 of stdin, out and err".to_owned(),
            Step::Directory => format!("chdir {}", show(&plan.cwd)),
            Step::Limit => "applying the limits".to_owned(),
            Step::Exec => format!("execve {}", show(&plan.argv[0])),
            Step::Init => "starting the init of the pid namespace".to_owned(),
        };
        format!("{what}: {}", self.source)
    }
}

/// Everything the child needs, made before the clone: it may not allocate.
pub(crate) struct Plan {
    argv: Vec<CString>,
    env: Vec<CString>,
    candidates: Vec<CString>,
    cwd: CString,
    /// `/dev/null`, `out`, `err`.
    pub(crate) files: [RawFd; 3],
    /// Open `cgroup.procs` files the child writes itself into.
    pub(crate) groups: Vec<RawFd>,
    /// `RLIMIT_AS`, where no cgroup limits memory.
    pub(crate) address_space: Option<u64>,
    /// The process dies with its parent: fencing without the right to make a pid namespace.
    pub(crate) dies_with_parent: bool,
    /// The limit on open files that the keeper itself was started with.
    pub(crate) open_files: (u64, u64),
}

impl Plan {
    /// Prepares a spec; `work` is the attempt's own directory.
    pub(crate) fn new(spec: &Spec, work: &str, open_files: (u64, u64)) -> Result<Self, NulError> {
        let text = |text: &str| CString::new(text);
        let mut env = Vec::with_capacity(spec.env.len() + 1);
        for (key, value) in spec.env.iter().filter(|(key, _)| key != "TASK_DIR") {
            env.push(text(&format!("{key}={value}"))?);
        }
        env.push(text(&format!("TASK_DIR={work}"))?);
        Ok(Self {
            argv: spec.argv.iter().map(|argument| text(argument)).collect::<Result<_, _>>()?,
            env,
            candidates: candidates(spec)?,
            cwd: text(if spec.cwd.is_empty() { work } else { &spec.cwd })?,
            files: [-1; 3],
            groups: Vec::new(),
            address_space: None,
            dies_with_parent: false,
            open_files,
        })
    }
}

fn candidates(spec: &Spec) -> Result<Vec<CString>, NulError> {
    let Some(program) = spec.argv.first() else { return Ok(Vec::new()) };
    if program.contains('/') {
        return Ok(vec![CString::new(program.as_str())?]);
    }
    let path = spec.env.iter().rev().find(|(key, _)| key == "PATH").map_or(DEFAULT_PATH, |(_, value)| value);
    path.split(':').filter(|dir| !dir.is_empty()).map(|dir| CString::new(format!("{dir}/{program}"))).collect()
}

/// The stack of clones; one per monitor, reused.
pub(crate) struct Stack(Box<[MaybeUninit<u128>]>);

impl Stack {
    pub(crate) fn new() -> Self {
        // Not cleared: only the pages a clone really uses are ever touched.
        Self(Box::new_uninit_slice(STACK_WORDS))
    }
}

struct Context<'a> {
    plan: &'a Plan,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    in_namespace: bool,
    /// The child's pid as `/proc` of the monitor shows it; only asked for in a namespace.
    outer_pid: u32,
    failed: u8,
    errno: c_int,
}

/// Spawns; returns the child's pid and, in a namespace of its own, the pid as the monitor sees it.
fn spawn_in(plan: &Plan, stack: &mut Stack, in_namespace: bool) -> Result<(u32, u32), Failure> {
    let pointers = |texts: &[CString]| {
        texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect::<Vec<*const c_char>>()
    };
    let mut context = Context {
        plan,
        argv: pointers(&plan.argv),
        env: pointers(&plan.env),
        in_namespace,
        outer_pid: 0,
        failed: 0,
        errno: 0,
    };
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: `child` only makes system calls and writes to the context, which outlives the suspended call.
    let result = unsafe { sys::clone_on(&mut stack.0, flags, child, &mut context) };
    let pid = result.map_err(|source| Failure { step: Step::Clone, source })?;
    if context.failed != 0 {
        let source = io::Error::from_raw_os_error(context.errno);
        return Err(Failure { step: Step::from_byte(context.failed), source });
    }
    Ok((pid, context.outer_pid))
}

/// Spawns the main process as a direct child. A child that failed before its exec is left to be reaped.
pub(crate) fn spawn(plan: &Plan, stack: &mut Stack) -> Result<u32, Failure> {
    spawn_in(plan, stack, false).map(|(pid, _)| pid)
}

extern "C" fn child(context: *mut c_void) -> c_int {
    // SAFETY: the parent passed its `Context` and sleeps until we exec or exit.
    let context = unsafe { &mut *context.cast::<Context<'_>>() };
    let failed = prepare(context).err().unwrap_or_else(|| {
        context.errno = execute(context);
        Step::Exec
    });
    if failed != Step::Exec {
        // SAFETY: errno of this thread, which is the parent's, too, and read before anything else runs.
        context.errno = unsafe { *libc::__errno_location() };
    }
    context.failed = failed as u8;
    // SAFETY: _exit runs nothing of the parent's.
    unsafe { libc::_exit(127) }
}

fn ok(result: c_int, step: Step) -> Result<(), Step> {
    if result < 0 { Err(step) } else { Ok(()) }
}

fn prepare(context: &mut Context<'_>) -> Result<(), Step> {
    let plan = context.plan;
    // SAFETY: system calls on integers and on C strings that outlive the call.
    unsafe {
        ok(libc::setpgid(0, 0), Step::Group)?;
        if plan.dies_with_parent {
            ok(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL), Step::Group)?;
        }
        for group in &plan.groups {
            ok(libc::write(*group, c"0".as_ptr().cast(), 1) as c_int, Step::Limit)?;
        }
        set_limit(libc::RLIMIT_NOFILE, plan.open_files)?;
        if let Some(bytes) = plan.address_space {
            set_limit(libc::RLIMIT_AS, (bytes, bytes))?;
        }
        for (wanted, fd) in plan.files.iter().enumerate() {
            ok(libc::dup2(*fd, wanted as c_int), Step::Files)?;
        }
        if context.in_namespace {
            enter_namespace(context);
        }
        ok(libc::chdir(plan.cwd.as_ptr()), Step::Directory)?;
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
    Ok(())
}

fn set_limit(resource: libc::__rlimit_resource_t, (current, maximum): (u64, u64)) -> Result<(), Step> {
    let limit = libc::rlimit { rlim_cur: current, rlim_max: maximum };
    // SAFETY: the limit is a live value.
    ok(unsafe { libc::setrlimit(resource, &raw const limit) }, Step::Limit)
}

/// Reads the own pid in the outer `/proc` (its number there is what the monitor and the record need), then mounts a `/proc` of the
/// namespace over it. A mount that fails leaves the outer one, which still serves `/proc/self`.
fn enter_namespace(context: &mut Context<'_>) {
    let mut buffer = [0u8; 16];
    // SAFETY: constant C strings and a live buffer.
    let count = unsafe {
        let count = libc::readlink(c"/proc/self".as_ptr(), buffer.as_mut_ptr().cast(), buffer.len());
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        libc::mount(c"proc".as_ptr(), c"/proc".as_ptr(), c"proc".as_ptr(), flags, std::ptr::null());
        count
    };
    let digits = buffer.iter().take(usize::try_from(count).unwrap_or(0));
    context.outer_pid = digits.fold(0, |pid: u32, digit| pid.wrapping_mul(10).wrapping_add(u32::from(digit - b'0')));
}

/// Tries the candidates as execvp does: what is absent is passed over, a permission problem is remembered.
fn execute(context: &Context<'_>) -> c_int {
    let mut worst = libc::ENOENT;
    for candidate in &context.plan.candidates {
        // SAFETY: null-terminated arrays of C strings, made before the clone.
        let errno = unsafe {
            libc::execve(candidate.as_ptr(), context.argv.as_ptr(), context.env.as_ptr());
            *libc::__errno_location()
        };
        match errno {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => worst = errno,
            _ => return errno,
        }
    }
    worst
}
