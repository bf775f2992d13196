//! Arrays, as a user of the command line lives with them.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Output;
use tests::world::life::Watched;
use tests::world::{World, wait_for};

/// Members of the array that nobody would want to look through one by one.
const MANY: u32 = 100_000;

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A count of the array, as `show --json` tells it.
fn count(task: &Value, key: &str) -> u64 {
    task["array"][key].as_u64().unwrap_or(u64::MAX)
}

/// The states of all members in the list, by index.
fn members(world: &World, id: &str) -> Result<BTreeMap<u64, String>> {
    let listed = world.json(&["list", "--array", id, "--all", "--json"])?;
    let listed = listed.as_array().context("a list")?;
    let states = listed.iter().map(|member| {
        let index = member["id"].as_str()?.strip_prefix(id)?.strip_prefix('.')?.parse().ok()?;
        Some((index, member["state"].as_str()?.to_owned()))
    });
    let states: Option<BTreeMap<_, _>> = states.collect();
    let states = states.context("every member has an index and a state")?;
    ensure!(states.len() == listed.len(), "a member is listed twice");
    Ok(states)
}

/// A shell command that notes member and attempt in a file of the world, and then does `more`.
fn noting(world: &World, more: &str) -> String {
    let notes = world.dir().join("notes").display().to_string();
    format!("echo \"$INFORMER_ARRAY_INDEX $INFORMER_ATTEMPT $INFORMER_ARRAY_ITEM\" >> {notes}; {more}")
}

/// A shell command that waits until the test makes a file.
fn held(world: &World, file: &str) -> String {
    format!("until [ -e {}/{file} ]; do sleep 0.05; done", world.dir().display())
}

#[test]
fn members_are_counted_listed_and_told_apart() -> Result<()> {
    let world = World::with_sidecars(2)?;
    let script = "echo \"$INFORMER_ARRAY_ID $INFORMER_ARRAY_INDEX $INFORMER_TASK_ID [$INFORMER_ARRAY_ITEM]\"";
    let id = world.submit(&["--array", "1-20", "--", "sh", "-c", script])?;
    assert_eq!(world.informer(&["wait", &id])?.status.code(), Some(0));
    for index in [1, 3, 20] {
        let member = format!("{id}.{index}");
        let logs = world.informer(&["logs", &member])?;
        assert_eq!(stdout(&logs), format!("{id} {index} {member} []\n"), "{}", stderr(&logs));
        assert_eq!(world.informer(&["wait", &member])?.status.code(), Some(0));
    }
    let shown = world.task(&id)?;
    assert_eq!(
        (shown["state"].as_str(), count(&shown, "succeeded"), count(&shown, "count")),
        (Some("succeeded"), 20, 20)
    );
    let member = world.task(&format!("{id}.3"))?;
    assert_eq!((member["exit_code"].as_i64(), member["attempts"][0]["number"].as_u64()), (Some(0), Some(1)));
    let states = members(&world, &id)?;
    assert!(states.keys().copied().eq(1..=20) && states.values().all(|state| state == "succeeded"), "{states:?}");
    // The array is one line among the tasks; its members stand in its own list.
    assert_eq!(world.json(&["list", "--json"])?.as_array().map(Vec::len), Some(1));
    let outside = world.informer(&["show", &format!("{id}.21")])?;
    assert_eq!(outside.status.code(), Some(1));
    Ok(())
}

