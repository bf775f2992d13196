//! What can be wrong with a definition whose every field is well formed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::reader::Reader;
use super::{Definition, DoWhile, Kind, SubWorkflow, Task};
use crate::evaluate::CHILDREN;
use crate::expression::{self, Template};

/// Checks a definition.
pub(super) fn workflow(reader: &mut Reader, definition: &Definition) {
    inner(reader, definition, "$");
}

/// Checks a definition that lies at `path` of another.
pub(super) fn inner(reader: &mut Reader, definition: &Definition, path: &str) {
    let mut checker = Checker::new(reader);
    checker.collect(&definition.tasks, &format!("{path}.tasks"));
    checker.sequence(&definition.tasks, &format!("{path}.tasks"), None);
    checker.templates(&definition.output_parameters, &format!("{path}.outputParameters"));
    if let Some(name) = &definition.failure_workflow {
        checker.template(&Value::String(name.clone()), &format!("{path}.failureWorkflow"));
    }
}

/// Checks the branches of a dynamic fork: each is a sequence of its own.
pub(super) fn branches(reader: &mut Reader, tasks: &[Task]) {
    let mut checker = Checker::new(reader);
    checker.collect(tasks, "$");
    for (index, task) in tasks.iter().enumerate() {
        checker.sequence(std::slice::from_ref(task), &format!("$[{index}]"), None);
    }
}

struct Checker<'a> {
    reader: &'a mut Reader,
    /// Reference names, and where each was first seen.
    seen: BTreeMap<String, String>,
    /// Reference names of tasks that are emitted, and of who emits them.
    emitted: BTreeMap<String, String>,
}

impl<'a> Checker<'a> {
    fn new(reader: &'a mut Reader) -> Self {
        Self { reader, seen: BTreeMap::new(), emitted: BTreeMap::new() }
    }

    fn collect(&mut self, tasks: &[Task], path: &str) {
        for (index, task) in tasks.iter().enumerate() {
            let at = format!("{path}[{index}]");
            if task.reference == "workflow" {
                self.reader
                    .fault(format!("{at}.taskReferenceName"), "\"workflow\" names the run itself; choose another name");
            }
            match self.seen.get(&task.reference) {
                Some(first) => {
                    let message =
                        format!("{:?} is used already at {first}; reference names are unique", task.reference);
                    self.reader.fault(format!("{at}.taskReferenceName"), message);
                }
                None => {
                    self.seen.insert(task.reference.clone(), at.clone());
                }
            }
            for (path, list) in lists(task, &at) {
                self.collect(list, &path);
            }
        }
    }

    /// `after`: what follows the whole sequence where it lies.
    fn sequence(&mut self, tasks: &[Task], path: &str, after: Option<&Task>) {
        for (index, task) in tasks.iter().enumerate() {
            let at = format!("{path}[{index}]");
            let next = tasks.get(index + 1).or(after);
            self.task(task, &at, next);
            let follows = matches!(task.kind, Kind::Switch(_)).then_some(next).flatten();
            for (path, list) in lists(task, &at) {
                self.sequence(list, &path, follows);
            }
        }
    }

    fn task(&mut self, task: &Task, at: &str, next: Option<&Task>) {
        self.templates(&task.input, &format!("{at}.inputParameters"));
        for (path, message) in super::literals::faults(task, at) {
            self.reader.fault(path, message);
        }
        if !task.emits.is_empty() {
            self.emits(task, at, next);
        }
        match &task.kind {
            Kind::Fork { .. } | Kind::DynamicFork(_) if !next.is_some_and(|n| matches!(n.kind, Kind::Join { .. })) => {
                let message = format!("{} is not followed by a JOIN; add one right after it", task.kind.type_name());
                self.reader.fault(at, message);
            }
            Kind::Join { on } => {
                self.references(on, at, "joinOn");
                self.not_emitted(on, at);
            }
            Kind::ExclusiveJoin { on, default } => {
                self.references(on, at, "joinOn");
                self.references(default, at, "defaultExclusiveJoinTask");
            }
            Kind::DoWhile(looped) => self.do_while(looped, at),
            Kind::SubWorkflow(sub) => self.sub_workflow(sub, at),
            Kind::Event { sink } if sink != "conductor" && !sink.starts_with("conductor:") => {
                let message = format!("{sink:?} is not supported; use \"conductor\" or \"conductor:NAME\"");
                self.reader.fault(format!("{at}.sink"), message);
            }
            Kind::Http if !is_given(task, &["http_request", "uri"]) => self.missing(at, "http_request", "HTTP"),
            Kind::Jq if !is_given(task, &["queryExpression"]) => {
                self.missing(at, "queryExpression", "JSON_JQ_TRANSFORM")
            }
            Kind::Lambda if !is_given(task, &["scriptExpression"]) => self.missing(at, "scriptExpression", "LAMBDA"),
            Kind::Inline => self.inline(task, at),
            Kind::Terminate => self.terminate(task, at),
            Kind::Wait => self.wait(task, at),
            Kind::Dynamic { param } if !task.input.contains_key(param) => self.missing(at, param, "DYNAMIC"),
            _ => {}
        }
    }

