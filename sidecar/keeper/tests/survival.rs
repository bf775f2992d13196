//! Who may die, and what goes on: keeper, monitor, agent, lease, data directory.
#![allow(clippy::unwrap_used, reason = "tests")]

mod kit;

use std::time::Duration;

use keeper::codec;
use keeper::launch;
use keeper::record::{self, Holder, Writer};
use keeper::sys::boottime_ns;
use keeper::wire::{End, EndReason, Fencing, ListedState, OnDisconnect, ProcessId, Refusal, Request, Spec};
use kit::{Bed, is_root, kill9, runs, sh, signal, until};
use rustix::process::{Resource, Rlimit, getrlimit, prlimit};

/// Prints, waits for the file `go`, prints again, exits with 5.
const GATED: &str = "echo one; echo > ready; while [ ! -e go ]; do sleep 0.02; done; echo two; exit 5";

fn open_gate(bed: &Bed, name: &str) {
    std::fs::write(bed.attempt(name).join("work/go"), "").unwrap();
}

fn monitor_of(bed: &Bed, name: &str) -> u32 {
    bed.record(name).holder.unwrap().monitor.pid
}

fn fenced(script: &str) -> Spec {
    Spec { on_disconnect: OnDisconnect::Stop, stop_grace_ms: 300, fence_grace_ms: 300, ..sh(script) }
}

/// A grandchild in a session of its own that hides from everything but its environment and its cgroup.
const STRAY: &str = "setsid sh -c 'trap \"\" TERM; echo $$ > stray; while :; do sleep 1; done' & ";

#[test]
fn a_killed_keeper_is_replaced_and_the_attempt_goes_on() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    agent.start("a", sh(GATED));
    let process = agent.spawned("a");
    bed.wait_for_file("a", "ready");
    kill9(agent.keeper);
    agent.wait_closed();
    let mut agent = bed.agent();
    assert_eq!(agent.listed("a"), Some(ListedState::Running(process)));
    open_gate(&bed, "a");
    assert_eq!(agent.ended("a").code, Some(5));
    assert_eq!(bed.out("a"), b"one\ntwo\n");
    assert_eq!(agent.run("b", sh("exit 1")).code, Some(1));
}

#[test]
fn an_end_while_no_keeper_lives_is_kept() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    agent.start("a", sh(GATED));
    bed.wait_for_file("a", "ready");
    let monitor = monitor_of(&bed, "a");
    kill9(agent.keeper);
    agent.wait_closed();
    open_gate(&bed, "a");
    until("the orphaned monitor's end", || (!runs(monitor)).then_some(()));
    assert_eq!(bed.keepers(), Vec::<u32>::new());
    let agent = bed.agent();
    let Some(ListedState::Ended(end)) = agent.listed("a") else { panic!("{:?}", agent.listing) };
    assert_eq!((end.code, end.out_bytes), (Some(5), 8));
    assert!(!bed.attempt("a").join("ctl.v1").exists());
}

#[test]
fn idle_monitors_end_with_their_keeper() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    agent.send(&Request::Warm { monitors: 3 });
    until("three warm monitors", || (bed.keepers().len() == 4).then_some(()));
    kill9(agent.keeper);
    until("no monitor left", || bed.keepers().is_empty().then_some(()));
}

#[test]
fn a_killed_monitor_means_lost_and_nothing_left() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    agent.start("a", sh(&format!("{STRAY} {GATED}")));
    bed.wait_for_file("a", "stray");
    kill9(monitor_of(&bed, "a"));
    agent.lost("a");
    assert_eq!(bed.tasks(), Vec::<u32>::new());
    assert_eq!(bed.record("a").state(), ListedState::Lost);
    agent.start("a", sh("true"));
    assert_eq!(agent.refused("a").0, Refusal::Exists);
    assert_eq!(agent.run("b", sh("exit 1")).code, Some(1));
}

#[test]
fn keeper_and_monitor_killed_together_mean_lost_and_nothing_left() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    agent.start("a", sh(&format!("{STRAY} {GATED}")));
    bed.wait_for_file("a", "stray");
    let monitor = monitor_of(&bed, "a");
    kill9(agent.keeper);
    kill9(monitor);
    agent.wait_closed();
    let agent = bed.agent();
    assert_eq!(
        agent.listed("a"),
        Some(ListedState::Lost),
        "the first listing says so: it never was running there again"
    );
    assert_eq!(bed.tasks(), Vec::<u32>::new());
}

