//! The thread of the loop: how it starts, waits, and ends.

use super::Options;
use super::clock::Clock;
use super::core::{Core, Loaded};
use super::error::Error;
use super::flows::{self, Engines, Evaluator, NoScripts, Plans};
use super::handle::Handle;
use super::message::{Inbox, Outlet, inbox};
use super::numbers::Tally;
use super::published::Published;
use super::reads::{READERS, Reads};
use super::retention::Pruning;
use super::writer::Writer;
use crate::machine::{Config, Effect, Machine, SessionId};
use crate::store::{self, Live, Store};
use proto::id::TaskId;
use proto::v1;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::sync::watch;

/// Messages taken from one queue before the other queues and the writer get their turn: 2 ms of work.
const TURN: usize = 256;

/// The owner of the loop. Dropping it ends the loop in order and waits for that.
#[derive(Debug)]
pub struct Shell {
    stop: watch::Sender<bool>,
    ended: watch::Receiver<Option<String>>,
    thread: Option<JoinHandle<()>>,
    /// Keeps the queues open when the last handle goes.
    _inbox: Inbox,
}

impl Shell {
    /// Loads the machine from the store and starts the loop. Blocks while it loads.
    ///
    /// # Errors
    /// [`Error::Store`] if the store cannot be read, [`Error::Thread`].
    pub fn start(store: Box<dyn Store>, options: Options) -> Result<(Handle, Self), Error> {
        Self::start_with(store, options, Engines::new(NoScripts))
    }

    /// The same with engines for users' scripts.
    ///
    /// # Errors
    /// See [`Shell::start`].
    pub fn start_with(store: Box<dyn Store>, options: Options, scripts: Engines) -> Result<(Handle, Self), Error> {
        let mut clock = Clock::new();
        let mut reader = store.reader()?;
        let pruning = Pruning::new(options.retention);
        let mut tally = Tally::default();
        let plans = Arc::new(Plans::default());
        let mut machine = load(&*store, &mut *reader, options, &mut clock, &mut tally)?;
        let mut effects = Vec::new();
        load_flows(&mut machine, &mut *reader, &plans, (&mut clock, &mut effects))?;
        let published = Arc::new(Published::new(v1::IdentityResponse {
            lineage: machine.config().lineage.clone(),
            epoch: machine.config().epoch,
            commit_seq: machine.config().commit_seq,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            restored: machine.restored(),
            counts_delays: true,
        }));
        let readers = (0..READERS).map(|_| store.reader()).collect::<Result<Vec<_>, _>>()?;
        let reads = Arc::new(Reads::new(readers));
        let (inbox, outlet) = inbox();
        let (stop, stopping) = watch::channel(false);
        let (reason, stopped) = watch::channel(None);
        let (end, ended) = watch::channel(None);
        let evaluator = Evaluator::start(&*store, &plans, &scripts, &inbox.answers)?;
        let loaded = Loaded { machine, tally, effects, plans: Arc::clone(&plans), evaluator };
        let core = Core::new(loaded, clock, reader, Arc::clone(&published), pruning);
        let running = Running {
            core,
            outlet,
            writer: Writer::start(store, Arc::clone(&published))?,
            reads: Arc::clone(&reads),
            stopping,
            reason,
        };
        // Not on the edges' worker threads: a slow disk or a long answer there must not hold up a beat.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.map_err(|why| Error::Thread { name: "shell", why: why.to_string() })?;
        let work = move || {
            let why = runtime.block_on(running.run());
            end.send_replace(Some(why));
        };
        let thread = thread::Builder::new()
            .name("shell".to_owned())
            .spawn(work)
            .map_err(|why| Error::Thread { name: "shell", why: why.to_string() })?;
        let handle = Handle { inbox: inbox.clone(), reads, published, plans, scripts, stopped };
        Ok((handle, Self { stop, ended, thread: Some(thread), _inbox: inbox }))
    }

    /// Waits until the loop has ended, and says why. Then the store is closed. Dropping the future loses nothing.
    pub async fn stopped(&self) -> String {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => {
                "its loop has panicked; this is a bug. What was acknowledged is kept: start it again, and report this"
                    .to_owned()
            }
        }
    }

    /// Ends the loop in order: what was taken in is committed and answered, links end, the store is closed.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        self.stopped().await;
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A panic of it was told through `ended`.
            let _ = thread.join();
        }
    }
}

fn load(
    store: &dyn Store,
    reader: &mut dyn store::Read,
    options: Options,
    clock: &mut Clock,
    tally: &mut Tally,
) -> Result<Machine, Error> {
    let store::Identity { lineage, epoch, commit_seq } = store.identity();
    let config = Config {
        beat_ms: options.beat_ms,
        lease_ms: options.lease_ms,
        fence_grace_ms: options.fence_grace_ms,
        lineage,
        epoch,
        commit_seq,
        accept_restored: options.accept_restored,
        shares: options.shares,
        log_policy: options.log_policy,
        #[cfg(feature = "seeded-bugs")]
        bug: crate::failpoint::bug(),
    };
    let (sidecars, executors) = (reader.sidecars()?, reader.executors()?);
    let mut failed = None;
    let rows = Live::new(reader, &mut failed).inspect(|row| tally.see(row));
    let machine = Machine::new(config, clock.now(), rows, sidecars, executors);
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(machine),
    }
}

