//! Declared outputs: whole or not there, one attempt's or another's, whoever dies when.
#![cfg(feature = "faults")]

use anyhow::{Context as _, Result, ensure};
use proto::v1;
use serde_json::Value;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use tests::files::{names, output, sh, submit};
use tests::world::{World, wait_for};

/// Every boundary between the end of the process and the end of the attempt.
const POINTS: [&str; 11] = [
    "after-end",
    "before-stage",
    "mid-stage",
    "after-stage",
    "after-manifest",
    "after-end-ledger",
    "after-report",
    "before-publish",
    "mid-publish",
    "after-publish",
    "before-retire",
];

fn out(world: &World) -> Result<PathBuf> {
    let dir = world.dir().join("out");
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

fn attempts(task: &Value) -> &[Value] {
    task["attempts"].as_array().map_or(&[], Vec::as_slice)
}

/// Two outputs over two older files.
fn two(world: &World, dir: &Path) -> Result<v1::TaskSpec> {
    let runs = world.dir().join("runs");
    let line = format!("echo x >> {runs:?}; for f in a b; do echo new-$f > $TASK_OUTPUTS/$f; done");
    for name in ["a", "b"] {
        std::fs::write(dir.join(name), format!("old-{name}\n"))?;
    }
    let outputs = vec![output("a", &dir.join("a")), output("b", &dir.join("b"))];
    Ok(v1::TaskSpec { outputs, ..sh(&line) })
}

fn content(dir: &Path, name: &str) -> Result<String> {
    std::fs::read_to_string(dir.join(name)).with_context(|| format!("{name} in {}", dir.display()))
}

fn agent_dies_at(point: &str, informer_too: bool, dir: impl Fn(&World) -> Result<PathBuf>) -> Result<()> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    world.start_sidecar(0, &[], &[("SIDECAR_FAILPOINT", point)])?;
    world.wait_linked(1)?;
    let dir = dir(&world)?;
    let id = submit(&world, two(&world, &dir)?)?;
    let status = world.wait_agent_gone(0).context(point.to_owned())?;
    assert_eq!(status.signal(), Some(9), "{point}: {status}");
    for name in ["a", "b"] {
        let found = content(&dir, name)?;
        ensure!([format!("old-{name}\n"), format!("new-{name}\n")].contains(&found), "{point}: {name} is {found:?}");
    }
    if informer_too {
        world.kill_informer();
        world.start_informer(&[])?;
    }
    world.start_sidecar(0, &[], &[])?;
    let task = world.wait_state(&id, &["succeeded", "failed", "cancelled"]).context(point.to_owned())?;
    assert_eq!((&task["state"], attempts(&task).len()), (&"succeeded".into(), 1), "{point}: {task}");
    assert_eq!(world.lines("runs").len(), 1, "{point}: it ran once");
    for name in ["a", "b"] {
        assert_eq!(content(&dir, name)?, format!("new-{name}\n"), "{point}");
    }
    wait_for(&format!("{point}: nothing is left beside the outputs"), || {
        (names(&dir).ok()? == ["a", "b"]).then_some(())
    })
}

#[test]
fn an_agent_dies_at_every_boundary_and_its_outputs_are_published_once() -> Result<()> {
    POINTS.into_iter().try_for_each(|point| agent_dies_at(point, false, out))
}

#[test]
fn agent_and_informer_die_at_every_boundary_and_the_outputs_are_published_once() -> Result<()> {
    POINTS.into_iter().try_for_each(|point| agent_dies_at(point, true, out))
}

/// A directory on another file system, removed when dropped.
struct Elsewhere(PathBuf);

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn an_agent_dies_in_the_middle_of_a_copy_to_another_file_system() -> Result<()> {
    let elsewhere = Elsewhere(PathBuf::from(format!("/dev/shm/informer-outputs-{}", std::process::id())));
    if std::fs::create_dir(&elsewhere.0).is_err()
        || std::fs::metadata(&elsewhere.0)?.dev() == std::fs::metadata(std::env::temp_dir())?.dev()
    {
        println!("SKIP an_agent_dies_in_the_middle_of_a_copy_to_another_file_system: /dev/shm is none");
        return Ok(());
    }
    ["mid-copy", "mid-stage"].into_iter().try_for_each(|point| {
        let dir = elsewhere.0.join(point);
        agent_dies_at(point, false, |_| {
            std::fs::create_dir(&dir)?;
            Ok(dir.clone())
        })
    })
}