#[test]
fn an_adopted_attempt_can_be_stopped_and_its_keeper_killed_again() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    agent.start("a", sh(GATED));
    bed.wait_for_file("a", "ready");
    for _ in 0..3 {
        kill9(agent.keeper);
        agent.wait_closed();
        agent = bed.agent();
    }
    agent.stop("a", None);
    let end = agent.ended("a");
    assert_eq!((end.signal, end.reason), (Some(libc::SIGTERM), EndReason::Cancelled));
    bed.wait_until_empty();
}

#[test]
fn a_timeout_is_kept_with_agent_and_keeper_dead() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    agent.start(
        "a",
        Spec { timeout_ms: 500, stop_grace_ms: 100, ..sh("trap '' TERM; echo > ready; while :; do sleep 0.1; done") },
    );
    bed.wait_for_file("a", "ready");
    kill9(agent.keeper);
    drop(agent);
    bed.wait_until_empty();
    let end = until("the end's record", || bed.record("a").end);
    assert_eq!((end.reason, end.signal), (EndReason::TimedOut, Some(libc::SIGKILL)));
    assert!(end.ran_ms >= 600);
}

#[test]
fn the_end_of_the_lease_ends_stop_attempts_and_no_others() {
    let mut bed = Bed::new();
    bed.grant(Duration::from_secs(20));
    let mut agent = bed.agent();
    agent.start("polite", fenced("trap 'exit 3' TERM; echo > ready; while :; do sleep 0.05; done"));
    agent.start("deaf", fenced("trap '' TERM; echo > ready; while :; do sleep 0.05; done"));
    agent.start("continue", sh(GATED));
    for name in ["polite", "deaf", "continue"] {
        bed.wait_for_file(name, "ready");
    }
    // The last beat; from here on nobody of ours lives but the monitors.
    bed.grant(Duration::from_secs(1));
    kill9(agent.keeper);
    drop(agent);
    let ended = |name: &str| bed.record(name).end.is_some();
    until("both fences", || (ended("polite") && ended("deaf")).then_some(()));
    assert!(!ended("continue"));
    open_gate(&bed, "continue");
    bed.wait_until_empty();
    let end = |name: &str| until("its end", || bed.record(name).end);
    assert_eq!((end("polite").code, end("polite").reason), (Some(3), EndReason::Fenced));
    assert_eq!((end("deaf").signal, end("deaf").reason), (Some(libc::SIGKILL), EndReason::Fenced));
    assert_eq!(end("continue").code, Some(5));
}

#[test]
fn nothing_starts_without_a_live_lease() {
    let mut bed = Bed::new();
    bed.grant(Duration::ZERO);
    let mut agent = bed.agent();
    agent.start("a", sh("true"));
    assert_eq!(agent.refused("a").0, Refusal::NoLease);
    assert!(!bed.attempt("a").exists());
    assert_eq!(agent.run("probe", Spec { without_lease: true, ..sh("exit 2") }).code, Some(2));
    bed.grant(Duration::from_secs(100));
    assert_eq!(agent.run("a", sh("exit 1")).code, Some(1));
    bed.lease.publish(0, 1).unwrap();
    agent.start("a", sh("true"));
    assert_eq!(agent.refused("a").0, Refusal::Exists);
}

#[test]
fn a_stopped_monitor_does_not_outlive_the_lease() {
    let mut bed = Bed::new();
    bed.grant(Duration::from_secs(2));
    let mut agent = bed.agent();
    agent.start("a", fenced(&format!("{STRAY} trap '' TERM; echo > ready; while :; do sleep 0.05; done")));
    bed.wait_for_file("a", "ready");
    signal(monitor_of(&bed, "a"), libc::SIGSTOP);
    // Whoever ended it: it was its lease that did.
    assert_eq!(agent.ended("a").reason, EndReason::Fenced);
    assert_eq!(bed.tasks(), Vec::<u32>::new());
}

