//! One attempt and its end, through the real keeper.
#![allow(clippy::unwrap_used, reason = "tests")]

mod kit;

use keeper::wire::{EndReason, File, Limits, ListedState, LogPolicy, Refusal, Spec, StopTarget};
use kit::{Bed, runs, sh};

#[test]
fn exit_codes_signals_and_log_bytes_arrive() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    let end = agent.run("a", sh("printf 'one\\ntwo'; printf oops >&2; exit 7"));
    assert_eq!((end.code, end.signal, end.reason), (Some(7), None, EndReason::Exited));
    assert_eq!((end.out_bytes, end.err_bytes, end.truncated), (7, 4, false));
    assert_eq!(bed.out("a"), b"one\ntwo");
    assert_eq!(std::fs::read(bed.attempt("a").join("err")).unwrap(), b"oops");
    let end = agent.run("b", sh("kill -SEGV $$"));
    assert_eq!((end.code, end.signal, end.oom), (None, Some(libc::SIGSEGV), false));
    let process = agent.spawned("a");
    assert_eq!(bed.record("a").spawned, Some(process));
    assert_eq!(bed.agent().listed("b"), Some(ListedState::Ended(end)));
}

#[test]
fn a_start_is_told_at_once_whatever_the_last_attempt_of_its_monitor_left_pending() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    let nowhere = Spec { cwd: "/nonexistent".into(), ..sh("true") };
    assert_eq!(agent.run("a", nowhere).reason, EndReason::SpawnFailed);
    agent.start("b", sh("exec sleep 777"));
    agent.spawned("b");
    agent.stop("b", Some(0));
    agent.ended("b");
    assert_eq!(agent.run("c", sh("setsid sleep 777 & echo done")).code, Some(0));
    // Children of its own that end early are no reason to keep quiet either.
    agent.start("d", sh("(true &); exec sleep 777"));
    agent.spawned("d");
    agent.stop("d", Some(0));
    agent.ended("d");
}

#[test]
fn a_task_finds_its_files_directory_environment_and_default_signals() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    let spec = Spec {
        files: vec![File {
            name: "script".into(),
            mode: 0o755,
            content: b"#!/bin/sh\npwd; echo $TASK_DIR $X\n".to_vec(),
        }],
        argv: vec!["./script".into()],
        env: vec![("X".into(), "y z".into())],
        note: b"kept".to_vec(),
        ..Spec::default()
    };
    assert_eq!(agent.run("a", spec.clone()).code, Some(0));
    let work = kit::canonical(&bed.attempt("a").join("work"));
    assert_eq!(String::from_utf8(bed.out("a")).unwrap(), format!("{work}\n{work} y z\n"));
    assert_eq!(bed.record("a").spec, Some(spec));
    let script = "grep -E 'Sig(Blk|Ign)' /proc/self/status | tr -d '\\t'; ls /proc/self/fd | wc -l";
    assert_eq!(agent.run("b", sh(script)).code, Some(0));
    let text = String::from_utf8(bed.out("b")).unwrap();
    let mask = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        u64::from_str_radix(line, 16).unwrap()
    };
    // 32 and 33 belong to the C library, which lets nobody reset them.
    assert_eq!((mask("SigBlk:"), mask("SigIgn:") & !(0b11 << 31)), (0, 0), "{text}");
    // 0, 1, 2 and the directory that ls itself reads: nothing of ours leaked.
    assert!(text.ends_with("4\n"), "{text}");
}

#[test]
fn a_start_may_be_as_large_as_a_frame() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    let content = vec![b'x'; 900 << 10];
    let file = File { name: "big".into(), mode: 0o600, content };
    assert_eq!(agent.run("a", Spec { files: vec![file], ..sh("wc -c < big") }).code, Some(0));
    assert_eq!(bed.out("a"), format!("{}\n", 900 << 10).as_bytes());
}

#[test]
fn a_repeated_start_is_told_so_while_running_and_after_the_end() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    agent.start("a", sh("read x < gate; exit 3"));
    agent.spawned("a");
    agent.start("a", sh("exit 4"));
    assert_eq!(agent.refused("a").0, Refusal::Exists);
    agent.stop("a", Some(0));
    agent.ended("a");
    agent.start("a", sh("exit 4"));
    assert_eq!(agent.refused("a").0, Refusal::Exists);
}

