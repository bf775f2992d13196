//! How often each arm of the table of stages was taken, for the simulation. Decides nothing, and is in no shipped build.

use super::stage::{Happening, LogCopy, Next, Stage};

/// Things that can happen to an attempt.
const HAPPENINGS: usize = 11;

/// Counts by stage and happening.
#[derive(Debug, Clone, Default)]
pub struct Arms([[u64; HAPPENINGS]; Stage::NAMES.len()]);

/// One pair of stage and happening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arm {
    /// The stage, one word.
    pub stage: &'static str,
    /// What happened, after "it has".
    pub happened: &'static str,
    /// What the table says: `moves`, `stays` or `impossible`.
    pub answer: &'static str,
    /// How often.
    pub times: u64,
}

impl Arms {
    pub(super) fn count(&mut self, stage: &Stage, happening: &Happening) {
        self.0[stage.index()][happening.index()] += 1;
    }

    /// Adds the counts of another machine.
    pub fn merge(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().flatten().zip(other.0.iter().flatten()) {
            *sum += more;
        }
    }

    /// The whole table.
    #[must_use]
    pub fn table(&self) -> Vec<Arm> {
        let mut table = Vec::new();
        for stage in stages() {
            for happening in happenings() {
                let times = self.0[stage.index()][happening.index()];
                let happened = happening.name();
                let answer = match stage.after(happening) {
                    Next::To(_) => "moves",
                    Next::Stay => "stays",
                    Next::Impossible => "impossible",
                };
                table.push(Arm { stage: stage.name(), happened, answer, times });
            }
        }
        table
    }
}

fn stages() -> [Stage; Stage::NAMES.len()] {
    [
        Stage::Accepting,
        Stage::Accepted,
        Stage::Starting,
        Stage::Running,
        Stage::Ended(Box::default()),
        Stage::Publishing(Box::default()),
        Stage::Published(Box::default(), None),
        Stage::Refused(String::new()),
        Stage::Retired(LogCopy::Wanted),
        Stage::Purging(LogCopy::Wanted),
    ]
}

fn happenings() -> [Happening; HAPPENINGS] {
    use Happening as H;
    [
        H::Durable,
        H::StartOrdered,
        H::Spawned,
        H::NotStarted,
        H::Ended(Box::default()),
        H::Refused(String::new()),
        H::PublishOrdered,
        H::OutputsPublished(None),
        H::Acknowledged(LogCopy::Unwanted),
        H::LogStored,
        H::PurgeOrdered,
    ]
}

impl Happening {
    const fn index(&self) -> usize {
        match self {
            Self::Durable => 0,
            Self::StartOrdered => 1,
            Self::Spawned => 2,
            Self::NotStarted => 3,
            Self::Ended(_) => 4,
            Self::Refused(_) => 5,
            Self::PublishOrdered => 6,
            Self::OutputsPublished(_) => 7,
            Self::Acknowledged(_) => 8,
            Self::LogStored => 9,
            Self::PurgeOrdered => 10,
        }
    }
}
