//! The environment of a task: its own variables over an allow-list of the sidecar's, and ours over both.

use super::{Error, Plan, result, utf8};
use std::{collections::BTreeMap, path::Path};

/// Variables that a task inherits from the sidecar. An allow-list, so that the sidecar's secrets (tokens, proxies with passwords)
/// never reach a user's process by accident.
const INHERITED: [&str; 8] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR"];

/// The `PATH` of a sidecar that has none, as systemd starts it.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a task inherits from this process: path, home, user, shell, language, time zone and temporary
/// directory, where set and UTF-8; always a `PATH`.
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
    let socket = utf8(&std::path::absolute(plan.data_dir).map_err(Error::DataDir)?.join(Path::new("sidecar.sock")))?;
    // Last, so that a task cannot pass itself off as another.
    env.extend(ours(plan));
    env.insert("SIDECAR_SOCKET".to_owned(), socket);
    env.insert("TASK_OUTPUTS".to_owned(), utf8(&plan.outputs_dir()?)?);
    env.insert(result::VARIABLE.to_owned(), utf8(&plan.work_dir()?.join(result::FILE))?);
    // TASK_DIR is the monitor's word; one of the task's own would stand before it.
    env.remove("TASK_DIR");
    Ok(env.into_iter().collect())
}

/// The environment inside a container: nothing of the sidecar's own, whose paths mean nothing there.
pub(super) fn in_container(plan: &Plan<'_>, task_dir: &str, task_outputs: &str) -> BTreeMap<String, String> {
    let given = [("PATH", PATH_DEFAULT), ("HOME", "/")];
    let mut env: BTreeMap<String, String> =
        given.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    env.extend(plan.spec.env.iter().map(|(name, value)| (name.clone(), value.clone())));
    env.extend(ours(plan));
    env.insert("TASK_DIR".to_owned(), task_dir.to_owned());
    env.insert("TASK_OUTPUTS".to_owned(), task_outputs.to_owned());
    env.insert(result::VARIABLE.to_owned(), format!("{task_dir}/{}", result::FILE));
    env
}

/// Who the attempt is.
fn ours(plan: &Plan<'_>) -> BTreeMap<String, String> {
    let task = plan.attempt.task;
    let mut env = BTreeMap::from([
        ("INFORMER_TASK_ID", task.to_string()),
        ("INFORMER_TASK_NAME", plan.task_name.to_owned()),
        ("INFORMER_ATTEMPT", plan.attempt.number.to_string()),
        ("INFORMER_FENCE", format!("{}.{}", plan.fence.epoch, plan.fence.n)),
    ]);
    if let (Some(array), Some(index)) = (task.array(), task.index()) {
        env.insert("INFORMER_ARRAY_ID", array.to_string());
        env.insert("INFORMER_ARRAY_INDEX", index.to_string());
    }
    if let Some(item) = plan.item {
        env.insert("INFORMER_ARRAY_ITEM", item.to_owned());
    }
    env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
