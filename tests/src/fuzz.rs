//! Everything that reads foreign bytes, as functions of bytes: a message of a peer, a file that a person or a crash has written, the
//! output of a program. `tests/tests/garbage.rs` feeds them a little in every run, `tests/fuzz.sh` much, guided by coverage.
//!
//! None of them may panic, and what they take must be what they promise to those behind them: each function asserts that.

pub mod seeds;

use informer::edge::convert;
use informer::machine::{Config, Event, Machine, Now, SessionId};
use keeper::codec::{self, FrameReader};
use keeper::record;
use keeper::wire::ListedState;
use prost::Message as _;
use proto::store::{SidecarRow, TaskRow};
use proto::v1::sidecar_message::Message;
use proto::{bounds, check, settings, v1};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// One decoder.
pub struct Target {
    /// Also that of its program in `tests/fuzz`.
    pub name: &'static str,
    /// Panics if the decoder does, or if it takes what it must not.
    pub feed: fn(&[u8]),
    /// Right inputs, to be damaged.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "sidecar_message", feed: sidecar_message, seeds: seeds::sidecar_messages },
    Target { name: "informer_message", feed: informer_message, seeds: seeds::informer_messages },
    Target { name: "task_spec", feed: task_spec, seeds: seeds::task_specs },
    Target { name: "client_request", feed: client_request, seeds: seeds::client_requests },
    Target { name: "stored_rows", feed: stored_rows, seeds: seeds::stored_rows },
    Target { name: "keeper_request", feed: keeper_request, seeds: seeds::keeper_requests },
    Target { name: "keeper_notice", feed: keeper_notice, seeds: seeds::keeper_notices },
    Target { name: "keeper_frames", feed: keeper_frames, seeds: seeds::keeper_frames },
    Target { name: "record_file", feed: record_file, seeds: seeds::records },
    Target { name: "record_note", feed: record_note, seeds: seeds::notes },
    Target { name: "task_request", feed: task_request, seeds: seeds::task_requests },
    Target { name: "informer_config", feed: informer_config, seeds: seeds::informer_configs },
    Target { name: "sidecar_config", feed: sidecar_config, seeds: seeds::sidecar_configs },
    Target { name: "task_file", feed: task_file, seeds: seeds::task_files },
    Target { name: "array_lines", feed: array_lines, seeds: seeds::lines },
    Target { name: "array_json", feed: array_json, seeds: seeds::arrays },
    Target { name: "units", feed: units, seeds: seeds::units },
    Target { name: "command_line", feed: command_line, seeds: seeds::command_lines },
    Target { name: "ids_and_addresses", feed: ids_and_addresses, seeds: seeds::ids },
    Target { name: "ffmpeg_progress", feed: ffmpeg_progress, seeds: seeds::progress_blocks },
    Target { name: "ffmpeg_errors", feed: ffmpeg_errors, seeds: seeds::complaints },
    Target { name: "ffprobe_answer", feed: ffprobe_answer, seeds: seeds::probes },
];

/// Feeds the target of this name.
///
/// # Panics
/// As the target does; and if there is none of this name.
pub fn feed(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("there is such a target");
    (target.feed)(bytes);
}

/// What a person is told about a fault: something, and not without end.
fn told(error: &str) {
    assert!(!error.trim().is_empty(), "an error says nothing");
}

/// A line for people: printable, of at most `most` bytes.
fn line(text: &str, most: usize) {
    assert!(text.len() <= most && !text.chars().any(char::is_control), "{text:?}");
}

