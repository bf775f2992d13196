//! Every invariant of runs, recomputed from scratch.

use super::super::Machine;
use super::super::timer::Timer;

impl Machine {
    pub(in super::super) fn check_flows(&self) -> Result<(), String> {
        if !self.flows.inbox.is_empty() {
            return Err("a word for a run was left untold".to_owned());
        }
        if self.flows.by_id.len() != self.flows.runs.len() {
            return Err("runs and their names differ in number".to_owned());
        }
        for (nr, held) in &self.flows.runs {
            let wrong = |what: String| format!("run {}: {what}", held.id);
            if self.flows.find(&held.id) != Some(*nr) {
                return Err(wrong("its name is another's".to_owned()));
            }
            held.run.check().map_err(wrong)?;
            if held.templates.len() != held.run.plans().len() {
                return Err(wrong(format!(
                    "{} sets of tasks for {} plans",
                    held.templates.len(),
                    held.run.plans().len()
                )));
            }
            if let Some(step) = held.due.keys().find(|step| !self.timers.is_armed(Timer::Run(*nr, **step))) {
                return Err(wrong(format!("nothing will tell it that the time of {step:?} has come")));
            }
            if held.is_settled() && !self.flows.pending.runs.contains(nr) && !self.is_leaving(*nr) {
                return Err(wrong("it is over and was not forgotten".to_owned()));
            }
        }
        self.check_queues()
    }

    fn is_leaving(&self, nr: super::Nr) -> bool {
        self.flows.pending.forget.iter().any(|forget| forget.runs.contains(&nr))
    }
}
