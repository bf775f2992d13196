//! Database files that something else damaged, cut or put back in time: part of the family of [`super::disks`].

use super::promises::{Promises, ended, since, started, starts, waiting};
use super::{Case, Family, Outcome, Round, now};
use crate::world::{World, alive, wait_for};
use anyhow::{Context as _, Result, ensure};
use proto::v1;
use proto::v1::informer_client::InformerClient;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tonic::transport::Endpoint;

/// SQLite's, of every database here.
const PAGE: usize = 4096;
/// A frame of a log: its head and a page. Before the first stands the log's head.
const FRAME: usize = 24 + PAGE;
const LOG_HEAD: usize = 32;
/// What a page of a tree begins with: interior and leaf, of indices and tables.
const TREE_PAGES: [u8; 4] = [2, 5, 10, 13];
/// Bytes of a page that are overwritten: its head and the places of its first cells.
const OVERWRITTEN: usize = 64;

/// Stands in a payload and nowhere else; and what is put in its place.
const MARKER: &str = "as-it-was-submitted";
const ALTERED: &str = "as-it-never-was-put";

/// A page of the informer's store is overwritten.
pub static STORE_PAGE: Case = Case {
    fault: "a page of informer.db overwritten",
    how: "64 bytes of a page, while the informer is down",
    family: Family::Disks,
    needs: &[],
    run: store_page,
};

/// What a task runs is altered in the informer's store.
pub static STORE_PAYLOAD: Case = Case {
    fault: "a payload in informer.db altered",
    how: "one letter of a command, while the informer is down",
    family: Family::Disks,
    needs: &[],
    run: store_payload,
};

/// The last commits of the informer's store are cut off.
pub static STORE_LOG_CUT: Case = Case {
    fault: "the tail of informer.db-wal cut off",
    how: "the log's file truncated in or between commits after kill -9",
    family: Family::Disks,
    needs: &[],
    run: store_log_cut,
};

/// A page of a ledger is overwritten.
pub static LEDGER_PAGE: Case = Case {
    fault: "a page of ledger.db overwritten",
    how: "64 bytes of a page, while the agent is down",
    family: Family::Disks,
    needs: &[],
    run: ledger_page,
};

/// The last commits of a ledger are cut off.
pub static LEDGER_LOG_CUT: Case = Case {
    fault: "the tail of ledger.db-wal cut off",
    how: "the log's file truncated in or between commits after kill -9",
    family: Family::Disks,
    needs: &[],
    run: ledger_log_cut,
};

/// The informer's store is an older one.
pub static OLD_BACKUP: Case = Case {
    fault: "informer restored from an older backup",
    how: "its directory replaced by an earlier copy while tasks run",
    family: Family::Disks,
    needs: &[],
    run: |_| old_backup(false),
};

/// The informer's store is an older one, and the operator vouches for it.
pub static OLD_BACKUP_ACCEPTED: Case = Case {
    fault: "informer restored from an older backup, vouched for",
    how: "the same, and --accept-restored",
    family: Family::Disks,
    needs: &[],
    run: |_| old_backup(true),
};

/// Every file of a directory that is data: not the shared memory between connections, nor what names the owner.
fn copy_of(dir: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.to_string_lossy();
        if path.is_file() && !name.ends_with("-shm") && !name.ends_with("lock") {
            files.insert(path.clone(), fs::read(&path)?);
        }
    }
    Ok(files)
}

/// Makes the directory what it was, databases and logs alike.
fn put_back(dir: &Path, copy: &BTreeMap<PathBuf, Vec<u8>>) -> Result<()> {
    for path in fs::read_dir(dir)?.flatten().map(|entry| entry.path()) {
        let database = path.file_name().is_some_and(|name| name.to_string_lossy().contains(".db"));
        if database {
            fs::remove_file(path)?;
        }
    }
    for (path, bytes) in copy.iter().filter(|(path, _)| path.to_string_lossy().contains(".db")) {
        fs::write(path, bytes)?;
    }
    Ok(())
}

