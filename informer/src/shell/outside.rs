//! Everyone who waits for effects: callers with tickets, and linked sidecars.

use super::bodies::Bodies;
use crate::failpoint;
use crate::machine::{Effect, PayloadHandle, Reply, SessionId, Ticket};
use crate::store::{Error, Read};
use bytes::Bytes;
use prost::Message as _;
use proto::id::{AttemptId, Fence};
use proto::v1::informer_message::Message;
use proto::v1::{self, InformerMessage};
use std::collections::BTreeMap;
use tokio::sync::{mpsc, oneshot};

/// Bodies fetched at once for assignments: with the largest payloads 16 MiB, whatever the size of the batch.
const FETCHED: usize = 64;

/// Callers, links, and the bodies that go out to them.
#[derive(Debug, Default)]
pub(super) struct Outside {
    waiters: BTreeMap<Ticket, oneshot::Sender<Reply>>,
    links: BTreeMap<SessionId, mpsc::Sender<InformerMessage>>,
    pub(super) bodies: Bodies,
    tickets: u64,
    /// Links dropped from this side that the machine does not know of yet.
    broken: Vec<SessionId>,
}

impl Outside {
    pub(super) fn ticket(&mut self, reply: oneshot::Sender<Reply>) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.waiters.insert(ticket, reply);
        ticket
    }

    pub(super) fn open(&mut self, session: SessionId, out: mpsc::Sender<InformerMessage>) {
        self.links.insert(session, out);
    }

    pub(super) fn close(&mut self, session: SessionId) {
        self.links.remove(&session);
    }

    /// Sessions that broke since the last call.
    pub(super) fn take_broken(&mut self) -> Vec<SessionId> {
        std::mem::take(&mut self.broken)
    }

    /// Sends down a link; says whether it was there and had room.
    pub(super) fn send(&mut self, session: SessionId, message: InformerMessage) -> bool {
        let Some(out) = self.links.get(&session) else { return false };
        let sent = out.try_send(message).is_ok();
        if !sent {
            // Its reader is gone or too slow. Nothing may be left out of the stream, so the link ends; the sidecar comes back and
            // tells what it holds.
            self.links.remove(&session);
            self.broken.push(session);
        }
        sent
    }

    /// Carries out effects in order.
    pub(super) fn release(&mut self, effects: Vec<Effect>, reader: &mut dyn Read) -> Result<(), Error> {
        let mut fetched = BTreeMap::new();
        let mut left = effects.into_iter();
        while let Some(effect) = left.next() {
            match effect {
                Effect::Reply { ticket, reply } => {
                    if let Some(waiter) = self.waiters.remove(&ticket) {
                        // Whoever no longer waits finds the answer in the store.
                        let _ = waiter.send(reply);
                    }
                    failpoint::hit("after-reply");
                }
                Effect::SendAssign { session, attempt, fence, payload, item: _ } => {
                    if self.bodies.get(&payload).is_none() && !fetched.contains_key(&payload) {
                        fetched = self.fetch(payload, left.as_slice(), reader)?;
                    }
                    let body = self.bodies.get(&payload).or_else(|| fetched.get(&payload));
                    let message = assign(attempt, fence, payload, body)?;
                    self.send(session, message);
                    failpoint::hit("after-assign");
                }
                Effect::Send { session, message } => {
                    self.send(session, *message);
                }
                Effect::CloseLink { session, refuse } => {
                    self.send(session, InformerMessage { message: Some(Message::Refuse(refuse)) });
                    self.close(session);
                }
            }
            if !left.as_slice().is_empty() {
                failpoint::hit("mid-effects");
            }
        }
        Ok(())
    }

    /// Reads the body of `first` and, in the same query, those that the effects after it will need.
    fn fetch(
        &self,
        first: PayloadHandle,
        next: &[Effect],
        reader: &mut dyn Read,
    ) -> Result<BTreeMap<PayloadHandle, Bytes>, Error> {
        let needed = next.iter().filter_map(|effect| match effect {
            Effect::SendAssign { payload, .. } if self.bodies.get(payload).is_none() => Some(*payload),
            _ => None,
        });
        let handles: Vec<PayloadHandle> = std::iter::once(first).chain(needed).take(FETCHED).collect();
        reader.payloads(&handles)
    }
}

/// The message of an assignment. A body that is missing or unreadable was damaged after its commit.
fn assign(
    attempt: AttemptId,
    fence: Fence,
    payload: PayloadHandle,
    body: Option<&Bytes>,
) -> Result<InformerMessage, Error> {
    let spec = body.and_then(|body| v1::TaskSpec::decode(body.clone()).ok()).ok_or(Error::Payload {
        task: attempt.task,
        hash: payload,
        found: body.is_some(),
    })?;
    let assign = v1::Assign {
        attempt: Some(attempt.to_wire()),
        fence: Some(fence.into()),
        task_name: spec.name.clone(),
        spec: Some(spec),
        item: String::new(),
        has_item: false,
    };
    Ok(InformerMessage { message: Some(Message::Assign(assign)) })
}
