//! `kill -9` of each role, at random moments and at each boundary of its record, while tasks flow.
//!
//! What dies comes back after a while of chance: sometimes within the lease, sometimes after it.

use super::flow::{BEAT, Flow, between, once, sidecar_args, until};
use super::probe::What;
use super::{Case, Family, Outcome, Round, now};
use crate::world::{alive, kill, wait_for};
use anyhow::{Context as _, Result};
use std::time::Duration;

/// The cases of this family.
pub static CASES: &[&Case] =
    &[&INFORMER, &AGENT, &KEEPER, &MONITOR, &BOX, &ALL, &INFORMER_POINTS, &AGENT_POINTS, &KEEPER_POINTS];

/// Boxes of a round: what one loses the other may take.
const BOXES: usize = 2;
/// Tasks of a round: two of every kind.
const JOBS: usize = 20;
/// Boundaries of the informer between an event and its effects, and of its blobs.
const OF_INFORMER: [&str; 10] = [
    "before-apply",
    "after-apply",
    "before-commit",
    "after-commit",
    "after-reply",
    "mid-effects",
    "after-assign",
    "log-part",
    "log-written",
    "log-kept",
];
/// Boundaries of the agent: its ledger, its outputs, its logs.
const OF_AGENT: [&str; 17] = [
    "after-assign",
    "after-ledger",
    "after-accept",
    "after-start-sent",
    "after-end",
    "after-end-ledger",
    "after-report",
    "log-part",
    "log-stored",
    "before-stage",
    "mid-stage",
    "after-stage",
    "after-manifest",
    "before-publish",
    "mid-publish",
    "after-publish",
    "before-retire",
];
/// Boundaries of a monitor's record.
const OF_MONITOR: [&str; 7] =
    ["after-mkdir", "after-spec", "after-spawn", "after-spawned", "after-wait", "after-exit", "after-sweep"];
/// At most so many times a boundary is passed before it kills: a round passes each of them more often, outputs' four times.
const PASSES: u64 = 4;

/// The informer, at any moment.
pub static INFORMER: Case = Case {
    fault: "informer killed",
    how: "kill -9 while 20 tasks flow; started again after 0 to 3 s",
    family: Family::Kills,
    needs: &[],
    run: |round| one(round, "informer", |flow, round| kill_informer(flow, round).map(|back| (None, back))),
};

/// An agent, at any moment.
pub static AGENT: Case = Case {
    fault: "agent killed",
    how: "kill -9 while 20 tasks flow; started again after 0 to 3 s (the lease is 1.5 s)",
    family: Family::Kills,
    needs: &[],
    run: |round| one(round, "agent", kill_agent),
};

/// A keeper, at any moment.
pub static KEEPER: Case = Case {
    fault: "keeper killed",
    how: "kill -9 while 20 tasks flow; its agent starts another",
    family: Family::Kills,
    needs: &[],
    run: |round| one(round, "keeper", |flow, round| kill_keeper(flow, round).map(|back| (None, back))),
};

/// A monitor with its task.
pub static MONITOR: Case = Case {
    fault: "monitor killed",
    how: "kill -9 of the monitor of a running task",
    family: Family::Kills,
    needs: &[],
    run: |round| one(round, "monitor", kill_monitor),
};

/// All of a box.
pub static BOX: Case = Case {
    fault: "agent, keeper and monitors killed",
    how: "kill -9 of all of a box; started again after 0 to 3 s",
    family: Family::Kills,
    needs: &[],
    run: |round| one(round, "box", kill_box),
};

/// Several, one after the other.
pub static ALL: Case = Case {
    fault: "three of all these killed in a row",
    how: "kill -9 of three roles by chance, each before the last one's tasks have ended",
    family: Family::Kills,
    needs: &[],
    run: several,
};

/// The informer, at a boundary.
pub static INFORMER_POINTS: Case = Case {
    fault: "informer killed at a boundary of commit and effect",
    how: "a crash point between event, commit, reply and assignment, or in a log's storing",
    family: Family::Kills,
    needs: &[],
    run: informer_at,
};

/// An agent, at a boundary.
pub static AGENT_POINTS: Case = Case {
    fault: "agent killed at a boundary of its ledger, outputs or logs",
    how: "a crash point between assignment, ledger, report, staging and publishing",
    family: Family::Kills,
    needs: &[],
    run: agent_at,
};

/// A monitor, at a boundary of its record, every other time with its keeper.
pub static KEEPER_POINTS: Case = Case {
    fault: "monitor killed at a boundary of its record",
    how: "a crash point between directory, record, spawn, wait and sweep; in half of the rounds its keeper dies with it",
    family: Family::Kills,
    needs: &[],
    run: monitor_at,
};

type Times = (Option<Duration>, Option<Duration>);

