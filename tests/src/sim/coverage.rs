//! What was reached: each fault with what it struck, each arm of the tables of states.

use super::faults::Kind;
use super::flow::{Edge, Verb};
use informer::machine::{Effect, Event, HeldState, Machine, Sight};
use proto::id::{AttemptId, TaskId};
use proto::{store, v1};
use sidecar::machine::Arms;
use std::collections::BTreeMap;
use v1::informer_message::Message;
use v1::verdict::Decision;

/// What was under way where a fault struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// Nothing.
    Nothing,
    /// A task that waits for a time or an old copy.
    Waiting,
    /// One that waits for room.
    Ready,
    /// An attempt on its way to a process.
    Assigned,
    /// A process.
    Running,
    /// One that ends with its lease.
    RunningStop,
    /// A service's.
    Service,
    /// An array member's.
    Member,
    /// A process that is to be stopped.
    Stopping,
    /// A winner that publishes.
    Committing,
    /// An attempt that was given up.
    PresumedLost,
    /// An end that the informer has not acknowledged.
    EndUntold,
    /// An attempt that the informer does not know.
    SetAside,
}

impl What {
    /// All.
    pub const ALL: [Self; 13] = [
        Self::Nothing,
        Self::Waiting,
        Self::Ready,
        Self::Assigned,
        Self::Running,
        Self::RunningStop,
        Self::Service,
        Self::Member,
        Self::Stopping,
        Self::Committing,
        Self::PresumedLost,
        Self::EndUntold,
        Self::SetAside,
    ];
}

/// What is seen of one task at one sidecar, or anywhere.
pub(super) fn seen(row: &store::TaskRow, sidecar: Option<&str>) -> Vec<What> {
    let facts = row.facts.clone().unwrap_or_default();
    let is_member = TaskId::from_bytes(&row.id).is_some_and(|id| id.index().is_some());
    let mut found = Vec::new();
    match row.state() {
        v1::TaskState::Waiting if sidecar.is_none() => found.push(What::Waiting),
        v1::TaskState::Ready if sidecar.is_none() => found.push(What::Ready),
        _ => {}
    }
    for attempt in row.attempts.iter().filter(|it| sidecar.is_none_or(|sidecar| it.sidecar == sidecar)) {
        let running = attempt.state() == v1::AttemptState::Running;
        match attempt.state() {
            v1::AttemptState::Assigned => found.push(What::Assigned),
            v1::AttemptState::Running if facts.restart.is_some() => found.push(What::Service),
            v1::AttemptState::Running if facts.stop_on_disconnect => found.push(What::RunningStop),
            v1::AttemptState::Running => found.push(What::Running),
            v1::AttemptState::Committing => found.push(What::Committing),
            v1::AttemptState::PresumedLost => found.push(What::PresumedLost),
            _ => {}
        }
        if running && is_member {
            found.push(What::Member);
        }
        if running && (row.cancelling || attempt.fenced) {
            found.push(What::Stopping);
        }
    }
    found
}

/// How a held attempt was announced, and what the informer knew of it.
pub(super) type Question = (AttemptId, &'static str, &'static str);

