//! What the machine holds of one attempt, and the part of it that the ledger keeps.

use super::event::Facts;
use super::stage::{LogCopy, Stage};
use proto::id::{AttemptId, Fence};
use proto::v1;

/// One attempt as the ledger keeps it, without its payload.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The attempt.
    pub attempt: AttemptId,
    /// Its fence.
    pub fence: Fence,
    /// What decisions need of it.
    pub facts: Facts,
    /// Grows with each attempt taken: who came first starts first, and is purged first.
    pub order: u64,
    /// Its process, if there was one.
    pub started: Option<v1::Started>,
    /// An informer that did not know it set it aside.
    pub set_aside: bool,
    /// Log bytes that a retired attempt keeps on the disk.
    pub log_bytes: u64,
    /// Where it stands, as far as the ledger needs to know.
    pub state: RowState,
}

/// Where an attempt stands, as far as the ledger needs to know. What else there is follows from the keeper's listing.
#[derive(Debug, Clone, PartialEq)]
pub enum RowState {
    /// Taken; whether it was started, the keeper knows.
    Accepted,
    /// Its process existed.
    Running,
    /// It ended.
    Ended(Box<v1::Ending>),
    /// Its outputs are in place, or could not be put there.
    Published(Box<v1::Ending>, Option<String>),
    /// It will not be run here.
    Refused(String),
    /// The informer has its end; and the log, so far as this says.
    Retired(LogCopy),
}

/// What the informer wants of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Let it run.
    Run,
    /// End it.
    Stop(v1::Reason),
    /// It does not know it: let it run on, report nothing, start and stop nothing.
    SetAside,
}

impl Wish {
    /// Not even its result is wanted.
    pub(super) fn is_unwanted(self) -> bool {
        matches!(self, Self::Stop(v1::Reason::Cancelled | v1::Reason::Revoked | v1::Reason::Fenced))
    }
}

/// The reports of an attempt, in the only order in which they may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Accepted,
    Started,
    /// Ended or refused.
    Over,
    Published,
}

impl Step {
    pub(super) const ALL: [Self; 4] = [Self::Accepted, Self::Started, Self::Over, Self::Published];
}

/// What was said about an attempt in the present link. Made by the verdict (or the assignment) in it: without one, nothing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Told {
    pub queued: Option<Step>,
    pub acked: Option<Step>,
}

/// One attempt in memory.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Attempt {
    pub fence: Fence,
    pub facts: Facts,
    pub order: u64,
    pub started: Option<v1::Started>,
    pub stage: Stage,
    pub wish: Wish,
    pub told: Option<Told>,
    pub progress: Option<v1::Progress>,
    pub log_bytes: u64,
    /// Its emits that the informer has not answered: until there is none, its end is not told.
    pub emits: usize,
}

impl Attempt {
    pub(super) fn from_row(row: Row) -> (AttemptId, Self) {
        let stage = match row.state {
            RowState::Accepted => Stage::Accepted,
            RowState::Running => Stage::Running,
            RowState::Ended(ending) => Stage::Ended(ending),
            RowState::Published(ending, failure) => Stage::Published(ending, failure),
            RowState::Refused(why) => Stage::Refused(why),
            RowState::Retired(copy) => Stage::Retired(copy),
        };
        let attempt = Self {
            fence: row.fence,
            facts: row.facts,
            order: row.order,
            started: row.started,
            stage,
            wish: if row.set_aside { Wish::SetAside } else { Wish::Run },
            told: None,
            progress: None,
            log_bytes: row.log_bytes,
            emits: 0,
        };
        (row.attempt, attempt)
    }

    pub(super) fn to_row(&self, attempt: AttemptId) -> Row {
        let state = match &self.stage {
            Stage::Accepting | Stage::Accepted | Stage::Starting => RowState::Accepted,
            Stage::Running => RowState::Running,
            Stage::Ended(ending) | Stage::Publishing(ending) => RowState::Ended(ending.clone()),
            Stage::Published(ending, failure) => RowState::Published(ending.clone(), failure.clone()),
            Stage::Refused(why) => RowState::Refused(why.clone()),
            Stage::Retired(copy) | Stage::Purging(copy) => RowState::Retired(*copy),
        };
        Row {
            attempt,
            fence: self.fence,
            facts: self.facts,
            order: self.order,
            started: self.started.clone(),
            set_aside: self.wish == Wish::SetAside,
            log_bytes: self.log_bytes,
            state,
        }
    }

    /// It occupies this sidecar, and the informer does not count it: it has set it aside, or has not judged it in this link.
    pub(super) fn is_apart(&self) -> bool {
        self.stage.is_unfinished() && (self.told.is_none() || self.wish == Wish::SetAside)
    }

