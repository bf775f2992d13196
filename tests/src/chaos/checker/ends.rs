//! How tasks ended: each as it should, by one attempt, with that attempt's code, log and outputs (invariants 3, 4, 7, 8, 13).

use super::{Evidence, Verdict};
use crate::chaos::client::{Chunk, is_terminal};
use crate::chaos::job::{Ends, Job};
use crate::chaos::probe;
use crate::chaos::recorder::Told;
use proto::v1::{self, AttemptState, Reason, TaskState};
use std::collections::BTreeMap;

pub(super) fn judge(evidence: &Evidence, verdict: &mut Verdict) {
    for task in &evidence.tasks {
        let Some(job) = evidence.job_of(task) else {
            verdict.doubled(2, &format!("task {} ({}) was never submitted", task.id, task.name));
            continue;
        };
        end(evidence, task, job, verdict);
        accepted(task, verdict);
        codes(evidence, task, job, verdict);
        charges(evidence, task, job, verdict);
        logs(evidence, task, job, verdict);
        outputs(evidence, task, job, verdict);
    }
    told_once(evidence, verdict);
    followed(evidence, verdict);
    beside(evidence, verdict);
}

fn attempts_in(task: &v1::Task, state: AttemptState) -> impl Iterator<Item = &v1::Attempt> {
    task.attempts.iter().filter(move |attempt| attempt.state() == state)
}

fn reason(attempt: &v1::Attempt) -> Reason {
    attempt.ending.as_ref().map_or(Reason::Unspecified, v1::Ending::reason)
}

/// 4 and 13: it ended, and as its own program has it; not by losses.
fn end(evidence: &Evidence, task: &v1::Task, job: &Job, verdict: &mut Verdict) {
    let state = task.state();
    let expected = match job.ends {
        Ends::Well => TaskState::Succeeded,
        Ends::Badly { .. } => TaskState::Failed,
        Ends::Cancelled | Ends::Stays => TaskState::Cancelled,
    };
    if state == expected {
        return;
    }
    let ending = task.ending.as_ref();
    let text = format!("{} ended as {state:?} and not as {expected:?}: {ending:?}", job.key);
    let losses = [Reason::Lost, Reason::Drained, Reason::Fenced, Reason::Refused];
    if state == TaskState::Failed && ending.is_some_and(|ending| losses.contains(&ending.reason())) {
        // No round breaks as much as a job's bound of losses allows.
        verdict.violated(13, &text);
        return;
    }
    let result_is_gone = is_terminal(state) && job.ends == Ends::Well;
    if result_is_gone && task.attempts.iter().any(|attempt| evidence.said_end(&job.key, attempt.number).is_some()) {
        verdict.lost(3, &text);
    } else {
        verdict.violated(4, &text);
    }
}

/// 3: one result.
fn accepted(task: &v1::Task, verdict: &mut Verdict) {
    let winners: Vec<u32> = attempts_in(task, AttemptState::Succeeded).map(|attempt| attempt.number).collect();
    if winners.len() > 1 {
        verdict.doubled(3, &format!("{}: the results of attempts {winners:?} were accepted", task.name));
    }
    if (winners.len() == 1) != (task.state() == TaskState::Succeeded) && winners.len() < 2 {
        verdict.violated(3, &format!("{} is {:?} with the winners {winners:?}", task.name, task.state()));
    }
    let open = |attempt: &&v1::Attempt| {
        matches!(attempt.state(), AttemptState::Assigned | AttemptState::Running | AttemptState::Committing)
    };
    for attempt in task.attempts.iter().filter(open).filter(|_| is_terminal(task.state())) {
        let (number, state) = (attempt.number, attempt.state());
        verdict.violated(3, &format!("{} is over, and its attempt {number} is {state:?}", task.name));
    }
}

/// 7: an exit code is what the process ended with, and nobody is killed by what is not his own.
fn codes(evidence: &Evidence, task: &v1::Task, job: &Job, verdict: &mut Verdict) {
    for attempt in &task.attempts {
        let who = format!("{} attempt {}", job.key, attempt.number);
        let said = evidence.said_end(&job.key, attempt.number).map(|(code, _)| code);
        let known = attempt.ending.as_ref().and_then(|ending| ending.exit_code);
        match (said, known) {
            (Some(said), Some(known)) if said != known => {
                verdict.lost(7, &format!("{who} ended with {said}, known is {known}"));
            }
            (None, Some(0)) => verdict.violated(7, &format!("{who} never said that it ended, known is 0")),
            _ => {}
        }
        match reason(attempt) {
            Reason::Signal => verdict.violated(7, &format!("{who} was killed by nobody: {:?}", attempt.ending)),
            Reason::Lost if !evidence.monitors_harmed && evidence.started(&job.key, attempt.number) => {
                verdict.lost(7, &format!("{who} is lost, and its monitor was left alone: {:?}", attempt.ending));
            }
            _ => {}
        }
    }
}

/// 13: a loss is charged to nobody.
fn charges(evidence: &Evidence, task: &v1::Task, job: &Job, verdict: &mut Verdict) {
    let history = evidence.histories.get(&task.id).map_or(&[][..], Vec::as_slice);
    let own = history.iter().filter(|event| event.kind == "retry" && event.detail.contains("own failure")).count();
    let expected = if let Ends::Badly { tries } = job.ends { tries as usize - 1 } else { 0 };
    if own > expected {
        verdict.violated(13, &format!("{}: {own} retries were charged to it, and not {expected}", job.key));
    }
    if let Ends::Badly { tries } = job.ends {
        let failed = attempts_in(task, AttemptState::Failed).filter(|attempt| reason(attempt) == Reason::ExitCode);
        let failed = failed.count();
        // It ended by its own code: then it has had each of its tries, and no loss was one of them.
        let by_itself = task.state() == TaskState::Failed
            && task.ending.as_ref().is_some_and(|ending| ending.reason() == Reason::ExitCode);
        if failed > tries as usize || (by_itself && failed < tries as usize) {
            verdict.violated(13, &format!("{}: {failed} tries of {tries}", job.key));
        }
    }
}

