//! The definitions and the expectations of another project's own tests, played here.
//!
//! `../shared/conductor-samples` holds definitions of conductor-oss/conductor and, as facts, which statuses its tests expect
//! after which steps. Its list leaves out start inputs, task outputs and some steps; those are found by trying what the
//! definition offers, and a step that an expectation implies (a task is COMPLETED that was SCHEDULED before) is taken. The
//! statuses, types and numbers of tasks have to be exactly as listed.

#![allow(clippy::unwrap_used, reason = "what a test arranges is there, or the test has failed")]

#[path = "../driver/mod.rs"]
mod driver;
mod guesses;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use driver::World;
use guesses::{inputs, make_switches, outputs, strip_definitions, tasks};
use serde_json::{Value, json};
use workflow::definition::Definition;
use workflow::plan::Plan;
use workflow::run::{Event, RunStatus, StepIx, TaskStatus};

/// Definitions that register. A smaller number is a step back.
const REGISTER: usize = 50;
/// Expectations that play.
const PLAY: usize = 70;

/// What may be stored in one piece, where a test is about that.
const LIMIT_BYTES: usize = 600;

fn samples() -> Option<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conductor-samples");
    if directory.is_dir() {
        return Some(directory);
    }
    println!("SKIP conformance: the samples of conductor-oss are not beside the repository");
    None
}

#[allow(clippy::disallowed_methods, reason = "a test reads its samples")]
fn read(path: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

#[allow(clippy::disallowed_methods, reason = "a test reads its samples")]
fn definitions(directory: &Path) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for part in ["harness", "kitchensink"] {
        for entry in std::fs::read_dir(directory.join(part)).unwrap() {
            let path = entry.unwrap().path();
            let Some(json) = read(&path) else { continue };
            let json = json.get("workflowDef").cloned().unwrap_or(json);
            if json.get("tasks").is_some() {
                found.insert(path.file_name().unwrap().to_string_lossy().into_owned(), json);
            }
        }
    }
    found
}

/// What the list leaves out, as one try.
#[derive(Debug, Clone, Default)]
struct Guess {
    input: Value,
    retries: u32,
    child_retries: u32,
    switches: bool,
    times_out: bool,
    outputs: BTreeMap<String, Value>,
}

struct Player<'a> {
    world: World,
    test: &'a Value,
    guess: Guess,
    root: String,
}

type Played = Result<(), String>;

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// `TaskType.SUB_WORKFLOW.name()` is how the list writes a constant.
fn constant(name: &str) -> &str {
    name.strip_prefix("TaskType.").and_then(|name| name.strip_suffix(".name()")).unwrap_or(name)
}

/// Names that stand for a variable of the test.
fn is_open(name: &str) -> bool {
    name.is_empty() || ["expectedTaskName", "endTaskStatus", "task.integration.worker"].contains(&name)
}

impl<'a> Player<'a> {
    fn new(test: &'a Value, all: &BTreeMap<String, Value>, guess: Guess) -> Result<Self, String> {
        // Answers come one by one, so that what is true before an answer can be seen.
        let mut world = World::default();
        world.by_hand = true;
        if text(test, "test").contains("exceed external storage limit") {
            world.memory.limit_bytes.set(Some(LIMIT_BYTES));
        }
        for n in 0..=20 {
            world.task(&format!("integration_task_{n}"), guess.retries);
        }
        for name in ["simple_task_in_sub_wf", "test_task_with_concurrency_limit", "test_simple_task_with_rateLimits"] {
            world.task(name, 0);
        }
        for name in ["st1", "st2", "sub_workflow_task", "sub_wf_task"] {
            world.task(name, guess.child_retries);
        }
        for (file, json) in all {
            let mut json = json.clone();
            strip_definitions(&mut json);
            if guess.switches {
                make_switches(&mut json);
            }
            let listed = test["definitions"].as_array().is_some_and(|files| files.iter().any(|name| name == file));
            if guess.times_out && listed {
                (json["timeoutPolicy"], json["timeoutSeconds"]) = (json!("TIME_OUT_WF"), json!(10));
            }
            if let Err(refused) = world.register(json)
                && listed
            {
                return Err(format!("refused: {}", refused.lines().next().unwrap_or_default()));
            }
        }
        if guess.child_retries > 0 {
            for json in all.values() {
                for task in tasks(json).into_iter().filter(|task| text(task, "type") == "SUB_WORKFLOW") {
                    world.task(text(task, "name"), guess.child_retries);
                }
            }
        }
        Ok(Self { world, test, guess, root: String::new() })
    }

