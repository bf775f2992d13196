//! Bodies of [`Notice`], [`End`] and [`ProcessId`].

use super::{Error, Fields, Writer};
use crate::wire::{End, EndReason, Fencing, Limits, Listed, ListedState, Notice, ProcessId, Refusal};

const WELCOME: u8 = 1;
const LISTING: u8 = 2;
const SPAWNED: u8 = 3;
const REFUSED: u8 = 4;
const ENDED: u8 = 5;
const LOST: u8 = 6;
const TERMINATING: u8 = 7;

/// Most entries in one listing chunk; the agent sees the rest in the next.
const MAX_LISTED: usize = 256;

/// Reasons in the order of their bytes; a new one is appended, or old records would change their meaning.
const REASONS: [EndReason; 9] = [
    EndReason::Exited,
    EndReason::SpawnFailed,
    EndReason::TimedOut,
    EndReason::Cancelled,
    EndReason::Fenced,
    EndReason::Revoked,
    EndReason::Drained,
    EndReason::Stalled,
    EndReason::Unhealthy,
];

const REFUSALS: [Refusal; 5] =
    [Refusal::Exists, Refusal::NoLease, Refusal::System, Refusal::Terminating, Refusal::Invalid];

pub(super) fn reason_byte(reason: EndReason) -> u8 {
    REASONS.iter().position(|known| *known == reason).map_or(0, |at| at as u8)
}

pub(super) fn reason(value: u8) -> Result<EndReason, Error> {
    REASONS.get(usize::from(value)).copied().ok_or(Error::Value { field: "reason", value })
}

/// Version and pid in a `Welcome` of any version, however it goes on; `None`: it is none.
pub fn decode_welcome(body: &[u8]) -> Option<(u32, u32)> {
    let mut fields = Fields::new(body);
    if fields.u8().ok()? != WELCOME {
        return None;
    }
    Some((fields.u32().ok()?, fields.u32().ok()?))
}

/// The body of a notice.
pub fn encode_notice(notice: &Notice) -> Vec<u8> {
    let mut out;
    match notice {
        Notice::Welcome { version, pid, fencing, limits } => {
            out = Writer::tagged(WELCOME);
            out.u32(*version);
            out.u32(*pid);
            out.bool(*fencing == Fencing::Strong);
            out.u8(match limits {
                Limits::CgroupV2 => 0,
                Limits::CgroupV1 => 1,
                Limits::Rlimits => 2,
            });
        }
        Notice::Listing { attempts, last } => {
            out = Writer::tagged(LISTING);
            out.list(attempts, write_listed);
            out.bool(*last);
        }
        Notice::Spawned { name, process } => {
            out = Writer::tagged(SPAWNED);
            out.text(name);
            write_process(&mut out, process);
        }
        Notice::Refused { name, why, message } => {
            out = Writer::tagged(REFUSED);
            out.text(name);
            out.u8(REFUSALS.iter().position(|known| known == why).map_or(0, |at| at as u8));
            out.text(message);
        }
        Notice::Ended { name, end } => {
            out = Writer::tagged(ENDED);
            out.text(name);
            write_end(&mut out, end);
        }
        Notice::Lost { name } => {
            out = Writer::tagged(LOST);
            out.text(name);
        }
        Notice::Terminating => out = Writer::tagged(TERMINATING),
    }
    out.done()
}

/// Reads the body of a notice.
///
/// # Errors
/// Any deviation from the encoding.
pub fn decode_notice(body: &[u8]) -> Result<Notice, Error> {
    let mut fields = Fields::new(body);
    let notice = match fields.u8()? {
        WELCOME => Notice::Welcome {
            version: fields.u32()?,
            pid: fields.u32()?,
            fencing: if fields.bool("fencing")? { Fencing::Strong } else { Fencing::Weak },
            limits: match fields.u8()? {
                0 => Limits::CgroupV2,
                1 => Limits::CgroupV1,
                2 => Limits::Rlimits,
                value => return Err(Error::Value { field: "limits", value }),
            },
        },
        LISTING => {
            let attempts = fields.list(5, read_listed)?;
            if attempts.len() > MAX_LISTED {
                return Err(Error::TooMany);
            }
            Notice::Listing { attempts, last: fields.bool("last")? }
        }
        SPAWNED => Notice::Spawned { name: fields.text()?, process: read_process(&mut fields)? },
        REFUSED => {
            let name = fields.text()?;
            let value = fields.u8()?;
            let why = *REFUSALS.get(usize::from(value)).ok_or(Error::Value { field: "refusal", value })?;
            Notice::Refused { name, why, message: fields.text()? }
        }
        ENDED => Notice::Ended { name: fields.text()?, end: read_end(&mut fields)? },
        LOST => Notice::Lost { name: fields.text()? },
        TERMINATING => Notice::Terminating,
        value => return Err(Error::Value { field: "notice", value }),
    };
    fields.end()?;
    Ok(notice)
}

