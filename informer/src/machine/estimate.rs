//! How long tasks take: learned by name, and how much faster or slower each sidecar is at them.
//!
//! `expected = mean of the name × 1000 / speed`, where the speed is the sidecar's at tasks of this name, else its own over all. Both
//! are exponentially weighted means of predicted over actual. Nothing here is durable: a few tasks after a restart teach it again.

use proto::id::SidecarId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Names that are remembered; the one not used for longest goes first. With a hundred sidecars each it is a few MB.
const NAMES: usize = 1_000;
/// Sidecars whose speed is remembered for one name; beyond it their speed over all tasks stands in.
const SIDECARS: usize = 256;
/// Weight of one task in a name's mean: 1/8, so that about ten decide.
const MEAN_WEIGHT: u64 = 8;
/// Weight of one task in the speed of a sidecar at tasks of one name: 1/4, since it sees few of each.
const SPEED_WEIGHT: u64 = 4;
/// Speeds lie between a sixteenth and sixteen times the average: one odd task must not send work astray for long.
const SPEED_RANGE: std::ops::RangeInclusive<u64> = 62..=16_000;

/// What was learned.
#[derive(Debug, Default)]
pub(super) struct Estimates {
    names: BTreeMap<Arc<str>, Known>,
    /// Names by when they were last used.
    used: BTreeMap<u64, Arc<str>>,
    clock: u64,
    /// Mean over the tasks of all names, ms.
    mean_ms: Option<u64>,
}

#[derive(Debug)]
struct Known {
    mean_ms: u64,
    /// Permille of the average.
    speeds: BTreeMap<SidecarId, u32>,
    used: u64,
}

impl Estimates {
    /// A task of this name took `ran_ms` on a sidecar. Answers with the speed that shows, permille, if there was a mean to compare
    /// with.
    pub(super) fn learn(&mut self, name: &str, sidecar: SidecarId, ran_ms: u64) -> Option<u64> {
        self.clock += 1;
        self.mean_ms = Some(self.mean_ms.map_or(ran_ms, |mean| (mean * (MEAN_WEIGHT - 1) + ran_ms) / MEAN_WEIGHT));
        let Some(known) = self.names.get_mut(name) else {
            self.remember(name, ran_ms);
            return None;
        };
        if let Some(name) = self.used.remove(&known.used) {
            known.used = self.clock;
            self.used.insert(self.clock, name);
        }
        let shown = (known.mean_ms.max(1) * 1000 / ran_ms.max(1)).clamp(*SPEED_RANGE.start(), *SPEED_RANGE.end());
        known.mean_ms = (known.mean_ms * (MEAN_WEIGHT - 1) + ran_ms) / MEAN_WEIGHT;
        let room = known.speeds.len() < SIDECARS;
        match known.speeds.get_mut(&sidecar) {
            Some(speed) => *speed = weighed(*speed, shown, SPEED_WEIGHT),
            None if room => {
                known.speeds.insert(sidecar, u32::try_from(shown).unwrap_or(u32::MAX));
            }
            None => {}
        }
        Some(shown)
    }

    /// What a task is taken for that nothing is known of, ms: as long as tasks are on the whole, or nothing before the first has ended.
    pub(super) fn usual_ms(&self) -> u64 {
        self.mean_ms.unwrap_or(0)
    }

    fn remember(&mut self, name: &str, mean_ms: u64) {
        if self.names.len() >= NAMES
            && let Some((_, oldest)) = self.used.pop_first()
        {
            self.names.remove(&oldest);
        }
        let name: Arc<str> = name.into();
        self.used.insert(self.clock, Arc::clone(&name));
        self.names.insert(name, Known { mean_ms, speeds: BTreeMap::new(), used: self.clock });
    }

    /// Speed of a sidecar at tasks of this name, permille; `None` if it has run none.
    pub(super) fn speed(&self, name: &str, sidecar: SidecarId) -> Option<u32> {
        self.names.get(name)?.speeds.get(&sidecar).copied()
    }

    /// How long a task of this name should take on a sidecar with this speed over all tasks, ms; `None` if none has ended yet.
    pub(super) fn expected_ms(&self, name: &str, sidecar: SidecarId, speed: u32) -> Option<u64> {
        let known = self.names.get(name)?;
        let speed = known.speeds.get(&sidecar).copied().unwrap_or(speed).max(1);
        Some(known.mean_ms * 1000 / u64::from(speed))
    }
}

/// The mean after one more sample.
pub(super) fn weighed(old: u32, sample: u64, weight: u64) -> u32 {
    u32::try_from((u64::from(old) * (weight - 1) + sample) / weight).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sidecar_that_is_slow_at_one_thing_is_expected_to_be() {
        let (fast, slow) = (SidecarId::from_u128(1), SidecarId::from_u128(2));
        let mut estimates = Estimates::default();
        assert_eq!(estimates.expected_ms("encode", fast, 1000), None);
        for _ in 0..40 {
            estimates.learn("encode", fast, 1_000);
            estimates.learn("encode", slow, 4_000);
            estimates.learn("copy", slow, 100);
        }
        let expected = |name, sidecar| estimates.expected_ms(name, sidecar, 1000).unwrap_or(0);
        assert!((800..1_300).contains(&expected("encode", fast)), "{}", expected("encode", fast));
        assert!((3_200..5_000).contains(&expected("encode", slow)), "{}", expected("encode", slow));
        assert_eq!(expected("copy", slow), 100);
        assert_eq!(expected("copy", fast), 100, "where it never ran it is expected to take the mean");
    }

    #[test]
    fn a_new_name_is_taken_for_a_usual_one() {
        let mut estimates = Estimates::default();
        assert_eq!(estimates.usual_ms(), 0);
        for n in 0..100 {
            estimates.learn(&format!("name-{n}"), SidecarId::from_u128(1), if n % 2 == 0 { 100 } else { 300 });
        }
        assert!((150..=250).contains(&estimates.usual_ms()), "{}", estimates.usual_ms());
    }

    #[test]
    fn names_and_speeds_are_bounded() {
        let mut estimates = Estimates::default();
        estimates.learn("kept", SidecarId::from_u128(1), 7);
        for n in 0..2 * NAMES {
            estimates.learn("kept", SidecarId::from_u128(n as u128), 7);
            estimates.learn(&format!("name-{n}"), SidecarId::from_u128(1), 7);
        }
        assert_eq!((estimates.names.len(), estimates.used.len()), (NAMES, NAMES));
        assert_eq!(estimates.names["kept"].speeds.len(), SIDECARS);
        let expected = |name| estimates.expected_ms(name, SidecarId::from_u128(0), 1000);
        assert_eq!((expected("kept"), expected("name-0")), (Some(7), None));
    }
}
