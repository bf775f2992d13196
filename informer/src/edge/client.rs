//! The service `Informer`: unary calls here, streams in their own modules.

use super::error::Error;
use super::stream::Produced;
use super::tls::Guard;
use super::{Edge, array, convert, list, logs, many, submit, watch};
use crate::machine::PayloadHandle;
use prost::Message as _;
use proto::check::{self, Fault};
use proto::id::{SidecarId, TaskId};
use proto::v1::informer_server::Informer;
use proto::{store, v1};
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

/// What clients call.
pub(crate) struct Client {
    edge: Edge,
    guard: Arc<Guard>,
}

impl Client {
    pub(super) fn new(edge: Edge, guard: Arc<Guard>) -> Self {
        Self { edge, guard }
    }

    async fn row(&self, id: &str) -> Result<(TaskId, store::TaskRow), Error> {
        let id: TaskId = id.parse()?;
        let row = self.edge.handle.get(id).await?.ok_or(Error::UnknownTask(id))?;
        Ok((id, row))
    }

    async fn with_spec(&self, id: &str) -> Result<v1::Task, Error> {
        let (id, row) = self.row(id).await?;
        let handle = PayloadHandle::try_from(row.payload.as_slice()).map_err(|_| Error::Payload(id))?;
        let body = self.edge.handle.payload(handle).await?.ok_or(Error::Payload(id))?;
        let spec = v1::TaskSpec::decode(body).map_err(|_| Error::Payload(id))?;
        let item = if id.array().is_some() { self.edge.handle.item(id).await? } else { None };
        let result = self.result(&row).await?;
        let children = self.children(id, &row).await?;
        let task = convert::task(&self.edge.handle, &row);
        Ok(v1::Task { spec: Some(spec), item: item.unwrap_or_default(), result, children, ..task })
    }

    /// The children of a task that has emitted some.
    async fn children(&self, id: TaskId, row: &store::TaskRow) -> Result<Option<v1::ChildrenStatus>, Error> {
        if row.children == 0 {
            return Ok(None);
        }
        let mut status = v1::ChildrenStatus { emitted: row.children, ..v1::ChildrenStatus::default() };
        for (state, count) in self.edge.handle.children(id).await? {
            match state {
                v1::TaskState::Succeeded => status.succeeded += count,
                v1::TaskState::Failed => status.failed += count,
                v1::TaskState::Cancelled => status.cancelled += count,
                _ => status.live += count,
            }
        }
        Ok(Some(status))
    }

    /// The output of a run's task, if it has one.
    async fn result(&self, row: &store::TaskRow) -> Result<Vec<u8>, Error> {
        let handle = row.of_run.as_ref().and_then(|of_run| PayloadHandle::try_from(of_run.result.as_slice()).ok());
        let Some(handle) = handle else { return Ok(Vec::new()) };
        Ok(self.edge.handle.payload(handle).await?.map(|body| body.to_vec()).unwrap_or_default())
    }

    async fn events(&self, request: v1::HistoryRequest) -> Result<v1::HistoryResponse, Error> {
        let (id, _) = self.row(&request.id).await?;
        let limit = check::page_size(request.page_size)?;
        let after = match request.page_token.as_str() {
            "" => 0,
            token => token.parse().map_err(|_| list::token_fault())?,
        };
        let rows = self.edge.handle.history(id, after, limit).await?;
        let full = rows.len() >= limit as usize;
        let next_page_token = rows.last().filter(|_| full).map(|row| row.seq.to_string()).unwrap_or_default();
        let event = |row: crate::store::HistoryRow| v1::HistoryEvent {
            seq: row.seq,
            unix_ms: row.unix_ms,
            kind: row.kind,
            attempt: row.attempt,
            detail: row.detail,
        };
        Ok(v1::HistoryResponse { events: rows.into_iter().map(event).collect(), next_page_token })
    }

    fn task(&self, row: &store::TaskRow) -> Option<v1::Task> {
        Some(convert::task(&self.edge.handle, row))
    }
}

fn mode_fault(mode: i32) -> Error {
    Error::Field(Fault {
        field: "mode".to_owned(),
        problem: format!("{mode} is no way to drain"),
        remedy: "use the numbers of informer.v1.DrainMode".to_owned(),
    })
}

/// The answer, or the error as a status.
fn answer<T>(result: Result<T, Error>) -> Result<Response<T>, Status> {
    Ok(Response::new(result?))
}

#[tonic::async_trait]
impl Informer for Client {
    type WatchStream = Produced<v1::Task>;
    type LogsStream = Produced<v1::LogsChunk>;

    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitResponse>, Status> {
        answer(submit::one(&self.edge.handle, request.into_inner()).await)
    }

