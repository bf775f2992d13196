//! Charts of runs and of definitions: what they say, that the picture is sound whatever the names are, and that it is bounded.

#![allow(clippy::unwrap_used, reason = "what a test arranges is there, or the test has failed")]

mod driver;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use driver::World;
use proptest::prelude::*;
use serde_json::{Value, json};
use workflow::chart::{Chart, MAX_BRANCHES_DRAWN, MAX_NODES, Node, State};
use workflow::definition::{Definition, MAX_TASKS};
use workflow::plan::Plan;
use workflow::run::{Event, TaskStatus};

/// With this variable set, the pictures that are compared with are written anew; look at their diff.
const UPDATE: &str = "UPDATE_CHARTS";

/// Elements that a picture is made of. Nothing here can run, load or link.
const ELEMENTS: &[&str] = &["svg", "title", "g", "rect", "text", "polyline", "polygon"];

fn simple(reference: &str) -> Value {
    json!({"name": "work", "taskReferenceName": reference})
}

fn switch(reference: &str, cases: Value, default: Value) -> Value {
    json!({"name": reference, "taskReferenceName": reference, "type": "SWITCH", "evaluatorType": "value-param",
        "expression": "on", "inputParameters": {"on": "${workflow.input.on}"}, "decisionCases": cases, "defaultCase": default})
}

fn fork(reference: &str, branches: Value, on: Value) -> Vec<Value> {
    let join = format!("{reference}_join");
    vec![
        json!({"name": reference, "taskReferenceName": reference, "type": "FORK_JOIN", "forkTasks": branches}),
        json!({"name": join, "taskReferenceName": join, "type": "JOIN", "joinOn": on}),
    ]
}

fn dynamic(reference: &str) -> Vec<Value> {
    let join = format!("{reference}_join");
    vec![
        json!({"name": reference, "taskReferenceName": reference, "type": "FORK_JOIN_DYNAMIC",
            "inputParameters": {"forkTaskName": "slice", "forkTaskInputs": "${workflow.input.slices}"}}),
        json!({"name": join, "taskReferenceName": join, "type": "JOIN"}),
    ]
}

fn looped(reference: &str, rounds: u32, body: Value) -> Value {
    json!({"name": reference, "taskReferenceName": reference, "type": "DO_WHILE",
        "loopCondition": format!("$.{reference}['iteration'] < {rounds}"), "loopOver": body})
}

fn plan(json: &Value) -> Arc<Plan> {
    Arc::new(Plan::of(Definition::parse(json).unwrap().value))
}

/// A workflow with one of everything that has a shape of its own.
fn order() -> Value {
    let mut tasks = vec![
        simple("check"),
        switch("kind", json!({"film": [simple("probe"), simple("film")], "none": []}), json!([simple("photo")])),
    ];
    tasks.extend(fork("sides", json!([[simple("left")], [simple("right"), simple("right_too")]]), json!(["left"])));
    tasks.push(looped("retouch", 3, json!([simple("touch"), simple("look")])));
    tasks.extend(dynamic("slices"));
    tasks.push(json!({"name": "ship", "taskReferenceName": "ship", "type": "SUB_WORKFLOW", "subWorkflowParam": {"name": "shipping"}}));
    tasks.push(simple("bill"));
    json!({"name": "order", "version": 3, "tasks": tasks})
}

/// A world that knows the workflow and how its tasks are tried.
fn world() -> World {
    let mut world = World::default();
    world.task("work", 2);
    world.task("slice", 0);
    world.register(order()).unwrap();
    world.register(json!({"name": "shipping", "tasks": [simple("pack")]})).unwrap();
    world
}

fn input(slices: usize) -> Value {
    json!({"on": "film", "slices": (0..slices).map(|n| json!({"n": n})).collect::<Vec<_>>()})
}

