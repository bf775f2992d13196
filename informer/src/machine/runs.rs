//! A set of indices as runs: what a million members of an array have in common costs a few bytes.

use proto::store;
use std::collections::BTreeMap;

/// A set of indices below `u32::MAX`, held as runs that neither overlap nor touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Runs {
    /// First index to the one after the last.
    runs: BTreeMap<u32, u32>,
    len: u32,
}

impl Runs {
    /// `count` indices from `first`.
    pub(super) fn of(first: u32, count: u32) -> Self {
        let mut runs = Self::default();
        runs.add(first, count);
        runs
    }

    /// From its durable form. Runs that overlap or leave the 32 bits are none that this program writes; what can be read is.
    pub(super) fn from_rows(rows: &[store::Run]) -> Self {
        let mut runs = Self::default();
        for row in rows {
            runs.add(row.first, row.count.min(u32::MAX - row.first));
        }
        runs
    }

    pub(super) fn to_rows(&self) -> Vec<store::Run> {
        self.runs.iter().map(|(first, end)| store::Run { first: *first, count: end - first }).collect()
    }

    /// Indices in it.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Runs in it: what it costs.
    pub(super) fn pieces(&self) -> usize {
        self.runs.len()
    }

    pub(super) fn first(&self) -> Option<u32> {
        self.runs.first_key_value().map(|(first, _)| *first)
    }

    pub(super) fn contains(&self, index: u32) -> bool {
        self.runs.range(..=index).next_back().is_some_and(|(_, end)| index < *end)
    }

    /// Adds `count` indices from `first`, of which none is in it.
    fn add(&mut self, first: u32, count: u32) {
        if count == 0 {
            return;
        }
        let (mut first, mut end) = (first, first + count);
        self.len += count;
        if let Some((&before, _)) = self.runs.range(..first).next_back().filter(|(_, before_end)| **before_end == first)
        {
            first = before;
        }
        if let Some(after_end) = self.runs.remove(&end) {
            end = after_end;
        }
        self.runs.insert(first, end);
    }

    /// Takes one index out; says whether it was there.
    pub(super) fn remove(&mut self, index: u32) -> bool {
        let Some((&first, &end)) = self.runs.range(..=index).next_back().filter(|(_, end)| index < **end) else {
            return false;
        };
        self.len -= 1;
        self.runs.remove(&first);
        if first < index {
            self.runs.insert(first, index);
        }
        if index + 1 < end {
            self.runs.insert(index + 1, end);
        }
        true
    }

    /// Takes the lowest index out.
    pub(super) fn pop(&mut self) -> Option<u32> {
        let first = self.first()?;
        self.remove(first);
        Some(first)
    }

    /// Takes all of another set into this one; they have nothing in common.
    pub(super) fn absorb(&mut self, other: &mut Self) {
        for (first, end) in std::mem::take(other).runs {
            self.add(first, end - first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_set(steps in prop::collection::vec((0_u32..40, any::<bool>()), 0..200)) {
            let (mut runs, mut model) = (Runs::default(), BTreeSet::new());
            for (index, add) in steps {
                if add && model.insert(index) {
                    runs.add(index, 1);
                } else if !add {
                    prop_assert_eq!(runs.remove(index), model.remove(&index));
                }
                prop_assert_eq!(runs.len() as usize, model.len());
                prop_assert_eq!(runs.first(), model.first().copied());
                let touching = model.iter().filter(|index| !model.contains(&(**index + 1))).count();
                prop_assert_eq!(runs.pieces(), touching);
            }
            prop_assert!((0..41).all(|index| runs.contains(index) == model.contains(&index)));
            prop_assert_eq!(&Runs::from_rows(&runs.to_rows()), &runs);
            let mut all = Runs::of(100, 3);
            all.absorb(&mut runs);
            prop_assert_eq!((all.len() as usize, runs.is_empty()), (model.len() + 3, true));
        }
    }
}