#[test]
fn items_come_from_lines_and_from_json() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let (lines, json) = (world.dir().join("lines"), world.dir().join("items.json"));
    std::fs::write(&lines, "alpha one\n\n\"quoted\" $HOME `x`\nlast")?;
    std::fs::write(&json, "[\"plain\", {\"k\": [1, null]}, 7, \"two\\nlines\"]")?;
    let print = ["--", "sh", "-c", "printf '%s' \"$INFORMER_ARRAY_ITEM\""];
    for (flag, file, expected) in [
        ("--each-line", &lines, ["alpha one", "", "\"quoted\" $HOME `x`", "last"]),
        ("--from-json", &json, ["plain", "{\"k\":[1,null]}", "7", "two\nlines"]),
    ] {
        let id = world.submit(&[&[flag, file.to_str().context("UTF-8")?], &print[..]].concat())?;
        assert_eq!(world.informer(&["wait", &id])?.status.code(), Some(0));
        for (index, item) in (1..).zip(expected) {
            let member = format!("{id}.{index}");
            assert_eq!(stdout(&world.informer(&["logs", &member])?), item);
            assert_eq!(world.task(&member)?["item"].as_str().unwrap_or_default(), item);
        }
    }
    std::fs::write(&json, "[\"fine\", tru]")?;
    let wrong = world.informer(&[&["submit", "--from-json", json.to_str().context("UTF-8")?], &print[..]].concat())?;
    assert!(!wrong.status.success() && wrong.stdout.is_empty(), "{}", stderr(&wrong));
    let listed = world.json(&["list", "--json"])?;
    assert_eq!(listed.as_array().map(Vec::len), Some(2), "what was no array is not stored");
    Ok(())
}

#[test]
fn run_and_wait_exit_as_the_whole_array() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let good = world.informer(&["run", "--array", "1-3", "--", "echo", "hello"])?;
    assert_eq!(good.status.code(), Some(0), "{}", stderr(&good));
    assert_eq!(stdout(&good), "", "members have logs of their own");
    assert!(stderr(&good).contains("3/3 done"), "{}", stderr(&good));
    let bad =
        world.informer(&["run", "--array", "5-7", "--", "sh", "-c", "exit $((INFORMER_ARRAY_INDEX == 6 ? 9 : 0))"])?;
    assert_eq!(bad.status.code(), Some(1));
    assert!(
        stderr(&bad).contains("3/3 done, 1 failed") && stderr(&bad).contains(".6  exit code 9"),
        "{}",
        stderr(&bad)
    );
    let id = world.json(&["list", "--state", "failed", "--json"])?[0]["id"].as_str().context("an id")?.to_owned();
    assert_eq!(world.informer(&["wait", &id])?.status.code(), Some(1));
    assert_eq!(world.informer(&["wait", &format!("{id}.6")])?.status.code(), Some(9));
    assert_eq!(world.informer(&["wait", &format!("{id}.5")])?.status.code(), Some(0));
    Ok(())
}

#[test]
fn members_are_cancelled_and_retried_singly_and_together() -> Result<()> {
    let world = World::with_sidecars(1)?;
    // Two run and are held; what is asked of them is done when `go` is there: odd members fail.
    let work = format!("{}; exit $((INFORMER_ARRAY_INDEX % 2 ? 4 : 0))", held(&world, "go"));
    let id = world.submit(&["--tries", "1", "--array", "1-6", "--", "sh", "-c", &noting(&world, &work)])?;
    wait_for("two members run", || (world.lines("notes").len() == 2).then_some(()))?;

    let waiting = format!("{id}.6");
    assert!(world.informer(&["cancel", &waiting])?.status.success());
    assert_eq!(world.task(&waiting)?["state"], "cancelled");
    assert_eq!(world.informer(&["wait", &waiting])?.status.code(), Some(130));
    let running = format!("{id}.2");
    assert!(world.informer(&["cancel", &running])?.status.success());
    world.wait_state(&running, &["cancelled"])?;
    world.touch("go")?;
    assert_eq!(world.informer(&["wait", &id])?.status.code(), Some(1));
    let shown = world.task(&id)?;
    assert_eq!((count(&shown, "succeeded"), count(&shown, "failed"), count(&shown, "cancelled")), (1, 3, 2));
    assert!(!world.lines("notes").iter().any(|line| line.starts_with("6 ")), "a cancelled member ran");

    // One alone, then all that did not succeed.
    let one = format!("{id}.2");
    assert!(world.informer(&["retry", &one])?.status.success());
    world.wait_state(&one, &["succeeded"])?;
    world.wait_state(&id, &["failed"])?;
    let before = world.lines("notes").len();
    assert!(world.informer(&["retry", &id])?.status.success());
    wait_for("all that was left has run again", || (world.lines("notes").len() == before + 4).then_some(()))?;
    assert_eq!(world.informer(&["wait", &id])?.status.code(), Some(1));
    let mut again: Vec<String> = world.lines("notes")[before..].iter().map(|line| line[..1].to_owned()).collect();
    again.sort();
    assert_eq!(again, ["1", "3", "5", "6"], "only what had failed or was cancelled");
    let shown = world.task(&id)?;
    assert_eq!((count(&shown, "succeeded"), count(&shown, "failed"), count(&shown, "cancelled")), (3, 3, 0));
    Ok(())
}

