//! The loop's body without the waiting: events in, at most one batch out, effects after it.
//!
//! ```text
//!   calls ─▶ complete from the store ─▶ Machine::apply ─▶ filling ──take──▶ committing ──committed──▶ effects leave
//!                                            └── a beat that changed nothing: its effects leave at once
//! ```
//!
//! While one batch commits, the next one fills. Effects leave in the order of their batches, each only after its own commit; so
//! whatever is told to anybody is on disk.

use super::clock::{self, Clock};
use super::handle::NewTask;
use super::message::{ClientCall, LinkCall};
use super::outside::Outside;
use super::published::Published;
use super::writer::Done;
use crate::failpoint;
use crate::machine::{Effect, Event, Held, Hello, Machine, PayloadHandle, Reply, SessionId, Submit};
use crate::store::{Commit, Error, Read};
use bytes::Bytes;
use proto::id::TaskId;
use proto::store::TaskRow;
use proto::v1::InformerMessage;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Client calls in one batch. While a commit hangs, the next batch takes this many and then clients are held back. Four times as
/// many share an fsync no better, and all of them wait as long as the last.
pub(super) const CLIENT_EVENTS: usize = 8192;
/// Link events in one batch: room for beats and reports long after clients are held back. What sidecars may report without an
/// acknowledgement is bounded too (`bounds::REPORTS_IN_FLIGHT`), so a fleet of 64 with all of it in flight still fits.
const LINK_EVENTS: usize = 65_536;

/// Everything the loop owns except its queues.
pub(super) struct Core {
    machine: Machine,
    clock: Clock,
    reader: Box<dyn Read>,
    outside: Outside,
    published: Arc<Published>,
    filling: Filling,
    /// Effects of the batch that commits.
    committing: Option<Vec<Effect>>,
    /// Tasks whose progress may have changed in this turn.
    advanced: BTreeSet<TaskId>,
    sessions: u64,
    epoch: u64,
    seq: u64,
}

/// The batch that takes in events.
#[derive(Default)]
struct Filling {
    effects: Vec<Effect>,
    payloads: Vec<(PayloadHandle, Bytes)>,
    client_events: usize,
    link_events: usize,
}

impl Core {
    pub(super) fn new(machine: Machine, clock: Clock, reader: Box<dyn Read>, published: Arc<Published>) -> Self {
        let (epoch, seq) = (machine.config().epoch, machine.config().commit_seq);
        Self {
            machine,
            clock,
            reader,
            outside: Outside::default(),
            published,
            filling: Filling::default(),
            committing: None,
            advanced: BTreeSet::new(),
            // Unique in the lineage: no other start has this epoch, and none opens four billion links.
            sessions: epoch << 32,
            epoch,
            seq,
        }
    }

