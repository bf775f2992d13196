//! One history in which all is well, and one for each way in which it is not.

use super::*;
use crate::chaos::job::{Ends, GRACE};
use crate::chaos::probe::{Probe, output};
use proto::v1::{Attempt, AttemptState, Ending, HistoryEvent, Reason, Resources, Sidecar, TaskState};

const ID: &str = "0190";

fn at(millis: u64) -> Duration {
    Duration::from_secs(100) + Duration::from_millis(millis)
}

fn act(what: What, attempt: u32, millis: u64) -> Act {
    Act { what, name: "k".to_owned(), attempt, pid: 10, at: at(millis) }
}

fn told(millis: u64, told: Told) -> Event {
    Event { at: at(millis), told }
}

fn ended(exit: i32, reason: Reason) -> Option<Ending> {
    Some(Ending { exit_code: Some(exit), reason: reason.into(), ..Ending::default() })
}

fn attempt(number: u32, state: AttemptState, ending: Option<Ending>) -> Attempt {
    Attempt { number, sidecar: "s".to_owned(), state: state.into(), ending, ended_unix_ms: 1, ..Attempt::default() }
}

fn chunks(probe: &Probe, attempt: u32) -> Vec<Chunk> {
    [(false, probe.stdout("k", attempt)), (true, probe.stderr("k", attempt))]
        .map(|(err, data)| Chunk { attempt, err, offset: 0, data, truncated: false })
        .to_vec()
}

/// One exclusive task with an output and a log, lost once and done by its second attempt.
fn good() -> Evidence {
    let probe = Probe { millis: 100, lines: 8, alone: true, outputs: 1, ..Probe::default() };
    let path = PathBuf::from("/out/k-0");
    let lost = Ending { reason: Reason::Lost.into(), ..Ending::default() };
    let task = v1::Task {
        id: ID.to_owned(),
        name: "k".to_owned(),
        state: TaskState::Succeeded.into(),
        ending: ended(0, Reason::Unspecified),
        attempts: vec![
            attempt(1, AttemptState::Lost, Some(lost)),
            attempt(2, AttemptState::Succeeded, ended(0, Reason::Unspecified)),
        ],
        ..v1::Task::default()
    };
    let retry = HistoryEvent {
        kind: "retry".to_owned(),
        detail: "infrastructure failure 1 of 50".to_owned(),
        ..HistoryEvent::default()
    };
    let sidecar = Sidecar { id: "s".to_owned(), slots: 1, allocated: Some(Resources::default()), ..Sidecar::default() };
    Evidence {
        logs: [((ID.to_owned(), 2), chunks(&probe, 2))].into(),
        jobs: vec![Job {
            key: "k".to_owned(),
            probe,
            spec: v1::TaskSpec::default(),
            outputs: vec![path.clone()],
            ends: Ends::Well,
        }],
        events: vec![
            told(0, Told::Submitted { key: "k".to_owned(), id: ID.to_owned() }),
            told(1, Told::Submitted { key: "k".to_owned(), id: ID.to_owned() }),
            told(500, Told::Ended { id: ID.to_owned(), state: TaskState::Succeeded.into(), exit: Some(0) }),
            told(600, Told::OtherPayload { key: "k".to_owned(), refused: true }),
        ],
        acts: vec![
            act(What::Start(1, 1), 1, 10),
            act(What::Tick(60), 1, 20),
            act(What::Start(1, 2), 2, 200),
            act(What::Tick(480), 2, 290),
            act(What::End(0), 2, 300),
        ],
        tasks: vec![task],
        histories: [(ID.to_owned(), vec![retry])].into(),
        files: [(path, output("k", 2))].into(),
        sidecars: vec![sidecar],
        boxes: 1,
        left: Vec::new(),
        hung: Vec::new(),
        monitors_harmed: true,
        timed: Some(Duration::from_millis(500)),
    }
}

