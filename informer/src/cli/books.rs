//! The informer's books about one task, kept up to date over restarts of the informer: what `run`, `wait` and `logs -f` go by.

use proto::v1::{GetRequest, Task, WatchRequest};
use tokio::sync::watch;
use tonic::Status;

use super::{client::Client, error, error::Error, words};

/// One task, as it stands by the last word of the informer.
pub(crate) type Books = watch::Receiver<Task>;

/// Reads the task.
///
/// # Errors
/// The informer's refusal: an unknown id, for instance.
pub(crate) async fn open(client: &Client, id: &str) -> Result<(watch::Sender<Task>, Books), Error> {
    let task = get(client, id, "look up").await?;
    Ok(watch::channel(task))
}

/// The task right now. An informer that was there when we connected and goes before it answers is waited for, as later.
pub(crate) async fn get(client: &Client, id: &str, verb: &str) -> Result<Task, Error> {
    let request = GetRequest { id: id.to_owned() };
    client.persist(&format!("{verb} task {id}"), async |mut grpc| grpc.get(request.clone()).await).await
}

/// Keeps the books until the task is terminal, and gives its last state.
///
/// # Errors
/// [`Error::Gone`] when the informer stays away for longer than our patience; its refusal otherwise.
/// Dropping the future only stops the watching.
pub(crate) async fn keep(client: &Client, id: &str, books: &watch::Sender<Task>) -> Result<Task, Error> {
    let mut patience = client.patience();
    loop {
        let status = match client.grpc().watch(WatchRequest { ids: vec![id.to_owned()] }).await {
            Err(status) => status,
            Ok(answer) => {
                let mut changes = answer.into_inner();
                loop {
                    match changes.message().await {
                        Ok(Some(task)) => {
                            patience.restore();
                            books.send_replace(task.clone());
                            if words::is_terminal(task.state()) {
                                return Ok(task);
                            }
                        }
                        // An informer that stops ends its answers in good order: it is away all the same.
                        Ok(None) => break Status::unavailable("the informer ended its answer"),
                        Err(status) => break status,
                    }
                }
            }
        };
        if !error::is_passing(&status) {
            return Err(client.failed(&format!("watch task {id}"), &status));
        }
        patience.pause(&status).await?;
    }
}

/// What a person should hear about the step from `before` to `after`.
pub(crate) fn news(before: &Task, after: &Task) -> Vec<String> {
    let mut lines = Vec::new();
    for attempt in &after.attempts {
        let known = before.attempts.iter().find(|known| known.number == attempt.number);
        if known.is_some_and(|known| known.state == attempt.state) {
            continue;
        }
        let mut line =
            format!("attempt {} {}", attempt.number, words::attempt_state(attempt.state()).replace('_', " "));
        if let Some(ending) = attempt.ending.as_ref().filter(|_| words::is_over(attempt.state())) {
            line = format!("{line}: {}", words::end(ending));
        } else if !attempt.sidecar.is_empty() {
            line = format!("{line} on sidecar {}", attempt.sidecar);
        }
        lines.push(line);
    }
    let health = |task: &Task| task.progress.as_ref().and_then(|progress| words::health(progress.health()));
    if let Some(now) = health(after)
        && health(before).as_ref() != Some(&now)
    {
        lines.push(now);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::{Attempt, AttemptState, Ending, Health, Progress, Reason};

    fn with(attempts: Vec<Attempt>, health: Health) -> Task {
        Task { attempts, progress: Some(Progress { health: health.into(), ..Progress::default() }), ..Task::default() }
    }

    #[test]
    fn news_tells_each_step_once() {
        let running =
            Attempt { number: 1, sidecar: "s1".into(), state: AttemptState::Running.into(), ..Attempt::default() };
        let ending = Ending { reason: Reason::ExitCode.into(), exit_code: Some(3), ..Ending::default() };
        let failed = Attempt { state: AttemptState::Failed.into(), ending: Some(ending), ..running.clone() };
        let (none, first) = (with(vec![], Health::Unspecified), with(vec![running], Health::Healthy));
        assert_eq!(news(&none, &first), ["attempt 1 running on sidecar s1", "healthy"]);
        assert!(news(&first, &first).is_empty());
        assert_eq!(news(&first, &with(vec![failed], Health::Healthy)), ["attempt 1 failed: exit code 3"]);
    }
}
