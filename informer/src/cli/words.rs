//! The schema's enums as the words people and scripts read: lower case, without the prefix of the proto name.

use proto::v1::{AttemptState, DrainMode, Ending, Health, Lack, Reason, SidecarState, TaskState};

use super::{error, units};

/// The enum value's word: `TASK_STATE_RUNNING` without `TASK_STATE_`, in lower case.
fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase()
}

pub(crate) fn task_state(state: TaskState) -> String {
    word(state.as_str_name(), "TASK_STATE_")
}

pub(crate) fn attempt_state(state: AttemptState) -> String {
    word(state.as_str_name(), "ATTEMPT_STATE_")
}

pub(crate) fn sidecar_state(state: SidecarState) -> String {
    word(state.as_str_name(), "SIDECAR_STATE_")
}

/// `None` for one that lacks nothing.
pub(crate) fn lack(lack: Lack) -> Option<String> {
    (lack != Lack::Unspecified).then(|| word(lack.as_str_name(), "LACK_"))
}

/// `None` for what has no health check, or none yet.
pub(crate) fn health(health: Health) -> Option<String> {
    (health != Health::Unspecified).then(|| word(health.as_str_name(), "HEALTH_"))
}

/// `None` for a success.
pub(crate) fn reason(reason: Reason) -> Option<String> {
    (reason != Reason::Unspecified).then(|| word(reason.as_str_name(), "REASON_"))
}

/// The task state of a word.
pub(crate) fn parse_task_state(text: &str) -> Result<TaskState, String> {
    let all = (1..).map_while(|number| TaskState::try_from(number).ok());
    let words: Vec<String> = all.clone().map(task_state).collect();
    all.zip(&words)
        .find(|(_, word)| *word == text)
        .map(|(state, _)| state)
        .ok_or_else(|| format!("{text:?} is not a state; write one of {}", words.join(", ")))
}

/// The reason of a word.
pub(crate) fn parse_reason(text: &str) -> Result<Reason, String> {
    let all = (1..).map_while(|number| Reason::try_from(number).ok());
    let words: Vec<String> = all.clone().filter_map(reason).collect();
    all.zip(&words)
        .find(|(_, word)| *word == text)
        .map(|(reason, _)| reason)
        .ok_or_else(|| format!("{text:?} is not a reason; write one of {}", words.join(", ")))
}

/// What a sidecar does before it takes work again; `None` where it takes work.
pub(crate) fn drain_mode(mode: DrainMode) -> Option<String> {
    (mode != DrainMode::Unspecified).then(|| word(mode.as_str_name(), "DRAIN_MODE_"))
}

/// Nothing more will happen to a task in this state, unless somebody retries it.
pub(crate) fn is_terminal(state: TaskState) -> bool {
    matches!(state, TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled)
}

/// An attempt in this state produces no further output that anybody waits for.
pub(crate) fn is_over(state: AttemptState) -> bool {
    !matches!(
        state,
        AttemptState::Unspecified | AttemptState::Assigned | AttemptState::Running | AttemptState::Committing
    )
}

/// How a process ended, in a few words: `exit code 3`, `signal 9 (SIGKILL), out of memory`.
pub(crate) fn ending(ending: &Ending) -> String {
    let process = match (ending.signal, ending.exit_code) {
        (Some(signal), _) => match units::signal_name(signal) {
            Some(name) => format!("signal {signal} ({name})"),
            None => format!("signal {signal}"),
        },
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => String::new(),
    };
    let why = match ending.reason() {
        Reason::Unspecified | Reason::ExitCode | Reason::Signal => None,
        Reason::Oom => Some("out of memory".to_owned()),
        other => reason(other).map(|word| word.replace('_', " ")),
    };
    match (process.is_empty(), why) {
        (_, None) => process,
        (true, Some(why)) => why,
        (false, Some(why)) => format!("{why}, {process}"),
    }
}

/// An end on one line: how the process ended, and what is told about it unless that says as much.
pub(crate) fn end(of: &Ending) -> String {
    let (process, message) = (ending(of), error::one_line(&of.message));
    match (process.is_empty(), message.is_empty()) {
        (_, true) => process,
        (true, false) => message,
        (false, false) if message.contains(&process) => message,
        (false, false) => format!("{process}: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_lower_case_without_prefix() {
        assert_eq!(task_state(TaskState::Committing), "committing");
        assert_eq!(attempt_state(AttemptState::PresumedLost), "presumed_lost");
        assert_eq!(sidecar_state(SidecarState::Live), "live");
        assert_eq!(reason(Reason::ExitCode).as_deref(), Some("exit_code"));
        assert_eq!(reason(Reason::Unspecified), None);
        assert_eq!(health(Health::Healthy).as_deref(), Some("healthy"));
    }

    #[test]
    fn states_are_read_back_and_a_wrong_one_lists_the_right_ones() {
        assert_eq!(parse_task_state("cancelled"), Ok(TaskState::Cancelled));
        let error = parse_task_state("dead").expect_err("no such state");
        assert!(error.contains("waiting, ready") && error.contains("cancelled"), "{error}");
    }

    #[test]
    fn reasons_are_read_back() {
        assert_eq!(parse_reason("exit_code"), Ok(Reason::ExitCode));
        assert_eq!(parse_reason("max_failures"), Ok(Reason::MaxFailures));
        assert!(parse_reason("bad luck").expect_err("no such reason").contains("oom"));
        assert_eq!(drain_mode(DrainMode::HandBack).as_deref(), Some("hand_back"));
        assert_eq!(drain_mode(DrainMode::Unspecified), None);
    }

    #[test]
    fn endings_read_well() {
        let with = |reason: Reason, exit_code, signal| {
            ending(&Ending { reason: reason.into(), exit_code, signal, ..Ending::default() })
        };
        assert_eq!(with(Reason::Unspecified, Some(0), None), "exit code 0");
        assert_eq!(with(Reason::Signal, None, Some(9)), "signal 9 (SIGKILL)");
        assert_eq!(with(Reason::Oom, None, Some(9)), "out of memory, signal 9 (SIGKILL)");
        assert_eq!(with(Reason::TotalTimeout, None, None), "total timeout");
    }

    #[test]
    fn what_the_message_says_already_is_not_said_twice() {
        let told = |message: &str| {
            end(&Ending {
                reason: Reason::ExitCode.into(),
                exit_code: Some(5),
                message: message.into(),
                ..Ending::default()
            })
        };
        assert_eq!(told(""), "exit code 5");
        assert_eq!(told("exit code 5: no such input"), "exit code 5: no such input");
        assert_eq!(told("no such input"), "exit code 5: no such input");
    }
}
