//! Declared inputs: there before the process starts, what they were declared to be, and the task's own.
#![cfg(feature = "faults")]

use anyhow::{Context as _, Result, ensure};
use proto::v1;
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use tests::files::{Answer, Server, command, input, output, sh, sha256, submit};
use tests::world::secure::certify;
use tests::world::{World, wait_for};

const TOOL: &[u8] = b"#!/bin/sh\ntr a-z A-Z < \"$1\" > \"$TASK_OUTPUTS/$2\"\n";

fn serve(files: &[(&str, Answer)]) -> Result<Server> {
    Server::new(files.iter().map(|(path, answer)| ((*path).to_owned(), answer.clone())).collect::<BTreeMap<_, _>>())
}

fn over(world: &World, id: &str) -> Result<Value> {
    world.wait_state(id, &["succeeded", "failed", "cancelled"])
}

fn told(task: &Value) -> String {
    task["attempts"].to_string()
}

#[test]
fn a_tool_by_url_turns_an_input_into_an_output() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let server = serve(&[
        ("/v1/tool", Answer::Redirect("../files/tool?x=1".to_owned())),
        ("/v1/../files/tool?x=1", Answer::Bytes(TOOL.to_vec())),
    ])?;
    let data = world.dir().join("data.txt");
    let result = world.dir().join("result.txt");
    std::fs::write(&data, "words\n")?;
    let mut tool = input(&server.url("/v1/tool"), &sha256(TOOL)?, "bin/tool");
    tool.executable = true;
    let path = data.to_string_lossy();
    let spec = v1::TaskSpec {
        inputs: vec![tool.clone(), input(&path, &sha256(b"words\n")?, "")],
        outputs: vec![output("r", &result)],
        ..command(&["./bin/tool", "data.txt", "r"])
    };
    let task = over(&world, &submit(&world, spec.clone())?)?;
    assert_eq!(task["state"], "succeeded", "{task}");
    assert_eq!(std::fs::read_to_string(&result)?, "WORDS\n");
    // In another working directory, and with a tool that is in the cache by now.
    std::fs::remove_file(&result)?;
    let elsewhere = v1::TaskSpec { cwd: world.dir().to_string_lossy().into_owned(), ..spec };
    let task = over(&world, &submit(&world, elsewhere)?)?;
    assert_eq!(task["state"], "succeeded", "{task}");
    assert_eq!(std::fs::read_to_string(&result)?, "WORDS\n");
    assert_eq!(server.requests().len(), 2, "the tool and its redirect, once: {:?}", server.requests());
    Ok(())
}

#[test]
fn an_input_by_https_comes_from_a_server_whose_authority_is_trusted() -> Result<()> {
    let mut world = World::empty()?;
    let tls = world.dir().join("server");
    certify(&tls, &["--host", "127.0.0.1"])?;
    let content = vec![b'x'; 300_000];
    let server = Server::with_tls([("/f".to_owned(), Answer::Bytes(content.clone()))].into(), &tls)?;
    world.start_informer(&[])?;
    let authority = tls.join("ca.pem");
    let trusts = [("SSL_CERT_FILE", authority.to_str().context("UTF-8")?)];
    world.start_sidecar(0, &["--label", "trusts=yes"], &trusts)?;
    world.start_sidecar(1, &["--label", "trusts=no"], &[])?;
    world.wait_linked(2)?;
    let spec = |trusts: &str| -> Result<v1::TaskSpec> {
        Ok(v1::TaskSpec {
            inputs: vec![input(&server.url("/f"), &sha256(&content)?, "f")],
            require: [("trusts".to_owned(), trusts.to_owned())].into(),
            ..sh("[ $(wc -c < f) = 300000 ]")
        })
    };
    let task = over(&world, &submit(&world, spec("yes")?)?)?;
    assert_eq!(task["state"], "succeeded", "{task}");
    assert_eq!(server.requests(), ["/f"]);
    let task = over(&world, &submit(&world, spec("no")?)?)?;
    assert_eq!((&task["state"], &task["reason"]), (&"failed".into(), &"input".into()), "{task}");
    assert!(told(&task).contains("UnknownIssuer") && told(&task).contains(&server.url("/f")), "{task}");
    assert_eq!(server.requests().len(), 1, "nothing was asked of a server that is not trusted");
    Ok(())
}

#[test]
fn how_far_a_fetch_is_shows_while_it_is_under_way() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let server = serve(&[("/f", Answer::Held(b"content".to_vec()))])?;
    let inputs = vec![input(&server.url("/f"), &sha256(b"content")?, "f")];
    let id = submit(&world, v1::TaskSpec { inputs, ..sh("true") })?;
    for verb in ["show", "why"] {
        wait_for(&format!("{verb} tells of the fetch"), || {
            let output = world.informer(&[verb, &id]).ok()?;
            String::from_utf8_lossy(&output.stdout).contains("fetching inputs").then_some(())
        })?;
    }
    server.open();
    assert_eq!(over(&world, &id)?["state"], "succeeded");
    Ok(())
}

#[test]
fn a_task_cannot_change_the_original_or_the_cached_file() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let server = serve(&[("/f", Answer::Bytes(b"by url".to_vec()))])?;
    let original = world.dir().join("original");
    std::fs::write(&original, "by path")?;
    let spec = v1::TaskSpec {
        inputs: vec![
            input(&original.to_string_lossy(), "", "path"),
            input(&server.url("/f"), &sha256(b"by url")?.to_uppercase(), "deep/url"),
        ],
        ..sh(
            "[ \"$(cat path deep/url)\" = 'by pathby url' ] && echo more | tee -a path deep/url && chmod 777 path deep/url",
        )
    };
    for _ in 0..2 {
        let task = over(&world, &submit(&world, spec.clone())?)?;
        assert_eq!(task["state"], "succeeded", "{task}");
    }
    assert_eq!((std::fs::read_to_string(&original)?.as_str(), server.requests().len()), ("by path", 1));
    // Somebody else's hand in the cache is noticed, and the file is fetched again.
    let cached = world.sidecars[0].data.join("cache/sha256").join(sha256(b"by url")?);
    std::fs::write(&cached, "by hand")?;
    let task = over(&world, &submit(&world, spec)?)?;
    assert_eq!((&task["state"], server.requests().len()), (&"succeeded".into(), 2), "{task}");
    assert_eq!(std::fs::read_to_string(&cached)?, "by url");
    Ok(())
}

