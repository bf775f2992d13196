//! The work thread: everything that reads files or waits for others, so that the link's thread never does.
//!
//! ```text
//! keeper ── FromKeeper ─▶ ┌──────┐ ── Event ──▶ shell
//! shell ──── Order ─────▶ │ Work │ ── SendLog ─▶ informer (a connection of its own)
//!                         │      │ ── StoreLogs ▶ informer (the same connection)
//!                         └──────┘ ── probes ──▶ services
//! ```

use super::assignments::Assignments;
use super::embedded::{Attempts, Inside, is_embedded};
use super::files::Jobs;
use super::keeping::FromKeeper;
use super::reports::Reports;
use super::shell::Input;
use super::staging::Stagings;
use super::upload::{self, Uploads};
use super::watch::{Watch, Watches};
use super::{Dirs, clock, note};
use crate::machine::{self, Event, Found, FoundState};
use crate::metrics::{self, Metrics};
use crate::{exec, load, logs};
use keeper::wire::{self, Listed, ListedState, Refusal};
use proto::dial::Channel;
use proto::id::AttemptId;
use proto::v1;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

/// Orders that may wait: one beat's sampling and the requests of log readers.
pub(super) const ORDERS: usize = proto::bounds::LOG_READERS + 64;
/// Facts of the keeper that may wait here before its socket is read no further.
pub(super) const NOTICES: usize = 1024;
/// Load and progress are read this long before they are told, ms: they should be fresh, and reading must not delay the beat.
const AHEAD_MS: u64 = 50;
/// After this long without a word about an attempt, and with none running, the agent lets go of what it does not need to rest, ms: long
/// enough that a chain of short tasks is not made to fetch its code again and again.
const REST_MS: u64 = 1_000;

/// What the shell orders.
#[derive(Debug)]
pub(super) enum Order {
    /// A beat has left; the next is due at this moment of `CLOCK_BOOTTIME`.
    Beaten { next_ms: u64 },
    /// Serve a log, or stop serving it.
    Log(v1::LogRequest),
    /// The informer has all of it.
    Over(AttemptId),
    /// An attempt shall be stopped: so shall the staging of its outputs, if it has come to that.
    StopStaging(AttemptId, v1::Reason),
}

/// What comes to the work thread.
pub(super) struct Sources {
    pub said: mpsc::Receiver<FromKeeper>,
    pub orders: mpsc::Receiver<Order>,
    pub uploads: Uploads,
    pub scrapes: Option<TcpListener>,
    /// The process is the agent's own.
    pub alone: bool,
}

/// What it shares with the first thread.
pub(super) struct Shared {
    pub metrics: Arc<Metrics>,
    pub reports: Reports,
    pub embedded: Attempts,
}

/// State of the work thread.
pub(super) struct Work {
    dirs: Dirs,
    assignments: Assignments,
    inbox: mpsc::Sender<Input>,
    logs: Channel,
    metrics: Arc<Metrics>,
    watches: Watches,
    reports: Reports,
    embedded: Attempts,
    serving: BTreeMap<u64, AbortHandle>,
    tasks: JoinSet<Option<u64>>,
    stagings: Stagings,
    sampler: load::Sampler,
    sample_ms: Option<u64>,
    /// When the keeper was last heard, until the agent has come to rest since.
    heard_ms: Option<u64>,
}

/// The shell is gone: the agent is ending.
struct Ending;

impl Work {
    pub(super) fn new(
        dirs: Dirs,
        assignments: Assignments,
        inbox: mpsc::Sender<Input>,
        jobs: Jobs,
        logs: Channel,
        shared: Shared,
    ) -> Self {
        let Shared { metrics, reports, embedded } = shared;
        let watches = Watches::new(dirs.clone(), inbox.clone(), jobs, reports.clone());
        let (serving, tasks) = (BTreeMap::new(), JoinSet::new());
        let sampler = load::Sampler::new();
        let stagings = Stagings::new(inbox.clone());
        Self {
            dirs,
            assignments,
            inbox,
            logs,
            metrics,
            watches,
            reports,
            embedded,
            serving,
            tasks,
            stagings,
            sampler,
            sample_ms: Some(0),
            heard_ms: None,
        }
    }