#[test]
fn a_keepers_successor_knows_whom_it_ended_for_the_lease() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    for name in ["condemned", "killed"] {
        agent.start(name, fenced("echo > ready; while :; do sleep 0.05; done"));
        bed.wait_for_file(name, "ready");
    }
    let monitors = ["condemned", "killed"].map(|name| monitor_of(&bed, name));
    kill9(agent.keeper);
    drop(agent);
    record::condemn(&bed.attempt("condemned")).unwrap();
    monitors.into_iter().for_each(kill9);
    bed.wait_until_empty();
    let mut agent = bed.agent();
    match agent.listed("condemned") {
        Some(ListedState::Ended(end)) => assert_eq!(end.reason, EndReason::Fenced),
        _ => assert_eq!(agent.ended("condemned").reason, EndReason::Fenced),
    }
    if agent.listed("killed") != Some(ListedState::Lost) {
        agent.lost("killed");
    }
}

#[test]
fn a_stop_attempt_dies_with_its_monitor_at_once() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    if agent.fencing == Fencing::Weak {
        assert!(!is_root("fencing"), "root can make pid namespaces");
        println!("skipped: no right to make pid namespaces");
        return;
    }
    let script = format!("{STRAY} echo $$ > inner; while [ ! -s stray ]; do sleep 0.02; done; echo > ready; wait");
    agent.start("a", fenced(&script));
    let process = agent.spawned("a");
    bed.wait_for_file("a", "ready");
    // It sees a namespace of its own; we see the outer number.
    assert_eq!(bed.wait_for_file("a", "inner"), "2");
    let environ = std::fs::read(format!("/proc/{}/environ", process.pid)).unwrap();
    assert!(String::from_utf8_lossy(&environ).contains("TASK_DIR="));
    kill9(agent.keeper);
    kill9(monitor_of(&bed, "a"));
    drop(agent);
    // No new keeper is needed for this.
    bed.wait_until_empty();
    assert!(bed.record("a").end.is_none());
    let mut agent = bed.agent();
    if agent.listed("a") != Some(ListedState::Lost) {
        agent.lost("a");
    }
}

#[test]
fn a_stop_attempt_ends_like_any_other() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    assert_eq!(agent.run("code", fenced("echo out; ls /proc | grep -cE '^[0-9]+$' >&2; exit 4")).code, Some(4));
    assert_eq!(bed.out("code"), b"out\n");
    assert_eq!(agent.run("signal", fenced("kill -USR1 $$")).signal, Some(libc::SIGUSR1));
    let end = agent.run("absent", Spec { argv: vec!["/no/such".into()], ..fenced("") });
    assert!(end.message.contains("execve /no/such: No such file"), "{}", end.message);
    agent.start("stop", fenced("trap 'exit 6' TERM; echo > ready; while :; do sleep 0.02; done"));
    bed.wait_for_file("stop", "ready");
    agent.stop("stop", None);
    assert_eq!(agent.ended("stop").code, Some(6));
    assert_eq!(agent.run("swept", fenced(&format!("{STRAY} while [ ! -s stray ]; do sleep 0.02; done"))).code, Some(0));
    assert_eq!(bed.tasks(), Vec::<u32>::new());
}

/// The executable of a process.
fn exe_of(pid: u32) -> std::path::PathBuf {
    std::fs::read_link(format!("/proc/{pid}/exe")).unwrap()
}

#[test]
fn an_upgrade_keeps_what_runs_and_replaces_who_is_idle() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    agent.send(&Request::Warm { monitors: 2 });
    until("warm monitors", || (bed.keepers().len() == 3).then_some(()));
    agent.start("a", sh(GATED));
    let process = agent.spawned("a");
    bed.wait_for_file("a", "ready");
    let busy = monitor_of(&bed, "a");
    let copy = bed.dir.join("another-keeper");
    std::fs::copy(Bed::exe(), &copy).unwrap();
    agent.send(&Request::Upgrade { exe: copy.to_str().unwrap().into() });
    agent.wait_closed();
    let mut after = bed.agent();
    let copy = copy.canonicalize().unwrap();
    assert_eq!(after.keeper, agent.keeper);
    assert_eq!(exe_of(after.keeper), copy);
    assert_eq!(std::fs::read_to_string(format!("/proc/{}/comm", after.keeper)).unwrap(), "keeper\n");
    assert_eq!(after.listed("a"), Some(ListedState::Running(process)));
    // Forks of the image before end, except the one that is needed; two of the new one are kept warm as ordered.
    let is_new =
        |pid: &u32| *pid == busy || std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == copy);
    until("the pool is new", || {
        let all = bed.keepers();
        (all.len() == 4 && all.contains(&busy) && all.iter().all(is_new)).then_some(())
    });
    assert_ne!(exe_of(busy), copy);
    open_gate(&bed, "a");
    assert_eq!(after.ended("a").code, Some(5));
    until("the old monitor's end", || (!runs(busy)).then_some(()));
    assert_eq!(after.run("b", sh("exit 1")).code, Some(1));
}

