//! Runs of workflows around the machine: what moves in one batch, what is asked for and answered, what is committed and comes back.

mod children;
mod operations;
mod queue;
mod streams;
mod tasks;

use super::*;
use ::workflow::definition::{self, Definition, Task};
use ::workflow::evaluate::{self, Answer, Bodies, ChildStart, Handle, Registry, Scripts, Tools};
use ::workflow::plan::Plan;
use ::workflow::run::{PartRow, Run, RunStatus, StepIx, StepRow, TaskStatus};
use prost::Message as _;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use std::cell::RefCell;
use std::rc::Rc;

/// Stored JSON, and nothing that runs scripts.
#[derive(Default)]
struct Stock {
    bodies: RefCell<BTreeMap<[u8; 32], Value>>,
}

impl Bodies for Stock {
    fn get(&self, handle: &Handle) -> Result<Rc<Value>, String> {
        self.bodies.borrow().get(&handle.0).cloned().map(Rc::new).ok_or_else(|| format!("{handle:?} is not stored"))
    }

    fn put(&self, value: &Value) -> Result<Handle, String> {
        let handle = Handle(Sha256::digest(value.to_string()).into());
        self.bodies.borrow_mut().insert(handle.0, value.clone());
        Ok(handle)
    }
}

impl Registry for Stock {
    fn task_definition(&self, _: &str) -> Option<Value> {
        None
    }
}

impl Scripts for Stock {
    fn javascript(&self, _: &str, _: &Value) -> Result<Value, String> {
        Err("no scripts here".to_owned())
    }

    fn jq(&self, _: &str, _: &Value) -> Result<Vec<Value>, String> {
        Err("no scripts here".to_owned())
    }
}

/// A run's rows as a store would have them.
#[derive(Default, Clone)]
struct Rows {
    row: store::RunRow,
    steps: BTreeMap<StepIx, StepRow>,
    parts: BTreeMap<u32, PartRow>,
}

/// A machine, and everything around it that runs need.
struct Flow {
    world: World,
    stock: Stock,
    definitions: BTreeMap<String, Value>,
    rows: BTreeMap<String, Rows>,
    tasks: BTreeMap<TaskId, store::TaskRow>,
    events: Vec<store::RunEventRow>,
    /// What was told to callers.
    replies: Vec<Reply>,
    assigned: Vec<(SessionId, AttemptId, Fence, Option<PayloadHandle>)>,
    /// Questions are kept instead of being answered.
    deaf: bool,
}

fn simple(name: &str) -> Value {
    json!({"name": name, "taskReferenceName": name})
}

/// A task that is one of ours.
fn ours(name: &str) -> Value {
    let definition = json!({"name": name, "retryCount": 1, "retryDelaySeconds": 0, "timeoutSeconds": 0,
        "task": {"command": {"argv": ["true"]}}});
    json!({"name": name, "taskReferenceName": name, "taskDefinition": definition})
}

impl Flow {
    fn new() -> Self {
        Self {
            world: World::new(),
            stock: Stock::default(),
            definitions: BTreeMap::new(),
            rows: BTreeMap::new(),
            tasks: BTreeMap::new(),
            events: Vec::new(),
            replies: Vec::new(),
            assigned: Vec::new(),
            deaf: false,
        }
    }

    fn define(&mut self, name: &str, tasks: Value) {
        self.definitions.insert(name.to_owned(), json!({"name": name, "tasks": tasks}));
    }

    fn plan(&self, json: &Value) -> (Arc<Plan>, Arc<Templates>) {
        let plan = Plan::of(Definition::parse(json).expect("a good definition").value);
        let templates = templates(&plan);
        (Arc::new(plan), Arc::new(templates))
    }

    fn prepared(&self, json: &Value, input: Value) -> Prepared {
        let (plan, templates) = self.plan(json);
        let given: Map<String, Value> = input.as_object().cloned().unwrap_or_default();
        let definition = self.stock.put(json).expect("stored").0;
        let input = evaluate::run_input(&plan, given, &self.stock).expect("stored");
        Prepared { plan, templates, definition, input, variables: None, correlation: None, priority: 0 }
    }

