//! Exit statuses. `run` and `wait` end as the task ended; what is ours is 125, so that it is told apart from the task's own codes.

use proto::v1::{Ending, Reason, Task, TaskState};

/// A verb other than `run` and `wait` failed.
pub(crate) const FAILURE: u8 = 1;
/// What was asked for cannot be meant.
pub(crate) const MISUSE: u8 = 2;
/// A time limit of the task ran out, as with `timeout`.
pub(crate) const TIMEOUT: u8 = 124;
/// A failure of ours: the informer is out of reach, the task was refused, lost, or never started.
pub(crate) const OURS: u8 = 125;
/// The task was cancelled.
pub(crate) const CANCELLED: u8 = 130;
/// A signal ended the task: this plus its number.
const SIGNALLED: i32 = 128;
/// SIGKILL, which is what the kernel sends when memory ran out.
const SIGKILL: i32 = 9;

/// What `run` and `wait` exit with for a task that ended.
pub(crate) fn of_task(task: &Task) -> u8 {
    if task.array.is_some() {
        // However its members ended: all of them well, or not.
        return if task.state() == TaskState::Succeeded { 0 } else { FAILURE };
    }
    let ending = task.ending.clone().unwrap_or_default();
    match task.state() {
        TaskState::Succeeded => 0,
        TaskState::Cancelled => CANCELLED,
        TaskState::Failed => of_failure(&ending),
        // Not terminal: whoever asks has stopped waiting too early.
        _ => OURS,
    }
}

fn of_failure(ending: &Ending) -> u8 {
    match ending.reason() {
        Reason::Timeout | Reason::TotalTimeout | Reason::QueueTimeout | Reason::Stalled => TIMEOUT,
        Reason::Cancelled => CANCELLED,
        Reason::Lost
        | Reason::Drained
        | Reason::Fenced
        | Reason::Revoked
        | Reason::Refused
        | Reason::Spawn
        | Reason::Input => OURS,
        Reason::Oom => signalled(ending.signal.unwrap_or(SIGKILL)),
        Reason::Members | Reason::MaxFailures => FAILURE,
        Reason::Unspecified | Reason::ExitCode | Reason::Signal | Reason::Unhealthy | Reason::Output => {
            of_process(ending)
        }
    }
}

/// The process's own end. Never 0: the task failed, whatever its last process said.
fn of_process(ending: &Ending) -> u8 {
    if let Some(signal) = ending.signal {
        return signalled(signal);
    }
    match ending.exit_code.map(u8::try_from) {
        Some(Ok(code)) if code != 0 => code,
        _ => FAILURE,
    }
}

fn signalled(signal: i32) -> u8 {
    SIGNALLED.checked_add(signal).and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(reason: Reason, exit_code: Option<i32>, signal: Option<i32>) -> u8 {
        let ending = Ending { reason: reason.into(), exit_code, signal, ..Ending::default() };
        of_task(&Task { state: TaskState::Failed.into(), ending: Some(ending), ..Task::default() })
    }

    #[test]
    fn every_end_has_its_status() {
        let task = |state: TaskState| of_task(&Task { state: state.into(), ..Task::default() });
        assert_eq!(task(TaskState::Succeeded), 0);
        assert_eq!(task(TaskState::Cancelled), 130);
        assert_eq!(task(TaskState::Running), 125);
        let array = |state: TaskState| {
            of_task(&Task { state: state.into(), array: Some(proto::v1::ArrayStatus::default()), ..Task::default() })
        };
        assert_eq!(array(TaskState::Succeeded), 0);
        assert_eq!((array(TaskState::Failed), array(TaskState::Cancelled)), (1, 1));
        let table = [
            (Reason::ExitCode, Some(3), None, 3),
            (Reason::ExitCode, Some(255), None, 255),
            (Reason::ExitCode, Some(700), None, 1),
            (Reason::Signal, None, Some(15), 143),
            (Reason::Oom, None, Some(9), 137),
            (Reason::Oom, None, None, 137),
            (Reason::Timeout, None, Some(15), 124),
            (Reason::TotalTimeout, None, None, 124),
            (Reason::QueueTimeout, None, None, 124),
            (Reason::Stalled, None, Some(9), 124),
            (Reason::Spawn, None, None, 125),
            (Reason::Lost, None, None, 125),
            (Reason::Drained, None, None, 125),
            (Reason::Fenced, None, Some(9), 125),
            (Reason::Refused, None, None, 125),
            (Reason::Output, Some(0), None, 1),
            (Reason::Output, Some(4), None, 4),
            (Reason::Unhealthy, None, Some(9), 137),
            (Reason::Unspecified, None, None, 1),
            (Reason::Signal, None, Some(i32::MAX), 255),
        ];
        for (reason, code, signal, status) in table {
            assert_eq!(failed(reason, code, signal), status, "{reason:?} {code:?} {signal:?}");
        }
    }
}
