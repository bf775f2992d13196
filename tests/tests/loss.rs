//! What is lost is replaced by its policy, and whatever comes back, one result is accepted.
//!
//! Each copy of a task writes `start`, `tick` and `end` lines with its attempt's number into one file, so that the file tells who ran when.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::fmt::Write as _;
use std::process::Command;
use tests::proxy::Proxy;
use tests::world::{World, alive, signal, wait_for};

/// Short beats, since losses are the subject here; still long enough that a busy machine's hiccup is none.
const BEAT: &str = "500ms";

/// Runs until the file `done<attempt>` or `done` is there, and tells about it in `runs`.
fn script(world: &World) -> String {
    let dir = world.dir().display();
    format!(
        "n=$INFORMER_ATTEMPT; say() {{ echo \"$1 $n $(date +%s%N)\" >> {dir}/runs; }}\n\
         trap 'say end; exit 0' TERM; say start\n\
         while [ ! -e {dir}/done$n ] && [ ! -e {dir}/done ]; do say tick; sleep 0.03; done\n\
         say end"
    )
}

fn submit(world: &World, args: &[&str]) -> Result<String> {
    world.submit(&[args, &["--", "sh", "-c", &script(world)]].concat())
}

/// The lines of `runs` as (word, attempt).
fn runs(world: &World) -> Vec<(String, u64)> {
    let text = std::fs::read_to_string(world.dir().join("runs")).unwrap_or_default();
    let parse = |line: &str| {
        let mut words = line.split(' ');
        Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
    };
    text.lines().filter_map(parse).collect()
}

fn wait_run(world: &World, word: &str, attempt: u64) -> Result<()> {
    let wanted = (word.to_owned(), attempt);
    wait_for(&format!("attempt {attempt} says {word}"), || runs(world).contains(&wanted).then_some(()))
}

/// Each copy was gone before the next one started.
fn assert_one_at_a_time(world: &World) {
    let runs = runs(world);
    let order: Vec<u64> = runs.iter().map(|(_, attempt)| *attempt).collect();
    assert!(order.is_sorted(), "copies overlapped: {runs:?}");
}

/// Each attempt was started once.
fn assert_started_once(world: &World, attempts: u64) {
    let starts: Vec<u64> = runs(world).iter().filter(|(word, _)| word == "start").map(|(_, n)| *n).collect();
    assert_eq!(starts, (1..=attempts).collect::<Vec<_>>());
}

fn attempt(task: &Value, number: u64) -> &Value {
    let attempts = task["attempts"].as_array().map_or(&[][..], Vec::as_slice);
    attempts.iter().find(|attempt| attempt["number"] == number).unwrap_or(&Value::Null)
}

/// How many attempts of the task have been accepted.
fn accepted(task: &Value) -> usize {
    let attempts = task["attempts"].as_array().map_or(&[][..], Vec::as_slice);
    attempts.iter().filter(|attempt| attempt["state"] == "succeeded").count()
}

fn kinds(world: &World, id: &str) -> Result<Vec<String>> {
    Ok(world.history(id)?.into_iter().map(|(kind, _)| kind).collect())
}

fn has(history: &[(String, String)], kind: &str, detail: &str) -> bool {
    history.iter().any(|(k, d)| k == kind && d.contains(detail))
}

/// The box that attempt `number` runs on.
fn box_of(world: &World, id: &str, number: u64) -> Result<usize> {
    let task = world.wait_attempt(id, number, &["running"])?;
    world.sidecar_named(attempt(&task, number)["sidecar"].as_str().context("a sidecar")?)
}

fn boxes(count: usize) -> Result<World> {
    let mut world = World::empty()?;
    world.beat = BEAT;
    world.start_informer(&[])?;
    for n in 0..count {
        world.start_sidecar(n, &[], &[])?;
    }
    world.wait_linked(count)?;
    Ok(world)
}

/// Two sidecars, each behind a proxy of its own.
fn proxied(beat: &'static str) -> Result<(World, Vec<Proxy>)> {
    let mut world = World::empty()?;
    world.beat = beat;
    world.start_informer(&[])?;
    let proxies = vec![Proxy::to(world.url())?, Proxy::to(world.url())?];
    for (n, proxy) in proxies.iter().enumerate() {
        world.start_sidecar_through(n, proxy.url(), &[], &[])?;
    }
    world.wait_linked(2)?;
    Ok((world, proxies))
}

