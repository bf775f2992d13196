//! A world for runs: stores bodies, answers questions at once, starts children, keeps what is scheduled until a test ends it,
//! and after every event compares what was written row by row with what the run holds.

// Each test binary uses a part of it.
#![allow(dead_code, reason = "shared by several test binaries")]

mod scripts;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use workflow::definition::{self, Definition, Task};
use workflow::evaluate::{self, Bodies, Handle, Registry, Scripts, Tools};
use workflow::plan::Plan;
use workflow::run::{
    Command, Effects, Event, Moment, Outcome, ParentStep, PartRow, Refused, Run, RunRow, RunStatus, Start, StepIx,
    StepRow, TaskEnd, TaskStatus, Work,
};

pub(crate) use scripts::Engines;

/// What runs scripts, by default within this process.
pub(crate) struct Engine(pub(crate) Rc<dyn Scripts>);

impl Default for Engine {
    fn default() -> Self {
        Self(Rc::new(Engines))
    }
}

/// Stored JSON, named by the order in which it came.
#[derive(Default)]
pub(crate) struct Memory {
    by_text: RefCell<BTreeMap<String, Handle>>,
    by_handle: RefCell<BTreeMap<Handle, Rc<Value>>>,
    /// What may be stored in one piece.
    pub(crate) limit_bytes: Cell<Option<usize>>,
}

impl Bodies for Memory {
    fn get(&self, handle: &Handle) -> Result<Rc<Value>, String> {
        self.by_handle.borrow().get(handle).cloned().ok_or_else(|| format!("{handle:?} is not stored"))
    }

    fn put(&self, value: &Value) -> Result<Handle, String> {
        let text = value.to_string();
        if self.limit_bytes.get().is_some_and(|limit| text.len() > limit) {
            return Err(format!("{} bytes are too many", text.len()));
        }
        if let Some(handle) = self.by_text.borrow().get(&text) {
            return Ok(*handle);
        }
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&(self.by_handle.borrow().len() as u64 + 1).to_be_bytes());
        let handle = Handle(bytes);
        self.by_text.borrow_mut().insert(text, handle);
        self.by_handle.borrow_mut().insert(handle, Rc::new(value.clone()));
        Ok(handle)
    }
}

#[derive(Default)]
struct Registered {
    tasks: BTreeMap<String, Value>,
}

impl Registry for Registered {
    fn task_definition(&self, name: &str) -> Option<Value> {
        self.tasks.get(name).cloned()
    }
}

/// The rows of one run, as a store would have them.
#[derive(Default, Clone)]
struct Rows {
    run: Option<RunRow>,
    steps: BTreeMap<StepIx, StepRow>,
    parts: BTreeMap<u32, PartRow>,
}

/// All runs, and everything around them.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) runs: BTreeMap<String, Run>,
    pub(crate) memory: Memory,
    registry: Registered,
    definitions: BTreeMap<String, BTreeMap<u32, Value>>,
    /// What runs scripts.
    pub(crate) engines: Engine,
    pub(crate) now_ms: u64,
    /// What waits for a worker.
    pub(crate) work: BTreeMap<(String, StepIx), Work>,
    timers: BTreeMap<(String, Option<StepIx>), u64>,
    commands: VecDeque<(String, Command)>,
    pub(crate) published: Vec<(String, Value)>,
    /// Runs in the order of their start.
    pub(crate) started: Vec<String>,
    rows: BTreeMap<String, Rows>,
    /// Answers are held back until [`World::pump`].
    pub(crate) by_hand: bool,
    /// Rows looked at and written, over all events.
    pub(crate) looked_at: u64,
    /// Every event of every run, to be played again.
    pub(crate) log: Vec<(String, Moment, Event)>,
    pub(crate) starts: BTreeMap<String, (Moment, Start)>,
}

impl World {
    pub(crate) fn define_task(&mut self, definition: Value) {
        definition::TaskDef::parse(&definition).expect("a good task definition");
        self.registry.tasks.insert(definition["name"].as_str().expect("a name").to_owned(), definition);
    }

    /// A task definition by its retries, with no delay.
    pub(crate) fn task(&mut self, name: &str, retries: u32) {
        self.define_task(json!({"name": name, "retryCount": retries, "retryDelaySeconds": 0, "timeoutSeconds": 120,
            "responseTimeoutSeconds": 120, "timeoutPolicy": "RETRY"}));
    }

