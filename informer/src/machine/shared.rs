//! What many tasks have in common, held once for all of them: facts, classes, owners.
//!
//! A hundred thousand tasks of one campaign differ by name and perhaps labels. That much each task has for itself; the rest of its
//! facts, and the queue they lead to, it shares with all that are alike.

use super::owners::Owners;
use super::ready::Lane;
use prost::Message as _;
use proto::store;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Index of a class; given while facts of the class are held, then used again.
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
    /// No two copies may run: held back while there may be one that this informer does not know of.
    pub one_copy: bool,
}

impl Class {
    fn of(facts: &store::Facts) -> Self {
        Self {
            require: facts.require.clone(),
            kind: facts.kind.clone(),
            cpu_millis: facts.cpu_millis,
            memory_bytes: facts.memory_bytes,
            strong_fencing: facts.exclusive && !facts.accept_weak_fencing,
            one_copy: facts.stop_on_disconnect,
        }
    }
}

/// What tells a task from those that are alike: the part of its facts that is its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Own {
    /// Its name.
    pub name: Box<str>,
    /// Its labels, in the order of their keys. Flat: the smallest tree of strings is a node of 500 bytes.
    pub labels: Box<[(Box<str>, Box<str>)]>,
}

impl Own {
    /// Takes the own part out of facts.
    #[must_use]
    pub fn take(facts: &mut store::Facts) -> Self {
        let labels = std::mem::take(&mut facts.labels).into_iter();
        Self {
            name: std::mem::take(&mut facts.name).into(),
            labels: labels.map(|(key, value)| (key.into(), value.into())).collect(),
        }
    }

    fn is_of(&self, facts: &store::Facts) -> bool {
        let labels = || self.labels.iter().map(|(key, value)| (&**key, &**value));
        let theirs = || facts.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        *self.name == *facts.name && labels().eq(theirs())
    }

    /// It alone, as facts. Encoded after the shared part it makes the whole: fields of a message may come in any order.
    #[must_use]
    pub fn alone(&self) -> store::Facts {
        self.whole(&store::Facts::default())
    }

    /// The facts that it was taken from, given the shared part.
    #[must_use]
    pub fn whole(&self, shared: &store::Facts) -> store::Facts {
        let labels = self.labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        store::Facts { name: self.name.to_string(), labels, ..shared.clone() }
    }
}

/// What tasks that are alike share. Its holders are those tasks and the table: it is never handed out, so that their number tells
/// when nobody needs it any more. The facts may be.
#[derive(Debug)]
pub(super) struct Alike {
    /// Without what is a task's own.
    pub facts: Arc<store::Facts>,
    /// The queue that they wait in.
    pub lane: Lane,
    likeness: Likeness,
}

/// What equal facts have in common and nobody can give to others: half of a SHA-256. Their bytes would cost as much as the facts.
type Likeness = [u8; 16];

fn likeness(facts: &store::Facts) -> Likeness {
    let mut half = Likeness::default();
    half.copy_from_slice(&Sha256::digest(facts.encode_to_vec())[..size_of::<Likeness>()]);
    half
}

/// The table of all that is shared.
#[derive(Debug, Default)]
pub(super) struct Shared {
    classes: Vec<Class>,
    ids: BTreeMap<Class, (ClassId, usize)>,
    free: Vec<ClassId>,
    /// With the own part of the task that came last: the next one is often called the same.
    alike: BTreeMap<Likeness, (Arc<Alike>, Arc<Own>)>,
    pub owners: Owners,
}

impl Shared {
    /// With the weights of owners.
    pub(super) fn new(weights: BTreeMap<String, u64>) -> Self {
        Self { owners: Owners::new(weights), ..Self::default() }
    }

    /// Parts facts into what is shared, and held once, and what is the task's own.
    pub(super) fn acquire(&mut self, mut facts: store::Facts) -> (Arc<Alike>, Arc<Own>) {
        let (name, labels) = (std::mem::take(&mut facts.name), std::mem::take(&mut facts.labels));
        let likeness = likeness(&facts);
        let mut named = store::Facts { name, labels, ..store::Facts::default() };
        if let Some((alike, last)) = self.alike.get_mut(&likeness) {
            if !last.is_of(&named) {
                *last = Arc::new(Own::take(&mut named));
            }
            return (Arc::clone(alike), Arc::clone(last));
        }
        let own = Arc::new(Own::take(&mut named));
        let lane = Lane { owner: self.owners.acquire(&facts.owner), class: self.acquire_class(Class::of(&facts)) };
        let alike = Arc::new(Alike { facts: Arc::new(facts), lane, likeness });
        self.alike.insert(likeness, (Arc::clone(&alike), Arc::clone(&own)));
        (alike, own)
    }

    /// Gives facts back; the last one to do so frees them.
    pub(super) fn release(&mut self, alike: Arc<Alike>) {
        // Two holders: this table and the caller.
        if Arc::strong_count(&alike) > 2 {
            return;
        }
        self.alike.remove(&alike.likeness);
        self.release_class(&Class::of(&alike.facts));
        self.owners.release(&alike.facts.owner);
    }

    /// Whether exactly these many tasks hold what is in the table, and none of it is held by nobody.
    pub(super) fn is_held_by(&self, tasks: usize) -> bool {
        let users = || self.alike.values().map(|(alike, _)| Arc::strong_count(alike) - 1);
        users().sum::<usize>() == tasks && users().all(|users| users > 0)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(name: &str, label: &str) -> store::Facts {
        let labels = [("film".to_owned(), label.to_owned())].into();
        store::Facts { name: name.into(), owner: "ops".into(), labels, cpu_millis: 500, ..store::Facts::default() }
    }

    #[test]
    fn tasks_that_differ_by_name_and_labels_share_the_rest() {
        let mut shared = Shared::default();
        let (one, first) = shared.acquire(facts("cut-1", "a"));
        let (two, second) = shared.acquire(facts("cut-2", "b"));
        let (three, again) = shared.acquire(facts("cut-2", "b"));
        drop(three);
        assert!(Arc::ptr_eq(&one, &two) && Arc::ptr_eq(&second, &again));
        assert_eq!(first.whole(&one.facts), facts("cut-1", "a"));
        assert_eq!(second.whole(&two.facts), facts("cut-2", "b"));
        assert!(shared.is_held_by(2), "{shared:?}");
    }

    #[test]
    fn both_parts_encoded_one_after_the_other_are_the_whole() {
        let mut shared = Shared::default();
        let (alike, own) = shared.acquire(facts("cut", "a"));
        let bytes = [alike.facts.encode_to_vec(), own.alone().encode_to_vec()].concat();
        assert_eq!(store::Facts::decode(&*bytes), Ok(facts("cut", "a")));
    }

    #[test]
    fn the_last_one_frees_them_though_a_batch_still_holds_the_facts() {
        let mut shared = Shared::default();
        let (one, _) = shared.acquire(facts("cut", "a"));
        let (two, _) = shared.acquire(facts("cut", "a"));
        let _batch = Arc::clone(&one.facts);
        shared.release(one);
        assert!(shared.is_held_by(1), "{shared:?}");
        shared.release(two);
        assert!(shared.alike.is_empty() && shared.ids.is_empty(), "{shared:?}");
    }
}
