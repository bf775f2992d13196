//! What a sidecar says. A structural fault ends its link; words for people are cut to size.

use super::{Faults, cut, is_printable, shown};
use crate::id::{AttemptId, LAST_ATTEMPT, SidecarId};
use crate::v1::{self, HeldState, LogStream, Reason, report::What};
use crate::{PROTOCOL_MAX, PROTOCOL_MIN, bounds};

/// Longest line for people in a message of a sidecar, in bytes: an error of ffmpeg with two paths fits.
const LINE_BYTES: usize = 1024;
/// Most outputs of one attempt. A task kind declares one; a manifest of a thousand must still fit a message.
const OUTPUTS: usize = 1000;
/// Bytes of a SHA-256.
const DIGEST_BYTES: usize = 32;
/// Most kinds that a sidecar names.
const KINDS: usize = 32;

/// The link protocol to speak with a peer that speaks `min..=max`: the newest that both know.
#[must_use]
pub fn protocol(min: u32, max: u32) -> Option<u32> {
    let version = max.min(PROTOCOL_MAX);
    (version >= min && version >= PROTOCOL_MIN).then_some(version)
}

/// A hello; answers who it is.
///
/// # Errors
/// Everything that is wrong with it.
pub fn hello(hello: &v1::Hello) -> Result<SidecarId, Faults> {
    let mut faults = Faults::default();
    let sidecar = hello.sidecar.parse::<SidecarId>();
    if let Err(error) = &sidecar {
        faults.add("hello.sidecar", error.to_string(), "start the sidecar with its own data directory");
    }
    faults.labels("hello.labels", &hello.labels);
    let total = hello.total.unwrap_or_default();
    faults.at_most("hello.total.cpu_millis", total.cpu_millis, bounds::CPU_MILLIS);
    faults.at_most("hello.total.memory_bytes", total.memory_bytes, bounds::MEMORY_BYTES);
    if !(1..=bounds::SLOTS).contains(&hello.slots) {
        let problem = format!("{} slots are out of range", hello.slots);
        faults.add("hello.slots", problem, format!("use 1 to {}", bounds::SLOTS));
    }
    faults.count("hello.kinds", hello.kinds.len(), KINDS);
    for kind in hello.kinds.iter().take(KINDS) {
        faults.text("hello.kinds", kind);
    }
    // Twice, because a part that is full of results is followed by one that may be almost empty.
    let parts = bounds::HELD_ATTEMPTS.div_ceil(bounds::INVENTORY_PART)
        + 2 * bounds::INVENTORY_RESULT_BYTES.div_ceil(bounds::RESULT_BYTES);
    faults.count("hello.inventory_parts", hello.inventory_parts as usize, parts);
    if let Some(seen) = &hello.seen {
        faults.text("hello.seen.lineage", &seen.lineage);
        faults.at_most("hello.seen.epoch", seen.epoch, bounds::EPOCH);
    }
    faults.at_most("hello.highest_fence_epoch", hello.highest_fence_epoch, bounds::EPOCH);
    faults.into_result()?;
    Ok(sidecar.expect("an unreadable id is a fault"))
}

/// One part of an inventory, by its size; each entry is then checked by [`held`].
///
/// # Errors
/// More than [`bounds::INVENTORY_PART`] entries.
pub fn inventory(part: &v1::Inventory) -> Result<(), Faults> {
    let mut faults = Faults::default();
    faults.count("inventory.attempts", part.attempts.len(), bounds::INVENTORY_PART);
    faults.into_result()
}

