//! A task and its attempts as the machine holds them, and their durable form.
//!
//! ```text
//!                  start time, back-off, old copy's lease
//!                 ┌──────────────┐
//! submit ──▶ Waiting ──▶ Ready ──▶ Assigned ──▶ Running ──▶ Committing ──▶ Succeeded
//!                 ▲        │           │           │   └───────────────────▲
//!                 │        │           │           └──▶ Failed              (no outputs)
//!                 └────────┴───────────┴── retry: own budget, or infrastructure's
//!            any of them but Committing ──▶ Cancelled
//!
//! attempt:  Assigned ──▶ Running ──▶ Committing ──▶ Succeeded
//!               │           ├──▶ Failed | Cancelled | Lost
//!               └───────────┴──▶ PresumedLost ──▶ Running (back in time) | Lost | Late
//! ```

use super::array::Members;
use super::aside::Aside;
use super::event::{PayloadHandle, RunId};
use super::ready::Spot;
use super::shared::{Alike, Own};
use proto::bounds;
use proto::id::{AttemptId, Fence, SidecarId, TaskId};
use proto::{store, v1};
use std::sync::Arc;
use workflow::run::StepIx;

pub(super) use v1::AttemptState as Phase;

/// Where a task stands. Data lives in the variant that owns it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum State {
    /// Not before `until_ms` on the monotonic clock; `u64::MAX`: until an old copy's end is told.
    Waiting { until_ms: u64, why: WaitsFor },
    /// Waits for a sidecar, at this place of its queue.
    Ready { place: u64 },
    /// Its newest attempt is on its way to a sidecar, or in its ledger.
    Assigned,
    /// A process of it runs, as far as is known.
    Running,
    /// The result of attempt `winner` is accepted; it publishes its outputs.
    Committing { winner: u32 },
    /// Terminal.
    Ended { state: Terminal, ending: Box<v1::Ending> },
}

/// What a waiting task waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitsFor {
    StartTime,
    BackOff,
    /// A `stop` copy may run until then.
    OldCopy,
}

/// How a task can end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Terminal {
    Succeeded,
    Failed,
    Cancelled,
}

/// One try.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Attempt {
    pub number: u32,
    pub sidecar: SidecarId,
    pub phase: Phase,
    pub fence: Fence,
    /// Its result can no longer be accepted.
    pub fenced: bool,
    pub ending: Option<Box<v1::Ending>>,
    pub assigned_unix_ms: u64,
    pub started_unix_ms: u64,
    pub ended_unix_ms: u64,
    /// Latest progress; not durable, a sidecar tells it again.
    pub progress: Option<Box<v1::Progress>>,
    /// How long it should take there; 0: unknown.
    pub expected_ms: u64,
    /// An operator's drain has ordered it away.
    pub moved: bool,
    /// Its number had been given before: it is refused, and charged to nobody. Within one event.
    pub renumbered: bool,
    /// Its sidecar's directory came into use in another place, which cannot say that nothing of it runs where it was.
    pub elsewhere: bool,
}

impl Attempt {
    /// A process of it may exist and its sidecar is believed alive, so it occupies a slot.
    pub(super) fn occupies(&self) -> bool {
        matches!(self.phase, Phase::Assigned | Phase::Running | Phase::Committing)
    }

    /// Its result could still be accepted.
    pub(super) fn may_win(&self) -> bool {
        !self.fenced && (self.occupies() || self.phase == Phase::PresumedLost)
    }
}

/// A task that is not terminal, or whose end is not yet committed, or that still occupies a slot somewhere.
#[derive(Debug, Clone)]
pub(super) struct Task {
    pub payload: PayloadHandle,
    /// Its facts without its own.
    pub alike: Arc<Alike>,
    pub own: Arc<Own>,
    pub state: State,
    /// It is an array.
    pub members: Option<Box<Members>>,
    pub attempts: Vec<Attempt>,
    pub attempts_dropped: u32,
    /// Copies that may run and are not among its attempts; nothing else of it starts meanwhile.
    pub aside: Vec<Aside>,
    pub next_attempt: u32,
    pub created_unix_ms: u64,
    pub ended_unix_ms: u64,
    pub not_before_unix_ms: u64,
    pub ready_since_unix_ms: u64,
    pub run_since_unix_ms: u64,
    pub own_failures: u32,
    pub infra_failures: u32,
    pub restarts: u32,
    pub runs: u32,
    /// A user cancelled it; it ends as soon as its process has.
    pub cancelling: bool,
    /// Its total time is over; it fails as soon as its process has ended. Not durable: the timer fires again after a restart.
    pub overtime: bool,
    pub key: Option<Box<str>>,
    /// Arrays: what stands for the payload under the key.
    pub key_digest: Option<Box<PayloadHandle>>,
    pub retry_key: Box<str>,
    pub version: u64,
    /// Lines of its history.
    pub history: u32,
    /// It does the work of a workflow run's step.
    pub of_run: Option<Box<OfRun>>,
    /// Another task has emitted it.
    pub child: Option<Box<Child>>,
    /// How many it has emitted.
    pub children: u32,
}

