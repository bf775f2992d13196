//! Flags, and what becomes of them.

use clap::Parser;
use proto::v1::task_spec::Kind;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    task: TaskOptions,
}

fn request(line: &str) -> SubmitRequest {
    let words = std::iter::once("x").chain(line.split_whitespace());
    let line = Line::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
    line.task.order().expect("an order").request
}

fn spec(line: &str) -> TaskSpec {
    request(line).spec.expect("a spec")
}

#[test]
fn a_bare_command_says_nothing_but_what_and_who() {
    let request = request("-- echo -n hi");
    let spec = request.spec.expect("a spec");
    let owner = spec.owner.clone();
    assert!(!owner.is_empty());
    let argv = ["echo", "-n", "hi"].map(String::from).to_vec();
    let kind = Some(Kind::Command(v1::Command { argv }));
    assert_eq!(spec, TaskSpec { owner, kind, ..TaskSpec::default() });
}

#[test]
fn a_key_is_made_when_none_is_given_and_never_twice_the_same() {
    let (one, two) = (request("-- true").key, request("-- true").key);
    assert!(!one.is_empty() && one != two);
    assert_eq!(request("--key k -- true").key, "k");
}

#[test]
fn every_option_reaches_its_field() {
    let spec = spec(
        "--name n --owner o --label a=1 --label b=2 --require gpu=yes --cpu 500 --memory 512MiB --priority -5 --tries 7 \
         --timeout 90s --queue-timeout 1m --total-timeout 1h --progress-timeout 10s --env A=b=c --cwd /tmp --exclusive \
         --on-disconnect stop --accept-weak-fencing --stop-signal INT --stop-grace 3s --log-cap 1MiB --memory-limit 1GiB \
         --cpu-limit 2000 --pids-limit 64 --start-at 1970-01-01T00:00:05Z -- true",
    );
    let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let expected = TaskSpec {
        inputs: Vec::new(),
        outputs: Vec::new(),
        name: "n".into(),
        owner: "o".into(),
        labels: map(&[("a", "1"), ("b", "2")]),
        require: map(&[("gpu", "yes")]),
        resources: Some(v1::Resources { cpu_millis: 500, memory_bytes: 512 << 20 }),
        priority: -5,
        retry: Some(v1::Retry { max_attempts: 7, ..v1::Retry::default() }),
        timeouts: Some(v1::Timeouts { queue_ms: 60_000, attempt_ms: 90_000, total_ms: 3_600_000, progress_ms: 10_000 }),
        on_disconnect: v1::OnDisconnect::Stop.into(),
        exclusive: true,
        accept_weak_fencing: true,
        stop: Some(v1::Stop { signal: 2, grace_ms: 3_000, main_only: false }),
        env: map(&[("A", "b=c")]),
        cwd: "/tmp".into(),
        limits: Some(v1::Limits { cpu_millis: 2000, memory_bytes: 1 << 30, pids: 64 }),
        start_after_unix_ms: 5_000,
        start_after_ms: 0,
        log_cap_bytes: 1 << 20,
        replace_after_ms: 0,
        kind: Some(Kind::Command(v1::Command { argv: vec!["true".into()] })),
    };
    assert_eq!(spec, expected);
}

#[test]
fn a_delay_is_counted_by_the_informer() {
    let given = spec("--delay 1h -- true");
    assert_eq!((given.start_after_unix_ms, given.start_after_ms), (0, 3_600_000));
    assert_eq!(given, spec("--delay 1h -- true"), "so that a repetition under its key is the same task");
}

#[test]
fn nothing_to_run_and_contradictions_are_refused() {
    let empty = TaskOptions::default().order().expect_err("nothing to run");
    assert_eq!(empty.exit(), 2);
    for line in [
        "-f x -- true",
        "-f x --script y",
        "--interpreter sh -- true",
        "--delay 1s --start-at 1970-01-01T00:00:05Z -- true",
    ] {
        let words = std::iter::once("x").chain(line.split_whitespace());
        assert!(Line::try_parse_from(words).is_err(), "{line}");
    }
}

