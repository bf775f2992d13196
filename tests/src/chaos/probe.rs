//! The task that every round runs: a program that writes down itself what it did, so that nobody else's word is needed for it.
//!
//! Each act is one line, appended by one write to one file that all probes of a world share:
//!
//! ```text
//! start   NAME ATTEMPT PID NS EPOCH.N    it runs, under this fence
//! overlap NAME ATTEMPT PID NS            another copy of an exclusive task still ran (its lock was held)
//! tick    NAME ATTEMPT PID NS BYTES      it has written so much to stdout
//! stray   NAME ATTEMPT PID NS            a process that it left in a session of its own still runs
//! end     NAME ATTEMPT PID NS CODE       it is about to end with this code
//! ```
//!
//! `NS` is `CLOCK_BOOTTIME`. The lock of an exclusive task is a `flock` that strays inherit: the kernel releases it when the last of them
//! is gone, so that an overlap is seen however short it is. The program is `tests/src/bin/chaos_probe.rs`.

use super::now;
use crate::world::{binary, processes_with};
use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The file of acts in the probes' directory.
pub const ACTS: &str = "acts";
/// Between two ticks: the resolution of what is known about a process that is killed.
const STEP: Duration = Duration::from_millis(25);
/// A stray that nobody ends goes by itself, long after any round.
const STRAY: Duration = Duration::from_secs(300);
/// What a log's line on stdout is filled up to, so that a log is more than one frame's worth of bytes.
const LINE_BYTES: usize = 60;

/// What a probe does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probe {
    /// How long it runs, in milliseconds; 0: until it is ended.
    pub millis: u64,
    /// Lines it writes to stdout meanwhile; a quarter as many go to stderr.
    pub lines: u32,
    /// Processes in sessions of their own that it leaves behind; every second one is orphaned at once.
    pub strays: u32,
    /// Its exit code.
    pub exit: i32,
    /// Whether it looks for another copy of itself.
    pub alone: bool,
    /// Whether it (with its strays) ignores SIGTERM.
    pub stubborn: bool,
    /// Files that it leaves in `TASK_OUTPUTS`.
    pub outputs: u32,
}

impl Probe {
    /// The command line that runs it.
    #[must_use]
    pub fn argv(&self, dir: &Path, name: &str) -> Vec<String> {
        let mut argv = Vec::new();
        if self.stubborn {
            // An ignored signal stays ignored over exec.
            argv.extend(["sh", "-c", "trap '' TERM; exec \"$0\" \"$@\""].map(str::to_owned));
        }
        argv.push(binary("chaos_probe").to_string_lossy().into_owned());
        argv.extend(["main".to_owned(), dir.to_string_lossy().into_owned(), name.to_owned()]);
        argv.push(format!("{}", self.millis));
        argv.push(format!("{}", self.lines));
        argv.push(format!("{}", self.strays));
        argv.push(format!("{}", self.exit));
        argv.push(format!("{}", u32::from(self.alone)));
        argv.push(format!("{}", self.outputs));
        argv
    }

    fn parse(words: &[String]) -> Result<Self> {
        let number = |at: usize| -> Result<u64> { Ok(words.get(at).context("too few arguments")?.parse()?) };
        Ok(Self {
            millis: number(0)?,
            lines: u32::try_from(number(1)?)?,
            strays: u32::try_from(number(2)?)?,
            exit: i32::try_from(number(3)?)?,
            alone: number(4)? != 0,
            stubborn: false,
            outputs: u32::try_from(number(5)?)?,
        })
    }

    /// Its whole stdout, as attempt `attempt` writes it.
    #[must_use]
    pub fn stdout(&self, name: &str, attempt: u32) -> Vec<u8> {
        (0..self.lines).flat_map(|line| out_line(name, attempt, line).into_bytes()).collect()
    }

    /// Its whole stderr.
    #[must_use]
    pub fn stderr(&self, name: &str, attempt: u32) -> Vec<u8> {
        (0..self.lines)
            .filter(|line| line % 4 == 0)
            .flat_map(|line| err_line(name, attempt, line).into_bytes())
            .collect()
    }
}

/// What an attempt leaves as output: whose it is, many times over, so that a mixture would show.
#[must_use]
pub fn output(name: &str, attempt: u32) -> Vec<u8> {
    format!("{name} {attempt}\n").repeat(1000).into_bytes()
}

fn out_line(name: &str, attempt: u32, line: u32) -> String {
    format!("{:.<LINE_BYTES$}\n", format!("{name} {attempt} {line} "))
}

fn err_line(name: &str, attempt: u32, line: u32) -> String {
    format!("{name} {attempt} {line} err\n")
}

