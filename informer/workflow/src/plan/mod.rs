//! A definition laid out for running: nodes in one list, each knowing what comes after it and what it lies in.
//!
//! ```text
//!  a ─▶ fork ─▶ join ─▶ b          next:   a→fork, fork→join, join→b
//!        ├ c ─▶ d                  parent: c, d: Branch(fork); e: Branch(fork)
//!        └ e                       end:    of fork = e + 1; what a node holds lies between it and its end
//! ```
//!
//! A run begins with one plan. What is made at run time (the branches of a dynamic fork, the task a DYNAMIC names) is a plan of
//! its own, a *part* appended to the run; [`NodeId`] names part and node.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::definition::{Definition, DoWhile, Kind, Switch, Task, TaskDef};
use crate::expression::{Needs, Template};

/// A node of a run's plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeId {
    /// 0: the definition; after it the parts in the order they were appended.
    pub part: u32,
    /// The node's index.
    pub node: u32,
}

/// A compiled definition, or a compiled list of tasks.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What holds for a run as a whole; nothing in parts.
    pub settings: Settings,
    /// Every task, each before what it holds.
    pub nodes: Vec<Node>,
    /// Where it begins: one node of a definition, one for each branch of a part.
    pub roots: Vec<u32>,
    by_reference: BTreeMap<String, u32>,
    /// Task definitions by name: the branches of a fork share theirs.
    shared: BTreeMap<String, Arc<TaskDef>>,
}

/// What a definition says of its runs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// The workflow's name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// Templates of the output.
    pub output: Map<String, Value>,
    /// What the output needs.
    pub output_needs: Needs,
    /// Values for input keys left out.
    pub input_template: Map<String, Value>,
    /// The first variables.
    pub variables: Map<String, Value>,
    /// The workflow started when a run fails.
    pub failure_workflow: Option<String>,
    /// Seconds until a run times out; 0: never.
    pub timeout_s: u64,
    /// Whether runs that ended may be restarted.
    pub restartable: bool,
}

/// One task, laid out.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What is run.
    pub name: String,
    /// Its name in expressions.
    pub reference: String,
    /// Templates of its input.
    pub input: Map<String, Value>,
    /// What it is; sequences are their first nodes.
    pub kind: Kind<Option<u32>>,
    /// How it is run; Conductor's defaults for a SIMPLE task that nobody defined.
    pub definition: Option<Arc<TaskDef>>,
    /// Retries in place of the definition's.
    pub retry_count: Option<u32>,
    /// Seconds before its start.
    pub start_delay_s: u64,
    /// Its failure fails nothing.
    pub optional: bool,
    /// Its failure is told at the join.
    pub permissive: bool,
    /// Somebody else ends it.
    pub async_complete: bool,
    /// What comes after it in its own sequence.
    pub next: Option<u32>,
    /// What comes after it, also after the switches it is the last of.
    pub follow: Option<u32>,
    /// What it lies in.
    pub parent: Parent,
    /// Which of its parent's sequences it lies in.
    pub lane: u32,
    /// Its place there.
    pub position: u32,
    /// How many loops it lies in, counting what emits it as one.
    pub depth: u32,
    /// One past the last node it holds.
    pub end: u32,
    /// The joins that wait for it.
    pub joined_by: Vec<u32>,
    /// What its input, and its loop's condition, need.
    pub needs: Needs,
}

/// What a node lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// The definition.
    Root,
    /// A case of this switch.
    Case(u32),
    /// A branch of this fork.
    Branch(u32),
    /// The body of this loop.
    Body(u32),
    /// A part: the step that made it.
    Part,
    /// What this task emits. Each child is a step of the node of its own, told apart as the rounds of a loop are.
    Emitted(u32),
}

impl Plan {
    /// Lays out a definition.
    pub fn of(definition: Definition) -> Self {
        let mut output_needs = Needs::default();
        let templates = definition.output_parameters.values();
        let failure = definition.failure_workflow.clone().map(Value::String);
        templates.chain(&failure).for_each(|value| need(value, &mut output_needs));
        let mut plan = Self::empty(Settings {
            name: definition.name,
            version: definition.version,
            output: definition.output_parameters,
            output_needs,
            input_template: definition.input_template,
            variables: definition.variables,
            failure_workflow: definition.failure_workflow,
            timeout_s: definition.timeout_s,
            restartable: definition.restartable,
        });
        plan.roots = plan.sequence(definition.tasks, Parent::Root, 0, 0).into_iter().collect();
        plan.finish()
    }

    /// Lays out tasks made at run time, each a branch of its own. `depth`: the loops around them.
    pub fn of_branches(tasks: Vec<Task>, depth: u32) -> Self {
        let mut plan = Self::empty(Settings::default());
        for (lane, task) in tasks.into_iter().enumerate() {
            let lane = u32::try_from(lane).unwrap_or(u32::MAX);
            let first = plan.sequence(vec![task], Parent::Part, lane, depth);
            plan.roots.extend(first);
        }
        plan.finish()
    }

