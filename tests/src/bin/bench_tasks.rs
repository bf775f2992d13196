//! How fast whole tasks run: durable submits, one sidecar, `/bin/true` each, against a bare spawn loop interleaved in the same run.
//!
//! `bench_tasks [TASKS] [ROUNDS] [SLOTS]`; `tests/bench/tasks.sh` gives it a journalled file system. Only the ratios mean anything.

use anyhow::{Context as _, Result, ensure};
use proto::v1::informer_client::InformerClient;
use proto::{bounds, v1};
use std::process::Command;
use std::time::{Duration, Instant};
use tests::world::World;
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: usize| arguments.next().map_or(Ok(default), |text| text.parse());
    let (tasks, rounds, slots) = (number(2000)?, number(5)?, number(4)?);
    let mut world = World::empty()?;
    world.beat = "5s";
    world.start_informer(&[("INFORMER_LOG", "warn")])?;
    let slots_text = slots.to_string();
    let cpu = (slots * 1000).to_string();
    world.start_sidecar(0, &["--slots", &slots_text, "--cpu", &cpu], &[("SIDECAR_LOG", "warn")])?;
    world.wait_linked(1)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let url = world.url().to_owned();
    let mut client = runtime.block_on(async {
        let channel = tonic::transport::Endpoint::from_shared(url)?.connect().await?;
        anyhow::Ok(InformerClient::new(channel).max_decoding_message_size(bounds::MESSAGE_BYTES))
    })?;
    runtime.block_on(run_tasks(&mut client, 200))?;
    println!("tasks/s    bare/s     share");
    let mut shares = Vec::new();
    for _ in 0..rounds {
        let bare = bare(tasks)?;
        let rate = runtime.block_on(run_tasks(&mut client, tasks))?;
        shares.push(rate / bare);
        println!("{rate:<10.0} {bare:<10.0} {:.1} %", 100.0 * rate / bare);
    }
    println!("median share of the bare loop: {:.1} %", 100.0 * median(&mut shares));
    let mut latencies = runtime.block_on(latencies(&mut client, 200))?;
    latencies.sort_by(f64::total_cmp);
    println!(
        "submit → process started, idle: p50 {:.2} ms, p99 {:.2} ms",
        latencies[latencies.len() / 2],
        latencies[latencies.len() * 99 / 100]
    );
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Starts per second of two threads that spawn and wait.
fn bare(starts: usize) -> Result<f64> {
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let spawn = || (0..starts / 2).try_for_each(|_| Command::new("/bin/true").status().map(drop));
        let threads = [scope.spawn(spawn), scope.spawn(spawn)];
        threads.into_iter().try_for_each(|thread| thread.join().expect("a spawn loop does not panic"))
    })?;
    Ok(starts as f64 / begin.elapsed().as_secs_f64())
}

fn task() -> v1::SubmitRequest {
    let command = v1::Command { argv: vec!["/bin/true".to_owned()] };
    let kind = Some(v1::task_spec::Kind::Command(command));
    v1::SubmitRequest { spec: Some(v1::TaskSpec { kind, ..Default::default() }), key: String::new() }
}

/// Tasks per second from the first submit to the last end.
async fn run_tasks(client: &mut InformerClient<Channel>, count: usize) -> Result<f64> {
    let mut ends = client.watch(v1::WatchRequest { ids: Vec::new() }).await?.into_inner();
    let begin = Instant::now();
    let answer = client.submit_batch(tokio_stream::iter(std::iter::repeat_with(task).take(count))).await?.into_inner();
    ensure!(answer.results.len() == count, "{} of {count} submits were answered", answer.results.len());
    let mut ended = 0;
    while ended < count {
        match tokio::time::timeout(Duration::from_secs(5), ends.next()).await {
            Ok(Some(Ok(task))) if task.ended_unix_ms > 0 => {
                ensure!(task.state() == v1::TaskState::Succeeded, "a task ended as {:?}", task.state());
                ended += 1;
            }
            Ok(Some(Ok(_))) => {}
            // The watch was too slow, or everything ended before it was heard: count what is left.
            Ok(Some(Err(_)) | None) | Err(_) => {
                wait_empty(client).await?;
                break;
            }
        }
    }
    Ok(count as f64 / begin.elapsed().as_secs_f64())
}

async fn wait_empty(client: &mut InformerClient<Channel>) -> Result<()> {
    use v1::TaskState as S;
    let states = [S::Waiting, S::Ready, S::Assigned, S::Running].map(i32::from).to_vec();
    loop {
        let request = v1::ListRequest { states: states.clone(), page_size: 1, ..Default::default() };
        if client.list(request).await?.into_inner().tasks.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Milliseconds from the call of one submit to the start of its process, with nothing else to do.
async fn latencies(client: &mut InformerClient<Channel>, count: usize) -> Result<Vec<f64>> {
    let mut all = Vec::new();
    for _ in 0..count {
        let begin = Instant::now();
        let id = client.submit(task()).await?.into_inner().id;
        let mut watch = client.watch(v1::WatchRequest { ids: vec![id] }).await?.into_inner();
        loop {
            let task = watch.next().await.context("the watch ended")??;
            let started = task.attempts.last().is_some_and(|attempt| attempt.started_unix_ms > 0);
            if started || task.ended_unix_ms > 0 {
                break;
            }
        }
        all.push(begin.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(all)
}
