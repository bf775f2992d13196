//! Orderly ends: what SIGTERM takes along, and what it leaves.

use anyhow::{Context as _, Result};
use tests::world::{World, alive, processes_with, wait_for};

/// Says that it started, and stays until a file tells it to end with 3.
fn script(world: &World) -> String {
    let dir = world.dir().display();
    format!("echo $$ >> {dir}/starts; while [ ! -e {dir}/go ]; do sleep 0.02; done; exit 3")
}

fn running_task(world: &World) -> Result<(String, i32)> {
    let id = world.submit(&["--tries", "1", "--", "sh", "-c", &script(world)])?;
    world.wait_state(&id, &["running"])?;
    let line = wait_for("the task says that it started", || world.lines("starts").first().cloned())?;
    Ok((id, line.parse()?))
}

#[test]
fn an_agent_that_ends_leaves_its_task_to_the_next() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    let (id, main) = running_task(&world)?;
    let keeper = world.keeper(0).context("a keeper runs")?;
    let status = world.terminate_agent(0)?;
    assert_eq!(status.code(), Some(0), "{}", world.log("sidecar-0.log"));
    assert!(alive(main) && alive(keeper), "the task or its keeper ended with the agent");
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    assert_eq!(world.keeper(0), Some(keeper), "another keeper");
    world.touch("go")?;
    let task = world.wait_state(&id, &["failed", "succeeded", "cancelled"])?;
    assert_eq!((&task["exit_code"], task["attempts"].as_array().map(Vec::len)), (&3.into(), Some(1)), "{task}");
    assert_eq!(world.lines("starts").len(), 1);
    Ok(())
}

#[test]
fn an_agent_told_to_takes_its_tasks_along_and_they_run_again() -> Result<()> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    world.start_sidecar(0, &["--stop-tasks-on-exit"], &[])?;
    world.wait_linked(1)?;
    let (id, main) = running_task(&world)?;
    let keeper = world.keeper(0).context("a keeper runs")?;
    let status = world.terminate_agent(0)?;
    assert_eq!(status.code(), Some(0), "{}", world.log("sidecar-0.log"));
    wait_for("task and keeper are gone", || (!alive(main) && !alive(keeper)).then_some(()))?;
    wait_for("nothing of the sidecar runs", || world.keepers_and_monitors(0).is_empty().then_some(()))?;
    world.touch("go")?;
    world.start_sidecar(0, &[], &[])?;
    // Drained: charged to the infrastructure, so its one try is still there.
    let task = world.wait_state(&id, &["failed", "succeeded", "cancelled"])?;
    assert_eq!(task["exit_code"], 3, "{task}");
    assert_eq!(
        (task["attempts"].as_array().map(Vec::len), &task["attempts"][0]["reason"]),
        (Some(2), &"drained".into()),
        "{task}"
    );
    assert_eq!(world.lines("starts").len(), 2);
    Ok(())
}

#[test]
fn dev_leaves_nothing_running() -> Result<()> {
    let mut world = World::empty()?;
    world.start_dev(&["--sidecars", "2", "--slots", "2"])?;
    world.wait_linked(2)?;
    let (_id, main) = running_task(&world)?;
    let status = world.terminate_informer()?;
    assert_eq!(status.code(), Some(0), "{}", world.log("informer.log"));
    wait_for("the task is gone", || (!alive(main)).then_some(()))?;
    let dev = world.dir().join("dev");
    let left = || processes_with(dev.as_os_str().as_encoded_bytes());
    wait_for("nothing of its directory runs", || left().is_empty().then_some(()))
}

#[test]
fn limits_of_one_task_are_not_the_next_ones() -> Result<()> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    // One slot: the same monitor and the same control group serve all of them.
    world.start_sidecar(0, &["--slots", "1"], &[])?;
    world.wait_linked(1)?;
    for limits in [&["--memory-limit", "20MiB"][..], &["--memory-limit", "50MiB"], &["--pids-limit", "50"], &[]] {
        let run = world.informer(&[&["run", "--tries", "1"], limits, &["--", "true"]].concat())?;
        let told = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(0), "{limits:?}: {told}");
    }
    Ok(())
}
