//! Every invariant of the machine, recomputed from its state.

use super::row::Step;
use super::{GONE_REMEMBERED, LinkState, LogCopy, Machine, Stage, Wish};
use proto::id::AttemptId;
use std::collections::BTreeMap;

pub(super) fn all(machine: &Machine) -> Result<(), String> {
    books(machine)?;
    reports(machine)?;
    durability(machine)?;
    machine.emits.check(&machine.attempts, matches!(machine.link, LinkState::Welcomed(_)))?;
    machine.lease.check()?;
    machine.outbox.check()
}

/// The counters and indices say what the attempts say.
fn books(machine: &Machine) -> Result<(), String> {
    let stages = || machine.attempts.values().map(|attempt| &attempt.stage);
    let unfinished = stages().filter(|stage| stage.is_unfinished()).count();
    let busy = stages().filter(|stage| stage.is_busy()).count();
    if (unfinished, busy) != (machine.unfinished as usize, machine.busy as usize) {
        return Err(format!(
            "{unfinished} attempts are unfinished and {busy} busy, but {} and {} are booked",
            machine.unfinished, machine.busy
        ));
    }
    let apart = machine.attempts.values().filter(|attempt| attempt.is_apart()).count();
    if apart != machine.apart as usize {
        return Err(format!("{apart} attempts are not counted by the informer, but {} are booked so", machine.apart));
    }
    let index = |wanted: &dyn Fn(&Stage) -> bool| {
        let chosen = machine.attempts.iter().filter(|(_, attempt)| wanted(&attempt.stage));
        chosen.map(|(id, attempt)| (attempt.order, *id)).collect::<std::collections::BTreeSet<_>>()
    };
    if machine.waiting != index(&|stage| matches!(stage, Stage::Accepting | Stage::Accepted)) {
        return Err("the waiting attempts are not those taken and not started".into());
    }
    if machine.retired != index(&|stage| matches!(stage, Stage::Retired(_))) {
        return Err("the index of retired attempts is wrong".into());
    }
    let is_spare = |stage: &Stage| matches!(stage, Stage::Retired(LogCopy::Unwanted | LogCopy::Stored));
    if machine.spare != index(&is_spare) {
        return Err("the index of retired attempts that nobody waits for is wrong".into());
    }
    let owed = index(&|stage| *stage == Stage::Retired(LogCopy::Wanted));
    machine.uploads.check(owed)?;
    let retired = machine.attempts.values().filter(|attempt| matches!(attempt.stage, Stage::Retired(_)));
    if machine.retired_bytes != retired.map(|attempt| attempt.log_bytes).sum::<u64>() {
        return Err("the bytes of retired attempts are wrong".into());
    }
    let mut census = [0; Stage::NAMES.len()];
    stages().for_each(|stage| census[stage.index()] += 1);
    if machine.tally.stages != census {
        return Err(format!("{census:?} attempts are in the stages, but {:?} are booked", machine.tally.stages));
    }
    if machine.gone.len() != machine.gone_order.len() || machine.gone.len() > GONE_REMEMBERED {
        return Err(format!("{} attempts are remembered as gone", machine.gone.len()));
    }
    Ok(())
}

/// In a welcomed link, each judged attempt's facts are acknowledged, in flight or queued, in order; nothing else is said.
fn reports(machine: &Machine) -> Result<(), String> {
    let mut last: BTreeMap<AttemptId, Step> = BTreeMap::new();
    for (id, step) in machine.outbox.held() {
        if last.insert(id, step).is_some_and(|before| before >= step) {
            return Err(format!("{id}: {step:?} is repeated or out of order"));
        }
    }
    let welcomed = matches!(machine.link, LinkState::Welcomed(_));
    if !welcomed && !machine.outbox.is_empty() {
        return Err("reports are queued without a link".into());
    }
    for (id, attempt) in machine.attempts.iter().filter(|(_, attempt)| attempt.stage.is_held()) {
        let Some(told) = attempt.told.filter(|_| welcomed) else { continue };
        if attempt.stage == Stage::Accepting && told.queued.is_some() {
            return Err(format!("{id} was reported before it was durable"));
        }
        let reached = Step::ALL.into_iter().filter(|step| attempt.reached(*step)).max();
        if attempt.wish != Wish::SetAside && reached > told.queued {
            return Err(format!("{id} has reached {reached:?} and only {:?} is on its way", told.queued));
        }
        let pending = last.get(id).copied();
        if pending.is_none() && told.queued > told.acked {
            return Err(format!("{id}: {:?} is neither on its way nor acknowledged", told.queued));
        }
        if told.acked.is_some_and(|acked| attempt.is_settled_by(acked)) {
            return Err(format!("{id} is settled and still held as {}", attempt.stage.name()));
        }
    }
    Ok(())
}

/// What was said or ordered about an attempt rests on a row that is durable or in the batch before it.
fn durability(machine: &Machine) -> Result<(), String> {
    for (id, attempt) in &machine.attempts {
        let on_its_way = machine.dirty.contains(id) || machine.committing.iter().any(|(_, rows)| rows.contains(id));
        if attempt.stage == Stage::Accepting && !on_its_way {
            return Err(format!("{id} waits for a row that nobody writes"));
        }
        if machine.deletes.contains(id) && !on_its_way {
            return Err(format!("{id} is held and its row is being deleted"));
        }
    }
    Ok(())
}
