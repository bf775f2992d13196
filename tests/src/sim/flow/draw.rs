//! Workflows drawn from a seed: definitions of every type that needs no script engine, who starts them, and what is done to their runs.

use super::super::{FAULTS_END_MS, Mode, Rng};
use super::edge::Edge;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// How many histories have workflows, in a thousand: a third, so that a run of the suite takes hardly longer than without.
const SHARE: u64 = 330;
/// How deep sequences lie in each other, at most.
const DEPTH: u32 = 3;
/// Tasks in one definition, about: small runs meet each other's boundaries more often than large ones.
const TASKS: u32 = 14;
/// Task definitions that have a task of ours.
pub(in super::super) const OURS: [&str; 2] = ["ours0", "ours1"];
/// Task definitions that workers poll for.
pub(in super::super) const POLLED: [&str; 2] = ["polled0", "polled1"];
/// A workflow that nobody registers.
const MISSING: &str = "missing";

/// What of workflows a history has.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct FlowScript {
    /// Task definitions.
    pub tasks: BTreeMap<String, Value>,
    /// Workflow definitions, in the order in which they are registered.
    pub definitions: Vec<Value>,
    /// What happens, and when.
    pub entries: Vec<(u64, Entry)>,
    /// In a thousand: how many of the workers' tries fail.
    pub failing: u64,
}

/// Something that happens.
#[derive(Debug, Clone)]
pub(in super::super) enum Entry {
    /// A client starts a run of the nth definition, and asks again until it is answered.
    Start { nth: usize, input: Value },
    /// The same start again.
    Again { start: usize },
    /// Another input under its key.
    Conflict { start: usize },
    /// A definition is registered once more, changed in nothing that matters.
    Put { nth: usize },
    /// One is taken away and registered again.
    Delete { nth: usize },
    /// Something is done to a run.
    Operate(Operate),
    /// The informer is killed around the commit of this.
    Kill { edge: Edge, durable: bool },
}

/// Something done to whichever run the luck names.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Operate {
    pub verb: Verb,
    pub luck: u64,
    /// It is sent twice.
    pub twice: bool,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Verb {
    Pause,
    Resume,
    Terminate,
    Retry,
    Rerun,
    Restart,
    RestartLatest,
    Skip,
    Signal,
}

impl Verb {
    pub(in super::super) const ALL: [Self; 9] = [
        Self::Pause,
        Self::Resume,
        Self::Terminate,
        Self::Retry,
        Self::Rerun,
        Self::Restart,
        Self::RestartLatest,
        Self::Skip,
        Self::Signal,
    ];
}

impl FlowScript {
    /// `None`: a history without workflows.
    pub(in super::super) fn draw(seed: u64, mode: Mode) -> Option<Self> {
        let rng = &mut Rng::of(seed, &[5]);
        if !rng.chance(SHARE) {
            return None;
        }
        let failing = rng.pick(&[0, 0, 100, 250]);
        let operated = rng.chance(400);
        let tasks = draw_tasks(rng);
        let mut definitions = vec![rescue()];
        let leaf = Writer::new(rng, &[], operated).definition("leaf", TASKS / 3);
        definitions.push(leaf);
        let middle =
            Writer::new(rng, &["leaf", "leaf", "leaf", "leaf", MISSING], operated).definition("middle", TASKS / 2);
        definitions.push(middle);
        for nth in 0..rng.range(1, 2) {
            let whole = Writer::new(rng, &["leaf", "middle"], operated).definition(&format!("whole{nth}"), TASKS);
            definitions.push(whole);
        }
        let mut entries = Vec::new();
        let starts = rng.range(1, 3) as usize;
        for _ in 0..starts {
            let nth = rng.range(2, definitions.len() as u64 - 1) as usize;
            let input = json!({"a": rng.range(0, 3), "b": rng.range(0, 3).to_string()});
            entries.push((rng.range(1000, FAULTS_END_MS / 3), Entry::Start { nth, input }));
        }
        draw_more(rng, &mut entries, starts, definitions.len());
        if operated {
            for _ in 0..rng.range(2, 10) {
                let act = Operate { verb: rng.pick(&Verb::ALL), luck: rng.bits(), twice: rng.chance(200) };
                entries.push((rng.range(2000, FAULTS_END_MS - 5_000), Entry::Operate(act)));
            }
        }
        // What never recovers is not judged by what it comes to; there is enough that kills it.
        if mode == Mode::Liveness || rng.chance(300) {
            for _ in 0..rng.range(0, 3) {
                let (edge, durable) = (rng.pick(&Edge::ALL), rng.chance(500));
                entries.push((rng.range(0, FAULTS_END_MS / 3), Entry::Kill { edge, durable }));
            }
        }
        Some(Self { tasks, definitions, entries, failing })
    }
}