    fn play(&mut self) -> Played {
        let steps = self.test["steps"].as_array().cloned().unwrap_or_default();
        for (index, step) in steps.iter().enumerate() {
            let told = |why| format!("step {index}: {why}");
            let mut expected = step["expect"].as_array().into_iter().flatten().peekable();
            for action in step["actions"].as_array().into_iter().flatten() {
                self.act(action, &steps[index..]).map_err(told)?;
                // Where a step lists actions and expectations, some of these lie between the actions.
                while expected.next_if(|expected| self.holds(expected).is_ok()).is_some() {}
            }
            for expected in expected {
                self.expect(expected).map_err(told)?;
            }
        }
        Ok(())
    }

    fn act(&mut self, action: &Value, ahead: &[Value]) -> Played {
        let task = text(action, "task").to_owned();
        match text(action, "do") {
            "start" => {
                let run = self.world.start(text(action, "workflow"), self.guess.input.clone());
                if self.root.is_empty() {
                    self.root = run;
                }
            }
            "complete" => {
                let output = action.get("output").filter(|output| output.is_object()).cloned();
                let output = output.unwrap_or_else(|| self.output_of(&task));
                self.end_named(&task, TaskStatus::Completed, output)?;
            }
            "fail" => self.end_named(&task, TaskStatus::Failed, json!({}))?,
            "retry" => self.operate(Event::Retry)?,
            "restart" => self.restart()?,
            "rerun" => self.rerun(ahead)?,
            // A poll by itself changes no status that is looked at; what comes of it is in the next expectation.
            "poll" | "override_task_definition" => {}
            other => return Err(format!("{other} is no step that is known")),
        }
        Ok(())
    }

    fn settle(&mut self) {
        while self.world.step_once() {}
    }

    fn operate(&mut self, event: Event) -> Played {
        self.settle();
        let root = self.root.clone();
        // The steps before may leave out what ended the run.
        while self.world.status(&root) == RunStatus::Running
            && self.towards(&root, &json!({"status": "FAILED", "tasks": []}))
        {
            self.settle();
        }
        self.world.tell(&root, event).map(drop).map_err(|refused| refused.to_string())
    }

    fn restart(&mut self) -> Played {
        let mut latest = None;
        if text(self.test, "test").contains("with the latest definition") {
            let mut json = json!({"name": "integration_test_wf", "version": 1, "tasks": []});
            let names = ["integration_task_1", "integration_task_2", "integration_task_20"];
            json["tasks"] = names.iter().map(|name| json!({"name": name, "taskReferenceName": name})).collect();
            let plan = Plan::of(Definition::parse(&json).map_err(|refused| refused.to_string())?.value);
            latest = Some((std::sync::Arc::new(plan), None));
        }
        self.operate(Event::Restart { latest })
    }

