//! What users' processes do to their sidecar, and what may happen to their numbers.

use super::promises::{Promises, attempts, ended, since, started, starts, waiting};
use super::{Absent, Case, Family, Need, Outcome, Round, now};
use crate::world::{World, alive, kill, processes_with, wait_for};
use anyhow::{Context as _, Result};
use rustix::process::{Pid, WaitOptions, getpid, set_child_subreaper, waitpgid, waitpid};
use std::fmt::Display;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The cases of this family.
pub static CASES: &[&Case] = &[&DAEMON, &STDOUT_HELD, &IGNORES_TERM, &LATE_CHILDREN, &PID_REUSE];

/// A daemon that its task leaves behind.
pub static DAEMON: Case = Case {
    fault: "a task leaves a daemon behind",
    how: "forked twice, in a session of its own, deaf to SIGTERM and SIGHUP",
    family: Family::Processes,
    needs: &[Need::Tool("setsid")],
    run: |_| {
        leaves(
            &|mark| format!("(setsid sh -c 'trap \"\" TERM HUP; : > {mark}.up; {LOOP}' {mark} > /dev/null 2>&1 &) &"),
            "nothing of it outlived its task's end",
        )
    },
};

/// A grandchild that keeps the log's pipe open.
pub static STDOUT_HELD: Case = Case {
    fault: "stdout held open after the exit",
    how: "a background child that inherits stdout and stderr and never ends",
    family: Family::Processes,
    needs: &[],
    run: |_| {
        leaves(&|mark| format!("sh -c ': > {mark}.up; {LOOP}' {mark} &"), "the end was told at once and the log whole")
    },
};

/// Children in sessions of their own, born while their task ends.
pub static LATE_CHILDREN: Case = Case {
    fault: "a task that starts sessions while it ends",
    how: "twenty children by setsid in the moment of its exit, each starting another",
    family: Family::Processes,
    needs: &[Need::Tool("setsid")],
    run: |_| {
        leaves(
            &|mark| {
                format!(
                    ": > {mark}.up; for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do setsid sh -c 'setsid sh -c \"{LOOP}\" {mark} & {LOOP}' {mark} & done"
                )
            },
            "nothing of them outlived its end",
        )
    },
};

/// A task that does not want to end.
pub static IGNORES_TERM: Case = Case {
    fault: "a task that ignores SIGTERM",
    how: "cancelled, with a stop grace of 500 ms",
    family: Family::Processes,
    needs: &[],
    run: ignores_term,
};

/// The numbers of dead processes belong to others when their sidecar comes back.
pub static PID_REUSE: Case = Case {
    fault: "process ids taken by strangers",
    how: "agent, keeper, monitors and task killed; sleeping strangers get their numbers by ns_last_pid; agent started again",
    family: Family::Processes,
    needs: &[Need::Root, Need::File("/proc/sys/kernel/ns_last_pid")],
    run: |_| pid_reuse(),
};

/// What a process does that never ends by itself.
const LOOP: &str = "while :; do sleep 1; done";
/// Tries to be given a number: others start processes, too.
const TRIES: usize = 300;

/// A task that leaves processes behind and succeeds: at its end they are gone, and its log is what it said.
fn leaves(left: &dyn Fn(&dyn Display) -> String, happened: &str) -> Result<Outcome> {
    let world = World::with_sidecars(1)?;
    let mut promises = Promises::default();
    let mark = world.dir().join("mark");
    let up = mark.with_extension("up");
    let script = format!("{}\nwhile [ ! -e {} ]; do sleep 0.01; done; echo said", left(&mark.display()), up.display());
    let fault = now();
    let id = promises.submit(&world, &["--", "sh", "-c", &script])?;
    promises.settle(&world)?;
    let recovered = since(fault);
    let outlived = processes_with(mark.as_os_str().as_encoded_bytes());
    promises.require(outlived.is_empty(), format!("invariant 6: processes {outlived:?} outlived their task"));
    let mut said = Vec::new();
    wait_for("its log is there", || {
        said = world.informer(&["logs", &id]).ok()?.stdout;
        (!said.is_empty()).then_some(())
    })?;
    promises.require(said == b"said\n", format!("invariant 8: its log is {}", String::from_utf8_lossy(&said)));
    Ok(promises.outcome(happened, None, Some(recovered)))
}

