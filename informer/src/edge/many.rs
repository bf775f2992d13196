//! One request for many tasks: every task on a page of a list is cancelled, or retried, some at a time.

use super::error::Error;
use super::{Edge, convert, list};
use crate::shell::{self, Handle};
use proto::id::TaskId;
use proto::v1::TaskState;
use proto::{bounds, check, v1};
use sha2::{Digest as _, Sha256};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Calls to the shell under way at once: enough to share a commit, far fewer than its inbox holds.
const UNDER_WAY: usize = 256;
/// Pause while the shell's inbox is full, and how often: five seconds of overload are told to the client.
const BUSY_PAUSE: Duration = Duration::from_millis(100);
const BUSY_TRIES: u32 = 50;
/// What a cancel without a filter of states looks at: those that have not ended.
const CANCELLABLE: [TaskState; 5] =
    [TaskState::Waiting, TaskState::Ready, TaskState::Assigned, TaskState::Running, TaskState::Committing];
/// What a retry without a filter of states looks at. What has succeeded can run again too, but then somebody says so.
const RETRIABLE: [TaskState; 2] = [TaskState::Failed, TaskState::Cancelled];

#[derive(Clone)]
enum Verb {
    Cancel { reason: String },
    Retry { key: String },
}

/// Cancels the tasks of a page.
///
/// # Errors
/// The filter or the reason is wrong, or the informer could not take the calls; what was done until then stays done.
pub(super) async fn cancel(edge: &Edge, request: v1::ManyRequest) -> Result<v1::ManyResponse, Error> {
    let reason = check::reason(request.reason)?;
    all(edge, request.filter.unwrap_or_default(), &CANCELLABLE, &Verb::Cancel { reason }).await
}

/// Retries the tasks of a page. Under a key a repeated call retries none twice.
///
/// # Errors
/// The filter or the key is wrong, or the informer could not take the calls; what was done until then stays done.
pub(super) async fn retry(edge: &Edge, request: v1::ManyRequest) -> Result<v1::ManyResponse, Error> {
    let key = check::key(request.key)?.unwrap_or_default();
    all(edge, request.filter.unwrap_or_default(), &RETRIABLE, &Verb::Retry { key }).await
}

/// Retries the members of an array that failed or were cancelled; says how many. Those that never started wait again already.
///
/// # Errors
/// The informer could not take the calls; what was done until then stays done.
pub(super) async fn retry_members(edge: &Edge, array: TaskId, key: &str) -> Result<u32, Error> {
    let verb = Verb::Retry { key: key.to_owned() };
    let mut request = v1::ListRequest { array: array.to_string(), ..Default::default() };
    let mut retried = 0;
    loop {
        let answer = all(edge, request.clone(), &RETRIABLE, &verb).await?;
        retried += answer.done;
        if answer.next_page_token.is_empty() {
            return Ok(retried);
        }
        request.page_token = answer.next_page_token;
    }
}

async fn all(
    edge: &Edge,
    mut request: v1::ListRequest,
    states: &[TaskState],
    verb: &Verb,
) -> Result<v1::ManyResponse, Error> {
    if request.page_size == 0 {
        request.page_size = bounds::PAGE;
    }
    if request.states.is_empty() {
        request.states = states.iter().map(|state| (*state).into()).collect();
    }
    let filter = list::filter(edge, request).await?;
    let page = edge.handle.list(filter).await?;
    let mut answer = v1::ManyResponse {
        matched: u32::try_from(page.rows.len()).unwrap_or(u32::MAX),
        next_page_token: page.next.map(|id| id.to_string()).unwrap_or_default(),
        ..Default::default()
    };
    let mut under_way = JoinSet::new();
    for row in &page.rows {
        if under_way.len() == UNDER_WAY {
            settle(under_way.join_next().await, &mut answer)?;
        }
        under_way.spawn(one(edge.handle.clone(), convert::task_id(row), verb.clone()));
    }
    while !under_way.is_empty() {
        settle(under_way.join_next().await, &mut answer)?;
    }
    Ok(answer)
}

/// Does it to one task; says whether that was accepted.
async fn one(handle: Handle, task: TaskId, verb: Verb) -> Result<bool, shell::Error> {
    let mut tries = BUSY_TRIES;
    loop {
        let done = match &verb {
            Verb::Cancel { reason } => handle.cancel(task, reason.clone()).await,
            Verb::Retry { key } => handle.retry(task, key_of(key, task)).await,
        };
        match done {
            Ok(_) => return Ok(true),
            Err(shell::Error::Rejected(_)) => return Ok(false),
            Err(shell::Error::Busy) if tries > 0 => {
                tries -= 1;
                sleep(BUSY_PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

type Settled = Result<Result<bool, shell::Error>, tokio::task::JoinError>;

fn settle(settled: Option<Settled>, answer: &mut v1::ManyResponse) -> Result<(), Error> {
    match settled {
        None => {}
        Some(Ok(Ok(true))) => answer.done += 1,
        Some(Ok(Ok(false))) => answer.refused += 1,
        Some(Ok(Err(error))) => return Err(error.into()),
        Some(Err(join)) => {
            tracing::error!(error = %join, "one of many calls ended without a result");
            return Err(Error::Panicked);
        }
    }
    Ok(())
}

/// A key of the task's own, so that a retry of it alone under the same words is another one. None without a key of the whole.
fn key_of(whole: &str, task: TaskId) -> String {
    if whole.is_empty() {
        return String::new();
    }
    let digest =
        Sha256::new().chain_update("many\0").chain_update(whole).chain_update([0]).chain_update(&*task.to_bytes());
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_task_has_a_key_of_its_own_under_one_key() {
        let tasks = [TaskId::from_u128(1), TaskId::from_u128(2)];
        assert_eq!(key_of("k", tasks[0]), key_of("k", tasks[0]));
        assert_ne!(key_of("k", tasks[0]), key_of("k", tasks[1]));
        assert_ne!(key_of("k", tasks[0]), key_of("l", tasks[0]));
        assert_eq!(key_of("", tasks[0]), "");
    }
}
