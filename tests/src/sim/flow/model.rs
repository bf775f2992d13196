//! What a definition means, by a second reading: Conductor's JSON is gone through task by task, as a person would with a pencil. There are
//! no events, no handles and no counters here, and nothing of the machine's code.
//!
//! Branches of a fork are read one after the other, as if none disturbed another. Where one of them ends the run, the others may have come
//! to any point: then the reading says what *may* have happened ([`Meant::exact`] is false), and else what must have.

use super::work::{Outcome, Try, left_by};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use workflow::run::{RunStatus, TaskStatus};

/// One try of one task, as it must show. What is `None` is not compared.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct MeantStep {
    pub reference: String,
    pub tried: u32,
    pub status: TaskStatus,
    pub input: Option<Value>,
    pub output: Option<Value>,
    rounds: Vec<u32>,
}

/// A run, as it must come out.
#[derive(Debug, Clone)]
pub(super) struct Meant {
    /// How it ends; more than one if branches race to end it.
    pub ends: BTreeSet<&'static str>,
    /// Its output, where only one is possible.
    pub output: Option<Value>,
    pub steps: Vec<MeantStep>,
    /// Steps of rounds that a loop does not keep: they show only if the run ends before.
    pub dropped: Vec<MeantStep>,
    /// Nothing else can have happened.
    pub exact: bool,
}

/// Every run that a start leads to, by its path.
pub(super) struct Model<'a> {
    pub definitions: BTreeMap<&'a str, &'a Value>,
    pub tasks: &'a BTreeMap<String, Value>,
    /// How a try ends, and whether a task of ours does it.
    pub outcome: &'a dyn Fn(&Try, bool) -> Outcome,
    pub runs: BTreeMap<String, Meant>,
    /// It depends on a race how a child ends, and on that what follows.
    pub unsure: bool,
}

/// One run being read.
struct Reading<'m, 'a> {
    model: &'m mut Model<'a>,
    path: String,
    input: Value,
    variables: Map<String, Value>,
    outputs: BTreeMap<String, Value>,
    /// How each task ended that what follows it may go on after.
    passed: BTreeMap<String, TaskStatus>,
    /// Tasks whose outputs are what their workers made.
    plain: BTreeSet<String>,
    steps: Vec<MeantStep>,
    dropped: Vec<MeantStep>,
    /// What ended the run, with its output if it was a TERMINATE.
    stops: Vec<(RunStatus, Option<Value>)>,
    forked: bool,
}

/// A fork whose join has not come yet.
struct Forked {
    /// References of each branch, and whether it came to its end.
    branches: Vec<(BTreeSet<String>, bool)>,
    /// Of a dynamic fork: the branches' names, which its join waits for.
    named: Option<Vec<String>>,
}

fn name_in<'v>(task: &'v Value, key: &str) -> &'v str {
    task[key].as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn with_rounds(reference: &str, rounds: &[u32]) -> String {
    rounds.iter().fold(reference.to_owned(), |name, round| format!("{name}__{round}"))
}

/// All reference names below some tasks.
fn references(tasks: &Value, found: &mut BTreeSet<String>) {
    match tasks {
        Value::Array(tasks) => tasks.iter().for_each(|task| references(task, found)),
        Value::Object(task) => {
            if let Some(name) = task.get("taskReferenceName").and_then(Value::as_str) {
                found.insert(name.to_owned());
            }
            let inner = task.iter().filter(|(key, _)| *key != "inputParameters");
            inner.for_each(|(_, value)| references(value, found));
        }
        _ => {}
    }
}

impl Model<'_> {
    /// Reads one run, and all that it starts.
    pub(super) fn read(&mut self, path: String, name: &str, input: Value) {
        let Some(definition) = self.definitions.get(name).copied() else { return };
        let mut reading = Reading {
            model: self,
            path: path.clone(),
            input,
            variables: Map::new(),
            outputs: BTreeMap::new(),
            passed: BTreeMap::new(),
            plain: BTreeSet::new(),
            steps: Vec::new(),
            dropped: Vec::new(),
            stops: Vec::new(),
            forked: false,
        };
        reading.sequence(list(&definition["tasks"]), &[]);
        let meant = reading.end(definition);
        let failed = meant.ends.iter().find(|end| **end != RunStatus::Completed.as_str()).copied();
        let raced = meant.ends.len() > 1;
        self.runs.insert(path.clone(), meant);
        if let (Some(status), Some(other)) = (failed, definition["failureWorkflow"].as_str()) {
            // What it is given, and whether it is there at all, is the race's.
            self.unsure |= raced;
            self.read(format!("{path}/failure0"), other, json!({"failureStatus": status}));
        }
    }
}

