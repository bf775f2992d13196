//! The edges over real connections: a server on a free port of loopback with a data directory of its own, tonic clients, and a
//! sidecar that is played by the test.

mod arrays;
mod front;
mod http;
mod link;
mod logs;
mod operations;
mod rest;
mod stored;
mod tasks;

use crate::server::{Options, Server};
use proto::v1::informer_client::InformerClient;
use proto::v1::sidecar_link_client::SidecarLinkClient;
use proto::v1::{self, informer_message::Message as Told, sidecar_message::Message as Said};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use tonic_types::StatusExt as _;

/// Far more than anything here takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A data directory that goes with the test.
struct Data(PathBuf);

impl Data {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("informer-edge-{}-{number}", std::process::id())))
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn options(data: &Data) -> Options {
    Options::new(SocketAddr::from(([127, 0, 0, 1], 0)), data.0.clone())
}

/// A server and a client of it.
struct World {
    server: Server,
    client: InformerClient<Channel>,
    channel: Channel,
    data: Data,
}

impl World {
    async fn new() -> Self {
        let data = Data::new();
        let server = Server::start(options(&data)).await.expect("a fresh server starts");
        let endpoint = Endpoint::from_shared(format!("http://{}", server.addr())).unwrap();
        let channel = endpoint.connect().await.expect("it listens");
        Self { server, client: InformerClient::new(channel.clone()), channel, data }
    }

    /// Submits a command of that name and answers with its id.
    async fn submit(&mut self, name: &str) -> String {
        let request = v1::SubmitRequest { spec: Some(command(name)), key: String::new() };
        self.client.submit(request).await.expect("a good task").into_inner().id
    }

    async fn watch(&mut self, id: &str) -> Streaming<v1::Task> {
        self.client.watch(v1::WatchRequest { ids: vec![id.to_owned()] }).await.unwrap().into_inner()
    }

    async fn sidecar(&self) -> Sidecar {
        let mut sidecar = Sidecar::connect(&self.channel).await;
        sidecar.introduce(hello()).await;
        sidecar
    }
}

fn command(name: &str) -> v1::TaskSpec {
    let command = v1::Command { argv: vec!["true".to_owned()] };
    let kind = Some(v1::task_spec::Kind::Command(command));
    v1::TaskSpec { name: name.to_owned(), kind, ..Default::default() }
}

fn hello() -> v1::Hello {
    v1::Hello {
        protocol_min: proto::PROTOCOL_MIN,
        protocol_max: proto::PROTOCOL_MAX,
        sidecar: "0192f3c4-5b6d-7e8f-9a0b-1c2d3e4f5a6b".to_owned(),
        incarnation: 1,
        total: Some(v1::Resources { cpu_millis: 8000, memory_bytes: 1 << 33 }),
        slots: 4,
        kinds: ["command", "script", "service", "transcode"].map(str::to_owned).to_vec(),
        ..Default::default()
    }
}

/// A sidecar's side of a link.
struct Sidecar {
    out: mpsc::Sender<v1::SidecarMessage>,
    inbound: Streaming<v1::InformerMessage>,
    client: SidecarLinkClient<Channel>,
    beats: u64,
    reports: u64,
}

impl Sidecar {
    async fn connect(channel: &Channel) -> Self {
        let mut client = SidecarLinkClient::new(channel.clone());
        let (out, messages) = mpsc::channel(64);
        let inbound = client.link(ReceiverStream::new(messages)).await.expect("a link opens").into_inner();
        Self { out, inbound, client, beats: 0, reports: 0 }
    }

    async fn introduce(&mut self, hello: v1::Hello) {
        self.say(Said::Hello(hello)).await;
        assert!(matches!(self.told().await, Told::Welcome(_)), "the first answer is a welcome");
    }

    async fn say(&mut self, message: Said) {
        self.out.send(v1::SidecarMessage { message: Some(message) }).await.expect("the link is open");
    }

    /// The next message, which must come.
    async fn told(&mut self) -> Told {
        let message = timeout(PATIENCE, self.inbound.message()).await.expect("in time").expect("no error");
        message.expect("the link goes on").message.expect("it says something")
    }

    /// How the link ended, whatever is said before.
    async fn end(&mut self) -> Option<Status> {
        loop {
            match timeout(PATIENCE, self.inbound.message()).await.expect("in time") {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(status),
            }
        }
    }

    async fn beat(&mut self, credit: u32) {
        self.beats += 1;
        self.say(Said::Beat(v1::Beat { seq: self.beats, credit, ..Default::default() })).await;
    }

    async fn report(&mut self, assigned: &v1::Assign, what: v1::report::What) {
        self.reports += 1;
        let (attempt, fence) = (assigned.attempt.clone(), assigned.fence);
        self.say(Said::Report(v1::Report { seq: self.reports, attempt, fence, what: Some(what) })).await;
    }

    async fn assigned(&mut self) -> v1::Assign {
        loop {
            if let Told::Assign(assign) = self.told().await {
                return assign;
            }
        }
    }

    /// Asks for work, takes it, and says that it runs.
    async fn take(&mut self) -> v1::Assign {
        self.beat(4).await;
        let assign = self.assigned().await;
        self.report(&assign, v1::report::What::Accepted(v1::Accepted {})).await;
        self.report(&assign, v1::report::What::Started(v1::Started { unix_ms: 1, ..Default::default() })).await;
        assign
    }

    async fn finish(&mut self, assign: &v1::Assign, code: i32) {
        let reason = if code == 0 { v1::Reason::Unspecified } else { v1::Reason::ExitCode };
        let ending =
            v1::Ending { exit_code: Some(code), reason: reason.into(), started_unix_ms: 1, ..Default::default() };
        self.report(assign, v1::report::What::Ended(ending)).await;
    }

    async fn log_request(&mut self) -> v1::LogRequest {
        loop {
            if let Told::Log(request) = self.told().await {
                return request;
            }
        }
    }
}

/// Waits for the task's state.
async fn until(watch: &mut Streaming<v1::Task>, state: v1::TaskState) -> v1::Task {
    loop {
        let task = timeout(PATIENCE, watch.message()).await.expect("in time").expect("no error").expect("it goes on");
        if task.state() == state {
            return task;
        }
    }
}

/// The documented code of a refusal.
fn code(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}
