//! What processes did: started once, under rising fences, alone where that was asked for, and gone in time (invariants 3, 5, 6).

use super::{Evidence, Verdict};
use crate::chaos::job::GRACE;
use crate::chaos::probe::{Act, What};
use crate::chaos::recorder::Told;
use std::collections::BTreeMap;
use std::time::Duration;

/// What an end may take beyond the stop grace (invariant 6).
const ALLOWED: Duration = Duration::from_secs(2);

pub(super) fn judge(evidence: &Evidence, verdict: &mut Verdict) {
    for left in &evidence.left {
        verdict.violated(6, &format!("{left} still runs"));
    }
    for job in &evidence.jobs {
        let acts: Vec<&Act> = evidence.acts.iter().filter(|act| act.name == job.key).collect();
        starts(&acts, &job.key, verdict);
        if job.probe.alone {
            alone(&acts, &job.key, verdict);
        }
        if let Some(beat) = evidence.timed {
            in_time(evidence, &acts, &job.key, beat, verdict);
        }
    }
}

/// 3: no attempt runs twice, and a later one has a higher fence.
fn starts(acts: &[&Act], key: &str, verdict: &mut Verdict) {
    let mut fences: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for act in acts {
        let What::Start(epoch, n) = act.what else { continue };
        if fences.insert(act.attempt, (epoch, n)).is_some() {
            verdict.doubled(3, &format!("{key} attempt {} was started twice", act.attempt));
        }
    }
    if !fences.values().is_sorted_by(|a, b| a < b) {
        verdict.violated(3, &format!("{key}: the fences of its attempts do not rise: {fences:?}"));
    }
}

/// 5: the kernel's lock saw no second copy, and no act of an older copy comes after a newer one's start.
fn alone(acts: &[&Act], key: &str, verdict: &mut Verdict) {
    let mut newest = 0;
    for act in acts {
        if act.what == What::Overlap {
            verdict.doubled(5, &format!("{key} attempt {} found another copy running", act.attempt));
        } else if act.attempt < newest {
            verdict.doubled(5, &format!("{key} attempt {} ran on beside attempt {newest}", act.attempt));
        }
        newest = newest.max(act.attempt);
    }
}

/// 6: from when its sidecar can know that an attempt is over, its processes have the stop grace and two seconds.
fn in_time(evidence: &Evidence, acts: &[&Act], key: &str, beat: Duration, verdict: &mut Verdict) {
    let id = evidence.tasks.iter().find(|task| task.name == key).map(|task| task.id.as_str());
    let told = evidence.events.iter().find_map(|event| match &event.told {
        Told::Ended { id: ended, .. } if Some(ended.as_str()) == id => Some(event.at),
        _ => None,
    });
    let mut last: BTreeMap<u32, Duration> = BTreeMap::new();
    for act in acts {
        last.insert(act.attempt, act.at);
    }
    for (attempt, last) in last {
        // Its own end is known to its monitor; the task's to its sidecar with the next word of the informer, a beat later at most.
        let known = evidence.said_end(key, attempt).map(|(_, at)| at).or(told.map(|at| at + beat));
        let Some(known) = known else { continue };
        let limit = healthy_from(evidence, known) + GRACE + ALLOWED;
        if last > limit {
            let late = last - limit;
            verdict.violated(6, &format!("{key} attempt {attempt} ran {late:?} longer than it may"));
        }
    }
}

/// The moment from which on nothing is broken for as long as an end may take: a sidecar that is stopped, cut off or dead knows nothing.
fn healthy_from(evidence: &Evidence, known: Duration) -> Duration {
    let mut from = known;
    let mut harms: Vec<(Duration, Duration)> = Vec::new();
    for event in &evidence.events {
        match &event.told {
            Told::Harm { .. } => harms.push((event.at, Duration::MAX)),
            Told::Healed { .. } => {
                for harm in harms.iter_mut().filter(|harm| harm.1 == Duration::MAX) {
                    harm.1 = event.at;
                }
            }
            _ => {}
        }
    }
    for (begin, end) in harms {
        if begin < from + GRACE + ALLOWED && end > from && end < Duration::MAX {
            from = end;
        }
    }
    from
}
