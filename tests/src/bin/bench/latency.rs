//! How long after a submit its process starts: idle, in bursts, through the command line, and with a crowd waiting.

use crate::bare::Bare;
use crate::contender::{self, Contender};
use crate::ours::{CommandLine, Ours};
use crate::report::{percentile, table};
use crate::stamps::Stamps;
use crate::{Size, client};
use anyhow::Result;
use proto::v1;
use std::path::Path;
use std::time::Duration;

/// Slots of the sidecar: each process of a burst is ready to start while others still end, which takes longer than it runs.
const SLOTS: usize = 64;
/// Tasks of a burst.
const BURST: u64 = 200;
/// Low ones that wait.
const CROWD: usize = 100_000;
/// Between two urgent ones, as between two single ones.
const PACE: Duration = Duration::from_millis(30);

pub(crate) fn run(dir: &Path, size: Size) -> Result<()> {
    let mut stamps = Stamps::new(dir)?;
    let ours = Ours::new(SLOTS, stamps.pipe())?;
    let cli = CommandLine::new(&ours);
    let mut contenders: Vec<Box<dyn Contender>> = vec![Box::new(Bare::new(&stamps)?), Box::new(ours), Box::new(cli)];
    contender::latencies(&mut contenders, &mut stamps, size.of(300), BURST)?;
    contender::end(contenders)?;
    crowded(&mut stamps, size)
}

/// A crowd of two kinds: one that does not fit beside what runs, and one that flows through all slots but one's worth of time.
fn crowded(stamps: &mut Stamps, size: Size) -> Result<()> {
    let mut ours = Ours::new(SLOTS, stamps.pipe())?;
    let urgent = size.of(300);
    let alone = urgently(&mut ours, stamps, urgent)?;
    // One that leaves less room than any of the crowd asks for, and more than the urgent ones do.
    let most = SLOTS as u64 * 1000;
    let (runtime, api) = ours.api();
    runtime.block_on(async {
        let sleeper = with_cpu(client::spec("sleeper", &["/bin/sleep", "3600"]), most / 2 + 1000);
        api.submit(client::request(sleeper)).await?;
        client::submit_all(api, size.of(CROWD), move |_| low(with_cpu(client::idle_spec("crowd"), most / 2))).await
    })?;
    let waiting = urgently(&mut ours, stamps, urgent)?;
    let (runtime, api) = ours.api();
    runtime.block_on(client::submit_all(api, size.of(CROWD), |_| low(client::idle_spec("flow"))))?;
    let flowing = urgently(&mut ours, stamps, urgent)?;
    let row = |what: String, values: &[f64]| {
        vec![what, format!("{:.2} ms", percentile(values, 50)), format!("{:.2} ms", percentile(values, 99))]
    };
    let rows = [
        row("nothing else".to_owned(), &alone),
        row(format!("{} low ones wait, too large for what is free", size.of(CROWD)), &waiting),
        row(format!("{} more flow through all slots, the processors are full", size.of(CROWD)), &flowing),
    ];
    table(&format!("submit → process started, priority 10, {urgent} single ones"), &["while", "p50", "p99"], &rows);
    Ok(())
}

fn urgently(ours: &mut Ours, stamps: &mut Stamps, count: usize) -> Result<Vec<f64>> {
    let mut all = Vec::new();
    for _ in 0..count {
        let id = stamps.fresh(1);
        let calls = ours.stamp_with(id, 1, 10)?;
        all.extend(stamps.since(id, &calls)?);
        std::thread::sleep(PACE);
    }
    Ok(all)
}

fn low(spec: v1::TaskSpec) -> v1::TaskSpec {
    v1::TaskSpec { priority: -10, ..spec }
}

fn with_cpu(spec: v1::TaskSpec, cpu_millis: u64) -> v1::TaskSpec {
    v1::TaskSpec { resources: Some(v1::Resources { cpu_millis, memory_bytes: 0 }), ..spec }
}
