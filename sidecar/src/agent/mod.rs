//! The agent: everything around the machine that touches the world.
//!
//! ```text
//!                     ┌───────────────── first thread ─────────────────┐
//!  informer ◀─ link ─▶│ Shell (machine, beats) ◀─ keeping ─▶ keeper     │
//!                     └──┬────────┬──────────┬───────────┬──────────────┘
//!                     ledger    lease       work       files            one thread each
//!                     (fsync)   (page)   (logs, load,  (publish, purge)
//!                                         uploads, probes,
//!                                         ends)
//! ```
//!
//! | part | if it fails | when the agent ends |
//! |---|---|---|
//! | executors | a panic fails its attempt | what runs there is told to end, and ends with the process at the latest |
//! | socket | — | connections are closed; the next agent listens in its place |
//! | link | is opened again, with jitter | the stream is reset; the informer sees it at once |
//! | keeping | is connected again, with a new keeper if need be | the keeper stays, with what runs |
//! | ledger | the agent ends: what is durable is unknown | finishes its batch |
//! | lease | — | the page keeps the last deadline |
//! | work | — | log calls, uploads and probes are dropped; the next agent uploads again |
//! | inputs | its attempt ends with the reason | what was fetched so far is fetched again |
//! | staging | its attempt ends with the reason | the next agent takes what is staged and stages the rest |
//! | files | complains | a job is left undone; the next agent does it again |
//! | place | the agent ends: its directory is gone | — |
//!
//! | file | holds |
//! |---|---|
//! | `shell` | the loop around the machine; its words and orders: `wire` |
//! | `link`, `keeping`, `lease`, `files`, `place` | the part of that name; `keeperless` stands in for a keeper where there is none, `upgrade` has one of another build replaced |
//! | `work` | the work thread: `watch` (progress, stalls, health), `upload` (logs), load |
//! | `inputs`, `fetch`, `cache` | what is there before a start: put together, fetched by URL, kept by hash |
//! | `staging` | outputs of attempts that succeeded |
//! | `types`, `embedded` | which types are known and how they are run; those that run within this process |
//! | `socket`, `reports` | what tasks tell their sidecar, and what of it goes with the next beat |
//! | `assignments`, `note` | what was assigned: in memory, and in an attempt's record for a later agent |
//! | `clock`, `failpoint` | the two clocks; where a test may kill this process |

mod assignments;
mod cache;
pub(crate) mod clock;
#[cfg(feature = "decoders")]
pub(crate) mod decoders;
mod duel;
mod embedded;
mod emitters;
pub(crate) mod failpoint;
mod fetch;
mod files;
mod inputs;
mod keeperless;
mod keeping;
mod lease;
mod link;
mod note;
mod place;
mod reports;
mod shell;
pub(crate) mod socket;
mod staging;
mod types;
mod upgrade;
mod upload;
mod watch;
mod wire;
mod work;

use crate::exec::container;
use crate::executor::Executor;
use crate::ledger::{self, Ledger, Lock, News, Writer};
use crate::load;
use crate::machine::{Config, Event, Machine, Row, RowState};
use crate::metrics::{self, Metrics};
use assignments::Assignments;
use duel::Duel;
use embedded::Embedded;
use emitters::Emitters;
use files::Job;
use inputs::Inputs;
use keeper::wire::{MAX_WARM, Request};
use lease::LeasePublisher;
use place::Place;
use proto::bounds;
use proto::dial::{Access, Dial, Malformed};
use proto::id::{AttemptId, SidecarId};
use reports::Reports;
use rustix::rand::{GetRandomFlags, getrandom};
use shell::{Input, Outside, Shell};
use socket::Socket;
use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use types::Types;
use work::{Shared, Sources, Work};

/// How long a parting agent waits for the informer to take the last reports, and for the keeper to go; and then for the last logs. They
/// are in the ledger or on the disk, and the next agent sends them; a longer wait would only hold up an orderly shutdown of the machine.
const PARTING: Duration = Duration::from_secs(5);

