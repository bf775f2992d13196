//! `informer submit`: stores a task, or an array of them, and prints its id.

use proto::v1::{IdentityRequest, SubmitResponse};
use serde_json::json;
use tonic::Code;

use super::{
    Context, array,
    client::Client,
    error::Error,
    options::{Order, TaskOptions},
    screen::{Form, Screen},
    text,
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
    let what = if order.array.is_some() { "array" } else { "task" };
    let answer = submit(&client, order).await?;
    if answer.existed {
        Screen::new(context.verbose, Form::Bytes).line(&existed(what, &answer.id));
    }
    if args.json {
        super::print_json(&json!({"id": answer.id, "existed": answer.existed}))?;
    } else {
        super::print(&answer.id)?;
    }
    Ok(0)
}

/// Told of a key that was used before: nothing new will run.
pub(crate) fn existed(what: &str, id: &str) -> String {
    format!("already submitted with this key as {what} {id}; nothing new is started")
}

/// Whether the informer starts a task so long after it took it, by its own clock. Earlier versions know a time only.
async fn counts_delays(client: &Client) -> Result<bool, Error> {
    let attempted = "ask for the informer's version";
    match client.persist(attempted, async |mut grpc| grpc.identity(IdentityRequest {}).await).await {
        Ok(identity) => Ok(identity.counts_delays),
        Err(Error::Refused { code: Code::Unimplemented, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Stores a task or an array. The request carries a key, so asking again after a lost answer makes no second one.
pub(crate) async fn submit(client: &Client, order: Order) -> Result<SubmitResponse, Error> {
    let Order { mut request, array } = order;
    if let Some(spec) = request.spec.as_mut().filter(|spec| spec.start_after_ms > 0)
        && !counts_delays(client).await?
    {
        // An informer that does not know the field would start it at once, without a word. A time by this machine's clock is next best.
        let delay_ms = std::mem::take(&mut spec.start_after_ms);
        spec.start_after_unix_ms = text::now_unix_ms().saturating_add(delay_ms);
    }
    match array {
        Some(array) => array::submit(client, request, &array).await,
        None => client.persist("submit the task", async |mut grpc| grpc.submit(request.clone()).await).await,
    }
}
