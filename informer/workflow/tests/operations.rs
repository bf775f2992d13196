//! What a user can do to a run, what failures and timeouts do, and what survives a restart of the informer.

#![allow(clippy::unwrap_used, reason = "what a test arranges is there, or the test has failed")]

mod driver;

use driver::World;
use serde_json::{Value, json};
use workflow::run::{Effects, Event, Moment, Outcome, Refused, Run, RunStatus, TaskStatus};

fn simple(name: &str) -> Value {
    json!({"name": name, "taskReferenceName": name, "type": "SIMPLE"})
}

fn chain() -> Value {
    json!({"name": "w", "tasks": [simple("a"), simple("b"), simple("c")]})
}

fn forked() -> Value {
    json!({"name": "w", "tasks": [
        {"name": "fork", "taskReferenceName": "fork", "type": "FORK_JOIN", "forkTasks": [[simple("a"), simple("b")], [simple("c")]]},
        {"name": "join", "taskReferenceName": "join", "type": "JOIN", "joinOn": ["b", "c"]},
        simple("d")]})
}

fn world(definition: Value) -> World {
    let mut world = World::default();
    for name in ["a", "b", "c", "d"] {
        world.task(name, 0);
    }
    world.register(definition).unwrap();
    world
}

fn terminate() -> Event {
    Event::Terminate { reason: Some("no more".to_owned()), tell: false }
}

fn rerun(from: &str) -> Event {
    Event::Rerun { from: Some(from.to_owned()), input: None }
}

#[test]
fn a_task_is_retried_as_a_new_record_after_its_delay() {
    let mut world = world(chain());
    world.define_task(
        json!({"name": "a", "retryCount": 2, "retryDelaySeconds": 10, "retryLogic": "EXPONENTIAL_BACKOFF",
        "maxRetryDelaySeconds": 15, "timeoutPolicy": "RETRY"}),
    );
    let run = world.start("w", json!({}));
    world.fail("a");
    assert_eq!(world.show(&run), "RUNNING: a:FAILED a:SCHEDULED");
    let work = world.work.values().next().unwrap();
    assert_eq!((work.not_before_ms, work.retry_count, work.retried_from), (10_000, 1, Some(0)));
    world.end("a", TaskStatus::TimedOut, json!({}));
    assert_eq!(world.work.values().next().unwrap().not_before_ms, 15_000, "the delay is capped");
    world.fail("a");
    assert_eq!(world.show(&run), "FAILED: a:FAILED a:TIMED_OUT a:FAILED");
}

#[test]
fn what_cannot_help_is_not_retried() {
    let mut world = world(chain());
    world.task("a", 3);
    let run = world.start("w", json!({}));
    world.end("a", TaskStatus::FailedWithTerminalError, json!({}));
    assert_eq!(world.show(&run), "FAILED: a:FAILED_WITH_TERMINAL_ERROR");
}

#[test]
fn an_unregistered_task_gets_the_defaults_of_conductor() {
    let mut world = World::default();
    world.register(json!({"name": "w", "tasks": [simple("unknown")]})).unwrap();
    let run = world.start("w", json!({}));
    assert_eq!(world.work.values().next().unwrap().limits.response_ms, 3_600_000);
    for _ in 0..4 {
        world.fail("unknown");
    }
    assert_eq!(world.status(&run), RunStatus::Failed);
    assert_eq!(world.runs[&run].steps().count(), 4);
}

#[test]
fn all_tries_together_have_a_time() {
    let mut world = world(chain());
    world.define_task(json!({"name": "a", "retryCount": 9, "retryDelaySeconds": 1, "totalTimeoutSeconds": 3}));
    let run = world.start("w", json!({}));
    assert_eq!(world.work.values().next().unwrap().limits.deadline_ms, 3_000);
    world.pass_ms(1_000);
    world.fail("a");
    world.pass_ms(1_500);
    world.fail("a");
    assert_eq!(world.show(&run), "FAILED: a:FAILED a:FAILED");
}