    pub(crate) fn register(&mut self, json: Value) -> Result<(), String> {
        let definition = Definition::parse(&json).map_err(|refused| refused.to_string())?.value;
        self.definitions.entry(definition.name).or_default().insert(definition.version, json);
        Ok(())
    }

    fn plan(&self, name: &str, version: Option<u32>) -> Option<Arc<Plan>> {
        let versions = self.definitions.get(name)?;
        let json = match version {
            Some(version) => versions.get(&version)?,
            None => versions.values().next_back()?,
        };
        self.compile(json.clone()).ok()
    }

    fn compile(&self, mut json: Value) -> Result<Arc<Plan>, String> {
        definition::populate(&mut json, &|name| self.registry.task_definition(name));
        let accepted = Definition::parse(&json).map_err(|refused| refused.to_string())?;
        Ok(Arc::new(Plan::of(accepted.value)))
    }

    pub(crate) fn start(&mut self, name: &str, input: Value) -> String {
        let plan = self.plan(name, None).unwrap_or_else(|| panic!("{name} is registered"));
        let id = format!("r{}", self.started.len());
        self.start_run(id.clone(), plan, input, None);
        self.pump();
        id
    }

    pub(crate) fn start_plan(&mut self, id: String, plan: Arc<Plan>, input: Value) {
        self.start_run(id, plan, input, None);
        self.pump();
    }

    fn start_run(&mut self, id: String, plan: Arc<Plan>, input: Value, parent: Option<ParentStep>) {
        let given = input.as_object().cloned().unwrap_or_default();
        let input = evaluate::run_input(&plan, given, &self.memory).expect("memory stores");
        let variables = Value::Object(plan.settings.variables.clone());
        let variables = (variables != json!({})).then(|| self.memory.put(&variables).expect("memory stores"));
        let start = Start { id: id.clone(), plan, input, variables, correlation: None, parent };
        let mut out = Effects::default();
        let moment = self.moment();
        let run = Run::start(moment, start.clone(), &mut out);
        self.starts.insert(id.clone(), (moment, start));
        self.runs.insert(id.clone(), run);
        self.started.push(id.clone());
        self.take(&id, out);
    }

    fn moment(&self) -> Moment {
        Moment { ms: self.now_ms, jitter: 7 }
    }

    /// Tells a run an event and does what comes of it.
    pub(crate) fn tell(&mut self, id: &str, event: Event) -> Result<Outcome, Refused> {
        let outcome = self.apply(id, event);
        self.pump();
        outcome
    }

    fn apply(&mut self, id: &str, event: Event) -> Result<Outcome, Refused> {
        let moment = self.moment();
        let Some(run) = self.runs.get_mut(id) else { return Ok(Outcome::Ignored("no such run")) };
        let mut out = Effects::default();
        self.log.push((id.to_owned(), moment, event.clone()));
        let outcome = run.apply(moment, event, &mut out);
        self.take(id, out);
        outcome
    }

    /// Stores what an event wrote, and checks that it is all there is.
    fn take(&mut self, id: &str, mut out: Effects) {
        let run = &self.runs[id];
        let rows = self.rows.entry(id.to_owned()).or_default();
        if out.run {
            rows.run = Some(run.row().clone());
        }
        if out.parts_removed {
            rows.parts.clear();
        }
        for step in &out.removed {
            rows.steps.remove(step);
        }
        for step in &out.steps {
            rows.steps.insert(*step, run.step(*step).expect("written rows are there").clone());
        }
        for part in &out.parts {
            rows.parts.insert(*part, run.parts()[*part as usize - 1].clone());
        }
        self.looked_at += out.looked_at;
        let commands = out.take_commands();
        self.commands.extend(commands.into_iter().map(|command| (id.to_owned(), command)));
    }

    /// Does what a run wants once more.
    pub(crate) fn give(&mut self, id: &str, out: Effects) {
        self.take(id, out);
        self.pump();
    }