    fn new_run(&self, id: &str, name: &str, input: Value, key: Option<&str>) -> NewRun {
        NewRun {
            ticket: Ticket(1),
            id: id.into(),
            prepared: self.prepared(&self.definitions[name], input),
            owner: "ops".to_owned(),
            labels: [("film".to_owned(), "a".to_owned())].into(),
            key: key.map(str::to_owned),
            digest: [1; 32],
            known: None,
        }
    }

    fn start(&mut self, id: &str, name: &str, input: Value) {
        let new = self.new_run(id, name, input, None);
        self.tell(FlowEvent::RunStarted(Box::new(new)));
    }

    /// Tells an event, commits, and does what comes of it, until nothing does.
    fn tell(&mut self, event: impl Into<Event>) {
        self.world.tell(event.into());
        self.settle();
    }

    fn settle(&mut self) {
        loop {
            self.commit();
            let effects = std::mem::take(&mut self.world.effects);
            let mut kept = Vec::new();
            let mut events = Vec::new();
            for effect in effects {
                match effect {
                    Effect::Evaluate { run, question, plan } if !self.deaf => {
                        let tools = Tools { bodies: &self.stock, scripts: &self.stock, registry: &self.stock };
                        let answer = evaluate::answer(&question, &plan, tools);
                        let templates = match &answer {
                            Answer::Forked { plan, .. } | Answer::Named { plan, .. } => Arc::new(templates(plan)),
                            _ => Arc::default(),
                        };
                        let (step, ticket) = (question.step, question.ticket);
                        events.push(FlowEvent::Evaluated { run, step, ticket, answer: Box::new(answer), templates });
                    }
                    Effect::Prepare { by, step, child, waits, start } => {
                        let outcome = self.child(&start);
                        let exists = self.rows.contains_key(&*child);
                        events.push(FlowEvent::RunPrepared { by, step, child, waits, exists, outcome });
                    }
                    Effect::Reply { reply, .. } => self.replies.push(reply),
                    Effect::SendAssign { session, attempt, fence, input, .. } => {
                        self.assigned.push((session, attempt, fence, input));
                    }
                    other => kept.push(other),
                }
            }
            self.world.effects = kept;
            if events.is_empty() {
                return;
            }
            events.into_iter().for_each(|event: FlowEvent| self.world.tell(event.into()));
        }
    }

    fn child(&self, start: &ChildStart) -> Result<Box<Prepared>, String> {
        let json = self.definitions.get(&start.name).ok_or_else(|| format!("no workflow {:?}", start.name))?;
        let input = start.input.map_or(json!({}), |input| self.stock.get(&input).expect("stored").as_ref().clone());
        Ok(Box::new(self.prepared(json, input)))
    }

    /// Commits as a store would.
    fn commit(&mut self) -> Batch {
        let batch = self.world.commit();
        for (handle, body) in &batch.bodies {
            if let Ok(value) = serde_json::from_slice(body) {
                self.stock.bodies.borrow_mut().insert(*handle, value);
            }
        }
        for change in &batch.runs {
            assert_eq!(change.fresh, !self.rows.contains_key(&*change.id), "{}", change.id);
            let rows = self.rows.entry(change.id.to_string()).or_default();
            if let Some(row) = &change.row {
                rows.row = row.clone();
            }
            if change.parts_removed {
                rows.parts.clear();
            }
            for step in &change.removed {
                rows.steps.remove(step);
            }
            rows.steps.extend(change.steps.iter().map(|step| (step.step, step.clone())));
            rows.parts.extend(change.parts.iter().map(|part| (part.part, part.clone())));
        }
        for change in &batch.tasks {
            let id = TaskId::from_bytes(&change.row.id).expect("an id");
            self.tasks.insert(id, change.whole());
        }
        self.events.extend(batch.run_events.clone());
        batch
    }

