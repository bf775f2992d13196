//! What is done to a run.

use super::super::error::Error;
use super::{Workflows, fault, json, run_id, show, text};
use crate::machine::Operation;
use crate::shell::Operated;
use proto::{bounds, check, v1};
use serde_json::Value;
use std::time::Duration;
use workflow::run::TaskStatus;

/// How long the answer to a termination waits for the run's end: its output is computed first, which takes milliseconds unless scripts
/// keep everybody waiting.
const TERMINATED: Duration = Duration::from_secs(5);

fn answered(operated: &Operated) -> v1::RunAnswer {
    v1::RunAnswer { run: Some(show::run(&operated.row)), ignored: operated.ignored.unwrap_or_default().to_owned() }
}

/// An object of a client; empty: none.
fn body(field: &str, text: &str) -> Result<Option<Value>, Error> {
    match json(field, text, bounds::RUN_INPUT_BYTES)? {
        None => Ok(None),
        Some(object @ Value::Object(_)) => Ok(Some(object)),
        Some(_) => Err(fault(field, "it is no object", "use a JSON object, like {\"a\": 1}")),
    }
}

fn reference(reference: String) -> Result<String, Error> {
    let text = text("reference", reference)?;
    text.ok_or_else(|| fault("reference", "it is empty", "name a task of the run by its reference name"))
}

impl Workflows {
    async fn simply(&self, id: &str, operation: Operation, key: String) -> Result<v1::RunAnswer, Error> {
        let key = check::key(key)?.unwrap_or_default();
        Ok(answered(&self.edge.handle.operate_run(run_id(id)?, operation, key).await?))
    }

    pub(in super::super) async fn on_pause(&self, request: v1::RunRequest) -> Result<v1::RunAnswer, Error> {
        self.simply(&request.id, Operation::Pause, String::new()).await
    }

    pub(in super::super) async fn on_resume(&self, request: v1::RunRequest) -> Result<v1::RunAnswer, Error> {
        self.simply(&request.id, Operation::Resume, String::new()).await
    }

    pub(in super::super) async fn on_terminate(
        &self,
        request: v1::TerminateRunRequest,
    ) -> Result<v1::RunAnswer, Error> {
        let reason = check::reason(request.reason)?;
        let reason = Some(reason).filter(|reason| !reason.is_empty());
        let asked = Operation::Terminate { reason, tell: !request.quiet };
        let mut answer = self.simply(&request.id, asked, String::new()).await?;
        // Whoever looks for it after the answer finds it ended. It is terminated already: no answer is lost by not waiting longer.
        let over = tokio::time::timeout(TERMINATED, self.over(run_id(&request.id)?)).await;
        if let Ok(row) = over {
            answer.run = Some(show::run(&row?));
        }
        Ok(answer)
    }

    pub(in super::super) async fn on_retry_run(&self, request: v1::RunRequest) -> Result<v1::RunAnswer, Error> {
        self.simply(&request.id, Operation::Retry, request.key).await
    }

    pub(in super::super) async fn on_rerun(&self, request: v1::RerunRequest) -> Result<v1::RunAnswer, Error> {
        let key = check::key(request.key)?.unwrap_or_default();
        let (from, input) = (text("from", request.from)?, body("input", &request.input)?);
        let operation = |input| Operation::Rerun { from, input };
        let operated = self.edge.handle.operate_run_with(run_id(&request.id)?, input.as_ref(), key, operation).await?;
        Ok(answered(&operated))
    }

    pub(in super::super) async fn on_restart(&self, request: v1::RestartRequest) -> Result<v1::RunAnswer, Error> {
        let key = check::key(request.key)?.unwrap_or_default();
        Ok(answered(&self.edge.handle.restart_run(run_id(&request.id)?, request.latest, key).await?))
    }

    pub(in super::super) async fn on_skip(&self, request: v1::SkipRequest) -> Result<v1::RunAnswer, Error> {
        let (reference, output) = (reference(request.reference)?, body("output", &request.output)?);
        let operation = |output| Operation::Skip { reference, output };
        let run = run_id(&request.id)?;
        Ok(answered(&self.edge.handle.operate_run_with(run, output.as_ref(), String::new(), operation).await?))
    }

    pub(in super::super) async fn on_update_task(
        &self,
        request: v1::UpdateTaskRequest,
    ) -> Result<v1::RunAnswer, Error> {
        let status = match request.status.as_str() {
            "" => TaskStatus::Completed,
            word => show::status(word).ok_or_else(|| {
                let remedy = "use IN_PROGRESS, COMPLETED, FAILED or FAILED_WITH_TERMINAL_ERROR";
                fault("status", format!("{word:?} is none that a task can be given"), remedy)
            })?,
        };
        let reason = check::reason(request.reason)?;
        let reason = Some(reason).filter(|reason| !reason.is_empty());
        let (reference, output) = (reference(request.reference)?, body("output", &request.output)?);
        let operation = |output| Operation::Update { reference, status, output, reason };
        let run = run_id(&request.id)?;
        Ok(answered(&self.edge.handle.operate_run_with(run, output.as_ref(), String::new(), operation).await?))
    }
}
