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
use super::flows::{Evaluator, Plans};
use super::handle::NewTask;
use super::message::{ClientCall, ItemCall, LinkCall};
use super::numbers::Tally;
use super::outside::{Out, Outside};
use super::published::Published;
use super::retention::{PRUNED, PRUNED_STEPS, Pruning};
use super::writer::Done;
use crate::failpoint;
use crate::machine::{Effect, Event, Held, Hello, Machine, PayloadHandle, Reply, RunId, SessionId, Submit};
use crate::store::{Commit, Error, ItemChunk, Read};
use bytes::Bytes;
use proto::bounds;
use proto::id::TaskId;
use proto::store::TaskRow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Client calls in one batch. While a commit hangs, the next batch takes this many and then clients are held back. Four times as
/// many share an fsync no better, and all of them wait as long as the last.
pub(super) const CLIENT_EVENTS: usize = 8192;
/// Link events in one batch: room for beats and reports long after clients are held back. What sidecars may report without an
/// acknowledgement is bounded too (`bounds::REPORTS_IN_FLIGHT`), so a fleet of 64 with all of it in flight still fits.
const LINK_EVENTS: usize = 65_536;
/// Answers to runs in one batch: as for clients, the next one's takers wait no longer than the last.
const ANSWERS: usize = 8192;
/// Bytes of items in one batch: 64 chunks share an fsync, and with it the commit still takes little longer than without.
const ITEM_BATCH_BYTES: usize = 64 * bounds::ITEM_CHUNK_BYTES;
/// Time between two looks at the gauges, ms. A scrape every few seconds sees them fresh; counting a large fleet takes a tenth of a
/// millisecond.
const GAUGES_MS: u64 = 1_000;

/// After this long without a commit the informer lets go of what it does not need to rest, ms: a beat comes sooner or later, and then is
/// the time. Longer than the pauses of whoever submits one by one, who would pay for its return.
const REST_MS: u64 = 3_000;

/// What was loaded from the store.
pub(super) struct Loaded {
    pub(super) machine: Machine,
    pub(super) tally: Tally,
    /// What runs were waiting for when the informer ended.
    pub(super) effects: Vec<Effect>,
    pub(super) plans: Arc<Plans>,
    pub(super) evaluator: Evaluator,
}

/// Everything the loop owns except its queues.
pub(super) struct Core {
    pub(super) machine: Machine,
    clock: Clock,
    pub(super) reader: Box<dyn Read>,
    pub(super) outside: Outside,
    published: Arc<Published>,
    pub(super) filling: Filling,
    pub(super) committing: Option<Committing>,
    pub(super) plans: Arc<Plans>,
    pub(super) evaluator: Evaluator,
    pruning: Pruning,
    tally: Tally,
    /// `mono_ms` of the last look at the gauges.
    gauged_ms: u64,
    /// Something has happened since.
    gauges_stale: bool,
    /// `mono_ms` of the last commit, until the informer has come to rest since.
    committed_ms: Option<u64>,
    /// Tasks whose progress may have changed in this turn.
    advanced: BTreeSet<TaskId>,
    sessions: u64,
    epoch: u64,
    seq: u64,
}

/// The batch that takes in events.
#[derive(Default)]
pub(super) struct Filling {
    effects: Vec<Effect>,
    pub(super) payloads: Vec<(PayloadHandle, Bytes)>,
    items: Vec<ItemChunk>,
    item_bytes: usize,
    /// Those who wait for `items`.
    keepers: Vec<oneshot::Sender<()>>,
    prune: Vec<TaskId>,
    prune_runs: Vec<RunId>,
    client_events: usize,
    link_events: usize,
    pub(super) answers: usize,
}

/// The batch that commits.
pub(super) struct Committing {
    effects: Vec<Effect>,
    keepers: Vec<oneshot::Sender<()>>,
    /// What it removes: the store still has their rows, but nobody may build on these.
    prune: BTreeSet<TaskId>,
    pub(super) prune_runs: Vec<RunId>,
}

impl Filling {
    /// There is something to commit besides what the machine decided.
    fn changes_something(&self) -> bool {
        !self.items.is_empty() || !self.prune.is_empty() || !self.prune_runs.is_empty()
    }
}

