//! The service `SidecarLink`: a sidecar's hello and inventory become a session, its messages events.
//!
//! ```text
//!  hello ─ inventory* ─▶ open_link ─▶ (beat | report | pong)* ─▶ link_event
//!    │ wrong protocol: Refuse            │ wrong message: status      │ stream ends: link_closed
//! ```
//! A peer's bad message ends its own link only, and is logged once, here. Sequence numbers are the machine's affair.

use super::error::Error;
use super::logs::store;
use super::stream::Produced;
use super::{Edge, convert};
use crate::machine::{Held, Hello, SessionId};
use crate::shell::Handle;
use proto::check::{self, Fault};
use proto::id::SidecarId;
use proto::v1::sidecar_link_server::SidecarLink;
use proto::v1::sidecar_message::Message;
use proto::{PROTOCOL_MAX, PROTOCOL_MIN, bounds, v1};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

/// Time for the hello with its whole inventory: ten messages at most, which even a loaded sidecar sends in a second.
const HELLO_TIME: Duration = Duration::from_secs(10);

/// What sidecars call.
pub(crate) struct Links {
    edge: Edge,
}

impl Links {
    pub(super) fn new(edge: Edge) -> Self {
        Self { edge }
    }
}

#[tonic::async_trait]
impl SidecarLink for Links {
    type LinkStream = BoxStream<v1::InformerMessage>;

    async fn link(
        &self,
        request: Request<Streaming<v1::SidecarMessage>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let peer = request.remote_addr().map(|address| address.to_string()).unwrap_or_default();
        let inbound = request.into_inner();
        let (out, queue) = mpsc::channel(bounds::LINK_QUEUE);
        let edge = self.edge.clone();
        let link = Produced::new(queue, async move {
            tokio::select! {
                result = attend(&edge, inbound, out, &peer) => result,
                stopped = edge.stopped() => Err(stopped),
            }
        });
        let link = link.ending_with_senders().map(|message| message.map(|message| *message));
        Ok(Response::new(Box::pin(link)))
    }

    type StoreLogsStream = Produced<v1::LogStored>;

    async fn store_logs(
        &self,
        request: Request<Streaming<v1::LogPart>>,
    ) -> Result<Response<Self::StoreLogsStream>, Status> {
        Ok(Response::new(store::store(self.edge.clone(), request.into_inner())?))
    }

    async fn send_log(
        &self,
        request: Request<Streaming<v1::LogUpload>>,
    ) -> Result<Response<v1::LogUploadDone>, Status> {
        tokio::select! {
            result = self.edge.logs.take_upload(request.into_inner()) => result.map(Response::new),
            stopped = self.edge.stopped() => Err(stopped.into()),
        }
    }
}

/// Reports the end of a session however its task ends, aborted included.
struct Session<'a> {
    edge: &'a Edge,
    id: SessionId,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.edge.handle.link_closed(self.id);
    }
}

/// One link from its first message to its last.
async fn attend(
    edge: &Edge,
    mut inbound: Streaming<v1::SidecarMessage>,
    out: mpsc::Sender<Box<v1::InformerMessage>>,
    peer: &str,
) -> Result<(), Error> {
    let introduced = timeout(HELLO_TIME, introduce(&mut inbound)).await.unwrap_or_else(|_| {
        Err(Error::Silent { what: "a link begins with a hello and its inventory", within_ms: HELLO_TIME.as_millis() })
    });
    let (hello, held) = match introduced {
        Ok(Introduction::Known(hello, held)) => (hello, held),
        Ok(Introduction::Left) => return Ok(()),
        Ok(Introduction::Foreign(refuse)) => {
            tracing::warn!(peer, reason = refuse.message, "refused a sidecar");
            let message = v1::informer_message::Message::Refuse(refuse);
            // The stream's end tells the same if the sidecar has left.
            let _ = out.send(Box::new(v1::InformerMessage { message: Some(message) })).await;
            return Ok(());
        }
        Err(error) => {
            tracing::warn!(peer, %error, "refused a sidecar's introduction");
            return Err(error);
        }
    };
    let sidecar = hello.sidecar;
    let id = edge.handle.open_link(*hello, held, out).await?;
    let session = Session { edge, id };
    tracing::info!(%sidecar, peer, "linked");
    edge.logs.link_opened(sidecar);
    listen(&edge.handle, session.id, sidecar, &mut inbound).await
}

enum Introduction {
    Known(Box<Hello>, Vec<Held>),
    Foreign(v1::Refuse),
    Left,
}

async fn introduce(inbound: &mut Streaming<v1::SidecarMessage>) -> Result<Introduction, Error> {
    let Some(first) = next(inbound).await else { return Ok(Introduction::Left) };
    let Some(Message::Hello(wire)) = first.message else {
        return Err(out_of_place("the first message is no hello").into());
    };
    if check::protocol(wire.protocol_min, wire.protocol_max).is_none() {
        return Ok(Introduction::Foreign(foreign(&wire)));
    }
    let sidecar = check::hello(&wire)?;
    let mut held = Vec::new();
    for _ in 0..wire.inventory_parts {
        let Some(message) = next(inbound).await else { return Ok(Introduction::Left) };
        let Some(Message::Inventory(part)) = message.message else {
            return Err(out_of_place("the inventory is not complete").into());
        };
        check::inventory(&part)?;
        for attempt in part.attempts {
            held.push(convert::held(attempt)?);
        }
    }
    Ok(Introduction::Known(Box::new(convert::hello(sidecar, wire)), held))
}

/// The refusal of a sidecar whose protocol is not ours: names the side to upgrade.
fn foreign(hello: &v1::Hello) -> v1::Refuse {
    let older = if hello.protocol_min > PROTOCOL_MAX { "informer" } else { "sidecar" };
    v1::Refuse {
        code: "protocol".to_owned(),
        message: format!(
            "this informer speaks link protocol {PROTOCOL_MIN} to {PROTOCOL_MAX}, the sidecar {} to {}; upgrade the {older}",
            hello.protocol_min, hello.protocol_max,
        ),
        r#final: true,
    }
}

/// Turns messages into events until the stream ends. A full inbox stops the reading of this stream only.
async fn listen(
    handle: &Handle,
    session: SessionId,
    sidecar: SidecarId,
    inbound: &mut Streaming<v1::SidecarMessage>,
) -> Result<(), Error> {
    while let Some(message) = next(inbound).await {
        let event = match convert::event(session, message) {
            Ok(Some(event)) => event,
            Ok(None) => {
                tracing::warn!(%sidecar, "ended a link: a message that has no place on an open link");
                return Err(out_of_place("it has no place on an open link").into());
            }
            Err(faults) => {
                tracing::warn!(%sidecar, %faults, "ended a link: a message that is wrong");
                return Err(faults.into());
            }
        };
        handle.link_event(event).await?;
    }
    Ok(())
}

/// The next message; none when the stream ended, broke, or carried what is no message. The sidecar reconnects.
async fn next(inbound: &mut Streaming<v1::SidecarMessage>) -> Option<v1::SidecarMessage> {
    inbound.message().await.unwrap_or_else(|status| {
        tracing::info!(%status, "a link broke");
        None
    })
}

fn out_of_place(problem: &str) -> Fault {
    Fault {
        field: "message".to_owned(),
        problem: problem.to_owned(),
        remedy: "send hello, its inventory parts, then beats, reports and pongs".to_owned(),
    }
}