    /// Which task a rerun goes back to, the next expectation says: the first that is not over.
    fn rerun(&mut self, ahead: &[Value]) -> Played {
        self.settle();
        let next = ahead.iter().flat_map(|step| step["expect"].as_array().into_iter().flatten()).next();
        let expected = next.cloned().unwrap_or_default();
        let run = self.runs_for(&expected).into_iter().rev().find(|run| self.world.status(run).is_ended());
        let run = run.ok_or("no run is over")?;
        let open = expected["tasks"].as_array().into_iter().flatten().find(|task| text(task, "status") == "SCHEDULED");
        let index = open.and_then(|task| task["index"].as_u64()).unwrap_or(0);
        let shown = self.world.runs[&run].shown();
        let from = shown.get(usize::try_from(index).unwrap()).map(|step| self.world.runs[&run].full_reference(step));
        let from = from.filter(|_| index > 0);
        let good = json!({"in1": {"array": ["a"]}, "in2": {"array": ["b"]}});
        let input = workflow::evaluate::Bodies::put(&self.world.memory, &good)
            .ok()
            .filter(|_| expected["status"] == "COMPLETED");
        self.world.tell(&run, Event::Rerun { from, input }).map(drop).map_err(|refused| refused.to_string())
    }

    fn output_of(&self, task: &str) -> Value {
        let other = || match self.world.memory.limit_bytes.get() {
            // Each fits, and the join of two does not.
            Some(limit) => json!({"op": "x".repeat(limit * 2 / 3)}),
            None => json!({"op": "done"}),
        };
        self.guess.outputs.get(task).cloned().unwrap_or_else(other)
    }

    /// Ends a task; first whatever else has to end before it is scheduled.
    fn end_named(&mut self, task: &str, status: TaskStatus, output: Value) -> Played {
        for _ in 0..200 {
            let key =
                self.world.work.iter().find(|(_, work)| is_open(task) || work.name == task).map(|(key, _)| key.clone());
            if key.is_none() && self.world.step_once() {
                continue;
            }
            if let Some((run, step)) = key {
                let known = self.world.work[&(run.clone(), step)].name.clone();
                let output = if is_open(task) { self.output_of(&known) } else { output };
                self.world.end_step(&run, step, status, output);
                return Ok(());
            }
            let Some(((run, step), name)) =
                self.world.work.iter().next().map(|(key, work)| (key.clone(), work.name.clone()))
            else {
                break;
            };
            let output = self.output_of(&name);
            self.world.end_step(&run, step, TaskStatus::Completed, output);
        }
        Err(format!("{task} is not scheduled; {}", self.world.show(&self.root)))
    }

    fn runs_for(&self, expected: &Value) -> Vec<String> {
        if text(expected, "workflow") == "root" {
            return vec![self.root.clone()];
        }
        let others = self.world.runs.keys().filter(|run| **run != self.root).cloned();
        std::iter::once(self.root.clone()).chain(others).collect()
    }

    /// Whether some run is as expected, now.
    fn holds(&self, expected: &Value) -> Played {
        let mut why = "no run".to_owned();
        for run in self.runs_for(expected).into_iter().rev() {
            match self.matches(&run, expected) {
                Ok(()) => return Ok(()),
                Err(differs) => why = differs,
            }
        }
        Err(why)
    }

    /// Lets things happen until some run is as expected.
    fn expect(&mut self, expected: &Value) -> Played {
        for _ in 0..200 {
            let Err(why) = self.holds(expected) else { return Ok(()) };
            if self.world.step_once() {
                continue;
            }
            let runs = self.runs_for(expected);
            if !runs.into_iter().rev().any(|run| self.towards(&run, expected)) {
                return Err(why);
            }
        }
        self.holds(expected)
    }

