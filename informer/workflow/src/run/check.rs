//! What must always hold of a run, recomputed from scratch.

use std::collections::BTreeMap;

use super::Run;
use super::index::Index;
use super::row::{Flow, Phase, StepIx, StepRow};
use crate::definition::Kind;
use crate::plan::NodeId;

impl Run {
    /// Checks every invariant between two events.
    ///
    /// # Errors
    /// The first that does not hold.
    pub fn check(&self) -> Result<(), String> {
        if Index::of(self) != self.index {
            return Err("the indexes differ from the rows".to_owned());
        }
        for row in self.steps.values() {
            self.check_step(row).map_err(|what| format!("step {} ({}): {what}", row.step, self.full_reference(row)))?;
        }
        self.check_strands()?;
        self.check_streams()?;
        let over = self.row.status.is_ended() || self.row.ending.is_some();
        if over && !self.index.live.is_empty() {
            return Err("the run is over, and steps are not".to_owned());
        }
        if !over && self.row.status == super::RunStatus::Running {
            if !self.index.held.is_empty() {
                return Err("the run goes on, and an end was forgotten".to_owned());
            }
            if self.index.active == 0 {
                return Err("the run goes on, and nothing can happen".to_owned());
            }
        }
        Ok(())
    }

    fn check_step(&self, row: &StepRow) -> Result<(), String> {
        if row.status.is_ended() != (row.phase == Phase::Ended) {
            return Err(format!("it is {} and {:?}", row.status.as_str(), row.phase));
        }
        if (row.flow == Flow::Open) != row.is_live() {
            return Err(format!("it is {:?} and {:?}", row.flow, row.phase));
        }
        if row.parent.is_some_and(|parent| !self.steps.contains_key(&parent)) {
            return Err("what it lies in is gone".to_owned());
        }
        Ok(())
    }

    /// Every fork and loop waits for as many strands as there are.
    fn check_strands(&self) -> Result<(), String> {
        let mut open: BTreeMap<StepIx, u32> = BTreeMap::new();
        for row in self.steps.values().filter(|row| self.is_open_fork(row)) {
            let lanes = self.own_lanes(row);
            *open.entry(row.step).or_default() += lanes;
            let mut at = row.parent;
            while let Some(step) = at {
                let holder = &self.steps[&step];
                match self.node(holder.node).kind {
                    Kind::DoWhile(_) => {
                        *open.entry(step).or_default() += lanes;
                        break;
                    }
                    Kind::Fork { .. } | Kind::DynamicFork(_) => *open.entry(step).or_default() += lanes,
                    _ => {}
                }
                at = holder.parent;
            }
        }
        for beside in self.runs_beside() {
            let mut at = self.step_row(beside).parent;
            while let Some(step) = at {
                let holder = &self.steps[&step];
                let kind = &self.node(holder.node).kind;
                if matches!(kind, Kind::DoWhile(_) | Kind::Fork { .. } | Kind::DynamicFork(_)) {
                    *open.entry(step).or_default() += 1;
                }
                at = holder.parent.filter(|_| !matches!(kind, Kind::DoWhile(_)));
            }
        }
        for (step, open) in open {
            let row = &self.steps[&step];
            let body = u32::from(matches!(self.node(row.node).kind, Kind::DoWhile(_)));
            if row.open != open && row.open != open + body {
                let name = self.full_reference(row);
                return Err(format!("step {step} ({name}) counts {} strands, and {open} are open", row.open));
            }
        }
        Ok(())
    }

    /// Joins of children wait for as many as there are.
    fn check_streams(&self) -> Result<(), String> {
        for join in &self.index.joins {
            let (row, Some(key)) = (self.step_row(*join), self.emitted_before(*join)) else { continue };
            let others = row.open.checked_sub(self.children_open(&key));
            let named = match &self.node(row.node).kind {
                Kind::Join { on } => on.len(),
                _ => 0,
            };
            if others.is_none_or(|others| others as usize > named) {
                let (name, open) = (self.full_reference(row), self.children_open(&key));
                return Err(format!("join {name} waits for {}, and {open} children are not over", row.open));
            }
        }
        Ok(())
    }

    fn own_lanes(&self, row: &StepRow) -> u32 {
        let (part, heads): (u32, Vec<u32>) = match (&self.node(row.node).kind, row.resolved) {
            (Kind::Fork { branches }, _) => (row.node.part, branches.iter().flatten().copied().collect()),
            (_, Some(part)) => (part.part, self.plans[part.part as usize].roots.clone()),
            _ => return 0,
        };
        let head = |node: &u32| self.index.instances.get(&(NodeId { part, node: *node }, row.scope.clone()));
        let open = heads.iter().filter_map(head).filter(|head| !self.steps[*head].lane_done);
        u32::try_from(open.count()).unwrap_or(u32::MAX)
    }
}
