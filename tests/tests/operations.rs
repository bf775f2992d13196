//! What an operator does all day: drains, bulk changes, lists, questions and retention, by the command line.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::Output;
use tests::world::life::Watched;
use tests::world::{World, wait_for};

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The id under which the sidecar with this label is known.
fn labelled(world: &World, place: &str) -> Result<String> {
    let sidecars = world.json(&["sidecars", "--json"])?;
    let found = sidecars.as_array().and_then(|all| all.iter().find(|sidecar| sidecar["labels"]["place"] == place));
    Ok(found.and_then(|sidecar| sidecar["id"].as_str()).context("no such sidecar")?.to_owned())
}

/// An informer and two sidecars of one slot each, told apart by a label; their ids.
fn left_and_right() -> Result<(World, String, String)> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    for (n, label) in ["place=left", "place=right"].into_iter().enumerate() {
        world.start_sidecar(n, &["--slots", "1", "--cpu", "1000", "--label", label], &[])?;
    }
    world.wait_linked(2)?;
    let (left, right) = (labelled(&world, "left")?, labelled(&world, "right")?);
    Ok((world, left, right))
}

/// The sidecar of the task's last attempt.
fn place(task: &Value) -> &str {
    let last = task["attempts"].as_array().and_then(|attempts| attempts.last());
    last.and_then(|attempt| attempt["sidecar"].as_str()).unwrap_or_default()
}

fn state_of(world: &World, sidecar: &str) -> Option<String> {
    let all = world.json(&["sidecars", "--all", "--json"]).ok()?;
    let found = all.as_array()?.iter().find(|one| one["id"] == sidecar)?;
    found["state"].as_str().map(str::to_owned)
}

/// The ids that a list shows.
fn listed(world: &World, filters: &[&str]) -> Result<BTreeSet<String>> {
    let list = world.json(&[&["list", "--json"], filters].concat())?;
    let ids = list.as_array().context("a list")?.iter().filter_map(|task| task["id"].as_str());
    Ok(ids.map(str::to_owned).collect())
}

fn set(ids: &[&String]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).clone()).collect()
}

/// A shell command that waits until the test makes a file.
fn held(world: &World, file: &str) -> String {
    format!("until [ -e {}/{file} ]; do sleep 0.05; done", world.dir().display())
}

/// Summary and details of `why`, in one text.
fn why(world: &World, id: &str) -> Result<String> {
    let output = world.informer(&["why", id])?;
    ensure!(output.status.success(), "why: {}", stderr(&output));
    Ok(stdout(&output))
}

/// Waits until `why` says this.
fn wait_why(world: &World, id: &str, wanted: &str) -> Result<()> {
    let mut last = String::new();
    let seen = wait_for(&format!("why says {wanted:?}"), || {
        last = why(world, id).ok()?;
        last.contains(wanted).then_some(())
    });
    seen.with_context(|| format!("it said {last:?}"))
}

#[test]
fn a_drained_sidecar_finishes_what_it_has_and_takes_nothing() -> Result<()> {
    let (mut world, left, right) = left_and_right()?;
    let running = world.submit(&["--require", "place=left", "--", "sh", "-c", &held(&world, "go")])?;
    world.wait_state(&running, &["running"])?;
    assert!(world.informer(&["drain", &left])?.status.success());
    assert_eq!(state_of(&world, &left).as_deref(), Some("draining"));
    for _ in 0..3 {
        let id = world.submit(&["--", "true"])?;
        assert_eq!(world.informer(&["wait", &id])?.status.code(), Some(0));
        assert_eq!(place(&world.task(&id)?), right, "a draining sidecar was given work");
    }
    let bound = world.submit(&["--require", "place=left", "--", "true"])?;
    wait_why(&world, &bound, "is draining")?;

    // It drains on although both have forgotten it meanwhile.
    world.kill_informer();
    world.start_informer(&[])?;
    world.kill_agent(0);
    world.start_sidecar(0, &["--slots", "1", "--cpu", "1000", "--label", "place=left"], &[])?;
    wait_for("it drains again", || (state_of(&world, &left)? == "draining").then_some(()))?;
    let mut emptied = Watched::new(world.informer_started(&["drain", &left, "--wait"])?)?;
    assert_eq!(world.task(&running)?["state"], "running");
    assert!(emptied.runs());
    world.touch("go")?;
    assert_eq!(emptied.wait()?.code(), Some(0));
    assert_eq!(world.task(&running)?["attempts"].as_array().map(Vec::len), Some(1));
    assert_eq!(world.wait_state(&running, &["succeeded"])?["exit_code"], 0);

    assert!(world.informer(&["undrain", &left])?.status.success());
    assert_eq!(world.informer(&["wait", &bound])?.status.code(), Some(0));
    assert_eq!(state_of(&world, &left).as_deref(), Some("live"));
    Ok(())
}

