//! Forks and joins: which branches there are, what a join waits for, and what it makes of their ends.

use super::{fork, join, simple, simple_with, switch, world};
use serde_json::{Value, json};
use workflow::run::{Event, RunStatus};

#[test]
fn a_join_waits_for_what_it_names_and_puts_the_outputs_together() {
    let mut world =
        world(json!([fork(json!([[simple("a"), simple("b")], [simple("c")]])), join(json!(["b", "c"])), simple("d")]));
    let run = world.start("w", json!({}));
    assert_eq!(world.show(&run), "RUNNING: fork:COMPLETED a:SCHEDULED c:SCHEDULED join:IN_PROGRESS");
    world.complete("c", json!({"c": 1}));
    world.complete("a", json!({"a": 1}));
    world.complete("b", json!({"b": 1}));
    assert_eq!(world.task_output(&run, "join"), json!({"b": {"b": 1}, "c": {"c": 1}}));
    world.complete("d", json!({}));
    assert_eq!(world.status(&run), RunStatus::Completed);
}

#[test]
fn a_join_on_one_branch_leaves_the_other_running_and_the_run_waits_for_it() {
    let mut world = world(json!([fork(json!([[simple("a")], [simple("b")]])), join(json!(["a"]))]));
    let run = world.start("w", json!({}));
    world.complete("a", json!({}));
    assert_eq!(world.show(&run), "RUNNING: fork:COMPLETED a:COMPLETED b:SCHEDULED join:COMPLETED");
    world.complete("b", json!({}));
    assert_eq!(world.status(&run), RunStatus::Completed);
}

#[test]
fn a_join_on_a_way_not_taken_opens_when_the_branches_are_over() {
    let mut world = world(json!([
        fork(json!([[switch("SWITCH", json!({"x": [simple("b")]}))], [simple("c")]])),
        join(json!(["b", "c"]))
    ]));
    let run = world.start("w", json!({"on": "other"}));
    world.complete("c", json!({}));
    world.complete("d", json!({}));
    assert_eq!(world.status(&run), RunStatus::Completed, "{}", world.show(&run));
}

#[test]
fn a_failure_in_a_branch_fails_the_run_at_once_and_cancels_the_rest() {
    let mut world = world(json!([fork(json!([[simple("a")], [simple("b")]])), join(json!(["a", "b"]))]));
    let run = world.start("w", json!({}));
    world.fail("a");
    assert_eq!(world.show(&run), "FAILED: fork:COMPLETED a:FAILED b:CANCELED join:CANCELED");
    assert!(world.work.is_empty(), "what was scheduled is taken back");
}

#[test]
fn an_optional_failure_makes_the_join_end_with_errors_and_a_permissive_one_fails_it_at_its_end() {
    let (mut optional, mut permissive) = (simple("a"), simple("a"));
    optional["optional"] = json!(true);
    permissive["permissive"] = json!(true);
    let mut world1 = world(json!([fork(json!([[optional], [simple("b")]])), join(json!(["a", "b"]))]));
    let run = world1.start("w", json!({}));
    world1.fail("a");
    world1.complete("b", json!({}));
    assert_eq!(
        world1.show(&run),
        "COMPLETED: fork:COMPLETED a:COMPLETED_WITH_ERRORS b:COMPLETED join:COMPLETED_WITH_ERRORS"
    );
    let mut world2 = world(json!([fork(json!([[permissive], [simple("b")]])), join(json!(["a", "b"]))]));
    let run = world2.start("w", json!({}));
    world2.fail("a");
    assert_eq!(world2.show(&run), "RUNNING: fork:COMPLETED a:FAILED b:SCHEDULED join:IN_PROGRESS");
    world2.complete("b", json!({}));
    assert_eq!(world2.show(&run), "FAILED: fork:COMPLETED a:FAILED b:COMPLETED join:FAILED");
    // Both are tried again in place: the task anew, the join where it was.
    world2.tell(&run, Event::Retry).unwrap();
    assert_eq!(world2.show(&run), "RUNNING: fork:COMPLETED a:FAILED b:COMPLETED join:IN_PROGRESS a:SCHEDULED");
    world2.complete("a", json!({}));
    assert_eq!(world2.status(&run), RunStatus::Completed, "{}", world2.show(&run));
}

