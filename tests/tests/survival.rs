//! What is killed comes back, and the work goes on: started once, every byte of its log, its exit code.

use anyhow::Result;
use tests::world::World;

#[test]
fn a_task_runs_and_its_streams_and_code_arrive() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let output = world.informer(&["run", "--", "sh", "-c", "echo out; echo err >&2; exit 7"])?;
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(output.stdout, b"out\n");
    assert_eq!(output.stderr, b"err\n");
    Ok(())
}