/// What a process did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It began under this fence: epoch, number.
    Start(u64, u64),
    /// It found another copy of itself.
    Overlap,
    /// It had written so many bytes to stdout.
    Tick(u64),
    /// A process that it left still ran.
    Stray,
    /// It was about to end with this code.
    End(i32),
}

/// One line of the file of acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// What was done.
    pub what: What,
    /// The task's name, which is its key.
    pub name: String,
    /// Which attempt did it.
    pub attempt: u32,
    /// Which process, as it knows itself: within a namespace its number is another one than outside.
    pub pid: u32,
    /// When.
    pub at: Duration,
}

/// Closes every line. The kernel copies a line that crosses a page in two steps: a reader may see the first of them alone, and a process
/// killed between them leaves it so. Such a line was not done.
const WHOLE: &str = " ;";

impl Act {
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        let what = match words[..] {
            ["start", .., fence] => {
                let (epoch, n) = fence.split_once('.')?;
                What::Start(epoch.parse().ok()?, n.parse().ok()?)
            }
            ["overlap", ..] => What::Overlap,
            ["tick", .., bytes] => What::Tick(bytes.parse().ok()?),
            ["stray", ..] => What::Stray,
            ["end", .., code] => What::End(code.parse().ok()?),
            _ => return None,
        };
        let [_, name, attempt, pid, at, ..] = words[..] else { return None };
        Some(Self {
            what,
            name: name.to_owned(),
            attempt: attempt.parse().ok()?,
            pid: pid.parse().ok()?,
            at: Duration::from_nanos(at.parse().ok()?),
        })
    }
}

/// All acts so far, in the order of their writing. A whole line that is no act counts as a fault of this harness.
///
/// # Panics
/// A line cannot be read.
#[must_use]
pub fn acts(dir: &Path) -> Vec<Act> {
    read(&std::fs::read_to_string(dir.join(ACTS)).unwrap_or_default())
}

fn read(text: &str) -> Vec<Act> {
    let whole = text.lines().filter_map(|line| line.strip_suffix(WHOLE));
    whole.map(|line| Act::parse(line).unwrap_or_else(|| panic!("no act: {line:?}"))).collect()
}

/// The main processes of probes of this directory that run now, by name and attempt, with their numbers here.
#[must_use]
pub fn running(dir: &Path) -> BTreeMap<(String, u32), i32> {
    let mark = dir.to_string_lossy().into_owned();
    let found = processes_with(mark.as_bytes()).into_iter().filter_map(|pid| {
        let read = |file: &str| {
            std::fs::read(format!("/proc/{pid}/{file}")).ok().and_then(|text| String::from_utf8(text).ok())
        };
        let (line, environment) = (read("cmdline")?, read("environ")?);
        let words: Vec<&str> = line.split('\0').collect();
        let at = words.windows(2).position(|pair| pair == ["main", &mark])?;
        let attempt = environment.split('\0').find_map(|entry| entry.strip_prefix("INFORMER_ATTEMPT="))?;
        Some(((words.get(at + 2)?.to_string(), attempt.parse().ok()?), pid))
    });
    found.collect()
}

/// One running process of a probe.
struct Running {
    acts: File,
    dir: PathBuf,
    name: String,
    attempt: u32,
    pid: u32,
}

impl Running {
    fn new(dir: &Path, name: &str, attempt: u32) -> Result<Self> {
        let acts = OpenOptions::new().append(true).create(true).open(dir.join(ACTS))?;
        Ok(Self { acts, dir: dir.to_owned(), name: name.to_owned(), attempt, pid: std::process::id() })
    }

    fn act(&mut self, word: &str, detail: &str) -> Result<()> {
        // It begins with an end of line: what stands before it may be the torn line of another.
        let mut line = format!("\n{word} {} {} {} {}", self.name, self.attempt, self.pid, now().as_nanos());
        if !detail.is_empty() {
            let _ = write!(line, " {detail}");
        }
        line.push_str(WHOLE);
        line.push('\n');
        Ok(self.acts.write_all(line.as_bytes())?)
    }

    /// Takes the lock that tells copies of an exclusive task from each other. It is inherited, and held by whoever lives longest.
    fn lock(&mut self) -> Result<bool> {
        let file = OpenOptions::new().append(true).create(true).open(self.dir.join(format!("{}.lock", self.name)))?;
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty())?;
        let held = rustix::fs::flock(file.as_fd(), rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok();
        // Open for the rest of this process's life, and of its children's.
        std::mem::forget(file);
        Ok(held)
    }

    fn leave(&self, number: u32) -> Result<()> {
        let how = if number.is_multiple_of(2) { "stray" } else { "orphan" };
        let mut child = Command::new(std::env::current_exe()?)
            .args([how, &self.dir.to_string_lossy(), &self.name, &self.attempt.to_string()])
            .stdin(Stdio::null())
            .spawn()?;
        if how == "orphan" {
            child.wait()?;
        }
        Ok(())
    }

