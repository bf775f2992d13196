//! Wire messages to the machine's events, rows to what clients see.

use crate::machine::{Emission, EmittedChild, Event, Held, HeldState, Hello, PayloadHandle, Report, SessionId};
use crate::shell::Handle;
use bytes::Bytes;
use proto::check::{self, Faults};
use proto::id::{Fence, SidecarId, TaskId};
use proto::{bounds, store, v1};
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use std::time::{SystemTime, UNIX_EPOCH};

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
    let of_run = row.of_run.clone().unwrap_or_default();
    let child = row.child.clone().unwrap_or_default();
    let progress = if is_terminal(row) { None } else { handle.progress(id) };
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
        priority: facts.priority,
        labels: facts.labels,
        kind: facts.kind,
        attempts_dropped: row.attempts_dropped,
        cancelling: row.cancelling,
        array: row.array.as_ref().map(array_status),
        item: String::new(),
        eta_unix_ms: eta_unix_ms(row, progress.as_ref(), wall_ms()),
        progress,
        run: of_run.run,
        reference: of_run.reference,
        retried_from: TaskId::from_bytes(&of_run.retried_from).map(|id| id.to_string()).unwrap_or_default(),
        result: Vec::new(),
        set_aside: set_aside(handle, id, row),
        parent: TaskId::from_bytes(&child.parent).map(|id| id.to_string()).unwrap_or_default(),
        child_key: child.key,
        children: None,
    }
}

/// What sidecars have told in this informer's time, and what is held back for and was told before it.
fn set_aside(handle: &Handle, id: TaskId, row: &store::TaskRow) -> Vec<v1::SetAside> {
    let mut told = handle.set_aside(id);
    for held in &row.aside {
        if !told.iter().any(|aside| (aside.number, &aside.sidecar) == (held.number, &held.sidecar)) {
            told.push(v1::SetAside { number: held.number, sidecar: held.sidecar.clone(), over: false });
        }
    }
    told.truncate(bounds::ATTEMPTS_LISTED);
    told
}

/// The counts of an array's members.
fn array_status(array: &store::ArrayRow) -> v1::ArrayStatus {
    v1::ArrayStatus {
        first: array.first,
        count: array.count,
        pending: members_of(&array.pending),
        live: array.live,
        succeeded: array.succeeded,
        failed: array.failed,
        cancelled: array.cancelled_rows + members_of(&array.cancelled),
        max_failures: array.max_failures,
        limited: array.limited,
        items: array.items,
    }
}

fn members_of(runs: &[store::Run]) -> u32 {
    runs.iter().map(|run| run.count).sum()
}

/// When a task should have ended; 0: nobody can say.
fn eta_unix_ms(row: &store::TaskRow, progress: Option<&v1::Progress>, now_unix_ms: u64) -> u64 {
    if is_terminal(row) {
        return 0;
    }
    if let Some(array) = &row.array {
        return array_eta_unix_ms(row, array, now_unix_ms);
    }
    if row.state() != v1::TaskState::Running {
        return 0;
    }
    // What the process itself says is worth more than what others like it took.
    if let Some(left_ms) = progress.map(|progress| progress.eta_ms).filter(|left_ms| *left_ms > 0) {
        return now_unix_ms.saturating_add(left_ms);
    }
    let running =
        row.attempts.iter().rev().find(|attempt| attempt.state() == v1::AttemptState::Running && !attempt.fenced);
    running
        .filter(|attempt| attempt.expected_ms > 0 && attempt.started_unix_ms > 0)
        .map_or(0, |attempt| attempt.started_unix_ms.saturating_add(attempt.expected_ms))
}

/// The members that are left take as long, each, as those that have ended did: their number over the time since the start, so that
/// it counts how many run at once.
fn array_eta_unix_ms(row: &store::TaskRow, array: &store::ArrayRow, now_unix_ms: u64) -> u64 {
    let ended = u64::from(array.succeeded) + u64::from(array.failed);
    let left = u64::from(members_of(&array.pending)) + u64::from(array.live);
    let since = row.run_since_unix_ms.max(row.created_unix_ms).max(row.not_before_unix_ms);
    let elapsed_ms = now_unix_ms.saturating_sub(since);
    elapsed_ms.saturating_mul(left).checked_div(ended).map_or(0, |left_ms| now_unix_ms.saturating_add(left_ms))
}

/// Unix time, milliseconds.
pub(super) fn wall_ms() -> u64 {
    // Before 1970 only if nobody has set the clock.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
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
        start: wire.start,
        yields: wire.yields,
        place: place(&wire),
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

fn place(wire: &v1::Hello) -> String {
    match wire.boot_id.as_str() {
        "" => String::new(),
        boot => check::line(format!("{boot} {} {}", wire.pid_ns, wire.directory).trim_end()),
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
    let fence = wire.fence.unwrap_or_default().into();
    Ok(Held { attempt, fence, state, asked: wire.asked, over: wire.over })
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
        Some(Message::Emitted(wire)) => Some(emitted(session, wire)?),
        Some(Message::Pong(_)) => Some(Event::PongReceived { session }),
        Some(Message::Hello(_) | Message::Inventory(_)) | None => None,
    })
}