/// Three outputs that carry the attempt's number, and wait for `gate.N`; the third is left by the first attempt only.
fn numbered(world: &World, dir: &Path) -> v1::TaskSpec {
    let gate = world.dir().join("gate");
    let line = format!(
        "for f in a b; do echo $INFORMER_ATTEMPT > $TASK_OUTPUTS/$f; done
         [ $INFORMER_ATTEMPT != 1 ] || echo 1 > $TASK_OUTPUTS/extra
         touch {gate:?}.at.$INFORMER_ATTEMPT
         while [ ! -e {gate:?}.$INFORMER_ATTEMPT ]; do sleep 0.05; done"
    );
    let mut extra = output("extra", &dir.join("extra"));
    extra.optional = true;
    v1::TaskSpec {
        outputs: vec![extra, output("a", &dir.join("a")), output("b", &dir.join("b"))],
        retry: Some(v1::Retry { max_attempts: 2, ..Default::default() }),
        ..sh(&line)
    }
}

fn holder(world: &World, id: &str, number: u64) -> Result<usize> {
    let task = world.wait_attempt(id, number, &["running"])?;
    let attempt = attempts(&task).iter().find(|attempt| attempt["number"] == number).context("an attempt")?;
    world.sidecar_named(attempt["sidecar"].as_str().context("a sidecar")?)
}

#[test]
fn two_copies_of_a_task_do_not_mix_their_outputs() -> Result<()> {
    let mut world = World::with_sidecars(2)?;
    let dir = out(&world)?;
    let id = submit(&world, numbered(&world, &dir))?;
    let first = holder(&world, &id, 1)?;
    world.wait_file("gate.at.1")?;
    world.kill_agent(first);
    holder(&world, &id, 2)?;
    world.wait_file("gate.at.2")?;
    // The first copy ends with nobody to stage it; the second wins.
    world.touch("gate.1")?;
    world.touch("gate.2")?;
    let task = world.wait_state(&id, &["succeeded", "failed"])?;
    assert_eq!(task["state"], "succeeded", "{task}");
    world.start_sidecar(first, &[], &[])?;
    world.wait_attempt(&id, 1, &["late", "lost", "cancelled", "succeeded", "failed"])?;
    wait_for("the loser's outputs are gone", || (names(&dir).ok()? == ["a", "b"]).then_some(()))?;
    assert_eq!((content(&dir, "a")?, content(&dir, "b")?), ("2\n".to_owned(), "2\n".to_owned()));
    Ok(())
}

#[test]
fn a_winner_lost_in_the_middle_of_publishing_yields_to_another_whole() -> Result<()> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    world.start_sidecar(0, &[], &[("SIDECAR_FAILPOINT", "mid-publish")])?;
    world.wait_linked(1)?;
    let dir = out(&world)?;
    let id = submit(&world, numbered(&world, &dir))?;
    world.wait_file("gate.at.1")?;
    world.touch("gate.1")?;
    world.wait_agent_gone(0)?;
    // The optional output came first, and the others are still what they were: nothing.
    assert!(dir.join("extra").exists() && !dir.join("b").exists());
    world.start_sidecar(1, &[], &[])?;
    holder(&world, &id, 2)?;
    world.touch("gate.2")?;
    let task = world.wait_state(&id, &["succeeded", "failed"])?;
    assert_eq!(task["state"], "succeeded", "{task}");
    assert_eq!((content(&dir, "a")?, content(&dir, "b")?), ("2\n".to_owned(), "2\n".to_owned()));
    assert!(!dir.join("extra").exists(), "what only the loser had is gone");
    world.start_sidecar(0, &[], &[])?;
    wait_for("the loser's outputs are gone", || (names(&dir).ok()? == ["a", "b"]).then_some(()))?;
    assert_eq!((content(&dir, "a")?, content(&dir, "b")?), ("2\n".to_owned(), "2\n".to_owned()));
    Ok(())
}

#[test]
fn what_is_no_output_of_the_task_is_refused() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let dir = out(&world)?;
    std::fs::write(world.dir().join("secret"), "s")?;
    std::fs::create_dir(dir.join("there"))?;
    // A pipe stands for everything that is no file, devices among them.
    ensure!(std::process::Command::new("mkfifo").arg(dir.join("pipe")).status()?.success(), "mkfifo");
    let secret = world.dir().join("secret");
    let link = format!("ln -s {secret:?} $TASK_OUTPUTS/x");
    let above = format!("ln -s {:?} $TASK_OUTPUTS/d", world.dir());
    let cases = [
        ("true", "x", "x", "left no such file"),
        (link.as_str(), "x", "x", "a symbolic link"),
        (above.as_str(), "d/secret", "x", "below a symbolic link"),
        ("mkfifo $TASK_OUTPUTS/x", "x", "x", "a pipe"),
        ("mkdir $TASK_OUTPUTS/x", "x", "x", "a directory"),
    ];
    for (line, path, destination, message) in cases {
        let spec = v1::TaskSpec { outputs: vec![output(path, &dir.join(destination))], ..sh(line) };
        let id = submit(&world, spec)?;
        let task = world.wait_state(&id, &["succeeded", "failed"])?;
        assert_eq!((&task["state"], &task["reason"]), (&"failed".into(), &"output".into()), "{line}: {task}");
        let told = attempts(&task)[0].to_string();
        assert!(told.contains(message), "{line}: {told}");
        assert_eq!(names(&dir)?, ["pipe", "there"], "{line}");
    }
    assert_eq!(std::fs::read_to_string(&secret)?, "s");
    Ok(())
}