/// Ends whatever is scheduled, until a task of this name is.
fn until(world: &mut World, reference: &str) {
    for _ in 0..1000 {
        let Some((run, work)) = world.work.iter().next().map(|((run, _), work)| (run.clone(), work.clone())) else {
            break;
        };
        if world.work.values().any(|work| work.reference == reference) {
            return;
        }
        world.tell(&run, Event::Started { step: work.step, worker: Some("box".to_owned()) }).unwrap();
        world.pass_ms(1_234);
        world.end_step(&run, work.step, TaskStatus::Completed, json!({}));
    }
    panic!("{reference} is never scheduled");
}

fn node<'c>(chart: &'c Chart, reference: &str) -> &'c Node {
    chart.nodes.iter().find(|node| node.reference == reference).unwrap()
}

fn states(chart: &Chart) -> BTreeMap<&str, &'static str> {
    let known = chart.nodes.iter().filter(|node| !node.reference.is_empty());
    known.map(|node| (node.reference.as_str(), node.state.map_or("", State::as_str))).collect()
}

/// The picture, after a look at everything that must be so in any picture.
fn drawn(chart: &Chart) -> String {
    let svg = chart.svg();
    let document = roxmltree::Document::parse(&svg).unwrap_or_else(|error| panic!("{error}\n{svg}"));
    let ids: BTreeSet<&str> = chart.nodes.iter().map(|node| node.id.as_str()).collect();
    assert_eq!(ids.len(), chart.nodes.len(), "ids are unique");
    for edge in &chart.edges {
        assert!(ids.contains(edge.from.as_str()) && ids.contains(edge.to.as_str()), "{edge:?}");
    }
    let mut boxes = Vec::new();
    let mut frames = Vec::new();
    let mut seen = BTreeSet::new();
    for element in document.descendants().filter(roxmltree::Node::is_element) {
        assert!(ELEMENTS.contains(&element.tag_name().name()), "{element:?}");
        assert!(element.attributes().all(|attribute| !attribute.name().starts_with("on")), "{element:?}");
        if let Some(id) = element.attribute("data-node") {
            assert!(seen.insert(id.to_owned()), "{id} is drawn twice");
            let rect = rect(element.children().find(|child| child.has_tag_name("rect")).unwrap());
            let texts = element.children().filter(|child| child.has_tag_name("text"));
            texts.for_each(|text| within(text, rect));
            boxes.push(rect);
        }
        if element.attribute("data-frame").is_some() {
            frames.push(rect(element));
        }
    }
    assert_eq!(seen.len(), chart.nodes.len(), "every node is drawn");
    apart(&boxes);
    for (index, a) in frames.iter().enumerate() {
        for b in boxes.iter().chain(&frames[index + 1..]) {
            assert!(!meet(a, b) || holds(a, b) || holds(b, a), "{a:?} cuts {b:?}");
        }
    }
    svg
}

type Rect = [i32; 4];

fn rect(element: roxmltree::Node<'_, '_>) -> Rect {
    ["x", "y", "width", "height"].map(|name| element.attribute(name).unwrap().parse().unwrap())
}

fn meet(a: &Rect, b: &Rect) -> bool {
    a[0] < b[0] + b[2] && b[0] < a[0] + a[2] && a[1] < b[1] + b[3] && b[1] < a[1] + a[3]
}

fn holds(a: &Rect, b: &Rect) -> bool {
    a[0] < b[0] && b[0] + b[2] < a[0] + a[2] && a[1] < b[1] && b[1] + b[3] < a[1] + a[3]
}

fn apart(boxes: &[Rect]) {
    let mut sorted: Vec<&Rect> = boxes.iter().collect();
    sorted.sort_by_key(|rect| rect[1]);
    for (index, a) in sorted.iter().enumerate() {
        for b in sorted[index + 1..].iter().take_while(|b| b[1] < a[1] + a[3]) {
            assert!(!meet(a, b), "{a:?} and {b:?} overlap");
        }
    }
}

