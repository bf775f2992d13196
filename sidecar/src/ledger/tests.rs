use super::*;
use crate::machine::{Batch, Emit};
use proto::id::TaskId;

/// A directory of the test's own, gone with it.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("ledger-test-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn open(&self) -> Result<(Ledger, Meta, Vec<Entry>), Error> {
        Ledger::open(&self.0, "http://127.0.0.1:7070", SidecarId::from_u128(7))
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

fn row(task: u128, state: RowState) -> Row {
    Row {
        attempt: AttemptId { task: TaskId::from_u128(task), number: 1 },
        fence: Fence { epoch: u64::MAX, n: 3 },
        facts: Facts { stop_on_disconnect: true },
        order: u64::try_from(task).unwrap(),
        started: Some(v1::Started { pid: 5, ..Default::default() }),
        set_aside: task == 2,
        log_bytes: 9,
        state,
    }
}

#[test]
fn rows_come_back_as_they_were_written() {
    let dir = Dir::new("rows");
    let ending = || Box::new(v1::Ending { exit_code: Some(3), ..Default::default() });
    let states = [
        RowState::Accepted,
        RowState::Running,
        RowState::Ended(ending()),
        RowState::Published(ending(), None),
        RowState::Published(ending(), Some("disk full".into())),
        RowState::Refused("no lease".into()),
        RowState::Retired(LogCopy::Unwanted),
        RowState::Retired(LogCopy::Wanted),
        RowState::Retired(LogCopy::Stored),
    ];
    let rows: Vec<_> = states.into_iter().zip(1..).map(|(state, task)| row(task, state)).collect();
    let assign = v1::Assign { task_name: "hello".into(), ..Default::default() };
    let (mut ledger, meta, entries) = dir.open().unwrap();
    assert_eq!((meta.incarnation, entries.len()), (1, 0));
    let seen = v1::Identity { lineage: "x".into(), epoch: 2, commit_seq: 3 };
    let commit = Commit {
        seq: 1,
        batch: Batch { rows: rows.clone(), ..Batch::default() },
        assigns: vec![(rows[0].attempt, assign.encode_to_vec())],
        seen: seen.clone(),
        highest_fence: Fence { epoch: 1, n: 2 },
    };
    ledger.commit(&commit).unwrap();
    drop(ledger);
    let (mut ledger, meta, entries) = dir.open().unwrap();
    assert_eq!(entries.iter().map(|entry| entry.row.clone()).collect::<Vec<_>>(), rows);
    assert_eq!(entries[0].assign, Some(assign));
    assert_eq!((meta.incarnation, meta.sidecar, meta.seen), (2, SidecarId::from_u128(7), seen));
    let deletes = rows.iter().map(|row| row.attempt).collect();
    ledger.commit(&Commit { seq: 2, batch: Batch { deletes, ..Batch::default() }, ..Default::default() }).unwrap();
    assert_eq!(Ledger::peek(&dir.0).unwrap().1, []);
}

#[test]
fn emits_are_kept_in_their_order_until_they_are_deleted() {
    let dir = Dir::new("emits");
    let (mut ledger, ..) = dir.open().unwrap();
    let attempt = row(1, RowState::Running).attempt;
    let emit = |order: u64, key: &str| {
        let emit = Emit { key: key.to_owned(), digest: [7; 32], payload: key.as_bytes().to_vec() };
        EmitRow { attempt, order, emit }
    };
    let emits = vec![emit(2, "a"), emit(1, "b"), emit(3, "")];
    ledger.commit(&Commit { batch: Batch { emits, ..Batch::default() }, ..Default::default() }).unwrap();
    drop(ledger);
    let (mut ledger, ..) = dir.open().unwrap();
    assert_eq!(ledger.emits().unwrap(), [emit(1, "b"), emit(2, "a"), emit(3, "")]);
    let (emits, emits_gone) = (vec![emit(4, "a")], vec![(attempt, String::new()), (attempt, "b".to_owned())]);
    ledger.commit(&Commit { batch: Batch { emits, emits_gone, ..Batch::default() }, ..Default::default() }).unwrap();
    assert_eq!(ledger.emits().unwrap(), [emit(4, "a")]);
}

#[test]
fn an_update_keeps_the_assignment() {
    let dir = Dir::new("update");
    let (mut ledger, ..) = dir.open().unwrap();
    let accepted = row(1, RowState::Accepted);
    let assigns = vec![(accepted.attempt, v1::Assign::default().encode_to_vec())];
    ledger
        .commit(&Commit { batch: Batch { rows: vec![accepted], ..Batch::default() }, assigns, ..Default::default() })
        .unwrap();
    let running = row(1, RowState::Running);
    ledger
        .commit(&Commit { batch: Batch { rows: vec![running.clone()], ..Batch::default() }, ..Default::default() })
        .unwrap();
    let entry = Entry { row: running, assign: Some(v1::Assign::default()) };
    assert_eq!(Ledger::peek(&dir.0).unwrap().1, [entry]);
}