/// What a sidecar says to the informer.
pub fn sidecar_message(bytes: &[u8]) {
    let Ok(wire) = v1::SidecarMessage::decode(bytes) else { return };
    match wire.message {
        Some(Message::Hello(hello)) => match check::hello(&hello) {
            Ok(_) => assert!((1..=bounds::SLOTS).contains(&hello.slots) && hello.labels.len() <= bounds::LABELS),
            Err(faults) => told(&faults.to_string()),
        },
        Some(Message::Inventory(part)) => {
            let fits = check::inventory(&part).is_ok();
            assert_eq!(fits, part.attempts.len() <= bounds::INVENTORY_PART);
            for held in part.attempts {
                if let Err(faults) = convert::held(held) {
                    told(&faults.to_string());
                }
            }
        }
        message => match convert::event(SessionId(1), v1::SidecarMessage { message }) {
            Ok(Some(Event::BeatReceived { credit, progress, .. })) => {
                assert!(credit <= bounds::SLOTS && progress.len() <= bounds::BEAT_PROGRESS);
                for (_, progress) in progress {
                    assert!(progress.permille <= 1000 && progress.speed.is_finite() && progress.speed >= 0.0);
                    line(&progress.note, 1024);
                }
            }
            Ok(_) => {}
            Err(faults) => told(&faults.to_string()),
        },
    }
}

/// What an informer says to a sidecar.
pub fn informer_message(bytes: &[u8]) {
    if let Err(error) = sidecar::decoders::informer_message(bytes) {
        told(&error);
    }
}

/// A task, as a client describes it. What was checked once passes again, unchanged: a task that is retried, or comes back from a disk,
/// must not be another one.
pub fn task_spec(bytes: &[u8]) {
    let Ok(spec) = v1::TaskSpec::decode(bytes) else { return };
    match check::spec(spec) {
        Ok(checked) => {
            assert!(checked.spec.encoded_len() <= bounds::PAYLOAD_BYTES);
            line(&checked.facts.name, bounds::NAME_BYTES);
            line(&checked.facts.owner, bounds::NAME_BYTES);
            let again = check::spec(checked.spec.clone()).expect("what was checked is right");
            assert_eq!((again.spec, again.facts), (checked.spec, checked.facts));
        }
        Err(faults) => {
            assert!(!faults.list().is_empty());
            line(&faults.to_string(), usize::MAX);
        }
    }
}

/// What else clients send: the first byte says as what it is read.
pub fn client_request(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    match kind % 5 {
        0 => {
            let Ok(request) = v1::SubmitRequest::decode(bytes) else { return };
            if let Ok(Some(key)) = check::key(request.key) {
                line(&key, bounds::NAME_BYTES);
            }
        }
        1 => {
            let Ok(head) = v1::ArrayHead::decode(bytes) else { return };
            if check::array(&head).is_ok() {
                assert!(head.count <= bounds::ARRAY_MEMBERS);
                assert!(head.count == 0 || head.first.checked_add(head.count - 1).is_some(), "a last index");
            }
        }
        2 => {
            let Ok(executor) = v1::Executor::decode(bytes) else { return };
            if let Ok(executor) = check::executor(executor) {
                assert_eq!(check::executor(executor.clone()).as_ref(), Ok(&executor));
            }
        }
        3 => {
            let Ok(request) = v1::ListRequest::decode(bytes) else { return };
            if let Ok(size) = check::page_size(request.page_size) {
                assert!((1..=bounds::PAGE).contains(&size));
            }
            let _ = check::label_filter(&request.labels);
        }
        _ => {
            let Ok(mut upload) = v1::LogUpload::decode(bytes) else { return };
            if check::upload(&mut upload).is_ok() {
                assert!(upload.data.len() <= bounds::LOG_CHUNK_BYTES);
                assert!(upload.offset.checked_add(upload.data.len() as u64).is_some());
            }
        }
    }
}

/// A task and a sidecar as the store has them: the first two bytes say how long the task is. A machine starts on any of them.
pub fn stored_rows(bytes: &[u8]) {
    let Some((length, bytes)) = bytes.split_first_chunk::<2>() else { return };
    let (task, sidecar) = bytes.split_at(bytes.len().min(usize::from(u16::from_le_bytes(*length))));
    let (Ok(task), Ok(sidecar)) = (TaskRow::decode(task), SidecarRow::decode(sidecar)) else { return };
    let config = Config {
        beat_ms: 5_000,
        lease_ms: 15_000,
        fence_grace_ms: 5_000,
        lineage: "fuzzed".to_owned(),
        epoch: 2,
        commit_seq: 1,
        accept_restored: false,
        shares: [].into(),
        log_policy: v1::LogPolicy::Never,
        bug: None,
    };
    let mut now = Now { mono_ms: 1_000, wall_ms: 1 << 40, entropy: 7 };
    let mut machine = Machine::new(config, now, [task], [sidecar], []);
    let mut effects = Vec::new();
    for _ in 0..4 {
        machine.apply(now, Event::TimePassed, &mut effects);
        effects.clear();
        let Some(next) = machine.next_wakeup() else { break };
        now.mono_ms = now.mono_ms.max(next);
    }
}

