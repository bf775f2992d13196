//! SIGSTOP of each role: nobody is dead, and nobody can say so.
//!
//! The arithmetic of leases is what is tried here. An agent that does not run renews nothing, so its lease ends, on its own clock first:
//! `stop` attempts are ended by their monitors, which need nobody for it, before the informer starts another copy; `continue` attempts
//! run on. A monitor that does not run either is ended by its keeper.

use super::flow::{self, BEAT, FENCE_GRACE, Flow, between, until};
use super::job::{mix, only};
use super::probe::{Act, What};
use super::{Case, Family, Outcome, Round, now};
use crate::world::{signal, wait_for};
use anyhow::{Context as _, Result};
use keeper::lease::LeasePage;
use proto::v1;
use rustix::process::Signal;
use std::time::Duration;

/// The cases of this family.
pub static CASES: &[&Case] = &[&INFORMER, &INFORMER_SHORTLY, &AGENT, &KEEPER, &MONITOR, &MONITOR_ALONE];

const BOXES: usize = 2;
/// Room for all on either of the two.
const ROOMY: &[&str] = &["--slots", "16", "--cpu", "16000"];
/// Tasks that come and go meanwhile: one of every kind.
const JOBS: usize = 10;
/// Tasks that stay, of each of the two kinds: one of each on a box, mostly.
const STAYING: usize = 3;
/// What a signal on time may be late on a machine with two busy cores.
const LATENESS: Duration = Duration::from_secs(1);

/// The informer, for longer than every lease.
pub static INFORMER: Case = Case {
    fault: "informer stopped for longer than the leases",
    how: "SIGSTOP, SIGCONT when every lease has ended and the `stop` tasks are gone",
    family: Family::Stops,
    needs: &[],
    run: informer,
};

/// The informer, for less than a lease.
pub static INFORMER_SHORTLY: Case = Case {
    fault: "informer stopped for a beat",
    how: "SIGSTOP, SIGCONT after one beat",
    family: Family::Stops,
    needs: &[],
    run: informer_shortly,
};

/// An agent, past its lease.
pub static AGENT: Case = Case {
    fault: "agent stopped for longer than its lease",
    how: "SIGSTOP, SIGCONT when replacements run elsewhere",
    family: Family::Stops,
    needs: &[],
    run: agent,
};

/// A keeper, for more than a lease.
pub static KEEPER: Case = Case {
    fault: "keeper stopped",
    how: "SIGSTOP, SIGCONT after two leases",
    family: Family::Stops,
    needs: &[],
    run: keeper,
};

/// A monitor, and its agent with it.
pub static MONITOR: Case = Case {
    fault: "agent and monitor stopped for longer than the lease",
    how: "SIGSTOP of the agent and of the monitor of a `stop` task, SIGCONT when its replacement runs",
    family: Family::Stops,
    needs: &[],
    run: monitor,
};

/// A monitor alone.
pub static MONITOR_ALONE: Case = Case {
    fault: "monitor stopped, its agent beats on",
    how: "SIGSTOP of the monitor of a running task, SIGCONT after two leases",
    family: Family::Stops,
    needs: &[],
    run: monitor_alone,
};

/// Tasks flow, and some that stay run on both boxes.
fn begin(round: &mut Round) -> Result<Flow> {
    let mut world = flow::world(round)?;
    world.start_informer(&[])?;
    for n in 0..BOXES {
        world.start_sidecar(n, ROOMY, &[])?;
    }
    world.wait_linked(BOXES)?;
    let dir = flow::probes(&world);
    let mut jobs = only("held", STAYING, &dir, &mut round.rng);
    jobs.extend(only("kept", STAYING, &dir, &mut round.rng));
    jobs.extend(mix(JOBS, &dir, &mut round.rng));
    let flow = Flow::over(round, world, jobs)?;
    for key in flow.jobs.iter().take(2 * STAYING).map(|job| job.key.clone()) {
        wait_start(&flow, &key, 1)?;
    }
    Ok(flow)
}

fn wait_start(flow: &Flow, key: &str, attempt: u32) -> Result<Act> {
    wait_for(&format!("{key} attempt {attempt} has started"), || {
        let is = |act: &Act| act.name == key && act.attempt >= attempt && matches!(act.what, What::Start(..));
        flow.acts().into_iter().find(is)
    })
}

/// What runs now: the newest attempt of each task of a kind, with the sidecar that has it.
fn running(flow: &Flow, kind: &str) -> Result<Vec<(Act, String)>> {
    let mut found = Vec::new();
    for key in flow.jobs.iter().map(|job| &job.key).filter(|key| key.starts_with(kind)) {
        let id = flow.id(key).with_context(|| format!("{key} was not acknowledged"))?;
        let act = flow.acts().into_iter().rfind(|act| act.name == *key && matches!(act.what, What::Start(..)));
        let act = act.with_context(|| format!("{key} has not started"))?;
        let task = wait_for("the task is told", || flow.client.task(&id))?;
        let attempt = task.attempts.iter().find(|attempt| attempt.number == act.attempt);
        found.push((act, attempt.map(|attempt| attempt.sidecar.clone()).unwrap_or_default()));
    }
    Ok(found)
}

