//! A command: the argv as it is.

use super::{Error, Process};
use proto::v1;

pub(super) fn process(command: &v1::Command) -> Result<Process, Error> {
    if command.argv.is_empty() {
        return Err(Error::EmptyArgv { kind: "command" });
    }
    Ok(Process { argv: command.argv.clone(), files: Vec::new() })
}