#[test]
fn an_output_that_has_no_place_to_go_is_told_before_the_task_begins() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let dir = out(&world)?;
    std::fs::create_dir(dir.join("there"))?;
    let cases = [("nowhere/x", "there is no directory"), ("there", "is there and is no file")];
    for (destination, message) in cases {
        let ran = world.dir().join("ran");
        let line = format!("touch {ran:?}; echo > $TASK_OUTPUTS/x");
        let spec = v1::TaskSpec { outputs: vec![output("x", &dir.join(destination))], ..sh(&line) };
        let id = submit(&world, spec)?;
        let task = world.wait_state(&id, &["succeeded", "failed"])?;
        assert_eq!((&task["state"], &task["reason"]), (&"failed".into(), &"spawn".into()), "{task}");
        let told = attempts(&task)[0].to_string();
        assert!(told.contains(message) && told.contains(destination.trim_end_matches("/x")), "{told}");
        assert_eq!(world.informer(&["wait", &id])?.status.code(), Some(125));
        assert!(!ran.exists(), "the task ran for nothing");
    }
    // It is the task's fault: the sidecar goes on.
    assert_eq!(world.informer(&["run", "--", "true"])?.status.code(), Some(0));
    // What becomes of the directory while the task runs is told when it is needed.
    let gone = dir.join("gone");
    std::fs::create_dir(&gone)?;
    let line = format!("rmdir {gone:?}; echo > $TASK_OUTPUTS/x");
    let id = submit(&world, v1::TaskSpec { outputs: vec![output("x", &gone.join("x"))], ..sh(&line) })?;
    let task = world.wait_state(&id, &["succeeded", "failed"])?;
    assert_eq!((&task["state"], &task["reason"]), (&"failed".into(), &"output".into()), "{task}");
    assert!(attempts(&task)[0].to_string().contains("there is no directory"), "{task}");
    Ok(())
}

#[test]
fn outputs_have_a_directory_of_their_own_and_may_be_optional() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let dir = out(&world)?;
    std::fs::write(dir.join("kept"), "old")?;
    let line = "[ $TASK_OUTPUTS != $TASK_DIR ] && [ -z \"$(ls -A $TASK_OUTPUTS)\" ] && mkdir $TASK_OUTPUTS/d &&
                echo deep > $TASK_OUTPUTS/d/x && ln $TASK_OUTPUTS/d/x $TASK_DIR/other && chmod 640 $TASK_OUTPUTS/d/x";
    let mut kept = output("kept", &dir.join("kept"));
    kept.optional = true;
    let id = submit(&world, v1::TaskSpec { outputs: vec![output("d/x", &dir.join("x")), kept], ..sh(line) })?;
    let task = world.wait_state(&id, &["succeeded", "failed"])?;
    assert_eq!(task["state"], "succeeded", "{task}");
    assert_eq!((content(&dir, "x")?.as_str(), content(&dir, "kept")?.as_str()), ("deep\n", "old"));
    let found = std::fs::metadata(dir.join("x"))?;
    // A file of two names is copied: nobody else's may stand at the destination.
    assert_eq!((found.nlink(), found.mode() & 0o777), (1, 0o640));
    assert_eq!(attempts(&task)[0]["outputs"].as_array().map(Vec::len), Some(1), "{task}");
    Ok(())
}

#[test]
fn a_large_output_delays_nobody_and_is_given_up_when_cancelled() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let dir = out(&world)?;
    // Nothing on the disk, and minutes to hash.
    let spec =
        v1::TaskSpec { outputs: vec![output("x", &dir.join("x"))], ..sh("truncate -s 200G $TASK_OUTPUTS/x; touch $0") };
    let mut spec = spec;
    let ended = world.dir().join("ended");
    let v1::task_spec::Kind::Command(command) = spec.kind.as_mut().context("a command")? else { unreachable!() };
    command.argv.push(ended.to_string_lossy().into_owned());
    let id = submit(&world, spec)?;
    world.wait_file("ended")?;
    let other =
        submit(&world, v1::TaskSpec { outputs: vec![output("y", &dir.join("y"))], ..sh("echo > $TASK_OUTPUTS/y") })?;
    assert_eq!(world.wait_state(&other, &["succeeded", "failed"])?["state"], "succeeded");
    assert_eq!(world.task(&id)?["state"], "running");
    ensure!(world.informer(&["cancel", &id])?.status.success());
    assert_eq!(world.wait_state(&id, &["cancelled", "succeeded", "failed"])?["state"], "cancelled");
    wait_for("nothing of it is left", || (names(&dir).ok()? == ["y"]).then_some(()))
}
