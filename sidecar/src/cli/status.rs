//! `sidecar status`: what the ledger and the records say, whoever is alive.

use crate::ledger::{Entry, Ledger, Lock, Meta};
use crate::machine::RowState;
use anyhow::Context as _;
use clap::Args;
use keeper::lease::LeasePage;
use keeper::wire::ListedState;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The state of an attempt that the informer has every word of: kept for its log, and of no concern to anybody.
const ACKNOWLEDGED: &str = "acknowledged";

/// Arguments of `sidecar status`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Data directory [default: $XDG_STATE_HOME/sidecar or ~/.local/state/sidecar].
    #[arg(long, value_name = "DIR", env = "SIDECAR_DATA")]
    data: Option<PathBuf>,
    /// Show the acknowledged attempts, too, instead of only their number.
    #[arg(long)]
    all: bool,
    /// Print one JSON document, with all attempts.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Status {
    id: String,
    informer: String,
    incarnation: u64,
    agent: &'static str,
    keeper: &'static str,
    /// The lease page is a file, or may be made one. What else hinders its writing stands in the agent's log.
    lease_page: bool,
    /// Milliseconds that the lease still lasts; 0: none is live.
    lease_ms: u64,
    attempts: Vec<Attempt>,
}

#[derive(Debug, Serialize)]
struct Attempt {
    attempt: String,
    task: String,
    name: String,
    /// As the ledger has it.
    state: &'static str,
    /// The informer does not know it: it runs on, and nobody takes its result.
    set_aside: bool,
    /// As the record has it; it is the newer one while no agent runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
}

pub(super) fn status(arguments: &Arguments) -> anyhow::Result<()> {
    let data = arguments.data.clone().map_or_else(super::default_data, Ok)?;
    let (meta, entries) = Ledger::peek(&data)?;
    let status = gather(&data, meta, &entries);
    let mut out = std::io::stdout().lock();
    let written = if arguments.json {
        let document = serde_json::to_string_pretty(&status).context("cannot write the status as JSON")?;
        writeln!(out, "{document}")
    } else {
        print(&mut out, &status, arguments.all)
    };
    match written {
        // A reader such as `head` has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to stdout"),
    }
}

fn gather(data: &Path, meta: Meta, entries: &[Entry]) -> Status {
    let alive = |alive| if alive { "running" } else { "not running" };
    Status {
        id: meta.sidecar.to_string(),
        informer: meta.informer,
        incarnation: meta.incarnation,
        agent: alive(Lock::is_held(data)),
        keeper: alive(keeper::launch::is_running(data)),
        lease_page: can_write(&data.join(keeper::lease::FILE)),
        lease_ms: lease_ms(data),
        attempts: entries.iter().map(|entry| attempt(data, entry)).collect(),
    }
}

fn can_write(page: &Path) -> bool {
    match std::fs::File::options().write(true).open(page) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

fn lease_ms(data: &Path) -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let now_ns = time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned();
    let deadline_ns = LeasePage::open(data).ok().and_then(|page| page.deadline()).unwrap_or(0);
    deadline_ns.saturating_sub(now_ns) / 1_000_000
}

fn attempt(data: &Path, entry: &Entry) -> Attempt {
    let id = entry.row.attempt;
    let (state, mut exit_code) = match &entry.row.state {
        RowState::Accepted => ("accepted", None),
        RowState::Running => ("running", None),
        RowState::Ended(ending) => ("ended", ending.exit_code),
        RowState::Published(ending, _) => ("published", ending.exit_code),
        RowState::Refused(_) => ("refused", None),
        RowState::Retired(_) => (ACKNOWLEDGED, None),
    };
    let record = keeper::record::read(&data.join(keeper::record::ATTEMPTS).join(id.dir_name())).ok();
    let (record, pid) = match record.map(|record| record.state()) {
        Some(ListedState::Starting) => (Some("starting"), None),
        Some(ListedState::Running(process)) => (Some("running"), Some(process.pid)),
        Some(ListedState::Ended(end)) => {
            exit_code = exit_code.or(end.code);
            (Some("ended"), None)
        }
        Some(ListedState::Lost) => (Some("lost"), None),
        None => (None, None),
    };
    let name = entry.assign.as_ref().map_or(String::new(), |assign| assign.task_name.clone());
    let set_aside = entry.row.set_aside;
    Attempt { attempt: id.to_string(), task: id.task.to_string(), name, state, set_aside, record, pid, exit_code }
}

/// It is over, whatever the informer makes of it. The record is the newer one while no agent runs.
fn has_ended(attempt: &Attempt) -> bool {
    let stands = ["ended", "published", "refused"].contains(&attempt.state);
    stands || attempt.state != ACKNOWLEDGED && matches!(attempt.record, Some("ended" | "lost"))
}

/// It runs, or may yet, and the informer does not know it.
fn is_apart(attempt: &Attempt) -> bool {
    attempt.set_aside && attempt.state != ACKNOWLEDGED && !has_ended(attempt)
}

fn print(out: &mut impl std::io::Write, status: &Status, all: bool) -> std::io::Result<()> {
    writeln!(out, "sidecar   {} (start {})", status.id, status.incarnation)?;
    writeln!(out, "informer  {}", status.informer)?;
    writeln!(out, "agent     {}", status.agent)?;
    writeln!(out, "keeper    {}", status.keeper)?;
    if !status.lease_page {
        writeln!(
            out,
            "lease     its page cannot be written: nothing starts until what has the name `lease` is moved away"
        )?;
    }
    match status.lease_ms {
        _ if !status.lease_page => {}
        0 => writeln!(out, "lease     none")?,
        ms => writeln!(out, "lease     {}.{} s", ms / 1000, ms % 1000 / 100)?,
    }
    let acknowledged = status.attempts.iter().filter(|attempt| attempt.state == ACKNOWLEDGED).count();
    write!(out, "attempts  {}", status.attempts.len() - acknowledged)?;
    match acknowledged {
        0 => writeln!(out)?,
        count if all => writeln!(out, ", and {count} acknowledged")?,
        count => writeln!(out, ", and {count} acknowledged (--all shows them)")?,
    }
    for attempt in status.attempts.iter().filter(|attempt| all || attempt.state != ACKNOWLEDGED) {
        let record = attempt.record.map_or("no record", |record| record);
        let code = attempt.exit_code.map_or(String::new(), |code| format!("  exit {code}"));
        let pid = attempt.pid.map_or(String::new(), |pid| format!("  pid {pid}"));
        let aside = if attempt.set_aside { "  set aside" } else { "" };
        writeln!(out, "  {}  {:12}  {record}{pid}{code}{aside}  {}", attempt.attempt, attempt.state, attempt.name)?;
    }
    if status.attempts.iter().any(is_apart) {
        writeln!(
            out,
            "set aside: the informer does not know them; they run on (`exclusive` and `stop` tasks until their lease is over), and nobody takes their result."
        )?;
        writeln!(out, "`informer drain {} --stop --wait` ends all that runs here, them too", status.id)?;
    }
    if status.attempts.iter().any(|attempt| attempt.set_aside && has_ended(attempt)) {
        writeln!(out, "set aside and ended: nothing of them runs; their records stay for an informer that knows them")?;
    }
    Ok(())
}
