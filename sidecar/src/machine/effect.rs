//! What the machine wants done. Effects are imperatives; the shell carries them out only after the batch they belong to is in the
//! ledger, except those for which [`Effect::is_urgent`] holds.

use super::LinkId;
use super::emits::{EmitAnswer, EmitRow, Ticket};
use super::row::Row;
use proto::id::{AttemptId, Fence};
use proto::v1;

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Introduce this sidecar on a fresh link: hello, then the whole inventory.
    SendHello {
        /// Where.
        link: LinkId,
        /// The inventory; the shell adds the boot id and cuts it into parts.
        held: Vec<v1::HeldAttempt>,
    },
    /// Send a durable fact.
    SendReport {
        /// Where.
        link: LinkId,
        /// The fact, numbered.
        report: Box<v1::Report>,
    },
    /// Send a child of a running task, which is in the ledger.
    SendEmit {
        /// Where.
        link: LinkId,
        /// The child.
        emitted: Box<v1::Emitted>,
    },
    /// Tell a task what became of its emit, now: a child that was taken is durable with the informer.
    AnswerEmit {
        /// Who waits.
        ticket: Ticket,
        /// What became of it.
        answer: EmitAnswer,
    },
    /// Send a beat, now.
    SendBeat {
        /// Where.
        link: LinkId,
        /// The beat, numbered.
        beat: Box<v1::Beat>,
    },
    /// End the link: the peer broke the protocol.
    CloseLink {
        /// Which.
        link: LinkId,
        /// For the log.
        why: &'static str,
    },
    /// Write the lease's deadline where the monitors read it, now.
    PublishLease {
        /// `CLOCK_BOOTTIME`, milliseconds.
        deadline_ms: u64,
    },
    /// Plan the attempt and order its start of the keeper.
    StartAttempt {
        /// The attempt.
        attempt: AttemptId,
        /// Its fence.
        fence: Fence,
        /// After the lease's end a `stop` attempt is killed within this, milliseconds.
        fence_grace_ms: u64,
    },
    /// Order the keeper to end an attempt.
    StopAttempt {
        /// The attempt.
        attempt: AttemptId,
        /// Recorded as the reason of its end.
        why: v1::Reason,
    },
    /// Put the staged outputs in place; answered by `OutputsPublished`.
    PublishOutputs {
        /// The attempt.
        attempt: AttemptId,
        /// Its fence.
        fence: Fence,
    },
    /// The attempt is over for the informer: free its working directory, keep its logs for readers.
    Retire {
        /// The attempt.
        attempt: AttemptId,
        /// Its staged outputs did not win: remove them.
        discard_outputs: bool,
    },
    /// Send its log up to be stored at the informer; answered by `LogSent`.
    StoreLog {
        /// The attempt.
        attempt: AttemptId,
        /// Its fence.
        fence: Fence,
    },
    /// Remove the attempt's directory; answered by `Purged`.
    Purge {
        /// The attempt.
        attempt: AttemptId,
    },
    /// End the agent with an error, leaving tasks alone.
    GiveUp {
        /// One word for programs.
        code: String,
        /// For the operator.
        message: String,
    },
    /// End what runs under this name, without asking its record.
    EndUnnamed {
        /// The attempt.
        attempt: AttemptId,
        /// Between its stop signal and its kill.
        grace_ms: u64,
    },
    /// Tell the log about something that should not have happened and did no harm.
    Complain(Complaint),
}

impl Effect {
    /// Leaves at once, without waiting for the ledger: a slow disk must not end leases. Nor does a start wait for it: what the keeper
    /// makes first of all is the attempt's record, which holds whatever the row would tell the next agent. Nor does an order to stop:
    /// what is to end must not run on because a disk hangs.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        use Effect as E;
        matches!(
            self,
            E::SendBeat { .. }
                | E::AnswerEmit { .. }
                | E::PublishLease { .. }
                | E::CloseLink { .. }
                | E::StartAttempt { .. }
                | E::StopAttempt { .. }
                | E::EndUnnamed { .. }
        )
    }
}

/// What should not have happened. Each costs at most its own message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Complaint {
    /// Something happened to an attempt that cannot happen where it stands.
    #[error("attempt {attempt} is {stage}, so it cannot have {happened}; ignored")]
    Impossible {
        /// The attempt.
        attempt: AttemptId,
        /// Where it stands.
        stage: &'static str,
        /// What was told.
        happened: &'static str,
    },
    /// A message about an attempt that is not held.
    #[error("attempt {attempt} is not held here, so it cannot be told to {told}; ignored")]
    NotHeld {
        /// The attempt.
        attempt: AttemptId,
        /// What it was told.
        told: &'static str,
    },
    /// The keeper lists an attempt that is over, and whose record has no readable note.
    #[error("attempt {attempt} has a record that names no fence; it is over, and its files are left alone")]
    NoNote {
        /// The attempt.
        attempt: AttemptId,
    },
    /// The keeper lists an attempt that runs, and neither ledger nor record names its fence.
    #[error(
        "attempt {attempt} runs, and neither the ledger nor its record names its fence: nobody would take its result, so it is ended"
    )]
    Unnamed {
        /// The attempt.
        attempt: AttemptId,
    },
    /// The keeper did not tell its end in time.
    #[error("attempt {attempt}, which nobody can name, has not ended yet; it may run beside its replacement")]
    UnnamedStays {
        /// The attempt.
        attempt: AttemptId,
    },
    /// An assignment was refused.
    #[error("attempt {attempt} was refused: {why}")]
    Refused {
        /// The attempt.
        attempt: AttemptId,
        /// Why.
        why: &'static str,
    },
    /// A log that the informer should have stored is removed before it was.
    #[error("the log of attempt {attempt} is given up before the informer has stored it: {why}")]
    LogGivenUp {
        /// The attempt.
        attempt: AttemptId,
        /// Why it cannot be kept.
        why: &'static str,
    },
    /// The informer does not know an attempt, which hangs on a lease that it has not granted.
    #[error(
        "the informer does not know attempt {attempt}, which was given by another one or to another sidecar's id; it ends with the lease under which it was, and until then this sidecar takes no work"
    )]
    GivenByAnother {
        /// The attempt.
        attempt: AttemptId,
    },
    /// The informer does not know an attempt.
    #[error("the informer does not know attempt {attempt}; it runs on, and its record is kept")]
    SetAside {
        /// The attempt.
        attempt: AttemptId,
    },
}

/// What one batch changes in the ledger. Each attempt is in it at most once.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// Rows to insert or replace. The shell adds the payload of a row it sees for the first time.
    pub rows: Vec<Row>,
    /// Rows to delete.
    pub deletes: Vec<AttemptId>,
    /// Emits to insert or replace.
    pub emits: Vec<EmitRow>,
    /// Emits to delete, by attempt and key.
    pub emits_gone: Vec<(AttemptId, String)>,
}

impl Batch {
    /// Nothing to commit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.deletes.is_empty() && self.emits.is_empty() && self.emits_gone.is_empty()
    }
}
