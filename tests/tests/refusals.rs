//! What would mean nothing, or something else than was meant, is refused at once, with what is right.

use anyhow::{Context as _, Result, ensure};
use tests::world::World;

/// Refused as misuse, with these words, and without a word on stdout.
fn refused(world: &World, args: &[&str], words: &[&str]) -> Result<()> {
    let output = world.informer(args)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(2) && output.stdout.is_empty(), "{args:?}: {output:?}");
    ensure!(words.iter().all(|word| said.contains(word)), "{args:?} said {said:?}");
    ensure!(said.lines().count() == 1, "{args:?} said more than a line: {said:?}");
    Ok(())
}

#[test]
fn a_kind_that_there_is_not_is_no_filter() -> Result<()> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    let plain = "use one of command, script, service, transcode, container, http, or type:NAME";
    for verb in ["list", "cancel", "retry"] {
        refused(&world, &[verb, "--kind", "comand"], &["\"comand\" is no kind", plain])?;
    }
    let unknown = "no executor is registered for type \"sums\", and no task is of it";
    refused(&world, &["list", "--kind", "type:sums"], &[unknown, "registered now: none is"])?;
    let put = world.informer(&["executor", "put", "sum", "--command", "--", "true"])?;
    ensure!(put.status.success(), "{put:?}");
    refused(&world, &["cancel", "--kind", "type:sums"], &[unknown, "registered now: sum"])?;
    assert_eq!(world.json(&["list", "--kind", "type:sum", "--json"])?, serde_json::json!([]));
    // A type that is forgotten counts as long as a task is of it.
    let id = world.submit(&["--type", "sum"])?;
    ensure!(world.informer(&["executor", "delete", "sum"])?.status.success());
    let left = world.json(&["list", "--kind", "type:sum", "--json"])?;
    assert_eq!(left[0]["id"], id.as_str(), "{left}");
    Ok(())
}

#[test]
fn what_no_task_could_mean_is_refused_on_flags_and_in_files() -> Result<()> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    let no_limit = "a limit of no time would be no limit";
    refused(&world, &["submit", "--timeout", "0", "--", "true"], &[no_limit])?;
    let least = "1 bytes are less than any process needs; use 1048576 (1 MiB) at least";
    refused(&world, &["submit", "--memory-limit", "1", "--", "true"], &[least])?;
    let index = "has {index} in it, which stands for the index of an array's member; submit an array";
    refused(&world, &["submit", "--out", "a=/tmp/{index}.txt", "--", "true"], &[index])?;
    refused(&world, &["submit", "--in", "/tmp/{index}.txt=a", "--", "true"], &[index])?;
    let file = world.dir().join("task.toml");
    let path = file.to_str().context("UTF-8")?;
    for (lines, line, problem) in [
        ("timeouts = { attempt = 0 }", 1, no_limit),
        ("\ntimeouts = { total_ms = 0 }", 2, no_limit),
        ("\n\n[timeouts]\nqueue = \"0s\"", 4, no_limit),
    ] {
        std::fs::write(&file, format!("{lines}\n[command]\nargv = [\"true\"]\n"))?;
        refused(&world, &["submit", "-f", path], &[&format!("task.toml:{line}: "), problem])?;
    }
    std::fs::write(&file, "limits.memory = 1\n[command]\nargv = [\"true\"]\n")?;
    refused(&world, &["submit", "-f", path], &[least])?;
    assert_eq!(world.json(&["list", "--json"])?, serde_json::json!([]), "nothing of it was stored");
    Ok(())
}

#[test]
fn a_beginning_of_an_id_says_how_much_of_it_is_needed() -> Result<()> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    let id = world.submit(&["--", "true"])?;
    for verb in ["show", "why", "logs", "wait", "history", "cancel"] {
        let output = world.informer(&[verb, &id[..7]])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("write its first 8 characters or more"), "{verb}: {said}");
    }
    assert!(world.informer(&["show", &id[..8]])?.status.success());
    Ok(())
}
