//! Definitions laid out: of a run's start, of a child's, and of what a run made for itself.

use super::stock::{Stock, stored};
use super::template;
use crate::machine::{PayloadHandle, Prepared, Templates};
use bytes::Bytes;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use workflow::definition::{self, Definition, Task};
use workflow::evaluate::{self, Bodies as _, ChildStart, Registry as _};
use workflow::plan::Plan;

/// Plans kept: whoever starts the same workflow again and again lays it out once, and its runs share the plan. Twice as many would be
/// some megabytes more.
const KEPT: usize = 128;

/// A plan with the tasks of ours that it names.
#[derive(Debug, Clone)]
pub(super) struct Laid {
    pub plan: Arc<Plan>,
    pub templates: Arc<Templates>,
    /// The specs of those tasks.
    pub bodies: Arc<[(PayloadHandle, Bytes)]>,
}

/// Plans that were laid out lately, by their definitions.
#[derive(Debug, Default)]
pub(in super::super) struct Plans {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    plans: BTreeMap<PayloadHandle, Laid>,
    oldest_first: VecDeque<PayloadHandle>,
}

impl Plans {
    fn get(&self, handle: &PayloadHandle) -> Option<Laid> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).plans.get(handle).cloned()
    }

    fn keep(&self, handle: PayloadHandle, laid: Laid) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.plans.insert(handle, laid).is_none() {
            kept.oldest_first.push_back(handle);
        }
        if kept.oldest_first.len() > KEPT
            && let Some(oldest) = kept.oldest_first.pop_front()
        {
            kept.plans.remove(&oldest);
        }
    }

    /// A whole definition, its task definitions filled in, by what it is stored under.
    pub(super) fn of_definition(&self, handle: PayloadHandle, json: &Value) -> Result<Laid, String> {
        if let Some(laid) = self.get(&handle) {
            return Ok(laid);
        }
        let definition = Definition::parse(json).map_err(|refused| refused.to_string())?;
        let laid = lay(Plan::of(definition.value))?;
        self.keep(handle, laid.clone());
        Ok(laid)
    }

    /// Tasks that a run made for itself.
    pub(super) fn of_tasks(tasks: &Value, depth: u32) -> Result<Laid, String> {
        let list = tasks.as_array().ok_or("the tasks of a part are no list")?;
        let tasks = Task::parse_list(list).map_err(|refused| refused.to_string())?;
        lay(Plan::of_branches(tasks.value, depth))
    }
}

fn lay(plan: Plan) -> Result<Laid, String> {
    of_plan(Arc::new(plan))
}

/// A plan with the tasks of ours that it names.
///
/// # Errors
/// One cannot be used, or two task definitions of one name differ.
pub(super) fn of_plan(plan: Arc<Plan>) -> Result<Laid, String> {
    let (templates, bodies) = template::of_plan(&plan)?;
    Ok(Laid { plan, templates: Arc::new(templates), bodies: bodies.into() })
}

/// What a run of a definition is started with.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    pub name: String,
    /// None: the latest.
    pub version: Option<u32>,
    /// A definition of its own, instead of a registered one.
    pub definition: Option<Value>,
    pub input: Map<String, Value>,
    pub correlation: Option<String>,
    pub priority: i32,
}

/// Reads and lays out what a run needs; bodies that are not stored yet are left in the stock.
///
/// # Errors
/// There is no such definition, or it cannot run; for the user.
pub(super) fn start(plans: &Plans, stock: &Stock<'_>, wanted: Wanted) -> Result<Prepared, String> {
    let mut json = match wanted.definition {
        Some(json) => json,
        None => registered(stock, &wanted.name, wanted.version)?,
    };
    definition::populate(&mut json, &|name| stock.task_definition(name));
    let (handle, body) = stored(&json);
    let laid = plans.of_definition(handle.0, &json)?;
    stock.add([(handle.0, body)]);
    stock.add(laid.bodies.iter().cloned());
    let input = evaluate::run_input(&laid.plan, wanted.input, stock)?;
    let variables = &laid.plan.settings.variables;
    let variables = if variables.is_empty() { None } else { Some(stock.put(&Value::Object(variables.clone()))?) };
    Ok(Prepared {
        plan: laid.plan,
        templates: laid.templates,
        definition: handle.0,
        input,
        variables,
        correlation: wanted.correlation,
        priority: wanted.priority,
    })
}

/// A registered definition, with its version in it.
fn registered(stock: &Stock<'_>, name: &str, version: Option<u32>) -> Result<Value, String> {
    let row = stock.read(|reader| reader.definition(name, version))?;
    let row = row.ok_or_else(|| match version {
        None => format!("no workflow {name:?} is registered; `informer workflow put` registers one"),
        Some(version) => format!("workflow {name:?} has no version {version}; `informer workflow list` shows all"),
    })?;
    versioned(&row).ok_or_else(|| format!("the definition of {name:?} cannot be read"))
}

/// A definition's JSON with its version.
pub(super) fn versioned(row: &proto::store::DefinitionRow) -> Option<Value> {
    let mut json: Value = serde_json::from_slice(&row.json).ok()?;
    json.as_object_mut()?.insert("version".to_owned(), row.version.into());
    Some(json)
}

/// The same for a run that another one wants.
///
/// # Errors
/// There is no such definition, or it cannot run.
pub(super) fn child(plans: &Plans, stock: &Stock<'_>, start: &ChildStart) -> Result<Prepared, String> {
    let object = |handle: Option<evaluate::Handle>| match handle {
        None => Ok(Map::new()),
        Some(handle) => match &*stock.get(&handle)? {
            Value::Object(object) => Ok(object.clone()),
            _ => Err("the input of a workflow is an object".to_owned()),
        },
    };
    let definition = start.definition.map(|handle| stock.get(&handle)).transpose()?;
    let wanted = Wanted {
        name: start.name.clone(),
        version: start.version,
        definition: definition.map(|definition| definition.as_ref().clone()),
        input: object(start.input)?,
        correlation: start.correlation.clone(),
        priority: start.priority.and_then(|priority| i32::try_from(priority).ok()).unwrap_or(0),
    };
    self::start(plans, stock, wanted)
}