#[test]
fn a_stopped_sidecar_hands_its_work_over() -> Result<()> {
    let (world, left, right) = left_and_right()?;
    let blocker = world.submit(&["--require", "place=right", "--", "sh", "-c", &held(&world, "go")])?;
    world.wait_state(&blocker, &["running"])?;
    let moved = world.submit(&["--tries", "1", "--", "sleep", "1000000"])?;
    assert_eq!(place(&world.wait_state(&moved, &["running"])?), left);
    assert!(world.informer(&["drain", &left, "--stop", "--wait"])?.status.success());
    world.touch("go")?;
    let again = wait_for("it runs elsewhere", || {
        let task = world.task(&moved).ok()?;
        (task["state"] == "running" && place(&task) == right).then_some(task)
    })?;
    // A drain is nothing the task did: one try is enough for it.
    let attempts = again["attempts"].as_array().context("attempts")?;
    assert_eq!((attempts.len(), attempts[0]["reason"].as_str()), (2, Some("drained")), "{again}");
    let history = world.history(&moved)?;
    assert!(
        history.iter().any(|(kind, _)| kind == "moved") && history.iter().all(|(kind, _)| kind != "retry"),
        "{history:?}"
    );
    Ok(())
}

#[test]
fn a_lost_sidecar_is_not_called_empty() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    let id = world.submit(&["--name", "left", "--", "sleep", "1000000"])?;
    let sidecar = place(&world.wait_state(&id, &["running"])?).to_owned();
    // Its process and its keeper run on.
    world.kill_agent(0);
    wait_for("it is lost", || (state_of(&world, &sidecar)? == "lost").then_some(()))?;
    let output = world.informer(&["drain", &sidecar, "--wait"])?;
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("is lost, so what runs there is not known; 1 may: left (command, "), "{told}");
    assert!(
        stderr(&world.informer(&["drain", &sidecar])?).contains("is lost; the drain holds from when it comes back")
    );
    world.start_sidecar(0, &[], &[])?;
    wait_for("it is back", || (state_of(&world, &sidecar)? == "draining").then_some(()))?;
    assert_eq!(world.informer(&["drain", &sidecar, "--stop", "--wait"])?.status.code(), Some(0));
    Ok(())
}

#[test]
fn what_has_not_started_is_handed_back() -> Result<()> {
    let (world, left, right) = left_and_right()?;
    let running = world.submit(&["--require", "place=left", "--", "sh", "-c", &held(&world, "go")])?;
    world.wait_state(&running, &["running"])?;
    let drained = world.json(&["drain", &left, "--hand-back", "--json"])?;
    assert_eq!((drained["state"].as_str(), drained["drain"].as_str()), (Some("draining"), Some("hand_back")));
    let text = stdout(&world.informer(&["sidecars"])?);
    assert!(text.contains("draining (hand back)"), "{text}");
    let id = world.submit(&["--", "true"])?;
    assert_eq!(world.informer(&["wait", &id])?.status.code(), Some(0));
    assert_eq!(place(&world.task(&id)?), right);
    assert_eq!(world.task(&running)?["state"], "running", "what runs is finished");
    world.touch("go")?;
    assert_eq!(world.informer(&["wait", &running])?.status.code(), Some(0));
    let unknown = world.informer(&["drain", "nobody"])?;
    assert!(unknown.status.code() == Some(1) && stderr(&unknown).contains("informer sidecars --all"), "{unknown:?}");
    Ok(())
}

/// Submits a task that fails.
fn submit_false(world: &World, owner: &str, label: &str) -> Result<String> {
    world.submit(&["--owner", owner, "--label", label, "--tries", "1", "--", "false"])
}

