//! Too little memory, too few processes, no processor time, no open files. Beats under load: [`super::pressure`].

use super::flow::BEAT;
use super::pressure::{self, listen};
use super::promises::{Promises, ended, since, started, starts, waiting, waiting_among};
use super::{Absent, Case, Family, Need, Outcome, now};
use crate::world::life::Watched;
use crate::world::{World, processes_with, wait_for};
use anyhow::{Context as _, Result};
use std::net::TcpStream;
use std::path::Path;

/// The cases of this family.
pub static CASES: &[&Case] = &[
    &TASK_MEMORY,
    &TASK_PROCESSES,
    &TASK_PROCESSOR,
    &INFORMER_FILES,
    &AGENT_FILES,
    &KEEPER_FILES,
    &pressure::PROCESSOR,
    &pressure::DISK_AND_PROCESSOR,
    &pressure::MEMORY,
];

/// A task that takes more memory than it may.
pub static TASK_MEMORY: Case = Case {
    fault: "a task takes too much memory",
    how: "--memory-limit 32MiB around a string that doubles; beside it one that is killed and one that crashes",
    family: Family::Limits,
    needs: &[Need::Root],
    run: |_| task_memory(),
};

/// A fork bomb.
pub static TASK_PROCESSES: Case = Case {
    fault: "a fork bomb",
    how: "--pids-limit 60 around a program that replaces itself by two in sessions of their own",
    family: Family::Limits,
    needs: &[Need::Root],
    run: |_| task_processes(),
};

/// A task that burns more than it may.
pub static TASK_PROCESSOR: Case = Case {
    fault: "a task burns more than its share",
    how: "--cpu-limit 100 around a loop that never sleeps",
    family: Family::Limits,
    needs: &[Need::Root],
    run: |_| task_processor(),
};

/// The informer has no descriptor left.
pub static INFORMER_FILES: Case = Case {
    fault: "no open files left in the informer",
    how: "prlimit --nofile=64, and 100 idle connections",
    family: Family::Limits,
    needs: &[Need::Tool("prlimit")],
    run: |_| informer_files(),
};

/// The agent has no descriptor left.
pub static AGENT_FILES: Case = Case {
    fault: "no open files left in an agent",
    how: "prlimit --nofile=64, and 48 logs followed at once",
    family: Family::Limits,
    needs: &[Need::Tool("prlimit")],
    run: |_| agent_files(),
};

/// The keeper has no descriptor left.
pub static KEEPER_FILES: Case = Case {
    fault: "no open files left in a keeper",
    how: "prlimit --nofile=64, and tasks for 60 slots",
    family: Family::Limits,
    needs: &[Need::Tool("prlimit")],
    run: |_| keeper_files(),
};

/// Open files of a process that is to run short of them: more than any of ours needs to start.
const FILES: [&str; 2] = ["prlimit", "--nofile=64:64"];
/// More connections than that.
const CONNECTIONS: usize = 100;
/// Followers of a log, each of which costs the agent descriptors.
const FOLLOWERS: usize = 48;
/// More slots than descriptors, at one at least for each.
const SLOTS: usize = 60;
/// Beats heard meanwhile: more than a lease.
const BEATS: usize = 5;

fn few_files() -> Vec<String> {
    FILES.map(str::to_owned).into()
}

/// Root may have no cgroup to write to, as in a container: then nothing would enforce a limit.
fn limits_are_enforced() -> Result<()> {
    let v1 = Path::new("/sys/fs/cgroup/memory/cgroup.procs");
    let v2 = Path::new("/sys/fs/cgroup/cgroup.subtree_control");
    let writable = |path: &Path| std::fs::File::options().write(true).open(path).is_ok();
    if writable(v1) || writable(v2) { Ok(()) } else { Err(Absent("no cgroup is writable here".to_owned()).into()) }
}

