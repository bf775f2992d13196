//! Disks that are full, fail, or lose what was not flushed. Damaged files: [`super::damage`].

use super::promises::{Promises, attempts, ended, since, started, starts, waiting};
use super::sys::{Cut, cut_power};
use super::{Absent, Case, Family, Need, Outcome, Round, damage, identity, lease_page, now};
use crate::world::life::{Frozen, Watched};
use crate::world::place::Place;
use crate::world::{World, kill, wait_for};
use anyhow::{Context as _, Result};
use std::fs::File;
use std::path::Path;
use std::time::Duration;

/// The cases of this family.
pub static CASES: &[&Case] = &[
    &INFORMER_FULL,
    &SIDECAR_FULL,
    &INFORMER_EIO,
    &SIDECAR_EIO,
    &INFORMER_BLOCKED,
    &INFORMER_POWER,
    &SIDECAR_POWER,
    &damage::STORE_PAGE,
    &damage::STORE_PAYLOAD,
    &damage::STORE_LOG_CUT,
    &damage::LEDGER_PAGE,
    &damage::LEDGER_LOG_CUT,
    &identity::LEDGER_LOST,
    &identity::IDENTITY_LOST,
    &identity::OTHER_INFORMER,
    &lease_page::HARMED,
    &lease_page::HARMED_UNSEEN,
    &damage::OLD_BACKUP,
    &damage::OLD_BACKUP_ACCEPTED,
];

/// Room for the informer's log of commits (8 MiB from its start) and a small database, and little more.
const STORE_TMPFS: &str = "mount -t tmpfs -o size=24m none \"$1\"";
/// Small enough to be filled at once.
const SIDECAR_TMPFS: &str = "mount -t tmpfs -o size=8m none \"$1\"";
/// A file system in an image in a tmpfs `$1.under`, which holds less than the image says.
const FAILING: &str = "mkdir -p \"$1.under\" && mount -t tmpfs -o size=40m none \"$1.under\" && \
     truncate -s 256M \"$1.under/image\" && mkfs.ext4 -q -E nodiscard \"$1.under/image\" && \
     mount -o loop \"$1.under/image\" \"$1\"";
/// The same without a journal, whose failure would turn the file system read-only until it is mounted again, which it cannot be while
/// tasks have files open on it.
const FAILING_FOR_A_WHILE: &str = "mkdir -p \"$1.under\" && mount -t tmpfs -o size=40m none \"$1.under\" && \
     truncate -s 256M \"$1.under/image\" && mkfs.ext4 -q -O ^has_journal -E nodiscard \"$1.under/image\" && \
     mount -o loop \"$1.under/image\" \"$1\"";
/// One with room for all, as a machine's disk has.
const JOURNALLED: &str = "mkdir -p \"$1.under\" && mount -t tmpfs -o size=80m none \"$1.under\" && \
     truncate -s 64M \"$1.under/image\" && mkfs.ext4 -q \"$1.under/image\" && mount -o loop \"$1.under/image\" \"$1\"";
/// As after a reboot: what was in memory only is gone.
const MOUNT_AGAIN: &str = "umount \"$1\" && mount -o loop \"$1.under/image\" \"$1\"";
/// Takes all the room there is; that it fails at last is its purpose.
const FILL: &str = "cat /dev/zero > \"$1/filler\" 2>/dev/null; test -s \"$1/filler\"";
const EMPTY: &str = "rm \"$1/filler\"";

/// Of each submit's environment, so that few of them fill what room is left.
const PADDING: usize = 100_000;
/// More submits than any disk here has room for.
const SUBMITS: usize = 200;

const ROOT: &[Need] = &[Need::Root, Need::Tool("unshare"), Need::Tool("nsenter")];
const LOOP: &[Need] = &[
    Need::Root,
    Need::Tool("unshare"),
    Need::Tool("nsenter"),
    Need::Tool("mkfs.ext4"),
    Need::File("/dev/loop-control"),
];

/// The informer's disk is full.
pub static INFORMER_FULL: Case = Case {
    fault: "informer's disk full",
    how: "a tmpfs of 24 MiB, filled while clients submit",
    family: Family::Disks,
    needs: ROOT,
    run: |round| informer_cannot_write(round, STORE_TMPFS, ""),
};

/// The informer's disk fails to flush.
pub static INFORMER_EIO: Case = Case {
    fault: "informer's disk fails to flush (EIO)",
    how: "ext4 in a loop image whose tmpfs is full",
    family: Family::Disks,
    needs: LOOP,
    run: |round| informer_cannot_write(round, FAILING, ".under"),
};