#[test]
fn a_script_brings_its_text_its_arguments_and_its_name() {
    let path = std::env::temp_dir().join(format!("hello-{}.sh", std::process::id()));
    std::fs::write(&path, "echo $1\n").expect("a file");
    let words = ["x", "--script", &path.to_string_lossy(), "--interpreter", "/bin/bash", "--", "a"].map(String::from);
    let spec =
        Line::try_parse_from(words).ok().and_then(|line| line.task.order().ok()).and_then(|order| order.request.spec);
    std::fs::remove_file(&path).expect("removed");
    let spec = spec.expect("a spec");
    let script = v1::Script { interpreter: "/bin/bash".into(), body: "echo $1\n".into(), args: vec!["a".into()] };
    assert_eq!(spec.kind, Some(Kind::Script(script)));
    assert_eq!(spec.name, path.file_name().expect("a name").to_string_lossy());
}

#[test]
fn a_missing_script_is_a_failure_that_names_it() {
    let options = TaskOptions {
        work: work::WorkOptions { script: Some("/nonexistent/x.sh".into()), ..Default::default() },
        ..TaskOptions::default()
    };
    let error = options.order().expect_err("no such file");
    assert!(error.to_string().starts_with("cannot read /nonexistent/x.sh: "), "{error}");
}

#[test]
fn a_type_a_container_and_an_executable_reach_their_fields() {
    let typed = spec("--type resize --input {\"w\":1} --name n");
    assert_eq!(typed.kind, Some(Kind::Typed(v1::Typed { r#type: "resize".into(), input: "{\"w\":1}".into() })));

    let container = spec("--image /img --mount /a:/b --mount /c:/d:rw --network host --user 1:2 -- ls /b");
    let mount = |source: &str, target: &str, writable| v1::container::Mount {
        source: source.into(),
        target: target.into(),
        writable,
    };
    let expected = v1::Container {
        image: "/img".into(),
        argv: vec!["ls".into(), "/b".into()],
        mounts: vec![mount("/a", "/b", false), mount("/c", "/d", true)],
        network: v1::container::Network::Host.into(),
        user: "1:2".into(),
    };
    assert_eq!(container.kind, Some(Kind::Container(expected)));

    let fetched = spec("--executable /bin/tool=bin/t --in /in/a.mp4 --out b.mp4=/out/b.mp4 -- a.mp4");
    assert_eq!(fetched.kind, Some(Kind::Command(v1::Command { argv: vec!["./bin/t".into(), "a.mp4".into()] })));
    let inputs: Vec<_> =
        fetched.inputs.iter().map(|input| (input.source.as_str(), input.path.as_str(), input.executable)).collect();
    assert_eq!(inputs, [("/bin/tool", "bin/t", true), ("/in/a.mp4", "", false)]);
    let output = v1::Output { path: "b.mp4".into(), destination: "/out/b.mp4".into(), optional: false };
    assert_eq!(fetched.outputs, [output]);
}

#[test]
fn work_that_contradicts_itself_is_refused() {
    for line in [
        "--type t -- true",
        "--image /i --type t",
        "--mount /a:/b -- true",
        "--image /i --mount a -- true",
        "--image /i --mount a:b -- true",
        "--script s --executable e",
        "-f x --type t",
        "--array 1-2 --each-line f -- true",
        "--array 2-1 -- true",
        "--in =x -- true",
    ] {
        let words = std::iter::once("x").chain(line.split_whitespace());
        assert!(Line::try_parse_from(words).is_err(), "{line}");
    }
    for line in [
        "--input x -- true",
        "--executable e --cwd /tmp",
        "--max-failures 1 -- true",
        "--image /i",
        "--type t --network host",
        "-f x --interpreter sh",
    ] {
        let words = std::iter::once("x").chain(line.split_whitespace());
        let options = Line::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")).task;
        assert_eq!(options.order().expect_err(line).exit(), 2, "{line}");
    }
}

#[test]
fn members_come_from_flags_over_the_file() {
    use crate::cli::array::Members;
    let array = |line: &str| {
        let words = std::iter::once("x").chain(line.split_whitespace());
        let line = Line::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
        line.task.order().expect("an order").array
    };
    assert_eq!(array("-- true"), None);
    let one = array("--array 1-3 --max-failures 0 -- true").expect("an array");
    assert_eq!((one.members, one.max_failures), (Members::Range { first: 1, count: 3 }, Some(0)));
    assert_eq!(array("--each-line - -- true").map(|array| array.members), Some(Members::Lines("-".into())));
    assert_eq!(array("--from-json f -- true").map(|array| array.members), Some(Members::Json("f".into())));
}