/// How many a bulk verb matched, and to how many it was done.
fn counts(world: &World, args: &[&str]) -> Result<(Option<u64>, Option<u64>)> {
    let counts = world.json(&[args, &["--json"]].concat())?;
    Ok((counts["matched"].as_u64(), counts["done"].as_u64()))
}

#[test]
fn many_are_cancelled_and_retried_by_filter() -> Result<()> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    for _ in 0..3 {
        submit_false(&world, "ann", "film=a")?;
        submit_false(&world, "ben", "film=a")?;
    }
    let other = submit_false(&world, "ben", "film=b")?;
    assert_eq!(world.informer(&["cancel"])?.status.code(), Some(2), "nobody is named");
    assert_eq!(counts(&world, &["cancel", "--label", "film=a", "--owner", "ann", "--yes"])?, (Some(3), Some(3)));
    assert_eq!(listed(&world, &["--state", "cancelled"])?.len(), 3);
    assert_eq!(counts(&world, &["cancel", "--label", "film=none", "--yes"])?, (Some(0), Some(0)));
    let told = world.informer(&["cancel", "--state", "ready", "--owner", "ben", "--yes", "--reason", "too late"])?;
    assert!(told.status.success() && stdout(&told).contains("cancelled 4 of 4"), "{}", stdout(&told));
    assert_eq!(listed(&world, &["--state", "cancelled"])?.len(), 7);
    let history = stdout(&world.informer(&["history", &other])?);
    assert!(history.contains("too late"), "{history}");

    assert_eq!(counts(&world, &["retry", "--label", "film=a", "--yes"])?, (Some(6), Some(6)));
    assert_eq!(
        (listed(&world, &["--state", "ready"])?.len(), listed(&world, &["--state", "cancelled"])?.len()),
        (6, 1)
    );
    world.start_sidecar(0, &[], &[])?;
    wait_for("all have failed", || (listed(&world, &["--state", "failed"]).ok()?.len() == 6).then_some(()))?;
    assert_eq!(
        counts(&world, &["retry", "--owner", "ann", "--state", "failed", "--yes", "--key", "k"])?,
        (Some(3), Some(3))
    );
    for id in listed(&world, &["--owner", "ann"])? {
        world.wait_attempt(&id, 2, &["failed"])?;
        world.wait_state(&id, &["failed"])?;
    }
    assert_eq!(counts(&world, &["cancel", "--all", "--yes"])?, (Some(0), Some(0)), "nothing is left to be cancelled");
    Ok(())
}

/// A task for each kind of filter: succeeded on the left, failed on the right, running on the right, waiting, and a ready array.
fn populated(world: &World) -> Result<[String; 5]> {
    let submit = |options: &str, work: &[&str]| {
        let options: Vec<&str> = options.split_whitespace().collect();
        world.submit(&[&options[..], work].concat())
    };
    let done = "--name cut-1 --owner ann --label film=a --label kind=draft --require place=left";
    let done = submit(done, &["--", "true"])?;
    world.wait_state(&done, &["succeeded"])?;
    let bad = "--name cut-2 --owner ann --label film=b --tries 1 --require place=right";
    let bad = submit(bad, &["--", "sh", "-c", "exit 5"])?;
    world.wait_state(&bad, &["failed"])?;
    let script = world.dir().join("hello.sh");
    std::fs::write(&script, "sleep 1000000\n")?;
    let runs = "--name glue --owner ben --label film=a --priority -3 --require place=right";
    let runs = submit(runs, &["--script", &script.to_string_lossy()])?;
    world.wait_state(&runs, &["running"])?;
    let later = submit("--name cut --owner ben --delay 1h", &["--", "true"])?;
    let array = submit("--name many --owner ann --require place=nowhere --array 1-4", &["--", "true"])?;
    Ok([done, bad, runs, later, array])
}

