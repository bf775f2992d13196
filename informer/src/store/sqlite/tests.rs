//! What only a file can do wrong.

use super::*;
use crate::store::{Filter, conformance};
use proto::id::TaskId;
use proto::store::TaskRow;
use proto::v1::TaskState;
use rusqlite::params;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

/// A directory that vanishes with the test, however that ends.
pub(super) struct Data(pub(super) PathBuf);

impl Data {
    pub(super) fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("informer-store-{name}-{}", uuid::Uuid::now_v7()));
        Self(dir)
    }

    pub(super) fn db(&self) -> PathBuf {
        self.0.join("informer.db")
    }

    fn refused(&self) -> Error {
        Sqlite::open(&self.0).expect_err("the store was opened")
    }

    /// A store with one commit, closed.
    fn filled(name: &str) -> Self {
        let data = Self::new(name);
        let mut store = Sqlite::open(&data.0).unwrap();
        let tasks = (1..=2000).map(|id| conformance::change(conformance::row(id, TaskState::Ready))).collect();
        let batch = crate::machine::Batch { tasks, ..Default::default() };
        store.commit(store.identity().epoch, &Commit { seq: 1, batch, ..Commit::default() }).unwrap();
        data
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn conforms() {
    conformance::suite(|| {
        let data = Data::new("suite");
        Box::new(move || Sqlite::open(&data.0).map(|store| Box::new(store) as Box<dyn Store>))
    });
}

#[test]
fn a_second_owner_gets_one_clear_line() {
    let data = Data::new("lock");
    let _owner = Sqlite::open(&data.0).unwrap();
    let error = data.refused();
    assert!(matches!(error, Error::Locked { owner: Some(pid), .. } if pid == std::process::id()), "{error:?}");
    let line = error.to_string();
    assert!(line.contains(data.0.to_str().unwrap()) && line.contains("--data"), "{line}");
}

#[test]
fn what_is_not_a_database_is_reported_and_left_alone() {
    let data = Data::new("garbage");
    fs::create_dir_all(&data.0).unwrap();
    for (content, damaged) in [(&b"this is a text, not a database"[..], false), (b"", true), (b"SQLite", true)] {
        fs::write(data.db(), content).unwrap();
        let error = data.refused();
        assert_eq!(matches!(error, Error::Corrupt { .. }), damaged, "{error:?}");
        assert_eq!(matches!(error, Error::NotADatabase { .. }), !damaged, "{error:?}");
        assert!(error.to_string().contains("informer.db"), "{error}");
        assert_eq!(fs::read(data.db()).unwrap(), content);
    }
}

#[test]
fn a_missing_file_beside_its_log_is_not_made_anew() {
    let data = Data::filled("missing");
    fs::rename(data.db(), data.0.join("informer.db-wal")).unwrap();
    assert!(matches!(data.refused(), Error::Corrupt { .. }));
    assert!(!data.db().exists());
}

#[test]
fn damaged_pages_are_reported_and_left_alone() {
    let data = Data::filled("damage");
    let mut bytes = fs::read(data.db()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 64 * 1024].fill(0xa5);
    fs::write(data.db(), &bytes).unwrap();
    let error = data.refused();
    assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
    assert_eq!(fs::read(data.db()).unwrap(), bytes);
}

#[test]
fn damage_in_a_large_file_is_found_beside_the_work_and_nothing_is_built_on_it() {
    let data = Data::filled("beside");
    let db = Connection::open(data.db()).unwrap();
    // A page in the middle of a tree that a start does not read.
    let page: u64 = db
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'tasks_name'", [], |row| {
            row.get::<_, u32>(0).map(u64::from)
        })
        .unwrap();
    db.close().unwrap();
    let mut store = Sqlite::open(&data.0).unwrap();
    let mut bytes = fs::read(data.db()).unwrap();
    let start = usize::try_from((page - 1) * 4096).unwrap();
    bytes[start..start + 4096].fill(0xa5);
    fs::write(data.db(), &bytes).unwrap();
    store.commit(store.identity().epoch, &Commit { seq: 2, ..Commit::default() }).unwrap();
    store.check = Check::start(&store.path).unwrap();
    store.check.finish();
    let error = store.commit(store.identity().epoch, &Commit { seq: 3, ..Commit::default() }).unwrap_err();
    assert!(matches!(&error, Error::Corrupt { path, .. } if *path == data.db()), "{error:?}");
    assert!(matches!(
        store.commit(store.identity().epoch, &Commit { seq: 3, ..Commit::default() }),
        Err(Error::Poisoned(_))
    ));
    drop(store);
    assert!(matches!(data.refused(), Error::Corrupt { .. }), "a small file is read before the start");
}

