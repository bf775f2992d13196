//! What the simulated store keeps of workflows, and what reads it: definitions, runs, bodies by their names.

use super::super::judge::{Check, Wrong, wrong};
use bytes::Bytes;
use informer::machine::{Batch, PayloadHandle, Prepared, RunId, RunKeyHit, StoredRun, Template, Templates};
use proto::id::TaskId;
use proto::store::{DefinitionRow, RunRow, TaskDefinitionRow};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use workflow::definition::{self, Definition, Task};
use workflow::evaluate::{self, Bodies as _, ChildStart, Handle, Registry, Scripts};
use workflow::plan::Plan;
use workflow::run::{PartRow, Run, StepIx, StepRow};

/// Bodies by their names, on their way to the store.
pub(in super::super) type Bodies = Vec<(PayloadHandle, Bytes)>;

/// One run.
#[derive(Debug, Default, Clone)]
pub(in super::super) struct Rows {
    pub row: RunRow,
    pub steps: BTreeMap<StepIx, StepRow>,
    pub parts: BTreeMap<u32, PartRow>,
}

/// Everything.
#[derive(Debug, Default, Clone)]
pub(in super::super) struct FlowRows {
    pub definitions: BTreeMap<(String, u32), DefinitionRow>,
    pub tasks: BTreeMap<String, TaskDefinitionRow>,
    pub runs: BTreeMap<String, Rows>,
    pub keys: BTreeMap<String, RunKeyHit>,
    /// The task that does a step's work.
    pub work: BTreeMap<(String, StepIx), TaskId>,
    bodies: BTreeMap<PayloadHandle, Rc<Value>>,
}

/// What a run's own row says.
pub(in super::super) fn own(row: &RunRow) -> Option<workflow::run::RunRow> {
    serde_json::from_slice(&row.body).ok()
}

/// It wants something yet.
pub(in super::super) fn is_live(row: &RunRow) -> bool {
    own(row).is_some_and(|own| !own.status.is_ended()) || !row.pending_start.is_empty()
}

impl FlowRows {
    pub(in super::super) fn step(&self, run: &str, step: StepIx) -> Option<&StepRow> {
        self.runs.get(run)?.steps.get(&step)
    }

    /// Writes a batch, and the bodies that came with it.
    ///
    /// # Errors
    /// What of it cannot be.
    pub(in super::super) fn commit(&mut self, batch: &Batch, bodies: &Bodies) -> Result<(), Wrong> {
        for (handle, body) in batch.bodies.iter().chain(bodies) {
            // Specs of registered types are no JSON, and nobody here reads them.
            if let Ok(value) = serde_json::from_slice(body) {
                self.bodies.insert(*handle, Rc::new(value));
            }
        }
        for row in &batch.definitions {
            let key = (row.name.clone(), row.version);
            if row.deleted {
                self.definitions.remove(&key)
            } else {
                self.definitions.insert(key, row.clone())
            };
        }
        for row in &batch.task_definitions {
            self.tasks.insert(row.name.clone(), row.clone());
        }
        for change in &batch.runs {
            let id = change.id.to_string();
            if change.fresh == self.runs.contains_key(&id) {
                return wrong(Check::RunsConsistent, format!("the row of run {id} is missing, or already there"));
            }
            let rows = self.runs.entry(id).or_default();
            if let Some(row) = &change.row {
                rows.row = row.clone();
            }
            if change.parts_removed {
                rows.parts.clear();
            }
            change.removed.iter().for_each(|step| drop(rows.steps.remove(step)));
            rows.steps.extend(change.steps.iter().map(|step| (step.step, step.clone())));
            rows.parts.extend(change.parts.iter().map(|part| (part.part, part.clone())));
            if let Some(handle) =
                change.holds.iter().find(|handle| !self.bodies.contains_key(*handle) && !is_spec(handle))
            {
                let what = format!("run {} names a body that nobody has stored: {}", change.id, handle[0]);
                return wrong(Check::RunsConsistent, what);
            }
            let Some(row) = change.row.as_ref().filter(|row| change.fresh && !row.key.is_empty()) else { continue };
            let digest = row.key_digest.as_slice().try_into().unwrap_or_default();
            let hit = RunKeyHit { run: Arc::clone(&change.id), digest };
            if let Some(other) = self.keys.insert(row.key.clone(), hit) {
                let what = format!("key {} means run {} and run {}", row.key, other.run, change.id);
                return wrong(Check::OneKeyOneRun, what);
            }
        }
        for change in &batch.tasks {
            let Some(of_run) = &change.row.of_run else { continue };
            let Some(task) = TaskId::from_bytes(&change.row.id) else { continue };
            let known = *self.work.entry((of_run.run.clone(), of_run.step)).or_insert(task);
            if known != task {
                let what = format!("step {} of run {} has the tasks {known} and {task}", of_run.step, of_run.run);
                return wrong(Check::StepOnce, what);
            }
        }
        Ok(())
    }

