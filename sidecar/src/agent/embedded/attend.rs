//! One attempt within this process, from its directory to its end.
//!
//! `attend` is its monitor: it owns record and logs, keeps the time limits and is never slow. `conduct` is what runs the executor's code, in
//! a task of its own, so that a panic there is an answer here.

use super::desk::{self, Desk};
use super::{Inside, Shared, Start};
use crate::agent::clock;
use crate::agent::keeping::FromKeeper;
use crate::agent::reports::{self, Reports};
use crate::executor::{Context, Execution, Executor, Facts, Fault, Progress, Status, Told, panicked};
use keeper::wire::{End, EndReason, ListedState, Notice, ProcessId, Refusal};
use proto::bounds;
use proto::id::{AttemptId, Fence};
use proto::v1::{self, task_spec::Kind};
use std::sync::{Arc, PoisonError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// Exit code of an attempt whose input its executor would not have: misuse, as of a command line.
const MISUSE_CODE: i32 = 2;
/// Exit code after a panic, as of a Rust program.
const PANIC_CODE: i32 = 101;

/// Where orders for an attempt arrive, and where it shows how it stands.
pub(super) struct Ears {
    pub me: ProcessId,
    pub state: watch::Sender<ListedState>,
    pub stopped: watch::Receiver<Option<EndReason>>,
    pub heard: mpsc::Receiver<String>,
}

/// How the executor's code ended.
enum Outcome {
    Succeeded(Vec<u8>),
    Failed(i32, String),
    Unavailable(String),
    Stopped,
}

impl From<Fault> for Outcome {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Failed(why) => Self::Failed(1, why),
            Fault::Unavailable(why) => Self::Unavailable(why),
        }
    }
}

pub(super) async fn attend(shared: Shared, start: Start, ears: Ears) {
    let attempt = start.attempt;
    let inside = match prepare(&shared, start).await {
        Ok((start, desk)) => Attended { shared: &shared, start, ears, desk }.run().await,
        Err(refused) => refused,
    };
    say(&shared, attempt, inside).await;
}

async fn say(shared: &Shared, attempt: AttemptId, inside: Inside) {
    // Without a work thread the agent is ending.
    let _gone = shared.said.send(FromKeeper::Inside(attempt, inside)).await;
}

/// The directory, if the attempt may start at all; else what is to be told instead.
async fn prepare(shared: &Shared, start: Start) -> Result<(Start, Desk), Inside> {
    let name = start.attempt.dir_name();
    let refused = |why, message| Inside::Fact(Notice::Refused { name: name.clone(), why, message });
    if *shared.lease.borrow() <= clock::boot_ms() {
        return Err(refused(Refusal::NoLease, "no lease is live".to_owned()));
    }
    let dirs = shared.dirs.clone();
    let made = tokio::task::spawn_blocking(move || Desk::make(&dirs, &start).map(|desk| (start, desk))).await;
    match made.map_err(|error| refused(Refusal::System, error.to_string()))? {
        Ok(made) => Ok(made),
        Err(desk::Error::Taken(None)) => Err(refused(Refusal::Exists, "it runs already".to_owned())),
        Err(desk::Error::Taken(Some(record))) => Err(Inside::Fact(match record.state() {
            ListedState::Ended(end) => Notice::Ended { name, end },
            _ => Notice::Lost { name },
        })),
        Err(error @ desk::Error::Disk(_)) => Err(refused(Refusal::System, error.to_string())),
    }
}

/// Time limits of an attempt.
struct Limits {
    timeout_ms: u64,
    grace_ms: u64,
    obeys_lease: bool,
    fence_grace_ms: u64,
}

impl Limits {
    fn of(start: &Start) -> Self {
        let none = v1::TaskSpec::default();
        let spec = start.assign.spec.as_ref().unwrap_or(&none);
        let grace_ms = spec.stop.unwrap_or_default().grace_ms;
        let unsaid = spec.on_disconnect() == v1::OnDisconnect::Unspecified;
        Self {
            timeout_ms: spec.timeouts.unwrap_or_default().attempt_ms,
            grace_ms: if grace_ms == 0 { bounds::STOP_GRACE_MS } else { grace_ms },
            obeys_lease: spec.on_disconnect() == v1::OnDisconnect::Stop || (unsaid && spec.exclusive),
            fence_grace_ms: start.fence_grace_ms,
        }
    }