/// An order to the keeper. Both ends have one way to say a thing, so what is understood is said again with the same bytes.
pub fn keeper_request(bytes: &[u8]) {
    if let Ok(request) = codec::decode_request(bytes) {
        assert_eq!(codec::encode_request(&request), bytes);
    }
    let _ = (codec::decode_spec(bytes), codec::decode_process(bytes), codec::decode_end(bytes));
}

/// A notice of the keeper; as [`keeper_request`].
pub fn keeper_notice(bytes: &[u8]) {
    if let Ok(notice) = codec::decode_notice(bytes) {
        assert_eq!(codec::encode_notice(&notice), bytes);
    }
}

/// A stream of frames between agent and keeper, in two reads: the first byte says where it is cut.
pub fn keeper_frames(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let frames = |pieces: [&[u8]; 2]| {
        let mut reader = FrameReader::default();
        let mut found = Vec::new();
        for piece in pieces {
            reader.feed(piece);
            loop {
                match reader.take() {
                    Ok(Some(frame)) => found.push(frame.to_vec()),
                    Ok(None) => break,
                    Err(error) => return (found, Some(error)),
                }
            }
        }
        assert!(reader.pending().len() <= bytes.len());
        (found, None)
    };
    let (one, two) = bytes.split_at(usize::from(*cut).min(bytes.len()));
    assert_eq!(frames([one, two]), frames([bytes, &[]]), "where a stream is cut changes nothing");
}

/// A directory of this process's own, for one record.
fn scratch() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("fuzz-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    std::env::temp_dir().join(name)
}

/// The record of an attempt. Whatever it holds, a keeper that finds nobody at it gives it a final frame, and then it reads as ended or
/// lost for good.
pub fn record_file(bytes: &[u8]) {
    let dir = scratch();
    std::fs::create_dir_all(&dir).expect("a directory");
    std::fs::write(dir.join(record::FILE), bytes).expect("a file");
    let before = record::read(&dir);
    let settled = record::mark_lost(&dir).and_then(|_| record::mark_swept(&dir));
    let after = record::read(&dir);
    std::fs::remove_dir_all(&dir).expect("removed");
    match (before, after) {
        (Ok(before), Ok(after)) => {
            assert!(before.valid_bytes <= bytes.len() as u64);
            assert!(settled.is_ok() && after.is_final(), "{after:?}");
            if let Some(end) = &before.end {
                assert_eq!(
                    after.state(),
                    if before.lost && !before.swept { ListedState::Lost } else { ListedState::Ended(end.clone()) }
                );
            } else {
                assert_eq!(after.state(), ListedState::Lost);
            }
        }
        (Err(before), Err(after)) => assert_eq!(before.to_string(), after.to_string(), "it is left as it was"),
        (before, after) => panic!("{before:?} became {after:?}"),
    }
}

/// The note that an agent leaves in a record for a later one. What is written of a note is read again, as one that fits.
pub fn record_note(bytes: &[u8]) {
    if let Some((assign, written)) = sidecar::decoders::note(bytes) {
        let (again, _) = sidecar::decoders::note(&written).expect("what was written is read");
        assert_eq!((again.attempt, again.fence), (assign.attempt, assign.fence));
    }
}