/// The evidence, changed, violates this invariant and is counted so.
fn caught(invariant: u32, (lost, doubled): (u64, u64), change: impl FnOnce(&mut Evidence)) {
    let mut evidence = good();
    change(&mut evidence);
    let verdict = judge(&evidence);
    let prefix = format!("invariant {invariant}: ");
    assert!(verdict.violations.iter().any(|line| line.starts_with(&prefix)), "{verdict:#?}");
    assert_eq!((verdict.lost, verdict.doubled), (lost, doubled), "{verdict:#?}");
}

#[test]
fn a_good_history_is_good() {
    assert_eq!(judge(&good()), Verdict::default());
}

#[test]
fn an_acknowledged_task_that_is_gone_is_seen() {
    caught(1, (2, 0), |evidence| evidence.tasks.clear());
}

#[test]
fn a_key_of_two_tasks_is_seen() {
    caught(2, (0, 1), |evidence| {
        let mut second = evidence.tasks[0].clone();
        second.id = "0191".to_owned();
        evidence.logs.insert((second.id.clone(), 2), evidence.logs[&(ID.to_owned(), 2)].clone());
        evidence.tasks.push(second);
    });
    caught(2, (1, 1), |evidence| {
        evidence.events.push(told(2, Told::Submitted { key: "k".to_owned(), id: "0191".to_owned() }));
    });
}

#[test]
fn another_payload_under_a_key_is_seen() {
    caught(2, (0, 1), |evidence| {
        evidence.events.push(told(700, Told::OtherPayload { key: "k".to_owned(), refused: false }));
    });
}

#[test]
fn two_accepted_results_are_seen() {
    // What is published can only be one of theirs.
    caught(3, (0, 2), |evidence| {
        evidence.tasks[0].attempts[0] = attempt(1, AttemptState::Succeeded, None);
        evidence.logs.insert((ID.to_owned(), 1), chunks(&evidence.jobs[0].probe.clone(), 1));
    });
}

#[test]
fn an_end_that_is_taken_back_is_seen() {
    caught(3, (0, 1), |evidence| {
        evidence
            .events
            .push(told(400, Told::Ended { id: ID.to_owned(), state: TaskState::Failed.into(), exit: Some(1) }));
    });
}

#[test]
fn outputs_of_another_attempt_and_mixed_ones_are_seen() {
    let path = PathBuf::from("/out/k-0");
    caught(3, (0, 1), |evidence| drop(evidence.files.insert(path.clone(), output("k", 1))));
    caught(3, (0, 1), |evidence| {
        let mixed = [&output("k", 1)[..2000], &output("k", 2)[2000..]].concat();
        evidence.files.insert(path.clone(), mixed);
    });
    caught(3, (1, 0), |evidence| drop(evidence.files.remove(&path)));
    caught(3, (0, 0), |evidence| drop(evidence.files.insert("/out/.k-0.x.part".into(), Vec::new())));
}

#[test]
fn an_attempt_started_twice_or_under_an_older_fence_is_seen() {
    caught(3, (0, 1), |evidence| evidence.acts.insert(4, act(What::Start(1, 2), 2, 250)));
    caught(3, (0, 0), |evidence| evidence.acts[2].what = What::Start(1, 1));
}

#[test]
fn a_task_that_does_not_end_or_ends_otherwise_is_seen() {
    caught(4, (0, 0), |evidence| evidence.hung.push("k has not ended".to_owned()));
    caught(3, (1, 0), |evidence| {
        evidence.tasks[0].set_state(TaskState::Failed);
        evidence.tasks[0].attempts[1].set_state(AttemptState::Lost);
        evidence.events.retain(|event| !matches!(event.told, Told::Ended { .. }));
        evidence.files.clear();
    });
}

#[test]
fn copies_that_overlap_are_seen() {
    caught(5, (0, 1), |evidence| evidence.acts.insert(3, act(What::Overlap, 2, 201)));
    caught(5, (0, 1), |evidence| evidence.acts.insert(3, act(What::Stray, 1, 220)));
}

