//! Work for workers that poll.

use super::*;

fn limited(limits: &Value) -> Value {
    let mut definition = json!({"name": "a", "retryCount": 0, "timeoutSeconds": 0, "responseTimeoutSeconds": 10});
    for (key, value) in limits.as_object().expect("limits") {
        definition[key] = value.clone();
    }
    json!({"name": "a", "taskReferenceName": "a", "taskDefinition": definition})
}

#[test]
fn a_worker_takes_a_task_once_and_ends_it() {
    let mut flow = Flow::new();
    flow.define("w", json!([simple("a")]));
    flow.start("r", "w", json!({"x": 1}));
    let work = flow.poll("a", 0).remove(0);
    assert_eq!((&*work.run, work.reference.as_str(), work.workflow.as_str()), ("r", "a", "w"));
    assert_eq!(flow.poll("a", 0), [], "somebody has it");
    let output = flow.put(json!({"y": 2}));
    assert_eq!(flow.update(&work, completed(output)), None);
    assert_eq!((flow.status("r"), flow.output("r")), (RunStatus::Completed, json!({"y": 2})));
}

#[test]
fn a_poll_waits_for_the_first_task_and_no_longer_than_it_said() {
    let mut flow = Flow::new();
    flow.define("w", json!([simple("a")]));
    assert_eq!(flow.poll("a", 5_000), []);
    flow.start("r", "w", json!({}));
    assert!(flow.replies.iter().any(|reply| matches!(reply, Reply::Polled(tasks) if tasks.len() == 1)));
    assert_eq!(flow.poll("a", 5_000), []);
    flow.pass(5_000);
    assert_eq!(flow.replies, [Reply::Polled(Vec::new())]);
}

#[test]
fn silence_gives_up_the_try_and_words_put_it_off() {
    let mut flow = Flow::new();
    flow.define("w", json!([limited(&json!({}))]));
    flow.start("r", "w", json!({}));
    let work = flow.poll("a", 0).remove(0);
    flow.pass(9_000);
    assert_eq!(flow.update(&work, WorkUpdate::Extend { output: None }), None);
    flow.pass(9_999);
    assert_eq!(flow.status("r"), RunStatus::Running);
    flow.pass(1);
    assert_eq!(flow.shows("r"), "a:TIMED_OUT");
}

#[test]
fn a_worker_may_give_it_back_for_a_while() {
    let mut flow = Flow::new();
    flow.define("w", json!([simple("a")]));
    flow.start("r", "w", json!({}));
    let work = flow.poll("a", 0).remove(0);
    let output = flow.put(json!({"half": true}));
    assert_eq!(flow.update(&work, WorkUpdate::Yield { after_ms: 3_000, output }), None);
    assert_eq!(flow.shows("r"), "a:SCHEDULED");
    assert_eq!(flow.poll("a", 0), []);
    flow.pass(3_000);
    assert_eq!(flow.poll("a", 0).remove(0).output, output.map(|output| output.0));
}

#[test]
fn who_had_it_has_it_after_a_restart_and_who_is_late_changes_nothing() {
    let mut flow = Flow::new();
    flow.define("w", json!([limited(&json!({}))]));
    flow.start("r", "w", json!({}));
    let work = flow.poll("a", 0).remove(0);
    flow.restart();
    assert_eq!(flow.poll("a", 0), []);
    assert_eq!(flow.update(&work, completed(None)), None);
    assert_eq!(flow.status("r"), RunStatus::Completed);
    let stored = vec![flow.stored("r")];
    flow.replies.clear();
    let (run, step) = (work.run.clone(), work.step);
    flow.tell(FlowEvent::WorkUpdated { ticket: Ticket(6), run, step, stored, update: completed(None) });
    assert!(matches!(flow.replies.pop(), Some(Reply::WorkUpdated { ignored: Some(_) })));
    assert_eq!(flow.world.machine.runs_held(), 0);
}

#[test]
fn no_more_run_at_once_than_may() {
    let mut flow = Flow::new();
    flow.define("w", json!([limited(&json!({"concurrentExecLimit": 2}))]));
    for run in ["r1", "r2", "r3"] {
        flow.start(run, "w", json!({}));
    }
    let taken = flow.poll("a", 0);
    assert_eq!(taken.len(), 2);
    let why = flow.world.machine.why_not_admitted("r3", 0).expect("it is held back");
    assert!(why.contains("concurrentExecLimit"), "{why}");
    flow.restart();
    assert_eq!(flow.poll("a", 0), [], "what runs is counted after a restart too");
    flow.update(&taken[0], completed(None));
    assert_eq!(flow.poll("a", 0).len(), 1);
}

#[test]
fn no_more_start_in_a_period_than_may() {
    let mut flow = Flow::new();
    flow.define("w", json!([limited(&json!({"rateLimitPerFrequency": 1, "rateLimitFrequencyInSeconds": 60}))]));
    flow.start("r1", "w", json!({}));
    flow.start("r2", "w", json!({}));
    assert_eq!(flow.poll("a", 0).len(), 1);
    flow.pass(59_999);
    assert_eq!(flow.poll("a", 0), []);
    flow.pass(1);
    assert_eq!(flow.poll("a", 0).len(), 1);
}

#[test]
fn a_terminated_run_leaves_nothing_in_the_queue() {
    let mut flow = Flow::new();
    flow.define("w", json!([limited(&json!({"concurrentExecLimit": 1}))]));
    flow.start("r1", "w", json!({}));
    flow.start("r2", "w", json!({}));
    assert_eq!(flow.operate("r1", Operation::Terminate { reason: None, tell: true }), Ok(None));
    let work = flow.poll("a", 0).remove(0);
    assert_eq!(&*work.run, "r2", "its place is another's");
}
