//! A world of real processes: one informer, its sidecars with their keepers, all below one directory, all gone when it is dropped.
//!
//! Tests wait on what they see (a state, a file, a process), never on time; [`DEADLINE`] only bounds a failure.

pub mod builds;
mod guard;
pub mod life;
pub mod lives;
pub mod place;
pub mod secure;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// No wait in a test lasts longer: far above what the slowest machine needs, so that only a hang meets it.
pub const DEADLINE: Duration = Duration::from_secs(90);
/// Between two looks at something that has no event of its own to wait for (another process's state).
const LOOK_AGAIN: Duration = Duration::from_millis(15);

/// Where the workspace's binaries are: beside the test's own.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().expect("a test has a path");
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    path.join(name)
}

/// One sidecar's processes.
pub struct Sidecar {
    /// Its data directory.
    pub data: PathBuf,
    agent: Option<Child>,
}

/// The world.
pub struct World {
    dir: PathBuf,
    url: String,
    listen: String,
    informer: Option<Child>,
    /// In the order of their start.
    pub sidecars: Vec<Sidecar>,
    /// Beat interval for `serve`, as the command line takes it.
    pub beat: &'static str,
    /// Set for every process that is started.
    env: Vec<(&'static str, PathBuf)>,
    /// Comes before every sidecar's command.
    wrapper: Vec<String>,
    /// Where each program is taken from.
    pub builds: builds::Builds,
    /// Comes before the informer's.
    informer_wrapper: Vec<String>,
    /// The mount namespace that sidecars are started in, if it is not the test's own.
    namespace: Option<place::Place>,
    /// Last, so that it outlives the clean-up.
    _guard: guard::Guard,
}

impl World {
    /// A directory and nothing in it.
    ///
    /// # Errors
    /// No temporary directory can be made.
    pub fn empty() -> Result<Self> {
        static COUNTER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = COUNTER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // Of one length, so that no world's name begins another's: processes are found by it.
        let dir = std::env::temp_dir().join(format!("informer-test-{}-{n:04}", std::process::id()));
        // Left by a test that was killed, and had the process id that this one has now.
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let guard = guard::Guard::new(&dir)?;
        let world = Self {
            dir,
            url: String::new(),
            listen: "127.0.0.1:0".to_owned(),
            informer: None,
            sidecars: Vec::new(),
            beat: "1s",
            env: Vec::new(),
            wrapper: Vec::new(),
            builds: builds::Builds::default(),
            informer_wrapper: Vec::new(),
            namespace: None,
            _guard: guard,
        };
        Ok(world)
    }

    /// An informer and so many sidecars of two slots, all linked.
    ///
    /// # Errors
    /// Something does not start.
    pub fn with_sidecars(count: usize) -> Result<Self> {
        let mut world = Self::empty()?;
        world.start_informer(&[])?;
        for n in 0..count {
            world.start_sidecar(n, &[], &[])?;
        }
        world.wait_linked(count)?;
        Ok(world)
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The informer's URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Starts the informer, on the port it had if it ran before, and waits until it listens.
    ///
    /// # Errors
    /// It ends instead, or does not listen within [`DEADLINE`].
    pub fn start_informer(&mut self, env: &[(&str, &str)]) -> Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.join("informer.log"))?;
        let mut child = place::wrapped(&self.informer_wrapper, &self.builds.informer.join("informer"))
            .args(["serve", "--listen", &self.listen, "--beat", self.beat, "--data"])
            .arg(self.dir.join("informer"))
            .envs(self.env.iter().cloned())
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("cannot start the informer; build the workspace with --features tests/faults first")?;
        let stdout = child.stdout.take().context("stdout was piped")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let Some(url) = line.trim().strip_prefix("listening on ") else {
            let _ = child.wait();
            bail!("the informer did not listen: {line:?}, {}", self.log("informer.log"));
        };
        self.url = url.to_owned();
        self.listen = url.split_once("://").context("a URL")?.1.to_owned();
        self.informer = Some(child);
        Ok(())
    }

    /// Kills the informer with SIGKILL and reaps it.
    pub fn kill_informer(&mut self) {
        if let Some(mut child) = self.informer.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Waits until the informer has ended by itself (a failpoint); its exit status.
    ///
    /// # Errors
    /// It runs on.
    pub fn wait_informer_gone(&mut self) -> Result<std::process::ExitStatus> {
        let mut child = self.informer.take().context("the informer does not run")?;
        wait_child(&mut child)
    }

    /// Starts (or starts again) the agent of sidecar `n`, with two slots unless `args` say otherwise.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_sidecar(&mut self, n: usize, args: &[&str], env: &[(&str, &str)]) -> Result<()> {
        let data = self.dir.join(format!("sidecar-{n}"));
        let log = std::fs::File::options().create(true).append(true).open(self.dir.join(format!("sidecar-{n}.log")))?;
        let slots: &[&str] = if args.contains(&"--slots") { &[] } else { &["--slots", "2", "--cpu", "2000"] };
        let agent = self
            .inside(&self.builds.sidecar.join("sidecar"))
            .args(["run", "--informer", &self.url, "--data"])
            .arg(&data)
            .args(slots)
            .args(args)
            .envs(self.env.iter().cloned())
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start a sidecar")?;
        match self.sidecars.get_mut(n) {
            Some(sidecar) => sidecar.agent = Some(agent),
            None => self.sidecars.push(Sidecar { data, agent: Some(agent) }),
        }
        Ok(())
    }

