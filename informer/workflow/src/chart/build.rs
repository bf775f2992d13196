//! Nodes, edges, and how they lie in each other.

use std::sync::Arc;

use super::history::{History, Story};
use super::{
    Branches, Chart, Counts, Edge, MAX_BRANCHES_DRAWN, MAX_FORKS_WITHIN, MAX_NODES, Node, Rounds, RunState, State,
};
use crate::definition::Kind;
use crate::plan::{self, NodeId, Plan};
use crate::run::TaskStatus;

/// What stands at the end of a branch that its join does not wait for.
pub(super) const UNAWAITED: &str = "not waited for";

/// Whether a run went there; none: there is no run.
pub(super) type Taken = Option<bool>;

/// A sequence: the root, a case, a branch, the body of a loop.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lane {
    /// The case that leads into it.
    pub label: Option<String>,
    /// Whether the join after it goes on without it.
    pub unawaited: bool,
    pub entered: Taken,
    pub left: Taken,
    /// Whether anything can follow it.
    pub open: bool,
    pub items: Vec<Item>,
}

/// A node with what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// Its index.
    pub node: usize,
    pub shape: Shape,
    pub entered: Taken,
    pub left: Taken,
    pub open: bool,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    Plain,
    /// Lanes side by side.
    Split(Vec<Lane>),
    /// A lane in a frame. The flag: whether a run came back to its beginning.
    Loop(Lane, Taken),
}

/// A way out of a node, that leads to whatever is next.
#[derive(Debug, Clone)]
struct Exit {
    from: String,
    label: Option<String>,
    taken: Taken,
}

/// A case of a switch; without an index the default.
struct Way<'p> {
    case: Option<u32>,
    label: &'p str,
    first: Option<u32>,
}

/// What lies around a sequence.
#[derive(Clone, Copy)]
struct Around<'p> {
    parent: Option<&'p str>,
    /// No way leads there any more.
    dead: bool,
    /// Dynamic forks around it.
    forks: usize,
}

struct Builder<'a> {
    plans: &'a [Arc<Plan>],
    history: Option<History<'a>>,
    nodes: Vec<Node>,
    edges: Vec<Edge>,
    /// Nodes of dynamic forks that may still be drawn.
    spare: usize,
}

/// The chart of plans and what has become of them.
pub(super) fn chart(plans: &[Arc<Plan>], history: Option<History<'_>>) -> Chart {
    let settings = &plans[0].settings;
    let run = history.as_ref().map(|history| RunState {
        id: history.run.id.clone(),
        status: history.run.status.as_str(),
        reason: history.run.reason.clone(),
        started_ms: history.run.started_ms,
        ended_ms: history.run.ended_ms,
    });
    let (name, version) = match &history {
        Some(history) => (history.run.name.clone(), history.run.version),
        None => (settings.name.clone(), settings.version),
    };
    let spare = MAX_NODES.saturating_sub(plans[0].nodes.len());
    let mut builder = Builder { plans, history, nodes: Vec::new(), edges: Vec::new(), spare };
    let root = builder.root();
    Chart { workflow: name, version, run, nodes: builder.nodes, edges: builder.edges, root }
}

impl<'a> Builder<'a> {
    fn root(&mut self) -> Lane {
        self.nodes.push(Node { id: "start".to_owned(), kind: "START", ..Node::default() });
        let start = Exit { from: "start".to_owned(), label: None, taken: self.known(|_| true) };
        let around = Around { parent: None, dead: false, forks: 0 };
        let (mut lane, exits) = self.sequence(0, self.plans[0].roots.first().copied(), start, around);
        let first = Item { node: 0, shape: Shape::Plain, entered: None, left: self.known(|_| true), open: true };
        lane.items.insert(0, first);
        let done = self.known(|history| history.run.root_done);
        let entered = self.link(&exits, "end", done);
        let end = Item { node: self.nodes.len(), shape: Shape::Plain, entered, left: None, open: false };
        self.nodes.push(Node { id: "end".to_owned(), kind: "END", ..Node::default() });
        lane.items.push(end);
        lane
    }

    fn known(&self, is: impl Fn(&History<'a>) -> bool) -> Taken {
        self.history.as_ref().map(is)
    }

    fn story(&self, id: NodeId) -> Option<&Story<'a>> {
        self.history.as_ref()?.story(id)
    }

