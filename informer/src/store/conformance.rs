//! What every store must do, as one suite that each backend runs.

#![allow(clippy::unwrap_used, reason = "a suite of tests: a failure is a panic that names the line")]

mod array;
mod flow;
mod retention;

use super::{Commit, Error, Filter, Identity, Live, Read, Store};
use crate::machine::{Batch, HistoryEvent, KeyHit, Own, PayloadHandle, TaskChange};
use bytes::Bytes;
use proto::bounds;
use proto::id::TaskId;
use proto::store::{AttemptRow, Facts, SidecarRow, TaskRow};
use proto::v1::{Ending, Reason, TaskState};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A body and its handle.
pub(crate) fn payload(n: u8) -> (PayloadHandle, Bytes) {
    let body = [n; 5];
    (Sha256::digest(body).into(), Bytes::copy_from_slice(&body))
}

/// Opens one and the same store, again and again; the opening before has ended.
pub type Open = Box<dyn FnMut() -> Result<Box<dyn Store>, Error>>;

/// Runs everything; each part gets an empty store from `fresh`.
pub fn suite(mut fresh: impl FnMut() -> Open) {
    let parts: [fn(Open); 13] = [
        a_commit_is_read_at_once_and_after_reopening,
        each_opening_claims_a_higher_epoch,
        a_lower_epoch_is_fenced,
        commits_are_numbered_without_gaps,
        nothing_is_committed_after_a_failure,
        a_failed_commit_leaves_nothing,
        ten_thousand_rows_in_one_commit,
        a_key_belongs_to_one_task,
        payloads_come_in_bulk_and_are_kept_once,
        pages_are_stable_while_tasks_come_and_go,
        filters_select_and_combine,
        filters_look_into_rows,
        histories_are_bounded,
    ];
    for part in parts.into_iter().chain(array::PARTS).chain(retention::PARTS).chain(flow::PARTS) {
        part(fresh());
    }
}

/// A task row with the least that a store looks at.
#[must_use]
pub fn row(id: u128, state: TaskState) -> TaskRow {
    let id_bytes = TaskId::from_u128(id).to_bytes().to_vec();
    let mut row = TaskRow { id: id_bytes, payload: vec![7; 32], version: 1, ..TaskRow::default() };
    row.set_state(state);
    row.facts = Some(Facts { owner: "day".into(), name: format!("job-{}", id % 3), ..Facts::default() });
    row
}

/// A row as a batch carries it.
#[must_use]
pub fn change(mut row: TaskRow) -> TaskChange {
    let mut facts = row.facts.take().unwrap_or_default();
    let own = Arc::new(Own::take(&mut facts));
    TaskChange { row, facts: Arc::new(facts), own, fresh: true }
}

/// A store and the number of its last commit.
struct World {
    store: Box<dyn Store>,
    reader: Box<dyn Read>,
    identity: Identity,
}

impl World {
    fn open(open: &mut Open) -> Self {
        let store = open().unwrap();
        let (reader, identity) = (store.reader().unwrap(), store.identity());
        Self { store, reader, identity }
    }

    fn try_commit(&mut self, batch: Batch) -> Result<(), Error> {
        self.commit(Commit { batch, ..Commit::default() })
    }

    /// Commits under the next number.
    fn commit(&mut self, commit: Commit) -> Result<(), Error> {
        let commit = Commit { seq: self.identity.commit_seq + 1, ..commit };
        self.store.commit(self.identity.epoch, &commit)?;
        self.identity.commit_seq += 1;
        Ok(())
    }

    fn put(&mut self, tasks: Vec<TaskRow>) {
        let change = |row| {
            let change = change(row);
            let stored = TaskId::from_bytes(&change.row.id).and_then(|task| self.reader.get(task).unwrap());
            TaskChange { fresh: stored.is_none(), ..change }
        };
        let tasks = tasks.into_iter().map(change).collect();
        self.try_commit(Batch { tasks, ..Batch::default() }).unwrap();
    }

    fn live(&mut self) -> Vec<TaskRow> {
        let mut failed = None;
        let rows = Live::new(&mut *self.reader, &mut failed).collect();
        assert!(failed.is_none(), "{failed:?}");
        rows
    }

    fn ids(&mut self, filter: &Filter) -> Vec<u128> {
        self.reader.list(filter).unwrap().rows.iter().map(number).collect()
    }
}

fn number(row: &TaskRow) -> u128 {
    TaskId::from_bytes(&row.id).unwrap().as_u128()
}

