//! The work of a step as a task of ours. Which one: what the task definition says, else an executor registered under its name; who has
//! neither waits for a worker that polls ([`super::queue`]).
//!
//! The run owns its retries: its task has one attempt of its own, and only losses are tried again inside it.

use super::super::event::{PayloadHandle, Template};
use super::super::load::on_mono;
use super::super::task::{OfRun, Task, Terminal, WaitsFor};
use super::super::{Cx, Machine};
use super::{Nr, StepOf};
use prost::Message as _;
use proto::id::TaskId;
use proto::{bounds, check, store, v1};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use v1::task_spec::Kind;
use workflow::evaluate::Handle;
use workflow::run::{Event as RunEvent, StepIx, TaskEnd, TaskStatus, Work};

impl Machine {
    /// Gives a step's work to whoever can do it.
    pub(super) fn dispatch(&mut self, cx: &mut Cx<'_>, nr: Nr, work: Work) {
        let Some(id) = self.task_of(nr, work.step) else { return };
        #[cfg(feature = "seeded-bugs")]
        let id = if self.bug(super::super::Bug::WorkTwice) {
            task_id(&cx.now.entropy.to_string(), cx.now.wall_ms)
        } else {
            id
        };
        // After a start every task under way is asked for again.
        if self.tasks.contains_key(&id) {
            return;
        }
        let Some(template) = self.template_of(nr, &work) else { return self.enqueue(cx, nr, work) };
        if self.tasks.len() >= bounds::TASKS_LIVE {
            let reason = format!("{} tasks are not terminal, which is the bound", bounds::TASKS_LIVE);
            return self
                .flows
                .tell(nr, RunEvent::TaskEnded { step: work.step, end: failed(TaskStatus::Failed, reason) });
        }
        self.make_task(cx, id, nr, work, template);
    }

    /// The id of the task that does a step's work: of the time at which it was scheduled, as ids are in the order of time, and else of
    /// the step, so that the same step has the same task whenever it is asked for.
    pub(super) fn task_of(&self, nr: Nr, step: StepIx) -> Option<TaskId> {
        let run = &self.flows.runs.get(&nr)?.run;
        Some(task_id(&run.task_id(step), run.step(step)?.scheduled_ms))
    }

