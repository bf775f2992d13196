//! Children that running attempts emit: stored, sent up, answered.
//!
//! ```text
//! EmitAsked ─▶ in the ledger's batch ─▶ SendEmit ─▶ EmitAnswered ─▶ AnswerEmit; the row goes
//!                     ▲                    │
//!                     └── next link ───────┘ (again, until it is answered)
//! ```
//!
//! Whether a child is known already is the informer's to say: it has them all. Here lie only those that it has not answered, so a repeated
//! emit is either one of these, and waits with it, or goes up once more and does nothing there.
//!
//! Children go before the end: an attempt's end is told, and listed as one, only when each of its emits is answered.

use super::row::Attempt;
use super::{Effect, LinkState, Machine, Stage, Wish};
use proto::id::{AttemptId, Fence};
use proto::{bounds, v1};
use std::collections::{BTreeMap, BTreeSet};

/// Who waits for the answer to an emit, in this agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What is emitted, as it goes up and as the ledger keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emit {
    /// The child's key within its task; empty: no more children will come.
    pub key: String,
    /// SHA-256 of the payload.
    pub digest: [u8; 32],
    /// What the child is, for the informer.
    pub payload: Vec<u8>,
}

/// An emit that was not answered yet, as the ledger keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmitRow {
    /// The attempt whose child it is.
    pub attempt: AttemptId,
    /// Grows with each emit: what came first goes up first.
    pub order: u64,
    /// The emit.
    pub emit: Emit,
}

/// What becomes of an emit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EmitAnswer {
    /// The informer has it, durably.
    Taken,
    /// It will never be taken, and why.
    Refused(String),
    /// There is no room for it now; it may be tried again, and why.
    Later(String),
}

/// By attempt and key.
type Name = (AttemptId, String);

#[derive(Debug)]
struct Held {
    order: u64,
    digest: [u8; 32],
    payload: Vec<u8>,
    /// In the present link.
    sent: bool,
    tickets: Vec<Ticket>,
}

/// All that are not answered.
#[derive(Debug, Default)]
pub(super) struct Emits {
    held: BTreeMap<Name, Held>,
    /// Of these, the ones that were not sent in the present link, by order.
    unsent: BTreeMap<u64, Name>,
    bytes: usize,
    next_order: u64,
    dirty: BTreeSet<Name>,
}

impl Emits {
    fn insert(&mut self, name: Name, order: u64, emit: Emit, tickets: Vec<Ticket>) {
        self.next_order = self.next_order.max(order + 1);
        self.bytes += emit.payload.len();
        self.unsent.insert(order, name.clone());
        let held = Held { order, digest: emit.digest, payload: emit.payload, sent: false, tickets };
        self.held.insert(name, held);
    }

    fn remove(&mut self, name: &Name) -> Option<Held> {
        let held = self.held.remove(name)?;
        self.bytes -= held.payload.len();
        self.unsent.remove(&held.order);
        self.dirty.insert(name.clone());
        Some(held)
    }

    fn in_flight(&self) -> usize {
        self.held.len() - self.unsent.len()
    }

    pub(super) fn on_link_closed(&mut self) {
        for (name, held) in self.held.iter_mut().filter(|(_, held)| held.sent) {
            held.sent = false;
            self.unsent.insert(held.order, name.clone());
        }
    }

    /// What a batch writes, and what it deletes.
    pub(super) fn take_dirty(&mut self) -> (Vec<EmitRow>, Vec<Name>) {
        let (mut rows, mut deletes) = (Vec::new(), Vec::new());
        for name in std::mem::take(&mut self.dirty) {
            match self.held.get(&name) {
                Some(held) => {
                    let (attempt, key) = name;
                    let emit = Emit { key, digest: held.digest, payload: held.payload.clone() };
                    rows.push(EmitRow { attempt, order: held.order, emit });
                }
                None => deletes.push(name),
            }
        }
        (rows, deletes)
    }

