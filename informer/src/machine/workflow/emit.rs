//! Children that a run's task emits: steps of the run, which know each by its key.

use super::super::children::Declined;
use super::super::event::EmittedChild;
use super::super::{Cx, Machine};
use super::moment;
use proto::id::TaskId;
use workflow::evaluate::Handle;
use workflow::run::{Event as RunEvent, NewChild, Outcome};

impl Machine {
    /// Gives a child, or the seal, to the run whose task emits it; `None`: the task is no run's.
    pub(in super::super) fn emit_in_run(
        &mut self,
        cx: &mut Cx<'_>,
        parent: TaskId,
        child: EmittedChild,
    ) -> Option<Result<(), Declined>> {
        self.tasks.get(&parent)?.of_run.as_ref()?;
        let Some((nr, step)) = self.step_of(parent) else {
            return Some(Err(Declined::for_good("its workflow is over")));
        };
        let EmittedChild { key, digest, what } = child;
        let what = match what {
            Ok(what) => what,
            Err(why) => return Some(Err(Declined::for_good(why))),
        };
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
        Some(told.map(drop).map_err(|refused| Declined::for_good(refused.to_string())))
    }
}
