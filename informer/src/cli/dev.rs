//! `informer dev`: an informer in this process, and sidecars as its children.
//!
//! ```text
//!  start: find the program sidecar → informer → sidecars        each sidecar:  started ──▶ running ──ended by itself──▶ pause ─┐
//!  stop:  SIGTERM to each sidecar, which ends its tasks                           ▲                                            │
//!         → bounded wait → SIGKILL → informer                                     └────────────────────────────────────────────┘
//! ```

use std::{
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    sync::watch,
    task::JoinSet,
};

use super::{
    error::Error,
    place::{self, Place, Stops},
};

/// How long sidecars may take to end their tasks: twelve times a task's default grace. A task with a longer one survives this
/// process, as its sidecar is killed; doubled, a sidecar that hangs holds the prompt for longer, though Ctrl-C gets it back.
const STOP_WAIT: Duration = Duration::from_secs(120);
/// First pause before a sidecar that ended is started again, doubled each time.
const PAUSE: Duration = Duration::from_millis(500);
/// Longest such pause.
const PAUSE_CAP: Duration = Duration::from_secs(10);
/// A sidecar that ran this long was well: the next pause is the first again.
const WELL: Duration = Duration::from_secs(60);
/// Most sidecars of one machine; each is three processes and more.
const SIDECARS: i64 = 64;

/// Arguments of `dev`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Number of sidecars
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=SIDECARS))]
    sidecars: u32,
    /// Tasks at once, for each sidecar [default: its cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(proto::bounds::SLOTS)))]
    slots: Option<u32>,
    /// Processor share to give away, for each sidecar, in thousandths of a core [default: all cores]
    #[arg(long, value_name = "MILLIS")]
    cpu: Option<u64>,
    #[command(flatten)]
    place: Place,
}

/// What the sidecars are told, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Run,
    Stop,
    Kill,
}

pub(crate) async fn run(args: Args) -> Result<u8, Error> {
    let program = sidecar_program()?;
    let data = args.place.data("informer-dev")?;
    place::log(None)?;
    let mut stops = Stops::new()?;
    let server = place::start(args.place.options(data.join("informer"))?).await?;
    let (stage, told) = watch::channel(Stage::Run);
    let mut sidecars = JoinSet::new();
    for number in 1..=args.sidecars {
        let words = args.sidecar_words(&format!("http://{}", server.addr()), &data.join(format!("sidecar-{number}")));
        sidecars.spawn(keep(number, program.clone(), words, told.clone()));
    }

    let outcome = async {
        place::ready(&server.url(), &data)?;
        tokio::select! {
            cause = server.failed() => Err(Error::Server(cause.to_string())),
            () = stops.next() => Ok(0),
        }
    };
    let outcome = outcome.await;

    stage.send_replace(Stage::Stop);
    loop {
        tokio::select! {
            ended = sidecars.join_next() => if ended.is_none() { break },
            // A second Ctrl-C is impatience. A SIGTERM is not: a script that was interrupted with us sends one to make sure.
            () = stops.interrupted() => drop(stage.send_replace(Stage::Kill)),
        }
    }
    server.stop().await;
    outcome
}

/// The program `sidecar` that was built with this one.
fn sidecar_program() -> Result<PathBuf, Error> {
    let remedy = "; build all three with `cargo build --release --workspace`";
    let failed = |attempted: String, source| Error::Local { attempted, source, remedy };
    let own = std::env::current_exe().map_err(|source| failed("find this program's own path".into(), source))?;
    let program = own.with_file_name("sidecar");
    match program.metadata() {
        Ok(found) if found.is_file() => Ok(program),
        Ok(_) => Err(failed(format!("start {}", program.display()), io::Error::other("it is not a file"))),
        Err(source) => Err(failed(format!("start {}", program.display()), source)),
    }
}

impl Args {
    fn sidecar_words(&self, url: &str, data: &Path) -> Vec<String> {
        let mut words: Vec<String> = ["run", "--informer", url, "--data"].map(String::from).into();
        words.push(data.to_string_lossy().into_owned());
        // A killed informer can end nobody: each sidecar then ends itself, so that the next one finds the data free.
        words.extend(["--stop-tasks-on-exit".into(), "--end-with-parent".into(), std::process::id().to_string()]);
        for (flag, value) in [("--slots", self.slots.map(u64::from)), ("--cpu", self.cpu)] {
            words.extend(value.into_iter().flat_map(|value| [flag.to_owned(), value.to_string()]));
        }
        words
    }
}

