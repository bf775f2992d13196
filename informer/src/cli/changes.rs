//! `informer list --watch`: the list, and then every change to it.
//!
//! The watch is opened before the list is read, so that no change falls between the two; one that is in both changes nothing. After
//! a break both are asked for again, and what changed meanwhile is told then.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use proto::v1::{ListRequest, Task, WatchRequest};
use tokio::time::{Instant, MissedTickBehavior};
use tonic::{Code, Status, Streaming};

use super::{client::Client, error, error::Error, filter, json, list, text, words};

/// How often a terminal is drawn anew while things change: what an eye can follow.
const DRAW: Duration = Duration::from_millis(250);
/// How often it is drawn when nothing changes, since ages grow, and how often what runs is asked for its progress, which makes no
/// change of its own.
const LOOK: Duration = Duration::from_secs(1);
/// Lines and columns of a terminal that does not tell.
const TERMINAL: (usize, usize) = (24, 80);

/// Where changes go.
enum Output {
    /// Drawn over itself.
    Terminal,
    /// A line for each.
    Lines,
    /// An object a line.
    Json,
}

/// What is in the list right now, by its place in it.
struct Shown<'a> {
    request: &'a ListRequest,
    limit: usize,
    tasks: BTreeMap<(Reverse<u128>, Option<u32>, String), Task>,
}

/// Follows the changes until somebody ends it.
///
/// # Errors
/// The informer's refusal, or [`Error::Gone`] when it stays away.
pub(crate) async fn follow(client: &Client, request: &ListRequest, limit: usize, json: bool) -> Result<u8, Error> {
    let output = match (json, io::stdout().is_terminal()) {
        (true, _) => Output::Json,
        (false, true) => Output::Terminal,
        (false, false) => Output::Lines,
    };
    let mut shown = Shown { request, limit, tasks: BTreeMap::new() };
    let mut patience = client.patience();
    let mut begun = false;
    if matches!(output, Output::Terminal) {
        // Once: what stood there is not ours to draw over line by line.
        write("\x1b[2J")?;
    }
    loop {
        let status = match client.grpc().watch(WatchRequest { ids: Vec::new() }).await {
            Err(status) => status,
            Ok(answer) => {
                let (tasks, _) = list::pages(client, request, limit).await?;
                patience.restore();
                // The newest last, as changes come.
                for task in tasks.into_iter().rev() {
                    shown.begin(task, &output, begun)?;
                }
                begun = true;
                match output {
                    Output::Terminal => shown.draw_changes(client, answer.into_inner()).await?,
                    Output::Lines | Output::Json => shown.tell_changes(answer.into_inner(), &output).await?,
                }
            }
        };
        // One that fell behind begins anew, too.
        if !error::is_passing(&status) && status.code() != Code::Aborted {
            return Err(client.failed("watch tasks", &status));
        }
        patience.pause(&status).await?;
    }
}

impl Shown<'_> {
    /// Takes a change over; tells whether it changed anything that is, or was, in the list.
    fn take(&mut self, task: &Task) -> bool {
        let place = filter::place(&task.id);
        if !filter::matches(self.request, task) {
            return self.tasks.remove(&place).is_some();
        }
        let changed = self.tasks.insert(place, task.clone()).as_ref() != Some(task);
        while self.tasks.len() > self.limit {
            self.tasks.pop_last();
        }
        changed
    }

    /// A task that the list has when the watch begins, for the first time or after a break. What had ended before somebody began to
    /// look is no change; it is told only if ended tasks are what was asked for.
    fn begin(&mut self, task: Task, output: &Output, again: bool) -> Result<(), Error> {
        if again || is_news(self.request, &task) {
            return self.tell(task, output);
        }
        self.take(&task);
        Ok(())
    }

    fn tell(&mut self, task: Task, output: &Output) -> Result<(), Error> {
        if !self.take(&task) {
            return Ok(());
        }
        match output {
            Output::Terminal => Ok(()),
            Output::Lines => write(&format!("{}\n", line(&task))),
            Output::Json => write(&format!("{}\n", json::task(&task))),
        }
    }

    /// Until the answer breaks off.
    async fn tell_changes(&mut self, mut changes: Streaming<Task>, output: &Output) -> Result<Status, Error> {
        loop {
            match changes.message().await {
                Ok(Some(task)) => self.tell(task, output)?,
                Ok(None) => return Ok(Status::unavailable("the informer ended its answer")),
                Err(status) => return Ok(status),
            }
        }
    }

    /// Until the answer breaks off.
    async fn draw_changes(&mut self, client: &Client, mut changes: Streaming<Task>) -> Result<Status, Error> {
        let mut draw = tokio::time::interval(DRAW);
        draw.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut changed, mut looked) = (true, Instant::now());
        loop {
            tokio::select! {
                change = changes.message() => match change {
                    Ok(Some(task)) => changed |= self.take(&task),
                    Ok(None) => return Ok(Status::unavailable("the informer ended its answer")),
                    Err(status) => return Ok(status),
                },
                _ = draw.tick() => {
                    let look = looked.elapsed() >= LOOK;
                    if look {
                        looked = Instant::now();
                        self.refresh(client).await;
                    }
                    if std::mem::take(&mut changed) || look {
                        write(&self.drawn(size()))?;
                    }
                }
            }
        }
    }

    /// The progress of what is on the screen. A look that fails is no news: the broken watch is.
    async fn refresh(&mut self, client: &Client) {
        let lines = u32::try_from(size().0.min(self.limit)).unwrap_or(u32::MAX).min(proto::bounds::PAGE);
        if self.tasks.values().take(lines as usize).all(|task| words::is_terminal(task.state())) {
            return;
        }
        let request = ListRequest { page_size: lines, ..self.request.clone() };
        if let Ok(answer) = client.grpc().list(request).await {
            for task in answer.into_inner().tasks {
                self.take(&task);
            }
        }
    }

    /// The table, cut to a screen of so many lines and columns, drawn over what was there.
    fn drawn(&self, (lines, columns): (usize, usize)) -> String {
        let now = text::now_unix_ms();
        // One line is the header's, one the cursor's.
        let rows: Vec<_> = self.tasks.values().take(lines.saturating_sub(2)).map(|task| list::row(task, now)).collect();
        let table = text::table(&list::HEADER, &rows);
        let cut = |line: &str| format!("{}\x1b[K\n", line.chars().take(columns).collect::<String>());
        format!("\x1b[H{}\x1b[J", table.lines().map(cut).collect::<String>())
    }
}

