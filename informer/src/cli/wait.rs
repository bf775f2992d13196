//! `informer wait`: exits when a task has ended, as it ended.

use tokio::sync::Mutex;

use super::{
    Context, books,
    error::Error,
    exit, json, run,
    screen::{Form, Screen},
    short,
};

/// Arguments of `wait`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The task
    #[arg(value_name = "ID")]
    id: String,
    /// Print the task as a JSON document when it has ended
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<u8, Error> {
    let client = context.connect().await?;
    let id = short::whole(&client, &args.id).await?;
    let (keeper, books) = books::open(&client, &id).await?;
    let screen = Mutex::new(Screen::new(context.verbose, Form::Bytes));
    let (task, ()) = tokio::try_join!(books::keep(&client, &id, &keeper), run::report(&client, &id, books, &screen),)?;
    run::conclude(&client, &screen, &task, false).await;
    if args.json {
        super::print_json(&json::task(&task))?;
    }
    Ok(exit::of_task(&task))
}
