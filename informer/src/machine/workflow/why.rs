//! Why a run stands where it stands: of each of its tasks that is not over, what it waits for.

use super::super::Machine;
use super::super::event::Now;
use super::{Held, Nr, StepOf};
use proto::time::span;
use proto::{bounds, v1};
use workflow::definition::Kind;
use workflow::run::{Asked, Phase, StepRow};

impl Machine {
    /// What each task of a run waits for; `None` if the machine does not hold the run (then it is over or unknown). Tells at most
    /// [`bounds::WHY_DETAILS`] tasks, those that can go on by themselves first.
    #[must_use]
    pub fn why_run(&self, now: Now, run: &str) -> Option<v1::WhyRunResponse> {
        let nr = self.flows.find(run)?;
        let held = self.flows.runs.get(&nr)?;
        let mut live: Vec<&StepRow> = held.run.steps().filter(|step| step.is_live()).collect();
        live.sort_by_key(|step| (matches!(step.phase, Phase::Looping | Phase::Joining), step.step));
        let row = held.run.row();
        let summary = match row.status {
            _ if held.is_over() => "it is over, and its failure workflow is yet to be started".to_owned(),
            workflow::run::RunStatus::Paused => {
                "it is paused, and schedules nothing more; `informer workflow resume` lets it go on".to_owned()
            }
            _ if row.ending.is_some() => "all is done, and its output is being made".to_owned(),
            _ => match live.len() {
                0 => "it is about to schedule its first task".to_owned(),
                1 => "1 task is not over".to_owned(),
                tasks => format!("{tasks} tasks are not over"),
            },
        };
        let tasks = live.iter().take(bounds::WHY_DETAILS).map(|step| self.why_task(now, nr, held, step));
        let more = live.len().saturating_sub(bounds::WHY_DETAILS);
        Some(v1::WhyRunResponse { summary, tasks: tasks.collect(), more: u32::try_from(more).unwrap_or(u32::MAX) })
    }

    fn why_task(&self, now: Now, nr: Nr, held: &Held, step: &StepRow) -> v1::WhyTask {
        v1::WhyTask {
            id: format!("{}.{}", held.id, step.step),
            reference: held.run.full_reference(step),
            status: step.status.as_str().to_owned(),
            why: self.why_step(now, (nr, step.step), held, step),
        }
    }

    fn why_step(&self, now: Now, at: StepOf, held: &Held, step: &StepRow) -> String {
        let due = step.due_ms.map(|due_ms| span(due_ms.saturating_sub(now.wall_ms)));
        match step.phase {
            Phase::Asked(Asked::Task) => "its input is being made".to_owned(),
            Phase::Asked(Asked::Condition) => "whether its loop goes on is being found out".to_owned(),
            Phase::Asked(Asked::LoopOutput | Asked::Joined) => "its output is being made".to_owned(),
            Phase::Delayed => format!("it is tried again in {}", due.unwrap_or_default()),
            Phase::Sent => self.why_sent(now, at, held, step),
            Phase::Waiting => match due {
                Some(due) => format!("it waits for another {due}, or for `informer workflow signal`"),
                None => "it waits for somebody's word: `informer workflow signal`".to_owned(),
            },
            Phase::Looping => format!("its loop is in round {}", step.iteration),
            Phase::Joining => match step.open {
                0 => "it waits for tasks before it that no branch has reached yet".to_owned(),
                open => format!("it waits for {open} more to end"),
            },
            Phase::Ended => "it is over".to_owned(),
        }
    }

    /// Of work that was given to somebody else.
    fn why_sent(&self, now: Now, at: StepOf, held: &Held, step: &StepRow) -> String {
        if let Some(why) = self.why_not_admitted(&held.id, at.1).or_else(|| self.why_queued(now, at)) {
            return why;
        }
        if let Some(child) = &step.child {
            return format!("the workflow run {child} is not over");
        }
        let task = self.task_of(at.0, at.1);
        if let Some((task, why)) = task.and_then(|task| Some((task, self.why(now, task)?))) {
            return format!("task {task}: {}", why.summary);
        }
        match held.run.node_of(step).kind {
            Kind::SubWorkflow(_) | Kind::StartWorkflow => "the workflow that it starts is being read".to_owned(),
            _ => format!("it is due in {}", span(step.due_ms.unwrap_or(0).saturating_sub(now.wall_ms))),
        }
    }
}