    /// The node of a reference name.
    pub fn find(&self, reference: &str) -> Option<u32> {
        self.by_reference.get(reference).copied()
    }

    /// A node by its index.
    pub fn node(&self, index: u32) -> Option<&Node> {
        self.nodes.get(usize::try_from(index).ok()?)
    }

    /// What a task may emit children of: nodes that lie in it. A task that emits holds nothing else, and what it emits holds nothing.
    pub fn emits(&self, index: u32) -> std::ops::Range<u32> {
        match self.node(index) {
            Some(Node { kind: Kind::Simple, end, .. }) => index + 1..*end,
            _ => 0..0,
        }
    }

    fn empty(settings: Settings) -> Self {
        Self { settings, nodes: Vec::new(), roots: Vec::new(), by_reference: BTreeMap::new(), shared: BTreeMap::new() }
    }

    fn len(&self) -> u32 {
        u32::try_from(self.nodes.len()).expect("definitions and dynamic forks are bounded far below u32::MAX")
    }

    fn at(&mut self, index: u32) -> &mut Node {
        &mut self.nodes[index as usize]
    }

    fn sequence(&mut self, tasks: Vec<Task>, parent: Parent, lane: u32, depth: u32) -> Option<u32> {
        let mut first = None;
        let mut last: Option<u32> = None;
        for (position, task) in (0..).zip(tasks) {
            let index = self.task(task, parent, depth);
            let node = self.at(index);
            (node.lane, node.position) = (lane, position);
            match last {
                Some(last) => self.at(last).next = Some(index),
                None => first = Some(index),
            }
            last = Some(index);
        }
        first
    }

    fn task(&mut self, task: Task, parent: Parent, depth: u32) -> u32 {
        let index = self.len();
        self.by_reference.insert(task.reference.clone(), index);
        let needs = needs(&task);
        let definition = match (&task.kind, task.definition) {
            (Kind::Simple, None) => Some(TaskDef::unregistered(&task.name)),
            (_, definition) => definition,
        };
        let definition = definition.map(|definition| self.share(definition));
        self.nodes.push(Node {
            name: task.name,
            reference: task.reference,
            input: task.input,
            kind: Kind::Simple,
            definition,
            retry_count: task.retry_count,
            start_delay_s: task.start_delay_s,
            optional: task.optional,
            permissive: task.permissive,
            async_complete: task.async_complete,
            next: None,
            follow: None,
            parent,
            lane: 0,
            position: 0,
            depth,
            end: 0,
            joined_by: Vec::new(),
            needs,
        });
        let kind = self.kind(task.kind, index, depth);
        for (lane, child) in (0..).zip(task.emits) {
            self.sequence(vec![child], Parent::Emitted(index), lane, depth + 1);
        }
        let end = self.len();
        let node = self.at(index);
        (node.kind, node.end) = (kind, end);
        index
    }

    fn share(&mut self, definition: TaskDef) -> Arc<TaskDef> {
        match self.shared.get(&definition.name) {
            Some(known) if **known == definition => Arc::clone(known),
            _ => {
                let definition = Arc::new(definition);
                self.shared.insert(definition.name.clone(), Arc::clone(&definition));
                definition
            }
        }
    }

    fn kind(&mut self, kind: Kind<Vec<Task>>, index: u32, depth: u32) -> Kind<Option<u32>> {
        match kind {
            Kind::Switch(switch) => {
                let mut lanes = 0..;
                let mut lane = || lanes.next().unwrap_or(0);
                let case = Parent::Case(index);
                let cases = switch.cases.into_iter();
                let cases = cases.map(|(name, tasks)| (name, self.sequence(tasks, case, lane(), depth))).collect();
                let default = self.sequence(switch.default, case, u32::MAX, depth);
                Kind::Switch(Switch { decision: switch.decision, on: switch.on, cases, default })
            }
            Kind::Fork { branches } => {
                let lanes = (0..).zip(branches);
                let branches =
                    lanes.map(|(lane, tasks)| self.sequence(tasks, Parent::Branch(index), lane, depth)).collect();
                Kind::Fork { branches }
            }
            Kind::DoWhile(looped) => {
                let body = self.sequence(looped.body, Parent::Body(index), 0, depth + 1);
                Kind::DoWhile(DoWhile { condition: looped.condition, items: looped.items, body })
            }
            Kind::Simple => Kind::Simple,
            Kind::DynamicFork(fork) => Kind::DynamicFork(fork),
            Kind::Join { on } => Kind::Join { on },
            Kind::ExclusiveJoin { on, default } => Kind::ExclusiveJoin { on, default },
            Kind::SubWorkflow(sub) => Kind::SubWorkflow(sub),
            Kind::StartWorkflow => Kind::StartWorkflow,
            Kind::Wait => Kind::Wait,
            Kind::Human => Kind::Human,
            Kind::Http => Kind::Http,
            Kind::Event { sink } => Kind::Event { sink },
            Kind::Terminate => Kind::Terminate,
            Kind::SetVariable => Kind::SetVariable,
            Kind::Inline => Kind::Inline,
            Kind::Lambda => Kind::Lambda,
            Kind::Jq => Kind::Jq,
            Kind::Dynamic { param } => Kind::Dynamic { param },
        }
    }

