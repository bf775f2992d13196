//! Wire messages to the machine's events, rows to what clients see.

use crate::machine::{Event, Held, HeldState, Hello, Report, SessionId};
use crate::shell::Handle;
use proto::check::{self, Faults};
use proto::id::{Fence, SidecarId, TaskId};
use proto::{store, v1};

/// The id in a row; rows come from our own store, so that another length is corruption, and shows as the nil id.
pub(super) fn task_id(row: &store::TaskRow) -> TaskId {
    TaskId::from_bytes(&row.id).unwrap_or(TaskId::from_u128(0))
}

/// Nothing more will happen to it, unless it is retried.
pub(super) fn is_terminal(row: &store::TaskRow) -> bool {
    matches!(row.state(), v1::TaskState::Succeeded | v1::TaskState::Failed | v1::TaskState::Cancelled)
}

/// A task as clients see it, without its spec.
pub(super) fn task(handle: &Handle, row: &store::TaskRow) -> v1::Task {
    let id = task_id(row);
    let facts = row.facts.clone().unwrap_or_default();
    v1::Task {
        id: id.to_string(),
        name: facts.name,
        owner: facts.owner,
        state: row.state,
        ending: row.ending.clone(),
        attempts: row.attempts.iter().map(attempt).collect(),
        spec: None,
        created_unix_ms: row.created_unix_ms,
        ended_unix_ms: row.ended_unix_ms,
        not_before_unix_ms: row.not_before_unix_ms,
        progress: if is_terminal(row) { None } else { handle.progress(id) },
        priority: facts.priority,
        labels: facts.labels,
        kind: facts.kind,
        attempts_dropped: row.attempts_dropped,
        cancelling: row.cancelling,
        array: None,
        item: String::new(),
        eta_unix_ms: 0,
    }
}

fn attempt(row: &store::AttemptRow) -> v1::Attempt {
    v1::Attempt {
        number: row.number,
        sidecar: row.sidecar.clone(),
        state: row.state,
        ending: row.ending.clone(),
        fence: row.fence,
        assigned_unix_ms: row.assigned_unix_ms,
        started_unix_ms: row.started_unix_ms,
        ended_unix_ms: row.ended_unix_ms,
        expected_ms: row.expected_ms,
    }
}

/// A hello that passed [`check::hello`].
pub(super) fn hello(sidecar: SidecarId, wire: v1::Hello) -> Hello {
    let total = wire.total.unwrap_or_default();
    Hello {
        sidecar,
        incarnation: wire.incarnation,
        host: check::line(&wire.host),
        version: check::line(&wire.version),
        labels: wire.labels,
        cpu_millis: total.cpu_millis,
        memory_bytes: total.memory_bytes,
        slots: wire.slots,
        weak_fencing: wire.weak_fencing,
        kinds: wire.kinds,
        seen: wire.seen,
        highest_fence: Fence { epoch: wire.highest_fence_epoch, n: wire.highest_fence_n },
    }
}

/// One entry of an inventory.
///
/// # Errors
/// What [`check::held`] finds.
pub fn held(mut wire: v1::HeldAttempt) -> Result<Held, Faults> {
    let (attempt, state) = check::held(&mut wire)?;
    let ending = Box::new(wire.ending.unwrap_or_default());
    let state = match state {
        v1::HeldState::Unspecified | v1::HeldState::Accepted => HeldState::Accepted,
        v1::HeldState::Running => {
            HeldState::Running { started_unix_ms: wire.started_unix_ms, progress: wire.progress.unwrap_or_default() }
        }
        v1::HeldState::Ended => HeldState::Ended(ending),
        v1::HeldState::Published => HeldState::Published(ending),
        v1::HeldState::SetAside => HeldState::SetAside,
    };
    Ok(Held { attempt, fence: wire.fence.unwrap_or_default().into(), state })
}

/// What a sidecar says on an open link.
///
/// # Errors
/// What the checks find; `None` for a message that has no place there (a second hello, an unknown one).
pub fn event(session: SessionId, wire: v1::SidecarMessage) -> Result<Option<Event>, Faults> {
    use v1::sidecar_message::Message;
    Ok(match wire.message {
        Some(Message::Beat(wire)) => Some(beat(session, wire)?),
        Some(Message::Report(wire)) => Some(report(session, wire)?),
        Some(Message::Pong(_)) => Some(Event::PongReceived { session }),
        Some(Message::Hello(_) | Message::Inventory(_)) | None => None,
    })
}

fn beat(session: SessionId, mut wire: v1::Beat) -> Result<Event, Faults> {
    let attempts = check::beat(&mut wire)?;
    let progress = wire.progress.into_iter().map(|entry| entry.progress.unwrap_or_default());
    Ok(Event::BeatReceived {
        session,
        seq: wire.seq,
        load: wire.load.unwrap_or_default(),
        credit: wire.credit,
        held: wire.held,
        closed: wire.closed,
        progress: attempts.into_iter().zip(progress).collect(),
    })
}

fn report(session: SessionId, mut wire: v1::Report) -> Result<Event, Faults> {
    use v1::report::What;
    let attempt = check::report(&mut wire)?;
    let report = match wire.what {
        None | Some(What::Accepted(_)) => Report::Accepted,
        Some(What::Started(started)) => Report::Started { unix_ms: started.unix_ms },
        Some(What::Ended(ending)) => Report::Ended(Box::new(ending)),
        Some(What::Published(published)) => {
            Report::Published(Some(published.failure).filter(|failure| !failure.is_empty()))
        }
        Some(What::Refused(refused)) => Report::Refused(refused.why),
    };
    let fence = wire.fence.unwrap_or_default().into();
    Ok(Event::Reported { session, seq: wire.seq, attempt, fence, report, stored: Vec::new() })
}
