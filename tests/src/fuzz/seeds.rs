//! Right inputs for each decoder, to be damaged: of pure noise most decoders see only the first byte.

use keeper::codec;
use keeper::record::{self, Holder, Writer};
use keeper::wire::{End, Fencing, Limits, Listed, ListedState, Notice, ProcessId, Request, Spec};
use prost::Message as _;
use proto::store::{ArrayRow, AttemptRow, Facts, Run, SidecarRow, TaskRow};
use proto::v1::{self, informer_message, report, sidecar_message, task_spec};
use std::os::fd::AsFd as _;

const TASK: &str = "01933c5e-7b7a-7c64-9d3e-0a4b6c8d0e2f";
const SIDECAR: &str = "5f0b8c1e-2d3a-4b5c-8d7e-9f0a1b2c3d4e";

fn texts(all: &[&str]) -> Vec<Vec<u8>> {
    all.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn attempt() -> Option<v1::AttemptId> {
    Some(v1::AttemptId { task: TASK.to_owned(), number: 2 })
}

const FENCE: Option<v1::Fence> = Some(v1::Fence { epoch: 3, n: 7 });

fn ending(exit_code: i32) -> v1::Ending {
    let reason = if exit_code == 0 { v1::Reason::Unspecified } else { v1::Reason::ExitCode };
    let output = v1::StagedOutput { path: "/films/a.mp4".to_owned(), size_bytes: 9, sha256: "0a".repeat(32) };
    v1::Ending {
        reason: reason.into(),
        exit_code: Some(exit_code),
        message: "no such film".to_owned(),
        outputs: vec![output],
        ended_unix_ms: 1 << 40,
        ..Default::default()
    }
}

fn progress() -> v1::Progress {
    v1::Progress { permille: 250, speed: 1.5, eta_ms: 9_000, note: "page 3".to_owned(), step: 4, ..Default::default() }
}

fn spec(kind: task_spec::Kind) -> v1::TaskSpec {
    let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    // A service has no end that could be timed or publish anything; a transcode publishes by itself.
    let ends = !matches!(kind, task_spec::Kind::Service(_));
    let publishes = ends && !matches!(kind, task_spec::Kind::Transcode(_));
    let output = v1::Output { path: "a".to_owned(), destination: "/out/a".to_owned(), optional: true };
    v1::TaskSpec {
        name: "film".to_owned(),
        owner: "ada".to_owned(),
        labels: pairs(&[("show", "7"), ("a.b/c", "ü")]),
        require: pairs(&[("gpu", "yes")]),
        env: pairs(&[("LANG", "C")]),
        resources: Some(v1::Resources { cpu_millis: 500, memory_bytes: 1 << 20 }),
        retry: Some(v1::Retry { max_attempts: 2, final_codes: vec![2], backoff_ms: 10, ..Default::default() }),
        timeouts: ends.then(|| v1::Timeouts { attempt_ms: 60_000, ..Default::default() }),
        stop: Some(v1::Stop { signal: 2, grace_ms: 500, main_only: true }),
        limits: Some(v1::Limits { pids: 10, ..Default::default() }),
        cwd: "/tmp".to_owned(),
        inputs: vec![v1::Input { source: "/a/b".to_owned(), ..Default::default() }],
        outputs: if publishes { vec![output] } else { Vec::new() },
        priority: -3,
        kind: Some(kind),
        ..Default::default()
    }
}

fn specs() -> Vec<v1::TaskSpec> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let probe = v1::health_check::Probe::Http(v1::HttpProbe { url: "http://127.0.0.1:80/up".to_owned() });
    let health = Some(v1::HealthCheck { probe: Some(probe), interval_ms: 100, ..Default::default() });
    let restart = Some(v1::RestartPolicy { backoff_ms: 5, max_restarts: 3, ..Default::default() });
    let mount = v1::container::Mount { source: "/m".to_owned(), target: "/n".to_owned(), writable: true };
    let kinds = [
        task_spec::Kind::Command(v1::Command { argv: words(&["make", "-j2"]) }),
        task_spec::Kind::Script(v1::Script { body: "echo hi".to_owned(), args: words(&["x"]), ..Default::default() }),
        task_spec::Kind::Service(v1::Service { argv: words(&["serve"]), health, restart }),
        task_spec::Kind::Transcode(v1::Transcode {
            input: "/a.mkv".to_owned(),
            output: "/b.mp4".to_owned(),
            args: words(&["-crf", "20"]),
            ..Default::default()
        }),
        task_spec::Kind::Typed(v1::Typed { r#type: "add".to_owned(), input: "{\"a\":1}".to_owned() }),
        task_spec::Kind::Container(v1::Container {
            image: "/images/a".to_owned(),
            argv: words(&["sh"]),
            mounts: vec![mount],
            user: "10:20".to_owned(),
            ..Default::default()
        }),
    ];
    kinds.into_iter().map(spec).collect()
}

/// Tasks of each kind.
#[must_use]
pub fn task_specs() -> Vec<Vec<u8>> {
    specs().iter().map(v1::TaskSpec::encode_to_vec).collect()
}

fn executor() -> v1::Executor {
    let service = v1::RemoteService { url: "http://127.0.0.1:81/x".to_owned(), poll_ms: 50, callback: true };
    let mode = Some(v1::executor::Mode::Service(service));
    v1::Executor { r#type: "add".to_owned(), description: "adds".to_owned(), mode, ..Default::default() }
}

/// What clients send besides, each after the byte that says what it is.
#[must_use]
pub fn client_requests() -> Vec<Vec<u8>> {
    let head = v1::ArrayHead { first: 1, count: 9, limited: true, key: "k".to_owned(), ..Default::default() };
    let list =
        v1::ListRequest { page_size: 5, labels: [("a".to_owned(), "b".to_owned())].into(), ..Default::default() };
    let upload =
        v1::LogUpload { request: 1, stream: 1, offset: 9, data: b"line\n".to_vec().into(), ..Default::default() };
    let submit = v1::SubmitRequest { key: "once".to_owned(), ..Default::default() };
    let bodies = [
        submit.encode_to_vec(),
        head.encode_to_vec(),
        executor().encode_to_vec(),
        list.encode_to_vec(),
        upload.encode_to_vec(),
    ];
    (0..).zip(bodies).map(|(kind, body)| [vec![kind], body].concat()).collect()
}

/// Each message that a sidecar says on its link.
#[must_use]
pub fn sidecar_messages() -> Vec<Vec<u8>> {
    use report::What;
    use sidecar_message::Message;
    let hello = v1::Hello {
        protocol_min: 1,
        protocol_max: 1,
        sidecar: SIDECAR.to_owned(),
        incarnation: 4,
        host: "box".to_owned(),
        labels: [("gpu".to_owned(), "yes".to_owned())].into(),
        total: Some(v1::Resources { cpu_millis: 2_000, memory_bytes: 1 << 30 }),
        slots: 2,
        kinds: vec!["command".to_owned()],
        inventory_parts: 1,
        ..Default::default()
    };
    let held = |state: v1::HeldState, ending| v1::HeldAttempt {
        attempt: attempt(),
        fence: FENCE,
        state: state.into(),
        ending,
        progress: Some(progress()),
        ..Default::default()
    };
    let attempts = vec![held(v1::HeldState::Running, None), held(v1::HeldState::Ended, Some(ending(1)))];
    let beat = v1::Beat {
        seq: 9,
        credit: 2,
        progress: vec![v1::AttemptProgress { attempt: attempt(), progress: Some(progress()) }],
        ..Default::default()
    };
    let reports = [
        What::Accepted(v1::Accepted {}),
        What::Started(v1::Started { pid: 9, unix_ms: 1 << 40, ..Default::default() }),
        What::Ended(ending(0)),
        What::Published(v1::Published { failure: "disk full".to_owned() }),
        What::Refused(v1::Refused { why: "no lease".to_owned(), handed_back: true, taken: 7 }),
    ];
    let reports =
        reports.map(|what| Message::Report(v1::Report { seq: 1, attempt: attempt(), fence: FENCE, what: Some(what) }));
    let others = [
        Message::Hello(hello),
        Message::Inventory(v1::Inventory { attempts }),
        Message::Beat(beat),
        Message::Pong(v1::Pong { nonce: 1 }),
        Message::Emitted(v1::Emitted {
            attempt: attempt(),
            fence: FENCE,
            key: "part-7".to_owned(),
            digest: vec![7; 32],
            payload: br#"{"input":{"n":7},"name":"cut"}"#.to_vec(),
        }),
    ];
    let all = others.into_iter().chain(reports);
    all.map(|message| v1::SidecarMessage { message: Some(message) }.encode_to_vec()).collect()
}

/// Each message that an informer says on a link.
#[must_use]
pub fn informer_messages() -> Vec<Vec<u8>> {
    use informer_message::Message;
    let [command, ..] = &specs()[..] else { return Vec::new() };
    let identity = v1::Identity { lineage: SIDECAR.to_owned(), epoch: 3, commit_seq: 11 };
    let (beat_ms, lease_ms, fence_grace_ms) = (5_000, 15_000, 5_000);
    let all = [
        Message::Welcome(v1::Welcome {
            protocol: 1,
            informer: Some(identity),
            session: 5,
            beat_ms,
            lease_ms,
            fence_grace_ms,
            ..Default::default()
        }),
        Message::Verdict(v1::Verdict { attempt: attempt(), decision: 1, ..Default::default() }),
        Message::BeatAck(v1::BeatAck { seq: 3, lease_ms, fence_grace_ms, beat_ms, commit_seq: 12 }),
        Message::Assign(v1::Assign {
            attempt: attempt(),
            fence: FENCE,
            spec: Some(command.clone()),
            item: "x".to_owned(),
            has_item: true,
            ..Default::default()
        }),
        Message::Stop(v1::StopAttempt { attempt: attempt(), why: 1 }),
        Message::Publish(v1::Publish { attempt: attempt(), fence: FENCE }),
        Message::Ack(v1::Ack { seq: 4 }),
        Message::Ping(v1::Ping { nonce: 6 }),
        Message::Drain(v1::Drain { on: true, stop_running: true }),
        Message::Log(v1::LogRequest { request: 1, attempt: attempt(), follow: true, ..Default::default() }),
        Message::Refuse(v1::Refuse { code: "superseded".to_owned(), r#final: true, ..Default::default() }),
        Message::Executors(v1::Executors { executors: vec![executor()], more: false }),
        Message::Callback(v1::Callback { attempt: attempt(), body: "{}".to_owned() }),
        Message::EmitAnswer(v1::EmitAnswer {
            attempt: attempt(),
            key: "part-7".to_owned(),
            refusal: "full".to_owned(),
            later: true,
        }),
    ];
    all.into_iter().map(|message| v1::InformerMessage { message: Some(message) }.encode_to_vec()).collect()
}

/// Tasks of several states, each with the sidecar that holds it.
#[must_use]
pub fn stored_rows() -> Vec<Vec<u8>> {
    use v1::{AttemptState as A, TaskState as T};
    let sidecar = SidecarRow {
        id: SIDECAR.to_owned(),
        incarnation: 3,
        longest_lease_ms: 15_000,
        cpu_millis: 4_000,
        memory_bytes: 1 << 30,
        slots: 4,
        ..Default::default()
    };
    let states = [
        (T::Waiting, A::Failed),
        (T::Ready, A::Lost),
        (T::Assigned, A::Assigned),
        (T::Running, A::Running),
        (T::Committing, A::Committing),
        (T::Running, A::PresumedLost),
    ];
    let row = |(state, last): (T, A)| {
        let attempt = AttemptRow {
            number: 1,
            sidecar: SIDECAR.to_owned(),
            state: last.into(),
            fence: FENCE,
            assigned_unix_ms: 1 << 40,
            ..Default::default()
        };
        TaskRow {
            id: vec![7; 16],
            payload: vec![1; 32],
            facts: Some(Facts { cpu_millis: 1_000, kind: "command".to_owned(), ..Default::default() }),
            state: state.into(),
            attempts: vec![attempt],
            next_attempt: 2,
            version: 3,
            not_before_unix_ms: 9,
            key: "k".to_owned(),
            ..Default::default()
        }
    };
    let array = TaskRow {
        array: Some(ArrayRow {
            first: 1,
            count: 9,
            pending: vec![Run { first: 4, count: 6 }],
            live: 3,
            ..Default::default()
        }),
        attempts: Vec::new(),
        ..row((T::Running, A::Running))
    };
    let rows = states.map(row).into_iter().chain([array]);
    let both = |row: TaskRow| {
        let row = row.encode_to_vec();
        let length = u16::try_from(row.len()).unwrap_or(u16::MAX).to_le_bytes();
        [&length[..], &row, &sidecar.encode_to_vec()].concat()
    };
    rows.map(both).collect()
}

fn process(pid: u32) -> ProcessId {
    ProcessId { boot_id: SIDECAR.to_owned(), pid_ns: 4_026_531_836, pid, start_ticks: 99, wall_ms: 1 << 40 }
}

fn kept() -> Spec {
    Spec {
        argv: vec!["sh".to_owned(), "-c".to_owned(), "true".to_owned()],
        env: vec![("PATH".to_owned(), "/bin".to_owned())],
        cwd: "/".to_owned(),
        note: b"mine".to_vec(),
        ..Spec::default()
    }
}

fn end() -> End {
    End { code: Some(3), out_bytes: 12, ran_ms: 5, message: "x".to_owned(), ..End::default() }
}

/// Each order to the keeper.
#[must_use]
pub fn keeper_requests() -> Vec<Vec<u8>> {
    let name = format!("{TASK}.1");
    let all = [
        Request::Hello { version: 1 },
        Request::Start { name: name.clone(), spec: Box::new(kept()) },
        Request::Stop { name, reason: keeper::wire::EndReason::Cancelled, grace_ms: Some(5) },
        Request::Warm { monitors: 2 },
        Request::Upgrade { exe: "/bin/keeper".to_owned() },
        Request::Shutdown { stop_tasks: true },
    ];
    let bodies = [codec::encode_spec(&kept()), codec::encode_process(&process(4)), codec::encode_end(&end())];
    all.iter().map(codec::encode_request).chain(bodies).collect()
}

/// Each notice of the keeper.
#[must_use]
pub fn keeper_notices() -> Vec<Vec<u8>> {
    let name = format!("{TASK}.1");
    let listed = |state| Listed { name: name.clone(), state };
    let attempts =
        vec![listed(ListedState::Running(process(9))), listed(ListedState::Ended(end())), listed(ListedState::Lost)];
    let all = [
        Notice::Welcome { version: 1, pid: 9, fencing: Fencing::Strong, limits: Limits::CgroupV2 },
        Notice::Listing { attempts, last: true },
        Notice::Spawned { name: name.clone(), process: process(9) },
        Notice::Refused { name: name.clone(), why: keeper::wire::Refusal::NoLease, message: "x".to_owned() },
        Notice::Ended { name: name.clone(), end: end() },
        Notice::Lost { name: name.clone() },
        Notice::Terminating,
    ];
    all.iter().map(codec::encode_notice).collect()
}

/// Two frames in a row, after the byte that says where they are cut.
#[must_use]
pub fn keeper_frames() -> Vec<Vec<u8>> {
    let frames: Vec<u8> = keeper_requests().iter().take(2).flat_map(|body| codec::frame(body)).collect();
    vec![[&[3][..], &frames].concat(), [&[200][..], &frames].concat()]
}

/// Records of attempts that got this far: created, spawned, ended, swept.
///
/// # Panics
/// The temporary directory cannot be written.
#[must_use]
pub fn records() -> Vec<Vec<u8>> {
    (0..4).map(record_until).collect()
}

fn record_until(steps: u32) -> Vec<u8> {
    let dir = super::scratch();
    std::fs::create_dir_all(&dir).expect("a directory");
    let handle = std::fs::File::open(&dir).expect("it was just made");
    let holder = Holder { monitor: process(1), cgroup: "/sys/fs/cgroup/m1".to_owned() };
    let writer = Writer::create(handle.as_fd(), &holder, &codec::encode_spec(&kept())).expect("a record");
    if steps > 0 {
        writer.spawned(&process(2), Some(&process(3))).expect("written");
        writer.trimmed((4096, 0)).expect("written");
    }
    if steps > 1 {
        writer.exit(&end(), false).expect("written");
    }
    if steps > 2 {
        writer.swept(&end()).expect("written");
    }
    let bytes = std::fs::read(dir.join(record::FILE)).expect("written");
    std::fs::remove_dir_all(&dir).expect("removed");
    bytes
}

/// What agents note in records.
#[must_use]
pub fn notes() -> Vec<Vec<u8>> {
    let assign = |spec| v1::Assign { attempt: attempt(), fence: FENCE, spec: Some(spec), ..Default::default() };
    specs().into_iter().map(|spec| assign(spec).encode_to_vec()).collect()
}

/// What tasks say.
#[must_use]
pub fn task_requests() -> Vec<Vec<u8>> {
    let whole = format!(
        r#"{{"op":"progress","task":"{TASK}","attempt":1,"fence":"1.2","permille":250,"note":"page 3","step":3}}"#
    );
    let child = whole.replace("progress", "emit").replace('}', r#","key":"a","name":"cut","input":{"n":1}}"#);
    let seal = whole.replace("progress", "seal");
    texts(&[&whole, &child, &seal, r#"{"op":"progress","task":"x","attempt":1,"fence":"1-2"}"#])
}

/// The example, with every setting in force.
fn in_force(example: &str) -> Vec<u8> {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(setting) if setting.starts_with(|c: char| c.is_ascii_lowercase()) => setting.to_owned(),
        _ => line.to_owned(),
    };
    example.lines().map(|text| line(text) + "\n").collect::<String>().into_bytes()
}

/// Settings of the informer.
#[must_use]
pub fn informer_configs() -> Vec<Vec<u8>> {
    vec![in_force(include_str!("../../../examples/config/informer.toml")), b"beat = \"5s\"\n".to_vec()]
}

/// Settings of a sidecar.
#[must_use]
pub fn sidecar_configs() -> Vec<Vec<u8>> {
    vec![in_force(include_str!("../../../examples/config/sidecar.toml")), b"slots = 4\n".to_vec()]
}

/// Task files that name no other file.
#[must_use]
pub fn task_files() -> Vec<Vec<u8>> {
    texts(&[
        include_str!("../../../examples/tasks/service.toml"),
        include_str!("../../../examples/tasks/transcode.toml"),
        include_str!("../../../examples/tasks/container.toml"),
        include_str!("../../../examples/tasks/typed.toml"),
        include_str!("../../../examples/tasks/exclusive.json"),
        "start_at = \"2026-11-21T08:30:00Z\"\n[command]\nargv = [\"true\"]\n[array]\nrange = \"1-9\"\n",
    ])
}

/// Items, a line each.
#[must_use]
pub fn lines() -> Vec<Vec<u8>> {
    texts(&["a\n\nb \r\nc", "zwölf\n"])
}

/// Items, as a JSON array.
#[must_use]
pub fn arrays() -> Vec<Vec<u8>> {
    texts(&[r#" ["a b", "q\"]\\", "\u00e9,"] "#, "[1.50, true,\n null, {\"z\": [1, \" ] \"], \"a\" : {}}, [ ]]", "[]"])
}

/// Quantities of each unit.
#[must_use]
pub fn units() -> Vec<Vec<u8>> {
    texts(&[
        "1h30m",
        "2.5s",
        "512MiB",
        "1.5 GB",
        "SIGTERM",
        "64",
        "A=b=c",
        "1-100",
        "2026-11-21T08:30:00Z",
        "2026-11-21",
        "2h",
    ])
}

/// Verbs with their words.
#[must_use]
pub fn command_lines() -> Vec<Vec<u8>> {
    texts(&[
        "submit\n--key\nk\n--label\na=b\n--cpu\n500\n--memory\n1GiB\n--timeout\n5m\n--env\nA=b\n--\nsh\n-c\ntrue",
        "submit\n--array\n1-100\n--max-failures\n3\n--exclusive\n--\ntrue",
        "submit\n--type\nadd\n--input\n{}\n--in\n/c=d\n--out\na=/b",
        "list\n--state\nrunning\n--since\n2h\n--label\na=b\n--json",
        "serve\n--listen\n127.0.0.1:1\n--beat\n1s",
    ])
}

/// Ids, and where informers are.
#[must_use]
pub fn ids() -> Vec<Vec<u8>> {
    let mut all = texts(&[TASK, "http://127.0.0.1:7070", "https://[::1]:7070", "https://informer.example:443/"]);
    all.extend(texts(&[&format!("{TASK}.17"), &format!("{TASK}.17.2"), &format!("{TASK}.2")]));
    all.extend([vec![7; 16], [vec![7; 16], vec![0, 0, 0, 4]].concat()]);
    all
}

/// What ffmpeg and its supervisor write of their progress.
#[must_use]
pub fn progress_blocks() -> Vec<Vec<u8>> {
    texts(&[
        "frame=120\nfps=48.0\nbitrate= 900.1kbits/s\ntotal_size=1500000\nout_time_us=5000000\nspeed=2.5x\nprogress=continue\n",
        "frame=0\nfps=0.00\ntotal_size=N/A\nout_time_us=-21333\nspeed=   0x\nprogress=end\n",
        r#"{"permille":247,"speed":2.5,"eta_ms":6000,"note":"5.0 s, frame 120","step":5000}"#,
    ])
}

/// What ffmpeg complains.
#[must_use]
pub fn complaints() -> Vec<Vec<u8>> {
    texts(&[
        "[h264 @ 0x55dc] [error] error while decoding MB 3 4\n[fatal] Conversion failed!\n",
        "[mov,mp4 @ 0x1] [warning] Estimating duration from bitrate\nfile:/a/b: No space left on device\n",
    ])
}

/// What ffprobe answers.
#[must_use]
pub fn probes() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"streams":[{"codec_type":"video","codec_name":"h264","duration":"12.5","start_time":"0.02","nb_read_packets":"300","disposition":{"attached_pic":0},"tags":{"DURATION":"00:00:20.04"}}],"format":{"format_name":"mov,mp4","duration":"12.5"}}"#,
        r#"{"streams":[],"format":{}}"#,
    ])
}