fn database_files(dir: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let all = copy_of(dir)?;
    // A log that holds nothing is none.
    Ok(all.into_iter().filter(|(path, bytes)| path.to_string_lossy().contains(".db") && !bytes.is_empty()).collect())
}

/// Overwrites the head of a page that is in use.
fn overwrite_page(file: &Path, round: &mut Round) -> Result<()> {
    let mut bytes = fs::read(file)?;
    let pages: Vec<usize> = (1..bytes.len() / PAGE).filter(|page| TREE_PAGES.contains(&bytes[page * PAGE])).collect();
    ensure!(!pages.is_empty(), "{} has no page to damage", file.display());
    let page = pages[usize::try_from(round.rng.range(0, pages.len() as u64 - 1))?];
    for byte in &mut bytes[page * PAGE..][..OVERWRITTEN] {
        *byte = u8::try_from(round.rng.range(0x80, 0xff))?;
    }
    fs::write(file, bytes).context("cannot damage it")
}

/// How many frames of a log belong to its current generation: those with the salt of its head.
fn frames(log: &[u8]) -> usize {
    let salt = |at: usize| log.get(at..at + 8);
    let of = |frame: usize| salt(LOG_HEAD + frame * FRAME + 8);
    (0..).take_while(|frame| of(*frame).is_some() && of(*frame) == salt(16)).count()
}

/// Cuts a log in or between its last few commits, so that two of them at least are gone: of the very last one nobody may have been told.
fn cut_log(file: &Path, round: &mut Round) -> Result<()> {
    let log = fs::read(file)?;
    // The last frame of a commit names the size of the database after it.
    let is_end = |frame: &usize| log[LOG_HEAD + frame * FRAME + 4..][..4] != [0; 4];
    let ends: Vec<usize> = (0..frames(&log)).filter(is_end).collect();
    let [first, .., last, _] = ends.last_chunk::<4>().with_context(|| format!("{} commits are in it", ends.len()))?;
    let kept = usize::try_from(round.rng.range(*first as u64, *last as u64))?;
    let torn = if round.rng.chance(500) { usize::try_from(round.rng.range(1, FRAME as u64 - 1))? } else { 0 };
    fs::File::options().write(true).open(file)?.set_len((LOG_HEAD + kept * FRAME + torn) as u64)?;
    Ok(())
}

/// A world with one task that runs and some that have ended.
fn busy() -> Result<(World, Promises)> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    // Room for what an informer that is behind does not know of, beside what it has run.
    world.start_sidecar(0, &["--slots", "4", "--cpu", "4000"], &[])?;
    world.wait_linked(1)?;
    let mut promises = Promises::default();
    for _ in 0..4 {
        promises.submit(&world, &["--", "true"])?;
    }
    promises.settle(&world)?;
    promises.submit(&world, &["--", "sh", "-c", &waiting(&world, "runs")])?;
    started(&world, "runs")?;
    Ok((world, promises))
}

fn finish(world: &World, promises: &mut Promises) -> Result<()> {
    promises.ask_again(world)?;
    world.touch("go-runs")?;
    promises.settle(world)?;
    promises.require(starts(world, "runs") == 1, "invariant 7: the running task was started again");
    Ok(())
}

fn store_page(round: &mut Round) -> Result<Outcome> {
    let (mut world, mut promises) = busy()?;
    let data = world.dir().join("informer");
    world.terminate_informer()?;
    let clean = copy_of(&data)?;
    overwrite_page(&data.join("informer.db"), round)?;
    let damaged = database_files(&data)?;
    let fault = now();
    let (status, said) = world.refused_informer()?;
    let detected = since(fault);
    promises.require(status.code() == Some(1), format!("invariant 10: it ended with {status}"));
    promises.require(said.contains("informer.db"), format!("invariant 10: the file is not named: {said}"));
    promises.require(database_files(&data)? == damaged, "invariant 10: the damaged files were changed");
    put_back(&data, &clean)?;
    let healed = now();
    world.start_informer(&[])?;
    world.wait_linked(1)?;
    let recovered = since(healed);
    finish(&world, &mut promises)?;
    Ok(promises.outcome(
        "the start was refused, the file named and left as it was; with a clean copy all was there",
        Some(detected),
        Some(recovered),
    ))
}

