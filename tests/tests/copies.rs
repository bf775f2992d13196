//! Copies of data directories: two sidecars with one id; an informer from a backup, to whom running attempts are unknown.

use anyhow::{Context as _, Result, ensure};
use std::path::Path;
use std::process::Command;
use tests::world::place::Place;
use tests::world::{World, alive, wait_for};

/// What `sidecar run` ends with if another process has its id.
const SUPERSEDED: i32 = 3;

fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").args([from, to]).status()?;
    ensure!(status.success(), "cp: {status}");
    Ok(())
}

#[test]
fn of_two_copies_that_start_at_once_one_has_the_id_and_keeps_it() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    let first = world.submit(&["--", "true"])?;
    world.wait_state(&first, &["succeeded"])?;
    world.kill_box(0);
    copy(&world.dir().join("sidecar-0"), &world.dir().join("sidecar-1"))?;
    world.start_sidecar(0, &[], &[])?;
    world.start_sidecar(1, &[], &[])?;

    let refused =
        |n: &usize| world.log(&format!("sidecar-{n}.log")).contains("one of their data directories is a copy");
    let loser = wait_for("one of them is told", || (0..2).find(refused))?;
    assert_eq!(world.wait_agent_gone(loser)?.code(), Some(SUPERSEDED));
    world.wait_linked(1)?;

    // The same process links again: it is no copy of itself, before and after a restart of the informer.
    world.kill_informer();
    world.start_informer(&[])?;
    world.wait_linked(1)?;
    assert!(!world.agent_has_ended(1 - loser), "{}", world.log(&format!("sidecar-{}.log", 1 - loser)));
    let id = world.submit(&["--", "true"])?;
    let task = world.wait_state(&id, &["succeeded"])?;
    let sidecars = world.json(&["sidecars", "--json"])?;
    assert_eq!(sidecars.as_array().context("an array")?.len(), 1, "{sidecars}");
    assert_eq!(task["attempts"].as_array().map(Vec::len), Some(1), "{task}");
    Ok(())
}

/// A task that runs until its file is there.
fn held(world: &World, name: &str) -> Result<String> {
    let dir = world.dir().display();
    world.submit(&["--", "sh", "-c", &format!("while [ ! -e {dir}/go-{name} ]; do sleep 0.02; done")])
}

#[test]
fn an_attempt_that_is_set_aside_keeps_its_slot_and_its_processor() -> Result<()> {
    for room in [["--slots", "2", "--cpu", "8000"], ["--slots", "8", "--cpu", "2000"]] {
        let mut world = World::empty()?;
        world.start_informer(&[])?;
        world.start_sidecar(0, &room, &[])?;
        world.wait_linked(1)?;
        world.terminate_informer()?;
        let (data, backup) = (world.dir().join("informer"), world.dir().join("backup"));
        copy(&data, &backup)?;
        world.start_informer(&[])?;
        world.wait_linked(1)?;
        let unknown = held(&world, "unknown")?;
        world.wait_state(&unknown, &["running"])?;
        world.kill_informer();
        std::fs::remove_dir_all(&data)?;
        std::fs::rename(&backup, &data)?;
        world.start_informer(&[])?;
        world.wait_linked(1)?;

        let first = held(&world, "first")?;
        world.wait_state(&first, &["running"])?;
        // With room for it, it would have been assigned before its submit was answered.
        let second = held(&world, "second")?;
        let task = world.task(&second)?;
        assert_eq!((&task["state"], task["attempts"].as_array().map(Vec::len)), (&"ready".into(), Some(0)), "{task}");
        world.touch("go-unknown")?;
        world.wait_state(&second, &["running"])?;
        let task = world.task(&first)?;
        assert_eq!(task["attempts"].as_array().map(Vec::len), Some(1), "{task}");
        for name in ["first", "second"] {
            world.touch(&format!("go-{name}"))?;
        }
        for id in [&first, &second] {
            world.wait_state(id, &["succeeded"])?;
        }
    }
    Ok(())
}

#[test]
fn what_is_set_aside_is_shown_and_a_drain_that_stops_ends_it() -> Result<()> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    world.start_sidecar(0, &["--slots", "4"], &[])?;
    world.wait_linked(1)?;
    world.terminate_informer()?;
    let (data, backup) = (world.dir().join("informer"), world.dir().join("backup"));
    copy(&data, &backup)?;
    world.start_informer(&[])?;
    world.wait_linked(1)?;
    let script = format!("echo $$ > {}/pid; exec sleep 1000000", world.dir().display());
    let unknown = world.submit(&["--name", "unknown", "--", "sh", "-c", &script])?;
    world.wait_state(&unknown, &["running"])?;
    let pid: i32 = wait_for("it says so", || world.lines("pid").first()?.parse().ok())?;
    world.kill_informer();
    std::fs::remove_dir_all(&data)?;
    std::fs::rename(&backup, &data)?;
    world.start_informer(&[])?;
    world.wait_linked(1)?;

    let sidecar = world.json(&["sidecars", "--json"])?[0].clone();
    let attempt = format!("{unknown}.1");
    let aside = &sidecar["set_aside"];
    assert_eq!((&aside["count"], &aside["attempts"][0]), (&1.into(), &attempt.as_str().into()), "{sidecar}");
    let status = || -> Result<String> {
        let mut command = Command::new(tests::world::binary("sidecar"));
        let output = command.arg("status").arg("--data").arg(&world.sidecars[0].data).output()?;
        Ok(String::from_utf8(output.stdout)?)
    };
    // The ledger is written behind the verdict.
    wait_for("its sidecar marks it", || {
        let text = status().ok()?;
        let line = text.lines().find(|line| line.contains(&attempt))?.to_owned();
        (line.contains("set aside") && text.contains("drain")).then_some(())
    })?;
    let id = sidecar["id"].as_str().context("an id")?;
    let drained = world.informer(&["drain", id, "--stop", "--wait"])?;
    ensure!(drained.status.success(), "{}", String::from_utf8_lossy(&drained.stderr));
    assert!(!alive(pid), "nothing runs there any more");
    Ok(())
}

