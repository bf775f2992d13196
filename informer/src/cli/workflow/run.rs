//! Runs: started, waited for, shown, searched.

use std::collections::BTreeMap;

use proto::v1;
use serde_json::{Value, json};

use super::super::{
    Context,
    client::Client,
    error::Error,
    owner,
    screen::{Form, Screen},
    text, units,
};
use super::{document, input};

/// Rows asked for at once.
const PAGE: u32 = 500;

/// Arguments of `workflow start`.
#[derive(Debug, clap::Args)]
pub(super) struct Start {
    /// The workflow
    #[arg(value_name = "NAME")]
    name: String,
    /// Its version [default: the latest]
    #[arg(long, value_name = "N")]
    version: Option<u32>,
    /// Its input, a JSON object, or @FILE
    #[arg(long, value_name = "JSON")]
    input: Option<String>,
    /// Starting again with this key and the same start gives the same run
    #[arg(long, value_name = "K")]
    key: Option<String>,
    /// What becomes of a start whose key is known: `return` gives its run, `fail` refuses it
    #[arg(long, value_name = "WHAT", requires = "key", value_enum, default_value_t = KnownKey::Return)]
    on_known_key: KnownKey,
    /// An id of yours that it belongs to
    #[arg(long, value_name = "ID")]
    correlation: Option<String>,
    /// Whose it is, and its tasks [default: the user]
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// What it is searched by; its tasks carry it too
    #[arg(long = "label", value_name = "K=V", value_parser = units::pair)]
    labels: Vec<(String, String)>,
    /// Priority of its tasks
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    priority: i32,
    /// Wait until it is over; exits with 0 only if it completed
    #[arg(long)]
    wait: bool,
    /// Print the run as a JSON document
    #[arg(long)]
    json: bool,
}

/// What becomes of a start whose key is known.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum KnownKey {
    Return,
    Fail,
}

impl From<KnownKey> for v1::KnownKey {
    fn from(known: KnownKey) -> Self {
        match known {
            KnownKey::Return => Self::Return,
            KnownKey::Fail => Self::Fail,
        }
    }
}

/// Arguments of `workflow wait`.
#[derive(Debug, clap::Args)]
pub(super) struct Wait {
    /// The run
    #[arg(value_name = "ID")]
    id: String,
    /// Print the run as a JSON document when it is over
    #[arg(long)]
    json: bool,
}

/// Arguments of `workflow get`.
#[derive(Debug, clap::Args)]
pub(super) struct Get {
    /// The run
    #[arg(value_name = "ID")]
    id: String,
    /// Print a JSON document, with inputs and outputs
    #[arg(long)]
    json: bool,
}