    /// A run as the store has it.
    fn stored(&self, id: &str) -> StoredRun {
        let rows = &self.rows[id];
        let json = self.stock.bodies.borrow()[&rows.row.definition[..]].clone();
        let (plan, first) = self.plan(&json);
        let (mut plans, mut sets) = (vec![plan], vec![first]);
        for part in rows.parts.values() {
            let tasks = self.stock.get(&part.tasks).expect("stored");
            let list = Task::parse_list(tasks.as_array().expect("a list")).expect("read before").value;
            let plan = Plan::of_branches(list, part.depth);
            sets.push(Arc::new(templates(&plan)));
            plans.push(Arc::new(plan));
        }
        let own = serde_json::from_slice(&rows.row.body).expect("a run's row");
        let (steps, parts) = (rows.steps.values().cloned(), rows.parts.values().cloned().collect());
        let run = Run::load(own, steps, parts, plans).expect("rows belong together");
        StoredRun { row: rows.row.clone(), run: Box::new(run), templates: sets }
    }

    /// The informer is killed and starts again with what was committed.
    fn restart(&mut self) {
        let live = self.tasks.values().filter(|row| crate::store::LIVE.contains(&row.state())).cloned();
        let epoch = self.world.machine.config().epoch + 1;
        let config = Config { epoch, ..config() };
        self.world.machine = Machine::new(config, self.world.now, live.collect::<Vec<_>>(), [], []);
        self.world.effects.clear();
        let rows = self.rows.iter().filter(|(_, rows)| crate::store::is_live(&rows.row));
        let runs: Vec<StoredRun> = rows.map(|(id, _)| self.stored(id)).collect();
        let nothing = (Vec::new(), Vec::new());
        self.world.machine.load_flows(self.world.now, nothing, runs, &mut self.world.effects);
        self.world.machine.check().expect("invariants hold");
        self.settle();
    }

    fn operate(&mut self, id: &str, operation: Operation) -> Result<Option<&'static str>, Rejection> {
        self.operate_as(id, operation, "")
    }

    fn operate_as(&mut self, id: &str, operation: Operation, key: &str) -> Result<Option<&'static str>, Rejection> {
        let mut stored = Vec::new();
        let mut left = vec![id.to_owned()];
        let mut seen = BTreeSet::new();
        while let Some(id) = left.pop() {
            if !seen.insert(id.clone()) {
                continue;
            }
            if let Some(more) = self.world.machine.kin(&id) {
                left.extend(more);
            } else if self.rows.contains_key(&id) {
                let run = self.stored(&id);
                left.extend(kin(&run.run));
                stored.push(run);
            }
        }
        self.replies.clear();
        let ticket = Ticket(9);
        self.tell(FlowEvent::RunOperated { ticket, run: id.into(), stored, operation, key: key.to_owned() });
        match self.replies.pop() {
            Some(Reply::Run { ignored, .. }) => Ok(ignored),
            Some(Reply::Rejected(rejection)) => Err(rejection),
            other => panic!("an operation was answered with {other:?}"),
        }
    }

    fn status(&self, id: &str) -> RunStatus {
        let own: ::workflow::run::RunRow = serde_json::from_slice(&self.rows[id].row.body).expect("a run's row");
        own.status
    }

    fn output(&self, id: &str) -> Value {
        let own: ::workflow::run::RunRow = serde_json::from_slice(&self.rows[id].row.body).expect("a run's row");
        own.output.map_or(json!({}), |output| self.stock.get(&output).expect("stored").as_ref().clone())
    }

    /// `a:COMPLETED b:SCHEDULED`, as committed, by step.
    fn shows(&self, id: &str) -> String {
        let run = self.stored(id).run;
        let steps =
            run.shown().into_iter().map(|step| format!("{}:{}", run.full_reference(step), step.status.as_str()));
        steps.collect::<Vec<_>>().join(" ")
    }

    /// Ends the oldest assignment with an exit code and a result.
    fn end(&mut self, code: i32, result: &Value) -> TaskId {
        let (session, attempt, fence, _) = self.assigned.remove(0);
        self.world.started(session, (attempt, fence));
        let result = if result.is_null() { Vec::new() } else { result.to_string().into_bytes() };
        let ending = v1::Ending { result, ..exit(code) };
        self.world.report(session, (attempt, fence), Report::Ended(Box::new(ending)));
        self.settle();
        attempt.task
    }

    fn pass(&mut self, ms: u64) {
        self.world.pass(ms);
        self.settle();
    }

    fn poll(&mut self, name: &str, wait_ms: u64) -> Vec<PolledWork> {
        self.replies.clear();
        let names = vec![name.to_owned()];
        self.tell(FlowEvent::Polled { ticket: Ticket(5), names, worker: "w".to_owned(), count: 10, wait_ms });
        self.polled()
    }

    fn polled(&mut self) -> Vec<PolledWork> {
        match self.replies.pop() {
            Some(Reply::Polled(tasks)) => tasks,
            None => Vec::new(),
            other => panic!("a poll was answered with {other:?}"),
        }
    }

    fn update(&mut self, work: &PolledWork, update: WorkUpdate) -> Option<&'static str> {
        self.replies.clear();
        let stored = Vec::new();
        let (run, step) = (work.run.clone(), work.step);
        self.tell(FlowEvent::WorkUpdated { ticket: Ticket(6), run, step, stored, update });
        match self.replies.pop() {
            Some(Reply::WorkUpdated { ignored }) => ignored,
            other => panic!("an update was answered with {other:?}"),
        }
    }

    fn put(&self, value: Value) -> Option<Handle> {
        Some(self.stock.put(&value).expect("stored"))
    }

    fn kinds(&self) -> Vec<&str> {
        self.events.iter().map(|event| event.kind.as_str()).collect()
    }
}