    pub(in super::super) fn body(&self, handle: Option<Handle>) -> Value {
        handle
            .map_or_else(|| json!({}), |handle| self.bodies.get(&handle.0).map_or(Value::Null, |body| (**body).clone()))
    }

    /// The latest version of a definition, or that one.
    fn definition(&self, name: &str, version: Option<u32>) -> Option<Value> {
        let (from, to) = version.map_or((0, u32::MAX), |version| (version, version));
        let (_, row) = self.definitions.range((name.to_owned(), from)..=(name.to_owned(), to)).next_back()?;
        let mut json: Value = serde_json::from_slice(&row.json).ok()?;
        json["version"] = json!(row.version);
        Some(json)
    }

    /// A run as the store has it.
    pub(in super::super) fn stored(&self, id: &str) -> Result<Option<StoredRun>, String> {
        let Some(rows) = self.runs.get(id) else { return Ok(None) };
        let own = own(&rows.row).ok_or("a run's row is none")?;
        let handle = rows.row.definition.as_slice().try_into().map_err(|_| "it names no definition")?;
        let json = self.bodies.get::<PayloadHandle>(&handle).ok_or("its definition is not stored")?;
        let plan = Plan::of(Definition::parse(json).map_err(|refused| refused.to_string())?.value);
        let mut plans = vec![Arc::new(plan)];
        for part in rows.parts.values() {
            let tasks = self.bodies.get(&part.tasks.0).ok_or("a part is not stored")?;
            let list = Task::parse_list(tasks.as_array().ok_or("a part is a list")?);
            let list = list.map_err(|refused| refused.to_string())?.value;
            plans.push(Arc::new(Plan::of_branches(list, part.depth)));
        }
        let templates = plans.iter().map(|plan| Arc::new(templates(plan))).collect();
        let (steps, parts) = (rows.steps.values().cloned(), rows.parts.values().cloned().collect());
        let run = Run::load(own, steps, parts, plans).map_err(|error| error.to_string())?;
        Ok(Some(StoredRun { row: rows.row.clone(), run: Box::new(run), templates }))
    }

    /// Those that a start loads.
    pub(in super::super) fn live(&self) -> Result<Vec<StoredRun>, String> {
        let live = self.runs.iter().filter(|(_, rows)| is_live(&rows.row));
        live.filter_map(|(id, _)| self.stored(id).transpose()).collect()
    }

    /// The run that this one was started by, with the step.
    pub(in super::super) fn starter<'r>(&self, run: &'r str) -> Option<(&'r str, Option<StepIx>)> {
        let (by, step) = run.rsplit_once('.')?;
        Some((by, step.parse().ok()))
    }
}

/// The spec of a task of ours: this world has none.
fn is_spec(handle: &PayloadHandle) -> bool {
    handle.iter().all(|byte| *byte == handle[0])
}

/// The first byte of the payloads of runs' tasks; the next are those of [`super::draw::OURS`].
pub(in super::super) const PAYLOADS: u8 = 0x60;

/// The tasks of ours in a plan.
pub(in super::super) fn templates(plan: &Plan) -> Templates {
    let ours = plan.nodes.iter().filter(|node| node.definition.as_ref().is_some_and(|known| known.task.is_some()));
    let nth = |name: &str| super::draw::OURS.iter().position(|ours| *ours == name);
    let template = |nth: usize| Template {
        payload: [PAYLOADS + u8::try_from(nth).expect("there are few"); 32],
        facts: super::work::facts(nth),
    };
    ours.filter_map(|node| Some((node.name.clone(), template(nth(&node.name)?)))).collect()
}

