//! Children that a run's task emits: steps of the run, which know each by its key.

use super::super::children::Declined;
use super::super::event::EmittedChild;
use super::super::{Cx, Machine};
use super::moment;
use proto::id::TaskId;
use workflow::evaluate::Handle;
use workflow::run::{Event as RunEvent, NewChild, Outcome};

impl Machine {
    /// Gives a child, or the seal, to the run whose task emits it.
    pub(in super::super) fn emit_in_run(
        &mut self,
        cx: &mut Cx<'_>,
        parent: TaskId,
        child: EmittedChild,
    ) -> Result<(), Declined> {
        let (nr, step) = self.step_of(parent).ok_or_else(|| Declined::for_good("its workflow is over"))?;
        let EmittedChild { key, digest, what, alone: _ } = child;
        let what = what.map_err(Declined::for_good)?;
        let event = if key.is_empty() {
            RunEvent::Sealed { step }
        } else {
            let input = what.input.as_ref().map(|(handle, _)| Handle(*handle));
            RunEvent::Emitted { step, child: NewChild { key, digest: Handle(digest), name: what.name, input } }
        };
        let told = self.tell_run(cx, nr, moment(cx.now), event);
        if let (Ok(Outcome::Applied), Some(input)) = (&told, what.input) {
            // The new step names it, and so holds it.
            self.flows.pending.bodies.push(input);
        }
        told.map(drop).map_err(|refused| Declined::for_good(refused.to_string()))
    }
}
