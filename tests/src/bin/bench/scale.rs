//! Whether cost grows linearly: the same work with little and with much queued, and the start of an informer that has much.

use crate::client::{self, Api};
use crate::logical::Fleet;
use crate::report::{median, range, table, whole};
use crate::usage::{self, Processes};
use crate::{Size, ours};
use anyhow::Result;
use std::path::Path;
use std::time::Instant;
use tests::world::World;

/// Logical sidecars of each informer, and their slots: together a quarter of the shorter queue, so that it is a queue.
const SIDECARS: usize = 16;
const SLOTS: u32 = 16;
/// After so many ends as many are submitted: so the queue keeps its length.
const REFILL: u64 = 500;

/// An informer with its queue.
struct Queue {
    name: String,
    world: World,
    api: Api,
    fleet: Fleet,
    /// Tasks that wait at the start of a round; none are added to an array.
    depth: Option<u64>,
    submitted: u64,
    rates: Vec<f64>,
}

pub(crate) fn run(_: &Path, size: Size) -> Result<()> {
    let (few, many) = (1_000, size.of(1_000_000));
    client::runtime()?.block_on(async {
        let mut queues = vec![Queue::new(few, false).await?, Queue::new(many, false).await?];
        match Queue::new(many, true).await {
            Ok(queue) => queues.push(queue),
            Err(error) => println!("an array of {many}: skipped: {error:#}"),
        }
        for round in 1..=size.rounds(5) {
            for queue in &mut queues {
                let rate = queue.round(size.of(20_000)).await?;
                println!("round {round}: {:<40} {rate:.0}/s", queue.name);
                queue.rates.push(rate);
            }
        }
        let base = median(&queues[0].rates);
        let rows: Vec<Vec<String>> = queues
            .iter()
            .map(|queue| {
                let rate = median(&queue.rates);
                let shown = format!("{}/s ({})", whole(rate), range(&queue.rates));
                vec![queue.name.clone(), shown, format!("{:.0} %", 100.0 * rate / base)]
            })
            .collect();
        table("dispatch with a queue of constant length (least–most)", &["queued", "rate", "of the first"], &rows);
        starts(queues, size).await
    })
}

impl Queue {
    async fn new(count: usize, array: bool) -> Result<Self> {
        let world = ours::informer()?;
        let mut api = client::connect(world.url()).await?;
        let begin = Instant::now();
        let name = if array {
            client::submit_array(&mut api, "queue", u32::try_from(count)?, Vec::new()).await?;
            format!("{} members of an array", whole(count as f64))
        } else {
            client::submit_all(&mut api, count, |_| client::idle_spec("queue")).await?;
            format!("{} tasks", whole(count as f64))
        };
        println!("{name}: submitted in {:.2} s", begin.elapsed().as_secs_f64());
        let fleet = Fleet::link(world.url(), SIDECARS, SLOTS).await?;
        let depth = (!array).then_some(count as u64);
        Ok(Self { name, world, api, fleet, depth, submitted: count as u64, rates: Vec::new() })
    }

    /// Ends so many tasks, and submits as many; the rate.
    async fn round(&mut self, count: usize) -> Result<f64> {
        let from = *self.fleet.ended.borrow_and_update();
        // What was under way when the last round closed has ended since.
        self.refill(from).await?;
        let begin = Instant::now();
        self.fleet.open(true);
        for done in (REFILL..=count as u64).step_by(REFILL as usize) {
            self.fleet.wait_ended(from + done).await?;
            self.refill(from + done).await?;
        }
        let seconds = begin.elapsed().as_secs_f64();
        self.fleet.open(false);
        Ok(count as f64 / seconds)
    }

    /// Submits until as many wait as shall, if so many have ended.
    async fn refill(&mut self, ended: u64) -> Result<()> {
        let Some(depth) = self.depth else { return Ok(()) };
        let missing = (depth + ended).saturating_sub(self.submitted);
        self.submitted += missing;
        client::submit_all(&mut self.api, usize::try_from(missing)?, |_| client::idle_spec("queue")).await
    }
}

/// Kills each informer and starts it again.
async fn starts(queues: Vec<Queue>, size: Size) -> Result<()> {
    let mut rows = Vec::new();
    for queue in queues {
        let Queue { name, mut world, api, fleet, .. } = queue;
        drop((api, fleet));
        let mut seconds = Vec::new();
        let mut rss = 0.0;
        for _ in 0..size.rounds(3) {
            world.kill_informer();
            let begin = Instant::now();
            world.start_informer(&[("INFORMER_LOG", "warn")])?;
            let mut api = client::connect(world.url()).await?;
            api.submit(client::request(client::idle_spec("first"))).await?;
            seconds.push(begin.elapsed().as_secs_f64());
            rss = usage::rss_kb(Processes::of(&world)?.informer);
        }
        println!("{name}: starts {seconds:?} s");
        rows.push(vec![name, format!("{:.2} s", median(&seconds)), format!("{:.0} MiB", rss / 1024.0)]);
    }
    table("start of a killed informer, to its first acknowledged submit", &["queued", "time", "RSS then"], &rows);
    Ok(())
}
