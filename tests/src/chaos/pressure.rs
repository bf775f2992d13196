//! Beats under full load of processor, memory and disk: they leave on time, and no lease ends. Part of the family of [`super::limits`].

use super::disks::place;
use super::group::Group;
use super::promises::{Promises, since, started, starts, waiting};
use super::{Absent, Case, Family, Need, Outcome, Round, now};
use crate::world::life::{Burners, Frozen};
use crate::world::place::wrapped;
use crate::world::{World, wait_for};
use anyhow::{Context as _, Result};
use std::path::Path;
use std::process::{Child, Stdio};

/// Beats to be heard under pressure: more than two leases long.
const BEATS: usize = 8;
/// More than the machine has, mostly.
const BURNERS: usize = 4;
/// A journalled file system of the sidecar's own, which can be frozen.
const DISK: &str = "truncate -s 64M \"$1.img\" && mkfs.ext4 -q \"$1.img\" && mount -o loop \"$1.img\" \"$1\"";
/// Memory of a group in which an agent, its keeper and a hog must live together.
const MEMORY_BYTES: u64 = 80 << 20;
/// Holds 40 MB, reads a file of 400 MB over and over, and is the first to go if that is too much.
const HOG: &str = "echo 1000 > /proc/self/oom_score_adj; truncate -s 400M \"$1\"; \
     (head -c 40000000 /dev/zero; while :; do cat \"$1\"; done > /dev/null) | tail -c 40000000 > /dev/null";

/// Every processor busy.
pub static PROCESSOR: Case = Case {
    fault: "processors busy",
    how: "four loops that never sleep",
    family: Family::Limits,
    needs: &[],
    run: |_| under_processor_load(),
};

/// The ledger's disk does not answer, and every processor is busy.
pub static DISK_AND_PROCESSOR: Case = Case {
    fault: "sidecar's disk blocked, processors busy",
    how: "fsfreeze of an ext4 loop image, four loops that never sleep",
    family: Family::Limits,
    needs: &[Need::Root, Need::Tool("unshare"), Need::Tool("nsenter"), Need::Tool("mkfs.ext4"), Need::Tool("fsfreeze")],
    run: under_a_blocked_disk,
};

/// Memory is taken back as fast as it is used.
pub static MEMORY: Case = Case {
    fault: "memory scarce around a sidecar",
    how: "a memory cgroup of 80 MiB shared with a hog that reads 400 MB over and over",
    family: Family::Limits,
    needs: &[Need::Root],
    run: |_| under_scarce_memory(),
};

/// The states that the only sidecar was seen in while so many of its beats were heard.
///
/// # Errors
/// They are not heard.
pub(super) fn listen(world: &World, beats: usize) -> Result<Vec<String>> {
    let (mut heard, mut last_age, mut states) = (0, 0, Vec::new());
    wait_for(&format!("{beats} beats are heard"), || {
        let sidecars = world.json(&["sidecars", "--all", "--json"]).ok()?;
        let sidecar = sidecars.as_array()?.first()?;
        let state = sidecar["state"].as_str()?.to_owned();
        if states.last() != Some(&state) {
            states.push(state);
        }
        let age = sidecar["last_beat_age_ms"].as_u64()?;
        heard += usize::from(age < last_age);
        last_age = age;
        // A lost one beats no more: there is nothing to wait for.
        (heard >= beats || states.last().is_some_and(|state| state == "lost")).then_some(())
    })
    .with_context(|| format!("{heard} beats, states {states:?}"))?;
    Ok(states)
}

/// No lease ended, and each task was run once.
fn check_undisturbed(world: &World, promises: &mut Promises, states: &[String], ids: &[&str]) -> Result<()> {
    promises.require(!states.iter().any(|state| state == "lost"), format!("invariant 12: the lease ended: {states:?}"));
    world.touch("go-runs")?;
    promises.settle(world)?;
    promises.require(starts(world, "runs") == 1, "the running task was started again");
    for id in ids {
        let history = world.history(id)?;
        let lost = history.iter().any(|(kind, _)| kind == "presumed_lost" || kind == "lost");
        promises.require(!lost, format!("invariant 12: an attempt was presumed lost: {history:?}"));
    }
    Ok(())
}