/// The tasks of ours in a plan: each a command.
fn templates(plan: &Plan) -> Templates {
    let ours = plan.nodes.iter().filter(|node| node.definition.as_ref().is_some_and(|known| known.task.is_some()));
    let template = |name: &str| {
        let payload =
            Sha256::digest(v1::TaskSpec { name: name.to_owned(), ..Default::default() }.encode_to_vec()).into();
        let retry = v1::Retry { max_attempts: 1, final_codes: vec![9], ..Default::default() };
        Template { payload, facts: store::Facts { name: name.to_owned(), retry: Some(retry), ..facts() } }
    };
    ours.map(|node| (node.name.clone(), template(&node.name))).collect()
}

fn completed(output: Option<Handle>) -> WorkUpdate {
    WorkUpdate::End { status: TaskStatus::Completed, output, reason: None }
}

#[test]
fn a_run_starts_once_under_its_key() {
    let mut flow = Flow::new();
    flow.define("w", json!([simple("a")]));
    let first = flow.new_run("r1", "w", json!({}), Some("k"));
    let again = NewRun { id: "r2".into(), ..first.clone() };
    let other = NewRun { id: "r3".into(), digest: [2; 32], ..first.clone() };
    flow.world.tell(FlowEvent::RunStarted(Box::new(first)).into());
    flow.world.tell(FlowEvent::RunStarted(Box::new(again)).into());
    flow.world.tell(FlowEvent::RunStarted(Box::new(other)).into());
    flow.settle();
    let run: RunId = "r1".into();
    let expected = [
        Reply::RunStarted { run: run.clone(), existed: false },
        Reply::RunStarted { run: run.clone(), existed: true },
        Reply::Rejected(Rejection::RunKeyConflict { run }),
    ];
    assert_eq!(flow.replies, expected);
    assert_eq!(flow.rows.len(), 1);
    assert_eq!(flow.rows["r1"].row.key, "k");
}

