//! Random definitions and random orders of everything that happens: what must hold always.

#![allow(clippy::unwrap_used, reason = "what a test arranges is there, or the test has failed")]

mod driver;

use driver::World;
use proptest::prelude::*;
use serde_json::{Value, json};
use workflow::evaluate::Handle;
use workflow::run::{Effects, Event, NewChild, Refused, Run, RunStatus, StepIx, TaskStatus};

/// The shape of a sequence of tasks; names are given when it is written down.
#[derive(Debug, Clone)]
enum Shape {
    Simple { optional: bool, permissive: bool },
    Variable,
    Switch(Vec<Vec<Shape>>),
    Fork(Vec<Vec<Shape>>, bool),
    Dynamic(usize),
    Emitter { optional: bool, permissive: bool },
    Loop(u32, Vec<Shape>),
}

fn shapes() -> impl Strategy<Value = Vec<Shape>> {
    let leaf = prop_oneof![
        6 => (prop::bool::weighted(0.2), prop::bool::weighted(0.2)).prop_map(|(optional, permissive)| Shape::Simple { optional, permissive }),
        1 => Just(Shape::Variable),
        1 => (0usize..4).prop_map(Shape::Dynamic),
        2 => (prop::bool::weighted(0.2), prop::bool::weighted(0.2)).prop_map(|(optional, permissive)| Shape::Emitter { optional, permissive }),
    ];
    let sequence = |inner: BoxedStrategy<Shape>| prop::collection::vec(inner, 1..3);
    let tree = leaf.prop_recursive(3, 24, 3, move |inner| {
        let inner = inner.boxed();
        prop_oneof![
            prop::collection::vec(prop::collection::vec(inner.clone(), 0..3), 1..3).prop_map(Shape::Switch),
            (prop::collection::vec(sequence(inner.clone()), 1..4), any::<bool>())
                .prop_map(|(b, first)| Shape::Fork(b, first)),
            (1u32..3, sequence(inner)).prop_map(|(rounds, body)| Shape::Loop(rounds, body)),
        ]
    });
    prop::collection::vec(tree, 1..4)
}

struct Writer {
    next: usize,
}

impl Writer {
    fn name(&mut self, kind: &str) -> String {
        self.next += 1;
        format!("{kind}{}", self.next)
    }

    fn sequence(&mut self, shapes: &[Shape]) -> Vec<Value> {
        shapes.iter().flat_map(|shape| self.task(shape)).collect()
    }

    fn task(&mut self, shape: &Shape) -> Vec<Value> {
        match shape {
            Shape::Simple { optional, permissive } => {
                let name = self.name("t");
                vec![json!({"name": "work", "taskReferenceName": name, "optional": optional, "permissive": permissive,
                    "inputParameters": {"v": "${workflow.variables}"}})]
            }
            Shape::Variable => {
                let name = self.name("v");
                vec![
                    json!({"name": name, "taskReferenceName": name, "type": "SET_VARIABLE", "inputParameters": {(name.clone()): 1}}),
                ]
            }
            Shape::Switch(cases) => {
                let name = self.name("s");
                let cases: serde_json::Map<String, Value> =
                    cases.iter().enumerate().map(|(n, case)| (n.to_string(), json!(self.sequence(case)))).collect();
                vec![json!({"name": name, "taskReferenceName": name, "type": "SWITCH", "evaluatorType": "value-param",
                    "expression": "on", "inputParameters": {"on": "${workflow.input.on}"}, "decisionCases": cases})]
            }
            Shape::Fork(branches, first) => {
                let name = self.name("f");
                let branches: Vec<Vec<Value>> = branches.iter().map(|branch| self.sequence(branch)).collect();
                let end = |branch: &Vec<Value>| {
                    if *first { branch.first() } else { branch.last() }.map(|t| t["taskReferenceName"].clone())
                };
                let on: Vec<Value> = branches.iter().filter_map(end).collect();
                vec![
                    json!({"name": name, "taskReferenceName": name, "type": "FORK_JOIN", "forkTasks": branches}),
                    json!({"name": "j", "taskReferenceName": format!("j{name}"), "type": "JOIN", "joinOn": on}),
                ]
            }
            Shape::Dynamic(branches) => {
                let name = self.name("d");
                let inputs: Vec<usize> = (0..*branches).collect();
                vec![
                    json!({"name": name, "taskReferenceName": name, "type": "FORK_JOIN_DYNAMIC",
                        "inputParameters": {"forkTaskName": "work", "forkTaskInputs": inputs}}),
                    json!({"name": "j", "taskReferenceName": format!("j{name}"), "type": "JOIN"}),
                ]
            }
            Shape::Emitter { optional, permissive } => {
                let (name, child) = (self.name("e"), self.name("c"));
                vec![
                    json!({"name": "work", "taskReferenceName": name, "optional": optional, "permissive": permissive,
                        "emits": [{"name": "work", "taskReferenceName": child, "optional": permissive, "permissive": optional}]}),
                    json!({"name": "j", "taskReferenceName": format!("j{name}"), "type": "JOIN", "joinOn": [name]}),
                ]
            }
            Shape::Loop(rounds, body) => {
                let name = self.name("l");
                vec![
                    json!({"name": name, "taskReferenceName": name, "type": "DO_WHILE", "loopOver": self.sequence(body),
                    "items": vec![0; *rounds as usize]}),
                ]
            }
        }
    }
}