    /// Kills the agent of sidecar `n` with SIGKILL and reaps it.
    pub fn kill_agent(&mut self, n: usize) {
        if let Some(mut agent) = self.sidecars[n].agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }

    /// Kills the keeper process of sidecar `n` and leaves its monitors alone.
    ///
    /// # Errors
    /// There is none.
    pub fn kill_keeper(&self, n: usize) -> Result<()> {
        let keeper = self.keeper(n).context("no keeper runs")?;
        kill(keeper);
        wait_for("the keeper is gone", || (!alive(keeper)).then_some(()))
    }

    /// Kills agent, keeper and monitors of sidecar `n`.
    pub fn kill_box(&mut self, n: usize) {
        // Monitors first would be replaced by their keeper; agent first would be missed by nobody.
        self.kill_agent(n);
        if let Some(keeper) = self.keeper(n) {
            kill(keeper);
        }
        for monitor in self.keepers_and_monitors(n) {
            kill(monitor);
        }
    }

    /// The keeper's process id: the one process of its kind that is no monitor (monitors lead sessions of their own below it).
    #[must_use]
    pub fn keeper(&self, n: usize) -> Option<i32> {
        let all = self.keepers_and_monitors(n);
        all.iter()
            .copied()
            .find(|pid| stat(*pid).is_some_and(|stat| stat.name == "keeper" && !all.contains(&stat.parent)))
    }

    /// Every keeper and monitor process of sidecar `n`.
    #[must_use]
    pub fn keepers_and_monitors(&self, n: usize) -> Vec<i32> {
        let data = self.sidecars[n].data.as_os_str().as_encoded_bytes();
        processes_with(data).into_iter().filter(|pid| argv0(*pid).is_some_and(|name| name == "keeper")).collect()
    }

    /// Runs a verb of the command line against this informer.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn informer(&self, args: &[&str]) -> Result<Output> {
        Ok(self.client(args).output()?)
    }

    /// Starts a verb of the command line and does not wait for it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn informer_started(&self, args: &[&str]) -> Result<Child> {
        Ok(self.client(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
    }

    fn client(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.builds.client.join("informer"));
        command.args(args).envs(self.env.iter().cloned()).env("INFORMER_URL", &self.url).stdin(Stdio::null());
        command
    }

    /// Submits and returns the id.
    ///
    /// # Errors
    /// The submit fails.
    pub fn submit(&self, args: &[&str]) -> Result<String> {
        let output = self.informer(&[&["submit"], args].concat())?;
        ensure!(output.status.success(), "submit {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// The JSON document of a verb.
    ///
    /// # Errors
    /// The verb fails, or prints no JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let output = self.informer(args)?;
        ensure!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).with_context(|| format!("{args:?} printed no JSON"))
    }

    /// The task as `show --json` tells it.
    ///
    /// # Errors
    /// As [`World::json`].
    pub fn task(&self, id: &str) -> Result<Value> {
        self.json(&["show", id, "--json"])
    }

    /// Waits until the task is in one of the states; the task then.
    ///
    /// # Errors
    /// It is not within [`DEADLINE`].
    pub fn wait_state(&self, id: &str, states: &[&str]) -> Result<Value> {
        let mut last = Value::Null;
        let found = wait_for(&format!("task {id} is {states:?}"), || {
            // The informer may be down just now; that is the test's business.
            last = self.task(id).ok()?;
            states.contains(&last["state"].as_str()?).then(|| last.clone())
        });
        found.with_context(|| format!("last seen: {last}\n{}", self.log("informer.log")))
    }

    /// Waits until so many sidecars are live.
    ///
    /// # Errors
    /// They are not within [`DEADLINE`].
    pub fn wait_linked(&self, count: usize) -> Result<()> {
        wait_for(&format!("{count} sidecars are live"), || {
            let sidecars = self.json(&["sidecars", "--json"]).ok()?;
            let live = sidecars.as_array()?.iter().filter(|sidecar| sidecar["state"] == "live").count();
            (live == count).then_some(())
        })
    }

    /// The end of a log file of this world.
    #[must_use]
    pub fn log(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        let start = text.len().saturating_sub(4000);
        format!("--- {name}\n{}", text.get(start..).unwrap_or(&text))
    }
}