#[test]
fn a_check_that_finds_nothing_hinders_nobody() {
    let data = Data::filled("whole");
    let mut store = Sqlite::open(&data.0).unwrap();
    store.check = Check::start(&store.path).unwrap();
    store.check.finish();
    store.commit(store.identity().epoch, &Commit { seq: 2, ..Commit::default() }).unwrap();
    // Closing does not wait for one that is under way.
    store.check = Check::start(&store.path).unwrap();
    drop(store);
    assert_eq!(Sqlite::open(&data.0).unwrap().identity().commit_seq, 2);
}

#[test]
fn a_file_of_the_first_version_is_brought_up_with_all_that_is_in_it() {
    let data = Data::new("older");
    fs::create_dir_all(&data.0).unwrap();
    let mut db = Connection::open(data.db()).unwrap();
    db.pragma_update(None, "application_id", schema::APPLICATION_ID).unwrap();
    schema::migrate_to(&mut db, &data.db(), 0, 1).unwrap();
    let lineage = uuid::Uuid::now_v7().to_string();
    db.execute("INSERT INTO meta (one, lineage, epoch, commit_seq) VALUES (1, ?1, 4, 9)", [&lineage]).unwrap();
    let mut tasks: Vec<TaskRow> = (1..=6).map(|id| conformance::row(id, TaskState::Ready)).collect();
    tasks[1].set_state(TaskState::Failed);
    tasks[1].ended_unix_ms = 50;
    tasks[2].key = "once".into();
    tasks[2].payload = vec![8; 32];
    tasks[3].facts.as_mut().unwrap().labels.insert("a".into(), "b".into());
    for (at, row) in (1_u32..).zip(&mut tasks) {
        let facts = row.facts.clone().unwrap();
        let body = prost::Message::encode_to_vec(&*row);
        let sql = "INSERT INTO tasks (id, state, owner, name, body) VALUES (?1, ?2, ?3, ?4, ?5)";
        db.execute(sql, params![row.id, row.state, facts.owner, facts.name, body]).unwrap();
        for seq in 1..=at {
            let sql = "INSERT INTO history (task, seq, unix_ms, kind, attempt, detail) VALUES (?1, ?2, 7, 'x', 0, '')";
            db.execute(sql, params![row.id, seq]).unwrap();
        }
        row.history = at;
    }
    let sql = "INSERT INTO task_labels (key, value, task) VALUES ('a', 'b', ?1)";
    db.execute(sql, [&tasks[3].id]).unwrap();
    let sql = "INSERT INTO task_keys (key, task, payload) VALUES ('once', ?1, ?2)";
    db.execute(sql, params![tasks[2].id, tasks[2].payload]).unwrap();
    for hash in [7_u8, 8, 9] {
        db.execute("INSERT INTO payloads (hash, body) VALUES (?1, x'01')", [[hash; 32]]).unwrap();
    }
    drop(db);

    let mut store = Sqlite::open(&data.0).unwrap();
    let epoch = store.identity().epoch;
    assert!(epoch > 4, "an epoch that was counted is followed by one that is not");
    assert_eq!(store.identity(), Identity { lineage, epoch, commit_seq: 9 });
    let mut reader = store.reader().unwrap();
    for row in &tasks {
        assert_eq!(reader.get(TaskId::from_bytes(&row.id).unwrap()).unwrap().as_ref(), Some(row));
    }
    assert_eq!(reader.live(None, 9).unwrap().len(), 5);
    let named = |labels: &[(&str, &str)]| Filter {
        labels: labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        ..Filter::default()
    };
    assert_eq!(reader.list(&named(&[("a", "b")])).unwrap().rows, [tasks[3].clone()]);
    assert_eq!(reader.key("once").unwrap().map(|hit| hit.digest), Some([8; 32]));
    assert_eq!(reader.history(TaskId::from_u128(6), 0, 9).unwrap().len(), 6);
    assert_eq!(reader.prunable(51, u64::MAX, 9).unwrap(), [TaskId::from_u128(2)]);
    // Two tasks of three go, and the body of the one that was alone with it; nobody had the third.
    let prune = [2, 3].map(TaskId::from_u128).to_vec();
    store.commit(store.identity().epoch, &Commit { seq: 10, prune, ..Commit::default() }).unwrap();
    let bodies = reader.payloads(&[[7; 32], [8; 32], [9; 32]]).unwrap();
    assert_eq!(bodies.into_keys().collect::<Vec<_>>(), [[7; 32]]);
}