fn draw_more(rng: &mut Rng, entries: &mut Vec<(u64, Entry)>, starts: usize, definitions: usize) {
    let start = |rng: &mut Rng| rng.range(0, starts as u64 - 1) as usize;
    for _ in 0..rng.range(0, 3) {
        let entry = match rng.range(0, 3) {
            0 | 1 => Entry::Again { start: start(rng) },
            2 => Entry::Conflict { start: start(rng) },
            _ => Entry::Put { nth: rng.range(0, definitions as u64 - 1) as usize },
        };
        entries.push((rng.range(2000, FAULTS_END_MS), entry));
    }
    if rng.chance(100) {
        let nth = rng.range(0, definitions as u64 - 1) as usize;
        entries.push((rng.range(FAULTS_END_MS / 2, FAULTS_END_MS), Entry::Delete { nth }));
    }
}

/// What is started when another one fails.
fn rescue() -> Value {
    json!({"name": "rescue", "tasks": [
        {"name": OURS[0], "taskReferenceName": "rescued", "inputParameters": {"why": "${workflow.input.failureStatus}"}},
    ]})
}

fn draw_tasks(rng: &mut Rng) -> BTreeMap<String, Value> {
    let mut tasks = BTreeMap::new();
    for name in OURS.into_iter().chain(POLLED) {
        let mut task = json!({"name": name, "retryCount": rng.range(0, 2), "retryDelaySeconds": rng.range(0, 2),
            "retryLogic": rng.pick(&["FIXED", "LINEAR_BACKOFF", "EXPONENTIAL_BACKOFF"]), "timeoutSeconds": 0,
            "responseTimeoutSeconds": rng.range(15, 30)});
        if rng.chance(300) {
            task["concurrentExecLimit"] = json!(rng.range(1, 2));
        }
        if rng.chance(150) {
            task["rateLimitPerFrequency"] = json!(rng.range(1, 3));
            task["rateLimitFrequencyInSeconds"] = json!(rng.range(1, 4));
        }
        if OURS.contains(&name) {
            task["task"] = json!({"command": {"argv": ["true"]}});
        }
        tasks.insert(name.to_owned(), task);
    }
    tasks
}

/// Writes one definition.
struct Writer<'a> {
    rng: &'a mut Rng,
    children: &'a [&'a str],
    operated: bool,
    next: u32,
    left: u32,
    /// Tasks whose output is surely there.
    seen: Vec<String>,
    /// How many forks lie around what is written: beside others nobody writes variables.
    beside: u32,
}

