//! The suite can see: with one wrong line in informer or sidecar, chosen at run time, the checker finds the invariant that it breaks. Each
//! round is also played without the mistake, and then all is well.

#![cfg(feature = "faults")]

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use tests::chaos::checker::Verdict;
use tests::chaos::client::is_terminal;
use tests::chaos::flow::{self, Flow};
use tests::chaos::job::only;
use tests::chaos::probe::{Act, What};
use tests::chaos::{Case, Played, Round, disks, floods, pressure};
use tests::world::{World, signal, wait_for};

/// Rounds until a mistake must have shown. Each shows in almost every round; a machine that starts processes slowly may spare one.
const ROUNDS: u32 = 3;

/// One wrong line.
struct Mistake {
    /// The variable that chooses it, and its name.
    bug: (&'static str, &'static str),
    /// What it breaks, as the checker's line begins.
    invariant: u32,
    /// And what that line says.
    says: &'static str,
    play: fn(&mut Round) -> Result<Verdict>,
}

impl Mistake {
    fn is_caught(&self) -> Result<()> {
        let plain = (self.play)(&mut Round::new(1, 0, false)?)?;
        ensure!(plain == Verdict::default(), "without the mistake: {plain:#?}");
        let prefix = format!("invariant {}: ", self.invariant);
        let mut seen = Vec::new();
        for number in 0..ROUNDS {
            let mut round = Round::new(1, number, false)?;
            round.bug = Some(self.bug);
            let verdict = (self.play)(&mut round)?;
            if verdict.violations.iter().any(|line| line.starts_with(&prefix) && line.contains(self.says)) {
                return Ok(());
            }
            seen.extend(verdict.violations);
        }
        bail!("{:?} broke invariant {} unseen; seen was {seen:#?}", self.bug, self.invariant)
    }
}

/// As every round has it; and what it owes, an agent sends before it ends.
const PARTING: [&str; 5] = ["--slots", "4", "--cpu", "4000", "--stop-tasks-on-exit"];