/// One held attempt: answers which, and puts its words in order.
///
/// # Errors
/// An id that is none, an unknown state, or a state without what belongs to it.
pub fn held(held: &mut v1::HeldAttempt) -> Result<(AttemptId, HeldState), Faults> {
    let attempt = attempt("held.attempt", held.attempt.as_ref())?;
    let mut faults = Faults::default();
    let state = HeldState::try_from(held.state).unwrap_or_default();
    match (state, &mut held.ending) {
        (HeldState::Unspecified, _) => {
            faults.add(
                "held.state",
                format!("{} is no state", held.state),
                "upgrade the older of informer and sidecar",
            );
        }
        (HeldState::Ended | HeldState::Published, None) => {
            faults.add("held.ending", "an attempt that ended has none", "upgrade the sidecar");
        }
        (HeldState::Ended | HeldState::Published, Some(wire)) => ending(wire)?,
        (HeldState::Accepted | HeldState::Running | HeldState::SetAside, _) => {}
    }
    faults.into_result()?;
    if let Some(wire) = &mut held.progress {
        progress(wire);
    }
    Ok((attempt, state))
}

/// A beat: answers whose progress it carries, in its order. What it sets aside is checked by [`aside`].
///
/// # Errors
/// Too many entries, an id that is none, a number of 0.
pub fn beat(beat: &mut v1::Beat) -> Result<Vec<AttemptId>, Faults> {
    let mut faults = Faults::default();
    faults.count("beat.progress", beat.progress.len(), bounds::BEAT_PROGRESS);
    sequence("beat.seq", beat.seq, &mut faults);
    faults.into_result()?;
    beat.credit = beat.credit.min(bounds::SLOTS);
    beat.progress
        .iter_mut()
        .map(|entry| {
            progress(entry.progress.get_or_insert_default());
            attempt("beat.progress.attempt", entry.attempt.as_ref())
        })
        .collect()
}

/// The attempts that a beat tells are set aside; `None`: its sidecar is too old to tell.
///
/// # Errors
/// More than a sidecar can hold, an id that is none, a number of 0.
pub fn aside(beat: &v1::Beat) -> Result<Option<Vec<AttemptId>>, Faults> {
    let Some(aside) = &beat.aside else { return Ok(None) };
    let mut faults = Faults::default();
    faults.count("beat.aside", aside.attempts.len(), bounds::HELD_ATTEMPTS);
    faults.into_result()?;
    aside.attempts.iter().map(|id| attempt("beat.aside.attempt", Some(id))).collect::<Result<_, _>>().map(Some)
}

/// A report: answers about which attempt it is.
///
/// # Errors
/// An id that is none, a number of 0, no content, an end that cannot be.
pub fn report(report: &mut v1::Report) -> Result<AttemptId, Faults> {
    let attempt = attempt("report.attempt", report.attempt.as_ref())?;
    let mut faults = Faults::default();
    sequence("report.seq", report.seq, &mut faults);
    match &mut report.what {
        None => faults.add("report.what", "it reports nothing this informer knows", "upgrade the informer"),
        Some(What::Accepted(_) | What::Started(_)) => {}
        Some(What::Ended(wire)) => ending(wire)?,
        Some(What::Published(published)) => published.failure = line(&published.failure),
        Some(What::Refused(refused)) => {
            refused.why = line(&refused.why);
            refused.taken = refused.taken.min(LAST_ATTEMPT);
        }
    }
    faults.into_result()?;
    Ok(attempt)
}

/// A child that a running task emits: answers which attempt's it is.
///
/// # Errors
/// An id that is none, a key or payload out of bounds, a digest that is none.
pub fn emitted(emitted: &v1::Emitted) -> Result<AttemptId, Faults> {
    let attempt = attempt("emitted.attempt", emitted.attempt.as_ref())?;
    let mut faults = Faults::default();
    faults.text("emitted.key", &emitted.key);
    faults.count("emitted.digest", emitted.digest.len(), DIGEST_BYTES);
    if emitted.digest.len() < DIGEST_BYTES {
        let problem = format!("{} bytes are no SHA-256", emitted.digest.len());
        faults.add("emitted.digest", problem, "upgrade the sidecar");
    }
    faults.count("emitted.payload", emitted.payload.len(), bounds::EMIT_BYTES);
    if emitted.key.is_empty() && !emitted.payload.is_empty() {
        faults.add("emitted.payload", "a seal has one", "name the child by a key");
    }
    faults.into_result()?;
    Ok(attempt)
}

