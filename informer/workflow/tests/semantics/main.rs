//! What each type of task does, told as stories.

#![allow(clippy::unwrap_used, reason = "what a test arranges is there, or the test has failed")]

mod branches;
#[path = "../driver/mod.rs"]
mod driver;
mod streams;

use driver::World;
use serde_json::{Value, json};
use workflow::run::{Event, Outcome, Refused, RunStatus, TaskStatus};

fn simple(name: &str) -> Value {
    json!({"name": name, "taskReferenceName": name, "type": "SIMPLE"})
}

fn simple_with(name: &str, input: Value) -> Value {
    json!({"name": name, "taskReferenceName": name, "type": "SIMPLE", "inputParameters": input})
}

fn fork(branches: Value) -> Value {
    json!({"name": "fork", "taskReferenceName": "fork", "type": "FORK_JOIN", "forkTasks": branches})
}

fn join(on: Value) -> Value {
    json!({"name": "join", "taskReferenceName": "join", "type": "JOIN", "joinOn": on})
}

/// A world with one workflow `w` of these tasks, whose tasks are not retried.
fn world(tasks: Value) -> World {
    world_of(json!({"name": "w", "tasks": tasks}))
}

fn world_of(definition: Value) -> World {
    let mut world = World::default();
    for name in ["a", "b", "c", "d", "e"] {
        world.task(name, 0);
    }
    world.register(definition).unwrap();
    world
}

fn update(reference: &str, status: TaskStatus) -> Event {
    Event::Update { reference: reference.to_owned(), status, output: None, reason: None }
}

#[test]
fn a_chain_hands_outputs_on_and_ends_with_its_output_parameters() {
    let mut world = world_of(json!({"name": "w", "tasks": [simple_with("a", json!({"x": "${workflow.input.x}"})),
        simple_with("b", json!({"from": "${a.output.y}", "text": "<${a.output.none}>"}))],
        "inputTemplate": {"x": 5, "z": 6}, "outputParameters": {"y": "${b.input.from}", "z": "${workflow.input.z}"}}));
    let run = world.start("w", json!({"x": 1}));
    assert_eq!(world.body(world.work.values().next().unwrap().input), json!({"x": 1}));
    world.complete("a", json!({"y": [2]}));
    assert_eq!(world.body(world.work.values().next().unwrap().input), json!({"from": [2], "text": "<null>"}));
    world.complete("b", json!({}));
    assert_eq!(world.show(&run), "COMPLETED: a:COMPLETED b:COMPLETED");
    assert_eq!(world.output(&run), json!({"y": [2], "z": 6}));
}

#[test]
fn without_output_parameters_the_output_is_the_last_tasks() {
    let mut world = world(json!([simple("a"), simple("b")]));
    let run = world.start("w", json!({}));
    world.complete("a", json!({"n": 1}));
    world.complete("b", json!({"n": 2}));
    assert_eq!(world.output(&run), json!({"n": 2}));
}

fn switch(kind: &str, cases: Value) -> Value {
    let mut switch = json!({"name": "s", "taskReferenceName": "s", "type": kind, "decisionCases": cases,
        "inputParameters": {"on": "${workflow.input.on}"}, "defaultCase": [simple("d")]});
    if kind == "SWITCH" {
        (switch["evaluatorType"], switch["expression"]) = (json!("value-param"), json!("on"));
    } else {
        switch["caseValueParam"] = json!("on");
    }
    switch
}

#[test]
fn a_switch_takes_its_case_and_the_default_when_it_is_missing() {
    for kind in ["SWITCH", "DECISION"] {
        for (on, expected) in [(json!("x"), "b"), (json!(1), "c"), (json!("nothing"), "d"), (json!(null), "d")] {
            let mut world = world(json!([switch(kind, json!({"x": [simple("b")], "1": [simple("c")]})), simple("a")]));
            let run = world.start("w", json!({"on": on}));
            assert_eq!(world.show(&run), format!("RUNNING: s:COMPLETED {expected}:SCHEDULED"));
            world.complete(expected, json!({}));
            assert_eq!(world.show(&run), format!("RUNNING: s:COMPLETED {expected}:COMPLETED a:SCHEDULED"));
        }
    }
}

