//! Reports: in which order they leave, how many at once, and what their acknowledgement permits.
//!
//! ```text
//! queue ── pump ──▶ in flight (seq 5, 6, 7) ── Ack(6) ──▶ acked: an attempt with nothing left to say is retired
//! ```
//!
//! Queue and window belong to one link. A new link starts with both empty, and each verdict queues again what its attempt has reached:
//! the outbox proper is the ledger.

use super::row::{Step, Told};
use super::stage::Happening;
use super::{Bug, Effect, LinkId, LinkState, LogCopy, Machine, Stage, Wish};
use proto::id::{AttemptId, Fence};
use proto::{bounds, v1};
use std::collections::VecDeque;

/// Answers about attempts that have no row. Each answers one message of the informer, so more than its queue is long means that it
/// sends without reading.
const LOOSE_QUEUED: usize = bounds::LINK_QUEUE;

/// One report to be sent.
#[derive(Debug, Clone, PartialEq)]
enum Fact {
    /// About a held attempt; its content is read from the attempt when it leaves.
    Held(AttemptId, Step),
    /// About an attempt that is not held.
    Loose(AttemptId, Fence, v1::report::What),
}

/// The reports of one link.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: VecDeque<Fact>,
    loose: usize,
    last_seq: u64,
    /// Numbers are consecutive and end with `last_seq`.
    in_flight: VecDeque<(u64, Option<(AttemptId, Step)>)>,
}

impl Outbox {
    pub(super) fn on_link_closed(&mut self) {
        *self = Self::default();
    }

    /// Reports that are queued or in flight.
    pub(super) fn len(&self) -> usize {
        self.queue.len() + self.in_flight.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.in_flight.is_empty()
    }

    /// Drops the answer if the peer sends without reading; [`Machine::pump`] then ends the link.
    pub(super) fn queue_loose(&mut self, attempt: AttemptId, fence: Fence, what: v1::report::What) {
        self.loose += 1;
        if self.loose <= LOOSE_QUEUED {
            self.queue.push_back(Fact::Loose(attempt, fence, what));
        }
    }

    /// Every report of a held attempt that is queued or in flight.
    pub(super) fn held(&self) -> impl Iterator<Item = (AttemptId, Step)> + '_ {
        let queued = self.queue.iter().filter_map(|fact| match fact {
            Fact::Held(id, step) => Some((*id, *step)),
            Fact::Loose(..) => None,
        });
        self.in_flight.iter().filter_map(|(_, report)| *report).chain(queued)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.in_flight.len() > bounds::REPORTS_IN_FLIGHT {
            return Err(format!("{} reports are in flight", self.in_flight.len()));
        }
        let first = self.last_seq + 1 - self.in_flight.len() as u64;
        match self.in_flight.iter().zip(first..).find(|((seq, _), expected)| seq != expected) {
            Some(((seq, _), expected)) => Err(format!("report {expected} is missing before {seq}")),
            None => Ok(()),
        }
    }
}

impl Machine {
    /// Queues what an attempt has reached and was not yet said in this link.
    pub(super) fn queue_reports(&mut self, id: AttemptId) {
        if !matches!(self.link, LinkState::Welcomed(_)) {
            return;
        }
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        if attempt.wish == Wish::SetAside {
            return;
        }
        for step in Step::ALL {
            let reached = attempt.reached(step);
            let Some(told) = &mut attempt.told else { return };
            if reached && told.queued < Some(step) {
                told.queued = Some(step);
                self.outbox.queue.push_back(Fact::Held(id, step));
            }
        }
    }

    /// Takes back what is queued about an attempt and has not left.
    pub(super) fn withdraw_reports(&mut self, id: AttemptId) {
        self.outbox.queue.retain(|fact| !matches!(fact, Fact::Held(held, _) if *held == id));
        let in_flight = self.outbox.held().filter(|(held, _)| *held == id).map(|(_, step)| step).max();
        if let Some(Some(told)) = self.attempts.get_mut(&id).map(|attempt| &mut attempt.told) {
            told.queued = told.acked.max(in_flight);
        }
    }