/// 8: the log is what the process wrote, from its first byte on; the winner's is whole.
fn logs(evidence: &Evidence, task: &v1::Task, job: &Job, verdict: &mut Verdict) {
    for attempt in &task.attempts {
        let who = format!("{} attempt {}", job.key, attempt.number);
        let whole = match attempt.state() {
            AttemptState::Succeeded => true,
            AttemptState::Failed => reason(attempt) == Reason::ExitCode,
            _ => false,
        };
        let Some(chunks) = evidence.logs.get(&(task.id.clone(), attempt.number)) else {
            if whole {
                verdict.lost(8, &format!("{who}: its log is not to be had"));
            }
            continue;
        };
        let streams =
            [(false, job.probe.stdout(&job.key, attempt.number)), (true, job.probe.stderr(&job.key, attempt.number))];
        for (err, expected) in streams {
            let of_stream = chunks.iter().filter(|chunk| chunk.err == err);
            if let Some(fault) = compare(of_stream, &expected, whole) {
                verdict.lost(8, &format!("{who}, {}: {fault}", if err { "stderr" } else { "stdout" }));
            }
        }
    }
}

/// What is wrong with these pieces of a stream.
fn compare<'c>(chunks: impl Iterator<Item = &'c Chunk>, expected: &[u8], whole: bool) -> Option<String> {
    let mut at = 0;
    for chunk in chunks {
        if chunk.truncated {
            return None;
        }
        let offset = usize::try_from(chunk.offset).unwrap_or(usize::MAX);
        if offset != at {
            return Some(format!("after byte {at} comes byte {offset}"));
        }
        if let Some(fault) = misfit(offset, &chunk.data, expected) {
            return Some(fault);
        }
        at += chunk.data.len();
    }
    (whole && at != expected.len()).then(|| format!("{at} bytes of {}", expected.len()))
}

fn misfit(offset: usize, data: &[u8], expected: &[u8]) -> Option<String> {
    let there = expected.get(offset..).unwrap_or_default();
    (!there.starts_with(data)).then(|| format!("the {} bytes from {offset} on are not what was written", data.len()))
}

/// 8, for those who read while it was written.
fn followed(evidence: &Evidence, verdict: &mut Verdict) {
    let mut at: BTreeMap<(&str, u32, bool), u64> = BTreeMap::new();
    for event in &evidence.events {
        let Told::Log { id, attempt, err, offset, data } = &event.told else { continue };
        let job = evidence.tasks.iter().find(|task| task.id == *id).and_then(|task| evidence.job_of(task));
        let Some(job) = job else { continue };
        let who = format!("{} attempt {attempt}, {}", job.key, if *err { "stderr" } else { "stdout" });
        let expected = if *err { job.probe.stderr(&job.key, *attempt) } else { job.probe.stdout(&job.key, *attempt) };
        let next = at.entry((id, *attempt, *err)).or_default();
        if offset != next {
            verdict.lost(8, &format!("{who}: a reader at byte {next} was given byte {offset}"));
        }
        if let Some(fault) = misfit(usize::try_from(*offset).unwrap_or(usize::MAX), data, &expected) {
            verdict.lost(8, &format!("{who}, to a reader: {fault}"));
        }
        *next = offset + data.len() as u64;
    }
}

/// 3: outputs are one attempt's, the winner's; who did not win has published nothing.
fn outputs(evidence: &Evidence, task: &v1::Task, job: &Job, verdict: &mut Verdict) {
    let winner = attempts_in(task, AttemptState::Succeeded).next().map(|attempt| attempt.number);
    for path in &job.outputs {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match (winner, evidence.files.get(path)) {
            (Some(winner), Some(found)) if *found != probe::output(&job.key, winner) => {
                let start = String::from_utf8_lossy(&found[..found.len().min(40)]).into_owned();
                verdict.doubled(3, &format!("{name} is not what attempt {winner} left: {start:?}…"));
            }
            (Some(winner), None) => verdict.lost(3, &format!("{name} of attempt {winner} is not there")),
            (None, Some(_)) => verdict.violated(3, &format!("{name} is there, and nobody has won")),
            _ => {}
        }
    }
}

/// 3: nothing half-done stays beside the outputs.
fn beside(evidence: &Evidence, verdict: &mut Verdict) {
    for path in evidence.files.keys().filter(|path| !evidence.jobs.iter().any(|job| job.outputs.contains(path))) {
        verdict.violated(3, &format!("{} was left beside the outputs", path.display()));
    }
}

/// 3: an end that somebody was told is the end.
fn told_once(evidence: &Evidence, verdict: &mut Verdict) {
    for event in &evidence.events {
        let Told::Ended { id, state, exit } = &event.told else { continue };
        let Some(task) = evidence.tasks.iter().find(|task| task.id == *id) else {
            verdict.lost(1, &format!("the end of task {id} was told, and it is not there"));
            continue;
        };
        let known = task.ending.as_ref().and_then(|ending| ending.exit_code);
        if (task.state, known) != (*state, *exit) {
            let told = TaskState::try_from(*state).unwrap_or_default();
            let text =
                format!("{}: its end was told as {told:?} {exit:?}, it is {:?} {known:?}", task.name, task.state());
            verdict.doubled(3, &text);
        }
    }
}