#[test]
fn the_timeout_policy_judges_a_timeout() {
    for (policy, expected) in [("TIME_OUT_WF", "TIMED_OUT: a:TIMED_OUT"), ("RETRY", "RUNNING: a:TIMED_OUT a:SCHEDULED")]
    {
        let mut world = world(chain());
        world.define_task(json!({"name": "a", "retryCount": 1, "timeoutSeconds": 5, "timeoutPolicy": policy}));
        let run = world.start("w", json!({}));
        assert_eq!(world.work.values().next().unwrap().limits.timeout_ms, 5_000);
        world.end("a", TaskStatus::TimedOut, json!({}));
        assert_eq!(world.show(&run), expected);
    }
    let mut world = world(chain());
    world.define_task(json!({"name": "a", "timeoutSeconds": 5, "timeoutPolicy": "ALERT_ONLY"}));
    world.start("w", json!({}));
    assert_eq!(world.work.values().next().unwrap().limits.timeout_ms, 0, "an alert ends nothing");
}

#[test]
fn the_run_looks_after_the_timeouts_of_what_no_worker_has() {
    let mut definition = json!({"name": "w", "tasks": [{"name": "h", "taskReferenceName": "h", "type": "HUMAN"}]});
    definition["tasks"][0]["taskDefinition"] =
        json!({"name": "h", "timeoutSeconds": 5, "retryCount": 0, "timeoutPolicy": "RETRY"});
    let mut world = world(definition);
    let run = world.start("w", json!({}));
    world.pass_ms(4_999);
    assert_eq!(world.show(&run), "RUNNING: h:IN_PROGRESS");
    world.pass_ms(1);
    assert_eq!(world.show(&run), "TIMED_OUT: h:TIMED_OUT");
}

#[test]
fn a_start_delay_holds_a_task_back() {
    let mut definition = chain();
    definition["tasks"][0]["startDelay"] = json!(3);
    definition["tasks"][1] = json!({"name": "v", "taskReferenceName": "v", "type": "SET_VARIABLE", "startDelay": 2, "inputParameters": {"x": 1}});
    let mut world = world(definition);
    let run = world.start("w", json!({}));
    assert_eq!(world.work.values().next().unwrap().not_before_ms, 3_000);
    world.complete("a", json!({}));
    assert_eq!(world.show(&run), "RUNNING: a:COMPLETED v:SCHEDULED");
    world.pass_ms(2_000);
    assert_eq!(world.show(&run), "RUNNING: a:COMPLETED v:COMPLETED c:SCHEDULED");
    assert_eq!(world.variables(&run), json!({"x": 1}));
}

#[test]
fn a_run_has_a_time_of_its_own_and_a_retry_begins_it_anew() {
    let mut definition = chain();
    (definition["timeoutSeconds"], definition["timeoutPolicy"]) = (json!(10), json!("TIME_OUT_WF"));
    let mut world = world(definition);
    let run = world.start("w", json!({}));
    world.pass_ms(10_000);
    assert_eq!(world.show(&run), "TIMED_OUT: a:CANCELED");
    world.tell(&run, Event::Retry).unwrap();
    assert_eq!(world.show(&run), "RUNNING: a:CANCELED a:SCHEDULED");
    world.pass_ms(9_999);
    assert_eq!(world.status(&run), RunStatus::Running);
    world.pass_ms(1);
    assert_eq!(world.status(&run), RunStatus::TimedOut);
}

#[test]
fn a_worker_may_yield_a_task_and_take_it_again() {
    let mut world = world(chain());
    let run = world.start("w", json!({}));
    world.tell(&run, Event::Started { step: 0, worker: None }).unwrap();
    assert_eq!(world.show(&run), "RUNNING: a:IN_PROGRESS");
    world.tell(&run, Event::Progressed { step: 0, output: None, yields: true }).unwrap();
    assert_eq!(world.show(&run), "RUNNING: a:SCHEDULED");
    assert!(matches!(world.tell(&run, Event::Started { step: 9, worker: None }), Ok(Outcome::Ignored(_))));
}

