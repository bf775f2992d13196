//! Where an informer of this machine listens, keeps its data and logs: what `serve` and `dev` share.

use std::{
    env, io,
    io::IsTerminal as _,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use proto::bounds;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::{error::Error, units};
use crate::server::{LEASE_BEATS, Options, Server};

/// Where an informer listens unless told otherwise.
pub(crate) const LISTEN: &str = "127.0.0.1:7070";
/// What is logged, as directives of `tracing`.
const LOG: &str = "INFORMER_LOG";

/// Flags of an informer on this machine.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Place {
    /// Listen here; port 0 takes a free one [default: 127.0.0.1:7070]
    #[arg(long, value_name = "ADDR:PORT", env = "INFORMER_LISTEN", value_parser = listen)]
    pub(crate) listen: Option<SocketAddr>,
    /// Keep everything below this directory [default: below $XDG_STATE_HOME, or ~/.local/state]
    #[arg(long, value_name = "DIR", env = "INFORMER_DATA")]
    pub(crate) data: Option<PathBuf>,
    /// Beat interval of the sidecars [default: 5s]
    #[arg(long, value_name = "D", env = "INFORMER_BEAT", value_parser = beat)]
    pub(crate) beat: Option<u64>,
    /// Missed beats after which a sidecar is lost [default: 3]
    #[arg(long, value_name = "N", env = "INFORMER_LEASE_BEATS", value_parser = clap::value_parser!(u64).range(LEASE_BEATS))]
    pub(crate) lease_beats: Option<u64>,
    /// Longest time between the end of a lease and SIGKILL [default: 5s]
    #[arg(long, value_name = "D", env = "INFORMER_FENCE_GRACE", value_parser = fence_grace)]
    pub(crate) fence_grace: Option<u64>,
}

/// An address to listen on.
pub(crate) fn listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not ADDRESS:PORT; write one like {LISTEN}"))
}

fn beat(text: &str) -> Result<u64, String> {
    units::duration_within(text, &bounds::BEAT_RANGE_MS)
}

fn fence_grace(text: &str) -> Result<u64, String> {
    units::duration_within(text, &(0..=bounds::DURATION_MS))
}

/// What is wrong with the variables that no flag stands for.
pub(crate) fn variable_faults() -> Vec<String> {
    let log = env::var(LOG).ok().and_then(|text| directives(&text).err());
    log.map(|problem| format!("{LOG}: {problem}")).into_iter().collect()
}

impl Place {
    /// The informer's options; its data in `folder` of the directory.
    pub(crate) fn options(&self, data: PathBuf) -> Result<Options, Error> {
        let listen = match self.listen {
            Some(listen) => listen,
            None => listen(LISTEN).map_err(Error::Misuse)?,
        };
        let mut options = Options::new(listen, data);
        options.beat_ms = self.beat.unwrap_or(bounds::BEAT_MS);
        options.lease_beats = self.lease_beats.unwrap_or(bounds::BEATS_PER_LEASE);
        options.fence_grace_ms = self.fence_grace.unwrap_or(bounds::FENCE_GRACE_MS);
        Ok(options)
    }

    /// The directory, absolute: children are told it.
    pub(crate) fn data(&self, default: &str) -> Result<PathBuf, Error> {
        let data = match &self.data {
            Some(data) => data.clone(),
            None => state_home(&|name| env::var_os(name).map(PathBuf::from))
                .ok_or_else(|| {
                    Error::Misuse("there is no home directory to keep data in; name one with --data".into())
                })?
                .join(default),
        };
        std::path::absolute(&data).map_err(|source| Error::Local {
            attempted: format!("use {} as data directory", data.display()),
            source,
            remedy: "; name another with --data",
        })
    }
}

/// `$XDG_STATE_HOME`, or `~/.local/state`. Relative paths are invalid there, says its specification.
fn state_home(variable: &dyn Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |path: &PathBuf| path.is_absolute();
    variable("XDG_STATE_HOME")
        .filter(absolute)
        .or_else(|| variable("HOME").filter(absolute).map(|home| home.join(".local/state")))
}