#[test]
fn an_upgrade_to_what_cannot_be_run_leaves_everything_as_it_is() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    agent.start("a", sh(GATED));
    bed.wait_for_file("a", "ready");
    agent.send(&Request::Upgrade { exe: "/no/such/keeper".into() });
    agent.wait_closed();
    let mut after = bed.agent();
    assert_eq!(after.keeper, agent.keeper);
    open_gate(&bed, "a");
    assert_eq!(after.ended("a").code, Some(5));
}

#[test]
fn an_end_and_an_order_that_meet_an_upgrade_are_not_lost() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    for name in ["stopped", "ended"] {
        agent.start(name, sh(GATED));
        bed.wait_for_file(name, "ready");
    }
    // One after the other in one stream: the order leaves before the image is replaced, its effect comes after; and the other ends
    // somewhere in between.
    agent.stop("stopped", None);
    open_gate(&bed, "ended");
    agent.send(&Request::Upgrade { exe: Bed::exe().into() });
    agent.wait_closed();
    let mut after = bed.agent();
    let mut end_of = |name: &str| match after.listed(name) {
        Some(ListedState::Ended(end)) => end,
        _ => after.ended(name),
    };
    assert_eq!(end_of("stopped").reason, EndReason::Cancelled);
    assert_eq!(end_of("ended").code, Some(5));
    bed.wait_until_empty();
}

#[test]
fn a_keeper_tells_its_version() {
    let output = std::process::Command::new(Bed::exe()).arg("--version").output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), launch::version_line());
}

#[test]
fn a_second_keeper_is_refused_with_a_clear_line() {
    let mut bed = Bed::new();
    let agent = bed.agent();
    let output = bed.command().output().unwrap();
    assert_eq!(output.status.code(), Some(launch::EXIT_TAKEN));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.trim(), format!("keeper: another keeper owns {}", bed.dir.display()));
    assert!(runs(agent.keeper));
}

#[test]
fn many_agents_launch_one_keeper() {
    let bed = Bed::new();
    let exe = std::path::Path::new(Bed::exe());
    std::thread::scope(|scope| {
        let tries: Vec<_> = (0..6).map(|_| scope.spawn(|| launch::ensure(&bed.dir, exe).unwrap())).collect();
        tries.into_iter().for_each(|one| drop(one.join().unwrap()));
    });
    until("one keeper", || {
        let all = bed.keepers();
        let comm = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        (all.iter().filter(|pid| comm(pid) == "keeper\n").count() == 1).then_some(())
    });
}

#[test]
fn a_data_directory_may_have_a_long_path() {
    let dir = std::env::temp_dir().join(format!("keeper-test-{}-{}", std::process::id(), "long/".repeat(40)));
    let mut bed = Bed::at(dir);
    assert_eq!(bed.agent().run("a", sh("exit 3")).code, Some(3));
    let root = std::env::temp_dir().join(format!("keeper-test-{}-long", std::process::id()));
    drop(bed);
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn a_vanished_directory_ends_everything() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    agent.start("a", sh(&format!("{STRAY} trap '' TERM; echo > ready; while :; do sleep 0.05; done")));
    bed.wait_for_file("a", "ready");
    // Removed under the task's feet; what it writes meanwhile may need a second pass.
    until("the removal", || std::fs::remove_dir_all(&bed.dir).is_ok().then_some(()));
    until("no keeper left", || bed.keepers().is_empty().then_some(()));
    bed.wait_until_empty();
}

#[test]
fn vanished_attempts_end_everything() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    agent.start("a", sh(&format!("{STRAY} trap '' TERM; echo > ready; while :; do sleep 0.05; done")));
    bed.wait_for_file("a", "ready");
    let attempts = bed.dir.join(record::ATTEMPTS);
    until("the removal", || std::fs::remove_dir_all(&attempts).is_ok().then_some(()));
    until("no keeper left", || bed.keepers().is_empty().then_some(()));
    bed.wait_until_empty();
    // The next one begins anew.
    assert_eq!(bed.agent().run("b", sh("exit 1")).code, Some(1));
}