#[test]
fn ctrl_c_cancels_an_array_that_is_run_and_is_told_from_a_failure() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let run = ["run", "--name", "watched", "--array", "1-3", "--", "sleep", "1000000"];
    let mut run = Watched::new(world.informer_started(&run)?)?;
    let id = wait_for("a member runs", || {
        let listed = world.json(&["list", "--name", "watched", "--json"]).ok()?;
        let id = listed[0]["id"].as_str()?.to_owned();
        members(&world, &id).ok()?.values().any(|state| state == "running").then_some(id)
    })?;
    tests::world::signal(run.pid(), rustix::process::Signal::INT);
    assert_eq!(run.wait()?.code(), Some(130));
    let task = world.task(&id)?;
    assert_eq!((&task["state"], count(&task, "cancelled")), (&"cancelled".into(), 3), "{task}");
    Ok(())
}

#[test]
fn a_cancelled_array_ends_whole() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let id = world.submit(&["--array", "1-50", "--", "sleep", "1000000"])?;
    wait_for("two members run", || (count(&world.task(&id).ok()?, "running") == 2).then_some(()))?;
    assert!(world.informer(&["cancel", &id, "--reason", "not wanted"])?.status.success());
    assert_eq!(world.informer(&["wait", &id])?.status.code(), Some(1));
    let shown = world.task(&id)?;
    assert_eq!(
        (shown["state"].as_str(), count(&shown, "cancelled"), count(&shown, "running")),
        (Some("cancelled"), 50, 0)
    );
    assert!(members(&world, &id)?.values().all(|state| state == "cancelled"));
    let again = world.informer(&["cancel", &id])?;
    assert!(again.status.code().is_some_and(|code| code < 2), "{}", stderr(&again));
    Ok(())
}

#[test]
fn too_many_failures_cancel_the_rest() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let args = ["--tries", "1", "--max-failures", "1", "--array", "1-500", "--", "sh", "-c", "exit 3"];
    let id = world.submit(&args)?;
    let waited = world.informer(&["wait", &id])?;
    assert_eq!(waited.status.code(), Some(1));
    let shown = world.task(&id)?;
    let (failed, cancelled) = (count(&shown, "failed"), count(&shown, "cancelled"));
    // Two are over the bound; what ran beside them may end as it likes.
    assert!((2..=3).contains(&failed) && failed + cancelled == 500, "{shown}");
    assert_eq!((shown["state"].as_str(), shown["reason"].as_str()), (Some("failed"), Some("max_failures")));
    let text = stdout(&world.informer(&["show", &id])?);
    assert!(text.contains("first failures") && text.contains("exit code 3"), "{text}");
    Ok(())
}