#[test]
fn a_paused_run_opens_nothing_and_forgets_nothing() {
    let mut world = world(forked());
    let run = world.start("w", json!({}));
    world.tell(&run, Event::Pause).unwrap();
    assert!(matches!(world.tell(&run, Event::Pause), Ok(Outcome::Ignored(_))));
    world.complete("a", json!({}));
    world.fail("c");
    assert_eq!(world.show(&run), "PAUSED: fork:COMPLETED a:COMPLETED c:FAILED join:IN_PROGRESS");
    world.tell(&run, Event::Resume).unwrap();
    assert_eq!(world.status(&run), RunStatus::Failed);
    assert!(matches!(world.tell(&run, Event::Resume), Err(Refused::WrongStatus(..))));
}

#[test]
fn a_loop_that_is_paused_between_two_rounds_goes_on() {
    let looped = json!({"name": "l", "taskReferenceName": "l", "type": "DO_WHILE", "loopCondition": "$.l.iteration < 2", "loopOver": [simple("a")]});
    let mut world = world(json!({"name": "w", "tasks": [looped]}));
    let run = world.start("w", json!({}));
    world.by_hand = true;
    world.complete("a", json!({}));
    world.tell(&run, Event::Pause).unwrap();
    world.by_hand = false;
    world.pump();
    assert_eq!(world.show(&run), "PAUSED: l:IN_PROGRESS a__1:COMPLETED");
    world.tell(&run, Event::Resume).unwrap();
    assert_eq!(world.show(&run), "RUNNING: l:IN_PROGRESS a__1:COMPLETED a__2:SCHEDULED");
}

#[test]
fn a_terminated_run_starts_its_failure_workflow_when_asked_to() {
    let mut definition = chain();
    definition["failureWorkflow"] = json!("${workflow.input.after}");
    for tell in [false, true] {
        let mut world = world(definition.clone());
        world.register(json!({"name": "clean", "tasks": [simple("d")]})).unwrap();
        let run = world.start("w", json!({"after": "clean", "x": 1}));
        world.complete("a", json!({"made": 1}));
        world.tell(&run, Event::Terminate { reason: Some("no more".to_owned()), tell }).unwrap();
        assert_eq!(world.show(&run), "TERMINATED: a:COMPLETED b:CANCELED");
        assert_eq!(world.runs[&run].row().reason.as_deref(), Some("no more"));
        assert_eq!(world.started.len(), if tell { 2 } else { 1 });
        if tell {
            let input = world.body(world.runs[&world.started[1]].row().input);
            assert_eq!(
                (&input["x"], &input["workflowId"], &input["reason"]),
                (&json!(1), &json!(run), &json!("no more"))
            );
            assert_eq!(input["failedWorkflow"]["tasks"][0]["output"], json!({"made": 1}));
        }
    }
}

#[test]
fn a_failed_run_starts_its_failure_workflow() {
    let mut definition = chain();
    definition["failureWorkflow"] = json!("clean");
    let mut world = world(definition);
    world.register(json!({"name": "clean", "tasks": [simple("d")]})).unwrap();
    let run = world.start("w", json!({}));
    world.fail("a");
    let input = world.body(world.runs[&world.started[1]].row().input);
    assert_eq!((&input["failureStatus"], &input["failureTaskId"]), (&json!("FAILED"), &json!(format!("{run}.0"))));
    assert!(matches!(world.tell(&run, terminate()), Ok(Outcome::Ignored(_))));
}

#[test]
fn a_retry_brings_back_what_failed_and_what_was_cancelled() {
    let mut world = world(forked());
    let run = world.start("w", json!({}));
    assert!(matches!(world.tell(&run, Event::Retry), Err(Refused::WrongStatus(..))));
    world.fail("c");
    assert_eq!(world.show(&run), "FAILED: fork:COMPLETED a:CANCELED c:FAILED join:CANCELED");
    world.tell(&run, Event::Retry).unwrap();
    assert_eq!(
        world.show(&run),
        "RUNNING: fork:COMPLETED a:CANCELED c:FAILED join:IN_PROGRESS a:SCHEDULED c:SCHEDULED"
    );
    for name in ["c", "a", "b", "d"] {
        world.complete(name, json!({}));
    }
    assert_eq!(world.status(&run), RunStatus::Completed);
}

