//! The service `Informer`: unary calls here, streams in their own modules.

use super::error::Error;
use super::stream::Produced;
use super::{Edge, convert, logs, submit, watch};
use crate::machine::PayloadHandle;
use crate::store::Filter;
use prost::Message as _;
use proto::id::TaskId;
use proto::v1::informer_server::Informer;
use proto::{bounds, check, store, v1};
use tonic::{Request, Response, Status, Streaming};

/// Encoded tasks of one page, bytes: half a message, since attempts with long messages could make a full page exceed it. The page
/// then ends early and its token goes on from there.
const PAGE_BYTES: usize = bounds::MESSAGE_BYTES / 2;

/// What clients call.
pub(crate) struct Client {
    edge: Edge,
}

impl Client {
    pub(super) fn new(edge: Edge) -> Self {
        Self { edge }
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
        Ok(v1::Task { spec: Some(spec), ..convert::task(&self.edge.handle, &row) })
    }

    async fn page(&self, request: v1::ListRequest) -> Result<v1::ListResponse, Error> {
        let before = if request.page_token.is_empty() { None } else { Some(request.page_token.parse()?) };
        check::label_filter(&request.labels)?;
        let filter = Filter {
            states: states(&request.states)?,
            owner: Some(request.owner).filter(|owner| !owner.is_empty()),
            name: Some(request.name).filter(|name| !name.is_empty()),
            labels: request.labels,
            page_size: check::page_size(request.page_size)?,
            before,
            ..Filter::default()
        };
        let page = self.edge.handle.list(filter).await?;
        let next_page_token = page.next.map(|id| id.to_string()).unwrap_or_default();
        let mut answer = v1::ListResponse { tasks: Vec::with_capacity(page.rows.len()), next_page_token };
        let mut bytes = 0;
        for row in &page.rows {
            let task = convert::task(&self.edge.handle, row);
            bytes += task.encoded_len();
            if bytes > PAGE_BYTES
                && let Some(last) = answer.tasks.last()
            {
                answer.next_page_token.clone_from(&last.id);
                break;
            }
            answer.tasks.push(task);
        }
        Ok(answer)
    }

    async fn events(&self, request: v1::HistoryRequest) -> Result<v1::HistoryResponse, Error> {
        let (id, _) = self.row(&request.id).await?;
        let limit = check::page_size(request.page_size)?;
        let after = match request.page_token.as_str() {
            "" => 0,
            token => token.parse().map_err(|_| token_fault())?,
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

fn token_fault() -> Error {
    Error::Field(check::Fault {
        field: "page_token".to_owned(),
        problem: "it is none of ours".to_owned(),
        remedy: "use the token of the page before, or none".to_owned(),
    })
}

fn states(wire: &[i32]) -> Result<Vec<v1::TaskState>, Error> {
    let state = |number: &i32| match v1::TaskState::try_from(*number) {
        Ok(v1::TaskState::Unspecified) | Err(_) => Err(Error::Field(check::Fault {
            field: "states".to_owned(),
            problem: format!("{number} is no state"),
            remedy: "use the numbers of informer.v1.TaskState, or none".to_owned(),
        })),
        Ok(state) => Ok(state),
    };
    let mut states = wire.iter().map(state).collect::<Result<Vec<_>, _>>()?;
    states.sort_unstable();
    states.dedup();
    Ok(states)
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
        answer(self.page(request.into_inner()).await)
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
            let row = self.edge.handle.retry(request.id.parse()?, key).await?;
            Ok(v1::RetryResponse { task: self.task(&row) })
        };
        answer(retry.await)
    }

    async fn why(&self, request: Request<v1::WhyRequest>) -> Result<Response<v1::WhyResponse>, Status> {
        let id = request.into_inner().id.parse().map_err(Error::from)?;
        answer(self.edge.handle.why(id).await.map_err(Error::from))
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
        _: Request<Streaming<v1::SubmitArrayRequest>>,
    ) -> Result<Response<v1::SubmitResponse>, Status> {
        Err(Status::unimplemented("arrays"))
    }

    async fn cancel_many(&self, _: Request<v1::ManyRequest>) -> Result<Response<v1::ManyResponse>, Status> {
        Err(Status::unimplemented("cancel_many"))
    }

    async fn retry_many(&self, _: Request<v1::ManyRequest>) -> Result<Response<v1::ManyResponse>, Status> {
        Err(Status::unimplemented("retry_many"))
    }

    async fn drain(&self, _: Request<v1::DrainRequest>) -> Result<Response<v1::DrainResponse>, Status> {
        Err(Status::unimplemented("drain"))
    }

    async fn put_executor(
        &self,
        _: Request<v1::PutExecutorRequest>,
    ) -> Result<Response<v1::PutExecutorResponse>, Status> {
        Err(Status::unimplemented("put_executor"))
    }

    async fn delete_executor(
        &self,
        _: Request<v1::DeleteExecutorRequest>,
    ) -> Result<Response<v1::DeleteExecutorResponse>, Status> {
        Err(Status::unimplemented("delete_executor"))
    }

    async fn executors(&self, _: Request<v1::ExecutorsRequest>) -> Result<Response<v1::ExecutorsResponse>, Status> {
        Err(Status::unimplemented("executors"))
    }

    async fn identity(&self, _: Request<v1::IdentityRequest>) -> Result<Response<v1::IdentityResponse>, Status> {
        answer(Ok(self.edge.handle.identity()))
    }
}