impl Reading<'_, '_> {
    /// How the run ends, with its output.
    fn end(mut self, definition: &Value) -> Meant {
        let troubled = self.steps.iter().any(|step| {
            let last = !self.steps.iter().any(|later| later.reference == step.reference && later.tried > step.tried);
            last && !step.status.is_success() && self.passed.contains_key(&step.reference)
        });
        let exact = self.stops.is_empty() || (self.stops.len() == 1 && !self.forked);
        if self.stops.is_empty() {
            self.stops.push((if troubled { RunStatus::Failed } else { RunStatus::Completed }, None));
        }
        let told = self.stops[0].1.clone();
        let templates = &definition["outputParameters"];
        let output = match (exact, told) {
            (false, _) => None,
            (true, Some(told)) => Some(told),
            // A join may open before all of a branch is over, whose last try is the last task then.
            (true, None) if templates.is_null() && (troubled || self.forked) => None,
            (true, None) if templates.is_null() => self.steps.last().and_then(|step| step.output.clone()),
            (true, None) => Some(self.parameters(templates)),
        };
        let ends = self.stops.iter().map(|(status, _)| status.as_str()).collect();
        Meant { ends, output, steps: self.steps, dropped: self.dropped, exact }
    }

    /// Goes through tasks; false: nothing after them is reached.
    fn sequence(&mut self, tasks: &[Value], rounds: &[u32]) -> bool {
        let mut fork = None;
        for task in tasks {
            let went = match name_in(task, "type") {
                "FORK_JOIN" => {
                    fork = Some(self.fork(task, rounds));
                    true
                }
                "FORK_JOIN_DYNAMIC" => {
                    fork = Some(self.dynamic_fork(task, rounds));
                    true
                }
                "JOIN" => self.join(task, rounds, fork.take()),
                _ => self.task(task, rounds),
            };
            if !went {
                return false;
            }
        }
        true
    }

    fn task(&mut self, task: &Value, rounds: &[u32]) -> bool {
        let input = self.parameters(&task["inputParameters"]);
        match name_in(task, "type") {
            "SWITCH" | "DECISION" => self.switch(task, rounds, &input),
            "EXCLUSIVE_JOIN" => self.exclusive_join(task, rounds),
            "DO_WHILE" => self.repeat(task, rounds),
            "SUB_WORKFLOW" => self.sub_workflow(task, rounds, input),
            "START_WORKFLOW" => self.start_workflow(task, rounds, &input),
            "WAIT" | "HUMAN" if input.get("duration").is_none() => self.worked(task, rounds, input, None),
            "DYNAMIC" => {
                let name = input["which"].as_str().unwrap_or_default().to_owned();
                self.worked(task, rounds, input, Some(&name))
            }
            "TERMINATE" => {
                let ends = [RunStatus::Completed, RunStatus::Failed, RunStatus::Terminated];
                let status = ends.into_iter().find(|end| end.as_str() == input["terminationStatus"]);
                let output = input["workflowOutput"].clone();
                self.done(task, rounds, Some(output.clone()));
                self.stops.push((status.unwrap_or(RunStatus::Failed), Some(output)));
                false
            }
            "SET_VARIABLE" => {
                self.variables.extend(input.as_object().cloned().unwrap_or_default());
                self.done(task, rounds, Some(json!({})))
            }
            "INLINE" => {
                let result = input[name_in(&input, "expression")].clone();
                self.done(task, rounds, Some(json!({"result": result})))
            }
            "WAIT" => self.done(task, rounds, Some(json!({}))),
            "EVENT" => self.done(task, rounds, None),
            _ => self.worked(task, rounds, input, Some(name_in(task, "name"))),
        }
    }

