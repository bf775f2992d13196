//! Steps of workflows, durable, without processes: chains of ten, alone and many at once, and forks of a
//! thousand and of ten thousand, known at once or emitted by a running task.

use crate::client;
use crate::logical::{Fleet, Moment};
use crate::report::{median, percentile, range, table, whole};
use crate::usage::{self, Processes};
use crate::{Size, ours};
use anyhow::{Context as _, Result, ensure};
use proto::v1;
use proto::v1::workflow_service_client::WorkflowServiceClient;
use std::collections::{BTreeMap, HashMap};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};
use tests::world::World;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

type Flows = WorkflowServiceClient<Channel>;

/// As in the section `dispatch`, which plain tasks are compared with.
const SIDECARS: usize = 16;
const SLOTS: u32 = 128;
/// Steps of a chain.
const CHAIN: usize = 10;
/// Chains that are under way at once where their rate is measured.
const AT_ONCE: usize = 200;
/// Forks: their workflow, their branches, and how many such runs follow one another in a round.
const FORKS: [(&str, usize, usize); 4] =
    [("fork", 1_000, 20), ("fork", 10_000, 20), ("streaming fork", 1_000, 20), ("streaming fork", 10_000, 20)];

/// What one way to run steps has shown, over all rounds.
#[derive(Default)]
struct Seen {
    /// Steps per second, a figure a round.
    rates: Vec<f64>,
    /// Of plain tasks' rate in the same round, per cent.
    shares: Vec<f64>,
    /// From the end of a step, or of the last branch, to the assignment of the next, ms.
    gaps: Vec<f64>,
    /// The informer's CPU time, µs a step.
    costs: Vec<f64>,
}

pub(crate) fn run(dir: &Path, size: Size) -> Result<()> {
    client::runtime()?.block_on(async {
        let mut bench = Bench::new(size).await?;
        let mut seen: BTreeMap<usize, (String, Seen)> = BTreeMap::new();
        let mut syncs = Vec::new();
        for round in 1..=size.rounds(5) {
            syncs.extend(flushes(dir, size.of(200).max(20))?);
            let plain = bench.plain(size.of(20_000)).await?;
            println!("round {round}: plain tasks, one stream of submits: {plain:.0}/s");
            for index in 0..2 + FORKS.len() {
                let (name, measured) = bench.measure(index, size).await?;
                let share = 100.0 * measured.rate / plain;
                println!(
                    "round {round}: {name}: {:.0} steps/s, {share:.0} % of plain tasks, step p50 {:.2} ms, p99 {:.2} ms, informer {:.0} us a step",
                    measured.rate,
                    percentile(&measured.gaps, 50),
                    percentile(&measured.gaps, 99),
                    measured.cost
                );
                let (_, seen) = seen.entry(index).or_insert_with(|| (name, Seen::default()));
                seen.rates.push(measured.rate);
                seen.shares.push(share);
                seen.gaps.extend(measured.gaps);
                seen.costs.push(measured.cost);
            }
        }
        tell(&seen, &syncs);
        Ok(())
    })
}

fn tell(seen: &BTreeMap<usize, (String, Seen)>, syncs: &[f64]) {
    let rows: Vec<Vec<String>> = seen
        .values()
        .map(|(name, seen)| {
            vec![
                name.clone(),
                format!("{}/s ({})", whole(median(&seen.rates)), range(&seen.rates)),
                format!("{:.0} %", median(&seen.shares)),
                format!("{:.2} ms", percentile(&seen.gaps, 50)),
                format!("{:.2} ms", percentile(&seen.gaps, 99)),
                seen.gaps.len().to_string(),
                format!("{:.0}", median(&seen.costs)),
            ]
        })
        .collect();
    let head =
        ["", "steps", "of plain tasks' rate", "to the next step, p50", "p99", "samples", "informer's CPU µs a step"];
    table("steps of workflows, durable, without processes (least–most)", &head, &rows);
    println!("`fdatasync` of 4 KiB beside it: p50 {:.2} ms, p99 {:.2} ms", median(syncs), percentile(syncs, 99));
}

/// What the disk takes for one flush, ms each.
fn flushes(dir: &Path, count: usize) -> Result<Vec<f64>> {
    let mut file = std::fs::File::create(dir.join("syncs"))?;
    (0..count)
        .map(|_| {
            let begin = Instant::now();
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&[7; 4096])?;
            file.sync_data()?;
            Ok(ms(begin.elapsed()))
        })
        .collect()
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

