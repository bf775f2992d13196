//! Lives and ends of the world's processes beyond start and `kill -9`, and a file system of their own for sidecars.

use super::place::{Place, wrapped};
use super::{World, binary, signal, wait_child, wait_for};
use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use std::io::{BufRead as _, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;

impl World {
    /// Gives sidecars started from now on a mount namespace of their own, in which `mount` (a shell command; `$1` is the directory) has
    /// been run over the data directory of sidecar 0: nobody outside sees what is in it.
    ///
    /// # Errors
    /// A tool or a right is missing.
    pub fn hide_sidecar(&mut self, mount: &str) -> Result<()> {
        let place = Place::over(&self.dir.join("sidecar-0"), mount)?;
        self.wrapper = place.enter();
        self.namespace = Some(place);
        Ok(())
    }

    /// A command in the sidecars' mount or network namespace.
    #[must_use]
    pub fn inside(&self, program: &Path) -> Command {
        wrapped(&self.wrapper, program)
    }

    /// The process id of the agent of sidecar `n`.
    #[must_use]
    pub fn agent(&self, n: usize) -> Option<i32> {
        let agent = self.sidecars.get(n)?.agent.as_ref()?;
        i32::try_from(agent.id()).ok()
    }

    /// Whether the agent of sidecar `n` has ended by itself; if so, it is reaped.
    pub fn agent_has_ended(&mut self, n: usize) -> bool {
        let agent = self.sidecars.get_mut(n).map(|sidecar| &mut sidecar.agent);
        let Some(agent) = agent else { return false };
        // Asked again, it has still ended.
        let ended = agent.as_mut().is_none_or(|child| matches!(child.try_wait(), Ok(Some(_))));
        if ended {
            *agent = None;
        }
        ended
    }

    /// The process id of the informer.
    #[must_use]
    pub fn informer_pid(&self) -> Option<i32> {
        i32::try_from(self.informer.as_ref()?.id()).ok()
    }

    /// Waits until the agent of sidecar `n` has ended by itself; its exit status.
    ///
    /// # Errors
    /// It runs on.
    pub fn wait_agent_gone(&mut self, n: usize) -> Result<ExitStatus> {
        let mut agent = self.sidecars[n].agent.take().context("the agent does not run")?;
        let gone = wait_child(&mut agent);
        if gone.is_err() {
            self.sidecars[n].agent = Some(agent);
        }
        gone
    }

    /// Sends SIGTERM to the agent of sidecar `n` and waits for its end.
    ///
    /// # Errors
    /// It runs on.
    pub fn terminate_agent(&mut self, n: usize) -> Result<ExitStatus> {
        signal(self.agent(n).context("the agent does not run")?, Signal::TERM);
        self.wait_agent_gone(n)
    }

    /// Whether the informer has ended by itself; if so, it is reaped.
    pub fn informer_has_ended(&mut self) -> bool {
        let ended = self.informer.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(Some(_))));
        if ended {
            self.informer = None;
        }
        ended
    }

    /// Starts `informer dev` below this directory instead of `serve` and sidecars.
    ///
    /// # Errors
    /// It does not listen.
    pub fn start_dev(&mut self, args: &[&str]) -> Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.join("informer.log"))?;
        let mut child = Command::new(binary("informer"))
            .args(["dev", "--listen", "127.0.0.1:0", "--beat", self.beat, "--data"])
            .arg(self.dir.join("dev"))
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let stdout = child.stdout.take().context("stdout was piped")?;
        self.informer = Some(child);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let url = line.trim().strip_prefix("listening on ");
        self.url =
            url.with_context(|| format!("dev did not listen: {line:?}, {}", self.log("informer.log")))?.to_owned();
        Ok(())
    }

    /// Sends SIGTERM to the informer and waits for its end.
    ///
    /// # Errors
    /// It runs on.
    pub fn terminate_informer(&mut self) -> Result<ExitStatus> {
        let mut child = self.informer.take().context("the informer does not run")?;
        signal(i32::try_from(child.id())?, Signal::TERM);
        let ended = wait_child(&mut child);
        if ended.is_err() {
            self.informer = Some(child);
        }
        ended
    }

    /// The lines of a file in this directory; none if it is not there.
    #[must_use]
    pub fn lines(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits until a file of this directory exists.
    ///
    /// # Errors
    /// It does not within [`super::DEADLINE`].
    pub fn wait_file(&self, name: &str) -> Result<()> {
        wait_for(&format!("{name} exists"), || self.dir.join(name).exists().then_some(()))
    }

    /// Makes an empty file in this directory: what a task's script waits for.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn touch(&self, name: &str) -> Result<()> {
        std::fs::write(self.dir.join(name), "").with_context(|| format!("cannot write {name}"))
    }
}

