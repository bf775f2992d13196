//! Who shares: owners of tasks, their weights, and what each has had. Weighted fair queueing by start tags.
//!
//! Every owner has a tag that moves on with the work he is given, the slower the more weight he has; the next free place goes to the
//! owner with the lowest. One who was idle starts where the others are: nobody saves up. Source: P. Goyal, H. M. Vin, H. Cheng,
//! "Start-time Fair Queueing", SIGCOMM 1996.

use std::collections::BTreeMap;

/// Weight of an owner that the configuration does not name.
const WEIGHT: u64 = 1;
/// What a tag counts in: fractions of a millicpu-millisecond, so that large weights still tell.
const SCALE: u128 = 1 << 16;

/// Index of an owner; given while a task of his is held, then used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OwnerId(u32);

/// The owners of the tasks that are held.
#[derive(Debug, Default)]
pub(super) struct Owners {
    weights: BTreeMap<String, u64>,
    ids: BTreeMap<Box<str>, (OwnerId, usize)>,
    tags: Vec<Tag>,
    free: Vec<OwnerId>,
    /// Start tag of what was served last.
    virtual_now: u128,
}

#[derive(Debug, Clone, Copy)]
struct Tag {
    weight: u64,
    finish: u128,
}

impl Owners {
    /// With the weights of the configuration.
    pub(super) fn new(weights: BTreeMap<String, u64>) -> Self {
        Self { weights, ..Self::default() }
    }

    pub(super) fn acquire(&mut self, name: &str) -> OwnerId {
        if let Some((id, users)) = self.ids.get_mut(name) {
            *users += 1;
            return *id;
        }
        let tag = Tag { weight: self.weights.get(name).copied().unwrap_or(WEIGHT).max(1), finish: 0 };
        let id = match self.free.pop() {
            Some(id) => {
                self.tags[id.0 as usize] = tag;
                id
            }
            None => {
                self.tags.push(tag);
                OwnerId(u32::try_from(self.tags.len() - 1).unwrap_or(u32::MAX))
            }
        };
        self.ids.insert(name.into(), (id, 1));
        id
    }

    pub(super) fn release(&mut self, name: &str) {
        let Some((id, users)) = self.ids.get_mut(name) else { return };
        *users -= 1;
        if *users == 0 {
            self.free.push(*id);
            self.ids.remove(name);
        }
    }

    /// Where the owner stands: the lowest is next.
    pub(super) fn start(&self, id: OwnerId) -> u128 {
        self.tags[id.0 as usize].finish.max(self.virtual_now)
    }

    /// The owner was given work of this size, in millicpu-milliseconds.
    pub(super) fn serve(&mut self, id: OwnerId, size: u64) {
        let start = self.start(id);
        let tag = &mut self.tags[id.0 as usize];
        tag.finish = start + u128::from(size.max(1)) * SCALE / u128::from(tag.weight);
        self.virtual_now = start;
    }
}
