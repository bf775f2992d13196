//! A data directory that goes away under its sidecar.

use anyhow::{Context as _, Result};
use std::io::ErrorKind;
use std::path::Path;
use tests::world::{World, alive, wait_for};

/// Its agent has ended with one clear line, and nothing of it runs.
fn assert_ended(world: &mut World, path: &str, task: &str) -> Result<()> {
    assert_eq!(world.wait_agent_gone(0)?.code(), Some(1));
    let log = world.log("sidecar-0.log");
    let said: Vec<_> = log.lines().filter(|line| line.contains("was removed or replaced")).collect();
    assert!(matches!(said[..], [line] if line.starts_with("sidecar: ") && line.contains(path)), "{log}");
    let pid: i32 = world.lines(task).first().context("it started")?.parse()?;
    wait_for("the task is ended with its keeper", || (!alive(pid)).then_some(()))
}

#[test]
fn a_sidecar_whose_directory_is_emptied_ends_and_another_does_the_work() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    let dir = world.dir().to_owned();
    let data = world.sidecars[0].data.clone();
    let start = |world: &World, file: &str| -> Result<()> {
        let script = format!("echo $$ > {}; exec sleep 1000000", dir.join(file).display());
        let id = world.submit(&["--tries", "1", "--", "sh", "-c", &script])?;
        world.wait_state(&id, &["running"])?;
        wait_for("it says so", || world.lines(file).first().map(drop))
    };
    start(&world, "first")?;
    for entry in std::fs::read_dir(&data)? {
        let path = entry?.path();
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        // Its keeper may have seen what is missing already, and removes its socket itself.
        let gone = |error: std::io::Error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) };
        removed.or_else(gone).with_context(|| format!("{}", path.display()))?;
    }
    assert_ended(&mut world, "sidecar-0/", "first")?;

    world.start_sidecar(1, &[], &[])?;
    world.wait_linked(1)?;
    start(&world, "second")?;
    Ok(())
}

#[test]
fn a_sidecar_whose_attempts_are_removed_ends_and_begins_anew() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    let dir = world.dir().to_owned();
    let script = format!("echo $$ > {}; exec sleep 1000000", dir.join("first").display());
    let lost = world.submit(&["--tries", "1", "--", "sh", "-c", &script])?;
    world.wait_state(&lost, &["running"])?;
    wait_for("it says so", || world.lines("first").first().map(drop))?;
    let attempts = dir.join("sidecar-0/attempts");
    wait_for("all of it is removed", || std::fs::remove_dir_all(&attempts).is_ok().then_some(()))?;
    assert_ended(&mut world, "sidecar-0/attempts", "first")?;
    world.start_sidecar(0, &[], &[])?;
    // Whoever tells the end, the agent that saw it or the next one, it was no drain.
    let ended = wait_for("its end is told", || {
        let task = world.json(&["show", &lost, "--json"]).ok()?;
        let first = task["attempts"].get(0)?.clone();
        first["reason"].is_string().then_some(first)
    })?;
    // By then the next attempt may have ended in the same way.
    assert_eq!(ended["reason"], "lost", "{ended}");
    let why = world.json(&["why", &lost, "--json"])?.to_string();
    assert!(why.contains(" ended: lost (") && !why.contains("drain"), "{why}");
    let history = String::from_utf8(world.informer(&["history", &lost])?.stdout)?;
    assert!(history.contains("infrastructure failure 1 of 3 (lost)") && !history.contains("drain"), "{history}");
    world.informer(&["cancel", &lost])?;
    world.wait_linked(1)?;
    let id = world.submit(&["--", "true"])?;
    world.wait_state(&id, &["succeeded"])?;
    Ok(())
}