/// Arguments of `workflow history`.
#[derive(Debug, clap::Args)]
pub(super) struct History {
    /// The run
    #[arg(value_name = "ID")]
    id: String,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// Arguments of `workflow search`.
#[derive(Debug, clap::Args)]
pub(super) struct Search {
    /// Of this workflow
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Of this version
    #[arg(long, value_name = "N")]
    version: Option<u32>,
    /// In this status; may be given more than once
    #[arg(long = "status", value_name = "STATUS", value_parser = document::parse_status)]
    statuses: Vec<v1::RunStatus>,
    /// Of this owner
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// With this correlation id
    #[arg(long, value_name = "ID")]
    correlation: Option<String>,
    /// With this label; may be given more than once
    #[arg(long = "label", value_name = "K=V", value_parser = units::pair)]
    labels: Vec<(String, String)>,
    /// Started after this time
    #[arg(long, value_name = "TIME", value_parser = units::unix_ms)]
    after: Option<u64>,
    /// Started before this time
    #[arg(long, value_name = "TIME", value_parser = units::unix_ms)]
    before: Option<u64>,
    /// Sub-workflows that this run waits for
    #[arg(long, value_name = "RUN")]
    parent: Option<String>,
    /// Whose reason contains this
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Of which names, labels, the reason, input or output contain this
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    /// With this field of the input, by its path (film.name); may be given more than once
    #[arg(long = "input", value_name = "PATH=VALUE", value_parser = units::pair)]
    input: Vec<(String, String)>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

pub(super) async fn start(args: Start, context: &Context) -> Result<u8, Error> {
    // With a key a lost answer can be asked for again.
    let key = args.key.unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    let labels: BTreeMap<String, String> = args.labels.into_iter().collect();
    let request = v1::StartRunRequest {
        name: args.name,
        version: args.version.unwrap_or(0),
        input: input(args.input)?,
        key,
        correlation: args.correlation.unwrap_or_default(),
        owner: args.owner.unwrap_or_else(owner::current),
        labels,
        priority: args.priority,
        definition: String::new(),
        on_known_key: v1::KnownKey::from(args.on_known_key).into(),
    };
    let client = context.connect().await?;
    let attempted = format!("start workflow {}", request.name);
    let started =
        client.again(&attempted, client.workflows(), async |mut grpc| grpc.start(request.clone()).await).await?;
    if args.wait {
        return over(&client, started.id, args.json, context).await;
    }
    if args.json {
        super::super::print_json(&json!({"id": started.id, "existed": started.existed}))?;
    } else {
        super::super::print(&started.id)?;
    }
    Ok(0)
}

pub(super) async fn wait(args: Wait, context: &Context) -> Result<u8, Error> {
    let client = context.connect().await?;
    over(&client, args.id, args.json, context).await
}

/// Waits for the end of a run, over restarts of the informer; prints its output.
async fn over(client: &Client, id: String, as_json: bool, context: &Context) -> Result<u8, Error> {
    let attempted = format!("wait for workflow run {id}");
    let request = v1::GetRunRequest { id };
    let run = client.again(&attempted, client.workflows(), async |mut grpc| grpc.wait(request.clone()).await).await?;
    let completed = run.status() == v1::RunStatus::Completed;
    if as_json {
        super::super::print_json(&document::whole(&run))?;
    } else {
        super::super::print(&run.output)?;
        if !completed {
            let told = format!("workflow run {} ended {}: {}", run.id, document::status(run.status()), run.reason);
            Screen::new(context.verbose, Form::Bytes).note(&told);
        }
    }
    Ok(u8::from(!completed))
}

pub(super) async fn get(args: Get, context: &Context) -> Result<u8, Error> {
    let client = context.connect().await?;
    let attempted = format!("show workflow run {}", args.id);
    let request = v1::GetRunRequest { id: args.id };
    let run = client.again(&attempted, client.workflows(), async |mut grpc| grpc.get(request.clone()).await).await?;
    let tasks = tasks(&client, &run.id, &attempted, !args.json).await?;
    if args.json {
        let mut shown = document::whole(&run);
        shown["tasks"] = tasks.iter().map(document::task).collect();
        super::super::print_json(&shown)?;
        return Ok(0);
    }
    super::super::print(&described(&run, &tasks))?;
    Ok(0)
}

async fn tasks(client: &Client, id: &str, attempted: &str, bare: bool) -> Result<Vec<v1::RunTask>, Error> {
    let mut tasks = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::RunTasksRequest { id: id.to_owned(), page_size: PAGE, page_token, bare };
        let answer =
            client.again(attempted, client.workflows(), async |mut grpc| grpc.tasks(request.clone()).await).await?;
        tasks.extend(answer.tasks);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            return Ok(tasks);
        }
    }
}

/// A run for people.
fn described(run: &v1::Run, tasks: &[v1::RunTask]) -> String {
    let facts = [
        ("run", run.id.clone()),
        ("workflow", format!("{}, version {}", run.name, run.version)),
        ("status", document::status(run.status())),
        ("reason", run.reason.clone()),
        ("owner", run.owner.clone()),
        ("correlation", run.correlation.clone()),
        ("parent", run.parent.clone()),
        ("started", text::time(run.started_unix_ms)),
        ("ended", text::time(run.ended_unix_ms)),
        ("input", run.input.clone()),
        ("variables", run.variables.clone()),
        ("output", run.output.clone()),
    ];
    let facts = facts.into_iter().filter(|(_, value)| !value.is_empty() && value != "{}" && value != "-");
    let mut shown: String = facts.map(|(name, value)| format!("{name:<12} {value}\n")).collect();
    let rows: Vec<_> = tasks.iter().map(row).collect();
    shown.push('\n');
    shown.push_str(&text::table(&["TASK", "TYPE", "STATUS", "TRY", "TOOK", "DETAIL"], &rows));
    shown
}