#[test]
fn an_empty_case_is_a_case_for_switch_and_none_for_decision() {
    let mut world1 = world(json!([switch("SWITCH", json!({"x": []})), simple("a")]));
    let run = world1.start("w", json!({"on": "x"}));
    assert_eq!(world1.show(&run), "RUNNING: s:COMPLETED a:SCHEDULED");
    let mut world2 = world(json!([switch("DECISION", json!({"x": []})), simple("a")]));
    let run = world2.start("w", json!({"on": "x"}));
    assert_eq!(world2.show(&run), "RUNNING: s:COMPLETED d:SCHEDULED");
}

#[test]
fn a_script_that_throws_fails_its_switch() {
    let mut world =
        world(json!([{"name": "s", "taskReferenceName": "s", "type": "SWITCH", "evaluatorType": "javascript",
        "expression": "$.nothing.x", "decisionCases": {"1": [simple("b")]}}]));
    let run = world.start("w", json!({}));
    assert_eq!(world.show(&run), "FAILED: s:FAILED");
    assert!(world.runs[&run].row().reason.as_ref().unwrap().contains("expression of the switch"));
}

fn do_while(extra: Value) -> Value {
    let mut task = json!({"name": "l", "taskReferenceName": "l", "type": "DO_WHILE", "loopOver": [simple("a"), simple_with("b",
        json!({"before": "${a.output.n}", "round": "${l.output.iteration}"}))]});
    task.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    task
}

#[test]
fn a_loop_names_its_rounds_and_keys_its_output_by_them() {
    let mut world = world(json!([
        do_while(json!({"loopCondition": "$.l['iteration'] < 2 && $.a.n > 0"})),
        simple_with("c", json!({"all": "${l.output}", "last": "${a.output.n}", "first": "${a__1.output.n}"}))
    ]));
    let run = world.start("w", json!({}));
    for n in 1..=2 {
        world.complete("a", json!({"n": n}));
        let input = world.body(world.work.values().next().unwrap().input);
        assert_eq!(input, json!({"before": n, "round": n}));
        world.complete("b", json!({"m": n}));
    }
    let input = world.body(world.work.values().next().unwrap().input);
    assert_eq!(
        input["all"],
        json!({"iteration": 2, "1": {"a": {"n": 1}, "b": {"m": 1}}, "2": {"a": {"n": 2}, "b": {"m": 2}}})
    );
    assert_eq!((&input["last"], &input["first"]), (&json!(2), &json!(1)));
    assert_eq!(
        world.show(&run),
        "RUNNING: l:COMPLETED a__1:COMPLETED b__1:COMPLETED a__2:COMPLETED b__2:COMPLETED c:SCHEDULED"
    );
}

#[test]
fn a_loop_keeps_its_last_rounds_only() {
    let mut world =
        world(json!([do_while(json!({"loopCondition": "$.l.iteration < 4", "inputParameters": {"keepLastN": 2}}))]));
    let run = world.start("w", json!({}));
    for n in 1..=4 {
        world.complete("a", json!({"n": n}));
        world.complete("b", json!({}));
    }
    assert_eq!(world.show(&run), "COMPLETED: l:COMPLETED a__3:COMPLETED b__3:COMPLETED a__4:COMPLETED b__4:COMPLETED");
    assert_eq!(world.output(&run)["iteration"], json!(null), "the output is the last task's");
    assert_eq!(world.task_output(&run, "l"), json!({"iteration": 4, "3": {"a": {"n": 3}}, "4": {"a": {"n": 4}}}));
}

#[test]
fn a_loop_goes_through_a_list() {
    let body = json!([simple_with("a", json!({"item": "${l.output.loopItem}", "at": "${l.output.loopIndex}"}))]);
    let tasks = json!([do_while(json!({"items": "${workflow.input.list}", "loopOver": body}))]);
    let mut world1 = world(tasks.clone());
    let run = world1.start("w", json!({"list": ["x", "y"]}));
    for (at, item) in ["x", "y"].into_iter().enumerate() {
        assert_eq!(world1.body(world1.work.values().next().unwrap().input), json!({"item": item, "at": at}));
        world1.complete("a", json!({}));
    }
    assert_eq!(world1.show(&run), "COMPLETED: l:COMPLETED a__1:COMPLETED a__2:COMPLETED");
    let mut world2 = world(tasks);
    let run = world2.start("w", json!({"list": []}));
    assert_eq!(world2.show(&run), "COMPLETED: l:COMPLETED");
}