#[test]
fn an_idle_keeper_leaves_and_one_with_an_agent_or_an_attempt_stays() {
    let mut bed = Bed::with_idle_ms(100);
    let mut agent = bed.agent();
    agent.start("a", sh(GATED));
    bed.wait_for_file("a", "ready");
    let keeper = agent.keeper;
    drop(agent);
    // Longer than the idle time: the attempt holds it.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let mut agent = bed.agent();
    assert_eq!(agent.keeper, keeper);
    open_gate(&bed, "a");
    assert_eq!(agent.ended("a").code, Some(5));
    drop(agent);
    until("the keeper's exit", || bed.keepers().is_empty().then_some(()));
    assert!(!bed.dir.join(launch::SOCKET).exists());
}

#[test]
fn sigterm_is_announced_and_a_second_one_stops_what_runs() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    agent.start("a", sh("trap 'exit 8' TERM; echo > ready; while :; do sleep 0.02; done"));
    bed.wait_for_file("a", "ready");
    signal(agent.keeper, libc::SIGTERM);
    agent.terminating();
    agent.start("b", sh("true"));
    assert_eq!(agent.refused("b").0, Refusal::Terminating);
    signal(agent.keeper, libc::SIGTERM);
    let end = agent.ended("a");
    assert_eq!((end.code, end.reason), (Some(8), EndReason::Drained));
    agent.wait_closed();
    until("all gone", || bed.keepers().is_empty().then_some(()));
}

#[test]
fn a_shutdown_waits_or_stops_as_ordered() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    agent.start("a", sh(GATED));
    bed.wait_for_file("a", "ready");
    agent.send(&Request::Shutdown { stop_tasks: false });
    let keeper = agent.keeper;
    // A new agent cancels it.
    let mut agent = bed.agent();
    assert_eq!(agent.keeper, keeper);
    assert_eq!(agent.run("b", sh("exit 1")).code, Some(1));
    agent.send(&Request::Shutdown { stop_tasks: true });
    assert_eq!(agent.ended("a").reason, EndReason::Drained);
    agent.wait_closed();
}

#[test]
fn the_newer_agent_counts() {
    let mut bed = Bed::new();
    let mut old = bed.agent();
    let mut new = bed.agent();
    old.wait_closed();
    assert_eq!(new.run("a", sh("exit 1")).code, Some(1));
}

#[test]
fn a_connection_that_says_nothing_takes_nothing_from_the_agent() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    // More than the keeper holds; the oldest of them are closed for it.
    let mut silent: Vec<_> = (0..6).map(|_| keeper::launch::connect(&bed.dir).unwrap().unwrap()).collect();
    for stream in &mut silent[..2] {
        stream.set_read_timeout(Some(kit::PATIENCE)).unwrap();
        assert_eq!(std::io::Read::read(stream, &mut [0; 1]).unwrap(), 0);
    }
    let mut wrong = keeper::launch::connect(&bed.dir).unwrap().unwrap();
    std::io::Write::write_all(&mut wrong, &codec::frame(&codec::encode_request(&Request::Warm { monitors: 1 })))
        .unwrap();
    wrong.set_read_timeout(Some(kit::PATIENCE)).unwrap();
    assert_eq!(std::io::Read::read(&mut wrong, &mut [0; 1]).unwrap(), 0);
    drop(silent);
    assert!(keeper::launch::is_running(&bed.dir));
    assert_eq!(agent.run("a", sh("exit 1")).code, Some(1));
}

#[test]
fn a_record_of_another_boot_is_lost_and_nobody_is_killed_for_it() {
    let mut bed = Bed::new();
    let mut innocent = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let stat = keeper::identity::stat(innocent.id()).unwrap();
    let process = ProcessId {
        boot_id: "00000000-0000-0000-0000-000000000000".into(),
        pid_ns: keeper::identity::Place::here().unwrap().pid_ns,
        pid: innocent.id(),
        start_ticks: stat.start_ticks,
        wall_ms: 0,
    };
    let dir = bed.attempt("a");
    std::fs::create_dir_all(&dir).unwrap();
    let holder = Holder { monitor: process.clone(), cgroup: String::new() };
    let handle = std::fs::File::open(&dir).unwrap();
    let writer = Writer::create(std::os::fd::AsFd::as_fd(&handle), &holder, &codec::encode_spec(&sh("x"))).unwrap();
    writer.spawned(&process, None).unwrap();
    drop(writer);
    let mut agent = bed.agent();
    if agent.listed("a") != Some(ListedState::Lost) {
        agent.lost("a");
    }
    let alive = innocent.try_wait().unwrap().is_none();
    innocent.kill().unwrap();
    innocent.wait().unwrap();
    assert!(alive);
}

