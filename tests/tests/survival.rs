//! What is killed comes back, and the work goes on: started once, every byte of its log, its exit code.
//!
//! The sidecar's data lie in a mount namespace of its own where the system lets us make one, so that informer and command line can only
//! learn of them over the link.

use anyhow::{Result, ensure};
use std::fmt::Write as _;
use std::path::Path;
use tests::world::life::Watched;
use tests::world::{World, alive, wait_for};

/// Numbers in one part of the log; on stdout some 170 kB, on stderr some 30.
const OUT_NUMBERS: u32 = 30_000;
const ERR_NUMBERS: u32 = 6_000;

/// A private file system over the sidecar's data.
const PRIVATE: &str = "mount -t tmpfs -o size=64m none \"$1\"";

/// Writes a part, says so by a file, and waits for the test, thrice; ends with 7.
fn script(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "echo $$ >> {dir}/starts\n\
         for part in 1 2 3; do\n\
           seq -f \"$part.%.0f\" 1 {OUT_NUMBERS}; seq -f \"$part.%.0f\" 1 {ERR_NUMBERS} >&2\n\
           : > {dir}/wrote$part\n\
           while [ ! -e {dir}/go$part ]; do sleep 0.02; done\n\
         done\n\
         exit 7"
    )
}

fn expected(parts: u32, numbers: u32) -> Vec<u8> {
    let mut text = String::new();
    for part in 1..=parts {
        for number in 1..=numbers {
            let _ = writeln!(text, "{part}.{number}");
        }
    }
    text.into_bytes()
}

/// Compares without printing half a megabyte.
fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    let differs = found.iter().zip(expected).position(|(a, b)| a != b);
    assert!(found == expected, "{what}: {} bytes of {}, first difference at {differs:?}", found.len(), expected.len());
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Informer,
    Agent,
    Keeper,
}
use Part::{Agent, Informer, Keeper};

/// An informer and a sidecar nobody can look into; `None` where that cannot be made.
fn hidden_world(test: &str) -> Result<Option<World>> {
    let mut world = World::empty()?;
    if let Err(error) = world.hide_sidecar(PRIVATE) {
        println!("SKIP {test}: {error:#}");
        return Ok(None);
    }
    world.start_informer(&[])?;
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    Ok(Some(world))
}

/// Kills the parts while the task writes; it writes more while they are dead; they come back; it writes the rest and ends.
fn survives(test: &str, killed: &[Part]) -> Result<()> {
    let Some(mut world) = hidden_world(test)? else { return Ok(()) };
    assert!(!world.sidecars[0].data.join("ledger.db").exists(), "the sidecar's data are in sight");
    let id = world.submit(&["--tries", "1", "--", "sh", "-c", &script(world.dir())])?;
    world.wait_file("wrote1")?;
    world.wait_state(&id, &["running"])?;
    let keeper = world.keeper(0);
    for part in killed {
        match part {
            Informer => world.kill_informer(),
            Agent => world.kill_agent(0),
            Keeper => world.kill_keeper(0)?,
        }
    }
    world.touch("go1")?;
    world.wait_file("wrote2")?;
    if killed.contains(&Informer) {
        world.start_informer(&[])?;
    }
    if killed.contains(&Agent) {
        world.start_sidecar(0, &[], &[])?;
    }
    world.wait_linked(1)?;
    wait_for("a keeper runs", || world.keeper(0).filter(|now| Some(*now) != keeper || !killed.contains(&Keeper)))?;
    world.wait_state(&id, &["running"])?;
    world.touch("go2")?;
    world.wait_file("wrote3")?;
    world.touch("go3")?;
    let task = world.wait_state(&id, &["failed", "succeeded", "cancelled"])?;
    assert_eq!((&task["exit_code"], &task["reason"]), (&7.into(), &"exit_code".into()), "{task}");
    assert_eq!(task["attempts"].as_array().map(Vec::len), Some(1), "{task}");
    assert_eq!(world.lines("starts").len(), 1, "started more than once");
    let log = world.informer(&["logs", &id])?;
    assert!(log.status.success(), "{}", String::from_utf8_lossy(&log.stderr));
    assert_same(&log.stdout, &expected(3, OUT_NUMBERS), "stdout");
    assert_same(&log.stderr, &expected(3, ERR_NUMBERS), "stderr");
    Ok(())
}