fn a_commit_is_read_at_once_and_after_reopening(mut open: Open) {
    let mut world = World::open(&mut open);
    assert_eq!(world.identity.commit_seq, 0);
    let sidecar = SidecarRow { id: "s".into(), host: "box".into(), ..SidecarRow::default() };
    let tasks = [row(1, TaskState::Ready), row(2, TaskState::Running), row(3, TaskState::Failed)];
    world
        .try_commit(Batch {
            tasks: tasks.iter().cloned().map(change).collect(),
            sidecars: vec![sidecar.clone()],
            ..Batch::default()
        })
        .unwrap();
    assert_eq!(world.reader.get(TaskId::from_u128(3)).unwrap().as_ref(), Some(&tasks[2]));
    assert_eq!(world.reader.get(TaskId::from_u128(4)).unwrap(), None);
    let ended = row(2, TaskState::Succeeded);
    world.put(vec![ended.clone()]);
    assert_eq!(world.reader.get(TaskId::from_u128(2)).unwrap(), Some(ended));

    drop(world);
    let mut world = World::open(&mut open);
    assert_eq!(world.identity.commit_seq, 2);
    assert_eq!(world.live(), [tasks[0].clone()], "terminal tasks are not loaded");
    assert_eq!(world.reader.sidecars().unwrap(), [sidecar]);
    world.put(vec![row(5, TaskState::Waiting)]);
    assert_eq!(world.live().len(), 2);
}

fn each_opening_claims_a_higher_epoch(mut open: Open) {
    let first = World::open(&mut open).identity;
    let second = World::open(&mut open).identity;
    assert!(second.epoch > first.epoch);
    assert_eq!(second.lineage, first.lineage);
}

fn a_lower_epoch_is_fenced(mut open: Open) {
    let mut world = World::open(&mut open);
    let old = world.identity.epoch;
    world.try_commit(Batch { epoch: Some(old + 5), ..Batch::default() }).unwrap();
    let outcome = world.try_commit(Batch { tasks: vec![change(row(1, TaskState::Ready))], ..Batch::default() });
    assert!(
        matches!(outcome, Err(Error::Fenced { ours, claimed }) if ours == old && claimed == old + 5),
        "{outcome:?}"
    );
    assert_eq!(world.reader.get(TaskId::from_u128(1)).unwrap(), None);

    drop(world);
    let mut world = World::open(&mut open);
    assert!(world.identity.epoch > old + 5, "the raised epoch is durable");
    world.put(vec![row(1, TaskState::Ready)]);
}

fn commits_are_numbered_without_gaps(mut open: Open) {
    let mut world = World::open(&mut open);
    world.put(vec![row(1, TaskState::Ready)]);
    let outcome = world.store.commit(world.identity.epoch, &Commit { seq: 3, ..Commit::default() });
    assert!(matches!(outcome, Err(Error::OutOfOrder { given: 3, last: 1 })), "{outcome:?}");
}

fn nothing_is_committed_after_a_failure(mut open: Open) {
    let mut world = World::open(&mut open);
    assert!(world.store.commit(world.identity.epoch, &Commit { seq: 9, ..Commit::default() }).is_err());
    let outcome = world.try_commit(Batch { tasks: vec![change(row(1, TaskState::Ready))], ..Batch::default() });
    assert!(matches!(outcome, Err(Error::Poisoned(_))), "{outcome:?}");
    assert_eq!(world.live(), []);
    drop(world);
    World::open(&mut open).put(vec![row(1, TaskState::Ready)]);
}

fn a_failed_commit_leaves_nothing(mut open: Open) {
    let mut world = World::open(&mut open);
    let keyed = |id| TaskRow { key: "k".into(), ..row(id, TaskState::Ready) };
    world.put(vec![keyed(1)]);
    let history = vec![line(3, 1)];
    let tasks = vec![change(row(3, TaskState::Ready)), change(keyed(2))];
    assert!(world.try_commit(Batch { tasks, history, ..Batch::default() }).is_err());
    assert_eq!(world.live().len(), 1);
    assert_eq!(world.reader.history(TaskId::from_u128(3), 0, 9).unwrap(), []);
    drop(world);
    assert_eq!(World::open(&mut open).identity.commit_seq, 1);
}

fn ten_thousand_rows_in_one_commit(mut open: Open) {
    let mut world = World::open(&mut open);
    let rows: Vec<TaskRow> = (1..=10_000).map(|id| row(id, TaskState::Ready)).collect();
    world.put(rows.clone());
    assert_eq!(world.live(), rows, "all of them, in the order of their ids");
}

