//! Arrays: their members and their items.

use super::{Open, World, change, row};
use crate::machine::Batch;
use crate::store::{Commit, Filter, ItemChunk, SCAN_ROWS};
use proto::id::TaskId;
use proto::store::TaskRow;
use proto::v1::TaskState;

pub(super) const PARTS: [fn(Open); 4] = [
    members_are_tasks_that_only_their_array_lists,
    lists_of_members_go_upward,
    items_are_found_by_their_position,
    a_page_looks_at_a_bounded_number_of_rows,
];

pub(super) fn task(n: u128) -> TaskId {
    TaskId::from_u128(n)
}

pub(super) fn member(array: u128, index: u32, state: TaskState) -> TaskRow {
    let id = task(array).at(index).unwrap();
    TaskRow { id: id.to_bytes().to_vec(), ..row(array, state) }
}

fn names(rows: &[TaskRow]) -> Vec<TaskId> {
    rows.iter().map(|row| TaskId::from_bytes(&row.id).unwrap()).collect()
}

fn members_are_tasks_that_only_their_array_lists(mut open: Open) {
    let mut world = World::open(&mut open);
    let members = [0, 3, 300].map(|index| member(5, index, TaskState::Assigned));
    world.put((4..=6).map(|id| row(id, TaskState::Ready)).chain(members.clone()).collect());
    let [first, second, third] = [0, 3, 300].map(|index| task(5).at(index).unwrap());
    assert_eq!(names(&world.live()), [task(4), task(5), first, second, third, task(6)], "in the order of ids");
    assert_eq!(world.reader.get(second).unwrap().as_ref(), Some(&members[1]));
    assert_eq!(world.reader.get(task(5).at(1).unwrap()).unwrap(), None);
    assert_eq!(world.ids(&Filter::default()), [6, 5, 4]);
    assert_eq!(world.ids(&Filter { states: vec![TaskState::Assigned], ..Filter::default() }), []);
    let of_three = Filter { before: Some(second), ..Filter::default() };
    assert_eq!(world.ids(&of_three), [5, 4], "older than a member are its array and what came before");

    world.put(vec![member(5, 3, TaskState::Running)]);
    world.put(vec![member(5, 3, TaskState::Succeeded), member(5, 0, TaskState::Failed)]);
    drop(world);
    let mut world = World::open(&mut open);
    assert_eq!(names(&world.live()), [task(4), task(5), third, task(6)]);
    world.put(vec![member(5, 3, TaskState::Ready)]);
    assert_eq!(names(&world.live())[2..4], [second, third], "a retried one lives again");
}

fn lists_of_members_go_upward(mut open: Open) {
    let mut world = World::open(&mut open);
    let members = |array, indices: &[u32]| -> Vec<TaskRow> {
        indices.iter().map(|index| member(array, *index, TaskState::Ready)).collect()
    };
    world.put([members(4, &[1]), members(5, &[0, 1, 2, 300, 70_000]), members(6, &[1])].concat());
    world.put(vec![member(5, 1, TaskState::Failed), member(5, 300, TaskState::Failed)]);
    let mut filter = Filter { array: Some(task(5)), page_size: 2, ..Filter::default() };
    let mut pages = Vec::new();
    loop {
        let page = world.reader.list(&filter).unwrap();
        pages.push(names(&page.rows).iter().map(|id| id.index().unwrap()).collect::<Vec<_>>());
        filter.before = page.next;
        if page.next.is_none() {
            break;
        }
    }
    assert_eq!(pages, [vec![0, 1], vec![2, 300], vec![70_000]]);
    let failed = Filter { states: vec![TaskState::Failed], array: Some(task(5)), ..Filter::default() };
    let page = world.reader.list(&failed).unwrap();
    assert_eq!(names(&page.rows), [1, 300].map(|index| task(5).at(index).unwrap()));
    let ready = Filter { states: vec![TaskState::Ready, TaskState::Succeeded], ..failed };
    assert_eq!(world.reader.list(&ready).unwrap().rows.len(), 3);
    assert_eq!(world.ids(&Filter { array: Some(task(9)), ..Filter::default() }), []);
}

fn items_are_found_by_their_position(mut open: Open) {
    let mut world = World::open(&mut open);
    let chunk = |array, first, items: &[&str]| ItemChunk {
        array: task(array),
        first,
        items: items.iter().map(|item| (*item).to_owned()).collect(),
    };
    let commit = |world: &mut World, items, tasks: Vec<TaskRow>| {
        let batch = Batch { tasks: tasks.into_iter().map(change).collect(), ..Batch::default() };
        world.commit(Commit { items, batch, ..Commit::default() }).unwrap();
    };
    commit(&mut world, vec![chunk(5, 0, &["a", "", "c"]), chunk(8, 0, &["left"])], Vec::new());
    commit(&mut world, vec![chunk(5, 3, &["d", "zwölf"])], vec![row(5, TaskState::Ready)]);
    let item = |world: &mut World, array, position| world.reader.item(task(array), position).unwrap();
    let items: Vec<Option<String>> = (0..6).map(|position| item(&mut world, 5, position)).collect();
    let chunk = world.reader.item_chunk(task(5), 3).unwrap().unwrap();
    assert_eq!(chunk.items.get((3 - chunk.first) as usize), items[3].as_ref(), "the chunk of an item holds it");
    assert_eq!(
        items,
        ["a", "", "c", "d", "zwölf"].map(|item| Some(item.into())).into_iter().chain([None]).collect::<Vec<_>>()
    );
    assert_eq!(item(&mut world, 8, 0).as_deref(), Some("left"));
    assert_eq!(item(&mut world, 7, 0), None);

    drop(world);
    let mut world = World::open(&mut open);
    assert_eq!(item(&mut world, 5, 4).as_deref(), Some("zwölf"));
    assert_eq!(item(&mut world, 8, 0), None, "its submission was interrupted");
}

fn a_page_looks_at_a_bounded_number_of_rows(mut open: Open) {
    let mut world = World::open(&mut open);
    let rows = SCAN_ROWS as u128 + 10;
    let rare = |id| {
        let mut row = row(id, TaskState::Ready);
        row.facts.as_mut().unwrap().priority = 7;
        row
    };
    let tasks = (1..=rows).map(|id| change(if id == 2 || id == rows { rare(id) } else { row(id, TaskState::Ready) }));
    let batch = Batch { tasks: tasks.collect(), ..Batch::default() };
    world.commit(Commit { batch, ..Commit::default() }).unwrap();
    let filter = Filter { priority: Some(7), ..Filter::default() };
    let first = world.reader.list(&filter).unwrap();
    assert_eq!((names(&first.rows), first.next), (vec![task(rows)], Some(task(11))));
    let last = world.reader.list(&Filter { before: first.next, ..filter }).unwrap();
    assert_eq!((names(&last.rows), last.next), (vec![task(2)], None));
}