    /// How a step's work is run as a task of ours; `None`: a worker polls for it.
    fn template_of(&mut self, nr: Nr, work: &Work) -> Option<Template> {
        if work.http {
            return Some(self.simple_template(Kind::Http(v1::Http::default()), check::Kind::Http.as_str(), work));
        }
        let held = self.flows.runs.get(&nr)?;
        if let Some(template) = held.templates.iter().rev().find_map(|templates| templates.get(&work.name)) {
            return Some(template.clone());
        }
        if !self.executors.contains_key(&work.name) {
            return None;
        }
        let kind = format!("{}{}", check::TYPE, work.name);
        let typed = v1::Typed { r#type: work.name.clone(), input: String::new() };
        Some(self.simple_template(Kind::Typed(typed), &kind, work))
    }

    /// A spec that only says what kind it is of. Its input is filled in when its assignment leaves.
    fn simple_template(&mut self, kind: Kind, word: &str, work: &Work) -> Template {
        let timeouts = v1::Timeouts {
            attempt_ms: work.limits.timeout_ms.min(bounds::DURATION_MS),
            queue_ms: work.limits.poll_ms.min(bounds::DURATION_MS),
            ..v1::Timeouts::default()
        };
        let resources = v1::Resources { cpu_millis: bounds::CPU_DEFAULT_MILLIS, memory_bytes: 0 };
        let spec = v1::TaskSpec {
            name: work.name.clone(),
            resources: Some(resources),
            retry: Some(once()),
            timeouts: Some(timeouts),
            on_disconnect: v1::OnDisconnect::Continue.into(),
            kind: Some(kind),
            ..v1::TaskSpec::default()
        };
        let body = spec.encode_to_vec();
        let payload = PayloadHandle::from(Sha256::digest(&body));
        self.flows.pending.bodies.push((payload, body.into()));
        let facts = store::Facts {
            name: spec.name,
            cpu_millis: bounds::CPU_DEFAULT_MILLIS,
            retry: spec.retry,
            timeouts: spec.timeouts,
            kind: word.to_owned(),
            ..store::Facts::default()
        };
        Template { payload, facts }
    }

    fn make_task(&mut self, cx: &mut Cx<'_>, id: TaskId, nr: Nr, work: Work, template: Template) {
        let retried_from = work.retried_from.and_then(|step| self.task_of(nr, step));
        let Some(held) = self.flows.runs.get(&nr) else { return };
        let mut facts = template.facts;
        facts.owner = held.owner.to_string();
        facts.labels.extend(held.labels.iter().map(|(key, value)| (key.clone(), value.clone())));
        if held.priority != 0 {
            facts.priority = held.priority;
        }
        if work.limits.deadline_ms > 0 {
            let left_ms = work.limits.deadline_ms.saturating_sub(cx.now.wall_ms).max(1);
            facts.timeouts.get_or_insert_default().total_ms = left_ms.min(bounds::DURATION_MS);
        }
        let of_run = OfRun {
            run: Arc::clone(&held.id),
            step: work.step,
            reference: work.reference.into(),
            input: work.input.map(|input| input.0),
            result: None,
            retried_from,
        };
        let total_ms = facts.timeouts.map_or(0, |timeouts| timeouts.total_ms);
        let (alike, own) = self.shared.acquire(facts);
        let mut task = Task::new(template.payload, alike, own, cx.now.wall_ms);
        task.not_before_unix_ms = work.not_before_ms;
        task.of_run = Some(Box::new(of_run));
        self.tasks.insert(id, Box::new(task));
        self.note_task(cx, id, "submitted", "by its workflow");
        self.arm_total(cx, id, total_ms);
        self.make_waiting(cx, id, on_mono(cx.now, work.not_before_ms), WaitsFor::StartTime);
    }

    /// A run takes a step's work back.
    pub(super) fn cancel_work(&mut self, cx: &mut Cx<'_>, nr: Nr, step: StepIx) {
        let at = (nr, step);
        self.dequeue(at);
        #[cfg(feature = "seeded-bugs")]
        if self.bug(super::super::Bug::OrphanWork) {
            return;
        }
        if let Some(id) = self.task_of(nr, step).filter(|id| self.tasks.contains_key(id)) {
            // One that has ended meanwhile, or whose outputs are being published, is not wanted either way.
            let _ = self.cancel(cx, id, "its workflow does not want it any more");
        } else {
            self.give_place_back(at);
        }
    }

    /// A process of a run's task exists.
    pub(in super::super) fn on_work_started(&mut self, id: TaskId, sidecar: &str) {
        if let Some((nr, step)) = self.step_of(id) {
            self.flows.tell(nr, RunEvent::Started { step, worker: Some(sidecar.to_owned()) });
        }
    }

    /// A task is over; if it is a run's, the run hears of it in the same batch.
    pub(in super::super) fn on_work_ended(&mut self, id: TaskId, state: Terminal, ending: &v1::Ending) {
        let Some((nr, step)) = self.step_of(id) else { return };
        self.give_place_back((nr, step));
        let Some(task) = self.tasks.get(&id) else { return };
        let result = task.of_run.as_ref().and_then(|of_run| of_run.result).map(Handle);
        let end = task_end(&task.alike.facts, state, ending, result);
        self.flows.tell(nr, RunEvent::TaskEnded { step, end });
    }

    /// Keeps what an accepted end has left as its task's output. What no run owns is kept by nobody.
    pub(in super::super) fn keep_result(&mut self, id: TaskId, result: Vec<u8>, exit_code: Option<i32>) {
        let Some((nr, _)) = self.step_of(id) else { return };
        let body = match result.is_empty() {
            true if exit_code.is_none() => return,
            true => json!({"exitCode": exit_code}).to_string().into_bytes(),
            // The sidecar has checked it. What is none all the same is told by the first expression that reads it.
            false => match serde_json::from_slice::<Map<String, Value>>(&result) {
                Ok(object) => Value::Object(object).to_string().into_bytes(),
                Err(_) => result,
            },
        };
        let handle = PayloadHandle::from(Sha256::digest(&body));
        self.flows.pending.bodies.push((handle, body.into()));
        if let Some(of_run) = self.tasks.get_mut(&id).and_then(|task| task.of_run.as_mut()) {
            of_run.result = Some(handle);
        }
        self.touch_task(id);
        // The step names it once its outputs are in place; until then the run holds it.
        if let Some(held) = self.flows.runs.get_mut(&nr) {
            held.touched.holds.insert(handle);
            self.flows.pending.runs.insert(nr);
        }
    }

    pub(super) fn step_of(&self, id: TaskId) -> Option<StepOf> {
        let of_run = self.tasks.get(&id)?.of_run.as_ref()?;
        Some((self.flows.find(&of_run.run)?, of_run.step))
    }
}

/// One attempt of its own.
fn once() -> v1::Retry {
    v1::Retry {
        max_attempts: 1,
        max_infrastructure: bounds::MAX_INFRASTRUCTURE_DEFAULT,
        backoff_ms: bounds::BACKOFF_MS,
        backoff_cap_ms: bounds::BACKOFF_CAP_MS,
        ..v1::Retry::default()
    }
}

/// The task that does the work of a run's step, if there is one.
#[must_use]
pub fn work_id(run: &str, step: &workflow::run::StepRow) -> TaskId {
    task_id(&format!("{run}.{}", step.step), step.scheduled_ms)
}

/// A version 7 UUID of a time and a name.
pub(in super::super) fn task_id(name: &str, unix_ms: u64) -> TaskId {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&Sha256::digest(name)[..16]);
    let random = u128::from_be_bytes(bytes);
    let time = u128::from(unix_ms & 0xffff_ffff_ffff) << 80;
    let version = 0x7 << 76;
    let variant = 0x2 << 62;
    TaskId::from_u128(time | version | (random & (0xfff << 64)) | variant | (random & ((1 << 62) - 1)))
}

