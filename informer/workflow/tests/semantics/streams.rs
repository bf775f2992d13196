//! What a running task emits: children with keys, the seal, and the join that hands them on.

use super::{World, join, simple, simple_with, world_of};
use serde_json::{Value, json};
use workflow::definition::Definition;
use workflow::evaluate::Handle;
use workflow::run::{Event, NewChild, Outcome, Refused, RunStatus, StepIx, TaskStatus};

/// `a`, which emits `b`, its join, and `c`, which is given the children.
fn streaming(children: Value) -> World {
    let mut a = simple("a");
    a["emits"] = children;
    world_of(json!({"name": "w", "tasks": [a, join(json!(["a"])),
        simple_with("c", json!({"parts": "${join.output.children}"}))]}))
}

/// The step of the latest try of a task that is under way.
fn at(world: &World, name: &str) -> StepIx {
    world.work.iter().rfind(|(_, work)| work.name == name).map(|(key, _)| key.1).expect("it is under way")
}

fn child(world: &World, key: &str, input: Value) -> NewChild {
    let mut digest = [0; 32];
    input.to_string().bytes().zip(&mut digest).for_each(|(byte, place)| *place = byte);
    let input = Some(workflow::evaluate::Bodies::put(&world.memory, &input).unwrap());
    NewChild { key: key.to_owned(), digest: Handle(digest), name: None, input }
}

fn emit(world: &mut World, run: &str, key: &str, input: Value) -> Result<Outcome, Refused> {
    let (step, child) = (at(world, "a"), child(world, key, input));
    world.tell(run, Event::Emitted { step, child })
}

fn emits(world: &mut World, run: &str, keys: &[&str]) {
    for key in keys {
        assert_eq!(emit(world, run, key, json!({"key": key})), Ok(Outcome::Applied), "{key}");
    }
}

#[test]
fn children_run_while_their_parent_does_and_are_joined_in_the_order_of_emission() {
    let mut world = streaming(json!([simple_with("b", json!({"film": "${workflow.input.film}"}))]));
    let run = world.start("w", json!({"film": "f"}));
    emits(&mut world, &run, &["z", "y"]);
    assert_eq!(world.show(&run), "RUNNING: a:SCHEDULED b__1:SCHEDULED b__2:SCHEDULED");
    assert_eq!(world.body(world.work[&(run.clone(), at(&world, "b"))].input), json!({"film": "f", "key": "y"}));
    world.complete("b", json!({"n": 1}));
    emits(&mut world, &run, &["x"]);
    world.end_step(&run, at(&world, "b"), TaskStatus::Completed, json!({"n": 3}));
    world.complete("a", json!({"cuts": 3}));
    assert_eq!(world.show(&run), "RUNNING: a:COMPLETED b__1:COMPLETED b__2:SCHEDULED b__3:COMPLETED join:IN_PROGRESS");
    world.complete("b", json!({"n": 2}));
    let children =
        json!([{"key": "z", "output": {"n": 1}}, {"key": "y", "output": {"n": 2}}, {"key": "x", "output": {"n": 3}}]);
    assert_eq!(world.task_output(&run, "join"), json!({"a": {"cuts": 3}, "children": children}));
    assert_eq!(world.body(world.work[&(run.clone(), at(&world, "c"))].input), json!({"parts": children}));
    world.complete("c", json!({}));
    assert_eq!(world.status(&run), RunStatus::Completed);
}

#[test]
fn a_repeated_child_is_the_same_and_another_under_its_key_is_refused() {
    let mut world = streaming(json!([simple("b")]));
    let run = world.start("w", json!({}));
    emits(&mut world, &run, &["k"]);
    assert_eq!(emit(&mut world, &run, "k", json!({"key": "k"})), Ok(Outcome::Ignored("the child is known")));
    assert_eq!(emit(&mut world, &run, "k", json!({"other": 1})), Err(Refused::OtherChild("k".to_owned())));
    assert_eq!(world.show(&run), "RUNNING: a:SCHEDULED b__1:SCHEDULED");
    let named = NewChild { name: Some("x".to_owned()), ..child(&world, "l", json!({})) };
    let step = at(&world, "a");
    let refused = world.tell(&run, Event::Emitted { step, child: named }).unwrap_err();
    assert_eq!(refused.to_string(), "the workflow takes no child \"x\" of this task; it takes b");
    let (step, stranger) = (at(&world, "b"), child(&world, "m", json!({})));
    let refused = world.tell(&run, Event::Emitted { step, child: stranger });
    assert!(matches!(refused, Err(Refused::NotEmitting(_))), "{refused:?}");
}