/// One message of a log upload.
///
/// # Errors
/// Data without a stream, or more of it than a chunk holds, or beyond any log's end.
pub fn upload(upload: &mut v1::LogUpload) -> Result<(), Faults> {
    let mut faults = Faults::default();
    faults.count("upload.data", upload.data.len(), bounds::LOG_CHUNK_BYTES);
    let stream = LogStream::try_from(upload.stream);
    if stream.is_err() || (stream == Ok(LogStream::Unspecified) && (!upload.data.is_empty() || upload.truncated)) {
        faults.add("upload.stream", format!("{} is no stream", upload.stream), "name OUT or ERR");
    }
    if upload.offset.checked_add(upload.data.len() as u64).is_none() {
        faults.add(
            "upload.offset",
            format!("{} is beyond any log", upload.offset),
            "count from the attempt's first byte",
        );
    }
    upload.failure = line(&upload.failure);
    faults.into_result()
}

/// How an attempt ended: cuts its words, refuses what cannot be.
///
/// # Errors
/// An unknown reason, success without exit code 0, outputs out of bounds.
pub fn ending(ending: &mut v1::Ending) -> Result<(), Faults> {
    let mut faults = Faults::default();
    ending.message = line(&ending.message);
    match Reason::try_from(ending.reason) {
        Err(_) => {
            let problem = format!("{} is no reason this informer knows", ending.reason);
            faults.add("ending.reason", problem, "upgrade the informer");
        }
        // Without this an end that names no reason would pass for success.
        Ok(Reason::Unspecified) if ending.exit_code != Some(0) => {
            faults.add("ending.reason", "there is none, and the exit code is not 0", "upgrade the sidecar");
        }
        Ok(_) => {}
    }
    faults.count("ending.outputs", ending.outputs.len(), OUTPUTS);
    faults.count("ending.result", ending.result.len(), bounds::RESULT_BYTES);
    for output in ending.outputs.iter().take(OUTPUTS) {
        faults.absolute("ending.outputs.path", &output.path);
        if output.sha256.len() != 64 || !output.sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            let problem = format!("{} is no SHA-256", shown(&output.sha256));
            faults.add("ending.outputs.sha256", problem, "use 64 lower-case hexadecimal digits");
        }
    }
    faults.into_result()
}

/// Progress put into its ranges. It informs people only, so nothing in it is worth a link.
pub fn progress(progress: &mut v1::Progress) {
    progress.permille = progress.permille.min(1000);
    if !progress.speed.is_finite() || progress.speed < 0.0 {
        progress.speed = 0.0;
    }
    progress.note = line(&progress.note);
    if v1::Health::try_from(progress.health).is_err() {
        progress.health = v1::Health::Unspecified.into();
    }
}

/// One printable line of at most a kibibyte, from whatever a sidecar sent for people.
#[must_use]
pub fn line(text: &str) -> String {
    let text = cut(text, LINE_BYTES);
    text.chars().map(|c| if is_printable(c) { c } else { ' ' }).collect::<String>().trim().to_owned()
}

/// An attempt's id.
///
/// # Errors
/// None given, or not an id.
pub fn attempt(field: &str, wire: Option<&v1::AttemptId>) -> Result<AttemptId, Faults> {
    let mut faults = Faults::default();
    match wire.map(AttemptId::from_wire) {
        Some(Ok(attempt)) => return Ok(attempt),
        Some(Err(error)) => faults.add(field, error.to_string(), "send the id as it was assigned"),
        None => faults.add(field, "there is no id", "send the id as it was assigned"),
    }
    Err(faults)
}

/// Numbers count from 1; 0 is a field that was left out.
fn sequence(field: &str, seq: u64, faults: &mut Faults) {
    if seq == 0 {
        faults.add(field, "it is 0", "count from 1");
    }
}
