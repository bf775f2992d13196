//! Children of running tasks on real processes: a shell script emits them, over deaths of every part; none is lost or doubled.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::world::{World, wait_for};

/// A task of ours: a shell script, and its definition.
fn shell(name: &str, script: &str, retries: u32) -> Value {
    let task = json!({"command": {"argv": ["sh", "-c", script]}, "resources": {"cpu_millis": 100}});
    let definition =
        json!({"name": name, "retryCount": retries, "retryDelaySeconds": 0, "timeoutSeconds": 0, "task": task});
    json!({"name": name, "taskReferenceName": name, "taskDefinition": definition})
}

/// `cut` runs a script and emits pieces, each of which says that it runs and tells its number; their join hands them on in order.
fn streaming(world: &World, cut: &str) -> Value {
    let dir = world.dir().display();
    let sidecar = format!("PATH={}:$PATH; cd {dir}", tests::world::builds::own().display());
    let piece = format!(
        r#"{sidecar}; n=$(printf %s "$TASK_INPUT" | sed 's/.*"n":\([0-9]*\).*/\1/'); echo ran >> piece-$n; printf '{{"piece":%s}}' "$n" > "$TASK_RESULT""#
    );
    let mut cut = shell("cut", &format!("{sidecar}; {cut}"), 1);
    cut["emits"] = json!([shell("piece", &piece, 0)]);
    let join = json!({"name": "join", "taskReferenceName": "join", "type": "JOIN", "joinOn": ["cut"]});
    let mut merge = shell("merge", r#"printf '{"merged":%s}' "$TASK_INPUT" > "$TASK_RESULT""#, 0);
    merge["inputParameters"] = json!({"parts": "${join.output.children}"});
    json!({"name": "stream", "tasks": [cut, join, merge], "outputParameters": {"parts": "${merge.output.merged.parts}"}})
}

fn put(world: &World, definition: &Value) -> Result<String> {
    let file = world.dir().join("definitions.json");
    std::fs::write(&file, definition.to_string())?;
    Ok(file.to_str().context("a path")?.to_owned())
}

fn told(world: &World, words: &[&str]) -> Result<Value> {
    let out = world.informer(words)?;
    let text = String::from_utf8(out.stdout)?;
    ensure!(out.status.success(), "{words:?}: {} {text}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_str(&text).with_context(|| format!("{words:?} printed {text:?}"))
}

fn start(world: &World, definition: &Value) -> Result<String> {
    let file = put(world, definition)?;
    told(world, &["workflow", "put", "--json", &file])?;
    let run = told(world, &["workflow", "start", "stream", "--key", "once", "--json"])?;
    Ok(run["id"].as_str().context("an id")?.to_owned())
}

/// The run has ended well, each of its pieces ran once, and they were merged in this order.
fn check_merged(world: &World, id: &str, pieces: &[u32]) -> Result<Value> {
    let run = told(world, &["workflow", "wait", id, "--json"])?;
    let expected: Vec<Value> = pieces.iter().map(|n| json!({"key": format!("k{n}"), "output": {"piece": n}})).collect();
    ensure!(run["status"] == "COMPLETED" && run["output"]["parts"] == json!(expected), "{run}");
    let run = told(world, &["workflow", "get", id, "--json"])?;
    let tasks = run["tasks"].as_array().context("tasks")?;
    let count = tasks.iter().filter(|task| task["name"] == "piece").count();
    ensure!(count == pieces.len(), "{count} pieces: {run}");
    for n in pieces {
        ensure!(
            world.lines(&format!("piece-{n}")) == ["ran"],
            "piece {n} ran {:?}",
            world.lines(&format!("piece-{n}"))
        );
    }
    Ok(run)
}

/// A script's part that emits pieces.
fn emit(pieces: impl IntoIterator<Item = u32>) -> String {
    let lines = pieces.into_iter().map(|n| format!("sidecar emit --key k{n} --input '{{\"n\":{n}}}' || exit 1; "));
    lines.collect()
}

/// Until the test says `name`, which it does after the script has said `at-name`.
fn gate(name: &str) -> String {
    format!("touch at-{name}; until test -e {name}; do sleep 0.02; done; ")
}

#[test]
fn pieces_run_while_the_script_still_cuts_and_deaths_of_all_parts_change_nothing() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    let cut = format!("{}{}{}{}", emit([1, 2]), gate("go"), emit([3, 2]), gate("end"));
    let id = start(&world, &streaming(&world, &cut))?;
    // The first piece is done while its parent runs; it waits for nobody's join.
    wait_for("a piece has run", || (world.lines("piece-1") == ["ran"]).then_some(()))?;
    world.wait_file("at-go")?;
    world.kill_informer();
    world.kill_agent(0);
    world.kill_keeper(0)?;
    world.touch("go")?;
    world.start_informer(&[])?;
    world.start_sidecar(0, &[], &[])?;
    world.wait_file("at-end")?;
    world.kill_informer();
    world.start_informer(&[])?;
    world.touch("end")?;
    check_merged(&world, &id, &[1, 2, 3])?;
    Ok(())
}

#[test]
fn a_seal_lets_the_merge_begin_while_the_script_runs_on() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let cut = format!(
        "{}sidecar emit --seal || exit 1; sidecar emit --key k2 --input '{{\"n\":2}}' 2> refused; {}",
        emit([1]),
        gate("end")
    );
    let id = start(&world, &streaming(&world, &cut))?;
    wait_for("the merge is over", || {
        let run = told(&world, &["workflow", "get", &id, "--json"]).ok()?;
        let merge = run["tasks"].as_array()?.iter().find(|task| task["name"] == "merge")?;
        (merge["status"] == "COMPLETED").then_some(())
    })?;
    world.wait_file("at-end")?;
    ensure!(world.lines("refused").iter().any(|line| line.contains("is sealed")), "{:?}", world.lines("refused"));
    let run = told(&world, &["workflow", "get", &id, "--json"])?;
    assert_eq!(run["status"], "RUNNING", "its script runs on: {run}");
    world.touch("end")?;
    check_merged(&world, &id, &[1])?;
    Ok(())
}