fn failed(status: TaskStatus, reason: String) -> TaskEnd {
    TaskEnd { status, output: None, reason: Some(reason), by_policy: false }
}

/// What a task's end is in Conductor's words.
fn task_end(facts: &store::Facts, state: Terminal, ending: &v1::Ending, output: Option<Handle>) -> TaskEnd {
    use v1::Reason as R;
    let by_policy = matches!(ending.reason(), R::Timeout | R::QueueTimeout);
    let status = match (state, ending.reason()) {
        (Terminal::Succeeded, _) => TaskStatus::Completed,
        // Somebody has cancelled the task itself; to try it again would be to overrule him.
        (Terminal::Cancelled, _) => TaskStatus::FailedWithTerminalError,
        (Terminal::Failed, R::Timeout | R::QueueTimeout | R::TotalTimeout | R::Stalled) => TaskStatus::TimedOut,
        (Terminal::Failed, _) if !super::super::retry::is_retriable(facts, ending) => {
            TaskStatus::FailedWithTerminalError
        }
        (Terminal::Failed, _) => TaskStatus::Failed,
    };
    let reason = (state != Terminal::Succeeded).then(|| super::super::outcome::describe(ending));
    TaskEnd { status, output, reason, by_policy }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_work_are_in_the_order_of_time_and_always_the_same() {
        let (first, second) = (task_id("r.1", 1_700_000_000_000), task_id("r.2", 1_700_000_000_001));
        assert!(first < second);
        assert_eq!(first, task_id("r.1", 1_700_000_000_000));
        assert_ne!(first, task_id("r.2", 1_700_000_000_000));
        assert_eq!(first.to_string().as_bytes()[14], b'7', "{first}");
        assert_eq!(first.to_string().parse(), Ok(first));
    }
}