#[test]
fn spawn_errors_name_call_and_object() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    let argv = |argv: &[&str]| Spec { argv: argv.iter().map(|text| (*text).into()).collect(), ..sh("") };
    let cases = [
        ("absent", argv(&["no-such-program"]), "execve no-such-program: No such file"),
        ("denied", argv(&["/etc/passwd"]), "execve /etc/passwd: Permission denied"),
        ("nowhere", Spec { cwd: "/no/such/dir".into(), ..argv(&["true"]) }, "chdir /no/such/dir: No such file"),
        ("long", argv(&["true", &"x".repeat(200_000)]), "execve true: Argument list too long"),
        (
            "file",
            Spec { files: vec![File { name: "x".repeat(300), ..File::default() }], ..argv(&["true"]) },
            "File name too long",
        ),
    ];
    for (name, spec, wanted) in cases {
        let end = agent.run(name, spec);
        assert_eq!((end.reason, end.code), (EndReason::SpawnFailed, None), "{name}");
        assert!(end.message.contains(wanted), "{name}: {}", end.message);
        assert_eq!(bed.record(name).state(), ListedState::Ended(end));
    }
    assert_eq!(agent.run("fine", sh("exit 0")).code, Some(0));
}

#[test]
fn wrong_requests_are_refused_and_garbage_costs_only_its_connection() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    agent.start("../x", sh("true"));
    assert_eq!(agent.refused("../x").0, Refusal::Invalid);
    agent.start("empty", Spec::default());
    assert_eq!(agent.refused("empty").0, Refusal::Invalid);
    agent.start("nul", Spec { argv: vec!["a\0b".into()], ..Spec::default() });
    assert_eq!(agent.refused("nul").0, Refusal::Invalid);
    let keeper = agent.keeper;
    agent.send_raw(&[0xff; 64]);
    agent.wait_closed();
    assert_eq!(bed.agent().keeper, keeper);
}

#[test]
fn a_stop_is_polite_and_then_not() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    agent.start("polite", sh("trap 'echo bye; exit 9' TERM; echo > ready; while :; do sleep 0.05; done"));
    bed.wait_for_file("polite", "ready");
    agent.stop("polite", None);
    let end = agent.ended("polite");
    assert_eq!((end.code, end.reason), (Some(9), EndReason::Cancelled));
    assert_eq!(bed.out("polite"), b"bye\n");
    agent.start("deaf", sh("trap '' TERM; echo > ready; while :; do sleep 0.05; done"));
    bed.wait_for_file("deaf", "ready");
    agent.stop("deaf", Some(100));
    let end = agent.ended("deaf");
    assert_eq!((end.code, end.signal, end.reason), (None, Some(libc::SIGKILL), EndReason::Cancelled));
    assert!(end.ran_ms >= 100);
    bed.wait_until_empty();
}

#[test]
fn the_stop_target_is_the_group_or_the_main_process() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    let script = "trap 'sleep 0.3; exit 5' USR1; \
                  sh -c 'trap \"echo child > child; exit\" USR1; echo > ready; while :; do sleep 0.02; done' & \
                  wait; wait";
    for (name, target, told) in [("group", StopTarget::Group, true), ("main", StopTarget::Main, false)] {
        agent.start(name, Spec { stop_signal: libc::SIGUSR1, stop_target: target, ..sh(script) });
        bed.wait_for_file(name, "ready");
        agent.stop(name, None);
        assert_eq!(agent.ended(name).code, Some(5), "{name}");
        assert_eq!(bed.attempt(name).join("work/child").exists(), told, "{name}");
    }
    bed.wait_until_empty();
}

#[test]
fn nothing_is_left_behind_and_an_open_stdout_does_not_hold_the_end() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    let end = agent.run(
        "a",
        sh("setsid sh -c 'trap \"\" TERM HUP; echo $$ > pid; exec sleep 1000' & sleep 1000 & \
                                 while [ ! -s pid ]; do sleep 0.01; done; exit 2"),
    );
    assert_eq!(end.code, Some(2));
    // The end was told: the sweep is complete at this very moment.
    assert_eq!(bed.tasks(), Vec::<u32>::new());
    let pid = bed.wait_for_file("a", "pid").parse().unwrap();
    assert!(!runs(pid));
    assert_eq!(agent.run("b", sh("exit 0")).code, Some(0));
}