    /// Whether there is a fact for this step.
    pub(super) fn reached(&self, step: Step) -> bool {
        match (step, &self.stage) {
            (_, Stage::Accepting | Stage::Retired(_) | Stage::Purging(_)) => false,
            (Step::Accepted, _) => true,
            (Step::Started, _) => self.started.is_some(),
            // Children before the end.
            (Step::Over, stage) => !stage.is_unfinished() && self.emits == 0,
            (Step::Published, Stage::Published(..)) => true,
            (Step::Published, _) => false,
        }
    }

    /// The last acknowledged step leaves nothing to say and nothing to wait for. A success with staged outputs waits to be told
    /// whether it won.
    pub(super) fn is_settled_by(&self, acked: Step) -> bool {
        match &self.stage {
            Stage::Ended(ending) => {
                let may_win = ending.reason == 0 && !ending.outputs.is_empty() && !self.wish.is_unwanted();
                acked >= Step::Over && !may_win
            }
            Stage::Refused(_) => acked >= Step::Over,
            Stage::Published(..) => acked >= Step::Published,
            _ => false,
        }
    }

    /// Its place in the inventory; `None` if the informer has all of it, or nobody was told of it.
    ///
    /// An end whose result has no room, or whose children are not all answered, is listed as still running, as far on as can be, so that no copy is preferred to it: its report
    /// follows the verdict.
    pub(super) fn inventory(&self, attempt: AttemptId, result_bytes: &mut usize) -> Option<v1::HeldAttempt> {
        let mut held = v1::HeldAttempt {
            attempt: Some(attempt.to_wire()),
            fence: Some(self.fence.into()),
            started_unix_ms: self.started.as_ref().map_or(0, |started| started.unix_ms),
            ..Default::default()
        };
        let state = match &self.stage {
            Stage::Retired(_) | Stage::Purging(_) => return None,
            stage if self.wish == Wish::SetAside => {
                held.over = !stage.is_unfinished();
                v1::HeldState::SetAside
            }
            Stage::Accepting | Stage::Accepted | Stage::Starting => v1::HeldState::Accepted,
            Stage::Running => {
                held.progress = Some(self.progress.clone().unwrap_or_default());
                v1::HeldState::Running
            }
            Stage::Ended(ending) if ending.result.len() > *result_bytes || self.emits > 0 => {
                held.progress = Some(v1::Progress { permille: 1000, step: u64::MAX, ..Default::default() });
                v1::HeldState::Running
            }
            Stage::Ended(ending) | Stage::Publishing(ending) => {
                held.ending = Some(fitting(ending, result_bytes));
                v1::HeldState::Ended
            }
            Stage::Published(ending, None) => {
                held.ending = Some(fitting(ending, result_bytes));
                v1::HeldState::Published
            }
            // Not in place: for the inventory it is an end like any other, and the report says the rest.
            Stage::Published(ending, Some(_)) => {
                held.ending = Some(fitting(ending, result_bytes));
                v1::HeldState::Ended
            }
            Stage::Refused(why) => {
                held.ending =
                    Some(v1::Ending { reason: v1::Reason::Refused.into(), message: why.clone(), ..Default::default() });
                v1::HeldState::Ended
            }
        };
        held.state = state.into();
        Some(held)
    }

    /// The content of one report.
    pub(super) fn report(&self, step: Step) -> Option<v1::report::What> {
        use v1::report::What;
        match (step, &self.stage) {
            (Step::Accepted, _) => Some(What::Accepted(v1::Accepted {})),
            (Step::Started, _) => self.started.clone().map(What::Started),
            (Step::Over, Stage::Refused(why)) => {
                let handed_back = why == super::link::UNWRITTEN;
                Some(What::Refused(v1::Refused { why: why.clone(), handed_back, taken: 0 }))
            }
            (Step::Over, Stage::Ended(ending) | Stage::Publishing(ending) | Stage::Published(ending, _)) => {
                Some(What::Ended((**ending).clone()))
            }
            (Step::Published, Stage::Published(_, failure)) => {
                Some(What::Published(v1::Published { failure: failure.clone().unwrap_or_default() }))
            }
            (Step::Over | Step::Published, _) => None,
        }
    }
}

/// The ending with its result, if that has room. Of one that was told to publish the informer has it anyway.
fn fitting(ending: &v1::Ending, result_bytes: &mut usize) -> v1::Ending {
    match result_bytes.checked_sub(ending.result.len()) {
        Some(left) => {
            *result_bytes = left;
            ending.clone()
        }
        None => v1::Ending { result: Vec::new(), ..ending.clone() },
    }
}
