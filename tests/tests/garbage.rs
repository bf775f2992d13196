//! Garbage, and right input with damage, for everything that reads foreign bytes. A little in every run; `tests/fuzz.sh` goes on where
//! this ends.
#![cfg(feature = "decoders")]

use proptest::prelude::*;
use proptest::sample::Index;
use tests::fuzz::{TARGETS, Target};

/// Inputs for each target: some seconds for all of them in a build without optimisation.
const CASES: u32 = 400;
/// Changes of one input. More of them make noise again.
const CHANGES: usize = 6;
/// Longest noise, and longest run of bytes that is put in or taken out.
const NOISE_BYTES: usize = 300;
const RUN_BYTES: usize = 40;

/// One change of an input.
#[derive(Debug, Clone)]
enum Change {
    /// One bit is another.
    Flip(Index, u8),
    /// One byte is another: often the least, the greatest, a sign bit.
    Set(Index, u8),
    /// Nothing follows.
    Cut(Index),
    /// Bytes are put in.
    Insert(Index, Vec<u8>),
    /// Bytes are missing.
    Remove(Index, usize),
    /// A part of it comes again.
    Repeat(Index, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    let edge = prop_oneof![Just(0), Just(1), Just(0x7f), Just(0x80), Just(0xff), any::<u8>()];
    prop_oneof![
        (at(), 0..8_u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        (at(), edge).prop_map(|(at, byte)| Change::Set(at, byte)),
        at().prop_map(Change::Cut),
        (at(), proptest::collection::vec(any::<u8>(), 1..RUN_BYTES)).prop_map(|(at, run)| Change::Insert(at, run)),
        (at(), 1..RUN_BYTES).prop_map(|(at, length)| Change::Remove(at, length)),
        (at(), 1..RUN_BYTES).prop_map(|(at, length)| Change::Repeat(at, length)),
    ]
}

fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        if bytes.is_empty() {
            break;
        }
        let length = bytes.len();
        let run = |at: &Index, most: usize| at.index(length)..(at.index(length) + most).min(length);
        match change {
            Change::Flip(at, bit) => bytes[at.index(length)] ^= 1 << bit,
            Change::Set(at, byte) => bytes[at.index(length)] = *byte,
            Change::Cut(at) => bytes.truncate(at.index(length)),
            Change::Insert(at, run) => {
                let at = at.index(length);
                bytes.splice(at..at, run.iter().copied());
            }
            Change::Remove(at, most) => drop(bytes.drain(run(at, *most))),
            Change::Repeat(at, most) => {
                let run = run(at, *most);
                let again = bytes[run.clone()].to_vec();
                bytes.splice(run.start..run.start, again);
            }
        }
    }
    bytes
}

fn feed(name: &str) {
    let Some(Target { feed, seeds, .. }) = TARGETS.iter().find(|target| target.name == name) else {
        panic!("there is no target {name}");
    };
    let seeds = seeds();
    seeds.iter().for_each(|seed| feed(seed));
    let config = ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
    let noise = proptest::collection::vec(any::<u8>(), 0..NOISE_BYTES);
    let damaged = (0..seeds.len(), proptest::collection::vec(change(), 1..=CHANGES))
        .prop_map(|(seed, changes)| changed(seeds[seed].clone(), &changes));
    let inputs = prop_oneof![1 => noise, 5 => damaged];
    let outcome = proptest::test_runner::TestRunner::new(config).run(&inputs, |bytes| {
        feed(&bytes);
        Ok(())
    });
    outcome.unwrap_or_else(|found| panic!("{name}: {found}"));
}

macro_rules! fed {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            feed(stringify!($name));
        })*

        #[test]
        fn every_target_is_fed_here_and_has_its_program() {
            let here = [$(stringify!($name)),*];
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, here);
            let manifest = include_str!("../fuzz/Cargo.toml");
            let programs: Vec<&str> = manifest.split("[[bin]]\nname = \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
            assert_eq!(programs, [&here[..], &["seeds"]].concat());
        }
    };
}

fed! {
    sidecar_message informer_message task_spec client_request stored_rows keeper_request keeper_notice keeper_frames record_file
    record_note task_request informer_config sidecar_config task_file array_lines array_json units command_line ids_and_addresses
    ffmpeg_progress ffmpeg_errors ffprobe_answer
}

/// What a right input means is said by its decoder, or the targets would be fed nothing but noise.
#[test]
fn seeds_are_right() {
    use prost::Message as _;
    for bytes in tests::fuzz::seeds::task_specs() {
        let spec = proto::v1::TaskSpec::decode(&*bytes).expect("a spec");
        proto::check::spec(spec).unwrap_or_else(|faults| panic!("{faults}"));
    }
    for bytes in tests::fuzz::seeds::informer_messages() {
        sidecar::decoders::informer_message(&bytes).unwrap_or_else(|error| panic!("{error}"));
    }
    for bytes in tests::fuzz::seeds::task_files() {
        let text = String::from_utf8(bytes).expect("text");
        informer::decoders::task_file(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    }
    for bytes in tests::fuzz::seeds::informer_configs() {
        let text = String::from_utf8(bytes).expect("text");
        informer::decoders::config(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    }
    for bytes in tests::fuzz::seeds::sidecar_configs() {
        let text = String::from_utf8(bytes).expect("text");
        sidecar::decoders::config(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    }
    for bytes in tests::fuzz::seeds::command_lines() {
        let words: Vec<String> = String::from_utf8(bytes).expect("text").lines().map(str::to_owned).collect();
        informer::decoders::command_line(&words).unwrap_or_else(|error| panic!("{error}"));
    }
    assert!(tests::fuzz::seeds::notes().iter().all(|note| sidecar::decoders::note(note).is_some()));
    assert!(tests::fuzz::seeds::keeper_notices().iter().all(|body| keeper::codec::decode_notice(body).is_ok()));
}
