//! What must hold, by name.

/// A check, named as in the table of [`super`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// An acknowledged submit is durable, and stays.
    AcknowledgedIsKept,
    /// One key is one task; another payload under it is refused.
    OneKeyOneTask,
    /// One result is accepted, and it is one that a process had.
    OneResult,
    /// Only the named winner puts outputs in place, and never half of them.
    OutputsAreTheWinners,
    /// Once faults stop, every task ends and nothing is left over.
    EverythingEnds,
    /// What has ended stays as it is; an array's counts are its members.
    EndsStay,
    /// A second `stop` copy starts only after the first can no longer run.
    SecondCopyWaits,
    /// What was ordered to stop is gone within its grace and two seconds.
    StoppedInTime,
    /// Nothing is stopped without a reason that is in the store.
    NothingStoppedUnasked,
    /// What ran on, or ended, while agent or informer were away keeps its end.
    AdoptedWithItsEnd,
    /// A log that is wanted is purged only after it is stored.
    LogBeforePurge,
    /// Capacity is never exceeded, the books agree, no slot leaks.
    BooksAgree,
    /// After a failed flush nothing is acknowledged; what is damaged is not reset.
    DiskIsBelieved,
    /// Queues stay within their bounds.
    QueuesAreBounded,
    /// Beats leave on time, whatever the disk does.
    BeatsLeave,
    /// Losses are not charged to the task, and have a bound of their own.
    LossesApart,
    /// Nothing is acknowledged before it is in the ledger, or started twice.
    LedgerFirst,
    /// No end is forgotten before it is stored.
    EndBeforeForgetting,
    /// No two attempts have the same fence, and a later attempt of a task has a higher one.
    FencesRise,
    /// The sidecar's lease ends before the informer's count of it.
    LeaseEndsFirst,
    /// The informer's machine is consistent in itself.
    InformerConsistent,
    /// The sidecar's machine is.
    SidecarConsistent,
    /// One key is one run; another start under it is refused.
    OneKeyOneRun,
    /// What the store is given of runs fits together, and what is asked for is there.
    RunsConsistent,
    /// A step has one task, one worker at a time, and is left out once.
    StepOnce,
    /// A join opens when what it waits for is over.
    JoinsWait,
    /// Nothing of a run goes on after its end.
    NothingAfterTheEnd,
    /// A run that another one waits for ends with it.
    ChildEndsWithIt,
    /// No more of a name is under way than its definition allows.
    LimitsHold,
    /// A run comes to what its definition means, by a second reading of it.
    RunsMeanIt,
    /// What one machine says, the other's edge takes.
    EdgeTakesIt,
    /// Nothing happens without end at one time.
    NothingSpins,
}

/// What did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// By which check.
    pub check: Check,
    /// What was seen.
    pub what: String,
}

/// A check failed.
pub(super) fn wrong<T>(check: Check, what: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong { check, what: what.into() })
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}: {}", self.check, self.what)
    }
}