/// Does everything under way, in the order that the choices say. Whether the run came to its end.
fn play(world: &mut World, run: &str, choices: &mut dyn FnMut(usize) -> usize, fails: bool) -> bool {
    for _ in 0..20_000 {
        let (commands, work) = (world.waiting_commands(), world.work.len());
        match commands + work {
            0 => return world.status(run) != RunStatus::Running,
            all => match choices(all) {
                n if n < commands => {
                    world.pull_forward(n);
                    world.step_once();
                }
                n => {
                    let (id, step) = world.work.keys().nth(n - commands).cloned().unwrap();
                    if emits(world, &id, step) && choices(3) > 0 {
                        emit(world, &id, step, choices);
                        continue;
                    }
                    let failed = fails && choices(8) == 0;
                    let status = if failed { TaskStatus::Failed } else { TaskStatus::Completed };
                    world.end_step(&id, step, status, json!({"n": step}));
                }
            },
        }
    }
    false
}

fn emits(world: &World, run: &str, step: StepIx) -> bool {
    let run = &world.runs[run];
    run.step(step).is_some_and(|row| !run.emits(row.node).is_empty())
}

/// A child, perhaps one that there is already, or the seal. Only a task that is sealed, or that its run has taken back, refuses.
fn emit(world: &mut World, run: &str, step: StepIx, choices: &mut dyn FnMut(usize) -> usize) {
    let key = choices(6);
    let digest = Handle([u8::try_from(key).unwrap(); 32]);
    let told = match key {
        0 => world.tell(run, Event::Sealed { step }),
        key => {
            let child = NewChild { key: key.to_string(), digest, name: None, input: None };
            world.tell(run, Event::Emitted { step, child })
        }
    };
    assert!(matches!(told, Ok(_) | Err(Refused::Sealed | Refused::NotEmitting(_))), "{told:?}");
}

/// The same numbers again and again, from one seed.
fn numbers(mut seed: u64) -> impl FnMut(usize) -> usize {
    move |below| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % below
    }
}

