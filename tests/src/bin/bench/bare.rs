//! The baselines: what this machine can do at all.
#![allow(unsafe_code, reason = "the bare loop is posix_spawn itself")]

use crate::contender::{Contender, Run};
use crate::{stamps, usage};
use anyhow::{Result, ensure};
use std::ffi::{CString, c_char};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Two threads that spawn and wait, and nothing else.
pub(crate) struct Bare {
    pipe: CString,
}

impl Bare {
    pub(crate) fn new(stamps: &stamps::Stamps) -> Result<Self> {
        Ok(Self { pipe: CString::new(stamps.pipe().as_os_str().as_encoded_bytes())? })
    }
}

impl Contender for Bare {
    fn name(&self) -> String {
        "bare loop".to_owned()
    }

    fn run(&mut self, count: usize) -> Result<Run> {
        let before = usage::cpu(own_pid());
        let begin = Instant::now();
        std::thread::scope(|scope| {
            let spawn = || (0..count / 2).try_for_each(|_| spawn(&[c"/bin/true"]).and_then(wait));
            let threads = [scope.spawn(spawn), scope.spawn(spawn)];
            threads.into_iter().try_for_each(|thread| thread.join().expect("a spawn loop does not panic"))
        })?;
        let seconds = begin.elapsed().as_secs_f64();
        let after = usage::cpu(own_pid());
        let parts = vec![
            ("loop", (after.own_us - before.own_us) as f64),
            ("tasks", (after.children_us - before.children_us) as f64),
        ];
        Ok(Run { seconds, parts })
    }

    fn stamp(&mut self, first: u64, count: u64) -> Result<Vec<u64>> {
        let program = CString::new(stamps::program().as_os_str().as_encoded_bytes())?;
        let mut calls = Vec::new();
        let mut children = Vec::new();
        for id in first..first + count {
            let id = CString::new(id.to_string())?;
            calls.push(stamps::now_ns());
            children.push(spawn(&[&program, &self.pipe, &id])?);
        }
        children.into_iter().try_for_each(wait)?;
        Ok(calls)
    }

    fn end(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// Starts a program by its path.
fn spawn(argv: &[&std::ffi::CStr]) -> Result<libc::pid_t> {
    let mut pid = 0;
    let mut pointers: Vec<*mut c_char> = argv.iter().map(|argument| argument.as_ptr().cast_mut()).collect();
    pointers.push(std::ptr::null_mut());
    let env = [std::ptr::null_mut()];
    // SAFETY: null-terminated arrays of strings that outlive the call; the child is waited for by its pid.
    let code = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            pointers[0],
            std::ptr::null(),
            std::ptr::null(),
            pointers.as_ptr(),
            env.as_ptr(),
        )
    };
    ensure!(code == 0, "posix_spawn: {}", std::io::Error::from_raw_os_error(code));
    Ok(pid)
}

fn wait(pid: libc::pid_t) -> Result<()> {
    let mut status = 0;
    // SAFETY: a child of ours that nobody else waits for.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    ensure!(waited == pid && status == 0, "a child ended with status {status}");
    Ok(())
}

fn own_pid() -> i32 {
    i32::try_from(std::process::id()).unwrap_or(0)
}

/// `xargs -P2`: what a shell user would take.
pub(crate) struct Xargs;

impl Contender for Xargs {
    fn name(&self) -> String {
        "xargs -P2".to_owned()
    }

    fn run(&mut self, count: usize) -> Result<Run> {
        let begin = Instant::now();
        let script = "seq \"$1\" | xargs -P2 -n1 /bin/true";
        let status = Command::new("sh").args(["-c", script, "sh", &count.to_string()]).stdin(Stdio::null()).status()?;
        ensure!(status.success(), "xargs: {status}");
        Ok(Run { seconds: begin.elapsed().as_secs_f64(), parts: Vec::new() })
    }

    fn stamp(&mut self, _: u64, _: u64) -> Result<Vec<u64>> {
        anyhow::bail!("xargs takes no single tasks")
    }

    fn end(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