/// What the operator wants.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// URL of the informer.
    pub informer: String,
    /// What is shown to it, and demanded of it.
    pub access: Access,
    /// The data directory.
    pub data: PathBuf,
    /// Attempts at once.
    pub slots: u32,
    /// Offered CPU; `None`: all there is.
    pub cpu_millis: Option<u64>,
    /// Offered memory; `None`: all there is.
    pub memory_bytes: Option<u64>,
    /// Labels for placement.
    pub labels: BTreeMap<String, String>,
    /// End the tasks with the agent.
    pub stop_tasks_on_exit: bool,
    /// The keeper binary; `None`: the one beside this binary.
    pub keeper: Option<PathBuf>,
    /// Where metrics are served, on loopback; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
}

impl Options {
    /// A sidecar of this informer in this data directory, with a slot for each core and everything else as `sidecar run` has it.
    #[must_use]
    pub fn new(informer: String, data: PathBuf) -> Self {
        Self {
            informer,
            data,
            slots: load::machine().cores.min(bounds::SLOTS),
            cpu_millis: None,
            memory_bytes: None,
            labels: BTreeMap::new(),
            stop_tasks_on_exit: false,
            keeper: None,
            access: Access::default(),
            metrics: None,
        }
    }
}

/// What a program that has the agent within itself adds to the options.
#[derive(Default)]
pub(crate) struct Within {
    /// Its own executors.
    pub executors: Vec<Arc<dyn Executor>>,
    /// It runs nothing but them.
    pub keeperless: bool,
    /// There is no such program: the process is the agent's own.
    pub alone: bool,
}

/// Why the agent ended, or did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ledger, its lock or the data directory.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    /// The URL.
    #[error(
        "{url:?} is not the URL of an informer ({wrong}); give one like http://127.0.0.1:7070 or https://HOST:7070"
    )]
    Url {
        /// As given.
        url: String,
        /// What is wrong with it.
        wrong: Malformed,
    },
    /// What was given to reach the informer cannot be used.
    #[error(transparent)]
    Access(#[from] proto::dial::Error),
    /// The executors that a program brings along.
    #[error("{0}")]
    Executors(String),
    /// The keeper's binary.
    #[error("there is no keeper at {}; build it with `cargo build --release --workspace` and keep it beside the sidecar", path.display())]
    NoKeeper {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The address for metrics can be reached from outside.
    #[error(
        "cannot serve metrics on {0}: give an address of loopback like 127.0.0.1:9071, and bring others in by an agent on this machine"
    )]
    MetricsOpen(SocketAddr),
    /// Metrics cannot be served there.
    #[error("cannot serve metrics on {address}: {source}; choose another port by --metrics")]
    Metrics {
        /// Where.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// The system refused something basic.
    #[error("cannot {what}: {source}")]
    System {
        /// What.
        what: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// The data directory is gone, or another one is in its place.
    #[error(
        "{} was removed or replaced while this sidecar ran; it takes no more tasks, and its keeper ends what runs there. Start it again to begin anew",
        path.display()
    )]
    Vanished {
        /// What is gone.
        path: PathBuf,
    },
    /// A file that it holds open in the data directory is gone, or another one is in its place.
    #[error(
        "{} was removed or replaced while this sidecar ran; it takes no more tasks, and what runs goes on. Start it again: it finds in the records what runs and how it ended",
        path.display()
    )]
    Lost {
        /// What is gone.
        path: PathBuf,
    },
    /// The informer speaks another protocol, or the like.
    #[error("the informer will not have this sidecar: {0}; its tasks are left alone")]
    Refused(String),
    /// Another process has the id: started again, this one would take it away from that one, and be superseded in turn.
    #[error(
        "the informer will not have this sidecar: {0}; its tasks are left alone. If its data directory was copied, remove sidecar.id from the copy, and ledger.db with what begins with its name"
    )]
    Superseded(String),
}

/// Where things are.
#[derive(Debug, Clone)]
struct Dirs {
    data: PathBuf,
    exe: PathBuf,
    keeper_exe: PathBuf,
}

