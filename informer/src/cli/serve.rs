//! `informer serve`: an informer, until SIGTERM or Ctrl-C.

use std::path::PathBuf;

use serde::Deserialize;

use crate::server::Options;

use super::{
    error::Error,
    file,
    place::{self, Place, Stops},
    units::Millis,
};

/// Largest configuration file, in bytes; it has five keys.
const CONFIG_BYTES: u64 = 64 << 10;

/// Arguments of `serve`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Read these settings from a TOML file: listen, data, beat, lease_beats, fence_grace; flags override it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// After restoring an older backup: start exclusive tasks at once. You vouch that no copy runs which the backup does not know;
    /// without this flag they wait for the longest lease
    #[arg(long)]
    accept_restored: bool,
    #[command(flatten)]
    place: Place,
}

/// The configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    listen: Option<String>,
    data: Option<PathBuf>,
    beat: Option<Millis>,
    lease_beats: Option<u64>,
    fence_grace: Option<Millis>,
}

pub(crate) async fn run(args: Args) -> Result<u8, Error> {
    let accept_restored = args.accept_restored;
    let place = args.place()?;
    let data = place.data("informer")?;
    place::log()?;
    let mut stops = Stops::new()?;
    let options = Options { accept_restored, ..place.options(data.clone())? };
    let server = place::start(options).await?;
    place::ready(server.addr(), &data)?;
    let failed = tokio::select! {
        cause = server.failed() => Some(cause),
        () = stops.next() => None,
    };
    server.stop().await;
    failed.map_or(Ok(0), |cause| Err(Error::Server(cause.to_string())))
}

impl Args {
    /// The flags, over what the file says.
    fn place(self) -> Result<Place, Error> {
        let Some(path) = &self.config else { return Ok(self.place) };
        let config: Config = file::from_toml(path, &file::read_bounded(path, CONFIG_BYTES)?)?;
        let listen = config.listen.map(|text| {
            place::listen(&text).map_err(|problem| Error::Misuse(format!("{}: listen: {problem}", path.display())))
        });
        // A relative directory is relative to the file that names it, wherever the informer is started.
        let folder = path.parent().map(PathBuf::from).unwrap_or_default();
        Ok(Place {
            listen: self.place.listen.or(listen.transpose()?),
            data: self.place.data.or(config.data.map(|data| folder.join(data))),
            beat: self.place.beat.or(config.beat.map(|beat| beat.0)),
            lease_beats: self.place.lease_beats.or(config.lease_beats),
            fence_grace: self.place.fence_grace.or(config.fence_grace.map(|grace| grace.0)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_override_the_file_and_its_mistakes_have_a_line() {
        let path = std::env::temp_dir().join(format!("informer-{}.toml", std::process::id()));
        std::fs::write(&path, "listen = \"127.0.0.1:1\"\ndata = \"d\"\nbeat = \"2s\"\n").expect("a file");
        let flags = Place { beat: Some(7), ..Place::default() };
        let place = Args { config: Some(path.clone()), accept_restored: false, place: flags }.place();
        std::fs::write(&path, "listen = \"127.0.0.1:1\"\nbeet = 3\n").expect("a file");
        let wrong = Args { config: Some(path.clone()), accept_restored: false, place: Place::default() }.place();
        std::fs::remove_file(&path).expect("removed");
        let place = place.expect("a place");
        assert_eq!((place.beat, place.listen.map(|listen| listen.port())), (Some(7), Some(1)));
        assert_eq!(place.data, path.parent().map(|folder| folder.join("d")));
        let wrong = wrong.expect_err("a typo").to_string();
        assert!(wrong.contains(".toml:2: unknown field `beet`"), "{wrong}");
    }
}
