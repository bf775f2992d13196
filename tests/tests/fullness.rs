//! A full disk under a sidecar: what runs fails by it, the sidecar does not.

use anyhow::Result;
use tests::world::{World, wait_for};

/// Small enough to be filled at once.
const SMALL: &str = "mount -t tmpfs -o size=8m none \"$1\"";

#[test]
fn a_sidecar_survives_its_full_disk_and_works_on_when_there_is_room() -> Result<()> {
    let mut world = World::empty()?;
    if let Err(error) = world.hide_sidecar(SMALL) {
        println!("SKIP a_sidecar_survives_its_full_disk_and_works_on_when_there_is_room: {error:#}");
        return Ok(());
    }
    world.start_informer(&[])?;
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    for _ in 0..2 {
        let id = world.submit(&["--tries", "1", "--", "head", "-c", "20000000", "/dev/zero"])?;
        let task = world.wait_state(&id, &["failed", "succeeded"])?;
        assert_eq!(task["state"], "failed", "{task}");
        // Its log is given up, and there is room again.
        assert_eq!(world.informer(&["run", "--", "true"])?.status.code(), Some(0));
    }
    assert!(wait_for("the agent lives", || world.agent(0).map(tests::world::alive))?, "{}", world.log("sidecar-0.log"));
    Ok(())
}
