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
use prost::Message as _;
use proto::id::TaskId;
use proto::store;
use sha2::{Digest as _, Sha256};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Waiting that makes up for one point of priority, ms. So a task stands back behind later ones of higher priority for at most
/// this long a point of difference, and nobody starves. Shorter, and a priority of 10 would not outlast a busy hour; longer, and a
/// difference of 1000 would be months.
pub(super) const AGING_MS: i64 = 60_000;
/// Tasks before another that are counted one by one for `why`; a longer queue is only called long.
const COUNTED: usize = 10_000;

/// Index of a class; given while a task of the class is held, then used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClassId(u32);

/// What placement asks of a sidecar.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Class {
    pub require: BTreeMap<String, String>,
    pub kind: String,
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    /// An exclusive task that does not accept weak fencing.
    pub strong_fencing: bool,
    /// Held back while a restored informer waits for copies it does not know of.
    pub exclusive: bool,
}

impl Class {
    fn of(facts: &store::Facts) -> Self {
        Self {
            require: facts.require.clone(),
            kind: facts.kind.clone(),
            cpu_millis: facts.cpu_millis,
            memory_bytes: facts.memory_bytes,
            strong_fencing: facts.exclusive && !facts.accept_weak_fencing,
            exclusive: facts.exclusive,
        }
    }
}

/// A queue: whose tasks, and what they ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lane {
    pub owner: OwnerId,
    pub class: ClassId,
}

/// Facts, classes and owners that many tasks share, each held once.
#[derive(Debug, Default)]
pub(super) struct Shared {
    classes: Vec<Class>,
    ids: BTreeMap<Class, (ClassId, usize)>,
    free: Vec<ClassId>,
    facts: BTreeMap<Likeness, (Arc<store::Facts>, Lane)>,
    pub owners: Owners,
}

/// What equal facts have in common and nobody can give to others: half of a SHA-256. Their bytes would cost as much as the facts.
type Likeness = [u8; 16];

fn likeness(facts: &store::Facts) -> Likeness {
    let mut half = Likeness::default();
    half.copy_from_slice(&Sha256::digest(facts.encode_to_vec())[..size_of::<Likeness>()]);
    half
}

impl Shared {
    /// With the weights of owners.
    pub(super) fn new(weights: BTreeMap<String, u64>) -> Self {
        Self { owners: Owners::new(weights), ..Self::default() }
    }

    /// The one copy of equal facts, and the queue that their tasks wait in.
    pub(super) fn acquire(&mut self, facts: store::Facts) -> (Arc<store::Facts>, Lane) {
        let likeness = likeness(&facts);
        if let Some((facts, lane)) = self.facts.get(&likeness) {
            return (facts.clone(), *lane);
        }
        let lane = Lane { owner: self.owners.acquire(&facts.owner), class: self.acquire_class(Class::of(&facts)) };
        let facts = Arc::new(facts);
        self.facts.insert(likeness, (facts.clone(), lane));
        (facts, lane)
    }

    /// Gives facts back; the last one to do so frees them.
    pub(super) fn release(&mut self, facts: Arc<store::Facts>) {
        // Two holders: this table and the caller.
        if Arc::strong_count(&facts) > 2 {
            return;
        }
        if let Some((facts, _)) = self.facts.remove(&likeness(&facts)) {
            self.release_class(&Class::of(&facts));
            self.owners.release(&facts.owner);
        }
    }

    pub(super) fn class(&self, id: ClassId) -> &Class {
        &self.classes[id.0 as usize]
    }

    fn acquire_class(&mut self, class: Class) -> ClassId {
        if let Some((id, users)) = self.ids.get_mut(&class) {
            *users += 1;
            return *id;
        }
        let id = match self.free.pop() {
            Some(id) => {
                self.classes[id.0 as usize] = class.clone();
                id
            }
            None => {
                self.classes.push(class.clone());
                ClassId(u32::try_from(self.classes.len() - 1).unwrap_or(u32::MAX))
            }
        };
        self.ids.insert(class, (id, 1));
        id
    }

    fn release_class(&mut self, class: &Class) {
        let Some((id, users)) = self.ids.get_mut(class) else { return };
        *users -= 1;
        if *users == 0 {
            self.free.push(*id);
            self.ids.remove(class);
        }
    }
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
