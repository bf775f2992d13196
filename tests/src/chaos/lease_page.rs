//! The lease page is removed, replaced by an older copy or cut to nothing: part of the family of [`super::disks`].
//!
//! What runs under the lease goes on under it and ends with it, what starts afterwards starts, and nobody dies of it.

use super::identity::{EXCLUSIVE, finish, finish_apart, script, wait_line};
use super::promises::{Promises, attempts, ended, since};
use super::{Case, Family, Outcome, Round, now};
use crate::proxy::Proxy;
use crate::world::{World, alive, wait_for};
use anyhow::{Context as _, Result};
use keeper::lease::{self, LeasePage};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// While agent, keeper and monitor run.
pub static HARMED: Case = Case {
    fault: "a sidecar's lease page harmed",
    how: "removed, replaced by an older copy, cut to nothing, each while a `stop` task runs; then a network cut",
    family: Family::Disks,
    needs: &[],
    run: harmed,
};

/// While there is no agent.
pub static HARMED_UNSEEN: Case = Case {
    fault: "a sidecar's lease page harmed while its agent is down",
    how: "kill -9 of the agent, then the same, each before the next agent's start; then a network cut",
    family: Family::Disks,
    needs: &[],
    run: harmed_unseen,
};

/// A page is looked after once a second, which is less than two beats of these.
const BEAT: &str = "1s";
/// An agent is started again well within a lease of these.
const LONG_BEAT: &str = "3s";

/// The task that runs all the while; its monitor has patience with a page in doubt for half of its grace, 1.5 s at most.
const STOP: &[&str] = &["--on-disconnect", "stop", "--stop-grace", "5s", "--tries", "1"];

/// A way to harm the page, and its word.
type Harm = (&'static str, fn(&Path) -> std::io::Result<()>);

const HARMS: [Harm; 3] = [
    ("removed", |page| fs::remove_file(page)),
    ("replaced", |page| {
        fs::copy(older(page), page.with_extension("new")).and_then(|_| fs::rename(page.with_extension("new"), page))
    }),
    ("cut", |page| fs::File::create(page).map(drop)),
];

fn older(page: &Path) -> std::path::PathBuf {
    page.with_extension("older")
}

/// One sidecar behind a proxy, on which a `stop` task runs, and a copy of its page as it was then.
struct Scene {
    world: World,
    proxy: Proxy,
    promises: Promises,
    id: String,
    page: std::path::PathBuf,
}

impl Scene {
    fn set(beat: &'static str) -> Result<Self> {
        let mut world = World::empty()?;
        world.beat = beat;
        world.start_informer(&[])?;
        let proxy = Proxy::to(world.url())?;
        world.start_sidecar_through(0, proxy.url(), &[], &[])?;
        world.wait_linked(1)?;
        let mut promises = Promises::default();
        let id = promises.submit(&world, &[STOP, &["--", "sh", "-c", &script(&world)]].concat())?;
        wait_line(&world, "tick 1")?;
        let page = world.sidecars[0].data.join(lease::FILE);
        fs::copy(&page, older(&page))?;
        Ok(Self { world, proxy, promises, id, page })
    }

    /// When the lease ends, as a new reader of the page has it.
    fn deadline(&self) -> Option<Duration> {
        let page = LeasePage::open(&self.world.sidecars[0].data).ok()?;
        page.deadline().map(Duration::from_nanos)
    }

    /// An exclusive task starts here at the first attempt and ends well.
    fn takes_work(&mut self, harm: &str) -> Result<()> {
        let id = self.promises.submit(&self.world, &[EXCLUSIVE, &["--", "true"]].concat())?;
        let task = ended(&self.world, &id)?;
        let once = task["state"] == "succeeded" && attempts(&task).len() == 1;
        self.promises.require(once, format!("page {harm}: an exclusive task did not start at once: {task}"));
        Ok(())
    }

    /// The page is renewed, and the lease that was live when it was harmed is over by its old deadline.
    fn outlive(&self, before: Duration) -> Result<()> {
        wait_for("the page is renewed", || self.deadline().filter(|deadline| *deadline > before))?;
        wait_for("the old deadline has passed", || (now() > before).then_some(()))
    }

    /// Nobody hears the informer any more: the task ends with its lease, though the page is gone.
    fn cut(&mut self, attempt: u64) -> Result<Duration> {
        self.proxy.cut();
        fs::remove_file(&self.page)?;
        let fault = now();
        wait_line(&self.world, &format!("end {attempt}"))?;
        let took = since(fault);
        self.proxy.heal();
        wait_line(&self.world, &format!("tick {}", attempt + 1))?;
        Ok(took)
    }

    /// The copy that runs.
    fn running(&self) -> Result<u64> {
        let task = self.world.wait_state(&self.id, &["running"])?;
        attempts(&task).last().and_then(|attempt| attempt["number"].as_u64()).context("an attempt")
    }
}

fn harmed(_: &mut Round) -> Result<Outcome> {
    let mut scene = Scene::set(BEAT)?;
    let pids = (scene.world.agent(0), scene.world.keeper(0));
    let mut recovered = Duration::ZERO;
    for (name, harm) in HARMS {
        let before = scene.deadline().context("a lease is published")?;
        harm(&scene.page)?;
        let fault = now();
        scene.takes_work(name)?;
        recovered = recovered.max(since(fault));
        scene.outlive(before)?;
        let ended = scene.world.lines("runs").iter().any(|line| line == "end 1");
        scene.promises.require(!ended, format!("page {name}: what ran under the lease was ended"));
    }
    scene.cut(1)?;
    let still = (scene.world.agent(0), scene.world.keeper(0)) == pids && pids.0.is_some_and(alive);
    scene.promises.require(still, "agent or keeper has ended");
    finish(&scene.world, &mut scene.promises, &scene.id, 2)?;
    let happened =
        "the page was written again; what ran went on, and ended with its lease at the cut; what came started";
    Ok(scene.promises.outcome(happened, None, Some(recovered)))
}

/// Whether the task outlives an agent that is gone as long as a lease is left to the machine's speed: it may be tried again.
fn harmed_unseen(_: &mut Round) -> Result<Outcome> {
    let mut scene = Scene::set(LONG_BEAT)?;
    let keeper = scene.world.keeper(0);
    let mut recovered = Duration::ZERO;
    for (name, harm) in HARMS {
        scene.world.kill_agent(0);
        harm(&scene.page)?;
        let fault = now();
        scene.world.start_sidecar_through(0, scene.proxy.url(), &[], &[])?;
        scene.takes_work(name)?;
        recovered = recovered.max(since(fault));
    }
    let attempt = scene.running()?;
    wait_line(&scene.world, &format!("tick {attempt}"))?;
    scene.cut(attempt)?;
    scene.promises.require(scene.world.keeper(0) == keeper, "the keeper has ended");
    finish_apart(&scene.world, &mut scene.promises)?;
    let happened = "the next agent wrote it again; what ran was ended with its lease at the cut; what came started";
    Ok(scene.promises.outcome(happened, None, Some(recovered)))
}
