//! What is done to a run. What has no effect any more is no failure: it is told.

use proto::v1;
use tonic::{Response, Status};

use super::super::{
    Context,
    client::Flows,
    error::Error,
    screen::{Form, Screen},
};
use super::{document, input};

/// A run.
#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// The run
    #[arg(value_name = "ID")]
    id: String,
    /// Print the run as a JSON document
    #[arg(long)]
    json: bool,
}

/// Arguments of `workflow terminate`.
#[derive(Debug, clap::Args)]
pub(super) struct Terminate {
    #[command(flatten)]
    run: Run,
    /// Why, for those who look at it later
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// Do not start its failure workflow
    #[arg(long)]
    quiet: bool,
}

/// Arguments of `workflow retry`.
#[derive(Debug, clap::Args)]
pub(super) struct Keyed {
    #[command(flatten)]
    run: Run,
    /// Repeating it with this key is one and the same
    #[arg(long, value_name = "K")]
    key: Option<String>,
}

/// Arguments of `workflow rerun`.
#[derive(Debug, clap::Args)]
pub(super) struct Rerun {
    #[command(flatten)]
    keyed: Keyed,
    /// Back to this task, by its reference name [default: to the start]
    #[arg(long, value_name = "TASK")]
    from: Option<String>,
    /// Another input for it, or for the run: a JSON object, or @FILE
    #[arg(long, value_name = "JSON")]
    input: Option<String>,
}

/// Arguments of `workflow restart`.
#[derive(Debug, clap::Args)]
pub(super) struct Restart {
    #[command(flatten)]
    keyed: Keyed,
    /// By the latest version of its definition
    #[arg(long)]
    latest: bool,
}

/// Arguments of `workflow skip`.
#[derive(Debug, clap::Args)]
pub(super) struct Skip {
    #[command(flatten)]
    run: Run,
    /// The task, by its reference name; of a loop with its round, like task__2
    #[arg(value_name = "TASK")]
    task: String,
    /// The output it counts as having: a JSON object, or @FILE
    #[arg(long, value_name = "JSON")]
    output: Option<String>,
}

/// Arguments of `workflow signal`.
#[derive(Debug, clap::Args)]
pub(super) struct Signal {
    #[command(flatten)]
    run: Run,
    /// The task, by its reference name; of a loop with its round, like task__2
    #[arg(value_name = "TASK")]
    task: String,
    /// COMPLETED, FAILED, FAILED_WITH_TERMINAL_ERROR or IN_PROGRESS
    #[arg(long, value_name = "STATUS", default_value = "COMPLETED")]
    status: String,
    /// Its output: a JSON object, or @FILE
    #[arg(long, value_name = "JSON")]
    output: Option<String>,
    /// Why it failed
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
}

/// Every operation may be repeated: those that would not be harmless carry a key.
async fn operate<F>(context: &Context, run: &Run, verb: &str, call: F) -> Result<u8, Error>
where
    F: AsyncFnMut(Flows) -> Result<Response<v1::RunAnswer>, Status>,
{
    let client = context.connect().await?;
    let attempted = format!("{verb} workflow run {}", run.id);
    let answer = client.again(&attempted, client.workflows(), call).await?;
    let shown = answer.run.unwrap_or_default();
    if run.json {
        let mut document = document::run(&shown);
        document["ignored"] = (!answer.ignored.is_empty()).then_some(answer.ignored).into();
        super::super::print_json(&document)?;
        return Ok(0);
    }
    if !answer.ignored.is_empty() {
        Screen::new(context.verbose, Form::Bytes).line(&format!("nothing was changed: {}", answer.ignored));
    }
    super::super::print(&document::status(shown.status()))?;
    Ok(0)
}

/// A key of its own, so that an answer that was lost can be asked for again.
fn key(key: Option<String>) -> String {
    key.unwrap_or_else(|| uuid::Uuid::now_v7().to_string())
}

pub(super) async fn pause(args: Run, context: &Context) -> Result<u8, Error> {
    let request = v1::RunRequest { id: args.id.clone(), key: String::new() };
    operate(context, &args, "pause", async |mut grpc| grpc.pause(request.clone()).await).await
}

pub(super) async fn resume(args: Run, context: &Context) -> Result<u8, Error> {
    let request = v1::RunRequest { id: args.id.clone(), key: String::new() };
    operate(context, &args, "resume", async |mut grpc| grpc.resume(request.clone()).await).await
}

pub(super) async fn terminate(args: Terminate, context: &Context) -> Result<u8, Error> {
    let request = v1::TerminateRunRequest { id: args.run.id.clone(), reason: args.reason, quiet: args.quiet };
    operate(context, &args.run, "terminate", async |mut grpc| grpc.terminate(request.clone()).await).await
}

pub(super) async fn retry(args: Keyed, context: &Context) -> Result<u8, Error> {
    let request = v1::RunRequest { id: args.run.id.clone(), key: key(args.key) };
    operate(context, &args.run, "retry", async |mut grpc| grpc.retry_run(request.clone()).await).await
}

pub(super) async fn rerun(args: Rerun, context: &Context) -> Result<u8, Error> {
    let Rerun { keyed: Keyed { run, key }, from, input } = args;
    let request = v1::RerunRequest {
        id: run.id.clone(),
        from: from.unwrap_or_default(),
        input: self::input(input)?,
        key: self::key(key),
    };
    operate(context, &run, "rerun", async |mut grpc| grpc.rerun(request.clone()).await).await
}

pub(super) async fn restart(args: Restart, context: &Context) -> Result<u8, Error> {
    let Restart { keyed: Keyed { run, key }, latest } = args;
    let request = v1::RestartRequest { id: run.id.clone(), latest, key: self::key(key) };
    operate(context, &run, "restart", async |mut grpc| grpc.restart(request.clone()).await).await
}

pub(super) async fn skip(args: Skip, context: &Context) -> Result<u8, Error> {
    let request = v1::SkipRequest { id: args.run.id.clone(), reference: args.task, output: input(args.output)? };
    operate(context, &args.run, "skip a task of", async |mut grpc| grpc.skip(request.clone()).await).await
}

pub(super) async fn signal(args: Signal, context: &Context) -> Result<u8, Error> {
    let request = v1::UpdateTaskRequest {
        id: args.run.id.clone(),
        reference: args.task,
        status: args.status,
        output: input(args.output)?,
        reason: args.reason,
    };
    operate(context, &args.run, "signal", async |mut grpc| grpc.update_task(request.clone()).await).await
}