impl Dirs {
    fn attempt(&self, attempt: AttemptId) -> PathBuf {
        self.data.join(keeper::record::ATTEMPTS).join(attempt.dir_name())
    }
}

fn system(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::System { what, source }
}

/// Runs the agent until SIGTERM or SIGINT, in this thread. Returning leaves tasks running unless the options say otherwise.
///
/// # Errors
/// See [`Error`]: it could not start, its ledger failed, or it was superseded. Tasks are left alone in each case.
pub fn run(options: Options) -> Result<(), Error> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system("start the runtime"))?;
    runtime.block_on(async {
        let mut signals = Signals {
            terminate: signal(SignalKind::terminate()).map_err(system("listen for signals"))?,
            interrupt: signal(SignalKind::interrupt()).map_err(system("listen for signals"))?,
        };
        let told = async move {
            tokio::select! {
                _ = signals.terminate.recv() => {}
                _ = signals.interrupt.recv() => {}
            }
        };
        let (begun, _) = oneshot::channel();
        serve(options, Within { alone: true, ..Within::default() }, begun, told).await
    })
}

/// The agent, in a runtime of one thread: `begun` hears who it is once it can be asked to end, by `told`.
pub(crate) async fn serve(
    options: Options,
    within: Within,
    begun: oneshot::Sender<SidecarId>,
    told: impl Future<Output = ()>,
) -> Result<(), Error> {
    let address = options.informer.parse().map_err(|wrong| Error::Url { url: options.informer.clone(), wrong })?;
    let dial = Dial::new(address, options.access.clone())?;
    let scrapes = options.metrics.map(listen).transpose()?;
    types::check(&within.executors).map_err(Error::Executors)?;
    let lock = Lock::take(&options.data)?;
    let dirs = dirs(&options, within.keeperless)?;
    let (ledger, meta, entries) = Ledger::open(&dirs.data, &options.informer, fresh_id()?)?;
    tracing::info!(id = %meta.sidecar, incarnation = meta.incarnation, data = %dirs.data.display(), "sidecar");
    let duel = Duel::open(&dirs.data, meta.sidecar);
    tokio::pin!(told);
    if !duel.waited(told.as_mut()).await {
        return Ok(());
    }
    let (inbox, mut arrivals) = mpsc::channel(bounds::INBOX);
    let assignments = Assignments::default();
    let jobs = files::start(dirs.clone(), assignments.clone(), inbox.clone()).map_err(system("start a thread"))?;
    let rows = take_up(entries, &dirs, &assignments, &jobs)?;
    let crun = container::probe(&dirs.exe, &dirs.data.join(keeper::record::PREPARED).join(".probe")).await;
    let machine = Machine::new(config(options.slots), rows).with_emits(ledger.emits()?);
    let silence_ms = Arc::new(AtomicU64::new(bounds::BEAT_MS * bounds::BEATS_PER_LEASE));
    let (said, news) = mpsc::channel(work::NOTICES);
    let (orders, ordered) = mpsc::channel(work::ORDERS);
    let (uploads, to_upload) = mpsc::channel(upload::ORDERS);
    let logs = dial.connect_lazy(&dial.endpoint());
    let metrics = Arc::new(Metrics::default());
    let reports = Reports::default();
    let embedded = Embedded::new(dirs.clone(), options.informer.clone(), said.clone(), reports.clone());
    let shared = Shared { metrics: metrics.clone(), reports: reports.clone(), embedded: embedded.attempts() };
    let work = Work::new(dirs.clone(), assignments.clone(), inbox.clone(), jobs.clone(), logs, shared);
    let sources = Sources { said: news, orders: ordered, uploads: to_upload, scrapes, alone: within.alone };
    let emitters = start_work(work, sources, &dirs, reports.clone(), inbox.clone())?;
    let place = Arc::new(Place::pin(&dirs.data).map_err(system("look into the data directory"))?);
    // Owned by this future: they end with it.
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(keep(within.keeperless, dirs.clone(), place.clone(), options.slots, said));
    tasks.spawn(link::keep(dial, inbox.clone(), silence_ms.clone()));
    let (lease, watch) = LeasePublisher::start(&dirs.data, meta.sidecar, meta.incarnation, inbox.clone())
        .map_err(system("start with the lease page"))?;
    let inputs = Inputs::new(dirs.clone(), crun, inbox.clone());
    let directory = place.directory();
    place::watch(place, watch, inbox.clone()).map_err(system("start a thread"))?;
    let writer = start_ledger(ledger, inbox, metrics.clone())?;
    let types = Types::open(&dirs.data, within.executors);
    let outside = Outside {
        dirs,
        directory,
        assignments,
        writer,
        lease,
        jobs,
        inputs,
        work: orders,
        uploads,
        silence_ms,
        metrics,
        types,
        embedded,
        reports,
        emitters,
        keeperless: within.keeperless,
        start: fresh_start()?,
        yields: duel.yields(),
    };
    // Nobody may want to know.
    let _begun = begun.send(meta.sidecar);
    let shell = Shell::new(machine, options, meta, outside);
    let result = duel.settle(turn_until_told(shell, &mut arrivals, told).await);
    drop(lock);
    result
}