impl Core {
    pub(super) fn new(
        loaded: Loaded,
        clock: Clock,
        reader: Box<dyn Read>,
        published: Arc<Published>,
        pruning: Pruning,
    ) -> Self {
        let Loaded { machine, tally, effects, plans, evaluator } = loaded;
        let (epoch, seq) = (machine.config().epoch, machine.config().commit_seq);
        Self {
            machine,
            clock,
            reader,
            outside: Outside::default(),
            published,
            filling: Filling { effects, ..Filling::default() },
            committing: None,
            plans,
            evaluator,
            pruning,
            tally,
            gauged_ms: 0,
            gauges_stale: true,
            committed_ms: Some(clock::mono_ms()),
            advanced: BTreeSet::new(),
            // Unique in the lineage, as far as anybody remembers: no other start has this epoch, what is left of it comes again once in
            // four billion starts, and none opens four billion links.
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

    pub(super) fn takes_answers(&self) -> bool {
        self.filling.answers < ANSWERS
    }

    pub(super) fn takes_items(&self) -> bool {
        self.filling.item_bytes < ITEM_BATCH_BYTES
    }

    /// Milliseconds until something is to be done though nothing happens: the machine wants to know the time, ended tasks may go,
    /// or the gauges are to follow what happened last.
    pub(super) fn sleep_ms(&self) -> Option<u64> {
        let gauges = self.gauges_stale.then_some(self.gauged_ms + GAUGES_MS);
        // The end of a commit is a turn of its own.
        let prune = self.pruning.due().filter(|_| !self.is_committing());
        let next = self.machine.next_wakeup().into_iter().chain(gauges).chain(prune).min();
        next.map(|at| at.saturating_sub(clock::mono_ms()))
    }

    /// From here on nothing is removed any more.
    pub(super) fn stop_pruning(&mut self) {
        self.pruning.stop();
    }

    /// A client's call. Questions change nothing, so their answers wait for no commit; whoever no longer waits for one has no use
    /// for it.
    pub(super) fn on_client(&mut self, call: ClientCall) -> Result<(), Error> {
        self.filling.client_events += 1;
        match call {
            ClientCall::Submit { new, reply } => self.on_submit(*new, reply)?,
            ClientCall::Cancel { task, reason, reply } => {
                let stored = self.stored(task)?;
                let ticket = self.outside.ticket(reply);
                self.apply(Event::CancelRequested { ticket, task, stored, reason });
            }
            ClientCall::Retry { task, key, reply } => {
                let stored = self.stored(task)?;
                let ticket = self.outside.ticket(reply);
                self.apply(Event::RetryRequested { ticket, task, stored, key });
            }
            ClientCall::Drain { sidecar, mode, reply } => {
                let ticket = self.outside.ticket(reply);
                self.apply(Event::DrainRequested { ticket, sidecar, mode });
            }
            ClientCall::PutExecutor { executor, replace, reply } => {
                let ticket = self.outside.ticket(reply);
                self.apply(Event::ExecutorPut { ticket, executor, replace });
            }
            ClientCall::DeleteExecutor { r#type, reply } => {
                let ticket = self.outside.ticket(reply);
                self.apply(Event::ExecutorDeleted { ticket, r#type });
            }
            ClientCall::Run(call) => self.on_run_call(*call)?,
            ClientCall::Why { task, reply } => {
                let _ = reply.send(self.machine.why(self.clock.now(), task));
            }
            ClientCall::WhyRun { run, reply } => {
                let _ = reply.send(self.machine.why_run(self.clock.now(), &run));
            }
            ClientCall::Queued { reply } => {
                let _ = reply.send(self.machine.queued());
            }
            ClientCall::Sidecars { all, reply } => {
                let _ = reply.send(self.machine.sidecars(self.clock.now(), all));
            }
            ClientCall::SessionOf { sidecar, reply } => {
                let _ = reply.send(self.machine.session_of(&sidecar));
            }
            ClientCall::Send { session, message, reply } => {
                let _ = reply.send(self.outside.send(session, message));
                self.close_broken();
            }
        }
        Ok(())
    }

    fn on_submit(&mut self, new: NewTask, reply: oneshot::Sender<Reply>) -> Result<(), Error> {
        let known = new.key.as_deref().map(|key| self.reader.key(key)).transpose()?.flatten();
        // Its key is free in the next batch, which is the one that this submit is in.
        let known = known.filter(|hit| !self.is_going(hit.task));
        let submit = Submit {
            ticket: self.outside.ticket(reply),
            task: new.task,
            key: new.key,
            payload: new.payload,
            digest: new.digest,
            array: new.array,
            facts: Box::new(new.facts),
            start_after_unix_ms: new.start_after_unix_ms,
            start_after_ms: new.start_after_ms,
            known,
        };
        // A submit that was refused or known leaves no body behind.
        if self.apply(Event::Submitted(Box::new(submit))) {
            self.outside.bodies.keep(new.payload, new.body.clone());
            self.filling.payloads.push((new.payload, new.body));
        }
        Ok(())
    }

    /// Items of an array that is yet to be submitted.
    pub(super) fn on_items(&mut self, call: ItemCall) {
        self.filling.item_bytes += call.chunk.items.iter().map(String::len).sum::<usize>();
        self.filling.items.push(call.chunk);
        self.filling.keepers.push(call.reply);
    }

    /// An array whose items were kept is not going to be submitted.
    pub(super) fn on_items_dropped(&mut self, array: TaskId) -> Result<(), Error> {
        self.filling.items.retain(|chunk| chunk.array != array);
        // Its client may have left while the answer was under way: then it is a task like any other.
        if !self.machine.holds(array) && self.reader.get(array)?.is_none() {
            self.filling.prune.push(array);
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
                let stored = self.stored(attempt.task)?;
                self.apply(Event::Reported { session, seq, attempt, fence, report, stored });
            }
            LinkCall::Event(Event::Emitted { session, attempt, fence, mut child }) => {
                self.complete_child(attempt.task, &mut child)?;
                self.apply(Event::Emitted { session, attempt, fence, child });
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
        out: Out,
        reply: oneshot::Sender<SessionId>,
    ) -> Result<(), Error> {
        let mut stored = BTreeMap::new();
        for task in held.iter().map(|held| held.attempt.task) {
            if !stored.contains_key(&task) {
                let rows = self.stored(task)?;
                stored.extend(rows.into_iter().filter_map(|row| Some((crate::store::id_of(&row)?, row))));
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
        self.release(effects)?;
        self.rest();
        Ok(())
    }

    /// Most of an idle informer's memory would be code that ran at its last work.
    fn rest(&mut self) {
        let rests = |committed_ms: u64| clock::mono_ms() >= committed_ms.saturating_add(REST_MS);
        if !self.is_committing() && self.committed_ms.take_if(|committed_ms| rests(*committed_ms)).is_some() {
            crate::rest::at_rest();
        }
    }

    /// A link ended on the other side.
    pub(super) fn on_closed(&mut self, session: SessionId) {
        self.outside.close(session);
        self.apply(Event::LinkClosed { session });
    }

    /// Tells the machine the time if it asked for it.
    pub(super) fn on_time(&mut self) {
        if self.machine.next_wakeup().is_some_and(|at| at <= clock::mono_ms()) {
            self.apply(Event::TimePassed);
        }
    }

    /// The end of a turn: what may start now? The answer is a batch to be committed under [`Core::epoch`].
    pub(super) fn take(&mut self) -> Result<Option<Commit>, Error> {
        self.publish_progress();
        self.publish_gauges();
        if self.is_committing() {
            return Ok(None);
        }
        while !self.machine.dirty() && !self.filling.changes_something() {
            if self.filling.effects.is_empty() {
                self.filling = Filling::default();
                self.look_for_ended()?;
                if !self.filling.changes_something() {
                    return Ok(None);
                }
                break;
            }
            // Nothing to commit: what was decided rests on what is on disk already.
            let effects = std::mem::take(&mut self.filling.effects);
            self.release(effects)?;
        }
        let batch = self.machine.take_batch(self.seq + 1);
        let filling = std::mem::take(&mut self.filling);
        let effects = filling.effects;
        #[cfg(feature = "seeded-bugs")]
        let effects = self.acknowledge_early(effects)?;
        self.committing = Some(Committing {
            effects,
            keepers: filling.keepers,
            prune: filling.prune.iter().copied().collect(),
            prune_runs: filling.prune_runs.clone(),
        });
        let changed = batch.tasks.iter().filter_map(|change| crate::store::id_of(&change.row));
        self.advanced.extend(self.published.with_progress(changed));
        self.publish_progress();
        let Filling { payloads, items, prune, prune_runs, .. } = filling;
        Ok(Some(Commit { seq: self.seq + 1, batch, payloads, items, prune, prune_runs }))
    }

    /// Ended tasks that may go, once in a while and only when there is nothing else to do.
    fn look_for_ended(&mut self) -> Result<(), Error> {
        let Some((ended_before, keep)) = self.pruning.ask(clock::wall_ms()) else { return Ok(()) };
        let found = self.reader.prunable(ended_before, keep, PRUNED)?;
        let free: Vec<TaskId> = found.iter().copied().filter(|task| !self.machine.holds(*task)).collect();
        // Tasks that are held again were just asked to run; where there is nothing else, the next minute will see them gone.
        let runs = self.reader.prunable_runs(ended_before, keep, PRUNED_STEPS)?;
        let free_runs: Vec<RunId> = runs.iter().filter(|run| !self.machine.holds_run(run)).cloned().collect();
        let nothing = free.is_empty() && free_runs.is_empty();
        self.pruning.looked(if nothing { 0 } else { found.len() + runs.len() });
        (self.filling.prune, self.filling.prune_runs) = (free, free_runs);
        Ok(())
    }

    /// The batch under way is done. After a failure nothing is told to anybody any more.
    pub(super) fn on_committed(&mut self, done: Done) -> Result<(), Error> {
        done.outcome?;
        let commit = done.commit;
        let Some(committing) = self.committing.take() else { return Ok(()) };
        self.committed_ms = Some(clock::mono_ms());
        self.seq = commit.seq;
        self.epoch = commit.batch.epoch.unwrap_or(self.epoch).max(self.epoch);
        self.machine.committed(self.seq);
        let (epoch, seq, restored) = (self.epoch, self.seq, self.machine.restored());
        let accepted = self.machine.config().accept_restored;
        self.published.set_identity(|identity| {
            if restored && !identity.restored {
                let starts = if accepted {
                    "exclusive tasks start at once, for which --accept-restored vouches, but for those of which a sidecar tells a copy"
                } else {
                    "exclusive tasks wait for the longest lease (start with --accept-restored if no copy of one can run)"
                };
                tracing::warn!(
                    "the store was restored from an older state: a sidecar has seen a later one; nothing is stopped, what is unknown here runs \
                     on, and {starts}"
                );
            }
            identity.epoch = epoch;
            identity.commit_seq = seq;
            identity.restored = restored;
        });
        for change in &commit.batch.tasks {
            self.tally.see(&change.row);
        }
        self.published.changed(commit.batch.tasks);
        self.published.runs_changed(commit.batch.runs);
        self.published.removed(commit.prune);
        for keeper in committing.keepers {
            // Its client has left.
            let _ = keeper.send(());
        }
        self.release(committing.effects)
    }

    fn publish_gauges(&mut self) {
        let now_ms = clock::mono_ms();
        if self.gauges_stale && now_ms >= self.gauged_ms + GAUGES_MS {
            let (links, waiters) = self.outside.counts();
            self.published.counters.set_gauges(self.tally.gauges(&self.machine, links, waiters));
            (self.gauged_ms, self.gauges_stale) = (now_ms, false);
        }
    }

    fn publish_progress(&mut self) {
        self.published.put_set_aside(self.machine.take_set_aside());
        if self.advanced.is_empty() {
            return;
        }
        let machine = &self.machine;
        let advanced = std::mem::take(&mut self.advanced);
        self.published.set_progress(advanced.into_iter().map(|task| (task, machine.progress(task).cloned())));
    }

    /// The store's rows of what the machine does not hold of a task: its own, and of a member its array's.
    pub(super) fn stored(&mut self, task: TaskId) -> Result<Vec<TaskRow>, Error> {
        let mut rows = Vec::new();
        for id in std::iter::once(task).chain(task.array()) {
            if !self.is_going(id) && !self.machine.holds(id) {
                rows.extend(self.reader.get(id)?);
            }
        }
        Ok(rows)
    }

    /// The batch under way removes it: whoever reads the store still finds it, and nobody may be told of it any more.
    fn is_going(&self, task: TaskId) -> bool {
        self.committing.as_ref().is_some_and(|committing| committing.prune.contains(&task))
    }

    /// Applies an event to the batch that fills; says whether it wrote something.
    pub(super) fn apply(&mut self, event: Event) -> bool {
        let mut effects = std::mem::take(&mut self.filling.effects);
        let wrote = self.decide(event, &mut effects);
        self.filling.effects = effects;
        wrote
    }

    fn decide(&mut self, event: Event, effects: &mut Vec<Effect>) -> bool {
        failpoint::hit("before-apply");
        self.gauges_stale = true;
        let before = self.machine.write_count();
        self.machine.apply(self.clock.now(), event, effects);
        failpoint::hit("after-apply");
        self.machine.write_count() != before
    }

    fn release(&mut self, effects: Vec<Effect>) -> Result<(), Error> {
        self.published.counters.on_released();
        let effects = self.compute(effects);
        self.outside.release(effects, &mut *self.reader)?;
        self.close_broken();
        self.give_back();
        Ok(())
    }

    /// Lets effects go before their batch is durable, if that is the mistake to be made.
    #[cfg(feature = "seeded-bugs")]
    fn acknowledge_early(&mut self, effects: Vec<Effect>) -> Result<Vec<Effect>, Error> {
        if !failpoint::mistake("AcknowledgeBeforeFlush") {
            return Ok(effects);
        }
        self.release(effects)?;
        Ok(Vec::new())
    }

    fn close_broken(&mut self) {
        for session in self.outside.take_broken() {
            tracing::warn!(session = session.0, "the sidecar reads too slowly or is gone: its link was ended");
            self.apply(Event::LinkClosed { session });
        }
    }
}