fn a_key_belongs_to_one_task(mut open: Open) {
    let mut world = World::open(&mut open);
    let keyed = |id| TaskRow { key: "once".into(), ..row(id, TaskState::Ready) };
    world.put(vec![keyed(1)]);
    let hit = KeyHit { task: TaskId::from_u128(1), digest: [7; 32] };
    assert_eq!(world.reader.key("once").unwrap(), Some(hit));
    assert_eq!(world.reader.key("never").unwrap(), None);
    world.put(vec![TaskRow { key: "once".into(), ..row(1, TaskState::Succeeded) }]);
    assert_eq!(world.reader.key("once").unwrap(), Some(hit), "a key outlives its task's end");
    let outcome = world.try_commit(Batch { tasks: vec![change(keyed(2))], ..Batch::default() });
    assert!(matches!(outcome, Err(Error::KeyTaken { .. })), "{outcome:?}");
}

fn payloads_come_in_bulk_and_are_kept_once(mut open: Open) {
    let mut world = World::open(&mut open);
    let (one, two) = (payload(1), payload(2));
    for (seq, body) in [(1, one.1.clone()), (2, Bytes::from_static(b"other"))] {
        let payloads = vec![(one.0, body), two.clone()];
        world.store.commit(world.identity.epoch, &Commit { seq, payloads, ..Commit::default() }).unwrap();
    }
    let found = world.reader.payloads(&[one.0, two.0, payload(3).0]).unwrap();
    assert_eq!(found, [one, two].into());
}

fn pages_are_stable_while_tasks_come_and_go(mut open: Open) {
    let mut world = World::open(&mut open);
    world.put((10..=30).map(|id| row(id, TaskState::Ready)).collect());
    let mut filter = Filter { states: vec![TaskState::Ready, TaskState::Failed], page_size: 8, ..Filter::default() };
    let first = world.reader.list(&filter).unwrap();
    assert_eq!(first.rows.iter().map(number).collect::<Vec<_>>(), (23..=30).rev().collect::<Vec<_>>());
    // Newer ones come, some of the listed and of the coming ones leave the filter, the last listed among them.
    let mut changes: Vec<TaskRow> = (31..=40).map(|id| row(id, TaskState::Ready)).collect();
    changes.extend([23, 25, 15].map(|id| row(id, TaskState::Succeeded)));
    changes.push(row(16, TaskState::Failed));
    world.put(changes);
    let mut listed: BTreeSet<u128> = BTreeSet::new();
    filter.before = first.next;
    while filter.before.is_some() {
        let page = world.reader.list(&filter).unwrap();
        assert!(page.rows.iter().all(|row| listed.insert(number(row))), "listed twice");
        filter.before = page.next;
    }
    assert_eq!(listed, (10..=22).filter(|id| *id != 15).collect());
    assert_eq!(world.reader.list(&Filter { page_size: 50, ..Filter::default() }).unwrap().next, None);
}

fn filters_select_and_combine(mut open: Open) {
    let mut world = World::open(&mut open);
    let mut rows: Vec<TaskRow> = (1..=12).map(|id| row(id, TaskState::Ready)).collect();
    for row in &mut rows {
        let id = number(row);
        if id > 6 {
            row.set_state(TaskState::Failed);
        }
        let facts = row.facts.as_mut().unwrap();
        facts.owner = if id.is_multiple_of(2) { "day" } else { "night" }.into();
        facts.labels.insert("third".into(), (id % 3).to_string());
        if id > 3 {
            facts.labels.insert("late".into(), "yes".into());
        }
    }
    world.put(rows);
    let all = Filter::default();
    let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    assert_eq!(world.ids(&all), (1..=12).rev().collect::<Vec<_>>());
    assert_eq!(world.ids(&Filter { owner: Some("day".into()), ..all.clone() }), [12, 10, 8, 6, 4, 2]);
    assert_eq!(world.ids(&Filter { name: Some("job-0".into()), ..all.clone() }), [12, 9, 6, 3]);
    assert_eq!(world.ids(&Filter { states: vec![TaskState::Failed], ..all.clone() }), [12, 11, 10, 9, 8, 7]);
    assert_eq!(world.ids(&Filter { labels: labels(&[("third", "1")]), ..all.clone() }), [10, 7, 4, 1]);
    assert_eq!(world.ids(&Filter { labels: labels(&[("third", "1"), ("late", "yes")]), ..all.clone() }), [10, 7, 4]);
    assert_eq!(world.ids(&Filter { labels: labels(&[("third", "1' OR 1")]), ..all.clone() }), []);
    let everything = Filter {
        states: vec![TaskState::Failed, TaskState::Ready],
        owner: Some("day".into()),
        name: Some("job-1".into()),
        labels: labels(&[("late", "yes"), ("third", "1")]),
        page_size: 1,
        before: Some(TaskId::from_u128(10)),
        ..Filter::default()
    };
    assert_eq!(world.ids(&everything), [4]);
    let owned = Filter { states: vec![TaskState::Ready], owner: Some("night".into()), page_size: 2, ..all };
    let page = world.reader.list(&owned).unwrap();
    assert_eq!(page.next, Some(TaskId::from_u128(3)));
    assert_eq!(world.ids(&Filter { before: page.next, ..owned }), [1]);
}