/// One harm at a random moment. `harm` says when it was noticed and when work went on, after its own begin.
fn one(round: &mut Round, role: &str, harm: fn(&mut Flow, &mut Round) -> Result<Times>) -> Result<Outcome> {
    let mut flow = Flow::begin(round, BOXES, JOBS)?;
    let starts = usize::try_from(round.rng.range(1, 18))?;
    flow.wait_moment(round, starts)?;
    let (detected, recovered) = harm(&mut flow, round)?;
    flow.outcome(&happened(role), detected, recovered)
}

/// For the table.
fn happened(role: &str) -> String {
    let text = match role {
        "informer" => "processes run on, clients repeat what was not acknowledged, sidecars link again",
        "agent" => {
            "processes run on under their monitors; the next agent takes them over, or replacements start after the lease"
        }
        "keeper" => "processes run on under their monitors; the next keeper finds them",
        "monitor" => "its process is ended, the attempt is lost, the task is tried again and charged to nobody",
        _ => "attempts without a record of their end are lost and tried again, the others are told",
    };
    text.to_owned()
}

/// A pause until what died is started again: within the lease or beyond it.
fn stay_dead(round: &mut Round) {
    let lease = BEAT.1 * 3;
    let longest = u64::try_from((lease * 2).as_millis()).unwrap_or(0);
    std::thread::sleep(Duration::from_millis(round.rng.range(0, longest)));
}

/// When all sidecars were live again, counted from its return.
fn kill_informer(flow: &mut Flow, round: &mut Round) -> Result<Option<Duration>> {
    flow.harm("informer killed");
    flow.world.kill_informer();
    stay_dead(round);
    let back = now();
    flow.world.start_informer(&[])?;
    let live = flow.wait_all_live()?;
    flow.heal("informer back");
    Ok(between(back, live))
}

fn any_box(round: &mut Round) -> usize {
    usize::try_from(round.rng.range(0, BOXES as u64 - 1)).unwrap_or(0)
}

fn kill_agent(flow: &mut Flow, round: &mut Round) -> Result<Times> {
    let n = any_box(round);
    let id = flow.sidecar_id(n)?;
    let begin = flow.harm("agent killed");
    flow.world.kill_agent(n);
    let seen = flow.wait_live(&id, false)?;
    stay_dead(round);
    let back = now();
    flow.world.start_sidecar(n, sidecar_args(), &[])?;
    let live = flow.wait_live(&id, true)?;
    flow.heal("agent back");
    Ok((between(begin, seen), between(back, live)))
}

/// When another one ran.
fn kill_keeper(flow: &mut Flow, round: &mut Round) -> Result<Option<Duration>> {
    let n = any_box(round);
    let begin = flow.harm("keeper killed");
    let old = wait_for("a keeper runs", || flow.world.keeper(n))?;
    kill(old);
    wait_for("another keeper runs", || flow.world.keeper(n).filter(|pid| *pid != old && alive(*pid)))?;
    let back = flow.heal("keeper back");
    Ok(between(begin, back))
}

/// When the attempt was known to be over, and when the task's next one started (if it is tried again).
fn kill_monitor(flow: &mut Flow, round: &mut Round) -> Result<Times> {
    let n = any_box(round);
    flow.monitors_harmed = true;
    // A box may have nothing to do just now; then it is the other's turn.
    let victim = wait_for("a task runs", || {
        let mut busy = flow.busy_monitors(n);
        if busy.is_empty() {
            busy = flow.busy_monitors(BOXES - 1 - n);
        }
        busy.pop()
    });
    // All may have ended in the meantime, in a round that came late to it.
    let Ok((monitor, (name, number))) = victim else { return Ok((None, None)) };
    let begin = flow.harm("monitor killed");
    kill(monitor);
    let id = flow.id(&name).with_context(|| format!("{name} was never acknowledged"))?;
    let mut seen = None;
    let over = until("its attempt is over", flow, |flow| {
        let task = flow.client.task(&id);
        let attempt = task.and_then(|task| task.attempts.into_iter().find(|attempt| attempt.number == number));
        Ok(attempt.filter(|attempt| attempt.ended_unix_ms > 0))
    })?;
    if over.ending.is_some() {
        seen = between(begin, now());
    }
    flow.heal("monitor replaced");
    let next = until("its task goes on or is over", flow, |flow| {
        let started = flow
            .acts()
            .into_iter()
            .find(|other| other.name == name && other.attempt > number && matches!(other.what, What::Start(..)));
        let task = flow.client.task(&id);
        let ended = task.is_some_and(|task| super::client::is_terminal(task.state()));
        Ok(started.map(|act| Some(act.at)).or(ended.then_some(None)))
    })?;
    Ok((seen, next.and_then(|at| between(begin, at))))
}