/// A line that a task says to its sidecar.
pub fn task_request(bytes: &[u8]) {
    match sidecar::decoders::task_request(bytes) {
        Err(why) => told(&why),
        // Nothing runs in there, so that nobody's progress may be believed.
        Ok(None) => panic!("an attempt that is not there was taken"),
        // Whether it runs is for the machine to say; what goes up must pass the informer's edge.
        Ok(Some(emitted)) => {
            let message = v1::SidecarMessage { message: Some(Message::Emitted(emitted)) };
            let event = convert::event(SessionId(1), message).map(|event| event.is_some());
            assert!(event.is_ok_and(|is_one| is_one), "the edge refuses what the sidecar sends");
        }
    }
}

/// A configuration file of the informer.
pub fn informer_config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(faults) = informer::decoders::config(text) {
        faults.lines().for_each(told);
    }
}

/// A configuration file of a sidecar.
pub fn sidecar_config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(faults) = sidecar::decoders::config(text) {
        faults.lines().for_each(told);
    }
}

/// A task file. The suite's own inputs name no file; what coverage finds may, and then reads no more of it than is allowed.
pub fn task_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(error) = informer::decoders::task_file(text) {
        told(&error);
    }
}

/// Items of an array, a line each.
pub fn array_lines(bytes: &[u8]) {
    if let Ok(count) = informer::decoders::lines(bytes) {
        let breaks = bytes.iter().filter(|byte| **byte == b'\n').count();
        let open = bytes.last().is_some_and(|byte| *byte != b'\n');
        assert_eq!(count, breaks + usize::from(open));
    }
}

/// Items of an array, elements in JSON. Our scanner and a whole parser agree on what is an array of so many.
pub fn array_json(bytes: &[u8]) {
    match informer::decoders::json(bytes) {
        Ok(items) => {
            let whole: Vec<serde::de::IgnoredAny> = serde_json::from_slice(bytes).expect("a whole parser takes it too");
            assert_eq!(items.len(), whole.len());
        }
        Err(error) => told(&error),
    }
}

/// Durations, sizes, signals, pairs, times, ranges.
pub fn units(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    informer::decoders::units(text);
}

/// A command line, one word a line. A file that it names is not opened.
pub fn command_line(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let words: Vec<String> = text.lines().map(str::to_owned).collect();
    if let Err(error) = informer::decoders::command_line(&words) {
        told(&error);
    }
}

/// Ids and addresses: a text that is one is shown as it was written, or in its one form.
pub fn ids_and_addresses(bytes: &[u8]) {
    let id = proto::id::TaskId::from_bytes(bytes);
    assert!(id.is_none_or(|id| *id.to_bytes() == *bytes));
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(id) = text.parse::<proto::id::TaskId>() {
        assert!(id.to_string().eq_ignore_ascii_case(text));
        assert_eq!(proto::id::TaskId::from_bytes(&id.to_bytes()), Some(id));
    }
    if let Ok(id) = text.parse::<proto::id::AttemptId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(record::is_name(&id.dir_name()));
    }
    if let Ok(address) = text.parse::<proto::dial::Address>() {
        let shown = address.to_string();
        assert_eq!(shown.parse::<proto::dial::Address>().expect("its own form").to_string(), shown);
    }
    let _ = settings::word(text, &[("always", 1), ("never", 2)]);
}

fn shown(progress: &v1::Progress) {
    assert!(progress.permille <= 1000 && progress.speed.is_finite() && progress.speed >= 0.0, "{progress:?}");
    line(&progress.note, 160);
}

/// `ffmpeg -progress`, of an output of known and of unknown length; and the file in which our supervisor tells it on.
pub fn ffmpeg_progress(bytes: &[u8]) {
    for expected in [None, Some(12.5), Some(0.0), Some(1e-300)] {
        sidecar::decoders::progress(bytes, expected).iter().for_each(shown);
    }
    sidecar::decoders::snapshot(bytes).iter().for_each(shown);
}

/// What ffmpeg says to stderr.
pub fn ffmpeg_errors(bytes: &[u8]) {
    line(&sidecar::decoders::complaints(bytes), 4096);
}

/// ffprobe's answer.
pub fn ffprobe_answer(bytes: &[u8]) {
    let _ = sidecar::decoders::streams(bytes);
}
