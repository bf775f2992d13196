//! A sidecar within another program.

use crate::agent::{self, Error, Options, Within};
use crate::executor::Executor;
use proto::dial::Access;
use proto::id::SidecarId;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::oneshot;

/// A sidecar within another program: it takes tasks from an informer and runs those that its executors are for.
///
/// It lives in threads of its own, whatever runtime the program has, and several may live in one process, each with a data directory of
/// its own. Without a keeper it runs no processes, and then its executors are all that it can run.
///
/// ```no_run
/// use sidecar::Sidecar;
/// use sidecar::executor::Function;
///
/// #[derive(serde::Deserialize)]
/// struct Sum {
///     a: i64,
///     b: i64,
/// }
///
/// # async fn example() -> Result<(), sidecar::agent::Error> {
/// let sidecar = Sidecar::builder("http://127.0.0.1:7070", "/tmp/adder")
///     .slots(4)
///     .executor(Function::new("sum", |input: Sum| async move { Ok(input.a + input.b) }))
///     .start()
///     .await?;
/// println!("sidecar {} takes tasks of type sum", sidecar.id());
/// sidecar.stop().await
/// # }
/// ```
#[derive(Debug)]
pub struct Sidecar;

impl Sidecar {
    /// Begins to describe a sidecar of the informer at `informer`, a URL, with its data in `data`, which is made if it is not there.
    #[must_use]
    pub fn builder(informer: impl Into<String>, data: impl Into<PathBuf>) -> Builder {
        let within = Within { executors: Vec::new(), keeperless: true, ..Within::default() };
        Builder { options: Options::new(informer.into(), data.into()), within }
    }
}

/// A sidecar that is not started yet.
pub struct Builder {
    options: Options,
    within: Within,
}

impl Builder {
    /// Attempts at once; default: one for each core.
    #[must_use]
    pub fn slots(mut self, slots: u32) -> Self {
        self.options.slots = slots;
        self
    }

    /// Offered CPU in thousandths of a core; default: all there is.
    #[must_use]
    pub fn cpu_millis(mut self, cpu_millis: u64) -> Self {
        self.options.cpu_millis = Some(cpu_millis);
        self
    }

    /// Offered memory in bytes; default: all there is.
    #[must_use]
    pub fn memory_bytes(mut self, memory_bytes: u64) -> Self {
        self.options.memory_bytes = Some(memory_bytes);
        self
    }

    /// What an informer beyond this machine wants to be shown: the files of CA, certificate and token.
    #[must_use]
    pub fn access(mut self, access: Access) -> Self {
        self.options.access = access;
        self
    }

    /// A label that tasks can require.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.labels.insert(key.into(), value.into());
        self
    }

    /// An executor; may be repeated, at most 16 times, each of another type.
    #[must_use]
    pub fn executor(mut self, executor: impl Executor) -> Self {
        self.within.executors.push(Arc::new(executor));
        self
    }

    /// The `keeper` binary, with which it runs processes, too: commands, scripts, services. The binary `sidecar` beside it runs its
    /// transcodes.
    #[must_use]
    pub fn keeper(mut self, keeper: impl Into<PathBuf>) -> Self {
        self.options.keeper = Some(keeper.into());
        self.within.keeperless = false;
        self
    }

    /// Whether [`Running::stop`] ends processes, too; otherwise they are left for the next sidecar on the same data directory. What
    /// executors run ends in any case.
    #[must_use]
    pub fn stop_tasks_on_exit(mut self, stop: bool) -> Self {
        self.options.stop_tasks_on_exit = stop;
        self
    }

    /// Starts it. When this returns it holds its data directory and is about to link; it takes work as soon as the informer answers.
    ///
    /// # Errors
    /// It cannot be started; nothing of it stays behind.
    pub async fn start(self) -> Result<Running, Error> {
        let (begun, has_begun) = oneshot::channel();
        let (stop, told) = oneshot::channel::<()>();
        let (end, ended) = oneshot::channel();
        let live = move || {
            // Nobody may want to know any more.
            let _result = end.send(self.live(begun, told));
        };
        let spawned = std::thread::Builder::new().name("sidecar".into()).spawn(live);
        spawned.map_err(|source| Error::System { what: "start a thread", source })?;
        match has_begun.await {
            Ok(id) => Ok(Running { id, stop, ended }),
            // It ended before it began.
            Err(_) => Err(ended.await.unwrap_or_else(|_| Err(panicked())).err().unwrap_or_else(panicked)),
        }
    }

    fn live(self, begun: oneshot::Sender<SidecarId>, told: oneshot::Receiver<()>) -> Result<(), Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| Error::System { what: "start the runtime", source })?;
        let told = async {
            // A dropped handle is an order, too.
            let _stop = told.await;
        };
        runtime.block_on(agent::serve(self.options, self.within, begun, told))
    }
}

fn panicked() -> Error {
    Error::System { what: "go on", source: io::Error::other("its thread panicked; the cause was printed there") }
}

/// A running sidecar. Dropping it ends it like [`Running::stop`], without waiting for that.
#[derive(Debug)]
pub struct Running {
    id: SidecarId,
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<Result<(), Error>>,
}

impl Running {
    /// Its id, made once and kept in its data directory.
    #[must_use]
    pub fn id(&self) -> String {
        self.id.to_string()
    }

    /// Ends it in order: what its executors run is stopped and its end is told, for at most a few seconds; the informer has it run again
    /// elsewhere, charged to nobody.
    ///
    /// # Errors
    /// It had ended before, with this error.
    pub async fn stop(self) -> Result<(), Error> {
        // It may have ended by itself.
        let _gone = self.stop.send(());
        self.ended.await.unwrap_or_else(|_| Err(panicked()))
    }

    /// Completes when it ends by itself: its ledger failed, its data directory is gone, or another sidecar has its id.
    pub async fn failed(&mut self) -> Error {
        (&mut self.ended).await.unwrap_or_else(|_| Err(panicked())).err().unwrap_or_else(panicked)
    }
}
