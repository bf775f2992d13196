//! Runs of workflows on real processes: system tasks and shell commands, through the command line, over deaths of the informer.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::world::{World, wait_for};

/// A task of ours: a shell script, and its definition.
fn shell(name: &str, script: &str, input: &Value) -> Value {
    let task = json!({"command": {"argv": ["sh", "-c", script]}, "resources": {"cpu_millis": 100}});
    let definition = json!({"name": name, "retryCount": 0, "timeoutSeconds": 0, "task": task});
    json!({"name": name, "taskReferenceName": name, "inputParameters": input, "taskDefinition": definition})
}

fn sub(name: &str, input: &Value) -> Value {
    json!({"name": name, "taskReferenceName": name, "type": "SUB_WORKFLOW", "inputParameters": input,
        "subWorkflowParam": {"name": "child"}})
}

/// Everything that needs nothing but us: a switch, a fork and its join, a loop, a sub-workflow, a variable, and an end.
fn everything() -> Value {
    let gate = r#"gate=$(printf %s "$TASK_INPUT" | sed 's/.*"gate":"\([^"]*\)".*/\1/'); touch "$gate.in"; until test -e "$gate"; do sleep 0.05; done"#;
    let switch = json!({"name": "choice", "taskReferenceName": "choice", "type": "SWITCH", "evaluatorType": "value-param",
        "expression": "on", "inputParameters": {"on": "${workflow.input.way}"},
        "decisionCases": {"left": [{"name": "set", "taskReferenceName": "set", "type": "SET_VARIABLE",
            "inputParameters": {"way": "${workflow.input.way}"}}]},
        "defaultCase": [shell("never", "exit 1", &json!({}))]});
    let fork = json!({"name": "fork", "taskReferenceName": "fork", "type": "FORK_JOIN", "forkTasks": [
        [shell("gated", gate, &json!({"gate": "${workflow.input.gate}"}))],
        [shell("quick", "exit 0", &json!({}))],
        [sub("nested", &json!({"n": 3}))],
    ]});
    let join =
        json!({"name": "join", "taskReferenceName": "join", "type": "JOIN", "joinOn": ["gated", "quick", "nested"]});
    let looped = json!({"name": "loop", "taskReferenceName": "loop", "type": "DO_WHILE", "items": [1, 2, 3],
        "loopOver": [shell("each", "exit 0", &json!({"item": "${loop.output.loopItem}"}))]});
    let end = json!({"name": "end", "taskReferenceName": "end", "type": "TERMINATE", "inputParameters": {
        "terminationStatus": "COMPLETED", "workflowOutput": {
            "way": "${workflow.variables.way}", "code": "${gated.output.exitCode}",
            "rounds": "${loop.output.iteration}", "nested": "${nested.output.doubled}"}}});
    let child = json!({"name": "child", "tasks": [
        {"name": "double", "taskReferenceName": "double", "type": "SET_VARIABLE",
            "inputParameters": {"doubled": ["${workflow.input.n}", "${workflow.input.n}"]}},
    ], "outputParameters": {"doubled": "${workflow.variables.doubled}"}});
    let main = json!({"name": "everything", "tasks": [switch, fork, join, looped, end]});
    json!({"workflows": [child, main]})
}

/// What a verb prints, as JSON.
fn told(world: &World, words: &[&str]) -> Result<Value> {
    let out = world.informer(words)?;
    let text = String::from_utf8(out.stdout)?;
    ensure!(out.status.success(), "{words:?}: {} {text}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_str(&text).with_context(|| format!("{words:?} printed {text:?}"))
}

fn put(world: &World, definitions: &Value) -> Result<()> {
    let file = world.dir().join("definitions.json");
    std::fs::write(&file, definitions.to_string())?;
    told(world, &["workflow", "put", "--json", file.to_str().context("a path")?])?;
    Ok(())
}

#[test]
fn a_run_goes_through_everything_over_deaths_of_the_informer() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    put(&world, &everything())?;
    let gate = world.dir().join("gate");
    let input = json!({"way": "left", "gate": gate.to_str().context("a path")?}).to_string();
    let start = ["workflow", "start", "everything", "--input", &input, "--key", "once", "--json"];
    let id = told(&world, &start)?["id"].as_str().context("an id")?.to_owned();
    wait_for("the fork's shell has started", || world.dir().join("gate.in").exists().then_some(()))?;

    world.kill_informer();
    world.start_informer(&[])?;
    world.wait_linked(1)?;
    let again = told(&world, &start)?;
    assert_eq!(again, json!({"id": id, "existed": true}));
    let run = told(&world, &["workflow", "get", &id, "--json"])?;
    assert_eq!(run["status"], "RUNNING", "{run}");

    std::fs::write(&gate, "")?;
    let run = told(&world, &["workflow", "wait", &id, "--json"])?;
    assert_eq!(run["status"], "COMPLETED", "{run}");
    assert_eq!(run["output"], json!({"way": "left", "code": 0, "rounds": 3, "nested": [3, 3]}), "{run}");

    world.kill_informer();
    world.start_informer(&[])?;
    let run = told(&world, &["workflow", "get", &id, "--json"])?;
    let tasks = run["tasks"].as_array().context("tasks")?;
    let tried: Vec<_> = tasks.iter().filter(|task| task["retry_count"] != 0).collect();
    assert!(tried.is_empty(), "nothing was run twice: {tried:?}");
    let each: Vec<_> = tasks.iter().filter(|task| task["name"] == "each").map(|task| &task["input"]["item"]).collect();
    assert_eq!(each, [1, 2, 3]);
    let found = told(&world, &["workflow", "search", "--name", "everything", "--status", "completed", "--json"])?;
    assert_eq!(found[0]["id"], id.as_str(), "{found}");
    let history = told(&world, &["workflow", "history", &id, "--json"])?;
    assert_eq!((&history[0]["kind"], &history[1]["kind"]), (&json!("started"), &json!("completed")), "{history}");
    Ok(())
}

