//! The environment of a task: its own variables over an allow-list of the sidecar's, and ours over both.

use super::{Error, Plan, utf8};
use std::{collections::BTreeMap, path::Path};

/// Variables that a task inherits from the sidecar. An allow-list, so that the sidecar's secrets (tokens, proxies with passwords)
/// never reach a user's process by accident.
const INHERITED: [&str; 8] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR"];

/// The `PATH` of a sidecar that has none, as systemd starts it.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a task inherits from this process: [`INHERITED`] and the `LC_*` variables, where set and UTF-8; always a `PATH`.
#[must_use]
pub fn base_env() -> Vec<(String, String)> {
    let mut env: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| INHERITED.contains(&name.as_str()) || name.starts_with("LC_"))
        .collect();
    env.entry("PATH".to_owned()).or_insert_with(|| PATH_DEFAULT.to_owned());
    env.into_iter().collect()
}

/// The whole environment of an attempt except `TASK_DIR`, which the monitor appends.
pub(super) fn of(plan: &Plan<'_>) -> Result<Vec<(String, String)>, Error> {
    let mut env: BTreeMap<String, String> = plan.base_env.iter().cloned().collect();
    env.extend(plan.spec.env.iter().map(|(name, value)| (name.clone(), value.clone())));
    let work = utf8(&plan.work_dir()?)?;
    let socket = utf8(&std::path::absolute(plan.data_dir).map_err(Error::DataDir)?.join(Path::new("sidecar.sock")))?;
    // Last, so that a task cannot pass itself off as another.
    env.insert("INFORMER_TASK_ID".to_owned(), plan.attempt.task.to_string());
    env.insert("INFORMER_TASK_NAME".to_owned(), plan.task_name.to_owned());
    env.insert("INFORMER_ATTEMPT".to_owned(), plan.attempt.number.to_string());
    env.insert("INFORMER_FENCE".to_owned(), format!("{}.{}", plan.fence.epoch, plan.fence.n));
    env.insert("SIDECAR_SOCKET".to_owned(), socket);
    // The attempt's own directory: private to the attempt, there before the process, removed with it.
    env.insert("TASK_OUTPUTS".to_owned(), work);
    // TASK_DIR is the monitor's word; one of the task's own would stand before it.
    env.remove("TASK_DIR");
    Ok(env.into_iter().collect())
}
