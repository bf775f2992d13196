//! Which tasks `cancel` and `retry` mean, and doing it to many: several ids, members of arrays, or everything that a filter names.

use std::io::{self, IsTerminal as _, Write as _};

use proto::{
    id::TaskId,
    v1::{ListRequest, ManyRequest, Task, TaskState},
};
use serde_json::json;
use tokio::task::JoinSet;
use tonic::Code;

use super::{cancel, client::Client, error::Error, exit, filter::Filter, list, retry, short, words};

/// Members that a range may name. Each is a call; the filter `--array` takes a whole array in pages.
const RANGE: u32 = 100_000;
/// Calls under way at once: enough that they share commits, few enough that other clients get their turn.
const CALLS: usize = 64;
/// Tasks counted before somebody is asked: beyond it the exact number changes no mind.
const COUNTED: usize = 10_000;

/// The tasks meant.
#[derive(Debug, clap::Args)]
pub(crate) struct Targets {
    /// Tasks, arrays, or members of an array: ID, ID.7, ID.3-9
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Every task there is
    #[arg(long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    filter: Filter,
}

/// What is done to them.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// With a reason for the history.
    Cancel { reason: String },
    /// With an idempotency key.
    Retry { key: String },
}

/// What became of them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    matched: u64,
    done: u64,
    refused: u64,
    /// One line for each that was refused, where they were named one by one.
    errors: Vec<(String, String)>,
}

impl Action {
    fn verb(&self) -> &'static str {
        match self {
            Self::Cancel { .. } => "cancel",
            Self::Retry { .. } => "retry",
        }
    }

    fn done(&self) -> &'static str {
        match self {
            Self::Cancel { .. } => "cancelled",
            Self::Retry { .. } => "retried",
        }
    }

    /// The states in which it can be done. A success is retried only on demand.
    fn states(&self) -> &'static [TaskState] {
        match self {
            Self::Cancel { .. } => &[TaskState::Waiting, TaskState::Ready, TaskState::Assigned, TaskState::Running],
            Self::Retry { .. } => &[TaskState::Failed, TaskState::Cancelled],
        }
    }

    fn fits(&self, state: TaskState) -> bool {
        self.states().contains(&state) || (matches!(self, Self::Retry { .. }) && state == TaskState::Succeeded)
    }

    /// Does it to one task.
    ///
    /// # Errors
    /// The informer's refusal.
    pub(crate) async fn perform(&self, client: &Client, id: &str) -> Result<Task, Error> {
        match self {
            Self::Cancel { reason } => cancel::cancel(client, id, reason).await,
            Self::Retry { key } => retry::retry(client, id, key).await,
        }
    }

    /// The same for one of several: each has an idempotency key of its own.
    fn for_one_of_many(&self, id: &str) -> Self {
        match self {
            Self::Cancel { .. } => self.clone(),
            Self::Retry { key } => Self::Retry { key: format!("{key}/{id}") },
        }
    }
}

impl Targets {
    /// Ids that are shortened become whole.
    ///
    /// # Errors
    /// Several tasks are named by one, or none.
    pub(crate) async fn whole(mut self, client: &Client) -> Result<Self, Error> {
        for id in &mut self.ids {
            *id = short::whole(client, id).await?;
        }
        Ok(self)
    }

    /// The only one, if one is named and it is no range.
    pub(crate) fn only(&self) -> Option<&str> {
        match self.ids.as_slice() {
            [id] if self.filter.is_empty() && !self.all && !is_range(id) => Some(id),
            _ => None,
        }
    }

    /// Does it to all of them, and tells how many there were.
    ///
    /// # Errors
    /// Nothing or too much is named; the informer is out of reach; or it refuses the filter.
    pub(crate) async fn perform(&self, client: &Client, action: Action, json: bool) -> Result<u8, Error> {
        let counts = if self.ids.is_empty() {
            let Some(counts) = self.perform_filter(client, &action).await? else {
                super::print(&format!("nothing was {}", action.done()))?;
                return Ok(exit::FAILURE);
            };
            counts
        } else {
            if self.all || !self.filter.is_empty() {
                return Err(Error::Misuse("give either ids or filters: an id says which task is meant".into()));
            }
            each(client, expanded(&self.ids)?, &action).await?
        };
        tell(&counts, &action, json)?;
        // A task that a filter named and that ended by itself meanwhile is no failure; one that was named by its id is.
        Ok(if counts.errors.is_empty() { 0 } else { exit::FAILURE })
    }

    /// `None` if whoever was asked said no.
    async fn perform_filter(&self, client: &Client, action: &Action) -> Result<Option<Counts>, Error> {
        let filter = self.wanted(client, action).await?;
        let asks = !self.yes && io::stdin().is_terminal() && io::stderr().is_terminal();
        if asks {
            let (tasks, more) = list::pages(client, &filter, COUNTED).await?;
            if tasks.is_empty() {
                return Ok(Some(Counts::default()));
            }
            if !confirmed(&question(tasks.len(), more, action))? {
                return Ok(None);
            }
        }
        pages(client, filter, action).await.map(Some)
    }

    /// The filter, with the states in which it can be done at all.
    async fn wanted(&self, client: &Client, action: &Action) -> Result<ListRequest, Error> {
        self.check(action)?;
        let mut filter = self.filter.request(client).await?;
        if filter.states.is_empty() {
            filter.states = action.states().iter().map(|state| i32::from(*state)).collect();
        }
        Ok(filter)
    }

