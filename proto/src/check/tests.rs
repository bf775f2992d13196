use super::*;
use crate::v1;
use prost::Message as _;

fn command(argv: &[&str]) -> v1::TaskSpec {
    let argv = argv.iter().map(|&text| text.to_owned()).collect();
    v1::TaskSpec { kind: Some(v1::task_spec::Kind::Command(v1::Command { argv })), ..Default::default() }
}

fn service(health: Option<v1::HealthCheck>) -> v1::TaskSpec {
    let service = v1::Service { argv: vec!["serve".to_owned()], health, restart: None };
    v1::TaskSpec { kind: Some(v1::task_spec::Kind::Service(service)), ..Default::default() }
}

fn http(url: &str) -> v1::TaskSpec {
    let probe = v1::health_check::Probe::Http(v1::HttpProbe { url: url.to_owned() });
    service(Some(v1::HealthCheck { probe: Some(probe), ..Default::default() }))
}

fn tcp(address: &str) -> v1::TaskSpec {
    let probe = v1::health_check::Probe::Tcp(v1::TcpProbe { address: address.to_owned() });
    service(Some(v1::HealthCheck { probe: Some(probe), ..Default::default() }))
}

fn transcode(input: &str, output: &str, args: &[&str], preset: &str) -> v1::TaskSpec {
    let args = args.iter().map(|&text| text.to_owned()).collect();
    let wire = v1::Transcode { input: input.to_owned(), output: output.to_owned(), args, preset: preset.to_owned() };
    v1::TaskSpec { kind: Some(v1::task_spec::Kind::Transcode(wire)), ..Default::default() }
}

fn script(body: &str) -> v1::TaskSpec {
    let wire = v1::Script { body: body.to_owned(), ..Default::default() };
    v1::TaskSpec { kind: Some(v1::task_spec::Kind::Script(wire)), ..Default::default() }
}