fn world_for(shapes: &[Shape], retries: u32) -> World {
    let mut world = World::default();
    world.by_hand = true;
    world.task("work", retries);
    let tasks = Writer { next: 0 }.sequence(shapes);
    world.register(json!({"name": "w", "tasks": tasks})).unwrap();
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// When nothing fails, every order of ends brings the run to a good end, each join opens once, and rows written one by one are
    /// the run at every point.
    #[test]
    fn a_run_whose_tasks_succeed_completes(shapes in shapes(), seed: u64, on in 0..3u32) {
        let mut world = world_for(&shapes, 0);
        let run = world.start("w", json!({"on": on}));
        let mut choices = numbers(seed);
        prop_assert!(play(&mut world, &run, &mut choices, false), "stuck: {}", world.show(&run));
        prop_assert_eq!(world.status(&run), RunStatus::Completed, "{}", world.show(&run));
        let names: Vec<String> = world.runs[&run].steps().map(|step| world.runs[&run].full_reference(step)).collect();
        let mut once = names.clone();
        once.sort();
        once.dedup();
        prop_assert_eq!(names.len(), once.len(), "every task ran once a round: {:?}", names);
    }

    /// With failures, retries, pauses and operations in between, a run always comes to an end, and can be brought back to a good one.
    #[test]
    fn a_run_always_ends_and_can_be_mended(shapes in shapes(), seed: u64, on in 0..3u32, retries in 0..2u32) {
        let mut world = world_for(&shapes, retries);
        let run = world.start("w", json!({"on": on}));
        let mut choices = numbers(seed);
        prop_assert!(play(&mut world, &run, &mut choices, true), "stuck: {}", world.show(&run));
        let mut rounds = 0;
        while world.status(&run) != RunStatus::Completed {
            prop_assert!(rounds < 50);
            rounds += 1;
            let before = world.show(&run);
            prop_assert!(world.tell(&run, Event::Retry).is_ok(), "{}", before);
            prop_assert!(play(&mut world, &run, &mut choices, rounds < 3), "stuck after {}: {}", before, world.show(&run));
        }
        let shown: Vec<String> =
            world.runs[&run].shown().into_iter().map(|step| world.runs[&run].full_reference(step)).collect();
        if let Some(from) = shown.get(choices(shown.len())).cloned() {
            let before = world.show(&run);
            world.tell(&run, Event::Rerun { from: Some(from.clone()), input: None }).unwrap();
            prop_assert!(play(&mut world, &run, &mut choices, false), "stuck after {} from {}: {}", before, from, world.show(&run));
            prop_assert_eq!(world.status(&run), RunStatus::Completed, "after {} from {}: {}", before, from, world.show(&run));
        }
    }

    /// A run is paused and resumed, terminated and restarted, and what was asked before comes late.
    #[test]
    fn interruptions_lose_nothing(shapes in shapes(), seed: u64, on in 0..3u32) {
        let mut world = world_for(&shapes, 0);
        let run = world.start("w", json!({"on": on}));
        let mut choices = numbers(seed);
        for _ in 0..6 {
            for _ in 0..choices(6) {
                let (commands, work) = (world.waiting_commands(), world.work.len());
                if commands > 0 { world.pull_forward(choices(commands)); world.step_once(); }
                else if let Some((id, step)) = world.work.keys().nth(choices(work.max(1))).cloned() {
                    world.end_step(&id, step, TaskStatus::Completed, json!({}));
                }
            }
            let tasks: Vec<String> =
                world.runs[&run].plans()[0].nodes.iter().map(|node| node.reference.clone()).collect();
            let event = match choices(5) {
                3 => Event::Skip { reference: tasks[choices(tasks.len())].clone(), output: None },
                0 => Event::Pause,
                1 => Event::Terminate { reason: None, tell: false },
                2 => Event::Restart { latest: None },
                _ => Event::Resume,
            };
            let _ = world.tell(&run, event);
        }
        let _ = world.tell(&run, Event::Resume);
        while world.step_once() {}
        let status = world.status(&run);
        if status.is_ended() && status != RunStatus::Completed && world.tell(&run, Event::Retry).is_err() {
            world.tell(&run, Event::Restart { latest: None }).unwrap();
        }
        prop_assert!(play(&mut world, &run, &mut choices, false), "stuck: {}", world.show(&run));
        prop_assert_eq!(world.status(&run), RunStatus::Completed, "{}", world.show(&run));
    }

    /// The same events give the same run.
    #[test]
    fn events_played_again_give_the_same_run(shapes in shapes(), seed: u64) {
        let mut world = world_for(&shapes, 1);
        let run = world.start("w", json!({"on": 1}));
        let mut choices = numbers(seed);
        play(&mut world, &run, &mut choices, true);
        let (moment, start) = world.starts[&run].clone();
        let mut again = Run::start(moment, start, &mut Effects::default());
        for (id, moment, event) in world.log.clone() {
            if id == run {
                let _ = again.apply(moment, event, &mut Effects::default());
            }
        }
        prop_assert_eq!(again.row(), world.runs[&run].row());
        prop_assert!(again.steps().eq(world.runs[&run].steps()));
    }

    /// Whatever a definition says, it is accepted or refused, and what is accepted can be laid out.
    #[test]
    fn nonsense_is_refused_and_never_panics(shapes in shapes(), seed: u64, nonsense in nonsense()) {
        let tasks = Writer { next: 0 }.sequence(&shapes);
        let mut definition = json!({"name": "w", "version": 1, "tasks": tasks, "outputParameters": {"x": "${workflow.input.y}"}});
        let mut choices = numbers(seed);
        for _ in 0..1 + choices(3) {
            spoil(&mut definition, &mut choices, &nonsense);
        }
        if let Ok(accepted) = workflow::definition::Definition::parse(&definition) {
            workflow::plan::Plan::of(accepted.value);
        }
    }
}

fn nonsense() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z$.{}\\[\\]'*?() ]{0,12}".prop_map(Value::from),
        Just(json!("${workflow.input.a[0].b}")),
        Just(json!("JOIN")),
        Just(json!("WAIT")),
        Just(json!("SUB_WORKFLOW")),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::vec(("(name|type|tasks|joinOn|[a-z]{1,3})", inner), 0..3)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// Puts nonsense somewhere into a definition.
fn spoil(value: &mut Value, choices: &mut dyn FnMut(usize) -> usize, nonsense: &Value) {
    let count = match value {
        Value::Object(map) => map.len(),
        Value::Array(list) => list.len(),
        _ => 0,
    };
    if count == 0 || choices(5) == 0 {
        *value = nonsense.clone();
        return;
    }
    let index = choices(count);
    match value {
        Value::Object(map) => {
            if let Some((_, inner)) = map.iter_mut().nth(index) {
                spoil(inner, choices, nonsense);
            }
        }
        Value::Array(list) => spoil(&mut list[index], choices, nonsense),
        _ => {}
    }
}