/// A text of a fixed-width font has six tenths of its size for each column.
fn within(text: roxmltree::Node<'_, '_>, rect: Rect) {
    let size: i32 = text.attribute("font-size").map_or(10, |size| size.parse().unwrap());
    let columns = text.text().unwrap_or_default().chars().map(|char| if char.is_ascii() { 1 } else { 2 }).sum::<i32>();
    let middle = text.attribute("text-anchor").is_some();
    let (x, y): (i32, i32) =
        (text.attribute("x").unwrap().parse().unwrap(), text.attribute("y").unwrap().parse().unwrap());
    let wide = columns * size * 6 / 10;
    let (left, right) = if middle { (x - wide / 2, x + wide / 2) } else { (x, x + wide) };
    assert!(left >= rect[0] && right <= rect[0] + rect[2], "{:?} leaves its box {rect:?}", text.text());
    assert!(y > rect[1] && y < rect[1] + rect[3], "{:?} leaves its box {rect:?}", text.text());
}

#[allow(clippy::disallowed_methods, reason = "a test compares with a file")]
fn compare(name: &str, chart: &Chart) {
    let svg = drawn(chart);
    let json = serde_json::to_string_pretty(chart).unwrap() + "\n";
    for (ending, text) in [("svg", svg), ("json", json)] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/charts/{name}.{ending}"));
        if std::env::var(UPDATE).is_ok() {
            std::fs::write(&path, &text).unwrap();
        }
        let kept = std::fs::read(&path).unwrap_or_default();
        let same = kept == text.as_bytes();
        assert!(same, "{} is not what is drawn now; set {UPDATE}=1, run again and look at the diff", path.display());
    }
}

#[test]
fn a_definition_alone_has_all_its_tasks_and_no_states() {
    let chart = Chart::of_plan(&plan(&order()));
    assert!(chart.run.is_none());
    assert!(chart.nodes.iter().all(|node| node.state.is_none()));
    assert!(chart.edges.iter().all(|edge| edge.taken.is_none()));
    let labels: Vec<_> = chart.edges.iter().filter(|edge| edge.from == node(&chart, "kind").id).collect();
    let labels: Vec<_> = labels.iter().map(|edge| edge.label.as_deref().unwrap()).collect();
    assert_eq!(labels, ["film", "default", "none"], "the empty case leads to what follows the switch");
    compare("definition", &chart);
}

#[test]
fn a_run_under_way_shows_what_was_chosen_what_was_not_and_what_is_to_come() {
    let mut world = world();
    let run = world.start("order", input(3));
    until(&mut world, "touch__2");
    let chart = Chart::of_run(&world.runs[&run]);
    let states = states(&chart);
    assert_eq!((states["probe"], states["photo"], states["touch"]), ("COMPLETED", "UNTAKEN", "SCHEDULED"));
    assert_eq!((states["look"], states["slices"], states["bill"]), ("COMPLETED", "NOT_REACHED", "NOT_REACHED"));
    assert_eq!(node(&chart, "kind").chosen.as_deref(), Some("film"));
    assert_eq!(node(&chart, "touch").counts, BTreeMap::from([("COMPLETED", 1), ("SCHEDULED", 1)]));
    assert_eq!(node(&chart, "retouch").rounds.unwrap().round, 2);
    assert_eq!((&node(&chart, "touch").round, &node(&chart, "look").round), (&vec![2], &vec![1]));
    let taken: BTreeSet<_> = chart.edges.iter().filter(|edge| edge.taken == Some(true)).map(|edge| &edge.to).collect();
    assert!(!taken.contains(&node(&chart, "photo").id) && taken.contains(&node(&chart, "film").id));
    let again: Vec<_> = chart.edges.iter().filter(|edge| edge.again).map(|edge| edge.taken).collect();
    assert_eq!(again, [Some(true)]);
    let unawaited = chart.edges.iter().find(|edge| edge.from == node(&chart, "right_too").id).unwrap();
    assert_eq!(unawaited.label.as_deref(), Some("not waited for"));
    assert!(drawn(&chart).contains("not waited for"));
    compare("running", &chart);
}

