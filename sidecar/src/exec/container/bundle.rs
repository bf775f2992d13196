//! The bundle of a container: its root, put together of mounts, and `config.json` of the OCI runtime specification 1.0.

use super::{BUNDLE, TASK_DIR, TASK_OUTPUTS, user};
use crate::exec::{Plan, environment, outputs};
use proto::v1::{self, container::Network};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Directories of the root that are never the image's.
const OURS: [&str; 6] = ["proc", "sys", "dev", "tmp", "task", "outputs"];

/// Entries of an image's root: a root file system has some twenty, and each becomes a mount.
const ENTRIES: usize = 256;

/// What a container's processes may do, as other runtimes have it by default.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Kernel files that would tell a container about its host, or take the host down.
const MASKED: [&str; 9] = [
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Writes the bundle of a container below `dir`, a directory that will be the attempt's. Blocking.
///
/// # Errors
/// One line: what of the task's is not there, or what could not be written.
pub(crate) fn write(plan: &Plan<'_>, container: &v1::Container, dir: &Path) -> Result<(), String> {
    let home = plan.attempt_dir().map_err(|error| error.to_string())?;
    let mut mounts = image(container, &dir.join(BUNDLE).join("rootfs"))?;
    mounts.extend(kernel());
    mounts.push(bind(&home.join("work"), TASK_DIR, true));
    mounts.push(bind(&home.join(outputs::DIR), TASK_OUTPUTS, true));
    for mount in &container.mounts {
        check(container, mount)?;
        mounts.push(bind(Path::new(&mount.source), &mount.target, mount.writable));
    }
    let config = config(plan, container, &home.join(BUNDLE).join("rootfs"), mounts);
    let path = dir.join(BUNDLE).join("config.json");
    fs::write(&path, config.to_string()).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// The root, and the mounts that fill it with the image.
fn image(container: &v1::Container, root: &Path) -> Result<Vec<Value>, String> {
    let made = |error: io::Error| format!("cannot make the container's root {}: {error}", root.display());
    fs::create_dir_all(root).map_err(made)?;
    let failed = |error: io::Error| format!("container image {}: {error}", container.image);
    let mut mounts = Vec::new();
    for (count, entry) in fs::read_dir(&container.image).map_err(failed)?.enumerate() {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if OURS.contains(&name.as_str()) {
            continue;
        }
        if count >= ENTRIES {
            return Err(format!(
                "container image {}: more than {ENTRIES} entries are no root directory",
                container.image
            ));
        }
        let (kind, here) = (entry.file_type().map_err(failed)?, root.join(&name));
        if kind.is_symlink() {
            let target = fs::read_link(entry.path()).map_err(failed)?;
            std::os::unix::fs::symlink(target, here).map_err(made)?;
            continue;
        }
        if kind.is_dir() {
            fs::create_dir(here).map_err(made)?;
        } else if kind.is_file() {
            fs::write(here, "").map_err(made)?;
        } else {
            continue;
        }
        mounts.push(bind(&entry.path(), &format!("/{name}"), false));
    }
    Ok(mounts)
}

/// A mount that `crun` could not make is told in words before it tries.
fn check(container: &v1::Container, mount: &v1::container::Mount) -> Result<(), String> {
    let found = fs::metadata(&mount.source).map_err(|error| format!("container mount {}: {error}", mount.source))?;
    let target = Path::new(mount.target.trim_start_matches('/'));
    let mut parts = target.components();
    let first = parts.next().map(|part| part.as_os_str().to_owned()).unwrap_or_default();
    let in_image = !OURS.iter().any(|name| *name == first) && Path::new(&container.image).join(&first).exists();
    let there = fs::symlink_metadata(Path::new(&container.image).join(target));
    match there {
        Ok(there) if in_image && there.is_dir() != found.is_dir() && !there.is_symlink() => Err(format!(
            "container mount {}: one of source and target is a directory and the other is not",
            mount.target
        )),
        Err(_) if in_image => Err(format!(
            "container mount {}: the image has no such path and is not written; make it there, or use a target outside of /{}",
            mount.target,
            first.display()
        )),
        _ => Ok(()),
    }
}

fn bind(source: &Path, target: &str, writable: bool) -> Value {
    let access = if writable { "rw" } else { "ro" };
    json!({ "destination": target, "type": "bind", "source": source, "options": ["bind", access, "rprivate"] })
}

fn kernel() -> Vec<Value> {
    let mount = |target: &str, kind: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": kind, "options": options });
    vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
        mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        // Memory of the task's, and counted as such.
        mount("/tmp", "tmpfs", &["nosuid", "nodev", "mode=1777"]),
    ]
}

fn config(plan: &Plan<'_>, container: &v1::Container, root: &Path, mounts: Vec<Value>) -> Value {
    let (uid, gid) = user(container);
    let cwd = if plan.spec.cwd.is_empty() { TASK_DIR } else { &plan.spec.cwd };
    let env: Vec<String> = environment::in_container(plan, TASK_DIR, TASK_OUTPUTS)
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mut spaces = BTreeSet::from(["pid", "ipc", "uts", "mount"]);
    if container.network() != Network::Host {
        spaces.insert("network");
    }
    let spaces: Vec<Value> = spaces.into_iter().map(|kind| json!({ "type": kind })).collect();
    json!({
        "ociVersion": "1.0.0",
        "process": {
            "terminal": false,
            "user": { "uid": uid, "gid": gid },
            "args": container.argv,
            "env": env,
            "cwd": cwd,
            "capabilities": {
                "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
            },
            "noNewPrivileges": true,
        },
        "root": { "path": root, "readonly": true },
        "hostname": "container",
        "mounts": mounts,
        "linux": { "namespaces": spaces, "maskedPaths": MASKED, "readonlyPaths": READ_ONLY },
    })
}

/// The paths below an attempt's directory that the container's user must be able to write.
pub(crate) fn writable(dir: &Path) -> [PathBuf; 2] {
    [dir.join("work"), dir.join(outputs::DIR)]
}