    async fn submit_batch(
        &self,
        request: Request<Streaming<v1::SubmitRequest>>,
    ) -> Result<Response<v1::SubmitBatchResponse>, Status> {
        submit::batch(&self.edge.handle, request.into_inner()).await.map(Response::new)
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::Task>, Status> {
        answer(self.with_spec(&request.into_inner().id).await)
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        answer(list::page(&self.edge, request.into_inner()).await)
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        answer(watch::start(self.edge.clone(), request.into_inner()))
    }

    async fn cancel(&self, request: Request<v1::CancelRequest>) -> Result<Response<v1::CancelResponse>, Status> {
        let request = request.into_inner();
        let cancel = async {
            let reason = check::reason(request.reason)?;
            let row = self.edge.handle.cancel(request.id.parse()?, reason).await?;
            Ok(v1::CancelResponse { task: self.task(&row) })
        };
        answer(cancel.await)
    }

    async fn retry(&self, request: Request<v1::RetryRequest>) -> Result<Response<v1::RetryResponse>, Status> {
        let request = request.into_inner();
        let retry = async {
            let key = check::key(request.key)?.unwrap_or_default();
            let id: TaskId = request.id.parse()?;
            let mut row = self.edge.handle.retry(id, key.clone()).await?;
            if row.array.is_some() {
                many::retry_members(&self.edge, id, &key).await?;
                row = self.edge.handle.get(id).await?.ok_or(Error::UnknownTask(id))?;
            }
            Ok(v1::RetryResponse { task: self.task(&row) })
        };
        answer(retry.await)
    }

    async fn why(&self, request: Request<v1::WhyRequest>) -> Result<Response<v1::WhyResponse>, Status> {
        let id = request.into_inner().id.parse().map_err(Error::from)?;
        let mut why = self.edge.handle.why(id).await.map_err(Error::from)?;
        if why.state() == v1::TaskState::Ready
            && let Some(hint) = self.guard.hint()
        {
            // In the sentence itself: it may be the whole reason, and whoever waits in front of `run` sees nothing else.
            why.summary = format!("{}; {hint}", why.summary);
        }
        Ok(Response::new(why))
    }

    async fn history(&self, request: Request<v1::HistoryRequest>) -> Result<Response<v1::HistoryResponse>, Status> {
        answer(self.events(request.into_inner()).await)
    }

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        answer(logs::read(self.edge.clone(), request.into_inner()))
    }

    async fn sidecars(&self, request: Request<v1::SidecarsRequest>) -> Result<Response<v1::SidecarsResponse>, Status> {
        let sidecars = self.edge.handle.sidecars(request.into_inner().all).await;
        let known = sidecars.map(|sidecars| v1::SidecarsResponse { sidecars });
        answer(known.map_err(Error::from))
    }

    async fn submit_array(
        &self,
        request: Request<Streaming<v1::SubmitArrayRequest>>,
    ) -> Result<Response<v1::SubmitResponse>, Status> {
        array::submit(&self.edge.handle, request.into_inner()).await.map(Response::new)
    }

    async fn cancel_many(&self, request: Request<v1::ManyRequest>) -> Result<Response<v1::ManyResponse>, Status> {
        answer(many::cancel(&self.edge, request.into_inner()).await)
    }

    async fn retry_many(&self, request: Request<v1::ManyRequest>) -> Result<Response<v1::ManyResponse>, Status> {
        answer(many::retry(&self.edge, request.into_inner()).await)
    }

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Result<Response<v1::DrainResponse>, Status> {
        let request = request.into_inner();
        let drain = async {
            let sidecar: SidecarId = request.sidecar.parse()?;
            let mode = v1::DrainMode::try_from(request.mode).map_err(|_| mode_fault(request.mode))?;
            let sidecar = self.edge.handle.drain(sidecar, mode).await?;
            Ok(v1::DrainResponse { sidecar: Some(sidecar) })
        };
        answer(drain.await)
    }

    async fn put_executor(
        &self,
        request: Request<v1::PutExecutorRequest>,
    ) -> Result<Response<v1::PutExecutorResponse>, Status> {
        let request = request.into_inner();
        let put = async {
            let executor = v1::Executor {
                id: uuid::Uuid::now_v7().to_string(),
                registered_unix_ms: convert::wall_ms(),
                ..check::executor(request.executor.unwrap_or_default())?
            };
            let (executor, existed) = self.edge.handle.put_executor(executor, request.replace).await?;
            Ok(v1::PutExecutorResponse { executor: Some(executor), existed })
        };
        answer(put.await)
    }

    async fn delete_executor(
        &self,
        request: Request<v1::DeleteExecutorRequest>,
    ) -> Result<Response<v1::DeleteExecutorResponse>, Status> {
        let deleted = self.edge.handle.delete_executor(request.into_inner().r#type).await;
        answer(deleted.map(|existed| v1::DeleteExecutorResponse { existed }).map_err(Error::from))
    }

    async fn executors(&self, _: Request<v1::ExecutorsRequest>) -> Result<Response<v1::ExecutorsResponse>, Status> {
        let executors = self.edge.handle.executors().await;
        answer(executors.map(|executors| v1::ExecutorsResponse { executors }).map_err(Error::from))
    }

    async fn identity(&self, _: Request<v1::IdentityRequest>) -> Result<Response<v1::IdentityResponse>, Status> {
        answer(Ok(self.edge.handle.identity()))
    }
}
