//! Tasks that wait for a sidecar: a band per priority, in it a queue per class, each first in first out.
//!
//! A class is everything placement asks of a sidecar. Tasks of one class fit the same sidecars, so a hundred thousand tasks that
//! fit nowhere cost one look, not a hundred thousand.

use prost::Message as _;
use proto::id::TaskId;
use proto::store;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Index of a class; given while a task of the class is held, then used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClassId(usize);

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

/// The ready tasks.
#[derive(Debug, Default)]
pub(super) struct Ready {
    bands: BTreeMap<Reverse<i32>, BTreeMap<ClassId, BTreeMap<u64, TaskId>>>,
    next_place: u64,
    len: usize,
}

/// Facts and classes that many tasks share, each held once.
#[derive(Debug, Default)]
pub(super) struct Shared {
    classes: Vec<Class>,
    ids: BTreeMap<Class, (ClassId, usize)>,
    free: Vec<ClassId>,
    facts: BTreeMap<Vec<u8>, (Arc<store::Facts>, ClassId)>,
}

impl Shared {
    /// The one copy of equal facts, and their class.
    pub(super) fn acquire(&mut self, facts: store::Facts) -> (Arc<store::Facts>, ClassId) {
        let encoded = facts.encode_to_vec();
        if let Some((facts, class)) = self.facts.get(&encoded) {
            return (facts.clone(), *class);
        }
        let class = self.acquire_class(Class::of(&facts));
        let facts = Arc::new(facts);
        self.facts.insert(encoded, (facts.clone(), class));
        (facts, class)
    }

    /// Gives facts back; the last one to do so frees them.
    pub(super) fn release(&mut self, facts: Arc<store::Facts>) {
        // Two holders: this table and the caller.
        if Arc::strong_count(&facts) > 2 {
            return;
        }
        if let Some((facts, _)) = self.facts.remove(&facts.encode_to_vec()) {
            self.release_class(&Class::of(&facts));
        }
    }

    pub(super) fn class(&self, id: ClassId) -> &Class {
        &self.classes[id.0]
    }

    fn acquire_class(&mut self, class: Class) -> ClassId {
        if let Some((id, users)) = self.ids.get_mut(&class) {
            *users += 1;
            return *id;
        }
        let id = match self.free.pop() {
            Some(id) => {
                self.classes[id.0] = class.clone();
                id
            }
            None => {
                self.classes.push(class.clone());
                ClassId(self.classes.len() - 1)
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

impl Ready {
    /// Queues a task behind all of its band and class; returns its place.
    pub(super) fn push(&mut self, task: TaskId, priority: i32, class: ClassId) -> u64 {
        let place = self.next_place;
        self.next_place += 1;
        self.bands.entry(Reverse(priority)).or_default().entry(class).or_default().insert(place, task);
        self.len += 1;
        place
    }

    /// Takes a task out, wherever it stands.
    pub(super) fn remove(&mut self, priority: i32, class: ClassId, place: u64) {
        let Some(band) = self.bands.get_mut(&Reverse(priority)) else { return };
        let Some(queue) = band.get_mut(&class) else { return };
        if queue.remove(&place).is_some() {
            self.len -= 1;
        }
        if queue.is_empty() {
            band.remove(&class);
        }
        if band.is_empty() {
            self.bands.remove(&Reverse(priority));
        }
    }

    /// The task that a sidecar should take next: highest band, then first come, among the classes that fit.
    pub(super) fn first_fitting(&self, mut fits: impl FnMut(ClassId) -> bool) -> Option<TaskId> {
        self.bands.values().find_map(|band| {
            band.iter()
                .filter(|(class, _)| fits(**class))
                .filter_map(|(_, queue)| queue.first_key_value())
                .min_by_key(|(place, _)| **place)
                .map(|(_, task)| *task)
        })
    }

    /// How many ready tasks stand before a place: exact over higher bands, and over the same band.
    pub(super) fn ahead_of(&self, priority: i32, place: u64) -> usize {
        self.bands
            .range(..=Reverse(priority))
            .map(|(band, classes)| {
                let all: usize = classes.values().map(BTreeMap::len).sum();
                if *band == Reverse(priority) {
                    classes.values().map(|queue| queue.range(..place).count()).sum()
                } else {
                    all
                }
            })
            .sum()
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Every ready task with its band, class and place; for the recomputation of invariants.
    pub(super) fn iter(&self) -> impl Iterator<Item = (TaskId, i32, ClassId, u64)> {
        self.bands.iter().flat_map(|(Reverse(priority), band)| {
            band.iter().flat_map(move |(class, queue)| {
                queue.iter().map(move |(place, task)| (*task, *priority, *class, *place))
            })
        })
    }
}
