//! A run's output, and what the workflow that is started at a failure is told.

use serde_json::{Map, Value, json};

use super::task::{resolve, resolve_map, text};
use super::{Answer, Ending, Evaluation, Fault};
use crate::expression::Context;

impl Evaluation<'_> {
    pub(super) fn end(&self, ending: &Ending) -> Result<Answer, Fault> {
        let facts = self.facts();
        let settings = &self.plan.settings;
        let output = if ending.by_terminate {
            ending.terminated
        } else if settings.output.is_empty() {
            ending.last
        } else {
            self.put(&Value::Object(resolve_map(&settings.output, &facts)?))?
        };
        let mut tell = None;
        if let (true, Some(name)) = (ending.tell, &settings.failure_workflow) {
            let name = text(&resolve(&Value::String(name.clone()), &facts)?);
            let run = &self.question.sources.run;
            let mut input = self.get(run.input)?.as_object().cloned().unwrap_or_default();
            let mut tasks = Map::new();
            for (name, _) in &self.question.sources.tasks {
                if let Some(task) = facts.read(name, None).map_err(Fault::terminal)? {
                    tasks.insert(name.clone(), task.as_ref().clone());
                }
            }
            input.insert("workflowId".to_owned(), json!(run.id));
            input.insert("reason".to_owned(), json!(ending.reason));
            input.insert("failureStatus".to_owned(), json!(ending.status.as_str()));
            input.insert("failureTaskId".to_owned(), json!(ending.failed_task));
            let failed = json!({
                "workflowId": run.id, "workflowName": run.name, "workflowVersion": run.version, "status": ending.status.as_str(),
                "correlationId": run.correlation, "input": self.get(run.input)?.as_ref(), "tasks": tasks.values().collect::<Vec<_>>(),
                "reasonForIncompletion": ending.reason,
            });
            input.insert("failedWorkflow".to_owned(), failed);
            tell = Some((name, self.keep(&Value::Object(input))?));
        }
        Ok(Answer::Ended { output, tell })
    }
}