    /// Runs until the shell is gone. Dropping everything in here ends the log calls and the probes.
    pub(super) async fn run(mut self, sources: Sources) {
        let Sources { mut said, mut orders, uploads, scrapes, alone } = sources;
        let uploading = upload::keep(self.dirs.clone(), self.logs.clone(), self.inbox.clone(), uploads);
        self.tasks.spawn(async move {
            uploading.await;
            None
        });
        if let Some(listener) = scrapes {
            let metrics = self.metrics.clone();
            self.tasks.spawn(async move {
                metrics::serve(listener, &metrics).await;
                None
            });
        }
        loop {
            let sample_ms = self.sample_ms;
            let done = tokio::select! {
                Some(news) = said.recv() => self.on_keeper(news).await,
                order = orders.recv() => match order {
                    Some(order) => self.on_order(order),
                    None => return,
                },
                () = async {
                    match sample_ms {
                        Some(at_ms) => clock::sleep_until(at_ms).await,
                        None => std::future::pending().await,
                    }
                } => {
                    if alone {
                        self.rest();
                    }
                    self.on_sample_due().await
                }
                Some(ended) = self.tasks.join_next() => {
                    // An aborted task says nothing, and a panic was printed by the runtime.
                    if let Ok(Some(request)) = ended {
                        self.serving.remove(&request);
                    }
                    Ok(())
                }
            };
            if let Err(Ending) = done {
                return;
            }
        }
    }

    async fn tell(&self, input: Input) -> Result<(), Ending> {
        self.inbox.send(input).await.map_err(|_| Ending)
    }

    async fn on_sample_due(&mut self) -> Result<(), Ending> {
        if self.sample_ms.is_none_or(|at_ms| clock::boot_ms() < at_ms) {
            return Ok(());
        }
        self.sample_ms = None;
        let load = self.sampler.sample();
        self.metrics.on_load(&load);
        self.tell(Input::Event(Event::LoadSampled(load))).await?;
        for event in self.watches.sample(clock::boot_ms()) {
            self.tell(Input::Event(event)).await?;
        }
        Ok(())
    }

    /// Most of an idle agent's memory would be code that ran once, at its start.
    fn rest(&mut self) {
        let rests = |heard_ms: u64| clock::boot_ms() >= heard_ms.saturating_add(REST_MS);
        if !self.watches.is_running() && self.heard_ms.take_if(|heard_ms| rests(*heard_ms)).is_some() {
            keeper::sys::rest();
        }
    }

    fn on_order(&mut self, order: Order) -> Result<(), Ending> {
        match order {
            Order::Beaten { next_ms } => self.sample_ms = Some(next_ms.saturating_sub(AHEAD_MS)),
            Order::Over(attempt) => self.watches.over(attempt),
            Order::StopStaging(attempt, why) => self.stagings.stop(attempt, why),
            Order::Log(request) if request.cancel => {
                if let Some(task) = self.serving.remove(&request.request) {
                    task.abort();
                }
            }
            Order::Log(request) => self.serve_log(request),
        }
        Ok(())
    }

    fn serve_log(&mut self, request: v1::LogRequest) {
        let id = request.request;
        let attempt = request.attempt.as_ref().and_then(|attempt| AttemptId::from_wire(attempt).ok());
        let Some(attempt) = attempt.filter(|_| self.serving.len() < proto::bounds::LOG_READERS) else {
            tracing::warn!(request = id, "a log request names no attempt, or there are too many readers");
            return;
        };
        let dir = self.dirs.attempt(attempt);
        let ended = self.watches.ended(attempt);
        let held = self.assignments.get(attempt).is_some();
        let channel = self.logs.clone();
        let task = self.tasks.spawn(async move {
            if let Err(error) = serve(channel, request, dir, ended, held).await {
                tracing::info!(%attempt, %error, "a log was not sent whole");
            }
            Some(id)
        });
        if let Some(before) = self.serving.insert(id, task) {
            before.abort();
        }
    }

    async fn on_keeper(&mut self, news: FromKeeper) -> Result<(), Ending> {
        self.heard_ms = Some(clock::boot_ms());
        match news {
            FromKeeper::Connected { mut listing, requests, fencing } => {
                self.metrics.on_keeper();
                self.embedded.complete(&mut listing);
                self.watches.on_keeper(Some(requests.clone()));
                let listing = listing.into_iter().filter_map(|listed| self.found(listed)).collect();
                self.tell(Input::KeeperUp { listing, requests, fencing }).await
            }
            FromKeeper::Notice(notice) => match self.of_keeper(notice) {
                Some(event) => self.tell(Input::Event(event)).await,
                None => Ok(()),
            },
            FromKeeper::Inside(attempt, inside) => match self.inside(attempt, inside) {
                Some(event) => self.tell(Input::Event(event)).await,
                None => Ok(()),
            },
            FromKeeper::Gone => {
                self.watches.on_keeper(None);
                self.tell(Input::Event(Event::KeeperGone)).await
            }
        }
    }

