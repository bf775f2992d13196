//! Tasks that wait for the answer to an emit. The machine decides; here an answer finds the connection that asked.

use super::shell::Input;
use crate::machine::{Emit, EmitAnswer, Event, Ticket};
use proto::id::{AttemptId, Fence};
use proto::v1;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Who waits, by ticket. Shared between the socket's thread and the loop's; bounded by the socket's connections, each of which asks for one
/// child at a time.
#[derive(Debug, Clone)]
pub(super) struct Emitters {
    inbox: mpsc::Sender<Input>,
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    answers: BTreeMap<Ticket, oneshot::Sender<EmitAnswer>>,
}

/// One emit that somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub attempt: AttemptId,
    pub fence: Fence,
    pub emit: Emit,
    /// How long its asker waits for the informer.
    pub patience: Duration,
}

impl Asked {
    /// As it goes up.
    pub(super) fn to_wire(&self) -> v1::Emitted {
        v1::Emitted {
            attempt: Some(self.attempt.to_wire()),
            fence: Some(self.fence.into()),
            key: self.emit.key.clone(),
            digest: self.emit.digest.to_vec(),
            payload: self.emit.payload.clone(),
        }
    }
}

/// An asker that has gone leaves nothing behind.
struct Seat<'a> {
    emitters: &'a Emitters,
    ticket: Ticket,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.emitters.lock().answers.remove(&self.ticket);
    }
}

impl Emitters {
    pub(super) fn new(inbox: mpsc::Sender<Input>) -> Self {
        Self { inbox, waiting: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // No code panics while it holds the lock, and a map of finished inserts is whole anyway.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks, and waits for the answer; `None` if there was none in time. Dropping the future takes back the wait, not the emit.
    pub(super) async fn ask(&self, asked: Asked) -> Option<EmitAnswer> {
        let (tell, told) = oneshot::channel();
        let ticket = {
            let mut waiting = self.lock();
            waiting.last += 1;
            let ticket = Ticket(waiting.last);
            waiting.answers.insert(ticket, tell);
            ticket
        };
        let _seat = Seat { emitters: self, ticket };
        let Asked { attempt, fence, emit, patience } = asked;
        let event = Input::Event(Event::EmitAsked { ticket, attempt, fence, emit });
        let answered = async {
            // Without a loop the agent is ending, and so is this connection.
            self.inbox.send(event).await.ok()?;
            told.await.ok()
        };
        tokio::time::timeout(patience, answered).await.ok().flatten()
    }

    /// The machine's answer. One whose asker has gone is nobody's.
    pub(super) fn answer(&self, ticket: Ticket, answer: EmitAnswer) {
        let tell = self.lock().answers.remove(&ticket);
        if let Some(tell) = tell {
            let _gone = tell.send(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::TaskId;

    #[tokio::test]
    async fn an_answer_finds_who_asked_and_who_has_gone_leaves_no_trace() {
        let (inbox, mut arrivals) = mpsc::channel(4);
        let emitters = Emitters::new(inbox);
        let asked = Asked {
            attempt: AttemptId { task: TaskId::from_u128(1), number: 1 },
            fence: Fence { epoch: 1, n: 2 },
            emit: Emit { key: "a".into(), digest: [0; 32], payload: vec![1] },
            patience: Duration::from_secs(3600),
        };
        let answering = async {
            let Some(Input::Event(Event::EmitAsked { ticket, emit, .. })) = arrivals.recv().await else {
                panic!("no emit was asked for")
            };
            assert_eq!(emit.key, "a");
            emitters.answer(Ticket(ticket.0 + 1), EmitAnswer::Refused("another's".into()));
            emitters.answer(ticket, EmitAnswer::Taken);
        };
        let (answer, ()) = tokio::join!(emitters.ask(asked.clone()), answering);
        assert_eq!(answer, Some(EmitAnswer::Taken));
        assert_eq!(emitters.ask(Asked { patience: Duration::ZERO, ..asked }).await, None);
        assert!(emitters.lock().answers.is_empty());
    }
}
