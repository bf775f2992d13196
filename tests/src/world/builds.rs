//! Programs of other builds than the test's own, boxes on which one build replaces another, and tasks that run on meanwhile.

use super::{World, alive, binary, wait_for};
use anyhow::{Context as _, Result, ensure};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The directory that each program is taken from.
#[derive(Debug, Clone)]
pub struct Builds {
    /// Of the informer's server.
    pub informer: PathBuf,
    /// Of the command line.
    pub client: PathBuf,
    /// Of agents, and thereby of keepers.
    pub sidecar: PathBuf,
}

impl Default for Builds {
    fn default() -> Self {
        let own = own();
        Self { informer: own.clone(), client: own.clone(), sidecar: own }
    }
}

/// The build that the test belongs to.
#[must_use]
pub fn own() -> PathBuf {
    binary("informer").parent().expect("a binary lies in a directory").to_owned()
}

/// The build of the stage before, as `tests/skew.sh` makes it; the reason if it is not there.
///
/// # Errors
/// It cannot be found out where it would be.
pub fn earlier() -> Result<Result<PathBuf, String>> {
    let dir = match std::env::var_os("EARLIER_BIN") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("earlier.txt");
            let list = std::fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
            let mut commits = list.lines().filter_map(|line| line.split('#').next()?.split_whitespace().next());
            let commit = commits.next().context("earlier.txt names no commit")?;
            own().parent().context("a build lies in the target directory")?.join("earlier").join(commit)
        }
    };
    let whole = ["informer", "sidecar", "keeper"].iter().all(|name| dir.join(name).exists());
    Ok(if whole { Ok(dir) } else { Err(format!("no earlier build in {}; tests/skew.sh makes it", dir.display())) })
}

impl World {
    /// Puts the sidecar's programs of a build where sidecars of this world are started from, as a package manager does: each file is
    /// renamed over the one before, which may be running.
    ///
    /// # Errors
    /// They cannot be copied.
    pub fn install(&mut self, build: &Path) -> Result<()> {
        let place = self.dir.join("installed");
        std::fs::create_dir_all(&place)?;
        for name in ["sidecar", "keeper"] {
            let fresh = place.join(format!("{name}.new"));
            // By another process: a fork of this one that holds the file open for writing would keep it from being run.
            let copied = Command::new("cp").arg(build.join(name)).arg(&fresh).status()?;
            ensure!(copied.success(), "cannot copy {name} of {}", build.display());
            std::fs::rename(&fresh, place.join(name))?;
        }
        self.builds.sidecar = place;
        Ok(())
    }

    /// Waits until the keeper of sidecar `n` is the process `pid` and runs the installed program.
    ///
    /// # Errors
    /// It does not.
    pub fn wait_upgraded(&self, n: usize, pid: i32) -> Result<()> {
        let what = format!("the keeper {pid} runs {}", self.builds.sidecar.join("keeper").display());
        wait_for(&what, || (self.keeper(n) == Some(pid) && self.is_installed(pid)).then_some(()))
            .with_context(|| self.log(&format!("sidecar-{n}.log")))
    }

    /// Whether a process runs the keeper that is installed, and not one that lay there before.
    #[must_use]
    pub fn is_installed(&self, pid: i32) -> bool {
        let file = |path: PathBuf| std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
        alive(pid) && file(format!("/proc/{pid}/exe").into()) == file(self.builds.sidecar.join("keeper"))
    }

    /// Ends the agent of sidecar `n` and starts the installed one in its place, as its service does.
    ///
    /// # Errors
    /// The old one does not end, or the new one cannot be started.
    pub fn restart_agent(&mut self, n: usize) -> Result<()> {
        self.terminate_agent(n)?;
        self.start_sidecar(n, &[], &[])
    }
}

/// A task in parts: each writes a line to both streams, says so, and waits until the test lets it go on. It ends with 7.
pub struct Gated {
    /// The task's id.
    pub id: String,
    name: String,
    parts: u32,
}

impl Gated {
    /// Submits it with one try, and waits until it runs and has written its first part.
    ///
    /// # Errors
    /// It does not run.
    pub fn start(world: &World, name: &str, parts: u32, args: &[&str]) -> Result<Self> {
        let dir = world.dir().display();
        let script = format!(
            "echo $$ >> {dir}/{name}-starts\n\
             for part in $(seq {parts}); do\n\
               echo out-$part; echo err-$part >&2\n\
               : > {dir}/{name}-wrote$part\n\
               while [ ! -e {dir}/{name}-go$part ]; do sleep 0.02; done\n\
             done\n\
             exit 7"
        );
        let id = world.submit(&[args, &["--tries", "1", "--", "sh", "-c", &script]].concat())?;
        world.wait_file(&format!("{name}-wrote1"))?;
        world.wait_state(&id, &["running"])?;
        Ok(Self { id, name: name.to_owned(), parts })
    }

    /// Its main process, as it sees itself.
    ///
    /// # Errors
    /// It has not said so.
    pub fn main(&self, world: &World) -> Result<i32> {
        let starts = world.lines(&format!("{}-starts", self.name));
        Ok(starts.first().context("it has started")?.parse()?)
    }

    /// Lets it go on behind that part, and waits until it has written the next one, if there is one.
    ///
    /// # Errors
    /// It does not.
    pub fn go(&self, world: &World, part: u32) -> Result<()> {
        world.touch(&format!("{}-go{part}", self.name))?;
        if part == self.parts { Ok(()) } else { world.wait_file(&format!("{}-wrote{}", self.name, part + 1)) }
    }

    /// Waits for its end: it ran once, to that end, and every byte of it is there.
    ///
    /// # Errors
    /// It does not end, or its log cannot be had.
    ///
    /// # Panics
    /// Something of it is missing, or there twice.
    pub fn assert_whole(&self, world: &World) -> Result<()> {
        let task = world.wait_state(&self.id, &["failed", "succeeded", "cancelled"])?;
        assert_eq!((&task["exit_code"], &task["reason"]), (&7.into(), &"exit_code".into()), "{task}");
        assert_eq!(task["attempts"].as_array().map(Vec::len), Some(1), "{task}");
        assert_eq!(world.lines(&format!("{}-starts", self.name)).len(), 1, "started more than once");
        let logs = world.informer(&["logs", &self.id])?;
        let expected = |stream: &str| (1..=self.parts).map(|part| format!("{stream}-{part}\n")).collect::<String>();
        assert_eq!(String::from_utf8(logs.stdout)?, expected("out"));
        assert_eq!(String::from_utf8(logs.stderr)?, expected("err"));
        Ok(())
    }
}
