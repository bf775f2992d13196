//! Values that are damaged one by one: what no page check finds is found when it is read, named by its table, and takes nobody along.

use super::tests::Data;
use super::*;
use crate::machine::{Batch, HistoryEvent};
use crate::store::{Filter, ItemChunk, conformance};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestRunner;
use proto::id::TaskId;
use proto::store::{ExecutorRow, SidecarRow};
use proto::v1::{Executor, TaskState};
use rusqlite::types::Value;
use sha2::{Digest as _, Sha256};

/// Damages of each column.
const CASES: u32 = 24;

/// The task, the array and its member that everything here is about.
const TASK: u128 = 7 << 64;
const ARRAY: u128 = 9 << 64;
/// What a payload holds.
const BODY: &[u8] = b"sh -c true";

fn member() -> TaskId {
    TaskId::from_u128(ARRAY).at(3).unwrap()
}

/// A store that has something in each table.
fn filled(data: &Data) -> Sqlite {
    let mut store = Sqlite::open(&data.0).unwrap();
    let mut task = conformance::row(TASK, TaskState::Ready);
    task.key = "once".into();
    let mut facts = task.facts.take().unwrap();
    facts.labels.insert("show".into(), "seven".into());
    task.facts = Some(facts);
    let mut of_array = conformance::row(1, TaskState::Running);
    of_array.id = member().to_bytes().to_vec();
    let tasks = [task, conformance::row(ARRAY, TaskState::Running), of_array].map(conformance::change).to_vec();
    let event = HistoryEvent {
        task: TaskId::from_u128(TASK),
        seq: 1,
        unix_ms: 5,
        kind: "submitted",
        attempt: 0,
        detail: "by day".into(),
    };
    let executor = Executor { r#type: "add".into(), id: "x".into(), ..Executor::default() };
    let batch = Batch {
        tasks,
        history: vec![event],
        sidecars: vec![SidecarRow { id: "s-1".into(), host: "box".into(), ..SidecarRow::default() }],
        executors: vec![ExecutorRow { executor: Some(executor), deleted: false }],
        ..Batch::default()
    };
    let items = vec![ItemChunk { array: TaskId::from_u128(ARRAY), first: 0, items: vec!["a".into(), "zwölf".into()] }];
    let payloads = vec![(Sha256::digest(BODY).into(), bytes::Bytes::from_static(BODY))];
    store.commit(store.identity().epoch, &Commit { seq: 1, batch, items, payloads, ..Commit::default() }).unwrap();
    store
}

/// Everything that reads, and what it found wrong.
fn read_all(store: &Sqlite) -> Vec<Error> {
    let mut reader = store.reader().unwrap();
    let labelled = Filter { labels: [("show".to_owned(), "seven".to_owned())].into(), ..Filter::default() };
    let members = Filter { array: Some(TaskId::from_u128(ARRAY)), ..Filter::default() };
    let mut wrong: Vec<Error> = Vec::new();
    wrong.extend(reader.live(None, 10).err());
    wrong.extend(reader.sidecars().err());
    wrong.extend(reader.executors().err());
    for id in [TaskId::from_u128(TASK), TaskId::from_u128(ARRAY), member()] {
        wrong.extend(reader.get(id).err());
        wrong.extend(reader.history(id, 0, 10).err());
    }
    for filter in [Filter::default(), labelled, members] {
        wrong.extend(reader.list(&filter).err());
    }
    wrong.extend((0..3).filter_map(|position| reader.item(TaskId::from_u128(ARRAY), position).err()));
    wrong.extend(reader.item_chunk(TaskId::from_u128(ARRAY), 1).err());
    wrong.extend(reader.key("once").err());
    wrong.extend(reader.payloads(&[Sha256::digest(BODY).into()]).err());
    wrong
}

/// Each column whose content is ours to understand, with its table and what finds its row; and what its table is called when it is
/// told of.
const COLUMNS: [(&str, &str, &str, &str); 11] = [
    ("tasks", "id", "body", "tasks"),
    ("tasks", "id", "facts", "tasks"),
    ("members", "id", "body", "tasks"),
    ("members", "id", "facts", "tasks"),
    ("sidecars", "id", "body", "sidecars"),
    ("executors", "type", "body", "executors"),
    ("history", "task", "kind", "history"),
    ("history", "task", "detail", "history"),
    ("task_keys", "key", "digest", "task_keys"),
    ("array_items", "array", "body", "array_items"),
    ("payloads", "hash", "body", "the payload"),
];

/// The bytes with a bit turned, an end cut off, or noise in their place.
fn damaged(bytes: &[u8], at: Index, bit: u8, noise: &[u8], how: u8) -> Vec<u8> {
    let mut whole = bytes.to_vec();
    match how {
        0 if !bytes.is_empty() => whole[at.index(bytes.len())] ^= 1 << bit,
        1 if !bytes.is_empty() => whole.truncate(at.index(bytes.len())),
        _ => whole = noise.to_vec(),
    }
    whole
}

#[test]
fn a_damaged_value_is_told_with_its_table() {
    let data = Data::new("values");
    let store = filled(&data);
    assert!(read_all(&store).is_empty());
    let db = Connection::open(data.db()).unwrap();
    let noise = prop::collection::vec(any::<u8>(), 0..60);
    for (table, key, column, name) in COLUMNS {
        let first = format!("SELECT {column} FROM {table} ORDER BY {key} LIMIT 1");
        let whole: Value = db.query_row(&first, [], |row| row.get(0)).unwrap();
        let (bytes, text) = match &whole {
            Value::Blob(bytes) => (bytes.clone(), false),
            Value::Text(text) => (text.clone().into_bytes(), true),
            other => panic!("{table}.{column} is {other:?}"),
        };
        // A text that is none can be in a file that was damaged, though SQLite would not take it from us.
        let value = if text { "CAST(?1 AS TEXT)" } else { "?1" };
        let set = format!("UPDATE {table} SET {column} = {value} WHERE {key} = (SELECT min({key}) FROM {table})");
        let config = ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
        let inputs = (any::<Index>(), 0..8_u8, noise.clone(), 0..3_u8);
        let outcome = TestRunner::new(config).run(&inputs, |(at, bit, noise, how)| {
            db.execute(&set, [damaged(&bytes, at, bit, &noise, how)]).unwrap();
            for error in read_all(&store) {
                let Error::Corrupt { path, detail } = &error else { panic!("{table}.{column}: {error}") };
                prop_assert_eq!(path, &data.db());
                prop_assert!(detail.contains(name), "{}.{}: {}", table, column, detail);
            }
            Ok(())
        });
        outcome.unwrap_or_else(|found| panic!("{table}.{column}: {found}"));
        // What cannot be anything is not read as something.
        let never: &[u8] = if text { &[0xff, 0xfe] } else { &[0xff; 7] };
        db.execute(&set, [never]).unwrap();
        assert!(!read_all(&store).is_empty(), "{table}.{column}");
        db.execute(&set, [bytes]).unwrap();
        assert!(read_all(&store).is_empty(), "{table}.{column}");
    }
}

#[test]
fn a_row_that_tells_of_another_is_damaged() {
    let data = Data::new("other");
    let store = filled(&data);
    let db = Connection::open(data.db()).unwrap();
    let other = conformance::change(conformance::row(TASK + 1, TaskState::Ready)).row;
    let body = prost::Message::encode_to_vec(&other);
    db.execute(
        "UPDATE tasks SET body = ?1 WHERE id = ?2",
        rusqlite::params![body, &*TaskId::from_u128(TASK).to_bytes()],
    )
    .unwrap();
    let wrong = read_all(&store);
    let told = |error: &Error| matches!(error, Error::Corrupt { detail, .. } if detail.contains("tasks"));
    // A start, a look, and the lists that have it.
    assert!(wrong.len() == 4 && wrong.iter().all(told), "{wrong:?}");
}