#[test]
fn a_cut_file_is_reported() {
    let data = Data::filled("cut");
    let bytes = fs::read(data.db()).unwrap();
    fs::write(data.db(), &bytes[..bytes.len() / 2]).unwrap();
    assert!(matches!(data.refused(), Error::Corrupt { .. }));
}

#[test]
fn other_programs_and_newer_informers_keep_their_files() {
    let data = Data::filled("foreign");
    let set = |pragma: &str, value: u32| {
        Connection::open(data.db()).unwrap().pragma_update(None, pragma, value).unwrap();
    };
    set("user_version", 99);
    let error = data.refused();
    assert!(matches!(error, Error::Newer { found: 99, .. }), "{error:?}");
    set("application_id", 0x1234);
    let error = data.refused();
    assert!(matches!(error, Error::Foreign { found: 0x1234, .. }), "{error:?}");
}

#[test]
fn a_store_without_its_identity_is_damaged() {
    let data = Data::filled("meta");
    let execute = |sql: &str| Connection::open(data.db()).unwrap().execute(sql, []).unwrap();
    execute("UPDATE meta SET lineage = 'mine'");
    assert!(matches!(data.refused(), Error::Corrupt { .. }));
    execute("DELETE FROM meta");
    assert!(matches!(data.refused(), Error::Corrupt { .. }));
}

#[test]
fn a_data_directory_that_cannot_be_made_is_named() {
    let data = Data::new("file");
    fs::write(&data.0, "a file").unwrap();
    let error = data.refused();
    assert!(matches!(error, Error::Directory { .. }), "{error:?}");
    assert!(error.to_string().contains(data.0.to_str().unwrap()), "{error}");
    fs::remove_file(&data.0).unwrap();
}

#[test]
fn a_creation_that_was_cut_short_is_begun_again() {
    let data = Data::new("fresh");
    fs::create_dir_all(&data.0).unwrap();
    fs::write(data.0.join("informer.db.new"), "half").unwrap();
    assert!(Sqlite::open(&data.0).unwrap().identity().epoch > 0);
    let mode = fs::metadata(data.db()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "payloads are nobody else's to read");
}

#[test]
fn a_commit_that_the_disk_refuses_poisons_the_store() {
    let data = Data::new("full");
    let mut store = Sqlite::open(&data.0).unwrap();
    // The file may not grow: what a full disk answers.
    store.db.pragma_update(None, "max_page_count", 1).unwrap();
    let tasks = (1..=5000).map(|id| conformance::change(conformance::row(id, TaskState::Ready))).collect();
    let batch = crate::machine::Batch { tasks, ..Default::default() };
    let error = store.commit(store.identity().epoch, &Commit { seq: 1, batch, ..Commit::default() }).unwrap_err();
    assert!(matches!(error, Error::Full { .. }), "{error:?}");
    assert!(matches!(
        store.commit(store.identity().epoch, &Commit { seq: 1, ..Commit::default() }),
        Err(Error::Poisoned(_))
    ));
    drop(store);
    assert_eq!(Sqlite::open(&data.0).unwrap().identity().commit_seq, 0);
}

#[test]
fn readers_see_the_last_commit_while_another_is_under_way() {
    let data = Data::new("readers");
    let mut store = Sqlite::open(&data.0).unwrap();
    let mut reader = store.reader().unwrap();
    let open = store.db.transaction().unwrap();
    open.execute("DELETE FROM meta", []).unwrap();
    assert_eq!(reader.live(None, 1).unwrap(), []);
    drop(open);
    let error = reader.get(TaskId::from_u128(1));
    assert!(error.is_ok());
}
