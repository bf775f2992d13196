//! What must always hold of a run, recomputed from scratch.

use super::Run;
use super::index::Index;
use super::row::{Flow, Phase, StepRow};
use crate::definition::Kind;

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
        let lanes = match (&self.node(row.node).kind, row.resolved) {
            (Kind::Fork { branches }, _) => branches.len(),
            (Kind::DynamicFork(_), Some(part)) => self.plans[part.part as usize].roots.len(),
            _ => return Ok(()),
        };
        if row.flow != Flow::Gone || row.status == super::TaskStatus::Skipped {
            return Ok(());
        }
        let part = row.resolved.map_or(row.node.part, |part| part.part);
        let heads = (0..u32::try_from(lanes).unwrap_or(u32::MAX)).filter_map(|lane| {
            let node = match &self.node(row.node).kind {
                Kind::Fork { branches } => (*branches.get(lane as usize)?)?,
                _ => *self.plans[part as usize].roots.get(lane as usize)?,
            };
            let key = (crate::plan::NodeId { part, node }, row.scope.clone());
            self.index.instances.get(&key).map(|step| &self.steps[step])
        });
        let open = heads.filter(|head| !head.lane_done).count();
        if open != row.open as usize {
            return Err(format!("it counts {} open branches, and {open} are", row.open));
        }
        Ok(())
    }
}
