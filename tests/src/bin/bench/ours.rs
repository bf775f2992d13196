//! The informer, a sidecar and its keeper as a contender.

use crate::client::{self, Api};
use crate::contender::{Contender, Run};
use crate::stamps;
use crate::usage::{self, Processes};
use anyhow::{Context as _, Result, ensure};
use proto::v1;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;
use tests::world::{World, alive, binary, wait_for};
use tokio::runtime::Runtime;

/// Daemons log what goes wrong and nothing else, as in production.
const QUIET: [(&str, &str); 2] = [("INFORMER_LOG", "warn"), ("SIDECAR_LOG", "warn")];

/// An informer of its own, without sidecars.
pub(crate) fn informer() -> Result<World> {
    let mut world = World::empty()?;
    // The default; the tests' own worlds beat faster.
    world.beat = "5s";
    world.start_informer(&QUIET)?;
    Ok(world)
}

/// One informer and one sidecar with so many slots.
pub(crate) struct Ours {
    pub world: World,
    runtime: Runtime,
    api: Api,
    pipe: PathBuf,
    slots: usize,
    rounds: usize,
}

impl Ours {
    /// Starts both. A slot has a processor to offer, whatever the machine has, so that slots alone bound what runs at once.
    pub(crate) fn new(slots: usize, pipe: &Path) -> Result<Self> {
        let mut world = informer()?;
        let (slots_text, cpu) = (slots.to_string(), (slots * 1000).to_string());
        world.start_sidecar(0, &["--slots", &slots_text, "--cpu", &cpu, "--stop-tasks-on-exit"], &QUIET)?;
        world.wait_linked(1)?;
        let runtime = client::runtime()?;
        let api = runtime.block_on(client::connect(world.url()))?;
        Ok(Self { world, runtime, api, pipe: pipe.to_owned(), slots, rounds: 0 })
    }

    /// The API and something to run calls on.
    pub(crate) fn api(&mut self) -> (&Runtime, &mut Api) {
        (&self.runtime, &mut self.api)
    }

    /// What a stamp's task runs.
    fn stamp_spec(&self, id: u64, priority: i32) -> v1::TaskSpec {
        let (program, pipe) = (stamps::program(), self.pipe.clone());
        let argv = [&*program.to_string_lossy(), &*pipe.to_string_lossy(), &id.to_string()];
        v1::TaskSpec { priority, ..client::spec("stamp", &argv) }
    }

    /// As [`Contender::stamp`], with a priority.
    pub(crate) fn stamp_with(&mut self, first: u64, count: u64, priority: i32) -> Result<Vec<u64>> {
        let specs: Vec<_> = (first..first + count).map(|id| self.stamp_spec(id, priority)).collect();
        let api = &self.api;
        self.runtime.block_on(async {
            let mut calls = Vec::new();
            let mut under_way = tokio::task::JoinSet::new();
            for spec in specs {
                let mut api = api.clone();
                calls.push(stamps::now_ns());
                under_way.spawn(async move { api.submit(client::request(spec)).await });
            }
            while let Some(done) = under_way.join_next().await {
                done??;
            }
            Ok(calls)
        })
    }
}

/// CPU time so far: informer, agent, and keeper with monitors and everything they spawned.
fn spent(processes: &Processes) -> [f64; 3] {
    let (agent, keeper, monitors) = processes.sidecar.clone().unwrap_or((0, 0, Vec::new()));
    let grouped = monitors.first().and_then(|monitor| usage::group_us(*monitor));
    let kept = match grouped {
        Some(monitors_us) => usage::cpu(keeper).own_us as f64 + monitors_us,
        // In ticks, so less exact. A monitor that has served its time is the keeper's awaited child; a living one has its attempts as
        // awaited children.
        None => {
            let all = std::iter::once(keeper).chain(monitors).map(usage::cpu);
            all.map(|cpu| cpu.own_us + cpu.children_us).sum::<u64>() as f64
        }
    };
    [usage::cpu(processes.informer).own_us as f64, usage::cpu(agent).own_us as f64, kept]
}

impl Contender for Ours {
    fn name(&self) -> String {
        format!("informer + sidecar, {} slots", self.slots)
    }

    fn run(&mut self, count: usize) -> Result<Run> {
        self.rounds += 1;
        let name = format!("round-{}", self.rounds);
        let before = spent(&Processes::of(&self.world)?);
        let client_before = usage::cpu(i32::try_from(std::process::id())?);
        let begin = Instant::now();
        let api = &mut self.api;
        let (named, all) = (name.clone(), name.clone());
        self.runtime.block_on(async {
            client::submit_all(api, count, move |_| client::spec(&named, &["/bin/true"])).await?;
            client::wait_ended(api, &all).await
        })?;
        let seconds = begin.elapsed().as_secs_f64();
        let client_after = usage::cpu(i32::try_from(std::process::id())?);
        let after = spent(&Processes::of(&self.world)?);
        let tasks = self.runtime.block_on(client::spent_us(api, &name, count))?;
        let parts = vec![
            ("informer", after[0] - before[0]),
            ("agent", after[1] - before[1]),
            ("keeper and monitors", after[2] - before[2] - tasks),
            ("tasks", tasks),
            ("client", (client_after.own_us - client_before.own_us) as f64),
        ];
        Ok(Run { seconds, parts })
    }

    fn stamp(&mut self, first: u64, count: u64) -> Result<Vec<u64>> {
        self.stamp_with(first, count, 0)
    }

    /// The sidecar with its keeper and its control groups, then the informer.
    fn end(mut self: Box<Self>) -> Result<()> {
        let keeper = self.world.keeper(0).context("the keeper does not run")?;
        self.world.terminate_agent(0)?;
        wait_for("the keeper is gone", || (!alive(keeper)).then_some(()))?;
        self.world.terminate_informer()?;
        Ok(())
    }
}

/// The command line in front of an informer and a sidecar.
pub(crate) struct CommandLine {
    url: String,
    pipe: PathBuf,
}

impl CommandLine {
    pub(crate) fn new(ours: &Ours) -> Self {
        Self { url: ours.world.url().to_owned(), pipe: ours.pipe.clone() }
    }
}

impl Contender for CommandLine {
    fn name(&self) -> String {
        "informer submit".to_owned()
    }

    fn run(&mut self, _: usize) -> Result<Run> {
        anyhow::bail!("the command line is measured by single tasks only")
    }

    fn stamp(&mut self, first: u64, count: u64) -> Result<Vec<u64>> {
        let mut calls = Vec::new();
        let mut children = Vec::new();
        for id in first..first + count {
            let mut command = Command::new(binary("informer"));
            command
                .args(["submit", "--name", "stamp", "--"])
                .arg(stamps::program())
                .arg(&self.pipe)
                .arg(id.to_string());
            command.env("INFORMER_URL", &self.url).stdin(Stdio::null()).stdout(Stdio::null());
            calls.push(stamps::now_ns());
            children.push(command.spawn()?);
        }
        for child in &mut children {
            ensure!(child.wait()?.success(), "informer submit failed");
        }
        Ok(calls)
    }

    fn end(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