struct Measured {
    rate: f64,
    gaps: Vec<f64>,
    cost: f64,
}

/// Runs of one kind.
struct Shape {
    name: &'static str,
    input: String,
    /// Steps of each that are tasks, and how many of them, at its end, wait for the one before.
    steps: usize,
    following: usize,
}

struct Bench {
    world: World,
    api: client::Api,
    flows: Flows,
    fleet: Fleet,
}

impl Bench {
    async fn new(size: Size) -> Result<Self> {
        let world = ours::informer()?;
        let api = client::connect(world.url()).await?;
        let channel = Endpoint::from_shared(world.url().to_owned())?.tcp_nodelay(true).connect().await?;
        let mut flows = Flows::new(channel).max_decoding_message_size(proto::bounds::MESSAGE_BYTES);
        let step = r#"{"name": "step", "task": {"command": {"argv": ["/bin/true"]}}}"#.to_owned();
        flows.put_task_definition(v1::PutTaskDefinitionRequest { json: step }).await?;
        for json in [chain(), fork(), streaming()] {
            flows.put_definition(v1::PutDefinitionRequest { json, replace: false }).await?;
        }
        let fleet = Fleet::link(world.url(), SIDECARS, SLOTS).await?;
        fleet.open(true);
        let mut bench = Self { world, api, flows, fleet };
        // Everybody has run each kind once.
        for index in 0..2 + FORKS.len() {
            bench.measure(index, Size { quick: true }).await?;
        }
        bench.plain(size.of(2_000)).await?;
        Ok(bench)
    }

    /// Plain tasks, from their first submit to their last end: a second.
    async fn plain(&mut self, count: usize) -> Result<f64> {
        let from = *self.fleet.ended.borrow_and_update();
        let begin = Instant::now();
        client::submit_all(&mut self.api, count, |_| client::idle_spec("plain")).await?;
        self.fleet.wait_ended(from + count as u64).await?;
        Ok(count as f64 / begin.elapsed().as_secs_f64())
    }