fn beat(session: SessionId, mut wire: v1::Beat) -> Result<Event, Faults> {
    let attempts = check::beat(&mut wire)?;
    let aside = check::aside(&wire)?;
    let progress = wire.progress.into_iter().map(|entry| entry.progress.unwrap_or_default());
    Ok(Event::BeatReceived {
        session,
        seq: wire.seq,
        load: wire.load.unwrap_or_default(),
        credit: wire.credit,
        held: wire.held,
        apart: wire.apart.unwrap_or_default(),
        aside,
        closed: wire.closed,
        progress: attempts.into_iter().zip(progress).collect(),
    })
}

fn emitted(session: SessionId, wire: v1::Emitted) -> Result<Event, Faults> {
    let attempt = check::emitted(&wire)?;
    let fence = wire.fence.unwrap_or_default().into();
    let digest: [u8; 32] = wire.digest.try_into().unwrap_or_default();
    let what = match wire.key.is_empty() {
        true => Ok(Emission::default()),
        false if digest != <[u8; 32]>::from(Sha256::digest(&wire.payload)) => {
            Err("the child is not what its digest says; the sidecar's ledger is damaged".to_owned())
        }
        false => emission(&wire.payload),
    };
    let child = EmittedChild { key: wire.key, digest, what, alone: None };
    Ok(Event::Emitted { session, attempt, fence, child: Box::new(child) })
}

/// A child, as the task has given it to its sidecar.
#[derive(Deserialize)]
struct Child {
    name: Option<String>,
    input: Option<Map<String, Value>>,
}

/// What is wrong with a child is told to the task that emits it: its sidecar passes on what it does not read.
fn emission(payload: &[u8]) -> Result<Emission, String> {
    let child: Child = serde_json::from_slice(payload).map_err(|error| format!("the child cannot be read: {error}"))?;
    if child.name.as_ref().is_some_and(|name| name.len() > bounds::NAME_BYTES) {
        return Err(format!("the name of a child's task has at most {} bytes", bounds::NAME_BYTES));
    }
    let input =
        child.input.filter(|input| !input.is_empty()).map(|input| Bytes::from(Value::Object(input).to_string()));
    let input = input.map(|body| (PayloadHandle::from(Sha256::digest(&body)), body));
    Ok(Emission { name: child.name, input })
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
        Some(What::Refused(refused)) if refused.handed_back => Report::HandedBack(refused.why),
        Some(What::Refused(refused)) => Report::Refused { why: refused.why, taken: refused.taken },
    };
    let fence = wire.fence.unwrap_or_default().into();
    Ok(Event::Reported { session, seq: wire.seq, attempt, fence, report, stored: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000;

    #[test]
    fn an_end_is_expected_by_what_is_known_best() {
        let attempt = store::AttemptRow {
            state: v1::AttemptState::Running.into(),
            started_unix_ms: NOW - 500,
            expected_ms: 800,
            ..Default::default()
        };
        let state = v1::TaskState::Running.into();
        let row = store::TaskRow { state, attempts: vec![attempt], ..Default::default() };
        assert_eq!(eta_unix_ms(&row, None, NOW), NOW + 300);
        let says = v1::Progress { eta_ms: 90, ..Default::default() };
        assert_eq!(eta_unix_ms(&row, Some(&says), NOW), NOW + 90);
        let silent = v1::Progress::default();
        assert_eq!(eta_unix_ms(&row, Some(&silent), NOW), NOW + 300);
        let unknown = store::TaskRow { attempts: Vec::new(), ..row.clone() };
        assert_eq!(eta_unix_ms(&unknown, None, NOW), 0);
        let ended = store::TaskRow { state: v1::TaskState::Failed.into(), ..row };
        assert_eq!(eta_unix_ms(&ended, None, NOW), 0);
    }

    #[test]
    fn an_array_is_counted_and_expected_by_its_pace() {
        let run = |first, count| store::Run { first, count };
        let array = store::ArrayRow {
            first: 1,
            count: 100,
            pending: vec![run(61, 30), run(95, 6)],
            cancelled: vec![run(91, 4)],
            live: 10,
            succeeded: 45,
            failed: 3,
            cancelled_rows: 2,
            ..Default::default()
        };
        let status = array_status(&array);
        assert_eq!((status.pending, status.cancelled), (36, 6));
        let counted = status.pending + status.live + status.succeeded + status.failed + status.cancelled;
        assert_eq!(counted, status.count);
        let state = v1::TaskState::Running.into();
        let mut row = store::TaskRow { state, created_unix_ms: NOW - 4800, array: Some(array), ..Default::default() };
        assert_eq!(eta_unix_ms(&row, None, NOW), NOW + 4600, "100 ms a member, 46 of them");
        row.array = Some(store::ArrayRow { count: 5, pending: vec![run(0, 5)], ..Default::default() });
        assert_eq!(eta_unix_ms(&row, None, NOW), 0, "nothing has ended yet");
    }
}