fn ignores_term(round: &mut Round) -> Result<Outcome> {
    /// Its grace, and what no process may outlive the end of it by.
    const BOUND: Duration = Duration::from_millis(500 + 2_000);
    let world = World::with_sidecars(1)?;
    let mut promises = Promises::default();
    let script = format!("trap 'echo deaf' TERM; {}", waiting(&world, "deaf"));
    let id = world.submit(&["--stop-grace", "500ms", "--", "sh", "-c", &script])?;
    let main = started(&world, "deaf")?;
    world.wait_state(&id, &["running"])?;
    let fault = now();
    let cancelled = world.informer(&["cancel", &id])?;
    promises.require(cancelled.status.success(), String::from_utf8_lossy(&cancelled.stderr));
    wait_for("its process is gone", || (!alive(main)).then_some(()))?;
    let detected = since(fault);
    promises.require(!round.timed || detected <= BOUND, format!("invariant 6: it ran on for {detected:?}"));
    let task = ended(&world, &id)?;
    promises.require(task["state"] == "cancelled", format!("{task}"));
    let log = world.informer(&["logs", &id])?.stdout;
    promises.require(log == b"deaf\n", format!("it was not asked to end before: {}", String::from_utf8_lossy(&log)));
    Ok(promises.outcome("it was asked, then killed", Some(detected), None))
}

/// Strangers with the numbers of the dead; ended when dropped.
struct Strangers(Vec<Child>);

impl Strangers {
    /// A stranger with this number, leader of a group of it, so that a signal to either would end it; false if the number is not free.
    fn take(&mut self, pid: i32) -> Result<bool> {
        let wanted = u32::try_from(pid)?;
        for _ in 0..TRIES {
            std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string())
                .map_err(|error| Absent(format!("ns_last_pid cannot be written: {error}")))?;
            let mut sleep = Command::new("sleep");
            let mut child = sleep.arg("1000000").process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
            if child.id() == wanted {
                self.0.push(child);
                return Ok(true);
            }
            child.kill()?;
            child.wait()?;
        }
        Ok(false)
    }
}

impl Drop for Strangers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Orphans come to this process while it lives, and not to an init that may never reap them: the number of a zombie is not free.
struct Subreaper;

impl Subreaper {
    fn new() -> Result<Self> {
        set_child_subreaper(Some(getpid()))?;
        Ok(Self)
    }

    /// Reaps these and what was left of the groups that they led, which keep their numbers taken too.
    fn reap(&self, dead: &[i32]) {
        for pid in dead.iter().filter_map(|pid| Pid::from_raw(*pid)) {
            while matches!(waitpgid(pid, WaitOptions::empty()), Ok(Some(_))) {}
            // Reaped with its group, or somebody else's child.
            let _gone = waitpid(Some(pid), WaitOptions::empty());
        }
    }
}

impl Drop for Subreaper {
    fn drop(&mut self) {
        let _ = set_child_subreaper(None);
    }
}

fn pid_reuse() -> Result<Outcome> {
    let subreaper = Subreaper::new()?;
    let mut strangers = Strangers(Vec::new());
    let mut world = World::with_sidecars(1)?;
    let mut promises = Promises::default();
    let id = promises.submit(&world, &["--tries", "1", "--", "sh", "-c", &waiting(&world, "runs")])?;
    let main = started(&world, "runs")?;
    world.wait_state(&id, &["running"])?;
    let mut dead = world.keepers_and_monitors(0);
    dead.extend([main, world.agent(0).context("an agent runs")?]);
    world.kill_box(0);
    kill(main);
    wait_for("they are gone", || dead.iter().all(|pid| !alive(*pid)).then_some(()))?;
    subreaper.reap(&dead);
    for pid in &dead {
        // Somebody else may have been quicker; the task's own number is the one that counts.
        if !strangers.take(*pid)? && *pid == main {
            return Err(Absent(format!("process id {pid} is not to be had")).into());
        }
    }
    let fault = now();
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    wait_for("it is tried again", || (starts(&world, "runs") == 2).then_some(()))?;
    let recovered = since(fault);
    world.touch("go-runs")?;
    promises.settle(&world)?;
    let task = world.task(&id)?;
    promises.require(attempts(&task).len() == 2, format!("invariant 13: {task}"));
    for stranger in &mut strangers.0 {
        let ended = stranger.try_wait()?;
        promises.require(ended.is_none(), format!("invariant 7: stranger {} was ended: {ended:?}", stranger.id()));
    }
    Ok(promises.outcome(
        "the attempt was told as lost and tried again; none of the strangers was ended",
        None,
        Some(recovered),
    ))
}