#[test]
fn garbage_and_newer_ledgers_are_refused_and_left_alone() {
    let dir = Dir::new("garbage");
    let path = dir.0.join(FILE);
    let garbage = b"not a database, and long enough that nobody takes it for an empty one".repeat(50);
    std::fs::write(&path, &garbage).unwrap();
    assert!(matches!(dir.open(), Err(Error::Database { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), garbage);
    std::fs::remove_file(&path).unwrap();
    drop(dir.open().unwrap());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(dir.open(), Err(Error::Newer { found: 99, .. })));
    assert!(matches!(Ledger::peek(&dir.0), Err(Error::Newer { found: 99, .. })));
}

#[test]
fn a_data_directory_has_one_owner() {
    let dir = Dir::new("owner");
    let lock = Lock::take(&dir.0).unwrap();
    let refused = Lock::take(&dir.0).unwrap_err();
    assert!(matches!(refused, Error::Taken { owner, .. } if owner == std::process::id()), "{refused}");
    assert!(Lock::is_held(&dir.0));
    drop(lock);
    assert!(!Lock::is_held(&dir.0));
}

#[test]
fn the_writer_answers_each_commit_and_finishes_what_it_was_given() {
    let dir = Dir::new("writer");
    let (ledger, ..) = dir.open().unwrap();
    let (answers, answered) = std::sync::mpsc::channel();
    let writer = Writer::start(ledger, move |news| {
        if let News::Committed(result, _) = news {
            answers.send(result.map_err(|error| error.to_string())).unwrap()
        }
    })
    .unwrap();
    let batch = Batch { rows: vec![row(1, RowState::Accepted)], ..Batch::default() };
    writer.commit(Commit { seq: 4, batch, ..Default::default() });
    drop(writer);
    assert_eq!(answered.recv().unwrap(), Ok(4));
    assert_eq!(Ledger::peek(&dir.0).unwrap().1.len(), 1);
}

#[test]
fn a_ledger_of_the_first_version_is_read_and_brought_forward() {
    let dir = Dir::new("first");
    let path = dir.0.join(FILE);
    let first = Connection::open(&path).unwrap();
    first.execute_batch(schema::STEPS[0]).unwrap();
    first.pragma_update(None, "user_version", 1).unwrap();
    first.execute("INSERT INTO meta VALUES (1, ?1, 4, 'x', '', 0, 0, 0, 0)", [[7_u8; 16]]).unwrap();
    for (task, state) in [(1, "running"), (2, "retired")] {
        let attempt = row(task, RowState::Running).attempt.to_string();
        let sql = "INSERT INTO attempts VALUES (?1, 1, 2, ?2, 0, 0, 9, ?3, NULL, NULL, NULL, NULL)";
        first.execute(sql, params![attempt, task as i64, state]).unwrap();
    }
    drop(first);
    let states = |entries: Vec<Entry>| entries.into_iter().map(|entry| entry.row.state).collect::<Vec<_>>();
    let expected = [RowState::Running, RowState::Retired(LogCopy::Unwanted)];
    assert_eq!(states(Ledger::peek(&dir.0).unwrap().1), expected);
    let (ledger, meta, entries) = dir.open().unwrap();
    assert_eq!((meta.incarnation, states(entries)), (5, expected.to_vec()));
    drop(ledger);
    assert_eq!(states(Ledger::peek(&dir.0).unwrap().1), expected);
}

#[test]
fn a_commit_overwrites_the_log_and_the_log_of_a_killed_agent_is_read() {
    let dir = Dir::new("journal");
    let (mut ledger, ..) = dir.open().unwrap();
    let length = || std::fs::metadata(dir.0.join(journal::FILE)).unwrap().len();
    let grown = length();
    for seq in 1..=50 {
        let batch = Batch { rows: vec![row(u128::from(seq), RowState::Accepted)], ..Default::default() };
        ledger.commit(&Commit { seq, batch, ..Default::default() }).unwrap();
    }
    assert_eq!(length(), grown);
    let left = Dir::new("journal-left");
    for file in [FILE, journal::FILE] {
        std::fs::copy(dir.0.join(file), left.0.join(file)).unwrap();
    }
    assert_eq!(left.open().unwrap().2.len(), 50);
}

/// Whatever stands in a column, a ledger is read, or refused by its name; a message that was cut or turned is no other message.
#[test]
fn a_value_of_any_kind_is_read_or_refused() {
    use proptest::prelude::*;
    use rusqlite::types::Value;
    let dir = Dir::new("values");
    let path = dir.0.join(FILE);
    let ended = row(1, RowState::Ended(Box::new(v1::Ending { exit_code: Some(3), ..Default::default() })));
    let assigns = vec![(ended.attempt, v1::Assign { task_name: "hello".into(), ..Default::default() }.encode_to_vec())];
    let (mut ledger, ..) = dir.open().unwrap();
    ledger
        .commit(&Commit { batch: Batch { rows: vec![ended], ..Batch::default() }, assigns, ..Default::default() })
        .unwrap();
    drop(ledger);
    let whole = std::fs::read(&path).unwrap();
    let columns = ["fence_epoch", "fence_n", "ord", "stop", "set_aside", "log_bytes", "state", "started", "ending"];
    let attempts =
        columns.into_iter().chain(["failure", "assign", "log_copy", "attempt"]).map(|column| ("attempts", column));
    let meta = ["sidecar", "incarnation", "informer", "lineage", "epoch", "commit_seq"].map(|column| ("meta", column));
    let places: Vec<_> = attempts.chain(meta).collect();
    let values = prop_oneof![
        any::<i64>().prop_map(Value::Integer),
        proptest::num::f64::NORMAL.prop_map(Value::Real),
        ".{0,20}".prop_map(Value::Text),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::Blob),
        Just(Value::Blob(vec![0xff; 9])),
    ];
    let config = ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
    let outcome = proptest::test_runner::TestRunner::new(config).run(&(0..places.len(), values), |(place, value)| {
        let (table, column) = places[place];
        std::fs::write(&path, &whole).unwrap();
        let db = Connection::open(&path).unwrap();
        db.pragma_update(None, "synchronous", "OFF").unwrap();
        db.execute(&format!("UPDATE {table} SET {column} = ?1"), [&value]).unwrap();
        drop(db);
        let read = Ledger::peek(&dir.0);
        let named = |error: &Error| error.to_string().contains(&path.display().to_string());
        match &read {
            Ok((_, entries)) => prop_assert_eq!(entries.len(), 1),
            Err(error) => prop_assert!(named(error), "{}.{} = {:?}: {}", table, column, value, error),
        }
        let never = matches!(&value, Value::Blob(bytes) if bytes.starts_with(&[0xff; 9]));
        prop_assert!(!never || read.is_err(), "{}.{} was read from noise", table, column);
        Ok(())
    });
    outcome.unwrap_or_else(|found| panic!("{found}"));
}