fn filters_look_into_rows(mut open: Open) {
    let mut world = World::open(&mut open);
    let mut rows: Vec<TaskRow> = (1..=6).map(|id| row(id, TaskState::Failed)).collect();
    for (row, at) in rows.iter_mut().zip(1_u64..) {
        row.created_unix_ms = 10 * at;
        let facts = row.facts.as_mut().unwrap();
        facts.kind = if at > 3 { "service" } else { "type:resize" }.into();
        facts.priority = i32::try_from(at % 2).unwrap();
        let attempt = |sidecar: &str| AttemptRow { sidecar: sidecar.into(), ..AttemptRow::default() };
        row.attempts = if at > 2 { vec![attempt("a"), attempt("b")] } else { vec![attempt("b")] };
        let reason = if at == 5 { Reason::Oom } else { Reason::ExitCode };
        row.ending = (at > 1).then(|| Ending { reason: reason.into(), ..Ending::default() });
    }
    world.put(rows);
    let all = Filter::default();
    assert_eq!(world.ids(&Filter { kind: Some("type:resize".into()), ..all.clone() }), [3, 2, 1]);
    assert_eq!(world.ids(&Filter { priority: Some(0), ..all.clone() }), [6, 4, 2]);
    assert_eq!(world.ids(&Filter { sidecar: Some("a".into()), ..all.clone() }), [6, 5, 4, 3]);
    assert_eq!(world.ids(&Filter { reason: Some(Reason::ExitCode), ..all.clone() }), [6, 4, 3, 2]);
    assert_eq!(world.ids(&Filter { name_prefix: Some("job-".into()), ..all.clone() }).len(), 6);
    assert_eq!(world.ids(&Filter { name_prefix: Some("job-1".into()), ..all.clone() }), [4, 1]);
    let between =
        Filter { created_after_unix_ms: Some(20), created_before_unix_ms: Some(60), page_size: 2, ..all.clone() };
    let page = world.reader.list(&between).unwrap();
    assert_eq!((page.rows.len(), page.next), (2, Some(TaskId::from_u128(4))));
    assert_eq!(world.ids(&Filter { before: page.next, ..between }), [3]);
    let together = Filter {
        states: vec![TaskState::Failed, TaskState::Succeeded],
        kind: Some("service".into()),
        sidecar: Some("b".into()),
        reason: Some(Reason::Oom),
        priority: Some(1),
        ..all
    };
    assert_eq!(world.ids(&together), [5]);
}

fn histories_are_bounded(mut open: Open) {
    let mut world = World::open(&mut open);
    let task = TaskId::from_u128(1);
    let total = bounds::HISTORY_EVENTS + 10;
    let history = (1..=total).map(|n| line(1, n)).chain([line(2, 1)]).collect();
    world.try_commit(Batch { history, ..Batch::default() }).unwrap();
    let lines = world.reader.history(task, 0, u32::MAX).unwrap();
    assert_eq!(lines.len() as u64, bounds::HISTORY_EVENTS);
    assert_eq!((lines[0].seq, lines[0].unix_ms, lines[0].kind.as_str()), (1, 1, "submitted"));
    let seqs: Vec<u64> = lines[1..].iter().map(|line| line.seq).collect();
    assert_eq!(seqs, (12..=total).collect::<Vec<_>>());
    let page = world.reader.history(task, 1, 2).unwrap();
    assert_eq!(page.iter().map(|line| line.unix_ms).collect::<Vec<_>>(), [12, 13]);
    assert_eq!(world.reader.history(TaskId::from_u128(2), 0, 9).unwrap().len(), 1);
}

fn line(task: u128, n: u64) -> HistoryEvent {
    let kind = if n == 1 { "submitted" } else { "started" };
    let seq = u32::try_from(n).unwrap();
    HistoryEvent { task: TaskId::from_u128(task), seq, unix_ms: n, kind, attempt: 0, detail: String::new() }
}
