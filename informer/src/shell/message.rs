//! What reaches the loop, and through which queue.

use super::handle::NewTask;
use crate::machine::{Event, Held, Hello, Reply, SessionId};
use proto::id::TaskId;
use proto::{bounds, v1};
use tokio::sync::{mpsc, oneshot};

/// The sending ends. Clients and links have queues of their own: while a commit hangs, clients are held back (and told so) long
/// before links are, so that beats still reach the machine.
#[derive(Clone, Debug)]
pub(super) struct Inbox {
    pub(super) clients: mpsc::Sender<ClientCall>,
    pub(super) links: mpsc::Sender<LinkCall>,
    /// One entry per link at most, so it needs no bound of its own; it must take an entry whatever else is full.
    pub(super) closed: mpsc::UnboundedSender<SessionId>,
}

/// The receiving ends.
#[derive(Debug)]
pub(super) struct Outlet {
    pub(super) clients: mpsc::Receiver<ClientCall>,
    pub(super) links: mpsc::Receiver<LinkCall>,
    pub(super) closed: mpsc::UnboundedReceiver<SessionId>,
}

pub(super) fn inbox() -> (Inbox, Outlet) {
    let (clients, from_clients) = mpsc::channel(bounds::INBOX);
    let (links, from_links) = mpsc::channel(bounds::INBOX);
    let (closed, from_closed) = mpsc::unbounded_channel();
    (Inbox { clients, links, closed }, Outlet { clients: from_clients, links: from_links, closed: from_closed })
}

/// A client waits for the answer.
#[derive(Debug)]
pub(super) enum ClientCall {
    Submit { new: Box<NewTask>, reply: oneshot::Sender<Reply> },
    Cancel { task: TaskId, reason: String, reply: oneshot::Sender<Reply> },
    Retry { task: TaskId, key: String, reply: oneshot::Sender<Reply> },
    Why { task: TaskId, reply: oneshot::Sender<Option<v1::WhyResponse>> },
    Sidecars { all: bool, reply: oneshot::Sender<Vec<v1::Sidecar>> },
    SessionOf { sidecar: String, reply: oneshot::Sender<Option<SessionId>> },
    Send { session: SessionId, message: Box<v1::InformerMessage>, reply: oneshot::Sender<bool> },
}

/// A sidecar said something.
#[derive(Debug)]
pub(super) enum LinkCall {
    Open {
        hello: Box<Hello>,
        held: Vec<Held>,
        out: mpsc::Sender<v1::InformerMessage>,
        reply: oneshot::Sender<SessionId>,
    },
    Event(Event),
}