/// What an evaluation reads, and what it makes.
pub(in super::super) struct Stock<'a> {
    rows: &'a FlowRows,
    made: RefCell<BTreeMap<PayloadHandle, (Rc<Value>, Bytes)>>,
    /// What was to be read and is not there.
    pub missing: RefCell<Option<String>>,
}

/// A value as it is stored, and its name.
pub(in super::super) fn named(value: &Value) -> (PayloadHandle, Bytes) {
    let text = value.to_string();
    (Sha256::digest(&text).into(), Bytes::from(text))
}

impl<'a> Stock<'a> {
    pub(in super::super) fn new(rows: &'a FlowRows) -> Self {
        Self { rows, made: RefCell::default(), missing: RefCell::default() }
    }

    pub(in super::super) fn finish(self) -> Bodies {
        self.made.into_inner().into_iter().map(|(handle, (_, body))| (handle, body)).collect()
    }

    /// A run of a definition, its task definitions filled in.
    pub(in super::super) fn prepare(&self, mut json: Value, given: Map<String, Value>) -> Result<Prepared, String> {
        definition::populate(&mut json, &|name| self.task_definition(name));
        let definition = self.put(&json)?.0;
        let plan = Plan::of(Definition::parse(&json).map_err(|refused| refused.to_string())?.value);
        let input = evaluate::run_input(&plan, given, self)?;
        let templates = Arc::new(templates(&plan));
        Ok(Prepared {
            plan: Arc::new(plan),
            templates,
            definition,
            input,
            variables: None,
            correlation: None,
            priority: 0,
        })
    }

    /// The same for a registered one.
    pub(in super::super) fn prepare_named(&self, name: &str, given: Map<String, Value>) -> Result<Prepared, String> {
        let json = self.rows.definition(name, None).ok_or_else(|| format!("no workflow {name:?} is registered"))?;
        self.prepare(json, given)
    }

    pub(in super::super) fn prepare_child(&self, start: &ChildStart) -> Result<Prepared, String> {
        let given = match start.input {
            None => Map::new(),
            Some(handle) => self.get(&handle)?.as_object().cloned().unwrap_or_default(),
        };
        self.prepare_named(&start.name, given)
    }
}

impl evaluate::Bodies for Stock<'_> {
    fn get(&self, handle: &Handle) -> Result<Rc<Value>, String> {
        let made = self.made.borrow().get(&handle.0).map(|(value, _)| Rc::clone(value));
        let found = made.or_else(|| self.rows.bodies.get(&handle.0).cloned());
        found.ok_or_else(|| {
            let message = format!("{handle:?} is not stored");
            self.missing.borrow_mut().get_or_insert(message.clone());
            message
        })
    }

    fn put(&self, value: &Value) -> Result<Handle, String> {
        let (handle, body) = named(value);
        self.made.borrow_mut().insert(handle, (Rc::new(value.clone()), body));
        Ok(Handle(handle))
    }
}

impl Registry for Stock<'_> {
    fn task_definition(&self, name: &str) -> Option<Value> {
        serde_json::from_slice(&self.rows.tasks.get(name)?.json).ok()
    }
}

/// The one script of these definitions: `loop < N`, a loop's condition.
impl Scripts for Stock<'_> {
    fn javascript(&self, script: &str, input: &Value) -> Result<Value, String> {
        let (reference, rounds) = script.split_once(" < ").ok_or("no such script")?;
        let rounds: u64 = rounds.parse().map_err(|_| "no such script")?;
        let iteration = input[reference]["iteration"].as_u64().ok_or("the loop has no round")?;
        Ok(json!(iteration < rounds))
    }

    fn jq(&self, _: &str, _: &Value) -> Result<Vec<Value>, String> {
        Err("no jq here".to_owned())
    }
}

/// A run, and those that an operation on it can reach and the machine does not hold.
pub(in super::super) fn family(
    rows: &FlowRows,
    machine: &informer::machine::Machine,
    id: &RunId,
) -> Result<Vec<StoredRun>, String> {
    let (mut found, mut seen, mut left) = (Vec::new(), std::collections::BTreeSet::new(), vec![id.to_string()]);
    while let Some(id) = left.pop() {
        if !seen.insert(id.clone()) {
            continue;
        }
        if let Some(kin) = machine.kin(&id) {
            left.extend(kin);
        } else if let Some(stored) = rows.stored(&id)? {
            left.extend(informer::machine::kin(&stored.run));
            found.push(stored);
        }
    }
    Ok(found)
}
