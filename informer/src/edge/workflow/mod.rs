//! The service `WorkflowService`: definitions and runs.
//!
//! | file | holds |
//! |---|---|
//! | `definition` | what is registered |
//! | `run` | starts, reads, searches |
//! | `operate` | what is done to a run |
//! | `look` | why a run stands, and its flow chart |
//! | `show` | rows as clients see them |

mod definition;
mod look;
mod operate;
mod run;
pub(super) mod show;

use super::Edge;
use super::error::Error;
use crate::machine::RunId;
use proto::check::{self, Fault};
use proto::v1::workflow_service_server::WorkflowService;
use proto::{bounds, v1};
use serde_json::{Map, Value};
use tonic::{Request, Response, Status};

/// What clients call. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Workflows {
    pub(super) edge: Edge,
}

impl Workflows {
    pub(super) fn new(edge: Edge) -> Self {
        Self { edge }
    }
}

/// One field's fault.
pub(super) fn fault(field: &str, problem: impl Into<String>, remedy: &str) -> Error {
    Error::Field(Fault { field: field.to_owned(), problem: problem.into(), remedy: remedy.to_owned() })
}

/// The id of a run, as far as any can be.
pub(super) fn run_id(id: &str) -> Result<RunId, Error> {
    let fits = !id.is_empty() && id.len() <= bounds::RUN_ID_BYTES;
    if fits && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.')) {
        return Ok(id.into());
    }
    Err(fault("id", "it is no id of a run", "use one that `informer workflow search` shows"))
}

/// JSON of a client; empty: none.
pub(super) fn json(field: &str, text: &str, most: usize) -> Result<Option<Value>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() > most {
        let problem = format!("{} bytes are over the bound", text.len());
        return Err(fault(field, problem, &format!("use at most {most}; pass a path or a URL instead")));
    }
    let value = serde_json::from_str(text);
    value.map(Some).map_err(|error| fault(field, format!("it is no JSON: {error}"), "mend it"))
}

/// A JSON object of a client; empty: {}.
pub(super) fn object(field: &str, text: &str) -> Result<Map<String, Value>, Error> {
    match json(field, text, bounds::RUN_INPUT_BYTES)? {
        None => Ok(Map::new()),
        Some(Value::Object(object)) => Ok(object),
        Some(_) => Err(fault(field, "it is no object", "use a JSON object, like {\"a\": 1}")),
    }
}

/// A name, owner or id for people; empty: none.
fn text(field: &str, text: String) -> Result<Option<String>, Error> {
    check::key(text).map_err(|_| {
        let remedy = format!("use at most {} printable bytes", bounds::NAME_BYTES);
        fault(field, "it is too long, or not printable", &remedy)
    })
}

fn answer<T>(result: Result<T, Error>) -> Result<Response<T>, Status> {
    Ok(Response::new(result?))
}

#[tonic::async_trait]
impl WorkflowService for Workflows {
    async fn put_definition(
        &self,
        request: Request<v1::PutDefinitionRequest>,
    ) -> Result<Response<v1::PutDefinitionResponse>, Status> {
        answer(self.on_put_definition(request.into_inner()).await)
    }

    async fn get_definition(
        &self,
        request: Request<v1::GetDefinitionRequest>,
    ) -> Result<Response<v1::WorkflowDefinition>, Status> {
        answer(self.on_get_definition(request.into_inner()).await)
    }

    async fn list_definitions(
        &self,
        request: Request<v1::ListDefinitionsRequest>,
    ) -> Result<Response<v1::ListDefinitionsResponse>, Status> {
        answer(self.on_list_definitions(request.into_inner()).await)
    }

    async fn delete_definition(
        &self,
        request: Request<v1::DeleteDefinitionRequest>,
    ) -> Result<Response<v1::DeleteDefinitionResponse>, Status> {
        answer(self.on_delete_definition(request.into_inner()).await)
    }

    async fn put_task_definition(
        &self,
        request: Request<v1::PutTaskDefinitionRequest>,
    ) -> Result<Response<v1::PutTaskDefinitionResponse>, Status> {
        answer(self.on_put_task_definition(request.into_inner()).await)
    }