fn task_memory() -> Result<Outcome> {
    limits_are_enforced()?;
    let world = World::with_sidecars(1)?;
    let mut promises = Promises::default();
    let limited = ["--tries", "1", "--memory-limit", "32MiB", "--", "sh", "-c"];
    let hungry = "x=0123456789abcdef; while :; do x=$x$x; done";
    let told = [(hungry, "oom"), ("kill -KILL $$", "signal"), ("kill -SEGV $$", "signal"), ("exit 137", "exit_code")];
    let mut detected = None;
    for (script, reason) in told {
        let fault = now();
        let id = world.submit(&[&limited[..], &[script]].concat())?;
        let task = ended(&world, &id)?;
        detected = detected.or_else(|| Some(since(fault)));
        promises.require(
            task["state"] == "failed" && task["reason"] == reason,
            format!("`{script}` is not told as {reason}: {task}"),
        );
    }
    promises.submit(&world, &["--", "true"])?;
    promises.settle(&world)?;
    Ok(promises.outcome("told as `oom`; a kill, a crash and exit code 137 are told as what they are", detected, None))
}

fn task_processes() -> Result<Outcome> {
    limits_are_enforced()?;
    let world = World::with_sidecars(1)?;
    let mut promises = Promises::default();
    let mark = world.dir().join("bomb");
    let bomb = mark.display();
    let script = format!(
        "printf '#!/bin/sh\\nsetsid {bomb} & setsid {bomb} & exit\\n' > {bomb}; chmod +x {bomb}; {bomb}; sleep 0.2"
    );
    let fault = now();
    let args = ["--tries", "1", "--pids-limit", "60", "--timeout", "30s", "--", "sh", "-c", &script];
    let id = world.submit(&args)?;
    let task = ended(&world, &id)?;
    let detected = since(fault);
    let left = processes_with(mark.as_os_str().as_encoded_bytes());
    promises.require(left.is_empty(), format!("invariant 6: {} processes outlived it: {task}", left.len()));
    promises.submit(&world, &["--", "true"])?;
    promises.settle(&world)?;
    let states = listen(&world, 1)?;
    promises.require(states == ["live"], format!("the sidecar is {states:?}"));
    Ok(promises.outcome(
        "it got no further than its limit, and nothing of it was left at its end",
        Some(detected),
        None,
    ))
}

fn task_processor() -> Result<Outcome> {
    limits_are_enforced()?;
    let world = World::with_sidecars(1)?;
    let mut promises = Promises::default();
    let script = format!("(while :; do :; done) & {}; kill $!", waiting(&world, "runs"));
    promises.submit(&world, &["--cpu-limit", "100", "--", "sh", "-c", &script])?;
    started(&world, "runs")?;
    let states = listen(&world, BEATS)?;
    promises.require(states == ["live"], format!("invariant 12: {states:?}"));
    let fault = now();
    promises.submit(&world, &["--", "true"])?;
    world.touch("go-runs")?;
    promises.settle(&world)?;
    Ok(promises.outcome("it got its share; beats and other tasks went on", None, Some(since(fault))))
}

/// It accepts no more than it can, serves those that it has, and goes on when there is room.
fn informer_files() -> Result<Outcome> {
    let mut world = World::empty()?;
    world.put_informer(few_files());
    world.start_informer(&[])?;
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    let mut promises = Promises::default();
    let id = promises.submit(&world, &["--", "sh", "-c", &waiting(&world, "runs")])?;
    started(&world, "runs")?;
    world.wait_state(&id, &["running"])?;
    let address = world.url().split_once("://").context("a URL")?.1.to_owned();
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS {
        // Those that it does not accept wait in the kernel.
        idle.push(TcpStream::connect(&address)?);
    }
    let fault = now();
    let pid = world.informer_pid().context("the informer runs")?;
    let open = || std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    wait_for("the informer has as many open files as it may", || (open() >= 60).then_some(()))?;
    // A client that comes now waits, or is told; the link of its sidecar stands.
    let mut asks = Watched::new(world.informer_started(&["submit", "--key", "meanwhile", "--", "true"])?)?;
    drop(idle);
    world.wait_linked(1)?;
    let recovered = since(fault);
    promises.require(!world.informer_has_ended(), format!("the informer ended: {}", world.log("informer.log")));
    let asked = asks.wait()?;
    let again = world.submit(&["--key", "meanwhile", "--", "true"])?;
    if asked.success() {
        let told = String::from_utf8_lossy(&asks.stdout).trim().to_owned();
        promises.require(told == again, format!("invariant 1: {told} was acknowledged, and is {again} now"));
    }
    let task = ended(&world, &again)?;
    promises.require(task["state"] == "succeeded", format!("{task}"));
    let history = world.history(&id)?;
    promises.require(
        !history.iter().any(|(kind, _)| kind == "presumed_lost"),
        format!("its sidecar was lost: {history:?}"),
    );
    promises.ask_again(&world)?;
    world.touch("go-runs")?;
    promises.settle(&world)?;
    promises.require(starts(&world, "runs") == 1, "the running task was started again");
    let happened =
        "whom it could not accept waited; its sidecar stayed linked, and all were served when there was room";
    Ok(promises.outcome(happened, None, Some(recovered)))
}