/// What is logged unless told otherwise.
pub(crate) const LOG_DEFAULT: &str = "info";

/// What is logged, as a text says it.
pub(crate) fn directives(text: &str) -> Result<EnvFilter, String> {
    text.parse()
        .map_err(|error| format!("{text:?} says nothing about logs ({error}); write one like info or informer=debug"))
}

/// Logs to stderr, as INFORMER_LOG says, else as `configured`.
///
/// # Errors
/// The directives cannot be read.
pub(crate) fn log(configured: Option<&str>) -> Result<(), Error> {
    let filter = match env::var(LOG) {
        Ok(text) => directives(&text).map_err(|problem| Error::Misuse(format!("{LOG}: {problem}")))?,
        Err(_) => directives(configured.unwrap_or(LOG_DEFAULT)).map_err(Error::Misuse)?,
    };
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // A second subscriber is only possible when this library is embedded; the first one stays.
    drop(subscriber.with_ansi(io::stderr().is_terminal()).try_init());
    Ok(())
}

/// Starts an informer, as an error of ours.
pub(crate) async fn start(options: Options) -> Result<Server, Error> {
    use crate::server::Error as Cause;
    Server::start(options).await.map_err(|cause| match cause {
        Cause::Option { .. } | Cause::Open { .. } | Cause::Half | Cause::OnlyAuthority | Cause::Security(_) => {
            Error::Misuse(cause.to_string())
        }
        cause => Error::Server(cause.to_string()),
    })
}

/// Says on stdout that it answers, and where. Scripts wait for this line. One that has read it and left must not take the server with
/// it, nor must one that never listened. The start is over then, and its memory goes.
pub(crate) fn ready(url: &str, data: &Path) -> Result<(), Error> {
    crate::rest::after_start();
    match super::print(&format!("listening on {url}\ndata in {}", data.display())) {
        Err(error) if error.is_broken_pipe() => Ok(()),
        told => told,
    }
}

/// SIGTERM and Ctrl-C.
pub(crate) struct Stops {
    terminate: Signal,
    interrupt: Signal,
}

impl Stops {
    /// From here on, these signals end nothing by themselves.
    pub(crate) fn new() -> Result<Self, Error> {
        let catch = |kind| {
            signal(kind).map_err(|source| Error::Local { attempted: "listen for signals".into(), source, remedy: "" })
        };
        Ok(Self { terminate: catch(SignalKind::terminate())?, interrupt: catch(SignalKind::interrupt())? })
    }

    /// Waits for the next of them. Cancelling loses none.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for the next Ctrl-C alone.
    pub(crate) async fn interrupted(&mut self) {
        self.interrupt.recv().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_directory_follows_the_specification() {
        let with = |xdg: Option<&'static str>, home: Option<&'static str>| {
            state_home(&move |name| if name == "HOME" { home } else { xdg }.map(PathBuf::from))
        };
        assert_eq!(with(Some("/x"), Some("/h")), Some("/x".into()));
        assert_eq!(with(Some("relative"), Some("/h")), Some("/h/.local/state".into()));
        assert_eq!(with(None, Some("/h")), Some("/h/.local/state".into()));
        assert_eq!(with(None, None), None);
    }

    #[test]
    fn addresses_to_listen_on_are_checked() {
        assert!(listen("127.0.0.1:0").is_ok() && listen("[::1]:7070").is_ok());
        for text in ["7070", "localhost", "http://127.0.0.1:7070", "127.0.0.1:99999", ""] {
            assert!(listen(text).is_err(), "{text}");
        }
    }

    #[test]
    fn flags_override_the_defaults() {
        let place = Place { beat: Some(1_000), ..Place::default() };
        let options = place.options("/d".into()).expect("options");
        assert_eq!((options.beat_ms, options.lease_beats, options.fence_grace_ms), (1_000, 3, 5_000));
        assert_eq!((options.listen.to_string().as_str(), options.data), (LISTEN, PathBuf::from("/d")));
    }
}
