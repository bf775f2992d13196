//! The answer to `why` for a task that is over.

use proto::bounds;
use proto::store::TaskRow;
use proto::v1::{SetAside, TaskState, WhyResponse};

/// How a terminal task ended, in a sentence.
pub(super) fn why(row: &TaskRow, set_aside: &[SetAside]) -> WhyResponse {
    let ending = row.ending.as_ref();
    let message = ending.map(|ending| ending.message.as_str()).filter(|message| !message.is_empty());
    let summary = match (row.state(), message) {
        (TaskState::Succeeded, _) => "the task succeeded".to_owned(),
        (TaskState::Failed, Some(message)) => format!("the task failed: {message}"),
        (TaskState::Failed, None) => "the task failed".to_owned(),
        (TaskState::Cancelled, Some(message)) => format!("the task was cancelled: {message}"),
        (TaskState::Cancelled, None) => "the task was cancelled".to_owned(),
        (state, _) => format!("the task is {}", state.as_str_name().trim_start_matches("TASK_STATE_").to_lowercase()),
    };
    let copy = |aside: &SetAside| {
        let stands = if aside.over { "has ended" } else { "runs" };
        format!("attempt {} {stands} on sidecar {}, set aside: nothing of it is applied", aside.number, aside.sidecar)
    };
    let details = set_aside.iter().take(bounds::WHY_DETAILS).map(copy).collect();
    WhyResponse { summary, details, state: row.state }
}