fn running(world: &World, promises: &mut Promises) -> Result<String> {
    let id = promises.submit(world, &["--", "sh", "-c", &waiting(world, "runs")])?;
    started(world, "runs")?;
    world.wait_state(&id, &["running"])?;
    Ok(id)
}

fn under_processor_load() -> Result<Outcome> {
    let world = World::with_sidecars(1)?;
    let mut promises = Promises::default();
    let id = running(&world, &mut promises)?;
    let burners = Burners::new(BURNERS, world.dir())?;
    let states = listen(&world, BEATS)?;
    drop(burners);
    check_undisturbed(&world, &mut promises, &states, &[&id])?;
    Ok(promises.outcome("eight beats were heard, and no lease ended", None, None))
}

fn under_a_blocked_disk(round: &mut Round) -> Result<Outcome> {
    let mut world = World::empty()?;
    if let Some((variable, bug)) = round.bug {
        world.set(variable, bug.into());
    }
    let data = world.dir().join("sidecar-0");
    let place = place(&data, DISK)?;
    world.put_sidecars(place.enter());
    world.start_informer(&[])?;
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    let mut promises = Promises::default();
    let id = running(&world, &mut promises)?;
    let frozen = Frozen::new(&world, &data)?;
    let burners = Burners::new(BURNERS, world.dir())?;
    // Its row cannot be written: it is neither acknowledged nor started, and disturbs nobody.
    let second = promises.submit(&world, &["--", "true"])?;
    let states = listen(&world, BEATS)?;
    let state = world.task(&second)?["state"].clone();
    promises.require(state == "assigned", format!("what no ledger holds was started: {state}"));
    drop(burners);
    drop(frozen);
    let healed = now();
    world.wait_state(&second, &["succeeded"])?;
    let recovered = since(healed);
    check_undisturbed(&world, &mut promises, &states, &[&id, &second])?;
    let happened = "eight beats were heard, no lease ended; what no ledger could hold started when the disk answered";
    Ok(promises.outcome(happened, None, Some(recovered)))
}

fn under_scarce_memory() -> Result<Outcome> {
    // The group goes last: it can only be removed when nobody is in it.
    let group = Group::memory(MEMORY_BYTES).map_err(|error| Absent(format!("{error:#}")))?;
    let mut world = World::empty()?;
    world.put_sidecars(group.enter());
    world.start_informer(&[])?;
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    let mut promises = Promises::default();
    let id = running(&world, &mut promises)?;
    let hog = Hog::new(&world, &group)?;
    wait_for("the group is full", || group.was_full().then_some(()))?;
    let states = listen(&world, BEATS)?;
    let second = promises.submit(&world, &["--", "true"])?;
    world.wait_state(&second, &["succeeded"])?;
    drop(hog);
    check_undisturbed(&world, &mut promises, &states, &[&id, &second])?;
    Ok(promises.outcome("eight beats were heard, no lease ended, and a task was run meanwhile", None, None))
}

/// Eats the memory of a group until dropped, and whatever it started with it.
struct Hog {
    child: Child,
    mark: Vec<u8>,
}

impl Hog {
    fn new(world: &World, group: &Group) -> Result<Self> {
        let file = world.dir().join("hog");
        let mark = file.as_os_str().as_encoded_bytes().to_vec();
        let mut command = wrapped(&group.enter(), Path::new("sh"));
        let child = command.args(["-c", HOG, "sh"]).arg(file).stdin(Stdio::null()).stderr(Stdio::null()).spawn()?;
        Ok(Self { child, mark })
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        crate::world::processes_with(&self.mark).into_iter().for_each(crate::world::kill);
    }
}