#[test]
fn a_killed_box_is_replaced_by_the_other() -> Result<()> {
    let mut world = boxes(2)?;
    let id = submit(&world, &["--tries", "1"])?;
    let first = box_of(&world, &id, 1)?;
    wait_run(&world, "tick", 1)?;
    world.kill_box(first);
    let second = box_of(&world, &id, 2)?;
    assert_ne!(first, second, "a lost sidecar was given its task again");
    wait_run(&world, "tick", 2)?;
    world.touch("done2")?;
    let task = world.wait_state(&id, &["succeeded"])?;
    assert_eq!(accepted(&task), 1);
    assert_eq!(attempt(&task, 2)["state"], "succeeded", "{task}");
    let history = world.history(&id)?;
    assert!(has(&history, "presumed_lost", "missed 3 beats"), "{history:?}");
    assert!(has(&history, "retry", "infrastructure failure 1 of 3"), "{history:?}");
    assert!(!has(&history, "retry", "own failure"), "a loss was charged to the task: {history:?}");
    assert_started_once(&world, 2);
    // The box comes back with its records: what ran there is told and changes nothing.
    world.start_sidecar(first, &[], &[])?;
    world.wait_linked(2)?;
    let task = world.wait_attempt(&id, 1, &["cancelled", "late", "lost"])?;
    assert_eq!((accepted(&task), &task["state"]), (1, &Value::from("succeeded")));
    Ok(())
}

#[test]
fn a_policy_without_retries_fails_at_the_first_loss() -> Result<()> {
    let mut world = boxes(2)?;
    let file = world.dir().join("task.json");
    let body = serde_json::json!({"retry": {"no_infrastructure_retry": true}, "command": {"argv": ["sh", "-c", script(&world)]}});
    std::fs::write(&file, body.to_string())?;
    let id = world.submit(&["-f", &file.to_string_lossy()])?;
    let n = box_of(&world, &id, 1)?;
    world.kill_box(n);
    let task = world.wait_state(&id, &["failed"])?;
    assert_eq!((&task["reason"], &task["attempts"][1]), (&Value::from("lost"), &Value::Null), "{task}");
    assert_eq!(world.informer(&["wait", &id])?.status.code(), Some(125));
    Ok(())
}

#[test]
fn own_failures_and_losses_have_budgets_of_their_own() -> Result<()> {
    let mut world = boxes(3)?;
    let file = world.dir().join("task.json");
    let own = format!("case $INFORMER_ATTEMPT in 1) exit 3;; 4) exit 4;; esac\n{}", script(&world));
    let retry = serde_json::json!({"tries": 2, "max_infrastructure": 2, "backoff": "1ms"});
    std::fs::write(&file, serde_json::json!({"retry": retry, "command": {"argv": ["sh", "-c", own]}}).to_string())?;
    let id = world.submit(&["-f", &file.to_string_lossy()])?;
    for lost in [2, 3] {
        let n = box_of(&world, &id, lost)?;
        world.kill_box(n);
    }
    let task = world.wait_state(&id, &["failed"])?;
    assert_eq!(task["exit_code"], 4, "{task}");
    let history = world.history(&id)?;
    for detail in ["own failure 1 of 2", "infrastructure failure 1 of 2", "infrastructure failure 2 of 2"] {
        assert!(has(&history, "retry", detail), "{detail} is missing in {history:?}");
    }
    Ok(())
}

#[test]
fn a_budget_of_losses_is_spent_and_then_the_task_fails() -> Result<()> {
    let mut world = boxes(2)?;
    let file = world.dir().join("task.json");
    let command = serde_json::json!({"argv": ["sh", "-c", script(&world)]});
    let body = serde_json::json!({"retry": {"max_infrastructure": 1}, "command": command});
    std::fs::write(&file, body.to_string())?;
    let id = world.submit(&["-f", &file.to_string_lossy()])?;
    for lost in [1, 2] {
        let n = box_of(&world, &id, lost)?;
        world.kill_box(n);
    }
    let task = world.wait_state(&id, &["failed"])?;
    assert_eq!(task["reason"], "lost", "{task}");
    assert!(attempt(&task, 3).is_null(), "{task}");
    Ok(())
}

