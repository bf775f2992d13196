//! Clocks that jump: the wall clock of informer and agent (libfaketime), and the boot clock that a keeper wakes up to (time namespaces).

use super::disks::place;
use super::pressure::listen;
use super::promises::{Promises, attempts, since, started, starts, waiting};
use super::{Absent, Case, Family, Need, Outcome, now};
use crate::world::{World, alive, wait_for};
use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The cases of this family.
pub static CASES: &[&Case] = &[&FORWARD, &BACK, &TIME_NAMESPACE, &OTHER_TIME_NAMESPACE];

const NEEDS: &[Need] = &[Need::Root, Need::Tool("unshare"), Need::Tool("nsenter"), Need::Tool("faketime")];

/// Informer and sidecar see a wall clock that jumps forward.
pub static FORWARD: Case = Case {
    fault: "wall clock jumps forward",
    how: "libfaketime in informer and sidecar: +1 h, then +1 day",
    family: Family::Clocks,
    needs: NEEDS,
    run: |_| jump(&[3_600, 86_400]),
};

/// And back.
pub static BACK: Case = Case {
    fault: "wall clock jumps back",
    how: "libfaketime in informer and sidecar: -1 h, then -1 day",
    family: Family::Clocks,
    needs: NEEDS,
    run: |_| jump(&[-3_600, -86_400]),
};

/// A keeper's boot clock is not the machine's.
pub static TIME_NAMESPACE: Case = Case {
    fault: "keeper in a time namespace",
    how: "unshare --time, boot clock +1 day; agent and keeper killed and started again",
    family: Family::Clocks,
    needs: &[Need::Root, Need::Tool("unshare"), Need::File("/proc/self/ns/time")],
    run: |_| time_namespaces(86_400, 86_400),
};

/// A keeper's boot clock is not the one under which its predecessor wrote start times down.
pub static OTHER_TIME_NAMESPACE: Case = Case {
    fault: "keeper restarted in another time namespace",
    how: "unshare --time, boot clock +1 day; agent and keeper killed and started again at +2 days",
    family: Family::Clocks,
    needs: &[Need::Root, Need::Tool("unshare"), Need::File("/proc/self/ns/time")],
    run: |_| time_namespaces(86_400, 172_800),
};

/// Beats heard after each jump: more than a lease.
const BEATS: usize = 5;
/// How near to its jump a faked clock must be: the time that a world takes, and far less than any jump.
const NEAR_SECONDS: i64 = 600;

/// The library that fakes the clock of processes with several threads.
fn library() -> Result<PathBuf> {
    let roots = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(Path::new);
    let below = |root: &Path| std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let dirs = roots.iter().flat_map(|root| below(root).chain([root.to_path_buf()]));
    let found = dirs.map(|dir| dir.join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    found.ok_or_else(|| Absent("there is no libfaketimeMT.so.1".to_owned()).into())
}

/// Seconds by which what the informer writes down is ahead of this process.
fn ahead(world: &World, id: &str) -> Result<i64> {
    let told = world.task(id)?["created_unix_ms"].as_i64().context("a time")?;
    let here = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    Ok((told - here) / 1000)
}

/// Jumps while a task runs, another waits for its delay, a third for its back-off and a fourth for a sidecar that does not exist.
fn jump(seconds: &[i64]) -> Result<Outcome> {
    let mut world = World::empty()?;
    let clock = world.dir().join("clock");
    std::fs::write(&clock, "+0")?;
    // The library keeps a file a process there, which a killed one leaves behind.
    let shared = place(&world.dir().join("shm"), "mount -t tmpfs none /dev/shm")?;
    world.put_informer(shared.enter());
    world.put_sidecars(shared.enter());
    let (library, file) = (library()?, clock.display().to_string());
    let env = [
        ("LD_PRELOAD", &*library.to_string_lossy()),
        ("FAKETIME_TIMESTAMP_FILE", &file),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    world.start_informer(&env)?;
    world.start_sidecar(0, &["--slots", "4", "--cpu", "8000"], &env)?;
    world.wait_linked(1)?;
    let mut promises = Promises::default();
    let limits = ["--timeout", "30m", "--total-timeout", "40m", "--queue-timeout", "20m"];
    let long = promises.submit(&world, &[&limits[..], &["--", "sh", "-c", &waiting(&world, "runs")]].concat())?;
    started(&world, "runs")?;
    let homeless = world.submit(&[&limits[..], &["--require", "nobody=has", "--", "true"]].concat())?;
    let mut recovered = None;
    // A delay counts from the client's clock, which does not jump: it is told before the clocks differ.
    promises.submit(&world, &["--delay", "2s", "--", "true"])?;
    for seconds in seconds {
        promises.submit(&world, &["--tries", "2", "--", "sh", "-c", "test $INFORMER_ATTEMPT = 2"])?;
        // By a rename, so that nobody reads half a number.
        std::fs::write(clock.with_extension("new"), format!("{seconds:+}"))?;
        std::fs::rename(clock.with_extension("new"), &clock)?;
        let fault = now();
        let probe = promises.submit(&world, &["--", "true"])?;
        let ahead = ahead(&world, &probe)?;
        promises.require((ahead - seconds).abs() < NEAR_SECONDS, format!("the clock did not jump: {ahead} s ahead"));
        let states = listen(&world, BEATS)?;
        promises
            .require(!states.contains(&"lost".to_owned()), format!("invariant 12: a jump ended a lease: {states:?}"));
        promises.require(
            !matches!(world.task(&homeless)?["state"].as_str(), Some("failed" | "cancelled")),
            "the wait for a sidecar timed out by a jump",
        );
        // All but the one that runs.
        wait_for("delay and back-off end", || {
            let list = world.json(&["list", "--json"]).ok()?;
            let open = list.as_array()?.iter().filter(|task| {
                ![&long, &homeless].iter().any(|id| task["id"] == **id)
                    && !matches!(task["state"].as_str(), Some("succeeded" | "failed" | "cancelled"))
            });
            (open.count() == 0).then_some(())
        })?;
        recovered = Some(since(fault));
    }
    world.touch("go-runs")?;
    promises.settle(&world)?;
    promises.require(starts(&world, "runs") == 1, "the running task was started again");
    Ok(promises.outcome("no lease, timeout, delay or back-off was harmed", None, recovered))
}

fn in_time_namespace(seconds: u32) -> Vec<String> {
    let seconds = seconds.to_string();
    ["unshare", "--time", "--boottime", &seconds, "--monotonic", &seconds].map(str::to_owned).into()
}

fn time_namespaces(first: u32, second: u32) -> Result<Outcome> {
    let mut world = World::empty()?;
    world.put_sidecars(in_time_namespace(first));
    world.start_informer(&[])?;
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    let mut promises = Promises::default();
    let id = promises.submit(&world, &["--tries", "1", "--", "sh", "-c", &waiting(&world, "runs")])?;
    let main = started(&world, "runs")?;
    world.wait_state(&id, &["running"])?;
    world.kill_agent(0);
    world.kill_keeper(0)?;
    let fault = now();
    world.put_sidecars(in_time_namespace(second));
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    let recovered = since(fault);
    wait_for("a keeper runs", || world.keeper(0))?;
    promises.require(alive(main), "invariant 7: the task ended with its keeper");
    listen(&world, BEATS)?;
    world.touch("go-runs")?;
    promises.settle(&world)?;
    let task = world.task(&id)?;
    promises.require(
        starts(&world, "runs") == 1 && attempts(&task).len() == 1,
        format!("invariant 7: it was not adopted: {task}"),
    );
    Ok(promises.outcome("the running task was adopted and its end told", None, Some(recovered)))
}
