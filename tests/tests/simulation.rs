//! Thousands of histories of the real machines on virtual time; see `tests::sim`.
#![cfg(feature = "faults")]

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use tests::sim::{Check, Coverage, Failure, Keep, Options, ShellBug, play, shrink};

/// Histories that CI affords.
const HISTORIES: u64 = 2000;
/// Histories within which a deliberate mistake must be caught.
const TRIES: u64 = 2000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

/// The same history, its story told.
fn tell(options: Options) -> Result<Coverage, Box<Failure>> {
    play(&Options { verbose: true, ..options })
}

/// Shrunk, and told.
fn short_story(failure: Failure) -> String {
    let (options, shrunk) = shrink(&failure.options.clone(), failure);
    tell(options).map_or_else(|failure| failure.to_string(), |_| shrunk.to_string())
}

/// One history by its seed, as `SIM_KEEP` has it.
fn replay(seed: u64) {
    let wanted = std::env::var("SIM_KEEP").ok();
    let keep: Keep = wanted.as_deref().unwrap_or_default().parse().expect("SIM_KEEP is as a failing run prints it");
    match (tell(Options { keep, ..Options::seed(seed) }), wanted) {
        (Ok(coverage), _) => {
            println!("{}", coverage.table());
            println!("seed {seed}: nothing breaks; {} processes, {} faults", coverage.processes, coverage.faults);
        }
        (Err(failure), Some(_)) => panic!("{failure}"),
        (Err(failure), None) => panic!("{}", short_story(*failure)),
    }
}

/// Plays many at once.
fn play_all(seeds: Range<u64>) -> (Coverage, Vec<Failure>) {
    let (next, results) = (AtomicU64::new(seeds.start), Mutex::new((Coverage::default(), Vec::new())));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let (mut sum, mut broken) = (Coverage::default(), Vec::new());
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    match play(&Options::seed(seed)) {
                        Ok(coverage) => sum.merge(&coverage),
                        Err(failure) => broken.push(*failure),
                    }
                }
                let mut results = results.lock().expect("no player panics");
                results.0.merge(&sum);
                results.1.append(&mut broken);
            });
        }
    });
    let (sum, mut broken) = results.into_inner().expect("no player panics");
    broken.sort_by_key(|failure| failure.options.seed);
    (sum, broken)
}

#[test]
fn no_history_breaks_an_invariant() {
    if let Some(seed) = number("SIM_SEED") {
        return replay(seed);
    }
    let histories = number("SIM_HISTORIES").unwrap_or(HISTORIES);
    let first = number("SIM_FIRST").unwrap_or(0);
    let (sum, broken) = play_all(first..first + histories);
    println!("{}", sum.table());
    println!(
        "{histories} histories: {} steps, {} tasks ended, {} processes, {} faults, {} losses, {} late results",
        sum.steps, sum.ended, sum.processes, sum.faults, sum.losses, sum.late
    );
    for failure in broken.iter().take(40) {
        println!("seed {}: {}", failure.options.seed, failure.wrong);
    }
    let count = broken.len();
    if let Some(failure) = broken.into_iter().next() {
        panic!("{count} histories break an invariant; the first of them, shortened:\n{}", short_story(failure));
    }
    let (missing, unexpected) = (sum.missing(), sum.unexpected());
    missing.iter().for_each(|missing| println!("not reached: {missing}"));
    sum.seldom().iter().for_each(|seldom| println!("not reached this time: {seldom}"));
    unexpected.iter().for_each(|found| println!("reached: {found}"));
    // Fewer need not reach everything.
    if histories >= HISTORIES {
        assert!(missing.is_empty() && unexpected.is_empty(), "see above; the lists are in tests/src/sim/reached.rs");
    }
}

#[test]
fn a_history_is_the_same_each_time() {
    for seed in 0..20 {
        let told = || tell(Options::seed(seed)).map(|coverage| coverage.table()).map_err(|failure| failure.to_string());
        assert_eq!(told(), told(), "seed {seed}");
    }
}

/// The first seed under which a deliberate mistake is caught.
fn catch(options: impl Fn(u64) -> Options) -> Option<Failure> {
    (0..TRIES).find_map(|seed| play(&options(seed)).err().map(|failure| *failure))
}

/// A mistake is caught, and by one of the checks that are for it.
fn assert_caught(name: &str, caught: Option<Failure>, by: &[Check]) {
    let failure = caught.unwrap_or_else(|| panic!("{name} is not caught in {TRIES} histories"));
    println!("{name}: seed {}: {}", failure.options.seed, failure.wrong);
    assert!(by.contains(&failure.wrong.check), "{name} is caught by {:?}, not by {by:?}", failure.wrong.check);
}

#[test]
fn every_seeded_bug_of_the_informer_is_caught() {
    use Check as C;
    use informer::machine::Bug as B;
    let bugs: [(B, &[C]); 12] = [
        (B::ForgetKey, &[C::OneKeyOneTask]),
        (B::IgnoreDigest, &[C::OneKeyOneTask]),
        (B::AcceptTwice, &[C::OneResult, C::InformerConsistent, C::EndsStay]),
        (B::NeverReplace, &[C::EverythingEnds, C::InformerConsistent]),
        (B::NoFenceWait, &[C::SecondCopyWaits]),
        (B::StopUnknown, &[C::NothingStoppedUnasked]),
        (B::Overcommit, &[C::InformerConsistent, C::BooksAgree]),
        (B::LeakSlot, &[C::InformerConsistent, C::BooksAgree]),
        (B::ChargeLoss, &[C::LossesApart]),
        (B::EndlessLosses, &[C::LossesApart]),
        (B::MiscountMember, &[C::EndsStay, C::InformerConsistent]),
        (B::KeepForNobody, &[C::InformerConsistent]),
    ];
    for (bug, by) in bugs {
        let caught = catch(|seed| Options { informer_bug: Some(bug), ..Options::seed(seed) });
        assert_caught(&format!("{bug:?}"), caught, by);
    }
}

