//! What the shells make of messages; and what is left of them between versions.

use super::truth::Truth;
use proto::id::{AttemptId, Fence};
use proto::v1;
use sidecar::machine::{EmitAnswer, Facts, Heard, Terms};
use v1::informer_message::Message;

/// What an informer says, less what an older one would not know to say.
pub(super) fn from_informer(message: v1::InformerMessage, older: bool) -> Option<v1::InformerMessage> {
    if !older {
        return Some(message);
    }
    let message = match message.message? {
        Message::Welcome(welcome) => Message::Welcome(v1::Welcome { log_policy: 0, children: false, ..welcome }),
        Message::BeatAck(ack) => Message::BeatAck(v1::BeatAck { commit_seq: 0, ..ack }),
        Message::Drain(_) | Message::Executors(_) | Message::Callback(_) | Message::EmitAnswer(_) => return None,
        other => other,
    };
    Some(v1::InformerMessage { message: Some(message) })
}

/// A beat as the first protocol had it.
pub(super) fn old_beat(beat: v1::Beat) -> v1::Beat {
    v1::Beat { held: 0, closed: false, apart: None, aside: None, ..beat }
}

/// An entry of an inventory as the first protocol had it.
pub(super) fn old_held(held: v1::HeldAttempt) -> v1::HeldAttempt {
    v1::HeldAttempt { asked: None, over: false, ..held }
}

/// What an agent makes of a message; `None`: it has no place in its machine, or the agent is too old for it.
pub(super) fn heard(message: v1::InformerMessage, truth: &Truth, old: bool, stranger: bool) -> Option<Heard> {
    let terms = |beat_ms, lease_ms, fence_grace_ms| Terms { beat_ms, lease_ms, fence_grace_ms };
    let id = |wire: Option<v1::AttemptId>| AttemptId::from_wire(&wire.unwrap_or_default()).expect("ids are whole");
    Some(match message.message? {
        Message::Welcome(m) => {
            let logs = if old { v1::LogPolicy::Unspecified } else { m.log_policy() };
            Heard::Welcome {
                terms: terms(m.beat_ms, m.lease_ms, m.fence_grace_ms),
                logs,
                stranger,
                children: m.children && !old,
            }
        }
        Message::Verdict(m) => Heard::Verdict { decision: m.decision(), why: m.why(), attempt: id(m.attempt) },
        Message::BeatAck(m) => Heard::BeatAck { seq: m.seq, terms: terms(m.beat_ms, m.lease_ms, m.fence_grace_ms) },
        Message::Assign(m) => {
            let payload = m.task_name.parse().unwrap_or(0);
            let facts = Facts { stop_on_disconnect: truth.stops(payload) };
            Heard::Assign { attempt: id(m.attempt), fence: m.fence.map(Fence::from).unwrap_or_default(), facts }
        }
        Message::Stop(m) => Heard::Stop { why: m.why(), attempt: id(m.attempt) },
        Message::Publish(m) => {
            Heard::Publish { attempt: id(m.attempt), fence: m.fence.map(Fence::from).unwrap_or_default() }
        }
        Message::Ack(m) => Heard::Ack { seq: m.seq },
        Message::EmitAnswer(_) if old => return None,
        Message::EmitAnswer(m) => {
            let answer = if m.refusal.is_empty() { EmitAnswer::Taken } else { EmitAnswer::Refused(m.refusal) };
            Heard::EmitAnswered { attempt: id(m.attempt), key: m.key, answer }
        }
        Message::Refuse(m) => Heard::Refuse { code: m.code, message: m.message, is_final: m.r#final },
        Message::Drain(_) if old => return None,
        Message::Drain(m) => Heard::Drain { on: m.on, stop_running: m.stop_running },
        Message::Ping(_) | Message::Log(_) | Message::Executors(_) | Message::Callback(_) => return None,
    })
}

/// The attempt that a message orders to stop, and why.
pub(super) fn stop_in(message: &v1::InformerMessage) -> Option<(AttemptId, v1::Reason)> {
    let (attempt, why) = match message.message.as_ref()? {
        Message::Stop(m) => (m.attempt.as_ref(), m.why()),
        Message::Verdict(m) if m.decision() == v1::verdict::Decision::Stop => (m.attempt.as_ref(), m.why()),
        _ => return None,
    };
    Some((AttemptId::from_wire(attempt?).ok()?, why))
}