#[test]
fn a_condition_may_look_back_and_one_that_throws_fails_the_loop_for_good() {
    let mut world1 = world(json!([do_while(json!({"loopCondition": "$.l['1'].a.n == 1 && $.l.iteration < 2"}))]));
    let run = world1.start("w", json!({}));
    for _ in 0..2 {
        world1.complete("a", json!({"n": 1}));
        world1.complete("b", json!({}));
    }
    assert_eq!(world1.status(&run), RunStatus::Completed);
    let mut world2 = world(json!([do_while(json!({"loopCondition": "$.no.thing"}))]));
    let run = world2.start("w", json!({}));
    world2.complete("a", json!({}));
    world2.complete("b", json!({}));
    assert_eq!(world2.show(&run), "FAILED: l:FAILED_WITH_TERMINAL_ERROR a__1:COMPLETED b__1:COMPLETED");
}

#[test]
fn loops_lie_in_loops() {
    let inner = json!({"name": "i", "taskReferenceName": "i", "type": "DO_WHILE", "loopCondition": "$.i.iteration < 2",
        "loopOver": [simple("a")]});
    let mut world = world(json!([do_while(json!({"loopCondition": "$.l.iteration < 2", "loopOver": [inner]}))]));
    let run = world.start("w", json!({}));
    for _ in 0..4 {
        world.complete("a", json!({}));
    }
    assert_eq!(
        world.show(&run),
        "COMPLETED: l:COMPLETED i__1:COMPLETED a__1__1:COMPLETED a__1__2:COMPLETED i__2:COMPLETED a__2__1:COMPLETED a__2__2:COMPLETED"
    );
}

#[test]
fn variables_written_side_by_side_are_all_kept() {
    let set = |name: &str| json!({"name": name, "taskReferenceName": name, "type": "SET_VARIABLE", "inputParameters": {(name): 1}});
    let branches: Vec<Value> = (0..5).map(|n| json!([set(&format!("v{n}"))])).collect();
    let mut world = world(json!([
        fork(Value::Array(branches)),
        join(json!(["v0", "v1", "v2", "v3", "v4"])),
        simple_with("a", json!({"v": "${workflow.variables}"}))
    ]));
    world.start("w", json!({}));
    let input = world.body(world.work.values().next().unwrap().input);
    assert_eq!(input, json!({"v": {"v0": 1, "v1": 1, "v2": 1, "v3": 1, "v4": 1}}));
}

#[test]
fn variables_have_a_bound() {
    let big = "x".repeat(workflow::evaluate::MAX_VARIABLES_BYTES);
    let mut world =
        world(json!([{"name": "v", "taskReferenceName": "v", "type": "SET_VARIABLE", "inputParameters": {"v": big}}]));
    let run = world.start("w", json!({}));
    assert_eq!(world.show(&run), "FAILED: v:FAILED_WITH_TERMINAL_ERROR");
}

fn child(extra: Value) -> Value {
    let mut task = json!({"name": "sub", "taskReferenceName": "sub", "type": "SUB_WORKFLOW", "subWorkflowParam": {"name": "child"},
        "inputParameters": {"n": "${workflow.input.n}"}});
    task.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    task
}

#[test]
fn a_sub_workflow_is_waited_for_and_gives_its_output() {
    let mut world = world(json!([child(json!({})), simple_with("b", json!({"got": "${sub.output}"}))]));
    world.register(json!({"name": "child", "tasks": [simple_with("a", json!({"n": "${workflow.input.n}"}))]})).unwrap();
    let run = world.start("w", json!({"n": 4}));
    assert_eq!(world.show(&run), "RUNNING: sub:IN_PROGRESS");
    assert_eq!(world.body(world.work.values().next().unwrap().input), json!({"n": 4}));
    world.complete("a", json!({"m": 5}));
    assert_eq!(world.show(&run), "RUNNING: sub:COMPLETED b:SCHEDULED");
    let input = world.body(world.work.values().next().unwrap().input);
    assert_eq!(input, json!({"got": {"m": 5, "subWorkflowId": format!("{run}.0")}}));
}