    fn note(&mut self, task: &Value, rounds: &[u32], tried: u32, status: TaskStatus) -> &mut MeantStep {
        let reference = with_rounds(name_in(task, "taskReferenceName"), rounds);
        let step = MeantStep { reference, tried, status, input: None, output: None, rounds: rounds.to_vec() };
        self.steps.push(step);
        self.steps.last_mut().expect("it was pushed")
    }

    /// A task that the informer does by itself has ended well.
    fn done(&mut self, task: &Value, rounds: &[u32], output: Option<Value>) -> bool {
        self.note(task, rounds, 0, TaskStatus::Completed).output.clone_from(&output);
        self.pass(task, rounds, TaskStatus::Completed, output.unwrap_or_default())
    }

    fn pass(&mut self, task: &Value, rounds: &[u32], status: TaskStatus, output: Value) -> bool {
        let reference = name_in(task, "taskReferenceName");
        self.outputs.insert(reference.to_owned(), output);
        self.passed.insert(with_rounds(reference, rounds), status);
        true
    }

    /// The last try has ended badly: tolerated, told at the end, or the end of the run.
    fn fail(&mut self, task: &Value, rounds: &[u32], status: TaskStatus, output: Value) -> bool {
        if task["optional"] == true {
            if let Some(last) = self.steps.last_mut() {
                last.status = TaskStatus::CompletedWithErrors;
            }
            return self.pass(task, rounds, TaskStatus::CompletedWithErrors, output);
        }
        if task["permissive"] == true {
            return self.pass(task, rounds, status, output);
        }
        self.outputs.insert(name_in(task, "taskReferenceName").to_owned(), output);
        let end = match status {
            TaskStatus::Canceled => RunStatus::Terminated,
            TaskStatus::TimedOut => RunStatus::TimedOut,
            _ => RunStatus::Failed,
        };
        self.stops.push((end, None));
        false
    }

    /// Work of a worker, with its tries; without a name: somebody's word, which is said once.
    fn worked(&mut self, task: &Value, rounds: &[u32], input: Value, name: Option<&str>) -> bool {
        let definition = name.and_then(|name| self.model.tasks.get(name));
        let ours = definition.is_some_and(|definition| definition.get("task").is_some());
        let own = task.get("retryCount").and_then(Value::as_u64);
        let retries = definition.map_or(0, |known| own.or(known["retryCount"].as_u64()).unwrap_or(0));
        let reference = with_rounds(name_in(task, "taskReferenceName"), rounds);
        self.plain.insert(name_in(task, "taskReferenceName").to_owned());
        for tried in 0.. {
            let of = Try { path: self.path.clone(), reference: reference.clone(), tried };
            let outcome = (self.model.outcome)(&of, ours);
            let output = left_by(&outcome, ours);
            let step = self.note(task, rounds, tried, outcome.status);
            (step.input, step.output) = (Some(input.clone()), Some(output.clone()));
            match outcome.status {
                TaskStatus::Completed => return self.pass(task, rounds, outcome.status, output),
                TaskStatus::Failed | TaskStatus::TimedOut if u64::from(tried) < retries => {}
                status => return self.fail(task, rounds, status, output),
            }
        }
        false
    }

    fn switch(&mut self, task: &Value, rounds: &[u32], input: &Value) -> bool {
        self.done(task, rounds, None);
        let case = match &input["on"] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let cases = &task["decisionCases"];
        let chosen = cases.get(&case).filter(|case| name_in(task, "type") == "SWITCH" || !list(case).is_empty());
        let tasks = chosen.unwrap_or(&task["defaultCase"]).clone();
        self.sequence(list(&tasks), rounds)
    }

    fn exclusive_join(&mut self, task: &Value, rounds: &[u32]) -> bool {
        let names = list(&task["joinOn"]).iter().chain(list(&task["defaultExclusiveJoinTask"]));
        let mut ran =
            names.filter_map(Value::as_str).filter(|name| self.passed.contains_key(&with_rounds(name, rounds)));
        let Some(found) = ran.next().map(str::to_owned) else { return self.done(task, rounds, Some(json!({}))) };
        let output = self.outputs.get(&found).cloned().unwrap_or_default();
        if self.passed[&with_rounds(&found, rounds)].is_success() {
            return self.done(task, rounds, None);
        }
        self.note(task, rounds, 0, TaskStatus::Failed);
        self.fail(task, rounds, TaskStatus::Failed, output)
    }

