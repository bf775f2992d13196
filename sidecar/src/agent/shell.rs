//! The one loop around the machine: apply what happened, commit what changed, and only then let the orders go.
//!
//! It runs on the agent's first thread, which does nothing that can wait for a disk, a log reader or a service: beats leave from here, and
//! leave on time. Files are the work and files threads' affair, the database the ledger thread's, the lease page the lease thread's.

mod start;

use super::assignments::Assignments;
use super::embedded::Embedded;
use super::emitters::Emitters;
use super::files::{Job, Jobs};
use super::inputs::Inputs;
use super::lease::LeasePublisher;
use super::link::Open;
use super::reports::Reports;
use super::types::Types;
use super::upload;
use super::wire::{self, Word};
use super::work::Order;
use super::{Dirs, Error, Options, clock, failpoint};
use crate::ledger::{self, Commit, Meta, Writer};
use crate::machine::{Effect, Event, Found, Heard, LinkId, Machine, Notice, Now, Refusal};
use crate::metrics::Metrics;
use crate::{exec, load};
use keeper::record::Home;
use keeper::wire::{Fencing, Request};
use prost::Message as _;
use proto::id::{AttemptId, Fence};
use proto::{bounds, v1};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

/// Events applied before one commit. More would delay the first of them; fewer would commit more often than the disk can.
const BATCH_EVENTS: usize = 512;

/// What reaches the loop.
#[derive(Debug)]
pub(super) enum Input {
    /// For the machine as it is.
    Event(Event),
    /// A link is open.
    LinkUp(Open),
    /// A message on a link.
    Message(LinkId, Box<v1::InformerMessage>),
    /// A link is gone.
    LinkDown(LinkId),
    /// The keeper is connected.
    KeeperUp { listing: Vec<Found>, requests: mpsc::Sender<Request>, fencing: Fencing },
    /// A batch is in the ledger, or will never be.
    Committed(Result<u64, ledger::Error>),
    /// What the agent cannot do without is gone.
    Lost(Error),
}

/// Where orders go.
pub(super) struct Outside {
    pub dirs: Dirs,
    /// Which directory the attempts are in.
    pub directory: Home,
    pub assignments: Assignments,
    pub writer: Writer,
    pub lease: LeasePublisher,
    pub jobs: Jobs,
    pub inputs: Inputs,
    pub work: mpsc::Sender<Order>,
    pub uploads: mpsc::Sender<upload::Order>,
    pub silence_ms: Arc<AtomicU64>,
    pub metrics: Arc<Metrics>,
    pub types: Types,
    pub embedded: Embedded,
    pub reports: Reports,
    pub emitters: Emitters,
    pub keeperless: bool,
    /// Of this process and no other.
    pub start: u64,
    /// Another process had the id of late.
    pub yields: bool,
}

/// The machine and everything it is connected to.
pub(super) struct Shell {
    machine: Machine,
    options: Options,
    meta: Meta,
    this_machine: load::Machine,
    base_env: Vec<(String, String)>,
    outside: Outside,
    link: Option<Open>,
    keeper: Option<mpsc::Sender<Request>>,
    fencing: Fencing,
    /// Of the last batch taken.
    seq: u64,
    committing: bool,
    /// Assignments of rows that no batch has carried yet.
    new_assigns: BTreeMap<AttemptId, Vec<u8>>,
    /// Orders of the batch being committed, and of what was applied since.
    sealed: Vec<Effect>,
    held: Vec<Effect>,
    /// A start is in the queue to the keeper.
    ordered: bool,
    beat_ms: u64,
}

impl Shell {
    pub(super) fn new(machine: Machine, options: Options, meta: Meta, outside: Outside) -> Self {
        Self {
            machine,
            options,
            meta,
            this_machine: load::machine(),
            base_env: exec::base_env(),
            outside,
            link: None,
            keeper: None,
            fencing: Fencing::Weak,
            seq: 0,
            committing: false,
            new_assigns: BTreeMap::new(),
            sealed: Vec::new(),
            held: Vec::new(),
            ordered: false,
            beat_ms: bounds::BEAT_MS,
        }
    }