#[test]
fn a_seal_opens_the_join_while_the_parent_runs_on() {
    let mut world = streaming(json!([simple("b")]));
    let run = world.start("w", json!({}));
    emits(&mut world, &run, &["k"]);
    let step = at(&world, "a");
    assert_eq!(world.tell(&run, Event::Sealed { step }), Ok(Outcome::Applied));
    assert!(matches!(world.tell(&run, Event::Sealed { step }), Ok(Outcome::Ignored(_))));
    assert_eq!(emit(&mut world, &run, "l", json!({})), Err(Refused::Sealed));
    assert!(matches!(emit(&mut world, &run, "k", json!({"key": "k"})), Ok(Outcome::Ignored(_))), "known all the same");
    world.complete("b", json!({"n": 1}));
    assert_eq!(world.show(&run), "RUNNING: a:SCHEDULED b__1:COMPLETED join:COMPLETED c:SCHEDULED");
    assert_eq!(world.task_output(&run, "join"), json!({"children": [{"key": "k", "output": {"n": 1}}]}));
    world.complete("c", json!({}));
    assert_eq!(world.status(&run), RunStatus::Running, "the parent has not ended");
    world.complete("a", json!({}));
    assert_eq!(world.status(&run), RunStatus::Completed);
}

#[test]
fn another_try_finds_the_children_of_the_one_before() {
    let mut world = streaming(json!([simple("b")]));
    world.task("a", 1);
    let run = world.start("w", json!({}));
    emits(&mut world, &run, &["k", "gone"]);
    world.fail("a");
    assert!(matches!(emit(&mut world, &run, "k", json!({"key": "k"})), Ok(Outcome::Ignored(_))));
    assert!(emit(&mut world, &run, "k", json!({"key": "other"})).is_err());
    emits(&mut world, &run, &["new"]);
    world.complete("a", json!({}));
    for _ in 0..3 {
        world.complete("b", json!({}));
    }
    let keys: Vec<Value> = world.task_output(&run, "join")["children"]
        .as_array()
        .unwrap()
        .iter()
        .map(|child| child["key"].clone())
        .collect();
    assert_eq!(keys, ["k", "gone", "new"], "what the failed try emitted stays");
}

#[test]
fn no_child_at_all_is_an_empty_list() {
    let mut world = streaming(json!([simple("b"), simple("d")]));
    let run = world.start("w", json!({}));
    world.complete("a", json!({"x": 1}));
    assert_eq!(world.task_output(&run, "join"), json!({"a": {"x": 1}, "children": []}));
}

#[test]
fn a_failed_child_fails_the_run_or_is_told_by_the_join() {
    let mut world1 = streaming(json!([simple("b")]));
    let run = world1.start("w", json!({}));
    emits(&mut world1, &run, &["k", "l"]);
    world1.fail("b");
    assert_eq!(world1.show(&run), "FAILED: a:CANCELED b__1:FAILED b__2:CANCELED");
    assert!(world1.work.is_empty(), "all of it is taken back");
    // All of it is tried again in place: the parent finds what it emitted.
    world1.tell(&run, Event::Retry).unwrap();
    assert!(matches!(emit(&mut world1, &run, "k", json!({"key": "k"})), Ok(Outcome::Ignored(_))));
    world1.complete("b", json!({"n": 1}));
    world1.complete("b", json!({"n": 2}));
    world1.complete("a", json!({}));
    let children = json!([{"key": "k", "output": {"n": 1}}, {"key": "l", "output": {"n": 2}}]);
    assert_eq!(world1.task_output(&run, "join")["children"], children);
    let mut optional = simple("b");
    optional["optional"] = json!(true);
    let mut world2 = streaming(json!([optional, simple("d")]));
    let run = world2.start("w", json!({}));
    let (step, named) = (at(&world2, "a"), NewChild { name: Some("b".to_owned()), ..child(&world2, "k", json!({})) });
    world2.tell(&run, Event::Emitted { step, child: named }).unwrap();
    world2.fail("b");
    world2.complete("a", json!({}));
    let told =
        json!([{"key": "k", "task": "b", "status": "COMPLETED_WITH_ERRORS", "reason": "it was told to", "output": {}}]);
    assert_eq!(world2.task_output(&run, "join"), json!({"children": told}));
    assert_eq!(
        world2.show(&run),
        "RUNNING: a:COMPLETED b__1:COMPLETED_WITH_ERRORS join:COMPLETED_WITH_ERRORS c:SCHEDULED"
    );
}

