//! `informer script-host`: a process for users' scripts. The informer starts it; it is of no use to anybody else.

use std::io::{self, Write as _};

use super::exit;
use crate::scripts;

/// Serves on the socket that is its stdin. The informer reads the line on stderr, and tells it to whoever gave the script.
pub(crate) fn run(args: scripts::HostArgs) -> u8 {
    match scripts::serve_as_host(args) {
        Ok(()) => 0,
        Err(error) => {
            drop(writeln!(io::stderr(), "{error}"));
            exit::FAILURE
        }
    }
}
