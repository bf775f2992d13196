//! A service: a command that is meant to stay. Health and restarts are the agent's and the informer's affair.

use super::{Error, Process};
use proto::v1;

pub(super) fn process(service: &v1::Service) -> Result<Process, Error> {
    if service.argv.is_empty() {
        return Err(Error::EmptyArgv { kind: "service" });
    }
    Ok(Process { argv: service.argv.clone(), files: Vec::new() })
}
