//! Why nothing happens, for whoever watches a task that does not start.

use std::time::Duration;

use proto::v1::{Task, TaskState, WhyRequest};
use tokio::sync::Mutex;

use super::{books::Books, client::Client, error, screen::Screen, words};

/// How long nothing may happen before it is explained, and between two questions why. A start takes milliseconds where there is
/// room; after two seconds a person begins to wonder.
const QUIET: Duration = Duration::from_secs(2);

/// Tells why the task does not start, and again when the reason has changed, until it has ended. An informer that does not answer
/// is noticed by whoever keeps the books.
pub(crate) async fn explain(client: &Client, id: &str, mut books: Books, screen: &Mutex<Screen>) {
    let mut told = String::new();
    loop {
        let ended = match books.wait_for(|task| is_idle(task) || words::is_terminal(task.state())).await {
            Ok(task) => words::is_terminal(task.state()),
            Err(_) => true,
        };
        if ended {
            return;
        }
        match tokio::time::timeout(QUIET, books.wait_for(|task| !is_idle(task))).await {
            Ok(Ok(_)) => continue,
            Ok(Err(_)) => return,
            Err(_) => {}
        }
        let Ok(why) = client.grpc().why(WhyRequest { id: id.to_owned() }).await else { continue };
        let why = error::one_line(&why.into_inner().summary);
        // Between question and answer it may have started.
        if is_idle(&books.borrow()) && shape(&why) != told {
            told = shape(&why);
            screen.lock().await.line(&format!("waiting: {why}"));
        }
    }
}

/// Nothing happens with it, nor with any member of it.
fn is_idle(task: &Task) -> bool {
    matches!(task.state(), TaskState::Waiting | TaskState::Ready)
}

/// A reason without its numbers and times: one task less in front, or a second less to wait, is no other reason.
fn shape(why: &str) -> String {
    let words = why.split_whitespace().filter(|word| !word.starts_with(|c: char| c.is_ascii_digit()));
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_waits_is_explained() {
        let idle = |state: TaskState| is_idle(&Task { state: state.into(), ..Task::default() });
        assert!(idle(TaskState::Waiting) && idle(TaskState::Ready));
        assert!(!idle(TaskState::Assigned) && !idle(TaskState::Running) && !idle(TaskState::Failed));
    }

    #[test]
    fn a_countdown_is_one_reason() {
        assert_eq!(shape("it is tried again in 1m05s"), shape("it is tried again in 20s"));
        assert_eq!(shape("it waits; 2 tasks are before it"), shape("it waits; 1 tasks are before it"));
        assert_ne!(shape("no sidecar is linked"), shape("it is ready"));
    }
}