/// Counts of one history, or of many.
#[derive(Debug, Clone, Default)]
pub struct Coverage {
    /// Steps taken.
    pub steps: u64,
    /// Tasks that ended.
    pub ended: u64,
    /// Losses of attempts.
    pub losses: u64,
    /// Results stored as late.
    pub late: u64,
    /// Faults that struck.
    pub faults: u64,
    /// Processes started.
    pub processes: u64,
    /// Which fault struck what.
    pub matrix: BTreeMap<(Kind, What), u64>,
    /// Steps of tasks: from, to.
    pub tasks: BTreeMap<(&'static str, &'static str), u64>,
    /// Steps of attempts.
    pub attempts: BTreeMap<(&'static str, &'static str), u64>,
    /// Answers to what a returning sidecar holds: how it is held, what is known, the decision.
    pub answers: BTreeMap<(&'static str, &'static str, &'static str), u64>,
    /// The sidecar's table.
    pub arms: Arms,
    /// Runs of workflows, and those of them that were compared with what they mean; and starts where that is a race.
    pub runs: u64,
    /// See above.
    pub compared: u64,
    /// See above.
    pub unsure: u64,
    /// Steps of runs that ended: type and status.
    pub types: BTreeMap<(String, &'static str), u64>,
    /// Commits of runs: what they did, and on which side the informer was killed.
    pub edges: BTreeMap<(Edge, &'static str), u64>,
    /// What was done to runs, and how that went.
    pub(super) verbs: BTreeMap<(Verb, &'static str), u64>,
    states: BTreeMap<TaskId, (v1::TaskState, BTreeMap<u32, v1::AttemptState>)>,
}

impl Coverage {
    /// Adds another history's counts.
    pub fn merge(&mut self, other: &Self) {
        self.steps += other.steps;
        self.ended += other.ended;
        self.losses += other.losses;
        self.late += other.late;
        self.faults += other.faults;
        self.processes += other.processes;
        add(&mut self.matrix, &other.matrix);
        add(&mut self.tasks, &other.tasks);
        add(&mut self.attempts, &other.attempts);
        add(&mut self.answers, &other.answers);
        self.runs += other.runs;
        self.compared += other.compared;
        self.unsure += other.unsure;
        add(&mut self.types, &other.types);
        add(&mut self.edges, &other.edges);
        add(&mut self.verbs, &other.verbs);
        self.arms.merge(&other.arms);
    }

    pub(super) fn on_strike(&mut self, kind: Kind, what: &[What]) {
        self.faults += 1;
        for what in what {
            *self.matrix.entry((kind, *what)).or_default() += 1;
        }
    }

    pub(super) fn on_agent_ended(&mut self, agent: &sidecar::machine::Machine) {
        self.arms.merge(agent.arms());
    }

    /// What an event asks of the table of answers.
    pub(super) fn questions(&self, machine: &Machine, event: &Event) -> Vec<Question> {
        let Event::LinkOpened { held, stored, .. } = event else { return Vec::new() };
        let ask = |held: &informer::machine::Held| {
            let id = held.attempt;
            let here = match (machine.sight(id), machine.holds(id.task), stored.get(&id.task)) {
                (Some(sight), ..) => known(sight),
                (None, false, Some(row)) => from_row(row, id.number),
                (None, true, _) => "unlisted",
                (None, false, None) => "unknown",
            };
            (id, held_word(&held.state), here)
        };
        held.iter().map(ask).collect()
    }

    pub(super) fn on_applied(&mut self, machine: &Machine, questions: Vec<Question>, effects: &[Effect]) {
        for (task, state, attempts) in machine.changed() {
            let known = self.states.entry(task).or_insert((v1::TaskState::Unspecified, BTreeMap::new()));
            if known.0 != state {
                *self.tasks.entry((task_word(known.0), task_word(state))).or_default() += 1;
                known.0 = state;
            }
            for (number, state) in attempts {
                let was = known.1.insert(number, state).unwrap_or(v1::AttemptState::Unspecified);
                if was != state {
                    *self.attempts.entry((attempt_word(was), attempt_word(state))).or_default() += 1;
                }
            }
        }
        for (id, held, here) in questions {
            let verdict = effects.iter().find_map(|effect| match effect {
                Effect::Send { message, .. } => match &message.message {
                    Some(Message::Verdict(it)) if it.attempt == Some(id.to_wire()) => Some(it.decision()),
                    _ => None,
                },
                _ => None,
            });
            if let Some(decision) = verdict {
                *self.answers.entry((held, here, decision_word(decision))).or_default() += 1;
            }
        }
    }
}

fn add<K: Ord + Clone>(sum: &mut BTreeMap<K, u64>, more: &BTreeMap<K, u64>) {
    for (key, times) in more {
        *sum.entry(key.clone()).or_default() += times;
    }
}

fn held_word(state: &HeldState) -> &'static str {
    match state {
        HeldState::Accepted => "accepted",
        HeldState::Running { .. } => "running",
        HeldState::Ended(_) => "ended",
        HeldState::Published(_) => "published",
        HeldState::SetAside => "set aside",
    }
}

fn known(sight: Sight) -> &'static str {
    match (sight.state, sight.fenced || sight.unwanted) {
        (_, true) => "fenced",
        (v1::AttemptState::PresumedLost, false) => "presumed lost",
        (v1::AttemptState::Assigned | v1::AttemptState::Running | v1::AttemptState::Committing, false) => "open",
        (_, false) => "over",
    }
}

fn from_row(row: &store::TaskRow, number: u32) -> &'static str {
    let known_here = row.attempts.iter().any(|attempt| attempt.number == number);
    if known_here { "fenced" } else { "unlisted" }
}

fn task_word(state: v1::TaskState) -> &'static str {
    match state {
        v1::TaskState::Unspecified => "new",
        v1::TaskState::Waiting => "waiting",
        v1::TaskState::Ready => "ready",
        v1::TaskState::Assigned => "assigned",
        v1::TaskState::Running => "running",
        v1::TaskState::Committing => "committing",
        v1::TaskState::Succeeded => "succeeded",
        v1::TaskState::Failed => "failed",
        v1::TaskState::Cancelled => "cancelled",
    }
}

fn attempt_word(state: v1::AttemptState) -> &'static str {
    match state {
        v1::AttemptState::Unspecified => "new",
        v1::AttemptState::Assigned => "assigned",
        v1::AttemptState::Running => "running",
        v1::AttemptState::Committing => "committing",
        v1::AttemptState::Succeeded => "succeeded",
        v1::AttemptState::Failed => "failed",
        v1::AttemptState::Cancelled => "cancelled",
        v1::AttemptState::PresumedLost => "presumed lost",
        v1::AttemptState::Lost => "lost",
        v1::AttemptState::Late => "late",
    }
}

fn decision_word(decision: Decision) -> &'static str {
    match decision {
        Decision::Unspecified => "nothing",
        Decision::Keep => "keep",
        Decision::Stop => "stop",
        Decision::Acknowledged => "acknowledged",
        Decision::SetAside => "set aside",
        Decision::Publish => "publish",
    }
}