#[test]
fn a_rerun_of_one_child_joins_again_and_a_rerun_of_the_parent_begins_anew() {
    let mut world = streaming(json!([simple("b")]));
    let run = world.start("w", json!({}));
    emits(&mut world, &run, &["k", "l", "m"]);
    for n in 1..=3 {
        world.complete("b", json!({"n": n}));
    }
    world.complete("a", json!({}));
    world.complete("c", json!({}));
    world.tell(&run, Event::Rerun { from: Some("b__2".to_owned()), input: None }).unwrap();
    assert_eq!(world.show(&run), "RUNNING: a:COMPLETED b__1:COMPLETED b__2:SCHEDULED b__3:COMPLETED join:IN_PROGRESS");
    world.complete("b", json!({"n": 22}));
    assert_eq!(world.task_output(&run, "join")["children"][1], json!({"key": "l", "output": {"n": 22}}));
    world.complete("c", json!({}));
    world.tell(&run, Event::Rerun { from: Some("a".to_owned()), input: None }).unwrap();
    assert_eq!(world.show(&run), "RUNNING: a:SCHEDULED");
    emits(&mut world, &run, &["k"]);
    world.complete("a", json!({}));
    world.complete("b", json!({"n": 5}));
    assert_eq!(world.task_output(&run, "join")["children"], json!([{"key": "k", "output": {"n": 5}}]));
}

#[test]
fn what_is_emitted_while_the_run_pauses_starts_when_it_goes_on() {
    let mut world = streaming(json!([simple("b")]));
    let run = world.start("w", json!({}));
    world.tell(&run, Event::Pause).unwrap();
    emits(&mut world, &run, &["k"]);
    assert_eq!(world.work.len(), 1, "only the parent runs");
    world.tell(&run, Event::Resume).unwrap();
    world.complete("b", json!({}));
    world.complete("a", json!({}));
    world.complete("c", json!({}));
    assert_eq!(world.status(&run), RunStatus::Completed);
}

#[test]
fn the_cost_of_children_is_linear_in_their_number() {
    let cost = |children: usize| {
        let mut world = streaming(json!([simple("b")]));
        let run = world.start("w", json!({}));
        for n in 0..children {
            emit(&mut world, &run, &n.to_string(), json!({"n": n})).unwrap();
        }
        for _ in 0..children {
            world.complete("b", json!({}));
        }
        world.complete("a", json!({}));
        assert_eq!(world.task_output(&run, "join")["children"].as_array().unwrap().len(), children);
        world.looked_at
    };
    let (few, many) = (cost(50), cost(500));
    assert!(many < few * 11, "{few} rows for fifty children, {many} for five hundred");
}

#[test]
fn who_emits_is_joined_and_what_is_emitted_is_plain() {
    let refused = |tasks: Value| match Definition::parse(&json!({"name": "w", "tasks": tasks})) {
        Ok(_) => panic!("{tasks} was taken"),
        Err(refused) => refused.to_string(),
    };
    let with = |child: Value| {
        let mut a = simple("a");
        a["emits"] = json!([child]);
        a
    };
    let alone = refused(json!([with(simple("b")), simple("c")]));
    assert!(alone.contains("$.tasks[0]: what it emits is joined by nobody"), "{alone}");
    let wait =
        refused(json!([with(json!({"name": "b", "taskReferenceName": "b", "type": "WAIT"})), join(json!(["a"]))]));
    assert!(wait.contains("$.tasks[0].emits[0].type: a WAIT cannot be emitted"), "{wait}");
    let nested = refused(json!([with(with(simple("b"))), join(json!(["a"]))]));
    assert!(nested.contains("what is emitted cannot emit"), "{nested}");
    let named = refused(json!([with(simple("b")), join(json!(["a", "b"]))]));
    assert!(named.contains("\"b\" is emitted by \"a\""), "{named}");
    let mut twice = with(simple("b"));
    twice["emits"].as_array_mut().unwrap().push(json!({"name": "b", "taskReferenceName": "other"}));
    assert!(refused(json!([twice, join(json!(["a"]))])).contains("is listed twice"));
    let mut wait = json!({"name": "w", "taskReferenceName": "a", "type": "HUMAN"});
    wait["emits"] = json!([simple("b")]);
    assert!(refused(json!([wait, join(json!(["a"]))])).contains("only a SIMPLE task can"));
}