/// A child of which the test reads while it runs. Killed when dropped.
pub struct Watched {
    child: Child,
    chunks: mpsc::Receiver<Vec<u8>>,
    /// Hears that something came on stderr, once.
    word: mpsc::Receiver<()>,
    /// What it has written to stdout so far.
    pub stdout: Vec<u8>,
}

impl Watched {
    /// Watches a child whose stdout is piped; its stderr goes nowhere.
    ///
    /// # Errors
    /// Its stdout is not piped.
    pub fn new(mut child: Child) -> Result<Self> {
        let mut stdout = child.stdout.take().context("stdout is piped")?;
        let (said, word) = mpsc::channel();
        if let Some(mut stderr) = child.stderr.take() {
            // Somebody must read it, or the child would meet a full or a closed pipe.
            std::thread::spawn(move || {
                if matches!(stderr.read(&mut [0; 1]), Ok(1)) {
                    let _nobody_asks = said.send(());
                }
                std::io::copy(&mut stderr, &mut std::io::sink())
            });
        }
        let (sender, chunks) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(length @ 1..) = stdout.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, chunks, word, stdout: Vec::new() })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(0)
    }

    /// Whether it runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until it has written so many bytes.
    ///
    /// # Errors
    /// It does not.
    pub fn wait_bytes(&mut self, count: usize) -> Result<()> {
        while self.stdout.len() < count {
            let chunk = self.chunks.recv_timeout(super::DEADLINE);
            self.stdout.extend(chunk.with_context(|| format!("{} bytes came, not {count}", self.stdout.len()))?);
        }
        Ok(())
    }

    /// Waits for its end; everything it wrote is in `stdout` then.
    ///
    /// # Errors
    /// It runs on.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        while let Ok(chunk) = self.chunks.recv_timeout(super::DEADLINE) {
            self.stdout.extend(chunk);
        }
        wait_child(&mut self.child)
    }

    /// Waits until it has said something on stderr.
    ///
    /// # Errors
    /// It says nothing within [`super::DEADLINE`].
    pub fn wait_word(&mut self) -> Result<()> {
        self.word.recv_timeout(super::DEADLINE).context("it said nothing")
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A frozen file system. Thawed when dropped, and also if the test is killed: the process that holds it ends with its stdin.
pub struct Frozen {
    holder: Child,
    stdin: Option<OwnedFd>,
}

impl Frozen {
    /// Freezes the file system at `mount`, as `world` sees it from inside its sidecars' namespace.
    ///
    /// # Errors
    /// It cannot be frozen.
    pub fn new(world: &World, mount: &Path) -> Result<Self> {
        let script = "fsfreeze -f \"$1\" && echo frozen; read _; fsfreeze -u \"$1\"";
        let mut command = world.inside(Path::new("sh"));
        command.args(["-c", script, "sh"]).arg(mount);
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = holder.stdin.take().map(OwnedFd::from);
        let mut line = String::new();
        BufReader::new(holder.stdout.take().context("stdout was piped")?).read_line(&mut line)?;
        let frozen = Self { holder, stdin };
        ensure!(line == "frozen\n", "{} cannot be frozen", mount.display());
        Ok(frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.holder.wait();
    }
}

/// Processes that burn a processor each until dropped.
pub struct Burners(Vec<Child>);

impl Burners {
    /// Starts so many; `mark` stands in their command line. They end by themselves long after any test, should the test be killed.
    ///
    /// # Errors
    /// One cannot be started.
    pub fn new(count: usize, mark: &Path) -> Result<Self> {
        let mut burners = Self(Vec::new());
        for _ in 0..count {
            let mut command = Command::new("timeout");
            command.args(["--foreground", "300", "sh", "-c", "while :; do :; done", "sh"]).arg(mark);
            burners.0.push(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?);
        }
        Ok(burners)
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // Its own child ends with it: timeout passes the signal on.
            signal(i32::try_from(child.id()).unwrap_or(0), Signal::TERM);
            let _ = child.wait();
        }
    }
}