/// A sidecar's disk is full.
pub static SIDECAR_FULL: Case = Case {
    fault: "sidecar's disk full",
    how: "a tmpfs of 8 MiB, filled by a task's output",
    family: Family::Disks,
    needs: ROOT,
    run: sidecar_full,
};

/// A sidecar's disk fails to flush.
pub static SIDECAR_EIO: Case = Case {
    fault: "sidecar's disk fails to flush (EIO)",
    how: "ext4 in a loop image whose tmpfs is full",
    family: Family::Disks,
    needs: LOOP,
    run: sidecar_eio,
};

/// The informer's disk does not answer, and it is killed over it.
pub static INFORMER_BLOCKED: Case = Case {
    fault: "informer killed while its disk is blocked",
    how: "fsfreeze of an ext4 loop image, kill -9 when a commit hangs in it and another client was answered",
    family: Family::Disks,
    needs: &[
        Need::Root,
        Need::Tool("unshare"),
        Need::Tool("nsenter"),
        Need::Tool("mkfs.ext4"),
        Need::Tool("fsfreeze"),
        Need::File("/dev/loop-control"),
    ],
    run: informer_blocked,
};

/// The informer's machine loses its power.
pub static INFORMER_POWER: Case = Case {
    fault: "power cut at the informer",
    how: "EXT4_IOC_SHUTDOWN while clients submit, kill -9, mounted again",
    family: Family::Disks,
    needs: LOOP,
    run: informer_power,
};

/// A sidecar's machine loses its power.
pub static SIDECAR_POWER: Case = Case {
    fault: "power cut at a sidecar",
    how: "EXT4_IOC_SHUTDOWN while tasks run, kill -9 of all of it, mounted again",
    family: Family::Disks,
    needs: LOOP,
    run: sidecar_power,
};

/// A namespace over a directory of the world; a machine that does not allow it skips the case.
pub(super) fn place(dir: &Path, mount: &str) -> Result<Place> {
    Place::over(dir, mount).map_err(|error| Absent(format!("{error:#}")).into())
}

/// The informer's disk takes nothing more: it says so and ends, what it had acknowledged is there afterwards, and what ran meanwhile
/// ran on. `filled` is what is filled, behind the name of its data directory.
fn informer_cannot_write(round: &Round, mount: &str, filled: &str) -> Result<Outcome> {
    let mut world = World::empty()?;
    if let Some((variable, bug)) = round.bug {
        world.set(variable, bug.into());
    }
    let data = world.dir().join("informer");
    let filled = world.dir().join(format!("informer{filled}"));
    let place = place(&data, mount)?;
    world.put_informer(place.enter());
    world.start_informer(&[])?;
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    let mut promises = Promises::default();
    promises.submit(&world, &["--", "sh", "-c", &waiting(&world, "runs")])?;
    started(&world, "runs")?;
    place.run(FILL, &[&filled])?;
    let fault = now();
    let Some(detected) = flood(&mut world, &mut promises, fault)? else {
        let acknowledged = format!("invariant 10: it acknowledged {SUBMITS} submits on a disk that takes nothing");
        promises.require(false, acknowledged);
        return Ok(promises.outcome("it never ended", None, None));
    };
    let log = world.log("informer.log");
    promises.require(log.contains("informer.db"), format!("invariant 10: the file is not named: {log}"));
    place.run(EMPTY, &[&filled])?;
    if filled != data {
        place.run(MOUNT_AGAIN, &[&data])?;
    }
    let healed = now();
    world.start_informer(&[])?;
    world.wait_linked(1)?;
    let recovered = since(healed);
    promises.ask_again(&world)?;
    world.touch("go-runs")?;
    promises.settle(&world)?;
    promises.require(starts(&world, "runs") == 1, "invariant 7: the running task was started again");
    let happened =
        "the informer named the file and ended; what it had acknowledged was there after the restart, what ran ran on";
    Ok(promises.outcome(happened, Some(detected), Some(recovered)))
}

/// Submits until the informer gives up; the time that it took since `fault`, `None` if it takes all. A client whose submit is under
/// way would wait for the next informer, and is not waited for.
fn flood(world: &mut World, promises: &mut Promises, fault: Duration) -> Result<Option<Duration>> {
    for n in 0..SUBMITS {
        // No two are alike, or they would be stored as one.
        let padding = format!("PADDING={n}{}", "x".repeat(PADDING));
        if promises.submit_unless_ended(world, &["--env", &padding, "--", "true"])? {
            return Ok(Some(since(fault)));
        }
    }
    Ok(None)
}