#[test]
fn a_retry_of_a_loop_goes_on_in_its_round() {
    let looped = json!({"name": "l", "taskReferenceName": "l", "type": "DO_WHILE", "loopCondition": "$.l.iteration < 2",
        "loopOver": [simple("a"), simple("b")]});
    let mut world = world(json!({"name": "w", "tasks": [looped]}));
    let run = world.start("w", json!({}));
    for name in ["a", "b", "a"] {
        world.complete(name, json!({}));
    }
    world.fail("b");
    assert_eq!(world.show(&run), "FAILED: l:CANCELED a__1:COMPLETED b__1:COMPLETED a__2:COMPLETED b__2:FAILED");
    world.tell(&run, Event::Retry).unwrap();
    world.complete("b", json!({}));
    assert_eq!(
        world.show(&run),
        "COMPLETED: l:COMPLETED a__1:COMPLETED b__1:COMPLETED a__2:COMPLETED b__2:FAILED b__2:COMPLETED"
    );
}

#[test]
fn a_rerun_goes_back_to_a_task_with_a_new_input() {
    let mut world = world(chain());
    let run = world.start("w", json!({}));
    assert!(matches!(world.tell(&run, rerun("a")), Err(Refused::WrongStatus(..))));
    for name in ["a", "b", "c"] {
        world.complete(name, json!({}));
    }
    let input = workflow::evaluate::Bodies::put(&world.memory, &json!({"other": 1})).unwrap();
    world.tell(&run, Event::Rerun { from: Some("b".to_owned()), input: Some(input) }).unwrap();
    assert_eq!(world.show(&run), "RUNNING: a:COMPLETED b:SCHEDULED");
    assert_eq!(world.body(world.work.values().next().unwrap().input), json!({"other": 1}));
    world.complete("b", json!({}));
    world.complete("c", json!({}));
    assert_eq!(world.show(&run), "COMPLETED: a:COMPLETED b:COMPLETED c:COMPLETED");
    world.tell(&run, Event::Rerun { from: None, input: None }).unwrap();
    assert_eq!(world.show(&run), "RUNNING: a:SCHEDULED");
    assert_eq!(
        world.tell(&run, rerun("x")).unwrap_err(),
        Refused::WrongStatus("RUNNING", "only one that is over can be rerun")
    );
}

#[test]
fn a_rerun_within_a_branch_keeps_the_other_branch() {
    let mut world = world(forked());
    let run = world.start("w", json!({}));
    for name in ["a", "c", "b", "d"] {
        world.complete(name, json!({}));
    }
    world.tell(&run, rerun("a")).unwrap();
    assert_eq!(world.show(&run), "RUNNING: fork:COMPLETED a:SCHEDULED c:COMPLETED join:IN_PROGRESS");
    for name in ["a", "b", "d"] {
        world.complete(name, json!({}));
    }
    assert_eq!(world.status(&run), RunStatus::Completed, "{}", world.show(&run));
    world.tell(&run, rerun("fork")).unwrap();
    assert_eq!(world.show(&run), "RUNNING: fork:COMPLETED a:SCHEDULED c:SCHEDULED join:IN_PROGRESS");
}

#[test]
fn a_rerun_within_a_loop_goes_back_to_its_round() {
    let looped = json!({"name": "l", "taskReferenceName": "l", "type": "DO_WHILE", "loopCondition": "$.l.iteration < 3",
        "loopOver": [simple("a"), simple("b")]});
    let mut world = world(json!({"name": "w", "tasks": [looped, simple("c")]}));
    let run = world.start("w", json!({}));
    for _ in 0..3 {
        world.complete("a", json!({}));
        world.complete("b", json!({}));
    }
    world.complete("c", json!({}));
    world.tell(&run, rerun("b__2")).unwrap();
    assert_eq!(world.show(&run), "RUNNING: l:IN_PROGRESS a__1:COMPLETED b__1:COMPLETED a__2:COMPLETED b__2:SCHEDULED");
    world.complete("b", json!({}));
    assert_eq!(world.show(&run).split(' ').next_back(), Some("a__3:SCHEDULED"));
}