    fn of(&self, attempt: AttemptId) -> impl Iterator<Item = &Name> + '_ {
        let first = (attempt, String::new());
        self.held.range(first..).map(|(name, _)| name).take_while(move |(of, _)| *of == attempt)
    }

    /// Every count is what it counts.
    pub(super) fn check(&self, attempts: &BTreeMap<AttemptId, Attempt>, linked: bool) -> Result<(), String> {
        let bytes: usize = self.held.values().map(|held| held.payload.len()).sum();
        if bytes != self.bytes || bytes > bounds::EMITS_HELD_BYTES || self.held.len() > bounds::EMITS_HELD {
            return Err(format!("{} emits of {bytes} bytes are held, and {} are booked", self.held.len(), self.bytes));
        }
        let unsent = self.held.iter().filter(|(_, held)| !held.sent).map(|(name, held)| (held.order, name.clone()));
        let unsent: BTreeMap<u64, Name> = unsent.collect();
        if self.unsent != unsent || self.in_flight() > bounds::EMITS_IN_FLIGHT {
            return Err("the emits that are to be sent are not those that were not".into());
        }
        if !linked && self.in_flight() > 0 {
            return Err("emits are in flight without a link".into());
        }
        let mut counts: BTreeMap<AttemptId, usize> = BTreeMap::new();
        self.held.keys().for_each(|(attempt, _)| *counts.entry(*attempt).or_default() += 1);
        if let Some(orphan) = counts.keys().find(|id| !attempts.get(*id).is_some_and(|it| it.stage.is_held())) {
            return Err(format!("an emit of {orphan} is held, and the attempt is not"));
        }
        match attempts.iter().find(|(id, it)| it.emits != counts.get(*id).copied().unwrap_or(0)) {
            Some((id, it)) => Err(format!("{id} is booked with {} emits", it.emits)),
            None => Ok(()),
        }
    }
}

impl Machine {
    /// With the emits that the ledger held. Those of attempts that are over are deleted.
    #[must_use]
    pub fn with_emits(mut self, rows: impl IntoIterator<Item = EmitRow>) -> Self {
        for EmitRow { attempt, order, emit } in rows {
            let name = (attempt, emit.key.clone());
            match self.attempts.get_mut(&attempt).filter(|it| it.stage.is_held()) {
                Some(of) => {
                    of.emits += 1;
                    self.emits.insert(name, order, emit, Vec::new());
                }
                None => {
                    self.emits.dirty.insert(name);
                }
            }
        }
        self
    }

    /// Emits that the informer has not answered.
    #[must_use]
    pub fn emits_held(&self) -> usize {
        self.emits.held.len()
    }

    /// A task emits a child. It is stored before it goes up, and its ticket is answered when the informer has answered.
    pub(super) fn on_emit_asked(
        &mut self,
        ticket: Ticket,
        id: AttemptId,
        fence: Fence,
        emit: Emit,
        effects: &mut Vec<Effect>,
    ) {
        let name = (id, emit.key.clone());
        if let Some(answer) = self.emit_objection(id, fence, &name, &emit) {
            return effects.push(Effect::AnswerEmit { ticket, answer });
        }
        if let Some(held) = self.emits.held.get_mut(&name) {
            return held.tickets.push(ticket);
        }
        self.emits.dirty.insert(name.clone());
        self.emits.insert(name, self.emits.next_order, emit, vec![ticket]);
        if let Some(attempt) = self.attempts.get_mut(&id) {
            attempt.emits += 1;
        }
    }