/// A log that was cut looks like one whose last commits never came; that somebody was told of them stands beside it.
fn store_log_cut(round: &mut Round) -> Result<Outcome> {
    let (mut world, mut promises) = busy()?;
    let data = world.dir().join("informer");
    let main = started(&world, "runs")?;
    world.kill_informer();
    let clean = copy_of(&data)?;
    cut_log(&data.join("informer.db-wal"), round)?;
    let cut = database_files(&data)?;
    let fault = now();
    let (status, said) = world.refused_informer()?;
    let detected = since(fault);
    promises.require(status.code() == Some(1), format!("invariant 10: it ended with {status}"));
    promises.require(said.contains("informer.db-wal"), format!("invariant 10: the file is not named: {said}"));
    promises.require(database_files(&data)? == cut, "invariant 10: the cut files were changed");
    promises.require(alive(main), "invariant 7: the running task ended");
    put_back(&data, &clean)?;
    let healed = now();
    world.start_informer(&[])?;
    world.wait_linked(1)?;
    let recovered = since(healed);
    finish(&world, &mut promises)?;
    Ok(promises.outcome(
        "the start was refused, the file named and left as it was; with the whole log all was there",
        Some(detected),
        Some(recovered),
    ))
}

/// Replaces some bytes wherever they stand in a file; both are equally long.
fn alter(file: &Path, from: &str, to: &str) -> Result<()> {
    let mut bytes = fs::read(file)?;
    let places: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(from.as_bytes())).collect();
    ensure!(!places.is_empty(), "{from} is not in {}", file.display());
    places.iter().for_each(|at| bytes[*at..*at + to.len()].copy_from_slice(to.as_bytes()));
    fs::write(file, bytes).context("cannot alter it")
}

/// What a task is to run is not what was submitted: it is not run.
fn store_payload(_: &mut Round) -> Result<Outcome> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    let mut promises = Promises::default();
    let ran = world.dir().join("ran");
    promises.submit(&world, &["--", "sh", "-c", &format!("echo {MARKER} > {}", ran.display())])?;
    world.terminate_informer()?;
    let file = world.dir().join("informer/informer.db");
    alter(&file, MARKER, ALTERED)?;
    // No page is damaged: only who reads the payload can see it.
    world.start_informer(&[])?;
    let fault = now();
    world.start_sidecar(0, &[], &[])?;
    wait_for("the informer has ended", || world.informer_has_ended().then_some(()))?;
    let detected = since(fault);
    let said = world.log("informer.log");
    let named = said.contains("informer.db") && said.contains("the payload");
    promises.require(named, format!("invariant 10: file and payload are not named: {said}"));
    promises.require(!ran.exists(), "invariant 10: what was damaged was run");
    // In the file as it is now: the informer has gone on before it came to this task.
    alter(&file, ALTERED, MARKER)?;
    let healed = now();
    world.start_informer(&[])?;
    world.wait_linked(1)?;
    let recovered = since(healed);
    promises.ask_again(&world)?;
    promises.settle(&world)?;
    promises.require(fs::read_to_string(&ran)?.trim() == MARKER, "it was run otherwise than it was submitted");
    Ok(promises.outcome(
        "the informer named file and payload and ended, and nothing of it was run; with a clean copy it ran",
        Some(detected),
        Some(recovered),
    ))
}