    async fn get_task_definition(
        &self,
        request: Request<v1::GetTaskDefinitionRequest>,
    ) -> Result<Response<v1::TaskDefinition>, Status> {
        answer(self.on_get_task_definition(request.into_inner()).await)
    }

    async fn list_task_definitions(
        &self,
        request: Request<v1::ListTaskDefinitionsRequest>,
    ) -> Result<Response<v1::ListTaskDefinitionsResponse>, Status> {
        answer(self.on_list_task_definitions(request.into_inner()).await)
    }

    async fn delete_task_definition(
        &self,
        request: Request<v1::DeleteTaskDefinitionRequest>,
    ) -> Result<Response<v1::DeleteTaskDefinitionResponse>, Status> {
        answer(self.on_delete_task_definition(request.into_inner()).await)
    }

    async fn start(&self, request: Request<v1::StartRunRequest>) -> Result<Response<v1::StartRunResponse>, Status> {
        answer(self.on_start(request.into_inner()).await)
    }

    async fn get(&self, request: Request<v1::GetRunRequest>) -> Result<Response<v1::Run>, Status> {
        answer(self.on_get(request.into_inner()).await)
    }

    async fn wait(&self, request: Request<v1::GetRunRequest>) -> Result<Response<v1::Run>, Status> {
        answer(self.on_wait(request.into_inner()).await)
    }

    async fn tasks(&self, request: Request<v1::RunTasksRequest>) -> Result<Response<v1::RunTasksResponse>, Status> {
        answer(self.on_tasks(request.into_inner()).await)
    }

    async fn run_history(
        &self,
        request: Request<v1::RunHistoryRequest>,
    ) -> Result<Response<v1::RunHistoryResponse>, Status> {
        answer(self.on_run_history(request.into_inner()).await)
    }

    async fn why_run(&self, request: Request<v1::WhyRunRequest>) -> Result<Response<v1::WhyRunResponse>, Status> {
        answer(self.on_why_run(request.into_inner()).await)
    }

    async fn chart(&self, request: Request<v1::ChartRequest>) -> Result<Response<v1::ChartResponse>, Status> {
        answer(self.on_chart(request.into_inner()).await)
    }

    async fn search(
        &self,
        request: Request<v1::SearchRunsRequest>,
    ) -> Result<Response<v1::SearchRunsResponse>, Status> {
        answer(self.on_search(request.into_inner()).await)
    }

    async fn pause(&self, request: Request<v1::RunRequest>) -> Result<Response<v1::RunAnswer>, Status> {
        answer(self.on_pause(request.into_inner()).await)
    }

    async fn resume(&self, request: Request<v1::RunRequest>) -> Result<Response<v1::RunAnswer>, Status> {
        answer(self.on_resume(request.into_inner()).await)
    }

    async fn terminate(&self, request: Request<v1::TerminateRunRequest>) -> Result<Response<v1::RunAnswer>, Status> {
        answer(self.on_terminate(request.into_inner()).await)
    }

    async fn retry_run(&self, request: Request<v1::RunRequest>) -> Result<Response<v1::RunAnswer>, Status> {
        answer(self.on_retry_run(request.into_inner()).await)
    }

    async fn rerun(&self, request: Request<v1::RerunRequest>) -> Result<Response<v1::RunAnswer>, Status> {
        answer(self.on_rerun(request.into_inner()).await)
    }

    async fn restart(&self, request: Request<v1::RestartRequest>) -> Result<Response<v1::RunAnswer>, Status> {
        answer(self.on_restart(request.into_inner()).await)
    }

    async fn skip(&self, request: Request<v1::SkipRequest>) -> Result<Response<v1::RunAnswer>, Status> {
        answer(self.on_skip(request.into_inner()).await)
    }

    async fn update_task(&self, request: Request<v1::UpdateTaskRequest>) -> Result<Response<v1::RunAnswer>, Status> {
        answer(self.on_update_task(request.into_inner()).await)
    }
}
