//! Starting `crun`: where it is, whether it works here, and the moment before it takes over.

use super::{BUNDLE, argv, bundle};
use crate::exec::Plan;
use proto::id::{AttemptId, Fence, TaskId};
use proto::v1;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;
use std::{env, fs, io};

/// A container of `true` takes some 50 ms; a machine on which it takes this long would not run tasks in them either.
const PROBE: Duration = Duration::from_secs(10);
/// Where a hybrid machine mounts what of cgroup v2 it has beside v1.
const UNIFIED: &str = "/sys/fs/cgroup/unified";

/// The `crun` of this machine, if it has one and a container of its own programs can be run: once, before the sidecar says what
/// kinds of task it takes. Without one, nothing is started.
pub async fn probe(exe: &Path, scratch: &Path) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let crun = env::split_paths(&path).map(|dir| dir.join("crun")).find(|path| path.is_file())?;
    let works = run_true(exe, &crun, scratch).await;
    let _absent = fs::remove_dir_all(scratch);
    match works {
        Ok(()) => Some(crun),
        Err(why) => {
            tracing::warn!(crun = %crun.display(), why, "crun cannot run a container here, so no container tasks are taken");
            None
        }
    }
}

async fn run_true(exe: &Path, crun: &Path, scratch: &Path) -> Result<(), String> {
    let _absent = fs::remove_dir_all(scratch);
    let container = v1::Container { image: "/".to_owned(), argv: vec!["true".to_owned()], ..v1::Container::default() };
    let plan = Plan {
        attempt: AttemptId { task: TaskId::from_u128(0), number: 0 },
        fence: Fence { epoch: 0, n: 0 },
        task_name: "probe",
        spec: &v1::TaskSpec::default(),
        item: None,
        data_dir: scratch,
        exe,
        crun: Some(crun),
        base_env: &[],
        fence_grace_ms: 0,
    };
    let dir = scratch.join(keeper::record::ATTEMPTS).join(plan.attempt.dir_name());
    for path in bundle::writable(&dir) {
        fs::create_dir_all(&path).map_err(|error| format!("cannot make {}: {error}", path.display()))?;
    }
    bundle::write(&plan, &container, &dir)?;
    let name = format!("probe-{}", std::process::id());
    let argv = argv(exe, crun, &dir.join(BUNDLE), &name).map_err(|error| error.to_string())?;
    let mut command = tokio::process::Command::new(&argv[0]);
    command.args(&argv[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let done = tokio::time::timeout(PROBE, command.output()).await;
    let output = done.map_err(|_| "it does not end".to_owned())?.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
}

/// `sidecar exec-container crun ARG…`: becomes `crun`, so that signals and exit code are its own.
#[must_use]
pub fn main(crun: &Path, args: &[String]) -> ExitCode {
    if let Err(error) = hide_hybrid() {
        eprintln!("sidecar: cannot hide {UNIFIED}, without which crun does not work here: {error}");
        return ExitCode::FAILURE;
    }
    let error = Command::new(crun).args(args).exec();
    eprintln!("sidecar: cannot run {}: {error}", crun.display());
    ExitCode::FAILURE
}

/// `crun` refuses machines that have some controllers in cgroup v1 and some in v2, although it is told to leave cgroups alone.
/// It does not see the second if that is not mounted where it lives.
fn hide_hybrid() -> io::Result<()> {
    use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
    let controllers = fs::read_to_string(Path::new(UNIFIED).join("cgroup.controllers")).unwrap_or_default();
    if controllers.trim().is_empty() {
        return Ok(());
    }
    enter_mount_namespace()?;
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    Ok(unmount(UNIFIED, UnmountFlags::DETACH)?)
}

#[allow(
    unsafe_code,
    reason = "a namespace of mounts is entered by a system call that rustix calls unsafe for other flags"
)]
fn enter_mount_namespace() -> io::Result<()> {
    // SAFETY: with NEWNS alone no descriptor table is unshared, which is what the call is unsafe for.
    Ok(unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?)
}
