//! `informer logs`: a task's output, stdout to stdout and stderr to stderr.

use proto::v1::{LogStream, Task};
use tokio::sync::Mutex;

use super::{
    Context, books,
    error::Error,
    exit,
    follow::{Follower, Shown},
    screen::{Form, Screen},
    short,
};

/// Arguments of `logs`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The task
    #[arg(value_name = "ID")]
    id: String,
    /// Go on until the task has ended, over retries and restarts
    #[arg(short, long)]
    follow: bool,
    /// Of this attempt [default: the latest]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
    /// Only this stream
    #[arg(long, value_name = "STREAM")]
    only: Option<Stream>,
    /// Print JSON: an array, or with -f one object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Stream {
    Stdout,
    Stderr,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<u8, Error> {
    let client = context.connect().await?;
    let id = short::whole(&client, &args.id).await?;
    let (keeper, books) = books::open(&client, &id).await?;
    if let Some(array) = &books.borrow().array {
        let first = array.first;
        return Err(Error::Misuse(format!(
            "{id} is an array, and each of its members has a log of its own: `informer logs {id}.{first}`"
        )));
    }
    let latest = latest(&books.borrow());
    let form = match (args.json, args.follow) {
        (false, _) => Form::Bytes,
        (true, true) => Form::Lines,
        (true, false) => Form::Array { begun: false },
    };
    let screen = Mutex::new(Screen::new(context.verbose, form));
    let only = args.only.map_or(LogStream::Unspecified, |stream| match stream {
        Stream::Stdout => LogStream::Out,
        Stream::Stderr => LogStream::Err,
    });
    let mut follower = Follower { client: &client, id: &id, only, books, screen: &screen };
    let shown = if args.follow {
        let follow = async {
            match args.attempt {
                Some(number) => follower.attempt(number).await,
                None => follower.follow(latest.unwrap_or(1)).await,
            }
        };
        follow_while_kept(follow, books::keep(&client, &id, &keeper)).await?
    } else if let Some(number) = args.attempt.or(latest) {
        follower.once(number).await?
    } else {
        let line = format!("it has not started yet; `informer why {id}` says why, -f waits for it");
        screen.lock().await.line(&line);
        Shown::Whole
    };
    screen.lock().await.end_log().await?;
    Ok(if shown == Shown::Whole { 0 } else { exit::FAILURE })
}

/// The number of the newest attempt.
fn latest(task: &Task) -> Option<u32> {
    task.attempts.iter().map(|attempt| attempt.number).max()
}

/// Follows until the log is shown, whatever the books still say: of a single attempt, the task may go on for long.
async fn follow_while_kept(
    follow: impl Future<Output = Result<Shown, Error>>,
    keep: impl Future<Output = Result<Task, Error>>,
) -> Result<Shown, Error> {
    let mut follow = std::pin::pin!(follow);
    tokio::select! {
        biased;
        shown = &mut follow => return shown,
        kept = keep => kept?,
    };
    follow.await
}
