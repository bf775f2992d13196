//! What a sidecar knows of itself is moved away, or it is sent to another informer, while an exclusive task runs: part of the family of
//! [`super::disks`].
//!
//! Each copy of the task writes `start`, `tick` and `end` lines with its attempt's number into one file, so that the file tells whether
//! two of them ran at once.

use super::promises::{Promises, attempts, ended, since};
use super::{Case, Family, Outcome, Round, now};
use crate::world::{World, wait_for};
use anyhow::{Context as _, Result};
use std::fs;

/// The ledger is gone.
pub static LEDGER_LOST: Case = Case {
    fault: "a sidecar's ledger moved away",
    how: "kill -9 of the agent of an exclusive task, its ledger removed",
    family: Family::Disks,
    needs: &[],
    run: ledger_lost,
};

/// The ledger is gone, and the sidecar's id with it.
pub static IDENTITY_LOST: Case = Case {
    fault: "a sidecar's ledger and id lost",
    how: "kill -9 of the agent of an exclusive task, ledger and sidecar.id removed",
    family: Family::Disks,
    needs: &[],
    run: |round| {
        given_by_another(round, |world| {
            forget(world, &["ledger.db", "sidecar.id"])?;
            world.start_sidecar(0, &[], &[])?;
            Ok(None)
        })
    },
};

/// The next agent speaks to another informer.
pub static OTHER_INFORMER: Case = Case {
    fault: "a sidecar sent to another informer",
    how: "kill -9 of the agent of an exclusive task, started again with another informer's URL",
    family: Family::Disks,
    needs: &[],
    run: |round| {
        given_by_another(round, |world| {
            let mut other = World::empty()?;
            other.beat = BEAT;
            other.start_informer(&[])?;
            world.start_sidecar_through(0, other.url(), &[], &[])?;
            other.wait_linked(1)?;
            Ok(Some(other))
        })
    },
};

/// A lease is waited for here.
const BEAT: &str = "500ms";

pub(super) const EXCLUSIVE: &[&str] = &["--exclusive", "--accept-weak-fencing", "--stop-grace", "1s", "--tries", "1"];

/// An exclusive task runs on the first of two sidecars, until there is a file `done`.
fn busy() -> Result<(World, Promises, String)> {
    let mut world = World::empty()?;
    world.beat = BEAT;
    world.start_informer(&[])?;
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    let mut promises = Promises::default();
    let id = promises.submit(&world, &[EXCLUSIVE, &["--", "sh", "-c", &script(&world)]].concat())?;
    wait_line(&world, "tick 1")?;
    world.wait_attempt(&id, 1, &["running"])?;
    world.start_sidecar(1, &[], &[])?;
    world.wait_linked(2)?;
    Ok((world, promises, id))
}

/// What writes those lines, until there is a file `done`.
pub(super) fn script(world: &World) -> String {
    let dir = world.dir().display();
    format!(
        "say() {{ echo \"$1 $INFORMER_ATTEMPT\" >> {dir}/runs; }}; trap 'say end; exit 0' TERM; say start\n\
         while [ ! -e {dir}/done ]; do say tick; sleep 0.03; done\n\
         say end"
    )
}

pub(super) fn wait_line(world: &World, line: &str) -> Result<()> {
    wait_for(&format!("a copy says {line}"), || world.lines("runs").iter().any(|said| said == line).then_some(()))
}

/// Removes all files of the first sidecar whose names begin so.
fn forget(world: &World, names: &[&str]) -> Result<()> {
    for entry in fs::read_dir(&world.sidecars[0].data)? {
        let path = entry?.path();
        let name = path.file_name().context("a name")?.to_string_lossy().into_owned();
        if names.iter().any(|known| name.starts_with(known)) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// The task ends well, and of its copies none was beside another.
pub(super) fn finish_apart(world: &World, promises: &mut Promises) -> Result<()> {
    world.touch("done")?;
    promises.settle(world)?;
    let runs = world.lines("runs");
    let order = |line: &String| line.split(' ').nth(1).and_then(|number| number.parse::<u32>().ok());
    promises.require(runs.iter().map(order).is_sorted(), format!("invariant 5: two copies ran at once: {runs:?}"));
    Ok(())
}

/// The same, and there were so many.
pub(super) fn finish(world: &World, promises: &mut Promises, id: &str, copies: usize) -> Result<()> {
    finish_apart(world, promises)?;
    let (task, runs) = (world.task(id)?, world.lines("runs"));
    let starts = runs.iter().filter(|line| line.starts_with("start")).count();
    promises.require(starts == copies, format!("{starts} copies were started, not {copies}: {task}"));
    promises.require(attempts(&task).len() == copies, format!("it has not had {copies} attempts: {task}"));
    Ok(())
}

/// The next agent has the id of the last one and the records, and goes on as if nothing had happened.
fn ledger_lost(_: &mut Round) -> Result<Outcome> {
    let (mut world, mut promises, id) = busy()?;
    let before = sidecars(&world)?;
    world.kill_agent(0);
    forget(&world, &["ledger.db"])?;
    let fault = now();
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(2)?;
    let recovered = since(fault);
    let after = sidecars(&world)?;
    promises.require(before == after, format!("the sidecars were {before:?}, and are {after:?}"));
    finish(&world, &mut promises, &id, 1)?;
    let happened = "the next agent kept its id and went on from the records; the task ran once, and its end was told";
    Ok(promises.outcome(happened, None, Some(recovered)))
}

/// The ids of all sidecars that the informer knows, in order.
fn sidecars(world: &World) -> Result<Vec<String>> {
    let sidecars = world.json(&["sidecars", "--json"])?;
    let ids =
        sidecars.as_array().context("a list")?.iter().filter_map(|sidecar| Some(sidecar["id"].as_str()?.to_owned()));
    let mut ids: Vec<String> = ids.collect();
    ids.sort();
    Ok(ids)
}

/// The next agent earns its lease in a name in which the task was not given: the task ends with the lease under which it was, and only
/// then another copy starts.
fn given_by_another(_: &mut Round, start: impl Fn(&mut World) -> Result<Option<World>>) -> Result<Outcome> {
    let (mut world, mut promises, id) = busy()?;
    world.kill_agent(0);
    let fault = now();
    let other = start(&mut world)?;
    wait_line(&world, "start 2")?;
    let recovered = since(fault);
    finish(&world, &mut promises, &id, 2)?;
    // Whom the first sidecar serves from then on takes its work.
    let serving = other.as_ref().unwrap_or(&world);
    let works = takes_work(serving)?;
    promises.require(works, "the sidecar takes no work under its new name");
    let happened = "what ran for the other ended with its lease, and only then the second copy started";
    Ok(promises.outcome(happened, None, Some(recovered)))
}

/// A task that anybody may run ends well there.
fn takes_work(world: &World) -> Result<bool> {
    let id = world.submit(&["--", "true"])?;
    Ok(ended(world, &id)?["state"] == "succeeded")
}
