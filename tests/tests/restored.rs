//! An informer restored from a backup, and an exclusive task that was given away after that backup.

use anyhow::{Result, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tests::world::{World, alive, wait_for};

/// The files of a directory, as they are now.
fn copy_of(dir: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let files = fs::read_dir(dir)?.flatten().map(|entry| entry.path()).filter(|path| path.is_file());
    files.map(|path| Ok((path.clone(), fs::read(&path)?))).collect()
}

/// Empties the directory of files and brings the copy, as an operator restores a backup.
fn put_back(dir: &Path, copy: &BTreeMap<PathBuf, Vec<u8>>) -> Result<()> {
    for path in fs::read_dir(dir)?.flatten().map(|entry| entry.path()).filter(|path| path.is_file()) {
        fs::remove_file(path)?;
    }
    copy.iter().try_for_each(|(path, bytes)| Ok(fs::write(path, bytes)?))
}

/// Runs until there is a file `go`, and tells each start in `starts`.
fn script(world: &World) -> String {
    let dir = world.dir().display();
    format!("echo $$ $INFORMER_ATTEMPT >> {dir}/starts; while [ ! -e {dir}/go ]; do sleep 0.03; done")
}

fn why(world: &World, id: &str) -> Result<String> {
    Ok(String::from_utf8_lossy(&world.informer(&["why", id])?.stdout).into_owned())
}

/// A world in which an exclusive task runs on box 0 that the informer's backup calls ready; its id and its process.
fn given_away_after_the_backup() -> Result<(World, String, i32)> {
    let mut world = World::empty()?;
    // Its lease outlasts the time that a busy machine needs to restore a backup: the copy would be stopped at its end.
    world.beat = "5s";
    world.start_informer(&[])?;
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    world.kill_agent(0);
    world.terminate_informer()?;
    world.start_informer(&[])?;
    let task = world.submit(&["--exclusive", "--accept-weak-fencing", "--", "sh", "-c", &script(&world)])?;
    world.terminate_informer()?;
    let data = world.dir().join("informer");
    let backup = copy_of(&data)?;
    world.start_informer(&[])?;
    world.start_sidecar(0, &[], &[])?;
    let start = wait_for("the task starts", || world.lines("starts").first().cloned())?;
    world.wait_state(&task, &["running"])?;
    world.kill_informer();
    put_back(&data, &backup)?;
    Ok((world, task, start.split(' ').next().unwrap_or_default().parse()?))
}

#[test]
fn a_restored_informer_takes_up_the_copy_that_runs_and_starts_no_second_one() -> Result<()> {
    let (mut world, task, pid) = given_away_after_the_backup()?;
    world.start_informer(&[])?;
    // It is the first that is linked, and it has room for the task.
    world.start_sidecar(1, &[], &[])?;
    world.wait_linked(2)?;
    world.wait_state(&task, &["running"])?;
    let told = why(&world, &task)?;
    ensure!(told.contains("runs on") && told.contains("attempt 1"), "{told}");
    let history = world.history(&task)?;
    ensure!(
        history.iter().any(|(kind, detail)| kind == "adopted" && detail.contains("after the backup")),
        "{history:?}"
    );
    // An exclusive task that nothing runs of starts when the longest lease is over.
    let other = world.submit(&["--exclusive", "--accept-weak-fencing", "--", "true"])?;
    let held = why(&world, &other)?;
    ensure!(held.contains("restored") || world.task(&other)?["state"] == "succeeded", "{held}");
    world.wait_state(&other, &["succeeded"])?;
    ensure!(alive(pid) && world.lines("starts").len() == 1, "a second copy was started: {:?}", world.lines("starts"));
    world.touch("go")?;
    let ended = world.wait_state(&task, &["succeeded", "failed", "cancelled"])?;
    ensure!(ended["state"] == "succeeded" && world.lines("starts").len() == 1, "{ended}");
    Ok(())
}

#[test]
fn a_task_that_had_many_attempts_since_the_backup_runs_on_above_them_and_is_charged_nothing() -> Result<()> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    world.kill_agent(0);
    world.terminate_informer()?;
    world.start_informer(&[])?;
    // Four attempts before the restore fail; whatever is tried after it succeeds.
    let dir = world.dir().display().to_string();
    let script = format!("echo $INFORMER_ATTEMPT >> {dir}/starts; test -e {dir}/restored");
    let file = world.dir().join("task.json");
    let task = serde_json::json!({
        "command": { "argv": ["sh", "-c", script] },
        "retry": { "max_attempts": 4, "backoff": "10ms", "backoff_cap": "10ms" },
    });
    fs::write(&file, task.to_string())?;
    let task = world.submit(&["-f", &file.display().to_string()])?;
    world.terminate_informer()?;
    let data = world.dir().join("informer");
    let backup = copy_of(&data)?;
    world.start_informer(&[])?;
    world.start_sidecar(0, &[], &[])?;
    world.wait_state(&task, &["failed"])?;
    ensure!(world.lines("starts").len() == 4, "{:?}", world.lines("starts"));
    world.terminate_informer()?;
    put_back(&data, &backup)?;
    world.touch("restored")?;
    world.start_informer(&[])?;
    let ended = world.wait_state(&task, &["succeeded", "failed", "cancelled"])?;
    let history = world.history(&task)?;
    ensure!(ended["state"] == "succeeded", "{history:?}");
    ensure!(world.lines("starts").last().is_some_and(|number| number == "5"), "{:?}", world.lines("starts"));
    let charged = history.iter().any(|(_, detail)| detail.contains("infrastructure failure"));
    ensure!(!charged && history.iter().any(|(kind, _)| kind == "renumbered"), "{history:?}");
    Ok(())
}
