//! Programs of an earlier commit and of this one, mixed: what each pair does for a user, and boxes and informers that are upgraded, and
//! taken back, while tasks run. `tests/skew.sh` builds the earlier ones.

use anyhow::{Context as _, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tests::world::World;
use tests::world::builds::{Builds, Gated, earlier, own};

/// Room for everything that runs at once in a test.
const ROOM: [&str; 4] = ["--slots", "8", "--cpu", "8000"];

/// The earlier build; says why the test is skipped if there is none.
fn earlier_or_skip(test: &str) -> Result<Option<PathBuf>> {
    Ok(earlier()?.map_err(|why| println!("SKIP {test}: {why}")).ok())
}

/// An informer of one build and so many boxes of another, all linked.
fn mixed(informer: &Path, client: &Path, sidecar: &Path, boxes: usize) -> Result<World> {
    let mut world = World::empty()?;
    world.builds = Builds { informer: informer.to_owned(), client: client.to_owned(), sidecar: sidecar.to_owned() };
    world.start_informer(&[])?;
    for n in 0..boxes {
        world.start_sidecar(n, &ROOM, &[])?;
    }
    world.wait_linked(boxes)?;
    Ok(world)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What users do all day. `name` makes it another day.
fn work(world: &World, name: &str) -> Result<()> {
    let run = world.informer(&["run", "--", "sh", "-c", "echo out; echo err >&2; exit 5"])?;
    let all = (run.status.code(), text(&run.stdout), text(&run.stderr));
    assert_eq!(all, (Some(5), "out\n".into(), "err\n".into()), "{name}: {}", world.log("informer.log"));

    let keyed = ["--key", name, "--", "true"];
    let id = world.submit(&keyed)?;
    assert_eq!(world.submit(&keyed)?, id, "{name}: a key is one task");
    assert_eq!(world.wait_state(&id, &["succeeded"])?["name"], world.task(&id)?["name"]);

    let made = world.dir().join(format!("made-{name}"));
    let out = format!("made={}", made.display());
    let line = "echo made > $TASK_OUTPUTS/made; sidecar_is=$SIDECAR_SOCKET";
    let id = world.submit(&["--out", &out, "--", "sh", "-c", line])?;
    let task = world.wait_state(&id, &["succeeded", "failed"])?;
    assert_eq!(
        (task["state"].as_str(), std::fs::read_to_string(&made)?),
        (Some("succeeded"), "made\n".into()),
        "{task}"
    );

    let array = world.submit(&["--array", "1-12", "--", "sh", "-c", "[ $INFORMER_ARRAY_INDEX != 5 ]"])?;
    assert_eq!(world.informer(&["wait", &array])?.status.code(), Some(1), "{name}");
    let task = world.task(&array)?;
    let counts = [&task["array"]["succeeded"], &task["array"]["failed"]].map(Value::as_u64);
    // A member that fails is tried again, like any task.
    assert_eq!(counts, [Some(11), Some(1)], "{name}: {task}");

    let exclusive = world.submit(&["--exclusive", "--", "sh", "-c", "exit 0"])?;
    world.wait_state(&exclusive, &["succeeded"])?;
    let cancelled = Gated::start(world, &format!("{name}-cancelled"), 1, &[])?;
    assert_eq!(world.informer(&["cancel", &cancelled.id])?.status.code(), Some(0));
    world.wait_state(&cancelled.id, &["cancelled"])?;
    Ok(())
}

/// A killed agent and a killed keeper of either build are followed by their like.
fn survive(world: &mut World, name: &str) -> Result<()> {
    let task = Gated::start(world, name, 3, &[])?;
    world.kill_agent(0);
    task.go(world, 1)?;
    world.start_sidecar(0, &ROOM, &[])?;
    world.kill_informer();
    world.start_informer(&[])?;
    task.go(world, 2)?;
    world.kill_keeper(0)?;
    task.go(world, 3)?;
    task.assert_whole(world)
}

#[test]
fn earlier_sidecars_work_for_this_informer() -> Result<()> {
    let Some(earlier) = earlier_or_skip("earlier_sidecars_work_for_this_informer")? else { return Ok(()) };
    let mut world = mixed(&own(), &own(), &earlier, 1)?;
    work(&world, "day")?;
    survive(&mut world, "night")
}

#[test]
fn these_sidecars_work_for_an_earlier_informer() -> Result<()> {
    let Some(earlier) = earlier_or_skip("these_sidecars_work_for_an_earlier_informer")? else { return Ok(()) };
    let mut world = mixed(&earlier, &earlier, &own(), 1)?;
    work(&world, "day")?;
    survive(&mut world, "night")
}

#[test]
fn clients_of_each_build_are_served_by_the_other() -> Result<()> {
    let Some(earlier) = earlier_or_skip("clients_of_each_build_are_served_by_the_other")? else { return Ok(()) };
    work(&mixed(&own(), &earlier, &own(), 1)?, "earlier-client")?;
    work(&mixed(&earlier, &own(), &earlier, 1)?, "this-client")
}

/// A box is upgraded by `kill -9`, taken back in an orderly way where the ledger's schema allows, and upgraded again; a task runs through all of it. `gives` tells
/// whether the informer gives a box that comes back new work beside what runs there: before this build, one did not.
fn box_goes_there_and_back(informer: &Path, earlier: &Path, gives: bool) -> Result<()> {
    let mut world = World::empty()?;
    world.builds.informer = informer.to_owned();
    world.builds.client = informer.to_owned();
    world.install(earlier)?;
    world.start_informer(&[])?;
    world.start_sidecar(0, &ROOM, &[])?;
    world.wait_linked(1)?;
    let keeper = world.keeper(0).context("a keeper runs")?;
    let before = ledger_schema(&world)?;
    work(&world, "before")?;
    let (long, second) = (Gated::start(&world, "long", 4, &[])?, Gated::start(&world, "second", 3, &[])?);
    let more = |world: &World, name: &str| if gives { work(world, name) } else { Ok(()) };

    world.install(&own())?;
    world.kill_agent(0);
    long.go(&world, 1)?;
    world.start_sidecar(0, &ROOM, &[])?;
    world.wait_upgraded(0, keeper)?;
    second.go(&world, 1)?;
    more(&world, "upgraded")?;

    world.install(earlier)?;
    world.terminate_agent(0)?;
    let back = ledger_schema(&world)? == before;
    world.start_sidecar(0, &ROOM, &[])?;
    if back {
        long.go(&world, 2)?;
        second.go(&world, 2)?;
        more(&world, "back")?;
        second.go(&world, 3)?;
        second.assert_whole(&world)?;
        world.install(&own())?;
        world.terminate_agent(0)?;
    } else {
        // It says so and leaves the file alone; what runs there runs on.
        assert!(!world.wait_agent_gone(0)?.success(), "an earlier agent opened a later ledger");
        long.go(&world, 2)?;
        second.go(&world, 2)?;
        second.go(&world, 3)?;
        world.install(&own())?;
    }
    world.start_sidecar(0, &ROOM, &[])?;
    world.wait_upgraded(0, keeper)?;
    long.go(&world, 3)?;
    more(&world, "again")?;
    long.go(&world, 4)?;
    long.assert_whole(&world)?;
    second.assert_whole(&world)?;
    work(&world, "after")
}

fn ledger_schema(world: &World) -> Result<u32> {
    let db = rusqlite::Connection::open(world.sidecars[0].data.join("ledger.db"))?;
    Ok(db.pragma_query_value(None, "user_version", |row| row.get(0))?)
}

#[test]
fn a_box_is_upgraded_and_taken_back_under_this_informer() -> Result<()> {
    let Some(earlier) = earlier_or_skip("a_box_is_upgraded_and_taken_back_under_this_informer")? else { return Ok(()) };
    box_goes_there_and_back(&own(), &earlier, true)
}

#[test]
fn a_box_is_upgraded_and_taken_back_under_an_earlier_informer() -> Result<()> {
    let test = "a_box_is_upgraded_and_taken_back_under_an_earlier_informer";
    let Some(earlier) = earlier_or_skip(test)? else { return Ok(()) };
    box_goes_there_and_back(&earlier, &earlier, false)
}

fn schema(world: &World) -> Result<u32> {
    let db = rusqlite::Connection::open(world.dir().join("informer/informer.db"))?;
    Ok(db.pragma_query_value(None, "user_version", |row| row.get(0))?)
}

/// Boxes of both builds work for it meanwhile.
#[test]
fn an_informer_is_upgraded_while_tasks_run_and_taken_back_where_the_schema_allows() -> Result<()> {
    let test = "an_informer_is_upgraded_while_tasks_run_and_taken_back_where_the_schema_allows";
    let Some(earlier) = earlier_or_skip(test)? else { return Ok(()) };
    let mut world = mixed(&earlier, &earlier, &earlier, 1)?;
    world.builds.sidecar = own();
    world.start_sidecar(1, &[&ROOM[..], &["--label", "build=own"]].concat(), &[])?;
    world.wait_linked(2)?;
    work(&world, "before")?;
    let long = [
        Gated::start(&world, "a", 3, &["--require", "build=own"])?,
        Gated::start(&world, "b", 3, &[])?,
        Gated::start(&world, "c", 3, &["--exclusive"])?,
    ];
    let line = format!("until [ -e {}/all ]; do sleep 0.05; done", world.dir().display());
    let array = world.submit(&["--array", "1-6", "--", "sh", "-c", &line])?;
    let before = schema(&world)?;

    world.kill_informer();
    (world.builds.informer, world.builds.client) = (own(), own());
    world.start_informer(&[])?;
    world.wait_linked(2)?;
    long.iter().try_for_each(|task| task.go(&world, 1))?;
    let run = world.informer(&["run", "--priority", "9", "--", "true"])?;
    assert_eq!(run.status.code(), Some(0));

    world.kill_informer();
    world.builds.informer = earlier;
    if schema(&world)? == before {
        world.start_informer(&[])?;
        world.wait_linked(2)?;
        long.iter().try_for_each(|task| task.go(&world, 2))?;
        world.kill_informer();
    } else {
        // It says so and leaves the file alone; the way back is a copy from before.
        assert!(world.start_informer(&[]).is_err(), "an earlier informer opened a later schema");
        long.iter().try_for_each(|task| task.go(&world, 2))?;
    }
    world.builds.informer = own();
    world.start_informer(&[])?;
    world.wait_linked(2)?;
    world.touch("all")?;
    long.iter().try_for_each(|task| task.go(&world, 3))?;
    long.iter().try_for_each(|task| task.assert_whole(&world))?;
    let array = world.wait_state(&array, &["succeeded", "failed"])?;
    assert_eq!((&array["state"], &array["array"]["succeeded"]), (&"succeeded".into(), &6.into()), "{array}");
    work(&world, "after")
}
