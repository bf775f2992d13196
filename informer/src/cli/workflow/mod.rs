//! `informer workflow`: definitions in Conductor's JSON, and their runs.
//!
//! | file | holds |
//! |---|---|
//! | `definition` | `put`, `list`, `show`, `delete` |
//! | `run` | `start`, `wait`, `get`, `history`, `search` |
//! | `look` | `why`, `chart` |
//! | `operate` | `pause`, `resume`, `terminate`, `retry`, `rerun`, `restart`, `skip`, `signal` |
//! | `document` | what `--json` prints |

mod definition;
mod document;
mod look;
mod operate;
mod run;

use std::path::Path;

use clap::Subcommand;
use proto::bounds;
use serde_json::Value;

use super::{Context, error::Error, file};

/// Arguments of `workflow`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Register the definitions of a file; prints the version of each workflow
    Put(definition::Put),
    /// List registered workflows
    List(definition::List),
    /// Print a definition
    Show(definition::Show),
    /// Forget a definition; its runs go on by what they were started with
    Delete(definition::Delete),
    /// Start a run; prints its id
    Start(run::Start),
    /// Wait until a run is over
    Wait(run::Wait),
    /// Show a run and its tasks
    Get(run::Get),
    /// Tell what was done to a run
    History(run::History),
    /// Say what each task of a run waits for
    Why(look::Why),
    /// Draw the flow chart of a run, or of a definition
    Chart(look::Chart),
    /// List runs, newest first
    Search(run::Search),
    /// Let a run schedule nothing more
    Pause(operate::Run),
    /// Let it go on
    Resume(operate::Run),
    /// End a run now, with its tasks and sub-workflows
    Terminate(operate::Terminate),
    /// Try again, in place, what failed in a run that is over
    Retry(operate::Keyed),
    /// Go back to a task of a run that is over
    Rerun(operate::Rerun),
    /// Begin a run that is over anew
    Restart(operate::Restart),
    /// Leave a task out that was not reached yet
    Skip(operate::Skip),
    /// Say what becomes of a task that waits: a WAIT, a HUMAN
    Signal(operate::Signal),
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<u8, Error> {
    match args.what {
        What::Put(args) => definition::put(args, context).await,
        What::List(args) => definition::list(args, context).await,
        What::Show(args) => definition::show(args, context).await,
        What::Delete(args) => definition::delete(args, context).await,
        What::Start(args) => run::start(args, context).await,
        What::Wait(args) => run::wait(args, context).await,
        What::Get(args) => run::get(args, context).await,
        What::History(args) => run::history(args, context).await,
        What::Why(args) => look::why(args, context).await,
        What::Chart(args) => look::chart(args, context).await,
        What::Search(args) => run::search(args, context).await,
        What::Pause(args) => operate::pause(args, context).await,
        What::Resume(args) => operate::resume(args, context).await,
        What::Terminate(args) => operate::terminate(args, context).await,
        What::Retry(args) => operate::retry(args, context).await,
        What::Rerun(args) => operate::rerun(args, context).await,
        What::Restart(args) => operate::restart(args, context).await,
        What::Skip(args) => operate::skip(args, context).await,
        What::Signal(args) => operate::signal(args, context).await,
    }
}

/// A JSON object of the user's: as it stands, or `@FILE`.
fn input(given: Option<String>) -> Result<String, Error> {
    let Some(given) = given else { return Ok(String::new()) };
    let text = match given.strip_prefix('@') {
        Some(path) => file::read_bounded(Path::new(path), bounds::RUN_INPUT_BYTES as u64)?,
        None => given,
    };
    match serde_json::from_str::<Value>(&text) {
        Ok(Value::Object(_)) => Ok(text),
        Ok(_) => {
            Err(Error::Misuse("the input is no JSON object; write one like '{\"film\": \"a.mov\"}', or @FILE".into()))
        }
        Err(error) => Err(Error::Misuse(format!("the input is no JSON: {error}; write it as '{{…}}', or @FILE"))),
    }
}
