//! The logs of ended attempts are kept at the informer: read when the box is gone, byte by byte, whatever died on the way.

use anyhow::{Context as _, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Output;
use tests::world::{World, wait_for};

/// Files of kept logs, whole ones.
fn kept(world: &World) -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "log") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&world.dir().join("informer/logs"), &mut found);
    found
}

fn wait_kept(world: &World, count: usize) -> Result<()> {
    let found = wait_for(&format!("{count} logs are kept"), || (kept(world).len() == count).then_some(()));
    found.with_context(|| format!("{:?}\n{}\n{}", kept(world), world.log("informer.log"), world.log("sidecar-0.log")))
}

/// The sidecar's box is gone for good, its disk with it, and the informer knows.
fn remove_box(world: &mut World, n: usize) -> Result<()> {
    world.kill_box(n);
    std::fs::remove_dir_all(&world.sidecars[n].data)?;
    world.wait_linked(0)
}

#[test]
fn a_log_that_was_lost_with_its_box_is_told_and_fails_the_reader() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    let file = world.dir().join("once.toml");
    let said = world.dir().join("said");
    let argv = format!("[\"sh\", \"-c\", \"echo word; touch {}; sleep 1000000\"]", said.display());
    std::fs::write(&file, format!("[command]\nargv = {argv}\n[retry]\nno_infrastructure_retry = true\n"))?;
    let id = world.submit(&["-f", file.to_str().context("UTF-8")?])?;
    world.wait_file("said")?;
    remove_box(&mut world, 0)?;
    let task = world.wait_state(&id, &["failed"])?;
    assert_eq!(task["reason"], "lost", "{task}");
    for args in [&["logs", "-f", &id][..], &["logs", &id], &["logs", "-f", "--attempt", "1", &id]] {
        let output = world.informer(args)?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {told}");
        assert!(told.contains("log") && told.contains("attempt 1") && output.stdout.is_empty(), "{args:?}: {told}");
    }
    Ok(())
}

fn read(world: &World, args: &[&str]) -> Result<Output> {
    let output = world.informer(&[&["logs"], args].concat())?;
    ensure!(output.status.success(), "logs {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output)
}

/// So many bytes that no packer makes small, from a generator that the test and the task both have.
fn noise(count: usize) -> Result<Vec<u8>> {
    let output = std::process::Command::new("sh").args(["-c", &noise_command(count)]).output()?;
    ensure!(output.stdout.len() == count, "{} bytes of noise", output.stdout.len());
    Ok(output.stdout)
}

fn noise_command(count: usize) -> String {
    format!("awk 'BEGIN {{ srand(7); for (;;) printf \"%d%c\", rand() * 1e9, 10 + rand() * 100 }}' | head -c {count}")
}

#[test]
fn both_streams_of_a_task_are_read_when_its_box_is_gone() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    let script = "printf 'out\\0\\377\\n'; printf 'err no newline' >&2; exit 3";
    let id = world.submit(&["--tries", "1", "--", "sh", "-c", script])?;
    let quiet = world.submit(&["--", "true"])?;
    world.wait_state(&id, &["failed"])?;
    world.wait_state(&quiet, &["succeeded"])?;
    wait_kept(&world, 1)?;
    remove_box(&mut world, 0)?;
    for args in [&[&id[..]][..], &[&id, "-f"]] {
        let output = read(&world, args)?;
        assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"out\0\xff\n"[..], &b"err no newline"[..]));
    }
    let output = read(&world, &[&quiet])?;
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "an empty log needs no copy");
    // The copy is durable, too.
    world.kill_informer();
    world.start_informer(&[])?;
    assert_eq!(read(&world, &[&id])?.stdout, b"out\0\xff\n");
    Ok(())
}

#[test]
fn each_attempt_has_its_own_copy() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    let id = world.submit(&["--tries", "2", "--", "sh", "-c", "echo attempt $INFORMER_ATTEMPT; exit 1"])?;
    world.wait_state(&id, &["failed"])?;
    wait_kept(&world, 2)?;
    remove_box(&mut world, 0)?;
    assert_eq!(read(&world, &[&id])?.stdout, b"attempt 2\n");
    assert_eq!(read(&world, &[&id, "--attempt", "1"])?.stdout, b"attempt 1\n");
    Ok(())
}

#[test]
fn a_long_log_comes_whole_although_agent_and_informer_die_over_it() -> Result<()> {
    const LENGTH: usize = 50_000_000;
    let mut world = World::empty()?;
    world.start_informer(&[("INFORMER_FAILPOINT", "log-part:400")])?;
    world.start_sidecar(0, &[], &[("SIDECAR_FAILPOINT", "log-part:200")])?;
    world.wait_linked(1)?;
    let id = world.submit(&["--", "sh", "-c", &noise_command(LENGTH)])?;
    world.wait_agent_gone(0).context("the agent dies while it sends")?;
    assert_eq!(kept(&world), [] as [PathBuf; 0]);
    world.start_sidecar(0, &[], &[])?;
    world.wait_informer_gone().context("the informer dies while it receives")?;
    world.start_informer(&[])?;
    world.wait_linked(1)?;
    wait_kept(&world, 1)?;
    let parts = std::fs::read_dir(world.dir().join("informer/logs/parts"))?.count();
    assert_eq!(parts, 0, "nothing of the broken uploads is left");
    remove_box(&mut world, 0)?;
    assert!(read(&world, &[&id])?.stdout == noise(LENGTH)?, "the copy differs");
    Ok(())
}

