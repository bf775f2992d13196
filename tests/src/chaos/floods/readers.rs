//! Clients that do not read what they asked for, and connections that say nothing.

use super::{Scene, retry_hint, size};
use crate::chaos::{Case, Family, Outcome, Round};
use crate::client;
use crate::logical::Fleet;
use crate::world::wait_for;
use anyhow::{Context as _, Result, ensure};
use proto::{bounds, v1};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;
use tonic::Streaming;

/// Bytes of the log: more than windows and sockets of one reader hold, and far less than all of them would.
const LOG_BYTES: usize = 24 << 20;
/// What a reader may cost, kB: six chunks of 64 KiB in the queues between its sidecar and it, the windows of both connections, and the
/// buffers that messages are read into.
const READER_KB: u64 = 1024;

/// As many readers of one log as may be, none of whom reads.
pub static LOGS: Case = Case {
    fault: "clients that never read their log stream",
    how: "256 readers of a running task's log take one piece each and no more",
    family: Family::Floods,
    needs: &[],
    run: logs,
};

fn logs(round: &mut Round) -> Result<Outcome> {
    let mut scene = Scene::new(round, 1, "1s", bounds::LOG_READERS as u64 * READER_KB)?;
    let go = scene.world.dir().join("go");
    let script = format!("head -c {LOG_BYTES} /dev/zero; while [ ! -e {} ]; do sleep 0.05; done", go.display());
    let id = scene.world.submit(&["--", "sh", "-c", &script])?;
    scene.world.wait_state(&id, &["running"])?;
    let url = scene.world.url().to_owned();
    let follow = v1::LogsRequest { id: id.clone(), follow: true, ..Default::default() };
    let (readers, refused) = scene.runtime.block_on(stalled(&url, &follow))?;
    // All places are taken by those who do not read; one that leaves makes room for one that does.
    scene.serve()?;
    let mut readers = readers;
    drop(readers.pop());
    let whole = |scene: &Scene| -> Option<()> {
        let output = scene.world.informer(&["logs", &id]).ok()?;
        (output.stdout.len() == LOG_BYTES).then_some(())
    };
    wait_for("the log is read by one who reads", || whole(&scene))?;
    drop(readers.pop());
    scene.serve_work()?;
    scene.world.touch("go")?;
    let task = scene.world.wait_state(&id, &["succeeded", "failed"])?;
    let mut outcome = scene.outcome(&format!(
        "{} readers stood still, one more was refused ({refused}); another read all {} MiB",
        bounds::LOG_READERS,
        LOG_BYTES >> 20
    ))?;
    if task["state"] != "succeeded" {
        outcome.violations.push(format!("the task ended as {}", task["state"]));
    }
    Ok(outcome)
}

/// All the readers that may be, each after its first piece; and what the next one is told.
async fn stalled(url: &str, follow: &v1::LogsRequest) -> Result<(Vec<Streaming<v1::LogsChunk>>, String)> {
    let mut readers = Vec::new();
    loop {
        // Each on a connection of its own: on a shared one the first that stands still would hold the others' window.
        let mut api = client::connect(url).await?;
        let opened = async {
            let mut stream = api.logs(follow.clone()).await?.into_inner();
            let first = stream.message().await?;
            Ok::<_, tonic::Status>((stream, first))
        };
        match opened.await {
            Ok((stream, first)) => {
                ensure!(first.is_some(), "the log ended at once");
                readers.push(stream);
                ensure!(readers.len() <= bounds::LOG_READERS, "{} readers and none refused", readers.len());
            }
            Err(status) => {
                let hint = retry_hint(&status)?;
                ensure!(readers.len() == bounds::LOG_READERS, "refused after {} readers: {status}", readers.len());
                return Ok((readers, format!("to come again after {} ms", hint.as_millis())));
            }
        }
    }
}

/// Watchers, and rounds of changes that they do not read, in the ordinary and in the long run.
const WATCHERS: (usize, usize) = (40, 200);
const CHANGE_ROUNDS: (usize, usize) = (3, 12);
/// What a watcher may cost, kB: it keeps the last row that it told of each of its tasks, and 64 that wait to be told.
const WATCHER_KB: u64 = 3 << 10;

/// Watchers of many tasks that change all the time, none of whom reads.
pub static CHANGES: Case = Case {
    fault: "clients that never read their watch",
    how: "watchers of 1,000 tasks that run again and again; one of them reads",
    family: Family::Floods,
    needs: &[],
    run: changes,
};