/// Loses the sidecar of a task that must not run twice, in some way; its replacement starts when the old copy is gone.
fn never_two(flags: &[&str], lose: impl FnOnce(&mut World, &[Proxy], usize)) -> Result<(World, Vec<Proxy>, String)> {
    let (mut world, proxies) = proxied(BEAT)?;
    let id = submit(&world, flags)?;
    let first = box_of(&world, &id, 1)?;
    wait_run(&world, "tick", 1)?;
    lose(&mut world, &proxies, first);
    wait_run(&world, "start", 2)?;
    world.touch("done2")?;
    let task = world.wait_state(&id, &["succeeded"])?;
    assert_eq!((accepted(&task), &attempt(&task, 2)["state"]), (1, &Value::from("succeeded")), "{task}");
    assert_one_at_a_time(&world);
    assert_started_once(&world, 2);
    Ok((world, proxies, id))
}

const STOP: &[&str] = &["--on-disconnect", "stop", "--stop-grace", "1s"];
const EXCLUSIVE: &[&str] = &["--exclusive", "--accept-weak-fencing", "--stop-grace", "1s"];

#[test]
fn a_stop_task_cut_off_is_gone_before_its_replacement_starts() -> Result<()> {
    let (world, proxies, id) = never_two(STOP, |_, proxies, n| proxies[n].cut())?;
    for proxy in &proxies {
        proxy.heal();
    }
    let task = world.wait_attempt(&id, 1, &["cancelled", "lost", "late"])?;
    assert_eq!((&task["state"], accepted(&task)), (&Value::from("succeeded"), 1), "{task}");
    Ok(())
}

#[test]
fn an_exclusive_task_cut_off_is_gone_before_its_replacement_starts() -> Result<()> {
    never_two(EXCLUSIVE, |_, proxies, n| proxies[n].cut()).map(drop)
}

#[test]
fn so_it_is_when_only_the_way_up_is_cut() -> Result<()> {
    never_two(STOP, |_, proxies, n| proxies[n].cut_up()).map(drop)
}

#[test]
fn so_it_is_with_the_agent_killed() -> Result<()> {
    never_two(EXCLUSIVE, |world, _, n| world.kill_agent(n)).map(drop)
}

#[test]
fn so_it_is_with_the_agent_stopped() -> Result<()> {
    let (world, _proxies, id) = never_two(EXCLUSIVE, |world, _, n| stop_agent(world, n))?;
    // It wakes up and finds that its lease is over and its attempt ended.
    for n in 0..2 {
        signal(world.agent(n).context("an agent")?, rustix::process::Signal::CONT);
    }
    world.wait_linked(2)?;
    let task = world.wait_attempt(&id, 1, &["cancelled", "lost", "late"])?;
    assert_eq!((&task["state"], accepted(&task)), (&Value::from("succeeded"), 1), "{task}");
    Ok(())
}

fn stop_agent(world: &World, n: usize) {
    let agent = world.agent(n).expect("the agent was started");
    signal(agent, rustix::process::Signal::STOP);
}

#[test]
fn so_it_is_with_agent_keeper_and_monitors_killed() -> Result<()> {
    never_two(EXCLUSIVE, |world, _, n| world.kill_box(n)).map(drop)
}

#[test]
fn with_continue_the_first_result_wins_and_the_other_is_late() -> Result<()> {
    let (world, proxies) = proxied(BEAT)?;
    let id = submit(&world, &[])?;
    let first = box_of(&world, &id, 1)?;
    wait_run(&world, "tick", 1)?;
    proxies[first].cut();
    wait_run(&world, "tick", 2)?;
    let why = world.json(&["why", &id, "--json"])?;
    assert!(why["details"].to_string().contains("may still run on lost sidecar"), "{why}");
    world.touch("done2")?;
    world.wait_state(&id, &["succeeded"])?;
    // The original runs on, ends, and its result comes when the network is back.
    world.touch("done1")?;
    wait_run(&world, "end", 1)?;
    proxies[first].heal();
    let task = world.wait_attempt(&id, 1, &["late"])?;
    assert_eq!((&task["state"], &attempt(&task, 2)["state"]), (&Value::from("succeeded"), &Value::from("succeeded")));
    assert_eq!(attempt(&task, 1)["exit_code"], 0, "the late result is stored: {task}");
    let history = kinds(&world, &id)?;
    assert!(history.contains(&"late".to_owned()), "{history:?}");
    assert_eq!(history.iter().filter(|kind| *kind == "succeeded").count(), 1, "{history:?}");
    assert_started_once(&world, 2);
    Ok(())
}