fn ledger_page(round: &mut Round) -> Result<Outcome> {
    let (mut world, mut promises) = busy()?;
    let data = world.dir().join("sidecar-0");
    let main = started(&world, "runs")?;
    world.terminate_agent(0)?;
    let clean = copy_of(&data)?;
    overwrite_page(&data.join("ledger.db"), round)?;
    let damaged = database_files(&data)?;
    let fault = now();
    world.start_sidecar(0, &[], &[])?;
    let status = world.wait_agent_gone(0)?;
    let detected = since(fault);
    let said = world.log("sidecar-0.log");
    promises.require(status.code() == Some(1), format!("invariant 10: it ended with {status}"));
    promises.require(said.contains("ledger.db"), format!("invariant 10: the file is not named: {said}"));
    promises.require(database_files(&data)? == damaged, "invariant 10: the damaged files were changed");
    promises.require(alive(main), "invariant 7: the running task ended with the ledger");
    put_back(&data, &clean)?;
    let healed = now();
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    let recovered = since(healed);
    finish(&world, &mut promises)?;
    Ok(promises.outcome(
        "the start was refused, the file named and left as it was, the task ran on; with a clean copy its end was told",
        Some(detected),
        Some(recovered),
    ))
}

/// What the ledger has forgotten, the records still tell, and the inventory settles it: nothing in the ledger alone is anybody's promise.
fn ledger_log_cut(round: &mut Round) -> Result<Outcome> {
    let (mut world, mut promises) = busy()?;
    let data = world.dir().join("sidecar-0");
    world.kill_agent(0);
    cut_log(&data.join("ledger.db-wal"), round)?;
    let fault = now();
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    let recovered = since(fault);
    finish(&world, &mut promises)?;
    Ok(promises.outcome("what the ledger had lost was found again in the records", None, Some(recovered)))
}

/// Asks by gRPC, as an operator's check would.
fn identity(world: &World) -> Result<v1::IdentityResponse> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let channel = Endpoint::from_shared(world.url().to_owned())?.connect().await?;
        let mut client = InformerClient::new(channel);
        Ok(client.identity(v1::IdentityRequest {}).await?.into_inner())
    })
}

fn old_backup(accepted: bool) -> Result<Outcome> {
    let (mut world, mut promises) = busy()?;
    let data = world.dir().join("informer");
    world.terminate_informer()?;
    let backup = copy_of(&data)?;
    world.start_informer(&[])?;
    world.wait_linked(1)?;
    // The backup knows nothing of this one.
    world.submit(&["--", "sh", "-c", &waiting(&world, "unknown")])?;
    let unknown = started(&world, "unknown")?;
    world.kill_informer();
    put_back(&data, &backup)?;
    if accepted {
        world.put_informer(["sh", "-c", "exec \"$@\" --accept-restored", "sh"].map(str::to_owned).into());
    }
    let fault = now();
    world.start_informer(&[])?;
    world.wait_linked(1)?;
    wait_for("it says that it was restored", || identity(&world).ok().filter(|identity| identity.restored))?;
    let detected = since(fault);
    let log = world.log("informer.log");
    promises.require(log.contains("restored"), format!("its log does not say so: {log}"));
    world.start_sidecar(1, &[], &[])?;
    world.wait_linked(2)?;
    let exclusive = world.submit(&["--exclusive", "--accept-weak-fencing", "--", "true"])?;
    if !accepted {
        let why = world.informer(&["why", &exclusive])?;
        let why = String::from_utf8_lossy(&why.stdout).into_owned();
        promises.require(why.contains("restored"), format!("invariant 5: an exclusive task is not held: {why}"));
    }
    let task = ended(&world, &exclusive)?;
    promises.require(task["state"] == "succeeded", format!("the exclusive task: {task}"));
    let recovered = since(fault);
    promises.require(alive(unknown), "invariant 7: it ended a task that it does not know");
    finish(&world, &mut promises)?;
    world.touch("go-unknown")?;
    wait_for("the unknown task ends by itself", || (!alive(unknown)).then_some(()))?;
    promises.require(starts(&world, "unknown") == 1, "the unknown task was started again");
    let happened = if accepted {
        "nothing was stopped; it said `restored`, and exclusive tasks started at once"
    } else {
        "nothing was stopped; it said `restored`, and held exclusive tasks for the longest lease"
    };
    Ok(promises.outcome(happened, Some(detected), Some(recovered)))
}