    /// The epoch under which to commit.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn is_committing(&self) -> bool {
        self.committing.is_some()
    }

    pub(super) fn takes_clients(&self) -> bool {
        self.filling.client_events < CLIENT_EVENTS
    }

    pub(super) fn takes_links(&self) -> bool {
        self.filling.link_events < LINK_EVENTS
    }

    /// Milliseconds until the machine wants to know the time.
    pub(super) fn sleep_ms(&self) -> Option<u64> {
        self.machine.next_wakeup().map(|at| at.saturating_sub(clock::mono_ms()))
    }

    /// A client's call. Questions change nothing, so their answers wait for no commit; whoever no longer waits for one has no use
    /// for it.
    pub(super) fn on_client(&mut self, call: ClientCall) -> Result<(), Error> {
        self.filling.client_events += 1;
        match call {
            ClientCall::Submit { new, reply } => self.on_submit(*new, reply)?,
            ClientCall::Cancel { task, reason, reply } => {
                let stored = self.stored(task)?.into_iter().collect();
                let ticket = self.outside.ticket(reply);
                self.apply(Event::CancelRequested { ticket, task, stored, reason });
            }
            ClientCall::Retry { task, key, reply } => {
                let stored = self.stored(task)?.into_iter().collect();
                let ticket = self.outside.ticket(reply);
                self.apply(Event::RetryRequested { ticket, task, stored, key });
            }
            ClientCall::Why { task, reply } => {
                let _ = reply.send(self.machine.why(self.clock.now(), task));
            }
            ClientCall::Sidecars { all, reply } => {
                let _ = reply.send(self.machine.sidecars(self.clock.now(), all));
            }
            ClientCall::SessionOf { sidecar, reply } => {
                let _ = reply.send(self.machine.session_of(&sidecar));
            }
            ClientCall::Send { session, message, reply } => {
                let _ = reply.send(self.outside.send(session, *message));
                self.close_broken();
            }
        }
        Ok(())
    }

    fn on_submit(&mut self, new: NewTask, reply: oneshot::Sender<Reply>) -> Result<(), Error> {
        let known = new.key.as_deref().map(|key| self.reader.key(key)).transpose()?.flatten();
        let submit = Submit {
            ticket: self.outside.ticket(reply),
            task: new.task,
            key: new.key,
            payload: new.payload,
            digest: new.payload,
            array: None,
            facts: Box::new(new.facts),
            start_after_unix_ms: new.start_after_unix_ms,
            known,
        };
        // A submit that was refused or known leaves no body behind.
        if self.apply(Event::Submitted(Box::new(submit))) {
            self.outside.bodies.keep(new.payload, new.body.clone());
            self.filling.payloads.push((new.payload, new.body));
        }
        Ok(())
    }

    /// What a sidecar said.
    pub(super) fn on_link(&mut self, call: LinkCall) -> Result<(), Error> {
        self.filling.link_events += 1;
        match call {
            LinkCall::Open { hello, held, out, reply } => return self.on_open(hello, held, out, reply),
            LinkCall::Event(event @ (Event::BeatReceived { .. } | Event::PongReceived { .. })) => {
                return self.on_sign_of_life(event);
            }
            LinkCall::Event(Event::Reported { session, seq, attempt, fence, report, .. }) => {
                let stored = self.stored(attempt.task)?.map(Box::new);
                self.apply(Event::Reported { session, seq, attempt, fence, report, stored });
            }
            LinkCall::Event(event) => {
                self.apply(event);
            }
        }
        Ok(())
    }

    fn on_open(
        &mut self,
        hello: Box<Hello>,
        held: Vec<Held>,
        out: mpsc::Sender<InformerMessage>,
        reply: oneshot::Sender<SessionId>,
    ) -> Result<(), Error> {
        let mut stored = BTreeMap::new();
        for task in held.iter().map(|held| held.attempt.task) {
            if !stored.contains_key(&task)
                && let Some(row) = self.stored(task)?
            {
                stored.insert(task, row);
            }
        }
        self.advanced.extend(held.iter().map(|held| held.attempt.task));
        self.sessions += 1;
        let session = SessionId(self.sessions);
        self.outside.open(session, out);
        if reply.send(session).is_err() {
            // The stream ended while its hello waited: there is nobody to welcome.
            self.outside.close(session);
            return Ok(());
        }
        self.apply(Event::LinkOpened { session, hello, held, stored });
        Ok(())
    }

    /// A beat or a pong. If it changes nothing durable, its acknowledgement need not wait for a disk, which may hang: that must
    /// not end leases.
    fn on_sign_of_life(&mut self, event: Event) -> Result<(), Error> {
        if let Event::BeatReceived { progress, .. } = &event {
            self.advanced.extend(progress.iter().map(|(attempt, _)| attempt.task));
        }
        let mut effects = Vec::new();
        if self.decide(event, &mut effects) {
            self.filling.effects.append(&mut effects);
            return Ok(());
        }
        self.release(effects)
    }

    /// A link ended on the other side.
    pub(super) fn on_closed(&mut self, session: SessionId) {
        self.outside.close(session);
        self.apply(Event::LinkClosed { session });
    }

    /// Tells the machine the time if it asked for it.
    pub(super) fn on_time(&mut self) {
        if self.sleep_ms() == Some(0) {
            self.apply(Event::TimePassed);
        }
    }

    /// The end of a turn: what may start now? The answer is a batch to be committed under [`Core::epoch`].
    pub(super) fn take(&mut self) -> Result<Option<Commit>, Error> {
        self.publish_progress();
        if self.is_committing() {
            return Ok(None);
        }
        while !self.machine.dirty() {
            if self.filling.effects.is_empty() {
                self.filling = Filling::default();
                return Ok(None);
            }
            // Nothing to commit: what was decided rests on what is on disk already.
            let effects = std::mem::take(&mut self.filling.effects);
            self.release(effects)?;
        }
        let batch = self.machine.take_batch(self.seq + 1);
        let filling = std::mem::take(&mut self.filling);
        self.committing = Some(filling.effects);
        self.advanced.extend(batch.tasks.iter().filter_map(|change| crate::store::id_of(&change.row)));
        self.publish_progress();
        Ok(Some(Commit { seq: self.seq + 1, batch, payloads: filling.payloads, ..Commit::default() }))
    }

    /// The batch under way is done. After a failure nothing is told to anybody any more.
    pub(super) fn on_committed(&mut self, done: Done) -> Result<(), Error> {
        done.outcome?;
        let commit = done.commit;
        self.seq = commit.seq;
        self.epoch = commit.batch.epoch.unwrap_or(self.epoch).max(self.epoch);
        self.machine.committed(self.seq);
        let (epoch, seq, restored) = (self.epoch, self.seq, self.machine.restored());
        self.published.set_identity(|identity| {
            identity.epoch = epoch;
            identity.commit_seq = seq;
            identity.restored = restored;
        });
        self.published.changed(commit.batch.tasks);
        let effects = self.committing.take().unwrap_or_default();
        self.release(effects)
    }

    fn publish_progress(&mut self) {
        if self.advanced.is_empty() {
            return;
        }
        let machine = &self.machine;
        let advanced = std::mem::take(&mut self.advanced);
        self.published.set_progress(advanced.into_iter().map(|task| (task, machine.progress(task).cloned())));
    }

    /// The store's row of a task that the machine does not hold.
    fn stored(&mut self, task: TaskId) -> Result<Option<TaskRow>, Error> {
        if self.machine.holds(task) { Ok(None) } else { self.reader.get(task) }
    }

    /// Applies an event to the batch that fills; says whether it wrote something.
    fn apply(&mut self, event: Event) -> bool {
        let mut effects = std::mem::take(&mut self.filling.effects);
        let wrote = self.decide(event, &mut effects);
        self.filling.effects = effects;
        wrote
    }

    fn decide(&mut self, event: Event, effects: &mut Vec<Effect>) -> bool {
        failpoint::hit("before-apply");
        let before = self.machine.write_count();
        self.machine.apply(self.clock.now(), event, effects);
        failpoint::hit("after-apply");
        self.machine.write_count() != before
    }

    fn release(&mut self, effects: Vec<Effect>) -> Result<(), Error> {
        self.outside.release(effects, &mut *self.reader)?;
        self.close_broken();
        Ok(())
    }

    fn close_broken(&mut self) {
        for session in self.outside.take_broken() {
            tracing::warn!(session = session.0, "the sidecar reads too slowly or is gone: its link was ended");
            self.apply(Event::LinkClosed { session });
        }
    }
}