#[test]
fn an_unsuccessful_permissive_task_outside_a_fork_fails_the_run_at_its_end() {
    let mut permissive = simple("a");
    permissive["permissive"] = json!(true);
    let mut world = world(json!([permissive, simple("b")]));
    let run = world.start("w", json!({}));
    world.fail("a");
    world.complete("b", json!({}));
    assert_eq!(world.show(&run), "FAILED: a:FAILED b:COMPLETED");
}

fn dynamic(extra: Value) -> Value {
    let mut fork = json!({"name": "df", "taskReferenceName": "df", "type": "FORK_JOIN_DYNAMIC"});
    fork.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    json!([fork, join(json!([])), simple("d")])
}

#[test]
fn a_dynamic_fork_is_told_its_branches_in_three_forms() {
    let listed = dynamic(json!({"dynamicForkTasksParam": "t", "dynamicForkTasksInputParamName": "i",
        "inputParameters": {"t": "${workflow.input.t}", "i": "${workflow.input.i}"}}));
    let given = json!({"t": [simple_with("a", json!({"own": 1, "both": 1})), simple("b")], "i": {"a": {"both": 2}, "b": {"n": 3}}});
    let mut world1 = world(listed);
    let run = world1.start("w", given);
    assert_eq!(world1.show(&run), "RUNNING: df:COMPLETED a:SCHEDULED b:SCHEDULED join:IN_PROGRESS");
    let inputs: Vec<_> = world1.work.values().map(|work| world1.body(work.input)).collect();
    assert_eq!(inputs, [json!({"own": 1, "both": 2}), json!({"n": 3})]);
    world1.complete("b", json!({"b": 1}));
    world1.complete("a", json!({"a": 1}));
    assert_eq!(world1.task_output(&run, "join"), json!({"a": {"a": 1}, "b": {"b": 1}}));
    world1.complete("d", json!({}));
    assert_eq!(world1.status(&run), RunStatus::Completed);

    let joined = dynamic(json!({"dynamicForkJoinTasksParam": "t", "inputParameters": {"t": "${workflow.input.t}"}}));
    let mut world2 = world(joined);
    let tasks = json!([{"taskName": "a", "referenceName": "a1", "type": "SIMPLE", "input": {"n": 1}},
        {"taskName": "a", "referenceName": "a2", "input": {"n": 2}}]);
    let run = world2.start("w", json!({"t": {"dynamicTasks": tasks}}));
    assert_eq!(world2.show(&run), "RUNNING: df:COMPLETED a1:SCHEDULED a2:SCHEDULED join:IN_PROGRESS");

    let same = dynamic(json!({"inputParameters": {"forkTaskName": "a", "forkTaskInputs": "${workflow.input.list}"}}));
    let mut world3 = world(same);
    let run = world3.start("w", json!({"list": [{"n": 1}, 2]}));
    assert_eq!(world3.show(&run), "RUNNING: df:COMPLETED _df_0:SCHEDULED _df_1:SCHEDULED join:IN_PROGRESS");
    let inputs: Vec<_> = world3.work.values().map(|work| world3.body(work.input)).collect();
    assert_eq!(inputs, [json!({"n": 1, "__index": 0}), json!({"input": 2, "__index": 1})]);
}