    fn fork(&mut self, task: &Value, rounds: &[u32]) -> Forked {
        self.done(task, rounds, None);
        self.forked = true;
        let mut branches = Vec::new();
        for branch in list(&task["forkTasks"]) {
            let mut names = BTreeSet::new();
            references(branch, &mut names);
            let went = self.sequence(list(branch), rounds);
            branches.push((names, went));
        }
        Forked { branches, named: None }
    }

    fn dynamic_fork(&mut self, task: &Value, rounds: &[u32]) -> Forked {
        let input = self.parameters(&task["inputParameters"]);
        let mut forked = Forked { branches: Vec::new(), named: Some(Vec::new()) };
        self.done(task, rounds, None);
        self.forked = true;
        for (branch, input) in branches(task, &input) {
            let reference = name_in(&branch, "taskReferenceName").to_owned();
            let name = name_in(&branch, "name").to_owned();
            let went = self.worked(&branch, rounds, input, Some(&name));
            forked.branches.push(([reference.clone()].into(), went));
            forked.named.get_or_insert_default().push(reference);
        }
        forked
    }

    fn join(&mut self, task: &Value, rounds: &[u32], forked: Option<Forked>) -> bool {
        let Some(forked) = forked else { return false };
        let on = forked
            .named
            .clone()
            .unwrap_or_else(|| list(&task["joinOn"]).iter().filter_map(Value::as_str).map(str::to_owned).collect());
        let (mut errors, mut failed, mut output) = (false, false, Map::new());
        let plain = on.iter().all(|name| self.plain.contains(name));
        for name in on {
            match self.passed.get(&with_rounds(&name, rounds)) {
                Some(status) if status.is_success() => errors |= *status == TaskStatus::CompletedWithErrors,
                Some(_) => failed = true,
                // Who was to be waited for ended the run.
                None if forked.branches.iter().any(|(names, went)| names.contains(&name) && !went) => {
                    self.note(task, rounds, 0, TaskStatus::Canceled);
                    return false;
                }
                None => continue,
            }
            match self.outputs.get(&name) {
                Some(Value::Object(map)) if map.is_empty() => {}
                Some(Value::Null) | None => {}
                Some(value) => drop(output.insert(name, value.clone())),
            }
        }
        let status = match (failed, errors) {
            (true, _) => TaskStatus::Failed,
            (false, true) => TaskStatus::CompletedWithErrors,
            (false, false) => TaskStatus::Completed,
        };
        let output = Value::Object(output);
        self.note(task, rounds, 0, status).output = plain.then(|| output.clone());
        if failed { self.fail(task, rounds, status, output) } else { self.pass(task, rounds, status, output) }
    }

    fn repeat(&mut self, task: &Value, rounds: &[u32]) -> bool {
        self.note(task, rounds, 0, TaskStatus::Completed);
        let at = self.steps.len() - 1;
        let condition = task["loopCondition"].as_str().and_then(|text| text.rsplit(' ').next()?.parse().ok());
        let items = task.get("items").map(|items| list(items).len() as u32);
        let last = condition.or(items).unwrap_or(1);
        let keep = task["inputParameters"]["keepLastN"].as_u64().unwrap_or(0) as u32;
        for round in 1..=last {
            let inner = [rounds, &[round]].concat();
            if !self.sequence(list(&task["loopOver"]), &inner) {
                self.steps[at].status = TaskStatus::Canceled;
                return false;
            }
            if keep > 0 && round > keep {
                self.drop_round(at, &[rounds, &[round - keep]].concat());
            }
        }
        self.pass(task, rounds, TaskStatus::Completed, json!({"iteration": last}))
    }

    /// Only steps of this loop, whose own is the one there: another loop beside it has rounds of the same numbers.
    fn drop_round(&mut self, at: usize, round: &[u32]) {
        let gone: Vec<MeantStep> = self.steps.extract_if(at.., |step| step.rounds.starts_with(round)).collect();
        self.dropped.extend(gone);
    }