/// A box with `stop` tasks, and those; what stays on it of the others.
struct Chosen {
    n: usize,
    id: String,
    held: Vec<Act>,
    kept: Vec<Act>,
}

fn choose(flow: &Flow) -> Result<Chosen> {
    let held = running(flow, "held")?;
    let id = held.first().context("a held task runs")?.1.clone();
    let on = |all: Vec<(Act, String)>| all.into_iter().filter(|(_, on)| *on == id).map(|(act, _)| act).collect();
    let (held, kept) = (on(held), on(running(flow, "kept")?));
    Ok(Chosen { n: flow.world.sidecar_named(&id)?, id, held, kept })
}

/// When the lease of a box ends, as its monitors know it.
fn deadline(flow: &Flow, n: usize) -> Result<Duration> {
    let page = LeasePage::open(&flow.world.sidecars[n].data)?;
    Ok(Duration::from_nanos(page.deadline().context("a lease is published")?))
}

/// Waits until all these processes are gone; when the last one was.
fn wait_gone(flow: &Flow, acts: &[Act]) -> Result<Duration> {
    for act in acts {
        wait_for(&format!("{} attempt {} is gone", act.name, act.attempt), || (!flow.runs(act)).then_some(()))?;
    }
    Ok(now())
}

/// Waits until each of these tells an act after this moment.
fn wait_ticks(flow: &Flow, acts: &[Act], after: Duration) -> Result<()> {
    for act in acts {
        wait_for(&format!("{} attempt {} runs on", act.name, act.attempt), || {
            let ticks = |other: &Act| other.name == act.name && other.attempt == act.attempt && other.at > after;
            flow.acts().iter().any(ticks).then_some(())
        })?;
    }
    Ok(())
}

/// Judges when `stop` attempts ended: never before their lease, and not much later than its grace.
fn judge_end(round: &Round, outcome: &mut Outcome, lease: Duration, gone: Duration) {
    let limit = lease + FENCE_GRACE.1 + LATENESS;
    if round.timed && gone > limit {
        let late = gone - limit;
        outcome
            .violations
            .push(format!("invariant 5: `stop` attempts ended {late:?} later than their lease lets them"));
    }
}

fn informer(round: &mut Round) -> Result<Outcome> {
    let mut flow = begin(round)?;
    let (held, kept) = (running(&flow, "held")?, running(&flow, "kept")?);
    let informer = flow.world.informer_pid().context("the informer runs")?;
    let begun = flow.harm("informer stopped");
    signal(informer, Signal::STOP);
    let held: Vec<Act> = held.into_iter().map(|(act, _)| act).collect();
    let gone = wait_gone(&flow, &held)?;
    let ends = (0..BOXES).map(|n| deadline(&flow, n)).collect::<Result<Vec<_>>>()?;
    let lease = ends.into_iter().max().unwrap_or_default();
    let kept: Vec<Act> = kept.into_iter().map(|(act, _)| act).collect();
    wait_ticks(&flow, &kept, lease + FENCE_GRACE.1)?;
    signal(informer, Signal::CONT);
    let back = now();
    let live = flow.wait_all_live()?;
    for act in &held {
        wait_start(&flow, &act.name, act.attempt + 1)?;
    }
    flow.heal("informer goes on");
    let happened = "each lease ends: `stop` tasks are ended by their monitors and tried again, the others run on";
    let mut outcome = flow.outcome(happened, between(begun, gone), between(back, live))?;
    judge_end(round, &mut outcome, lease, gone);
    Ok(outcome)
}

fn informer_shortly(round: &mut Round) -> Result<Outcome> {
    let mut flow = begin(round)?;
    let informer = flow.world.informer_pid().context("the informer runs")?;
    flow.harm("informer stopped shortly");
    signal(informer, Signal::STOP);
    // The pause is the fault.
    std::thread::sleep(BEAT.1);
    signal(informer, Signal::CONT);
    let back = now();
    let live = flow.wait_all_live()?;
    flow.heal("informer goes on");
    flow.outcome("calls wait, and go on", None, between(back, live))
}