#[test]
fn a_script_that_is_killed_after_an_emit_finds_its_pieces_at_the_next_try() -> Result<()> {
    let world = World::with_sidecars(1)?;
    // The first try dies with an emit under way, acknowledged or not; the second emits the same, and more.
    let first = format!("{}sidecar emit --key k2 --input '{{\"n\":2}}' & kill -9 $$", emit([1]));
    let second = format!("{}exit 0", emit([1, 2, 3]));
    let other = "sidecar emit --key k1 --input '{\"n\":9}' 2> other && exit 1; ";
    let cut = format!("if mkdir tried; then {first}; else {other}{second}; fi");
    let id = start(&world, &streaming(&world, &cut))?;
    let run = check_merged(&world, &id, &[1, 2, 3])?;
    let tries = run["tasks"].as_array().context("tasks")?.iter().filter(|task| task["name"] == "cut").count();
    assert_eq!(tries, 2, "{run}");
    ensure!(world.lines("other").iter().any(|line| line.contains("another payload")), "{:?}", world.lines("other"));
    Ok(())
}

#[test]
fn a_terminated_run_takes_the_children_along() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let dir = world.dir().display();
    let mut definition = streaming(&world, &format!("{}{}", emit([1]), gate("never")));
    let piece = format!("touch {dir}/begun; while :; do sleep 1; done");
    definition["tasks"][0]["emits"][0]["taskDefinition"]["task"]["command"]["argv"][2] = json!(piece);
    let id = start(&world, &definition)?;
    world.wait_file("begun")?;
    told(&world, &["workflow", "terminate", &id, "--reason", "enough", "--json"])?;
    let run = told(&world, &["workflow", "get", &id, "--json"])?;
    let states: Vec<_> = run["tasks"].as_array().context("tasks")?.iter().map(|task| &task["status"]).collect();
    assert_eq!(states, ["CANCELED", "CANCELED"], "{run}");
    let live = || {
        let tasks = world.json(&["list", "--json"]).ok()?;
        let list = tasks.as_array().or_else(|| tasks["tasks"].as_array())?.clone();
        list.iter().all(|task| task["state"] == "cancelled").then_some(list.len())
    };
    assert_eq!(wait_for("both tasks end", live)?, 2);
    Ok(())
}

