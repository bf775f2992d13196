//! Copies of data directories: two sidecars with one id.

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