fn row(task: &v1::RunTask) -> Vec<String> {
    let took = match (task.started_unix_ms, task.ended_unix_ms) {
        (0, _) | (_, 0) => "-".to_owned(),
        (started, ended) => text::span(ended.saturating_sub(started)),
    };
    let detail = [&task.reason, &task.child, &task.worker].into_iter().find(|detail| !detail.is_empty());
    vec![
        task.reference.clone(),
        task.r#type.clone(),
        task.status.clone(),
        (task.retry_count + 1).to_string(),
        took,
        detail.map_or_else(|| "-".to_owned(), Clone::clone),
    ]
}

pub(super) async fn history(args: History, context: &Context) -> Result<u8, Error> {
    let client = context.connect().await?;
    let attempted = format!("show the history of workflow run {}", args.id);
    let mut events = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::RunHistoryRequest { id: args.id.clone(), page_size: PAGE, page_token };
        let answer = client
            .again(&attempted, client.workflows(), async |mut grpc| grpc.run_history(request.clone()).await)
            .await?;
        events.extend(answer.events);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if args.json {
        super::super::print_json(&events.iter().map(document::event).collect::<Value>())?;
        return Ok(0);
    }
    let row = |event: &v1::RunEvent| vec![text::time(event.unix_ms), event.kind.clone(), text::or_dash(&event.detail)];
    let rows: Vec<_> = events.iter().map(row).collect();
    super::super::print(&text::table(&["TIME", "WHAT", "DETAIL"], &rows))?;
    Ok(0)
}

pub(super) async fn search(args: Search, context: &Context) -> Result<u8, Error> {
    let client = context.connect().await?;
    let mut request = v1::SearchRunsRequest {
        statuses: args.statuses.iter().map(|status| (*status).into()).collect(),
        name: args.name.unwrap_or_default(),
        version: args.version.unwrap_or(0),
        owner: args.owner.unwrap_or_default(),
        correlation: args.correlation.unwrap_or_default(),
        labels: args.labels.into_iter().collect(),
        started_after_unix_ms: args.after.unwrap_or(0),
        started_before_unix_ms: args.before.unwrap_or(0),
        parent: args.parent.unwrap_or_default(),
        reason: args.reason.unwrap_or_default(),
        text: args.text.unwrap_or_default(),
        input: args.input.into_iter().collect(),
        page_size: PAGE.min(u32::try_from(args.limit.max(1)).unwrap_or(PAGE)),
        page_token: String::new(),
    };
    let mut runs = Vec::new();
    loop {
        let answer = client
            .again("search workflow runs", client.workflows(), async |mut grpc| grpc.search(request.clone()).await)
            .await?;
        runs.extend(answer.runs);
        request.page_token = answer.next_page_token;
        if request.page_token.is_empty() || runs.len() >= args.limit {
            break;
        }
    }
    runs.truncate(args.limit);
    if args.json {
        super::super::print_json(&runs.iter().map(document::run).collect::<Value>())?;
        return Ok(0);
    }
    let now = text::now_unix_ms();
    let row = |run: &v1::Run| {
        vec![
            run.id.clone(),
            document::status(run.status()),
            run.name.clone(),
            run.version.to_string(),
            text::or_dash(&run.owner),
            text::age(run.started_unix_ms, now),
            text::or_dash(&run.correlation),
            text::or_dash(&run.reason),
        ]
    };
    let rows: Vec<_> = runs.iter().map(row).collect();
    let header = ["ID", "STATUS", "WORKFLOW", "VERSION", "OWNER", "AGE", "CORRELATION", "REASON"];
    super::super::print(&text::table(&header, &rows))?;
    Ok(0)
}