    fn missing(&mut self, at: &str, key: &str, kind: &str) {
        self.reader.fault(format!("{at}.inputParameters.{key}"), format!("is missing; a {kind} needs it"));
    }

    fn references(&mut self, names: &[String], at: &str, key: &str) {
        let mut met = BTreeSet::new();
        for (index, name) in names.iter().enumerate() {
            if !self.seen.contains_key(name) {
                let message = format!("{name:?} is no task of this workflow; name a taskReferenceName");
                self.reader.fault(format!("{at}.{key}[{index}]"), message);
            } else if !met.insert(name) {
                self.reader.note(format!("{at}.{key}[{index}]"), format!("{name:?} is listed twice"));
            }
        }
    }

    /// A task that emits children: what they may be, and who joins them.
    fn emits(&mut self, task: &Task, at: &str, next: Option<&Task>) {
        if !matches!(task.kind, Kind::Simple) {
            let message = format!("a {} runs nothing that could emit; only a SIMPLE task can", task.kind.type_name());
            self.reader.fault(format!("{at}.emits"), message);
        }
        let joins = |next: &Task| matches!(&next.kind, Kind::Join { on } if on.contains(&task.reference));
        if !next.is_some_and(joins) {
            let message = format!(
                "what it emits is joined by nobody; add a JOIN right after it, with joinOn {:?}",
                [&task.reference]
            );
            self.reader.fault(at, message);
        }
        let mut names = BTreeSet::new();
        for (index, child) in task.emits.iter().enumerate() {
            let at = format!("{at}.emits[{index}]");
            if !matches!(child.kind, Kind::Simple | Kind::Http | Kind::SubWorkflow(_)) {
                let message = format!(
                    "a {} cannot be emitted; use SIMPLE, HTTP or SUB_WORKFLOW, which may hold it",
                    child.kind.type_name()
                );
                self.reader.fault(format!("{at}.type"), message);
            }
            if !child.emits.is_empty() {
                let message = "what is emitted cannot emit; emit a SUB_WORKFLOW, in which it can";
                self.reader.fault(format!("{at}.emits"), message);
            }
            if !names.insert(&child.name) {
                let message = format!("{:?} is listed twice; a child is named by its task's name", child.name);
                self.reader.fault(format!("{at}.name"), message);
            }
            self.emitted.insert(child.reference.clone(), task.reference.clone());
        }
    }

    /// How many children there will be is known to the join of their parent alone.
    fn not_emitted(&mut self, names: &[String], at: &str) {
        for (index, name) in names.iter().enumerate() {
            if let Some(parent) = self.emitted.get(name) {
                let message =
                    format!("{name:?} is emitted by {parent:?}; name {parent:?}, which stands for all of them");
                self.reader.fault(format!("{at}.joinOn[{index}]"), message);
            } else if name == CHILDREN && names.iter().any(|name| self.emitted.values().any(|parent| parent == name)) {
                let message = "is where the outputs of children are found; give the task another reference name";
                self.reader.fault(format!("{at}.joinOn[{index}]"), message);
            }
        }
    }

    fn do_while(&mut self, looped: &DoWhile<Vec<Task>>, at: &str) {
        if looped.body.is_empty() {
            self.reader.fault(format!("{at}.loopOver"), "a DO_WHILE has at least one task");
        }
        match &looped.items {
            Some(items) => self.template(items, &format!("{at}.items")),
            None if looped.condition.is_none() => {
                self.reader
                    .fault(format!("{at}.loopCondition"), "is missing; give a condition, or items to go through");
            }
            None => {}
        }
    }