/// Keeps one sidecar running until told to stop, and then ends it.
async fn keep(number: u32, program: PathBuf, words: Vec<String>, mut told: watch::Receiver<Stage>) {
    let mut pause = PAUSE;
    loop {
        let started = Instant::now();
        match spawn(&program, &words) {
            Err(error) => {
                tracing::error!(sidecar = number, program = %program.display(), %error, "cannot start the sidecar")
            }
            Ok(mut child) => {
                tokio::select! {
                    biased;
                    () = reached(&mut told, Stage::Stop) => return end(number, &mut child, &mut told).await,
                    status = child.wait() => match status {
                        Ok(status) => tracing::warn!(sidecar = number, %status, "the sidecar ended; starting it again"),
                        Err(error) => tracing::error!(sidecar = number, %error, "cannot wait for the sidecar"),
                    },
                }
            }
        }
        pause = if started.elapsed() >= WELL { PAUSE } else { pause };
        // A sidecar that cannot start must not take the machine: it is tried less and less often.
        tokio::select! {
            () = reached(&mut told, Stage::Stop) => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(PAUSE_CAP);
    }
}

/// Waits until the sidecars are told this stage. One that nobody tells anything any more is to be killed.
async fn reached(told: &mut watch::Receiver<Stage>, stage: Stage) {
    drop(told.wait_for(|now| *now >= stage).await);
}

/// The sidecar is told by the kernel when the *thread* that started it dies. That thread is a worker of the runtime, which keeps its
/// workers until this verb is over, since nothing in it hands one off (`block_in_place`).
///
/// A process group of its own keeps the terminal's Ctrl-C to this process, which ends the sidecars in order.
fn spawn(program: &Path, words: &[String]) -> io::Result<Child> {
    // Its stdout goes where logs go: ours carries the URL alone.
    let log = Stdio::from(io::stderr().as_fd().try_clone_to_owned()?);
    Command::new(program).args(words).stdin(Stdio::null()).stdout(log).process_group(0).kill_on_drop(true).spawn()
}

/// Asks a sidecar to end with its tasks; kills it if it takes too long.
async fn end(number: u32, child: &mut Child, told: &mut watch::Receiver<Stage>) {
    // An id is there until the child was waited for, so it cannot be another process's.
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
        && let Err(error) = kill_process(pid, Signal::TERM)
    {
        tracing::warn!(sidecar = number, %error, "cannot ask the sidecar to stop");
    }
    tokio::select! {
        _ = child.wait() => return,
        () = tokio::time::sleep(STOP_WAIT) => {}
        () = reached(told, Stage::Kill) => {}
    }
    tracing::warn!(sidecar = number, "the sidecar did not end in time and is killed; its tasks may still run");
    if let Err(error) = child.kill().await {
        tracing::error!(sidecar = number, %error, "cannot kill the sidecar");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> Args {
        Args { sidecars: 1, slots: Some(3), cpu: None, place: Place::default() }
    }

    #[test]
    fn a_sidecar_is_told_where_what_and_to_end_its_tasks() {
        let words = args().sidecar_words("http://127.0.0.1:1", Path::new("/d/sidecar-1"));
        let expected = [
            "run",
            "--informer",
            "http://127.0.0.1:1",
            "--data",
            "/d/sidecar-1",
            "--stop-tasks-on-exit",
            "--end-with-parent",
            &std::process::id().to_string(),
            "--slots",
            "3",
        ];
        assert_eq!(words, expected);
    }

    #[test]
    fn a_missing_sidecar_names_the_remedy() {
        // Beside the test's own program there is none.
        let error = sidecar_program().expect_err("no sidecar beside a test").to_string();
        assert!(error.contains("/sidecar: ") && error.ends_with("`cargo build --release --workspace`"), "{error}");
    }

    #[tokio::test]
    async fn a_sidecar_that_ends_is_started_again_and_ended_with_the_rest() {
        let folder = std::env::temp_dir().join(format!("informer-dev-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let fifo = folder.join("starts");
        // The first ends at once; the second says so and stays until it is asked to stop.
        let script = format!(
            "if mkdir {0}/first 2>/dev/null; then exit 3; fi; trap 'rmdir {0}/second; exit 0' TERM; mkdir {0}/second; \
             echo up > {0}/starts; while :; do sleep 0.05; done",
            folder.display()
        );
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).expect("a pipe");
        let (stage, told) = watch::channel(Stage::Run);
        let kept = tokio::spawn(keep(1, "/bin/sh".into(), vec!["-c".into(), script], told));
        let up = tokio::task::spawn_blocking(move || std::fs::read_to_string(fifo));
        assert_eq!(up.await.expect("read").expect("a line"), "up\n");
        assert!(folder.join("second").is_dir());
        stage.send_replace(Stage::Stop);
        kept.await.expect("ended in order");
        assert!(!folder.join("second").exists(), "it was killed instead of asked");
        std::fs::remove_dir_all(&folder).expect("removed");
    }
}
