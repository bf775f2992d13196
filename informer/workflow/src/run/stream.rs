//! What a running task emits: children that are steps like any other, and a join after it that waits until there are no more.
//!
//! ```text
//!  the task: Sent ── child, child, … ── seal ─────▶ Ended       what follows it, its join, is opened by the seal or by its good end,
//!                      │      │           └▶ join               whichever comes first
//!                      ▼      ▼
//!                    steps of nodes in it, numbered as the rounds of a loop are: `ref__1`, `ref__2`, …
//! ```
//!
//! Children belong to the task, not to the try that emitted them: another try finds them, and a key that it emits again is the child that
//! is there. What the first try emitted and the next one does not, stays: it runs, and it is joined.

use super::event::{NewChild, Outcome, Refused};
use super::flow::{Place, below};
use super::row::{EmittedRow, Flow, Phase, StepIx, StepRow};
use super::{MAX_CHILDREN, Run, Transition};
use crate::evaluate::Emitted;
use crate::plan::{NodeId, Parent};
use std::collections::BTreeMap;

/// A task in a round, whose tries share their children.
pub(super) type StreamKey = (NodeId, Vec<u32>);

/// The children of one task: derived from their rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Stream {
    /// The place of each in the order of emission, from 1 on.
    pub places: BTreeMap<String, u32>,
    /// Which task each is, and its key, by place.
    pub children: BTreeMap<u32, (NodeId, String)>,
    /// Children that are over, so far that the join need not wait for them.
    pub passed: u32,
}

impl Stream {
    fn open(&self) -> u32 {
        u32::try_from(self.children.len()).unwrap_or(u32::MAX).saturating_sub(self.passed)
    }
}

impl Transition<'_> {
    /// A running task emits a child.
    pub(super) fn on_emitted(&mut self, step: StepIx, child: NewChild) -> Result<Outcome, Refused> {
        let key = self.run.emitting(step)?;
        let stream = self.run.index.streams.get(&key);
        if let Some(place) = stream.and_then(|stream| stream.places.get(&child.key)) {
            return match self.run.child_at(&key, *place).and_then(|row| row.emitted.as_deref()) {
                Some(known) if known.digest != child.digest => Err(Refused::OtherChild(child.key)),
                _ => Ok(Outcome::Ignored("the child is known")),
            };
        }
        let count = stream.map_or(0, |stream| stream.children.len());
        if self.run.step_row(step).sealed {
            return Err(Refused::Sealed);
        }
        if count >= MAX_CHILDREN {
            return Err(Refused::TooManyChildren);
        }
        let node = self.run.child_node(key.0, child.name.as_deref())?;
        let head = self.run.first_try(step);
        let row = self.run.step_row(head);
        let place = u32::try_from(count).unwrap_or(u32::MAX) + 1;
        let mut scope = row.scope.clone();
        scope.push(place);
        let order = below(&row.order, place as usize);
        let at = (node, scope.clone());
        let place = Place { parent: Some(head), scope, order, fork: None, given: child.input };
        if self.flows() || self.run.index.instances.contains_key(&at) {
            self.open(node, place);
        } else {
            // Asked when the run goes on.
            self.make(node, place);
        }
        if let Some(made) = self.run.index.instances.get(&at).copied() {
            let emitted = EmittedRow { key: child.key, digest: child.digest };
            self.change(made, |row| row.emitted = Some(Box::new(emitted)));
        }
        Ok(Outcome::Applied)
    }

    /// A running task says that it emits no more: what joins its children need not wait for its end.
    pub(super) fn on_sealed(&mut self, step: StepIx) -> Result<Outcome, Refused> {
        self.run.emitting(step)?;
        if self.run.step_row(step).sealed {
            return Ok(Outcome::Ignored("the task is sealed already"));
        }
        self.change(step, |row| row.sealed = true);
        // From here on the task itself is a strand of its own beside what follows it.
        for holder in self.around(step) {
            self.change(holder, |row| row.open += 1);
        }
        self.open_after(step);
        Ok(Outcome::Applied)
    }

    /// A task that may emit has ended well enough: what follows it is opened, unless the seal has done so.
    pub(super) fn pass_emitter(&mut self, step: StepIx) {
        if !self.run.step_row(step).sealed {
            return self.open_after(step);
        }
        for holder in self.around(step) {
            self.strand_over(holder);
        }
    }

    fn open_after(&mut self, step: StepIx) {
        let head = self.run.first_try(step);
        let order = self.next_wave();
        self.advance(step, Some((order, head)));
    }

    /// The forks around a step, and the loop around them.
    pub(super) fn around(&self, step: StepIx) -> Vec<StepIx> {
        self.holders(step).split_off(1)
    }

    /// A child has passed: the join of its siblings counts it.
    pub(super) fn note_sibling(&mut self, child: StepIx) {
        let row = self.run.step_row(child);
        let Some((emitter, scope)) = self.run.stream_of(row) else { return };
        let Some(join) = self.run.node(emitter).next else { return };
        let join = self.run.index.instances.get(&(NodeId { part: emitter.part, node: join }, scope)).copied();
        if let Some(join) = join.filter(|join| self.run.step_row(*join).phase == Phase::Joining) {
            self.tally(join, child, 1);
        }
    }
}