fn changes(round: &mut Round) -> Result<Outcome> {
    let (watchers, rounds) = (size(round, WATCHERS.0, WATCHERS.1), size(round, CHANGE_ROUNDS.0, CHANGE_ROUNDS.1));
    let mut scene = Scene::new(round, 0, "5s", watchers as u64 * WATCHER_KB)?;
    let mut fleet = scene.runtime.block_on(Fleet::link(scene.world.url(), 4, 64))?;
    let url = scene.world.url().to_owned();
    let mut api = scene.api.clone();
    let tasks = bounds::WATCH_IDS;
    scene.runtime.block_on(client::submit_all(&mut api, tasks, |_| client::idle_spec("watched")))?;
    let list = v1::ListRequest { name: "watched".to_owned(), page_size: bounds::PAGE, ..Default::default() };
    let page = scene.runtime.block_on(api.list(list))?.into_inner();
    let ids: Vec<String> = page.tasks.into_iter().map(|task| task.id).collect();
    ensure!(ids.len() == tasks, "{} tasks are listed", ids.len());
    let watch = v1::WatchRequest { ids: ids.clone() };
    let mut still = Vec::new();
    for _ in 0..watchers {
        let opened = async {
            let mut stream = client::connect(&url).await?.watch(watch.clone()).await?.into_inner();
            ensure!(stream.message().await?.is_some(), "the watch ended at once");
            Ok(stream)
        };
        still.push(scene.runtime.block_on(opened)?);
    }
    fleet.open(true);
    for n in 1..=rounds {
        scene.runtime.block_on(ends(&url, &watch))?;
        scene.serve()?;
        if n < rounds {
            for id in &ids {
                let again = v1::RetryRequest { id: id.clone(), ..Default::default() };
                scene.runtime.block_on(api.retry(again))?;
            }
        }
    }
    scene.runtime.block_on(fleet.wait_ended((tasks * rounds) as u64))?;
    let mut outcome = scene.outcome(&format!(
        "{watchers} watchers stood still through {rounds} rounds of {tasks} tasks; one read every end"
    ))?;
    drop(still);
    outcome.lost = scene.lost(&ids, Some(v1::TaskState::Succeeded))?;
    Ok(outcome)
}

/// Reads a watch to its end, which is the end of all its tasks.
async fn ends(url: &str, watch: &v1::WatchRequest) -> Result<()> {
    let mut stream = client::connect(url).await?.watch(watch.clone()).await?.into_inner();
    let mut ended = std::collections::BTreeSet::new();
    while let Some(task) = stream.message().await? {
        use v1::TaskState as S;
        if matches!(task.state(), S::Succeeded | S::Failed | S::Cancelled) {
            ended.insert(task.id);
        }
    }
    ensure!(ended.len() == watch.ids.len(), "{} of {} ends were told", ended.len(), watch.ids.len());
    Ok(())
}

/// Connections, in the ordinary and in the long run.
const CONNECTIONS: (usize, usize) = (1_000, 8_000);
/// What one may cost before it has said what it is, kB.
const CONNECTION_KB: u64 = 16;
/// What they say: nothing, a part of what HTTP/2 begins with, a part of a request, a whole preface and no frame.
const WORDS: [&[u8]; 4] =
    [b"", b"PRI * HT", b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-slow: ", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"];
/// An HTTP/2 connection that says nothing after its preface is a patient one, and pinged: only these are ended for their silence.
const ENDED: usize = 3;
/// No informer waits longer for a request than this.
const PATIENCE: Duration = Duration::from_secs(60);

/// Connections on which nothing is said, or nothing whole.
pub static SILENCE: Case = Case {
    fault: "connections that say nothing",
    how: "a thousand of them (long run: 8,000), a quarter each silent or stopped within a preface, a header, after a preface",
    family: Family::Floods,
    needs: &[],
    run: silence,
};

fn silence(round: &mut Round) -> Result<Outcome> {
    let connections = size(round, CONNECTIONS.0, CONNECTIONS.1);
    let mut scene = Scene::new(round, 1, "1s", connections as u64 * CONNECTION_KB)?;
    let address = scene.world.url().split_once("://").context("a URL")?.1.to_owned();
    let mut open = Vec::new();
    for n in 0..connections {
        let mut stream = TcpStream::connect(&address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(WORDS[n % WORDS.len()])?;
        open.push(stream);
    }
    scene.serve()?;
    scene.serve_work()?;
    let outcome = scene.outcome(&format!("{connections} connections"))?;
    for (n, mut stream) in open.into_iter().enumerate() {
        if n % WORDS.len() >= ENDED {
            continue;
        }
        // Told or not, it ends.
        match stream.read_to_end(&mut Vec::new()) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => {
                return Err(error).with_context(|| format!("{:?} is still waited for", WORDS[n % WORDS.len()]));
            }
        }
    }
    scene.serve()?;
    Ok(Outcome { happened: format!("{}; all that said nothing whole were ended", outcome.happened), ..outcome })
}