#[test]
fn lists_are_filtered_on_everything() -> Result<()> {
    let (world, left, _) = left_and_right()?;
    let [done, bad, runs, later, array] = populated(&world)?;
    let all = set(&[&done, &bad, &runs, &later, &array]);
    assert_eq!(listed(&world, &[])?, all);
    for (filters, expected) in [
        (&["--owner", "ann"][..], vec![&done, &bad, &array]),
        (&["--owner", "nobody"], vec![]),
        (&["--name", "cut"], vec![&later]),
        (&["--name-prefix", "cut"], vec![&done, &bad, &later]),
        (&["--label", "film=a"], vec![&done, &runs]),
        (&["--label", "film=a", "--label", "kind=draft"], vec![&done]),
        (&["--label", "film=c"], vec![]),
        (&["--state", "succeeded"], vec![&done]),
        (&["--state", "failed", "--state", "running"], vec![&bad, &runs]),
        (&["--state", "waiting"], vec![&later]),
        (&["--state", "ready"], vec![&array]),
        (&["--kind", "script"], vec![&runs]),
        (&["--kind", "command", "--owner", "ben"], vec![&later]),
        (&["--kind", "container"], vec![]),
        (&["--priority", "-3"], vec![&runs]),
        (&["--sidecar", &left], vec![&done]),
        (&["--sidecar", &left[..8]], vec![&done]),
        (&["--reason", "exit_code", "--state", "failed"], vec![&bad]),
        (&["--since", "1h"], vec![&done, &bad, &runs, &later, &array]),
        (&["--until", "1h"], vec![]),
        (&["--since", "2020-01-01", "--until", "2020-02-01"], vec![]),
    ] {
        assert_eq!(listed(&world, filters)?, set(&expected), "{filters:?}");
    }
    let members = listed(&world, &["--array", &array, "--state", "ready"])?;
    assert_eq!(members, (1..=4).map(|n| format!("{array}.{n}")).collect());
    assert_eq!(listed(&world, &["--array", &array, "--state", "running"])?.len(), 0);
    let newest = world.json(&["list", "--limit", "2", "--json"])?;
    let newest: Vec<_> = newest.as_array().into_iter().flatten().filter_map(|task| task["id"].as_str()).collect();
    assert_eq!(newest, [array.as_str(), later.as_str()]);
    let more = world.informer(&["list", "--limit", "2", "--verbose"])?;
    assert!(stderr(&more).contains("there are more"), "{}", stderr(&more));
    for wrong in [&["--state", "sleeping"][..], &["--label", "novalue"], &["--since", "soon"], &["--sidecar", "nobody"]]
    {
        let output = world.informer(&[&["list"], wrong].concat())?;
        assert!(!output.status.success() && output.stdout.is_empty() && !output.stderr.is_empty(), "{wrong:?}");
    }
    Ok(())
}

#[test]
fn a_watched_list_tells_each_change() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    let ended = world.submit(&["--label", "w=1", "--", "true"])?;
    world.wait_state(&ended, &["succeeded"])?;
    let old = world.submit(&["--label", "w=1", "--", "sh", "-c", &held(&world, "old")])?;
    world.wait_state(&old, &["running"])?;
    let mut watch = Watched::new(world.informer_started(&["list", "--watch", "--json", "--label", "w=1"])?)?;
    // What runs or waits comes first, and nothing of what is over; then the watch is open.
    watch.wait_bytes(old.len())?;
    world.touch("old")?;
    world.submit(&["--", "true"])?;
    let id = world.submit(&["--label", "w=1", "--", "sh", "-c", &held(&world, "go")])?;
    world.wait_state(&id, &["running"])?;
    world.kill_informer();
    world.start_informer(&[])?;
    world.touch("go")?;
    world.wait_state(&id, &["succeeded"])?;
    let mut lines: Vec<Value> = Vec::new();
    let told_end = |lines: &[Value]| lines.iter().any(|task| task["id"] == *id && task["state"] == "succeeded");
    while !told_end(&lines) {
        watch.wait_bytes(watch.stdout.len() + 1)?;
        let text = String::from_utf8_lossy(&watch.stdout).into_owned();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        lines = whole.lines().map(serde_json::from_str).collect::<Result<_, _>>().context("an object a line")?;
    }
    assert!(watch.runs());
    let ids: BTreeSet<&str> = lines.iter().filter_map(|task| task["id"].as_str()).collect();
    assert_eq!(ids, BTreeSet::from([old.as_str(), id.as_str()]), "what the filter leaves out is not told");
    assert_eq!(lines[0]["id"], *old);
    let states: Vec<&str> =
        lines.iter().filter(|task| task["id"] == *id).filter_map(|task| task["state"].as_str()).collect();
    assert!(states.contains(&"running") && states.last() == Some(&"succeeded"), "{states:?}");
    Ok(())
}