    /// Compares the rows that were written with the run, and makes the run anew from them.
    pub(crate) fn reload(&mut self, id: &str) {
        let run = &self.runs[id];
        run.check().unwrap_or_else(|what| panic!("{id}: {what}\n{}", self.show(id)));
        let rows = &self.rows[id];
        assert_eq!(rows.run.as_ref(), Some(run.row()), "{id}: the run's row");
        assert!(rows.steps.values().eq(run.steps()), "{id}: the steps' rows");
        let text = serde_json::to_string(&rows.steps.values().collect::<Vec<_>>()).expect("rows are JSON");
        let steps: Vec<StepRow> = serde_json::from_str(&text).expect("rows come back");
        let mut plans = vec![Arc::clone(&run.plans()[0])];
        for part in rows.parts.values() {
            let tasks = self.memory.get(&part.tasks).expect("the part's tasks are stored");
            let tasks = Task::parse_list(tasks.as_array().expect("a list")).expect("they were read before").value;
            plans.push(Arc::new(Plan::of_branches(tasks, part.depth)));
        }
        assert!(plans.iter().eq(run.plans()), "{id}: the plans");
        let row = serde_json::from_str(&serde_json::to_string(run.row()).expect("JSON")).expect("it comes back");
        let again = Run::load(row, steps, rows.parts.values().cloned().collect(), plans).expect("rows belong together");
        assert_eq!(again.check(), Ok(()));
        self.runs.insert(id.to_owned(), again);
    }

    /// Does everything that is to be done.
    pub(crate) fn pump(&mut self) {
        while !self.by_hand && self.step_once() {}
        let touched: BTreeSet<_> = self.runs.keys().cloned().collect();
        if self.runs.values().map(|run| run.steps().count()).sum::<usize>() < 500 {
            touched.iter().for_each(|id| self.reload(id));
        }
    }

    /// Does the next command. Whether there was one.
    pub(crate) fn step_once(&mut self) -> bool {
        let Some((id, command)) = self.commands.pop_front() else { return false };
        self.execute(&id, command);
        true
    }

    pub(crate) fn waiting_commands(&self) -> usize {
        self.commands.len()
    }

    /// Puts the command at `index` first.
    pub(crate) fn pull_forward(&mut self, index: usize) {
        if let Some(command) = self.commands.remove(index) {
            self.commands.push_front(command);
        }
    }

    fn execute(&mut self, id: &str, command: Command) {
        match command {
            Command::Evaluate(question) => {
                let part = question.node.map_or(0, |node| node.part);
                let plan = self.runs[id].plans().get(part as usize).cloned();
                let Some(plan) = plan else { return };
                let tools = Tools { bodies: &self.memory, scripts: &*self.engines.0, registry: &self.registry };
                let answer = evaluate::answer(&question, &plan, tools);
                let event = Event::Evaluated { step: question.step, ticket: question.ticket, answer };
                self.apply(id, event).expect("answers are not refused");
            }
            Command::Schedule(work) => {
                self.work.insert((id.to_owned(), work.step), *work);
            }
            Command::Cancel { step } => {
                self.work.remove(&(id.to_owned(), step));
            }
            Command::StartChild { step, run, start } => {
                let parent = ParentStep { run: id.to_owned(), step };
                self.start_child(id, step, run, &start, Some(parent));
            }
            Command::StartRun { step, run, start } => match step {
                Some(step) => self.start_child(id, step, run, &start, None),
                None => {
                    if let Some(plan) = self.plan(&start.name, start.version) {
                        let input =
                            start.input.map_or(json!({}), |h| self.memory.get(&h).expect("stored").as_ref().clone());
                        self.start_run(run, plan, input, None);
                    }
                }
            },
            Command::CancelChild { run, reason } => {
                let _ = self.apply(&run, Event::Terminate { reason: Some(reason), tell: false });
            }
            Command::RetryChild { step, run } => {
                if let Err(refused) = self.apply(&run, Event::Revive) {
                    let _ = self.apply(id, Event::ChildRefused { step, reason: refused.to_string() });
                }
            }
            Command::Publish { event, payload, .. } => {
                let payload = self.memory.get(&payload).expect("stored").as_ref().clone();
                self.published.push((event, payload));
            }
            Command::Arm { step, due_ms } => {
                self.timers.insert((id.to_owned(), step), due_ms);
            }
            Command::Disarm { step } => {
                self.timers.remove(&(id.to_owned(), step));
            }
            Command::TellParent { parent, end } => {
                let _ = self.apply(&parent.run, Event::ChildEnded { step: parent.step, end });
            }
            Command::TellReopened { parent, era } => {
                let _ = self.apply(&parent.run, Event::ChildReopened { step: parent.step, era });
            }
            Command::Ended(_) => {}
        }
    }