/// A task of no workflow: its children are tasks by themselves, of a registered task definition.
fn put_piece(world: &World) -> Result<()> {
    let mut definition = streaming(world, "")["tasks"][0]["emits"][0]["taskDefinition"].clone();
    definition["retryCount"] = json!(0);
    let file = put(world, &json!({"taskDefs": [definition]}))?;
    told(world, &["workflow", "put", "--json", &file])?;
    Ok(())
}

/// The same as `emit`, by name.
fn emit_alone(world: &World, pieces: impl IntoIterator<Item = u32>) -> String {
    let path = format!("PATH={}:$PATH; cd {}; ", tests::world::builds::own().display(), world.dir().display());
    path + &emit(pieces).replace("sidecar emit", "sidecar emit --name piece")
}

#[test]
fn children_of_a_task_of_no_workflow_are_tasks_that_know_their_parent() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    put_piece(&world)?;
    let first = emit_alone(&world, [1, 2]);
    let other = "sidecar emit --name piece --key k1 --input '{\"n\":9}' 2> other; ";
    let script =
        format!("{first}{}{}{other}sidecar emit --seal; {}", gate("go"), emit_alone(&world, [1, 3]), gate("end"));
    let id = world.submit(&["--owner", "ops", "--cpu", "100", "--", "sh", "-c", &script])?;
    world.wait_file("at-go")?;
    world.kill_informer();
    world.start_informer(&[])?;
    world.touch("go")?;
    world.wait_file("at-end")?;
    let counted = || {
        let task = world.task(&id).ok()?;
        (task["children"]["live"] == 0).then_some(task)
    };
    let task = wait_for("its children are over", counted)?;
    let counts = json!({"emitted": 3, "live": 0, "succeeded": 3, "failed": 0, "cancelled": 0});
    assert_eq!((&task["state"], &task["children"]), (&json!("running"), &counts), "{task}");
    let label = format!("informer.parent={id}");
    let listed = world.json(&["list", "--label", &label, "--json"])?;
    let listed = listed.as_array().or_else(|| listed["tasks"].as_array()).context("a list")?.clone();
    let mut keys: Vec<_> = listed.iter().map(|task| task["child_key"].as_str().unwrap_or_default()).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["k1", "k2", "k3"]);
    ensure!(listed.iter().all(|task| task["parent"] == id.as_str() && task["owner"] == "ops"), "{listed:?}");
    for n in 1..=3 {
        assert_eq!(world.lines(&format!("piece-{n}")), ["ran"], "piece {n}");
    }
    ensure!(world.lines("other").iter().any(|line| line.contains("another payload")), "{:?}", world.lines("other"));
    world.touch("end")?;
    world.wait_state(&id, &["succeeded"])?;
    Ok(())
}

#[test]
fn who_cancels_a_task_cancels_what_it_emitted() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let task =
        json!({"command": {"argv": ["sh", "-c", "while :; do sleep 1; done"]}, "resources": {"cpu_millis": 100}});
    let file = put(&world, &json!({"taskDefs": [{"name": "piece", "task": task}]}))?;
    told(&world, &["workflow", "put", "--json", &file])?;
    let script = format!("{}{}", emit_alone(&world, [1, 2]), gate("never"));
    let id = world.submit(&["--cpu", "100", "--", "sh", "-c", &script])?;
    world.wait_file("at-never")?;
    world.informer(&["cancel", &id])?;
    let task = world.wait_state(&id, &["cancelled"])?;
    let counted = || (world.task(&id).ok()?["children"]["cancelled"] == 2).then_some(());
    wait_for("its children are cancelled", counted).with_context(|| task.to_string())?;
    Ok(())
}

#[cfg(feature = "faults")]
mod faults {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;
    use tests::world::lives::{INFORMER_POINTS, Lives};

    fn whole() -> String {
        format!("{}sidecar emit --seal || exit 1", emit(1..=5))
    }

