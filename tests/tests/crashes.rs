//! Every crash point of informer, agent and keeper: the process dies at the boundary, a new one is started, and the truth is one.

#![cfg(feature = "faults")]

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::os::unix::process::ExitStatusExt as _;
use tests::world::lives::{INFORMER_POINTS, Lives};
use tests::world::{World, processes_with, wait_for};

const AGENT_POINTS: [&str; 7] = [
    "after-assign",
    "after-ledger",
    "after-accept",
    "after-start-sent",
    "after-end",
    "after-end-ledger",
    "after-report",
];
const PURGE_POINTS: [&str; 2] = ["before-purge", "after-purge"];
/// Whether the attempt's end is recorded at this point, so that it counts.
const KEEPER_POINTS: [(&str, bool); 7] = [
    ("after-mkdir", false),
    ("after-spec", false),
    ("after-spawn", false),
    ("after-spawned", false),
    ("after-wait", false),
    ("after-exit", true),
    ("after-sweep", true),
];

/// Tasks submitted over the lives of an informer.
const KEYS: usize = 6;
/// Attempts whose logs a sidecar keeps, and some more: the rest is purged.
const MORE_THAN_KEPT: usize = 205;

/// Says that it started, leaves a stray that only a sweep ends, and ends with 0.
fn script(world: &World, name: &str) -> String {
    let dir = world.dir().display();
    format!(
        "echo $$ >> {dir}/{name}; echo said; setsid sh -c 'trap \"\" TERM; : > {dir}/{name}.stray; while :; do sleep 1; done' {dir}/mark & \
         while [ ! -e {dir}/{name}.stray ]; do sleep 0.01; done; exit 0"
    )
}

fn attempts(task: &Value) -> &[Value] {
    task["attempts"].as_array().map_or(&[], Vec::as_slice)
}

/// One accepted result, its log, and nothing of it left.
fn check_ended(world: &World, id: &str, name: &str) -> Result<Value> {
    let task = world.wait_state(id, &["succeeded", "failed", "cancelled"])?;
    assert_eq!(task["state"], "succeeded", "{name}: {task}");
    assert_eq!(task["exit_code"], 0, "{name}: {task}");
    let accepted = attempts(&task).iter().filter(|attempt| attempt["state"] == "succeeded").count();
    assert_eq!(accepted, 1, "{name}: {task}");
    let mut said = String::new();
    wait_for(&format!("{name}: its log is there"), || {
        let log = world.informer(&["logs", id]).ok()?;
        said = format!("{}{}", String::from_utf8_lossy(&log.stdout), String::from_utf8_lossy(&log.stderr));
        (log.stdout == b"said\n").then_some(())
    })
    .with_context(|| format!("{said}\n{task}"))?;
    let mark = format!("{}/mark", world.dir().display());
    wait_for(&format!("{name}: no process is left"), || processes_with(mark.as_bytes()).is_empty().then_some(()))?;
    Ok(task)
}

fn started(task: &Value) -> usize {
    attempts(task).iter().filter(|attempt| !attempt["started_unix_ms"].is_null()).count()
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill_under_its_key() -> Result<()> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    let mut ids = Vec::new();
    for n in 0..10 {
        ids.push(world.submit(&["--key", &format!("key-{n}"), "--", "echo", &n.to_string()])?);
    }
    world.kill_informer();
    world.start_informer(&[])?;
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(world.task(id)?["state"], "ready", "task {n}");
        let key = format!("key-{n}");
        assert_eq!(&world.submit(&["--key", &key, "--", "echo", &n.to_string()])?, id, "repeated with its key");
        let other = world.informer(&["submit", "--key", &key, "--", "echo", "other"])?;
        assert_eq!(other.status.code(), Some(1), "{}", String::from_utf8_lossy(&other.stderr));
        assert!(other.stdout.is_empty() && !other.stderr.is_empty());
    }
    world.start_sidecar(0, &[], &[])?;
    for id in &ids {
        world.wait_state(id, &["succeeded"])?;
    }
    Ok(())
}

/// The task as `show` tells it, which waits for an informer that has died under it.
fn shown(lives: &mut Lives, id: &str) -> Result<Value> {
    let client = lives.run(&["show", id, "--json"])?;
    ensure!(client.succeeded, "{}", String::from_utf8_lossy(&client.stdout));
    Ok(serde_json::from_slice(&client.stdout)?)
}

/// Asks again and again with one key, as a user would.
fn submit(lives: &mut Lives, key: &str, script: &str) -> Result<String> {
    let args = ["submit", "--key", key, "--name", key, "--", "sh", "-c", script];
    Ok(String::from_utf8(lives.insist(&args)?)?.trim().to_owned())
}