#[test]
fn a_copy_that_is_always_started_again_does_not_take_turns() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    let first = world.submit(&["--", "true"])?;
    world.wait_state(&first, &["succeeded"])?;
    world.kill_box(0);
    copy(&world.dir().join("sidecar-0"), &world.dir().join("sidecar-1"))?;
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    world.start_sidecar(1, &[], &[])?;
    // Started as often as the other, it is told that it is a copy; from then on its supervisor starts it again and again.
    for _ in 0..2 {
        assert_eq!(world.wait_agent_gone(1)?.code(), Some(SUPERSEDED));
        world.start_sidecar(1, &[], &[])?;
    }
    assert_eq!(world.wait_agent_gone(1)?.code(), Some(SUPERSEDED));
    let log = std::fs::read_to_string(world.dir().join("sidecar-1.log"))?;
    assert!(log.contains("trying again in 2 s") && log.contains("only one of them may run"), "{log}");
    assert!(!world.agent_has_ended(0), "{}", world.log("sidecar-0.log"));
    world.kill_box(0);
    world.start_sidecar(1, &[], &[])?;
    let id = world.submit(&["--", "true"])?;
    world.wait_state(&id, &["succeeded"])?;
    Ok(())
}

/// What makes another machine of this one, as far as a keeper can tell.
const OTHER_BOOT: &str =
    "cat /proc/sys/kernel/random/uuid > \"$1/boot\" && mount --bind \"$1/boot\" /proc/sys/kernel/random/boot_id";

#[test]
fn what_runs_where_a_directory_was_has_ended_before_it_runs_where_it_is() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    let elsewhere = match Place::over(&world.dir().join("elsewhere"), OTHER_BOOT) {
        Ok(place) => place,
        Err(error) => {
            println!("SKIP what_runs_where_a_directory_was: {error:#}");
            return Ok(());
        }
    };
    let dir = world.dir().display();
    let script = format!(
        "trap 'echo end >> {dir}/story; exit 1' TERM; echo start >> {dir}/story; while [ ! -e {dir}/go ]; do sleep 0.02; done"
    );
    let id = world.submit(&["--exclusive", "--accept-weak-fencing", "--", "sh", "-c", &script])?;
    wait_for("it runs", || (world.lines("story") == ["start"]).then_some(()))?;
    world.wait_state(&id, &["running"])?;
    world.kill_agent(0);
    copy(&world.dir().join("sidecar-0"), &world.dir().join("sidecar-1"))?;
    world.put_sidecars(elsewhere.enter());
    world.start_sidecar(1, &[], &[])?;
    world.wait_attempt(&id, 2, &["running"])?;
    let story = wait_for("the second tells that it started", || {
        Some(world.lines("story")).filter(|lines| lines.iter().filter(|line| *line == "start").count() == 2)
    })?;
    assert_eq!(story, ["start", "end", "start"], "{:?}", world.history(&id)?);
    world.touch("go")?;
    world.wait_state(&id, &["succeeded"])?;
    Ok(())
}

#[test]
fn a_copy_in_the_same_place_ends_nothing_of_the_first_and_starts_nothing_beside_it() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    let dir = world.dir().display();
    let script = format!(
        "trap 'echo end >> {dir}/story; exit 1' TERM; echo start >> {dir}/story; while [ ! -e {dir}/go ]; do sleep 0.02; done"
    );
    let alone = world.submit(&["--exclusive", "--accept-weak-fencing", "--", "sh", "-c", &script])?;
    wait_for("it runs", || (world.lines("story") == ["start"]).then_some(()))?;
    let script = format!("echo $$ >> {dir}/pids; while [ ! -e {dir}/go ]; do sleep 0.02; done");
    let goes_on = world.submit(&["--", "sh", "-c", &script])?;
    let first: i32 = wait_for("it runs", || world.lines("pids").first()?.parse().ok())?;
    for id in [&alone, &goes_on] {
        world.wait_state(id, &["running"])?;
    }
    world.kill_agent(0);
    copy(&world.dir().join("sidecar-0"), &world.dir().join("sidecar-1"))?;
    world.start_sidecar(1, &[], &[])?;
    // Its keeper has settled what it found before it is told of, and the second try follows that.
    world.wait_attempt(&goes_on, 2, &["running"])?;
    assert!(alive(first), "{}", world.log("sidecar-1/keeper.log"));
    world.wait_attempt(&alone, 2, &["running"])?;
    let story = wait_for("the second tells that it started", || {
        Some(world.lines("story")).filter(|lines| lines.iter().filter(|line| *line == "start").count() == 2)
    })?;
    assert_eq!(story, ["start", "end", "start"], "{:?}", world.history(&alone)?);
    assert!(alive(first), "{}", world.log("sidecar-1/keeper.log"));
    world.touch("go")?;
    for id in [&alone, &goes_on] {
        world.wait_state(id, &["succeeded"])?;
    }
    Ok(())
}