#[test]
fn a_dynamic_fork_without_branches_joins_at_once_and_bad_branches_fail_the_run() {
    let tasks = || {
        dynamic(json!({"dynamicForkTasksParam": "t", "dynamicForkTasksInputParamName": "i",
        "inputParameters": {"t": "${workflow.input.t}", "i": "${workflow.input.i}"}}))
    };
    let mut world1 = world(tasks());
    let run = world1.start("w", json!({"t": [], "i": {}}));
    assert_eq!(world1.show(&run), "RUNNING: df:COMPLETED join:COMPLETED d:SCHEDULED");
    assert_eq!(world1.task_output(&run, "join"), json!({}));
    for (bad, word) in [
        (json!({"t": [simple("a")], "i": 1}), "no object"),
        (json!({"t": [simple("d")], "i": {}}), "already"),
        (json!({"t": [{"name": "x", "taskReferenceName": "x", "type": "KAFKA_PUBLISH"}], "i": {}}), "not supported"),
        (json!({"t": [simple("a"), simple("a")], "i": {}}), "unique"),
    ] {
        let mut world = world(tasks());
        let run = world.start("w", bad);
        assert_eq!(world.show(&run), "FAILED:");
        let reason = world.runs[&run].row().reason.clone().unwrap();
        assert!(reason.contains(word), "{reason}");
    }
}

#[test]
fn branches_of_a_dynamic_fork_may_be_whole_structures() {
    let tasks = dynamic(json!({"dynamicForkTasksParam": "t", "dynamicForkTasksInputParamName": "i",
        "inputParameters": {"t": "${workflow.input.t}", "i": {}}}));
    let mut world = world(tasks);
    let looped = json!({"name": "l", "taskReferenceName": "l", "type": "DO_WHILE", "loopCondition": "$.l.iteration < 2",
        "loopOver": [simple("a")]});
    let run = world.start("w", json!({"t": [looped, simple("b")]}));
    world.complete("a", json!({}));
    world.complete("b", json!({}));
    world.complete("a", json!({}));
    world.complete("d", json!({}));
    assert_eq!(
        world.show(&run),
        "COMPLETED: df:COMPLETED l:COMPLETED b:COMPLETED join:COMPLETED a__1:COMPLETED a__2:COMPLETED d:COMPLETED"
    );
}

#[test]
fn an_exclusive_join_takes_whichever_ran_and_its_default_when_none_did() {
    let joined = |default: Value| {
        json!([switch("SWITCH", json!({"x": [simple("b")], "y": [simple("c")]})),
        {"name": "ej", "taskReferenceName": "ej", "type": "EXCLUSIVE_JOIN", "joinOn": ["b", "c"], "defaultExclusiveJoinTask": default}])
    };
    for (on, ran) in [("x", "b"), ("y", "c"), ("other", "d")] {
        let mut world = world(joined(json!(["d"])));
        let run = world.start("w", json!({"on": on}));
        world.complete(ran, json!({"from": ran}));
        assert_eq!(world.show(&run), format!("COMPLETED: s:COMPLETED {ran}:COMPLETED ej:COMPLETED"));
        assert_eq!(world.output(&run), json!({"from": ran}));
    }
    // Nothing it names ran, and it has no default: it would wait for ever.
    let mut world = world(joined(json!([])));
    let run = world.start("w", json!({"on": "other"}));
    world.complete("d", json!({}));
    assert_eq!(world.show(&run), "COMPLETED: s:COMPLETED d:COMPLETED ej:COMPLETED");
}

#[test]
fn an_outer_join_waits_for_branches_that_an_inner_join_left_running() {
    let mut inner = fork(json!([[simple("a"), simple("b")], [simple("c")]]));
    (inner["name"], inner["taskReferenceName"]) = (json!("inner"), json!("inner"));
    let mut inner_join = join(json!(["a", "c"]));
    inner_join["taskReferenceName"] = json!("inner_join");
    let mut world =
        world(json!([fork(json!([[inner, inner_join], [simple("d")]])), join(json!(["b", "d"])), simple("e")]));
    let run = world.start("w", json!({}));
    for name in ["a", "c", "d"] {
        world.complete(name, json!({}));
    }
    assert!(world.show(&run).contains("inner_join:COMPLETED") && world.show(&run).contains(" join:IN_PROGRESS"));
    world.complete("b", json!({"b": 1}));
    assert_eq!(world.task_output(&run, "join"), json!({"b": {"b": 1}}));
    world.complete("e", json!({}));
    assert_eq!(world.status(&run), RunStatus::Completed);
}
