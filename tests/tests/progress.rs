//! A task tells its sidecar how far it is, by the command line and by the socket itself.

use anyhow::{Context as _, Result, ensure};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Command;
use tests::world::{World, binary, wait_for};

/// Runs a script in which `sidecar` is ours.
fn submit(world: &World, options: &[&str], script: &str) -> Result<String> {
    let bin = binary("sidecar");
    let bin = bin.parent().and_then(|dir| dir.to_str()).context("binaries have a directory")?;
    let script = format!("PATH={bin}:$PATH; {script}");
    world.submit(&[options, &["--", "sh", "-c", &script]].concat())
}

#[test]
fn what_a_task_tells_is_shown() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let dir = world.dir().display();
    let id = submit(&world, &[], &format!("sidecar progress 1/4 --note first && touch {dir}/told; sleep 1000000"))?;
    world.wait_file("told")?;
    let task = wait_for("progress is shown", || {
        let task = world.task(&id).ok()?;
        (task["progress"]["percent"] == 25.0).then_some(task)
    })?;
    assert_eq!(task["progress"]["note"], "first", "{task}");
    let list = world.informer(&["list"])?;
    ensure!(String::from_utf8_lossy(&list.stdout).contains("25"), "{list:?}");
    ensure!(world.informer(&["cancel", &id])?.status.success());
    world.wait_state(&id, &["cancelled"])?;
    Ok(())
}

#[test]
fn a_task_that_tells_its_progress_does_not_stand_still() -> Result<()> {
    let mut world = World::empty()?;
    world.beat = "100ms";
    world.start_informer(&[])?;
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    // Three times as long as it may stand still, and each report is the same.
    let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sidecar progress 50 || exit 1; sleep 0.5; done";
    let moving = submit(&world, &["--tries", "1", "--progress-timeout", "2s"], script)?;
    let still = submit(&world, &["--tries", "1", "--progress-timeout", "2s"], "sidecar progress 50; sleep 1000000")?;
    let task = world.wait_state(&still, &["failed", "succeeded"])?;
    assert_eq!(task["reason"], "stalled", "{task}");
    let task = world.wait_state(&moving, &["failed", "succeeded"])?;
    assert_eq!(task["state"], "succeeded", "{task}");
    Ok(())
}

#[test]
fn nobody_tells_the_progress_of_another() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    let dir = world.dir().display();
    let id = submit(&world, &[], &format!("echo $INFORMER_FENCE > {dir}/fence; touch {dir}/told; sleep 1000000"))?;
    world.wait_file("told")?;
    let fence = world.lines("fence").first().cloned().context("a fence")?;
    let tell = |world: &World, task: &str, attempt: u32, fence: &str| -> Result<String> {
        // A restarted agent listens in the place of the one before.
        let socket = world.sidecars[0].data.join("sidecar.sock");
        let stream = wait_for("the sidecar listens", || UnixStream::connect(&socket).ok())?;
        let mut stream = BufReader::new(stream);
        let line = format!(
            r#"{{"op":"progress","task":"{task}","attempt":{attempt},"fence":"{fence}","permille":10,"note":"","step":1}}"#
        );
        writeln!(stream.get_mut(), "{line}")?;
        let mut answer = String::new();
        stream.read_line(&mut answer)?;
        Ok(answer)
    };
    assert_eq!(tell(&world, &id, 1, &fence)?, "{\"ok\":true}\n");
    ensure!(tell(&world, &id, 1, "1.999999")?.contains("another fence"));
    ensure!(tell(&world, &id, 2, &fence)?.contains("does not run"));
    world.kill_agent(0);
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    wait_for("the next agent takes it, too", || {
        tell(&world, &id, 1, &fence).ok().filter(|answer| answer == "{\"ok\":true}\n")
    })?;
    let outside = Command::new(binary("sidecar")).args(["progress", "50"]).env_remove("SIDECAR_SOCKET").output()?;
    ensure!(!outside.status.success() && String::from_utf8_lossy(&outside.stderr).contains("within a task"));
    Ok(())
}