/// The bytes of an end.
pub fn encode_end(end: &End) -> Vec<u8> {
    let mut out = Writer::default();
    write_end(&mut out, end);
    out.done()
}

/// Reads the bytes of an end.
///
/// # Errors
/// Any deviation from the encoding.
pub fn decode_end(bytes: &[u8]) -> Result<End, Error> {
    let mut fields = Fields::new(bytes);
    let end = read_end(&mut fields)?;
    fields.end()?;
    Ok(end)
}

/// The bytes of a process identity.
pub fn encode_process(process: &ProcessId) -> Vec<u8> {
    let mut out = Writer::default();
    write_process(&mut out, process);
    out.done()
}

/// Reads the bytes of a process identity.
///
/// # Errors
/// Any deviation from the encoding.
pub fn decode_process(bytes: &[u8]) -> Result<ProcessId, Error> {
    let mut fields = Fields::new(bytes);
    let process = read_process(&mut fields)?;
    fields.end()?;
    Ok(process)
}

fn write_listed(out: &mut Writer, listed: &Listed) {
    out.text(&listed.name);
    match &listed.state {
        ListedState::Starting => out.u8(0),
        ListedState::Running(process) => {
            out.u8(1);
            write_process(out, process);
        }
        ListedState::Ended(end) => {
            out.u8(2);
            write_end(out, end);
        }
        ListedState::Lost => out.u8(3),
    }
}

fn read_listed(fields: &mut Fields<'_>) -> Result<Listed, Error> {
    let name = fields.text()?;
    let state = match fields.u8()? {
        0 => ListedState::Starting,
        1 => ListedState::Running(read_process(fields)?),
        2 => ListedState::Ended(read_end(fields)?),
        3 => ListedState::Lost,
        value => return Err(Error::Value { field: "state", value }),
    };
    Ok(Listed { name, state })
}

pub(crate) fn write_process(out: &mut Writer, process: &ProcessId) {
    out.text(&process.boot_id);
    out.u64(process.pid_ns);
    out.u32(process.pid);
    out.u64(process.start_ticks);
    out.u64(process.wall_ms);
}

pub(crate) fn read_process(fields: &mut Fields<'_>) -> Result<ProcessId, Error> {
    Ok(ProcessId {
        boot_id: fields.text()?,
        pid_ns: fields.u64()?,
        pid: fields.u32()?,
        start_ticks: fields.u64()?,
        wall_ms: fields.u64()?,
    })
}

fn write_end(out: &mut Writer, end: &End) {
    out.option(end.code, Writer::i32);
    out.option(end.signal, Writer::i32);
    out.u8(reason_byte(end.reason));
    out.bool(end.oom);
    for value in numbers(end) {
        out.u64(value);
    }
    out.bool(end.truncated);
    out.text(&end.message);
}

fn numbers(end: &End) -> [u64; 10] {
    [
        end.user_us,
        end.system_us,
        end.max_rss_bytes,
        end.out_bytes,
        end.err_bytes,
        end.out_base,
        end.err_base,
        end.started_wall_ms,
        end.ended_wall_ms,
        end.ran_ms,
    ]
}

fn read_end(fields: &mut Fields<'_>) -> Result<End, Error> {
    Ok(End {
        code: fields.option("code", Fields::i32)?,
        signal: fields.option("signal", Fields::i32)?,
        reason: reason(fields.u8()?)?,
        oom: fields.bool("oom")?,
        user_us: fields.u64()?,
        system_us: fields.u64()?,
        max_rss_bytes: fields.u64()?,
        out_bytes: fields.u64()?,
        err_bytes: fields.u64()?,
        out_base: fields.u64()?,
        err_base: fields.u64()?,
        started_wall_ms: fields.u64()?,
        ended_wall_ms: fields.u64()?,
        ran_ms: fields.u64()?,
        truncated: fields.bool("truncated")?,
        message: fields.text()?,
    })
}