#[test]
fn a_sub_workflow_may_bring_its_definition_and_one_that_is_not_registered_fails_its_start() {
    let inline = json!({"workflowDefinition": {"name": "own", "tasks": [simple("a")]}});
    let mut world1 = world(json!([child(json!({"subWorkflowParam": inline}))]));
    let run = world1.start("w", json!({}));
    world1.complete("a", json!({}));
    assert_eq!(world1.status(&run), RunStatus::Completed);
    let mut world2 = world(json!([child(json!({}))]));
    let run = world2.start("w", json!({}));
    assert_eq!(world2.show(&run), "FAILED: sub:FAILED");
    assert!(world2.runs[&run].row().reason.as_ref().unwrap().contains("\"child\" is not registered"));
}

#[test]
fn a_child_ends_with_its_parent_and_is_retried_with_it() {
    let mut world = world(json!([fork(json!([[child(json!({}))], [simple("b")]])), join(json!(["sub", "b"]))]));
    world.register(json!({"name": "child", "tasks": [simple("a")]})).unwrap();
    let run = world.start("w", json!({}));
    let child = format!("{run}.1");
    world.fail("b");
    assert_eq!(world.show(&run), "FAILED: fork:COMPLETED sub:CANCELED b:FAILED join:CANCELED");
    assert_eq!(world.show(&child), "TERMINATED: a:CANCELED");
    world.tell(&run, Event::Retry).unwrap();
    assert_eq!(world.show(&run), "RUNNING: fork:COMPLETED sub:IN_PROGRESS b:FAILED join:IN_PROGRESS b:SCHEDULED");
    assert_eq!(world.show(&child), "RUNNING: a:CANCELED a:SCHEDULED");
    world.complete("a", json!({}));
    world.complete("b", json!({}));
    assert_eq!(world.status(&run), RunStatus::Completed);
}

#[test]
fn a_child_that_ended_well_while_its_parent_failed_says_so_again() {
    let mut world = world(json!([fork(json!([[child(json!({}))], [simple("b")]])), join(json!(["sub", "b"]))]));
    world.register(json!({"name": "child", "tasks": [simple("a")], "outputParameters": {"x": 1}})).unwrap();
    let run = world.start("w", json!({}));
    world.by_hand = true;
    // The child's output is asked for, and its end is told, while the parent fails.
    world.complete("a", json!({}));
    world.fail("b");
    world.by_hand = false;
    world.pump();
    assert_eq!(world.show(&run), "FAILED: fork:COMPLETED sub:CANCELED b:FAILED join:CANCELED");
    assert_eq!(world.status(&format!("{run}.1")), RunStatus::Completed);
    world.tell(&run, Event::Retry).unwrap();
    assert_eq!(world.show(&run), "RUNNING: fork:COMPLETED sub:COMPLETED b:FAILED join:IN_PROGRESS b:SCHEDULED");
    world.complete("b", json!({}));
    assert_eq!(world.status(&run), RunStatus::Completed);
}

#[test]
fn a_child_that_is_retried_brings_its_parent_back() {
    let mut world = world(json!([child(json!({})), simple("b")]));
    world.register(json!({"name": "child", "tasks": [simple("a")]})).unwrap();
    let run = world.start("w", json!({}));
    world.fail("a");
    assert_eq!(world.show(&run), "FAILED: sub:FAILED");
    world.tell(&format!("{run}.0"), Event::Retry).unwrap();
    assert_eq!(world.show(&run), "RUNNING: sub:IN_PROGRESS");
    world.complete("a", json!({}));
    world.complete("b", json!({}));
    assert_eq!(world.status(&run), RunStatus::Completed);
}