    /// Sends queued reports as far as the window allows.
    pub(super) fn pump(&mut self, effects: &mut Vec<Effect>) {
        let LinkState::Welcomed(link) = self.link else { return };
        if self.outbox.loose > LOOSE_QUEUED {
            self.outbox.loose = LOOSE_QUEUED;
            effects.push(Effect::CloseLink { link, why: "it sends more than it reads" });
        }
        while self.outbox.in_flight.len() < bounds::REPORTS_IN_FLIGHT {
            let Some(fact) = self.outbox.queue.pop_front() else { return };
            self.send(link, fact, effects);
        }
    }

    fn send(&mut self, link: LinkId, fact: Fact, effects: &mut Vec<Effect>) {
        let (id, step, fence, what) = match fact {
            Fact::Loose(id, fence, what) => {
                self.outbox.loose -= 1;
                (id, None, fence, Some(what))
            }
            Fact::Held(id, step) => match self.attempts.get(&id) {
                Some(attempt) => (id, Some(step), attempt.fence, attempt.report(step)),
                None => return,
            },
        };
        let Some(what) = what else { return };
        self.outbox.last_seq += 1;
        let seq = self.outbox.last_seq;
        self.outbox.in_flight.push_back((seq, step.map(|step| (id, step))));
        let report = v1::Report { seq, attempt: Some(id.to_wire()), fence: Some(fence.into()), what: Some(what) };
        effects.push(Effect::SendReport { link, report: Box::new(report) });
        if step == Some(Step::Over) && self.has(Bug::PurgeBeforeAck) {
            self.retire(id, effects);
        }
    }

    pub(super) fn on_ack(&mut self, link: LinkId, seq: u64, effects: &mut Vec<Effect>) {
        if seq > self.outbox.last_seq {
            effects.push(Effect::CloseLink { link, why: "it acknowledged a report that was never sent" });
            return;
        }
        while let Some((first, report)) = self.outbox.in_flight.front().copied() {
            if first > seq {
                return;
            }
            self.outbox.in_flight.pop_front();
            let Some((id, step)) = report else { continue };
            if let Some(Some(told)) = self.attempts.get_mut(&id).map(|attempt| &mut attempt.told) {
                told.acked = told.acked.max(Some(step));
                self.retire_if_settled(id, effects);
            }
        }
    }

    /// An attempt with nothing left to say or to wait for is over.
    pub(super) fn retire_if_settled(&mut self, id: AttemptId, effects: &mut Vec<Effect>) {
        let Some(attempt) = self.attempts.get(&id) else { return };
        let acked = attempt.told.and_then(|told: Told| told.acked);
        if acked.is_some_and(|acked| attempt.is_settled_by(acked)) {
            self.retire(id, effects);
        }
    }

    /// The informer has all of it: free what it occupies, keep its logs.
    pub(super) fn retire(&mut self, id: AttemptId, effects: &mut Vec<Effect>) {
        // A repeated verdict must not count its log as nothing.
        let Some(attempt) = self.attempts.get_mut(&id).filter(|attempt| attempt.stage.is_held()) else { return };
        let (log_bytes, discard_outputs, copy) = match &attempt.stage {
            Stage::Ended(ending) | Stage::Publishing(ending) => {
                (ending.out_bytes + ending.err_bytes, true, self.uploads.wanted(ending, ending.reason != 0))
            }
            Stage::Published(ending, failure) => {
                let failed = ending.reason != 0 || failure.is_some();
                (ending.out_bytes + ending.err_bytes, failure.is_some(), self.uploads.wanted(ending, failed))
            }
            _ => (0, false, LogCopy::Unwanted),
        };
        attempt.log_bytes = log_bytes;
        let copy = if self.has(Bug::PurgeBeforeStored) { LogCopy::Unwanted } else { copy };
        self.drop_emits(id, effects);
        if self.advance(id, Happening::Acknowledged(copy), effects) {
            effects.push(Effect::Retire { attempt: id, discard_outputs });
        }
    }
}
