//! What clients want of a run: pause, terminate, retry, rerun, restart, skip, signals. Each repeats harmlessly.

use super::super::effect::{Effect, Rejection, Reply};
use super::super::event::{Operation, RunId, StoredRun, Ticket};
use super::super::{Cx, Machine};
use super::{Nr, moment};
use std::sync::Arc;
use workflow::run::{Event as RunEvent, Outcome};

impl Machine {
    pub(in super::super) fn on_run_operated(
        &mut self,
        cx: &mut Cx<'_>,
        ticket: Ticket,
        (run, stored): (RunId, Vec<StoredRun>),
        operation: Operation,
        key: String,
    ) {
        self.hydrate_runs(stored);
        let reply = match self.operate(cx, &run, operation, key) {
            Ok(reply) => reply,
            Err(rejection) => Reply::Rejected(rejection),
        };
        cx.effects.push(Effect::Reply { ticket, reply });
    }

    fn operate(&mut self, cx: &mut Cx<'_>, run: &RunId, operation: Operation, key: String) -> Result<Reply, Rejection> {
        let unknown = || Rejection::UnknownRun { run: Arc::clone(run) };
        let nr = self.flows.find(run).ok_or_else(unknown)?;
        let held = self.flows.runs.get(&nr).ok_or_else(unknown)?;
        if !key.is_empty() && *held.operation_key == *key {
            return Ok(Reply::Run { row: Box::new(held.row()), ignored: None });
        }
        let (kind, detail) = line(&operation);
        let latest = match &operation {
            Operation::Restart { latest: Some(latest) } => Some((Arc::clone(&latest.templates), latest.definition)),
            _ => None,
        };
        let event = event(operation);
        let told = self.tell_run(cx, nr, moment(cx.now), event);
        let outcome = told.map_err(|why| Rejection::RunRefused { run: Arc::clone(run), why })?;
        let ignored = match outcome {
            Outcome::Ignored(why) => Some(why),
            Outcome::Applied => {
                if let (Some((templates, definition)), Some(held)) = (latest, self.flows.runs.get_mut(&nr)) {
                    held.touched.holds.extend(templates.values().map(|template| template.payload));
                    held.templates = vec![templates];
                    held.definition = definition;
                }
                self.operated(cx, nr, key, (kind, detail));
                None
            }
        };
        let held = self.flows.runs.get(&nr).ok_or_else(unknown)?;
        Ok(Reply::Run { row: Box::new(held.row()), ignored })
    }

    fn operated(&mut self, cx: &Cx<'_>, nr: Nr, key: String, (kind, detail): (&'static str, String)) {
        if let Some(held) = self.flows.runs.get_mut(&nr)
            && !key.is_empty()
        {
            held.operation_key = key.into();
        }
        self.note_run(cx, nr, kind, detail);
    }
}

/// The line of an operation in the run's history.
fn line(operation: &Operation) -> (&'static str, String) {
    match operation {
        Operation::Pause => ("paused", String::new()),
        Operation::Resume => ("resumed", String::new()),
        Operation::Terminate { reason, .. } => ("terminate_requested", reason.clone().unwrap_or_default()),
        Operation::Retry => ("retried", String::new()),
        Operation::Rerun { from, .. } => ("rerun", from.clone().unwrap_or_default()),
        Operation::Restart { latest } => {
            let version = latest.as_ref().map(|latest| format!("by version {}", latest.plan.settings.version));
            ("restarted", version.unwrap_or_default())
        }
        Operation::Skip { reference, .. } => ("skip_requested", reference.clone()),
        Operation::Update { reference, status, .. } => ("signalled", format!("{reference} {}", status.as_str())),
    }
}

fn event(operation: Operation) -> RunEvent {
    match operation {
        Operation::Pause => RunEvent::Pause,
        Operation::Resume => RunEvent::Resume,
        Operation::Terminate { reason, tell } => RunEvent::Terminate { reason, tell },
        Operation::Retry => RunEvent::Retry,
        Operation::Rerun { from, input } => RunEvent::Rerun { from, input },
        Operation::Restart { latest } => {
            RunEvent::Restart { latest: latest.map(|latest| (latest.plan, latest.variables)) }
        }
        Operation::Skip { reference, output } => RunEvent::Skip { reference, output },
        Operation::Update { reference, status, output, reason } => {
            RunEvent::Update { reference, status, output, reason }
        }
    }
}