#[test]
fn what_cannot_be_had_ends_the_attempt_and_names_the_source() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let server = serve(&[("/f", Answer::Bytes(b"content".to_vec())), ("/loop", Answer::Redirect("/loop".to_owned()))])?;
    let file = world.dir().join("file");
    std::fs::write(&file, "x")?;
    let (file, dir) = (file.to_string_lossy().into_owned(), world.dir().to_string_lossy().into_owned());
    let other = sha256(b"other")?;
    let gone = format!("{dir}/gone");
    let cases = [
        (server.url("/f"), other.as_str(), "its SHA-256 is"),
        (server.url("/absent"), &other, "answered 404 Not Found"),
        (server.url("/loop"), &other, "more than 10 redirects"),
        ("http://127.0.0.1:1/f".to_owned(), &other, "no connection to 127.0.0.1:1"),
        (file, &other, "its SHA-256 is"),
        (gone, "", "cannot find"),
        (dir, "", "it is no regular file"),
    ];
    for (source, hash, why) in cases {
        let retry = Some(v1::Retry { max_attempts: 2, backoff_ms: 1, ..Default::default() });
        let spec = v1::TaskSpec { inputs: vec![input(&source, hash, "f")], retry, ..sh("true") };
        let task = over(&world, &submit(&world, spec)?)?;
        assert_eq!((&task["state"], &task["reason"]), (&"failed".into(), &"input".into()), "{task}");
        assert!(told(&task).contains(&format!("input {source}: ")) && told(&task).contains(why), "{why}: {task}");
        assert_eq!(task["attempts"].as_array().map(Vec::len), Some(2), "it is the task's own failure: {task}");
    }
    let left = std::fs::read_dir(world.sidecars[0].data.join("prepared"))?.flatten().map(|entry| entry.file_name());
    assert_eq!(left.collect::<Vec<_>>(), [".boot"]);
    Ok(())
}

#[test]
fn concurrent_attempts_share_one_fetch_and_nobody_else_waits() -> Result<()> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    world.start_sidecar(0, &["--slots", "8", "--cpu", "8000"], &[])?;
    world.wait_linked(1)?;
    // A sidecar that has started nothing yet is given one task, then two, then four.
    for _ in 0..3 {
        let id = submit(&world, sh("true"))?;
        assert_eq!(over(&world, &id)?["state"], "succeeded");
    }
    let server = serve(&[("/f", Answer::Held(b"content".to_vec()))])?;
    let hash = sha256(b"content")?;
    let spec = v1::TaskSpec { inputs: vec![input(&server.url("/f"), &hash, "f")], ..sh("grep -q content f") };
    let ids: Vec<String> = (0..4).map(|_| submit(&world, spec.clone())).collect::<Result<_>>()?;
    wait_for("the fetch has begun", || (!server.requests().is_empty()).then_some(()))?;
    let prepared = world.sidecars[0].data.join("prepared");
    wait_for("all of them are being prepared", || {
        (std::fs::read_dir(&prepared).ok()?.count() == ids.len() + 1).then_some(())
    })?;
    assert_eq!(server.requests().len(), 1, "one fetches, the others wait");
    // A task without inputs goes by, and one that waits for the fetch of another can be cancelled.
    let other = submit(&world, sh("true"))?;
    assert_eq!(over(&world, &other)?["state"], "succeeded");
    for cancelled in [&ids[0], &ids[3]] {
        ensure!(world.informer(&["cancel", cancelled])?.status.success());
        assert_eq!(over(&world, cancelled)?["state"], "cancelled");
    }
    server.open();
    for id in &ids[1..3] {
        let task = over(&world, id)?;
        assert_eq!(task["state"], "succeeded", "{task}");
    }
    // Whoever was cancelled while it fetched has handed over to one that waited.
    assert!(server.requests().len() <= 3, "{:?}", server.requests());
    Ok(())
}

#[test]
fn an_agent_dies_while_it_prepares_and_the_task_runs_once() -> Result<()> {
    for point in ["before-prepare", "after-prepare", "after-start-sent"] {
        let mut world = World::empty()?;
        world.start_informer(&[])?;
        world.start_sidecar(0, &[], &[("SIDECAR_FAILPOINT", point)])?;
        world.wait_linked(1)?;
        let server = serve(&[("/f", Answer::Bytes(b"content".to_vec()))])?;
        let runs = world.dir().join("runs");
        let inputs = vec![input(&server.url("/f"), &sha256(b"content")?, "f")];
        let id = submit(&world, v1::TaskSpec { inputs, ..sh(&format!("cat f >> {runs:?}")) })?;
        let status = world.wait_agent_gone(0).context(point)?;
        assert_eq!(status.signal(), Some(9), "{point}: {status}");
        world.start_sidecar(0, &[], &[])?;
        let task = over(&world, &id)?;
        assert_eq!((&task["state"], world.lines("runs").len()), (&"succeeded".into(), 1), "{point}: {task}");
        assert_eq!(task["attempts"].as_array().map(Vec::len), Some(1), "{point}: {task}");
    }
    Ok(())
}