    /// What a node's steps say; none where there is no run, and `default` where it has none.
    fn told<T>(&self, id: NodeId, default: T, tell: impl Fn(&Story<'a>) -> T) -> Option<T> {
        self.history.as_ref().map(|history| history.story(id).map_or(default, tell))
    }

    /// Leads ways out to a node. Whether any was taken.
    fn link(&mut self, exits: &[Exit], to: &str, reached: Taken) -> Taken {
        let mut any = reached.map(|_| false);
        for exit in exits {
            let taken = exit.taken.zip(reached).map(|(left, reached)| left && reached);
            any = any.zip(taken).map(|(any, taken)| any || taken);
            let (from, label) = (exit.from.clone(), exit.label.clone());
            self.edges.push(Edge { from, to: to.to_owned(), again: false, label, taken });
        }
        any
    }

    /// A sequence with its ways out.
    fn sequence(&mut self, part: u32, first: Option<u32>, entry: Exit, around: Around<'_>) -> (Lane, Vec<Exit>) {
        let plans = self.plans;
        let mut lane = Lane { label: entry.label.clone(), entered: entry.taken, ..Lane::default() };
        let mut exits = vec![entry];
        let mut at = first;
        while let Some((index, node)) = at.and_then(|index| Some((index, plans.get(part as usize)?.node(index)?))) {
            let id = NodeId { part, node: index };
            let entered = self.link(&exits, &name_of(id), self.told(id, false, |story| story.reached));
            let (item, left) = self.item(id, node, entered, around);
            lane.items.push(item);
            exits = left;
            at = node.next;
        }
        lane.open = !exits.is_empty();
        lane.left = any(&exits);
        (lane, exits)
    }

    fn item(&mut self, id: NodeId, node: &plan::Node, entered: Taken, around: Around<'_>) -> (Item, Vec<Exit>) {
        let index = self.nodes.len();
        let name = name_of(id);
        let described = self.describe(id, node, around);
        self.nodes.push(described);
        let passed = self.told(id, false, |story| story.passed);
        let own = Exit { from: name.clone(), label: None, taken: passed };
        let inside = Around { parent: Some(&name), ..around };
        let (shape, exits) = match &node.kind {
            Kind::Switch(switch) => {
                let known = (0..).zip(&switch.cases);
                let known = known.map(|(index, (label, first))| Way { case: Some(index), label, first: *first });
                let default = Way { case: None, label: "default", first: switch.default };
                self.split(known.chain([default]).collect(), id, inside)
            }
            Kind::Fork { branches } => self.fork(branches, id, &own, inside),
            Kind::DynamicFork(_) => self.dynamic(id, own, inside),
            Kind::DoWhile(looped) => {
                let dead = around.dead || self.story(id).is_some_and(|story| story.left_out(true));
                let begun = self.told(id, false, |story| story.latest.iteration > 0);
                let entry = Exit { from: name.clone(), label: None, taken: begun };
                let (body, ends) = self.sequence(id.part, looped.body, entry, Around { dead, ..inside });
                let back = self.back(&ends, &name, self.told(id, false, |story| story.latest.iteration > 1));
                (Shape::Loop(body, back), vec![own])
            }
            _ if !self.plans[id.part as usize].emits(id.node).is_empty() => self.emitter(id, own, inside),
            // A TERMINATE is the end, unless it was skipped.
            Kind::Terminate if node.next.is_none() && passed != Some(true) => (Shape::Plain, Vec::new()),
            _ => (Shape::Plain, vec![own]),
        };
        let left = any(&exits);
        (Item { node: index, shape, entered, left, open: !exits.is_empty() }, exits)
    }

    fn back(&mut self, ends: &[Exit], to: &str, again: Taken) -> Taken {
        let from = self.edges.len();
        let taken = self.link(ends, to, again);
        self.edges[from..].iter_mut().for_each(|edge| edge.again = true);
        taken
    }

    fn split(&mut self, ways: Vec<Way<'_>>, id: NodeId, inside: Around<'_>) -> (Shape, Vec<Exit>) {
        let (mut shapes, mut exits) = (Vec::new(), Vec::new());
        for Way { case, label, first } in ways {
            let taken = self.told(id, false, |story| story.chosen.contains(&case));
            let dead = inside.dead || self.story(id).is_some_and(|story| story.passed_by(case));
            let entry = Exit { from: name_of(id), label: Some(label.to_owned()), taken };
            let (lane, left) = self.sequence(id.part, first, entry, Around { dead, ..inside });
            shapes.push(lane);
            exits.extend(left);
        }
        // Skipped, or failed where that is tolerated: the run went on without a case.
        if self.story(id).is_some_and(|story| story.passed && story.chosen.is_empty()) {
            exits.push(Exit { from: name_of(id), label: None, taken: Some(true) });
        }
        (Shape::Split(shapes), exits)
    }

    fn fork(&mut self, branches: &[Option<u32>], id: NodeId, own: &Exit, inside: Around<'_>) -> (Shape, Vec<Exit>) {
        let plan = &self.plans[id.part as usize];
        let join = plan.node(id.node).and_then(|fork| fork.follow);
        let dead = inside.dead || self.story(id).is_some_and(|story| story.left_out(false));
        let (mut lanes, mut exits) = (Vec::new(), Vec::new());
        for first in branches {
            let (mut lane, mut left) = self.sequence(id.part, *first, own.clone(), Around { dead, ..inside });
            lane.unawaited = first.is_some() && join.is_some_and(|join| !waits_for(plan, join, *first));
            if lane.unawaited {
                left.iter_mut().for_each(|exit| exit.label = Some(UNAWAITED.to_owned()));
            }
            lanes.push(lane);
            exits.extend(left);
        }
        exits.extend(self.beside(id, own));
        (Shape::Split(lanes), exits)
    }

    /// What a task may emit, each kind once, with the counts of its children; and the way past them.
    fn emitter(&mut self, id: NodeId, own: Exit, inside: Around<'_>) -> (Shape, Vec<Exit>) {
        let (mut lanes, mut exits) = (Vec::new(), Vec::new());
        for child in self.plans[id.part as usize].emits(id.node) {
            let reached = self.told(NodeId { node: child, ..id }, false, |story| story.reached);
            let entry = Exit { taken: reached, ..own.clone() };
            let (lane, left) = self.sequence(id.part, Some(child), entry, inside);
            lanes.push(lane);
            exits.extend(left);
        }
        exits.push(own);
        (Shape::Split(lanes), exits)
    }

    /// The way past a fork that was skipped.
    fn beside(&self, id: NodeId, own: &Exit) -> Option<Exit> {
        self.story(id).is_some_and(|story| story.left_out(false)).then(|| own.clone())
    }

    fn dynamic(&mut self, id: NodeId, own: Exit, inside: Around<'_>) -> (Shape, Vec<Exit>) {
        let part = self.story(id).and_then(|story| story.latest.resolved).map(|made| made.part);
        let roots = part.and_then(|part| self.plans.get(part as usize)).map(|plan| plan.roots.as_slice());
        let (Some(part), Some(roots)) = (part, roots) else {
            let dead = inside.dead || self.story(id).is_some_and(|story| story.left_out(false));
            let (lane, mut exits) = self.more(id, None, own.clone(), Around { dead, ..inside });
            exits.extend(self.beside(id, &own));
            return (Shape::Split(vec![lane]), exits);
        };
        if roots.is_empty() {
            return (Shape::Plain, vec![own]);
        }
        let states = self.branch_states(part, roots, inside.dead);
        let drawn = self.drawn(part, roots, &states, inside.forks);
        let (mut lanes, mut exits) = (Vec::new(), Vec::new());
        for place in &drawn {
            let around = Around { forks: inside.forks + 1, ..inside };
            let (lane, left) = self.sequence(part, Some(roots[*place]), own.clone(), around);
            lanes.push(lane);
            exits.extend(left);
        }
        let mut left_out = Branches::default();
        let mut drawn = drawn.iter().peekable();
        for (place, state) in states.iter().enumerate() {
            if drawn.next_if_eq(&&place).is_none() {
                left_out.add(*state);
            }
        }
        if left_out.total > 0 {
            let (lane, left) = self.more(id, Some(left_out), own, inside);
            lanes.push(lane);
            exits.extend(left);
        }
        (Shape::Split(lanes), exits)
    }

    fn branch_states(&self, part: u32, roots: &[u32], dead: bool) -> Vec<State> {
        let Some(history) = &self.history else { return Vec::new() };
        roots.iter().map(|root| history.branch_state(NodeId { part, node: *root }, dead)).collect()
    }

    /// Which branches are drawn: those that need somebody first, then those under way.
    fn drawn(&mut self, part: u32, roots: &[u32], states: &[State], forks: usize) -> Vec<usize> {
        if forks >= MAX_FORKS_WITHIN {
            return Vec::new();
        }
        let mut order: Vec<usize> = (0..roots.len()).collect();
        order.sort_by_key(|place| urgency(states[*place]));
        let plan = &self.plans[part as usize];
        let mut drawn = Vec::new();
        for place in order.into_iter().take(MAX_BRANCHES_DRAWN) {
            let root = roots[place];
            let size = plan.node(root).map_or(0, |node| (node.end - root) as usize);
            if size <= self.spare {
                self.spare -= size;
                drawn.push(place);
            }
        }
        drawn.sort_unstable();
        drawn
    }

    /// The node for branches that are not drawn, or not known yet.
    fn more(&mut self, fork: NodeId, branches: Option<Branches>, own: Exit, inside: Around<'_>) -> (Lane, Vec<Exit>) {
        let id = format!("{}.more", name_of(fork));
        let some = |states: &[&str]| {
            let count = |branches: &Branches| states.iter().any(|state| branches.states.contains_key(*state));
            branches.as_ref().is_some_and(count)
        };
        let done = self.known(|_| some(&["COMPLETED", "COMPLETED_WITH_ERRORS", "SKIPPED"]));
        let begun = self.known(|_| branches.as_ref().is_some_and(|all| !all.states.contains_key("NOT_REACHED")));
        let entered = self.link(std::slice::from_ref(&own), &id, begun);
        let state = self.known(|_| inside.dead).map(|dead| if dead { State::Untaken } else { State::NotReached });
        let node = Node {
            id: id.clone(),
            kind: "MORE",
            parent: inside.parent.map(str::to_owned),
            state: state.filter(|_| branches.is_none()),
            branches,
            ..Node::default()
        };
        let item = Item { node: self.nodes.len(), shape: Shape::Plain, entered, left: done, open: true };
        self.nodes.push(node);
        let lane = Lane { label: None, unawaited: false, entered, left: done, open: true, items: vec![item] };
        (lane, vec![Exit { from: id, label: None, taken: done }])
    }

    fn describe(&self, id: NodeId, node: &plan::Node, around: Around<'_>) -> Node {
        let mut described = Node {
            id: name_of(id),
            kind: node.kind.type_name(),
            reference: node.reference.clone(),
            name: node.name.clone(),
            parent: around.parent.map(str::to_owned),
            state: self.history.as_ref().map(|history| history.state(id, around.dead)),
            starts: match &node.kind {
                Kind::SubWorkflow(sub) => sub.name.clone(),
                _ => None,
            },
            ..Node::default()
        };
        if let Some(story) = self.story(id) {
            self.tell(&mut described, node, story);
        }
        described
    }

    fn tell(&self, described: &mut Node, node: &plan::Node, story: &Story<'_>) {
        let step = story.latest;
        described.reason.clone_from(&step.reason);
        described.retries = story.retries;
        described.round.clone_from(&step.scope);
        if node.depth > 0 {
            described.counts = story.counts.clone();
        }
        described.child.clone_from(&step.child);
        described.worker.clone_from(&step.worker);
        described.task = self.history.as_ref().map(|history| format!("{}.{}", history.run.id, step.step));
        described.scheduled_ms = Some(step.scheduled_ms);
        (described.started_ms, described.ended_ms) = (step.started_ms, step.ended_ms);
        match (&node.kind, step.resolved) {
            (Kind::DoWhile(_), _) => {
                described.rounds = Some(Rounds { round: step.iteration, of: step.items, kept: step.keep_last });
            }
            (Kind::Switch(switch), _) if step.status == TaskStatus::Completed => {
                let case = step.chosen.and_then(|case| switch.cases.get(case as usize));
                described.chosen = Some(case.map_or("default", |(case, _)| case).to_owned());
            }
            (Kind::DynamicFork(_), Some(made)) => {
                let roots = self.plans.get(made.part as usize).map_or(&[][..], |plan| &plan.roots);
                let mut branches = Branches::default();
                self.branch_states(made.part, roots, false).into_iter().for_each(|state| branches.add(state));
                described.branches = Some(branches);
            }
            (Kind::Dynamic { .. }, Some(made)) => {
                let named = self.plans.get(made.part as usize).and_then(|plan| plan.node(made.node));
                described.resolved = named.map(|named| named.name.clone());
            }
            _ => {}
        }
    }
}

impl Branches {
    fn add(&mut self, state: State) {
        self.total += 1;
        let counts: &mut Counts = &mut self.states;
        *counts.entry(state.as_str()).or_default() += 1;
    }
}

fn name_of(id: NodeId) -> String {
    format!("{}.{}", id.part, id.node)
}

fn any(exits: &[Exit]) -> Taken {
    exits.iter().map(|exit| exit.taken).reduce(|any, taken| any.zip(taken).map(|(any, taken)| any || taken)).flatten()
}

/// Whether a join waits for anything in the branch that begins with `first`.
fn waits_for(plan: &Plan, join: u32, first: Option<u32>) -> bool {
    let mut at = first;
    while let Some((index, node)) = at.and_then(|index| Some((index, plan.node(index)?))) {
        let mut inside = index..node.end;
        if inside.any(|inner| plan.node(inner).is_some_and(|inner| inner.joined_by.contains(&join))) {
            return true;
        }
        at = node.next;
    }
    false
}

fn urgency(state: State) -> u8 {
    match state {
        State::Reached(TaskStatus::Failed | TaskStatus::FailedWithTerminalError | TaskStatus::TimedOut) => 0,
        State::Reached(TaskStatus::InProgress) => 1,
        State::Reached(TaskStatus::Scheduled) => 2,
        State::Reached(TaskStatus::CompletedWithErrors | TaskStatus::Canceled) => 3,
        State::Reached(TaskStatus::Completed | TaskStatus::Skipped) | State::NotReached | State::Untaken => 4,
    }
}