impl<'a> Writer<'a> {
    fn new(rng: &'a mut Rng, children: &'a [&'a str], operated: bool) -> Self {
        Self { rng, children, operated, next: 0, left: 0, seen: Vec::new(), beside: 0 }
    }

    fn definition(mut self, name: &str, tasks: u32) -> Value {
        self.left = tasks;
        let count = self.rng.range(2, 4);
        let tasks = self.sequence(0, count);
        let mut output = Map::new();
        output.insert("from".to_owned(), json!("${workflow.input.a}"));
        output.insert("set".to_owned(), json!("${workflow.variables.x}"));
        for (nth, seen) in self.seen.iter().enumerate() {
            output.insert(format!("v{nth}"), json!(format!("${{{seen}.output.v}}")));
        }
        let plain = tasks.last().is_some_and(|task| task["type"] == "SIMPLE") && self.rng.chance(200);
        let mut whole = json!({"name": name, "tasks": tasks});
        if !plain {
            whole["outputParameters"] = Value::Object(output);
        }
        if self.rng.chance(300) {
            whole["failureWorkflow"] = json!(if self.rng.chance(850) { "rescue" } else { MISSING });
        }
        if self.operated && self.rng.chance(200) {
            whole["timeoutPolicy"] = json!("TIME_OUT_WF");
            whole["timeoutSeconds"] = json!(self.rng.range(5, 60));
        }
        whole
    }

    fn name(&mut self, kind: &str) -> String {
        self.next += 1;
        format!("{kind}{}", self.next)
    }

    fn sequence(&mut self, depth: u32, count: u64) -> Vec<Value> {
        let mut tasks = Vec::new();
        for _ in 0..count.max(1) {
            tasks.extend(self.task(depth));
        }
        tasks
    }

    /// What a sequence has seen, that may not be gone through, is seen by nobody after it.
    fn inner(&mut self, depth: u32, count: u64) -> Vec<Value> {
        let seen = self.seen.len();
        let tasks = self.sequence(depth + 1, count);
        self.seen.truncate(seen);
        tasks
    }

    fn task(&mut self, depth: u32) -> Vec<Value> {
        let spent = self.left == 0;
        self.left = self.left.saturating_sub(1);
        let holds = depth < DEPTH && !spent;
        match self.rng.range(0, 23) {
            0 | 1 if holds => vec![self.switch(depth)],
            2 if holds => self.exclusive(depth),
            3..=5 if holds => self.fork(depth),
            6 | 7 if holds => vec![self.repeat(depth)],
            8 if !spent => self.dynamic_fork(),
            9 | 10 if !self.children.is_empty() => vec![self.sub_workflow()],
            11 if !self.children.is_empty() => vec![self.start_workflow()],
            12 => vec![self.wait()],
            13 => vec![self.signal()],
            14 if self.beside == 0 => vec![self.variable()],
            15 => vec![self.inline()],
            16 => vec![self.event()],
            17 => vec![self.named()],
            18 if depth > 0 => vec![self.terminate()],
            _ => vec![self.simple()],
        }
    }

    /// A value of an input: of the run, of a task before, of a variable.
    fn value(&mut self) -> Value {
        match self.rng.range(0, 5) {
            0 => json!("${workflow.input.a}"),
            1 => json!("b is ${workflow.input.b}"),
            2 if self.beside == 0 => json!("${workflow.variables.x}"),
            3 => json!("${workflow.input.none.at.all}"),
            _ => self.earlier("v"),
        }
    }

    fn earlier(&mut self, field: &str) -> Value {
        match self.seen.len() as u64 {
            0 => json!("${workflow.input.b}"),
            count => {
                let nth = self.rng.range(0, count - 1) as usize;
                json!(format!("${{{}.output.{field}}}", self.seen[nth]))
            }
        }
    }

    fn simple(&mut self) -> Value {
        let reference = self.name("t");
        let name = self.rng.pick(&[OURS[0], OURS[0], OURS[1], POLLED[0], POLLED[1]]);
        let mut task = json!({"name": name, "taskReferenceName": reference, "type": "SIMPLE",
            "inputParameters": {"p": self.value(), "kept": {"as": ["it", 1, null]}}});
        let tolerated = self.tolerate(&mut task);
        if self.rng.chance(100) {
            task["startDelay"] = json!(1);
        }
        if self.rng.chance(100) {
            task["retryCount"] = json!(self.rng.range(0, 3));
        }
        if !tolerated {
            self.seen.push(reference);
        }
        task
    }

    fn tolerate(&mut self, task: &mut Value) -> bool {
        let word = match self.rng.range(0, 9) {
            0 | 1 => "optional",
            2 => "permissive",
            _ => return false,
        };
        task[word] = json!(true);
        true
    }

    fn named(&mut self) -> Value {
        let reference = self.name("d");
        let name = self.rng.pick(&[OURS[1], POLLED[1]]);
        json!({"name": reference, "taskReferenceName": reference, "type": "DYNAMIC", "dynamicTaskNameParam": "which",
            "inputParameters": {"which": name, "p": self.value()}})
    }

    fn switch(&mut self, depth: u32) -> Value {
        let reference = self.name("s");
        let decision = self.rng.chance(300);
        let mut cases = Map::new();
        for case in 0..self.rng.range(1, 3) {
            let empty = self.rng.chance(150);
            let count = self.rng.range(1, 2);
            let tasks = if empty { Vec::new() } else { self.inner(depth, count) };
            cases.insert(case.to_string(), Value::Array(tasks));
        }
        let default = if self.rng.chance(600) { self.inner(depth, 1) } else { Vec::new() };
        let on = if self.rng.chance(500) { self.earlier("c") } else { json!("${workflow.input.a}") };
        let mut task = json!({"name": reference, "taskReferenceName": reference, "decisionCases": cases,
            "defaultCase": default, "inputParameters": {"on": on}});
        if decision {
            (task["type"], task["caseValueParam"]) = (json!("DECISION"), json!("on"));
        } else {
            (task["type"], task["evaluatorType"], task["expression"]) =
                (json!("SWITCH"), json!("value-param"), json!("on"));
        }
        task
    }

    /// A choice between two tasks, and a join of whichever ran.
    fn exclusive(&mut self, depth: u32) -> Vec<Value> {
        let before = self.simple();
        let switch = self.name("s");
        let (seen, left) = (self.seen.len(), self.inner(depth, 1));
        let mut cases = vec![left];
        let right = self.simple();
        self.seen.truncate(seen);
        cases.push(vec![right]);
        let last = |tasks: &Vec<Value>| tasks.last().map(|task| task["taskReferenceName"].clone());
        let on: Vec<Value> = cases.iter().filter_map(last).collect();
        let on_input = self.earlier("c");
        let cases: Map<String, Value> =
            cases.into_iter().enumerate().map(|(nth, case)| (nth.to_string(), Value::Array(case))).collect();
        let join = self.name("x");
        vec![
            before.clone(),
            json!({"name": switch, "taskReferenceName": switch, "type": "SWITCH", "evaluatorType": "value-param",
                "expression": "on", "decisionCases": cases, "defaultCase": [], "inputParameters": {"on": on_input}}),
            json!({"name": join, "taskReferenceName": join, "type": "EXCLUSIVE_JOIN", "joinOn": on,
                "defaultExclusiveJoinTask": [before["taskReferenceName"]]}),
        ]
    }

    fn fork(&mut self, depth: u32) -> Vec<Value> {
        let (fork, join) = (self.name("f"), self.name("j"));
        self.beside += 1;
        let mut branches = Vec::new();
        for _ in 0..self.rng.range(1, 3) {
            let count = self.rng.range(1, 2);
            branches.push(Value::Array(self.inner(depth, count)));
        }
        self.beside -= 1;
        let ends = branches.iter().filter_map(|branch| branch.as_array()?.last());
        let mut on: Vec<Value> = ends.map(|task| task["taskReferenceName"].clone()).collect();
        // Sometimes a branch is waited for by nobody but the end of the run.
        if on.len() > 1 && self.rng.chance(100) {
            on.pop();
            self.beside += 1000;
        }
        vec![
            json!({"name": fork, "taskReferenceName": fork, "type": "FORK_JOIN", "forkTasks": branches}),
            json!({"name": join, "taskReferenceName": join, "type": "JOIN", "joinOn": on}),
        ]
    }

    fn repeat(&mut self, depth: u32) -> Value {
        let reference = self.name("l");
        let count = self.rng.range(1, 2);
        let body = self.inner(depth, count);
        let mut task = json!({"name": reference, "taskReferenceName": reference, "type": "DO_WHILE", "loopOver": body});
        if self.rng.chance(300) {
            task["items"] = json!((0..self.rng.range(1, 3)).collect::<Vec<_>>());
        } else {
            task["loopCondition"] = json!(format!("{reference} < {}", self.rng.range(1, 3)));
        }
        if self.rng.chance(200) {
            task["inputParameters"] = json!({"keepLastN": 1});
        }
        task
    }

    /// One of its three forms.
    fn dynamic_fork(&mut self) -> Vec<Value> {
        let (fork, join) = (self.name("f"), self.name("j"));
        let (count, form) = (self.rng.range(0, 3), self.rng.range(0, 2));
        let names: Vec<&str> = (0..count).map(|_| self.rng.pick(&[OURS[0], POLLED[0]])).collect();
        let branch = |nth: usize| format!("{fork}b{nth}");
        let mut task = json!({"name": fork, "taskReferenceName": fork, "type": "FORK_JOIN_DYNAMIC"});
        match form {
            0 => {
                let list: Vec<Value> = names
                    .iter()
                    .enumerate()
                    .map(|(nth, name)| json!({"name": name, "taskReferenceName": branch(nth), "type": "SIMPLE"}))
                    .collect();
                let inputs: Map<String, Value> =
                    (0..names.len()).map(|nth| (branch(nth), json!({"nth": nth}))).collect();
                (task["dynamicForkTasksParam"], task["dynamicForkTasksInputParamName"]) =
                    (json!("list"), json!("given"));
                task["inputParameters"] = json!({"list": list, "given": inputs});
            }
            1 => {
                let list: Vec<Value> = names
                    .iter()
                    .enumerate()
                    .map(|(nth, name)| json!({"taskName": name, "referenceName": branch(nth), "type": "SIMPLE", "input": {"nth": nth}}))
                    .collect();
                task["dynamicForkJoinTasksParam"] = json!("list");
                task["inputParameters"] = json!({"list": {"dynamicTasks": list}});
            }
            _ => {
                let given: Vec<Value> = (0..names.len()).map(|nth| json!({"nth": nth})).collect();
                task["inputParameters"] = json!({"forkTaskName": OURS[1], "forkTaskInputs": given});
            }
        }
        vec![task, json!({"name": join, "taskReferenceName": join, "type": "JOIN", "joinOn": []})]
    }

    fn child(&mut self) -> &'a str {
        self.rng.pick(self.children)
    }