    /// An attempt of ours in the listing. Probes of an earlier agent are swept away.
    fn found(&mut self, listed: Listed) -> Option<Found> {
        let Ok(attempt) = listed.name.parse::<AttemptId>() else {
            self.watches.on_strange(listed);
            return None;
        };
        let mut note = None;
        if self.assignments.get(attempt).is_none() {
            let record = keeper::record::read(&self.dirs.attempt(attempt));
            let assign = record.ok().and_then(|record| record.spec).and_then(|spec| note::read(&spec.note));
            if let Some(assign) = assign {
                note = note::facts(&assign);
                self.assignments.insert(attempt, assign);
            }
        }
        let state = match listed.state {
            ListedState::Starting => FoundState::Starting,
            ListedState::Running(process) => FoundState::Running(self.on_spawned(attempt, process)),
            ListedState::Ended(end) => match self.on_ended(attempt, &end) {
                Some(ending) => FoundState::Ended(ending),
                None => self.found_staging(attempt),
            },
            ListedState::Lost => {
                self.watches.end(attempt, logs::Final::default());
                let record = keeper::record::read(&self.dirs.attempt(attempt));
                match record.is_ok_and(|record| is_embedded(&record)) {
                    true => FoundState::Ended(lost("it ran within the sidecar's process, which has ended")),
                    false => FoundState::Lost,
                }
            }
        };
        Some(Found { attempt, note, state })
    }

    /// A fact about an attempt that runs within this process, like one of the keeper's.
    fn inside(&mut self, attempt: AttemptId, inside: Inside) -> Option<Event> {
        let fact = match inside {
            Inside::Fact(notice @ wire::Notice::Spawned { .. }) => return self.noticed(notice),
            other => other,
        };
        self.embedded.forget(attempt);
        let notice = match fact {
            Inside::Fact(notice) => return self.noticed(notice),
            Inside::Refused(message) => machine::Notice::Refused { refusal: machine::Refusal::NotHere, message },
            Inside::Lost(message) => {
                self.watches.end(attempt, logs::Final::default());
                machine::Notice::Ended(lost(&message))
            }
        };
        Some(Event::Noticed { attempt, notice })
    }

    /// A keeper that was started while something ran within this process may take it for an orphan; that is no news.
    fn of_keeper(&mut self, notice: wire::Notice) -> Option<Event> {
        use wire::Notice as N;
        let about = match &notice {
            N::Spawned { name, .. } | N::Refused { name, .. } | N::Ended { name, .. } | N::Lost { name } => {
                name.parse()
            }
            _ => return self.noticed(notice),
        };
        if about.is_ok_and(|attempt| self.embedded.holds(attempt)) { None } else { self.noticed(notice) }
    }

    fn noticed(&mut self, notice: wire::Notice) -> Option<Event> {
        use wire::Notice as N;
        let name = match &notice {
            N::Spawned { name, .. } | N::Refused { name, .. } | N::Ended { name, .. } | N::Lost { name } => {
                name.clone()
            }
            N::Welcome { .. } | N::Listing { .. } => return None,
            N::Terminating => {
                tracing::info!("the keeper is being terminated and starts nothing more");
                return None;
            }
        };
        let Ok(attempt) = name.parse::<AttemptId>() else {
            self.watches.on_probe_notice(&name, &notice);
            return None;
        };
        let notice = match notice {
            N::Spawned { process, .. } => machine::Notice::Spawned(self.on_spawned(attempt, process)),
            N::Refused { why, message, .. } => machine::Notice::Refused { refusal: refusal(why, &message), message },
            N::Ended { end, .. } => {
                super::failpoint::reach("after-end");
                machine::Notice::Ended(self.on_ended(attempt, &end)?)
            }
            _ => {
                self.watches.end(attempt, logs::Final::default());
                machine::Notice::Lost
            }
        };
        Some(Event::Noticed { attempt, notice })
    }

