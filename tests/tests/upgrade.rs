//! The programs of a box are replaced while its tasks run: agent and keeper become the new ones, and nobody loses anything.
//!
//! The other build is a copy of this one, told apart by its file; what truly is of another commit is in `skew`.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::world::builds::{Gated, own};
use tests::world::{World, alive, wait_for};

/// Where root is not to be had, a fence is weak, and such a task would wait for a better one.
const EXCLUSIVE: &[&str] = &["--exclusive", "--accept-weak-fencing"];

/// An informer, and a box with installed programs of this build.
fn installed() -> Result<World> {
    let mut world = World::empty()?;
    world.install(&own())?;
    world.start_informer(&[])?;
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    Ok(world)
}

/// The monitor of a task's process, which is its parent's parent where it has a pid namespace of its own.
fn monitor_of(world: &World, main: i32) -> Option<i32> {
    let parent = |pid: i32| -> Option<i32> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
    };
    let all = world.keepers_and_monitors(0);
    std::iter::successors(parent(main), |pid| parent(*pid)).take(3).find(|pid| all.contains(pid))
}

/// A new task is started by the new program.
fn assert_new_tasks_run_under_the_new(world: &World, name: &str) -> Result<()> {
    let task = Gated::start(world, name, 1, &[])?;
    let main = task.main(world)?;
    let monitor = wait_for("its monitor", || monitor_of(world, main))?;
    ensure!(world.is_installed(monitor), "a task that started after the upgrade runs under the old program");
    task.go(world, 1)?;
    task.assert_whole(world)
}

#[test]
fn a_replaced_sidecar_takes_over_what_runs_and_its_keeper_becomes_the_new_one() -> Result<()> {
    let mut world = installed()?;
    let keeper = world.keeper(0).context("a keeper runs")?;
    let task = Gated::start(&world, "a", 3, &[])?;
    let main = task.main(&world)?;
    let monitor = wait_for("its monitor", || monitor_of(&world, main))?;
    world.install(&own())?;
    ensure!(!world.is_installed(keeper), "the file is another one");
    task.go(&world, 1)?;
    world.restart_agent(0)?;
    world.wait_upgraded(0, keeper)?;
    assert_eq!(monitor_of(&world, main), Some(monitor), "it runs on under its monitor");
    task.go(&world, 2)?;
    assert_new_tasks_run_under_the_new(&world, "b")?;
    task.go(&world, 3)?;
    task.assert_whole(&world)?;
    wait_for("the old monitor has gone with its attempt", || (!alive(monitor)).then_some(()))
}

/// `kill -9` instead of an orderly end, several times, and an end while nobody is there.
#[test]
fn a_killed_agent_is_followed_by_the_new_build_and_by_the_one_after_it() -> Result<()> {
    let mut world = installed()?;
    let keeper = world.keeper(0).context("a keeper runs")?;
    let task = Gated::start(&world, "a", 4, &[])?;
    let absent = Gated::start(&world, "b", 1, &[])?;
    for go in 1..=3 {
        world.install(&own())?;
        world.kill_agent(0);
        if go == 1 {
            let main = absent.main(&world)?;
            absent.go(&world, 1)?;
            wait_for("it has ended unheard", || (!alive(main)).then_some(()))?;
        }
        world.start_sidecar(0, &[], &[])?;
        world.wait_upgraded(0, keeper)?;
        task.go(&world, go)?;
    }
    absent.assert_whole(&world)?;
    task.go(&world, 4)?;
    task.assert_whole(&world)
}

/// The lease's end still ends what may not run twice, and a cancel still reaches a process that was started before.
#[test]
fn an_upgraded_keeper_stops_what_its_predecessor_started() -> Result<()> {
    let mut world = installed()?;
    let keeper = world.keeper(0).context("a keeper runs")?;
    let tasks = [Gated::start(&world, "a", 1, &[])?, Gated::start(&world, "b", 1, EXCLUSIVE)?];
    world.install(&own())?;
    world.restart_agent(0)?;
    world.wait_upgraded(0, keeper)?;
    for task in &tasks {
        let output = world.informer(&["cancel", &task.id])?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let shown = world.wait_state(&task.id, &["failed", "succeeded", "cancelled"])?;
        assert_eq!(shown["state"], "cancelled", "{shown}");
    }
    // Of the exclusive one it is a number within its own namespace; its end is told after the sweep of the namespace.
    let main = tasks[0].main(&world)?;
    wait_for("the process is gone", || (!alive(main)).then_some(()))
}

/// Half an installation: the sidecar is new, and what lies beside it as keeper does not run.
#[test]
fn a_keeper_that_does_not_run_is_not_asked_for() -> Result<()> {
    let mut world = installed()?;
    let keeper = world.keeper(0).context("a keeper runs")?;
    let task = Gated::start(&world, "a", 2, &[])?;
    let file = world.builds.sidecar.join("keeper");
    let fresh = file.with_extension("new");
    std::fs::write(&fresh, "half of a download")?;
    std::fs::set_permissions(&fresh, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    std::fs::rename(&fresh, &file)?;
    world.restart_agent(0)?;
    let run = world.informer(&["run", "--", "sh", "-c", "exit 3"])?;
    assert_eq!(run.status.code(), Some(3), "{}", world.log("sidecar-0.log"));
    assert_eq!((world.keeper(0), world.is_installed(keeper)), (Some(keeper), false));
    task.go(&world, 1)?;
    // Mended: the next agent does it.
    world.install(&own())?;
    world.restart_agent(0)?;
    world.wait_upgraded(0, keeper)?;
    task.go(&world, 2)?;
    task.assert_whole(&world)
}

#[test]
fn an_agent_of_the_same_build_leaves_its_keeper_alone() -> Result<()> {
    let mut world = installed()?;
    let task = Gated::start(&world, "a", 1, &[])?;
    let before = (world.keeper(0), world.keepers_and_monitors(0).len());
    world.restart_agent(0)?;
    let run = world.informer(&["run", "--", "sh", "-c", "exit 3"])?;
    assert_eq!(run.status.code(), Some(3));
    task.go(&world, 1)?;
    task.assert_whole(&world)?;
    assert_eq!(world.keeper(0), before.0);
    ensure!(!world.log("sidecar-0.log").contains("another build"), "{}", world.log("sidecar-0.log"));
    Ok(())
}

/// A service is neither restarted nor counted as such.
#[test]
fn a_service_serves_on() -> Result<()> {
    let mut world = installed()?;
    let keeper = world.keeper(0).context("a keeper runs")?;
    let dir = world.dir().display().to_string();
    let file = world.dir().join("service.json");
    let line = format!("echo $$ >> {dir}/serving; exec sleep 1000000");
    let service = serde_json::json!({ "service": { "argv": ["sh", "-c", line] } });
    std::fs::write(&file, service.to_string())?;
    let id = world.submit(&["-f", file.to_str().context("UTF-8")?])?;
    let main = wait_for("it serves", || world.lines("serving").first()?.parse::<i32>().ok())?;
    world.wait_state(&id, &["running"])?;
    for _ in 0..2 {
        world.install(&own())?;
        world.restart_agent(0)?;
        world.wait_upgraded(0, keeper)?;
    }
    let run = world.informer(&["run", "--", "true"])?;
    assert_eq!(run.status.code(), Some(0));
    let task: Value = world.task(&id)?;
    assert_eq!((&task["state"], task["attempts"].as_array().map(Vec::len)), (&"running".into(), Some(1)), "{task}");
    assert!(alive(main) && world.lines("serving").len() == 1);
    Ok(())
}