/// What is told while nothing can be written is told before it is durable.
fn informer_blocked(round: &mut Round) -> Result<Outcome> {
    let mut world = World::empty()?;
    if let Some((variable, bug)) = round.bug {
        world.set(variable, bug.into());
    }
    let data = world.dir().join("informer");
    let place = place(&data, JOURNALLED)?;
    world.put_informer(place.enter());
    world.put_sidecars(place.enter());
    world.start_informer(&[])?;
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    let mut promises = Promises::default();
    promises.submit(&world, &["--", "true"])?;
    promises.settle(&world)?;
    let frozen = Frozen::new(&world, &data)?;
    let mut client = Watched::new(world.informer_started(&["submit", "--key", "blocked", "--", "true"])?)?;
    let informer = world.informer_pid().context("the informer runs")?;
    wait_for("a commit hangs", || hangs(informer).then_some(()))?;
    // Whoever came before has been told by then what it is told.
    world.json(&["sidecars", "--json"])?;
    let (served, fault) = (!client.runs(), now());
    kill(informer);
    drop(frozen);
    world.kill_informer();
    world.start_informer(&[])?;
    world.wait_linked(1)?;
    let recovered = since(fault);
    promises.require(client.wait()?.success(), "invariant 4: its client was not served by the next informer");
    let told = String::from_utf8_lossy(&client.stdout).trim().to_owned();
    let again = world.submit(&["--key", "blocked", "--", "true"])?;
    promises.require(again == told, format!("invariant 1: {told} was acknowledged, and is {again} now"));
    promises.require(!served, "invariant 1: a submit was acknowledged while nothing could be written");
    promises.settle(&world)?;
    let happened = "nobody was told anything that was not on the disk; the client was served by the next informer";
    Ok(promises.outcome(happened, None, Some(recovered)))
}

/// Whether a thread of it waits for a disk.
fn hangs(pid: i32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let states = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
    states.filter_map(|stat| stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with('D'))).any(|waits| waits)
}

fn sidecar_full(_: &mut Round) -> Result<Outcome> {
    let mut world = World::empty()?;
    let place = place(&world.dir().join("sidecar-0"), SIDECAR_TMPFS)?;
    world.put_sidecars(place.enter());
    world.start_informer(&[])?;
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    let mut promises = Promises::default();
    let (mut failed, mut recovered) = (None, None);
    for _ in 0..2 {
        let fault = now();
        let id = world.submit(&["--tries", "1", "--", "head", "-c", "20000000", "/dev/zero"])?;
        let task = ended(&world, &id)?;
        promises.require(task["state"] == "failed", format!("what its log had no room for did not fail: {task}"));
        failed = Some(since(fault));
        // Its log is given up, and there is room again.
        promises.submit(&world, &["--", "true"])?;
        promises.settle(&world)?;
        recovered = Some(since(fault));
    }
    promises.require(!world.agent_has_ended(0), format!("the agent ended: {}", world.log("sidecar-0.log")));
    Ok(promises.outcome("the task that filled it failed; the sidecar worked on", failed, recovered))
}

/// The ledger's disk takes nothing more: the agent ends, its task runs on, and the next agent tells its end.
fn sidecar_eio(_: &mut Round) -> Result<Outcome> {
    let mut world = World::empty()?;
    let data = world.dir().join("sidecar-0");
    let filled = world.dir().join("sidecar-0.under");
    let place = place(&data, FAILING_FOR_A_WHILE)?;
    world.put_sidecars(place.enter());
    world.start_informer(&[])?;
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    let mut promises = Promises::default();
    promises.submit(&world, &["--", "sh", "-c", &waiting(&world, "runs")])?;
    started(&world, "runs")?;
    place.run(FILL, &[&filled])?;
    let fault = now();
    let mut n = 0;
    let status = wait_for("the agent ends, or no room is needed any more", || {
        // Each leaves a record, a log and a row of the ledger: at last one needs a block that is not there.
        let padding = format!("PADDING={n}{}", "x".repeat(PADDING));
        n += 1;
        let id =
            promises.try_submit(&world, &["--env", &padding, "--", "head", "-c", "100000", "/dev/zero"]).ok()??;
        wait_for("it is tried", || world.agent_has_ended(0).then_some(()).or_else(|| attempted(&world, &id))).ok()?;
        world.agent_has_ended(0).then_some(())
    });
    status.with_context(|| world.log("sidecar-0.log"))?;
    let detected = since(fault);
    place.run(EMPTY, &[&filled])?;
    let healed = now();
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    let recovered = since(healed);
    world.touch("go-runs")?;
    promises.settle(&world)?;
    promises.require(starts(&world, "runs") == 1, "invariant 7: the running task was started again");
    Ok(promises.outcome("the agent ended, its task ran on", Some(detected), Some(recovered)))
}

