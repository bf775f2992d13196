use super::*;
use keeper::wire::{End, EndReason, LogPolicy, OnDisconnect, StopTarget};
use proto::{
    id::TaskId,
    v1::{Reason, task_spec::Kind},
};
use std::{
    collections::BTreeMap,
    fs,
    sync::atomic::{AtomicU32, Ordering},
};

fn command(argv: &[&str]) -> v1::TaskSpec {
    let argv = argv.iter().map(|&argument| argument.to_owned()).collect();
    v1::TaskSpec { kind: Some(Kind::Command(v1::Command { argv })), ..Default::default() }
}

fn planned(spec: &v1::TaskSpec) -> Result<wire::Spec, Error> {
    let base_env = [("PATH", "/bin"), ("HOME", "/root")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    plan(&Plan {
        attempt: AttemptId { task: TaskId::from_u128(1), number: 3 },
        fence: Fence { epoch: 4, n: 5 },
        task_name: "nightly",
        item: None,
        crun: None,
        spec,
        data_dir: Path::new("/data"),
        exe: Path::new("/usr/bin/sidecar"),
        base_env: &base_env,
        fence_grace_ms: 5000,
    })
}

const ATTEMPT_DIR: &str = "/data/attempts/00000000-0000-0000-0000-000000000001.3";

#[test]
fn a_command_sees_its_own_world() {
    let mut spec = command(&["echo", "a b"]);
    let env = [("HOME", "/home/u"), ("INFORMER_FENCE", "9.9"), ("TASK_DIR", "/x"), ("MINE", "1")];
    spec.env = env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let spec = planned(&spec).expect("a plan");
    assert_eq!((spec.argv, spec.files), (vec!["echo".to_owned(), "a b".to_owned()], vec![]));
    let env: BTreeMap<&str, &str> = spec.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let work = format!("{ATTEMPT_DIR}/work");
    let result = format!("{work}/.task-result.json");
    let expected = [
        ("PATH", "/bin"),
        ("HOME", "/home/u"),
        ("MINE", "1"),
        ("INFORMER_TASK_ID", "00000000-0000-0000-0000-000000000001"),
        ("INFORMER_TASK_NAME", "nightly"),
        ("INFORMER_ATTEMPT", "3"),
        ("INFORMER_FENCE", "4.5"),
        ("SIDECAR_SOCKET", "/data/sidecar.sock"),
        ("TASK_OUTPUTS", work.as_str()),
        ("TASK_RESULT", result.as_str()),
    ];
    assert_eq!(env, BTreeMap::from(expected));
}

#[test]
fn a_script_becomes_a_file() {
    let script = v1::Script { interpreter: String::new(), body: "echo $1\n".to_owned(), args: vec!["x".to_owned()] };
    let spec = planned(&v1::TaskSpec { kind: Some(Kind::Script(script)), ..Default::default() }).expect("a plan");
    assert_eq!(spec.argv, ["/bin/sh".to_owned(), format!("{ATTEMPT_DIR}/work/script"), "x".to_owned()]);
    let [file] = &spec.files[..] else { panic!("one file") };
    assert_eq!((file.name.as_str(), file.mode, file.content.as_slice()), ("script", 0o700, b"echo $1\n".as_slice()));
}

#[test]
fn defaults_and_settings_reach_the_keeper() {
    let spec = planned(&command(&["x"])).expect("a plan");
    assert_eq!((spec.stop_grace_ms, spec.log_cap_bytes), (bounds::STOP_GRACE_MS, bounds::LOG_CAP_DEFAULT_BYTES));
    assert_eq!((spec.on_disconnect, spec.log_policy), (OnDisconnect::Continue, LogPolicy::KeepHead));

    let mut spec = command(&["x"]);
    spec.stop = Some(v1::Stop { signal: 2, grace_ms: 7, main_only: true });
    spec.limits = Some(v1::Limits { cpu_millis: 1, memory_bytes: 2, pids: 3 });
    spec.timeouts = Some(v1::Timeouts { attempt_ms: 4, ..Default::default() });
    spec.exclusive = true;
    let spec = planned(&spec).expect("a plan");
    assert_eq!((spec.stop_signal, spec.stop_grace_ms, spec.stop_target), (2, 7, StopTarget::Main));
    assert_eq!((spec.cpu_limit_millis, spec.memory_limit_bytes, spec.pids_limit, spec.timeout_ms), (1, 2, 3, 4));
    assert_eq!((spec.on_disconnect, spec.fence_grace_ms, spec.without_lease), (OnDisconnect::Stop, 5000, false));
}

#[test]
fn a_service_keeps_its_tail_and_has_no_timeout() {
    let service = v1::Service { argv: vec!["serve".to_owned()], ..Default::default() };
    let timeouts = Some(v1::Timeouts { attempt_ms: 4, ..Default::default() });
    let spec = v1::TaskSpec { kind: Some(Kind::Service(service)), timeouts, ..Default::default() };
    let spec = planned(&spec).expect("a plan");
    assert_eq!((spec.log_policy, spec.timeout_ms), (LogPolicy::KeepTail, 0));
}

#[test]
fn what_cannot_run_is_refused() {
    assert!(matches!(planned(&v1::TaskSpec::default()), Err(Error::UnknownKind)));
    assert!(matches!(planned(&command(&[])), Err(Error::EmptyArgv { kind: "command" })));
}

#[test]
fn the_inherited_environment_is_an_allow_list() {
    let env = base_env();
    assert!(env.iter().any(|(name, value)| name == "PATH" && !value.is_empty()));
    assert!(!env.iter().any(|(name, _)| name.starts_with("CARGO")), "cargo sets many, and none may pass");
}

/// An attempt's directory with a log, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new(label: &str, err: &[u8]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("exec-{}-{n}-{label}", std::process::id()));
        fs::create_dir_all(path.join("work")).expect("a temporary directory");
        fs::write(path.join("err"), err).expect("a log");
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

fn told(end: &End, err: &[u8]) -> (Reason, String) {
    let dir = Dir::new("told", err);
    let ending = ending(&dir.0, &command(&["x"]), end);
    (ending.reason(), ending.message)
}

#[test]
fn a_result_goes_with_the_end_and_a_wrong_one_is_no_success() {
    let dir = Dir::new("result", b"");
    let file = dir.0.join("work").join(result::FILE);
    let exited = |code| End { code: Some(code), ..End::default() };
    let told = |end: &End| ending(&dir.0, &command(&["x"]), end);
    fs::write(&file, r#"{"a":1}"#).expect("written");
    for code in [0, 3] {
        assert_eq!(told(&exited(code)).result, br#"{"a":1}"#);
    }
    assert!(told(&End { reason: EndReason::Cancelled, ..End::default() }).result.is_empty());
    fs::write(&file, "[1]").expect("written");
    let wrong = told(&exited(0));
    assert_eq!((wrong.reason(), wrong.exit_code, wrong.result.len()), (Reason::Output, Some(0), 0));
    assert!(wrong.message.contains("no JSON object"), "{}", wrong.message);
    assert_eq!(told(&exited(3)).reason(), Reason::ExitCode);
}

#[test]
fn ends_are_classified() {
    let exited = |code, signal, oom| End { code, signal, oom, ..End::default() };
    let cases = [
        (exited(Some(0), None, false), Reason::Unspecified, ""),
        (exited(Some(0), None, true), Reason::Unspecified, ""),
        (exited(Some(3), None, false), Reason::ExitCode, "exit code 3: no such host"),
        (exited(None, Some(11), false), Reason::Signal, "ended by SIGSEGV (11): no such host"),
        (exited(None, Some(9), true), Reason::Oom, "out of memory: the kernel ended it"),
        (exited(Some(137), None, true), Reason::Oom, "out of memory: the kernel ended it"),
        (exited(None, None, false), Reason::Lost, "its end was recorded without a code or a signal"),
    ];
    for (end, reason, message) in cases {
        assert_eq!(told(&end, b"first\nno such host\n\n"), (reason, message.to_owned()), "{end:?}");
    }
    let reasons = [
        (EndReason::SpawnFailed, Reason::Spawn),
        (EndReason::TimedOut, Reason::Timeout),
        (EndReason::Cancelled, Reason::Cancelled),
        (EndReason::Fenced, Reason::Fenced),
        (EndReason::Revoked, Reason::Revoked),
        (EndReason::Drained, Reason::Drained),
        (EndReason::Stalled, Reason::Stalled),
        (EndReason::Unhealthy, Reason::Unhealthy),
    ];
    for (why, reason) in reasons {
        // Even an orderly exit after our signal is our doing.
        let end = End { code: Some(0), reason: why, message: "execve: ENOENT".to_owned(), ..End::default() };
        assert_eq!(told(&end, b"").0, reason);
    }
}

#[test]
fn a_message_is_one_bounded_line() {
    let end = End { code: Some(1), ..End::default() };
    let (_, message) = told(&end, &[b"\x1b[31m".as_slice(), "é".repeat(10_000).as_bytes(), b"\xff"].concat());
    assert!(message.len() <= 400 && message.ends_with('…') && !message.contains(char::is_control), "{message}");
}

#[test]
fn a_transcode_is_judged_by_what_it_left() {
    let transcode = v1::Transcode { input: "/i".to_owned(), output: "/o.mp4".to_owned(), ..Default::default() };
    let spec = v1::TaskSpec { kind: Some(Kind::Transcode(transcode)), ..Default::default() };
    let dir = Dir::new("transcode", b"log line\n");
    let told = |code: i32| {
        let ending = ending(&dir.0, &spec, &End { code: Some(code), ..End::default() });
        (ending.reason(), ending.message)
    };
    assert_eq!(told(0), (Reason::Output, "exit code 0, but no output was staged".to_owned()));
    assert_eq!(told(70), (Reason::ExitCode, "exit code 70: log line".to_owned()));
    fs::write(dir.0.join("work").join(transcode::FAILURE_FILE), "its end\ncannot be decoded").expect("a reason");
    assert_eq!(told(76), (Reason::Output, "its end cannot be decoded".to_owned()));
    assert_eq!(told(69).0, Reason::Spawn);
    fs::write(dir.0.join("work/outputs.json"), "{").expect("a torn manifest");
    assert_eq!(told(0).0, Reason::Output);
}

#[test]
fn progress_from_a_users_process_is_checked() {
    let dir = Dir::new("progress", b"");
    let file = dir.0.join("work").join(transcode::PROGRESS_FILE);
    let kind = Some(Kind::Transcode(v1::Transcode::default()));
    let mut progress = Progress::new(kind.as_ref());
    assert_eq!(progress.read(&dir.0), None, "not there yet");
    for garbage in ["", "{", "x", "{\"permille\":-1}", &"x".repeat(100_000)] {
        fs::write(&file, garbage).expect("written");
        assert_eq!(progress.read(&dir.0), None, "{garbage:.20}");
    }
    fs::write(&file, r#"{"permille":5000,"speed":-2,"note":"a\nb","more":1}"#).expect("written");
    let read = progress.read(&dir.0).expect("progress");
    assert_eq!((read.permille, read.speed, read.note.as_str()), (1000, 0.0, "a b"));
    assert_eq!(Progress::new(command(&["x"]).kind.as_ref()).read(&dir.0), None);
}

#[test]
fn declared_outputs_and_array_members_show_in_the_environment() {
    let mut spec = command(&["./bin/tool"]);
    spec.cwd = "/elsewhere".to_owned();
    spec.inputs = vec![v1::Input { path: "bin/tool".to_owned(), ..Default::default() }];
    spec.outputs = vec![v1::Output { path: "o".to_owned(), ..Default::default() }];
    let plan = Plan {
        attempt: AttemptId { task: TaskId::from_u128(1).at(7).expect("a member"), number: 2 },
        fence: Fence { epoch: 4, n: 5 },
        task_name: "nightly",
        item: Some("line"),
        crun: None,
        spec: &spec,
        data_dir: Path::new("/data"),
        exe: Path::new("/usr/bin/sidecar"),
        base_env: &[],
        fence_grace_ms: 0,
    };
    let planned = super::plan(&plan).expect("a plan");
    let dir = format!("/data/attempts/{}", plan.attempt.dir_name());
    assert_eq!((planned.argv, planned.prepared), (vec![format!("{dir}/work/bin/tool")], true));
    let env: BTreeMap<String, String> = planned.env.into_iter().collect();
    let shown = |name: &str| env.get(name).map(String::as_str);
    assert_eq!(shown("TASK_OUTPUTS"), Some(format!("{dir}/outputs").as_str()));
    let array = ["INFORMER_ARRAY_ID", "INFORMER_ARRAY_INDEX", "INFORMER_ARRAY_ITEM"].map(shown);
    assert_eq!(array, [Some("00000000-0000-0000-0000-000000000001"), Some("7"), Some("line")]);
}

#[test]
fn a_newer_attempts_fence_stops_all_renames_and_two_names_of_one_file_are_told() {
    let dir = Dir::new("fence", b"");
    let attempt = |number| AttemptId { task: TaskId::from_u128(1), number };
    let declared = |name: &str| v1::Output {
        path: name.to_owned(),
        destination: dir.0.join("out").join(name).to_string_lossy().into_owned(),
        optional: false,
    };
    let spec = v1::TaskSpec { outputs: vec![declared("a"), declared("b")], ..Default::default() };
    fs::create_dir_all(dir.0.join("out")).expect("a directory");
    let stage = |number: u32| {
        let home = dir.0.join(attempt(number).dir_name());
        fs::create_dir_all(home.join("outputs")).expect("a directory");
        for name in ["a", "b"] {
            fs::write(home.join("outputs").join(name), format!("{number}")).expect("a file");
        }
        let fence = Fence { epoch: 1, n: u64::from(number) };
        let staging = outputs::Staging { attempt_dir: &home, spec: &spec, attempt: attempt(number), fence };
        let first = outputs::stage(&staging, &|| false).expect("staged");
        assert_eq!(outputs::stage(&staging, &|| false).expect("staged again"), first);
        home
    };
    let (one, two) = (stage(1), stage(2));
    publish(&two, &spec, attempt(2)).expect("published");
    publish(&two, &spec, attempt(2)).expect("published again");
    let late = publish(&one, &spec, attempt(1)).expect_err("fenced");
    assert!(late.starts_with("a newer attempt of the task has already published"), "{late}");
    let content = |name: &str| fs::read_to_string(dir.0.join("out").join(name)).expect("a file");
    assert_eq!((content("a"), content("b")), ("2".to_owned(), "2".to_owned()));
    discard(&spec, attempt(1)).expect("discarded");
    std::os::unix::fs::symlink("out", dir.0.join("also")).expect("a link");
    let mut twice = spec.clone();
    twice.outputs[1].destination = dir.0.join("also/a").to_string_lossy().into_owned();
    let home = dir.0.join("x");
    let staging =
        outputs::Staging { attempt_dir: &home, spec: &twice, attempt: attempt(3), fence: Fence { epoch: 1, n: 3 } };
    let same = outputs::stage(&staging, &|| false).expect_err("one file");
    assert!(matches!(same, outputs::Error::Same { .. }), "{same}");
    assert_eq!(fs::read_dir(dir.0.join("out")).expect("a directory").count(), 4, "outputs and fences");
}

#[test]
fn what_a_machine_lacks_is_told_from_what_a_task_names() {
    let dir = Path::new("/nowhere");
    let told = |spec: &v1::TaskSpec, message: &str| {
        let end = End { reason: EndReason::SpawnFailed, message: message.to_owned(), ..End::default() };
        ending(dir, spec, &end).machine_fault
    };
    let (plain, limited) = (
        v1::TaskSpec::default(),
        v1::TaskSpec { limits: Some(v1::Limits { memory_bytes: 1 << 20, ..Default::default() }), ..Default::default() },
    );
    for errno in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EAGAIN, libc::ENOSPC] {
        let error = std::io::Error::from_raw_os_error(errno);
        assert!(told(&plain, &format!("execve /bin/true: {error}")), "{error}");
        assert!(told(&plain, &format!("clone: {error}")), "{error}");
    }
    for errno in [libc::ENOENT, libc::EACCES, libc::ENOTDIR, libc::ENOEXEC, libc::E2BIG] {
        let error = std::io::Error::from_raw_os_error(errno);
        assert!(!told(&plain, &format!("execve /no/such: {error}")), "{error}");
        assert!(!told(&plain, &format!("chdir /no/such: {error}")), "{error}");
    }
    let memory = std::io::Error::from_raw_os_error(libc::ENOMEM);
    assert!(!told(&limited, &format!("execve /bin/true: {memory}")), "its own limit may be too small for it");
    assert!(tells_of_lack("input a: cannot copy /a: No space left on device (os error 28)"));
    assert!(!tells_of_lack("input a: connection refused (os error 111)") && !tells_of_lack("input a: (os error x)"));
    assert!(tells_of_wrong_limits("limits: writing 9 to /m: Invalid argument (os error 22)"));
    assert!(!tells_of_wrong_limits("limits: writing 9 to /m: Device or resource busy (os error 16)"));
}
