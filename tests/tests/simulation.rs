//! Thousands of histories of the real machines on virtual time; see `tests::sim`.
#![cfg(feature = "faults")]

use tests::sim::{Options, Reached, play};

/// Histories of one run: `SIM_HISTORIES`, or what CI affords.
fn histories() -> u64 {
    std::env::var("SIM_HISTORIES").ok().and_then(|text| text.parse().ok()).unwrap_or(2000)
}

fn first(stories: &[String]) -> String {
    stories.iter().take(5).map(String::as_str).collect::<Vec<_>>().join("\n\n")
}

#[test]
fn no_history_breaks_an_invariant() {
    if let Some(seed) = std::env::var("SIM_SEED").ok().and_then(|text| text.parse().ok()) {
        play(&Options { verbose: true, ..Options::seed(seed) }).unwrap();
        return;
    }
    let mut sum = Reached::default();
    let mut broken = Vec::new();
    for seed in 0..histories() {
        let reached = match play(&Options::seed(seed)) {
            Ok(reached) => reached,
            Err(story) => {
                broken.push(story);
                continue;
            }
        };
        sum.steps += reached.steps;
        sum.ended += reached.ended;
        sum.losses += reached.losses;
        sum.late += reached.late;
        sum.faults += reached.faults;
        sum.processes += reached.processes;
    }
    println!("{} histories: {sum:?}", histories());
    assert!(broken.is_empty(), "{} histories break an invariant, among them\n{}", broken.len(), first(&broken));
    assert!(sum.losses > 0 && sum.late > 0 && sum.faults > 0, "the faults reach what they are for: {sum:?}");
}

/// The first seed under which a deliberate mistake is caught, and what was said.
fn catch(options: impl Fn(u64) -> Options) -> Option<(u64, String)> {
    (0..500).find_map(|seed| play(&options(seed)).err().map(|story| (seed, story)))
}

#[test]
fn every_seeded_bug_of_the_informer_is_caught() {
    use informer::machine::Bug;
    for bug in [
        Bug::AcceptTwice,
        Bug::NoFenceWait,
        Bug::LeakSlot,
        Bug::ForgetKey,
        Bug::NeverReplace,
        Bug::Overcommit,
        Bug::ChargeLoss,
        Bug::MiscountMember,
        Bug::KeepForNobody,
    ] {
        let caught = catch(|seed| Options { informer_bug: Some(bug), ..Options::seed(seed) });
        let (seed, story) = caught.unwrap_or_else(|| panic!("{bug:?} is not caught in 500 histories"));
        println!("{bug:?}: seed {seed}: {}", story.lines().next().unwrap_or_default());
    }
}

#[test]
fn every_seeded_bug_of_the_sidecar_is_caught() {
    use sidecar::machine::Bug;
    for bug in [Bug::StartTwice, Bug::AckBeforeLedger, Bug::PurgeBeforeAck, Bug::IgnoreLease, Bug::ForgetOutbox] {
        let caught = catch(|seed| Options { sidecar_bug: Some(bug), ..Options::seed(seed) });
        let (seed, story) = caught.unwrap_or_else(|| panic!("{bug:?} is not caught in 500 histories"));
        println!("{bug:?}: seed {seed}: {}", story.lines().next().unwrap_or_default());
    }
}