fn attempted(world: &World, id: &str) -> Option<()> {
    let task = world.task(id).ok()?;
    attempts(&task).iter().any(|attempt| !attempt["ended_unix_ms"].is_null()).then_some(())
}

/// Cuts the power of what a directory lies on.
fn cut(place: &Place, data: &Path, cut: Cut) -> Result<()> {
    cut_power(&File::open(place.look(data))?, cut).context("cannot cut the power of an ext4 file system")
}

fn any_cut(round: &mut Round) -> Cut {
    if round.rng.chance(500) { Cut::AtOnce } else { Cut::AfterJournal }
}

fn informer_power(round: &mut Round) -> Result<Outcome> {
    let mut world = World::empty()?;
    let data = world.dir().join("informer");
    let place = place(&data, JOURNALLED)?;
    world.put_informer(place.enter());
    world.start_informer(&[])?;
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    let mut promises = Promises::default();
    promises.submit(&world, &["--", "sh", "-c", &waiting(&world, "runs")])?;
    started(&world, "runs")?;
    for _ in 0..round.rng.range(1, 12) {
        promises.submit(&world, &["--", "true"])?;
    }
    // One more is under way when the light goes out.
    let mut racing = Watched::new(world.informer_started(&["submit", "--key", "racing", "--", "true"])?)?;
    cut(&place, &data, any_cut(round))?;
    let fault = now();
    // A commit tells it; without one it would not notice, and need not.
    wait_for("the informer gives up, or its last client is served", || {
        (world.informer_has_ended() || !racing.runs()).then_some(())
    })?;
    let detected = world.informer_pid().is_none().then(|| since(fault));
    world.kill_informer();
    place.run(MOUNT_AGAIN, &[&data])?;
    let healed = now();
    world.start_informer(&[])?;
    world.wait_linked(1)?;
    let recovered = since(healed);
    // A client waits for the next informer, and is served by it.
    if racing.wait()?.success() {
        let again = world.submit(&["--key", "racing", "--", "true"])?;
        let told = String::from_utf8_lossy(&racing.stdout).trim().to_owned();
        promises
            .require(again == told, format!("invariant 1: {told} was acknowledged during the cut, and is {again} now"));
    }
    promises.ask_again(&world)?;
    world.touch("go-runs")?;
    promises.settle(&world)?;
    promises.require(starts(&world, "runs") == 1, "invariant 7: the running task was started again");
    Ok(promises.outcome("every acknowledged submit was there; what ran ran on", detected, Some(recovered)))
}

fn sidecar_power(round: &mut Round) -> Result<Outcome> {
    let mut world = World::empty()?;
    let data = world.dir().join("sidecar-0");
    let place = place(&data, JOURNALLED)?;
    world.put_sidecars(place.enter());
    world.start_informer(&[])?;
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    let mut promises = Promises::default();
    for _ in 0..round.rng.range(0, 5) {
        promises.submit(&world, &["--", "true"])?;
    }
    promises.settle(&world)?;
    let id = promises.submit(&world, &["--tries", "1", "--", "sh", "-c", &waiting(&world, "runs")])?;
    let main = started(&world, "runs")?;
    cut(&place, &data, any_cut(round))?;
    let fault = now();
    world.kill_box(0);
    crate::world::kill(main);
    wait_for("its file system is at rest", || place.run(MOUNT_AGAIN, &[&data]).ok())?;
    world.touch("go-runs")?;
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    promises.settle(&world)?;
    let recovered = since(fault);
    let task = world.task(&id)?;
    let charged = world.history(&id)?.iter().any(|(_, detail)| detail.contains("own failure"));
    promises.require(!charged, format!("invariant 13: a power cut was charged to the task: {task}"));
    promises.require(starts(&world, "runs") == attempts(&task).len(), format!("starts and attempts differ: {task}"));
    Ok(promises.outcome("its task was lost with it and run again, charged to nobody", None, Some(recovered)))
}