#[test]
fn a_started_workflow_goes_its_own_way() {
    let request = json!({"startWorkflow": {"name": "child", "input": {"n": 1}}});
    let mut world1 =
        world(json!([{"name": "st", "taskReferenceName": "st", "type": "START_WORKFLOW", "inputParameters": request}]));
    world1.register(json!({"name": "child", "tasks": [simple("a")]})).unwrap();
    let run = world1.start("w", json!({}));
    assert_eq!(world1.show(&run), "COMPLETED: st:COMPLETED");
    assert_eq!(world1.output(&run), json!({"workflowId": format!("{run}.0")}));
    assert_eq!(world1.status(&format!("{run}.0")), RunStatus::Running);
    let mut world2 = world(json!([{"name": "st", "taskReferenceName": "st", "type": "START_WORKFLOW"}]));
    let run = world2.start("w", json!({}));
    assert_eq!(world2.show(&run), "FAILED: st:FAILED");
}

#[test]
fn a_wait_ends_by_time_or_by_word() {
    let wait = |input: Value| json!([{"name": "wt", "taskReferenceName": "wt", "type": "WAIT", "inputParameters": input}, simple("a")]);
    let mut world1 = world(wait(json!({"duration": "${workflow.input.d}"})));
    let run = world1.start("w", json!({"d": "2 seconds"}));
    world1.pass_ms(1_999);
    assert_eq!(world1.show(&run), "RUNNING: wt:IN_PROGRESS");
    world1.pass_ms(1);
    assert_eq!(world1.show(&run), "RUNNING: wt:COMPLETED a:SCHEDULED");
    let mut world2 = world(wait(json!({"until": "1970-01-01 00:01"})));
    let run = world2.start("w", json!({}));
    world2.pass_ms(60_000);
    assert_eq!(world2.show(&run), "RUNNING: wt:COMPLETED a:SCHEDULED");
    let mut world3 = world(wait(json!({})));
    let run = world3.start("w", json!({}));
    world3.pass_ms(1_000_000);
    world3.tell(&run, update("wt", TaskStatus::Completed)).unwrap();
    assert_eq!(world3.show(&run), "RUNNING: wt:COMPLETED a:SCHEDULED");
    let mut world4 = world(wait(json!({"duration": "${workflow.input.d}"})));
    let run = world4.start("w", json!({"d": "a while"}));
    assert_eq!(world4.show(&run), "FAILED: wt:FAILED_WITH_TERMINAL_ERROR");
    let both = json!({"name": "w", "tasks": wait(json!({"duration": "1s", "until": "2030-01-01"}))});
    assert!(World::default().register(both).unwrap_err().contains("$.tasks[0].inputParameters.until"));
}

#[test]
fn a_word_that_comes_early_twice_or_to_nobody_does_no_harm() {
    let mut world = world(json!([simple("a"), {"name": "h", "taskReferenceName": "h", "type": "HUMAN"}, simple("b")]));
    let run = world.start("w", json!({}));
    let early = world.tell(&run, update("h", TaskStatus::Completed));
    assert_eq!(early, Err(Refused::NotScheduled("h".to_owned())));
    assert_eq!(world.tell(&run, update("x", TaskStatus::Completed)), Err(Refused::NoSuchTask("x".to_owned())));
    world.complete("a", json!({}));
    world.tell(&run, update("h", TaskStatus::InProgress)).unwrap();
    assert_eq!(world.tell(&run, update("h", TaskStatus::Completed)), Ok(Outcome::Applied));
    assert!(matches!(world.tell(&run, update("h", TaskStatus::Failed)), Ok(Outcome::Ignored(_))));
    assert_eq!(world.show(&run), "RUNNING: a:COMPLETED h:COMPLETED b:SCHEDULED");
}

#[test]
fn an_event_is_published_and_may_wait_for_a_word() {
    let event = json!({"name": "ev", "taskReferenceName": "ev", "type": "EVENT", "sink": "conductor:news",
        "inputParameters": {"x": 1}, "asyncComplete": true});
    let mut world = world(json!([event]));
    let run = world.start("w", json!({}));
    let (name, payload) = &world.published[0];
    assert_eq!((name.as_str(), &payload["x"]), ("conductor:w:news", &json!(1)));
    assert_eq!(world.show(&run), "RUNNING: ev:IN_PROGRESS");
    world.tell(&run, update("ev", TaskStatus::Completed)).unwrap();
    assert_eq!(world.status(&run), RunStatus::Completed);
}

