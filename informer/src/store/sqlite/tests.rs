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

    /// Why it cannot be opened; nothing is left of the attempt.
    fn refused(&self) -> Error {
        let names = || fs::read_dir(&self.0).map(|dir| dir.map(|entry| entry.unwrap().file_name()).collect());
        let before: Option<std::collections::BTreeSet<_>> = names().ok();
        let error = Sqlite::open(&self.0).expect_err("the store was opened");
        let made: Vec<_> =
            names().into_iter().flatten().filter(|name| !before.iter().flatten().any(|old| old == name)).collect();
        assert!(made.iter().all(|name| name == "informer.lock"), "{made:?} was left");
        let said = error.to_string();
        assert!(!said.contains('\n') && !said.contains("os error"), "{said}");
        error
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
    assert!(matches!(data.refused(), Error::Behind { found: None, .. }), "the witness knows what was acknowledged");
    fs::remove_file(data.0.join("informer.db-witness")).unwrap();
    assert!(matches!(data.refused(), Error::Missing { .. }));
    assert!(!data.db().exists());
    fs::write(data.0.join("informer.db-wal"), "").unwrap();
    assert_eq!(Sqlite::open(&data.0).unwrap().identity().commit_seq, 0, "an empty log holds nothing");
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
    let said = error.to_string();
    assert!(said.contains("tasks_name") && !said.contains(['\n', '*']), "{said}");
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
    for (row, body) in tasks.iter_mut().zip([7, 7, 8, 7, 7, 7]) {
        row.payload = conformance::payload(body).0.to_vec();
    }
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
        let (handle, body) = conformance::payload(hash);
        db.execute("INSERT INTO payloads (hash, body) VALUES (?1, ?2)", params![handle, &body[..]]).unwrap();
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
    assert_eq!(reader.key("once").unwrap().map(|hit| hit.digest), Some(conformance::payload(8).0));
    assert_eq!(reader.history(TaskId::from_u128(6), 0, 9).unwrap().len(), 6);
    assert_eq!(reader.prunable(51, u64::MAX, 9).unwrap(), [TaskId::from_u128(2)]);
    // Two tasks of three go, and the body of the one that was alone with it; nobody had the third.
    let prune = [2, 3].map(TaskId::from_u128).to_vec();
    store.commit(store.identity().epoch, &Commit { seq: 10, prune, ..Commit::default() }).unwrap();
    let bodies = reader.payloads(&[7, 8, 9].map(|n| conformance::payload(n).0)).unwrap();
    assert_eq!(bodies, [conformance::payload(7)].into());
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

/// What a directory has, by path.
pub(super) type Files = std::collections::BTreeMap<PathBuf, Vec<u8>>;

/// Every file of the store but its lock and the memory that connections share.
pub(super) fn files(data: &Data) -> Files {
    let paths = fs::read_dir(&data.0).unwrap().map(|entry| entry.unwrap().path());
    let kept = |path: &PathBuf| !["lock", "shm"].iter().any(|end| path.to_string_lossy().ends_with(end));
    paths.filter(kept).map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

pub(super) fn put(data: &Data, files: &Files) {
    fs::remove_dir_all(&data.0).unwrap();
    fs::create_dir(&data.0).unwrap();
    for (path, bytes) in files {
        fs::write(path, bytes).unwrap();
    }
}

pub(super) fn commit(store: &mut Sqlite, seq: u64) {
    let tasks = vec![conformance::change(conformance::row(u128::from(seq) << 64, TaskState::Ready))];
    let batch = crate::machine::Batch { tasks, ..Default::default() };
    let epoch = store.identity().epoch;
    store.commit(epoch, &Commit { seq, batch, ..Commit::default() }).unwrap();
}

/// A store as a kill leaves it after five commits, and what was there after the third.
fn killed(name: &str) -> (Data, [Files; 2]) {
    let data = Data::new(name);
    let mut store = Sqlite::open(&data.0).unwrap();
    (1..=3).for_each(|seq| commit(&mut store, seq));
    let third = files(&data);
    (4..=5).for_each(|seq| commit(&mut store, seq));
    let whole = files(&data);
    drop(store);
    (data, [third, whole])
}

/// Positions behind each commit in a log of this generation.
pub(super) fn commits(log: &[u8]) -> Vec<usize> {
    const FRAME: usize = 24 + 4096;
    let ends = (32..log.len()).step_by(FRAME).take_while(|at| log.get(at + 8..at + 16) == log.get(16..24));
    ends.filter(|at| log[at + 4..at + 8] != [0; 4]).map(|at| at + FRAME).collect()
}

#[test]
fn a_log_that_lost_its_tail_is_told_from_a_shorter_one() {
    let (data, [_, whole]) = killed("cut-log");
    let log = data.0.join("informer.db-wal");
    let ends = commits(&whole[&log]);
    for end in &ends[ends.len() - 5..ends.len() - 1] {
        let mut cut = whole.clone();
        cut.get_mut(&log).unwrap().truncate(*end);
        let mut damaged = whole.clone();
        damaged.get_mut(&log).unwrap()[end + 100] ^= 1;
        for (lost, wrong) in [(cut, "cut"), (damaged, "damaged")] {
            put(&data, &lost);
            let error = data.refused();
            assert!(matches!(error, Error::Behind { found: Some(_), .. }), "{wrong} at {end}: {error:?}");
            let said = error.to_string();
            assert!(said.contains("informer.db-wal") && said.contains("commit 5 of epoch"), "{said}");
            assert_eq!(files(&data), lost, "{wrong} at {end}");
        }
    }
    put(&data, &whole);
    let store = Sqlite::open(&data.0).unwrap();
    assert_eq!(store.identity().commit_seq, 5);
    assert_eq!(store.reader().unwrap().live(None, 9).unwrap().len(), 5);
}

#[test]
fn a_log_that_is_gone_and_a_database_that_is_gone_are_told() {
    let (data, [_, whole]) = killed("gone-log");
    let mut lost = whole.clone();
    lost.remove(&data.0.join("informer.db-wal"));
    put(&data, &lost);
    assert!(matches!(data.refused(), Error::Behind { found: Some(_), .. }));
    lost.remove(&data.db());
    put(&data, &lost);
    let error = data.refused();
    assert!(matches!(error, Error::Behind { found: None, .. }), "{error:?}");
    assert!(matches!(Sqlite::open_restored(&data.0), Err(Error::Behind { .. })), "nothing was restored");
    assert!(!data.db().exists());
    fs::remove_file(data.0.join("informer.db-witness")).unwrap();
    assert_eq!(Sqlite::open(&data.0).unwrap().identity().commit_seq, 0);
}

#[test]
fn the_claim_of_an_epoch_is_acknowledged_too() {
    let (data, [_, whole]) = killed("epochs");
    put(&data, &whole);
    let log = data.0.join("informer.db-wal");
    let store = Sqlite::open(&data.0).unwrap();
    let mut lost = files(&data);
    drop(store);
    // The last thing in there is the claim of epoch 2.
    let ends = commits(&lost[&log]);
    lost.get_mut(&log).unwrap().truncate(ends[ends.len() - 2]);
    put(&data, &lost);
    let Error::Behind { found: Some(found), acknowledged, .. } = data.refused() else { panic!("it is not behind") };
    assert!(found.epoch < acknowledged.epoch && found.commit_seq == acknowledged.commit_seq);
}

#[test]
fn an_older_copy_is_taken_when_somebody_means_it() {
    let (data, [third, whole]) = killed("older-copy");
    let witness = data.0.join("informer.db-witness");
    // The whole directory as it was: its witness is as old.
    put(&data, &third);
    assert_eq!(Sqlite::open(&data.0).unwrap().identity().commit_seq, 3);
    // The database alone.
    let mut alone = third.clone();
    alone.insert(witness.clone(), whole[&witness].clone());
    put(&data, &alone);
    assert!(matches!(data.refused(), Error::Behind { .. }));
    let store = Sqlite::open_restored(&data.0).unwrap();
    assert_eq!(store.identity().commit_seq, 3);
    drop(store);
    assert_eq!(Sqlite::open(&data.0).unwrap().identity().commit_seq, 3, "it is asked for once");
    alone.remove(&witness);
    put(&data, &alone);
    assert_eq!(Sqlite::open(&data.0).unwrap().identity().commit_seq, 3);
}

#[test]
fn a_witness_that_says_nothing_stops_no_start() {
    let (data, [_, whole]) = killed("witness");
    let witness = data.0.join("informer.db-witness");
    let other = Data::filled("other-witness");
    let mut damaged = whole[&witness].clone();
    damaged[30] ^= 1;
    for said in [Vec::new(), vec![7; 500], damaged, fs::read(other.0.join("informer.db-witness")).unwrap()] {
        put(&data, &whole);
        fs::write(&witness, said).unwrap();
        assert_eq!(Sqlite::open(&data.0).unwrap().identity().commit_seq, 5);
    }
    // One that cannot be written, either.
    put(&data, &whole);
    fs::remove_file(&witness).unwrap();
    fs::create_dir(&witness).unwrap();
    let mut store = Sqlite::open(&data.0).unwrap();
    commit(&mut store, 6);
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

/// A commit of one task.
fn one(seq: u64) -> Commit {
    let tasks = vec![conformance::change(conformance::row(u128::from(seq), TaskState::Ready))];
    let batch = crate::machine::Batch { tasks, ..Default::default() };
    Commit { seq, batch, ..Commit::default() }
}

#[test]
fn nothing_is_acknowledged_into_files_that_nobody_finds_again() {
    for (name, replaced) in
        [("informer.db", false), ("informer.db", true), ("informer.db-wal", false), ("informer.db-wal", true)]
    {
        let data = Data::new("names");
        let mut store = Sqlite::open(&data.0).unwrap();
        let epoch = store.identity().epoch;
        store.commit(epoch, &one(1)).unwrap();
        let file = data.0.join(name);
        let away = data.0.join("away");
        fs::rename(&file, &away).unwrap();
        if replaced {
            fs::copy(&away, &file).unwrap();
        }
        let error = store.commit(epoch, &one(2)).unwrap_err();
        let said = error.to_string();
        assert!(said.starts_with(&format!("{} was removed or replaced", file.display())), "{said}");
        assert!(matches!(store.commit(epoch, &one(2)), Err(Error::Poisoned(_))));
        drop(store);
        let _replacement = fs::remove_file(&file);
        if name == "informer.db" {
            assert!(matches!(error, Error::Vanished { .. }), "{error:?}");
            fs::rename(&away, &file).unwrap();
        } else {
            // Its commits are in the database, without it.
            assert!(matches!(error, Error::LogVanished { moved: true, .. }), "{error:?}");
        }
        assert_eq!(Sqlite::open(&data.0).unwrap().identity().commit_seq, 2, "{name}");
    }
}

#[test]
fn a_database_that_is_missing_beside_its_log_is_called_so() {
    let data = Data::new("names");
    let mut store = Sqlite::open(&data.0).unwrap();
    store.commit(store.identity().epoch, &one(1)).unwrap();
    // As a kill leaves them.
    let log = fs::read(data.0.join("informer.db-wal")).unwrap();
    drop(store);
    fs::write(data.0.join("informer.db-wal"), log).unwrap();
    fs::remove_file(data.0.join("informer.db")).unwrap();
    let said = data.refused().to_string();
    assert!(said.contains("is missing, and commit 1 of") && said.contains("put"), "{said}");
    fs::remove_file(data.0.join("informer.db-witness")).unwrap();
    let said = data.refused().to_string();
    assert!(said.contains("is missing, and its log of commits") && said.contains("back"), "{said}");
}