    fn sub_workflow(&mut self) -> Value {
        let (reference, child) = (self.name("w"), self.child());
        let mut task = json!({"name": reference, "taskReferenceName": reference, "type": "SUB_WORKFLOW",
            "subWorkflowParam": {"name": child}, "inputParameters": {"a": self.earlier("c"), "b": self.value()}});
        self.tolerate(&mut task);
        task
    }

    fn start_workflow(&mut self) -> Value {
        let (reference, child) = (self.name("w"), self.child());
        json!({"name": reference, "taskReferenceName": reference, "type": "START_WORKFLOW",
            "inputParameters": {"startWorkflow": {"name": child, "input": {"a": "${workflow.input.a}", "b": self.value()}}}})
    }

    fn wait(&mut self) -> Value {
        let reference = self.name("p");
        let duration = format!("{} seconds", self.rng.range(0, 4));
        json!({"name": reference, "taskReferenceName": reference, "type": "WAIT", "inputParameters": {"duration": duration}})
    }

    /// Somebody's word is waited for.
    fn signal(&mut self) -> Value {
        let reference = self.name("h");
        let kind = self.rng.pick(&["WAIT", "HUMAN"]);
        let mut task = json!({"name": reference, "taskReferenceName": reference, "type": kind, "inputParameters": {"p": self.value()}});
        self.tolerate(&mut task);
        task
    }

    fn variable(&mut self) -> Value {
        let reference = self.name("v");
        json!({"name": reference, "taskReferenceName": reference, "type": "SET_VARIABLE",
            "inputParameters": {"x": self.earlier("v")}})
    }

    fn inline(&mut self) -> Value {
        let reference = self.name("i");
        json!({"name": reference, "taskReferenceName": reference, "type": "INLINE",
            "inputParameters": {"evaluatorType": "value-param", "expression": "p", "p": self.value()}})
    }

    fn event(&mut self) -> Value {
        let reference = self.name("e");
        json!({"name": reference, "taskReferenceName": reference, "type": "EVENT", "sink": "conductor",
            "inputParameters": {"p": self.value()}})
    }

    fn terminate(&mut self) -> Value {
        let reference = self.name("q");
        let status = self.rng.pick(&["COMPLETED", "FAILED", "TERMINATED"]);
        json!({"name": reference, "taskReferenceName": reference, "type": "TERMINATE", "inputParameters":
            {"terminationStatus": status, "terminationReason": "so it is", "workflowOutput": {"v": self.value()}}})
    }
}
