//! Processes put somewhere of their own: into a mount namespace, under a limit, beside another clock.

use super::{World, binary, wait_child};
use anyhow::{Context as _, Result, bail, ensure};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// A command behind the words of a wrapper (`ip netns exec …`); every one of them executes its successor, so the process stays the same.
#[must_use]
pub fn wrapped(words: &[String], program: &Path) -> Command {
    let [first, rest @ ..] = words else { return Command::new(program) };
    let mut command = Command::new(first);
    command.args(rest).arg(program);
    command
}

/// A mount namespace. What is mounted in it goes with the last process in it; its holder ends with its stdin, so also if the test is
/// killed.
#[derive(Debug)]
pub struct Place {
    holder: Child,
}

impl Place {
    /// Makes one in which `mount`, a shell command, was run over a directory, its `$1`, that is made if it is not there.
    ///
    /// # Errors
    /// A tool or a right is missing.
    pub fn over(dir: &Path, mount: &str) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let script = format!("{mount} && echo held && read _");
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start unshare")?;
        let stdout = holder.stdout.take().context("stdout was piped")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if line != "held\n" {
            let output = holder.wait_with_output()?;
            bail!("no mount namespace: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(Self { holder })
    }

    /// The words that put a command into it.
    #[must_use]
    pub fn enter(&self) -> Vec<String> {
        let holder = self.holder.id().to_string();
        ["nsenter", "--target", &holder, "--mount"].map(str::to_owned).into()
    }

    /// Runs a shell command in it; what it printed.
    ///
    /// # Errors
    /// It fails.
    pub fn run(&self, script: &str, args: &[&Path]) -> Result<String> {
        let mut command = wrapped(&self.enter(), Path::new("sh"));
        let output = command.args(["-c", script, "sh"]).args(args).stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "`{script}`: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Where this process finds a path as it is seen in there.
    #[must_use]
    pub fn look(&self, path: &Path) -> PathBuf {
        let mut seen = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        seen.extend(path.components().filter(|part| !matches!(part, std::path::Component::RootDir)));
        seen
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

impl World {
    /// Puts these words before the informer's command from now on.
    pub fn put_informer(&mut self, words: Vec<String>) {
        self.informer_wrapper = words;
    }

    /// Puts these words before each sidecar's command from now on.
    pub fn put_sidecars(&mut self, words: Vec<String>) {
        self.wrapper = words;
    }

    /// Starts the informer where it must not come up; its exit status and what it said on stderr.
    ///
    /// # Errors
    /// It listens.
    pub fn refused_informer(&mut self) -> Result<(ExitStatus, String)> {
        let mut child = wrapped(&self.informer_wrapper, &binary("informer"))
            .args(["serve", "--listen", &self.listen, "--data"])
            .arg(self.dir.join("informer"))
            .envs(self.env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("stdout was piped")?).read_line(&mut line)?;
        if !line.is_empty() {
            let _ = child.kill();
            let _ = child.wait();
            bail!("the informer came up: {line}");
        }
        let status = wait_child(&mut child)?;
        let mut said = String::new();
        child.stderr.take().context("stderr was piped")?.read_to_string(&mut said)?;
        Ok((status, said))
    }
}