#[test]
fn why_has_an_answer_for_what_waits_by_itself() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let later = world.submit(&["--delay", "1h", "--", "true"])?;
    assert!(why(&world, &later)?.contains("it waits for its start time, in "));
    let file = world.dir().join("slow.toml");
    std::fs::write(
        &file,
        "[command]\nargv = [\"sh\", \"-c\", \"exit 6\"]\n[retry]\nbackoff = \"1h\"\nbackoff_cap = \"1h\"\n",
    )?;
    let failed = world.submit(&["-f", &file.to_string_lossy()])?;
    world.wait_state(&failed, &["waiting"])?;
    let text = why(&world, &failed)?;
    assert!(
        text.contains("it is tried again in ")
            && text.contains("exit code 6")
            && text.contains("1 failures of its own"),
        "{text}"
    );
    let running = world.submit(&["--", "sleep", "1000000"])?;
    world.wait_state(&running, &["running"])?;
    assert!(why(&world, &running)?.contains("it runs on sidecar "));
    let done = world.submit(&["--", "true"])?;
    world.wait_state(&done, &["succeeded"])?;
    assert!(why(&world, &done)?.contains("succeeded"));
    let unknown = world.informer(&["why", "01a1fe20-cbd1-769d-a8af-d0067be5cf3c"])?;
    assert!(unknown.status.code() == Some(1) && stderr(&unknown).contains("[unknown_task]"), "{}", stderr(&unknown));
    let untyped = world.informer(&["submit", "--type", "unheard-of", "--input", "{}"])?;
    assert!(untyped.status.code() == Some(1) && stderr(&untyped).contains("[unknown_type]"), "{}", stderr(&untyped));
    Ok(())
}

#[test]
fn why_has_an_answer_for_what_waits_for_a_sidecar() -> Result<()> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    let first = world.submit(&["--", "sh", "-c", &held(&world, "go")])?;
    assert!(why(&world, &first)?.contains("no sidecar is linked"));
    world.start_sidecar(0, &["--slots", "1", "--cpu", "1000"], &[])?;
    world.wait_state(&first, &["running"])?;

    let low = world.submit(&["--", "true"])?;
    wait_why(&world, &low, "no task is before it")?;
    let high = world.submit(&["--priority", "5", "--", "true"])?;
    let text = why(&world, &low)?;
    assert!(text.contains("waits for a sidecar with room; 1 task is before it"), "{text}");
    assert!(why(&world, &high)?.contains("no task is before it"));
    let text = why(&world, &high)?;
    assert!(text.contains("has no free slot") || text.contains("millicpu free"), "{text}");

    let label = world.submit(&["--require", "gpu=yes", "--", "true"])?;
    let text = why(&world, &label)?;
    assert!(text.contains("can ever take it") && text.contains("lacks the required label gpu=yes"), "{text}");
    let large = world.submit(&["--cpu", "64000", "--", "true"])?;
    let text = why(&world, &large)?;
    assert!(text.contains("can ever take it") && text.contains("64000 are asked for"), "{text}");
    assert!(world.informer(&["executor", "put", "inside", "--embedded"])?.status.success());
    let kind = world.submit(&["--type", "inside", "--input", "1"])?;
    assert!(why(&world, &kind)?.contains("cannot run tasks of kind type:inside"), "{}", why(&world, &kind)?);
    let array = world.submit(&["--array", "1-3", "--", "true"])?;
    let text = why(&world, &format!("{array}.2"))?;
    assert!(
        text.starts_with("it has not started; of its array: ") && text.contains("of 3 members 3 have not started"),
        "{text}"
    );

    let sidecars = world.json(&["sidecars", "--json"])?;
    let id = sidecars[0]["id"].as_str().context("an id")?;
    assert!(world.informer(&["drain", id])?.status.success());
    wait_why(&world, &low, "is draining")?;
    assert!(world.informer(&["undrain", id])?.status.success());
    world.kill_box(0);
    wait_why(&world, &low, "no sidecar is linked")
}

