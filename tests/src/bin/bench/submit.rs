//! How fast submits become durable, with nobody there to run them.

use crate::client::{self, Api};
use crate::report::{median, percentile, range, table, whole};
use crate::{Size, ours, usage};
use anyhow::Result;
use proto::bounds;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Instant;
use tokio::task::JoinSet;

/// Unary calls under way at once, over so many connections.
const CALLERS: usize = 1024;
const CONNECTIONS: usize = 8;
/// Members of the array.
const MEMBERS: usize = 100_000;

pub(crate) fn run(dir: &Path, size: Size) -> Result<()> {
    let names =
        ["fdatasync of 4 KiB", "one caller", "1,024 unary callers", "client stream", "array", "array with items"];
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); names.len()];
    let mut times = rates.clone();
    let mut costs = rates.clone();
    let runtime = client::runtime()?;
    for round in 1..=size.rounds(5) {
        // A fresh one each time: what one round stored must not slow the next.
        let world = ours::informer()?;
        let informer = usage::Processes::of(&world)?.informer;
        let mut api = runtime.block_on(client::connect(world.url()))?;
        for (index, name) in names.iter().enumerate() {
            let before = usage::cpu(informer).own_us;
            let begin = Instant::now();
            let done = runtime.block_on(async {
                match index {
                    0 => syncs(dir, size.of(2_000)),
                    1 => one_caller(&mut api, size.of(2_000)).await,
                    2 => callers(world.url(), size.of(40_960) / CALLERS).await,
                    3 => stream(&mut api, size.of(bounds::BATCH)).await,
                    4 => array(&mut api, size.of(MEMBERS), false).await,
                    _ => array(&mut api, size.of(MEMBERS), true).await,
                }
            });
            let seconds = begin.elapsed().as_secs_f64();
            match done {
                Ok(count) => {
                    let cost = (usage::cpu(informer).own_us - before) as f64 / count as f64;
                    rates[index].push(count as f64 / seconds);
                    times[index].push(seconds);
                    costs[index].push(cost);
                    println!("round {round}: {name:<22} {count:6} in {seconds:.3} s, informer {cost:.1} us each");
                }
                // An older informer has no arrays; everything else it has.
                Err(error) => println!("round {round}: {name:<22} skipped: {error:#}"),
            }
        }
    }
    let rows: Vec<Vec<String>> = names
        .iter()
        .enumerate()
        .filter(|(index, _)| !rates[*index].is_empty())
        .map(|(index, name)| {
            let rate = format!("{}/s ({})", whole(median(&rates[index])), range(&rates[index]));
            let times = format!("{:.3} s", percentile(&times[index], 50));
            vec![(*name).to_owned(), rate, times, format!("{:.1}", median(&costs[index]))]
        })
        .collect();
    table("durable submits (least–most)", &["", "rate", "the whole", "informer's CPU µs each"], &rows);
    Ok(())
}

/// What the disk allows one caller at most.
fn syncs(dir: &Path, count: usize) -> Result<usize> {
    let mut file = std::fs::File::create(dir.join("syncs"))?;
    for _ in 0..count {
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
    }
    Ok(count)
}

async fn one_caller(api: &mut Api, count: usize) -> Result<usize> {
    for _ in 0..count {
        api.submit(client::request(client::idle_spec("one"))).await?;
    }
    Ok(count)
}

async fn callers(url: &str, each: usize) -> Result<usize> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(client::connect(url).await?);
    }
    let mut callers = JoinSet::new();
    for n in 0..CALLERS {
        let mut api = connections[n % CONNECTIONS].clone();
        callers.spawn(async move {
            for _ in 0..each {
                api.submit(client::request(client::idle_spec("unary"))).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = callers.join_next().await {
        done??;
    }
    Ok(CALLERS * each)
}

async fn stream(api: &mut Api, count: usize) -> Result<usize> {
    client::submit_all(api, count, |_| client::idle_spec("stream")).await?;
    Ok(count)
}

async fn array(api: &mut Api, count: usize, items: bool) -> Result<usize> {
    let items = if items { (0..count).map(|n| format!("/media/in/{n:09}.mp4")).collect() } else { Vec::new() };
    client::submit_array(api, "array", u32::try_from(count)?, items).await?;
    Ok(count)
}