#[test]
fn a_run_that_failed_shows_where_and_how_often_it_was_tried() {
    let mut world = world();
    let run = world.start("order", input(3));
    until(&mut world, "pack");
    world.complete("work", json!({}));
    for _ in 0..3 {
        world.fail("work");
    }
    let chart = Chart::of_run(&world.runs[&run]);
    let bill = node(&chart, "bill");
    assert_eq!((bill.retries, bill.state.unwrap().as_str()), (2, "FAILED"));
    assert_eq!(bill.reason.as_deref(), Some("it was told to"));
    assert_eq!(node(&chart, "ship").child.as_deref(), Some(world.started[1].as_str()));
    assert_eq!(chart.run.as_ref().unwrap().status, "FAILED");
    compare("failed", &chart);
}

#[test]
fn a_task_skipped_ahead_shows_once_and_nothing_in_it_can_come() {
    let mut world = world();
    let run = world.start("order", input(0));
    for reference in ["kind", "sides", "bill"] {
        world.tell(&run, Event::Skip { reference: reference.to_owned(), output: None }).unwrap();
    }
    until(&mut world, "touch__1");
    let chart = Chart::of_run(&world.runs[&run]);
    let states = states(&chart);
    assert_eq!((states["kind"], states["film"], states["photo"]), ("SKIPPED", "UNTAKEN", "UNTAKEN"));
    assert_eq!((states["sides"], states["left"], states["bill"]), ("SKIPPED", "UNTAKEN", "SKIPPED"));
    let past = |from: &str, to: &str| {
        let (from, to) = (&node(&chart, from).id, &node(&chart, to).id);
        chart.edges.iter().any(|edge| edge.from == *from && edge.to == *to && edge.taken == Some(true))
    };
    assert!(past("kind", "sides") && past("sides", "sides_join"));
    compare("skipped", &chart);
}

#[test]
fn of_a_wide_dynamic_fork_what_needs_somebody_is_drawn_and_the_rest_is_counted() {
    let mut world = World::default();
    world.define_task(json!({"name": "slice", "retryCount": 0}));
    world.register(json!({"name": "wide", "tasks": dynamic("slices")})).unwrap();
    let run = world.start("wide", input(2_000));
    let steps: Vec<_> = world.work.keys().map(|(_, step)| *step).collect();
    for step in &steps[..1_980] {
        world.end_step(&run, *step, TaskStatus::Completed, json!({}));
    }
    world.tell(&run, Event::Started { step: steps[1_990], worker: Some("box".to_owned()) }).unwrap();
    let chart = Chart::of_run(&world.runs[&run]);
    let all = node(&chart, "slices").branches.as_ref().unwrap();
    assert_eq!(all.states, BTreeMap::from([("COMPLETED", 1_980), ("IN_PROGRESS", 1), ("SCHEDULED", 19)]));
    assert!(states(&chart).contains_key("_slices_1990"), "who runs is drawn before who waits");
    let more = chart.nodes.iter().find(|node| node.kind == "MORE").unwrap().branches.as_ref().unwrap();
    assert_eq!(more.total as usize, 2_000 - MAX_BRANCHES_DRAWN);
    assert!(drawn(&chart).contains("… and 1,994 more"));
    compare("wide", &chart);
}

#[test]
fn a_chart_is_bounded_whatever_the_definition_is() {
    let mut tasks: Vec<Value> = Vec::new();
    for n in 0..MAX_TASKS / 2 {
        tasks.extend(dynamic(&format!("f{n}")));
    }
    let json = json!({"name": "many", "tasks": tasks});
    let mut world = World::default();
    world.register(json).unwrap();
    let run = world.start("many", input(3));
    for _ in 0..100 {
        let Some((id, step)) = world.work.keys().next().cloned() else { break };
        world.end_step(&id, step, TaskStatus::Completed, json!({}));
    }
    let chart = Chart::of_run(&world.runs[&run]);
    // The start, the end, and one node of each fork for what is not drawn.
    assert!(chart.nodes.len() <= MAX_NODES + 2 + MAX_TASKS / 2);
    assert!(drawn(&chart).len() < 8 << 20);
}

