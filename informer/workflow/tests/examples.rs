//! The examples: each file registers, and each plays from the command in their README to the output it is meant to have.

#![allow(clippy::unwrap_used, reason = "what a test arranges is there, or the test has failed")]

mod driver;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use driver::World;
use serde_json::{Value, json};
use workflow::definition::{Bundle, Definition, TaskDef};
use workflow::run::{Event, NewChild, RunStatus, StepIx, TaskStatus};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/workflows")
}

#[allow(clippy::disallowed_methods, reason = "a test reads the examples")]
fn read(name: &str) -> String {
    String::from_utf8(std::fs::read(directory().join(name)).unwrap()).unwrap()
}

/// A row of the README: which file, which workflow is started, with which input.
#[derive(Debug)]
struct Row {
    file: String,
    workflow: String,
    input: Value,
}

fn between<'t>(text: &'t str, before: &str, after: &str) -> Option<&'t str> {
    let from = text.find(before)? + before.len();
    Some(&text[from..from + text[from..].find(after)?])
}

fn rows() -> Vec<Row> {
    let readme = read("README.md");
    let commands = readme.lines().filter(|line| line.contains("informer workflow put"));
    let row = |line: &str| {
        let file = between(line, "informer workflow put examples/workflows/", " ").unwrap().to_owned();
        assert_eq!(between(line, "](", ")"), Some(file.as_str()), "the link and the command name one file");
        let workflow = between(line, "informer workflow start ", " ").unwrap().to_owned();
        let input = between(line, "--input '", "'").map_or(json!({}), |text| serde_json::from_str(text).unwrap());
        Row { file, workflow, input }
    };
    commands.map(row).collect()
}

fn bundle(file: &str) -> Bundle {
    Bundle::parse(serde_json::from_str(&read(file)).unwrap()).unwrap().value
}

/// What a process of a task would leave.
fn result(name: &str, input: &Value, done: usize) -> Value {
    match name {
        "greet" => json!({"greeted": input}),
        "sign" => json!({"letter": input, "signed": "ada"}),
        "develop" => json!({"made": "a print"}),
        "throw_dice" => json!({"eyes": if done == 2 { 6 } else { 3 }}),
        "count_processors" => json!({"count": 2}),
        "name_kernel" => json!({"kernel": "6.1"}),
        "measure_word" => json!({"given": input}),
        "cut_film" | "open_gates" | "catch_drop" => json!({"exitCode": 0}),
        "encode_piece" => json!({"file": format!("piece-{}.mp4", input["n"])}),
        "pack_parcel" => json!({"parcel": input}),
        "ask" => json!({"response": {"statusCode": 200, "body": "ok\n"}}),
        other => panic!("{other} is no task of the examples"),
    }
}

fn expected() -> BTreeMap<&'static str, Value> {
    BTreeMap::from([
        ("chain.json", json!({"letter": "Dear Ada", "signed": "ada"})),
        ("choice.json", json!({"photo": "a print", "speech": null})),
        ("loop.json", json!({"throws": 3, "last": 6})),
        ("join.json", json!({"told": "2 processors under Linux 6.1"})),
        ("dynamic-fork.json", json!({"sentence": "so much depends"})),
        ("streaming-fork.json", json!({"film": "piece-1.mp4 + piece-2.mp4 + piece-3.mp4 + piece-4.mp4"})),
        ("flood.json", json!({"caught": FEW})),
        ("sub-workflow.json", json!({"label": "to Mars"})),
        ("http.json", json!({"status": 200, "body": "ok\n"})),
        ("wait.json", json!({"said": "waited for Godot"})),
    ])
}

/// A flood that a test has the time for.
const FEW: u64 = 20;

/// What a process of a task would emit.
fn emit(world: &mut World, run: &str, step: StepIx, name: &str, input: &Value) {
    let count = match name {
        "cut_film" => input["pieces"].as_u64().unwrap(),
        "open_gates" => FEW,
        _ => 0,
    };
    for n in 1..=count {
        let input = workflow::evaluate::Bodies::put(&world.memory, &json!({"n": n})).unwrap();
        let child = NewChild { key: format!("piece-{n}"), digest: input, name: None, input: Some(input) };
        world.tell(run, Event::Emitted { step, child }).unwrap();
    }
}

fn play(world: &mut World, row: &Row) -> String {
    let run = world.start(&row.workflow, row.input.clone());
    for done in 0..100 {
        let Some(((id, step), work)) = world.work.iter().next().map(|(key, work)| (key.clone(), work.clone())) else {
            break;
        };
        let input = world.body(work.input);
        emit(world, &id, step, &work.name, &input);
        let output = result(&work.name, &input, done);
        world.end_step(&id, step, TaskStatus::Completed, output);
    }
    world.pass_ms(10_000);
    run
}

fn world(file: &str) -> World {
    let bundle = bundle(file);
    let mut world = World::default();
    bundle.task_definitions.into_iter().for_each(|definition| world.define_task(definition));
    bundle.workflows.into_iter().for_each(|definition| world.register(definition).unwrap());
    world
}

#[test]
fn every_example_plays_from_its_command_to_its_output() {
    let rows = rows();
    let mut expected = expected();
    for row in &rows {
        let mut world = world(&row.file);
        let run = play(&mut world, row);
        assert_eq!(world.status(&run), RunStatus::Completed, "{}: {}", row.file, world.show(&run));
        assert_eq!(Some(world.output(&run)), expected.remove(row.file.as_str()), "{}", row.file);
    }
    assert!(expected.is_empty(), "the README names every example: {expected:?}");
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a test reads the examples")]
fn every_file_is_in_the_table_and_says_nothing_that_has_no_effect() {
    let files = std::fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let files: BTreeSet<String> = files.filter(|name| name.ends_with(".json")).collect();
    assert_eq!(rows().into_iter().map(|row| row.file).collect::<BTreeSet<_>>(), files);
    for file in files {
        let bundle = bundle(&file);
        for json in &bundle.task_definitions {
            assert_eq!(TaskDef::parse(json).unwrap().notes, [], "{file}");
        }
        for json in &bundle.workflows {
            assert_eq!(Definition::parse(json).unwrap().notes, [], "{file}");
        }
    }
}

#[test]
fn whoever_chooses_what_the_example_does_not_know_is_told() {
    let mut world = world("choice.json");
    let run = world.start("choice", json!({"kind": "stone"}));
    assert_eq!(world.status(&run), RunStatus::Failed);
    let reason = world.runs[&run].row().reason.clone().unwrap();
    assert!(reason.contains("a stone is neither a photo nor a speech"), "{reason}");
}