/// What the store holds of workflows; what their runs were waiting for comes as effects.
fn load_flows(
    machine: &mut Machine,
    reader: &mut dyn store::Read,
    plans: &Plans,
    (clock, effects): (&mut Clock, &mut Vec<Effect>),
) -> Result<(), Error> {
    let mut definitions = Vec::new();
    while let page = reader.definitions(None, definitions.last().map(of_definition), store::LOAD_PAGE)?
        && !page.is_empty()
    {
        // The machine knows them by their hashes.
        definitions.extend(page.into_iter().map(|row| proto::store::DefinitionRow { json: Vec::new(), ..row }));
    }
    let mut tasks: Vec<proto::store::TaskDefinitionRow> = Vec::new();
    while let page = reader.task_definitions(tasks.last().map(|row| row.name.as_str()), store::LOAD_PAGE)?
        && !page.is_empty()
    {
        tasks.extend(page.into_iter().map(|row| proto::store::TaskDefinitionRow { json: Vec::new(), ..row }));
    }
    let runs = flows::live(reader, plans)?;
    machine.load_flows(clock.now(), (definitions, tasks), runs, effects);
    Ok(())
}

fn of_definition(row: &proto::store::DefinitionRow) -> (&str, u32) {
    (&row.name, row.version)
}

/// The loop while it runs.
struct Running {
    core: Core,
    outlet: Outlet,
    writer: Writer,
    reads: Arc<Reads>,
    stopping: watch::Receiver<bool>,
    reason: watch::Sender<Option<String>>,
}

impl Running {
    async fn run(mut self) -> String {
        let why = match self.work().await {
            Ok(()) => {
                self.settle().await.err().map_or_else(|| "it was told to stop".to_owned(), |error| error.to_string())
            }
            Err(error) => error.to_string(),
        };
        self.shut_down(why)
    }

    /// Turn by turn, until told to stop (`Ok`) or until the store fails.
    async fn work(&mut self) -> Result<(), store::Error> {
        loop {
            if let Some(commit) = self.core.take()? {
                self.writer.commit(self.core.epoch(), commit);
            }
            // A timer is late by a suspend of the machine only if nothing else happens: each turn looks at the clock anew.
            let sleep = self.core.sleep_ms();
            tokio::select! {
                biased;
                () = told(&mut self.stopping) => return Ok(()),
                done = self.writer.done() => self.core.on_committed(done.ok_or_else(writer_gone)?)?,
                Some(call) = self.outlet.links.recv(), if self.core.takes_links() => self.core.on_link(call)?,
                Some(call) = self.outlet.clients.recv(), if self.core.takes_clients() => self.core.on_client(call)?,
                Some(call) = self.outlet.answers.recv(), if self.core.takes_answers() => self.core.on_flow(call)?,
                Some(call) = self.outlet.items.recv(), if self.core.takes_items() => self.core.on_items(call),
                Some(array) = self.outlet.dropped.recv() => self.drop_items(array)?,
                Some(session) = self.outlet.closed.recv() => self.close(session)?,
                () = tokio::time::sleep(Duration::from_millis(sleep.unwrap_or(0))), if sleep.is_some() => {}
            }
            self.drain()?;
            self.core.on_time();
        }
    }

    /// Takes what else is there, so that it shares the next commit. Nothing is waited for.
    fn drain(&mut self) -> Result<(), store::Error> {
        for _ in 0..TURN {
            let Some(call) = self.core.takes_links().then(|| self.outlet.links.try_recv().ok()).flatten() else {
                break;
            };
            self.core.on_link(call)?;
        }
        for _ in 0..TURN {
            let Some(call) = self.core.takes_clients().then(|| self.outlet.clients.try_recv().ok()).flatten() else {
                break;
            };
            self.core.on_client(call)?;
        }
        for _ in 0..TURN {
            let Some(call) = self.core.takes_answers().then(|| self.outlet.answers.try_recv().ok()).flatten() else {
                break;
            };
            self.core.on_flow(call)?;
        }
        while let Some(call) = self.core.takes_items().then(|| self.outlet.items.try_recv().ok()).flatten() {
            self.core.on_items(call);
        }
        while let Ok(session) = self.outlet.closed.try_recv() {
            self.close(session)?;
        }
        Ok(())
    }

    /// Forgets an upload, with what of it is still in the queue.
    fn drop_items(&mut self, array: TaskId) -> Result<(), store::Error> {
        for _ in 0..self.outlet.items.len() {
            let Ok(call) = self.outlet.items.try_recv() else { break };
            self.core.on_items(call);
        }
        self.core.on_items_dropped(array)
    }

    /// Ends a link, after what it said before.
    fn close(&mut self, session: SessionId) -> Result<(), store::Error> {
        for _ in 0..self.outlet.links.len() {
            let Ok(call) = self.outlet.links.try_recv() else { break };
            self.core.on_link(call)?;
        }
        self.core.on_closed(session);
        Ok(())
    }

    /// Commits and answers what was taken in.
    async fn settle(&mut self) -> Result<(), store::Error> {
        self.core.stop_pruning();
        loop {
            if let Some(commit) = self.core.take()? {
                self.writer.commit(self.core.epoch(), commit);
            }
            if !self.core.is_committing() {
                return Ok(());
            }
            self.core.on_committed(self.writer.done().await.ok_or_else(writer_gone)?)?;
        }
    }

    /// The end, in this order.
    fn shut_down(self, why: String) -> String {
        // 1. From here on every call is answered with the reason.
        self.reason.send_replace(Some(why.clone()));
        // 2. Calls that were not taken in fail; so do callers whose batch failed, and links end.
        drop(self.outlet);
        drop(self.core);
        // 3. No new reads.
        self.reads.close();
        // 4. The store is closed last; with it goes the lock of the data directory.
        self.writer.join();
        why
    }
}

/// Waits until the owner wants the end, or is gone.
async fn told(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

fn writer_gone() -> store::Error {
    store::Error::Poisoned("the writer thread has panicked; this is a bug. What was acknowledged is kept: start the informer again, and report this".to_owned())
}