#[test]
fn a_record_that_was_copied_is_lost_and_what_runs_for_the_first_is_left_alone() {
    let mut bed = Bed::new();
    let mut innocent = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let place = keeper::identity::Place::here().unwrap();
    let process = place.identify(innocent.id()).unwrap();
    let holder = Holder { monitor: process.clone(), cgroup: String::new() };
    // Made where it is found under another name, as agents prepare them; made elsewhere, with and without an end.
    let made = |name: &str, end: Option<&End>| {
        let first = bed.attempt(name);
        std::fs::create_dir_all(&first).unwrap();
        let handle = std::fs::File::open(&first).unwrap();
        let writer = Writer::create(std::os::fd::AsFd::as_fd(&handle), &holder, &codec::encode_spec(&sh("x"))).unwrap();
        writer.spawned(&process, None).unwrap();
        end.into_iter().for_each(|end| writer.exit(end, false).unwrap());
        let copy = bed.attempt(&format!("{name}-copy"));
        std::fs::create_dir_all(&copy).unwrap();
        std::fs::copy(first.join(record::FILE), copy.join(record::FILE)).unwrap();
        std::fs::remove_dir_all(&first).unwrap();
    };
    made("a", None);
    made("b", Some(&End { code: Some(4), ..End::default() }));
    let mut agent = bed.agent();
    assert_eq!(agent.listed("a-copy"), Some(ListedState::Lost));
    let Some(ListedState::Ended(end)) = agent.listed("b-copy") else { panic!("{:?}", agent.listing) };
    assert_eq!(end.code, Some(4));
    let alive = innocent.try_wait().unwrap().is_none();
    innocent.kill().unwrap();
    innocent.wait().unwrap();
    assert!(alive);
    agent.run("c", sh("exit 1"));
}

#[test]
fn an_agents_death_disturbs_nothing_and_its_successor_learns_all() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    agent.start("a", sh("exit 4"));
    agent.start("b", sh(GATED));
    drop(agent);
    bed.wait_for_file("b", "ready");
    // Its monitor may be slower than that of b, and have no record yet.
    until("the end of a", || record::read(&bed.attempt("a")).ok()?.end);
    let mut agent = bed.agent();
    let Some(ListedState::Ended(end)) = agent.listed("a") else { panic!("{:?}", agent.listing) };
    assert_eq!(end.code, Some(4));
    // Its spawn may be on the way still.
    match agent.listed("b") {
        Some(ListedState::Running(_)) => {}
        Some(ListedState::Starting) => drop(agent.spawned("b")),
        other => panic!("{other:?}"),
    }
    open_gate(&bed, "b");
    assert_eq!(agent.ended("b").code, Some(5));
}

#[test]
fn a_keeper_without_descriptors_lets_connections_wait_and_sleeps() {
    let mut bed = Bed::new();
    let agent = bed.agent();
    let keeper = rustix::process::Pid::from_raw(agent.keeper.cast_signed());
    drop(agent);
    // It has as many as it may; so has this process, which started it.
    let all = getrlimit(Resource::Nofile);
    let limit = |current| prlimit(keeper, Resource::Nofile, Rlimit { current, ..all }).unwrap();
    limit(Some(3));
    let begin_ns = boottime_ns();
    let waiting = launch::connect(&bed.dir).unwrap().unwrap();
    let refusals = |bed: &Bed| {
        let log = std::fs::read_to_string(bed.dir.join("keeper.log")).unwrap_or_default();
        log.matches("a connection cannot be taken").count()
    };
    until("it looks again", || (refusals(&bed) > 1).then_some(()));
    // Once a second, and not as often as epoll tells of it.
    let found = refusals(&bed);
    let most = 2 + usize::try_from((boottime_ns() - begin_ns) / 1_000_000_000).unwrap();
    assert!(found <= most, "{found} times, at most {most}");
    drop(waiting);
    limit(all.maximum);
    let mut agent = bed.agent();
    agent.start("a", sh("exit 3"));
    assert_eq!(agent.ended("a").code, Some(3));
}