#[test]
fn a_restart_begins_anew_with_the_same_or_another_definition() {
    let mut world = world(chain());
    let run = world.start("w", json!({}));
    assert!(matches!(world.tell(&run, Event::Restart { latest: None }), Err(Refused::WrongStatus(..))));
    world.fail("a");
    world.tell(&run, Event::Restart { latest: None }).unwrap();
    assert_eq!(world.show(&run), "RUNNING: a:SCHEDULED");
    assert_eq!(world.work.keys().next().unwrap().1, 1, "numbers are not used twice");
    world.tell(&run, terminate()).unwrap();
    let other =
        workflow::definition::Definition::parse(&json!({"name": "w", "version": 2, "tasks": [simple("d")]})).unwrap();
    let plan = std::sync::Arc::new(workflow::plan::Plan::of(other.value));
    world.tell(&run, Event::Restart { latest: Some((plan, None)) }).unwrap();
    assert_eq!(world.show(&run), "RUNNING: d:SCHEDULED");
    assert_eq!(world.runs[&run].row().version, 2);
}

#[test]
fn a_task_that_is_skipped_ahead_shows_once_and_is_passed() {
    let mut world = world(chain());
    let run = world.start("w", json!({}));
    let skip = |reference: &str| Event::Skip { reference: reference.to_owned(), output: None };
    assert_eq!(world.tell(&run, skip("a")), Err(Refused::AlreadyScheduled("a".to_owned())));
    assert_eq!(world.tell(&run, skip("x")), Err(Refused::NoSuchTask("x".to_owned())));
    world.tell(&run, skip("b")).unwrap();
    assert!(matches!(world.tell(&run, skip("b")), Ok(Outcome::Ignored(_))));
    world.complete("a", json!({}));
    assert_eq!(world.show(&run), "RUNNING: a:COMPLETED b:SKIPPED c:SCHEDULED");
    world.complete("c", json!({}));
    assert_eq!(world.status(&run), RunStatus::Completed);
}

#[test]
fn late_and_repeated_reports_change_nothing() {
    let mut world = world(chain());
    let run = world.start("w", json!({}));
    let events = world.log.clone();
    world.complete("a", json!({}));
    let before = world.show(&run);
    let all = world.log.clone();
    for (id, _, event) in events.into_iter().chain(all) {
        assert!(matches!(world.tell(&id, event), Ok(Outcome::Ignored(_))));
    }
    assert_eq!(world.show(&run), before);
}

#[test]
fn everything_under_way_is_asked_again_after_a_start() {
    let mut definition = forked();
    definition["tasks"][0]["forkTasks"][1] =
        json!([{"name": "wt", "taskReferenceName": "wt", "type": "WAIT", "inputParameters": {"duration": "5s"}}]);
    definition["tasks"][1]["joinOn"] = json!(["b", "wt"]);
    let mut world = world(definition);
    let run = world.start("w", json!({}));
    let mut out = Effects::default();
    world.runs.get_mut(&run).unwrap().reissue(Moment { ms: 0, jitter: 0 }, &mut out);
    let commands: Vec<String> = out.commands.iter().map(|command| format!("{command:?}")).collect();
    assert!(commands.iter().any(|command| command.starts_with("Schedule")), "{commands:?}");
    assert!(commands.iter().any(|command| command.starts_with("Arm { step: Some(2), due_ms: 5000 }")), "{commands:?}");
    assert!(out.steps.is_empty() && !out.run, "asking again writes nothing");
}

#[test]
fn a_child_is_started_again_after_a_start_and_is_the_same_child() {
    let sub = json!({"name": "sub", "taskReferenceName": "sub", "type": "SUB_WORKFLOW", "subWorkflowParam": {"name": "child"}});
    let mut world = world(json!({"name": "w", "tasks": [sub]}));
    world.register(json!({"name": "child", "tasks": [simple("a")]})).unwrap();
    let run = world.start("w", json!({}));
    let mut out = Effects::default();
    world.runs.get_mut(&run).unwrap().reissue(Moment { ms: 0, jitter: 0 }, &mut out);
    world.give(&run, out);
    assert_eq!(world.runs.len(), 2, "no second child");
    world.complete("a", json!({}));
    assert_eq!(world.status(&run), RunStatus::Completed);
}

