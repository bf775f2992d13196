//! Copies of data directories: two sidecars with one id; an informer from a backup, to whom running attempts are unknown.

use anyhow::{Context as _, Result, ensure};
use std::path::Path;
use std::process::Command;
use tests::world::{World, wait_for};

/// What `sidecar run` ends with if another process has its id.
const SUPERSEDED: i32 = 3;

fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").args([from, to]).status()?;
    ensure!(status.success(), "cp: {status}");
    Ok(())
}

#[test]
fn of_two_copies_that_start_at_once_one_has_the_id_and_keeps_it() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    let first = world.submit(&["--", "true"])?;
    world.wait_state(&first, &["succeeded"])?;
    world.kill_box(0);
    copy(&world.dir().join("sidecar-0"), &world.dir().join("sidecar-1"))?;
    world.start_sidecar(0, &[], &[])?;
    world.start_sidecar(1, &[], &[])?;

    let refused =
        |n: &usize| world.log(&format!("sidecar-{n}.log")).contains("one of their data directories is a copy");
    let loser = wait_for("one of them is told", || (0..2).find(refused))?;
    assert_eq!(world.wait_agent_gone(loser)?.code(), Some(SUPERSEDED));
    world.wait_linked(1)?;

    // The same process links again: it is no copy of itself, before and after a restart of the informer.
    world.kill_informer();
    world.start_informer(&[])?;
    world.wait_linked(1)?;
    assert!(!world.agent_has_ended(1 - loser), "{}", world.log(&format!("sidecar-{}.log", 1 - loser)));
    let id = world.submit(&["--", "true"])?;
    let task = world.wait_state(&id, &["succeeded"])?;
    let sidecars = world.json(&["sidecars", "--json"])?;
    assert_eq!(sidecars.as_array().context("an array")?.len(), 1, "{sidecars}");
    assert_eq!(task["attempts"].as_array().map(Vec::len), Some(1), "{task}");
    Ok(())
}

/// A task that runs until its file is there.
fn held(world: &World, name: &str) -> Result<String> {
    let dir = world.dir().display();
    world.submit(&["--", "sh", "-c", &format!("while [ ! -e {dir}/go-{name} ]; do sleep 0.02; done")])
}

#[test]
fn an_attempt_that_is_set_aside_keeps_its_slot_and_its_processor() -> Result<()> {
    for room in [["--slots", "2", "--cpu", "8000"], ["--slots", "8", "--cpu", "2000"]] {
        let mut world = World::empty()?;
        world.start_informer(&[])?;
        world.start_sidecar(0, &room, &[])?;
        world.wait_linked(1)?;
        world.terminate_informer()?;
        let (data, backup) = (world.dir().join("informer"), world.dir().join("backup"));
        copy(&data, &backup)?;
        world.start_informer(&[])?;
        world.wait_linked(1)?;
        let unknown = held(&world, "unknown")?;
        world.wait_state(&unknown, &["running"])?;
        world.kill_informer();
        std::fs::remove_dir_all(&data)?;
        std::fs::rename(&backup, &data)?;
        world.start_informer(&[])?;
        world.wait_linked(1)?;

        let first = held(&world, "first")?;
        world.wait_state(&first, &["running"])?;
        // With room for it, it would have been assigned before its submit was answered.
        let second = held(&world, "second")?;
        let task = world.task(&second)?;
        assert_eq!((&task["state"], task["attempts"].as_array().map(Vec::len)), (&"ready".into(), Some(0)), "{task}");
        world.touch("go-unknown")?;
        world.wait_state(&second, &["running"])?;
        let task = world.task(&first)?;
        assert_eq!(task["attempts"].as_array().map(Vec::len), Some(1), "{task}");
        for name in ["first", "second"] {
            world.touch(&format!("go-{name}"))?;
        }
        for id in [&first, &second] {
            world.wait_state(id, &["succeeded"])?;
        }
    }
    Ok(())
}