/// Stays with the keeper, or does without one.
async fn keep(keeperless: bool, dirs: Dirs, place: Arc<Place>, slots: u32, said: mpsc::Sender<keeping::FromKeeper>) {
    match keeperless {
        true => keeperless::keep(dirs, said).await,
        false => keeping::keep(dirs, place, MAX_WARM.min(slots), said).await,
    }
}

/// What the machine is told: the defaults, and in tests a mistake.
fn config(slots: u32) -> Config {
    Config {
        #[cfg(feature = "seeded-bugs")]
        bug: failpoint::bug(),
        ..Config::new(slots)
    }
}

/// What the ledger holds is taken up: assignments for all threads, rows for the machine. What was prepared for others is cleaned away.
fn take_up(
    entries: Vec<ledger::Entry>,
    dirs: &Dirs,
    assignments: &Assignments,
    jobs: &files::Jobs,
) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for entry in entries {
        let attempt = entry.row.attempt;
        if let Some(assign) = entry.assign {
            assignments.insert(attempt, assign);
        }
        match entry.row.state {
            // The last agent may have died before it did this.
            RowState::Retired(_) => {
                let _alive = jobs.send(Job::Retire(attempt, true));
            }
            RowState::Accepted | RowState::Running => embedded::settle(dirs, attempt),
            RowState::Ended(_) | RowState::Published(..) | RowState::Refused(_) => {}
        }
        rows.push(entry.row);
    }
    let waiting = |attempt| rows.iter().any(|row| row.attempt == attempt && row.state == RowState::Accepted);
    inputs::clean(dirs, &load::machine().boot_id, waiting)
        .map_err(system("clean the directory of prepared attempts"))?;
    Ok(rows)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// Steady state, and the orderly end: tell the machine, wait until nothing is under way, and take the keeper along if tasks end too.
async fn turn_until_told(
    mut shell: Shell,
    inputs: &mut mpsc::Receiver<Input>,
    mut told: Pin<&mut impl Future<Output = ()>>,
) -> Result<(), Error> {
    loop {
        tokio::select! {
            turned = shell.turn(inputs) => turned?,
            () = &mut told => break,
        }
    }
    tracing::info!("ending");
    end_embedded(&mut shell, inputs).await?;
    shell.shut_down()?;
    while !shell.may_exit() {
        shell.turn(inputs).await?;
    }
    if !shell.stops_tasks() {
        return Ok(());
    }
    let parted = async {
        while !shell.is_quiet() {
            shell.turn(inputs).await?;
        }
        let Some(keeper) = shell.keeper() else { return Ok(()) };
        if keeper.send(Request::Shutdown { stop_tasks: true }).await.is_err() {
            return Ok(());
        }
        drop(keeper);
        while shell.keeper().is_some() {
            shell.turn(inputs).await?;
        }
        Ok(())
    };
    // Late is not wrong: what was not taken is in the ledger.
    let parted: Result<(), Error> = tokio::time::timeout(PARTING, parted).await.unwrap_or(Ok(()));
    parted?;
    // Tasks that end with the agent often mean that the box goes, and with it the only copy of their logs.
    let uploaded = async {
        while shell.is_uploading() {
            shell.turn(inputs).await?;
        }
        Ok(())
    };
    tokio::time::timeout(PARTING, uploaded).await.unwrap_or(Ok(()))
}

fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    if !address.ip().is_loopback() {
        return Err(Error::MetricsOpen(address));
    }
    metrics::listen(address).map_err(|source| Error::Metrics { address, source })
}

/// What runs within this process cannot be left to the next agent. Its end is told like any other; an attempt that does not heed is lost.
async fn end_embedded(shell: &mut Shell, inputs: &mut mpsc::Receiver<Input>) -> Result<(), Error> {
    let ending = shell.end_embedded();
    if ending.is_empty() {
        return Ok(());
    }
    let ended = async {
        while !shell.have_ended(&ending) || !shell.is_quiet() {
            shell.turn(inputs).await?;
        }
        Ok(())
    };
    tokio::time::timeout(PARTING, ended).await.unwrap_or(Ok(()))
}

fn dirs(options: &Options, keeperless: bool) -> Result<Dirs, Error> {
    let data = options.data.canonicalize().map_err(system("resolve the data directory"))?;
    // The binary `sidecar` supervises transcodes; within another program it is the one beside the keeper.
    let exe = match &options.keeper {
        Some(keeper) if keeper.with_file_name("sidecar").exists() => keeper.with_file_name("sidecar"),
        _ => std::env::current_exe().map_err(system("find this binary"))?,
    };
    let keeper_exe = options.keeper.clone().unwrap_or_else(|| exe.with_file_name("keeper"));
    if !keeperless && !keeper_exe.exists() {
        return Err(Error::NoKeeper { path: keeper_exe });
    }
    Ok(Dirs { data, exe, keeper_exe })
}

fn random<const LENGTH: usize>() -> Result<[u8; LENGTH], Error> {
    let mut bytes = [0; LENGTH];
    getrandom(&mut bytes, GetRandomFlags::empty()).map_err(io::Error::from).map_err(system("read random bytes"))?;
    Ok(bytes)
}

/// What tells this process from one on a copy of its data directory, which may have the same id and incarnation. 0 would tell nothing.
fn fresh_start() -> Result<u64, Error> {
    Ok(u64::from_ne_bytes(random()?).max(1))
}

fn fresh_id() -> Result<SidecarId, Error> {
    let bytes = random()?;
    Ok(SidecarId::from_u128(uuid::Builder::from_random_bytes(bytes).into_uuid().as_u128()))
}

/// The work thread has a runtime of its own, so that no log reader, no probe and no task that talks is ever before a beat. Answers with where
/// tasks wait for the answers to their emits.
fn start_work(
    work: Work,
    sources: Sources,
    dirs: &Dirs,
    reports: Reports,
    inbox: mpsc::Sender<Input>,
) -> Result<Emitters, Error> {
    let emitters = Emitters::new(inbox);
    let socket =
        Socket::bind(&dirs.data, reports, emitters.clone()).map_err(system("listen for the tasks of this sidecar"))?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system("start the runtime"))?;
    let run = move || {
        runtime.block_on(async {
            tokio::select! {
                () = work.run(sources) => {}
                () = socket.serve() => {}
            }
        });
    };
    std::thread::Builder::new()
        .name("work".into())
        .spawn(run)
        .map(|_running| emitters)
        .map_err(system("start a thread"))
}

fn start_ledger(ledger: Ledger, inbox: mpsc::Sender<Input>, metrics: Arc<Metrics>) -> Result<Writer, Error> {
    let tell = move |news| {
        // Without a loop there is nobody to tell, and the agent is ending.
        let _gone = inbox.blocking_send(match news {
            News::Committed(result, took) => {
                metrics.on_commit(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
                Input::Committed(result)
            }
            News::Room(room) => Input::Event(Event::DiskSeen { room }),
        });
    };
    Writer::start(ledger, tell).map_err(system("start a thread"))
}