#[test]
fn a_log_is_sent_again_until_it_is_known_to_be_stored() -> Result<()> {
    for point in ["log-written", "log-kept"] {
        let mut world = World::empty()?;
        world.start_informer(&[("INFORMER_FAILPOINT", point)])?;
        world.start_sidecar(0, &[], &[("SIDECAR_FAILPOINT", "log-stored")])?;
        world.wait_linked(1)?;
        let id = world.submit(&["--", "echo", "once"])?;
        world.wait_informer_gone().with_context(|| format!("the informer dies at {point}"))?;
        world.start_informer(&[])?;
        world.wait_agent_gone(0).context("the agent dies when it hears that its log is stored")?;
        world.start_sidecar(0, &[], &[])?;
        world.wait_linked(1)?;
        world.wait_state(&id, &["succeeded"])?;
        wait_stored(&world, 1)?;
        wait_kept(&world, 1)?;
        remove_box(&mut world, 0)?;
        assert_eq!(read(&world, &[&id])?.stdout, b"once\n", "{point}");
    }
    Ok(())
}

/// Waits until sidecar 0 knows of so many logs that they are stored.
fn wait_stored(world: &World, count: usize) -> Result<()> {
    let data = &world.sidecars[0].data;
    let stored = || {
        let (_, entries) = sidecar::ledger::Ledger::peek(data).ok()?;
        let stored = sidecar::machine::RowState::Retired(sidecar::machine::LogCopy::Stored);
        Some(entries.iter().filter(|entry| entry.row.state == stored).count())
    };
    wait_for(&format!("{count} logs are stored"), || (stored() == Some(count)).then_some(()))
}

#[test]
fn what_a_service_kept_of_its_log_is_stored_with_its_offsets() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    let dir = world.dir().display();
    // More than is kept, so that its head is dropped; then it stays until it is told to go.
    let script = format!("seq 1 400000; touch {dir}/written; exec sleep 1000000");
    let file = format!(
        "name = \"svc\"\nlog_cap = 1048576\n[service]\nargv = [\"sh\", \"-c\", \"{script}\"]\n[service.restart]\nwhen = \"never\"\n"
    );
    let path = world.dir().join("service.toml");
    std::fs::write(&path, file)?;
    let id = world.submit(&["-f", path.to_str().context("a path in UTF-8")?])?;
    world.wait_file("written")?;
    ensure!(world.informer(&["cancel", &id])?.status.success(), "cancel");
    world.wait_state(&id, &["cancelled"])?;
    wait_kept(&world, 1)?;
    let here = read(&world, &[&id, "--json"])?.stdout;
    wait_stored(&world, 1)?;
    remove_box(&mut world, 0)?;
    let gone = read(&world, &[&id, "--json"])?.stdout;
    ensure!(!here.is_empty() && here.len() < 5_000_000, "{} bytes of JSON", here.len());
    assert!(here == gone, "{} and {} bytes differ", here.len(), gone.len());
    let tail = read(&world, &[&id])?.stdout;
    assert!(tail.ends_with(b"399999\n400000\n") && !tail.starts_with(b"1\n"));
    Ok(())
}

#[test]
fn a_sidecar_that_takes_its_tasks_along_leaves_their_logs() -> Result<()> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    world.start_sidecar(0, &["--stop-tasks-on-exit"], &[])?;
    world.wait_linked(1)?;
    let script = format!("seq 1 100000; touch {}/written; exec sleep 1000000", world.dir().display());
    let id = world.submit(&["--", "sh", "-c", &script])?;
    world.wait_file("written")?;
    ensure!(world.terminate_agent(0)?.success(), "{}", world.log("sidecar-0.log"));
    remove_box(&mut world, 0)?;
    let expected: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    assert!(read(&world, &[&id, "--attempt", "1"])?.stdout == expected.as_bytes(), "{}", world.log("sidecar-0.log"));
    Ok(())
}

#[test]
fn logs_whose_task_is_gone_go_at_the_start() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    let id = world.submit(&["--tries", "1", "--", "sh", "-c", "echo said; exit 3"])?;
    world.wait_state(&id, &["failed"])?;
    let newest = world.submit(&["--", "true"])?;
    world.wait_state(&newest, &["succeeded"])?;
    wait_kept(&world, 1)?;
    world.kill_informer();
    // What a crash between the removal of a task and that of its log leaves: the log of an id that no row has.
    let log = kept(&world).remove(0);
    let other = if id.ends_with('0') { '1' } else { '0' };
    let gone = format!("{}{other}", &id[..id.len() - 1]);
    let orphan = log.with_file_name(format!("{gone}.1.log"));
    std::fs::copy(&log, &orphan)?;
    let array = log.with_file_name(&gone).join("00000");
    std::fs::create_dir_all(&array)?;
    std::fs::copy(&log, array.join(format!("{gone}.7.1.log")))?;
    // A task that this store does not know yet: it may be an older one, restored.
    let later = world.dir().join("informer/logs/ffffffff");
    std::fs::create_dir(&later)?;
    let later = later.join("ffffffff-ffff-7fff-bfff-ffffffffffff.1.log");
    std::fs::copy(&log, &later)?;
    world.start_informer(&[])?;
    wait_for("the sweep has been", || world.log("informer.log").contains("had not got round to").then_some(()))?;
    assert!(!orphan.exists() && !array.exists(), "{:?}", kept(&world));
    assert!(later.exists(), "it is younger than the store");
    assert_eq!(read(&world, &[&id])?.stdout, b"said\n");
    Ok(())
}
