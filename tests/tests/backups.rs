//! A running informer is backed up and restored: what was acknowledged before the backup began is in it.

use anyhow::{Context as _, Result, ensure};
use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use tests::world::{World, alive, wait_for};

/// Clients that submit all the while.
const CLIENTS: usize = 3;
/// Submits that are acknowledged before the backup begins, and while it is under way, at least.
const SUBMITS: usize = 20;
/// Heard after something, so that one at least was sent after it.
const BEATS: usize = 2;

fn backup(world: &World, dest: &Path, more: &[&str]) -> Result<Output> {
    let (data, dest) = (world.dir().join("informer"), dest.to_str().context("UTF-8")?.to_owned());
    world.informer(&[&["backup", &dest, "--data", data.to_str().context("UTF-8")?], more].concat())
}

/// Its data directory becomes what the backup has, as docs/operations.md says.
fn restore(world: &World, from: &Path) -> Result<()> {
    let data = world.dir().join("informer");
    std::fs::rename(&data, world.dir().join("informer.away"))?;
    let copied = std::process::Command::new("cp").arg("-a").args([from, &data]).status()?;
    ensure!(copied.success(), "cp: {copied}");
    Ok(())
}

/// Submits one after the other until told to stop.
fn submit_until(world: &World, stop: &AtomicBool, acknowledged: &std::sync::Mutex<Vec<String>>) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let id = world.submit(&["--", "true"])?;
        acknowledged.lock().expect("no client panics").push(id);
    }
    Ok(())
}

#[test]
fn a_backup_under_load_has_all_that_was_acknowledged_before_it() -> Result<()> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    let dest = world.dir().join("backup");
    let (stop, acknowledged) = (AtomicBool::new(false), std::sync::Mutex::new(Vec::new()));
    let count = || acknowledged.lock().expect("no client panics").len();
    let reached = |least: usize| wait_for(&format!("{least} submits"), || (count() >= least).then_some(()));
    let before: Vec<String> = std::thread::scope(|scope| -> Result<_> {
        let clients: Vec<_> =
            (0..CLIENTS).map(|_| scope.spawn(|| submit_until(&world, &stop, &acknowledged))).collect();
        let backed_up = (|| -> Result<_> {
            reached(SUBMITS)?;
            let before = acknowledged.lock().expect("no client panics").clone();
            let output = backup(&world, &dest, &[])?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            reached(count() + SUBMITS)?;
            Ok(before)
        })();
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("no client panics")?;
        }
        backed_up
    })?;
    // Nothing of what runs is touched, and nothing is written over.
    let again = backup(&world, &dest, &[])?;
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    ensure!(again.status.code() == Some(1) && said.contains("nothing is written over"), "{said}");
    world.kill_informer();
    restore(&world, &dest)?;
    world.start_informer(&[])?;
    for id in &before {
        world.task(id).with_context(|| format!("{id} was acknowledged before the backup"))?;
    }
    Ok(())
}

#[test]
fn a_restored_informer_has_the_logs_and_ends_nothing() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    let said = world.submit(&["--", "echo", "kept"])?;
    world.wait_state(&said, &["succeeded"])?;
    let kept = world.dir().join("informer/logs");
    wait_for("the log is kept", || {
        let minutes = std::fs::read_dir(&kept).ok()?.flatten();
        let logs =
            minutes.filter(|minute| minute.file_name() != "parts").flat_map(|minute| std::fs::read_dir(minute.path()));
        (logs.flatten().count() == 1).then_some(())
    })?;
    let (with, without) = (world.dir().join("with"), world.dir().join("without"));
    let output = backup(&world, &with, &[])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(told.contains("1 kept logs") && told.contains("commit "), "{told}");
    ensure!(backup(&world, &without, &["--without-logs"])?.status.success() && !without.join("logs").exists());
    // The backup knows nothing of this one.
    let pid = world.dir().join("pid");
    world.submit(&[
        "--",
        "sh",
        "-c",
        &format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000000", pid.display()),
    ])?;
    world.wait_file("pid")?;
    let pid: i32 = std::fs::read_to_string(&pid)?.trim().parse()?;
    // The answer to a beat tells a sidecar how far the informer has come.
    let (mut heard, mut last_age) = (0, 0);
    wait_for("beats after its start", || {
        let age = world.json(&["sidecars", "--json"]).ok()?[0]["last_beat_age_ms"].as_u64()?;
        heard += usize::from(age < last_age);
        last_age = age;
        (heard >= BEATS).then_some(())
    })?;
    world.kill_informer();
    restore(&world, &with)?;
    world.start_informer(&[])?;
    world.wait_linked(1)?;
    wait_for("it says that it was restored", || world.log("informer.log").contains("restored").then_some(()))?;
    ensure!(alive(pid), "a task that the backup does not know was ended");
    // From the copy: the box is gone.
    world.kill_box(0);
    std::fs::remove_dir_all(&world.sidecars[0].data)?;
    world.wait_linked(0)?;
    let log = world.informer(&["logs", &said])?;
    assert_eq!(String::from_utf8_lossy(&log.stdout), "kept\n", "{}", String::from_utf8_lossy(&log.stderr));
    Ok(())
}

#[test]
fn a_backup_of_nothing_or_without_a_name_is_refused_and_leaves_nothing() -> Result<()> {
    let world = World::empty()?;
    let dest = world.dir().join("backup");
    for (dest, why) in [(dest.as_path(), "informer.db"), (Path::new("/"), "no name")] {
        let output = backup(&world, dest, &[])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1) && said.contains(why) && said.lines().count() == 1, "{said}");
    }
    ensure!(!dest.exists() && !world.dir().join("backup.part").exists(), "something was left");
    Ok(())
}
