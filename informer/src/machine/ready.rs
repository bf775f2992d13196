//! Tasks that wait for a sidecar.
//!
//! ```text
//!  bands, the one whose oldest fitting task has waited longest first; a point of priority is a minute of waiting
//!    └─ lanes: a queue per owner and class, first in first out ─── owners take turns by weight
//! ```
//!
//! A class is everything placement asks of a sidecar. Tasks of one class fit the same sidecars, so a hundred thousand tasks that
//! fit nowhere cost one look, not a hundred thousand. An array stands in its queue once, for all of its members that have not
//! started.

use super::owners::{OwnerId, Owners};
use super::shared::ClassId;
use proto::id::TaskId;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Waiting that makes up for one point of priority, ms. So a task stands back behind later ones of higher priority for at most
/// this long a point of difference, and nobody starves. Shorter, and a priority of 10 would not outlast a busy hour; longer, and a
/// difference of 1000 would be months.
pub(super) const AGING_MS: i64 = 60_000;
/// Tasks before another that are counted one by one for `why`; a longer queue is only called long.
const COUNTED: usize = 10_000;

/// A queue: whose tasks, and what they ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lane {
    pub owner: OwnerId,
    pub class: ClassId,
}

/// The ready tasks.
#[derive(Debug, Default)]
pub(super) struct Ready {
    bands: BTreeMap<i32, Band>,
    /// The bands in the order in which they are looked at: by when their oldest would have come, had it no priority.
    order: BTreeSet<(i64, Reverse<i32>)>,
    next_place: u64,
    len: usize,
}

/// The tasks of one priority.
#[derive(Debug, Default)]
struct Band {
    lanes: BTreeMap<Lane, BTreeMap<u64, Waiting>>,
    /// The first place of each lane.
    heads: BTreeSet<(u64, Lane)>,
}

/// A task in its queue.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    task: TaskId,
    since_unix_ms: u64,
    /// 1; of an array: its members that have not started.
    members: u32,
}

impl Waiting {
    /// When it would have come, had it no priority.
    fn rank(&self, priority: i32) -> (i64, Reverse<i32>) {
        let since = i64::try_from(self.since_unix_ms).unwrap_or(i64::MAX);
        (since.saturating_sub(i64::from(priority) * AGING_MS), Reverse(priority))
    }
}

/// Where a task stands in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    pub priority: i32,
    pub lane: Lane,
    pub place: u64,
}

/// The head of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub task: TaskId,
    pub class: ClassId,
    pub since_unix_ms: u64,
}

impl Band {
    /// When the band's oldest would have come, had it no priority.
    fn rank(&self, priority: i32) -> Option<(i64, Reverse<i32>)> {
        Some(self.waiting(self.heads.first()?)?.rank(priority))
    }

    fn waiting(&self, (place, lane): &(u64, Lane)) -> Option<Waiting> {
        self.lanes.get(lane)?.get(place).copied()
    }

    /// The first task of the owner whose turn it is, among the classes that fit.
    fn turn(&self, owners: &Owners, fits: &mut impl FnMut(ClassId) -> bool) -> Option<Waiting> {
        let fitting = self.heads.iter().filter(|(_, lane)| fits(lane.class));
        let head = fitting.min_by_key(|(place, lane)| (owners.start(lane.owner), *place))?;
        self.waiting(head)
    }

    /// All of it belongs to one owner.
    fn has_one_owner(&self) -> bool {
        let (first, last) = (self.lanes.first_key_value(), self.lanes.last_key_value());
        first.zip(last).is_some_and(|(first, last)| first.0.owner == last.0.owner)
    }
}

impl Ready {
    /// Queues a task behind all of its band and lane; returns its place.
    pub(super) fn push(&mut self, task: TaskId, priority: i32, lane: Lane, since_unix_ms: u64, members: u32) -> u64 {
        let place = self.next_place;
        self.next_place += 1;
        self.len += members as usize;
        self.change(priority, |band| {
            let queue = band.lanes.entry(lane).or_default();
            if queue.is_empty() {
                band.heads.insert((place, lane));
            }
            queue.insert(place, Waiting { task, since_unix_ms, members });
        });
        place
    }

    /// Takes a task out, wherever it stands.
    pub(super) fn remove(&mut self, spot: Spot) {
        let mut gone = 0;
        self.change(spot.priority, |band| {
            let Some(queue) = band.lanes.get_mut(&spot.lane) else { return };
            let Some(waiting) = queue.remove(&spot.place) else { return };
            gone = waiting.members as usize;
            if band.heads.remove(&(spot.place, spot.lane))
                && let Some((next, _)) = queue.first_key_value()
            {
                band.heads.insert((*next, spot.lane));
            }
            if queue.is_empty() {
                band.lanes.remove(&spot.lane);
            }
        });
        self.len -= gone;
    }