/// A command with one thing changed.
fn with(change: impl FnOnce(&mut v1::TaskSpec)) -> v1::TaskSpec {
    let mut spec = command(&["true"]);
    change(&mut spec);
    spec
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn fields(spec: v1::TaskSpec) -> Vec<String> {
    let faults = super::spec(spec).expect_err("this spec is wrong");
    let line = faults.to_string();
    assert!(!line.contains('\n') && !line.chars().any(char::is_control), "{line:?}");
    faults.list().iter().map(|fault| fault.field.clone()).collect()
}

#[test]
fn defaults_are_filled() {
    let checked = super::spec(command(&["/usr/bin/make", "-j2"])).expect("a plain command is fine");
    assert_eq!(checked.kind, Kind::Command);
    assert_eq!((checked.spec.name.as_str(), checked.spec.owner.as_str()), ("make", "anonymous"));
    let retry = checked.facts.retry.clone().unwrap();
    assert_eq!((retry.max_attempts, retry.max_infrastructure), (3, 3));
    assert_eq!((retry.backoff_ms, retry.backoff_cap_ms), (bounds::BACKOFF_MS, bounds::BACKOFF_CAP_MS));
    assert_eq!(checked.facts.cpu_millis, bounds::CPU_DEFAULT_MILLIS);
    assert_eq!(checked.spec.stop, Some(v1::Stop { signal: 15, grace_ms: bounds::STOP_GRACE_MS, main_only: false }));
    assert_eq!(checked.spec.log_cap_bytes, bounds::LOG_CAP_DEFAULT_BYTES);
    assert!(!checked.facts.stop_on_disconnect);
    assert!(super::spec(with(|spec| spec.exclusive = true)).unwrap().facts.stop_on_disconnect);
}

#[test]
fn names_come_from_the_work() {
    let name = |spec| super::spec(spec).unwrap().facts.name;
    assert_eq!(name(command(&["/opt/a b/run.sh/"])), "run.sh");
    assert_eq!(name(command(&["/"])), "command");
    assert_eq!(name(script("echo hi")), "script");
    assert_eq!(name(transcode("/in.mkv", "/out/film.mp4", &[], "h264")), "film.mp4");
    assert_eq!(name(command(&["a\u{7}b"])), "ab");
}

#[test]
fn each_fault_names_its_field() {
    let long = "x".repeat(bounds::NAME_BYTES + 1);
    let many: BTreeMap<String, String> = (0..=bounds::LABELS).map(|n| (format!("k{n}"), String::new())).collect();
    let retry = |retry: v1::Retry| with(|spec| spec.retry = Some(retry));
    for (spec, field) in [
        (v1::TaskSpec::default(), "kind"),
        (command(&[]), "command.argv"),
        (command(&[""]), "command.argv"),
        (command(&["a", "b\0"]), "command.argv[1]"),
        (command(&["a", &"y".repeat(bounds::PATH_BYTES + 1)]), "command.argv[1]"),
        (script(" \n"), "script.body"),
        (with(|spec| spec.name = long.clone()), "name"),
        (with(|spec| spec.name = "a\nb".to_owned()), "name"),
        (with(|spec| spec.owner = "a\u{202e}b".to_owned()), "owner"),
        (with(|spec| spec.labels = many), "labels"),
        (with(|spec| spec.labels = map(&[("a b", "")])), "labels[\"a b\"]"),
        (with(|spec| spec.require = map(&[("", "x")])), "require[\"\"]"),
        (with(|spec| spec.require = map(&[("a", "\t")])), "require[\"a\"]"),
        (with(|spec| spec.env = map(&[("A=B", "x")])), "env[\"A=B\"]"),
        (with(|spec| spec.env = map(&[("A", "x\0")])), "env[\"A\"]"),
        (with(|spec| spec.cwd = "work".to_owned()), "cwd"),
        (with(|spec| spec.cwd = "/wo\0rk".to_owned()), "cwd"),
        (with(|spec| spec.priority = 1001), "priority"),
        (with(|spec| spec.priority = i32::MIN), "priority"),
        (
            with(|spec| spec.resources = Some(v1::Resources { cpu_millis: u64::MAX, memory_bytes: 0 })),
            "resources.cpu_millis",
        ),
        (
            with(|spec| spec.resources = Some(v1::Resources { cpu_millis: 1, memory_bytes: u64::MAX })),
            "resources.memory_bytes",
        ),
        (with(|spec| spec.limits = Some(v1::Limits { pids: u64::MAX, ..Default::default() })), "limits.pids"),
        (
            with(|spec| spec.timeouts = Some(v1::Timeouts { total_ms: u64::MAX, ..Default::default() })),
            "timeouts.total_ms",
        ),
        (retry(v1::Retry { max_attempts: 1001, ..Default::default() }), "retry.max_attempts"),
        (retry(v1::Retry { final_codes: vec![256], ..Default::default() }), "retry.final_codes"),
        (
            retry(v1::Retry { final_codes: vec![7], retriable_codes: vec![7], ..Default::default() }),
            "retry.final_codes",
        ),
        (retry(v1::Retry { backoff_ms: 9, backoff_cap_ms: 8, ..Default::default() }), "retry.backoff_ms"),
        (
            retry(v1::Retry { max_infrastructure: 1, no_infrastructure_retry: true, ..Default::default() }),
            "retry.max_infrastructure",
        ),
        (with(|spec| spec.stop = Some(v1::Stop { signal: 65, ..Default::default() })), "stop.signal"),
        (with(|spec| spec.stop = Some(v1::Stop { signal: -1, ..Default::default() })), "stop.signal"),
        (with(|spec| spec.on_disconnect = 9), "on_disconnect"),
        (with(|spec| (spec.exclusive, spec.on_disconnect) = (true, 1)), "on_disconnect"),
        (with(|spec| (spec.exclusive, spec.replace_after_ms) = (true, 1)), "replace_after_ms"),
        (with(|spec| spec.log_cap_bytes = u64::MAX), "log_cap_bytes"),
        (with(|spec| spec.start_after_unix_ms = u64::MAX), "start_after_unix_ms"),
        (with(|spec| spec.start_after_ms = u64::MAX), "start_after_ms"),
        (with(|spec| (spec.start_after_ms, spec.start_after_unix_ms) = (1, 1)), "start_after_ms"),
        (script(&"z".repeat(bounds::PAYLOAD_BYTES)), "spec"),
    ] {
        assert_eq!(fields(spec), [field], "wanted exactly {field}");
    }
}

#[test]
fn each_fault_of_a_kind_names_its_field() {
    for (spec, field) in [
        (service(Some(v1::HealthCheck::default())), "service.health"),
        (http("https://127.0.0.1:80/"), "service.health.http.url"),
        (http("http://127.0.0.1/"), "service.health.http.url"),
        (http("http://:80/"), "service.health.http.url"),
        (http("http://h:80/a b"), "service.health.http.url"),
        (http("http://user@h:80/"), "service.health.http.url"),
        (tcp("127.0.0.1"), "service.health.tcp.address"),
        (tcp("127.0.0.1:0"), "service.health.tcp.address"),
        (tcp("127.0.0.1:70000"), "service.health.tcp.address"),
        (tcp("::1:80"), "service.health.tcp.address"),
        (transcode("", "/b", &[], ""), "transcode.input"),
        (transcode("a.mp4", "/b", &[], ""), "transcode.input"),
        (transcode("/a", "/b/", &[], ""), "transcode.output"),
        (transcode("/a/b", "/a/.//b", &[], ""), "transcode.output"),
        (transcode("/a", "/b", &["-an"], "copy"), "transcode.preset"),
        (transcode("/a", "/b", &[], "nonsense"), "transcode.preset"),
    ] {
        assert_eq!(fields(spec), [field], "wanted exactly {field}");
    }
}

#[test]
fn all_faults_come_at_once_and_bounded() {
    let spec = with(|spec| {
        spec.name = "\n".to_owned();
        spec.priority = 5000;
    });
    assert_eq!(fields(spec), ["name", "priority"]);
    let argv = vec!["\0".to_owned(); 100];
    let spec = v1::TaskSpec { kind: Some(v1::task_spec::Kind::Command(v1::Command { argv })), ..Default::default() };
    let faults = super::spec(spec).expect_err("a hundred NUL bytes");
    assert_eq!(faults.list().len(), FAULTS);
    assert!(faults.to_string().ends_with("and 84 more"), "{faults}");
}

#[test]
fn a_service_has_no_timeouts() {
    let timeouts = v1::Timeouts { queue_ms: 1, attempt_ms: 1, total_ms: 1, progress_ms: 1 };
    let spec = v1::TaskSpec { timeouts: Some(timeouts), ..service(None) };
    assert_eq!(fields(spec), ["timeouts.queue_ms", "timeouts.attempt_ms", "timeouts.total_ms", "timeouts.progress_ms"]);
    let restart = super::spec(service(None)).unwrap().facts.restart.unwrap();
    assert_eq!(restart.when(), v1::restart_policy::When::Always);
    assert_eq!((restart.backoff_ms, restart.backoff_cap_ms), (500, 60_000));
}

#[test]
fn good_probes_and_presets_pass() {
    for address in ["127.0.0.1:80", "localhost:8080", "[::1]:65535", "my-host.example:1"] {
        assert!(super::spec(tcp(address)).is_ok(), "{address}");
        assert!(super::spec(http(&format!("http://{address}/x?y=1"))).is_ok(), "{address}");
    }
    for preset in PRESETS {
        assert!(super::spec(transcode("/a", "/b", &[], preset.name)).is_ok(), "{}", preset.name);
    }
    assert!(PRESETS.is_sorted_by_key(|preset| preset.name));
}

#[test]
fn equal_meanings_have_equal_bytes() {
    let bytes = |spec| super::spec(spec).unwrap().spec.encode_to_vec();
    let spelled_out = with(|spec| {
        spec.name = "true".to_owned();
        spec.limits = Some(v1::Limits::default());
        spec.timeouts = Some(v1::Timeouts::default());
        spec.retry = Some(v1::Retry { max_attempts: 3, ..Default::default() });
        spec.on_disconnect = v1::OnDisconnect::Continue.into();
    });
    assert_eq!(bytes(command(&["true"])), bytes(spelled_out));
    for spec in [command(&["a"]), script("x"), http("http://h:1"), transcode("/a", "/b", &[], "copy")] {
        let once = super::spec(spec).unwrap();
        assert_eq!(super::spec(once.spec.clone()).unwrap(), once, "checking twice changes nothing");
    }
}

#[test]
fn protocols_meet_at_the_newest_common_one() {
    assert_eq!(protocol(1, 1), Some(1));
    assert_eq!(protocol(1, 99), Some(crate::PROTOCOL_MAX));
    assert_eq!(protocol(crate::PROTOCOL_MAX + 1, 99), None);
    assert_eq!(protocol(0, 0), None);
    assert_eq!(protocol(2, 1), None);
}

const ID: &str = "0192f3c4-5b6d-7e8f-9a0b-1c2d3e4f5a6b";

fn id() -> Option<v1::AttemptId> {
    Some(v1::AttemptId { task: ID.to_owned(), number: 1 })
}

#[test]
fn hellos_are_checked() {
    let good = v1::Hello { sidecar: ID.to_owned(), slots: 2, ..Default::default() };
    assert!(hello(&good).is_ok());
    for wrong in [
        v1::Hello { sidecar: "me".to_owned(), ..good.clone() },
        v1::Hello { slots: 0, ..good.clone() },
        v1::Hello { slots: bounds::SLOTS + 1, ..good.clone() },
        v1::Hello { inventory_parts: u32::MAX, ..good.clone() },
        v1::Hello { labels: map(&[("a b", "")]), ..good.clone() },
        v1::Hello { total: Some(v1::Resources { cpu_millis: u64::MAX, memory_bytes: 0 }), ..good },
    ] {
        assert!(hello(&wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn an_end_without_a_reason_is_no_success() {
    assert!(ending(&mut v1::Ending { exit_code: Some(0), ..Default::default() }).is_ok());
    assert!(ending(&mut v1::Ending::default()).is_err());
    assert!(ending(&mut v1::Ending { exit_code: Some(1), ..Default::default() }).is_err());
    assert!(ending(&mut v1::Ending { exit_code: Some(0), reason: 99, ..Default::default() }).is_err());
    let mut wordy = v1::Ending { exit_code: Some(0), message: "a\nb\0".repeat(9999), ..Default::default() };
    assert!(ending(&mut wordy).is_ok());
    assert!(wordy.message.len() <= 1024 && !wordy.message.contains('\n'));
}

#[test]
fn held_attempts_carry_what_their_state_needs() {
    let mut lacking = v1::HeldAttempt { attempt: id(), state: v1::HeldState::Ended.into(), ..Default::default() };
    assert!(held(&mut lacking).is_err());
    let mut running = v1::HeldAttempt { attempt: id(), state: v1::HeldState::Running.into(), ..Default::default() };
    assert_eq!(held(&mut running).unwrap().1, v1::HeldState::Running);
    assert!(held(&mut v1::HeldAttempt { attempt: id(), ..Default::default() }).is_err());
    assert!(held(&mut v1::HeldAttempt::default()).is_err());
}

#[test]
fn beats_and_reports_and_uploads_are_bounded() {
    let entry = v1::AttemptProgress { attempt: id(), progress: None };
    assert_eq!(beat(&mut v1::Beat { seq: 1, progress: vec![entry.clone()], ..Default::default() }).unwrap().len(), 1);
    assert!(
        beat(&mut v1::Beat { seq: 1, progress: vec![entry; bounds::BEAT_PROGRESS + 1], ..Default::default() }).is_err()
    );
    assert!(beat(&mut v1::Beat::default()).is_err());
    assert!(report(&mut v1::Report { seq: 1, attempt: id(), ..Default::default() }).is_err());
    assert!(
        upload(&mut v1::LogUpload {
            data: vec![0; bounds::LOG_CHUNK_BYTES + 1].into(),
            stream: 1,
            ..Default::default()
        })
        .is_err()
    );
    assert!(
        upload(&mut v1::LogUpload { data: vec![0; 2].into(), stream: 1, offset: u64::MAX, ..Default::default() })
            .is_err()
    );
    assert!(upload(&mut v1::LogUpload { data: vec![0; 2].into(), ..Default::default() }).is_err());
    assert!(upload(&mut v1::LogUpload { end: true, ..Default::default() }).is_ok());
}

proptest::proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..512)) {
        if let Ok(wire) = v1::TaskSpec::decode(bytes.as_slice()) {
            let _ = super::spec(wire);
        }
        if let Ok(wire) = v1::Hello::decode(bytes.as_slice()) {
            let _ = hello(&wire);
        }
        if let Ok(mut wire) = v1::HeldAttempt::decode(bytes.as_slice()) {
            let _ = held(&mut wire);
        }
        if let Ok(mut wire) = v1::Beat::decode(bytes.as_slice()) {
            let _ = beat(&mut wire);
        }
        if let Ok(mut wire) = v1::Report::decode(bytes.as_slice()) {
            let _ = report(&mut wire);
        }
        if let Ok(mut wire) = v1::LogUpload::decode(bytes.as_slice()) {
            let _ = upload(&mut wire);
        }
    }

    #[test]
    fn any_text_is_answered_with_one_line(text in ".*", number in proptest::num::u64::ANY) {
        let mut specs = vec![command(&[&text, &text]), script(&text), http(&text), tcp(&text), transcode(&text, &text, &[&text], &text)];
        specs.push(with(|spec| {
            spec.name.clone_from(&text);
            spec.env = map(&[(&text, &text)]);
            spec.labels = map(&[(&text, &text)]);
            spec.cwd.clone_from(&text);
            spec.replace_after_ms = number;
            spec.retry = Some(v1::Retry { backoff_ms: number, ..Default::default() });
        }));
        for spec in specs {
            match super::spec(spec) {
                Ok(checked) => assert_eq!(super::spec(checked.spec.clone()).unwrap(), checked),
                Err(faults) => assert!(!faults.to_string().chars().any(char::is_control), "{faults:?}"),
            }
        }
    }
}

#[test]
fn files_that_cannot_be_told_apart_or_fetched_are_refused() {
    let task = |inputs: &[(&str, &str)], outputs: &[(&str, &str)]| {
        let input = |(source, path): &(&str, &str)| v1::Input {
            source: (*source).into(),
            path: (*path).into(),
            ..Default::default()
        };
        let output = |(path, destination): &(&str, &str)| v1::Output {
            path: (*path).into(),
            destination: (*destination).into(),
            optional: false,
        };
        let kind = v1::task_spec::Kind::Command(v1::Command { argv: vec!["true".into()] });
        let spec = v1::TaskSpec {
            inputs: inputs.iter().map(input).collect(),
            outputs: outputs.iter().map(output).collect(),
            kind: Some(kind),
            ..Default::default()
        };
        spec_faults(spec)
    };
    assert_eq!(task(&[("/a", "x"), ("/b", "y/z")], &[("o", "/d/o"), ("p/o", "/d/p")]), "");
    for (inputs, outputs, field) in [
        (&[("/a", "x"), ("/b", "./x")][..], &[][..], "inputs[1].path"),
        (&[("ftp://h/x", "x")], &[], "inputs[0].source"),
        (&[("file:///x", "x")], &[], "inputs[0].source"),
        (&[], &[("o", "/d/o"), ("./o", "/d/p")], "outputs[1].path"),
        (&[], &[("o", "/d/.p.fence")], "outputs[0].destination"),
        (&[], &[("o", "/d/.p.7.part")], "outputs[0].destination"),
    ] {
        let faults = task(inputs, outputs);
        assert!(faults.starts_with(field) && !faults.contains(" | "), "{faults}");
    }
}

fn spec_faults(spec: v1::TaskSpec) -> String {
    super::spec(spec).err().map_or_else(String::new, |faults| faults.to_string())
}