fn kill_box(flow: &mut Flow, round: &mut Round) -> Result<Times> {
    let n = any_box(round);
    let id = flow.sidecar_id(n)?;
    flow.monitors_harmed = true;
    let begin = flow.harm("box killed");
    flow.world.kill_box(n);
    let seen = flow.wait_live(&id, false)?;
    stay_dead(round);
    let back = now();
    flow.world.start_sidecar(n, sidecar_args(), &[])?;
    let live = flow.wait_live(&id, true)?;
    flow.heal("box back");
    Ok((between(begin, seen), between(back, live)))
}

fn several(round: &mut Round) -> Result<Outcome> {
    let mut flow = Flow::begin(round, BOXES, JOBS)?;
    for _ in 0..3 {
        let starts = flow.starts() + usize::try_from(round.rng.range(0, 4))?;
        // Later harms may find fewer tasks than that left to start.
        let all = flow.jobs.len().min(starts);
        flow.wait_moment(round, all)?;
        match round.rng.range(0, 4) {
            0 => drop(kill_informer(&mut flow, round)?),
            1 => drop(kill_agent(&mut flow, round)?),
            2 => drop(kill_keeper(&mut flow, round)?),
            3 => drop(kill_box(&mut flow, round)?),
            _ => {
                flow.monitors_harmed = true;
                if let Some((monitor, _)) = flow.busy_monitors(any_box(round)).pop() {
                    flow.harm("monitor killed");
                    kill(monitor);
                    flow.heal("monitor killed");
                }
            }
        }
    }
    flow.outcome(&happened("several"), None, None)
}

/// One of several points, and after how many passes.
fn plan(round: &mut Round, points: &[&str]) -> String {
    let point = points[usize::try_from(round.rng.range(0, points.len() as u64 - 1)).unwrap_or(0)];
    format!("{point}:{}", round.rng.range(1, PASSES))
}

fn informer_at(round: &mut Round) -> Result<Outcome> {
    let mut flow = Flow::begin(round, BOXES, JOBS)?;
    let plan = plan(round, &OF_INFORMER);
    flow.harm("informer with a crash point");
    flow.world.kill_informer();
    // It may die before it listens.
    let started = flow.world.start_informer(&[("INFORMER_FAILPOINT", &plan)]);
    if started.is_ok() {
        until(&format!("the informer dies at {plan}"), &mut flow, |flow| {
            Ok(flow.world.informer_has_ended().then_some(()))
        })?;
    }
    let back = now();
    flow.world.start_informer(&[])?;
    let live = flow.wait_all_live()?;
    flow.heal("informer back");
    flow.outcome(
        "it loads what is durable; what was told is there, what was not is repeated",
        None,
        between(back, live),
    )
}

fn agent_at(round: &mut Round) -> Result<Outcome> {
    let mut flow = Flow::begin(round, BOXES, JOBS)?;
    let plan = plan(round, &OF_AGENT);
    let n = any_box(round);
    let id = flow.sidecar_id(n)?;
    flow.harm("agent with a crash point");
    flow.world.kill_agent(n);
    flow.world.start_sidecar(n, sidecar_args(), &[("SIDECAR_FAILPOINT", &plan)])?;
    // Outputs are few: the other box may have had them all.
    until(&format!("the agent dies at {plan}, or nothing is left to do"), &mut flow, |flow| {
        Ok((flow.world.agent_has_ended(n) || flow.is_done()).then_some(()))
    })?;
    flow.world.kill_agent(n);
    let back = now();
    flow.world.start_sidecar(n, sidecar_args(), &[])?;
    let live = flow.wait_live(&id, true)?;
    flow.heal("agent back");
    flow.outcome(
        "the next agent goes on from ledger and record; nothing is started or published twice",
        None,
        between(back, live),
    )
}

fn monitor_at(round: &mut Round) -> Result<Outcome> {
    let mut flow = Flow::begin(round, BOXES, JOBS)?;
    let point = OF_MONITOR[usize::try_from(round.rng.range(0, OF_MONITOR.len() as u64 - 1))?];
    let plan = if round.rng.chance(500) { format!("{point},keeper") } else { point.to_owned() };
    let n = any_box(round);
    let id = flow.sidecar_id(n)?;
    let once = once(&flow.world);
    let once = once.to_str().context("a path in UTF-8")?.to_owned();
    flow.monitors_harmed = true;
    flow.harm("monitor with a crash point");
    // The keeper has it from its agent's environment.
    flow.world.kill_box(n);
    flow.world.start_sidecar(n, sidecar_args(), &[("KEEPER_FAILPOINT", &plan), ("KEEPER_FAILPOINT_ONCE", &once)])?;
    let died = until(&format!("a monitor dies at {plan}, or nothing is left to do"), &mut flow, |flow| {
        Ok((std::path::Path::new(&once).exists() || flow.is_done()).then(now))
    })?;
    wait_for("a keeper runs", || flow.world.keeper(n))?;
    let live = flow.wait_live(&id, true)?;
    flow.heal("keeper back");
    flow.outcome(
        "an attempt whose end was recorded counts, any other is lost and tried again",
        None,
        between(died, live),
    )
}
