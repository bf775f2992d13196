//! A gRPC client in a screen or two: submits a command, watches it to its end, prints its output.
//!
//! ```sh
//! informer dev &
//! cargo run -p examples --bin submit -- echo hello
//! ```

use std::{io::Write as _, process::ExitCode};

use anyhow::{Context as _, bail};
use proto::v1::{
    Command, LogStream, LogsRequest, Reason, SubmitRequest, Task, TaskSpec, TaskState, WatchRequest,
    informer_client::InformerClient, task_spec::Kind,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let argv: Vec<String> = std::env::args().skip(1).collect();
    if argv.is_empty() {
        bail!("usage: submit COMMAND ARGUMENT...");
    }
    let url = std::env::var("INFORMER_URL").unwrap_or_else(|_| "http://127.0.0.1:7070".into());
    let channel = tonic::transport::Endpoint::from_shared(url.clone())?;
    let channel =
        channel.connect().await.with_context(|| format!("no informer at {url}; start one with `informer dev`"))?;
    let mut informer = InformerClient::new(channel);

    // The key makes a repeat harmless: after a lost answer, the same request gives the same id.
    let key = format!("example-{}-{:?}", std::process::id(), std::time::SystemTime::now());
    let spec = TaskSpec { kind: Some(Kind::Command(Command { argv })), ..TaskSpec::default() };
    let id = informer.submit(SubmitRequest { spec: Some(spec), key }).await?.into_inner().id;
    eprintln!("submitted {id}");

    // The task at once, then again at each change, until it has ended.
    let mut changes = informer.watch(WatchRequest { ids: vec![id.clone()] }).await?.into_inner();
    let mut last = Task::default();
    while let Some(task) = changes.message().await? {
        eprintln!("{}", word(task.state()));
        last = task;
    }

    // The bytes of both streams, each with its offset. `follow` waits until the log is complete.
    let request = LogsRequest { id: id.clone(), follow: true, ..LogsRequest::default() };
    let mut chunks = informer.logs(request).await?.into_inner();
    while let Some(chunk) = chunks.message().await? {
        match chunk.stream() {
            LogStream::Err => std::io::stderr().write_all(&chunk.data)?,
            _ => std::io::stdout().write_all(&chunk.data)?,
        }
        if chunk.end {
            break;
        }
    }
    if last.state() == TaskState::Failed {
        eprintln!("task {id} failed; `informer show {id}` says why");
    }
    Ok(ExitCode::from(status(&last)))
}

/// A state as the command line writes it: `TASK_STATE_RUNNING` is `running`.
fn word(state: TaskState) -> String {
    state.as_str_name().trim_start_matches("TASK_STATE_").to_lowercase()
}

/// The exit status, as `informer run` has it: the task's own code, 128 + n for signal n, and beyond them 124, 125 and 130.
fn status(task: &Task) -> u8 {
    let ending = task.ending.clone().unwrap_or_default();
    match (task.state(), ending.reason()) {
        (TaskState::Succeeded, _) => 0,
        (TaskState::Cancelled, _) => 130,
        (_, Reason::Timeout | Reason::TotalTimeout | Reason::QueueTimeout | Reason::Stalled) => 124,
        (_, Reason::ExitCode) => ending.exit_code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
        (_, Reason::Signal | Reason::Oom) => {
            128 + ending.signal.and_then(|n| u8::try_from(n).ok()).unwrap_or(9).min(127)
        }
        _ => 125,
    }
}
