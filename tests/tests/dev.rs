//! `informer dev` from outside: what it started is gone when it is, however it ends.

use anyhow::Result;
use tests::world::{World, alive, wait_for};

#[test]
fn what_a_killed_dev_leaves_ends_and_the_next_dev_takes_over() -> Result<()> {
    let mut world = World::empty()?;
    world.start_dev(&["--sidecars", "2", "--slots", "1"])?;
    let script = format!("echo $$ > {}/started; exec sleep 1000000", world.dir().display());
    world.submit(&["--", "sh", "-c", &script])?;
    let pid: i32 = wait_for("the task runs", || world.lines("started").first().cloned())?.parse()?;
    world.kill_informer();
    wait_for("the task is ended with its sidecar", || (!alive(pid)).then_some(()))?;
    world.start_dev(&["--sidecars", "2", "--slots", "1"])?;
    world.wait_linked(2)
}
