//! `informer run`: submits a task, shows its output and progress, and exits as it exits.

use std::time::Duration;

use proto::v1::{ArrayStatus, LogStream, Reason, Task, TaskState};
use tokio::{sync::Mutex, time::MissedTickBehavior};

use super::{
    Context,
    books::{self, Books},
    cancel,
    client::Client,
    error::Error,
    exit,
    follow::Follower,
    idle,
    options::TaskOptions,
    screen::{Form, Screen},
    submit,
    tally::{self, Pace, failures},
    words,
};

/// Help on exit statuses, for the verbs that exit as the task.
pub(crate) const EXIT_STATUS: &str = "Exit status: the task's own; 128+N if signal N ended it; 124 if a time limit ran out; \
     1 if a declared output was missing or could not be put in place; \
     125 if the failure is ours (informer out of reach, misuse, task refused or lost, program not started); 130 if it was cancelled.";

/// How often a running task's progress is asked for. It lives in the informer's memory and changes with each beat, so it makes
/// no event of its own; a person reads a percentage about once a second.
const LOOK: Duration = Duration::from_secs(1);

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    task: TaskOptions,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<u8, Error> {
    let mut order = args.task.order()?;
    // Somebody is watching, who will sooner try again by hand than wait for a back-off.
    let retry = order.request.spec.get_or_insert_default().retry.get_or_insert_default();
    if retry.max_attempts == 0 {
        retry.max_attempts = 1;
    }
    let client = context.connect().await?;
    // Ctrl-C is caught from here on: a task that was just submitted must not be left behind by it.
    let mut interrupts = Interrupts::new()?;
    let key = order.request.key.clone();
    let what = if order.array.is_some() { "array" } else { "task" };
    let stored = tokio::select! {
        biased;
        stored = submit::submit(&client, order) => stored?,
        _ = interrupts.signal.recv() => return Err(Error::Interrupted { key }),
    };
    let screen = Mutex::new(Screen::new(context.verbose, Form::Bytes));
    let id = stored.id;
    if stored.existed {
        screen.lock().await.line(&submit::existed(what, &id));
    } else {
        screen.lock().await.note(&format!("{what} {id}"));
    }

    let task = tokio::select! {
        ended = attend(&client, &id, &screen) => ended.map_err(|error| unattended(error, &id))?,
        left = interrupts.cancel(&client, what, &id, &screen) => return Err(left),
    };
    conclude(&client, &screen, &task, true).await;
    Ok(if interrupts.heard && task.state() == TaskState::Cancelled { exit::CANCELLED } else { exit::of_task(&task) })
}

/// Whoever read our output is gone; the task is not.
fn unattended(error: Error, id: &str) -> Error {
    if error.is_broken_pipe() { Error::Unread { id: id.to_owned() } } else { error }
}

/// Shows log and progress until the task has ended.
async fn attend(client: &Client, id: &str, screen: &Mutex<Screen>) -> Result<Task, Error> {
    // The informer may restart right after the submit's answer.
    let task = client
        .persist(&format!("look up task {id}"), async |mut grpc| {
            grpc.get(proto::v1::GetRequest { id: id.to_owned() }).await
        })
        .await?;
    let is_array = task.array.is_some();
    let (keeper, books) = tokio::sync::watch::channel(task);
    if is_array {
        // Each member has a log of its own; all of them at once would be nobody's.
        let idle = async {
            idle::explain(client, id, books.clone(), screen).await;
            Ok(())
        };
        let (task, (), ()) =
            tokio::try_join!(books::keep(client, id, &keeper), report(client, id, books.clone(), screen), idle)?;
        return Ok(task);
    }
    let mut follower = Follower { client, id, only: LogStream::Unspecified, books: books.clone(), screen };
    let idle = async {
        idle::explain(client, id, books.clone(), screen).await;
        Ok(())
    };
    let report = report(client, id, books.clone(), screen);
    // A log that is not to be had is told; the exit status is the task's all the same.
    let (task, _shown, (), ()) = tokio::try_join!(books::keep(client, id, &keeper), follower.follow(1), report, idle)?;
    Ok(task)
}

/// Ctrl-C: the first cancels the task, the second leaves it.
struct Interrupts {
    signal: tokio::signal::unix::Signal,
    /// There was one.
    heard: bool,
}

