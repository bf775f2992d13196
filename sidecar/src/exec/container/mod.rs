//! A container: a process with an image directory for its root, through `crun`.
//!
//! ```text
//! prepared ─▶ bundle/{config.json, rootfs/}   outputs/   work/
//! monitor ─ sidecar exec-container crun run ─ execve ─▶ crun ─▶ the container's first process
//!                                                        │  passes signals on, ends with its exit code (128 + n for a signal)
//!           limits, OOM, sweep: those of every attempt ◀─┘  (`--cgroup-manager=disabled`: it stays in the monitor's cgroup)
//! ```
//!
//! The image is not written, not even to make a mount point in it: the root is a directory of the attempt's own in which each
//! entry of the image is mounted read-only. `crun` keeps its state in the bundle, so whatever ends the attempt, the state goes
//! with its directory, and nothing is ever signalled by a pid that `crun` has written down.

mod bundle;
mod launch;

pub use launch::{main, probe};

pub(crate) use bundle::{writable, write as write_bundle};

use super::{Error, Plan, Process, utf8};
use proto::v1;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Where the container finds the attempt's own directory.
const TASK_DIR: &str = "/task";
/// Where the container leaves its outputs.
const TASK_OUTPUTS: &str = "/outputs";
/// The bundle, in the attempt's directory.
pub(crate) const BUNDLE: &str = "bundle";

/// What `crun` itself complains of, in the bundle: nothing of the container's can write there, so that a program that ends with the
/// same exit code is never taken for one that did not start.
const COMPLAINT: &str = "crun.log";
/// Bytes of a complaint that are read.
const COMPLAINT_BYTES: u64 = 4096;

/// Why `crun` could not start the container's first process; `None` if it did.
pub(super) fn complaint(attempt_dir: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    let file = File::open(attempt_dir.join(BUNDLE).join(COMPLAINT)).ok()?;
    file.take(COMPLAINT_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim().to_owned()).filter(|text| !text.is_empty())
}

/// The `crun` that becomes the container's first process.
pub(super) fn process(plan: &Plan<'_>) -> Result<Process, Error> {
    let crun = plan.crun.ok_or(Error::NoCrun)?;
    let bundle = plan.attempt_dir()?.join(BUNDLE);
    Ok(Process { argv: argv(plan.exe, crun, &bundle, &plan.attempt.dir_name())?, files: Vec::new() })
}

fn argv(exe: &Path, crun: &Path, bundle: &Path, name: &str) -> Result<Vec<String>, Error> {
    Ok(vec![
        utf8(exe)?,
        "exec-container".to_owned(),
        utf8(crun)?,
        "--cgroup-manager=disabled".to_owned(),
        format!("--log=file:{}", utf8(&bundle.join(COMPLAINT))?),
        "--root".to_owned(),
        utf8(&bundle.join("state"))?,
        "run".to_owned(),
        "--bundle".to_owned(),
        utf8(bundle)?,
        name.to_owned(),
    ])
}

/// The user and group of the container's first process; checked at the edge, so what is no number is root of a test.
pub(crate) fn user(container: &v1::Container) -> (u32, u32) {
    let (user, group) = container.user.split_once(':').unwrap_or((&container.user, "0"));
    (user.parse().unwrap_or(0), group.parse().unwrap_or(0))
}
