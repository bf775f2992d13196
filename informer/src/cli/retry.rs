//! `informer retry`: a task that has ended starts again with fresh budgets.

use proto::v1::RetryRequest;

use super::{
    Context,
    error::Error,
    json,
    screen::{Form, Screen},
    words,
};

/// Arguments of `retry`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The task
    #[arg(value_name = "ID")]
    id: String,
    /// Idempotency key: a repeat with it starts the task once
    #[arg(long)]
    key: Option<String>,
    /// Print the task as a JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<u8, Error> {
    let client = context.connect().await?;
    let key = args.key.unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    let request = RetryRequest { id: args.id.clone(), key };
    let attempted = format!("retry task {}", args.id);
    let answer = client.persist(&attempted, async |mut grpc| grpc.retry(request.clone()).await).await?;
    let task = answer.task.unwrap_or_default();
    if args.json {
        super::print_json(&json::task(&task))?;
    } else {
        Screen::new(context.verbose, Form::Bytes).note(&words::task_state(task.state()));
    }
    Ok(0)
}