    /// Fills in what needs all nodes: who joins whom, and what follows beyond the own sequence.
    fn finish(mut self) -> Self {
        for index in 0..self.len() {
            let node = &self.nodes[index as usize];
            let follow = match (node.next, node.parent) {
                (Some(next), _) => Some(next),
                (None, Parent::Case(switch)) => self.nodes[switch as usize].follow,
                (None, _) => None,
            };
            let mut joined: Vec<u32> = match &node.kind {
                Kind::Join { on } => on.iter().filter_map(|name| self.find(name)).collect(),
                Kind::ExclusiveJoin { on, default } => {
                    on.iter().chain(default).filter_map(|name| self.find(name)).collect()
                }
                _ => Vec::new(),
            };
            joined.sort_unstable();
            joined.dedup();
            self.at(index).follow = follow;
            joined.into_iter().for_each(|other| self.at(other).joined_by.push(index));
        }
        self
    }
}

fn need(value: &Value, needs: &mut Needs) {
    if let Ok(template) = Template::parse(value) {
        template.needs(needs);
    }
}

fn needs(task: &Task) -> Needs {
    let mut needs = Needs::default();
    task.input.values().for_each(|value| need(value, &mut needs));
    if let Some(definition) = &task.definition {
        definition.input_template.values().for_each(|value| need(value, &mut needs));
    }
    match &task.kind {
        Kind::SubWorkflow(sub) => {
            let name = sub.name.clone().map(Value::String);
            let texts = sub.definition.iter().filter(|definition| definition.is_string());
            name.iter().chain(&sub.version).chain(&sub.priority).chain(texts).for_each(|value| need(value, &mut needs));
        }
        Kind::DoWhile(looped) => {
            looped.items.iter().for_each(|items| need(items, &mut needs));
            if looped.condition.as_ref().is_some_and(|condition| looks_back(condition, &task.reference)) {
                needs.whole.insert(task.reference.clone());
            }
        }
        _ => {}
    }
    needs
}

/// Whether a condition reads more of its loop's output than the number of the round. Only then are the earlier rounds handed
/// to it: handing them to every condition would make a loop cost the square of its rounds.
fn looks_back(condition: &str, reference: &str) -> bool {
    condition.match_indices(reference).any(|(at, found)| {
        let after = condition[at + found.len()..].trim_start();
        !["['iteration']", "[\"iteration\"]", ".iteration"].iter().any(|read| after.starts_with(read))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn plan(tasks: Value) -> Plan {
        Plan::of(Definition::parse(&json!({"name": "w", "tasks": tasks})).unwrap().value)
    }

    fn simple(name: &str) -> Value {
        json!({"name": name, "taskReferenceName": name})
    }

    #[test]
    fn nodes_know_what_comes_after_them_and_what_they_lie_in() {
        let plan = plan(json!([
            simple("a"),
            {"name": "f", "taskReferenceName": "f", "type": "FORK_JOIN", "forkTasks": [[simple("c"), simple("d")], [simple("e")]]},
            {"name": "j", "taskReferenceName": "j", "type": "JOIN", "joinOn": ["d", "e"]},
            simple("b")
        ]));
        let at = |name: &str| plan.node(plan.find(name).unwrap()).unwrap();
        assert_eq!(at("a").next, plan.find("f"));
        assert_eq!(at("f").next, plan.find("j"));
        assert_eq!(at("f").end, plan.find("e").unwrap() + 1);
        assert_eq!(at("c").next, plan.find("d"));
        assert_eq!((at("d").next, at("d").parent), (None, Parent::Branch(plan.find("f").unwrap())));
        assert_eq!((at("e").lane, at("e").position), (1, 0));
        assert_eq!(at("d").joined_by, vec![plan.find("j").unwrap()]);
        assert!(at("c").joined_by.is_empty());
    }

    #[test]
    fn a_fork_at_the_end_of_a_case_is_followed_by_what_follows_the_switch() {
        let plan = plan(json!([
            {"name": "s", "taskReferenceName": "s", "type": "SWITCH", "evaluatorType": "value-param", "expression": "x",
             "decisionCases": {"1": [{"name": "f", "taskReferenceName": "f", "type": "FORK_JOIN", "forkTasks": [[simple("c")]]}]}},
            {"name": "j", "taskReferenceName": "j", "type": "JOIN", "joinOn": ["c"]}
        ]));
        assert_eq!(plan.node(plan.find("f").unwrap()).unwrap().follow, plan.find("j"));
    }

    #[test]
    fn a_condition_that_only_counts_needs_no_earlier_rounds() {
        assert!(!looks_back("$.loop['iteration'] < 3 && $.loop.iteration > 0", "loop"));
        assert!(looks_back("$.loop['1'].x == 2", "loop"));
    }
}