    async fn measure(&mut self, index: usize, size: Size) -> Result<(String, Measured)> {
        let chain = Shape { name: "chain", input: String::new(), steps: CHAIN, following: CHAIN - 1 };
        Ok(match index {
            0 => (format!("chain of {CHAIN}, one after another"), self.runs(&chain, size.of(100), 1).await?),
            1 => {
                let name = format!("chain of {CHAIN}, {AT_ONCE} at once");
                (name, self.runs(&chain, size.of(10 * AT_ONCE), AT_ONCE).await?)
            }
            _ => {
                let (name, branches, runs) = FORKS[index - 2];
                let branches = size.of(branches);
                let (input, more) = match name {
                    "fork" => {
                        let items: Vec<String> = (0..branches).map(|n| n.to_string()).collect();
                        (format!(r#"{{"items": [{}]}}"#, items.join(",")), 1)
                    }
                    // The task that emits is a step as well.
                    _ => (format!(r#"{{"children": {branches}}}"#), 2),
                };
                let shape = Shape { name, input, steps: branches + more, following: 1 };
                let told = format!("{name} of {}, one after another", whole(branches as f64));
                (told, self.runs(&shape, size.of(runs), 1).await?)
            }
        })
    }

    /// So many runs, so many of them under way at once.
    async fn runs(&mut self, shape: &Shape, count: usize, at_once: usize) -> Result<Measured> {
        let informer = Processes::of(&self.world)?.informer;
        let steps = count * shape.steps;
        // A fork's last branch ends when the others have: the time to the next step is no queue of ends.
        self.fleet.note((shape.following == 1).then_some(shape.steps));
        let before = usage::cpu(informer).own_us;
        let begin = Instant::now();
        let (mut under_way, mut over) = (JoinSet::new(), Vec::new());
        for n in 0..count {
            if n >= at_once
                && let Some(done) = under_way.join_next().await
            {
                over.push(done??);
            }
            let (name, input) = (shape.name.to_owned(), shape.input.clone());
            under_way.spawn(one(self.flows.clone(), v1::StartRunRequest { name, input, ..Default::default() }));
        }
        while let Some(done) = under_way.join_next().await {
            over.push(done??);
        }
        let rate = steps as f64 / begin.elapsed().as_secs_f64();
        let cost = (usage::cpu(informer).own_us - before) as f64 / steps as f64;
        let moments = self.fleet.noted();
        ensure!(moments.len() == steps, "{} steps were seen by the sidecars, not {steps}", moments.len());
        let gaps = match at_once {
            // One after another they came down as they were started.
            1 => moments.chunks(shape.steps).flat_map(|run| gaps(run, shape.following)).collect(),
            _ => {
                let mut by_run: BTreeMap<usize, Vec<Moment>> = BTreeMap::new();
                let runs = self.runs_of(&over).await?;
                for moment in moments {
                    let run = runs.get(&moment.task).with_context(|| format!("{} is no task of a run", moment.task))?;
                    by_run.entry(*run).or_default().push(moment);
                }
                by_run.values().flat_map(|run| gaps(run, shape.following)).collect()
            }
        };
        Ok(Measured { rate, gaps, cost })
    }

    /// Which task is which run's.
    async fn runs_of(&mut self, runs: &[String]) -> Result<HashMap<String, usize>> {
        let mut found = HashMap::new();
        for (n, id) in runs.iter().enumerate() {
            let request = v1::RunTasksRequest { id: id.clone(), bare: true, ..Default::default() };
            let rows = self.flows.tasks(request).await?.into_inner().tasks;
            found.extend(rows.into_iter().map(|row| (row.task, n)));
        }
        Ok(found)
    }
}

/// Starts a run and waits for its end; its id.
async fn one(mut flows: Flows, request: v1::StartRunRequest) -> Result<String> {
    let id = flows.start(request).await?.into_inner().id;
    let run = flows.wait(v1::GetRunRequest { id }).await?.into_inner();
    ensure!(run.status() == v1::RunStatus::Completed, "run {} is {:?}: {}", run.id, run.status(), run.reason);
    Ok(run.id)
}

/// From each step of a run to its next, as many as there are at its end that wait for the one before, ms. A step's end is reported within
/// microseconds of its assignment.
fn gaps(run: &[Moment], following: usize) -> Vec<f64> {
    run.windows(2).rev().take(following).map(|pair| ms(pair[1].came - pair[0].reported)).collect()
}

/// A chain: each step has the output of the one before as its input.
fn chain() -> String {
    let steps: Vec<String> = (0..CHAIN)
        .map(|n| {
            let given = match n {
                0 => "${workflow.input.given}".to_owned(),
                _ => format!("${{step{}.output.exitCode}}", n - 1),
            };
            format!(
                r#"{{"name": "step", "taskReferenceName": "step{n}", "type": "SIMPLE", "inputParameters": {{"given": "{given}"}}}}"#
            )
        })
        .collect();
    format!(r#"{{"name": "chain", "version": 1, "schemaVersion": 2, "tasks": [{}]}}"#, steps.join(","))
}

/// A fork over the items of the input, its join, and one step after it.
fn fork() -> String {
    let fork = r#"{"name": "fork", "taskReferenceName": "fork", "type": "FORK_JOIN_DYNAMIC",
        "inputParameters": {"forkTaskName": "step", "forkTaskInputs": "${workflow.input.items}"}}"#;
    let join = r#"{"name": "join", "taskReferenceName": "join", "type": "JOIN"}"#;
    let after = r#"{"name": "step", "taskReferenceName": "after", "type": "SIMPLE"}"#;
    let tasks = [fork, join, after].join(",");
    format!(r#"{{"name": "fork", "version": 1, "schemaVersion": 2, "tasks": [{tasks}]}}"#)
}

/// A task that emits children while it runs, their join, and one step after it.
fn streaming() -> String {
    let emits = r#"{"name": "step", "taskReferenceName": "child", "type": "SIMPLE"}"#;
    let source = format!(
        r#"{{"name": "step", "taskReferenceName": "source", "type": "SIMPLE",
            "inputParameters": {{"children": "${{workflow.input.children}}"}}, "emits": [{emits}]}}"#
    );
    let join = r#"{"name": "join", "taskReferenceName": "join", "type": "JOIN", "joinOn": ["source"]}"#;
    let after = r#"{"name": "step", "taskReferenceName": "after", "type": "SIMPLE"}"#;
    format!(
        r#"{{"name": "streaming fork", "version": 1, "schemaVersion": 2, "tasks": [{}]}}"#,
        [source.as_str(), join, after].join(",")
    )
}
