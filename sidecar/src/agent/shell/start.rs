//! From an order of the machine to start an attempt to the order to the keeper, or to work within this process.

use super::Shell;
use crate::agent::embedded::Start;
use crate::agent::types::Way;
use crate::agent::{Error, note};
use crate::exec;
use crate::machine::{Event, Notice, Now, Refusal};
use keeper::wire::Request;
use proto::id::{AttemptId, Fence};
use proto::v1;
use std::sync::Arc;

/// How an attempt is started.
enum Planned {
    /// By an order to the keeper.
    Process(Box<keeper::wire::Spec>),
    /// It is under way within this process.
    Within,
}

fn refused(refusal: Refusal, message: impl ToString) -> Notice {
    Notice::Refused { refusal, message: message.to_string() }
}

fn failed(message: impl ToString) -> Notice {
    refused(Refusal::Failed, message)
}

impl Shell {
    pub(super) fn start(
        &mut self,
        now: Now,
        attempt: AttemptId,
        fence: Fence,
        fence_grace_ms: u64,
    ) -> Result<(), Error> {
        let assign = self.outside.assignments.get(attempt);
        if let Some(assign) = &assign
            && assign.spec.as_ref().is_some_and(exec::inputs::needs_preparation)
            && !self.outside.inputs.take_ready(attempt)
        {
            return match self.outside.inputs.prepare(attempt, fence, assign.clone()) {
                Ok(()) => Ok(()),
                Err(error) => self.refuse_start(now, attempt, failed(format!("cannot start a thread: {error}"))),
            };
        }
        self.outside.reports.open(attempt, fence);
        let planned = match assign {
            Some(assign) => self.plan(attempt, fence, fence_grace_ms, assign),
            None => Err(failed("its assignment is not in the ledger")),
        };
        match planned {
            Ok(Planned::Process(spec)) => {
                self.outside.metrics.on_start();
                self.request(Request::Start { name: attempt.dir_name(), spec });
                self.ordered = true;
            }
            Ok(Planned::Within) => self.outside.metrics.on_start(),
            Err(notice) => return self.refuse_start(now, attempt, notice),
        }
        Ok(())
    }

    /// The process of an attempt; or it is started within this one.
    fn plan(
        &mut self,
        attempt: AttemptId,
        fence: Fence,
        fence_grace_ms: u64,
        assign: Arc<v1::Assign>,
    ) -> Result<Planned, Notice> {
        let task = assign.spec.as_ref().ok_or_else(|| failed("its assignment has no task"))?;
        let mut resolved = None;
        if let Some(v1::task_spec::Kind::Typed(typed)) = &task.kind {
            match self.outside.types.way(&typed.r#type).map_err(|message| refused(Refusal::NotHere, message))? {
                Way::Within(executor) => {
                    let note = note::write(&assign);
                    let start = Start { attempt, fence, executor, assign: assign.clone(), note, fence_grace_ms };
                    return self.outside.embedded.start(start).map(|()| Planned::Within).map_err(failed);
                }
                Way::Command(command) => {
                    let work_dir = self.outside.dirs.attempt(attempt).join("work");
                    let command = exec::typed::as_command(task, typed, &command, &work_dir);
                    // The input does not fit this command; no other machine would do better.
                    resolved = Some(command.map_err(|error| {
                        let (reason, message) = (v1::Reason::Spawn.into(), error.to_string());
                        Notice::Ended(Box::new(v1::Ending { reason, message, ..Default::default() }))
                    })?);
                }
            }
        }
        if assign.has_input && resolved.is_none() {
            let work_dir = self.outside.dirs.attempt(attempt).join("work");
            resolved = Some(exec::typed::hand_over(task.clone(), &assign.input, &work_dir).map_err(failed)?);
        }
        let (task, input) = resolved.as_ref().map_or((task, None), |(task, input)| (task, input.clone()));
        let plan = exec::Plan {
            attempt,
            fence,
            task_name: &assign.task_name,
            spec: task,
            item: assign.has_item.then_some(&assign.item),
            data_dir: &self.outside.dirs.data,
            exe: &self.outside.dirs.exe,
            crun: self.outside.inputs.crun(),
            base_env: &self.base_env,
            fence_grace_ms,
        };
        let mut spec = exec::plan(&plan).map_err(|error| match error {
            // No other machine would do better.
            exec::Error::EmptyArgv { .. } | exec::Error::Transcode(_) => refused(Refusal::Task, error),
            _ => failed(error),
        })?;
        spec.note = note::write(&assign);
        spec.files.extend(input);
        Ok(Planned::Process(Box::new(spec)))
    }

    fn refuse_start(&mut self, now: Now, attempt: AttemptId, notice: Notice) -> Result<(), Error> {
        let mut effects = Vec::new();
        self.machine.apply(now, Event::Noticed { attempt, notice }, &mut effects);
        self.sort(now, effects)
    }
}