#[test]
fn whatever_a_name_is_the_picture_is_sound() {
    let names = [
        "<script>alert(1)</script>",
        "\"/><svg onload='x'>",
        "]]>&amp;&#0;&bogus;",
        "a\u{0}\u{1}\u{b}\u{1f}b",
        "\u{202e}txt.exe",
        "\u{fffe}\u{ffff}\u{1fffe}",
        "日本語の長い名前がここにありますとても長い名前です",
        "e\u{301}\u{301}\u{301}\u{301}",
        "\u{1f600}\u{200d}\u{1f600}",
        "  ",
        "${x}",
        "%s%n",
        "WWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWW",
        "\n\r\t\u{2028}x",
        "--><!--",
    ];
    for name in names {
        let body = json!([{"name": name, "taskReferenceName": format!("b{name}"), "type": "SIMPLE"}]);
        let mut tasks = vec![
            json!({"name": name, "taskReferenceName": format!("a{name}"), "type": "SIMPLE"}),
            switch("s", json!({(name): body}), json!([])),
            json!({"name": name, "taskReferenceName": "c", "type": "SUB_WORKFLOW", "subWorkflowParam": {"name": name}}),
        ];
        tasks[2]["subWorkflowParam"]["name"] = json!(format!("n{name}"));
        let definition = json!({"name": format!("w{name}"), "tasks": tasks});
        let Ok(accepted) = Definition::parse(&definition) else { continue };
        drawn(&Chart::of_plan(&Arc::new(Plan::of(accepted.value))));
        let mut world = World::default();
        world.register(definition).unwrap();
        let run = world.start(&format!("w{name}"), json!({"on": name}));
        let reason = Some(format!("because {name}"));
        world.tell(&run, Event::Terminate { reason, tell: false }).unwrap();
        drawn(&Chart::of_run(&world.runs[&run]));
    }
}

#[allow(clippy::disallowed_methods, reason = "a test reads its samples")]
fn samples() -> BTreeMap<String, Value> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conductor-samples");
    if !directory.is_dir() {
        println!("SKIP: the samples of conductor-oss are not beside the repository");
        return BTreeMap::new();
    }
    let paths = ["harness", "kitchensink"].iter().flat_map(|part| std::fs::read_dir(directory.join(part)).unwrap());
    let paths: Vec<PathBuf> = paths.map(|entry| entry.unwrap().path()).collect();
    let mut found = BTreeMap::new();
    for path in paths {
        let Ok(json) = serde_json::from_slice::<Value>(&std::fs::read(&path).unwrap()) else { continue };
        let json = json.get("workflowDef").cloned().unwrap_or(json);
        if json.get("tasks").is_some() {
            found.insert(path.file_stem().unwrap().to_string_lossy().into_owned(), json);
        }
    }
    found
}

#[test]
fn definitions_of_another_project_are_drawn() {
    let mut count = 0;
    for json in samples().values() {
        let Ok(accepted) = Definition::parse(json) else { continue };
        count += 1;
        drawn(&Chart::of_plan(&Arc::new(Plan::of(accepted.value))));
    }
    println!("{count} charts");
}

#[test]
fn some_definitions_of_another_project_look_as_they_did() {
    let samples = samples();
    for name in ["exclusive_join_integration_test", "do_while_as_subtask_integration_test", "kitchensink"] {
        if let Some(json) = samples.get(name) {
            compare(name, &Chart::of_plan(&plan(json)));
        }
    }
}

#[derive(Debug, Clone)]
enum Shape {
    Simple,
    Terminate,
    Dynamic,
    Switch(Vec<Vec<Shape>>),
    Fork(Vec<Vec<Shape>>),
    Loop(Vec<Shape>),
}

