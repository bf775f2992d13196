//! The kill matrix: a monitor, or monitor and keeper together, killed at every boundary of the record.
//!
//! Needs the feature `failpoints`: `cargo nextest run -p keeper --features failpoints`.
#![cfg(feature = "failpoints")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod kit;

use keeper::record;
use keeper::wire::{End, ListedState, OnDisconnect, Refusal, Spec};
use kit::{Bed, sh};

const POINTS: [(&str, bool); 7] = [
    ("after-mkdir", false),
    ("after-spec", false),
    ("after-spawn", false),
    ("after-spawned", false),
    ("after-wait", false),
    ("after-exit", true),
    ("after-sweep", true),
];
const POINTS_WITH_KEEPER: [(&str, bool); 7] = [
    ("after-mkdir,keeper", false),
    ("after-spec,keeper", false),
    ("after-spawn,keeper", false),
    ("after-spawned,keeper", false),
    ("after-wait,keeper", false),
    ("after-exit,keeper", true),
    ("after-sweep,keeper", true),
];

/// Leaves a stray behind that only the sweep ends, then exits with 5.
const SCRIPT: &str = "setsid sh -c 'trap \"\" TERM; echo $$ > stray; while :; do sleep 1; done' & \
                      while [ ! -s stray ]; do sleep 0.01; done; exit 5";

/// Runs one point; the attempt is ended with its code if its end was recorded, else lost; nothing of it runs; its name is taken.
fn check(point: &'static str, recorded: bool, spec: Spec) {
    let mut bed = Bed::with_failpoint(point);
    let mut agent = bed.agent();
    agent.start("a", spec);
    let state = if point.ends_with(",keeper") {
        agent.wait_closed();
        agent = bed.agent();
        match agent.listed("a").expect(point) {
            state @ (ListedState::Ended(_) | ListedState::Lost) => state,
            _ => settled(&mut agent, recorded),
        }
    } else {
        settled(&mut agent, recorded)
    };
    match state {
        ListedState::Ended(End { code, .. }) => assert_eq!((code, recorded), (Some(5), true), "{point}"),
        ListedState::Lost => assert!(!recorded, "{point}"),
        other => panic!("{point}: {other:?}"),
    }
    assert_eq!(bed.tasks(), Vec::<u32>::new(), "{point}");
    assert!(record::read(&bed.attempt("a")).unwrap().is_final(), "{point}");
    agent.start("a", sh("true"));
    assert_eq!(agent.refused("a").0, Refusal::Exists, "{point}");
}

fn settled(agent: &mut kit::Agent, recorded: bool) -> ListedState {
    if recorded {
        return ListedState::Ended(agent.ended("a"));
    }
    agent.lost("a");
    ListedState::Lost
}

#[test]
fn a_monitor_killed_at_any_boundary_leaves_one_truth_and_no_process() {
    for (point, recorded) in POINTS {
        check(point, recorded, sh(SCRIPT));
    }
}

#[test]
fn monitor_and_keeper_killed_at_any_boundary_leave_one_truth_and_no_process() {
    for (point, recorded) in POINTS_WITH_KEEPER {
        check(point, recorded, sh(SCRIPT));
    }
}

#[test]
fn so_it_is_in_a_pid_namespace() {
    for (point, recorded) in POINTS.into_iter().chain(POINTS_WITH_KEEPER) {
        check(point, recorded, Spec { on_disconnect: OnDisconnect::Stop, ..sh(SCRIPT) });
    }
}