    fn matches(&self, run: &str, expected: &Value) -> Played {
        let run = self.world.runs.get(run).ok_or("no such run")?;
        let shown = run.shown();
        let found = || self.world.show(&run.row().id);
        if let Some(status) = expected["status"].as_str()
            && status != run.row().status.as_str()
        {
            return Err(format!("expected {status}, found {}", found()));
        }
        // A list that names task 1 of 1 contradicts itself; the task counts then.
        let named = expected["tasks"].as_array().into_iter().flatten().filter_map(|task| task["index"].as_u64()).max();
        if let Some(count) = expected["ntasks"].as_u64()
            && named.is_none_or(|named| named < count)
            && count != shown.len() as u64
        {
            return Err(format!("expected {count} tasks, found {}", found()));
        }
        for task in expected["tasks"].as_array().into_iter().flatten() {
            let index = usize::try_from(task["index"].as_u64().unwrap_or(0)).unwrap();
            let step = shown.get(index).ok_or_else(|| format!("expected task {index}, found {}", found()))?;
            let (kind, status) = (constant(text(task, "taskType")), text(task, "status"));
            if !is_open(kind) && kind != run.task_type(step) {
                return Err(format!("expected task {index} to be {kind}, found {}", found()));
            }
            if !is_open(status) && status != step.status.as_str() {
                return Err(format!("expected task {index} to be {status}, found {}", found()));
            }
            let name = text(task, "referenceTaskName");
            if !name.is_empty() && name != run.full_reference(step) {
                return Err(format!("expected task {index} to be named {name}, found {}", found()));
            }
        }
        Ok(())
    }

    /// Takes one step that an expectation implies. Whether there was one.
    fn towards(&mut self, run: &str, expected: &Value) -> bool {
        let Some(held) = self.world.runs.get(run) else { return false };
        let listed = expected["tasks"].as_array().cloned().unwrap_or_default();
        let shown: Vec<StepIx> = held.shown().iter().map(|step| step.step).collect();
        let mut kept = BTreeSet::new();
        for task in &listed {
            let Some(step) = task["index"].as_u64().and_then(|index| shown.get(usize::try_from(index).ok()?)) else {
                continue;
            };
            let status = text(task, "status");
            let end = match status {
                "COMPLETED" => TaskStatus::Completed,
                "FAILED" | "COMPLETED_WITH_ERRORS" => TaskStatus::Failed,
                "TIMED_OUT" => TaskStatus::TimedOut,
                _ => {
                    kept.insert(*step);
                    continue;
                }
            };
            if self.end_one(run, *step, end) {
                return true;
            }
        }
        if text(expected, "status") == "TIMED_OUT" && self.guess.times_out {
            self.world.pass_ms(11_000);
            return true;
        }
        // Not listed, but the run has gone on: whatever is not said to be still there has ended.
        let computed = listed.iter().any(|task| text(task, "status") == "FAILED_WITH_TERMINAL_ERROR");
        let end =
            if text(expected, "status") == "FAILED" && !computed { TaskStatus::Failed } else { TaskStatus::Completed };
        let free = self.world.work.keys().find(|(id, step)| id == run && !kept.contains(step)).cloned();
        free.is_some_and(|(id, step)| self.end_one(&id, step, end))
    }

    /// Ends a step, or the work of the run that it waits for.
    fn end_one(&mut self, run: &str, step: StepIx, status: TaskStatus) -> bool {
        if let Some(work) = self.world.work.get(&(run.to_owned(), step)) {
            let output = if status == TaskStatus::Completed { self.output_of(&work.name.clone()) } else { json!({}) };
            return self.world.end_step(run, step, status, output);
        }
        let child = self.world.runs[run].step(step).filter(|step| step.is_live()).and_then(|step| step.child.clone());
        let Some(child) = child else { return false };
        let inner = self.world.work.keys().find(|(id, _)| *id == child).cloned();
        inner.is_some_and(|(id, step)| self.end_one(&id, step, status))
    }
}