#[test]
fn a_task_runs_and_its_streams_and_code_arrive() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let output = world.informer(&["run", "--", "sh", "-c", "echo out; echo err >&2; exit 7"])?;
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(output.stdout, b"out\n");
    assert_eq!(output.stderr, b"err\n");
    Ok(())
}

#[test]
fn a_task_survives_its_agent() -> Result<()> {
    survives("a_task_survives_its_agent", &[Agent])
}

#[test]
fn a_task_survives_the_informer() -> Result<()> {
    survives("a_task_survives_the_informer", &[Informer])
}

#[test]
fn a_task_survives_agent_and_informer_at_once() -> Result<()> {
    survives("a_task_survives_agent_and_informer_at_once", &[Agent, Informer])
}

#[test]
fn a_task_survives_its_keeper() -> Result<()> {
    survives("a_task_survives_its_keeper", &[Keeper])
}

#[test]
fn a_task_survives_agent_and_keeper() -> Result<()> {
    survives("a_task_survives_agent_and_keeper", &[Agent, Keeper])
}

#[test]
fn a_task_survives_everything_but_its_monitor() -> Result<()> {
    survives("a_task_survives_everything_but_its_monitor", &[Keeper, Informer, Agent])
}

/// The end comes while nobody is there to hear it.
#[test]
fn an_end_during_the_absence_of_agent_and_keeper_is_told_later() -> Result<()> {
    let test = "an_end_during_the_absence_of_agent_and_keeper_is_told_later";
    let Some(mut world) = hidden_world(test)? else { return Ok(()) };
    let id = world.submit(&["--tries", "1", "--", "sh", "-c", &script(world.dir())])?;
    world.wait_file("wrote1")?;
    world.wait_state(&id, &["running"])?;
    world.kill_agent(0);
    world.kill_keeper(0)?;
    for go in ["go1", "go2", "go3"] {
        world.touch(go)?;
    }
    let main: i32 = world.lines("starts")[0].parse()?;
    wait_for("the task's process is gone", || (!alive(main)).then_some(()))?;
    world.start_sidecar(0, &[], &[])?;
    let task = world.wait_state(&id, &["failed", "succeeded", "cancelled"])?;
    assert_eq!((&task["exit_code"], task["attempts"].as_array().map(Vec::len)), (&7.into(), Some(1)), "{task}");
    assert_eq!(world.lines("starts").len(), 1);
    let log = world.informer(&["logs", &id])?;
    assert_same(&log.stdout, &expected(3, OUT_NUMBERS), "stdout");
    assert_same(&log.stderr, &expected(3, ERR_NUMBERS), "stderr");
    Ok(())
}

#[test]
fn run_wait_and_follow_outlive_the_informer() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    let script = script(world.dir());
    let mut run = Watched::new(world.informer_started(&["run", "--name", "long", "--", "sh", "-c", &script])?)?;
    let part = expected(1, OUT_NUMBERS).len();
    run.wait_bytes(part)?;
    let list = world.json(&["list", "--json"])?;
    let id = find_id(&list).unwrap_or_else(|| panic!("no task in {list}"));
    let mut follow = Watched::new(world.informer_started(&["logs", "-f", &id])?)?;
    follow.wait_bytes(part)?;
    let mut wait = Watched::new(world.informer_started(&["wait", "--verbose", &id])?)?;
    // Its state: it has been answered, and follows.
    wait.wait_word()?;
    world.kill_informer();
    world.touch("go1")?;
    world.wait_file("wrote2")?;
    for (name, client) in [("run", &mut run), ("logs -f", &mut follow), ("wait", &mut wait)] {
        ensure!(client.runs(), "{name} ended with the informer");
    }
    world.start_informer(&[])?;
    world.touch("go2")?;
    world.wait_file("wrote3")?;
    world.touch("go3")?;
    assert_eq!(run.wait()?.code(), Some(7), "run");
    assert_eq!(wait.wait()?.code(), Some(7), "wait");
    assert_eq!(follow.wait()?.code(), Some(0), "logs -f");
    assert_same(&run.stdout, &expected(3, OUT_NUMBERS), "run");
    assert_same(&follow.stdout, &expected(3, OUT_NUMBERS), "logs -f");
    assert_eq!(world.lines("starts").len(), 1);
    Ok(())
}

/// The id of the only task of a list, whether the document is an array or holds one.
fn find_id(list: &serde_json::Value) -> Option<String> {
    let tasks = list.as_array().or_else(|| list["tasks"].as_array())?;
    tasks.first()?["id"].as_str().map(str::to_owned)
}
