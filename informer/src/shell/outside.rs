//! Everyone who waits for effects: callers with tickets, and linked sidecars.

use super::bodies::Bodies;
use super::items::Items;
use crate::failpoint;
use crate::machine::{Effect, PayloadHandle, PolledWork, Reply, SessionId, Ticket};
use crate::store::{Error, Read};
use bytes::Bytes;
use prost::Message as _;
use proto::id::{AttemptId, Fence, TaskId};
use proto::v1::informer_message::Message;
use proto::v1::task_spec::Kind;
use proto::v1::{self, InformerMessage};
use std::collections::{BTreeMap, HashMap};
use tokio::sync::{mpsc, oneshot};

/// Bodies fetched at once for assignments: with the largest payloads 16 MiB, whatever the size of the batch.
const FETCHED: usize = 64;

/// Down a link. Messages are boxed: a queue sets room for 32 of them aside, which for ten thousand idle links was a hundred megabytes.
pub(super) type Out = mpsc::Sender<Box<InformerMessage>>;

/// Callers, links, and the bodies that go out to them.
#[derive(Debug, Default)]
pub(super) struct Outside {
    waiters: HashMap<Ticket, oneshot::Sender<Reply>>,
    links: HashMap<SessionId, Out>,
    pub(super) bodies: Bodies,
    items: Items,
    tickets: u64,
    /// Links dropped from this side that the machine does not know of yet.
    broken: Vec<SessionId>,
    /// Tasks that were given to workers who have left.
    undelivered: Vec<PolledWork>,
}

impl Outside {
    pub(super) fn ticket(&mut self, reply: oneshot::Sender<Reply>) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.waiters.insert(ticket, reply);
        ticket
    }

    pub(super) fn open(&mut self, session: SessionId, out: Out) {
        self.links.insert(session, out);
    }

    pub(super) fn close(&mut self, session: SessionId) {
        self.links.remove(&session);
    }

    /// Open links, and callers that wait.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.links.len(), self.waiters.len())
    }

    /// Sessions that broke since the last call.
    pub(super) fn take_broken(&mut self) -> Vec<SessionId> {
        std::mem::take(&mut self.broken)
    }

    /// Tasks that nobody took since the last call.
    pub(super) fn take_undelivered(&mut self) -> Vec<PolledWork> {
        std::mem::take(&mut self.undelivered)
    }

    /// Sends down a link; says whether it was there and had room.
    pub(super) fn send(&mut self, session: SessionId, message: Box<InformerMessage>) -> bool {
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

    /// Carries out effects: what goes to links in its order, and then the answers to clients, who have what they want either way, while
    /// a process that waits for its assignment is what somebody will wait for. Of the acknowledgements to one link only the last leaves,
    /// in its place: it covers the others, and later than decided is never too early.
    pub(super) fn release(&mut self, effects: Vec<Effect>, reader: &mut dyn Read) -> Result<(), Error> {
        let mut fetched = BTreeMap::new();
        let mut acks = acks(&effects);
        let (replies, orders): (Vec<_>, Vec<_>) =
            effects.into_iter().partition(|effect| matches!(effect, Effect::Reply { .. }));
        let mut left = orders.into_iter();
        while let Some(effect) = left.next() {
            if let Some(session) = acknowledged(&effect)
                && let Some(more) = acks.get_mut(&session).filter(|more| **more > 1)
            {
                *more -= 1;
                continue;
            }
            match effect {
                Effect::Reply { .. } => {}
                Effect::SendAssign { session, attempt, fence, payload, position, input, of_run } => {
                    let missing =
                        |handle: &PayloadHandle| self.bodies.get(handle).is_none() && !fetched.contains_key(handle);
                    if missing(&payload) || input.as_ref().is_some_and(missing) {
                        let read = self.fetch((payload, input), left.as_slice(), reader);
                        fetched = read.map_err(|source| of_task(attempt.task, source))?;
                    }
                    let body = |handle: &PayloadHandle| self.bodies.get(handle).or_else(|| fetched.get(handle));
                    let mut spec = spec(attempt, payload, body(&payload))?;
                    let input = input.map(|input| self::input(attempt, input, body(&input))).transpose()?;
                    let input = input.or_else(|| of_run.then(|| "{}".to_owned()));
                    let input = input.and_then(|input| hand_over(&mut spec, input));
                    let item = position.map(|position| self.item(attempt, position, reader)).transpose()?;
                    let message = assign(attempt, fence, spec, (item, input));
                    self.send(session, Box::new(message));
                    failpoint::hit("after-assign");
                }
                Effect::Send { session, message } => {
                    self.send(session, message);
                }
                // The loop has given these to the evaluator.
                Effect::Evaluate { .. } | Effect::Prepare { .. } => {}
                Effect::CloseLink { session, refuse } => {
                    self.send(session, Box::new(InformerMessage { message: Some(Message::Refuse(refuse)) }));
                    self.close(session);
                }
            }
            if !(left.as_slice().is_empty() && replies.is_empty()) {
                failpoint::hit("mid-effects");
            }
        }
        for effect in replies {
            if let Effect::Reply { ticket, reply } = effect
                && let Some(waiter) = self.waiters.remove(&ticket)
            {
                // Whoever no longer waits finds the answer in the store; only a task would lie with nobody.
                if let Err(Reply::Polled(tasks)) = waiter.send(reply) {
                    self.undelivered.extend(tasks);
                }
            }
            failpoint::hit("after-reply");
        }
        Ok(())
    }

    /// The item of a member. Its array was submitted with it, so that one that is missing was damaged after its commit.
    fn item(&mut self, attempt: AttemptId, position: u32, reader: &mut dyn Read) -> Result<String, Error> {
        let array = attempt.task.array().unwrap_or(attempt.task);
        let item = self.items.get(array, position, reader)?;
        item.ok_or(Error::Item { task: attempt.task, position })
    }

    /// Reads the body of `first` and, in the same query, those that the effects after it will need.
    fn fetch(
        &self,
        (first, input): (PayloadHandle, Option<PayloadHandle>),
        next: &[Effect],
        reader: &mut dyn Read,
    ) -> Result<BTreeMap<PayloadHandle, Bytes>, Error> {
        let needed = next.iter().filter_map(|effect| match effect {
            Effect::SendAssign { payload, .. } if self.bodies.get(payload).is_none() => Some(*payload),
            _ => None,
        });
        let own = 1 + usize::from(input.is_some());
        let handles = [Some(first), input].into_iter().flatten();
        let handles: Vec<PayloadHandle> = handles.chain(needed).take(FETCHED).collect();
        match reader.payloads(&handles) {
            // One of the others may be damaged: each is named with the task that needs it.
            Err(Error::Corrupt { .. }) if handles.len() > own => reader.payloads(&handles[..own]),
            read => read,
        }
    }
}

