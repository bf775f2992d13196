//! A busy processor and a disk that hangs end no lease: beats leave on time.

use anyhow::{Context as _, Result};
use serde_json::Value;
use tests::world::life::{Burners, Frozen};
use tests::world::{World, wait_for};

/// Beats to be heard under pressure: more than two leases long.
const BEATS: usize = 8;
/// More than the machine has, mostly.
const BURNERS: usize = 4;
/// A journalled file system of the sidecar's own, which can be frozen.
const DISK: &str = "truncate -s 64M \"$1.img\" && mkfs.ext4 -q \"$1.img\" && mount -o loop \"$1.img\" \"$1\"";

/// The states that the only sidecar was seen in while so many of its beats were heard.
fn listen(world: &World, beats: usize) -> Result<Vec<String>> {
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

fn history(world: &World, id: &str) -> Result<Vec<String>> {
    let task = world.json(&["show", id, "--history", "--json"])?;
    let events = task["history"].as_array().context("a history")?;
    Ok(events.iter().filter_map(|event| event["kind"].as_str().map(str::to_owned)).collect())
}

fn waiting_script(world: &World) -> String {
    format!("while [ ! -e {}/go ]; do sleep 0.05; done", world.dir().display())
}

fn check_undisturbed(world: &World, id: &str, states: &[String]) -> Result<Value> {
    assert!(!states.iter().any(|state| state == "lost"), "{states:?}");
    let task = world.wait_state(id, &["succeeded", "failed", "cancelled"])?;
    let history = history(world, id)?;
    assert_eq!((&task["state"], task["attempts"].as_array().map(Vec::len)), (&"succeeded".into(), Some(1)), "{task}");
    assert!(!history.iter().any(|kind| kind == "presumed_lost" || kind == "lost"), "{history:?}");
    Ok(task)
}

#[test]
fn beats_leave_on_time_under_full_processor_load() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let id = world.submit(&["--", "sh", "-c", &waiting_script(&world)])?;
    world.wait_state(&id, &["running"])?;
    let burners = Burners::new(BURNERS, world.dir())?;
    let states = listen(&world, BEATS)?;
    drop(burners);
    world.touch("go")?;
    check_undisturbed(&world, &id, &states)?;
    Ok(())
}

#[test]
fn beats_leave_on_time_with_the_disk_blocked_and_the_processor_busy() -> Result<()> {
    let test = "beats_leave_on_time_with_the_disk_blocked_and_the_processor_busy";
    let mut world = World::empty()?;
    if let Err(error) = world.hide_sidecar(DISK) {
        println!("SKIP {test}: {error:#}");
        return Ok(());
    }
    world.start_informer(&[])?;
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    let id = world.submit(&["--", "sh", "-c", &waiting_script(&world)])?;
    world.wait_state(&id, &["running"])?;
    let frozen = Frozen::new(&world, &world.sidecars[0].data)?;
    let burners = Burners::new(BURNERS, world.dir())?;
    // Its row cannot be written: it is neither acknowledged nor started, and disturbs nobody.
    let second = world.submit(&["--", "true"])?;
    let states = listen(&world, BEATS)?;
    let state = world.task(&second)?["state"].clone();
    drop(burners);
    drop(frozen);
    assert_eq!(state, "assigned", "what no ledger holds was started");
    world.touch("go")?;
    check_undisturbed(&world, &id, &states)?;
    check_undisturbed(&world, &second, &states)?;
    Ok(())
}