fn informer_dies_at(point: &str) -> Result<()> {
    let mut lives = Lives::begin(point)?;
    let mut ids = Vec::new();
    for n in 0..KEYS {
        let name = format!("starts-{n}");
        let script = script(&lives.world, &name);
        ids.push(submit(&mut lives, &name, &script)?);
    }
    for id in &ids {
        wait_for(&format!("{point}: {id} ends"), || {
            let task = shown(&mut lives, id).ok()?;
            ["succeeded", "failed", "cancelled"].contains(&task["state"].as_str()?).then_some(())
        })?;
    }
    ensure!(lives.deaths > 0, "{point} was never passed");
    let mut world = lives.world;
    // A last life without an end: what is looked at below is what is on the disk.
    world.kill_informer();
    world.start_informer(&[])?;
    for (n, id) in ids.iter().enumerate() {
        let name = format!("starts-{n}");
        let task = check_ended(&world, id, &format!("{point}, {name}"))?;
        assert_eq!(world.lines(&name).len(), started(&task), "{point}, {name}: {task}");
        assert_eq!(attempts(&task).len(), 1, "{point}, {name}: {task}");
        let again = world.submit(&["--key", &name, "--name", &name, "--", "sh", "-c", &script(&world, &name)])?;
        assert_eq!(&again, id, "{point}");
    }
    let list = world.json(&["list", "--json"])?;
    let listed = list.as_array().or_else(|| list["tasks"].as_array()).context("a list")?.len();
    assert_eq!(listed, KEYS, "{point}: {list}");
    Ok(())
}

#[test]
fn the_informer_dies_at_every_boundary_and_each_key_has_one_task() -> Result<()> {
    INFORMER_POINTS.into_iter().try_for_each(informer_dies_at)
}

#[test]
fn an_agent_dies_at_every_boundary_and_its_task_is_started_once() -> Result<()> {
    for point in AGENT_POINTS {
        let mut world = World::empty()?;
        world.start_informer(&[])?;
        world.start_sidecar(0, &[], &[("SIDECAR_FAILPOINT", point)])?;
        world.wait_linked(1)?;
        let id = world.submit(&["--tries", "1", "--", "sh", "-c", &script(&world, "starts")])?;
        let status = world.wait_agent_gone(0).context(point)?;
        assert_eq!(status.signal(), Some(9), "{point}: {status}");
        world.start_sidecar(0, &[], &[])?;
        let task = check_ended(&world, &id, point).context(point)?;
        assert_eq!(world.lines("starts").len(), started(&task), "{point}: {task}");
        assert_eq!(attempts(&task).len(), 1, "{point}: {task}");
    }
    Ok(())
}

#[test]
fn an_agent_dies_while_it_purges_and_the_rest_is_purged_later() -> Result<()> {
    for point in PURGE_POINTS {
        let mut world = World::empty()?;
        world.start_informer(&[])?;
        world.start_sidecar(0, &["--slots", "64", "--cpu", "64000"], &[("SIDECAR_FAILPOINT", point)])?;
        world.wait_linked(1)?;
        let mut ids = Vec::new();
        for n in 0..MORE_THAN_KEPT {
            ids.push(world.submit(&["--", "sh", "-c", &format!("echo {n}")])?);
        }
        let status = world.wait_agent_gone(0).context(point)?;
        assert_eq!(status.signal(), Some(9), "{point}: {status}");
        world.start_sidecar(0, &["--slots", "64", "--cpu", "64000"], &[])?;
        for id in &ids {
            let task = world.wait_state(id, &["succeeded", "failed", "cancelled"])?;
            assert_eq!((&task["state"], attempts(&task).len()), (&"succeeded".into(), 1), "{point}: {task}");
        }
        let data = world.sidecars[0].data.join("attempts");
        wait_for("what is too much is purged", || (std::fs::read_dir(&data).ok()?.count() <= 200).then_some(()))?;
        let last = ids.last().context("tasks were submitted")?;
        let log = world.informer(&["logs", last])?;
        assert_eq!(String::from_utf8_lossy(&log.stdout), format!("{}\n", MORE_THAN_KEPT - 1), "{point}");
    }
    Ok(())
}

/// `plan` is a point, with `,keeper` if the keeper dies in the same moment.
fn keeper_dies_at(plan: &str, recorded: bool) -> Result<()> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    // Without this it would die again with each retry.
    let once = world.dir().join("died");
    let once = once.to_str().context("a path in UTF-8")?.to_owned();
    world.start_sidecar(0, &[], &[("KEEPER_FAILPOINT", plan), ("KEEPER_FAILPOINT_ONCE", &once)])?;
    world.wait_linked(1)?;
    let id = world.submit(&["--tries", "1", "--", "sh", "-c", &script(&world, "starts")])?;
    let task = check_ended(&world, &id, plan).context(plan.to_owned())?;
    ensure!(std::path::Path::new(&once).exists(), "{plan} was never passed");
    if recorded {
        assert_eq!((attempts(&task).len(), world.lines("starts").len()), (1, 1), "{plan}: {task}");
    } else {
        // The first is lost, which is not charged to the task; whether it ran is the boundary's affair.
        assert_eq!(attempts(&task).len(), 2, "{plan}: {task}");
        assert_eq!(attempts(&task)[0]["reason"], "lost", "{plan}: {task}");
        assert!((1..=2).contains(&world.lines("starts").len()), "{plan}: {task}");
    }
    Ok(())
}

#[test]
fn a_monitor_dies_at_every_boundary_and_one_result_is_accepted() -> Result<()> {
    KEEPER_POINTS.into_iter().try_for_each(|(point, recorded)| keeper_dies_at(point, recorded))
}

#[test]
fn monitor_and_keeper_die_at_every_boundary_and_one_result_is_accepted() -> Result<()> {
    KEEPER_POINTS.into_iter().try_for_each(|(point, recorded)| keeper_dies_at(&format!("{point},keeper"), recorded))
}