#[test]
fn a_sidecar_whose_directory_is_moved_ends() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    let dir = world.dir().to_owned();
    let script = format!("echo $$ > {}; exec sleep 1000000", dir.join("first").display());
    let id = world.submit(&["--tries", "1", "--", "sh", "-c", &script])?;
    world.wait_state(&id, &["running"])?;
    wait_for("it says so", || world.lines("first").first().map(drop))?;
    std::fs::rename(dir.join("sidecar-0"), dir.join("moved"))?;
    assert_ended(&mut world, "sidecar-0", "first")
}

#[test]
fn a_sidecar_without_its_ledger_says_what_is_true_and_the_next_agent_goes_on() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    let dir = world.dir().to_owned();
    let script = format!(
        "echo $$ > {0}; while [ ! -e {1} ]; do sleep 0.03; done",
        dir.join("first").display(),
        dir.join("go").display()
    );
    let id = world.submit(&["--tries", "1", "--", "sh", "-c", &script])?;
    world.wait_state(&id, &["running"])?;
    wait_for("it says so", || world.lines("first").first().map(drop))?;
    let ledger = world.sidecars[0].data.join("ledger.db");
    std::fs::remove_file(&ledger)?;
    assert_eq!(world.wait_agent_gone(0)?.code(), Some(1));
    let log = world.log("sidecar-0.log");
    let says = |word: &str| log.contains(&format!("{} was removed", ledger.display())) && log.contains(word);
    assert!(says("what runs goes on. Start it again") && !log.contains("ends what runs"), "{log}");
    let pid: i32 = world.lines("first").first().context("it started")?.parse()?;
    assert!(alive(pid), "its keeper has nothing to do with it");
    let status = std::process::Command::new(tests::world::binary("sidecar"))
        .args(["status", "--data"])
        .arg(&world.sidecars[0].data)
        .output()?;
    let said = String::from_utf8_lossy(&status.stderr).into_owned();
    let line = format!("the ledger {} is missing, and a sidecar was here; what runs goes on", ledger.display());
    assert!(!status.status.success() && said.contains(&line), "{said}");
    world.start_sidecar(0, &[], &[])?;
    world.touch("go")?;
    let task = world.wait_state(&id, &["succeeded"])?;
    assert_eq!(task["attempts"].as_array().map(Vec::len), Some(1), "{task}");
    Ok(())
}

/// Cuts the record of an attempt to nothing, or removes its directory.
fn harm(attempt: &Path, cut: bool) -> Result<()> {
    let harmed = if cut { std::fs::write(attempt.join("record"), "") } else { std::fs::remove_dir_all(attempt) };
    Ok(harmed?)
}

#[test]
fn what_runs_and_nobody_can_name_ends_before_its_task_is_tried_again() -> Result<()> {
    for cut in [false, true] {
        let mut world = World::with_sidecars(1)?;
        let dir = world.dir().display();
        let script = format!(
            "trap 'echo end >> {dir}/story; exit 1' TERM; echo start >> {dir}/story; while [ ! -e {dir}/go ]; do sleep 0.02; done"
        );
        let id = world.submit(&["--exclusive", "--accept-weak-fencing", "--", "sh", "-c", &script])?;
        wait_for("it runs", || (world.lines("story") == ["start"]).then_some(()))?;
        world.wait_state(&id, &["running"])?;
        world.kill_agent(0);
        let data = world.sidecars[0].data.clone();
        harm(&data.join(format!("attempts/{id}.1")), cut)?;
        for file in ["ledger.db", "ledger.db-wal", "ledger.db-shm"] {
            let removed = std::fs::remove_file(data.join(file));
            removed.or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
        }
        world.start_sidecar(0, &[], &[])?;
        world.wait_attempt(&id, 2, &["running"])?;
        let story = wait_for("the second tells that it started", || {
            Some(world.lines("story")).filter(|lines| lines.iter().filter(|line| *line == "start").count() == 2)
        })?;
        assert_eq!(story, ["start", "end", "start"], "{}", world.log("sidecar-0.log"));
        let log = world.log("sidecar-0.log");
        assert!(log.contains("nobody would take its result, so it is ended"), "{log}");
        world.touch("go")?;
        world.wait_state(&id, &["succeeded"])?;
    }
    Ok(())
}