    fn start_child(
        &mut self,
        id: &str,
        step: StepIx,
        run: String,
        start: &evaluate::ChildStart,
        parent: Option<ParentStep>,
    ) {
        if !self.runs.contains_key(&run) {
            let plan = match &start.definition {
                Some(handle) => self.compile(self.memory.get(handle).expect("stored").as_ref().clone()).ok(),
                None => self.plan(&start.name, start.version),
            };
            let Some(plan) = plan else {
                let reason = format!("workflow {:?} is not registered", start.name);
                let _ = self.apply(id, Event::ChildRefused { step, reason });
                return;
            };
            let input =
                start.input.map_or(json!({}), |handle| self.memory.get(&handle).expect("stored").as_ref().clone());
            self.start_run(run, plan, input, parent);
        }
        let _ = self.apply(id, Event::ChildStarted { step });
    }

    /// Moves time, firing what comes due.
    pub(crate) fn pass_ms(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        while let Some((key, due)) =
            self.timers.iter().min_by_key(|(_, due)| **due).map(|(key, due)| (key.clone(), *due))
        {
            if due > until {
                break;
            }
            self.now_ms = self.now_ms.max(due);
            self.timers.remove(&key);
            let _ = self.apply(&key.0, Event::TimerDue { step: key.1 });
            self.pump();
        }
        self.now_ms = until;
    }

    /// Ends the oldest scheduled task of a name.
    pub(crate) fn end(&mut self, name: &str, status: TaskStatus, output: Value) -> bool {
        let found = self.work.iter().find(|(_, work)| work.name == name).map(|(key, _)| key.clone());
        found.is_some_and(|(run, step)| self.end_step(&run, step, status, output))
    }

    pub(crate) fn end_step(&mut self, run: &str, step: StepIx, status: TaskStatus, output: Value) -> bool {
        if self.work.remove(&(run.to_owned(), step)).is_none() {
            return false;
        }
        let output = (output != json!({})).then(|| self.memory.put(&output).expect("memory stores"));
        let reason = (status != TaskStatus::Completed).then(|| "it was told to".to_owned());
        let _ = self.apply(run, Event::Started { step, worker: Some("w".to_owned()) });
        let end = TaskEnd { status, output, reason, by_policy: status == TaskStatus::TimedOut };
        self.tell(run, Event::TaskEnded { step, end }).expect("ends are not refused");
        true
    }

    pub(crate) fn complete(&mut self, name: &str, output: Value) {
        assert!(self.end(name, TaskStatus::Completed, output), "{name} is not scheduled: {:?}", self.work.keys());
    }

    pub(crate) fn fail(&mut self, name: &str) {
        assert!(self.end(name, TaskStatus::Failed, json!({})), "{name} is not scheduled: {:?}", self.work.keys());
    }

    pub(crate) fn status(&self, id: &str) -> RunStatus {
        self.runs[id].row().status
    }

    pub(crate) fn output(&self, id: &str) -> Value {
        self.body(self.runs[id].row().output)
    }

    pub(crate) fn variables(&self, id: &str) -> Value {
        self.body(self.runs[id].row().variables)
    }

    pub(crate) fn body(&self, handle: Option<Handle>) -> Value {
        handle.map_or(Value::Object(Map::new()), |handle| self.memory.get(&handle).expect("stored").as_ref().clone())
    }

    /// The output of a task by its full reference.
    pub(crate) fn task_output(&self, id: &str, reference: &str) -> Value {
        let run = &self.runs[id];
        let step = run.shown().into_iter().rfind(|step| run.full_reference(step) == reference);
        self.body(step.unwrap_or_else(|| panic!("{reference} shows: {}", self.show(id))).output)
    }

    /// `RUNNING: a:COMPLETED b:SCHEDULED`, by reference names.
    pub(crate) fn show(&self, id: &str) -> String {
        let run = &self.runs[id];
        let steps =
            run.shown().into_iter().map(|step| format!(" {}:{}", run.full_reference(step), step.status.as_str()));
        format!("{}:{}", run.row().status.as_str(), steps.collect::<String>())
    }
}