    fn outputs(&self, count: u32) -> Result<()> {
        let Some(dir) = std::env::var_os("TASK_OUTPUTS").filter(|_| count > 0) else { return Ok(()) };
        for n in 0..count {
            std::fs::write(Path::new(&dir).join(format!("out-{n}")), output(&self.name, self.attempt))?;
        }
        Ok(())
    }
}

/// The program. Its result is the exit code.
///
/// # Errors
/// Its arguments are wrong, or its directory is gone.
pub fn main(args: &[String]) -> Result<i32> {
    let [how, dir, name, rest @ ..] = args else { anyhow::bail!("chaos_probe main|stray|orphan DIR NAME …") };
    let dir = Path::new(dir);
    match how.as_str() {
        "main" => attempt(dir, name, &Probe::parse(rest)?),
        "orphan" => {
            // Its parent is gone at once: a daemon.
            let args = ["stray", &dir.to_string_lossy(), name, rest.first().context("an attempt")?];
            Command::new(std::env::current_exe()?).args(args).stdin(Stdio::null()).spawn()?;
            Ok(0)
        }
        _ => stray(dir, name, rest.first().context("an attempt")?.parse()?),
    }
}

fn attempt(dir: &Path, name: &str, probe: &Probe) -> Result<i32> {
    let number = std::env::var("INFORMER_ATTEMPT").context("INFORMER_ATTEMPT")?.parse()?;
    let fence = std::env::var("INFORMER_FENCE").context("INFORMER_FENCE")?;
    let mut running = Running::new(dir, name, number)?;
    let free = !probe.alone || running.lock()?;
    running.act("start", &fence)?;
    if !free {
        running.act("overlap", "")?;
    }
    (0..probe.strays).try_for_each(|n| running.leave(n))?;
    let begin = Instant::now();
    let steps = (u128::from(probe.millis) / STEP.as_millis()).max(1);
    let (mut written, mut bytes) = (0, 0);
    for step in 1.. {
        let share = (u128::from(probe.lines) * step / steps).min(u128::from(probe.lines));
        while u128::from(written) < share {
            let line = out_line(name, number, written);
            bytes += line.len();
            std::io::stdout().write_all(line.as_bytes())?;
            if written % 4 == 0 {
                std::io::stderr().write_all(err_line(name, number, written).as_bytes())?;
            }
            written += 1;
        }
        std::io::stdout().flush()?;
        running.act("tick", &bytes.to_string())?;
        if probe.millis > 0 && begin.elapsed() >= Duration::from_millis(probe.millis) && written == probe.lines {
            break;
        }
        std::thread::sleep(STEP);
    }
    running.outputs(probe.outputs)?;
    running.act("end", &probe.exit.to_string())?;
    Ok(probe.exit)
}

fn stray(dir: &Path, name: &str, attempt: u32) -> Result<i32> {
    // It leads no group: its parent does.
    rustix::process::setsid()?;
    let mut running = Running::new(dir, name, attempt)?;
    let begin = Instant::now();
    while begin.elapsed() < STRAY {
        running.act("stray", "")?;
        std::thread::sleep(STEP * 2);
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_an_act() {
        let act = Act::parse("start k-1 2 77 1000000001 3.9").expect("an act");
        let expected = Act {
            what: What::Start(3, 9),
            name: "k-1".to_owned(),
            attempt: 2,
            pid: 77,
            at: Duration::from_nanos(1_000_000_001),
        };
        assert_eq!(act, expected);
        assert_eq!(Act::parse("end k 1 7 5 3").map(|act| act.what), Some(What::End(3)));
        assert_eq!(Act::parse("end k 1 7"), None);
        assert_eq!(Act::parse("begin k 1 7 5"), None);
    }

    #[test]
    fn a_line_that_was_not_written_whole_was_not_done() {
        let text = "\nstart k 1 7 5 3.9 ;\n\ntick k 1 \nend k 1 7 6 3 ;\n\nstart strays-";
        let acts: Vec<What> = read(text).into_iter().map(|act| act.what).collect();
        assert_eq!(acts, [What::Start(3, 9), What::End(3)]);
        // Torn within its closing mark, too.
        assert_eq!(read("\nend k 1 7 6 3 "), []);
        assert_eq!(read("\nend k 1 7 6 3"), []);
    }

    #[test]
    fn a_probe_comes_back_from_its_command_line() {
        let probe = Probe { millis: 100, lines: 9, strays: 2, exit: 3, alone: true, stubborn: false, outputs: 1 };
        let argv = probe.argv(Path::new("/d"), "k");
        assert_eq!(Probe::parse(&argv[4..]).expect("arguments"), probe);
    }
}