#[test]
fn a_terminate_that_is_reached_while_the_run_pauses_waits_for_its_turn() {
    let end = json!({"name": "t", "taskReferenceName": "t", "type": "TERMINATE", "inputParameters": {"terminationStatus": "FAILED"}});
    let mut world = world(json!({"name": "w", "tasks": [end, simple("a")]}));
    world.by_hand = true;
    let run = world.start("w", json!({}));
    world.tell(&run, Event::Pause).unwrap();
    world.by_hand = false;
    world.pump();
    assert_eq!(world.show(&run), "PAUSED: t:SCHEDULED");
    world.tell(&run, Event::Resume).unwrap();
    assert_eq!(world.show(&run), "FAILED: t:COMPLETED");
}

#[test]
fn rows_that_do_not_belong_together_are_refused() {
    let mut world = world(forked());
    let run = world.start("w", json!({}));
    let held = &world.runs[&run];
    let rows = || held.steps().cloned().collect::<Vec<_>>();
    let load = |steps: Vec<workflow::run::StepRow>| {
        Run::load(held.row().clone(), steps, Vec::new(), held.plans().to_vec()).map(drop)
    };
    assert_eq!(load(rows()), Ok(()));
    assert_eq!(
        load(rows().split_off(1)).unwrap_err().to_string(),
        format!("run {run}: step 1 lies in a step that is not there")
    );
    let mut wrong = rows();
    wrong[1].node.node = 99;
    assert_eq!(
        load(wrong).unwrap_err().to_string(),
        format!("run {run}: step 1 is of a task that its plan does not have")
    );
    let mut parts = held.row().clone();
    parts.parts = 2;
    assert!(Run::load(parts, rows(), Vec::new(), held.plans().to_vec()).is_err());
}

#[test]
fn a_row_is_small() {
    let mut world = world(forked());
    let run = world.start("w", json!({}));
    world.end("a", TaskStatus::Completed, json!({}));
    for step in world.runs[&run].steps() {
        let bytes = serde_json::to_vec(step).unwrap().len();
        assert!(bytes <= 1_024, "{bytes} bytes for {step:?}");
    }
    let (row, node) = (std::mem::size_of::<workflow::run::StepRow>(), std::mem::size_of::<workflow::plan::Node>());
    println!("{row} bytes a row, {node} a node");
    assert!(row + node <= 800, "a branch of a dynamic fork has one of each, and its names: {row} and {node} bytes");
}

#[test]
fn ten_thousand_branches_cost_what_they_are() {
    let cost = |branches: usize| {
        let fork = json!({"name": "df", "taskReferenceName": "df", "type": "FORK_JOIN_DYNAMIC",
            "inputParameters": {"forkTaskName": "a", "forkTaskInputs": "${workflow.input.list}"}});
        let join = json!({"name": "join", "taskReferenceName": "join", "type": "JOIN"});
        let mut world = world(json!({"name": "w", "tasks": [fork, join]}));
        let run = world.start("w", json!({"list": (0..branches).collect::<Vec<_>>()}));
        let work: Vec<_> = world.work.keys().cloned().collect();
        assert_eq!(work.len(), branches);
        for (id, step) in work {
            world.end_step(&id, step, TaskStatus::Completed, json!({"n": step}));
        }
        assert_eq!(world.status(&run), RunStatus::Completed);
        assert_eq!(world.output(&run).as_object().unwrap().len(), branches);
        world.reload(&run);
        world.looked_at
    };
    let (small, large) = (cost(1_000), cost(10_000));
    println!("{small} rows looked at for 1,000 branches, {large} for 10,000");
    assert!(large <= small * 10, "{small} rows for 1,000 branches, {large} for 10,000");
    assert!(large <= 10_000 * 20, "{large} rows for 10,000 branches");
}