#[test]
fn a_process_that_stays_is_seen() {
    caught(6, (0, 0), |evidence| evidence.left.push("process 10".to_owned()));
    let limit = 300 + u64::try_from(GRACE.as_millis()).expect("short") + 2000;
    caught(6, (0, 0), |evidence| evidence.acts.push(act(What::Stray, 2, limit + 10)));
    // Its sidecar was dead meanwhile.
    let mut excused = good();
    excused.acts.push(act(What::Stray, 2, limit + 10));
    excused.events.push(told(310, Told::Harm { what: "agent".to_owned() }));
    excused.events.push(told(1000, Told::Healed { what: "agent".to_owned() }));
    assert_eq!(judge(&excused), Verdict::default());
}

#[test]
fn another_exit_code_and_a_lost_process_are_seen() {
    caught(7, (1, 0), |evidence| evidence.acts[4].what = What::End(4));
    caught(7, (1, 0), |evidence| evidence.monitors_harmed = false);
    caught(7, (0, 0), |evidence| {
        evidence.tasks[0].attempts[0].ending = Some(Ending { reason: Reason::Signal.into(), ..Ending::default() });
    });
}

#[test]
fn a_log_with_a_gap_or_wrong_bytes_is_seen() {
    let log = |evidence: &mut Evidence, change: fn(&mut Vec<Chunk>)| {
        change(evidence.logs.get_mut(&(ID.to_owned(), 2)).expect("a log"));
    };
    caught(8, (1, 0), |evidence| log(evidence, |log| log[0].data.truncate(100)));
    caught(8, (1, 0), |evidence| log(evidence, |log| log[0].data[7] ^= 1));
    caught(8, (1, 0), |evidence| log(evidence, |log| log[0].offset = 5));
    caught(8, (1, 0), |evidence| evidence.logs.clear());
    let piece = |offset: u64, data: &str| {
        told(250, Told::Log { id: ID.to_owned(), attempt: 2, err: false, offset, data: data.as_bytes().to_vec() })
    };
    caught(8, (1, 0), |evidence| evidence.events.push(piece(61, "k 2 1 ")));
    caught(8, (1, 0), |evidence| evidence.events.push(piece(0, "k 2 1 ")));
    let mut read = good();
    read.events.push(piece(0, "k 2 0 "));
    assert_eq!(judge(&read), Verdict::default());
}

#[test]
fn open_books_and_a_crowd_are_seen() {
    caught(9, (0, 0), |evidence| evidence.sidecars.clear());
    caught(9, (0, 0), |evidence| evidence.sidecars[0].running = 1);
    caught(9, (0, 0), |evidence| {
        evidence.sidecars[0].allocated = Some(Resources { cpu_millis: 1, memory_bytes: 0 });
    });
    caught(9, (0, 0), |evidence| {
        evidence.jobs[0].probe.alone = false;
        evidence.acts.insert(3, act(What::Tick(70), 1, 220));
    });
}

#[test]
fn a_loss_that_is_charged_is_seen() {
    caught(13, (0, 0), |evidence| {
        evidence.histories.get_mut(ID).expect("a history")[0].detail = "own failure 1 of 2".to_owned();
    });
    caught(13, (0, 0), |evidence| {
        // Its second try was a loss, and it was given no third.
        evidence.jobs[0].ends = Ends::Badly { tries: 2 };
        evidence.tasks[0].set_state(TaskState::Failed);
        evidence.tasks[0].ending = ended(3, Reason::ExitCode);
        evidence.tasks[0].attempts[1] = attempt(2, AttemptState::Failed, ended(3, Reason::ExitCode));
        evidence.acts[4].what = What::End(3);
        evidence.events.retain(|event| !matches!(event.told, Told::Ended { .. }));
        evidence.files.clear();
    });
    caught(13, (0, 0), |evidence| {
        let lost = Ending { reason: Reason::Lost.into(), ..Ending::default() };
        evidence.tasks[0].set_state(TaskState::Failed);
        evidence.tasks[0].ending = Some(lost.clone());
        evidence.tasks[0].attempts[1] = attempt(2, AttemptState::Lost, Some(lost));
        evidence.events.retain(|event| !matches!(event.told, Told::Ended { .. }));
        evidence.files.clear();
    });
}
