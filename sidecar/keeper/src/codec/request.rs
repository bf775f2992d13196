//! Bodies of [`Request`] and [`Spec`].

use super::notice::{reason, reason_byte};
use super::{Error, Fields, Writer};
use crate::wire::{File, LogPolicy, OnDisconnect, Request, Spec, StopTarget};

const HELLO: u8 = 1;
const START: u8 = 2;
const STOP: u8 = 3;
const WARM: u8 = 4;
const UPGRADE: u8 = 5;
const SHUTDOWN: u8 = 6;

/// The body of a request.
pub fn encode_request(request: &Request) -> Vec<u8> {
    match request {
        Request::Hello { version } => {
            let mut out = Writer::tagged(HELLO);
            out.u32(*version);
            out.done()
        }
        Request::Start { name, spec } => {
            let mut out = Writer::tagged(START);
            out.text(name);
            write_spec(&mut out, spec);
            out.done()
        }
        Request::Stop { name, reason, grace_ms } => {
            let mut out = Writer::tagged(STOP);
            out.text(name);
            out.u8(reason_byte(*reason));
            out.option(*grace_ms, Writer::u64);
            out.done()
        }
        Request::Warm { monitors } => {
            let mut out = Writer::tagged(WARM);
            out.u32(*monitors);
            out.done()
        }
        Request::Upgrade { exe } => {
            let mut out = Writer::tagged(UPGRADE);
            out.text(exe);
            out.done()
        }
        Request::Shutdown { stop_tasks } => {
            let mut out = Writer::tagged(SHUTDOWN);
            out.bool(*stop_tasks);
            out.done()
        }
    }
}

/// Reads the body of a request.
///
/// # Errors
/// Any deviation from the encoding.
pub fn decode_request(body: &[u8]) -> Result<Request, Error> {
    let mut fields = Fields::new(body);
    let request = match fields.u8()? {
        HELLO => Request::Hello { version: fields.u32()? },
        START => Request::Start { name: fields.text()?, spec: Box::new(read_spec(&mut fields)?) },
        STOP => Request::Stop {
            name: fields.text()?,
            reason: reason(fields.u8()?)?,
            grace_ms: fields.option("grace", Fields::u64)?,
        },
        WARM => Request::Warm { monitors: fields.u32()? },
        UPGRADE => Request::Upgrade { exe: fields.text()? },
        SHUTDOWN => Request::Shutdown { stop_tasks: fields.bool("stop_tasks")? },
        value => return Err(Error::Value { field: "request", value }),
    };
    fields.end()?;
    Ok(request)
}

/// The bytes of a spec, as the record's first frame holds them.
pub fn encode_spec(spec: &Spec) -> Vec<u8> {
    let mut out = Writer::default();
    write_spec(&mut out, spec);
    out.done()
}

/// Reads the bytes of a spec.
///
/// # Errors
/// Any deviation from the encoding.
pub fn decode_spec(bytes: &[u8]) -> Result<Spec, Error> {
    let mut fields = Fields::new(bytes);
    let spec = read_spec(&mut fields)?;
    fields.end()?;
    Ok(spec)
}

fn write_spec(out: &mut Writer, spec: &Spec) {
    out.list(&spec.argv, |out, argument| out.text(argument));
    out.list(&spec.env, |out, (key, value)| {
        out.text(key);
        out.text(value);
    });
    out.text(&spec.cwd);
    out.list(&spec.files, |out, file| {
        out.text(&file.name);
        out.u32(file.mode);
        out.bytes(&file.content);
    });
    out.u64(spec.cpu_limit_millis);
    out.u64(spec.memory_limit_bytes);
    out.u64(spec.pids_limit);
    out.u64(spec.log_cap_bytes);
    out.u8(match spec.log_policy {
        LogPolicy::KeepHead => 0,
        LogPolicy::KeepTail => 1,
    });
    out.i32(spec.stop_signal);
    out.u64(spec.stop_grace_ms);
    out.u8(match spec.stop_target {
        StopTarget::Group => 0,
        StopTarget::Main => 1,
    });
    out.u64(spec.timeout_ms);
    out.u8(match spec.on_disconnect {
        OnDisconnect::Continue => 0,
        OnDisconnect::Stop => 1,
    });
    out.u64(spec.fence_grace_ms);
    // One byte for both, so that records of earlier keepers, which knew only the first, are read as they are.
    out.u8(u8::from(spec.without_lease) | (u8::from(spec.prepared) << 1));
    out.bytes(&spec.note);
}

fn read_spec(fields: &mut Fields<'_>) -> Result<Spec, Error> {
    let mut spec = Spec {
        argv: fields.list(4, Fields::text)?,
        env: fields.list(8, |fields| Ok((fields.text()?, fields.text()?)))?,
        cwd: fields.text()?,
        files: fields.list(12, |fields| {
            Ok(File { name: fields.text()?, mode: fields.u32()?, content: fields.bytes()?.to_vec() })
        })?,
        cpu_limit_millis: fields.u64()?,
        memory_limit_bytes: fields.u64()?,
        pids_limit: fields.u64()?,
        log_cap_bytes: fields.u64()?,
        log_policy: match fields.u8()? {
            0 => LogPolicy::KeepHead,
            1 => LogPolicy::KeepTail,
            value => return Err(Error::Value { field: "log_policy", value }),
        },
        stop_signal: fields.i32()?,
        stop_grace_ms: fields.u64()?,
        stop_target: match fields.u8()? {
            0 => StopTarget::Group,
            1 => StopTarget::Main,
            value => return Err(Error::Value { field: "stop_target", value }),
        },
        timeout_ms: fields.u64()?,
        on_disconnect: match fields.u8()? {
            0 => OnDisconnect::Continue,
            1 => OnDisconnect::Stop,
            value => return Err(Error::Value { field: "on_disconnect", value }),
        },
        fence_grace_ms: fields.u64()?,
        ..Spec::default()
    };
    (spec.without_lease, spec.prepared) = match fields.u8()? {
        flags @ 0..=3 => (flags & 1 != 0, flags & 2 != 0),
        value => return Err(Error::Value { field: "without_lease", value }),
    };
    spec.note = fields.bytes()?.to_vec();
    Ok(spec)
}