#[test]
fn every_seeded_bug_of_the_sidecar_is_caught() {
    use Check as C;
    use sidecar::machine::Bug as B;
    let bugs: [(B, &[C]); 10] = [
        (B::StartTwice, &[C::LedgerFirst, C::SidecarConsistent, C::EverythingEnds]),
        (B::AckBeforeLedger, &[C::LedgerFirst, C::SidecarConsistent]),
        (B::PurgeBeforeAck, &[C::EndBeforeForgetting]),
        (B::IgnoreLease, &[C::LeaseEndsFirst, C::SidecarConsistent]),
        (B::ForgetOutbox, &[C::EverythingEnds, C::AdoptedWithItsEnd, C::EndBeforeForgetting]),
        (B::IgnoreStop, &[C::StoppedInTime]),
        (B::ForgetRunning, &[C::AdoptedWithItsEnd]),
        (B::PublishUnasked, &[C::OutputsAreTheWinners]),
        (B::PurgeBeforeStored, &[C::LogBeforePurge]),
        (B::LeaseToStrangers, &[C::SecondCopyWaits]),
    ];
    for (bug, by) in bugs {
        let caught = catch(|seed| Options { sidecar_bug: Some(bug), ..Options::seed(seed) });
        assert_caught(&format!("{bug:?}"), caught, by);
    }
}

#[test]
fn every_seeded_bug_of_a_shell_is_caught() {
    use Check as C;
    let kept: &[C] = &[C::AcknowledgedIsKept, C::OneKeyOneTask, C::InformerConsistent, C::EndBeforeForgetting];
    for (bug, by) in [
        (ShellBug::AcknowledgeBeforeFlush, kept),
        (ShellBug::GoOnAfterFailedFlush, kept),
        (ShellBug::ResetDamaged, &[C::AcknowledgedIsKept]),
        (ShellBug::BeatBehindLedger, &[C::BeatsLeave]),
        (ShellBug::TellOfGoing, kept),
        (ShellBug::CountEpochs, &[C::FencesRise]),
    ] {
        let caught = catch(|seed| Options { shell_bug: Some(bug), ..Options::seed(seed) });
        assert_caught(&format!("{bug:?}"), caught, by);
    }
}

#[test]
fn a_failing_history_is_made_short_and_can_be_played_again() {
    let bug = |options| Options { informer_bug: Some(informer::machine::Bug::ChargeLoss), ..options };
    let failure = catch(|seed| bug(Options::seed(seed))).expect("it is caught");
    let (check, strikes) = (failure.wrong.check, failure.options.clone());
    let (short, shrunk) = shrink(&strikes, failure);
    assert_eq!(shrunk.wrong.check, check);
    let keep: Keep = short.keep.to_string().parse().unwrap();
    assert_eq!(keep, short.keep, "what is printed is what is played");
    assert!(keep.tasks.is_some_and(|tasks| tasks.len() <= 2), "one lost task shows it: {}", short.keep);
    let again = tell(Options { keep: short.keep, ..bug(Options::seed(short.seed)) }).unwrap_err();
    assert_eq!((again.wrong, again.at_ms), (shrunk.wrong, shrunk.at_ms));
}

#[test]
fn every_seeded_bug_of_runs_is_caught() {
    use Check as C;
    use informer::machine::Bug as B;
    let bugs: [(B, &[C]); 9] = [
        (B::ForgetRunKey, &[C::OneKeyOneRun]),
        (B::IgnoreRunDigest, &[C::OneKeyOneRun]),
        (B::ForgetRunTimers, &[C::EverythingEnds]),
        (B::TellParentLater, &[C::EverythingEnds, C::RunsMeanIt]),
        (B::OrphanChild, &[C::ChildEndsWithIt]),
        (B::OrphanWork, &[C::NothingAfterTheEnd]),
        (B::WorkTwice, &[C::StepOnce, C::NothingAfterTheEnd]),
        (B::IgnoreExecLimit, &[C::LimitsHold]),
        (B::KeepPlace, &[C::EverythingEnds]),
    ];
    for (bug, by) in bugs {
        let caught = catch(|seed| Options { informer_bug: Some(bug), ..Options::seed(seed) });
        assert_caught(&format!("{bug:?}"), caught, by);
    }
    use workflow::run::bug::Bug as R;
    for (bug, by) in [(R::JoinEarly, &[C::JoinsWait, C::RunsMeanIt][..]), (R::CountTryTwice, &[C::RunsMeanIt])] {
        let caught = catch(|seed| Options { run_bug: Some(bug), ..Options::seed(seed) });
        assert_caught(&format!("{bug:?}"), caught, by);
    }
    for (bug, by) in [
        (ShellBug::ForgetRunKeys, &[C::OneKeyOneRun][..]),
        (ShellBug::LeaveBodies, &[C::RunsConsistent, C::InformerConsistent]),
    ] {
        let caught = catch(|seed| Options { shell_bug: Some(bug), ..Options::seed(seed) });
        assert_caught(&format!("{bug:?}"), caught, by);
    }
}