fn try_all(test: &Value, all: &BTreeMap<String, Value>) -> Played {
    let file = test["definitions"][0].as_str().unwrap_or_default();
    let json = all.get(file).ok_or_else(|| format!("{file} is not there"))?;
    let dynamic = tasks(json).iter().any(|task| text(task, "type") == "FORK_JOIN_DYNAMIC");
    let outputs = if dynamic { outputs() } else { vec![BTreeMap::new()] };
    let mut first = None;
    let wants_switch = test.to_string().contains("\"SWITCH\"");
    for input in inputs(json, all) {
        for outputs in &outputs {
            for (retries, child_retries, times_out) in
                [(1, 0, false), (0, 0, false), (2, 0, false), (1, 1, false), (1, 0, true), (0, 1, false)]
            {
                let guess = Guess {
                    input: input.clone(),
                    retries,
                    child_retries,
                    times_out,
                    outputs: outputs.clone(),
                    switches: wants_switch,
                };
                match Player::new(test, all, guess)?.play() {
                    Ok(()) => return Ok(()),
                    Err(why) => drop(first.get_or_insert(why)),
                }
            }
        }
    }
    Err(first.unwrap_or_default())
}

#[test]
fn definitions_of_another_project_register_or_are_refused_by_name() {
    let Some(directory) = samples() else { return };
    let mut registered = 0;
    let all = definitions(&directory);
    for (file, json) in &all {
        match Definition::parse(json) {
            Ok(accepted) => {
                registered += 1;
                println!("| {file} | registers | {} notes |", accepted.notes.len());
            }
            Err(refused) => {
                println!("| {file} | refused | {refused} |");
                let foreign = ["USER_TASK", "BLOCKING_SYSTEM_TASK"].iter().any(|kind| json.to_string().contains(kind));
                assert!(foreign, "{file} has only types that run here: {refused}");
            }
        }
    }
    println!("{registered} of {} register", all.len());
    assert!(registered >= REGISTER, "{registered} register, {REGISTER} did");
}

#[test]
fn expectations_of_another_projects_tests_are_met() {
    let Some(directory) = samples() else { return };
    let all = definitions(&directory);
    let tests = read(&directory.join("expectations.json")).expect("the expectations are JSON");
    let mut played = 0;
    for (index, test) in tests.as_array().unwrap().iter().enumerate() {
        match try_all(test, &all) {
            Ok(()) => {
                played += 1;
                println!(
                    "| {index} | {} | {} | plays | |",
                    text(test, "test"),
                    test["definitions"][0].as_str().unwrap_or_default()
                );
            }
            Err(why) => println!(
                "| {index} | {} | {} | no | {why} |",
                text(test, "test"),
                test["definitions"][0].as_str().unwrap_or_default()
            ),
        }
    }
    println!("{played} of {} play", tests.as_array().unwrap().len());
    assert!(played >= PLAY, "{played} play, {PLAY} did");
}

#[test]
fn every_definition_that_registers_comes_to_an_end() {
    let Some(directory) = samples() else { return };
    let all = definitions(&directory);
    for (file, json) in &all {
        if Definition::parse(json).is_err() {
            continue;
        }
        let test = json!({"definitions": [file]});
        let player = Player::new(&test, &all, Guess::default()).unwrap();
        let mut world = player.world;
        world.by_hand = false;
        world.register(json.clone()).unwrap();
        let input = inputs(json, &all).remove(0);
        let run = world.start(text(json, "name"), input);
        for _ in 0..200 {
            if world.status(&run).is_ended() {
                break;
            }
            match world.work.values().next().map(|work| work.name.clone()) {
                Some(name) => {
                    let given = outputs().remove(0);
                    let output = given.get(&name).cloned().unwrap_or_else(|| json!({"op": "done"}));
                    world.complete(&name, output);
                }
                None => {
                    let waits: Vec<String> = world.runs[&run]
                        .shown()
                        .into_iter()
                        .filter(|step| step.is_live())
                        .map(|step| world.runs[&run].full_reference(step))
                        .collect();
                    for reference in waits {
                        let end =
                            Event::Update { reference, status: TaskStatus::Completed, output: None, reason: None };
                        let _ = world.tell(&run, end);
                    }
                }
            }
        }
        let reason = world.runs[&run].row().reason.clone().unwrap_or_default();
        println!("| {file} | {} | {reason} |", world.status(&run).as_str());
        assert!(world.status(&run).is_ended(), "{file}: {}", world.show(&run));
    }
}
