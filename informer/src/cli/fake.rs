//! An informer of scripted answers, over a real connection: what the client does when answers break off can be seen by what it
//! asks next.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex},
};

use proto::v1::{self, LogsChunk, LogsRequest, SubmitRequest, SubmitResponse, Task, informer_server};
use tokio_stream::{Stream, StreamExt as _, wrappers::TcpListenerStream};
use tonic::{Request, Response, Status};

use super::client::{Address, Client};

/// One answer of a stream: its messages, and whether it then stays open for ever.
pub(crate) struct Answer<T> {
    pub(crate) messages: Vec<Result<T, Status>>,
    pub(crate) open: bool,
}

/// What it will answer, in order, and what it was asked.
#[derive(Default)]
pub(crate) struct Script {
    pub(crate) task: Mutex<Task>,
    pub(crate) submits: Mutex<VecDeque<Result<SubmitResponse, Status>>>,
    pub(crate) watches: Mutex<VecDeque<Answer<Task>>>,
    pub(crate) logs: Mutex<VecDeque<Result<Answer<LogsChunk>, Status>>>,
    pub(crate) submitted: Mutex<Vec<SubmitRequest>>,
    pub(crate) asked: Mutex<Vec<LogsRequest>>,
    pub(crate) arrays: Mutex<Vec<Sealed>>,
    pub(crate) manys: Mutex<VecDeque<Result<v1::ManyResponse, Status>>>,
    pub(crate) many: Mutex<Vec<v1::ManyRequest>>,
    pub(crate) retried: Mutex<Vec<v1::RetryRequest>>,
    /// Who it says it is; nobody who can be asked, without.
    pub(crate) identity: Mutex<Option<v1::IdentityResponse>>,
    /// Ids that are in no state to be retried.
    pub(crate) refused: Mutex<Vec<String>>,
}

/// An array that arrived whole.
#[derive(Debug, Default)]
pub(crate) struct Sealed {
    pub(crate) head: v1::ArrayHead,
    pub(crate) items: Vec<String>,
    pub(crate) chunks: usize,
    /// Encoded bytes of the largest chunk.
    pub(crate) largest: usize,
}

/// Listens, and is connected to. The server ends with the test's runtime.
pub(crate) async fn serve(script: Arc<Script>) -> Client {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let service = informer_server::InformerServer::new(Fake(script));
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let address: Address = format!("http://{address}").parse().expect("a URL");
    Client::connect(address, proto::dial::Access::default()).await.expect("a connection")
}

struct Fake(Arc<Script>);

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn stream<T: Send + 'static>(answer: Answer<T>) -> Response<Messages<T>> {
    let messages = tokio_stream::iter(answer.messages);
    Response::new(if answer.open { Box::pin(messages.chain(tokio_stream::pending())) } else { Box::pin(messages) })
}

fn unscripted<T>() -> Result<T, Status> {
    Err(Status::unimplemented("not in this script"))
}

#[tonic::async_trait]
impl informer_server::Informer for Fake {
    type WatchStream = Messages<Task>;
    type LogsStream = Messages<LogsChunk>;

    async fn submit(&self, request: Request<SubmitRequest>) -> Result<Response<SubmitResponse>, Status> {
        self.0.submitted.lock().expect("a lock").push(request.into_inner());
        self.0.submits.lock().expect("a lock").pop_front().unwrap_or_else(unscripted).map(Response::new)
    }

    async fn get(&self, _: Request<v1::GetRequest>) -> Result<Response<Task>, Status> {
        Ok(Response::new(self.0.task.lock().expect("a lock").clone()))
    }

    async fn watch(&self, _: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.0.watches.lock().expect("a lock").pop_front().map_or_else(unscripted, |answer| Ok(stream(answer)))
    }

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        self.0.asked.lock().expect("a lock").push(request.into_inner());
        self.0.logs.lock().expect("a lock").pop_front().unwrap_or_else(unscripted).map(stream)
    }

    async fn submit_batch(
        &self,
        _: Request<tonic::Streaming<SubmitRequest>>,
    ) -> Result<Response<v1::SubmitBatchResponse>, Status> {
        unscripted()
    }

    async fn list(&self, _: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        unscripted()
    }

    async fn cancel(&self, _: Request<v1::CancelRequest>) -> Result<Response<v1::CancelResponse>, Status> {
        unscripted()
    }

    async fn retry(&self, request: Request<v1::RetryRequest>) -> Result<Response<v1::RetryResponse>, Status> {
        let request = request.into_inner();
        if self.0.refused.lock().expect("a lock").contains(&request.id) {
            return Err(Status::failed_precondition("it runs"));
        }
        self.0.retried.lock().expect("a lock").push(request);
        Ok(Response::new(v1::RetryResponse::default()))
    }

    async fn why(&self, _: Request<v1::WhyRequest>) -> Result<Response<v1::WhyResponse>, Status> {
        unscripted()
    }

    async fn history(&self, _: Request<v1::HistoryRequest>) -> Result<Response<v1::HistoryResponse>, Status> {
        unscripted()
    }

    async fn sidecars(&self, _: Request<v1::SidecarsRequest>) -> Result<Response<v1::SidecarsResponse>, Status> {
        unscripted()
    }

    async fn submit_array(
        &self,
        request: Request<tonic::Streaming<v1::SubmitArrayRequest>>,
    ) -> Result<Response<SubmitResponse>, Status> {
        use v1::submit_array_request::Part;
        let mut parts = request.into_inner();
        let mut array = Sealed::default();
        while let Some(message) = parts.message().await? {
            match message.part {
                Some(Part::Head(head)) => array.head = head,
                Some(Part::Items(items)) => {
                    array.chunks += 1;
                    array.largest = array.largest.max(prost::Message::encoded_len(&items));
                    array.items.extend(items.items);
                }
                None => return Err(Status::invalid_argument("an empty part")),
            }
        }
        self.0.arrays.lock().expect("a lock").push(array);
        self.0.submits.lock().expect("a lock").pop_front().unwrap_or_else(unscripted).map(Response::new)
    }

    async fn cancel_many(&self, request: Request<v1::ManyRequest>) -> Result<Response<v1::ManyResponse>, Status> {
        self.0.many.lock().expect("a lock").push(request.into_inner());
        self.0.manys.lock().expect("a lock").pop_front().unwrap_or_else(unscripted).map(Response::new)
    }

    async fn retry_many(&self, _: Request<v1::ManyRequest>) -> Result<Response<v1::ManyResponse>, Status> {
        unscripted()
    }

    async fn drain(&self, _: Request<v1::DrainRequest>) -> Result<Response<v1::DrainResponse>, Status> {
        unscripted()
    }

    async fn put_executor(
        &self,
        _: Request<v1::PutExecutorRequest>,
    ) -> Result<Response<v1::PutExecutorResponse>, Status> {
        unscripted()
    }

    async fn delete_executor(
        &self,
        _: Request<v1::DeleteExecutorRequest>,
    ) -> Result<Response<v1::DeleteExecutorResponse>, Status> {
        unscripted()
    }

    async fn executors(&self, _: Request<v1::ExecutorsRequest>) -> Result<Response<v1::ExecutorsResponse>, Status> {
        unscripted()
    }

    async fn identity(&self, _: Request<v1::IdentityRequest>) -> Result<Response<v1::IdentityResponse>, Status> {
        self.0.identity.lock().expect("a lock").clone().map_or_else(unscripted, |identity| Ok(Response::new(identity)))
    }
}
