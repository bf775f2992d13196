//! `informer serve`: an informer, until SIGTERM or Ctrl-C. SIGHUP makes it read certificates and token again.

use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};

use crate::{
    config::{self, Config},
    server::{Options, Server},
};

use super::{
    access::Files,
    error::Error,
    place::{self, Place, Stops},
};

/// Arguments of `serve`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Read settings from this TOML file; environment and flags override it. examples/config/informer.toml has them all
    #[arg(long, value_name = "FILE", env = "INFORMER_CONFIG")]
    config: Option<PathBuf>,
    /// For one start: you vouch that no copy of an exclusive (or stop) task runs that this store does not know. They start at once
    /// then: neither for the longest lease after a restored backup, nor for sidecars that have not linked since the start. A copy
    /// that a sidecar tells is waited for all the same. It also takes a database that is older than informer.db-witness beside it,
    /// or has neither its log nor a witness; never one that lies under a log that is not its own
    #[arg(long)]
    accept_restored: bool,
    #[command(flatten)]
    place: Place,
}

impl Args {
    /// What is wrong with the file of settings, if one is named.
    pub(crate) fn file_faults(&self) -> Vec<String> {
        let read = self.config.as_deref().map(config::read);
        read.and_then(Result::err).map(|error| error.lines()).unwrap_or_default()
    }
}

pub(crate) async fn run(args: Args, files: Files) -> Result<u8, Error> {
    let config = args.config.as_deref().map(config::read).transpose()?.unwrap_or_default();
    place::log(config.log.as_deref())?;
    crate::server::raise_open_files();
    let options = options(args, files, config)?;
    let data = options.data.clone();
    let mut stops = Stops::new()?;
    let mut hangups = signal(SignalKind::hangup()).map_err(|source| Error::Local {
        attempted: "listen for signals".into(),
        source,
        remedy: "",
    })?;
    let server = place::start(options).await?;
    place::ready(&server.url(), &data)?;
    let failed = loop {
        tokio::select! {
            cause = server.failed() => break Some(cause),
            () = stops.next() => break None,
            Some(()) = hangups.recv() => reload(&server).await,
        }
    };
    server.stop().await;
    failed.map_or(Ok(0), |cause| Err(Error::Server(cause.to_string())))
}

/// Flags and environment over what the file says.
fn options(args: Args, files: Files, config: Config) -> Result<Options, Error> {
    let place = Place {
        listen: args.place.listen.or(config.listen),
        data: args.place.data.or(config.data),
        beat: args.place.beat.or(config.beat_ms),
        lease_beats: args.place.lease_beats.or(config.lease_beats),
        fence_grace: args.place.fence_grace.or(config.fence_grace_ms),
    };
    let data = place.data("informer")?;
    Ok(Options {
        accept_restored: args.accept_restored,
        security: files.of_server(config.security),
        retention: config.retention,
        log_upload: config.log_upload,
        shares: config.shares,
        ..place.options(data)?
    })
}

async fn reload(server: &Server) {
    match server.reload().await {
        Ok(()) => tracing::info!("certificates and token are read again"),
        Err(error) => tracing::error!(%error, "certificates and token stay as they were"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_override_the_file_and_the_file_the_defaults() {
        let config = Config {
            listen: Some("127.0.0.1:1".parse().expect("an address")),
            data: Some("/data".into()),
            beat_ms: Some(2_000),
            ..Config::default()
        };
        let place = Place { beat: Some(7), ..Place::default() };
        let args = Args { config: None, accept_restored: true, place };
        let options = options(args, Files::default(), config).expect("options");
        assert_eq!((options.beat_ms, options.listen.port(), options.lease_beats), (7, 1, 3));
        assert!(options.accept_restored && options.data == std::path::Path::new("/data"));
    }
}
