//! What clients do to runs.

use super::*;

#[test]
fn a_paused_run_schedules_nothing_until_it_is_resumed() {
    let mut flow = Flow::new();
    flow.define("w", json!([simple("a"), simple("b")]));
    flow.start("r", "w", json!({}));
    let work = flow.poll("a", 0).remove(0);
    assert_eq!(flow.operate("r", Operation::Pause), Ok(None));
    assert!(flow.operate("r", Operation::Pause).is_ok_and(|ignored| ignored.is_some()));
    flow.update(&work, completed(None));
    flow.restart();
    assert_eq!(flow.poll("b", 0), []);
    assert_eq!(flow.operate("r", Operation::Resume), Ok(None));
    assert_eq!(flow.poll("b", 0).len(), 1);
    assert_eq!(flow.kinds(), ["started", "paused", "resumed"]);
}

#[test]
fn a_signal_ends_a_wait_and_what_comes_twice_early_or_to_nobody_is_harmless() {
    let mut flow = Flow::new();
    let human = |name: &str| json!({"name": name, "taskReferenceName": name, "type": "HUMAN"});
    flow.define("w", json!([human("h"), human("later")]));
    flow.start("r", "w", json!({}));
    let signal = |reference: &str| Operation::Update {
        reference: reference.to_owned(),
        status: TaskStatus::Completed,
        output: None,
        reason: None,
    };
    let early = flow.operate("r", signal("later"));
    assert!(matches!(early, Err(Rejection::RunRefused { .. })), "{early:?}");
    assert!(flow.operate("r", signal("nobody")).is_err());
    assert_eq!(flow.operate("r", signal("h")), Ok(None));
    assert!(flow.operate("r", signal("h")).is_ok_and(|ignored| ignored.is_some()));
    assert_eq!(flow.shows("r"), "h:COMPLETED later:IN_PROGRESS");
}

#[test]
fn a_run_that_is_over_is_rerun_from_a_task_and_restarted() {
    let mut flow = Flow::new();
    flow.define("w", json!([simple("a"), simple("b")]));
    flow.start("r", "w", json!({}));
    for name in ["a", "b"] {
        let work = flow.poll(name, 0).remove(0);
        flow.update(&work, completed(None));
    }
    assert_eq!(flow.status("r"), RunStatus::Completed);
    let input = flow.put(json!({"again": true}));
    assert_eq!(flow.operate("r", Operation::Rerun { from: Some("b".into()), input }), Ok(None));
    let work = flow.poll("b", 0).remove(0);
    assert_eq!(work.input, input.map(|input| input.0));
    flow.update(&work, completed(None));
    let json = json!({"name": "w", "version": 2, "tasks": [simple("c")]});
    let latest = Some(Box::new(flow.prepared(&json, json!({}))));
    assert_eq!(flow.operate("r", Operation::Restart { latest }), Ok(None));
    assert_eq!(flow.rows["r"].row.version, 2);
    flow.restart();
    let work = flow.poll("c", 0).remove(0);
    flow.update(&work, completed(None));
    assert_eq!(flow.status("r"), RunStatus::Completed);
}

#[test]
fn a_task_is_skipped_before_it_is_reached() {
    let mut flow = Flow::new();
    flow.define("w", json!([simple("a"), simple("b")]));
    flow.start("r", "w", json!({}));
    let output = flow.put(json!({"skipped": 1}));
    assert_eq!(flow.operate("r", Operation::Skip { reference: "b".into(), output }), Ok(None));
    let work = flow.poll("a", 0).remove(0);
    flow.update(&work, completed(None));
    assert_eq!((flow.status("r"), flow.output("r")), (RunStatus::Completed, json!({"skipped": 1})));
    assert_eq!(flow.shows("r"), "a:COMPLETED b:SKIPPED");
}

#[test]
fn an_unknown_run_is_told_so_and_an_operation_that_cannot_be_leaves_it_as_it_was() {
    let mut flow = Flow::new();
    flow.define("w", json!([simple("a")]));
    assert_eq!(flow.operate("r", Operation::Pause), Err(Rejection::UnknownRun { run: "r".into() }));
    flow.start("r", "w", json!({}));
    assert!(matches!(flow.operate("r", Operation::Retry), Err(Rejection::RunRefused { .. })));
    flow.operate("r", Operation::Terminate { reason: None, tell: true }).expect("it runs");
    assert!(matches!(flow.operate("r", Operation::Resume), Err(Rejection::RunRefused { .. })));
    assert_eq!(flow.world.machine.runs_held(), 0);
}

#[test]
fn events_are_published_into_the_runs_history() {
    let mut flow = Flow::new();
    let event = json!({"name": "e", "taskReferenceName": "e", "type": "EVENT", "sink": "conductor:done",
        "inputParameters": {"x": 1}});
    flow.define("w", json!([event]));
    flow.start("r", "w", json!({}));
    let published = flow.events.iter().find(|event| event.kind == "published").expect("it is told");
    assert!(flow.stock.bodies.borrow().contains_key(&published.payload[..]));
    assert_eq!(flow.status("r"), RunStatus::Completed);
}