/// Followers that it has no room for are let down; tasks are not.
fn agent_files() -> Result<Outcome> {
    let mut world = World::empty()?;
    world.put_sidecars(few_files());
    world.start_informer(&[])?;
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    let mut promises = Promises::default();
    let script = format!("echo said; {}", waiting(&world, "runs"));
    let id = promises.submit(&world, &["--", "sh", "-c", &script])?;
    started(&world, "runs")?;
    world.wait_state(&id, &["running"])?;
    let mut followers = Vec::new();
    for _ in 0..FOLLOWERS {
        followers.push(Watched::new(world.informer_started(&["logs", "-f", &id])?)?);
        if let [first] = &mut followers[..] {
            // Only he can be sure of room.
            first.wait_bytes(5)?;
        }
    }
    let fault = now();
    let states = listen(&world, BEATS)?;
    promises.require(!states.contains(&"lost".to_owned()), format!("invariant 12: {states:?}"));
    promises.submit(&world, &["--", "true"])?;
    drop(followers);
    let recovered = since(fault);
    promises.require(!world.agent_has_ended(0), format!("the agent ended: {}", world.log("sidecar-0.log")));
    world.touch("go-runs")?;
    promises.settle(&world)?;
    promises.require(starts(&world, "runs") == 1, "the running task was started again");
    wait_for("its log is whole", || (world.informer(&["logs", &id]).ok()?.stdout == b"said\n").then_some(()))?;
    Ok(promises.outcome("beats, tasks and the log were unharmed", None, Some(recovered)))
}

/// What it cannot start it says, is charged to no task, and is started once others have ended and it has rested.
fn keeper_files() -> Result<Outcome> {
    let mut world = World::empty()?;
    // Its rest is counted in beats.
    world.beat = BEAT.0;
    world.put_sidecars(few_files());
    world.start_informer(&[])?;
    let slots = SLOTS.to_string();
    world.start_sidecar(0, &["--slots", &slots, "--cpu", "60000"], &[])?;
    world.wait_linked(1)?;
    let mut promises = Promises::default();
    let fault = now();
    let mut ids = Vec::new();
    for _ in 0..SLOTS {
        let script = waiting_among(&world, "runs", SLOTS);
        ids.push(promises.submit(&world, &["--tries", "1", "--", "sh", "-c", &script])?);
    }
    started(&world, "runs")?;
    let states = listen(&world, BEATS)?;
    promises.require(!states.contains(&"lost".to_owned()), format!("invariant 12: {states:?}"));
    world.touch("go-runs")?;
    promises.settle(&world)?;
    let recovered = since(fault);
    let mut passed_on = 0;
    for id in &ids {
        let charged = |(kind, detail): &(String, String)| kind == "retry" && detail.contains("infrastructure");
        passed_on += usize::from(world.history(id)?.iter().any(charged));
    }
    promises.require(passed_on > 0, "nothing was short: no start was refused");
    promises.require(!world.agent_has_ended(0), format!("the agent ended: {}", world.log("sidecar-0.log")));
    let happened = "what it could not hold at once waited, charged to nobody, and ran when others had ended";
    Ok(promises.outcome(happened, None, Some(recovered)))
}