    /// Registration, start, emits, seal, ends and join: the informer dies at this point of each.
    fn informer_dies_at(point: &str) -> Result<()> {
        let mut lives = Lives::begin(point)?;
        let file = put(&lives.world, &streaming(&lives.world, &whole()))?;
        let version: Value = serde_json::from_slice(&lives.insist(&["workflow", "put", "--json", &file])?)?;
        let again: Value = serde_json::from_slice(&lives.insist(&["workflow", "put", "--json", &file])?)?;
        assert_eq!(version["version"], again["version"], "{point}: it is registered once: {version} {again}");
        let words = ["workflow", "start", "stream", "--key", "once", "--json"];
        let run: Value = serde_json::from_slice(&lives.insist(&words)?)?;
        let id = run["id"].as_str().context("an id")?.to_owned();
        wait_for(&format!("{point}: the run ends"), || {
            let told = lives.run(&["workflow", "get", &id, "--json"]).ok()?;
            let run: Value = serde_json::from_slice(&told.stdout).ok()?;
            (run["status"] != "RUNNING" && run["status"].is_string()).then_some(())
        })?;
        ensure!(lives.deaths > 0, "{point} was never passed");
        let mut world = lives.world;
        // A last life without an end: what is looked at below is what is on the disk.
        world.kill_informer();
        world.start_informer(&[])?;
        assert_eq!(told(&world, &words)?["id"], id.as_str(), "{point}: it was started once");
        let runs = told(&world, &["workflow", "search", "--name", "stream", "--json"])?;
        assert_eq!(runs.as_array().map(Vec::len), Some(1), "{point}: {runs}");
        check_merged(&world, &id, &[1, 2, 3, 4, 5]).context(point.to_owned())?;
        Ok(())
    }

    /// The same of a task of no workflow.
    #[test]
    fn the_informer_dies_at_every_boundary_while_a_task_emits_and_each_key_has_one_task() -> Result<()> {
        for point in INFORMER_POINTS {
            let mut lives = Lives::begin(point)?;
            let definition = streaming(&lives.world, "")["tasks"][0]["emits"][0]["taskDefinition"].clone();
            let file = put(&lives.world, &json!({"taskDefs": [definition]}))?;
            lives.insist(&["workflow", "put", "--json", &file])?;
            let script = format!("{}touch emitted", emit_alone(&lives.world, 1..=5));
            let submit = ["submit", "--key", "once", "--cpu", "100", "--tries", "1", "--", "sh", "-c", &script];
            let id = String::from_utf8(lives.insist(&submit)?)?.trim().to_owned();
            wait_for(&format!("{point}: parent and children end"), || {
                let told = lives.run(&["show", &id, "--json"]).ok()?;
                let task: Value = serde_json::from_slice(&told.stdout).ok()?;
                (task["state"] == "succeeded" && task["children"]["live"] == 0).then_some(())
            })?;
            ensure!(lives.deaths > 0, "{point} was never passed");
            let mut world = lives.world;
            world.kill_informer();
            world.start_informer(&[])?;
            let task = world.task(&id)?;
            let counts = json!({"emitted": 5, "live": 0, "succeeded": 5, "failed": 0, "cancelled": 0});
            assert_eq!(task["children"], counts, "{point}: {task}");
            for n in 1..=5 {
                assert_eq!(world.lines(&format!("piece-{n}")), ["ran"], "{point}: piece {n}");
            }
        }
        Ok(())
    }

    #[test]
    fn the_informer_dies_at_every_boundary_of_a_streaming_run_and_no_child_is_lost_or_doubled() -> Result<()> {
        INFORMER_POINTS.into_iter().try_for_each(informer_dies_at)
    }

    /// Of an emit stored and not sent, of one answered and not told, and of the parent's end.
    #[test]
    fn an_agent_dies_around_emit_seal_and_end_and_no_child_is_lost_or_doubled() -> Result<()> {
        for point in ["after-emit-ledger", "before-emit-answer", "after-end", "after-end-ledger", "after-report"] {
            let mut world = World::empty()?;
            world.start_informer(&[])?;
            world.start_sidecar(0, &[], &[("SIDECAR_FAILPOINT", point)])?;
            world.wait_linked(1)?;
            let id = start(&world, &streaming(&world, &whole()))?;
            let status = world.wait_agent_gone(0).context(point)?;
            assert_eq!(status.signal(), Some(9), "{point}: {status}");
            world.start_sidecar(0, &[], &[])?;
            check_merged(&world, &id, &[1, 2, 3, 4, 5]).context(point)?;
        }
        Ok(())
    }
}
