//! A whole informer in one process: store, shell, edges, and the order in which they start and stop.
//!
//! | start | stop |
//! |---|---|
//! | 1. the address is checked and bound, so that a taken port costs nothing | 1. health says "not serving", streams end, no connection is taken |
//! | 2. the store is opened, which claims the next epoch, then the kept logs | 2. open requests finish, bounded; the rest is cut off |
//! | 3. the shell loads the machine | 3. the shell commits what it has and ends |
//! | 4. connections are taken | 4. the store is closed, which releases the data directory |

mod logs;
mod options;

pub use crate::shell::Retention;
pub(crate) use options::LEASE_BEATS;
pub use options::{LogUpload, Options, Security};

use crate::blobs;
use crate::edge::tls::Guard;
use crate::edge::{self, Edge, accept, front};
use crate::scripts::Pool;
use crate::shell::{self, Engines, Handle, Shell};
use crate::store::{self, sqlite::Sqlite};
use proto::{bounds, dial};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tonic_health::server::HealthReporter;

/// Files that are open besides connections: the database with its log for each of its readers, stored logs on their way, the runtime's.
const OTHER_FILES: usize = 512;

/// Why an informer did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address can be reached from outside, and everybody would be let in.
    #[error(
        "cannot listen on {listen}: an address other than loopback needs TLS and a token; missing: {missing}; {remedy}"
    )]
    Open {
        /// The address.
        listen: SocketAddr,
        /// The options that are missing.
        missing: String,
        /// The commands that mend it.
        remedy: String,
    },
    /// A certificate without its key, or the other way round.
    #[error("--tls-cert and --tls-key belong together; give both or neither")]
    Half,
    /// An authority for the peers' certificates without one of its own.
    #[error("--tls-ca names who may connect by TLS, which needs --tls-cert and --tls-key too")]
    OnlyAuthority,
    /// A certificate, key or token cannot be used.
    #[error(transparent)]
    Security(#[from] dial::Error),
    /// An option is out of its range.
    #[error("{option} is {value}; use {least} to {most}")]
    Option {
        /// Its name.
        option: &'static str,
        /// Its value.
        value: u64,
        /// The least that works.
        least: u64,
        /// The most that works.
        most: u64,
    },
    /// Another process listens there.
    #[error("port {} of {} is in use; stop what listens there, or choose another port by --listen", listen.port(), listen.ip())]
    InUse {
        /// The address.
        listen: SocketAddr,
    },
    /// The address cannot be listened on for another reason.
    #[error("cannot listen on {listen}: {source}")]
    Bind {
        /// The address.
        listen: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The directory of kept logs cannot be used.
    #[error(transparent)]
    Blobs(#[from] blobs::Error),
    /// The shell cannot be started.
    #[error(transparent)]
    Shell(#[from] shell::Error),
    /// The gRPC services cannot be made: a broken build.
    #[error("{0}")]
    Services(String),
    /// It ran and had to end: the store failed, and nothing may be acknowledged any more.
    #[error("the informer cannot go on: {0}")]
    Failed(String),
}

/// A running informer. Dropping it without [`Server::stop`] cuts everything off, as a crash would; nothing acknowledged is lost.
pub struct Server {
    addr: SocketAddr,
    guard: Arc<Guard>,
    handle: Handle,
    shell: Shell,
    health: HealthReporter,
    stopping: watch::Sender<bool>,
    accepting: Owned,
    cancels: Owned,
    _of_logs: [Owned; 2],
}

/// A task that ends with its owner at the latest.
struct Owned(JoinHandle<()>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Server {
    /// Starts an informer; when this returns it answers.
    ///
    /// # Errors
    /// Each names what was attempted and the remedy. Nothing stays behind.
    pub async fn start(options: Options) -> Result<Self, Error> {
        options.check()?;
        let guard = Arc::new(Guard::load(options.security)?);
        let listener = bind(options.listen).await?;
        let addr = listener.local_addr().map_err(|source| Error::Bind { listen: options.listen, source })?;
        let (store, kept) = open(options.data, options.accept_restored).await?;
        let scripts = Pool::new(crate::scripts::Config::default());
        let (handle, shell) = Shell::start_with(
            Box::new(store),
            shell::Options {
                beat_ms: options.beat_ms,
                lease_ms: options.beat_ms * options.lease_beats,
                fence_grace_ms: options.fence_grace_ms,
                accept_restored: options.accept_restored,
                retention: options.retention,
                shares: options.shares,
                log_policy: options.log_upload.into(),
            },
            Engines::new(scripts),
        )?;
        let (stopping, told) = watch::channel(false);
        let (logs, left) = edge::logs::Logs::new(handle.identity().epoch, Arc::new(kept.clone()));
        let watched = Arc::new(Semaphore::new(bounds::WATCHED_TASKS));
        let edge = Edge { handle: handle.clone(), logs: Arc::new(logs), watched, stopping: told.clone() };
        let (front, health) =
            front::Front::new(edge, Arc::clone(&guard)).await.map_err(|error| Error::Services(error.to_string()))?;
        let accepting = Owned(tokio::spawn(accept::run(listener, front, Arc::clone(&guard), told)));
        let cancels = Owned(tokio::spawn(edge::logs::tell_cancels(handle.clone(), left)));
        let forgetting = Owned(tokio::spawn(logs::forget(handle.pruned(), kept.clone())));
        let sweeping = Owned(tokio::spawn(logs::sweep(handle.clone(), kept)));
        let of_logs = [forgetting, sweeping];
        Ok(Self { addr, guard, handle, shell, health, stopping, accepting, cancels, _of_logs: of_logs })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its URL at that address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", if self.guard.has_tls() { "https" } else { "http" }, self.addr)
    }

    /// Reads certificates and token again. New connections use the new certificates, and every call from now on the new token;
    /// connections that are open stay. When anything is wrong, all stays as it was.
    ///
    /// # Errors
    /// A file cannot be used.
    pub async fn reload(&self) -> Result<(), Error> {
        let guard = Arc::clone(&self.guard);
        let reloaded = tokio::task::spawn_blocking(move || guard.reload()).await;
        Ok(reloaded.map_err(|error| Error::Failed(format!("reading the certificates ended early: {error}")))??)
    }

    /// A way to its shell, for an informer embedded in another program.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Completes when it cannot go on (the store failed); never otherwise. The caller should exit then.
    pub async fn failed(&self) -> Error {
        Error::Failed(self.shell.stopped().await)
    }

    /// Ends it in order. Open requests have a few seconds to finish; sidecars keep their tasks running.
    pub async fn stop(mut self) {
        front::announce_stop(&self.health).await;
        self.stopping.send_replace(true);
        // An error is a panic in the loop, which the panic hook has told.
        let _ = (&mut self.accepting.0).await;
        drop(self.cancels);
        self.shell.stop().await;
    }
}

/// Lets this process have as many files open as it may, for each connection is one: shells start programs with room for 1,024. Says so in
/// the log if even that is less than the connections that are taken. Processes started afterwards inherit it; so this is for a
/// program that is an informer and starts nothing else, and it is not done unasked.
pub fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // With less than it could have it still serves; what it has is told below.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let wanted = (accept::CONNECTIONS + OTHER_FILES) as u64;
    if let Some(files) = getrlimit(Resource::Nofile).current.filter(|files| *files < wanted) {
        tracing::info!(
            files,
            wanted,
            "at most so many files may be open; with more connections than that, new ones wait"
        );
    }
}

/// Opening may read the whole file, or bring it to a newer schema; that may take seconds, which no runtime thread should be held for.
async fn open(data: PathBuf, restored: bool) -> Result<(Sqlite, blobs::Dir), Error> {
    let open = move || -> Result<_, Error> {
        // Before anything is made in it.
        blobs::Dir::check(&data)?;
        let store = if restored { Sqlite::open_restored(&data)? } else { Sqlite::open(&data)? };
        // The store's lock is on the whole directory.
        Ok((store, blobs::Dir::open(&data)?))
    };
    let opened = tokio::task::spawn_blocking(open).await;
    opened.map_err(|error| Error::Failed(format!("opening the store ended early: {error}")))?
}

async fn bind(listen: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(listen).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => Error::InUse { listen },
        _ => Error::Bind { listen, source },
    })
}
