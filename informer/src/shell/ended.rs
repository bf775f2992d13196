//! The answer to `why` for a task that is over.

use proto::store::TaskRow;
use proto::v1::{TaskState, WhyResponse};

/// How a terminal task ended, in a sentence.
pub(super) fn why(row: &TaskRow) -> WhyResponse {
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
    WhyResponse { summary, details: Vec::new(), state: row.state }
}