#[test]
fn a_key_names_one_array() -> Result<()> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    let file = world.dir().join("lines");
    std::fs::write(&file, "a\nb\n")?;
    let path = file.to_str().context("UTF-8")?.to_owned();
    let by_lines = ["--key", "lines", "--each-line", &path, "--", "true"];
    let by_range = ["--key", "range", "--array", "1-3", "--", "true"];
    let (lines, range) = (world.submit(&by_lines)?, world.submit(&by_range)?);
    assert_eq!((world.submit(&by_lines)?, world.submit(&by_range)?), (lines.clone(), range.clone()));
    world.kill_informer();
    world.start_informer(&[])?;
    assert_eq!((world.submit(&by_lines)?, world.submit(&by_range)?), (lines, range));
    std::fs::write(&file, "a\nc\n")?;
    for other in [
        &by_lines[..],
        &["--key", "range", "--array", "1-4", "--", "true"],
        &["--key", "range", "--array", "1-3", "--", "false"],
        &["--key", "range", "--", "true"],
    ] {
        let refused = world.informer(&[&["submit"], other].concat())?;
        assert!(refused.status.code() == Some(1) && refused.stdout.is_empty(), "{other:?}");
        assert!(stderr(&refused).contains("[key_conflict]"), "{}", stderr(&refused));
    }
    assert_eq!(world.json(&["list", "--json"])?.as_array().map(Vec::len), Some(2));
    Ok(())
}

#[test]
fn an_informer_killed_in_the_middle_loses_no_member() -> Result<()> {
    let mut world = World::with_sidecars(2)?;
    let file = world.dir().join("lines");
    let items: Vec<String> = (1..=60).map(|n| format!("item {n}")).collect();
    std::fs::write(&file, items.join("\n"))?;
    let script = format!("{}; {}", held(&world, "go"), noting(&world, "true"));
    let id = world.submit(&["--each-line", file.to_str().context("UTF-8")?, "--", "sh", "-c", &script])?;
    let mut waiting = Watched::new(world.informer_started(&["wait", "--verbose", &id])?)?;
    // Who is not linked when the informer goes is told that it cannot be reached.
    waiting.wait_word()?;
    world.touch("go")?;
    for seen in [5, 25, 45] {
        wait_for("some members have run", || (world.lines("notes").len() >= seen).then_some(()))?;
        world.kill_informer();
        world.start_informer(&[])?;
    }
    assert_eq!(waiting.wait()?.code(), Some(0), "{}", world.log("informer.log"));
    let notes = world.lines("notes");
    let mut ran: BTreeMap<&str, &str> = BTreeMap::new();
    for note in &notes {
        let (member, item) = note.split_once(" item ").context("a member with its item")?;
        assert_eq!(member.split_once(' ').map(|(index, _)| index), Some(item), "the item of another");
        ensure!(ran.insert(member, item).is_none(), "an attempt ran twice: {note}");
    }
    for index in 1..=60 {
        let told = world.task(&format!("{id}.{index}"))?;
        let attempts = told["attempts"].as_array().context("attempts")?.len();
        let noted = ran.keys().filter(|member| member.starts_with(&format!("{index} "))).count();
        assert!(told["state"] == "succeeded" && (1..=attempts).contains(&noted), "{noted} of {told}");
    }
    Ok(())
}

#[test]
fn an_informer_killed_during_an_upload_stores_the_array_once() -> Result<()> {
    let mut world = World::empty()?;
    // The first commit that takes members in is the last thing this informer does.
    world.start_informer(&[("INFORMER_FAILPOINT", "after-commit")])?;
    let file = world.dir().join("lines");
    let items: Vec<String> =
        (1..=20_000).map(|n| format!("a rather long item that fills chunks quickly, {n}")).collect();
    std::fs::write(&file, items.join("\n"))?;
    let path = file.to_str().context("UTF-8")?;
    let mut submit =
        Watched::new(world.informer_started(&["submit", "--key", "up", "--each-line", path, "--", "true"])?)?;
    world.wait_informer_gone()?;
    world.start_informer(&[])?;
    assert_eq!(submit.wait()?.code(), Some(0), "the client outlives the restart");
    let id = String::from_utf8(submit.stdout.clone())?.trim().to_owned();
    assert_eq!(count(&world.task(&id)?, "count"), 20_000);
    for index in [1, 9_999, 20_000] {
        assert_eq!(world.task(&format!("{id}.{index}"))?["item"].as_str(), Some(items[index - 1].as_str()));
    }
    assert_eq!(world.json(&["list", "--json"])?.as_array().map(Vec::len), Some(1));
    Ok(())
}