    fn on_spawned(&mut self, attempt: AttemptId, process: wire::ProcessId) -> v1::Started {
        if let Some(fence) = self.assignments.get(attempt).and_then(|assign| assign.fence) {
            self.reports.open(attempt, fence.into());
        }
        let watch = self.assignments.with_spec(attempt, |spec| Watch::new(attempt, spec, clock::boot_ms()));
        self.watches.begin(attempt, watch, &mut self.tasks);
        started(process)
    }

    /// How it ended; `None` if its outputs must be staged first, after which it is told.
    fn on_ended(&mut self, attempt: AttemptId, end: &wire::End) -> Option<Box<v1::Ending>> {
        let mut end = end.clone();
        if end.reason == wire::EndReason::Unhealthy {
            end.message = self.watches.last_failure(attempt);
        }
        self.watches.end(attempt, logs::Final::from(&end));
        let dir = self.dirs.attempt(attempt);
        let mut ending = Box::new(self.assignments.with_spec(attempt, |spec| exec::ending(&dir, spec, &end)));
        // A keeper whose directory was removed ends what runs there, in the words of a drain: its wire has no others.
        if ending.reason() == v1::Reason::Drained && is_gone(&dir) {
            ending.reason = v1::Reason::Lost.into();
            ending.message = "its directory was removed while it ran, and its keeper ended it".to_owned();
        }
        self.stagings.begin(attempt, self.assignments.get(attempt), dir, ending)
    }

    /// For the machine it has not ended yet, although no process of it is left.
    fn found_staging(&self, attempt: AttemptId) -> FoundState {
        let record = keeper::record::read(&self.dirs.attempt(attempt)).ok();
        match record.and_then(|record| record.spawned) {
            Some(process) => FoundState::Running(started(process)),
            None => FoundState::Starting,
        }
    }
}

/// Nothing is there. An answer that says neither (a sick disk) is no finding.
fn is_gone(dir: &Path) -> bool {
    std::fs::symlink_metadata(dir).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

fn started(process: wire::ProcessId) -> v1::Started {
    v1::Started {
        boot_id: process.boot_id,
        pid_ns: process.pid_ns,
        pid: process.pid,
        start_ticks: process.start_ticks,
        unix_ms: process.wall_ms,
    }
}

/// The end of an attempt of which only that much is known.
fn lost(message: &str) -> Box<v1::Ending> {
    let (reason, ended_unix_ms) = (v1::Reason::Lost.into(), clock::now().wall_ms);
    Box::new(v1::Ending { reason, message: message.to_owned(), ended_unix_ms, ..Default::default() })
}

fn refusal(why: Refusal, message: &str) -> machine::Refusal {
    match why {
        // What the task asks for cannot be, here or elsewhere.
        Refusal::Invalid => machine::Refusal::Task,
        Refusal::System if exec::tells_of_wrong_limits(message) => machine::Refusal::Task,
        Refusal::Exists => machine::Refusal::Exists,
        Refusal::NoLease => machine::Refusal::NoLease,
        Refusal::Terminating => machine::Refusal::Terminating,
        Refusal::System => machine::Refusal::Failed,
    }
}

/// Serves one log. An attempt that is neither held nor on the disk has no log any more, and the reader is told so: an empty log would be
/// a lie.
async fn serve(
    channel: Channel,
    request: v1::LogRequest,
    dir: std::path::PathBuf,
    ended: Option<watch::Receiver<Option<logs::Final>>>,
    held: bool,
) -> Result<(), logs::Error> {
    let record = keeper::record::read(&dir).ok();
    if record.is_none() && !held {
        let failure = "its log is no longer kept on the sidecar".to_owned();
        let upload = v1::LogUpload { request: request.request, failure, ..Default::default() };
        let mut client = v1::sidecar_link_client::SidecarLinkClient::new(channel);
        client.send_log(tokio_stream::once(upload)).await?;
        return Ok(());
    }
    let end = record.as_ref().and_then(|record| record.end.as_ref()).map(logs::Final::from);
    let spec = record.and_then(|record| record.spec).unwrap_or_default();
    // Without a watch it is over: what the record says is final.
    let ended = ended.unwrap_or_else(|| watch::channel(Some(end.unwrap_or_default())).1);
    logs::serve(channel, request, logs::Source::of(dir, &spec), ended).await
}