#[test]
fn what_the_ledger_names_goes_on_though_its_record_is_cut() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    let dir = world.dir().display();
    let script = format!("echo $$ > {dir}/pid; while [ ! -e {dir}/go ]; do sleep 0.02; done");
    let id = world.submit(&["--", "sh", "-c", &script])?;
    wait_for("it says so", || world.lines("pid").first().map(drop))?;
    world.wait_state(&id, &["running"])?;
    world.kill_agent(0);
    harm(&world.sidecars[0].data.join(format!("attempts/{id}.1")), true)?;
    world.start_sidecar(0, &[], &[])?;
    world.touch("go")?;
    let task = world.wait_state(&id, &["succeeded"])?;
    assert_eq!(task["attempts"].as_array().map(Vec::len), Some(1), "{task}");
    Ok(())
}

#[test]
fn a_sidecar_that_cannot_write_its_lease_page_is_given_nothing_until_it_can() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let page = world.sidecars[0].data.join("lease");
    std::fs::remove_file(&page)?;
    std::fs::create_dir(&page)?;
    let told = "taking no tasks until it can be written";
    wait_for("it says so", || world.log("sidecar-0.log").contains(told).then_some(()))?;
    let alone = world.submit(&["--exclusive", "--accept-weak-fencing", "--", "true"])?;
    let other = world.submit(&["--", "true"])?;
    for id in [&alone, &other] {
        wait_for("why it waits is told", || {
            let why = world.json(&["why", id, "--json"]).ok()?.to_string();
            why.contains("cannot write its lease page").then_some(())
        })?;
    }
    let sidecar = world.json(&["sidecars", "--json"])?[0].clone();
    assert_eq!(sidecar["lack"], "lease_page", "{sidecar}");
    let shown = String::from_utf8(world.informer(&["sidecars"])?.stdout)?;
    assert!(shown.contains("it cannot write its lease page"), "{shown}");
    let status = std::process::Command::new(tests::world::binary("sidecar"))
        .args(["status", "--data"])
        .arg(&world.sidecars[0].data)
        .output()?;
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(said.contains("its page cannot be written"), "{said}");
    std::fs::remove_dir(&page)?;
    for id in [&alone, &other] {
        let task = world.wait_state(id, &["succeeded"])?;
        let history = world.history(id)?;
        assert!(!format!("{history:?}").contains("infrastructure failure"), "{task} {history:?}");
    }
    Ok(())
}

#[test]
fn an_informer_whose_database_is_taken_away_acknowledges_nothing_more() -> Result<()> {
    for name in ["informer.db", "informer.db-wal"] {
        let mut world = World::empty()?;
        world.start_informer(&[])?;
        let kept = world.submit(&["--", "true"])?;
        let file = world.dir().join("informer").join(name);
        let away = world.dir().join("away");
        std::fs::rename(&file, &away)?;
        let mut asked = world.informer_started(&["submit", "--key", "k", "--", "true"])?;
        world.wait_informer_gone()?;
        assert!(asked.try_wait()?.is_none(), "it has no answer, and asks again");
        let log = world.log("informer.log");
        let said: Vec<_> = log.lines().filter(|line| line.contains("was removed or replaced")).collect();
        assert!(matches!(said[..], [line] if line.contains(&file.display().to_string())), "{log}");
        // What the line says is enough, and what was acknowledged is there.
        if name == "informer.db" {
            assert!(said[0].contains("put the file back"), "{log}");
            std::fs::rename(&away, &file)?;
        } else {
            assert!(said[0].contains("has been moved into"), "{log}");
        }
        world.start_informer(&[])?;
        let task = world.json(&["show", &kept, "--json"])?;
        assert_eq!(task["id"], kept.as_str(), "{task}");
        assert!(asked.wait()?.success());
    }
    Ok(())
}