fn shapes() -> impl Strategy<Value = Vec<Shape>> {
    let leaf = prop_oneof![6 => Just(Shape::Simple), 1 => Just(Shape::Terminate), 1 => Just(Shape::Dynamic)];
    let tree = leaf.prop_recursive(4, 40, 4, |inner| {
        let lists = prop::collection::vec(prop::collection::vec(inner.clone(), 0..3), 1..4);
        let lanes = prop::collection::vec(prop::collection::vec(inner.clone(), 1..3), 1..4);
        prop_oneof![
            lists.prop_map(Shape::Switch),
            lanes.prop_map(Shape::Fork),
            prop::collection::vec(inner, 1..3).prop_map(Shape::Loop),
        ]
    });
    prop::collection::vec(tree, 1..5)
}

fn write(shapes: &[Shape], next: &mut usize) -> Vec<Value> {
    let mut tasks = Vec::new();
    for shape in shapes {
        *next += 1;
        let name = format!("t{next}");
        let mut lists = |lists: &[Vec<Shape>]| lists.iter().map(|list| json!(write(list, next))).collect::<Vec<_>>();
        match shape {
            Shape::Simple => tasks.push(simple(&name)),
            Shape::Terminate => tasks.push(json!({"name": name, "taskReferenceName": name, "type": "TERMINATE",
                "inputParameters": {"terminationStatus": "COMPLETED"}})),
            Shape::Dynamic => tasks.extend(dynamic(&name)),
            Shape::Switch(cases) => {
                let lists = lists(cases).into_iter().enumerate();
                let cases: serde_json::Map<String, Value> = lists.map(|(n, list)| (n.to_string(), list)).collect();
                tasks.push(switch(&name, json!(cases), json!([])));
            }
            Shape::Fork(branches) => {
                let lists = lists(branches);
                let on: Vec<Value> = lists.iter().map(|list| list[0]["taskReferenceName"].clone()).collect();
                tasks.extend(fork(&name, json!(lists), json!(on)));
            }
            Shape::Loop(body) => {
                let body = lists(std::slice::from_ref(body)).remove(0);
                tasks.push(looped(&name, 2, body));
            }
        }
    }
    tasks
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 96, ..ProptestConfig::default() })]

    /// Every task of a definition is in its chart once, before a run, in one, and after it.
    #[test]
    fn every_task_is_there_once(shapes in shapes(), on in 0..3u32, ends in 0..60usize, fails in any::<bool>()) {
        let json = json!({"name": "w", "tasks": write(&shapes, &mut 0)});
        let plan = plan(&json);
        let expected: Vec<&str> = plan.nodes.iter().map(|node| node.reference.as_str()).collect();
        let own = |chart: &Chart| {
            let nodes = chart.nodes.iter().filter(|node| node.id.starts_with("0.") && !node.reference.is_empty());
            nodes.map(|node| node.reference.clone()).collect::<Vec<_>>()
        };
        let chart = Chart::of_plan(&plan);
        prop_assert_eq!(own(&chart), expected.clone());
        drawn(&chart);
        let mut world = World::default();
        world.task("work", 1);
        world.task("slice", 1);
        world.register(json).unwrap();
        let run = world.start("w", json!({"on": on.to_string(), "slices": [{}, {}]}));
        for n in 0..ends {
            let Some((id, step)) = world.work.keys().next().cloned() else { break };
            let status = if fails && n % 3 == 0 { TaskStatus::Failed } else { TaskStatus::Completed };
            world.end_step(&id, step, status, json!({}));
        }
        let chart = Chart::of_run(&world.runs[&run]);
        prop_assert_eq!(own(&chart), expected);
        drawn(&chart);
        let loose = chart.nodes.iter().filter(|node| node.state.is_none() && node.branches.is_none());
        prop_assert!(loose.map(|node| node.kind).eq(["START", "END"]));
    }
}
