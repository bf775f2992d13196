//! Bytes of the link become checked words here, once; and orders become requests to the keeper.

use super::note;
use crate::machine::{EmitAnswer, Heard, Terms};
use keeper::wire::EndReason;
use prost::Message as _;
use proto::id::AttemptId;
use proto::{bounds, v1};
use v1::informer_message::Message;

/// Shortest and longest lease that is believed, ms: three of the shortest and of the longest beats that may be configured.
const LEASE_RANGE_MS: std::ops::RangeInclusive<u64> =
    *bounds::BEAT_RANGE_MS.start()..=*bounds::BEAT_RANGE_MS.end() * 10;

/// What is wrong with a message. It costs the peer its link.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("a message without content; the informer may be newer than this sidecar")]
    Empty,
    #[error("{0} names no attempt")]
    Attempt(&'static str),
    #[error("{0} has no {1}")]
    Missing(&'static str, &'static str),
    #[error("a task of {0} bytes exceeds the bound")]
    Oversize(usize),
    #[error("a beat of {beat_ms} ms and a lease of {lease_ms} ms are no terms")]
    Terms { beat_ms: u64, lease_ms: u64 },
    #[error("the informer speaks link protocol {0}, this sidecar {min} to {max}", min = proto::PROTOCOL_MIN, max = proto::PROTOCOL_MAX)]
    Protocol(u32),
}

/// One message, checked.
#[derive(Debug)]
pub(super) enum Word {
    /// For the machine.
    Heard(Heard),
    /// For the machine, with its payload.
    Assign(Box<v1::Assign>, Heard),
    /// The informer introduced itself, and said how to beat, which logs it wants, and whether it takes children.
    Welcome { informer: v1::Identity, terms: Terms, logs: v1::LogPolicy, children: bool },
    /// A beat was acknowledged at this commit sequence of the informer.
    BeatAck(u64, Heard),
    /// To be answered at once.
    Ping(u64),
    /// For the work thread.
    Log(v1::LogRequest),
    /// What the informer knows of types.
    Executors(v1::Executors),
    /// A service reported about an attempt.
    Callback(AttemptId, String),
}

