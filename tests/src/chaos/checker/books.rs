//! What is allocated: nothing at the end, and never more at once than there is (invariant 9).

use super::{Evidence, Verdict};
use crate::chaos::probe::What;
use std::collections::BTreeMap;
use std::time::Duration;

pub(super) fn judge(evidence: &Evidence, verdict: &mut Verdict) {
    if evidence.sidecars.len() != evidence.boxes {
        verdict.violated(9, &format!("{} sidecars are live, and not {}", evidence.sidecars.len(), evidence.boxes));
    }
    for sidecar in &evidence.sidecars {
        let allocated = sidecar.allocated.unwrap_or_default();
        if (allocated.cpu_millis, allocated.memory_bytes, sidecar.running) != (0, 0, 0) {
            let text = format!("sidecar {} has {allocated:?} and {} tasks in its books", sidecar.id, sidecar.running);
            verdict.violated(9, &text);
        }
    }
    crowded(evidence, verdict);
}

/// Main processes of one sidecar that ran at one time, from their own words.
fn crowded(evidence: &Evidence, verdict: &mut Verdict) {
    let mut holders: BTreeMap<(&str, u32), &str> = BTreeMap::new();
    for task in &evidence.tasks {
        for attempt in &task.attempts {
            holders.insert((&task.name, attempt.number), &attempt.sidecar);
        }
    }
    let mut spans: BTreeMap<(&str, u32), (Duration, Duration)> = BTreeMap::new();
    for act in evidence.acts.iter().filter(|act| act.what != What::Stray) {
        let span = spans.entry((&act.name, act.attempt)).or_insert((act.at, act.at));
        span.1 = span.1.max(act.at);
    }
    for sidecar in &evidence.sidecars {
        let mut edges: Vec<(Duration, i64)> = Vec::new();
        for (who, (from, to)) in &spans {
            if holders.get(who).is_some_and(|holder| *holder == sidecar.id) {
                edges.extend([(*from, 1), (*to, -1)]);
            }
        }
        // An end counts before a start of the same moment.
        edges.sort_unstable();
        let (mut now, mut most) = (0, 0);
        for (_, step) in edges {
            now += step;
            most = most.max(now);
        }
        if most > i64::from(sidecar.slots) {
            verdict.violated(9, &format!("sidecar {} ran {most} tasks at once in {} slots", sidecar.id, sidecar.slots));
        }
    }
}
