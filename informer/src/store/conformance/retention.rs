//! What is written once, what may go, and what goes with it.

use super::array::{member, task};
use super::{Open, World, change, line, payload, row};
use crate::machine::{Batch, KeyHit, Own, TaskChange};
use crate::store::{Commit, Error, Filter, ItemChunk};
use proto::store::{ExecutorRow, Facts, TaskRow};
use proto::v1::{Executor, TaskState};
use std::sync::Arc;

pub(super) const PARTS: [fn(Open); 6] = [
    facts_are_written_once,
    a_key_stands_for_its_digest,
    executors_are_replaced_and_deleted,
    nothing_of_a_pruned_task_is_left,
    a_body_stays_while_anybody_has_it,
    the_oldest_and_the_many_may_go,
];

fn ended(id: u128, ended_unix_ms: u64) -> TaskRow {
    TaskRow { ended_unix_ms, ..row(id, TaskState::Succeeded) }
}

fn facts_are_written_once(mut open: Open) {
    let mut world = World::open(&mut open);
    let first = row(1, TaskState::Ready);
    world.put(vec![first.clone()]);
    let other = Facts { owner: "other".into(), ..Facts::default() };
    let update = |id, state| TaskChange {
        row: TaskRow { facts: None, ..row(id, state) },
        facts: Arc::new(other.clone()),
        own: Arc::new(Own { name: "other".into(), ..Own::default() }),
        fresh: false,
    };
    for state in [TaskState::Ready, TaskState::Assigned, TaskState::Running, TaskState::Succeeded, TaskState::Ready] {
        world.try_commit(Batch { tasks: vec![update(1, state)], ..Batch::default() }).unwrap();
        let found = world.reader.get(task(1)).unwrap().unwrap();
        assert_eq!((found.state(), &found.facts), (state, &first.facts));
    }
    assert_eq!(world.ids(&Filter { name: Some("other".into()), ..Filter::default() }), []);
    let outcome = world.try_commit(Batch { tasks: vec![update(2, TaskState::Ready)], ..Batch::default() });
    assert!(matches!(outcome, Err(Error::Corrupt { .. })), "a change of what is not there: {outcome:?}");
    drop(world);
    let outcome = World::open(&mut open).try_commit(Batch { tasks: vec![change(first)], ..Batch::default() });
    assert!(matches!(outcome, Err(Error::Corrupt { .. })), "a new row in the place of another: {outcome:?}");
}

fn a_key_stands_for_its_digest(mut open: Open) {
    let mut world = World::open(&mut open);
    world.put(vec![TaskRow { key: "array".into(), key_digest: vec![9; 32], ..row(1, TaskState::Ready) }]);
    assert_eq!(world.reader.key("array").unwrap(), Some(KeyHit { task: task(1), digest: [9; 32] }));
}

