//! What a task leaves for whoever comes after it: its result, the answer to a request, its children.

use anyhow::{Context as _, Result, ensure};
use proto::v1;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use tests::client;
use tests::world::{World, binary};

/// Runs a script in which `sidecar` is ours.
fn script(body: &str) -> Result<String> {
    let bin = binary("sidecar");
    let bin = bin.parent().and_then(|dir| dir.to_str()).context("binaries have a directory")?;
    Ok(format!("PATH={bin}:$PATH; {body}"))
}

fn run(world: &World, body: &str) -> Result<serde_json::Value> {
    let id = world.submit(&["--tries", "1", "--", "sh", "-c", &script(body)?])?;
    world.wait_state(&id, &["succeeded", "failed"])
}

#[test]
fn a_result_that_cannot_be_taken_is_no_success() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let good = run(&world, r#"test ! -e "$TASK_RESULT" && echo '{"n": 1}' > "$TASK_RESULT""#)?;
    assert_eq!(good["state"], "succeeded", "{good}");
    let cases = [
        (r#"echo '[1]' > "$TASK_RESULT""#, "no JSON object"),
        (r#"head -c 300000 /dev/zero | tr '\0' ' ' > "$TASK_RESULT""#, "262144 bytes"),
        (r#"ln -s /etc/hostname "$TASK_RESULT""#, "no regular file"),
    ];
    for (body, why) in cases {
        let task = run(&world, body)?;
        assert_eq!(
            (&task["state"], &task["reason"], &task["exit_code"]),
            (&"failed".into(), &"output".into(), &0.into())
        );
        ensure!(task["message"].as_str().is_some_and(|message| message.contains(why)), "{task}");
    }
    let failed = run(&world, r#"echo no > "$TASK_RESULT"; exit 3"#)?;
    assert_eq!((&failed["reason"], &failed["exit_code"]), (&"exit_code".into(), &3.into()), "{failed}");
    Ok(())
}

/// Answers so many requests on a free port of loopback, each with what its path says.
fn server(requests: usize) -> Result<(String, std::thread::JoinHandle<Result<()>>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    let serving = std::thread::spawn(move || {
        for _ in 0..requests {
            let (mut stream, _) = listener.accept()?;
            let mut request = [0; 4096];
            let length = stream.read(&mut request)?;
            let status = if request[..length].starts_with(b"GET /gone ") { "404 Not Found" } else { "200 OK" };
            write!(stream, "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}")?;
        }
        Ok(())
    });
    Ok((url, serving))
}

#[test]
fn a_request_is_a_task() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let (url, serving) = server(2)?;
    let runtime = client::runtime()?;
    let submit = |input: String| -> Result<String> {
        let kind = Some(v1::task_spec::Kind::Http(v1::Http { input }));
        let retry = Some(v1::Retry { max_attempts: 1, ..Default::default() });
        let spec = v1::TaskSpec { kind, retry, ..Default::default() };
        runtime.block_on(async {
            let mut api = client::connect(world.url()).await?;
            Ok(api.submit(client::request(spec)).await?.into_inner().id)
        })
    };
    let good = submit(format!(r#"{{"http_request":{{"uri":"{url}/here"}}}}"#))?;
    let good = world.wait_state(&good, &["succeeded", "failed"])?;
    assert_eq!((&good["state"], &good["kind"]), (&"succeeded".into(), &"http".into()), "{good}");
    let gone = submit(format!(r#"{{"http_request":{{"uri":"{url}/gone"}}}}"#))?;
    let gone = world.wait_state(&gone, &["succeeded", "failed"])?;
    assert_eq!((&gone["state"], &gone["exit_code"]), (&"failed".into(), &22.into()), "{gone}");
    ensure!(gone["message"].as_str().is_some_and(|message| message.contains("answered 404 Not Found")), "{gone}");
    serving.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
    Ok(())
}

/// Emits one child and writes down how that went.
fn emitting(world: &World) -> String {
    let dir = world.dir().display();
    format!(
        r#"sidecar emit --key a --input '{{"n":1}}' 2> {dir}/said; echo $? > {dir}/code.part; mv {dir}/code.part {dir}/code"#
    )
}

/// What a child of a task of no workflow is, only its parent can say, and its script is told so.
fn check_refused(world: &World) -> Result<()> {
    world.wait_file("code")?;
    let said = world.lines("said");
    assert_eq!(world.lines("code"), ["1"], "{said:?}");
    ensure!(said.iter().any(|line| line.contains("needs the name of its task")), "{said:?}");
    Ok(())
}

#[test]
fn a_task_of_no_workflow_names_its_children() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let task = run(&world, &emitting(&world))?;
    assert_eq!(task["state"], "succeeded", "{task}");
    check_refused(&world)
}

#[cfg(feature = "faults")]
mod faults {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;

    /// Emits that the sidecar keeps because they are not answered.
    fn kept(world: &World) -> Result<u32> {
        let ledger = rusqlite::Connection::open(world.sidecars[0].data.join("ledger.db"))?;
        Ok(ledger.query_row("SELECT COUNT(*) FROM emits", [], |row| row.get(0))?)
    }

    /// Stored and not sent; and answered, which neither the ledger nor the task knows.
    #[test]
    fn an_agent_dies_around_an_emit_and_its_task_is_answered_all_the_same() -> Result<()> {
        for point in ["after-emit-ledger", "before-emit-answer"] {
            let mut world = World::empty()?;
            world.start_informer(&[])?;
            world.start_sidecar(0, &[], &[("SIDECAR_FAILPOINT", point)])?;
            world.wait_linked(1)?;
            let id = world.submit(&["--tries", "1", "--", "sh", "-c", &script(&emitting(&world))?])?;
            let status = world.wait_agent_gone(0).context(point)?;
            assert_eq!(status.signal(), Some(9), "{point}: {status}");
            assert_eq!(kept(&world)?, 1, "{point}: it was stored before it was sent");
            world.start_sidecar(0, &[], &[])?;
            check_refused(&world).context(point)?;
            let task = world.wait_state(&id, &["succeeded", "failed"])?;
            assert_eq!(task["state"], "succeeded", "{point}: {task}");
            // The end was told after the answer to the emit, and the answer's deletion was committed before the end could be.
            assert_eq!(kept(&world)?, 0, "{point}");
        }
        Ok(())
    }
}