/// A damaged body costs the informer its start of that task: whoever reads of it learns which one to give up.
fn of_task(task: TaskId, source: Error) -> Error {
    match source {
        Error::Corrupt { .. } => Error::Unstartable { task, source: Box::new(source) },
        source => source,
    }
}

/// How many acknowledgements go to each link; empty if there is at most one in all.
fn acks(effects: &[Effect]) -> HashMap<SessionId, u32> {
    let mut acks = HashMap::new();
    for session in effects.iter().filter_map(acknowledged) {
        *acks.entry(session).or_insert(0) += 1;
    }
    acks
}

/// The link whose reports this effect acknowledges.
fn acknowledged(effect: &Effect) -> Option<SessionId> {
    match effect {
        Effect::Send { session, message } if matches!(message.message, Some(Message::Ack(_))) => Some(*session),
        _ => None,
    }
}

/// The spec of an assignment. A body that is missing or unreadable was damaged after its commit.
fn spec(attempt: AttemptId, payload: PayloadHandle, body: Option<&Bytes>) -> Result<v1::TaskSpec, Error> {
    body.and_then(|body| v1::TaskSpec::decode(body.clone()).ok()).ok_or(Error::Payload {
        task: attempt.task,
        hash: payload,
        found: body.is_some(),
    })
}

/// The input of a workflow's task, which is JSON. One that is missing was damaged after its commit.
fn input(attempt: AttemptId, handle: PayloadHandle, body: Option<&Bytes>) -> Result<String, Error> {
    let text = body.and_then(|body| String::from_utf8(body.to_vec()).ok());
    text.ok_or(Error::Payload { task: attempt.task, hash: handle, found: body.is_some() })
}

/// Kinds that have an input of their own get it there; for all others it goes beside the spec.
fn hand_over(spec: &mut v1::TaskSpec, input: String) -> Option<String> {
    match &mut spec.kind {
        Some(Kind::Typed(typed)) => typed.input = input,
        Some(Kind::Http(http)) => http.input = input,
        _ => return Some(input),
    }
    None
}

/// The message of an assignment. Here a member's template becomes its own.
fn assign(
    attempt: AttemptId,
    fence: Fence,
    mut spec: v1::TaskSpec,
    (item, input): (Option<String>, Option<String>),
) -> InformerMessage {
    if let Some(index) = attempt.task.index() {
        proto::member::fill(&mut spec, index);
    }
    let assign = v1::Assign {
        attempt: Some(attempt.to_wire()),
        fence: Some(fence.into()),
        task_name: spec.name.clone(),
        spec: Some(spec),
        has_item: item.is_some(),
        item: item.unwrap_or_default(),
        has_input: input.is_some(),
        input: input.unwrap_or_default(),
    };
    InformerMessage { message: Some(Message::Assign(assign)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store as _;
    use crate::store::memory::Memory;

    fn send(session: u64, message: Message) -> Effect {
        Effect::Send { session: SessionId(session), message: Box::new(InformerMessage { message: Some(message) }) }
    }

    fn ack(session: u64, seq: u64) -> Effect {
        send(session, Message::Ack(v1::Ack { seq }))
    }

    fn ping(session: u64) -> Effect {
        send(session, Message::Ping(v1::Ping::default()))
    }

    #[test]
    fn one_acknowledgement_covers_those_before_it() {
        let mut outside = Outside::default();
        let mut links: Vec<_> = (1..=2)
            .map(|session| {
                let (out, messages) = mpsc::channel(9);
                outside.open(SessionId(session), out);
                messages
            })
            .collect();
        let store = Memory::default().open().unwrap();
        let mut reader = store.reader().unwrap();
        let effects = vec![ack(1, 4), ping(1), ack(2, 9), ack(1, 5), ping(1), ack(1, 6), ping(2)];
        outside.release(effects, &mut *reader).unwrap();
        drop(outside);
        let mut told = links.iter_mut().map(|link| {
            std::iter::from_fn(|| link.blocking_recv())
                .map(|message| if let Some(Message::Ack(ack)) = message.message { ack.seq } else { 0 })
                .collect::<Vec<_>>()
        });
        assert_eq!((told.next(), told.next()), (Some(vec![0, 0, 6]), Some(vec![9, 0])));
    }
}
