//! `informer submit`: stores a task and prints its id.

use proto::v1::SubmitResponse;
use serde_json::json;

use super::{Context, client::Client, error::Error, options::TaskOptions};

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
    let request = args.task.request()?;
    let client = context.connect().await?;
    let answer = submit(&client, request).await?;
    if args.json {
        super::print_json(&json!({"id": answer.id, "existed": answer.existed}))?;
    } else {
        super::print(&answer.id)?;
    }
    Ok(0)
}

/// Stores a task. The request carries a key, so asking again after a lost answer makes no second task.
pub(crate) async fn submit(client: &Client, request: proto::v1::SubmitRequest) -> Result<SubmitResponse, Error> {
    client.persist("submit the task", async |mut grpc| grpc.submit(request.clone()).await).await
}