#[test]
fn what_ended_long_ago_is_forgotten_whole() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    let old = world.submit(&["--key", "old", "--env", "MARK=old-payload", "--", "echo", "old output"])?;
    let old_array = world.submit(&[
        "--key",
        "old-array",
        "--array",
        "1-3",
        "--env",
        "MARK=old-array-payload",
        "--",
        "echo",
        "member",
    ])?;
    for id in [&old, &old_array] {
        assert_eq!(world.informer(&["wait", id])?.status.code(), Some(0));
    }
    let new = world.submit(&["--key", "new", "--env", "MARK=new-payload", "--", "echo", "new output"])?;
    let running = world.submit(&["--", "sleep", "1000000"])?;
    world.wait_state(&new, &["succeeded"])?;
    world.wait_state(&running, &["running"])?;
    // Out of reach of their sidecar, logs are the informer's own.
    world.kill_box(0);
    let stored =
        |world: &World, id: &str| stdout(&world.informer(&["logs", id]).unwrap_or_else(|error| panic!("{error}")));
    wait_for("logs are stored", || {
        (stored(&world, &old) == "old output\n" && stored(&world, &new) == "new output\n").then_some(())
    })?;

    // Two days go by for the old ones; no clock is at hand to be moved.
    world.terminate_informer()?;
    let file = world.dir().join("informer").join("informer.db");
    let db = rusqlite::Connection::open(&file)?;
    let aged = db.execute(
        "UPDATE tasks SET ended_ms = ended_ms - 172800000 WHERE id IN (?1, ?2)",
        [bytes(&old)?, bytes(&old_array)?],
    )?;
    assert_eq!(aged, 2);
    drop(db);
    let config = world.dir().join("informer.toml");
    std::fs::write(&config, "[retention]\nkeep_ended = \"1d\"\n")?;
    let config = config.to_string_lossy().into_owned();
    world.start_informer(&[("INFORMER_CONFIG", &config)])?;
    wait_for("the old are gone", || (listed(&world, &[]).ok()? == set(&[&new, &running])).then_some(()))?;
    for id in [&old, &old_array, &format!("{old_array}.2")] {
        for verb in ["show", "logs", "history"] {
            let output = world.informer(&[verb, id])?;
            assert!(output.status.code() == Some(1), "{verb} {id}: {}", stdout(&output));
        }
    }
    assert_eq!(stored(&world, &new), "new output\n");
    assert_eq!(world.submit(&["--key", "new", "--env", "MARK=new-payload", "--", "echo", "new output"])?, new);
    assert_ne!(world.submit(&["--key", "old", "--", "false"])?, old, "the key is free again");

    world.terminate_informer()?;
    let db = rusqlite::Connection::open(&file)?;
    let holds = |mark: &str| -> Result<bool> {
        let sql = "SELECT count(*) FROM payloads WHERE instr(body, CAST(?1 AS BLOB)) > 0";
        Ok(db.query_row(sql, [mark], |row| row.get::<_, i64>(0))? > 0)
    };
    assert!(holds("new-payload")? && !holds("old-payload")? && !holds("old-array-payload")?);
    for table in ["members", "history"] {
        let column = if table == "members" { "substr(id, 1, 16)" } else { "substr(task, 1, 16)" };
        let sql = format!("SELECT count(*) FROM {table} WHERE {column} IN (?1, ?2)");
        assert_eq!(db.query_row(&sql, [bytes(&old)?, bytes(&old_array)?], |row| row.get::<_, i64>(0))?, 0, "{table}");
    }
    Ok(())
}

/// A task's id as the store has it.
fn bytes(id: &str) -> Result<Vec<u8>> {
    Ok(u128::from_str_radix(&id.replace('-', ""), 16)?.to_be_bytes().to_vec())
}

#[test]
fn owners_share_by_weight() -> Result<()> {
    let mut world = World::empty()?;
    let config = world.dir().join("informer.toml");
    std::fs::write(&config, "[fair_share]\nann = 1000\n")?;
    let config = config.to_string_lossy().into_owned();
    world.start_informer(&[("INFORMER_CONFIG", &config)])?;
    let order = world.dir().join("order").display().to_string();
    for owner in ["ben", "ann"] {
        let note = format!("echo {owner} >> {order}");
        // All of the one come before the first of the other.
        for _ in 0..12 {
            world.submit(&["--owner", owner, "--name", "job", "--", "sh", "-c", &note])?;
        }
    }
    world.start_sidecar(0, &["--slots", "1", "--cpu", "1000"], &[])?;
    wait_for("all have run", || (world.lines("order").len() == 24).then_some(()))?;
    let ran = world.lines("order");
    // Shares count in time, and how long a task took is the machine's affair: a weight that no measure of it outweighs tells that weights
    // are heeded. One of ben's comes first, when nothing is known of how long any takes, and so may a second one before the last of ann's.
    let ann = ran.iter().take(14).filter(|owner| *owner == "ann").count();
    assert_eq!(ann, 12, "all of ann's before most of ben's: {ran:?}");
    Ok(())
}