    fn check(&self, action: &Action) -> Result<(), Error> {
        if self.filter.is_empty() && !self.all {
            let verb = action.verb();
            return Err(Error::Misuse(format!(
                "nothing is named; give ids, or filters as in `informer {verb} --label k=v`, or --all for every task"
            )));
        }
        match self.filter.states.iter().find(|state| !action.fits(**state)) {
            Some(state) => {
                let (state, done) = (words::task_state(*state), action.done());
                Err(Error::Misuse(format!("a task that is {state} cannot be {done}; leave --state {state} out")))
            }
            None => Ok(()),
        }
    }
}

fn question(count: usize, more: bool, action: &Action) -> String {
    let tasks = if count == 1 { "task matches" } else { "tasks match" };
    let over = if more { "more than " } else { "" };
    format!("{over}{count} {tasks}; {} {}? [y/N] ", action.verb(), if count == 1 { "it" } else { "them" })
}

/// Asks at the terminal.
fn confirmed(question: &str) -> Result<bool, Error> {
    let mut err = io::stderr().lock();
    err.write_all(question.as_bytes())?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn is_range(id: &str) -> bool {
    id.split_once('.').is_some_and(|(_, index)| index.contains('-'))
}

/// Ranges of members as the ids of their members.
fn expanded(ids: &[String]) -> Result<Vec<String>, Error> {
    let mut all = Vec::new();
    for id in ids {
        let Some((array, range)) = id.split_once('.').filter(|_| is_range(id)) else {
            all.push(id.clone());
            continue;
        };
        let (first, count) = super::units::range(range).map_err(|error| Error::Misuse(error.to_string()))?;
        if count > RANGE {
            return Err(Error::Misuse(format!(
                "{id} names more than {RANGE} members; use --array {array} for all of them"
            )));
        }
        let array: TaskId = array.parse().map_err(|error: proto::id::Error| Error::Misuse(error.to_string()))?;
        all.extend((first..=first + (count - 1)).filter_map(|index| array.at(index)).map(|id| id.to_string()));
    }
    Ok(all)
}

/// One call for each.
async fn each(client: &Client, ids: Vec<String>, action: &Action) -> Result<Counts, Error> {
    // All on this thread: a client verb has but one.
    tokio::task::LocalSet::new().run_until(each_here(client, ids, action)).await
}

async fn each_here(client: &Client, ids: Vec<String>, action: &Action) -> Result<Counts, Error> {
    let mut counts = Counts { matched: ids.len() as u64, ..Counts::default() };
    let (mut ids, mut calls) = (ids.into_iter(), JoinSet::new());
    loop {
        while calls.len() < CALLS
            && let Some(id) = ids.next()
        {
            let (client, action) = (client.clone(), action.for_one_of_many(&id));
            calls.spawn_local(async move { (action.perform(&client, &id).await, id) });
        }
        let Some(ended) = calls.join_next().await else { break };
        match ended.map_err(|_| Error::Server("a call failed".into()))? {
            (Ok(_), _) => counts.done += 1,
            (Err(error @ Error::Refused { .. }), id) => counts.errors.push((id, error.to_string())),
            // Nobody is there to refuse the others.
            (Err(error), _) => return Err(error),
        }
    }
    // As they were named, not as they were answered.
    counts.errors.sort_by_cached_key(|(id, _)| super::filter::place(id));
    counts.refused = counts.errors.len() as u64;
    Ok(counts)
}

/// Page after page of what the filter names.
async fn pages(client: &Client, mut filter: ListRequest, action: &Action) -> Result<Counts, Error> {
    let mut counts = Counts::default();
    let attempted = format!("{} tasks", action.verb());
    loop {
        let mut request = ManyRequest { filter: Some(filter.clone()), ..ManyRequest::default() };
        let answer = match action {
            Action::Cancel { reason } => {
                request.reason.clone_from(reason);
                client.persist(&attempted, async |mut grpc| grpc.cancel_many(request.clone()).await).await?
            }
            Action::Retry { key } => {
                request.key.clone_from(key);
                client.persist(&attempted, async |mut grpc| grpc.retry_many(request.clone()).await).await?
            }
        };
        counts.matched += u64::from(answer.matched);
        counts.done += u64::from(answer.done);
        counts.refused += u64::from(answer.refused);
        if answer.next_page_token.is_empty() {
            return Ok(counts);
        }
        if answer.next_page_token == filter.page_token {
            let message = "the informer gives the same page again and again".to_owned();
            return Err(Error::Refused { attempted, code: Code::Internal, message });
        }
        filter.page_token = answer.next_page_token;
    }
}

fn tell(counts: &Counts, action: &Action, json: bool) -> Result<(), Error> {
    if json {
        let errors: Vec<_> = counts.errors.iter().map(|(id, error)| json!({"id": id, "error": error})).collect();
        return super::print_json(&json!({
            "matched": counts.matched,
            "done": counts.done,
            "refused": counts.refused,
            "errors": errors,
        }));
    }
    for (_, error) in &counts.errors {
        drop(writeln!(io::stderr(), "error: {error}"));
    }
    super::print(&summary(counts, action))
}

fn summary(counts: &Counts, action: &Action) -> String {
    let done = action.done();
    match (counts.matched, counts.refused) {
        (0, _) => format!("no task matches; nothing was {done}"),
        (matched, 0) => format!("{done} {} of {matched}", counts.done),
        (matched, refused) => {
            format!("{done} {} of {matched}; {refused} in no state to be {done}", counts.done)
        }
    }
}

#[cfg(test)]
#[path = "many_tests.rs"]
mod tests;