    /// Waits for something to happen and deals with it, and with what has gathered meanwhile.
    pub(super) async fn turn(&mut self, inbox: &mut mpsc::Receiver<Input>) -> Result<(), Error> {
        let wakeup = self.machine.next_wakeup();
        let timer = async {
            match wakeup {
                Some(at_ms) => clock::sleep_until(at_ms).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // A due beat goes before whatever waits.
            biased;
            () = timer => self.apply(Event::TimePassed)?,
            Some(input) = inbox.recv() => {
                self.take(input)?;
                for _ in 1..BATCH_EVENTS {
                    let Ok(input) = inbox.try_recv() else { break };
                    self.take(input)?;
                }
            }
        }
        if std::mem::take(&mut self.ordered) {
            // The order leaves from another task of this thread; the ledger's thread, once woken, would take the processor before it.
            tokio::task::yield_now().await;
        }
        self.commit()?;
        self.outside.metrics.on_turn(&self.machine);
        Ok(())
    }

    /// Tells the machine that the agent shall end.
    pub(super) fn shut_down(&mut self) -> Result<(), Error> {
        self.apply(Event::ShutdownRequested { stop_tasks: self.options.stop_tasks_on_exit })?;
        self.commit()
    }

    /// What runs within this process ends with it, so it is told to; answers what that is.
    pub(super) fn end_embedded(&self) -> Vec<AttemptId> {
        self.outside.embedded.stop_all()
    }

    /// The machine knows the ends of all of them.
    pub(super) fn have_ended(&self, attempts: &[AttemptId]) -> bool {
        attempts.iter().all(|attempt| self.machine.stage(*attempt).is_none_or(|stage| !stage.is_unfinished()))
    }

    /// Nothing that was decided is still on its way, and nothing keeps the agent.
    pub(super) fn may_exit(&self) -> bool {
        !self.committing && self.held.is_empty() && self.machine.may_exit()
    }

    /// The informer has every report, or there is no link to wait for.
    pub(super) fn is_quiet(&self) -> bool {
        self.machine.is_quiet()
    }

    /// Logs are on their way to the informer.
    pub(super) fn is_uploading(&self) -> bool {
        self.machine.is_uploading()
    }

    /// Whether the tasks shall end with the agent.
    pub(super) const fn stops_tasks(&self) -> bool {
        self.options.stop_tasks_on_exit
    }

    /// The keeper's queue, for the last request of all.
    pub(super) fn keeper(&self) -> Option<mpsc::Sender<Request>> {
        self.keeper.clone()
    }

    fn take(&mut self, input: Input) -> Result<(), Error> {
        match input {
            Input::Event(event) => {
                match &event {
                    Event::Noticed { attempt, notice: Notice::Refused { refusal: Refusal::NoLease, .. } }
                        if self.machine.lease_deadline_ms() > clock::boot_ms()
                            && self.outside.lease.on_refused(*attempt) =>
                    {
                        return Ok(());
                    }
                    Event::KeeperGone => self.keeper = None,
                    Event::LogSent { failure, .. } => self.outside.metrics.on_log_sent(failure.is_none()),
                    _ => {}
                }
                self.apply(event)
            }
            Input::LinkUp(open) => {
                let link = open.id;
                self.link = Some(open);
                self.apply(Event::LinkOpened { link })
            }
            Input::LinkDown(link) => {
                self.link.take_if(|open| open.id == link);
                self.apply(Event::LinkClosed { link })
            }
            Input::Message(link, message) => self.on_message(link, *message),
            Input::KeeperUp { listing, requests, fencing } => {
                (self.keeper, self.fencing) = (Some(requests), fencing);
                self.apply(Event::KeeperConnected { listing })
            }
            Input::Lost(error) => Err(error),
            Input::Committed(result) => self.on_committed(result.map_err(Error::Ledger)?),
        }
    }

    fn on_message(&mut self, link: LinkId, message: v1::InformerMessage) -> Result<(), Error> {
        if self.link.as_ref().is_none_or(|open| open.id != link) {
            return Ok(());
        }
        let heard = match wire::word(message) {
            Ok(Word::Heard(heard)) => heard,
            Ok(Word::Assign(assign, heard)) => {
                failpoint::reach("after-assign");
                self.on_assign(&heard, *assign);
                heard
            }
            Ok(Word::Welcome { informer, terms, logs, children }) => {
                tracing::info!(url = self.options.informer, "linked");
                self.outside.types.on_welcome();
                self.on_identity(informer);
                let stranger = self.outside.lease.is_strange_to(&self.meta.seen.lineage);
                Heard::Welcome { terms, logs, stranger, children }
            }
            Ok(Word::BeatAck(commit_seq, heard)) => {
                self.outside.metrics.on_beat_ack();
                self.meta.seen.commit_seq = self.meta.seen.commit_seq.max(commit_seq);
                heard
            }
            Ok(Word::Ping(nonce)) => {
                let pong = v1::sidecar_message::Message::Pong(v1::Pong { nonce });
                self.send(link, pong);
                return Ok(());
            }
            Ok(Word::Log(request)) => {
                if self.outside.work.try_send(Order::Log(request)).is_err() {
                    tracing::warn!("too many log requests at once; one was dropped");
                }
                return Ok(());
            }
            Ok(Word::Executors(part)) => {
                if let Some(set) = self.outside.types.on_executors(part) {
                    self.job(Job::KeepExecutors(set));
                }
                return Ok(());
            }
            Ok(Word::Callback(attempt, body)) => {
                self.outside.embedded.on_callback(attempt, body);
                return Ok(());
            }
            Err(error) => {
                tracing::warn!(%error, "the informer sent what cannot be understood; ending the link");
                self.close(link);
                return Ok(());
            }
        };
        if let Heard::Ack { .. } = heard {
            failpoint::fire();
        }
        if let Heard::Welcome { terms, .. } | Heard::BeatAck { terms, .. } = heard {
            self.beat_ms = terms.beat_ms;
            self.outside.silence_ms.store(terms.lease_ms, Ordering::Relaxed);
        }
        self.apply(Event::Heard { link, heard })
    }

    fn on_assign(&mut self, heard: &Heard, assign: v1::Assign) {
        let Heard::Assign { attempt, fence, .. } = *heard else { return };
        self.meta.highest_fence = self.meta.highest_fence.max(fence);
        if self.machine.holds(attempt) {
            return;
        }
        self.new_assigns.insert(attempt, assign.encode_to_vec());
        self.outside.assignments.insert(attempt, assign);
    }

    /// Within a lineage only the highest counts; another lineage is another informer's history and is remembered instead. Fences of
    /// the earlier one say nothing to it: their epochs would look as if it had forgotten a leadership of its own.
    fn on_identity(&mut self, identity: v1::Identity) {
        let seen = &mut self.meta.seen;
        let newer = (identity.epoch, identity.commit_seq) > (seen.epoch, seen.commit_seq);
        if identity.lineage != seen.lineage {
            self.meta.highest_fence = Fence::default();
        }
        if identity.lineage != seen.lineage || newer {
            *seen = identity;
        }
    }

    fn apply(&mut self, event: Event) -> Result<(), Error> {
        let mut effects = Vec::new();
        let now = clock::now();
        self.machine.apply(now, event, &mut effects);
        self.sort(now, effects)
    }

    fn on_committed(&mut self, seq: u64) -> Result<(), Error> {
        self.committing = false;
        let mut effects = Vec::new();
        let now = clock::now();
        self.machine.committed(now, seq, &mut effects);
        failpoint::reach("after-ledger");
        for effect in std::mem::take(&mut self.sealed) {
            self.run(now, effect)?;
        }
        self.sort(now, effects)
    }

    /// Urgent effects go now, the others with their batch.
    fn sort(&mut self, now: Now, effects: Vec<Effect>) -> Result<(), Error> {
        for effect in effects {
            let waits = matches!(effect, Effect::SendBeat { .. }) && failpoint::beats_wait();
            if effect.is_urgent() && !waits {
                self.run(now, effect)?;
            } else {
                self.held.push(effect);
            }
        }
        Ok(())
    }

    /// Hands the next batch to the ledger, one at a time; what changes nothing there leaves at once.
    fn commit(&mut self) -> Result<(), Error> {
        while !self.committing {
            self.seq += 1;
            let batch = self.machine.take_batch(self.seq);
            let now = clock::now();
            if !batch.is_empty() {
                let assigns = batch.rows.iter().filter_map(|row| self.new_assigns.remove_entry(&row.attempt)).collect();
                let (seen, highest_fence) = (self.meta.seen.clone(), self.meta.highest_fence);
                self.sealed = std::mem::take(&mut self.held);
                self.committing = true;
                self.outside.writer.commit(Commit { seq: self.seq, batch, assigns, seen, highest_fence });
                return Ok(());
            }
            let mut effects = Vec::new();
            self.machine.committed(now, self.seq, &mut effects);
            for effect in std::mem::take(&mut self.held) {
                self.run(now, effect)?;
            }
            if effects.is_empty() {
                // A refused assignment has no row; nothing of it is kept.
                for attempt in std::mem::take(&mut self.new_assigns).into_keys() {
                    self.outside.assignments.remove(attempt);
                }
                return Ok(());
            }
            self.sort(now, effects)?;
        }
        Ok(())
    }

    /// Carries out one order.
    fn run(&mut self, now: Now, effect: Effect) -> Result<(), Error> {
        use v1::sidecar_message::Message;
        match effect {
            Effect::SendHello { link, held } => self.introduce(link, held),
            Effect::SendReport { link, report } => {
                match report.what {
                    Some(v1::report::What::Accepted(_)) => failpoint::arm("after-accept"),
                    Some(v1::report::What::Ended(_)) => {
                        failpoint::reach("after-end-ledger");
                        failpoint::arm("after-report");
                    }
                    _ => {}
                }
                self.send(link, Message::Report(*report));
            }
            Effect::SendEmit { link, emitted } => {
                failpoint::reach("after-emit-ledger");
                self.send(link, Message::Emitted(*emitted));
            }
            Effect::AnswerEmit { ticket, answer } => {
                failpoint::reach("before-emit-answer");
                self.outside.emitters.answer(ticket, answer);
            }
            Effect::SendBeat { link, mut beat } => {
                self.outside.metrics.on_beat();
                beat.apart = self.apart();
                self.send(link, Message::Beat(*beat));
                // A full queue means that the work thread has enough to do; the next beat tells older figures.
                let _dropped = self.outside.work.try_send(Order::Beaten { next_ms: now.boot_ms + self.beat_ms });
            }
            Effect::CloseLink { link, why } => {
                tracing::warn!(why, "ending the link");
                self.close(link);
            }
            Effect::PublishLease { deadline_ms } => {
                self.outside.embedded.on_lease(deadline_ms);
                self.outside.lease.publish(deadline_ms, &self.meta.seen.lineage);
            }
            Effect::StartAttempt { attempt, fence, fence_grace_ms } => {
                return self.start(now, attempt, fence, fence_grace_ms);
            }
            Effect::StopAttempt { attempt, why } => {
                if self.outside.embedded.stop(attempt, wire::end_reason(why)) {
                    return Ok(());
                }
                let request = Request::Stop { name: attempt.dir_name(), reason: wire::end_reason(why), grace_ms: None };
                self.request(request);
                self.outside.inputs.stop(attempt);
                // Dropped from a full queue, it costs the staging of outputs that nobody wants.
                let _dropped = self.outside.work.try_send(Order::StopStaging(attempt, why));
            }
            Effect::EndUnnamed { attempt, grace_ms } => {
                let reason = wire::end_reason(v1::Reason::Lost);
                self.request(Request::Stop { name: attempt.dir_name(), reason, grace_ms: Some(grace_ms) });
            }
            Effect::PublishOutputs { attempt, .. } => self.job(Job::Publish(attempt)),
            Effect::Retire { attempt, discard_outputs } => {
                self.outside.inputs.forget(attempt);
                let _dropped = self.outside.work.try_send(Order::Over(attempt));
                self.job(Job::Retire(attempt, discard_outputs));
            }
            Effect::StoreLog { attempt, fence } => return self.store_log(now, attempt, fence),
            Effect::Purge { attempt } => self.job(Job::Purge(attempt)),
            Effect::GiveUp { code, message } => {
                let other_has_it = matches!(&code[..], "superseded" | "copy");
                return Err(if other_has_it { Error::Superseded(message) } else { Error::Refused(message) });
            }
            Effect::Complain(complaint) => tracing::warn!("{complaint}"),
        }
        Ok(())
    }

    /// What attempts ask for that the informer does not count, so that it does not give it away; `None`: there are none.
    fn apart(&self) -> Option<v1::Resources> {
        self.machine.apart().filter_map(|attempt| self.asked(attempt)).reduce(|sum, more| v1::Resources {
            cpu_millis: sum.cpu_millis.saturating_add(more.cpu_millis),
            memory_bytes: sum.memory_bytes.saturating_add(more.memory_bytes),
        })
    }

    fn asked(&self, attempt: AttemptId) -> Option<v1::Resources> {
        self.outside.assignments.get(attempt).and_then(|assign| assign.spec.as_ref()?.resources)
    }

    fn store_log(&mut self, now: Now, attempt: AttemptId, fence: Fence) -> Result<(), Error> {
        if self.outside.uploads.try_send(upload::Order { attempt, fence }).is_ok() {
            return Ok(());
        }
        let mut effects = Vec::new();
        let failure = Some("too many uploads wait".to_owned());
        self.machine.apply(now, Event::LogSent { attempt, failure }, &mut effects);
        self.sort(now, effects)
    }

    fn job(&self, job: Job) {
        // The thread lives as long as this sender.
        let _alive = self.outside.jobs.send(job);
    }

    fn request(&mut self, request: Request) {
        let Some(keeper) = &self.keeper else { return };
        // A keeper that lags this far is reconnected to, and the listing tells what is to be done again.
        if let Err(mpsc::error::TrySendError::Full(_)) = keeper.try_send(request) {
            tracing::warn!("the keeper does not take orders; connecting again");
            self.keeper = None;
        }
    }

    fn send(&mut self, link: LinkId, message: v1::sidecar_message::Message) {
        let Some(open) = self.link.as_ref().filter(|open| open.id == link) else { return };
        if open.out.try_send(v1::SidecarMessage { message: Some(message) }).is_err() {
            tracing::warn!("the informer does not take what is sent; ending the link");
            self.close(link);
        }
    }

    /// The link's own task sees it dropped and tells when it is gone.
    fn close(&mut self, link: LinkId) {
        self.link.take_if(|open| open.id == link);
    }

    fn kinds(&self) -> Vec<String> {
        let keeperless = self.outside.keeperless;
        let containers = self.outside.inputs.crun().filter(|_| !keeperless).map(|_| exec::CONTAINER.to_owned());
        self.outside.types.kinds(keeperless).into_iter().chain(containers).collect()
    }

    fn introduce(&mut self, link: LinkId, mut held: Vec<v1::HeldAttempt>) {
        use v1::sidecar_message::Message;
        for attempt in &mut held {
            attempt.boot_id.clone_from(&self.this_machine.boot_id);
            let id = attempt.attempt.as_ref().and_then(|id| AttemptId::from_wire(id).ok());
            attempt.asked = Some(id.and_then(|id| self.asked(id)).unwrap_or_default());
        }
        let parts = wire::inventory_parts(held);
        let seen = Some(self.meta.seen.clone()).filter(|seen| !seen.lineage.is_empty());
        let hello = v1::Hello {
            protocol_min: proto::PROTOCOL_MIN,
            protocol_max: proto::PROTOCOL_MAX,
            sidecar: self.meta.sidecar.to_string(),
            incarnation: self.meta.incarnation,
            start: self.outside.start,
            yields: self.outside.yields,
            host: self.this_machine.host.clone(),
            boot_id: self.this_machine.boot_id.clone(),
            pid_ns: self.this_machine.pid_ns,
            directory: self.outside.directory.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            labels: self.options.labels.clone().into_iter().collect(),
            total: Some(v1::Resources {
                cpu_millis: self.options.cpu_millis.unwrap_or(self.this_machine.cpu_millis),
                memory_bytes: self.options.memory_bytes.unwrap_or(self.this_machine.memory_bytes),
            }),
            slots: self.options.slots,
            weak_fencing: self.fencing == Fencing::Weak,
            seen,
            inventory_parts: u32::try_from(parts.len()).unwrap_or(u32::MAX),
            kinds: self.kinds(),
            highest_fence_epoch: self.meta.highest_fence.epoch,
            highest_fence_n: self.meta.highest_fence.n,
        };
        self.send(link, Message::Hello(hello));
        for attempts in parts {
            self.send(link, Message::Inventory(v1::Inventory { attempts }));
        }
    }
}
