//! `informer list`: tasks, newest first.

use proto::v1::{ListRequest, Reason, Task, TaskState};

use super::{
    Context, changes,
    client::Client,
    error::Error,
    filter::Filter,
    json,
    screen::{Form, Screen},
    tally, text, words,
};

/// Tasks shown unless told otherwise: what fits a terminal's memory of lines.
const LIMIT: u32 = 100;
/// What stands above the columns.
pub(crate) const HEADER: [&str; 8] = ["ID", "STATE", "NAME", "OWNER", "AGE", "SIDECAR", "PROGRESS", "ETA"];

/// Arguments of `list`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ended for this reason
    #[arg(long, value_name = "REASON", value_parser = words::parse_reason, help_heading = "Filters")]
    reason: Option<Reason>,
    /// Show at most this many
    #[arg(long, value_name = "N", default_value_t = LIMIT, conflicts_with = "all")]
    limit: u32,
    /// Show all
    #[arg(long)]
    all: bool,
    /// Follow the changes: redrawn on a terminal, else a line for each
    #[arg(short, long)]
    watch: bool,
    /// Print a JSON array; with --watch one object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filter: Filter,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<u8, Error> {
    let client = context.connect().await?;
    let mut request = args.filter.request(&client).await?;
    request.reason = args.reason.unwrap_or_default().into();
    let limit = if args.all { usize::MAX } else { args.limit as usize };
    if args.watch {
        return changes::follow(&client, &request, limit, args.json).await;
    }
    let (tasks, more) = pages(&client, &request, limit).await?;
    if args.json {
        super::print_json(&tasks.iter().map(json::task).collect())?;
        return Ok(0);
    }
    let now = text::now_unix_ms();
    let rows: Vec<_> = tasks.iter().map(|task| row(task, now)).collect();
    super::print(&text::table(&HEADER, &rows))?;
    if more {
        Screen::new(context.verbose, Form::Bytes).note("there are more; --limit N or --all shows them");
    }
    Ok(0)
}

/// Page after page until the limit; tells whether there is more.
pub(crate) async fn pages(client: &Client, filter: &ListRequest, limit: usize) -> Result<(Vec<Task>, bool), Error> {
    let mut tasks: Vec<Task> = Vec::new();
    let mut page_token = String::new();
    while tasks.len() < limit {
        let missing = u32::try_from(limit - tasks.len()).unwrap_or(u32::MAX);
        let request = ListRequest { page_size: missing.min(proto::bounds::PAGE), page_token, ..filter.clone() };
        let answer = client.persist("list tasks", async |mut grpc| grpc.list(request.clone()).await).await?;
        tasks.extend(answer.tasks);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            return Ok((tasks, false));
        }
    }
    Ok((tasks, true))
}

/// A task's cells below [`HEADER`].
pub(crate) fn row(task: &Task, now_unix_ms: u64) -> Vec<String> {
    let sidecar = task.attempts.last().map(|attempt| attempt.sidecar.as_str()).unwrap_or_default();
    let running = task.state() == TaskState::Running;
    let progress = match &task.array {
        Some(array) => tally::brief(array),
        None => text::progress(task.progress.as_ref().filter(|_| running)),
    };
    vec![
        task.id.clone(),
        words::task_state(task.state()),
        text::or_dash(&task.name),
        text::or_dash(&task.owner),
        text::age(task.created_unix_ms, now_unix_ms),
        text::or_dash(sidecar),
        progress,
        match eta(task, now_unix_ms) {
            None => "-".to_owned(),
            Some(0) => "overdue".to_owned(),
            Some(left_ms) => text::span(left_ms),
        },
    ]
}

/// How long it should still take; `None` where nobody knows, or nothing is left.
pub(crate) fn eta(task: &Task, now_unix_ms: u64) -> Option<u64> {
    let known = task.eta_unix_ms > 0 && !words::is_terminal(task.state());
    known.then(|| task.eta_unix_ms.saturating_sub(now_unix_ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::{ArrayStatus, Attempt, Progress};

    #[test]
    fn a_row_says_where_and_how_far() {
        let task = Task {
            id: "i".into(),
            name: "film".into(),
            owner: "ops".into(),
            state: TaskState::Running.into(),
            created_unix_ms: 1_000,
            attempts: vec![Attempt { sidecar: "s1".into(), ..Attempt::default() }],
            progress: Some(Progress { permille: 420, ..Progress::default() }),
            eta_unix_ms: 71_000,
            ..Task::default()
        };
        assert_eq!(row(&task, 6_000), ["i", "running", "film", "ops", "5s", "s1", "42%", "1m05s"]);
        assert_eq!(row(&task, 99_000)[7], "overdue", "it takes longer than was thought");
        let waiting = Task { state: TaskState::Waiting.into(), ..Task::default() };
        assert_eq!(row(&waiting, 0), ["", "waiting", "-", "-", "-", "-", "-", "-"]);
        let done = Task { state: TaskState::Succeeded.into(), ..task };
        assert_eq!(eta(&done, 6_000), None);
    }

    #[test]
    fn an_array_is_counted() {
        let array = ArrayStatus { count: 100, succeeded: 3, ..ArrayStatus::default() };
        let task = Task { array: Some(array), state: TaskState::Running.into(), ..Task::default() };
        assert_eq!(row(&task, 0)[6], "3/100");
    }
}