    /// From the order to stop to the end of patience.
    fn grace_ms(&self, why: EndReason) -> u64 {
        if why == EndReason::Fenced { self.grace_ms.min(self.fence_grace_ms) } else { self.grace_ms }
    }
}

struct Attended<'a> {
    shared: &'a Shared,
    start: Start,
    ears: Ears,
    desk: Desk,
}

impl Attended<'_> {
    async fn run(mut self) -> Inside {
        let limits = Limits::of(&self.start);
        let began = (clock::now(), clock::boot_ms());
        let told = Arc::new(Told::default());
        let context = Context::new(Arc::new(self.facts()), told.clone(), self.desk.logs.clone());
        let (begun, mut has_begun) = oneshot::channel();
        let (_, nothing) = mpsc::channel(1);
        let heard = std::mem::replace(&mut self.ears.heard, nothing);
        let (attempt, fence, reports) = (self.start.attempt, self.start.fence, self.shared.reports.clone());
        let report = move |progress: Progress| report(&reports, attempt, fence, &progress);
        let line = Line { context, told: told.clone(), report: Box::new(report), heard };
        let mut work = Aborting(tokio::spawn(conduct(self.start.executor.clone(), line, begun)));
        let deadline_ms = if limits.timeout_ms == 0 { u64::MAX } else { began.1.saturating_add(limits.timeout_ms) };
        let (mut why, mut running, mut patience_ms) = (None, false, u64::MAX);
        let joined = loop {
            tokio::select! {
                // What begins and ends at once has begun before it ended.
                biased;
                Ok(()) = &mut has_begun, if !running => {
                    running = true;
                    self.on_begun().await;
                }
                joined = &mut work.0 => break joined,
                reason = order(&mut self.ears.stopped, &self.shared.lease, limits.obeys_lease, deadline_ms), if why.is_none() => {
                    why = Some(reason);
                    patience_ms = clock::boot_ms().saturating_add(limits.grace_ms(reason));
                    told.stopping.send_replace(true);
                }
                () = until(patience_ms) => {
                    // It ends where it awaits next. Until then something of it runs, and no end is told.
                    tracing::warn!(attempt = %self.start.attempt, "an executor does not stop; dropping its work");
                    work.0.abort();
                    patience_ms = u64::MAX;
                }
            }
        };
        let outcome = match joined {
            Ok(outcome) => outcome,
            Err(_) if why.is_some() => Outcome::Stopped,
            Err(error) => Outcome::Failed(PANIC_CODE, panicked(error)),
        };
        self.finish(outcome, why, running, began)
    }

    fn facts(&self) -> Facts {
        let start = &self.start;
        let spec = start.assign.spec.clone().unwrap_or_default();
        let (kind, input) = match spec.kind {
            Some(Kind::Typed(typed)) => (typed.r#type, typed.input),
            _ => (start.executor.kind().to_owned(), String::new()),
        };
        let informer = self.shared.informer.trim_end_matches('/');
        let (attempt, fence) = (start.attempt, start.fence);
        Facts {
            attempt,
            fence,
            kind,
            input,
            name: start.assign.task_name.clone(),
            item: start.assign.has_item.then(|| start.assign.item.clone()),
            env: spec.env.into_iter().collect(),
            dir: self.desk.dir.join("work"),
            callback_url: format!("{informer}/v1/callback/{attempt}?token={}-{}", fence.epoch, fence.n),
        }
    }

    async fn on_begun(&self) {
        self.desk.spawned(&self.ears.me);
        self.ears.state.send_replace(ListedState::Running(self.ears.me.clone()));
        let (name, process) = (self.start.attempt.dir_name(), self.ears.me.clone());
        say(self.shared, self.start.attempt, Inside::Fact(Notice::Spawned { name, process })).await;
    }

    fn finish(
        self,
        outcome: Outcome,
        why: Option<EndReason>,
        running: bool,
        began: (crate::machine::Now, u64),
    ) -> Inside {
        let logs = self.desk.logs.clone();
        let (code, reason) = match (outcome, why) {
            (Outcome::Stopped, why) => (None, why.unwrap_or(EndReason::Revoked)),
            // Whatever it still said, it was told to end.
            (Outcome::Failed(..) | Outcome::Unavailable(_), Some(why)) => (None, why),
            (Outcome::Succeeded(output), _) => {
                logs.out(&output);
                (Some(0), EndReason::Exited)
            }
            (Outcome::Failed(code, message), None) => {
                logs.err(format!("{message}\n").as_bytes());
                (Some(if (1..=255).contains(&code) { code } else { 1 }), EndReason::Exited)
            }
            (Outcome::Unavailable(message), None) => {
                self.desk.lost();
                return if running { Inside::Lost(message) } else { Inside::Refused(message) };
            }
        };
        let (out_bytes, err_bytes, truncated) = logs.sizes();
        let end = End {
            code,
            reason,
            out_bytes,
            err_bytes,
            truncated,
            started_wall_ms: began.0.wall_ms,
            ended_wall_ms: clock::now().wall_ms,
            ran_ms: clock::boot_ms().saturating_sub(began.1),
            ..End::default()
        };
        let name = self.start.attempt.dir_name();
        self.desk.ended(&end);
        Inside::Fact(Notice::Ended { name, end })
    }
}