#[test]
fn system_tasks_follow_each_other_and_a_run_that_is_over_leaves_memory() {
    let mut flow = Flow::new();
    let set = json!({"name": "s", "taskReferenceName": "s", "type": "SET_VARIABLE", "inputParameters": {"x": "${workflow.input.x}"}});
    let switch = json!({"name": "c", "taskReferenceName": "c", "type": "SWITCH", "evaluatorType": "value-param",
        "expression": "on", "inputParameters": {"on": "${workflow.variables.x}"},
        "decisionCases": {"1": [{"name": "t", "taskReferenceName": "t", "type": "TERMINATE",
            "inputParameters": {"terminationStatus": "COMPLETED", "workflowOutput": {"x": "${workflow.variables.x}"}}}]},
        "defaultCase": [simple("never")]});
    flow.define("w", json!([set, switch]));
    flow.start("r", "w", json!({"x": "1"}));
    assert_eq!(flow.status("r"), RunStatus::Completed);
    assert_eq!(flow.output("r"), json!({"x": "1"}));
    assert_eq!(flow.world.machine.runs_held(), 0, "a committed end is forgotten");
    assert_eq!(flow.kinds(), ["started", "completed"]);
}

#[test]
fn a_wait_ends_in_time_also_over_a_restart() {
    let mut flow = Flow::new();
    let wait =
        json!({"name": "w", "taskReferenceName": "w", "type": "WAIT", "inputParameters": {"duration": "10 seconds"}});
    flow.define("w", json!([wait]));
    flow.start("r", "w", json!({}));
    flow.pass(4_000);
    flow.restart();
    flow.pass(5_999);
    assert_eq!(flow.status("r"), RunStatus::Running);
    // A clock that was set back makes it wait no longer.
    flow.world.now.wall_ms -= 3_000;
    flow.pass(1);
    assert_eq!(flow.status("r"), RunStatus::Completed);
}

#[test]
fn what_was_asked_is_asked_again_after_a_restart() {
    let mut flow = Flow::new();
    flow.define("w", json!([simple("a")]));
    flow.deaf = true;
    flow.start("r", "w", json!({}));
    flow.deaf = false;
    assert_eq!(flow.poll("a", 0), []);
    flow.restart();
    assert_eq!(flow.poll("a", 0).len(), 1);
}

#[test]
fn definitions_have_versions_and_equal_ones_are_the_same() {
    let mut flow = Flow::new();
    let row = |version, digest: u8| {
        let digest = vec![digest; 32];
        Box::new(store::DefinitionRow { name: "w".to_owned(), version, digest, ..Default::default() })
    };
    let mut put = |version, digest, replace| {
        flow.tell(FlowEvent::DefinitionPut { ticket: Ticket(1), definition: row(version, digest), replace });
        flow.replies.pop().expect("an answer")
    };
    assert_eq!(put(0, 1, false), Reply::Definition { version: 1, existed: false });
    assert_eq!(put(0, 1, false), Reply::Definition { version: 1, existed: true });
    assert_eq!(put(0, 2, false), Reply::Definition { version: 2, existed: false });
    assert_eq!(put(7, 3, false), Reply::Definition { version: 7, existed: false });
    let conflict = Rejection::DefinitionConflict { name: "w".to_owned(), version: 7 };
    assert_eq!(put(7, 4, false), Reply::Rejected(conflict));
    assert_eq!(put(7, 4, true), Reply::Definition { version: 7, existed: false });
    assert_eq!(put(0, 5, false), Reply::Definition { version: 8, existed: false });
    flow.tell(FlowEvent::DefinitionDeleted { ticket: Ticket(1), name: "w".to_owned(), version: 0 });
    assert_eq!(flow.replies.pop(), Some(Reply::Registered { existed: true }));
    flow.tell(FlowEvent::DefinitionDeleted { ticket: Ticket(1), name: "w".to_owned(), version: 1 });
    assert_eq!(flow.replies.pop(), Some(Reply::Registered { existed: false }));
}

#[test]
fn definitions_are_filled_in_before_a_start() {
    // What a run keeps is what it was started with: the shell fills task definitions in, and the run's row names the result.
    let mut json = json!({"name": "w", "tasks": [simple("a")]});
    definition::populate(&mut json, &|name| Some(json!({"name": name, "retryCount": 7})));
    let plan = Plan::of(Definition::parse(&json).expect("a good definition").value);
    assert_eq!(plan.nodes[0].definition.as_ref().map(|known| known.retry_count), Some(7));
}
