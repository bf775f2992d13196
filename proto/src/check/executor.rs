//! Registered executors: how tasks of one type are run.

use super::{Faults, files, kind, shown};
use crate::bounds;
use crate::v1::{self, executor::Mode};

/// Time between two polls of a remote service unless it says otherwise, ms.
const POLL_MS: u64 = 1_000;
/// Shortest time between two polls, ms: below, the polls are the load.
const POLL_LEAST_MS: u64 = 50;

/// Checks an executor that somebody wants to register and fills in its defaults.
///
/// # Errors
/// All that is wrong with it.
pub fn executor(mut executor: v1::Executor) -> Result<v1::Executor, Faults> {
    let mut faults = Faults::default();
    type_name("executor.type", &executor.r#type, &mut faults);
    faults.text("executor.description", &executor.description);
    match &mut executor.mode {
        None => faults.add("executor.mode", "it says nothing to run", "give one of command, service or embedded"),
        Some(Mode::Command(command)) => kind::argv("executor.command.argv", &command.argv, &mut faults),
        Some(Mode::Embedded(_)) => {}
        Some(Mode::Service(service)) => {
            faults.argument("executor.service.url", &service.url);
            if !files::is_url(&service.url) {
                let problem = format!("{} is no URL", shown(&service.url));
                faults.add("executor.service.url", problem, "use http://host:port/path");
            }
            if service.poll_ms == 0 {
                service.poll_ms = POLL_MS;
            }
            if !(POLL_LEAST_MS..=bounds::DURATION_MS).contains(&service.poll_ms) {
                let remedy = format!("use {POLL_LEAST_MS} ms to 365 days");
                faults.add("executor.service.poll_ms", format!("{} ms is out of range", service.poll_ms), remedy);
            }
        }
    }
    executor.id.clear();
    executor.registered_unix_ms = 0;
    faults.into_result()?;
    Ok(executor)
}

/// A type: what a task names, and a sidecar announces.
pub(super) fn type_name(field: &str, name: &str, faults: &mut Faults) {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > bounds::NAME_BYTES || !name.bytes().all(fits) {
        let remedy = format!("use 1 to {} of the characters A-Z a-z 0-9 . _ -", bounds::NAME_BYTES);
        faults.add(field, format!("{} is no name of a type", shown(name)), remedy);
    }
}