    /// One member of an array no longer waits in it; its last one takes the array out.
    pub(super) fn remove_member(&mut self, spot: Spot) {
        let queue = self.bands.get_mut(&spot.priority).and_then(|band| band.lanes.get_mut(&spot.lane));
        let Some(waiting) = queue.and_then(|queue| queue.get_mut(&spot.place)) else { return };
        if waiting.members > 1 {
            waiting.members -= 1;
            self.len -= 1;
        } else {
            self.remove(spot);
        }
    }

    /// Changes a band and keeps its rank.
    fn change(&mut self, priority: i32, change: impl FnOnce(&mut Band)) {
        let band = self.bands.entry(priority).or_default();
        let before = band.rank(priority);
        change(band);
        let after = band.rank(priority);
        if band.lanes.is_empty() {
            self.bands.remove(&priority);
        }
        if before != after {
            before.map(|rank| self.order.remove(&rank));
            after.map(|rank| self.order.insert(rank));
        }
    }

    /// The task that a sidecar should take next, among the classes that fit: of the band whose oldest fitting task comes first, from
    /// the owner whose turn it is, the one that came first.
    pub(super) fn next(&self, owners: &Owners, mut fits: impl FnMut(ClassId) -> bool) -> Option<TaskId> {
        let mut known: BTreeMap<ClassId, bool> = BTreeMap::new();
        let mut fits = |class: ClassId| *known.entry(class).or_insert_with(|| fits(class));
        let mut best: Option<((i64, Reverse<i32>), TaskId)> = None;
        for rank in &self.order {
            // No task of this band or of those after it comes before the band's oldest.
            if best.is_some_and(|(best, _)| best <= *rank) {
                break;
            }
            let Reverse(priority) = rank.1;
            let Some(band) = self.bands.get(&priority) else { continue };
            let oldest = band.heads.iter().find(|(_, lane)| fits(lane.class));
            let Some(oldest) = oldest.and_then(|head| band.waiting(head)) else { continue };
            let rank = oldest.rank(priority);
            if best.is_none_or(|(best, _)| rank < best) {
                let turn = if band.has_one_owner() { None } else { band.turn(owners, &mut fits) };
                best = Some((rank, turn.unwrap_or(oldest).task));
            }
        }
        best.map(|(_, task)| task)
    }

    /// The heads of all queues that have waited since before a time, in the order in which bands are looked at.
    pub(super) fn overdue(&self, before_unix_ms: u64) -> impl Iterator<Item = Head> {
        self.order.iter().filter_map(|(_, Reverse(priority))| self.bands.get(priority)).flat_map(move |band| {
            let heads = band.heads.iter().filter_map(|(place, lane)| {
                let waiting = band.lanes.get(lane)?.get(place)?;
                Some(Head { task: waiting.task, class: lane.class, since_unix_ms: waiting.since_unix_ms })
            });
            heads.take_while(move |head| head.since_unix_ms < before_unix_ms)
        })
    }

    /// How many ready tasks stand before a place, and whether there are more than that: of bands that are looked at earlier all, of
    /// the same band the earlier ones.
    pub(super) fn ahead_of(&self, spot: Spot) -> (usize, bool) {
        let mut count = 0;
        for (_, Reverse(priority)) in &self.order {
            let Some(band) = self.bands.get(priority) else { continue };
            let same = *priority == spot.priority;
            for queue in band.lanes.values() {
                let until = if same { spot.place } else { u64::MAX };
                for (_, waiting) in queue.range(..until) {
                    count += waiting.members as usize;
                    if count > COUNTED {
                        return (COUNTED, true);
                    }
                }
            }
            if same {
                break;
            }
        }
        (count, false)
    }

    /// Ready tasks, an array's members one by one.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Every entry with its spot and its members; for the recomputation of invariants.
    pub(super) fn iter(&self) -> impl Iterator<Item = (TaskId, Spot, u32)> {
        self.bands.iter().flat_map(|(priority, band)| {
            band.lanes.iter().flat_map(move |(lane, queue)| {
                let spot = move |place| Spot { priority: *priority, lane: *lane, place };
                queue.iter().map(move |(place, waiting)| (waiting.task, spot(*place), waiting.members))
            })
        })
    }

    /// Whether bands, heads and order say what the queues say.
    pub(super) fn is_consistent(&self) -> bool {
        let ranks: BTreeSet<_> = self.bands.iter().filter_map(|(priority, band)| band.rank(*priority)).collect();
        let heads = |band: &Band| -> BTreeSet<(u64, Lane)> {
            band.lanes.iter().filter_map(|(lane, queue)| Some((*queue.first_key_value()?.0, *lane))).collect()
        };
        let members: usize = self.iter().map(|(_, _, members)| members as usize).sum();
        ranks == self.order
            && members == self.len
            && ranks.len() == self.bands.len()
            && self.bands.values().all(|band| heads(band) == band.heads)
    }
}
