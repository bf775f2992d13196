//! Dispatch and acknowledgement without processes; ten thousand links, and what happens when all of them break at once.

use crate::client;
use crate::logical::Fleet;
use crate::report::{median, range, table, whole};
use crate::usage::{self, Processes, Threads};
use crate::{Size, ours};
use anyhow::{Context as _, Result};
use std::path::Path;
use std::time::{Duration, Instant};
use tests::world::World;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// Sidecars that share the work, and their slots: together more than the informer has under way in one commit.
const SIDECARS: usize = 16;
const SLOTS: u32 = 128;
/// Connected idle ones.
const IDLE: usize = 10_000;
/// No storm lasts longer, or it is a failure.
const STORM: Duration = Duration::from_secs(300);

pub(crate) fn run(_: &Path, size: Size) -> Result<()> {
    let runtime = client::runtime()?;
    runtime.block_on(rates(size))?;
    runtime.block_on(links(size))
}

async fn rates(size: Size) -> Result<()> {
    let count = size.of(50_000);
    let world = ours::informer()?;
    let informer = Processes::of(&world)?.informer;
    let mut api = client::connect(world.url()).await?;
    let mut fleet = Fleet::link(world.url(), SIDECARS, SLOTS).await?;
    let (mut queued, mut flowing, mut costs) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=size.rounds(5) {
        for (name, rates) in [("queued", &mut queued), ("with their submits", &mut flowing)] {
            let from = *fleet.ended.borrow_and_update();
            let waits = name == "queued";
            fleet.open(!waits);
            if waits {
                client::submit_all(&mut api, count, |_| client::idle_spec("dispatch")).await?;
            }
            let before = usage::cpu(informer).own_us;
            let begin = Instant::now();
            if waits {
                fleet.open(true);
            } else {
                client::submit_all(&mut api, count, |_| client::idle_spec("dispatch")).await?;
            }
            fleet.wait_ended(from + count as u64).await?;
            let seconds = begin.elapsed().as_secs_f64();
            let cost = (usage::cpu(informer).own_us - before) as f64 / count as f64;
            println!(
                "round {round}: {count} {name} in {seconds:.2} s, {:.0}/s, informer {cost:.1} us each",
                count as f64 / seconds
            );
            rates.push(count as f64 / seconds);
            if waits {
                costs.push(cost);
            }
        }
    }
    let row =
        |what: &str, rates: &[f64]| vec![what.to_owned(), format!("{}/s ({})", whole(median(rates)), range(rates))];
    let rows = [row("already queued", &queued), row("with their submits, by client stream", &flowing)];
    table(
        &format!(
            "{count} tasks assigned, accepted, started, ended and acknowledged; {SIDECARS} logical sidecars (least–most)"
        ),
        &["", "rate"],
        &rows,
    );
    println!("informer's CPU a task, already queued: {:.1} us", median(&costs));
    Ok(())
}

async fn links(size: Size) -> Result<()> {
    let count = size.of(IDLE);
    let mut world = ours::informer()?;
    let informer = Processes::of(&world)?.informer;
    let before = usage::rss_kb(informer);
    let begin = Instant::now();
    let mut fleet = Fleet::link(world.url(), count, 1).await?;
    println!("{count} logical sidecars linked and beating after {:.1} s", begin.elapsed().as_secs_f64());
    // Two beats of each: what a link needs in use is there.
    sleep(Duration::from_secs(11)).await;
    let spent = Threads::of(informer);
    sleep(Duration::from_secs(10)).await;
    let percent = Threads::of(informer).since(&spent) as f64 / 100_000.0;
    let after = usage::rss_kb(informer);
    let each = (after - before) / count as f64;
    println!(
        "informer: {before:.0} kB before, {after:.0} kB with them; {:.1} % of a processor for their beats",
        percent
    );
    let storm = storm(&mut world, &mut fleet, count).await?;
    let rows = [
        vec![format!("informer's memory for each of {count} connected idle sidecars"), format!("{each:.1} kB")],
        vec!["its CPU for their beats".to_owned(), format!("{:.1} % of a processor", percent)],
        vec!["killed and started again: all beat again after".to_owned(), format!("{:.1} s", storm.all_s)],
        vec!["… of which until it listened".to_owned(), format!("{:.1} s", storm.listens_s)],
        vec!["submits acknowledged meanwhile, one after another".to_owned(), whole(storm.submits as f64)],
        vec!["longest wait of one of them once it listened".to_owned(), format!("{:.0} ms", storm.longest_ms)],
    ];
    table("ten thousand links", &["", ""], &rows);
    Ok(())
}

struct Storm {
    all_s: f64,
    listens_s: f64,
    submits: usize,
    longest_ms: f64,
}

/// Kills the informer and starts it again while somebody submits.
async fn storm(world: &mut World, fleet: &mut Fleet, count: usize) -> Result<Storm> {
    let url = world.url().to_owned();
    let begin = Instant::now();
    world.kill_informer();
    fleet.beating.wait_for(|beating| *beating == 0).await?;
    // Its links try again all the while, with the agent's back-off.
    world.start_informer(&[("INFORMER_LOG", "warn")])?;
    let listens_s = begin.elapsed().as_secs_f64();
    // On a thread of its own, as it would be on a machine of its own: it must not wait behind the links' side of the storm.
    let (over, is_over) = oneshot::channel();
    let submitter = std::thread::spawn(move || client::runtime()?.block_on(submit_until(&url, is_over)));
    let again = timeout(STORM, fleet.beating.wait_for(|beating| *beating == count)).await.map(|seen| seen.map(drop));
    let all_s = begin.elapsed().as_secs_f64();
    // It may have ended by an error, which is told below.
    let _ = over.send(());
    again.with_context(|| format!("not all links beat after {STORM:?}"))??;
    let (submits, longest_ms) = submitter.join().expect("the submitter does not panic")?;
    println!(
        "storm: {all_s:.1} s until all beat, {listens_s:.1} s of it until it listened; {submits} submits, {longest_ms:.0} ms"
    );
    Ok(Storm { all_s, listens_s, submits, longest_ms })
}

/// Submits one after another until it is over: how many, and the longest wait for one, ms, with the connection for the first.
async fn submit_until(url: &str, mut is_over: oneshot::Receiver<()>) -> Result<(usize, f64)> {
    let mut begin = Instant::now();
    let (mut submits, mut longest_ms) = (0, 0.0_f64);
    let mut waited = |since: Instant| longest_ms = longest_ms.max(since.elapsed().as_secs_f64() * 1000.0);
    let mut connected = None;
    loop {
        let submit = async {
            let api = match &mut connected {
                Some(api) => api,
                None => connected.insert(client::connect(url).await?),
            };
            anyhow::Ok(api.submit(client::request(client::idle_spec("storm"))).await.map(drop)?)
        };
        let over = tokio::select! {
            done = submit => done.map(|()| false)?,
            _ = &mut is_over => true,
        };
        waited(begin);
        if over {
            return Ok((submits, longest_ms));
        }
        submits += 1;
        begin = Instant::now();
    }
}