fn agent(round: &mut Round) -> Result<Outcome> {
    let mut flow = begin(round)?;
    let chosen = choose(&flow)?;
    let agent = flow.world.agent(chosen.n).context("the agent runs")?;
    let begun = flow.harm("agent stopped");
    signal(agent, Signal::STOP);
    let lease = deadline(&flow, chosen.n)?;
    let gone = wait_gone(&flow, &chosen.held)?;
    let mut replaced = begun;
    for act in &chosen.held {
        replaced = replaced.max(wait_start(&flow, &act.name, act.attempt + 1)?.at);
    }
    wait_ticks(&flow, &chosen.kept, lease + FENCE_GRACE.1)?;
    signal(agent, Signal::CONT);
    flow.wait_live(&chosen.id, true)?;
    flow.heal("agent goes on");
    let happened =
        "`stop` tasks are ended by their monitors at the lease's end and start elsewhere after it, the others run on";
    let mut outcome = flow.outcome(happened, between(begun, gone), between(begun, replaced))?;
    judge_end(round, &mut outcome, lease, gone);
    Ok(outcome)
}

fn keeper(round: &mut Round) -> Result<Outcome> {
    let mut flow = begin(round)?;
    let chosen = choose(&flow)?;
    let keeper = wait_for("a keeper runs", || flow.world.keeper(chosen.n))?;
    let begun = flow.harm("keeper stopped");
    signal(keeper, Signal::STOP);
    // The lease is renewed all the while: beats need no keeper.
    let later = begun + BEAT.1 * 3 * 2;
    until("the lease is renewed", &mut flow, |flow| Ok((deadline(flow, chosen.n)? > later).then_some(())))?;
    let all: Vec<Act> = chosen.held.iter().chain(&chosen.kept).cloned().collect();
    wait_ticks(&flow, &all, begun + BEAT.1 * 3)?;
    signal(keeper, Signal::CONT);
    let back = now();
    let live = flow.wait_live(&chosen.id, true)?;
    flow.heal("keeper goes on");
    flow.outcome("what runs runs on, the lease is renewed, new starts wait", None, between(back, live))
}

fn monitor(round: &mut Round) -> Result<Outcome> {
    let mut flow = begin(round)?;
    let chosen = choose(&flow)?;
    let victim = chosen.held.first().context("a held task")?.clone();
    let monitor = monitor_of(&flow, chosen.n, &victim)?;
    let agent = flow.world.agent(chosen.n).context("the agent runs")?;
    flow.monitors_harmed = true;
    let begun = flow.harm("agent and monitor stopped");
    signal(agent, Signal::STOP);
    signal(monitor, Signal::STOP);
    let lease = deadline(&flow, chosen.n)?;
    let gone = wait_gone(&flow, std::slice::from_ref(&victim))?;
    let replaced = wait_start(&flow, &victim.name, victim.attempt + 1)?.at;
    signal(agent, Signal::CONT);
    // Its keeper has killed it, most likely, and its number may be another's by now.
    if flow.world.keepers_and_monitors(chosen.n).contains(&monitor) {
        signal(monitor, Signal::CONT);
    }
    flow.wait_live(&chosen.id, true)?;
    flow.heal("agent goes on");
    let happened = "the keeper ends what the monitor cannot, and the task starts elsewhere after it";
    let mut outcome = flow.outcome(happened, between(begun, gone), between(begun, replaced))?;
    judge_end(round, &mut outcome, lease, gone);
    Ok(outcome)
}

fn monitor_of(flow: &Flow, n: usize, act: &Act) -> Result<i32> {
    let busy = flow.busy_monitors(n);
    let found = busy.iter().find(|(_, (name, attempt))| *name == act.name && *attempt == act.attempt);
    Ok(found.with_context(|| format!("no monitor has {act:?}: {busy:?}"))?.0)
}

fn monitor_alone(round: &mut Round) -> Result<Outcome> {
    let mut flow = begin(round)?;
    let chosen = choose(&flow)?;
    let victim = chosen.held.first().context("a held task")?.clone();
    let monitor = monitor_of(&flow, chosen.n, &victim)?;
    let begun = flow.harm("monitor stopped");
    signal(monitor, Signal::STOP);
    let later = begun + BEAT.1 * 3 * 2;
    until("the lease is renewed", &mut flow, |flow| Ok((deadline(flow, chosen.n)? > later).then_some(())))?;
    // Nobody has asked for its end.
    wait_ticks(&flow, std::slice::from_ref(&victim), begun + BEAT.1 * 3)?;
    signal(monitor, Signal::CONT);
    let heard = flow.heal("monitor goes on");
    let id = flow.id(&victim.name).context("an id")?;
    flow.client.cancel(&id, &flow.recorder)?;
    let gone = wait_gone(&flow, std::slice::from_ref(&victim))?;
    until("it is known", &mut flow, |flow| {
        Ok(flow.client.task(&id).filter(|task| task.state() == v1::TaskState::Cancelled).map(drop))
    })?;
    flow.outcome("its task runs on, and obeys once it goes on", None, between(heard, gone))
}
