//! What reaches the loop, and through which queue.

use super::flows::{FlowCall, RunCall};
use super::handle::NewTask;
use crate::machine::{Event, Held, Hello, Reply, RunId, SessionId};
use crate::store::ItemChunk;
use proto::id::{SidecarId, TaskId};
use proto::{bounds, v1};
use std::collections::BTreeMap;
use tokio::sync::{mpsc, oneshot};

/// Chunks of items waiting for the loop: 1 MiB. An upload that is faster than the disk waits here, and its client with it.
const CHUNKS: usize = 16;

/// Answers waiting for the loop: a millisecond or two of work.
const ANSWERS: usize = 256;

/// The sending ends. Clients and links have queues of their own: while a commit hangs, clients are held back (and told so) long
/// before links are, so that beats still reach the machine.
#[derive(Clone, Debug)]
pub(super) struct Inbox {
    pub(super) clients: mpsc::Sender<ClientCall>,
    pub(super) links: mpsc::Sender<LinkCall>,
    /// Items have a queue of their own, whose senders wait: chunks are large, and no other call shall wait behind them.
    pub(super) items: mpsc::Sender<ItemCall>,
    /// One entry per upload that came to nothing, sent by what may not wait.
    pub(super) dropped: mpsc::UnboundedSender<TaskId>,
    /// One entry per link at most, so it needs no bound of its own; it must take an entry whatever else is full.
    pub(super) closed: mpsc::UnboundedSender<SessionId>,
    /// Answers of the evaluator, whose threads wait.
    pub(super) answers: mpsc::Sender<FlowCall>,
}

/// The receiving ends.
#[derive(Debug)]
pub(super) struct Outlet {
    pub(super) clients: mpsc::Receiver<ClientCall>,
    pub(super) links: mpsc::Receiver<LinkCall>,
    pub(super) items: mpsc::Receiver<ItemCall>,
    pub(super) dropped: mpsc::UnboundedReceiver<TaskId>,
    pub(super) closed: mpsc::UnboundedReceiver<SessionId>,
    pub(super) answers: mpsc::Receiver<FlowCall>,
}

pub(super) fn inbox() -> (Inbox, Outlet) {
    let (clients, from_clients) = mpsc::channel(bounds::INBOX);
    let (links, from_links) = mpsc::channel(bounds::INBOX);
    let (items, from_items) = mpsc::channel(CHUNKS);
    let (dropped, from_dropped) = mpsc::unbounded_channel();
    let (closed, from_closed) = mpsc::unbounded_channel();
    let (answers, from_answers) = mpsc::channel(ANSWERS);
    let outlet = Outlet {
        clients: from_clients,
        links: from_links,
        items: from_items,
        dropped: from_dropped,
        closed: from_closed,
        answers: from_answers,
    };
    (Inbox { clients, links, items, dropped, closed, answers }, outlet)
}

/// A client waits for the answer.
#[derive(Debug)]
pub(super) enum ClientCall {
    Submit { new: Box<NewTask>, reply: oneshot::Sender<Reply> },
    Cancel { task: TaskId, reason: String, reply: oneshot::Sender<Reply> },
    Retry { task: TaskId, key: String, reply: oneshot::Sender<Reply> },
    Drain { sidecar: SidecarId, mode: v1::DrainMode, reply: oneshot::Sender<Reply> },
    PutExecutor { executor: Box<v1::Executor>, replace: bool, reply: oneshot::Sender<Reply> },
    DeleteExecutor { r#type: String, reply: oneshot::Sender<Reply> },
    Run(Box<RunCall>),
    Why { task: TaskId, reply: oneshot::Sender<Option<v1::WhyResponse>> },
    WhyRun { run: RunId, reply: oneshot::Sender<Option<v1::WhyRunResponse>> },
    Queued { reply: oneshot::Sender<BTreeMap<String, usize>> },
    Sidecars { all: bool, reply: oneshot::Sender<Vec<v1::Sidecar>> },
    SessionOf { sidecar: String, reply: oneshot::Sender<Option<SessionId>> },
    Send { session: SessionId, message: Box<v1::InformerMessage>, reply: oneshot::Sender<bool> },
}

/// Items that must be durable before their array is submitted.
#[derive(Debug)]
pub(super) struct ItemCall {
    pub(super) chunk: ItemChunk,
    pub(super) reply: oneshot::Sender<()>,
}

/// A sidecar said something.
#[derive(Debug)]
pub(super) enum LinkCall {
    Open { hello: Box<Hello>, held: Vec<Held>, out: super::outside::Out, reply: oneshot::Sender<SessionId> },
    Event(Event),
}