/// What only some tests need.
impl World {
    /// Starts sidecar `n` with another informer's URL, such as a proxy's; `wrapper` comes before the command (`ip netns exec …`).
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_sidecar_through(&mut self, n: usize, url: &str, wrapper: &[&str], args: &[&str]) -> Result<()> {
        let data = self.dir.join(format!("sidecar-{n}"));
        let log = std::fs::File::options().create(true).append(true).open(self.dir.join(format!("sidecar-{n}.log")))?;
        let program = binary("sidecar");
        let mut command = match wrapper {
            [] => Command::new(program),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        let command = command.args(["run", "--slots", "2", "--cpu", "2000", "--informer", url, "--data"]).arg(&data);
        let agent = command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        match self.sidecars.get_mut(n) {
            Some(sidecar) => sidecar.agent = Some(agent),
            None => self.sidecars.push(Sidecar { data, agent: Some(agent) }),
        }
        Ok(())
    }

    /// Which of the sidecars has this id.
    ///
    /// # Errors
    /// None of them.
    pub fn sidecar_named(&self, id: &str) -> Result<usize> {
        let found = self.sidecars.iter().position(|sidecar| {
            let status =
                Command::new(binary("sidecar")).args(["status", "--json", "--data"]).arg(&sidecar.data).output();
            let status = status.ok().and_then(|output| serde_json::from_slice::<Value>(&output.stdout).ok());
            status.is_some_and(|status| status["id"] == id)
        });
        found.with_context(|| format!("no sidecar here is {id}"))
    }

    /// The kinds and details of a task's history, oldest first.
    ///
    /// # Errors
    /// As [`World::json`].
    pub fn history(&self, id: &str) -> Result<Vec<(String, String)>> {
        let task = self.json(&["show", id, "--history", "--json"])?;
        let events = task["history"].as_array().context("a history")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(events.iter().map(|event| (text(&event["kind"]), text(&event["detail"]))).collect())
    }

    /// Waits until this attempt is in one of the states; the task then.
    ///
    /// # Errors
    /// It is not within [`DEADLINE`].
    pub fn wait_attempt(&self, id: &str, number: u64, states: &[&str]) -> Result<Value> {
        let mut last = Value::Null;
        let found = wait_for(&format!("attempt {number} of {id} is {states:?}"), || {
            last = self.task(id).ok()?;
            let attempt = last["attempts"].as_array()?.iter().find(|attempt| attempt["number"] == number)?;
            states.contains(&attempt["state"].as_str()?).then(|| last.clone())
        });
        found.with_context(|| format!("last seen: {last}\n{}", self.log("informer.log")))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill_informer();
        for n in 0..self.sidecars.len() {
            self.kill_box(n);
        }
        // Whatever names this directory or was started in it; never a name that somebody else's process could have.
        for pid in processes_with(self.dir.as_os_str().as_encoded_bytes()) {
            kill(pid);
        }
        drop(self.namespace.take());
        if std::thread::panicking() || std::env::var_os("TESTS_KEEP").is_some() {
            eprintln!("kept for a look: {}", self.dir.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// Looks until there is something to see.
///
/// # Errors
/// Nothing within [`DEADLINE`].
pub fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> Result<T> {
    wait_within(DEADLINE, what, look)
}

/// Looks until there is something to see, or for so long.
///
/// # Errors
/// Nothing within that time.
pub fn wait_within<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(seen) = look() {
            return Ok(seen);
        }
        ensure!(start.elapsed() < limit, "waited {limit:?} in vain until {what}");
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Waits for a child's end.
///
/// # Errors
/// It runs on after [`DEADLINE`].
pub fn wait_child(child: &mut Child) -> Result<std::process::ExitStatus> {
    wait_for("a process ends", || child.try_wait().ok().flatten())
}

/// Sends SIGKILL.
pub fn kill(pid: i32) {
    signal(pid, rustix::process::Signal::KILL);
}

/// Sends a signal to one process.
pub fn signal(pid: i32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Whether a process exists and is no zombie.
#[must_use]
pub fn alive(pid: i32) -> bool {
    stat(pid).is_some_and(|stat| stat.state != 'Z')
}

/// The parent of a process.
#[must_use]
pub fn parent(pid: i32) -> Option<i32> {
    stat(pid).map(|stat| stat.parent)
}

struct Stat {
    name: String,
    state: char,
    parent: i32,
}

fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, rest) = text.split_once('(')?.1.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some(Stat { name: name.to_owned(), state, parent: fields.next()?.parse().ok()? })
}

fn argv0(pid: i32) -> Option<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let first = String::from_utf8(line.split(|byte| *byte == 0).next()?.to_vec()).ok()?;
    Some(first.rsplit('/').next()?.to_owned())
}

/// Processes whose command line, environment or working directory names `needle`, except this one.
#[must_use]
pub fn processes_with(needle: &[u8]) -> Vec<i32> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| *pid != own && alive(*pid) && names(*pid, needle)).collect()
}

fn names(pid: i32, needle: &[u8]) -> bool {
    let holds = |bytes: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    let file = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).is_ok_and(|bytes| holds(&bytes));
    let cwd = std::fs::read_link(format!("/proc/{pid}/cwd"));
    file("cmdline") || file("environ") || cwd.is_ok_and(|cwd| holds(cwd.as_os_str().as_encoded_bytes()))
}