    fn sub_workflow(&mut self, task: &Value, rounds: &[u32], input: Value) -> bool {
        let name = name_in(&task["subWorkflowParam"], "name");
        let path = format!("{}/{}#0", self.path, with_rounds(name_in(task, "taskReferenceName"), rounds));
        self.model.read(path.clone(), name, input.clone());
        let Some(child) = self.model.runs.get(&path) else {
            self.note(task, rounds, 0, TaskStatus::Failed);
            return self.fail(task, rounds, TaskStatus::Failed, json!({}));
        };
        self.model.unsure |= child.ends.len() != 1;
        let (end, output) = (child.ends.first().copied().unwrap_or_default(), child.output.clone());
        let status = match end {
            "COMPLETED" => TaskStatus::Completed,
            "TERMINATED" => TaskStatus::Canceled,
            "TIMED_OUT" => TaskStatus::TimedOut,
            _ => TaskStatus::Failed,
        };
        let step = self.note(task, rounds, 0, status);
        (step.input, step.output) = (Some(input), output.clone());
        let output = output.unwrap_or_default();
        if status.is_success() {
            self.pass(task, rounds, status, output)
        } else {
            self.fail(task, rounds, status, output)
        }
    }

    fn start_workflow(&mut self, task: &Value, rounds: &[u32], input: &Value) -> bool {
        let request = &input["startWorkflow"];
        let path = format!("{}/{}#0", self.path, with_rounds(name_in(task, "taskReferenceName"), rounds));
        self.model.read(path.clone(), name_in(request, "name"), request["input"].clone());
        if self.model.runs.contains_key(&path) {
            return self.done(task, rounds, None);
        }
        self.note(task, rounds, 0, TaskStatus::Failed);
        self.fail(task, rounds, TaskStatus::Failed, Value::Null)
    }

    /// A map of parameters, which may be left out.
    fn parameters(&self, map: &Value) -> Value {
        if map.is_null() { json!({}) } else { self.resolve(map) }
    }

    /// A value with its `${…}` filled in.
    fn resolve(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.fill(text),
            Value::Array(values) => values.iter().map(|value| self.resolve(value)).collect(),
            Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), self.resolve(value))).collect(),
            other => other.clone(),
        }
    }

    /// A whole expression keeps its type; one in a text becomes text.
    fn fill(&self, text: &str) -> Value {
        let Some((before, rest)) = text.split_once("${") else { return json!(text) };
        let Some((path, after)) = rest.split_once('}') else { return json!(text) };
        let found = self.look_up(path);
        if before.is_empty() && after.is_empty() {
            return found;
        }
        let found = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
        json!(format!("{before}{found}{after}"))
    }

    fn look_up(&self, path: &str) -> Value {
        let mut parts = path.split('.');
        let variables = Value::Object(self.variables.clone());
        let root = match (parts.next(), parts.next()) {
            (Some("workflow"), Some("input")) => &self.input,
            (Some("workflow"), Some("variables")) => &variables,
            (Some(reference), Some("output")) => self.outputs.get(reference).unwrap_or(&Value::Null),
            _ => &Value::Null,
        };
        parts.fold(root, |value, part| &value[part]).clone()
    }
}

/// The branches of a dynamic fork, each with its input.
fn branches(task: &Value, input: &Value) -> Vec<(Value, Value)> {
    let branch = |name: &Value, reference: &Value| json!({"name": name, "taskReferenceName": reference});
    if let Some(tasks) = task["dynamicForkTasksParam"].as_str() {
        let given = &input[name_in(task, "dynamicForkTasksInputParamName")];
        let of = |task: &Value| {
            let reference = &task["taskReferenceName"];
            (branch(&task["name"], reference), given[reference.as_str().unwrap_or_default()].clone())
        };
        return list(&input[tasks]).iter().map(of).collect();
    }
    if let Some(tasks) = task["dynamicForkJoinTasksParam"].as_str() {
        let of = |task: &Value| (branch(&task["taskName"], &task["referenceName"]), task["input"].clone());
        return list(&input[tasks]["dynamicTasks"]).iter().map(of).collect();
    }
    let of = |(nth, item): (usize, &Value)| {
        let mut item = item.clone();
        item["__index"] = json!(nth);
        (branch(&input["forkTaskName"], &json!(format!("_{}_{nth}", name_in(task, "taskReferenceName")))), item)
    };
    list(&input["forkTaskInputs"]).iter().enumerate().map(of).collect()
}
