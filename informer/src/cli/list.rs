//! `informer list`: tasks, newest first.

use proto::v1::{ListRequest, Task, TaskState};

use super::{
    Context,
    client::Client,
    error::Error,
    json,
    screen::{Form, Screen},
    text, units, words,
};

/// Tasks shown unless told otherwise: what fits a terminal's memory of lines.
const LIMIT: u32 = 100;

/// Arguments of `list`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only tasks in this state (repeat for more)
    #[arg(long = "state", value_parser = words::parse_task_state)]
    states: Vec<TaskState>,
    /// Only tasks of this owner
    #[arg(long, default_value = "", hide_default_value = true)]
    owner: String,
    /// Only tasks of this name
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// Only tasks with this label (repeat for more: all must match)
    #[arg(long = "label", value_name = "K=V", value_parser = units::pair)]
    labels: Vec<(String, String)>,
    /// Show at most this many
    #[arg(long, value_name = "N", default_value_t = LIMIT, conflicts_with = "all")]
    limit: u32,
    /// Show all
    #[arg(long)]
    all: bool,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<u8, Error> {
    let client = context.connect().await?;
    let (tasks, more) = pages(&client, &args).await?;
    if args.json {
        super::print_json(&tasks.iter().map(json::task).collect())?;
        return Ok(0);
    }
    let now = text::now_unix_ms();
    let rows: Vec<_> = tasks.iter().map(|task| row(task, now)).collect();
    super::print(&text::table(&["ID", "STATE", "NAME", "OWNER", "AGE", "SIDECAR", "PROGRESS"], &rows))?;
    if more {
        Screen::new(context.verbose, Form::Bytes).note("there are more; --limit N or --all shows them");
    }
    Ok(0)
}

/// Page after page until the limit; tells whether there is more.
async fn pages(client: &Client, args: &Args) -> Result<(Vec<Task>, bool), Error> {
    let limit = if args.all { usize::MAX } else { args.limit as usize };
    let mut tasks: Vec<Task> = Vec::new();
    let mut page_token = String::new();
    while tasks.len() < limit {
        let missing = u32::try_from(limit - tasks.len()).unwrap_or(u32::MAX);
        let request = ListRequest {
            states: args.states.iter().map(|state| i32::from(*state)).collect(),
            owner: args.owner.clone(),
            name: args.name.clone(),
            labels: args.labels.iter().cloned().collect(),
            page_size: missing.min(proto::bounds::PAGE),
            page_token,
            ..ListRequest::default()
        };
        let answer =
            client.grpc().list(request).await.map_err(|status| client.failed("list tasks", &status))?.into_inner();
        tasks.extend(answer.tasks);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            return Ok((tasks, false));
        }
    }
    Ok((tasks, true))
}

fn row(task: &Task, now_unix_ms: u64) -> Vec<String> {
    let sidecar = task.attempts.last().map(|attempt| attempt.sidecar.as_str()).unwrap_or_default();
    let running = task.state() == TaskState::Running;
    vec![
        task.id.clone(),
        words::task_state(task.state()),
        text::or_dash(&task.name),
        text::or_dash(&task.owner),
        text::age(task.created_unix_ms, now_unix_ms),
        text::or_dash(sidecar),
        text::progress(task.progress.as_ref().filter(|_| running)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::{Attempt, Progress};

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
            ..Task::default()
        };
        assert_eq!(row(&task, 6_000), ["i", "running", "film", "ops", "5s", "s1", "42%"]);
        let waiting = Task { state: TaskState::Waiting.into(), ..Task::default() };
        assert_eq!(row(&waiting, 0), ["", "waiting", "-", "-", "-", "-", "-"]);
    }
}