/// What a child knows of its parent, which is of no workflow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Child {
    pub parent: TaskId,
    pub key: Box<str>,
    /// Of all that it was emitted as.
    pub digest: PayloadHandle,
}

impl Child {
    fn to_row(&self) -> store::ChildRow {
        store::ChildRow {
            parent: self.parent.to_bytes().to_vec(),
            key: self.key.to_string(),
            digest: self.digest.to_vec(),
        }
    }

    pub(super) fn from_row(row: &store::ChildRow) -> Option<Self> {
        Some(Self {
            parent: TaskId::from_bytes(&row.parent)?,
            key: row.key.as_str().into(),
            digest: row.digest.as_slice().try_into().ok()?,
        })
    }
}

/// What a task knows of the run that it works for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OfRun {
    pub run: RunId,
    pub step: StepIx,
    pub reference: Box<str>,
    pub input: Option<PayloadHandle>,
    /// What its accepted attempt left.
    pub result: Option<PayloadHandle>,
    pub retried_from: Option<TaskId>,
}

impl OfRun {
    fn to_row(&self) -> store::OfRunRow {
        let bytes = |handle: &Option<PayloadHandle>| handle.map_or_else(Vec::new, |handle| handle.to_vec());
        store::OfRunRow {
            run: self.run.to_string(),
            step: self.step,
            reference: self.reference.to_string(),
            input: bytes(&self.input),
            result: bytes(&self.result),
            retried_from: self.retried_from.map_or_else(Vec::new, |task| task.to_bytes().to_vec()),
        }
    }

    pub(super) fn from_row(row: &store::OfRunRow) -> Self {
        Self {
            run: row.run.as_str().into(),
            step: row.step,
            reference: row.reference.as_str().into(),
            input: row.input.as_slice().try_into().ok(),
            result: row.result.as_slice().try_into().ok(),
            retried_from: TaskId::from_bytes(&row.retried_from),
        }
    }
}

impl Task {
    /// A new one, which waits for nothing.
    pub(super) fn new(payload: PayloadHandle, alike: Arc<Alike>, own: Arc<Own>, now_unix_ms: u64) -> Self {
        Self {
            payload,
            alike,
            own,
            state: State::Waiting { until_ms: 0, why: WaitsFor::StartTime },
            members: None,
            attempts: Vec::new(),
            attempts_dropped: 0,
            aside: Vec::new(),
            next_attempt: 1,
            created_unix_ms: now_unix_ms,
            ended_unix_ms: 0,
            not_before_unix_ms: 0,
            ready_since_unix_ms: 0,
            run_since_unix_ms: now_unix_ms,
            own_failures: 0,
            infra_failures: 0,
            restarts: 0,
            runs: 1,
            cancelling: false,
            overtime: false,
            key: None,
            key_digest: None,
            retry_key: Box::default(),
            version: 0,
            history: 0,
            of_run: None,
            child: None,
            children: 0,
        }
    }

    /// Of an array: what it knows of its members.
    pub(super) fn members(&self) -> Option<&Members> {
        self.members.as_deref()
    }

    pub(super) fn members_mut(&mut self) -> Option<&mut Members> {
        self.members.as_deref_mut()
    }

    /// Where it stands if it is ready.
    pub(super) fn spot(&self) -> Option<Spot> {
        match self.state {
            State::Ready { place } => Some(Spot { priority: self.alike.facts.priority, lane: self.alike.lane, place }),
            _ => None,
        }
    }

    pub(super) fn attempt(&self, number: u32) -> Option<&Attempt> {
        self.attempts.iter().find(|attempt| attempt.number == number)
    }

    pub(super) fn attempt_mut(&mut self, number: u32) -> Option<&mut Attempt> {
        self.attempts.iter_mut().find(|attempt| attempt.number == number)
    }

    /// A service has a restart policy instead of retries.
    pub(super) fn is_service(&self) -> bool {
        self.alike.facts.restart.is_some()
    }

