//! Steps whose work is a task of ours.

use super::*;

#[test]
fn a_step_is_a_task_of_ours_and_its_end_opens_the_next() {
    let mut flow = Flow::new();
    let mut second = ours("b");
    second["inputParameters"] = json!({"from": "${a.output.x}"});
    flow.define("w", json!([ours("a"), second]));
    flow.world.link(1, 1, 2, vec![]);
    flow.start("r", "w", json!({}));
    let row = flow.tasks.values().next().expect("a task");
    let of_run = row.of_run.as_ref().expect("it is the run's");
    assert_eq!((of_run.run.as_str(), of_run.reference.as_str()), ("r", "a"));
    let facts = row.facts.as_ref().expect("facts");
    assert_eq!((facts.owner.as_str(), facts.labels["film"].as_str()), ("ops", "a"));
    flow.end(0, &json!({"x": 5}));
    assert_eq!(flow.shows("r"), "a:COMPLETED b:SCHEDULED");
    let input = flow.assigned[0].3.expect("it has an input");
    assert_eq!(*flow.stock.get(&Handle(input)).expect("stored"), json!({"from": 5}));
    flow.end(0, &Value::Null);
    assert_eq!((flow.status("r"), flow.output("r")), (RunStatus::Completed, json!({"exitCode": 0})));
    assert_eq!(flow.tasks.len(), 2);
}

#[test]
fn the_run_owns_the_tries_and_each_is_a_task_that_knows_the_one_before() {
    let mut flow = Flow::new();
    flow.define("w", json!([ours("a")]));
    flow.world.link(1, 1, 1, vec![]);
    flow.start("r", "w", json!({}));
    let first = flow.end(3, &Value::Null);
    assert_eq!(flow.shows("r"), "a:FAILED a:SCHEDULED");
    let second = flow.end(3, &Value::Null);
    let before = flow.tasks[&second].of_run.as_ref().map(|of_run| of_run.retried_from.clone());
    assert_eq!(before.as_deref(), Some(&*first.to_bytes()));
    assert_eq!(flow.status("r"), RunStatus::Failed, "retryCount is 1");
    let retry = Event::RetryRequested {
        ticket: Ticket(3),
        task: second,
        stored: vec![flow.tasks[&second].clone()],
        key: String::new(),
    };
    flow.tell(retry);
    assert!(matches!(flow.replies.pop(), Some(Reply::Rejected(Rejection::State { .. }))), "the run is what is retried");
}

#[test]
fn final_codes_are_terminal_errors() {
    let mut flow = Flow::new();
    flow.define("w", json!([ours("a")]));
    flow.world.link(1, 1, 1, vec![]);
    flow.start("r", "w", json!({}));
    flow.end(9, &Value::Null);
    assert_eq!(flow.shows("r"), "a:FAILED_WITH_TERMINAL_ERROR");
}

#[test]
fn losses_are_tried_again_inside_the_task() {
    let mut flow = Flow::new();
    flow.define("w", json!([ours("a")]));
    flow.world.link(1, 1, 1, vec![]);
    flow.start("r", "w", json!({}));
    let (session, attempt, fence, _) = flow.assigned.remove(0);
    let lost = v1::Ending { reason: v1::Reason::Lost.into(), ..Default::default() };
    flow.world.report(session, (attempt, fence), Report::Ended(Box::new(lost)));
    flow.settle();
    flow.world.beat(session, 1);
    flow.settle();
    assert_eq!(flow.assigned.len(), 1);
    assert_eq!(flow.assigned[0].1, AttemptId { task: attempt.task, number: 2 });
    flow.end(0, &Value::Null);
    assert_eq!(flow.status("r"), RunStatus::Completed);
}

#[test]
fn a_terminated_run_takes_its_tasks_along() {
    let mut flow = Flow::new();
    flow.define("w", json!([ours("a")]));
    flow.start("r", "w", json!({}));
    let task = *flow.tasks.keys().next().expect("a task");
    assert_eq!(flow.operate("r", Operation::Terminate { reason: Some("enough".into()), tell: true }), Ok(None));
    assert_eq!(flow.tasks[&task].state(), v1::TaskState::Cancelled);
    assert_eq!(flow.status("r"), RunStatus::Terminated);
    assert_eq!(flow.kinds(), ["started", "terminated", "terminate_requested"]);
}

#[test]
fn after_a_restart_a_step_has_the_task_that_it_had() {
    let mut flow = Flow::new();
    flow.define("w", json!([ours("a"), ours("b")]));
    flow.start("r", "w", json!({}));
    let before: Vec<TaskId> = flow.tasks.keys().copied().collect();
    flow.restart();
    assert_eq!(flow.tasks.keys().copied().collect::<Vec<_>>(), before);
    flow.world.link(2, 2, 1, vec![]);
    flow.settle();
    flow.end(0, &Value::Null);
    assert_eq!(flow.shows("r"), "a:COMPLETED b:SCHEDULED");
}

#[test]
fn a_registered_type_does_the_work_of_its_name() {
    let mut flow = Flow::new();
    flow.define("w", json!([simple("resize")]));
    let executor = v1::Executor {
        r#type: "resize".to_owned(),
        mode: Some(v1::executor::Mode::Command(v1::Command { argv: vec!["resize".into()] })),
        ..Default::default()
    };
    flow.tell(Event::ExecutorPut { ticket: Ticket(1), executor: Box::new(executor), replace: false });
    flow.start("r", "w", json!({}));
    let row = flow.tasks.values().next().expect("a task");
    assert_eq!(row.facts.as_ref().map(|facts| facts.kind.as_str()), Some("type:resize"));
}

#[test]
fn a_fork_runs_side_by_side_and_its_join_is_opened_by_the_last() {
    let mut flow = Flow::new();
    let fork =
        json!({"name": "f", "taskReferenceName": "f", "type": "FORK_JOIN", "forkTasks": [[ours("a")], [ours("b")]]});
    let join = json!({"name": "j", "taskReferenceName": "j", "type": "JOIN", "joinOn": ["a", "b"]});
    flow.define("w", json!([fork, join]));
    flow.world.link(1, 1, 1, vec![]);
    flow.world.link(2, 2, 1, vec![]);
    flow.start("r", "w", json!({}));
    assert_eq!(flow.assigned.len(), 2, "both run at once");
    flow.end(0, &json!({"n": 1}));
    assert_eq!(flow.status("r"), RunStatus::Running);
    flow.end(0, &json!({"n": 2}));
    assert_eq!(flow.status("r"), RunStatus::Completed);
}