#[test]
fn an_original_that_finished_first_wins_and_its_replacement_is_stopped() -> Result<()> {
    let (world, proxies) = proxied(BEAT)?;
    let id = submit(&world, &[])?;
    let first = box_of(&world, &id, 1)?;
    wait_run(&world, "tick", 1)?;
    proxies[first].cut();
    wait_run(&world, "tick", 2)?;
    world.touch("done1")?;
    wait_run(&world, "end", 1)?;
    proxies[first].heal();
    let task = world.wait_state(&id, &["succeeded"])?;
    assert_eq!(attempt(&task, 1)["state"], "succeeded", "{task}");
    wait_run(&world, "end", 2)?;
    let task = world.wait_attempt(&id, 2, &["cancelled"])?;
    assert_eq!((&task["state"], accepted(&task)), (&Value::from("succeeded"), 1), "{task}");
    assert_started_once(&world, 2);
    Ok(())
}

#[test]
fn of_two_running_copies_one_is_kept_and_one_result_accepted() -> Result<()> {
    let (world, proxies) = proxied(BEAT)?;
    let id = submit(&world, &[])?;
    let first = box_of(&world, &id, 1)?;
    wait_run(&world, "tick", 1)?;
    proxies[first].cut();
    wait_run(&world, "tick", 2)?;
    proxies[first].heal();
    let stopped = wait_for("one of the copies has ended", || {
        runs(&world).iter().find(|(word, _)| word == "end").map(|(_, attempt)| *attempt)
    })?;
    let kept = 3 - stopped;
    world.wait_attempt(&id, stopped, &["cancelled"])?;
    world.touch(&format!("done{kept}"))?;
    let task = world.wait_state(&id, &["succeeded"])?;
    assert_eq!((accepted(&task), &attempt(&task, kept)["state"]), (1, &Value::from("succeeded")), "{task}");
    assert!(attempt(&task, 3).is_null(), "{task}");
    Ok(())
}

/// Something short happens to the network of a running task; nobody notices but the link.
fn blip(happens: impl FnOnce(&World, &Proxy) -> Result<()>) -> Result<()> {
    // Long beats: between suspicion and the lease's end lie four seconds and a half, which no busy machine sleeps through.
    let (world, proxies) = proxied("3s")?;
    let id = submit(&world, &["--on-disconnect", "stop"])?;
    let first = box_of(&world, &id, 1)?;
    wait_run(&world, "tick", 1)?;
    happens(&world, &proxies[first])?;
    world.wait_linked(2)?;
    world.touch("done")?;
    let task = world.wait_state(&id, &["succeeded"])?;
    assert!(attempt(&task, 2).is_null(), "a blip cost an attempt: {task}");
    let history = kinds(&world, &id)?;
    assert!(!history.contains(&"presumed_lost".to_owned()), "{history:?}");
    assert_started_once(&world, 1);
    Ok(())
}

fn wait_suspect(world: &World) -> Result<()> {
    wait_for("a sidecar is suspect", || {
        let sidecars = world.json(&["sidecars", "--json"]).ok()?;
        sidecars.as_array()?.iter().any(|sidecar| sidecar["state"] == "suspect").then_some(())
    })
}

#[test]
fn a_blip_shorter_than_the_lease_disturbs_nothing() -> Result<()> {
    blip(|world, proxy| {
        proxy.cut();
        wait_suspect(world)?;
        proxy.heal();
        Ok(())
    })
}

#[test]
fn a_blip_of_one_direction_disturbs_nothing() -> Result<()> {
    blip(|world, proxy| {
        proxy.cut_up();
        wait_suspect(world)?;
        proxy.heal();
        Ok(())
    })
}

#[test]
fn a_reset_connection_is_opened_again_and_disturbs_nothing() -> Result<()> {
    blip(|_, proxy| {
        proxy.reset();
        Ok(())
    })
}

