//! What the daemons hold resident: idle, for each queued task, for arrays; and what an idle agent costs.

use crate::Size;
use crate::client;
use crate::contender::Contender;
use crate::ours::{self, Ours};
use crate::report::{table, whole};
use crate::stamps::Stamps;
use crate::usage::{self, Processes, Threads};
use anyhow::{Context as _, Result};
use proto::v1;
use std::path::Path;
use std::time::Duration;

/// Slots of the sidecar: each keeps a warm monitor.
const SLOTS: usize = 16;
/// Time over which the idle agent is watched: six beats.
const IDLE: Duration = Duration::from_secs(30);
/// After a start or a burst, until everything has come to rest.
const REST: Duration = Duration::from_secs(6);

pub(crate) fn run(dir: &Path, size: Size) -> Result<()> {
    idle(dir, size)?;
    queued(size)
}

fn idle(dir: &Path, size: Size) -> Result<()> {
    let mut ours = Ours::new(SLOTS, Stamps::new(dir)?.pipe())?;
    std::thread::sleep(REST);
    let mut rows = daemons("fresh", &ours)?;
    ours.run(size.of(10_000))?;
    std::thread::sleep(REST);
    rows.extend(daemons(&format!("after {} tasks", whole(size.of(10_000) as f64)), &ours)?);
    let processes = Processes::of(&ours.world)?;
    let (agent, keeper, _) = processes.sidecar.context("there is a sidecar")?;
    let spent = || [agent, keeper, processes.informer].map(Threads::of);
    let before = spent();
    std::thread::sleep(IDLE);
    let after = spent();
    for (who, (after, before)) in ["agent", "keeper", "informer"].iter().zip(after.iter().zip(&before)) {
        let percent = 100.0 * after.since(before) as f64 / IDLE.as_micros() as f64;
        rows.push(vec!["idle, 30 s".to_owned(), format!("CPU of the {who}"), format!("{percent:.3} % of a core")]);
    }
    table("daemons", &["when", "what", ""], &rows);
    Box::new(ours).end()
}

fn daemons(when: &str, ours: &Ours) -> Result<Vec<Vec<String>>> {
    let processes = Processes::of(&ours.world)?;
    let (agent, keeper, monitors) = processes.sidecar.context("there is a sidecar")?;
    let count = monitors.len().max(1) as f64;
    let mean = |of: fn(i32) -> f64| monitors.iter().copied().map(of).sum::<f64>() / count;
    let row = |what: String, kilobytes: f64| vec![when.to_owned(), what, format!("{} kB", whole(kilobytes))];
    Ok(vec![
        row("agent, RSS".to_owned(), usage::rss_kb(agent)),
        row("keeper, PSS".to_owned(), usage::pss_kb(keeper)),
        row(format!("each of {} monitors, PSS", monitors.len()), mean(usage::pss_kb)),
        row("… and page tables".to_owned(), mean(usage::page_tables_kb)),
        row("informer, RSS".to_owned(), usage::rss_kb(processes.informer)),
    ])
}

/// What is queued, and how many of it.
enum Queue {
    SameNames,
    DistinctNames,
    Array,
    ArrayWithItems,
}

fn queued(size: Size) -> Result<()> {
    let runtime = client::runtime()?;
    let mut rows = Vec::new();
    for (what, queue, count) in [
        ("single tasks, alike", Queue::SameNames, 100_000),
        ("single tasks, each with a name and an argument of its own", Queue::DistinctNames, 100_000),
        ("members of an array", Queue::Array, 1_000_000),
        ("members of an array, each with an item", Queue::ArrayWithItems, 1_000_000),
    ] {
        let count = size.of(count);
        let world = ours::informer()?;
        let informer = Processes::of(&world)?.informer;
        let mut api = runtime.block_on(client::connect(world.url()))?;
        let mut rss = vec![usage::rss_kb(informer)];
        // Twice: the first lot also fills caches of a fixed size, so the second one tells what a task costs.
        for lot in 0..2 {
            let done = runtime.block_on(fill(&mut api, &queue, lot, count));
            if let Err(error) = done {
                println!("{what}: skipped: {error:#}");
                break;
            }
            std::thread::sleep(Duration::from_secs(1));
            rss.push(usage::rss_kb(informer));
        }
        let [empty, first, second] = rss[..] else { continue };
        println!("{what}: {empty:.0} kB empty, {first:.0} kB with {count}, {second:.0} kB with twice as many");
        let each = |more: f64| format!("{:.0} B", more * 1024.0 / count as f64);
        rows.push(vec![
            format!("{} {what}", whole(count as f64)),
            format!("{:.1} MiB", (first - empty) / 1024.0),
            each(first - empty),
            each(second - first),
        ]);
    }
    table("informer, queued work", &["", "RSS more", "each", "each of as many again"], &rows);
    Ok(())
}

async fn fill(api: &mut client::Api, queue: &Queue, lot: usize, count: usize) -> Result<()> {
    match queue {
        Queue::SameNames => client::submit_all(api, count, |_| client::idle_spec("same")).await,
        Queue::DistinctNames => client::submit_all(api, count, move |n| distinct(lot, n)).await,
        Queue::Array => client::submit_array(api, "array", u32::try_from(count)?, Vec::new()).await.map(drop),
        Queue::ArrayWithItems => {
            let items = (0..count).map(|n| format!("/media/in/{lot}/{n:09}.mp4")).collect();
            client::submit_array(api, "array", u32::try_from(count)?, items).await.map(drop)
        }
    }
}

fn distinct(lot: usize, n: usize) -> v1::TaskSpec {
    let argument = format!("/media/in/{lot}/{n:09}.mp4");
    client::spec(&format!("distinct-{lot}-{n}"), &["/bin/true", &argument])
}
