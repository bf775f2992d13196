//! `sidecar status` looks and changes nothing.

use anyhow::{Result, ensure};
use std::process::Command;
use tests::world::{World, binary, wait_for};

fn status(world: &World, args: &[&str]) -> Result<String> {
    let output =
        Command::new(binary("sidecar")).arg("status").args(args).arg("--data").arg(&world.sidecars[0].data).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn a_look_shows_what_is_open_and_disturbs_nobody() -> Result<()> {
    let world = World::with_sidecars(1)?;
    ensure!(world.informer(&["run", "--name", "done", "--", "true"])?.status.success());
    let id = world.submit(&["--name", "open", "--", "sleep", "1000000"])?;
    world.wait_state(&id, &["running"])?;
    let text = wait_for("the first is acknowledged", || {
        status(&world, &[]).ok().filter(|text| text.contains("attempts  1, and 1 acknowledged"))
    })?;
    assert!(text.contains("keeper    running") && text.contains("  open") && !text.contains("  done"), "{text}");
    assert!(status(&world, &["--all"])?.contains("  done"));
    // The agent reads what the keeper says about this one after all that was said before.
    ensure!(world.informer(&["run", "--", "true"])?.status.success());
    let log = world.log("sidecar-0.log");
    assert!(!log.contains("the keeper closed its connection"), "{log}");
    Ok(())
}
