//! Whether the keeper that runs is the one beside this sidecar, and what is done if it is not.
//!
//! ```text
//! Welcome ─▶ the same file, or it cannot be told ─▶ serve
//!        └─▶ another file: does it run, and speak our protocol?
//!              ├─ yes ─▶ the keeper is asked, once for each file, to become it; tasks run on under their monitors
//!              └─ no  ─▶ serve, and say so
//! A keeper whose protocol is not spoken here serves nobody: where the above says serve, it is an error that says what to replace.
//! ```
//!
//! The executables are told apart by device and inode: a file that a process runs cannot be written, only replaced by another one, and
//! its number is not given away before. So a keeper is upgraded by whatever replaced its file, newer or older, and by nothing else.

use keeper::launch;
use keeper::wire::{Request, VERSION, is_spoken};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// A keeper says its version within milliseconds; one that has not by now will not keep anything either.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// The protocol of keepers that do not know `--version`; they end with [`MISUSE`].
const UNTOLD_VERSION: u32 = 1;
/// Exit status of a keeper that does not know an argument.
const MISUSE: i32 = 2;

/// An executable, as the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Image {
    dev: u64,
    ino: u64,
}

impl Image {
    fn at(path: impl AsRef<Path>) -> Option<Self> {
        std::fs::metadata(path).ok().map(|meta| Self { dev: meta.dev(), ino: meta.ino() })
    }

    /// What a keeper runs; `None` if that process is not seen from here, or is no keeper.
    fn of(pid: u32) -> Option<Self> {
        let name = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
        if name == b"keeper\n" { Self::at(format!("/proc/{pid}/exe")) } else { None }
    }
}

/// What is done with a keeper that was met.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is worked with.
    Serve,
    /// It is asked to become the one beside this sidecar.
    Ask(Request),
    /// It cannot be worked with, and there is nothing better.
    Stuck,
}

/// The keeper's executable beside this sidecar, and which of its files a keeper was asked to become.
#[derive(Debug)]
pub(super) struct Upgrade {
    exe: PathBuf,
    asked: Option<Image>,
}

impl Upgrade {
    pub(super) fn new(exe: PathBuf) -> Self {
        Self { exe, asked: None }
    }

    /// Looks at a keeper that has said its version and pid.
    pub(super) async fn look(&mut self, version: u32, pid: u32) -> Verdict {
        let running = Image::of(pid);
        let beside = Image::at(&self.exe);
        if running.is_some() && running == beside {
            if self.asked == beside {
                tracing::info!(pid, exe = %self.exe.display(), "the keeper was upgraded in place");
            }
            return serve_if(is_spoken(version));
        }
        // One that is not seen from here can only be told by what it speaks.
        if running.is_none() && is_spoken(version) {
            return Verdict::Serve;
        }
        let exe = self.exe.display();
        if beside.is_none() || self.asked == beside {
            tracing::warn!(pid, %exe, "the running keeper did not become the one beside this sidecar; keeper.log says why");
            return serve_if(is_spoken(version));
        }
        match self.candidate().await {
            Ok(request) => {
                tracing::info!(pid, %exe, "the running keeper is another build: it becomes the one beside this sidecar");
                self.asked = beside;
                Verdict::Ask(request)
            }
            Err(why) => {
                tracing::warn!(pid, %exe, why, "the running keeper is another build, and the one beside this sidecar cannot take its place");
                serve_if(is_spoken(version))
            }
        }
    }

    /// The request to become the executable beside this sidecar, if that would be of use. Tried first, because a keeper that became
    /// something that does not run would be gone.
    async fn candidate(&self) -> Result<Request, String> {
        let exe = std::path::absolute(&self.exe).map_err(|error| error.to_string())?;
        let exe = exe.into_os_string().into_string().map_err(|_| "its path is not UTF-8".to_owned())?;
        match told(&self.exe).await? {
            version if is_spoken(version) => Ok(Request::Upgrade { exe }),
            version => Err(format!("it speaks version {version} and this sidecar speaks {VERSION}")),
        }
    }
}

fn serve_if(spoken: bool) -> Verdict {
    if spoken { Verdict::Serve } else { Verdict::Stuck }
}

/// The protocol of an executable.
async fn told(exe: &Path) -> Result<u32, String> {
    let mut command = tokio::process::Command::new(exe);
    command.arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(TOLD_WITHIN, command.output()).await;
    let output = output.map_err(|_| format!("{} --version does not end", exe.display()))?;
    let output = output.map_err(|error| format!("it cannot be run: {error}"))?;
    match output.status.code() {
        Some(0) => {
            let said = String::from_utf8_lossy(&output.stdout);
            launch::told_version(&said).ok_or_else(|| format!("it is no keeper: it says {:?}", said.trim()))
        }
        Some(MISUSE) => Ok(UNTOLD_VERSION),
        _ => Err(format!("it cannot be run: {}", output.status)),
    }
}