fn boxes(round: &Round, count: usize, env: impl Fn(&World) -> Vec<(&'static str, String)>) -> Result<World> {
    let mut world = flow::world(round)?;
    world.start_informer(&[])?;
    let env = env(&world);
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    for n in 0..count {
        world.start_sidecar(n, flow::sidecar_args(), &env)?;
    }
    world.wait_linked(count)?;
    Ok(world)
}

/// So many jobs of one kind on so many boxes.
fn begin(round: &mut Round, count: usize, kind: &str, jobs: usize) -> Result<Flow> {
    let world = boxes(round, count, |_| Vec::new())?;
    let jobs = only(kind, jobs, &flow::probes(&world), &mut round.rng);
    Flow::over(round, world, jobs)
}

fn wait_act(flow: &Flow, attempt: u32, is: fn(&What) -> bool) -> Result<Act> {
    let key = &flow.jobs[0].key;
    wait_for(&format!("attempt {attempt} of {key} has come so far"), || {
        flow.acts().into_iter().find(|act| act.name == *key && act.attempt == attempt && is(&act.what))
    })
}

fn wait_start(flow: &Flow, attempt: u32) -> Result<Act> {
    wait_act(flow, attempt, |what| matches!(what, What::Start(..)))
}

fn wait_end(flow: &Flow, attempt: u32) -> Result<Act> {
    wait_act(flow, attempt, |what| matches!(what, What::End(_)))
}

/// The box that has the first job's first attempt: its number and its id.
fn holder(flow: &Flow) -> Result<(usize, String)> {
    wait_start(flow, 1)?;
    let id = flow.id(&flow.jobs[0].key).context("it was acknowledged")?;
    let task = wait_for("its task runs", || {
        flow.client.task(&id).filter(|task| task.attempts.first().is_some_and(|attempt| attempt.started_unix_ms > 0))
    })?;
    let sidecar = task.attempts[0].sidecar.clone();
    Ok((flow.world.sidecar_named(&sidecar)?, sidecar))
}

fn wait_over(flow: &Flow) -> Result<()> {
    for job in flow.jobs.iter() {
        let over = || flow.client.task(&flow.id(&job.key)?).filter(|task| is_terminal(task.state())).map(drop);
        wait_for(&format!("{} is over", job.key), over)?;
    }
    Ok(())
}

/// An agent is stopped for longer than its lease; `meanwhile` says when it goes on.
fn stopped(round: &mut Round, kind: &str, meanwhile: fn(&Flow) -> Result<()>) -> Result<Verdict> {
    let mut flow = begin(round, 2, kind, 1)?;
    let (n, id) = holder(&flow)?;
    let agent = flow.world.agent(n).context("the agent runs")?;
    flow.harm("agent stopped");
    signal(agent, Signal::STOP);
    let result = wait_start(&flow, 2).and_then(|_| meanwhile(&flow));
    signal(agent, Signal::CONT);
    result?;
    flow.wait_live(&id, true)?;
    flow.heal("agent goes on");
    flow.settle()
}

#[test]
fn another_payload_under_a_key() -> Result<()> {
    let play = |round: &mut Round| begin(round, 1, "short", 1)?.settle();
    Mistake { bug: ("INFORMER_BUG", "IgnoreDigest"), invariant: 2, says: "was not refused", play }.is_caught()
}

#[test]
fn two_accepted_results() -> Result<()> {
    let play = |round: &mut Round| {
        stopped(round, "longer", |flow| {
            wait_end(flow, 1)?;
            wait_end(flow, 2)?;
            wait_over(flow)
        })
    };
    Mistake { bug: ("INFORMER_BUG", "AcceptTwice"), invariant: 3, says: "were accepted", play }.is_caught()
}

#[test]
fn a_replacement_that_does_not_wait() -> Result<()> {
    let play = |round: &mut Round| stopped(round, "held", |_| Ok(()));
    Mistake { bug: ("INFORMER_BUG", "NoFenceWait"), invariant: 5, says: "attempt", play }.is_caught()
}

#[test]
fn an_order_to_stop_that_is_not_passed_on() -> Result<()> {
    let play = |round: &mut Round| begin(round, 1, "cancelled", 1)?.settle();
    Mistake { bug: ("SIDECAR_BUG", "IgnoreStop"), invariant: 6, says: "still runs", play }.is_caught()
}

#[test]
fn a_running_task_that_the_next_agent_gives_up() -> Result<()> {
    let play = |round: &mut Round| {
        let mut flow = begin(round, 1, "longer", 1)?;
        let (n, id) = holder(&flow)?;
        flow.harm("agent killed");
        flow.world.kill_agent(n);
        flow.world.start_sidecar(n, flow::sidecar_args(), &[])?;
        flow.wait_live(&id, true)?;
        flow.heal("agent back");
        flow.settle()
    };
    let says = "its monitor was left alone";
    Mistake { bug: ("SIDECAR_BUG", "ForgetRunning"), invariant: 7, says, play }.is_caught()
}

/// The box is gone when its logs are read: what was to be stored is all there is.
#[test]
fn a_log_that_is_not_stored() -> Result<()> {
    let play = |round: &mut Round| {
        let mut world = flow::world(round)?;
        world.start_informer(&[])?;
        world.start_sidecar(0, &PARTING, &[])?;
        world.wait_linked(1)?;
        let jobs = only("short", 1, &flow::probes(&world), &mut round.rng);
        let mut flow = Flow::over(round, world, jobs)?;
        wait_over(&flow)?;
        flow.harm("box replaced");
        flow.world.terminate_agent(0)?;
        flow.world.kill_box(0);
        std::fs::remove_dir_all(&flow.world.sidecars[0].data)?;
        flow.world.start_sidecar(0, flow::sidecar_args(), &[])?;
        flow.wait_all_live()?;
        flow.heal("another box");
        flow.settle()
    };
    let says = "its log is not to be had";
    Mistake { bug: ("SIDECAR_BUG", "PurgeBeforeStored"), invariant: 8, says, play }.is_caught()
}

#[test]
fn a_slot_that_stays_booked() -> Result<()> {
    let play = |round: &mut Round| begin(round, 1, "failing", 1)?.settle();
    Mistake { bug: ("INFORMER_BUG", "LeakSlot"), invariant: 9, says: "in its books", play }.is_caught()
}

/// The monitor of the first attempt dies, and takes one of the task's own two tries with it.
#[test]
fn a_loss_that_is_charged() -> Result<()> {
    let play = |round: &mut Round| {
        let world = boxes(round, 1, |world| {
            let once = flow::once(world).to_string_lossy().into_owned();
            vec![("KEEPER_FAILPOINT", "after-spawned".to_owned()), ("KEEPER_FAILPOINT_ONCE", once)]
        })?;
        let jobs = only("failing", 1, &flow::probes(&world), &mut round.rng);
        let mut flow = Flow::over(round, world, jobs)?;
        flow.monitors_harmed = true;
        flow.settle()
    };
    Mistake { bug: ("INFORMER_BUG", "ChargeLoss"), invariant: 13, says: "1 tries of 2", play }.is_caught()
}

/// A case of the suite, which plays without a mistake in a test of its own, violates this invariant when a daemon has this one.
fn is_caught_by(case: &Case, mistake: (&'static str, &'static str), invariant: u32) -> Result<()> {
    let mut round = Round::new(1, 0, false)?;
    round.bug = Some(mistake);
    match case.round(&mut round)? {
        Played::Skipped(reason) => println!("SKIP {}: {reason}", case.slug()),
        Played::Done(outcome) => {
            let prefix = format!("invariant {invariant}: ");
            let seen = outcome.violations.iter().any(|line| line.starts_with(&prefix));
            ensure!(seen, "{mistake:?} broke invariant {invariant} unseen: {outcome:#?}");
        }
    }
    Ok(())
}

#[test]
fn a_flush_that_fails_and_is_taken_for_a_good_one() -> Result<()> {
    is_caught_by(&disks::INFORMER_EIO, ("INFORMER_BUG", "GoOnAfterFailedFlush"), 10)
}

#[test]
fn an_acknowledgement_before_its_commit_is_durable() -> Result<()> {
    is_caught_by(&disks::INFORMER_BLOCKED, ("INFORMER_BUG", "AcknowledgeBeforeFlush"), 1)
}

#[test]
fn a_beat_that_waits_for_the_ledger() -> Result<()> {
    is_caught_by(&pressure::DISK_AND_PROCESSOR, ("SIDECAR_BUG", "BeatBehindLedger"), 12)
}

#[test]
fn a_queue_towards_who_does_not_read_that_takes_too_much() -> Result<()> {
    is_caught_by(&floods::readers::LOGS, ("INFORMER_BUG", "HoardLogs"), 11)
}