impl Interrupts {
    fn new() -> Result<Self, Error> {
        let signal = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt());
        signal.map(|signal| Self { signal, heard: false }).map_err(|source| Error::Local {
            attempted: "listen for Ctrl-C".into(),
            source,
            remedy: "",
        })
    }

    /// Waits for Ctrl-C, cancels, waits for another: returns only when it is time to leave.
    async fn cancel(&mut self, client: &Client, what: &'static str, id: &str, screen: &Mutex<Screen>) -> Error {
        self.signal.recv().await;
        self.heard = true;
        screen.lock().await.line(match what {
            "array" => "cancelling every member that has not ended; Ctrl-C again leaves at once",
            _ => "cancelling; Ctrl-C again leaves at once",
        });
        let cancelled = async {
            if let Err(error) = cancel::cancel(client, id, "interrupted at the terminal").await {
                // It may have ended in between; then the one who waits for its end says so.
                screen.lock().await.line(&format!("error: {error}"));
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = cancelled => {}
            _ = self.signal.recv() => {}
        }
        Error::Left { what, id: id.to_owned() }
    }
}

/// Tells of a task's attempts, health and progress until it has ended.
pub(crate) async fn report(client: &Client, id: &str, mut books: Books, screen: &Mutex<Screen>) -> Result<(), Error> {
    let mut known = Task::default();
    let (mut pace, began) = (Pace::default(), tokio::time::Instant::now());
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut task = books.borrow_and_update().clone();
        let looks = !words::is_terminal(task.state()) && has_progress(&task);
        if looks {
            // A look that fails is no news: whoever keeps the books notices an informer that is away.
            if let Ok(fresh) = client.grpc().get(proto::v1::GetRequest { id: id.to_owned() }).await {
                let fresh = fresh.into_inner();
                (task.progress, task.array) = (fresh.progress, fresh.array);
            }
        }
        let mut shown = screen.lock().await;
        for line in books::news(&known, &task) {
            shown.note(&line);
        }
        if let Some(progress) = &task.progress {
            shown.progress(progress);
        }
        if let Some(array) = &task.array {
            let tally = pace.tally(array, began.elapsed());
            shown.tally(&tally);
        }
        drop(shown);
        if words::is_terminal(task.state()) {
            return Ok(());
        }
        known = task;
        tokio::select! {
            changed = books.changed() => if changed.is_err() { return Ok(()) },
            _ = look.tick(), if looks => {}
        }
    }
}

/// What tells how far it is, or how healthy.
fn has_progress(task: &Task) -> bool {
    task.array.is_some()
        || (task.state() == TaskState::Running && task.progress.is_some())
        || (task.state() == TaskState::Running && matches!(task.kind.as_str(), "transcode" | "service"))
}

/// The last line about a task, where its exit status alone would not say enough: to whoever was shown its output, less is news.
pub(crate) async fn conclude(client: &Client, screen: &Mutex<Screen>, task: &Task, shown: bool) {
    let failed = match &task.array {
        Some(array) => {
            let failed = if array.failed > 0 { failures(client, &task.id).await } else { Vec::new() };
            conclude_array(screen, task, array, &failed).await;
            return;
        }
        None => task.state() == TaskState::Failed,
    };
    let mut screen = screen.lock().await;
    screen.close(task.state() == TaskState::Succeeded);
    if !failed {
        let line = format!("task {} {}", task.id, words::task_state(task.state()));
        if task.state() == TaskState::Cancelled {
            screen.line(&line)
        } else {
            screen.note(&line)
        }
        return;
    }
    let ending = task.ending.clone().unwrap_or_default();
    let line = format!("task {} failed: {}", task.id, words::end(&ending));
    if shown && is_told(task, ending.reason()) {
        screen.note(&line);
    } else {
        screen.line(&format!("error: {line}"));
    }
}

async fn conclude_array(screen: &Mutex<Screen>, task: &Task, array: &ArrayStatus, failed: &[Task]) {
    let mut screen = screen.lock().await;
    let done = task.state() == TaskState::Succeeded;
    screen.close(done);
    let line = format!("array {} {}: {}", task.id, words::task_state(task.state()), tally::counts(array));
    if done {
        screen.note(&line);
        return;
    }
    screen.line(&format!("error: {line}"));
    for member in failed {
        screen.line(&format!("  {}  {}", member.id, words::end(&member.ending.clone().unwrap_or_default())));
    }
    if array.failed as usize > failed.len() {
        screen.line(&format!("  ... `informer list --array {} --state failed` shows all", task.id));
    }
}

/// The user's program ended by itself: what it wanted to say stands in its output, and its stderr stays as it wrote it. A transcode
/// is ours to explain.
fn is_told(task: &Task, reason: Reason) -> bool {
    task.kind != "transcode" && matches!(reason, Reason::Unspecified | Reason::ExitCode | Reason::Signal)
}