/// Checks one message.
pub(super) fn word(message: v1::InformerMessage) -> Result<Word, Error> {
    Ok(match message.message.ok_or(Error::Empty)? {
        Message::Welcome(welcome) => {
            if !(proto::PROTOCOL_MIN..=proto::PROTOCOL_MAX).contains(&welcome.protocol) {
                return Err(Error::Protocol(welcome.protocol));
            }
            let terms = terms(welcome.beat_ms, welcome.lease_ms, welcome.fence_grace_ms)?;
            let (logs, children) = (welcome.log_policy(), welcome.children);
            Word::Welcome { informer: welcome.informer.unwrap_or_default(), terms, logs, children }
        }
        Message::BeatAck(ack) => {
            let terms = terms(ack.beat_ms, ack.lease_ms, ack.fence_grace_ms)?;
            Word::BeatAck(ack.commit_seq, Heard::BeatAck { seq: ack.seq, terms })
        }
        Message::Verdict(verdict) => Word::Heard(Heard::Verdict {
            attempt: attempt(verdict.attempt.as_ref(), "a verdict")?,
            decision: verdict.decision(),
            why: verdict.why(),
        }),
        Message::Assign(assign) => assigned(assign)?,
        Message::Stop(stop) => {
            Word::Heard(Heard::Stop { attempt: attempt(stop.attempt.as_ref(), "a stop")?, why: stop.why() })
        }
        Message::Publish(publish) => Word::Heard(Heard::Publish {
            attempt: attempt(publish.attempt.as_ref(), "a publish")?,
            fence: publish.fence.ok_or(Error::Missing("a publish", "fence"))?.into(),
        }),
        Message::Ack(ack) => Word::Heard(Heard::Ack { seq: ack.seq }),
        Message::Ping(ping) => Word::Ping(ping.nonce),
        Message::Drain(drain) => Word::Heard(Heard::Drain { on: drain.on, stop_running: drain.stop_running }),
        Message::Log(request) => Word::Log(request),
        Message::Executors(part) => Word::Executors(part),
        Message::Callback(callback) => Word::Callback(attempt(callback.attempt.as_ref(), "a callback")?, callback.body),
        Message::EmitAnswer(answer) => {
            let attempt = attempt(answer.attempt.as_ref(), "an answer to an emit")?;
            Word::Heard(Heard::EmitAnswered {
                attempt,
                answer: emit_answer(answer.refusal, answer.later),
                key: answer.key,
            })
        }
        Message::Refuse(refuse) => {
            let message = format!("{} ({})", refuse.message, refuse.code);
            Word::Heard(Heard::Refuse { code: refuse.code, message, is_final: refuse.r#final })
        }
    })
}

fn emit_answer(refusal: String, later: bool) -> EmitAnswer {
    match (refusal.is_empty(), later) {
        (true, _) => EmitAnswer::Taken,
        (false, true) => EmitAnswer::Later(refusal),
        (false, false) => EmitAnswer::Refused(refusal),
    }
}

fn assigned(assign: v1::Assign) -> Result<Word, Error> {
    use prost::Message as _;
    let attempt = attempt(assign.attempt.as_ref(), "an assignment")?;
    let fence = assign.fence.ok_or(Error::Missing("an assignment", "fence"))?.into();
    let spec = assign.spec.as_ref().ok_or(Error::Missing("an assignment", "task"))?;
    let bytes = spec.encoded_len();
    if bytes > bounds::PAYLOAD_BYTES {
        return Err(Error::Oversize(bytes));
    }
    let facts = note::facts_of(spec);
    Ok(Word::Assign(Box::new(assign), Heard::Assign { attempt, fence, facts }))
}

fn attempt(wire: Option<&v1::AttemptId>, what: &'static str) -> Result<AttemptId, Error> {
    wire.and_then(|wire| AttemptId::from_wire(wire).ok()).ok_or(Error::Attempt(what))
}

fn terms(beat_ms: u64, lease_ms: u64, fence_grace_ms: u64) -> Result<Terms, Error> {
    let sane = bounds::BEAT_RANGE_MS.contains(&beat_ms) && LEASE_RANGE_MS.contains(&lease_ms);
    if sane && fence_grace_ms <= bounds::DURATION_MS {
        return Ok(Terms { beat_ms, lease_ms, fence_grace_ms });
    }
    Err(Error::Terms { beat_ms, lease_ms })
}

/// The keeper's word for a reason to stop.
pub(super) const fn end_reason(why: v1::Reason) -> EndReason {
    use v1::Reason as R;
    match why {
        R::Cancelled => EndReason::Cancelled,
        R::Timeout | R::TotalTimeout | R::QueueTimeout => EndReason::TimedOut,
        R::Stalled => EndReason::Stalled,
        R::Unhealthy => EndReason::Unhealthy,
        R::Drained => EndReason::Drained,
        R::Fenced => EndReason::Fenced,
        _ => EndReason::Revoked,
    }
}

/// Bytes of one part of an inventory: half of what a message may have. An end with many outputs is not short.
const PART_BYTES: usize = 2 << 20;

/// The inventory, cut so that each part fits into a message.
pub(super) fn inventory_parts(held: Vec<v1::HeldAttempt>) -> Vec<Vec<v1::HeldAttempt>> {
    let mut parts: Vec<Vec<v1::HeldAttempt>> = Vec::new();
    let mut bytes = 0;
    for attempt in held {
        let more = attempt.encoded_len();
        match parts.last_mut() {
            Some(part) if part.len() < bounds::INVENTORY_PART && bytes + more <= PART_BYTES => {
                bytes += more;
                part.push(attempt);
            }
            _ => {
                bytes = more;
                parts.push(vec![attempt]);
            }
        }
    }
    parts
}
