//! `informer submit`: stores a task, or an array of them, and prints its id.

use proto::v1::SubmitResponse;
use serde_json::json;

use super::{
    Context, array,
    client::Client,
    error::Error,
    options::{Order, TaskOptions},
};

/// Arguments of `submit`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print a JSON document with the id and whether the key was known
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    task: TaskOptions,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<u8, Error> {
    let order = args.task.order()?;
    let client = context.connect().await?;
    let answer = submit(&client, order).await?;
    if args.json {
        super::print_json(&json!({"id": answer.id, "existed": answer.existed}))?;
    } else {
        super::print(&answer.id)?;
    }
    Ok(0)
}

/// Stores a task or an array. The request carries a key, so asking again after a lost answer makes no second one.
pub(crate) async fn submit(client: &Client, order: Order) -> Result<SubmitResponse, Error> {
    let Order { request, array } = order;
    match array {
        Some(array) => array::submit(client, request, &array).await,
        None => client.persist("submit the task", async |mut grpc| grpc.submit(request.clone()).await).await,
    }
}
