//! `informer cancel`: tasks are not wanted any more.

use proto::v1::{CancelRequest, Task};

use super::{
    Context,
    client::Client,
    error::Error,
    json,
    many::{Action, Targets},
    screen::{Form, Screen},
    words,
};

/// Arguments of `cancel`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Why, for the history
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// Print the task, or of several how many there were, as a JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    targets: Targets,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<u8, Error> {
    let client = context.connect().await?;
    let targets = args.targets.whole(&client).await?;
    let Some(id) = targets.only() else {
        return targets.perform(&client, Action::Cancel { reason: args.reason }, args.json).await;
    };
    let task = cancel(&client, id, &args.reason).await?;
    if args.json {
        super::print_json(&json::task(&task))?;
    } else if task.cancelling && !words::is_terminal(task.state()) {
        let what = if task.array.is_some() { "its members are" } else { "its process is" };
        Screen::new(context.verbose, Form::Bytes)
            .note(&format!("{what} being stopped; `informer wait {id}` waits for it"));
    } else if words::is_terminal(task.state()) {
        Screen::new(context.verbose, Form::Bytes).note(&words::task_state(task.state()));
    }
    Ok(0)
}

/// Cancels a task. Repeating it changes nothing, so a lost answer is asked for again.
pub(crate) async fn cancel(client: &Client, id: &str, reason: &str) -> Result<Task, Error> {
    let request = CancelRequest { id: id.to_owned(), reason: reason.to_owned() };
    let attempted = format!("cancel task {id}");
    let answer = client.persist(&attempted, async |mut grpc| grpc.cancel(request.clone()).await).await?;
    Ok(answer.task.unwrap_or_default())
}