/// It runs or waits, or the request names ended tasks.
fn is_news(request: &ListRequest, task: &Task) -> bool {
    !words::is_terminal(task.state()) || !request.states.is_empty() || request.reason != 0
}

/// A change on one line, without the age, which is nothing yet.
fn line(task: &Task) -> String {
    let mut cells = list::row(task, text::now_unix_ms());
    cells.remove(4);
    if let Some(ending) = task.ending.as_ref().filter(|_| words::is_terminal(task.state())) {
        cells.push(words::end(ending));
    }
    error::one_line(&cells.join("  "))
}

/// Lines and columns of the terminal.
fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col.into()),
        _ => TERMINAL,
    }
}

fn write(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::TaskState;

    fn task(id: u128, state: TaskState) -> Task {
        Task { id: proto::id::TaskId::from_u128(id).to_string(), state: state.into(), ..Task::default() }
    }

    #[test]
    fn a_change_is_one_only_if_the_list_shows_it() {
        let request = ListRequest { states: vec![TaskState::Running.into()], ..ListRequest::default() };
        let mut shown = Shown { request: &request, limit: 2, tasks: BTreeMap::new() };
        assert!(!shown.take(&task(1, TaskState::Ready)), "never in it");
        assert!(shown.take(&task(1, TaskState::Running)) && !shown.take(&task(1, TaskState::Running)));
        assert!(shown.take(&task(1, TaskState::Succeeded)), "it leaves");
        assert!(!shown.take(&task(1, TaskState::Succeeded)));
        for id in [3, 2, 4] {
            shown.take(&task(id, TaskState::Running));
        }
        let ids: Vec<&str> = shown.tasks.values().map(|task| &task.id[35..]).collect();
        assert_eq!(ids, ["4", "3"], "the newest of them");
    }

    #[test]
    fn what_had_ended_before_is_told_only_to_those_who_ask_for_it() {
        let ended = task(1, TaskState::Failed);
        let request = ListRequest::default();
        assert!(!is_news(&request, &ended) && is_news(&request, &task(2, TaskState::Ready)));
        assert!(is_news(&ListRequest { states: vec![TaskState::Failed.into()], ..request.clone() }, &ended));
        assert!(is_news(&ListRequest { reason: 1, ..request }, &ended));
    }

    #[test]
    fn a_screen_is_never_overrun() {
        let request = ListRequest::default();
        let mut shown = Shown { request: &request, limit: 100, tasks: BTreeMap::new() };
        for id in 1..50 {
            shown.take(&task(id, TaskState::Running));
        }
        let drawn = shown.drawn((10, 20));
        assert!(drawn.starts_with("\x1b[H") && drawn.ends_with("\x1b[J"));
        assert_eq!(drawn.lines().filter(|line| line.contains("\x1b[K")).count(), 9);
        assert!(drawn.replace("\x1b[H", "").replace("\x1b[K", "").lines().all(|line| line.chars().count() <= 20));
    }

    #[test]
    fn a_line_tells_the_end() {
        let mut done = task(1, TaskState::Failed);
        done.ending = Some(proto::v1::Ending { exit_code: Some(3), reason: 1, ..Default::default() });
        assert!(line(&done).ends_with("failed  -  -  -  -  -  exit code 3"), "{}", line(&done));
    }
}
