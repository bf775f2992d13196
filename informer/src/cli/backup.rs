//! `informer backup`: a copy of this machine's informer's data, also while it runs.

use std::path::PathBuf;

use super::{error::Error, place::Place, text};
use crate::backup;

/// Arguments of `backup`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory to make; it must not be there
    #[arg(value_name = "DEST")]
    dest: PathBuf,
    /// The informer's data directory [default: below $XDG_STATE_HOME, or ~/.local/state]
    #[arg(long, value_name = "DIR", env = "INFORMER_DATA")]
    data: Option<PathBuf>,
    /// Leave the kept logs of ended tasks out
    #[arg(long)]
    without_logs: bool,
}

pub(crate) fn run(args: Args) -> Result<u8, Error> {
    let place = Place { data: args.data, ..Place::default() };
    let (data, dest) = (place.data("informer")?, args.dest);
    let made = backup::make(&data, &dest, !args.without_logs)
        .map_err(|error| Error::Server(format!("cannot back up {} to {}: {error}", data.display(), dest.display())))?;
    let logs = match made.logs {
        Some(copied) => format!("{} kept logs ({})", copied.logs, text::size(copied.bytes)),
        None => "no logs".to_owned(),
    };
    let database = text::size(made.database_bytes);
    super::print(&format!("{}: {}, database ({database}), {logs}", dest.display(), made.reached))?;
    Ok(0)
}
