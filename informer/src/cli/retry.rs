//! `informer retry`: tasks that have ended start again with fresh budgets.

use proto::v1::{RetryRequest, Task};

use super::{
    Context,
    client::Client,
    error::Error,
    json,
    many::{Action, Targets},
    screen::{Form, Screen},
    words,
};

/// Arguments of `retry`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Idempotency key: a repeat with it starts each task once
    #[arg(long)]
    key: Option<String>,
    /// Print the task, or of several how many there were, as a JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    targets: Targets,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<u8, Error> {
    let client = context.connect().await?;
    let key = args.key.unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    let targets = args.targets.whole(&client).await?;
    let Some(id) = targets.only() else {
        return targets.perform(&client, Action::Retry { key }, args.json).await;
    };
    let task = retry(&client, id, &key).await?;
    if args.json {
        super::print_json(&json::task(&task))?;
    } else {
        Screen::new(context.verbose, Form::Bytes).note(&words::task_state(task.state()));
    }
    Ok(0)
}

/// Starts a task again. The key makes a repeat after a lost answer harmless.
pub(crate) async fn retry(client: &Client, id: &str, key: &str) -> Result<Task, Error> {
    let request = RetryRequest { id: id.to_owned(), key: key.to_owned() };
    let attempted = format!("retry task {id}");
    let answer = client.persist(&attempted, async |mut grpc| grpc.retry(request.clone()).await).await?;
    Ok(answer.task.unwrap_or_default())
}