#[test]
fn a_timeout_ends_the_attempt() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    let end = agent.run("a", Spec { timeout_ms: 200, ..sh("sleep 1000") });
    assert_eq!((end.signal, end.reason), (Some(libc::SIGTERM), EndReason::TimedOut));
    assert!((200..10_000).contains(&end.ran_ms));
}

#[test]
fn the_head_or_the_tail_of_a_log_is_kept() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    let cap = 64 << 10;
    let script =
        "i=0; while [ $i -lt 40 ]; do head -c 8192 /dev/zero | tr '\\0' $((i % 10)); i=$((i+1)); sleep 0.02; done";
    let end = agent.run("head", Spec { log_cap_bytes: cap, ..sh(script) });
    assert_eq!((end.truncated, end.out_bytes, end.out_base), (true, cap, 0));
    let kept = bed.out("head");
    assert_eq!(kept.len() as u64, cap);
    assert!(kept.starts_with(&[b'0'; 8192]));
    let end = agent.run("tail", Spec { log_cap_bytes: cap, log_policy: LogPolicy::KeepTail, ..sh(script) });
    if end.truncated {
        println!("tail: skipped, this file system makes no holes");
        return;
    }
    assert_eq!((end.out_bytes, end.out_base % 4096), (40 * 8192, 0));
    assert!(end.out_base > 0 && end.out_bytes - end.out_base <= cap);
    assert_eq!(bed.record("tail").bases, (end.out_base, 0));
    let out = bed.out("tail");
    assert_eq!(out.len(), 40 * 8192);
    assert!(out.ends_with(&[b'9'; 8192]) && out[..end.out_base as usize].iter().all(|byte| *byte == 0));
}

#[test]
fn a_memory_limit_ends_in_oom_and_a_crash_does_not() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    if agent.limits == Limits::Rlimits {
        println!("memory limit: skipped, no cgroup is writable here");
        return;
    }
    let limited =
        |script: &str| Spec { memory_limit_bytes: 32 << 20, pids_limit: 50, cpu_limit_millis: 900, ..sh(script) };
    let hungry = "x=0123456789abcdef; while :; do x=$x$x; done";
    let end = agent.run("oom", limited(hungry));
    assert_eq!((end.signal, end.oom), (Some(libc::SIGKILL), true));
    let end = agent.run("crash", limited("kill -KILL $$"));
    assert_eq!((end.signal, end.oom), (Some(libc::SIGKILL), false));
    assert_eq!(agent.run("free", sh("exit 0")).code, Some(0));
}

#[test]
fn a_process_that_forks_faster_than_it_is_killed_is_killed() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    if agent.limits == Limits::Rlimits {
        println!("fork bomb: skipped, nothing here would bound it");
        return;
    }
    // Each one replaces itself by two in sessions of their own; the limit keeps the machine usable.
    let script = "printf '#!/bin/sh\\nsetsid ./bomb & setsid ./bomb & exit\\n' > bomb; chmod +x bomb; ./bomb; echo > ready; sleep 0.2";
    let end = agent.run("a", Spec { pids_limit: 60, ..sh(script) });
    assert_eq!(end.reason, EndReason::Exited);
    assert_eq!(bed.tasks(), Vec::<u32>::new());
    assert_eq!(agent.run("b", sh("exit 1")).code, Some(1));
}

#[test]
fn thousands_of_starts_are_all_answered() {
    let mut bed = Bed::new();
    let mut agent = bed.agent();
    let names: Vec<String> = (0..1500).map(|number| format!("n{number}")).collect();
    for chunk in names.chunks(8) {
        for name in chunk {
            agent.start(name, Spec { argv: vec!["/bin/true".into()], ..Spec::default() });
        }
        for name in chunk {
            assert_eq!(agent.ended(name).code, Some(0));
            agent.spawned(name);
        }
    }
    assert_eq!(agent.seen, Vec::new());
    assert_eq!(bed.agent().listing.len(), names.len());
    for name in &names {
        keeper::record::purge(&bed.dir, name).unwrap();
    }
    assert_eq!(bed.agent().listing.len(), 0);
}