#[test]
fn terminate_ends_the_run_with_its_output_and_cancels_the_rest() {
    let end = |status: &str| {
        json!({"name": "t", "taskReferenceName": "t", "type": "TERMINATE",
        "inputParameters": {"terminationStatus": status, "workflowOutput": {"x": "${workflow.input.x}"}, "terminationReason": "enough"}})
    };
    for (status, expected) in [("COMPLETED", "COMPLETED"), ("FAILED", "FAILED"), ("TERMINATED", "TERMINATED")] {
        let mut world = world(json!([fork(json!([[simple("a")], [end(status)]])), join(json!(["a", "t"]))]));
        let run = world.start("w", json!({"x": 3}));
        assert_eq!(world.show(&run), format!("{expected}: fork:COMPLETED a:CANCELED t:COMPLETED join:CANCELED"));
        assert_eq!(world.output(&run), json!({"x": 3}));
        assert_eq!(world.runs[&run].row().reason.as_deref(), Some("enough"));
    }
}

#[test]
fn a_dynamic_task_becomes_what_its_name_says() {
    let task = json!({"name": "dyn", "taskReferenceName": "dyn", "type": "DYNAMIC", "dynamicTaskNameParam": "which",
        "inputParameters": {"which": "${workflow.input.which}", "x": 1}});
    let mut world1 = world(json!([task.clone(), simple_with("b", json!({"y": "${dyn.output.y}"}))]));
    world1.task("a", 1);
    let run = world1.start("w", json!({"which": "a"}));
    assert_eq!(world1.body(world1.work.values().next().unwrap().input)["x"], json!(1));
    world1.fail("a");
    world1.complete("a", json!({"y": 2}));
    assert_eq!(world1.show(&run), "RUNNING: dyn:FAILED dyn:COMPLETED b:SCHEDULED");
    assert_eq!(world1.body(world1.work.values().next().unwrap().input), json!({"y": 2}));
    let mut world2 = world(json!([task]));
    let run = world2.start("w", json!({}));
    assert_eq!(world2.show(&run), "FAILED:");
}

#[test]
fn scripts_and_jq_compute_in_place() {
    let mut world = world(json!([
        {"name": "i", "taskReferenceName": "i", "type": "INLINE", "inputParameters": {"evaluatorType": "javascript",
            "expression": "(function () { return {n: $.x + 1}; })()", "x": "${workflow.input.x}"}},
        {"name": "l", "taskReferenceName": "l", "type": "LAMBDA", "inputParameters": {"scriptExpression": "return $.y * 2", "y": "${i.output.result.n}"}},
        {"name": "q", "taskReferenceName": "q", "type": "JSON_JQ_TRANSFORM", "inputParameters": {"queryExpression": "[.list[] | . + 1]", "list": [1, "${l.output.result}"]}}
    ]));
    let run = world.start("w", json!({"x": 1}));
    assert_eq!(world.show(&run), "COMPLETED: i:COMPLETED l:COMPLETED q:COMPLETED");
    assert_eq!(world.output(&run), json!({"result": [2, 5], "resultList": [[2, 5]]}));
}

#[test]
fn an_http_task_is_work_of_another_kind() {
    let mut world = world(
        json!([{"name": "call", "taskReferenceName": "call", "type": "HTTP", "inputParameters": {"uri": "http://x/${workflow.input.p}"}}]),
    );
    let run = world.start("w", json!({"p": "y"}));
    let work = world.work.values().next().unwrap();
    assert!(work.http);
    assert_eq!(world.body(work.input)["uri"], json!("http://x/y"));
    world.complete("call", json!({"response": {"statusCode": 200}}));
    assert_eq!(world.status(&run), RunStatus::Completed);
}

#[test]
fn an_asynchronous_http_task_waits_for_a_word_after_its_answer() {
    let call = json!({"name": "call", "taskReferenceName": "call", "type": "HTTP", "asyncComplete": true,
        "inputParameters": {"http_request": {"uri": "http://x"}}});
    let mut world = world(json!([call]));
    let run = world.start("w", json!({}));
    world.complete("call", json!({"response": {"statusCode": 202}}));
    assert_eq!(world.show(&run), "RUNNING: call:IN_PROGRESS");
    world.tell(&run, update("call", TaskStatus::Completed)).unwrap();
    assert_eq!(world.output(&run), json!({"response": {"statusCode": 202}}));
}