#[test]
fn a_sidecar_whose_ledger_is_lost_or_older_stays_who_it_is_and_counts_on() {
    let dir = Dir::new("identity");
    let (path, fresh) = (dir.0.join(FILE), SidecarId::from_u128);
    let open = |fresh| Ledger::open(&dir.0, "x", fresh).map(|(_, meta, _)| (meta.sidecar.as_u128(), meta.incarnation));
    assert_eq!(open(fresh(7)).unwrap(), (7, 1));
    let older = std::fs::read(&path).unwrap();
    assert_eq!(open(fresh(8)).unwrap(), (7, 2));
    std::fs::write(&path, older).unwrap();
    assert_eq!(open(fresh(8)).unwrap(), (7, 3), "an older ledger");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(open(fresh(8)).unwrap(), (7, 4), "no ledger");
    // A young one whose log was cut: a database without tables.
    std::fs::write(&path, []).unwrap();
    assert_eq!(open(fresh(8)).unwrap(), (7, 5), "an empty ledger");
    // As earlier builds leave it.
    let file = dir.0.join("sidecar.id");
    std::fs::remove_file(&file).unwrap();
    assert_eq!(open(fresh(8)).unwrap(), (7, 6), "no file");
    assert!(file.exists());
}

#[test]
fn a_damaged_identity_is_reported_and_nothing_is_changed() {
    let dir = Dir::new("no-identity");
    drop(dir.open().unwrap());
    let (file, path) = (dir.0.join("sidecar.id"), dir.0.join(FILE));
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[12] ^= 1;
    for damaged in [bytes, vec![], vec![0xff; 9000]] {
        std::fs::write(&file, &damaged).unwrap();
        let (ledger, error) = (std::fs::read(&path).unwrap(), dir.open().unwrap_err());
        assert!(matches!(&error, Error::Identity { path, .. } if *path == file), "{error}");
        assert_eq!((std::fs::read(&file).unwrap(), std::fs::read(&path).unwrap()), (damaged, ledger));
    }
    std::fs::remove_file(&file).unwrap();
    assert_eq!(dir.open().unwrap().1.incarnation, 2, "the ledger has the id, too");
}

#[test]
fn a_missing_ledger_is_told_from_a_directory_without_a_sidecar() {
    let dir = Dir::new("missing");
    assert!(matches!(Ledger::peek(&dir.0), Err(Error::Absent { .. })));
    drop(dir.open().unwrap());
    std::fs::remove_file(dir.0.join(FILE)).unwrap();
    let error = Ledger::peek(&dir.0).unwrap_err();
    assert!(matches!(&error, Error::Missing { path } if *path == dir.0.join(FILE)), "{error}");
    assert!(error.to_string().contains("what runs goes on. Start the sidecar"), "{error}");
}