    pub(super) fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended { .. })
    }

    /// It waits for a time, an old copy or a sidecar.
    pub(super) fn waits(&self) -> bool {
        matches!(self.state, State::Waiting { .. } | State::Ready { .. })
    }

    /// Its process is to be stopped, whatever it does meanwhile.
    pub(super) fn is_stopping(&self) -> bool {
        self.cancelling || self.overtime
    }

    /// Nothing of it can change any more except by a user.
    pub(super) fn is_settled(&self) -> bool {
        self.is_ended() && !self.attempts.iter().any(Attempt::occupies)
    }

    /// A copy of a `stop` task that is not wanted any more still runs on a sidecar that is heard: its end will be told.
    pub(super) fn old_copy_runs(&self) -> bool {
        self.alike.facts.stop_on_disconnect && self.attempts.iter().any(Attempt::occupies)
    }

    /// Adds an attempt and drops the oldest closed one beyond the bound of listed attempts.
    pub(super) fn push_attempt(&mut self, attempt: Attempt) {
        if self.attempts.len() >= bounds::ATTEMPTS_LISTED
            && let Some(oldest) = self.attempts.iter().position(|a| !a.occupies() && a.phase != Phase::PresumedLost)
        {
            self.attempts.remove(oldest);
            self.attempts_dropped += 1;
        }
        self.next_attempt = self.next_attempt.max(attempt.number + 1);
        self.attempts.push(attempt);
    }

    /// The wire's word for its state.
    pub(super) fn wire_state(&self) -> v1::TaskState {
        match self.state {
            State::Waiting { .. } => v1::TaskState::Waiting,
            State::Ready { .. } if self.members().is_some_and(Members::has_begun) => v1::TaskState::Running,
            State::Ready { .. } => v1::TaskState::Ready,
            State::Assigned => v1::TaskState::Assigned,
            State::Running => v1::TaskState::Running,
            State::Committing { .. } => v1::TaskState::Committing,
            State::Ended { state: Terminal::Succeeded, .. } => v1::TaskState::Succeeded,
            State::Ended { state: Terminal::Failed, .. } => v1::TaskState::Failed,
            State::Ended { state: Terminal::Cancelled, .. } => v1::TaskState::Cancelled,
        }
    }

    /// Its state in one lower-case word.
    pub(super) fn state_word(&self) -> &'static str {
        match self.wire_state() {
            v1::TaskState::Waiting => "waiting",
            v1::TaskState::Ready => "ready",
            v1::TaskState::Assigned => "assigned",
            v1::TaskState::Running => "running",
            v1::TaskState::Committing => "committing",
            v1::TaskState::Succeeded => "succeeded",
            v1::TaskState::Failed => "failed",
            v1::TaskState::Cancelled => "cancelled",
            v1::TaskState::Unspecified => "unknown",
        }
    }

    /// Its durable form, without its facts, which never change.
    pub(super) fn to_row(&self, id: TaskId) -> store::TaskRow {
        store::TaskRow {
            id: id.to_bytes().to_vec(),
            payload: self.payload.to_vec(),
            facts: None,
            state: self.wire_state().into(),
            attempts: self.attempts.iter().map(Attempt::to_row).collect(),
            created_unix_ms: self.created_unix_ms,
            ended_unix_ms: self.ended_unix_ms,
            not_before_unix_ms: self.not_before_unix_ms,
            ready_since_unix_ms: self.ready_since_unix_ms,
            own_failures: self.own_failures,
            infra_failures: self.infra_failures,
            restarts: self.restarts,
            ending: match &self.state {
                State::Ended { ending, .. } => Some((**ending).clone()),
                _ => None,
            },
            cancelling: self.cancelling,
            key: self.key.as_deref().unwrap_or_default().to_owned(),
            attempts_dropped: self.attempts_dropped,
            next_attempt: self.next_attempt,
            version: self.version,
            runs: self.runs,
            run_since_unix_ms: self.run_since_unix_ms,
            retry_key: self.retry_key.to_string(),
            array: self.members().map(Members::to_row),
            key_digest: self.key_digest.as_ref().map_or_else(Vec::new, |digest| digest.to_vec()),
            history: self.history,
            of_run: self.of_run.as_deref().map(OfRun::to_row),
            aside: self.aside.iter().map(|aside| aside.to_row()).collect(),
            child: self.child.as_deref().map(Child::to_row),
            children: self.children,
        }
    }
}

impl Attempt {
    /// Its id, given its task's.
    pub(super) fn id(&self, task: TaskId) -> AttemptId {
        AttemptId { task, number: self.number }
    }

    fn to_row(&self) -> store::AttemptRow {
        store::AttemptRow {
            number: self.number,
            sidecar: self.sidecar.to_string(),
            state: self.phase.into(),
            fence: Some(self.fence.into()),
            ending: self.ending.as_deref().cloned(),
            assigned_unix_ms: self.assigned_unix_ms,
            started_unix_ms: self.started_unix_ms,
            ended_unix_ms: self.ended_unix_ms,
            fenced: self.fenced,
            expected_ms: self.expected_ms,
            moved: self.moved,
            elsewhere: self.elsewhere,
        }
    }

    /// From its durable form; `None` if the row is not one that this program writes.
    pub(super) fn from_row(row: store::AttemptRow) -> Option<Self> {
        Some(Self {
            number: row.number,
            sidecar: row.sidecar.parse().ok()?,
            phase: row.state(),
            fence: row.fence.map(Fence::from).unwrap_or_default(),
            fenced: row.fenced,
            ending: row.ending.map(Box::new),
            assigned_unix_ms: row.assigned_unix_ms,
            started_unix_ms: row.started_unix_ms,
            ended_unix_ms: row.ended_unix_ms,
            progress: None,
            expected_ms: row.expected_ms,
            moved: row.moved,
            renumbered: false,
            elsewhere: row.elsewhere,
        })
    }
}