impl Run {
    /// The stream of a step that may emit now.
    fn emitting(&self, step: StepIx) -> Result<StreamKey, Refused> {
        let over = || Refused::NotEmitting("the task is not under way in its workflow any more");
        if self.row.status.is_ended() || self.row.ending.is_some() {
            return Err(Refused::NotEmitting("the workflow is over"));
        }
        let row = self.steps.get(&step).filter(|row| row.phase == Phase::Sent).ok_or_else(over)?;
        if self.emits(row.node).is_empty() {
            return Err(Refused::NotEmitting(
                "the workflow takes no children of this task; its definition needs `emits`",
            ));
        }
        Ok((row.node, row.scope.clone()))
    }

    /// What a task may emit.
    pub fn emits(&self, id: NodeId) -> std::ops::Range<u32> {
        self.plans.get(id.part as usize).map_or(0..0, |plan| plan.emits(id.node))
    }

    /// The node of a child by the name that its parent gave.
    fn child_node(&self, emitter: NodeId, name: Option<&str>) -> Result<NodeId, Refused> {
        let mut emits = self.emits(emitter).map(|node| NodeId { part: emitter.part, node });
        let found = match name {
            None if emits.len() > 1 => None,
            None => emits.next(),
            Some(name) => emits.find(|id| self.node(*id).name == name),
        };
        found.ok_or_else(|| {
            let names: Vec<_> = self.emits(emitter).map(|node| NodeId { part: emitter.part, node }).collect();
            let names: Vec<_> = names.iter().map(|id| self.node(*id).name.as_str()).collect();
            Refused::NoSuchChild { name: name.map(str::to_owned), takes: names.join(", ") }
        })
    }

    /// The task whose child a step is.
    pub(super) fn stream_of(&self, row: &StepRow) -> Option<StreamKey> {
        row.emitted.as_ref()?;
        let Parent::Emitted(emitter) = self.node(row.node).parent else { return None };
        let around = row.scope.len().checked_sub(1)?;
        Some((NodeId { part: row.node.part, node: emitter }, row.scope[..around].to_vec()))
    }

    /// The latest try of a child.
    fn child_at(&self, (emitter, scope): &StreamKey, place: u32) -> Option<&StepRow> {
        let (node, _) = self.index.streams.get(&(*emitter, scope.clone()))?.children.get(&place)?;
        let mut scope = scope.clone();
        scope.push(place);
        self.steps.get(self.index.instances.get(&(*node, scope))?)
    }

    /// The children that a join waits for besides what it names: those of the task right before it.
    pub(super) fn emitted_before(&self, join: StepIx) -> Option<StreamKey> {
        let row = self.step_row(join);
        let head = self.step_row(row.fork?);
        (!self.emits(head.node).is_empty()).then(|| (head.node, head.scope.clone()))
    }

    /// How many of a task's children are not over.
    pub(super) fn children_open(&self, key: &StreamKey) -> u32 {
        self.index.streams.get(key).map_or(0, Stream::open)
    }

    /// A task's children with their latest tries, in the order in which they were emitted.
    pub(super) fn children(&self, key: &StreamKey) -> Vec<(&str, &StepRow)> {
        let Some(stream) = self.index.streams.get(key) else { return Vec::new() };
        let of = |place: &u32| self.child_at(key, *place);
        stream.children.iter().filter_map(|(place, (_, name))| Some((name.as_str(), of(place)?))).collect()
    }

    /// A task's children as its join tells them.
    pub(super) fn emitted(&self, key: &StreamKey) -> Vec<Emitted> {
        let several = self.emits(key.0).len() > 1;
        let children = self.children(key).into_iter().map(|(name, row)| Emitted {
            key: name.to_owned(),
            task: several.then(|| self.node(row.node).name.clone()),
            status: row.status,
            output: row.output,
            reason: row.reason.clone(),
        });
        children.collect()
    }

    /// The first try of a step's task.
    fn first_try(&self, step: StepIx) -> StepIx {
        let mut at = step;
        while let Some(before) = self.steps.get(&at).and_then(|row| row.retried_from) {
            at = before;
        }
        at
    }

    /// Tasks that were sealed and run on beside what follows them: each is a strand of what it lies in.
    pub(super) fn runs_beside(&self) -> impl Iterator<Item = StepIx> {
        let latest = self.index.instances.values().copied();
        latest.filter(|step| {
            let row = self.step_row(*step);
            row.sealed && !matches!(row.flow, Flow::Gone | Flow::Ahead)
        })
    }
}