#[test]
fn a_run_is_paused_signalled_terminated_and_retried_by_hand() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let flag = world.dir().join("flag");
    let script = format!("test -e {} && test \"$TASK_INPUT\" = '{{}}'", flag.display());
    let human = json!({"name": "ask", "taskReferenceName": "ask", "type": "HUMAN"});
    put(&world, &json!({"name": "w", "tasks": [human, shell("work", &script, &json!({}))]}))?;
    let id = told(&world, &["workflow", "start", "w", "--json"])?["id"].as_str().context("an id")?.to_owned();
    assert_eq!(told(&world, &["workflow", "pause", &id, "--json"])?["status"], "PAUSED");
    told(&world, &["workflow", "signal", &id, "ask", "--output", "{\"by\":\"hand\"}", "--json"])?;
    let twice = told(&world, &["workflow", "signal", &id, "ask", "--json"])?;
    assert!(twice["ignored"].is_string(), "{twice}");
    let said = world.informer(&["workflow", "signal", &id, "ask"])?;
    assert!(String::from_utf8_lossy(&said.stderr).contains("nothing was changed"), "{said:?}");
    told(&world, &["workflow", "resume", &id, "--json"])?;
    let failed = world.informer(&["workflow", "wait", &id, "--json"])?;
    assert_eq!(failed.status.code(), Some(1));
    let failed: Value = serde_json::from_slice(&failed.stdout)?;
    assert_eq!((&failed["status"], &failed["failed_task"]), (&json!("FAILED"), &json!("work")), "{failed}");
    std::fs::write(&flag, "")?;
    told(&world, &["workflow", "retry", &id, "--json"])?;
    assert_eq!(told(&world, &["workflow", "wait", &id, "--json"])?["status"], "COMPLETED");
    let refused = world.informer(&["workflow", "terminate", "00000000-0000-7000-8000-000000000000"])?;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("[unknown_run]"), "{refused:?}");
    Ok(())
}

#[test]
fn a_run_is_looked_at_drawn_and_found_by_what_it_holds() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let human = json!({"name": "ask", "taskReferenceName": "ask", "type": "HUMAN"});
    put(&world, &json!({"name": "w", "tasks": [human]}))?;
    let start = |input: Value, key: &str| {
        let input = input.to_string();
        told(&world, &["workflow", "start", "w", "--input", &input, "--key", key, "--json"])
    };
    let id = start(json!({"film": {"name": "alpha"}}), "1")?["id"].as_str().context("an id")?.to_owned();
    let other = start(json!({"film": {"name": "beta"}}), "2")?["id"].as_str().context("an id")?.to_owned();
    let known = [
        "workflow",
        "start",
        "w",
        "--input",
        "{\"film\":{\"name\":\"alpha\"}}",
        "--key",
        "1",
        "--on-known-key",
        "fail",
    ];
    let refused = world.informer(&known)?;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("[key_conflict]"), "{refused:?}");

    let waits = |why: &Value| why["tasks"][0]["why"].as_str().is_some_and(|why| why.contains("somebody's word"));
    let why = wait_for("the question is asked", || {
        told(&world, &["workflow", "why", &id, "--json"]).ok().filter(|why| waits(why))
    })?;
    assert_eq!(why["tasks"][0]["reference"], "ask", "{why}");
    let picture = world.dir().join("run.svg");
    let drawn = world.informer(&["workflow", "chart", &id, "-o", picture.to_str().context("a path")?])?;
    ensure!(drawn.status.success(), "{drawn:?}");
    let picture = std::fs::read_to_string(&picture)?;
    ensure!(picture.starts_with("<svg") && picture.contains("IN_PROGRESS"), "{picture}");
    let plain = told(&world, &["workflow", "chart", "--definition", "w", "--json"])?;
    assert_eq!((&plain["nodes"][1]["reference"], plain.get("run")), (&json!("ask"), None), "{plain}");

    let found = |words: &[&str]| -> Result<Vec<Value>> {
        let runs = told(&world, &[&["workflow", "search", "--json"], words].concat())?;
        Ok(runs.as_array().context("a list")?.iter().map(|run| run["id"].clone()).collect())
    };
    assert_eq!(found(&["--input", "film.name=alpha"])?, [json!(id)]);
    assert_eq!(found(&["--text", "beta"])?, [json!(other)]);
    let ended = told(&world, &["workflow", "terminate", &id, "--reason", "the reel is lost", "--json"])?;
    assert_eq!(ended["status"], "TERMINATED", "{ended}");
    assert_eq!(found(&["--text", "the reel"])?, [json!(id)], "at once");
    let over = told(&world, &["workflow", "why", &id, "--json"])?;
    assert_eq!(over["summary"], "it is over: TERMINATED: the reel is lost");
    Ok(())
}