/// The executor's code; dropped with its attendant, so that an ending agent leaves none of it behind.
struct Aborting(JoinHandle<Outcome>);

impl Drop for Aborting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Until there is a reason to end it from outside.
async fn order(
    stopped: &mut watch::Receiver<Option<EndReason>>,
    lease: &watch::Sender<u64>,
    obeys_lease: bool,
    deadline_ms: u64,
) -> EndReason {
    let mut lease = lease.subscribe();
    loop {
        let lease_ms = *lease.borrow_and_update();
        let ordered = async {
            let reason = stopped.wait_for(Option::is_some).await.map(|reason| *reason);
            match reason {
                Ok(reason) => reason.unwrap_or(EndReason::Revoked),
                // The shell is gone, and this runtime goes with it.
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            reason = ordered => return reason,
            () = until(deadline_ms) => return EndReason::TimedOut,
            () = until(lease_ms), if obeys_lease => return EndReason::Fenced,
            Ok(()) = lease.changed(), if obeys_lease => {}
        }
    }
}

/// Sleeps until a moment of `CLOCK_BOOTTIME`, ms; the last one there is never comes.
async fn until(boot_ms: u64) {
    while clock::boot_ms() < boot_ms {
        clock::sleep_until(boot_ms).await;
    }
}

/// Between the executor's code and the rest.
struct Line {
    context: Context,
    told: Arc<Told>,
    report: Box<dyn Fn(Progress) + Send + Sync>,
    heard: mpsc::Receiver<String>,
}

async fn conduct(executor: Arc<dyn Executor>, mut line: Line, begun: oneshot::Sender<()>) -> Outcome {
    let context = line.context.clone();
    if let Err(why) = executor.validate(context.input()) {
        return Outcome::Failed(MISUSE_CODE, why);
    }
    let mut execution = tokio::select! {
        () = context.stopping() => return Outcome::Stopped,
        started = executor.start(context.clone()) => match started {
            Ok(execution) => execution,
            Err(fault) => return fault.into(),
        },
    };
    let _heard = begun.send(());
    loop {
        let looked = tokio::select! {
            biased;
            () = context.stopping() => None,
            looked = look(execution.as_mut(), &line) => Some(looked),
        };
        match looked {
            None => break,
            Some(Ok(Status::Running)) => {}
            Some(Ok(Status::Succeeded)) => {
                return execution.output().await.map_or_else(Outcome::from, Outcome::Succeeded);
            }
            Some(Ok(Status::Failed { exit_code, message })) => return Outcome::Failed(exit_code, message),
            Some(Err(fault)) => return fault.into(),
        }
        tokio::select! {
            () = context.stopping() => break,
            () = line.told.nudge.notified() => {}
            Some(body) = line.heard.recv() => execution.on_callback(&body),
            () = tokio::time::sleep(execution.poll()) => {}
        }
    }
    execution.stop().await;
    Outcome::Stopped
}

async fn look(execution: &mut dyn Execution, line: &Line) -> Result<Status, Fault> {
    let status = execution.status().await?;
    let pushed = line.told.progress.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(progress) = execution.progress().or(pushed) {
        (line.report)(progress);
    }
    Ok(status)
}

fn report(reports: &Reports, attempt: AttemptId, fence: Fence, progress: &Progress) {
    let permille = progress.permille.min(1000);
    let step = permille.into();
    let progress = v1::Progress { permille, note: reports::note(&progress.note), step, ..Default::default() };
    if let Err(error) = reports.put(attempt, fence, progress) {
        // It is at its end.
        tracing::debug!(%error, "a late report");
    }
}