    fn emit_objection(&self, id: AttemptId, fence: Fence, name: &Name, emit: &Emit) -> Option<EmitAnswer> {
        let refused = |why: &str| Some(EmitAnswer::Refused(format!("attempt {id} {why}")));
        let Some(attempt) = self.attempts.get(&id).filter(|attempt| attempt.stage.is_unfinished()) else {
            return refused("does not run on this sidecar");
        };
        if attempt.fence != fence {
            return refused("runs under another fence; this copy of it is not wanted any more");
        }
        if attempt.wish.is_unwanted() {
            return refused("is being stopped, and its result is not wanted");
        }
        if let Some(held) = self.emits.held.get(name) {
            let why = format!("child {:?} was emitted with another payload", name.1);
            return (held.digest != emit.digest).then_some(EmitAnswer::Refused(why));
        }
        if matches!(self.link, LinkState::Welcomed(_)) && !self.takes_children {
            return Some(EmitAnswer::Refused(NO_CHILDREN.into()));
        }
        let bytes = self.emits.bytes + emit.payload.len();
        if self.emits.held.len() >= bounds::EMITS_HELD || bytes > bounds::EMITS_HELD_BYTES {
            return Some(EmitAnswer::Later("too many emits wait for the informer".into()));
        }
        if !self.room {
            return Some(EmitAnswer::Later("the sidecar's disk is full".into()));
        }
        None
    }

    /// An informer that knows no children will answer none.
    pub(super) fn on_children_welcome(&mut self, takes: bool, effects: &mut Vec<Effect>) {
        self.takes_children = takes;
        if takes {
            return;
        }
        let all: Vec<_> = self.emits.held.keys().cloned().collect();
        for name in all {
            self.answer_emit(&name, &EmitAnswer::Refused(NO_CHILDREN.into()), effects);
        }
    }

    /// The informer's word about one emit. A repeated one finds nothing.
    pub(super) fn on_emit_answered(
        &mut self,
        id: AttemptId,
        key: String,
        answer: &EmitAnswer,
        effects: &mut Vec<Effect>,
    ) {
        self.answer_emit(&(id, key), answer, effects);
        // Its end may have waited for this.
        self.queue_reports(id);
    }

    fn answer_emit(&mut self, name: &Name, answer: &EmitAnswer, effects: &mut Vec<Effect>) {
        let Some(held) = self.emits.remove(name) else { return };
        for ticket in held.tickets {
            effects.push(Effect::AnswerEmit { ticket, answer: answer.clone() });
        }
        if let Some(attempt) = self.attempts.get_mut(&name.0) {
            attempt.emits -= 1;
        }
    }

    /// The attempt is over for the informer, and so are its children that were not answered.
    pub(super) fn drop_emits(&mut self, id: AttemptId, effects: &mut Vec<Effect>) {
        let names: Vec<_> = self.emits.of(id).cloned().collect();
        let why = format!("attempt {id} is over; its result was not wanted, or is known already");
        for name in names {
            self.answer_emit(&name, &EmitAnswer::Refused(why.clone()), effects);
        }
    }

    /// Sends what is stored, in order, as far as the window and the informer's word about each attempt allow.
    pub(super) fn pump_emits(&mut self, effects: &mut Vec<Effect>) {
        let LinkState::Welcomed(link) = self.link else { return };
        if self.emits.unsent.is_empty() {
            return;
        }
        let free = bounds::EMITS_IN_FLIGHT.saturating_sub(self.emits.in_flight());
        let may_go = |id: &AttemptId| {
            self.attempts
                .get(id)
                .is_some_and(|it| it.told.is_some() && it.wish != Wish::SetAside && it.stage != Stage::Accepting)
        };
        let ready = self.emits.unsent.iter().filter(|(_, (id, _))| may_go(id)).take(free);
        let ready: Vec<_> = ready.map(|(order, name)| (*order, name.clone())).collect();
        for (order, name) in ready {
            let (Some(held), Some(attempt)) = (self.emits.held.get_mut(&name), self.attempts.get(&name.0)) else {
                continue;
            };
            held.sent = true;
            self.emits.unsent.remove(&order);
            let emitted = v1::Emitted {
                attempt: Some(name.0.to_wire()),
                fence: Some(attempt.fence.into()),
                key: name.1,
                digest: held.digest.to_vec(),
                payload: held.payload.clone(),
            };
            effects.push(Effect::SendEmit { link, emitted: Box::new(emitted) });
        }
    }
}

/// What is told to a task whose informer is older than its sidecar.
const NO_CHILDREN: &str = "the informer takes no children of running tasks; upgrade it";