#[test]
fn a_sidecar_that_hears_nothing_stops_its_stop_tasks_and_the_task_still_ends_once() -> Result<()> {
    let (world, proxies) = proxied(BEAT)?;
    let id = submit(&world, STOP)?;
    let first = box_of(&world, &id, 1)?;
    wait_run(&world, "tick", 1)?;
    // The informer goes on hearing beats: only the sidecar can know that its lease ends.
    proxies[first].cut_down();
    wait_run(&world, "end", 1)?;
    proxies[first].heal();
    wait_run(&world, "start", 2)?;
    world.touch("done")?;
    let task = world.wait_state(&id, &["succeeded"])?;
    assert_eq!(accepted(&task), 1, "{task}");
    assert_one_at_a_time(&world);
    Ok(())
}

/// A network namespace with one wire to this one; gone when it is dropped.
struct Wire {
    name: String,
    host: String,
}

impl Wire {
    /// `None` where the machine does not let us, with the reason printed.
    fn new(test: &str) -> Option<Self> {
        let id = std::process::id();
        // Interface names have at most 15 characters.
        let wire = Self { name: format!("inf{}", id % 1_000_000), host: format!("10.231.{}.1", id % 250) };
        let (name, host) = (&wire.name, &wire.host);
        let far = format!("10.231.{}.2", id % 250);
        let made = (|| {
            run("nft --version")?;
            run(&format!("ip netns add {name}"))?;
            run(&format!("ip link add {name}a type veth peer name {name}b netns {name}"))?;
            run(&format!("ip addr add {host}/30 dev {name}a"))?;
            run(&format!("ip link set {name}a up"))?;
            run(&format!("ip -n {name} addr add {far}/30 dev {name}b"))?;
            run(&format!("ip -n {name} link set {name}b up"))?;
            run(&format!("ip -n {name} link set lo up"))?;
            run(&format!("ip netns exec {name} nft add table inet cut"))
        })();
        match made {
            Ok(()) => Some(wire),
            Err(error) => {
                println!("SKIP {test}: {error:#}");
                None
            }
        }
    }

    /// Every packet of the namespace is dropped, in and out.
    fn cut(&self) -> Result<()> {
        let mut rules = String::new();
        for hook in ["input", "output"] {
            writeln!(rules, "add chain inet cut {hook} {{ type filter hook {hook} priority 0; policy drop; }}")?;
        }
        let file = std::env::temp_dir().join(format!("{}.nft", self.name));
        std::fs::write(&file, rules)?;
        let done = run(&format!("ip netns exec {} nft -f {}", self.name, file.display()));
        std::fs::remove_file(&file)?;
        done
    }

    fn heal(&self) -> Result<()> {
        run(&format!("ip netns exec {} nft flush ruleset", self.name))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // The pair goes with one of its ends; what is not there any more need not be removed.
        let _ = run(&format!("ip link del {}a", self.name));
        let _ = run(&format!("ip netns del {}", self.name));
    }
}

fn run(line: &str) -> Result<()> {
    let mut words = line.split_whitespace();
    let program = words.next().context("a program")?;
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output =
        Command::new(program).args(words).env("PATH", path).output().with_context(|| format!("no {program}"))?;
    ensure!(output.status.success(), "`{line}`: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

#[test]
fn dropped_packets_are_a_loss_and_a_late_result_is_not_applied() -> Result<()> {
    let test = "dropped_packets_are_a_loss_and_a_late_result_is_not_applied";
    let Some(wire) = Wire::new(test) else { return Ok(()) };
    let mut world = World::empty()?;
    world.beat = BEAT;
    world.start_informer(&[])?;
    // The informer listens on the loopback only; this end of the wire leads there.
    let proxy = Proxy::between(&format!("{}:0", wire.host), world.url())?;
    world.start_sidecar_through(0, proxy.url(), &["ip", "netns", "exec", &wire.name], &[])?;
    world.wait_linked(1)?;
    let id = submit(&world, &[])?;
    wait_run(&world, "tick", 1)?;
    world.start_sidecar(1, &[], &[])?;
    world.wait_linked(2)?;
    wire.cut()?;
    wait_run(&world, "tick", 2)?;
    world.touch("done2")?;
    world.wait_state(&id, &["succeeded"])?;
    world.touch("done1")?;
    wait_run(&world, "end", 1)?;
    wire.heal()?;
    let task = world.wait_attempt(&id, 1, &["late"])?;
    assert_eq!((&task["state"], accepted(&task)), (&Value::from("succeeded"), 1), "{task}");
    assert!(world.agent(0).is_some_and(alive), "the agent outlived the cut");
    Ok(())
}