fn executors_are_replaced_and_deleted(mut open: Open) {
    let mut world = World::open(&mut open);
    let executor = |name: &str, id: &str| Executor { r#type: name.into(), id: id.into(), ..Executor::default() };
    let put = |world: &mut World, executor: &Executor, deleted| {
        let executors = vec![ExecutorRow { executor: Some(executor.clone()), deleted }];
        world.try_commit(Batch { executors, ..Batch::default() }).unwrap();
    };
    let (old, new, other) = (executor("resize", "1"), executor("resize", "2"), executor("merge", "3"));
    put(&mut world, &old, false);
    put(&mut world, &other, false);
    put(&mut world, &new, false);
    assert_eq!(world.reader.executors().unwrap(), [other.clone(), new.clone()]);
    drop(world);
    let mut world = World::open(&mut open);
    put(&mut world, &other, true);
    put(&mut world, &other, true);
    assert_eq!(world.reader.executors().unwrap(), [new]);
}

fn nothing_of_a_pruned_task_is_left(mut open: Open) {
    let mut world = World::open(&mut open);
    let named = |id, state| {
        let mut row = TaskRow { key: "once".into(), ..row(id, state) };
        row.facts.as_mut().unwrap().labels.insert("a".into(), "b".into());
        row
    };
    let items = vec![ItemChunk { array: task(1), first: 0, items: vec!["x".into()] }];
    let tasks = [named(1, TaskState::Succeeded), member(1, 4, TaskState::Succeeded), row(2, TaskState::Ready)];
    let of_member = crate::machine::HistoryEvent { task: task(1).at(4).unwrap(), ..line(1, 1) };
    let history = vec![line(1, 1), line(1, 2), line(2, 1), of_member];
    let batch = Batch { tasks: tasks.map(change).to_vec(), history, ..Batch::default() };
    world.commit(Commit { batch, items, ..Commit::default() }).unwrap();
    let labelled = Filter { labels: [("a".into(), "b".into())].into(), ..Filter::default() };
    assert_eq!(world.ids(&labelled), [1]);

    let member = task(1).at(4).unwrap();
    world.commit(Commit { prune: vec![member, task(77)], ..Commit::default() }).unwrap();
    assert_eq!(world.reader.get(member).unwrap(), None);
    assert_eq!(world.reader.history(member, 0, 9).unwrap(), []);
    assert!(world.reader.get(task(1)).unwrap().is_some());

    // Pruned first: its key is free for what the same commit brings.
    let batch = Batch { tasks: vec![change(named(3, TaskState::Ready))], ..Batch::default() };
    world.commit(Commit { batch, prune: vec![task(1)], ..Commit::default() }).unwrap();
    assert_eq!(world.reader.get(task(1)).unwrap(), None);
    assert_eq!(world.reader.history(task(1), 0, 9).unwrap(), []);
    assert_eq!(world.reader.item(task(1), 0).unwrap(), None);
    assert_eq!(world.ids(&labelled), [3]);
    assert_eq!(world.reader.key("once").unwrap().map(|hit| hit.task), Some(task(3)));
    assert_eq!(world.reader.history(task(2), 0, 9).unwrap().len(), 1);
    drop(world);
    assert_eq!(World::open(&mut open).live().len(), 2);
}

fn a_body_stays_while_anybody_has_it(mut open: Open) {
    let mut world = World::open(&mut open);
    let submit = |world: &mut World, ids: &[u128], body: u8| {
        let having = |id: &u128| change(TaskRow { payload: payload(body).0.to_vec(), ..row(*id, TaskState::Ready) });
        let batch = Batch { tasks: ids.iter().map(having).collect(), ..Batch::default() };
        let payloads = vec![payload(body); ids.len()];
        world.commit(Commit { batch, payloads, ..Commit::default() }).unwrap();
    };
    let kept = |world: &mut World, body: u8| world.reader.payloads(&[payload(body).0]).unwrap().len() == 1;
    let prune = |world: &mut World, ids: &[u128]| {
        world.commit(Commit { prune: ids.iter().map(|id| task(*id)).collect(), ..Commit::default() }).unwrap();
    };
    submit(&mut world, &[1], 1);
    submit(&mut world, &[2, 3, 4], 2);
    submit(&mut world, &[5], 2);
    let of_one = TaskRow { payload: payload(1).0.to_vec(), ..member(1, 0, TaskState::Ready) };
    world.put(vec![of_one]);
    prune(&mut world, &[2, 3]);
    assert!(kept(&mut world, 2), "two others have it");
    submit(&mut world, &[6], 2);
    prune(&mut world, &[4, 5]);
    assert!(kept(&mut world, 2));
    prune(&mut world, &[6]);
    assert!(!kept(&mut world, 2), "nobody has it");
    submit(&mut world, &[7], 2);
    assert!(kept(&mut world, 2), "somebody has it again");
    prune(&mut world, &[1]);
    assert!(!kept(&mut world, 1), "a member does not keep it");

    // One that was refused leaves a body, which is used, or removed at the next start.
    world.commit(Commit { payloads: vec![payload(3), payload(4)], ..Commit::default() }).unwrap();
    submit(&mut world, &[8], 4);
    drop(world);
    let mut world = World::open(&mut open);
    assert!(!kept(&mut world, 3) && kept(&mut world, 4) && kept(&mut world, 2));
    prune(&mut world, &[8, 7]);
    assert!(!kept(&mut world, 4) && !kept(&mut world, 2));
}

fn the_oldest_and_the_many_may_go(mut open: Open) {
    let mut world = World::open(&mut open);
    let members = [3, 9].map(|index| TaskRow { ended_unix_ms: 5, ..member(12, index, TaskState::Failed) });
    let mut tasks = vec![row(10, TaskState::Ready), row(11, TaskState::Running), ended(12, 10), ended(13, 40)];
    tasks.extend([ended(14, 30), ended(15, 20), ended(16, 50)]);
    world.put(tasks.into_iter().chain(members).collect());
    let of_twelve = [3, 9].map(|index| task(12).at(index).unwrap());
    let prunable = |world: &mut World, before, keep, limit| world.reader.prunable(before, keep, limit).unwrap();
    assert_eq!(prunable(&mut world, 0, u64::MAX, 9), []);
    assert_eq!(prunable(&mut world, 10, u64::MAX, 9), []);
    assert_eq!(prunable(&mut world, 11, u64::MAX, 9), of_twelve, "in the place of their array");
    assert_eq!(prunable(&mut world, 0, 4, 9), of_twelve);
    assert_eq!(prunable(&mut world, 0, 5, 9), []);
    assert_eq!(prunable(&mut world, 0, 4, 1), of_twelve[..1]);
    world.commit(Commit { prune: of_twelve.to_vec(), ..Commit::default() }).unwrap();
    assert_eq!(prunable(&mut world, 11, u64::MAX, 9), [12].map(task));
    assert_eq!(prunable(&mut world, 31, 4, 9), [12, 15, 14].map(task), "those that ended first first");
    assert_eq!(prunable(&mut world, 11, 2, 9), [12, 15, 14].map(task));
    assert_eq!(prunable(&mut world, u64::MAX, 0, 9), [12, 15, 14, 13, 16].map(task));
    assert_eq!(prunable(&mut world, 0, 0, 2), [12, 15].map(task));
    world.put(vec![row(12, TaskState::Ready)]);
    assert_eq!(prunable(&mut world, 31, u64::MAX, 9), [15, 14].map(task), "what was retried lives");
}