    fn sub_workflow(&mut self, sub: &SubWorkflow, at: &str) {
        let at = format!("{at}.subWorkflowParam");
        if let Some(name) = &sub.name {
            self.template(&Value::String(name.clone()), &format!("{at}.name"));
        }
        for (key, value) in [("version", &sub.version), ("priority", &sub.priority)] {
            if let Some(value) = value {
                self.template(value, &format!("{at}.{key}"));
            }
        }
        if let Some(text @ Value::String(_)) = &sub.definition {
            self.template(text, &format!("{at}.workflowDefinition"));
        }
    }

    fn inline(&mut self, task: &Task, at: &str) {
        if !is_given(task, &["expression"]) {
            self.missing(at, "expression", "INLINE");
        }
        match task.input.get("evaluatorType").and_then(Value::as_str) {
            None | Some("javascript" | "graaljs" | "value-param") => {}
            Some(text) if text.contains("${") => {}
            Some(other) => {
                let message = format!("{other:?} is not supported; use javascript or value-param");
                self.reader.fault(format!("{at}.inputParameters.evaluatorType"), message);
            }
        }
    }

    fn terminate(&mut self, task: &Task, at: &str) {
        match task.input.get("terminationStatus").and_then(Value::as_str) {
            Some("COMPLETED" | "FAILED" | "TERMINATED") => {}
            Some(text) if text.contains("${") => {}
            None if is_given(task, &["terminationStatus"]) => {}
            found => {
                let found = found.map_or("is missing".to_owned(), |found| format!("{found:?} is not known"));
                let at = format!("{at}.inputParameters.terminationStatus");
                self.reader.fault(at, format!("{found}; use COMPLETED, FAILED or TERMINATED"));
            }
        }
    }

    fn wait(&mut self, task: &Task, at: &str) {
        let given = |key| task.input.get(key).is_some_and(|value| !value.is_null() && value != "");
        if given("duration") && given("until") {
            self.reader.fault(format!("{at}.inputParameters.until"), "a WAIT has a duration or an until, not both");
        }
        for key in ["duration", "until"] {
            if let Some(Value::String(text)) = task.input.get(key).filter(|text| !text.to_string().contains("${"))
                && let Err(error) = crate::evaluate::check_wait(key, text)
            {
                self.reader.fault(format!("{at}.inputParameters.{key}"), error);
            }
        }
    }

    fn templates(&mut self, map: &Map<String, Value>, path: &str) {
        for (key, value) in map {
            self.template(value, &format!("{path}.{key}"));
        }
    }

    fn template(&mut self, value: &Value, path: &str) {
        match Template::parse(value) {
            Err(error) => self.reader.fault(path, error.to_string()),
            Ok(template) => {
                for root in template.roots() {
                    if root != "workflow" && !expression::is_system(root) && !self.is_task(root) {
                        let message = format!(
                            "{root:?} is no task of this workflow: null unless a task of that name is made by a dynamic fork"
                        );
                        self.reader.note(path, message);
                    }
                }
            }
        }
    }

    fn is_task(&self, root: &str) -> bool {
        self.seen.contains_key(root) || expression::base(root).is_some_and(|(base, _)| self.seen.contains_key(base))
    }
}

/// Whether the input, or the template of the task's definition, has one of the keys.
fn is_given(task: &Task, keys: &[&str]) -> bool {
    let template = task.definition.as_ref().map(|definition| &definition.input_template);
    keys.iter().any(|key| task.input.contains_key(*key) || template.is_some_and(|template| template.contains_key(*key)))
}

/// The sequences that a task holds, each with its path.
fn lists<'t>(task: &'t Task, at: &str) -> Vec<(String, &'t [Task])> {
    match &task.kind {
        Kind::Switch(switch) => {
            let cases =
                switch.cases.iter().map(|(case, list)| (format!("{at}.decisionCases['{case}']"), list.as_slice()));
            cases.chain([(format!("{at}.defaultCase"), switch.default.as_slice())]).collect()
        }
        Kind::Fork { branches } => {
            branches.iter().enumerate().map(|(i, list)| (format!("{at}.forkTasks[{i}]"), list.as_slice())).collect()
        }
        Kind::DoWhile(looped) => vec![(format!("{at}.loopOver"), looped.body.as_slice())],
        _ if !task.emits.is_empty() => vec![(format!("{at}.emits"), task.emits.as_slice())],
        _ => Vec::new(),
    }
}
