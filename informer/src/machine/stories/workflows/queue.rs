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

/// The reason that `why` tells of a run's only task.
fn why(flow: &Flow, run: &str) -> String {
    let why = flow.world.machine.why_run(flow.world.now, run).expect("it is held");
    let [task] = why.tasks.as_slice() else { panic!("not one task: {why:?}") };
    assert_eq!((task.id.as_str(), task.reference.as_str(), why.more), (format!("{run}.0").as_str(), "a", 0));
    task.why.clone()
}

#[test]
fn why_tells_what_each_task_waits_for() {
    let mut flow = Flow::new();
    flow.define("w", json!([limited(&json!({"concurrentExecLimit": 1}))]));
    flow.start("r1", "w", json!({}));
    flow.start("r2", "w", json!({}));
    assert!(why(&flow, "r1").contains("no worker has polled for \"a\""), "{}", why(&flow, "r1"));
    assert!(why(&flow, "r2").contains("concurrentExecLimit; 0 wait before it"), "{}", why(&flow, "r2"));
    assert_eq!(flow.world.machine.queued(), BTreeMap::from([("a".to_owned(), 1)]));
    let work = flow.poll("a", 0).remove(0);
    assert!(
        why(&flow, "r1").contains("worker \"w\" has it, and is to say something within 10s"),
        "{}",
        why(&flow, "r1")
    );
    flow.update(&work, WorkUpdate::Yield { after_ms: 3_000, output: None });
    assert!(why(&flow, "r1").contains("in 3s"), "{}", why(&flow, "r1"));
    flow.operate("r1", Operation::Pause).expect("it goes on");
    let paused = flow.world.machine.why_run(flow.world.now, "r1").expect("it is held");
    assert!(paused.summary.contains("it is paused"), "{paused:?}");
    flow.operate("r1", Operation::Terminate { reason: None, tell: false }).expect("it goes on");
    assert_eq!(flow.world.machine.why_run(flow.world.now, "r1"), None, "it is over");
}

#[test]
fn why_tells_of_waits_joins_and_tasks_of_ours() {
    let mut flow = Flow::new();
    let wait = json!({"name": "w", "taskReferenceName": "wait", "type": "WAIT", "inputParameters": {"duration": "10 seconds"}});
    let human = json!({"name": "h", "taskReferenceName": "human", "type": "HUMAN"});
    let fork = json!({"name": "f", "taskReferenceName": "fork", "type": "FORK_JOIN", "forkTasks": [[wait], [human], [ours("o")]]});
    let join = json!({"name": "j", "taskReferenceName": "join", "type": "JOIN", "joinOn": ["wait", "human", "o"]});
    flow.define("w", json!([fork, join]));
    flow.start("r", "w", json!({}));
    let why = flow.world.machine.why_run(flow.world.now, "r").expect("it is held");
    let of = |reference: &str| {
        let task = why.tasks.iter().find(|task| task.reference == reference);
        task.unwrap_or_else(|| panic!("{reference} in {why:?}")).why.as_str()
    };
    assert_eq!(of("wait"), "it waits for another 10s, or for `informer workflow signal`");
    assert_eq!(of("human"), "it waits for somebody's word: `informer workflow signal`");
    assert!(of("o").starts_with("task ") && of("o").contains("no sidecar"), "{}", of("o"));
    assert_eq!(of("join"), "it waits for 3 more to end");
    assert_eq!(
        why.tasks.last().map(|task| task.reference.as_str()),
        Some("join"),
        "what cannot go on by itself comes last"
    );
}

/// Logs so many lines, and says why some were not kept.
fn log(flow: &mut Flow, run: &str, step: StepIx, lines: usize) -> Option<&'static str> {
    let stored = if flow.world.machine.holds_run(run) { Vec::new() } else { vec![flow.stored(run)] };
    let lines = (0..lines).map(|line| flow.put(json!(format!("line {line}"))).expect("stored").0).collect();
    flow.replies.clear();
    flow.tell(FlowEvent::WorkLogged { ticket: Ticket(7), run: run.into(), step, stored, lines });
    match flow.replies.pop() {
        Some(Reply::WorkUpdated { ignored }) => ignored,
        other => panic!("a log was answered with {other:?}"),
    }
}

#[test]
fn what_a_worker_logs_stands_in_the_history_also_when_all_is_over() {
    let mut flow = Flow::new();
    flow.define("w", json!([simple("a")]));
    flow.start("r", "w", json!({}));
    let work = flow.poll("a", 0).remove(0);
    assert_eq!(log(&mut flow, "r", work.step, 2), None);
    flow.update(&work, completed(None));
    assert_eq!(log(&mut flow, "r", work.step, 1), None);
    assert_eq!(flow.kinds(), ["started", "logged", "logged", "completed", "logged"]);
    let lines: Vec<_> = flow.events.iter().filter(|event| event.kind == "logged").collect();
    assert!(lines.iter().all(|line| line.detail == "0" && line.payload.len() == 32), "{lines:?}");
    assert_eq!(flow.world.machine.runs_held(), 0);
    assert_eq!(log(&mut flow, "r", 9, 1), Some("the workflow has no such task"));
    assert_eq!(flow.world.machine.runs_held(), 0);
}

#[test]
fn a_talkative_worker_leaves_room_for_what_is_done_to_the_run() {
    let mut flow = Flow::new();
    flow.define("w", json!([simple("a")]));
    flow.start("r", "w", json!({}));
    let half = (bounds::RUN_EVENTS / 2) as usize;
    assert_eq!(log(&mut flow, "r", 0, half), Some("the run has as many lines as are kept"));
    assert_eq!(flow.events.len(), half);
    assert!(log(&mut flow, "r", 0, 1).is_some());
    flow.operate("r", Operation::Pause).expect("it goes on");
    assert_eq!(flow.kinds().last(), Some(&"paused"));
}
