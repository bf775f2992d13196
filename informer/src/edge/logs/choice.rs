//! Which attempt's log comes next: decided from the task's row and what was already sent, nothing else.

use crate::edge::convert;
use proto::store::{AttemptRow, TaskRow};
use proto::v1::AttemptState;

/// What a reader asked for, and how far it is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Position {
    /// The attempt the client named; 0: the latest, then those that follow.
    pub(super) asked: u32,
    /// Wait for what is not there yet.
    pub(super) follow: bool,
    /// The attempt being read; 0: none yet.
    pub(super) current: u32,
    /// Its log was sent to the end.
    pub(super) is_sent: bool,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Choice {
    /// Read this attempt's log.
    Read(Box<AttemptRow>),
    /// Something must happen first.
    Wait,
    /// All was sent.
    End,
    /// There is nothing to read yet, and nobody wants to wait.
    NotStarted,
    /// There is nothing to read, and never will be.
    Gone(String),
}

/// The choice for a task as its row says it stands.
pub(super) fn choose(row: &TaskRow, position: Position) -> Choice {
    if position.asked > 0 {
        return choose_named(row, position);
    }
    let started = || row.attempts.iter().filter(|attempt| has_started(attempt));
    let next = match position.current {
        0 => started().next_back(),
        current => {
            let later = started().find(|attempt| attempt.number > current);
            let same = started().find(|attempt| attempt.number == current && !position.is_sent);
            // A copy that is lost may never be heard of again; its replacement is what the user waits for.
            match (same, later) {
                (Some(same), Some(later)) if is_lost(same) => Some(later),
                (Some(same), _) => Some(same),
                (None, later) => later.filter(|_| position.follow),
            }
        }
    };
    match next {
        Some(attempt) => Choice::Read(Box::new(attempt.clone())),
        None if position.current > 0 && (!position.follow || convert::is_terminal(row)) => Choice::End,
        None if convert::is_terminal(row) => Choice::Gone("the task ended without ever running".to_owned()),
        None if position.follow => Choice::Wait,
        None => Choice::NotStarted,
    }
}

fn choose_named(row: &TaskRow, position: Position) -> Choice {
    if position.is_sent {
        return Choice::End;
    }
    match row.attempts.iter().find(|attempt| attempt.number == position.asked) {
        Some(attempt) if has_started(attempt) => Choice::Read(Box::new(attempt.clone())),
        Some(attempt) if is_over(attempt) => Choice::Gone(format!("attempt {} ended without running", attempt.number)),
        None if position.asked <= row.attempts_dropped => {
            Choice::Gone(format!("attempt {} is no longer listed", position.asked))
        }
        None if convert::is_terminal(row) => Choice::Gone(format!("there was no attempt {}", position.asked)),
        Some(_) | None if position.follow => Choice::Wait,
        Some(_) | None => Choice::NotStarted,
    }
}

/// Its process existed, so that there is a log, if perhaps an empty one.
///
/// Of a lost one nobody can say that it never ran: its sidecar is asked, which knows.
fn has_started(attempt: &AttemptRow) -> bool {
    let ran = matches!(attempt.state(), AttemptState::Running | AttemptState::Committing);
    attempt.started_unix_ms > 0 || ran || is_lost(attempt)
}

/// It will not run any more.
pub(super) fn is_over(attempt: &AttemptRow) -> bool {
    use AttemptState::{Assigned, Committing, PresumedLost, Running, Unspecified};
    !matches!(attempt.state(), Unspecified | Assigned | Running | Committing | PresumedLost)
}

fn is_lost(attempt: &AttemptRow) -> bool {
    matches!(attempt.state(), AttemptState::PresumedLost | AttemptState::Lost)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::TaskState;

    fn row(state: TaskState, attempts: &[(AttemptState, u64)]) -> TaskRow {
        let attempt = |(index, &(state, started_unix_ms)): (usize, &(AttemptState, u64))| AttemptRow {
            number: index as u32 + 1,
            state: state.into(),
            started_unix_ms,
            ..Default::default()
        };
        let attempts = attempts.iter().enumerate().map(attempt).collect();
        TaskRow { state: state.into(), attempts, ..Default::default() }
    }

    fn number(choice: Choice) -> Option<u32> {
        if let Choice::Read(attempt) = choice { Some(attempt.number) } else { None }
    }

    const FOLLOW: Position = Position { asked: 0, follow: true, current: 0, is_sent: false };
    const ONCE: Position = Position { follow: false, ..FOLLOW };

    #[test]
    fn nothing_runs_yet() {
        let waiting = row(TaskState::Ready, &[(AttemptState::Assigned, 0)]);
        assert_eq!(choose(&waiting, FOLLOW), Choice::Wait);
        assert_eq!(choose(&waiting, ONCE), Choice::NotStarted);
        assert_eq!(choose(&waiting, Position { asked: 1, ..FOLLOW }), Choice::Wait);
        assert_eq!(choose(&waiting, Position { asked: 1, ..ONCE }), Choice::NotStarted);
        let never = row(TaskState::Cancelled, &[(AttemptState::Cancelled, 0)]);
        assert!(matches!(choose(&never, FOLLOW), Choice::Gone(_)));
        assert!(matches!(choose(&never, Position { asked: 9, ..FOLLOW }), Choice::Gone(_)));
    }

    #[test]
    fn the_latest_that_started_comes_first_and_its_successors_follow() {
        let retrying = row(
            TaskState::Running,
            &[(AttemptState::Failed, 5), (AttemptState::Failed, 6), (AttemptState::Running, 0)],
        );
        assert_eq!(number(choose(&retrying, FOLLOW)), Some(3));
        let sent = |current| Position { current, is_sent: true, ..FOLLOW };
        assert_eq!(number(choose(&retrying, sent(1))), Some(2));
        assert_eq!(number(choose(&retrying, sent(2))), Some(3));
        assert_eq!(choose(&retrying, sent(3)), Choice::Wait);
        assert_eq!(choose(&retrying, Position { follow: false, ..sent(2) }), Choice::End);
        assert_eq!(choose(&row(TaskState::Succeeded, &[(AttemptState::Succeeded, 5)]), sent(1)), Choice::End);
    }

    #[test]
    fn a_lost_copy_yields_to_its_replacement() {
        let reading = Position { current: 1, ..FOLLOW };
        let alone = row(TaskState::Ready, &[(AttemptState::PresumedLost, 5)]);
        assert_eq!(number(choose(&alone, reading)), Some(1));
        let replaced = row(TaskState::Running, &[(AttemptState::PresumedLost, 5), (AttemptState::Running, 6)]);
        assert_eq!(number(choose(&replaced, reading)), Some(2));
        let ended = row(TaskState::Running, &[(AttemptState::Failed, 5), (AttemptState::Running, 6)]);
        assert_eq!(number(choose(&ended, reading)), Some(1), "its log is read to the end first");
    }

    #[test]
    fn a_named_attempt_is_read_alone() {
        let two = row(TaskState::Running, &[(AttemptState::Failed, 5), (AttemptState::Running, 6)]);
        let first = Position { asked: 1, ..FOLLOW };
        assert_eq!(number(choose(&two, first)), Some(1));
        assert_eq!(choose(&two, Position { is_sent: true, current: 1, ..first }), Choice::End);
    }
}