#[test]
fn an_upload_that_breaks_off_leaves_nothing() -> Result<()> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    let fifo = world.dir().join("fifo");
    ensure!(std::process::Command::new("mkfifo").arg(&fifo).status()?.success(), "no fifo");
    let path = fifo.to_str().context("UTF-8")?.to_owned();
    let submit = world.informer_started(&["submit", "--key", "half", "--each-line", &path, "--", "true"])?;
    // Opening for writing waits for the reader.
    let mut half = std::fs::File::options().write(true).open(&fifo)?;
    for n in 0..5_000 {
        std::io::Write::write_all(&mut half, format!("a line that will never be of any use, {n}\n").as_bytes())?;
    }
    let mut submit = Watched::new(submit)?;
    tests::world::kill(submit.pid());
    submit.wait()?;
    drop(half);
    assert_eq!(world.json(&["list", "--json"])?.as_array().map(Vec::len), Some(0));
    // Its key is still free.
    let id = world.submit(&["--key", "half", "--array", "1-2", "--", "true"])?;
    assert_eq!(count(&world.task(&id)?, "count"), 2);
    Ok(())
}

#[test]
fn an_array_of_very_many_stays_usable() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    let id = world.submit(&["--array", &format!("1-{MANY}"), "--", "true"])?;
    wait_for("some have run", || (count(&world.task(&id).ok()?, "succeeded") >= 20).then_some(()))?;
    assert_eq!(world.json(&["list", "--json"])?.as_array().map(Vec::len), Some(1));
    let page = world.json(&["list", "--array", &id, "--limit", "30", "--json"])?;
    assert_eq!(page.as_array().map(Vec::len), Some(30));
    let last = world.task(&format!("{id}.{MANY}"))?;
    assert!(last["state"] == "ready" && last["attempts"].as_array().is_some_and(Vec::is_empty), "{last}");
    assert!(world.informer(&["cancel", &id])?.status.success());
    let ended = world.wait_state(&id, &["cancelled"])?;
    let (succeeded, cancelled) = (count(&ended, "succeeded"), count(&ended, "cancelled"));
    assert!(succeeded >= 20 && succeeded + cancelled == u64::from(MANY), "{ended}");
    let some = world.json(&["list", "--array", &id, "--state", "cancelled", "--limit", "5", "--json"])?;
    assert_eq!(some.as_array().map(Vec::len), Some(5));
    world.kill_informer();
    world.start_informer(&[])?;
    let again = world.task(&id)?;
    assert_eq!((count(&again, "succeeded"), count(&again, "cancelled")), (succeeded, cancelled));
    Ok(())
}

#[test]
fn each_member_has_files_of_its_own() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let dir = world.dir().join("files");
    std::fs::create_dir(&dir)?;
    for index in 1..=3 {
        std::fs::write(dir.join(format!("{index}.in")), "x".repeat(index))?;
    }
    let dir = dir.display();
    let (source, place) = (format!("{dir}/{{index}}.in=in"), format!("sum={dir}/{{index}}.out"));
    let line = "wc -c < in > $TASK_OUTPUTS/sum";
    let array = ["submit", "--array", "1-3", "--in", &source, "--out"];
    let refused = world.informer(&[&array[..], &[&format!("sum={dir}/all"), "--", "sh", "-c", line]].concat())?;
    ensure!(refused.status.code() == Some(2) && stderr(&refused).contains("{index}"), "{}", stderr(&refused));
    let id = world.submit(&[&array[1..], &[&place, "--", "sh", "-c", line]].concat())?;
    world.wait_state(&id, &["succeeded"])?;
    for index in 1..=3 {
        let sum = std::fs::read_to_string(format!("{dir}/{index}.out"))?;
        assert_eq!(sum.trim(), index.to_string());
    }
    Ok(())
}