#[test]
fn a_history_tells_the_whole_life() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    let once = format!("[ -e {0} ] || {{ touch {0}; exit 4; }}", world.dir().join("once").display());
    let id = world.submit(&["--", "sh", "-c", &once])?;
    assert_eq!(world.informer(&["wait", &id])?.status.code(), Some(0));
    let events = world.json(&["history", &id, "--json"])?;
    let kinds: Vec<&str> =
        events.as_array().context("a list")?.iter().filter_map(|event| event["kind"].as_str()).collect();
    assert_eq!(
        kinds,
        ["submitted", "assigned", "started", "ended", "retry", "assigned", "started", "ended", "succeeded"]
    );
    let text = stdout(&world.informer(&["history", &id])?);
    assert!(text.lines().count() == 10 && text.contains("exit code 4"), "{text}");
    world.kill_informer();
    world.start_informer(&[])?;
    assert_eq!(world.json(&["history", &id, "--json"])?, events);
    Ok(())
}

#[test]
fn a_task_is_named_by_the_beginning_of_its_id() -> Result<()> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    let (first, second) =
        (world.submit(&["--name", "one", "--", "true"])?, world.submit(&["--name", "two", "--", "true"])?);
    // The last digits are random: nearly all of an id names one task.
    let short = &first[..35];
    assert_eq!(world.task(short)?["id"], first.as_str());
    for verb in ["why", "history"] {
        assert!(world.informer(&[verb, short])?.status.success(), "{verb}");
    }
    // Both were submitted within a minute of each other, unless that minute just began: ids of one world share their first digits.
    if first[..8] == second[..8] {
        let several = world.informer(&["show", &first[..8]])?;
        assert_eq!(several.status.code(), Some(1));
        let told = stderr(&several);
        assert!(told.contains(&first) && told.contains(&second) && told.contains("write more"), "{told}");
    }
    assert!(world.informer(&["cancel", short])?.status.success());
    assert_eq!(world.task(&first)?["state"], "cancelled");
    let nobody = world.informer(&["show", "00000000-0000"])?;
    assert!(nobody.status.code() == Some(1) && stderr(&nobody).contains("no task's id begins"), "{}", stderr(&nobody));
    Ok(())
}

#[test]
fn what_waits_and_what_ended_is_told_on_stderr() -> Result<()> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    let key = ["submit", "--key", "k", "--tries", "1", "--", "sh", "-c", "exit 4"];
    let (first, again) = (world.informer(&key)?, world.informer(&key)?);
    assert_eq!(stdout(&first), stdout(&again));
    assert!(stderr(&first).is_empty() && stderr(&again).contains("already submitted"), "{}", stderr(&again));
    // Nobody can take it: `run` says so, and goes on when somebody can. The limit only ends a run that stays silent.
    let mut child = world.informer_started(&["run", "--queue-timeout", "60", "--", "true"])?;
    let mut told = BufReader::new(child.stderr.take().context("stderr is piped")?);
    let mut run = Watched::new(child)?;
    let mut line = String::new();
    told.read_line(&mut line)?;
    assert!(line.starts_with("waiting: it is ready, and no sidecar is linked"), "{line}");
    world.start_sidecar(0, &[], &[])?;
    assert_eq!(run.wait()?.code(), Some(0));
    let id = stdout(&first).trim().to_owned();
    let wait = world.informer(&["wait", &id])?;
    assert_eq!(wait.status.code(), Some(4));
    assert!(stderr(&wait).contains(&format!("task {id} failed: exit code 4")), "{}", stderr(&wait));
    let history = stdout(&world.informer(&["history", &id])?);
    assert!(history.contains("exit code 4") && !history.contains("exit code 4: exit code 4"), "{history}");
    let missing = world.informer(&["run", "--", "./not-there"])?;
    assert!(missing.status.code() == Some(125) && stderr(&missing).contains("looked for in"), "{}", stderr(&missing));
    Ok(())
}
